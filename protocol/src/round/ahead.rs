//! Ahead of the proposal: in sessions that recompute, each voter hears the claims that the coordinator hears, fetches their
//! payloads while others still train, and combines them once nobody is waited for. Nothing is decided here: who examines a
//! proposal takes what is ready, and begins anew where the coordinator chose other updates.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{BlobId, PeerId};
use crate::machine::{Job, Machine};
use crate::message::Message;
use crate::session::{Role, Verification};
use crate::signed::{Signed, Verified};
use crate::task::{MemberVerdict, Task, UpdateRef};

/// What a voter has done of a round before there was a proposal.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// The first claim that was heard of each trainer.
    claims: BTreeMap<PeerId, Verified<Message>>,
    /// Payloads of claims that are in this node's store.
    here: BTreeSet<BlobId>,
    /// The updates that are being combined, or were.
    updates: Vec<UpdateRef>,
    /// What came of them.
    combined: Option<Combined>,
}

/// What the worker made of a set of updates.
#[derive(Debug, Clone)]
pub(crate) struct Combined {
    pub state: BlobId,
    pub bytes: u64,
    pub verdicts: Vec<MemberVerdict>,
}

/// What the examination of a proposal finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// These updates were combined already.
    Ready(Combined),
    /// The worker is about it.
    Underway,
    /// Nothing.
    Nothing,
}

impl Ahead {
    /// Whether a payload was fetched.
    pub(crate) fn has(&self, payload: &BlobId) -> bool {
        self.here.contains(payload)
    }

    /// Whether this is the state that came of what was combined.
    pub(crate) fn made(&self, state: BlobId) -> bool {
        self.combined.as_ref().is_some_and(|combined| combined.state == state)
    }

    fn update_of(&self, peer: &PeerId) -> Option<UpdateRef> {
        let (claim, _) = self.claims.get(peer)?.value().claim()?;
        self.has(&claim.payload).then(|| claim.to_ref(*peer))
    }
}

impl Machine {
    /// Whether voters need every update of a round.
    fn examines_updates(&self) -> bool {
        let whole = !self.sums() && !self.is_mixing() && self.shards().is_none();
        whole && self.info.terms.verification == Verification::Recompute
    }

    /// Tells the voters, besides the coordinator, what will be proposed. Said once: who misses it waits for the proposal.
    pub(crate) fn tell_voters(&mut self, claim: &Signed<Message>) {
        if !self.examines_updates() {
            return;
        }
        let coordinator = self.coordinator();
        let others: Vec<PeerId> = self.roster().voters().filter(|peer| *peer != coordinator).collect();
        for voter in others {
            self.send_signed(voter, claim.clone());
        }
    }

    /// As a voter that does not lead: takes note of a claim, and fetches its payload.
    pub(crate) fn look_ahead(&mut self, message: &Verified<Message>) {
        let Some((claim, _)) = message.value().claim() else {
            return;
        };
        if !self.examines_updates() || !self.roster().is_voter(&self.me) || self.work.check.is_some() {
            return;
        }
        let (owner, payload, bytes) = (message.signer(), claim.payload, claim.bytes);
        let known = self.work.ahead.claims.entry(owner).or_insert_with(|| message.clone());
        // Of two claims the proposal names one; whoever leads has both, and charges.
        let same = known.signed() == message.signed();
        let job = Job::CheckPayload(payload);
        if same && !self.work.ahead.has(&payload) && !self.has_job(&job) {
            self.fetch(job, payload, bytes, vec![owner]);
        }
    }

    /// As the coordinator of a later term: takes the claims that came while another one led.
    pub(crate) fn take_claims_from_before(&mut self) {
        let claims: Vec<_> = self.work.ahead.claims.values().cloned().collect();
        claims.iter().for_each(|claim| self.take_claim(claim));
    }

    /// A payload came in: combines, if nobody is waited for.
    pub(crate) fn on_payload_ahead(&mut self, payload: BlobId) {
        self.work.ahead.here.insert(payload);
        self.combine_ahead();
    }

    /// Combines what is here, once every trainer's update is, or is not to be expected.
    fn combine_ahead(&mut self) {
        let Some(base) = self.base.filter(|base| base.held) else {
            return;
        };
        if self.work.lead.is_some()
            || self.work.check.is_some()
            || self.work.vote.is_some()
            || self.has_job(&Job::Train)
        {
            return;
        }
        let ahead = &self.work.ahead;
        let trainers: Vec<PeerId> = self.roster().with(Role::Trainer).collect();
        let may_be_used = trainers.iter().filter(|peer| !self.reputation.is_banned(peer));
        let updates: Vec<UpdateRef> = may_be_used.filter_map(|peer| ahead.update_of(peer)).collect();
        let missing = trainers
            .iter()
            .any(|peer| ahead.update_of(peer).is_none() && self.may_send_update(peer));
        if missing || updates.len() < self.info.terms.updates_needed(trainers.len()) || updates == ahead.updates {
            return;
        }
        self.drop_jobs(|job| matches!(job, Job::Ahead));
        self.work.ahead.updates.clone_from(&updates);
        self.work.ahead.combined = None;
        let (round, base) = (self.round(), base.state);
        self.compute(Job::Ahead, Task::Aggregate { round, base, updates });
    }

    pub(crate) fn on_combined_ahead(&mut self, combined: Option<Combined>) {
        if combined.is_none() {
            self.work.ahead.updates.clear();
        }
        self.work.ahead.combined = combined;
        self.go_on_checking();
    }

    /// What is ready of a proposal's updates. Work on other ones is given up.
    pub(crate) fn find_ahead(&mut self, updates: &[UpdateRef]) -> Found {
        if self.work.ahead.updates != updates {
            self.drop_jobs(|job| matches!(job, Job::Ahead));
            return Found::Nothing;
        }
        match &self.work.ahead.combined {
            Some(combined) => Found::Ready(combined.clone()),
            None if self.has_job(&Job::Ahead) => Found::Underway,
            None => Found::Nothing,
        }
    }
}
