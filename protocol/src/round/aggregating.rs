//! Phase three: the coordinator combines the updates; in sessions that recompute, every voter does the same
//! from the same updates and compares digests. How they are combined is the worker's business.

use std::collections::BTreeMap;

use crate::event::Event;
use crate::identity::{BlobId, BodyId, PeerId};
use crate::machine::{Job, Machine};
use crate::message::{Message, Proposal, Term};
use crate::reject::{Evidence, Reject};
use crate::round::ahead::Found;
use crate::round::exchanging::Stage;
use crate::session::Verification;
use crate::signed::{Signed, Verified};
use crate::sum::SumTask;
use crate::task::{MemberVerdict, Outcome, Task, TaskFailure, UpdateRef};

/// A proposal under examination.
#[derive(Debug)]
pub(crate) struct Check {
    pub term: Term,
    pub id: BodyId,
    pub message: Verified<Message>,
    /// Blobs that are not here yet: their lengths, and who should have them.
    missing: BTreeMap<BlobId, (u64, Vec<PeerId>)>,
    /// A fetch or computation failed; it is tried again with the next heartbeat.
    stalled: bool,
}

impl Check {
    pub(crate) fn proposal(&self) -> &Proposal {
        match self.message.value() {
            Message::Proposal(proposal) => proposal,
            other => panic!("a {} was stored as a proposal", other.kind()),
        }
    }
}

impl Machine {
    // ---- the coordinator --------------------------------------------------------------------------------------------

    pub(crate) fn on_aggregated(&mut self, state: BlobId, bytes: u64, verdicts: Vec<MemberVerdict>) {
        let round = self.round();
        let Some(lead) = &mut self.work.lead else { return };
        let Stage::Aggregating(set) = std::mem::replace(&mut lead.stage, Stage::Collecting) else {
            return;
        };
        let mut undecodable = Vec::new();
        for verdict in verdicts
            .iter()
            .filter(|verdict| verdict.outcome == Outcome::Undecodable)
        {
            undecodable.push(verdict.peer);
        }
        for peer in &undecodable {
            self.charge(Evidence::plain(*peer, Reject::Undecodable, round, "blob"));
        }
        if bytes > self.info.terms.max_state_bytes {
            let reason = format!("the state of {bytes} bytes is over the session's max_state_bytes");
            return self.event(Event::TaskFailed { round, reason });
        }
        self.propose(&set, state, bytes, &verdicts);
    }

    pub(crate) fn on_aggregation_failed(&mut self, failure: &TaskFailure) {
        let (now, wait) = (self.now, self.info.terms.lost_after_ms);
        let Some(lead) = &mut self.work.lead else { return };
        if !lead.is_aggregating() {
            return;
        }
        lead.stage = Stage::Collecting;
        if self.info.sums.is_some() && matches!(failure, TaskFailure::Unusable(_)) {
            // Some member spoilt the sum, and nobody can tell which.
            return self.restart_sum();
        }
        let Some(lead) = &mut self.work.lead else { return };
        match failure {
            // Too few decodable updates for the rule: collecting goes on, and those of others may come.
            TaskFailure::Unusable(_) => lead.not_before = now.after_ms(wait),
            // This node cannot lead: the next in line should.
            TaskFailure::Environment(_) => self.step_down(),
        }
    }

    // ---- the voter --------------------------------------------------------------------------------------------------

    /// Begins to examine a proposal that passed the checks that need no computation.
    pub(crate) fn begin_check(&mut self, message: &Verified<Message>, term: Term, id: BodyId) {
        let Message::Proposal(proposal) = message.value() else {
            return;
        };
        if self.work.check.as_ref().is_some_and(|check| check.term == term) {
            return;
        }
        let body = &proposal.body;
        // Founding needs nothing: each member has made the initial state itself. A digest needs the state, so that a
        // majority holds what a majority voted for; recomputing needs the updates.
        let missing = match (body.round, self.info.terms.verification) {
            (0, _) => BTreeMap::new(),
            (_, Verification::Digest) => {
                // Those who voted for it in an earlier term hold it too.
                let mut holders = vec![body.proposer];
                holders.extend(locked_on(proposal, &id));
                BTreeMap::from([(body.state, (body.state_bytes, holders))])
            }
            (_, Verification::Recompute) => {
                self.drop_jobs(|job| matches!(job, Job::Train | Job::Check));
                let updates = body.used.iter().map(|used| &used.update);
                match self.shards() {
                    Some(_) => self.blobs_of_shards(proposal),
                    None => updates
                        .filter(|update| !self.work.ahead.has(&update.payload))
                        .map(|update| (update.payload, (update.bytes, vec![update.peer])))
                        .collect(),
                }
            }
        };
        // What is under way goes on where it stopped, and may now come from the proposer as well.
        self.drop_jobs(|job| matches!(job, Job::CheckPayload(_)));
        self.end_duty();
        self.work.check = Some(Check {
            term,
            id,
            message: message.clone(),
            missing,
            stalled: false,
        });
        self.go_on_checking();
    }

