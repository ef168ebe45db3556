//! The federated topology: members talk to a coordinator, and replace it in a fixed order when it is lost.
//! A change of term needs a majority of promises not to vote in earlier terms, each with the sender's last vote: phase one
//! of Paxos (Lamport 1998); so a round that may have settled under a lost coordinator settles the same under the next.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::contract::Time;
use crate::event::Event;
use crate::identity::{BlobId, BodyId, PeerId};
use crate::journal::JournalEntry;
use crate::limits;
use crate::machine::{Job, Machine};
use crate::message::{Heartbeat, Message, Proposal, Term, TermChange};
use crate::reject::{Evidence, Reject};
use crate::round::exchanging::Lead;
use crate::session::liars_borne;
use crate::signed::{Signed, Verified};
use crate::task::Round;

/// Who leads, and what is known of those who want another leader.
#[derive(Debug)]
pub(crate) struct Succession {
    /// The current term: this member votes in no earlier one of the round.
    pub term: Term,
    /// When the coordinator of the term was last heard, or this member last asked for another: from here patience runs.
    pub heard: Time,
    /// When any coordinator was last really heard, or the round began: from here a pause is counted.
    pub led_until: Time,
    /// When this member announced its update in the current term, or could not: from here a coordinator that does nothing is
    /// borne with.
    pub claimed_at: Option<Time>,
    /// The state that this member computed in this round, if any.
    pub computed: Option<BlobId>,
    /// The highest term change of each voter, in this round.
    changes: BTreeMap<PeerId, (TermChange, Signed<Message>)>,
    /// The round that was asked for last, and of whom in the last heartbeat.
    asked: (Round, BTreeMap<PeerId, Time>),
}

impl Succession {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            term: 0,
            heard: now,
            led_until: now,
            claimed_at: None,
            computed: None,
            changes: BTreeMap::new(),
            asked: (0, BTreeMap::new()),
        }
    }

    pub(crate) fn begin_round(&mut self, now: Time) {
        *self = Self {
            asked: std::mem::take(&mut self.asked),
            ..Self::new(now)
        };
    }
}

impl Machine {
    /// Who leads a term of the current round.
    pub(crate) fn coordinator_of(&self, term: Term) -> PeerId {
        match self.chain.last() {
            None => self.info.creator,
            // All voters may have left: then nothing settles any more, and whoever was last is named.
            Some(last) if self.is_by_quorum() && last.body.roster.voters().next().is_none() => last.body.proposer,
            Some(last) if self.is_by_quorum() => self.proposer_among(&last.body.roster, term),
            Some(last) => last.body.coordinator(term),
        }
    }

    /// Who leads now, as far as this member knows.
    pub(crate) fn coordinator(&self) -> PeerId {
        self.coordinator_of(self.succession.term)
    }

    /// Whether this member leads now.
    pub(crate) fn is_coordinator(&self) -> bool {
        self.work.lead.is_some()
    }

    fn is_voter(&self) -> bool {
        self.roster().is_voter(&self.me)
    }

    // ---- heartbeats -------------------------------------------------------------------------------------------------

    pub(crate) fn spread_beat(&mut self, beat: Message) {
        let signed = self.sign(&beat);
        if self.is_mixing() {
            return self.broadcast(signed);
        }
        // Before the first round and after the last one there is nothing to lead, and members still look to one.
        let is_looked_to =
            self.is_by_quorum() || (self.chain.is_empty() || self.is_finished()) && self.coordinator() == self.me;
        if self.is_coordinator() || is_looked_to {
            self.broadcast(signed.clone());
            let waiting = self.door.waiting(self.roster());
            waiting
                .into_iter()
                .for_each(|peer| self.send_signed(peer, signed.clone()));
        } else {
            self.send_signed(self.coordinator(), signed);
        }
    }

