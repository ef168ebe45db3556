//! Round 0: the creator proposes the first roster and the initial state, and the members vote that they got the same.
//! There is no succession here: a session whose creator is gone before it began waits for the creator.

use std::collections::BTreeSet;

use crate::identity::{BodyId, PeerId};
use crate::invite::Admission;
use crate::machine::Machine;
use crate::message::{Basis, Body, Proposal};
use crate::round::exchanging::Lead;
use crate::session::{Member, Role, Roles, Roster};

impl Machine {
    /// The trainers that are here to begin, the creator included where it trains. Who only watches or coordinates makes no
    /// session.
    pub(crate) fn trainers_to_found(&self) -> usize {
        let present = self.door.present(self.now, self.info.terms.lost_after_ms);
        let mut trainers: BTreeSet<PeerId> = present
            .iter()
            .filter_map(|admission| self.may_enter(admission))
            .filter(|entry| entry.roles.has(Role::Trainer))
            .map(|entry| entry.peer)
            .collect();
        if self.info.terms.creator_trains {
            trainers.insert(self.info.creator);
        }
        trainers.len()
    }

    /// As the creator: proposes to begin once enough members are here.
    pub(crate) fn try_to_found(&mut self) {
        let is_mine = self.chain.is_empty() && self.me == self.info.creator && self.work.lead.is_none();
        let Some(base) = self.base.filter(|_| is_mine) else {
            return;
        };
        if let Some(signed) = self.work.own_proposals.get(&0).cloned() {
            self.work.lead = Some(Lead::new(0, self.now));
            return self.stand_by(signed);
        }
        if self.trainers_to_found() < self.info.terms.members_to_begin() {
            return;
        }
        let mut admissions = self.door.present(self.now, self.info.terms.lost_after_ms);
        admissions.retain(|admission| self.may_enter(admission).is_some());
        // Where there is no room for all, who only watches comes later.
        let watches = |entry: Admission| !entry.roles.has(Role::Trainer);
        admissions.sort_by_key(|admission| self.may_enter(admission).is_some_and(watches));
        admissions.truncate(self.info.terms.max_members as usize - 1);
        let entries = admissions.iter().filter_map(|admission| self.may_enter(admission));
        let mut roster = Roster::new(entries.map(|entry| {
            (
                entry.peer,
                Member {
                    roles: entry.roles,
                    since: 0,
                    absent: 0,
                },
            )
        }));
        roster.insert(
            self.me,
            Member {
                roles: self.creator_roles(),
                since: 0,
                absent: 0,
            },
        );
        let body = Body {
            round: 0,
            previous: BodyId([0; 32]),
            base: base.state,
            state: base.state,
            state_bytes: base.bytes,
            used: Vec::new(),
            missing: Vec::new(),
            roster,
            expelled: Vec::new(),
            left: Vec::new(),
            proposer: self.me,
            lead: self.me,
        };
        self.work.lead = Some(Lead::new(0, self.now));
        let (claims, leaves, faults, justification) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        self.issue(Proposal {
            term: 0,
            body,
            claims,
            admissions,
            leaves,
            faults,
            justification,
            basis: Basis::Updates,
        });
    }

    /// The creator's roles: it needs no admission to have them.
    pub(crate) fn creator_roles(&self) -> Roles {
        match self.info.terms.creator_trains {
            true => Roles::of(&[Role::Trainer, Role::Coordinator]),
            false => Roles::of(&[Role::Coordinator]),
        }
    }

    /// Whether a founding proposal lists exactly the creator and the admitted.
    pub(crate) fn is_founding_justified(&self, proposal: &Proposal) -> bool {
        let body = &proposal.body;
        let creator = self.info.creator;
        let nobody_gone = body.expelled.is_empty() && body.left.is_empty();
        let empty = body.used.is_empty() && body.missing.is_empty() && nobody_gone;
        let chained = body.previous == BodyId([0; 32]) && body.base == body.state;
        let led = body.lead == creator && body.proposer == creator && proposal.term == 0;
        if !(empty && chained && led) {
            return false;
        }
        let mut expected = Roster::default();
        for admission in &proposal.admissions {
            let Some(entry) = self.may_enter(admission) else {
                return false;
            };
            expected.insert(
                entry.peer,
                Member {
                    roles: entry.roles,
                    since: 0,
                    absent: 0,
                },
            );
        }
        expected.insert(
            creator,
            Member {
                roles: self.creator_roles(),
                since: 0,
                absent: 0,
            },
        );
        // Each is admitted once, and they are as many as the session begins with: fewer would bear fewer liars.
        let once = expected.len() == proposal.admissions.len() + 1;
        let enough = expected.with(Role::Trainer).count() >= self.info.terms.members_to_begin();
        expected == body.roster && once && enough
    }
}
