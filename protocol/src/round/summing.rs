//! A member's part in a secure sum: keys, sealed shares, a masked update, and one answer to one request to unmask.
//! The worker does the cryptography; here is decided what is said, to whom, and what is never said twice.
//!
//! A sum belongs to one term of one round. When its coordinator is lost the next term begins another one under fresh keys,
//! of which a member that restarted knows none: it has dropped out of the sum that it was in. Two sums of the same updates
//! would tell their difference: a member answers once a round, so that of the sums of a round one is opened at most, and a
//! round in which somebody has answered in vain settles without updates.

use crate::event::Event;
use crate::identity::{BlobId, PeerId};
use crate::journal::JournalEntry;
use crate::machine::{Job, Machine};
use crate::message::{Message, Proposal, Term, UpdateClaim};
use crate::reject::{Evidence, Reject};
use crate::session::Role;
use crate::signed::{Signed, Verified};
use crate::sum::{
    LEAST_IN_A_SUM, OpenSum, Sealed, SumRequest, SumResult, SumScope, SumStatement, SumTask, SumTerms, SumWord,
};
use crate::task::{Task, TaskFailure, TaskResult, TrainReport};

/// The step of a secure sum that a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SumStep {
    Keys,
    Share,
    Mask,
    Answer,
    Open,
}

/// This member's own part of the round's secure sum.
#[derive(Debug, Default)]
pub(crate) struct Summing {
    /// The worker holds this round's update, in the clear.
    pub ready: bool,
    keys: Option<Signed<Message>>,
    /// Those whose keys came with the roster of the sum, this member among them.
    roster: Vec<PeerId>,
    shares: Option<Signed<Message>>,
    /// Those whom this member masked with, itself among them.
    masked_with: Vec<PeerId>,
    asked: Option<SumRequest>,
    reply: Option<Signed<Message>>,
    /// The term whose request this member answered, or was about to: one a round. Durable before an answer leaves.
    pub answered: Option<Term>,
}

impl Summing {
    /// Forgets the sum of a term that is over; what was answered in it is remembered as long as the round lasts.
    pub(crate) fn begin_term(&mut self) {
        *self = Self {
            ready: self.ready,
            answered: self.answered,
            ..Self::default()
        };
    }

    pub(crate) fn snapshot(&self, round: u64) -> impl Iterator<Item = JournalEntry> {
        self.answered
            .into_iter()
            .map(move |term| JournalEntry::Unmasked { round, term })
    }
}

impl Machine {
    /// Whether updates of this session are summed securely.
    pub(crate) fn sums(&self) -> bool {
        self.info.sums.is_some()
    }

    /// The secure sum of a term of the current round.
    pub(crate) fn sum_scope(&self, term: Term) -> SumScope {
        let members: Vec<PeerId> = self.roster().with(Role::Trainer).collect();
        // Known to whoever has an update to sum, or a sum to check.
        let base = self.base.map_or(BlobId([0; 32]), |base| base.state);
        SumScope::new(
            &self.info.session,
            (self.round(), term),
            &base,
            members,
            &self.sum_terms(),
        )
    }

    pub(crate) fn sum_terms(&self) -> SumTerms {
        self.info.sums.unwrap_or_default()
    }

    /// Whether the groups of these survivors are as many as the session's rule needs.
    pub(crate) fn enough_groups(&self, scope: &SumScope, survivors: &[PeerId]) -> bool {
        let needed = self.sum_terms().groups.map_or(1, |groups| groups.rule_needs as usize);
        scope.groups_of(survivors) >= needed
    }

    pub(crate) fn sum_threshold(&self) -> usize {
        let trainers = self.roster().with(Role::Trainer).count();
        self.info.sums.map_or(0, |sums| sums.needed(trainers))
    }

    pub(crate) fn sum_word(&self, word: SumWord) -> Signed<Message> {
        self.sign(&Message::Sum(Box::new(SumStatement {
            round: self.round(),
            term: self.succession.term,
            word,
        })))
    }

    pub(crate) fn compute_sum(&mut self, step: SumStep, task: SumTask) {
        self.compute(Job::Sum(step), Task::Sum(Box::new(task)));
    }

    pub(crate) fn on_sum_trained(&mut self) {
        self.work.summing.ready = true;
        self.take_part();
    }

