//! The coordinator's part where the vector is in shards: it selects whose updates are combined, compares what two members
//! make of each shard, and puts the aggregates together. What two do not agree on it combines itself, and every voter too.
//!
//! A member whose part cannot be had, or does not decode, is left out, and the others are selected anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::contract::{FetchFailure, Time};
use crate::deadline;
use crate::event::Event;
use crate::identity::{BlobId, PeerId};
use crate::machine::{Job, Machine};
use crate::message::{Message, Term};
use crate::reject::{Evidence, Reject};
use crate::round::exchanging::{FETCH_ATTEMPTS, Lead, Payload, Stage};
use crate::round::sharding::Selection;
use crate::shard::{Assignment, ShardAggregate, ShardResult, ShardSource, ShardStatement, ShardTask};
use crate::signed::{Signed, Verified};
use crate::task::{MemberVerdict, Outcome, Task};

/// What the coordinator of a term has selected, if anything.
#[derive(Debug, Default)]
pub(crate) struct Selecting(Option<Selected>);

#[derive(Debug)]
struct Selected {
    selection: Selection,
    /// As this member signed it.
    message: Signed<Message>,
    since: Time,
    assignment: Assignment,
    /// By shard and signer.
    results: BTreeMap<(u32, PeerId), Said>,
    /// How far each shard is.
    shards: Vec<Standing>,
}

/// An aggregator's result, and when it came after the selection.
#[derive(Debug)]
struct Said {
    result: ShardResult,
    signed: Signed<Message>,
    after_ms: u64,
}

/// How far a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Results are waited for.
    Waiting,
    /// Both its aggregators say the same; whether what they say is here.
    Agreed { here: bool },
    /// It is combined here: whose parts are not here.
    Own { missing: BTreeSet<PeerId> },
}

impl Standing {
    fn is_ready(&self) -> bool {
        match self {
            Standing::Waiting => false,
            Standing::Agreed { here } => *here,
            Standing::Own { missing } => missing.is_empty(),
        }
    }
}

impl Selecting {
    /// The signed results that are here, in the order of shards, then of signers.
    pub(crate) fn results(&self) -> Vec<Signed<Message>> {
        let results = self.0.iter().flat_map(|selected| selected.results.values());
        results.map(|said| said.signed.clone()).collect()
    }
}

impl Selected {
    /// What the two aggregators of a shard have said.
    fn said(&self, shard: u32) -> Vec<&ShardResult> {
        let pair = self.assignment.pair(shard).iter();
        pair.filter_map(|peer| self.results.get(&(shard, *peer)))
            .map(|said| &said.result)
            .collect()
    }

    /// Who has not said what it was asked for, of the shards that wait for it.
    fn silent(&self) -> BTreeSet<PeerId> {
        let mut silent = BTreeSet::new();
        for (shard, standing) in (0u32..).zip(&self.shards) {
            if *standing == Standing::Waiting {
                let pair = self.assignment.pair(shard).iter();
                silent.extend(pair.filter(|peer| !self.results.contains_key(&(shard, **peer))));
            }
        }
        silent
    }

    fn sources(&self) -> Vec<ShardSource> {
        let source = |(shard, standing): (u32, &Standing)| match (standing, self.said(shard).first()) {
            (Standing::Agreed { .. }, Some(said)) => ShardSource::Signed(said.combined.clone()),
            _ => ShardSource::Parts(self.selection.parts_of(shard)),
        };
        (0u32..).zip(&self.shards).map(source).collect()
    }
}

/// What the coordinator does about a shard next.
enum Step {
    Compare,
    Combine,
}

impl Machine {
    fn selected(&mut self) -> Option<&mut Selected> {
        let lead = self.work.lead.as_mut().filter(|lead| lead.is_aggregating())?;
        lead.selecting.0.as_mut()
    }

    /// Ends collecting: has the updates of these members combined.
    pub(crate) fn select(&mut self, set: Vec<PeerId>) {
        let (round, now) = (self.round(), self.now);
        let Some(lead) = &self.work.lead else { return };
        let term = lead.term;
        let claims: Vec<_> = set
            .iter()
            .map(|peer| lead.claims[peer].message.signed().clone())
            .collect();
        // All were checked when they came, but for this member's own.
        let Some(selection) = self.selection_of(&claims) else {
            return self.step_down();
        };
        let assignment = self.assignment(term);
        let statement = ShardStatement::Selection { round, term, claims };
        let message = self.sign(&Message::Shard(Box::new(statement)));
        let selected = Selected {
            selection,
            message,
            since: now,
            assignment,
            results: BTreeMap::new(),
            shards: vec![Standing::Waiting; self.shards().unwrap_or(0) as usize],
        };
        let lead = self.work.lead.as_mut().expect("looked at above");
        (lead.stage, lead.selecting) = (Stage::Aggregating(set), Selecting(Some(selected)));
        self.ask_aggregators();
    }