    /// Brings in what is missing; with all of it here, comes to a judgement.
    pub(crate) fn go_on_checking(&mut self) {
        let Some(check) = &self.work.check else { return };
        let body = &check.proposal().body;
        if body.round > 0 && body.used.is_empty() {
            // It is about the roster alone, and the state is the base that all have agreed on.
            let (state, term, id, message) = (body.state, check.term, check.id, check.message.clone());
            self.work.check = None;
            self.succession.computed = self.base.filter(|base| base.held).map(|_| state);
            return self.vote(&message, term, id);
        }
        if !check.missing.is_empty() {
            return self.fetch_for_check();
        }
        match (body.round, self.info.terms.verification) {
            (0, _) => self.compare_initial_states(),
            (_, Verification::Recompute) => self.recompute(),
            (_, Verification::Digest) => {
                let (state, term, id, message) = (body.state, check.term, check.id, check.message.clone());
                self.work.check = None;
                self.succession.computed = Some(state);
                self.vote(&message, term, id);
            }
        }
    }

    fn fetch_for_check(&mut self) {
        let Some(check) = &self.work.check else { return };
        let proposer = check.message.signer();
        let wanted = check.missing.clone();
        for (blob, (bytes, mut holders)) in wanted {
            let job = Job::CheckPayload(blob);
            if !self.has_job(&job) {
                holders.push(proposer);
                self.fetch(job, blob, bytes, holders);
            }
        }
    }

    pub(crate) fn on_check_payload(&mut self, blob: BlobId, here: bool) {
        let Some(check) = &mut self.work.check else {
            return if here {
                self.on_payload_ahead(blob)
            };
        };
        if !here {
            check.stalled = true;
            return;
        }
        check.missing.remove(&blob);
        if check.missing.is_empty() {
            self.go_on_checking();
        }
    }

    fn recompute(&mut self) {
        let Some(check) = &mut self.work.check else { return };
        let Some(base) = self.base.filter(|base| base.held) else {
            // Goes on when the base is here.
            check.stalled = true;
            return;
        };
        if self.has_job(&Job::Check) {
            return;
        }
        let Some(check) = &self.work.check else { return };
        let used = check.proposal().body.used.iter();
        let updates: Vec<UpdateRef> = used.map(|used| used.update.clone()).collect();
        let (round, base) = (self.round(), base.state);
        match self.find_ahead(&updates) {
            Found::Ready(done) => return self.on_checked(done.state, done.bytes, &done.verdicts),
            Found::Underway => return,
            Found::Nothing => {}
        }
        let Some(check) = &self.work.check else { return };
        let task = match (self.open_sum(check.proposal()), self.shards()) {
            (Some(open), _) => Task::Sum(Box::new(SumTask::Settle { base, updates, open })),
            (None, Some(_)) => self.settle_shards(base, check.proposal()),
            (None, None) => Task::Aggregate { round, base, updates },
        };
        self.compute(Job::Check, task);
    }

    pub(crate) fn on_checked(&mut self, state: BlobId, bytes: u64, verdicts: &[MemberVerdict]) {
        let Some(check) = self.work.check.take() else { return };
        let body = &check.proposal().body;
        let agreed = body.used.iter().map(|used| &used.verdict).eq(verdicts);
        if (body.state, body.state_bytes) == (state, bytes) && agreed {
            self.succession.computed = Some(state);
            return self.vote(&check.message, check.term, check.id);
        }
        self.find_wrong(&check);
    }

    /// The arithmetic of a proposal does not hold.
    fn find_wrong(&mut self, check: &Check) {
        let (proposer, id) = (check.message.signer(), check.id);
        let repeated = !check.proposal().justification.is_empty();
        // By quorum, a body that more than two thirds found right is said again by whoever's turn it is.
        if !(self.is_by_quorum() && repeated) {
            let statements = vec![hex::encode(check.message.signed().to_bytes())];
            let plain = Evidence::plain(proposer, Reject::WrongState, self.round(), "proposal");
            self.charge(Evidence { statements, ..plain });
        }
        if self.is_by_quorum() {
            self.judge(id, false);
        }
    }

    pub(crate) fn on_check_failed(&mut self, failure: &TaskFailure) {
        let Some(check) = &mut self.work.check else { return };
        check.stalled = true;
        // Updates that allow no state allow it nowhere: by quorum that is a judgement, and another try gives the same.
        if self.is_by_quorum()
            && matches!(failure, TaskFailure::Unusable(_))
            && let Some(check) = self.work.check.take()
        {
            self.find_wrong(&check);
        }
    }

    /// Goes on with a check that waited: for the initial state, for the base, or for another try.
    pub(crate) fn resume_checking(&mut self) {
        let Some(check) = &mut self.work.check else { return };
        let founding = check.proposal().body.round == 0;
        if std::mem::take(&mut check.stalled) || founding {
            self.go_on_checking();
        }
    }

    fn compare_initial_states(&mut self) {
        let Some(base) = self.base else { return };
        let Some(check) = self.work.check.take() else { return };
        if check.proposal().body.state == base.state {
            self.vote(&check.message, check.term, check.id);
        } else {
            self.charge(Evidence::plain(
                check.message.signer(),
                Reject::WrongState,
                0,
                "proposal",
            ));
        }
    }
}

/// The members that said in the promises behind a proposal that they voted for its body.
fn locked_on(proposal: &Proposal, id: &BodyId) -> Vec<PeerId> {
    let voted = |signed: &Signed<Message>| match signed.verify().ok()?.value() {
        Message::TermChange(change) => change.locked.filter(|(_, body)| body == id).map(|_| signed.signer()),
        _ => None,
    };
    proposal.justification.iter().filter_map(voted).collect()
}