    /// Says to the coordinator what this member said last in the sum, or begins with its keys. Calling it again does no
    /// harm.
    pub(crate) fn take_part(&mut self) {
        let said = [
            self.work.summing.reply.as_ref(),
            self.work.training.claim.as_ref(),
            self.work.summing.shares.as_ref(),
            self.work.summing.keys.as_ref(),
        ];
        let last = said.into_iter().flatten().next().cloned();
        if let Some(last) = last {
            return self.say_to_coordinator(last);
        }
        let term = self.succession.term;
        if self.work.summing.answered.is_some_and(|answered| answered != term) {
            let spent = self.sum_word(SumWord::Spent);
            return self.say_to_coordinator(spent);
        }
        if self.work.summing.ready && !self.has_job(&Job::Sum(SumStep::Keys)) {
            let scope = self.sum_scope(term);
            self.compute_sum(SumStep::Keys, SumTask::Keys(scope));
        }
    }

    fn say_to_coordinator(&mut self, said: Signed<Message>) {
        let coordinator = self.coordinator();
        if coordinator != self.me {
            return self.send_signed(coordinator, said);
        }
        let own = said.verify().expect("own statements verify");
        if let Message::Sum(statement) = own.value() {
            self.gather(&own, statement);
        }
    }

    // ---- messages ---------------------------------------------------------------------------------------------------