    /// Sends the selection to those whose results are waited for; again with each heartbeat.
    pub(crate) fn ask_aggregators(&mut self) {
        let Some(selected) = self.selected() else { return };
        let (silent, message) = (selected.silent(), selected.message.clone());
        for peer in silent {
            if peer != self.me {
                self.send_signed(peer, message.clone());
                continue;
            }
            let own = message.verify().expect("own selections verify");
            if let Message::Shard(statement) = own.value()
                && let ShardStatement::Selection { term, claims, .. } = &**statement
            {
                self.on_selection(&own, *term, claims);
            }
        }
    }

    pub(crate) fn on_result(&mut self, message: &Verified<Message>, result: &ShardResult) {
        let (from, now) = (message.signer(), self.now);
        let most = self.info.terms.max_state_bytes;
        if self.reputation.is_banned(&from) {
            return;
        }
        let Some(term) = self.work.lead.as_ref().map(|lead| lead.term) else {
            return;
        };
        let Some(selected) = self.selected() else { return };
        let asked = selected.assignment.pair(result.shard).contains(&from);
        let of_this = (result.term, result.selection) == (term, selected.selection.id);
        let counted = result.combined.verdicts.len() == selected.selection.len();
        if asked && of_this && counted && result.combined.part.bytes <= most {
            let said = Said {
                result: result.clone(),
                signed: message.signed().clone(),
                after_ms: now.since(selected.since),
            };
            selected.results.entry((result.shard, from)).or_insert(said);
        }
    }

    /// An aggregator cannot get a part: this member tries, so that it can pass the part on, or leave its owner out.
    pub(crate) fn on_missing(&mut self, from: PeerId, what: (Term, [u8; 32]), shard: u32, peer: PeerId) {
        let Some(term) = self.work.lead.as_ref().map(|lead| lead.term) else {
            return;
        };
        let Some(selected) = self.selected() else { return };
        let asked = selected.assignment.pair(shard).contains(&from);
        let part = selected.selection.part(shard, &peer);
        if let Some(part) = part.filter(|_| asked && what == (term, selected.selection.id)) {
            self.fetch_part(shard, peer, part, &[]);
        }
    }

    pub(crate) fn on_part_selected(&mut self, shard: u32, peer: PeerId, result: &Result<(), FetchFailure>) {
        let Some(selected) = self.selected() else { return };
        if let (Ok(()), Some(Standing::Own { missing })) = (result, selected.shards.get_mut(shard as usize)) {
            missing.remove(&peer);
        }
        if result.is_err() {
            // A member that cannot be reached is lost, not dishonest; one that is heard and does not deliver is charged.
            if matches!(result, Err(FetchFailure::Unavailable)) && self.is_alive(&peer) {
                self.charge(Evidence::plain(peer, Reject::Withheld, self.round(), "blob"));
            }
            self.leave_out(&[peer], false);
        }
    }

    pub(crate) fn on_combined_fetched(&mut self, shard: u32, here: bool) {
        let Some(selected) = self.selected() else { return };
        let standing = selected.shards.get_mut(shard as usize);
        if here && let Some(standing) = standing.filter(|standing| matches!(standing, Standing::Agreed { .. })) {
            *standing = Standing::Agreed { here: true };
        } else if !here {
            self.combine_here(shard);
        }
    }

    /// Collects again without these members, for this term if their updates are no updates.
    fn leave_out(&mut self, peers: &[PeerId], for_good: bool) {
        let Some(lead) = &mut self.work.lead else { return };
        for peer in peers {
            if let Some(claimed) = lead.claims.get_mut(peer) {
                claimed.payload = Payload::Failed;
                claimed.attempts = if for_good { FETCH_ATTEMPTS } else { claimed.attempts };
            }
        }
        (lead.stage, lead.selecting) = (Stage::Collecting, Selecting::default());
        self.end_duty();
    }

    /// When the coordinator stops waiting for results: as for updates, once half of them are in.
    fn results_due(&self, selected: &Selected) -> Time {
        let terms = &self.info.terms.deadline;
        let offsets: Vec<u64> = selected.results.values().map(|said| said.after_ms).collect();
        let wait = match offsets.len() >= selected.shards.len() {
            true => deadline::close_after_ms(&offsets, terms).unwrap_or(terms.cap_ms),
            false => terms.cap_ms,
        };
        selected.since.after_ms(wait)
    }

