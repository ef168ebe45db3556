//! What must hold in every run, checked after every event: agreement, no contradiction, no honest member punished.
//! Checkers only watch; they are fed by the world with what peers say, write and report.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::identity::{BlobId, BodyId, PeerId, SessionId, SignatureBytes};
use synod_protocol::journal::{BallotInput, JournalEntry};
use synod_protocol::message::{Ballot, BallotWord, Message, Settlement, Term, UpdateClaim, Vote};
use synod_protocol::shard::ShardStatement;
use synod_protocol::signed::{Signed, Verified};
use synod_protocol::sum::SumWord;
use synod_protocol::task::{JobId, Round};

/// The checkers by name, as scenarios and reports spell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// Two honest members settled different bodies or states for one round.
    Agreement,
    /// A settled state is not what its updates give.
    Validity,
    /// An honest member signed two updates, votes, proposals or answers to unmask that contradict each other, or broke a promise.
    Contradiction,
    /// An honest member said something before it was durable.
    PersistFirst,
    /// Settled rounds did not advance by one.
    Order,
    /// An honest member was banned or expelled by an honest one.
    UnfairBan,
    /// A machine broke its contract with the driver: a job named twice, or work on a blob that is not there.
    Contract,
    /// Live honest members did not settle what they should have, in time.
    Liveness,
    /// The loss is not where it should be.
    Learning,
    /// An adversary that had to be found out was not.
    Detection,
    /// Two runs of one seed differ.
    Determinism,
}

impl Checker {
    /// Its name in scenarios and reports.
    pub fn name(self) -> &'static str {
        match self {
            Checker::Agreement => "agreement",
            Checker::Validity => "validity",
            Checker::Contradiction => "contradiction",
            Checker::PersistFirst => "persist_first",
            Checker::Order => "order",
            Checker::UnfairBan => "unfair_ban",
            Checker::Contract => "contract",
            Checker::Liveness => "liveness",
            Checker::Learning => "learning",
            Checker::Detection => "detection",
            Checker::Determinism => "determinism",
        }
    }
}

/// One thing that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Who noticed.
    pub checker: Checker,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// What, in a sentence.
    pub sentence: String,
}

/// As many violations as are kept: the first is what matters.
const KEPT: usize = 50;

/// A statement that may be made once: who, in which round, in which term (0 for updates).
type Place = (usize, Round, Term);

/// The safety checkers of one run.
#[derive(Debug)]
pub struct Checkers {
    session: SessionId,
    by_quorum: bool,
    honest: Vec<bool>,
    index: BTreeMap<PeerId, usize>,
    updates: BTreeMap<Place, SignatureBytes>,
    replies: BTreeMap<Place, SignatureBytes>,
    votes: BTreeMap<Place, BodyId>,
    /// By stage and place: the votes of agreement by quorum.
    ballots: BTreeMap<(u8, Place), Option<BodyId>>,
    proposals: BTreeMap<Place, (SignatureBytes, BodyId)>,
    promises: BTreeMap<usize, (Round, Term)>,
    durable: BTreeSet<(u8, usize, Round, Term)>,
    settled: BTreeMap<Round, (BodyId, BlobId)>,
    progress: Vec<Option<Round>>,
    models: Vec<Option<BlobId>>,
    jobs: Vec<JobId>,
    violations: Vec<Violation>,
}

