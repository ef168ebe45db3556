//! Agreement without a coordinator: all members exchange with all, each voter proposes in turn, and a round is settled by the
//! votes of more than two thirds. Fewer than a third of the voters may lie, contradict themselves or be silent.
//!
//! Who votes for what and when a term ends is decided by Tendermint's state machine (`tendermint`), one instance a round.
//! Here is what it does not know: that a proposal is found right by computing it again, what is said to whom and said again,
//! how long is waited, and that nothing is said before what led to it is durable. Nothing here trusts a proposer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::contract::Time;
use crate::event::Event;
use crate::identity::{BodyId, PeerId, SignatureBytes};
use crate::journal::{BallotInput, BallotWait, JournalEntry};
use crate::limits;
use crate::machine::{Job, Machine};
use crate::message::{Ballot, BallotWord, Heartbeat, Message, Proposal, Settlement, Term, Vote};
use crate::reject::{Evidence, Reject};
use crate::round::exchanging::Lead;
use crate::session::{Role, Roster, liars_borne};
use crate::signed::{Signed, Verified};
use crate::task::Round;
use crate::topology::tendermint::{
    self, CoreRound, Driver, Height, NilOrVal, Timeout, TimeoutKind, Told, Validity, VoteType, Wanted, core_round,
    term_of,
};

/// Terms by which patience grows at most: members that are out of step meet before.
const PATIENCE_GROWS: Term = 16;

/// Where a voter votes once: the term, the stage, who.
type Place = (Term, VoteType, PeerId);

/// What one voter knows of the agreement on the current round.
#[derive(Debug)]
pub(crate) struct Quorum {
    round: Round,
    voters: Vec<PeerId>,
    driver: Driver,
    /// What the driver took in, in order; the first `durable` of them are in the journal.
    inputs: Vec<BallotInput>,
    durable: usize,
    /// Votes as they were signed, this member's own among them.
    votes: BTreeMap<Place, (Option<BodyId>, Signed<Message>)>,
    /// The proofs that came with proposals, by term and body.
    proofs: BTreeMap<(Term, BodyId), Vec<Signed<Message>>>,
    /// Who was heard in an earlier term than this member's.
    behind: BTreeMap<PeerId, Behind>,
    /// A proposal of each body.
    bodies: BTreeMap<BodyId, Verified<Message>>,
    /// The terms whose proposal the driver has taken in.
    given: BTreeSet<Term>,
    /// What this member found of a body by computing it again.
    judged: BTreeMap<BodyId, bool>,
    /// The waits that are on, and when they end; the one for a proposal ends at `proposal_deadline`.
    waits: BTreeMap<(Term, BallotWait), Time>,
    /// When the term was entered.
    entered: Time,
    /// Since when the term's proposal is examined, and how long it took last, in milliseconds.
    examining: Option<Time>,
    examined_ms: u64,
    /// The highest term that each voter was heard in.
    latest: BTreeMap<PeerId, Term>,
    repeated: Time,
}

/// A voter that was heard in an earlier term than this member's.
#[derive(Debug)]
struct Behind {
    term: Term,
    /// When it was last sent votes, and how many since it was heard in this term.
    at: Time,
    sent: usize,
}

/// Who proposes in a term of a round: the voters in turn, in the order of ids.
fn proposer(round: Round, term: Term, voters: &[PeerId]) -> PeerId {
    voters[tendermint::turn(round, term, voters.len())]
}

/// The term, stage and content of a vote.
fn vote_in(message: &Message) -> Option<(Term, VoteType, Option<BodyId>)> {
    match message {
        Message::Vote(vote) => Some((vote.term, VoteType::Precommit, Some(vote.body))),
        Message::Ballot(ballot) => Some(match ballot.word {
            BallotWord::Prevote(body) => (ballot.term, VoteType::Prevote, body),
            BallotWord::Nothing => (ballot.term, VoteType::Precommit, None),
        }),
        _ => None,
    }
}

/// The term whose prevotes a proposal rests on.
fn proof_term(proposal: &Proposal) -> Option<Term> {
    let first = proposal.justification.first()?.verify().ok()?;
    vote_in(first.value()).map(|(term, _, _)| term)
}

