//! A member's part where the vector is in shards: to announce an update in parts, to combine the shards that fall to it, and
//! to check a proposal against the signed results of others. Whose updates are combined the coordinator selects.
//!
//! Nothing here is durable: a result follows from the selection, so a member that restarted says the same again.

use std::collections::{BTreeMap, BTreeSet};

use crate::contract::{FetchFailure, Time};
use crate::identity::{BlobId, PeerId};
use crate::machine::{Job, Machine};
use crate::message::{Basis, Message, Proposal, Term};
use crate::reject::{Evidence, Reject};
use crate::session::Role;
use crate::shard::{
    Assignment, Part, ShardAggregate, ShardDone, ShardResult, ShardSource, ShardStatement, ShardTask, is_cut_right,
    manifest, selection_id,
};
use crate::signed::{Signed, Verified};
use crate::task::{Outcome, Task, TrainReport, UpdateRef};

/// The updates that a round combines, each in parts.
#[derive(Debug)]
pub(crate) struct Selection {
    /// What results say that they are of.
    pub id: [u8; 32],
    updates: Vec<UpdateRef>,
    /// By update, then by shard.
    parts: Vec<Vec<Part>>,
}

impl Selection {
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.updates.iter().map(|update| update.peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    /// One part of each update, as the worker names it.
    pub(crate) fn parts_of(&self, shard: u32) -> Vec<UpdateRef> {
        let of = |(update, parts): (&UpdateRef, &Vec<Part>)| {
            let part = parts.get(shard as usize)?;
            Some(UpdateRef {
                payload: part.blob,
                bytes: part.bytes,
                ..update.clone()
            })
        };
        self.updates.iter().zip(&self.parts).filter_map(of).collect()
    }

    pub(crate) fn part(&self, shard: u32, peer: &PeerId) -> Option<Part> {
        let at = self.updates.iter().position(|update| update.peer == *peer)?;
        self.parts[at].get(shard as usize).copied()
    }
}

/// The shards of a term that this member combines.
#[derive(Debug)]
pub(crate) struct Duty {
    term: Term,
    /// As the coordinator signed it.
    message: Signed<Message>,
    selection: Selection,
    base: BlobId,
    /// When it was asked last.
    asked: Time,
    shards: BTreeMap<u32, Combining>,
}

/// How far a shard is.
#[derive(Debug, Default)]
struct Combining {
    /// Whose parts are not here.
    missing: BTreeSet<PeerId>,
    /// The worker could not combine it: the coordinator will see to it.
    failed: bool,
    result: Option<Signed<Message>>,
}

impl Duty {
    /// Whether something is left to do.
    pub(crate) fn is_open(&self) -> bool {
        self.shards
            .values()
            .any(|shard| shard.result.is_none() && !shard.failed)
    }
}

impl Machine {
    /// How many shards the vector of this session is in, where it is in any.
    pub(crate) fn shards(&self) -> Option<u32> {
        self.info.terms.shards()
    }

    /// Who combines which shard in a term of the current round.
    pub(crate) fn assignment(&self, term: Term) -> Assignment {
        let base = self.chain.last().map_or(BlobId([0; 32]), |last| last.body.state);
        let (session, place) = (&self.info.session, (self.round(), term));
        Assignment::new(session, place, &base, self.roster(), self.shards().unwrap_or(0))
    }