    /// Says again what may have been lost; once a heartbeat.
    pub(crate) fn repeat_what_matters(&mut self) {
        if self.is_mixing() {
            return self.repeat_to_mix();
        }
        if self.is_by_quorum() {
            return self.repeat_by_quorum();
        }
        if self.chain.is_empty() {
            self.knock();
            self.repeat_proposal();
            return self.resume_checking();
        }
        let listed = self.roster().get(&self.me).is_some();
        if !listed && !self.leaving {
            self.knock();
        }
        if self.leaving {
            let leave = Message::Leave { round: self.round() };
            self.send(self.coordinator(), &leave);
        }
        if self.is_finished() {
            return;
        }
        let heard_of_term = self.now.since(self.succession.heard) <= self.info.terms.heartbeat_ms * 2;
        if self.succession.term > 0 && !self.is_coordinator() && !heard_of_term && self.is_voter() {
            self.send_term_change();
        }
        // Training that a lost proposal interrupted is taken up again; a claim that was lost is said again.
        if self
            .work
            .vote
            .as_ref()
            .is_none_or(|vote| vote.term < self.succession.term)
            && self.work.check.is_none()
        {
            self.train();
        }
        self.rise_to_the_voters();
        self.ask_in_sum();
        self.ask_aggregators();
        self.repeat_proposal();
        self.resume_checking();
    }

    pub(crate) fn on_heartbeat(&mut self, from: PeerId, beat: &Heartbeat) {
        if !self.is_known(&from) || !self.heard.entry(from).or_default().is_fresh(beat, self.now) {
            return;
        }
        if self.chain.is_empty() {
            if beat.settled.is_some() {
                self.ask_for_settlements(from);
            }
            return;
        }
        if self.is_mixing() {
            return self.on_heartbeat_of_mixing(from, beat);
        }
        if self.is_by_quorum() {
            return self.on_heartbeat_by_quorum(from, beat);
        }
        // A coordinator that lags or leads in rounds is alive; one of an earlier term is not the coordinator any more.
        if from == self.coordinator() && (beat.round != self.round() || beat.term >= self.succession.term) {
            self.succession.heard = self.now;
            self.succession.led_until = self.now;
        }
        match beat.round.cmp(&self.round()) {
            Ordering::Greater => self.ask_for_settlements(from),
            Ordering::Less => self.on_catch_up(from, beat.round),
            Ordering::Equal => self.compare_terms(from, beat.term),
        }
    }

    /// Brings two members of different terms together: the one below is shown why, the one above shows itself.
    fn compare_terms(&mut self, from: PeerId, theirs: Term) {
        let mine = self.succession.term;
        if theirs < mine && self.is_voter() {
            let changes: Vec<_> = self
                .promises(mine)
                .into_iter()
                .map(|(_, signed)| signed.clone())
                .collect();
            changes.into_iter().for_each(|signed| self.send_signed(from, signed));
            // Updates have no term: a round of a lower term may close with this member's, though not with its vote.
            let claim = self
                .work
                .training
                .claim
                .clone()
                .filter(|_| self.coordinator_of(theirs) == from);
            claim.into_iter().for_each(|claim| self.send_signed(from, claim));
        } else if theirs > mine {
            let beat = self.next_heartbeat();
            self.send(from, &beat);
        }
    }

    /// As a coordinator whose majority hangs on voters that promised a later term: moves up to them.
    fn rise_to_the_voters(&mut self) {
        let term = self.succession.term;
        let Some(opened) = self.work.lead.as_ref().map(|lead| lead.opened) else {
            return;
        };
        if self.now.since(opened) < 2 * self.info.terms.lost_after_ms {
            return;
        }
        let promised = |peer: &PeerId| self.succession.changes.get(peer).map_or(0, |(change, _)| change.term);
        let alive: Vec<PeerId> = self.roster().voters().filter(|peer| self.is_alive(peer)).collect();
        let reachable = alive.iter().filter(|peer| promised(peer) <= term).count();
        let above = alive
            .iter()
            .map(promised)
            .filter(|other| *other <= term.saturating_add(limits::TERMS_AHEAD))
            .max();
        let majority = self.roster().majority();
        if let Some(above) = above.filter(|above| *above > term && reachable < majority && alive.len() >= majority) {
            self.move_to_term(above);
        }
    }

    /// Asks for what was settled without us.
    pub(crate) fn ask_for_settlements(&mut self, from: PeerId) {
        let (round, now, wait) = (self.round(), self.now, self.info.terms.heartbeat_ms);
        let votes = |peer: &PeerId| self.roster().is_voter(peer);
        // A claim of a later round costs a liar nothing. Among one voter more than may lie one is honest; strangers, of whom
        // there may be any number, take no voter's place.
        let at_once = match self.is_by_quorum() && votes(&from) {
            true => liars_borne(self.roster().voters().count()) + 1,
            false => 1,
        };
        let (of, asked) = &self.succession.asked;
        let mut recent: BTreeMap<PeerId, Time> = asked.clone();
        recent.retain(|_, at| *of == round && now.since(*at) < wait);
        let alike = recent
            .keys()
            .filter(|peer| !self.is_by_quorum() || votes(peer) == votes(&from));
        if alike.count() < at_once && !recent.contains_key(&from) {
            recent.insert(from, now);
            self.send(from, &Message::CatchUp { from: round });
        }
        self.succession.asked = (round, recent);
    }

