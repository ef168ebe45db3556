//! Phase two, the coordinator's side: taking claims, fetching payloads, and deciding when enough are in.
//! A member's side of this phase is to repeat its claim; it is in `training`.

use std::collections::BTreeMap;

use crate::contract::{FetchFailure, Time};
use crate::deadline;
use crate::event::Event;
use crate::identity::{BodyId, PeerId, SignatureBytes};
use crate::machine::{Job, Machine};
use crate::message::{Message, Phase, Proposal, Term, UpdateClaim};
use crate::reject::{Evidence, Reject};
use crate::round::gathering::Gathering;
use crate::round::selecting::Selecting;
use crate::session::Role;
use crate::signed::{Signed, Verified};
use crate::task::Task;

/// Times that the coordinator asks an owner for its payload before it goes without.
pub(crate) const FETCH_ATTEMPTS: u32 = 4;

/// Times `lost_after_ms` that a round must lack trainers before it is given up for one of the roster alone: a node that is
/// restarted is back by then, and the updates that are in are not thrown away.
const OPENS_AFTER: u64 = 4;

/// The duty of the member that coordinates a term.
#[derive(Debug)]
pub(crate) struct Lead {
    /// The term that it leads.
    pub term: Term,
    /// When it began to collect.
    pub opened: Time,
    /// What members claimed.
    pub claims: BTreeMap<PeerId, Claimed>,
    /// How far it is.
    pub stage: Stage,
    /// The term changes that made it the coordinator; none in term 0.
    pub justification: Vec<Signed<Message>>,
    /// Pairs of claims that prove equivocation.
    pub faults: BTreeMap<PeerId, (Signed<Message>, Signed<Message>)>,
    /// Does not try to close before this, after an aggregation that gave nothing.
    pub not_before: Time,
    /// Since when too few trainers are there to ever fill the round.
    pub lacking_since: Option<Time>,
    /// The secure sum of the term, in a session that has them.
    pub gathering: Gathering,
    /// The combining of the term, in a session with shards.
    pub selecting: Selecting,
}

/// A member's claim, and whether its payload is here.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub message: Verified<Message>,
    pub payload: Payload,
    pub attempts: u32,
}

/// Where the payload of a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// On its way.
    Fetching,
    /// In this node's store, so many milliseconds after the round was opened.
    Here { after_ms: u64 },
    /// Not to be had.
    Failed,
}

/// What the coordinator does.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Taking claims.
    Collecting,
    /// The worker combines the updates of these.
    Aggregating(Vec<PeerId>),
    /// Collecting votes.
    Proposed(Box<Proposed>),
}

/// A proposal and the votes so far.
#[derive(Debug)]
pub(crate) struct Proposed {
    pub signed: Signed<Message>,
    pub proposal: Proposal,
    pub id: BodyId,
    pub votes: BTreeMap<PeerId, SignatureBytes>,
    pub sent_at: Time,
}

impl Lead {
    pub(crate) fn new(term: Term, opened: Time) -> Self {
        Self {
            term,
            opened,
            claims: BTreeMap::new(),
            stage: Stage::Collecting,
            justification: Vec::new(),
            faults: BTreeMap::new(),
            not_before: opened,
            lacking_since: None,
            gathering: Gathering::default(),
            selecting: Selecting::default(),
        }
    }

    pub(crate) fn is_collecting(&self) -> bool {
        matches!(self.stage, Stage::Collecting)
    }

    pub(crate) fn is_aggregating(&self) -> bool {
        matches!(self.stage, Stage::Aggregating(_))
    }
}

impl Claimed {
    pub(crate) fn claim(&self) -> &UpdateClaim {
        let message = self.message.value();
        message
            .claim()
            .map_or_else(|| unreachable_claim(message), |(claim, _)| claim)
    }
}

/// Only updates are stored as claims: `take_claim` is the one place that makes a `Claimed`.
fn unreachable_claim(other: &Message) -> ! {
    panic!("a {} was stored as a claim", other.kind())
}

impl Machine {
    pub(crate) fn on_update(&mut self, message: &Verified<Message>, claim: &UpdateClaim) {
        let from = message.signer();
        if !self.is_current(from, claim.round, "update") {
            return;
        }
        if self.sums() || self.shards().is_some() {
            // An update in the clear, where all must be masked; or in one piece.
            return self.charge(Evidence::plain(from, Reject::NotEntitled, self.round(), "update"));
        }
        self.on_claim(message, claim, "update");
    }