    pub(crate) fn on_shard(&mut self, message: &Verified<Message>, statement: &ShardStatement) {
        let (from, round, kind) = (message.signer(), statement.round(), statement.kind());
        if !self.is_current(from, round, kind) {
            return;
        }
        if self.shards().is_none() {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, round, kind));
        }
        match statement {
            ShardStatement::Update { claim, .. } if self.is_in_parts(message.value()) => {
                self.on_claim(message, claim, kind);
            }
            ShardStatement::Update { .. } => self.charge(Evidence::plain(from, Reject::Malformed, round, kind)),
            ShardStatement::Selection { term, claims, .. } => self.on_selection(message, *term, claims),
            ShardStatement::Result(result) => self.on_result(message, result),
            ShardStatement::Missing {
                term,
                selection,
                shard,
                peer,
                ..
            } => self.on_missing(from, (*term, *selection), *shard, *peer),
        }
    }

    pub(crate) fn on_shard_computed(&mut self, purpose: Job, done: ShardDone) {
        match (purpose, done) {
            (Job::Train, ShardDone::Trained { parts, report }) => self.on_trained_in_parts(parts, report),
            (Job::Combine(shard), ShardDone::Combined(combined)) => self.on_combined(shard, combined),
            (
                Job::Aggregate,
                ShardDone::Settled {
                    state,
                    bytes,
                    verdicts,
                    shards,
                },
            ) => self.on_shards_settled((state, bytes), verdicts, &shards),
            (
                Job::Check,
                ShardDone::Settled {
                    state,
                    bytes,
                    verdicts,
                    shards,
                },
            ) => {
                let said = self
                    .work
                    .check
                    .as_ref()
                    .map(|check| check.proposal().basis.results().to_vec());
                self.charge_wrong_results(&said.unwrap_or_default(), &shards);
                self.on_checked(state, bytes, &verdicts);
            }
            (purpose, done) => panic!("the driver answered {purpose:?} with {done:?}"),
        }
    }

    // ---- the trainer ------------------------------------------------------------------------------------------------

    fn on_trained_in_parts(&mut self, parts: Vec<Part>, report: TrainReport) {
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let claim = self.claim_of(BlobId::of(&manifest(&parts)), bytes, report);
        let statement = ShardStatement::Update {
            claim: claim.clone(),
            parts,
        };
        self.announce(&Message::Shard(Box::new(statement)), &claim);
    }

    /// Whether an announcement has the form that this session's have.
    pub(crate) fn is_in_parts(&self, message: &Message) -> bool {
        match (self.shards(), message) {
            (None, message) => !matches!(message, Message::Shard(_)),
            (Some(shards), Message::Shard(statement)) => match &**statement {
                ShardStatement::Update { claim, parts } => is_cut_right(claim, parts, shards),
                _ => false,
            },
            (Some(_), _) => false,
        }
    }

    // ---- the aggregator ---------------------------------------------------------------------------------------------

    /// What signed announcements select; None unless all are of the round, in parts, and in the order of trainers.
    pub(crate) fn selection_of(&self, claims: &[Signed<Message>]) -> Option<Selection> {
        let base = self.chain.last()?.body.state;
        let (mut updates, mut parts) = (Vec::new(), Vec::new());
        for signed in claims {
            let verified = signed.verify().ok()?;
            let Message::Shard(statement) = verified.value() else {
                return None;
            };
            let ShardStatement::Update { claim, parts: listed } = &**statement else {
                return None;
            };
            let peer = signed.signer();
            let sound = signed.session() == self.info.session
                && self.roster().has(&peer, Role::Trainer)
                && (claim.round, claim.base) == (self.round(), base)
                && claim.bytes <= self.info.terms.max_payload_bytes
                && self.is_in_parts(verified.value());
            if !sound {
                return None;
            }
            updates.push(claim.to_ref(peer));
            parts.push(listed.clone());
        }
        let sorted = updates.is_sorted_by(|a, b| a.peer < b.peer);
        let id = selection_id(&self.info.session, self.round(), &base, &updates);
        sorted.then_some(Selection { id, updates, parts })
    }

    pub(crate) fn on_selection(&mut self, message: &Verified<Message>, term: Term, claims: &[Signed<Message>]) {
        let (from, round) = (message.signer(), self.round());
        if from != self.coordinator_of(term) {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, round, "selection"));
        }
        let Some(base) = self.base.filter(|base| base.held) else {
            return;
        };
        // Once there is a proposal, nothing is left to combine for it.
        if term != self.succession.term || self.work.seen.contains_key(&term) {
            return;
        }
        if let Some(duty) = self.work.duty.as_mut().filter(|duty| duty.message == *message.signed()) {
            duty.asked = self.now;
            self.tell_results();
            return self.gather_parts();
        }
        let Some(selection) = self.selection_of(claims) else {
            return self.charge(Evidence::plain(from, Reject::BadProposal, round, "selection"));
        };
        let missing: BTreeSet<PeerId> = selection.peers().collect();
        let assignment = self.assignment(term);
        let mine = assignment.shards_of(&self.me).map(|shard| {
            let combining = Combining {
                missing: missing.clone(),
                ..Combining::default()
            };
            (shard, combining)
        });
        let shards: BTreeMap<u32, Combining> = mine.collect();
        if shards.is_empty() {
            return;
        }
        // An own update that is not ready by now comes too late for this term.
        self.drop_jobs(|job| matches!(job, Job::Train));
        self.end_duty();
        self.work.duty = Some(Duty {
            term,
            message: message.signed().clone(),
            selection,
            base: base.state,
            asked: self.now,
            shards,
        });
        self.gather_parts();
    }

    /// Whether this member still combines for a coordinator that asks for it.
    pub(crate) fn is_combining(&self) -> bool {
        let fresh = |duty: &Duty| self.now.since(duty.asked) <= self.info.terms.lost_after_ms;
        self.work
            .duty
            .as_ref()
            .is_some_and(|duty| duty.is_open() && fresh(duty))
    }

    /// Gives up what this member was to combine.
    pub(crate) fn end_duty(&mut self) {
        self.work.duty = None;
        self.drop_jobs(|job| matches!(job, Job::Part(..) | Job::Combine(_) | Job::Combined(_)));
    }

    /// Asks for the parts that are not here, of their owners; the coordinator may have fetched one that others did not get.
    fn gather_parts(&mut self) {
        let Some(duty) = &self.work.duty else { return };
        let coordinator = duty.message.signer();
        let mut wanted = Vec::new();
        for (shard, combining) in &duty.shards {
            let parts = combining
                .missing
                .iter()
                .map(|peer| (*peer, duty.selection.part(*shard, peer)));
            wanted.extend(parts.filter_map(|(peer, part)| Some((*shard, peer, part?))));
        }
        for (shard, peer, part) in wanted {
            self.fetch_part(shard, peer, part, &[coordinator]);
        }
    }

    /// Fetches a member's part of a shard, unless it is on its way.
    pub(crate) fn fetch_part(&mut self, shard: u32, owner: PeerId, part: Part, others: &[PeerId]) {
        let job = Job::Part(shard, owner);
        if !self.has_job(&job) {
            let others = others.iter().copied().filter(|peer| *peer != owner);
            let from = std::iter::once(owner).chain(others).collect();
            self.fetch(job, part.blob, part.bytes, from);
        }
    }

    pub(crate) fn on_part(&mut self, shard: u32, peer: PeerId, result: &Result<(), FetchFailure>) {
        if self.is_coordinator() {
            self.on_part_selected(shard, peer, result);
        }
        let round = self.round();
        let Some(duty) = &mut self.work.duty else { return };
        let Some(combining) = duty.shards.get_mut(&shard) else {
            return;
        };
        if result.is_ok() {
            combining.missing.remove(&peer);
            return self.combine_next();
        }
        let coordinator = duty.message.signer();
        let statement = ShardStatement::Missing {
            round,
            term: duty.term,
            selection: duty.selection.id,
            shard,
            peer,
        };
        self.send(coordinator, &Message::Shard(Box::new(statement)));
    }

    /// Has the worker combine a shard that is complete. One at a time: its queue is short.
    fn combine_next(&mut self) {
        let Some(duty) = &self.work.duty else { return };
        let open = |combining: &Combining| combining.result.is_none() && !combining.failed;
        if duty.shards.keys().any(|shard| self.has_job(&Job::Combine(*shard))) {
            return;
        }
        let ready = |(_, combining): &(&u32, &Combining)| open(combining) && combining.missing.is_empty();
        let Some((&shard, _)) = duty.shards.iter().find(ready) else {
            return;
        };
        let task = ShardTask::Combine {
            base: duty.base,
            shard,
            parts: duty.selection.parts_of(shard),
        };
        self.compute(Job::Combine(shard), Task::Shard(Box::new(task)));
    }

    fn on_combined(&mut self, shard: u32, combined: ShardAggregate) {
        let round = self.round();
        let Some(duty) = &self.work.duty else { return };
        let result = ShardResult {
            round,
            term: duty.term,
            selection: duty.selection.id,
            shard,
            combined,
        };
        let signed = self.sign(&Message::Shard(Box::new(ShardStatement::Result(result))));
        let duty = self.work.duty.as_mut().expect("looked at above");
        let coordinator = duty.message.signer();
        if let Some(combining) = duty.shards.get_mut(&shard) {
            combining.result = Some(signed.clone());
        }
        self.tell_result(coordinator, signed);
        self.combine_next();
    }

    pub(crate) fn on_combining_failed(&mut self, shard: u32) {
        let duty = self.work.duty.as_mut();
        if let Some(combining) = duty.and_then(|duty| duty.shards.get_mut(&shard)) {
            combining.failed = true;
        }
        self.combine_next();
    }

    fn tell_results(&mut self) {
        let Some(duty) = &self.work.duty else { return };
        let coordinator = duty.message.signer();
        let results: Vec<_> = duty.shards.values().filter_map(|shard| shard.result.clone()).collect();
        results
            .into_iter()
            .for_each(|result| self.tell_result(coordinator, result));
    }

    fn tell_result(&mut self, coordinator: PeerId, signed: Signed<Message>) {
        if coordinator != self.me {
            return self.send_signed(coordinator, signed);
        }
        let own = signed.verify().expect("own results verify");
        if let Some(result) = result_of(&own) {
            self.on_result(&own, result);
        }
    }

    // ---- the voter --------------------------------------------------------------------------------------------------

    /// Whether the results behind a proposal are of its updates, and signed by those whom a term gave the shards to.
    pub(crate) fn are_results_justified(&self, proposal: &Proposal) -> bool {
        let (body, results) = (&proposal.body, proposal.basis.results());
        if self.shards().is_none() {
            return results.is_empty() && !matches!(proposal.basis, Basis::Shards(_));
        }
        let decoded = body
            .used
            .iter()
            .all(|used| used.verdict.outcome != Outcome::Undecodable);
        if !decoded || !matches!(proposal.basis, Basis::Shards(_)) {
            return false;
        }
        let updates: Vec<UpdateRef> = body.used.iter().map(|used| used.update.clone()).collect();
        let selection = selection_id(&self.info.session, body.round, &body.base, &updates);
        let mut places = Vec::new();
        for signed in results {
            let Ok(verified) = signed.verify() else { return false };
            let Some(result) = result_of(&verified) else {
                return false;
            };
            let asked = result.term <= proposal.term
                && self
                    .assignment(result.term)
                    .pair(result.shard)
                    .contains(&signed.signer());
            let sound = (result.round, result.selection) == (body.round, selection)
                && signed.session() == self.info.session
                && result.combined.verdicts.len() == body.used.len()
                && result.combined.part.bytes <= self.info.terms.max_state_bytes;
            if !asked || !sound {
                return false;
            }
            places.push((result.shard, signed.signer()));
        }
        places.is_sorted_by(|a, b| a < b)
    }

    /// Where each shard of a justified proposal is to come from: of two that agree, or of the updates themselves.
    fn sources(&self, proposal: &Proposal) -> Vec<ShardSource> {
        let results = results_of(proposal.basis.results());
        let selection = self.selection_of(&proposal.claims);
        let source = |shard: u32| {
            let said: Vec<&ShardAggregate> = results
                .iter()
                .filter(|(_, result)| result.shard == shard)
                .map(|(_, result)| &result.combined)
                .collect();
            match said[..] {
                [first, second] if first == second && first.is_whole() => ShardSource::Signed(first.clone()),
                _ => ShardSource::Parts(
                    selection
                        .as_ref()
                        .map_or(Vec::new(), |selection| selection.parts_of(shard)),
                ),
            }
        };
        (0..self.shards().unwrap_or(0)).map(source).collect()
    }

    /// The blobs that a voter needs: their lengths, and who should have them.
    pub(crate) fn blobs_of_shards(&self, proposal: &Proposal) -> BTreeMap<BlobId, (u64, Vec<PeerId>)> {
        let results = results_of(proposal.basis.results());
        let mut blobs = BTreeMap::new();
        for (shard, source) in (0u32..).zip(self.sources(proposal)) {
            let signers = results.iter().filter(|(_, result)| result.shard == shard);
            let mut holders: Vec<PeerId> = signers.map(|(signer, _)| *signer).collect();
            match source {
                ShardSource::Signed(combined) => {
                    // Members ask in different orders to spread the load.
                    let turn = usize::from(self.me.0[0]) % holders.len().max(1);
                    holders.rotate_left(turn);
                    blobs.insert(combined.part.blob, (combined.part.bytes, holders));
                }
                ShardSource::Parts(parts) => {
                    for part in parts {
                        let holders = std::iter::once(part.peer).chain(holders.iter().copied());
                        blobs.insert(part.payload, (part.bytes, holders.collect()));
                    }
                }
            }
        }
        blobs
    }

    pub(crate) fn settle_shards(&self, base: BlobId, proposal: &Proposal) -> Task {
        let peers = proposal.body.used.iter().map(|used| used.update.peer).collect();
        let shards = self.sources(proposal);
        Task::Shard(Box::new(ShardTask::Settle { base, peers, shards }))
    }

    /// Who signed of a shard what this member has found otherwise has lied, or computes wrongly.
    pub(crate) fn charge_wrong_results(&mut self, results: &[Signed<Message>], found: &[ShardAggregate]) {
        for signed in results {
            let Ok(verified) = signed.verify() else { continue };
            let Some(result) = result_of(&verified) else { continue };
            let right = found.get(result.shard as usize);
            if right.is_some_and(|right| *right != result.combined) {
                let plain = Evidence::plain(signed.signer(), Reject::WrongState, result.round, "shard_result");
                let statements = vec![hex::encode(signed.to_bytes())];
                self.charge(Evidence { statements, ..plain });
            }
        }
    }
}

/// The result in a message, if that is what it is.
pub(crate) fn result_of(message: &Verified<Message>) -> Option<&ShardResult> {
    match message.value() {
        Message::Shard(statement) => match &**statement {
            ShardStatement::Result(result) => Some(result),
            _ => None,
        },
        _ => None,
    }
}

/// Signed results with their signers.
fn results_of(signed: &[Signed<Message>]) -> Vec<(PeerId, ShardResult)> {
    let of = |signed: &Signed<Message>| {
        let verified = signed.verify().ok()?;
        Some((signed.signer(), result_of(&verified)?.clone()))
    };
    signed.iter().filter_map(of).collect()
}