impl Quorum {
    fn new(round: Round, voters: Vec<PeerId>, me: PeerId, now: Time) -> Self {
        Self {
            driver: tendermint::driver(round, voters.clone(), me),
            round,
            voters,
            inputs: Vec::new(),
            durable: 0,
            votes: BTreeMap::new(),
            proofs: BTreeMap::new(),
            behind: BTreeMap::new(),
            bodies: BTreeMap::new(),
            given: BTreeSet::new(),
            judged: BTreeMap::new(),
            waits: BTreeMap::new(),
            entered: now,
            examining: None,
            examined_ms: 0,
            latest: BTreeMap::new(),
            repeated: now,
        }
    }

    /// Gives the driver one input, and keeps it.
    fn take(&mut self, input: BallotInput) -> Vec<Wanted> {
        let told = match &input {
            BallotInput::Began(term) => {
                let proposer = proposer(self.round, *term, &self.voters);
                Told::NewRound(Height(self.round), core_round(*term), proposer)
            }
            BallotInput::Proposed { proposal, valid } => self.take_proposal(proposal, *valid),
            BallotInput::Voted(signed) => self.take_vote(signed),
            BallotInput::Proved(votes) => self.take_proof(votes),
            BallotInput::TimedOut(term, wait) => {
                let kind = match wait {
                    BallotWait::Proposal => TimeoutKind::Propose,
                    BallotWait::Prevotes => TimeoutKind::Prevote,
                    BallotWait::Votes => TimeoutKind::Precommit,
                };
                Told::TimeoutElapsed(Timeout::new(core_round(*term), kind))
            }
        };
        self.inputs.push(input);
        self.driver
            .process(told)
            .expect("only votes of voters, and proposals of proposers, of this round are taken in")
    }

    fn take_proposal(&mut self, signed: &Signed<Message>, valid: bool) -> Told {
        let verified = signed.verify().expect("what is taken in was verified");
        let Message::Proposal(proposal) = verified.value() else {
            panic!("a {} was taken in as a proposal", verified.value().kind())
        };
        let body = proposal.body.id(&signed.session());
        let proposed = tendermint::Proposed {
            height: Height(self.round),
            round: core_round(proposal.term),
            body,
            proof: proof_term(proposal).map_or(CoreRound::Nil, core_round),
            proposer: signed.signer(),
        };
        self.given.insert(proposal.term);
        if valid {
            self.judged.insert(body, true);
        }
        self.bodies.entry(body).or_insert_with(|| verified.clone());
        Told::Proposal(tendermint::proposal(proposed), Validity::from_bool(valid))
    }

    fn take_vote(&mut self, signed: &Signed<Message>) -> Told {
        let verified = signed.verify().expect("what is taken in was verified");
        let (term, kind, body) = vote_in(verified.value()).expect("only votes are taken in as votes");
        let voter = signed.signer();
        self.votes.insert((term, kind, voter), (body, signed.clone()));
        Told::Vote(tendermint::unsigned(tendermint::Ballot {
            height: Height(self.round),
            round: core_round(term),
            kind,
            body: body.map_or(NilOrVal::Nil, NilOrVal::Val),
            voter,
        }))
    }

    fn take_proof(&mut self, votes: &[Signed<Message>]) -> Told {
        let first = votes[0].verify().expect("what is taken in was verified");
        let (term, _, body) = vote_in(first.value()).expect("only votes are taken in as votes");
        let body = body.expect("nothing needs no proof");
        self.proofs.insert((term, body), votes.to_vec());
        let voters = votes.iter().map(Signed::signer).collect();
        Told::PolkaCertificate(tendermint::proof(Height(self.round), core_round(term), body, voters))
    }

    /// Prevotes of more than two thirds for a body, from a proposal that rested on them or as they came here.
    fn proof_of(&self, term: Term, body: BodyId) -> Vec<Signed<Message>> {
        let heard = || {
            self.votes_for(term, VoteType::Prevote, body)
                .into_iter()
                .cloned()
                .collect()
        };
        self.proofs.get(&(term, body)).cloned().unwrap_or_else(heard)
    }