    /// An announced update, masked or not, of the current round.
    pub(crate) fn on_claim(&mut self, message: &Verified<Message>, claim: &UpdateClaim, kind: &str) {
        let from = message.signer();
        let reject = if !self.roster().has(&from, Role::Trainer) {
            Some(Reject::NotEntitled)
        } else if self.base.is_some_and(|base| base.state != claim.base) {
            Some(Reject::StaleBase)
        } else if claim.bytes > self.info.terms.max_payload_bytes {
            Some(Reject::Oversize)
        } else {
            None
        };
        match reject {
            Some(reject) => self.charge(Evidence::plain(from, reject, self.round(), kind)),
            None => self.take_claim(message),
        }
    }

    /// Takes a claim that passed its checks: as the coordinator to use it, as a voter to be ready for the proposal.
    pub(crate) fn take_claim(&mut self, message: &Verified<Message>) {
        let (from, now) = (message.signer(), self.now);
        // With shards the coordinator needs none of the payload: a claim is as good.
        let at_once = from == self.me || self.shards().is_some();
        let Some((claim, _)) = message.value().claim() else {
            return;
        };
        let (blob, bytes) = (claim.payload, claim.bytes);
        let Some(lead) = &mut self.work.lead else {
            return self.look_ahead(message);
        };
        let after_ms = now.since(lead.opened);
        let payload = match at_once {
            true => Payload::Here { after_ms },
            false => Payload::Fetching,
        };
        if let Some(known) = lead.claims.get_mut(&from) {
            if known.message.signed() != message.signed() {
                let pair = (known.message.signed().clone(), message.signed().clone());
                return self.on_equivocation(from, pair);
            }
            if known.payload != Payload::Failed || known.attempts >= FETCH_ATTEMPTS {
                return;
            }
            known.payload = payload;
            known.attempts += 1;
        } else {
            lead.claims.insert(
                from,
                Claimed {
                    message: message.clone(),
                    payload,
                    attempts: 1,
                },
            );
        }
        if at_once {
            let (round, peer) = (self.round(), from);
            self.event(Event::UpdateAccepted { round, peer, after_ms });
        } else {
            self.fetch(Job::Payload(from), blob, bytes, vec![from]);
        }
    }

    /// Two different claims for one round: the pair proves it to everyone.
    fn on_equivocation(&mut self, from: PeerId, pair: (Signed<Message>, Signed<Message>)) {
        let statements = vec![hex::encode(pair.0.to_bytes()), hex::encode(pair.1.to_bytes())];
        let lead = self.work.lead.as_mut().expect("only a lead compares claims");
        if lead.faults.insert(from, pair).is_none() {
            let plain = Evidence::plain(from, Reject::Equivocation, self.round(), "update");
            self.charge(Evidence { statements, ..plain });
        }
    }

    pub(crate) fn on_payload(&mut self, peer: PeerId, result: &Result<(), FetchFailure>) {
        let (now, round) = (self.now, self.round());
        let Some(lead) = &mut self.work.lead else { return };
        let after_ms = now.since(lead.opened);
        let Some(claimed) = lead.claims.get_mut(&peer) else {
            return;
        };
        if result.is_ok() {
            claimed.payload = Payload::Here { after_ms };
            self.event(Event::UpdateAccepted { round, peer, after_ms });
        } else {
            claimed.payload = Payload::Failed;
            // A member that cannot be reached is lost, not dishonest; one that is heard and does not deliver is charged.
            if matches!(result, Err(FetchFailure::Unavailable)) && self.is_alive(&peer) {
                self.charge(Evidence::plain(peer, Reject::Withheld, round, "blob"));
            }
        }
    }

    /// The members whose payloads are here and may be used, with the offsets at which they came, in order of ids.
    fn usable_updates(&self, lead: &Lead) -> Vec<(PeerId, u64)> {
        let usable = |(peer, claimed): (&PeerId, &Claimed)| match claimed.payload {
            Payload::Here { after_ms } if self.is_usable(lead, peer) => Some((*peer, after_ms)),
            _ => None,
        };
        lead.claims.iter().filter_map(usable).collect()
    }

    pub(crate) fn is_usable(&self, lead: &Lead, peer: &PeerId) -> bool {
        !lead.faults.contains_key(peer) && !self.reputation.is_banned(peer)
    }

    fn updates_needed(&self, lead: &Lead) -> usize {
        let trainers = self
            .roster()
            .with(Role::Trainer)
            .filter(|peer| !lead.faults.contains_key(peer));
        self.info.terms.updates_needed(trainers.count())
    }

    /// How many updates could be combined, and how many a round needs.
    pub(crate) fn updates_here(&self, lead: &Lead) -> (usize, usize) {
        (self.usable_updates(lead).len(), self.updates_needed(lead))
    }