    /// Compares what has come, and settles when every shard is here.
    pub(crate) fn try_to_settle_shards(&mut self) {
        let aggregating = self.work.lead.as_ref().filter(|lead| lead.is_aggregating());
        let Some((lead, selected)) = aggregating.and_then(|lead| Some((lead, lead.selecting.0.as_ref()?))) else {
            return;
        };
        let steps: Vec<(u32, Step)> = (0u32..)
            .zip(&selected.shards)
            .filter(|(_, standing)| **standing == Standing::Waiting)
            .filter_map(|(shard, _)| Some((shard, self.next_step(lead, selected, shard)?)))
            .collect();
        for (shard, step) in steps {
            match step {
                Step::Compare => self.fetch_combined(shard),
                Step::Combine => self.combine_here(shard),
            }
        }
        let Some(base) = self.base.filter(|base| base.held) else {
            return;
        };
        if self.has_job(&Job::Aggregate) {
            return;
        }
        let Some(selected) = self
            .selected()
            .filter(|selected| selected.shards.iter().all(Standing::is_ready))
        else {
            return;
        };
        let (peers, shards) = (selected.selection.peers().collect(), selected.sources());
        let task = ShardTask::Settle {
            base: base.state,
            peers,
            shards,
        };
        self.compute(Job::Aggregate, Task::Shard(Box::new(task)));
    }

    /// What is to be done about a shard whose results were waited for; None: wait on.
    fn next_step(&self, lead: &Lead, selected: &Selected, shard: u32) -> Option<Step> {
        let said = selected.said(shard);
        if let [first, second] = said[..] {
            let agreed = first.combined == second.combined && first.combined.is_whole();
            return Some(if agreed { Step::Compare } else { Step::Combine });
        }
        let over = self.now >= self.results_due(selected);
        // Right after a change of terms a member may simply not have been heard yet.
        let settled_in = self.now.since(lead.opened) > self.info.terms.lost_after_ms;
        let lost = |peer: &PeerId| !self.is_alive(peer) && settled_in || self.reputation.is_banned(peer);
        let silent = |peer: &&PeerId| !selected.results.contains_key(&(shard, **peer));
        let hopeless = selected.assignment.pair(shard).iter().filter(silent).any(lost);
        (over || hopeless).then_some(Step::Combine)
    }

    /// Brings in what both aggregators of a shard have made of it.
    fn fetch_combined(&mut self, shard: u32) {
        let Some(selected) = self.selected() else { return };
        selected.shards[shard as usize] = Standing::Agreed { here: false };
        let part = selected.said(shard).first().map(|said| said.combined.part);
        let holders = selected.assignment.pair(shard).to_vec();
        if let Some(part) = part {
            self.fetch(Job::Combined(shard), part.blob, part.bytes, holders);
        }
    }

    /// Takes a shard over that its aggregators did not agree on, or did not combine.
    fn combine_here(&mut self, shard: u32) {
        let Some(selected) = self.selected() else { return };
        let missing = selected.selection.peers().collect();
        selected.shards[shard as usize] = Standing::Own { missing };
        let holders = selected.assignment.pair(shard).to_vec();
        for part in selected.selection.parts_of(shard) {
            let (blob, bytes) = (part.payload, part.bytes);
            self.fetch_part(shard, part.peer, crate::shard::Part { blob, bytes }, &holders);
        }
    }

    pub(crate) fn on_shards_settled(
        &mut self,
        (state, bytes): (BlobId, u64),
        verdicts: Vec<MemberVerdict>,
        shards: &[ShardAggregate],
    ) {
        let results = self.work.lead.as_ref().map(|lead| lead.selecting.results());
        self.charge_wrong_results(&results.unwrap_or_default(), shards);
        let undecodable = verdicts
            .iter()
            .filter(|verdict| verdict.outcome == Outcome::Undecodable);
        let undecodable: Vec<PeerId> = undecodable.map(|verdict| verdict.peer).collect();
        if undecodable.is_empty() {
            return self.on_aggregated(state, bytes, verdicts);
        }
        let round = self.round();
        for peer in &undecodable {
            self.charge(Evidence::plain(*peer, Reject::Undecodable, round, "blob"));
        }
        let reason = format!("{} updates do not decode and are left out", undecodable.len());
        self.event(Event::TaskFailed { round, reason });
        self.leave_out(&undecodable, true);
    }
}