    /// The votes of one stage of a term for a body, by voter.
    fn votes_for(&self, term: Term, kind: VoteType, body: BodyId) -> Vec<&Signed<Message>> {
        let of_stage = self.votes.iter().filter(|((t, k, _), _)| (*t, *k) == (term, kind));
        of_stage
            .filter(|(_, (voted, _))| *voted == Some(body))
            .map(|(_, (_, signed))| signed)
            .collect()
    }

    /// What `peer` voted in terms from `from` on and before `until`.
    fn votes_of(&self, peer: PeerId, from: Term, until: Term) -> Vec<Signed<Message>> {
        let of_peer = self.votes.iter().filter(|((_, _, voter), _)| *voter == peer);
        of_peer
            .filter(|((term, _, _), _)| (from..until).contains(term))
            .map(|(_, (_, signed))| signed.clone())
            .collect()
    }

    /// All votes of these terms.
    fn votes_in(&self, terms: &[Term]) -> Vec<Signed<Message>> {
        let of_terms = self.votes.iter().filter(|((term, _, _), _)| terms.contains(term));
        of_terms.map(|(_, (_, signed))| signed.clone()).collect()
    }

    fn has_voted(&self, peer: PeerId, term: Term, kind: VoteType) -> bool {
        self.votes.contains_key(&(term, kind, peer))
    }

    /// Whether this voter has said something in its term.
    pub(crate) fn is_voting(&self) -> bool {
        !self.driver.step_is_propose()
    }

    /// The highest term whose votes are kept: fewer than a third of the voters cannot drive it away.
    fn reach(&self, own: Term) -> Term {
        let mut latest: Vec<Term> = self.latest.values().copied().collect();
        latest.sort_unstable_by(|a, b| b.cmp(a));
        let liars = liars_borne(self.voters.len());
        let sound = latest.get(liars).copied().unwrap_or(0);
        sound.max(own).saturating_add(limits::TERMS_AHEAD)
    }

    /// The shortest journal that makes this again.
    pub(crate) fn snapshot(&self) -> Option<JournalEntry> {
        let inputs = self.inputs[..self.durable].to_vec();
        let round = self.round;
        (!inputs.is_empty()).then_some(JournalEntry::Ballots { round, inputs })
    }
}

impl Machine {
    /// Whether rounds are settled by quorum, once the session is founded.
    pub(crate) fn is_by_quorum(&self) -> bool {
        !self.chain.is_empty() && self.info.terms.is_by_quorum()
    }

    /// Who proposes in a term of the current round.
    pub(crate) fn proposer_among(&self, roster: &Roster, term: Term) -> PeerId {
        let voters: Vec<PeerId> = roster.voters().collect();
        proposer(self.round(), term, &voters)
    }

    fn quorum(&mut self) -> &mut Quorum {
        self.work
            .quorum
            .as_mut()
            .expect("only a voter in an open round gets here")
    }

    // ---- a round and its terms --------------------------------------------------------------------------------------

    /// Opens the agreement on the current round, as the journal left it. Calling it again does no harm.
    pub(crate) fn open_ballots(&mut self) {
        if self.work.quorum.is_some() || self.is_finished() || !self.roster().is_voter(&self.me) {
            return;
        }
        let voters = self.roster().voters().collect();
        let mut quorum = Quorum::new(self.round(), voters, self.me, self.now);
        let inputs = std::mem::take(&mut self.work.ballots);
        let mut wanted = Vec::new();
        for input in inputs {
            if let BallotInput::Began(term) = input {
                self.succession.term = term;
            }
            if let BallotInput::Proposed { proposal, .. } = &input {
                self.work.restore_seen(proposal);
            }
            wanted.extend(quorum.take(input));
        }
        quorum.durable = quorum.inputs.len();
        let begun = quorum.durable > 0;
        self.work.quorum = Some(Box::new(quorum));
        if !begun {
            return self.ballot(BallotInput::Began(0), Vec::new());
        }
        // What it said then it says again by itself; what it waited for then it waits for anew.
        let (term, mut decided) = (self.succession.term, None);
        for wanted in wanted {
            match wanted {
                // Its own last vote settled the round, and it died before the settlement was durable. The others may have, too.
                Wanted::Decide(_, proposed) => decided = Some((term_of(proposed.round), proposed.body)),
                Wanted::ScheduleTimeout(timeout) if timeout.round == core_round(term) => self.await_ballots(timeout),
                Wanted::GetValue(_, round, _) if round == core_round(term) && !self.work.seen.contains_key(&term) => {
                    self.lead_ballot(term);
                }
                _ => {}
            }
        }
        if let Some((term, body)) = decided {
            self.settle_by_quorum(term, body);
        }
    }