    // ---- losing the coordinator -------------------------------------------------------------------------------------

    /// When this member gives the coordinator up; None while it leads itself or has no say.
    pub(crate) fn suspect_at(&self) -> Option<Time> {
        if self.is_mixing() || self.is_by_quorum() {
            return None;
        }
        if self.chain.is_empty() || self.is_finished() || self.is_coordinator() || !self.is_voter() {
            return None;
        }
        let terms = &self.info.terms;
        // Later terms get more time: two members that are out of step meet.
        let patience = terms.lost_after_ms * (1 + u64::from(self.succession.term.min(4)));
        let silent = self.succession.heard.after_ms(patience);
        // A coordinator that is heard and never proposes is as bad as a silent one.
        // With shards it waits for results as it has waited for updates.
        let waits = 1 + u64::from(self.shards().is_some());
        let stuck = |claimed: Time| claimed.after_ms(waits * terms.deadline.cap_ms + 4 * terms.lost_after_ms);
        Some(
            self.succession
                .claimed_at
                .map_or(silent, |claimed| silent.min(stuck(claimed))),
        )
    }

    pub(crate) fn watch_coordinator(&mut self) {
        let Some(at) = self.suspect_at() else { return };
        let banned = self.reputation.is_banned(&self.coordinator());
        if self.now >= at || banned {
            self.suspect();
        }
    }

    /// As a coordinator that cannot do its duty: asks for the next term, if there is somebody else to lead it.
    pub(crate) fn step_down(&mut self) {
        if self.is_by_quorum() {
            return self.pass_the_turn();
        }
        let wait = self.now.after_ms(self.info.terms.lost_after_ms);
        if self.roster().succession().len() > 1 {
            self.move_to_term(self.succession.term + 1);
        } else if let Some(lead) = &mut self.work.lead {
            lead.not_before = wait;
        }
    }

    fn suspect(&mut self) {
        let term = self.succession.term;
        let asked = self
            .succession
            .changes
            .iter()
            .filter(|(peer, _)| **peer != self.me)
            .map(|(_, (change, _))| change.term);
        let highest = asked
            .filter(|asked| *asked <= term.saturating_add(limits::TERMS_AHEAD))
            .max()
            .unwrap_or(0);
        // A vote in the term is as good as a majority of promises: the proposal that it was for proved them. After a restart
        // nothing else may be left of them.
        let voted = self.work.vote.as_ref().is_some_and(|vote| vote.term >= term);
        let elected = term == 0 || voted || self.promises(term).len() >= self.roster().majority();
        if highest > term {
            self.move_to_term(highest);
        } else if elected || self.reputation.is_banned(&self.coordinator()) {
            self.move_to_term(term.saturating_add(1));
        } else {
            // Too few members ask for this term yet: a higher one would not help.
            self.succession.heard = self.now;
            self.succession.claimed_at = self.succession.claimed_at.map(|_| self.now);
            self.send_term_change();
        }
    }

    pub(crate) fn move_to_term(&mut self, term: Term) {
        let lost = self.coordinator();
        self.enter_term(term);
        let (round, next) = (self.round(), self.coordinator());
        self.event(Event::CoordinatorLost {
            round,
            term,
            lost,
            next,
        });
        self.send_term_change();
    }

    /// Promises to vote in no term before `term`.
    pub(crate) fn enter_term(&mut self, term: Term) {
        if term <= self.succession.term {
            return;
        }
        let round = self.round();
        self.persist(JournalEntry::Promised { round, term });
        self.succession.term = term;
        self.succession.heard = self.now;
        self.succession.claimed_at = self.succession.claimed_at.map(|_| self.now);
        self.work.lead = None;
        self.work.check = None;
        self.end_duty();
        if self.sums() {
            self.work.training.claim = None;
            self.work.summing.begin_term();
        }
        self.drop_jobs(|job| {
            matches!(
                job,
                Job::Payload(_) | Job::Aggregate | Job::CheckPayload(_) | Job::Check | Job::Sum(_)
            )
        });
        self.train();
    }