    /// As a coordinator of a round that cannot have its updates: lets those in who wait, and those go who want to, by a
    /// settlement that changes nothing but the roster. Else a session that lost a trainer could never replace it.
    fn try_to_open(&mut self) {
        let (now, wait) = (self.now, OPENS_AFTER * self.info.terms.lost_after_ms);
        let Some((lead, base)) = self.work.lead.as_ref().zip(self.base.filter(|base| base.held)) else {
            return;
        };
        let trainers = self.roster().with(Role::Trainer);
        let expected = trainers.filter(|peer| self.may_deliver(lead, peer)).count();
        let lacking = lead.is_collecting() && expected < self.updates_needed(lead);
        let since = lacking.then(|| lead.lacking_since.unwrap_or(now));
        let ripe = since.is_some_and(|since| now.since(since) >= wait) && now >= lead.not_before;
        self.work.lead.as_mut().expect("looked at above").lacking_since = since;
        if !ripe || !self.has_border_business() {
            return;
        }
        self.drop_jobs(|job| matches!(job, Job::Train));
        self.propose(&[], base.state, base.bytes, &[]);
    }

    /// Whether this member's update is here or may still come.
    fn may_deliver(&self, lead: &Lead, peer: &PeerId) -> bool {
        let here = lead
            .claims
            .get(peer)
            .is_some_and(|claimed| matches!(claimed.payload, Payload::Here { .. }));
        self.is_usable(lead, peer) && here || self.is_waited_for(lead, peer)
    }

    /// When collecting ends though members are missing; None while a quorum is not in.
    pub(crate) fn collecting_deadline(&self) -> Option<Time> {
        if self.sums() {
            return self.sum_deadline();
        }
        let lead = self.work.lead.as_ref().filter(|lead| lead.is_collecting())?;
        let offsets: Vec<u64> = self
            .usable_updates(lead)
            .into_iter()
            .map(|(_, after_ms)| after_ms)
            .collect();
        if offsets.len() < self.updates_needed(lead) || self.base.is_none_or(|base| !base.held) {
            return None;
        }
        let wait = deadline::close_after_ms(&offsets, &self.info.terms.deadline)?;
        Some(lead.opened.after_ms(wait).max(lead.not_before))
    }

    /// Ends collecting when every living trainer is in, or at the deadline.
    pub(crate) fn try_to_close(&mut self) {
        if self.sums() {
            return self.try_to_sum();
        }
        let Some(lead) = self.work.lead.as_ref().filter(|lead| lead.is_collecting()) else {
            return;
        };
        let Some(base) = self.base.filter(|base| base.held) else {
            return;
        };
        let Some(deadline) = self.collecting_deadline() else {
            return self.try_to_open();
        };
        let all_in = !self
            .roster()
            .with(Role::Trainer)
            .any(|peer| self.is_waited_for(lead, &peer));
        if self.now < lead.not_before || !all_in && self.now < deadline {
            return;
        }
        let set: Vec<PeerId> = self.usable_updates(lead).into_iter().map(|(peer, _)| peer).collect();
        let updates = set.iter().map(|peer| lead.claims[peer].claim().to_ref(*peer)).collect();
        let round = self.round();
        // An own update that is not ready by now comes too late for this term.
        self.drop_jobs(|job| matches!(job, Job::Train));
        if self.shards().is_some() {
            return self.select(set);
        }
        self.compute(
            Job::Aggregate,
            Task::Aggregate {
                round,
                base: base.state,
                updates,
            },
        );
        self.work.lead.as_mut().expect("checked above").stage = Stage::Aggregating(set);
    }

    /// Whether an update of `peer` may still come.
    pub(crate) fn is_waited_for(&self, lead: &Lead, peer: &PeerId) -> bool {
        let given_up = |claimed: &Claimed| match claimed.payload {
            Payload::Fetching => false,
            Payload::Failed => claimed.attempts >= FETCH_ATTEMPTS,
            Payload::Here { .. } => true,
        };
        let answered = lead.claims.get(peer).is_some_and(given_up);
        self.is_usable(lead, peer) && !answered && self.may_send_update(peer)
    }

    /// Whether a member is there that may still be training.
    pub(crate) fn may_send_update(&self, peer: &PeerId) -> bool {
        // A member that says it is idle in this round cannot train now: its operator was told why.
        let beat = self.heard.get(peer).and_then(|heard| heard.beat.as_ref());
        let idle = beat.is_some_and(|beat| beat.round == self.round() && beat.phase == Phase::Idle);
        self.is_alive(peer) && !self.reputation.is_banned(peer) && !idle
    }
}