    /// Takes an input in, does what follows, and says `words` and what else there is to say, once it is durable.
    fn ballot(&mut self, input: BallotInput, mut words: Vec<Signed<Message>>) {
        let mut inputs = VecDeque::from([input]);
        let mut decided = None;
        while let Some(input) = inputs.pop_front() {
            for wanted in self.quorum().take(input) {
                match wanted {
                    Wanted::NewRound(_, round) => {
                        self.enter_ballot(term_of(round));
                        inputs.push_back(BallotInput::Began(term_of(round)));
                    }
                    Wanted::Propose(proposed) => {
                        let proposal = self.repeat_body(term_of(proposed.round), proposed.body, proposed.proof);
                        words.push(proposal.clone());
                        inputs.push_back(BallotInput::Proposed { proposal, valid: true });
                    }
                    Wanted::Vote(vote) => {
                        let signed = self.sign_ballot(&vote);
                        words.push(signed.clone());
                        inputs.push_back(BallotInput::Voted(signed));
                    }
                    Wanted::Decide(_, proposed) => decided = Some((term_of(proposed.round), proposed.body)),
                    Wanted::ScheduleTimeout(timeout) => self.await_ballots(timeout),
                    Wanted::GetValue(_, round, _) => self.lead_ballot(term_of(round)),
                }
            }
        }
        if !words.is_empty() {
            let (round, quorum) = (self.round(), self.quorum());
            let inputs = quorum.inputs[quorum.durable..].to_vec();
            quorum.durable = quorum.inputs.len();
            self.persist(JournalEntry::Ballots { round, inputs });
            words.into_iter().for_each(|word| self.broadcast(word));
        }
        match decided {
            Some((term, body)) => self.settle_by_quorum(term, body),
            None => self.examine(),
        }
    }

    fn enter_ballot(&mut self, term: Term) {
        let (round, now, lost) = (self.round(), self.now, self.coordinator());
        self.defer_entrants();
        self.succession.term = term;
        self.succession.heard = now;
        self.succession.claimed_at = self.succession.claimed_at.map(|_| now);
        self.work.lead = None;
        self.work.check = None;
        let quorum = self.quorum();
        (quorum.entered, quorum.examining) = (now, None);
        quorum.waits.retain(|(of, _), _| *of >= term);
        self.drop_jobs(|job| {
            matches!(
                job,
                Job::Payload(_) | Job::Aggregate | Job::CheckPayload(_) | Job::Check
            )
        });
        let next = self.coordinator();
        self.event(Event::CoordinatorLost {
            round,
            term,
            lost,
            next,
        });
        self.train();
    }

    /// This member's turn to propose: it collects updates.
    fn lead_ballot(&mut self, term: Term) {
        let lead = Lead::new(term, self.now);
        // The others' claims need a moment.
        let wait = if term > 0 { self.info.terms.heartbeat_ms } else { 0 };
        self.work.lead = Some(Lead {
            not_before: self.now.after_ms(wait),
            ..lead
        });
        if term > 0 {
            let round = self.round();
            self.event(Event::TookOver { round, term });
        }
        self.send_claim();
    }

    // ---- proposing --------------------------------------------------------------------------------------------------

    /// Proposes what this member combined, if the term still waits for it.
    pub(crate) fn propose_by_quorum(&mut self, proposal: Proposal) {
        self.work.lead = None;
        let (term, id) = (proposal.term, proposal.body.id(&self.info.session));
        let waits = term == self.succession.term && self.quorum().driver.step_is_propose();
        if !waits || self.work.seen.contains_key(&term) {
            return;
        }
        let proposal = self.sign_proposal(proposal, id);
        let words = vec![proposal.clone()];
        self.ballot(BallotInput::Proposed { proposal, valid: true }, words);
    }

