//! The machine's answer to `node status`: a snapshot made on request.
//! It reads; it changes nothing.

use crate::contract::Time;
use crate::machine::Machine;
use crate::status::{MemberStatus, SessionStatus};

impl Machine {
    /// What an operator may see at `now`.
    pub fn status(&self, now: Time) -> SessionStatus {
        let (lifecycle, explanation) = self.judge_lifecycle();
        let member = |(peer, member): (&crate::identity::PeerId, &crate::session::Member)| {
            let heard = self.heard.get(peer);
            let beat = heard.and_then(|heard| heard.beat.as_ref());
            let is_me = *peer == self.me;
            MemberStatus {
                peer: *peer,
                roles: member.roles,
                heard_ms_ago: if is_me {
                    Some(0)
                } else {
                    heard.and_then(|heard| heard.at).map(|at| now.since(at))
                },
                phase: if is_me {
                    Some(self.phase())
                } else {
                    beat.map(|beat| beat.phase)
                },
                round: if is_me {
                    Some(self.round())
                } else {
                    beat.map(|beat| beat.round)
                },
                reputation: self.reputation.of(peer),
                absent_rounds: member.absent,
            }
        };
        let last = self.chain.last();
        SessionStatus {
            session: self.info.session,
            me: self.me,
            lifecycle,
            explanation: if self.is_out() {
                "this node has left the session".into()
            } else {
                explanation
            },
            round: self.round().min(self.info.terms.rounds),
            rounds: self.info.terms.rounds,
            phase: self.phase(),
            coordinator: last.filter(|_| !self.is_mixing()).map(|_| self.coordinator()),
            term: self.succession.term,
            settled: last.map(|last| last.id(&self.info.session)),
            state: self
                .base
                .filter(|_| self.is_mixing())
                .map(|base| base.state)
                .or(last.map(|last| last.body.state)),
            majority: self.info.terms.votes_needed(self.roster()),
            distance: self.gossip.distance,
            members: self.roster().iter().map(member).collect(),
            evidence: self.reputation.evidence().cloned().collect(),
        }
    }
}