    fn send_term_change(&mut self) {
        let term = self.succession.term;
        // The next coordinator needs the proposal itself to repeat it.
        if let Some(vote) = &self.work.vote {
            let proposal = vote.proposal.clone();
            self.send_signed(self.coordinator(), proposal);
        }
        let locked = self.work.vote.as_ref().map(|vote| (vote.term, vote.body));
        let said = self
            .succession
            .changes
            .get(&self.me)
            .filter(|(change, _)| change.term == term);
        let signed = match said {
            Some((_, signed)) => signed.clone(),
            // The term has begun, and this member has voted in it: its promise is no news.
            None if locked.is_some_and(|(locked, _)| locked >= term) => return,
            None => {
                let change = TermChange {
                    round: self.round(),
                    term,
                    locked,
                };
                let signed = self.sign(&Message::TermChange(change));
                self.succession.changes.insert(self.me, (change, signed.clone()));
                signed
            }
        };
        self.broadcast(signed);
        self.try_to_lead();
    }

    pub(crate) fn on_term_change(&mut self, message: &Verified<Message>, change: &TermChange) {
        let from = message.signer();
        if !self.is_current(from, change.round, "term_change") {
            return;
        }
        if change.locked.is_some_and(|(locked, _)| locked >= change.term) {
            // Nobody can have voted in a term that it only now promises to begin.
            return self.charge(Evidence::plain(from, Reject::Malformed, change.round, "term_change"));
        }
        if !self.roster().is_voter(&from) {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, change.round, "term_change"));
        }
        let known = self.succession.changes.get(&from).map(|(known, _)| known.term);
        if known.is_none_or(|known| known <= change.term) {
            self.succession
                .changes
                .insert(from, (*change, message.signed().clone()));
        }
        if change.term > self.succession.term && self.is_voter() {
            self.follow(from, change.term);
        }
        self.try_to_lead();
    }

    /// Joins a change of term that only this member's promise is missing to, or that the coordinator itself asks for.
    fn follow(&mut self, from: PeerId, asked: Term) {
        let term = self.succession.term;
        if asked > term.saturating_add(limits::TERMS_AHEAD) {
            return;
        }
        let mut above: Vec<Term> = self
            .succession
            .changes
            .values()
            .map(|(change, _)| change.term)
            .filter(|other| *other > term)
            .collect();
        above.sort_unstable_by(|a, b| b.cmp(a));
        let needed = self.roster().majority().saturating_sub(1).max(1);
        if from == self.coordinator() {
            self.move_to_term(asked);
        } else if above.len() >= needed {
            self.move_to_term(above[needed - 1].min(asked).max(term + 1));
        }
    }

    fn promises(&self, term: Term) -> Vec<&(TermChange, Signed<Message>)> {
        self.succession
            .changes
            .values()
            .filter(|(change, _)| change.term == term)
            .collect()
    }

    // ---- becoming the coordinator -----------------------------------------------------------------------------------

    /// At the beginning of a round (or after a restart in it): leads if it is this member's turn.
    pub(crate) fn lead_if_due(&mut self) {
        if self.is_by_quorum()
            || self.coordinator() != self.me
            || self.is_coordinator()
            || self.is_finished()
            || self.chain.is_empty()
        {
            return;
        }
        if self.succession.term > 0 {
            return self.try_to_lead();
        }
        if let Some(signed) = self.work.own_proposals.get(&0).cloned() {
            self.work.lead = Some(Lead::new(0, self.now));
            self.stand_by(signed);
        } else if self.has_lost_a_sum(0) {
            self.restart_sum();
        } else {
            self.work.lead = Some(Lead::new(0, self.now));
        }
    }

    /// Takes the role over once a majority has promised this term.
    fn try_to_lead(&mut self) {
        let term = self.succession.term;
        if term == 0 || self.is_coordinator() || self.coordinator() != self.me {
            return;
        }
        if self.base.is_none_or(|base| !base.held) {
            return;
        }
        if let Some(signed) = self.work.own_proposals.get(&term).cloned() {
            // It was elected before it crashed: the proposal that it signed holds the proof.
            self.work.lead = Some(Lead::new(term, self.now));
            return self.stand_by(signed);
        }
        if self.has_lost_a_sum(term) {
            return self.restart_sum();
        }
        let promises = self.promises(term);
        if promises.len() < self.roster().majority() {
            return;
        }
        let highest = strongest_lock(promises.iter().filter_map(|(change, _)| change.locked));
        let justification: Vec<_> = promises.iter().map(|(_, signed)| signed.clone()).collect();
        let repeated = match highest {
            None => None,
            // Without the proposal itself it cannot be repeated: its voters will send it.
            Some((_, id)) => match self.seen_proposal(&id) {
                Some(proposal) => Some(proposal),
                None => return,
            },
        };
        let round = self.round();
        self.event(Event::TookOver { round, term });
        // The others' claims need a moment; and coordinators that fail one after the other do not spin.
        let not_before = self.now.after_ms(self.info.terms.heartbeat_ms);
        let lead = Lead::new(term, self.now);
        self.work.lead = Some(Lead {
            justification: justification.clone(),
            not_before,
            ..lead
        });
        if let Some(proposal) = repeated {
            self.issue(Proposal {
                term,
                justification,
                ..proposal
            });
        } else {
            self.send_claim();
        }
    }

    fn seen_proposal(&self, id: &BodyId) -> Option<Proposal> {
        let own = self
            .work
            .vote
            .iter()
            .filter(|vote| vote.body == *id)
            .map(|vote| &vote.proposal);
        let seen = self
            .work
            .seen
            .values()
            .filter(|(seen, _)| seen == id)
            .map(|(_, signed)| signed);
        let proposed = self.work.own_proposals.values();
        let of_body = |signed: &&Signed<Message>| match signed.verify().as_ref().map(Verified::value) {
            Ok(Message::Proposal(proposal)) => proposal.body.id(&self.info.session) == *id,
            _ => false,
        };
        let verified = own.chain(seen).chain(proposed.filter(of_body)).next()?.verify().ok()?;
        match verified.value() {
            Message::Proposal(proposal) => Some((**proposal).clone()),
            _ => None,
        }
    }

    /// Whether a majority promised the proposal's term, and its body is the one that may have settled before.
    pub(crate) fn is_term_justified(&self, proposal: &Proposal, id: &BodyId) -> bool {
        if proposal.term == 0 {
            return proposal.justification.is_empty();
        }
        let mut promised = BTreeMap::new();
        for signed in &proposal.justification {
            let Ok(verified) = signed.verify() else { return false };
            let Message::TermChange(change) = verified.value() else {
                return false;
            };
            let past = change.locked.is_none_or(|(locked, _)| locked < change.term);
            let fits = (change.round, change.term) == (proposal.body.round, proposal.term) && past;
            let voter = self.roster().is_voter(&signed.signer());
            if !fits || !voter || signed.session() != self.info.session {
                return false;
            }
            promised.insert(signed.signer(), change.locked);
        }
        let locked = strongest_lock(promised.values().flatten().copied());
        promised.len() >= self.roster().majority() && locked.is_none_or(|(_, body)| body == *id)
    }
}

/// The lock that a new coordinator must repeat: of the highest term; there, should a coordinator have proposed twice,
/// the body that more members voted for (then the smaller id, so that everyone picks the same).
pub(crate) fn strongest_lock(locks: impl Iterator<Item = (Term, BodyId)>) -> Option<(Term, BodyId)> {
    let mut votes: BTreeMap<(Term, BodyId), usize> = BTreeMap::new();
    locks.for_each(|lock| *votes.entry(lock).or_default() += 1);
    let strength = |((term, body), count): &((Term, BodyId), usize)| (*term, *count, Reverse(*body));
    votes.into_iter().max_by_key(strength).map(|(lock, _)| lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_term_counts_then_the_number_of_votes() {
        let (a, b) = (BodyId([1; 32]), BodyId([2; 32]));
        let strongest = |locks: &[(Term, BodyId)]| strongest_lock(locks.iter().copied());
        assert_eq!(strongest(&[]), None);
        assert_eq!(strongest(&[(0, a), (0, a), (1, b)]), Some((1, b)));
        assert_eq!(strongest(&[(1, b), (1, a), (1, a)]), Some((1, a)));
        assert_eq!(strongest(&[(1, b), (1, a)]), Some((1, a)));
    }
}