    fn sign_proposal(&mut self, proposal: Proposal, id: BodyId) -> Signed<Message> {
        let (round, term, state) = (proposal.body.round, proposal.term, proposal.body.state);
        let updates = proposal.body.used.len() as u32;
        let signed = self.sign(&Message::Proposal(Box::new(proposal)));
        self.work.seen.insert(term, (id, signed.clone()));
        self.event(Event::Proposed {
            round,
            term,
            state,
            updates,
        });
        signed
    }

    /// Proposes a body of an earlier term again, with the prevotes that it got.
    fn repeat_body(&mut self, term: Term, id: BodyId, proof: CoreRound) -> Signed<Message> {
        let quorum = self.quorum();
        let known = quorum
            .bodies
            .get(&id)
            .expect("a body that got votes of a quorum here is known");
        let Message::Proposal(known) = known.value() else {
            panic!("a {} was kept as a proposal", known.value().kind())
        };
        let proposal = Proposal {
            term,
            justification: quorum.proof_of(term_of(proof), id),
            ..(**known).clone()
        };
        self.sign_proposal(proposal, id)
    }

    fn sign_ballot(&mut self, vote: &tendermint::Ballot) -> Signed<Message> {
        let (round, term, me) = (self.round(), term_of(vote.round), self.me);
        let again = self.quorum().has_voted(me, term, vote.kind);
        assert!(
            !again,
            "a voter votes once a stage: a second {:?} in term {term}",
            vote.kind
        );
        let message = match (vote.kind, &vote.body) {
            (VoteType::Precommit, NilOrVal::Val(body)) => {
                let body = *body;
                self.event(Event::Voted { round, term, body });
                Message::Vote(Vote { round, term, body })
            }
            (kind, body) => {
                let word = match (kind, body) {
                    (VoteType::Precommit, _) => BallotWord::Nothing,
                    (VoteType::Prevote, NilOrVal::Val(body)) => BallotWord::Prevote(Some(*body)),
                    (VoteType::Prevote, NilOrVal::Nil) => BallotWord::Prevote(None),
                };
                Message::Ballot(Ballot { round, term, word })
            }
        };
        self.sign(&message)
    }

    // ---- others' proposals ------------------------------------------------------------------------------------------