    pub(crate) fn on_sum(&mut self, message: &Verified<Message>, statement: &SumStatement) {
        let (from, term, kind) = (message.signer(), statement.term, statement.kind());
        if !self.is_current(from, statement.round, kind) {
            return;
        }
        let of_member = matches!(
            statement.word,
            SumWord::Keys(_) | SumWord::Shares(_) | SumWord::Masked(_) | SumWord::Reply(_) | SumWord::Spent
        );
        let entitled = if of_member {
            self.roster().has(&from, Role::Trainer)
        } else {
            from == self.coordinator_of(term)
        };
        if !entitled || !self.sums() {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, self.round(), kind));
        }
        if term != self.succession.term {
            return;
        }
        if of_member {
            self.gather(message, statement);
        } else {
            self.obey(from, &statement.word);
        }
    }

    /// Takes a coordinator's word; this member's own, too, when it leads.
    pub(crate) fn obey(&mut self, coordinator: PeerId, word: &SumWord) {
        match word {
            SumWord::Roster(list) => self.on_sum_roster(coordinator, list),
            SumWord::Delivery(list) => self.on_sum_delivery(coordinator, list),
            SumWord::Request(request) => self.on_sum_request(coordinator, request),
            SumWord::Keys(_)
            | SumWord::Shares(_)
            | SumWord::Masked(_)
            | SumWord::Reply(_)
            | SumWord::Spent
            | SumWord::Share(_) => {}
        }
    }

    /// What a statement of this round and term says, if one of its trainers signed it: who, and the word.
    fn word_of(&self, signed: &Signed<Message>, term: Term) -> Option<(PeerId, SumWord)> {
        let verified = signed.verify().ok()?;
        let Message::Sum(statement) = verified.value() else {
            return None;
        };
        let of_sum = (statement.round, statement.term) == (self.round(), term);
        let ours = signed.session() == self.info.session && self.roster().has(&signed.signer(), Role::Trainer);
        (of_sum && ours && statement.within_limits()).then(|| (signed.signer(), statement.word.clone()))
    }

    /// The keys that signed statements of this round and term hold, by member; None unless all are of trainers, in order.
    pub(crate) fn keys_of(&self, list: &[Signed<Message>], term: Term) -> Option<Vec<Sealed>> {
        let one = |signed: &Signed<Message>| match self.word_of(signed, term)? {
            (from, SumWord::Keys(bytes)) => Some((from, bytes)),
            _ => None,
        };
        let keys: Vec<Sealed> = list.iter().map(one).collect::<Option<_>>()?;
        keys.is_sorted_by(|a, b| a.0 < b.0).then_some(keys)
    }

    /// The shares that signed statements of this round and term hold, by dealer; None unless all are of trainers.
    pub(crate) fn shares_of(&self, list: &[Signed<Message>], term: Term) -> Option<Vec<(PeerId, Sealed)>> {
        let one = |signed: &Signed<Message>| match self.word_of(signed, term)? {
            (from, SumWord::Share(sealed)) => Some((from, sealed)),
            _ => None,
        };
        list.iter().map(one).collect()
    }

    fn on_sum_roster(&mut self, coordinator: PeerId, list: &[Signed<Message>]) {
        let Some(own) = &self.work.summing.keys else { return };
        if !self.work.summing.roster.is_empty() || self.work.training.claim.is_some() {
            return;
        }
        // Whose keys came too late (or were replaced after a restart) has no part in this sum.
        if !list.contains(own) {
            return;
        }
        let term = self.succession.term;
        let keys = self
            .keys_of(list, term)
            .filter(|keys| keys.len() >= self.sum_threshold());
        let Some(keys) = keys else {
            let round = self.round();
            return self.charge(Evidence::plain(coordinator, Reject::BadProposal, round, "sum_roster"));
        };
        self.work.summing.roster = keys.iter().map(|(peer, _)| *peer).collect();
        let scope = self.sum_scope(term);
        self.compute_sum(SumStep::Share, SumTask::Share { scope, keys });
    }

    fn on_sum_delivery(&mut self, coordinator: PeerId, list: &[Signed<Message>]) {
        let (me, summing) = (self.me, &self.work.summing);
        let begun = self.work.training.claim.is_some() || !summing.masked_with.is_empty();
        if summing.shares.is_none() || begun {
            return;
        }
        let ours = |dealt: &[(PeerId, Sealed)]| {
            let known = |(from, (to, _)): &(PeerId, Sealed)| *to == me && *from != me && summing.roster.contains(from);
            dealt.is_sorted_by(|a, b| a.0 < b.0) && dealt.iter().all(known)
        };
        // Dealers sign their shares: what was bent on the way is the coordinator's doing.
        let dealt = self.shares_of(list, self.succession.term).filter(|dealt| ours(dealt));
        let Some(dealt) = dealt else {
            let round = self.round();
            return self.charge(Evidence::plain(coordinator, Reject::BadProposal, round, "sum_delivery"));
        };
        if dealt.len() + 1 < self.sum_threshold().max(LEAST_IN_A_SUM) {
            return;
        }
        let sealed: Vec<Sealed> = dealt.into_iter().map(|(from, (_, bytes))| (from, bytes)).collect();
        let mut with: Vec<PeerId> = sealed.iter().map(|(peer, _)| *peer).chain([me]).collect();
        with.sort_unstable();
        self.work.summing.masked_with = with;
        let scope = self.sum_scope(self.succession.term);
        self.compute_sum(SumStep::Mask, SumTask::Mask { scope, sealed });
    }

    /// Answers one request a round, and none that would lay a single update open.
    fn on_sum_request(&mut self, coordinator: PeerId, request: &SumRequest) {
        let (round, term) = (self.round(), self.succession.term);
        let summing = &self.work.summing;
        if summing.masked_with.is_empty() || self.work.training.claim.is_none() {
            return;
        }
        if let Some(asked) = &summing.asked {
            if asked != request {
                self.charge(Evidence::plain(coordinator, Reject::SinglesOut, round, "sum_request"));
            }
            return;
        }
        // The first one counts, whether or not it can be answered: of a second, different one nothing good can come.
        self.work.summing.asked = Some(request.clone());
        let summing = &self.work.summing;
        let both = request.survivors.iter().any(|peer| request.dropped.contains(peer));
        let ordered = |list: &[PeerId]| list.is_sorted_by(|a, b| a < b);
        if both || !ordered(&request.survivors) || !ordered(&request.dropped) {
            return self.charge(Evidence::plain(coordinator, Reject::SinglesOut, round, "sum_request"));
        }
        let enough = request.survivors.len() >= self.sum_threshold().max(LEAST_IN_A_SUM);
        // Each group in full or not at all, and none with too few survivors to hide in.
        let openable = self
            .sum_scope(term)
            .openable(&summing.masked_with, &request.survivors, &self.sum_terms());
        if openable != *request || !request.survivors.contains(&self.me) || !enough {
            return;
        }
        if summing.answered.is_some() {
            return;
        }
        self.persist(JournalEntry::Unmasked { round, term });
        self.work.summing.answered = Some(term);
        let (scope, request) = (self.sum_scope(term), request.clone());
        self.compute_sum(SumStep::Answer, SumTask::Answer { scope, request });
    }

    // ---- the worker's answers ---------------------------------------------------------------------------------------

    pub(crate) fn on_sum_computed(&mut self, step: SumStep, result: TaskResult) {
        match (step, result) {
            (SumStep::Keys, TaskResult::Sum(SumResult::Keys(keys))) => {
                self.work.summing.keys = Some(self.sum_word(SumWord::Keys(keys)));
                self.succession.claimed_at = Some(self.now);
                self.take_part();
            }
            (SumStep::Share, TaskResult::Sum(SumResult::Shares(sealed))) => {
                let signed = sealed.into_iter().map(|share| self.sum_word(SumWord::Share(share)));
                let shares = SumWord::Shares(signed.collect());
                self.work.summing.shares = Some(self.sum_word(shares));
                self.take_part();
            }
            (SumStep::Mask, TaskResult::Trained { payload, bytes, report }) => self.on_masked(payload, bytes, report),
            (SumStep::Answer, TaskResult::Sum(SumResult::Answered(reply))) => {
                self.work.summing.reply = Some(self.sum_word(SumWord::Reply(reply)));
                self.take_part();
            }
            (SumStep::Open, TaskResult::Sum(SumResult::Opened { seeds, mask_keys })) => {
                self.on_opened(seeds, mask_keys);
            }
            (step, TaskResult::Sum(SumResult::Spoilt(owner))) => {
                let round = self.round();
                self.charge(Evidence::plain(owner, Reject::WrongShares, round, "sum_shares"));
                self.on_sum_failed(step, &TaskFailure::Unusable("shares of a member are wrong".to_owned()));
            }
            (step, other) => panic!("the driver answered {step:?} with {other:?}"),
        }
    }

    fn on_masked(&mut self, payload: BlobId, bytes: u64, report: TrainReport) {
        let round = self.round();
        let base = self.base.expect("training had a base").state;
        let claim = self.sum_word(SumWord::Masked(UpdateClaim {
            round,
            base,
            payload,
            bytes,
            report,
        }));
        self.persist(JournalEntry::Claimed {
            round,
            claim: claim.clone(),
        });
        self.event(Event::UpdateReady {
            round,
            payload,
            bytes,
            report,
        });
        self.work.training.claim = Some(claim);
        self.take_part();
    }

    pub(crate) fn on_sum_failed(&mut self, step: SumStep, failure: &TaskFailure) {
        match (step, failure) {
            (SumStep::Open, _) => self.restart_sum(),
            // This node can take part in no sum of the round: it says that it is idle.
            (SumStep::Keys | SumStep::Mask, TaskFailure::Environment(_)) => {
                self.work.summing.ready = false;
                self.on_training_failed();
            }
            // It has dropped out of this sum, and is back in the next.
            _ => {}
        }
    }

    // ---- the voter --------------------------------------------------------------------------------------------------

    /// What the worker needs to subtract the masks of a proposal's sum; None unless all that can be seen without computing
    /// holds.
    pub(crate) fn open_sum(&self, proposal: &Proposal) -> Option<OpenSum> {
        let opening = proposal.basis.opening()?;
        let keys = self.keys_of(&opening.keys, opening.term)?;
        let dealt: Vec<PeerId> = keys.iter().map(|(peer, _)| *peer).collect();
        let survivors: Vec<PeerId> = proposal.body.used.iter().map(|used| used.update.peer).collect();
        let scope = self.sum_scope(opening.term);
        let opened = scope.openable(&dealt, &survivors, &self.sum_terms());
        let counted = opening.seeds.len() == survivors.len() && opening.mask_keys.len() == opened.dropped.len();
        let enough = survivors.len() >= self.sum_threshold().max(LEAST_IN_A_SUM);
        let sound = counted && enough && opened.survivors == survivors && self.enough_groups(&scope, &survivors);
        sound.then_some(OpenSum {
            scope,
            keys,
            seeds: opening.seeds.clone(),
            mask_keys: opening.mask_keys.clone(),
        })
    }
}