impl Checkers {
    /// Checkers over these peers; `honest` says which of them follow the protocol, `by_quorum` how they agree.
    pub fn new(session: SessionId, ids: &[PeerId], honest: Vec<bool>, by_quorum: bool) -> Self {
        Self {
            session,
            by_quorum,
            index: ids.iter().enumerate().map(|(at, id)| (*id, at)).collect(),
            progress: vec![None; honest.len()],
            models: vec![None; honest.len()],
            jobs: vec![0; honest.len()],
            honest,
            updates: BTreeMap::new(),
            replies: BTreeMap::new(),
            votes: BTreeMap::new(),
            ballots: BTreeMap::new(),
            proposals: BTreeMap::new(),
            promises: BTreeMap::new(),
            durable: BTreeSet::new(),
            settled: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// What was found.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Adds a finding.
    pub fn report(&mut self, checker: Checker, at_ms: u64, sentence: String) {
        if self.violations.len() < KEPT {
            self.violations.push(Violation {
                checker,
                at_ms,
                sentence,
            });
        }
    }

    /// The last round that this peer settled.
    pub fn progress(&self, peer: usize) -> Option<Round> {
        self.progress[peer]
    }

    /// The last round that any honest member settled, with its state.
    pub fn last_settled(&self) -> Option<(Round, BlobId)> {
        self.settled
            .last_key_value()
            .map(|(round, (_, state))| (*round, *state))
    }

    /// The farthest round that any honest member has mixed.
    pub fn farthest_mixed(&self) -> Option<Round> {
        let honest = self.progress.iter().zip(&self.honest).filter(|(_, honest)| **honest);
        honest.filter_map(|(round, _)| *round).max()
    }

    /// The model that a peer mixed last.
    pub fn model_of(&self, peer: usize) -> Option<BlobId> {
        self.models[peer]
    }

    /// The state that a round settled.
    pub fn state_of(&self, round: Round) -> Option<BlobId> {
        self.settled.get(&round).map(|(_, state)| *state)
    }

    /// A peer made an entry durable. Returns true for a round that nobody honest had settled before.
    pub fn wrote(&mut self, at_ms: u64, peer: usize, entry: &JournalEntry) -> bool {
        match entry {
            JournalEntry::Claimed { round, claim } => _ = self.durable.insert((0, peer, *round, term_of(claim))),
            JournalEntry::Unmasked { round, term } => _ = self.durable.insert((4, peer, *round, *term)),
            JournalEntry::Voted { round, term, .. } => _ = self.durable.insert((1, peer, *round, *term)),
            JournalEntry::Proposed { round, term, .. } => _ = self.durable.insert((2, peer, *round, *term)),
            JournalEntry::Promised { round, term } => _ = self.durable.insert((3, peer, *round, *term)),
            JournalEntry::Settled(settlement) => return self.settled(at_ms, peer, settlement),
            JournalEntry::Mixed { round, state, .. } => self.mixed(at_ms, peer, *round, *state),
            JournalEntry::Banned(who) => self.banned(at_ms, peer, who),
            JournalEntry::Ballots { round, inputs } => self.took_in(peer, *round, inputs),
            _ => {}
        }
        false
    }

    /// Of what a peer takes in, what it is to say itself is durable now.
    fn took_in(&mut self, peer: usize, round: Round, inputs: &[BallotInput]) {
        for input in inputs {
            let (BallotInput::Proposed { proposal: signed, .. } | BallotInput::Voted(signed)) = input else {
                continue;
            };
            if self.index.get(&signed.signer()) != Some(&peer) {
                continue;
            }
            let Ok(verified) = signed.verify() else { continue };
            match verified.value() {
                Message::Proposal(proposal) => _ = self.durable.insert((2, peer, round, proposal.term)),
                other => {
                    if let Some((stage, term, _)) = ballot_of(other) {
                        self.durable.insert((stage, peer, round, term));
                    }
                }
            }
        }
    }

    /// A vote of agreement by quorum: one a stage and term.
    fn balloted(&mut self, at_ms: u64, peer: usize, message: &Message) {
        let (Some((stage, term, body)), Some(round)) = (ballot_of(message), message.round()) else {
            return;
        };
        let place = (peer, round, term);
        if *self.ballots.entry((stage, place)).or_insert(body) != body {
            self.contradiction(at_ms, place, "voted twice in one stage");
        }
        self.durable_first(at_ms, stage, place, "ballot");
    }

    /// A peer said something (whether or not anybody hears it).
    pub fn said(&mut self, at_ms: u64, peer: usize, message: &Verified<Message>) {
        // What others signed may be passed on.
        if !self.honest[peer] || self.index.get(&message.signer()) != Some(&peer) {
            return;
        }
        let founding = message.value().round() == Some(0);
        match message.value() {
            Message::Vote(_) | Message::Ballot(_) if self.by_quorum && !founding => {
                self.balloted(at_ms, peer, message.value());
            }
            Message::Update(UpdateClaim { round, .. }) => {
                self.announced(at_ms, (peer, *round, 0), message);
            }
            Message::Shard(statement) if matches!(**statement, ShardStatement::Update { .. }) => {
                self.announced(at_ms, (peer, statement.round(), 0), message);
            }
            Message::Sum(statement) => {
                let place = (peer, statement.round, statement.term);
                let signature = message.signed().signature();
                match &statement.word {
                    SumWord::Masked(_) => {
                        if *self.updates.entry(place).or_insert(signature) != signature {
                            self.contradiction(at_ms, place, "masked two updates");
                        }
                        self.durable_first(at_ms, 0, place, "masked update");
                    }
                    SumWord::Reply(_) => {
                        // One a round, whatever the term.
                        let once = (peer, statement.round, 0);
                        if *self.replies.entry(once).or_insert(signature) != signature {
                            self.contradiction(at_ms, place, "answered two requests to unmask in a round");
                        }
                        self.durable_first(at_ms, 4, place, "answer to a request to unmask");
                    }
                    _ => {}
                }
            }
            Message::Vote(vote) => {
                let place = (peer, vote.round, vote.term);
                if *self.votes.entry(place).or_insert(vote.body) != vote.body {
                    self.contradiction(at_ms, place, "voted for two different bodies");
                }
                if self
                    .promises
                    .get(&peer)
                    .is_some_and(|(round, term)| *round == vote.round && *term > vote.term)
                {
                    self.contradiction(at_ms, place, "voted in a term that it had promised to leave");
                }
                self.durable_first(at_ms, 1, place, "vote");
            }
            Message::Proposal(proposal) => {
                let place = (peer, proposal.body.round, proposal.term);
                let signature = message.signed().signature();
                match self.proposals.get(&place) {
                    Some((known, _)) if *known == signature => {}
                    Some((_, body)) => {
                        if *body != proposal.body.id(&self.session) {
                            self.contradiction(at_ms, place, "proposed two different bodies");
                        }
                    }
                    None => {
                        _ = self
                            .proposals
                            .insert(place, (signature, proposal.body.id(&self.session)))
                    }
                }
                self.durable_first(at_ms, 2, place, "proposal");
            }
            Message::TermChange(change) => {
                let promise = self.promises.entry(peer).or_insert((change.round, change.term));
                *promise = (*promise).max((change.round, change.term));
                let (round, term) = (change.round, change.term);
                self.durable_first(at_ms, 3, (peer, round, term), "promise");
                let voted = self.votes.range((peer, round, 0)..(peer, round, Term::MAX)).next_back();
                let locked = voted.map(|((_, _, term), body)| (*term, *body));
                if locked > change.locked && locked.is_some_and(|(voted, _)| voted < term) {
                    self.contradiction(at_ms, (peer, round, term), "hid its vote from a term change");
                }
            }
            _ => {}
        }
    }

    /// An update in the clear, of which there is one a round.
    fn announced(&mut self, at_ms: u64, place: Place, message: &Verified<Message>) {
        let signature = message.signed().signature();
        if *self.updates.entry(place).or_insert(signature) != signature {
            self.contradiction(at_ms, place, "announced two different updates");
        }
        self.durable_first(at_ms, 0, place, "update");
    }

    /// A machine named a job.
    pub fn asked(&mut self, at_ms: u64, peer: usize, job: JobId) {
        if job <= self.jobs[peer] {
            self.report(Checker::Contract, at_ms, format!("peer {peer} named job {job} twice"));
        }
        self.jobs[peer] = job;
    }

    /// A peer's process began anew: its jobs are counted anew.
    pub fn restarted(&mut self, peer: usize) {
        self.jobs[peer] = 0;
    }

    /// A peer cut another one off.
    pub fn banned(&mut self, at_ms: u64, by: usize, who: &PeerId) {
        if let Some(&banned) = self.index.get(who)
            && self.honest[by]
            && self.honest[banned]
        {
            self.report(
                Checker::UnfairBan,
                at_ms,
                format!("peer {by} banned peer {banned}, which is honest"),
            );
        }
    }

    /// Without a coordinator rounds only go up; who falls behind may leave some out.
    fn mixed(&mut self, at_ms: u64, peer: usize, round: Round, state: BlobId) {
        if self.honest[peer] && self.progress[peer].is_none_or(|last| round <= last) {
            let sentence = format!("peer {peer} mixed round {round} after round {:?}", self.progress[peer]);
            self.report(Checker::Order, at_ms, sentence);
        }
        self.progress[peer] = Some(round);
        self.models[peer] = Some(state);
    }

    fn settled(&mut self, at_ms: u64, peer: usize, settlement: &Settlement) -> bool {
        let round = settlement.body.round;
        if !self.honest[peer] {
            self.progress[peer] = Some(round);
            return false;
        }
        let expected = self.progress[peer].map_or(0, |last| last + 1);
        if round != expected {
            let sentence = format!("peer {peer} settled round {round} where round {expected} was due");
            self.report(Checker::Order, at_ms, sentence);
        }
        self.progress[peer] = Some(round);
        let settled = (settlement.id(&self.session), settlement.body.state);
        if let Some(known) = self.settled.get(&round) {
            if *known != settled {
                let sentence = format!(
                    "peer {peer} settled body {} with state {} for round {round}, others body {} with state {}",
                    settled.0.short(),
                    settled.1.short(),
                    known.0.short(),
                    known.1.short()
                );
                self.report(Checker::Agreement, at_ms, sentence);
            }
            return false;
        }
        self.settled.insert(round, settled);
        for expelled in &settlement.body.expelled {
            if self.index.get(expelled).is_some_and(|at| self.honest[*at]) {
                let who = self.index[expelled];
                self.report(
                    Checker::UnfairBan,
                    at_ms,
                    format!("round {round} expelled peer {who}, which is honest"),
                );
            }
        }
        self.forget_before(round.saturating_sub(50));
        true
    }

    fn forget_before(&mut self, round: Round) {
        if round == 0 || !round.is_multiple_of(50) {
            return;
        }
        self.updates.retain(|place, _| place.1 >= round);
        self.replies.retain(|place, _| place.1 >= round);
        self.votes.retain(|place, _| place.1 >= round);
        self.proposals.retain(|place, _| place.1 >= round);
        self.ballots.retain(|(_, place), _| place.1 >= round);
        self.durable.retain(|place| place.2 >= round);
    }

    fn contradiction(&mut self, at_ms: u64, (peer, round, term): Place, what: &str) {
        let sentence = format!("peer {peer}, which is honest, {what} in round {round}, term {term}");
        self.report(Checker::Contradiction, at_ms, sentence);
    }

    fn durable_first(&mut self, at_ms: u64, kind: u8, (peer, round, term): Place, what: &str) {
        if !self.durable.contains(&(kind, peer, round, term)) {
            let sentence = format!("peer {peer} sent its {what} of round {round}, term {term}, before it was durable");
            self.report(Checker::PersistFirst, at_ms, sentence);
        }
    }
}

/// The stage (as the durable statements count), term and content of a vote by quorum.
fn ballot_of(message: &Message) -> Option<(u8, Term, Option<BodyId>)> {
    match message {
        Message::Vote(Vote { term, body, .. }) => Some((6, *term, Some(*body))),
        Message::Ballot(Ballot { term, word, .. }) => Some(match word {
            BallotWord::Prevote(body) => (5, *term, *body),
            BallotWord::Nothing => (6, *term, None),
        }),
        _ => None,
    }
}

/// The term that a masked update is for; 0 for one in the clear, of which there is one a round.
fn term_of(claim: &Signed<Message>) -> Term {
    match claim.verify().as_ref().map(Verified::value) {
        Ok(Message::Sum(statement)) => statement.term,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_protocol::identity::Identity;
    use synod_protocol::message::{TermChange, Vote};

    const SESSION: SessionId = SessionId([5; 32]);

    fn vote(term: Term, body: u8) -> Message {
        Message::Vote(Vote {
            round: 1,
            term,
            body: BodyId([body; 32]),
        })
    }

    fn check(honest: bool, messages: &[Message]) -> Vec<&'static str> {
        let identity = Identity::from_secret([1; 32]);
        let mut checkers = Checkers::new(SESSION, &[identity.peer_id()], vec![honest], false);
        for term in 0..3 {
            checkers.durable.extend([(1, 0, 1, term), (3, 0, 1, term)]);
        }
        for message in messages {
            let message = Signed::new(&identity, SESSION, message).verify().unwrap();
            checkers.said(7, 0, &message);
        }
        checkers
            .violations()
            .iter()
            .map(|violation| violation.checker.name())
            .collect()
    }

    #[test]
    fn a_second_vote_in_a_term_is_a_contradiction_and_a_repeated_one_is_not() {
        assert!(check(true, &[vote(0, 1), vote(0, 1), vote(1, 1)]).is_empty());
        assert_eq!(check(true, &[vote(0, 1), vote(0, 2)]), ["contradiction"]);
        assert!(
            check(false, &[vote(0, 1), vote(0, 2)]).is_empty(),
            "adversaries do what they like"
        );
    }

    #[test]
    fn a_broken_promise_and_a_hidden_lock_are_contradictions() {
        let change = |locked| {
            Message::TermChange(TermChange {
                round: 1,
                term: 1,
                locked,
            })
        };
        assert!(check(true, &[vote(0, 1), change(Some((0, BodyId([1; 32])))), vote(1, 1)]).is_empty());
        assert_eq!(check(true, &[change(None), vote(0, 1)]), ["contradiction"]);
        assert_eq!(check(true, &[vote(0, 1), change(None)]), ["contradiction"]);
    }

    #[test]
    fn what_is_said_before_it_is_durable_is_noticed() {
        assert_eq!(check(true, &[vote(9, 1)]), ["persist_first"]);
    }
}