    pub(crate) fn on_proposal_by_quorum(&mut self, message: &Verified<Message>, proposal: &Proposal) {
        let (from, round, term) = (message.signer(), proposal.body.round, proposal.term);
        if !self.is_current(from, round, "proposal") || self.work.quorum.is_none() {
            return;
        }
        if from != self.coordinator_of(term) {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, round, "proposal"));
        }
        let (own, quorum) = (self.succession.term, self.quorum());
        if term < own || term > quorum.reach(own) {
            return;
        }
        let id = proposal.body.id(&self.info.session);
        match self.work.seen.get(&term) {
            Some((first, signed)) if *first != id => {
                return self.contradicts(from, "proposal", &signed.clone(), message.signed());
            }
            // Said again: what it rests on was not checked this time, and is no proof of anything.
            Some(_) => return self.examine(),
            None => {
                if !self.is_justified(proposal, &id) {
                    return self.charge(Evidence::plain(from, Reject::BadProposal, round, "proposal"));
                }
                self.work.seen.insert(term, (id, message.signed().clone()));
                self.quorum().bodies.entry(id).or_insert_with(|| message.clone());
                if term == own {
                    (self.succession.heard, self.succession.led_until) = (self.now, self.now);
                }
            }
        }
        let proof = proof_term(proposal).filter(|proof| !self.quorum().proofs.contains_key(&(*proof, id)));
        match proof {
            Some(_) => self.ballot(BallotInput::Proved(proposal.justification.clone()), Vec::new()),
            None => self.examine(),
        }
    }

    /// Whether a proposal's term is in order: a new body of its proposer, or one that more than two thirds found right in an
    /// earlier term of the round.
    pub(crate) fn is_ballot_justified(&self, proposal: &Proposal, from: PeerId, id: &BodyId) -> bool {
        if proposal.justification.is_empty() {
            return proposal.body.proposer == from;
        }
        if proposal.justification.len() > self.roster().voters().count() {
            return false;
        }
        let mut voters = BTreeSet::new();
        let Some(proof) = proof_term(proposal).filter(|proof| *proof < proposal.term) else {
            return false;
        };
        for signed in &proposal.justification {
            let Ok(verified) = signed.verify() else { return false };
            let of_round = verified.value().round() == Some(proposal.body.round);
            let fits = vote_in(verified.value()) == Some((proof, VoteType::Prevote, Some(*id)));
            let voter = self.roster().is_voter(&signed.signer()) && signed.session() == self.info.session;
            if !of_round || !fits || !voter {
                return false;
            }
            voters.insert(signed.signer());
        }
        voters.len() >= self.info.terms.votes_needed(self.roster())
    }

    /// Goes on with the proposal of the present term: what is known of its body counts, else it is computed again.
    fn examine(&mut self) {
        let (term, now) = (self.succession.term, self.now);
        let Some((id, signed)) = self.work.seen.get(&term).cloned() else {
            return;
        };
        let Some(quorum) = self.work.quorum.as_ref().filter(|quorum| !quorum.given.contains(&term)) else {
            return;
        };
        // What more than two thirds found right in an earlier term is not judged by ear any more: some may hold to it.
        let proved = quorum.proofs.keys().any(|(_, body)| *body == id);
        let known = match quorum.bodies[&id].value() {
            Message::Proposal(proposal) if !proved && self.hears_otherwise(&proposal.body) => Some(false),
            _ => quorum.judged.get(&id).copied(),
        };
        if let Some(valid) = known {
            let proposal = signed;
            return self.ballot(BallotInput::Proposed { proposal, valid }, Vec::new());
        }
        let quorum = self.quorum();
        if quorum.examining.is_none() {
            quorum.examining = Some(now);
            let message = signed.verify().expect("what was seen was verified");
            self.begin_check(&message, term, id);
        }
    }

    /// This member has computed a proposed body again.
    pub(crate) fn judge(&mut self, id: BodyId, valid: bool) {
        let (now, longest) = (self.now, self.info.terms.deadline.cap_ms);
        let Some(quorum) = self.work.quorum.as_mut() else {
            return;
        };
        quorum.judged.insert(id, valid);
        if let Some(since) = quorum.examining.take() {
            // Who withholds what is examined may not make the waits long for good.
            quorum.examined_ms = now.since(since).min(longest);
        }
        self.examine();
    }

    // ---- votes ------------------------------------------------------------------------------------------------------

    pub(crate) fn on_ballot(&mut self, message: &Verified<Message>, round: Round) {
        if self.is_current(message.signer(), round, message.value().kind()) {
            self.hear_vote(message);
        }
    }

    fn hear_vote(&mut self, message: &Verified<Message>) {
        let (from, own, kind) = (message.signer(), self.succession.term, message.value().kind());
        let Some((term, stage, body)) = vote_in(message.value()) else {
            return;
        };
        if !self.roster().is_voter(&from) {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, self.round(), kind));
        }
        let Some(quorum) = self.work.quorum.as_mut() else {
            return;
        };
        let latest = quorum.latest.entry(from).or_default();
        *latest = (*latest).max(term);
        if term > quorum.reach(own) {
            return;
        }
        match quorum.votes.get(&(term, stage, from)) {
            Some((said, _)) if *said == body => {}
            Some((_, signed)) => {
                let signed = signed.clone();
                if self.reputation.is_banned(&from) {
                    return;
                }
                self.contradicts(from, kind, &signed, message.signed());
            }
            None => self.ballot(BallotInput::Voted(message.signed().clone()), Vec::new()),
        }
    }

    /// Two statements of one voter that exclude each other: the pair proves it to everyone.
    fn contradicts(&mut self, from: PeerId, kind: &str, first: &Signed<Message>, second: &Signed<Message>) {
        let statements = vec![hex::encode(first.to_bytes()), hex::encode(second.to_bytes())];
        let plain = Evidence::plain(from, Reject::Equivocation, self.round(), kind);
        self.charge(Evidence { statements, ..plain });
    }

    fn settle_by_quorum(&mut self, term: Term, id: BodyId) {
        let quorum = self.quorum();
        let votes = quorum.votes_for(term, VoteType::Precommit, id);
        let votes: Vec<(PeerId, SignatureBytes)> = votes
            .into_iter()
            .map(|vote| (vote.signer(), vote.signature()))
            .collect();
        let Message::Proposal(proposal) = quorum.bodies[&id].value() else {
            panic!("a body was kept without its proposal")
        };
        let body = proposal.body.clone();
        let proposed_by_me = self.coordinator_of(term) == self.me;
        let leaves = body.left.contains(&self.me);
        let settlement = Arc::new(Settlement::new(body, term, votes));
        let held = self.succession.computed == Some(settlement.body.state);
        // The others count the same votes; who cannot, or has none, hears it from the proposer, or asks at a heartbeat. Who
        // leaves with it answers no heartbeat later, and may be the only one who has all votes.
        match proposed_by_me || leaves {
            true => self.adopt_and_tell(settlement, held),
            false => self.adopt(settlement, held),
        }
        self.begin_round();
    }

    // ---- time -------------------------------------------------------------------------------------------------------

    /// How long a term waits for what may be on its way.
    fn patience_ms(&self) -> u64 {
        self.info.terms.lost_after_ms * (1 + u64::from(self.succession.term.min(PATIENCE_GROWS)))
    }

    fn await_ballots(&mut self, timeout: Timeout) {
        let wait = match timeout.kind {
            TimeoutKind::Propose => BallotWait::Proposal,
            TimeoutKind::Prevote => BallotWait::Prevotes,
            TimeoutKind::Precommit => BallotWait::Votes,
            TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return,
        };
        // Others may need as long as this member did to compute a proposal again, or twice that.
        let examined = self.quorum().examined_ms;
        let until = self.now.after_ms(self.patience_ms() + 2 * examined);
        self.quorum().waits.insert((term_of(timeout.round), wait), until);
    }

    /// When this member gives the term's proposal up: a silent proposer soon, one that is heard after the time that
    /// collecting may take, an examination after as long.
    fn proposal_deadline(&self, quorum: &Quorum) -> Option<Time> {
        let proposer = self.coordinator();
        if self.reputation.is_banned(&proposer) {
            return Some(quorum.entered);
        }
        let terms = &self.info.terms;
        let grows = 1 + u64::from(self.succession.term.min(PATIENCE_GROWS));
        let work_ms = (terms.deadline.cap_ms + 4 * terms.lost_after_ms) * grows;
        if let Some(since) = quorum.examining {
            return Some(since.after_ms(work_ms));
        }
        // Who does not train, or cannot yet, waits from the beginning.
        let trains = self.roster().has(&self.me, Role::Trainer) && self.base.is_some_and(|base| base.held);
        let idle_since = (!trains).then_some(quorum.entered);
        let stuck = self
            .succession
            .claimed_at
            .or(idle_since)
            .map(|from| from.after_ms(work_ms));
        let silent = (proposer != self.me).then(|| self.succession.heard.after_ms(self.patience_ms()));
        [stuck, silent].into_iter().flatten().min()
    }

    fn deadline_of(&self, quorum: &Quorum, (term, wait): (Term, BallotWait), until: Time) -> Option<Time> {
        match wait {
            BallotWait::Proposal if term == self.succession.term => self.proposal_deadline(quorum),
            _ => Some(until),
        }
    }

    /// When the next wait ends.
    pub(crate) fn ballot_deadline(&self) -> Option<Time> {
        let quorum = self.work.quorum.as_ref()?;
        let ends = quorum
            .waits
            .iter()
            .map(|(wait, until)| self.deadline_of(quorum, *wait, *until));
        ends.flatten().min()
    }

    /// Ends the waits that are over.
    pub(crate) fn watch_ballots(&mut self) {
        loop {
            let Some(quorum) = self.work.quorum.as_ref() else {
                return;
            };
            let over = quorum.waits.iter().find(|(wait, until)| {
                let end = self.deadline_of(quorum, **wait, **until);
                end.is_some_and(|end| self.now >= end)
            });
            let Some((term, wait)) = over.map(|(wait, _)| *wait) else {
                return;
            };
            self.quorum().waits.remove(&(term, wait));
            self.ballot(BallotInput::TimedOut(term, wait), Vec::new());
        }
    }

    /// As a proposer that cannot combine the updates: the term may end.
    pub(crate) fn pass_the_turn(&mut self) {
        let term = self.succession.term;
        self.work.lead = None;
        self.quorum().waits.remove(&(term, BallotWait::Proposal));
        self.ballot(BallotInput::TimedOut(term, BallotWait::Proposal), Vec::new());
    }

    // ---- saying it again --------------------------------------------------------------------------------------------

    pub(crate) fn on_heartbeat_by_quorum(&mut self, from: PeerId, beat: &Heartbeat) {
        if from == self.coordinator() && beat.round == self.round() && beat.term >= self.succession.term {
            self.succession.heard = self.now;
        }
        if beat.round > self.round() {
            // Who is behind hears of it by this member's heartbeats, and asks one member.
            return self.ask_for_settlements(from);
        }
        let (me, own, now, beat_ms) = (self.me, self.succession.term, self.now, self.info.terms.heartbeat_ms);
        if beat.round != self.round() || beat.term >= own || !self.roster().is_voter(&from) {
            return;
        }
        let Some(quorum) = &mut self.work.quorum else { return };
        let behind = quorum.behind.get(&from);
        // Heartbeats may come close together; more of them ask for no more votes.
        if behind.is_some_and(|behind| now.since(behind.at) < beat_ms / 2) {
            return;
        }
        let sent = behind
            .filter(|behind| behind.term == beat.term)
            .map(|behind| behind.sent);
        // This member's own votes are what it mostly lacks. If not, it lacks what others said to this member alone: then it
        // gets all that led on from its term, and all of this one, so many at a time, and again from the first when it had all.
        let mut missed = quorum.votes_of(me, beat.term, own);
        if sent.is_some() {
            let others = quorum.votes_in(&[beat.term, own]).into_iter();
            missed.extend(others.filter(|vote| vote.signer() != me));
        }
        let sent = sent.unwrap_or(0);
        let (from_here, some) = (sent % missed.len().max(1), missed.len().min(limits::VOTES_AGAIN));
        let (term, at) = (beat.term, now);
        quorum.behind.insert(
            from,
            Behind {
                term,
                at,
                sent: sent + some,
            },
        );
        let next = missed.into_iter().cycle().skip(from_here).take(some);
        next.for_each(|vote| self.send_signed(from, vote));
    }

    /// Says again what may have been lost; once a heartbeat.
    pub(crate) fn repeat_by_quorum(&mut self) {
        if self.roster().get(&self.me).is_none() && !self.leaving {
            self.knock();
        }
        if self.leaving {
            let leave = self.sign(&Message::Leave { round: self.round() });
            self.broadcast(leave);
        }
        if self.is_finished() {
            return;
        }
        let (me, term, now) = (self.me, self.succession.term, self.now);
        if !self.work.seen.contains_key(&term) {
            self.train();
        }
        let wait = 2 * self.info.terms.heartbeat_ms;
        let Some(quorum) = self.work.quorum.as_mut() else {
            return;
        };
        let own = quorum.votes_of(me, term, term.saturating_add(1));
        let proposal = self.work.seen.get(&term).filter(|(_, signed)| signed.signer() == me);
        let mut again = Vec::new();
        if let Some((_, signed)) = proposal.filter(|_| now.since(quorum.repeated) >= wait) {
            quorum.repeated = now;
            let silent = |voter: &&PeerId| !quorum.has_voted(**voter, term, VoteType::Prevote);
            let voters = quorum.voters.iter().filter(silent);
            again.extend(voters.map(|voter| (*voter, signed.clone())));
        }
        own.into_iter().for_each(|vote| self.broadcast(vote));
        again.into_iter().for_each(|(to, signed)| self.send_signed(to, signed));
        self.resume_checking();
    }
}
