//! The decentralized topology without agreement: each member trains its own model and mixes it with its neighbours'.
//! There is no coordinator, vote or common state here (D-PSGD: Lian et al. 2017, NeurIPS; without a barrier: Lian et al.
//! 2018, ICML); how models mix is the worker's business, and reaches this file as shares and verdicts.
//!
//! Who is a member follows from signed statements alone: the founding settlement, admissions, leaves. Members that have
//! heard the same ones have the same graph, in whatever order they heard them. While views differ, the mixing matrix does
//! not keep the mean; each member's weights still sum to one, so nobody's model leaves the hull of what it mixed.

use std::collections::BTreeMap;

use crate::contract::{FetchFailure, Time};
use crate::deadline;
use crate::event::Event;
use crate::graph::{GraphSeed, Weights};
use crate::identity::{BlobId, PeerId, SessionId};
use crate::invite::Admission;
use crate::journal::JournalEntry;
use crate::machine::{Base, Job, Machine};
use crate::message::{Absence, Heartbeat, Message, Phase, UpdateClaim};
use crate::reject::{Evidence, Reject};
use crate::round::Round as RoundWork;
use crate::session::{Decentralized, Lifecycle, Member, Role, Roster, Topology};
use crate::signed::{Signed, Verified};
use crate::task::{MemberVerdict, Outcome, Round, Share, Task};

/// Times that a neighbour is asked for a payload before it is done without.
const FETCH_ATTEMPTS: u32 = 4;

/// Heartbeats for which a member that leaves says so before it is silent: one may be lost, three hardly.
const GOODBYES: u32 = 3;

/// The seed of a session's graphs: known to all members, and to nobody before the session has its id.
pub fn graph_seed(session: &SessionId) -> GraphSeed {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"synod/graph/1\0");
    hasher.update(&session.0);
    *hasher.finalize().as_bytes()
}

/// What a member of a decentralized session knows beside its round's own work.
#[derive(Debug, Default)]
pub(crate) struct Gossip {
    /// The round being worked on; 0 before the session is founded.
    pub round: Round,
    /// Who is a member, as far as this one has heard.
    pub roster: Roster,
    /// Distance of this member's model from its neighbours' at the last mix.
    pub distance: Option<f32>,
    /// What this member keeps of the signed statements behind its roster.
    statements: Vec<JournalEntry>,
    /// The last mix, as the journal has it.
    last: Option<JournalEntry>,
    /// This member's claim for the round before, for neighbours that are a round behind.
    last_claim: Option<Signed<Message>>,
    /// Whom it hears from in this round and with what weight, in order of ids, itself included.
    row: Vec<(PeerId, f64)>,
    /// Claims by member and round.
    claims: BTreeMap<PeerId, BTreeMap<Round, Held>>,
    /// When this member began to mix, or started again: who was never heard since may still be on its way.
    began: Time,
    /// When this member began the round.
    opened: Time,
    /// When its own update was ready, in milliseconds after that.
    own_after_ms: Option<u64>,
    /// It lost the others or its model, and takes its neighbours' instead of its own.
    following: bool,
    /// Times that it has said goodbye.
    pub goodbyes: u32,
}

/// A neighbour's claim, and where its payload is.
#[derive(Debug)]
struct Held {
    message: Verified<Message>,
    payload: Payload,
    attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Elsewhere,
    Fetching,
    Here { after_ms: u64 },
}

impl Held {
    fn claim(&self) -> &UpdateClaim {
        match self.message.value() {
            Message::Update(claim) => claim,
            other => panic!("a {} was stored as a claim", other.kind()),
        }
    }

    fn is_given_up(&self) -> bool {
        self.payload == Payload::Elsewhere && self.attempts >= FETCH_ATTEMPTS
    }
}

impl Gossip {
    /// Whether it said often enough that it leaves.
    pub(crate) fn has_said_goodbye(&self) -> bool {
        self.goodbyes >= GOODBYES
    }

    /// Neighbours' models that are here and may be mixed yet, whatever round they came in.
    pub(crate) fn held_payloads(&self) -> impl Iterator<Item = BlobId> + '_ {
        let held = self.claims.values().flat_map(BTreeMap::values);
        let here = held.filter(|held| matches!(held.payload, Payload::Here { .. }));
        here.map(|held| held.claim().payload)
    }

    /// A round's first moment: what belonged to the one before is forgotten, claims apart.
    fn open(&mut self, now: Time) {
        self.opened = now;
        self.own_after_ms = None;
    }

    /// The claim of `peer` that a mix of `round` would use: of that round, or else the newest that is near enough.
    fn best(&self, peer: &PeerId, round: Round, ahead: u64, fits: impl Fn(&Held) -> bool) -> Option<&Held> {
        let of_peer = self.claims.get(peer)?;
        let exact = of_peer.get(&round).filter(|held| fits(held));
        let near = of_peer.range(round.saturating_sub(ahead)..=round.saturating_add(ahead));
        exact.or_else(|| near.rev().map(|(_, held)| held).find(|held| fits(held)))
    }
}

impl Machine {
    /// The terms of a session whose members only mix, once it is founded.
    pub(crate) fn mixing_terms(&self) -> Option<Decentralized> {
        match &self.info.terms.topology {
            Topology::Decentralized(terms) if self.is_mixing() => Some(terms.clone()),
            _ => None,
        }
    }

    /// Whether this session's members only mix, and it is founded.
    pub(crate) fn is_mixing(&self) -> bool {
        !self.chain.is_empty() && self.info.terms.is_mixing()
    }

    fn ahead(&self) -> u64 {
        self.mixing_terms().map_or(0, |terms| u64::from(terms.ahead))
    }

    /// Takes a message that means something else where there is no coordinator; false for the others.
    pub(crate) fn on_message_of_mixing(&mut self, message: &Verified<Message>) -> bool {
        let from = message.signer();
        match message.value() {
            Message::Present(admission) => self.on_present_to_mix(from, admission),
            Message::Update(claim) => self.on_update_to_mix(message, claim),
            Message::Leave { .. } => self.on_leave_of_mixing(message),
            // Of the founding round, or of nothing: nobody's fault where its signer does not know yet that it is over.
            Message::Proposal(_) | Message::Vote(_) | Message::TermChange(_) => self.on_catch_up(from, 0),
            Message::Settled(_) | Message::Settlements(_) => {}
            _ => return false,
        }
        true
    }

    // ---- the roster -------------------------------------------------------------------------------------------------

    /// The founding settlement names the first members; whoever was admitted and is not among them enters by itself.
    pub(crate) fn found_gossip(&mut self, roster: &Roster) {
        self.gossip.roster = roster.clone();
        self.gossip.round = 1;
        self.gossip.began = self.now;
        let own = self.own_admission.clone();
        own.into_iter().for_each(|admission| self.enter(&admission));
    }

    /// Somebody says that it is here and was admitted.
    pub(crate) fn on_present_to_mix(&mut self, from: PeerId, admission: &Signed<Admission>) {
        let said_by_itself = self.may_enter(admission).is_some_and(|entry| entry.peer == from);
        if said_by_itself {
            self.enter(admission);
        }
    }

    fn enter(&mut self, admission: &Signed<Admission>) {
        let room = self.gossip.roster.len() < self.info.terms.max_members as usize;
        let Some(entry) = self.may_enter(admission).filter(|_| room) else {
            return;
        };
        let statement = JournalEntry::Entered(admission.clone());
        self.persist(statement.clone());
        self.note_entered(&entry, statement);
        self.announce_members();
    }

    fn note_entered(&mut self, entry: &Admission, statement: JournalEntry) {
        // The round in the admission is signed: all members note the same one.
        let (roles, since) = (entry.roles, entry.round);
        self.gossip.roster.insert(
            entry.peer,
            Member {
                roles,
                since,
                absent: 0,
            },
        );
        self.alumni.insert(entry.peer);
        self.gossip.statements.push(statement);
    }

    /// A member's own word that it leaves; good from the round of its admission on.
    pub(crate) fn on_leave_of_mixing(&mut self, message: &Verified<Message>) {
        let Message::Leave { round } = *message.value() else {
            return;
        };
        let from = message.signer();
        if self.gossip.roster.get(&from).is_none_or(|member| round < member.since) {
            return;
        }
        let statement = JournalEntry::Departed(message.signed().clone());
        self.persist(statement.clone());
        self.note_departed(from, round, statement);
        self.announce_members();
    }

    fn note_departed(&mut self, peer: PeerId, round: Round, statement: JournalEntry) {
        self.gossip.roster.remove(&peer);
        self.gossip.claims.remove(&peer);
        self.departed.insert(peer, round);
        self.gossip.statements.push(statement);
    }

    fn trainers_alive(&self) -> usize {
        let trainers = self.gossip.roster.with(Role::Trainer);
        trainers
            .filter(|peer| self.is_alive(peer) && !self.reputation.is_banned(peer))
            .count()
    }

    /// The lower median of the rounds of the other living trainers: fewer than half of them cannot raise it.
    fn round_of_others(&self, counts: impl Fn(&Heartbeat) -> bool) -> Option<Round> {
        let others = self.gossip.roster.with(Role::Trainer).filter(|peer| *peer != self.me);
        let others = others.filter(|peer| self.is_alive(peer) && !self.reputation.is_banned(peer));
        let said = |peer: PeerId| {
            self.heard
                .get(&peer)?
                .beat
                .as_ref()
                .filter(|beat| counts(beat))
                .map(|beat| beat.round)
        };
        let mut rounds: Vec<Round> = others.filter_map(said).collect();
        rounds.sort_unstable();
        rounds.get(rounds.len().saturating_sub(1) / 2).copied()
    }

    // ---- the graph of a round ---------------------------------------------------------------------------------------

    /// Whom this member hears from in its round, by the roster as it knows it when the round begins.
    fn choose_neighbours(&mut self) {
        let Some(terms) = self.mixing_terms() else { return };
        let trainers: Vec<PeerId> = self.gossip.roster.with(Role::Trainer).collect();
        let Some(own) = trainers.iter().position(|peer| *peer == self.me) else {
            self.gossip.row.clear();
            return;
        };
        let seed = graph_seed(&self.info.session);
        self.gossip.row = match terms.graph_among(trainers.len(), self.gossip.round, &seed) {
            None => vec![(self.me, 1.0)],
            Some(graph) => {
                let weights = Weights::of(&graph, terms.weighting);
                weights
                    .row(own)
                    .iter()
                    .map(|&(at, weight)| (trainers[at], weight))
                    .collect()
            }
        };
    }

    fn neighbours(&self) -> Vec<PeerId> {
        let others = self.gossip.row.iter().map(|(peer, _)| *peer);
        others.filter(|peer| *peer != self.me).collect()
    }

    /// Goes on after a restart.
    pub(crate) fn resume_mixing(&mut self) {
        self.gossip.began = self.now;
        if self.base.is_none() {
            let founded = &self.chain[0].body;
            self.base = Some(Base {
                state: founded.state,
                bytes: founded.state_bytes,
                held: false,
            });
        }
        let own = self.own_admission.clone();
        own.into_iter().for_each(|admission| self.enter(&admission));
        if self.round() == 1 {
            // Everybody can make the initial state, and who joins late may find nobody who kept it.
            self.compute(Job::Initialise, Task::Initialise);
        }
        self.begin_mixing_round();
    }

    // ---- a round ----------------------------------------------------------------------------------------------------

    /// Enters the current round with this member's own model.
    pub(crate) fn begin_mixing_round(&mut self) {
        let Some(base) = self.base else { return };
        self.gossip.open(self.now);
        self.choose_neighbours();
        if self.gossip.following {
            return self.bring_neighbours();
        }
        if !base.held {
            return self.fetch_own_model(base);
        }
        if self.is_finished() {
            return self.finish(base);
        }
        let (round, me) = (self.round(), self.me);
        self.event(Event::RoundStarted {
            round,
            base: base.state,
            coordinator: me,
        });
        self.train();
        self.bring_neighbours();
    }

    fn fetch_own_model(&mut self, base: Base) {
        if self.has_job(&Job::State) {
            return;
        }
        self.retry_state_at = self.now.after_ms(self.info.terms.lost_after_ms);
        let from = self.neighbours();
        self.fetch(Job::State, base.state, base.bytes, from);
    }

    /// The own model is in the store, or it is lost and the neighbours' have to do.
    pub(crate) fn on_own_model(&mut self, here: bool) {
        if !here {
            // The initial state is not lost: this member makes it again.
            if self.round() > 1 {
                self.follow_neighbours(self.round());
            }
            return;
        }
        if let Some(base) = &mut self.base {
            base.held = true;
            self.begin_mixing_round();
        }
    }

    /// This member's update is ready: the neighbours hear of it.
    pub(crate) fn announce_claim(&mut self, claim: Signed<Message>) {
        let after_ms = self.now.since(self.gossip.opened);
        self.gossip.own_after_ms.get_or_insert(after_ms);
        self.broadcast(claim);
    }

    pub(crate) fn on_update_to_mix(&mut self, message: &Verified<Message>, claim: &UpdateClaim) {
        let (from, round, ahead) = (message.signer(), claim.round, self.ahead());
        if !self.gossip.roster.has(&from, Role::Trainer) || round.saturating_add(ahead) < self.round() {
            // Not known yet, or too old to be mixed: nobody's fault where rounds have no barrier.
            return;
        }
        if claim.bytes > self.info.terms.max_payload_bytes {
            return self.charge(Evidence::plain(from, Reject::Oversize, self.round(), "update"));
        }
        let of_peer = self.gossip.claims.entry(from).or_default();
        match of_peer.get_mut(&round) {
            Some(known) if known.message.signed() != message.signed() => {
                let pair = (known.message.signed().clone(), message.signed().clone());
                return self.on_two_claims(from, pair);
            }
            Some(_) => {}
            None => {
                let (payload, attempts) = (Payload::Elsewhere, 0);
                of_peer.insert(
                    round,
                    Held {
                        message: message.clone(),
                        payload,
                        attempts,
                    },
                );
                // What is kept of one member is bounded; whoever claims rounds far away pushes out its own claims.
                while of_peer.len() as u64 > 2 * ahead + 2 {
                    of_peer.pop_first();
                }
            }
        }
        self.bring_neighbours();
    }

    /// Two claims of one member for one round: whoever sees both shows them to all, and nobody mixes that member again.
    fn on_two_claims(&mut self, from: PeerId, pair: (Signed<Message>, Signed<Message>)) {
        let statements = vec![hex::encode(pair.0.to_bytes()), hex::encode(pair.1.to_bytes())];
        let plain = Evidence::plain(from, Reject::Equivocation, self.round(), "update");
        self.gossip.claims.remove(&from);
        self.charge(Evidence { statements, ..plain });
        self.broadcast(pair.0);
        self.broadcast(pair.1);
    }

    /// Fetches the payloads that the next mix would use.
    fn bring_neighbours(&mut self) {
        let (round, ahead) = (self.round(), self.ahead());
        for peer in self.neighbours() {
            if self.reputation.is_banned(&peer) {
                continue;
            }
            let wanted = self.gossip.best(&peer, round, ahead, |held| !held.is_given_up());
            let Some((of, blob, bytes)) = wanted
                .filter(|held| held.payload == Payload::Elsewhere)
                .map(|held| (held.claim().round, held.claim().payload, held.claim().bytes))
            else {
                continue;
            };
            let held = self.gossip.claims.get_mut(&peer).and_then(|claims| claims.get_mut(&of));
            if let Some(held) = held {
                held.payload = Payload::Fetching;
                held.attempts += 1;
            }
            self.fetch(Job::Neighbour(peer, of), blob, bytes, vec![peer]);
        }
    }

    pub(crate) fn on_neighbour(&mut self, peer: PeerId, of: Round, result: &Result<(), FetchFailure>) {
        let (round, after_ms) = (self.round(), self.now.since(self.gossip.opened));
        let held = self.gossip.claims.get_mut(&peer).and_then(|claims| claims.get_mut(&of));
        let Some(held) = held else { return };
        if result.is_ok() {
            held.payload = Payload::Here { after_ms };
            self.event(Event::UpdateAccepted {
                round: of,
                peer,
                after_ms,
            });
            return;
        }
        held.payload = Payload::Elsewhere;
        // It may have dropped what is old; who does not deliver what is of now, and is heard, is charged.
        let beat = self.heard.get(&peer).and_then(|heard| heard.beat.as_ref());
        let fresh = of >= round && beat.is_none_or(|beat| beat.round <= of.saturating_add(self.ahead()));
        if fresh && matches!(result, Err(FetchFailure::Unavailable)) && self.is_alive(&peer) {
            self.charge(Evidence::plain(peer, Reject::Withheld, round, "blob"));
        }
        self.bring_neighbours();
    }

    fn is_awaited(&self, peer: &PeerId) -> bool {
        let (round, ahead) = (self.round(), self.ahead());
        let unheard = self.heard.get(peer).is_none_or(|heard| heard.at.is_none());
        let expected = unheard && self.now.since(self.gossip.began) <= self.info.terms.lost_after_ms;
        if !(self.is_alive(peer) || expected) || self.reputation.is_banned(peer) {
            return false;
        }
        let beat = self.heard.get(peer).and_then(|heard| heard.beat.as_ref());
        let near = beat.is_none_or(|beat| beat.round.abs_diff(round) <= ahead);
        let idle = beat.is_some_and(|beat| beat.round == round && beat.phase == Phase::Idle);
        let exact = self.gossip.claims.get(peer).and_then(|claims| claims.get(&round));
        let settled = |held: &Held| matches!(held.payload, Payload::Here { .. }) || held.is_given_up();
        // Whoever has gone on says its older claim once more only by chance: its newer one will do.
        let gone_on = beat.is_some_and(|beat| beat.round > round) && self.usable(peer).is_some();
        // Two that both follow would wait for each other's models until the longest deadline.
        let follows_too = self.gossip.following && beat.is_some_and(|beat| beat.phase == Phase::CatchingUp);
        near && !idle && !gone_on && !follows_too && !exact.is_some_and(settled)
    }

    fn usable(&self, peer: &PeerId) -> Option<&Held> {
        let here = |held: &Held| matches!(held.payload, Payload::Here { .. });
        let banned = self.reputation.is_banned(peer);
        self.gossip
            .best(peer, self.round(), self.ahead(), here)
            .filter(|_| !banned)
    }

    /// Whether this member may mix as far as the others are concerned: enough are alive, and it is not too far ahead.
    fn may_go_on(&self) -> bool {
        let enough = self.trainers_alive() >= self.info.terms.min_members as usize;
        // A member that says it is idle cannot train now: nobody waits for it.
        let near = self
            .round_of_others(|beat| beat.phase != Phase::Idle)
            .is_none_or(|others| self.round() < others.saturating_add(self.ahead()));
        enough && (near || self.gossip.following)
    }

    /// When this member mixes though neighbours are missing; None while it cannot mix anyway.
    pub(crate) fn mixing_deadline(&self) -> Option<Time> {
        let idle = self.is_mixing() && !self.is_finished() && !self.has_job(&Job::Mix);
        let ready = self.work.training.claim.is_some() || self.gossip.following;
        if !idle || !ready || !self.may_go_on() || self.leaving {
            return None;
        }
        let terms = &self.info.terms;
        let neighbours = self.neighbours();
        let offset = |peer: &PeerId| match self.usable(peer)?.payload {
            Payload::Here { after_ms } => Some(after_ms),
            _ => None,
        };
        let mut offsets: Vec<u64> = neighbours.iter().filter_map(offset).collect();
        offsets.extend(self.gossip.own_after_ms);
        let alive = neighbours.iter().filter(|peer| self.is_alive(peer)).count();
        let own = usize::from(!self.gossip.following);
        let needed = ((alive + own) * usize::from(terms.quorum_percent)).div_ceil(100);
        let wait_ms = match deadline::close_after_ms(&offsets, &terms.deadline) {
            // Who follows takes what is there: it gives late neighbours a while more, and not the longest deadline.
            Some(wait_ms) if offsets.len() >= needed && self.gossip.following => {
                wait_ms.max(2 * terms.lost_after_ms).min(terms.deadline.cap_ms)
            }
            Some(wait_ms) if offsets.len() >= needed => wait_ms,
            _ => terms.deadline.cap_ms,
        };
        Some(self.gossip.opened.after_ms(wait_ms))
    }

    /// Mixes when every living neighbour's model is in, or at the deadline.
    pub(crate) fn try_to_mix(&mut self) {
        let Some(deadline) = self.mixing_deadline() else { return };
        let neighbours = self.neighbours();
        if self.now < deadline && neighbours.iter().any(|peer| self.is_awaited(peer)) {
            return;
        }
        let own = self.work.training.claim.as_ref().and_then(|claim| claim.verify().ok());
        let mut shares = Vec::new();
        let mut own_weight = 1.0;
        for &(peer, weight) in self.gossip.row.iter().filter(|(peer, _)| *peer != self.me) {
            let Some(held) = self.usable(&peer) else { continue };
            let (payload, bytes) = (held.claim().payload, held.claim().bytes);
            shares.push(Share {
                peer,
                payload,
                bytes,
                weight,
            });
        }
        if shares.len() + 1 == self.gossip.row.len() {
            // Nobody is missing: the weight that the graph gives, to the last bit.
            own_weight = self
                .gossip
                .row
                .iter()
                .find(|(peer, _)| *peer == self.me)
                .map_or(1.0, |own| own.1);
        } else {
            shares.iter().for_each(|share| own_weight -= share.weight);
        }
        let own = own
            .filter(|_| !self.gossip.following)
            .and_then(|claim| match claim.value() {
                Message::Update(claim) => Some(Share {
                    peer: self.me,
                    payload: claim.payload,
                    bytes: claim.bytes,
                    weight: own_weight,
                }),
                _ => None,
            });
        if own.is_none() && shares.is_empty() {
            // Nobody to follow yet: once more after another wait.
            self.gossip.open(self.now);
            return;
        }
        let round = self.round();
        self.compute(
            Job::Mix,
            Task::Mix {
                round,
                own,
                neighbours: shares,
            },
        );
    }

    pub(crate) fn on_mixed(&mut self, state: BlobId, bytes: u64, verdicts: Vec<MemberVerdict>, distance: f32) {
        // Who follows has mixed what the round begins with; else the round ends.
        let round = self.round() - u64::from(self.gossip.following);
        let entry = JournalEntry::Mixed { round, state, bytes };
        self.persist(entry.clone());
        let used: Vec<PeerId> = verdicts.iter().map(|verdict| verdict.peer).collect();
        let absent = self.neighbours().into_iter().filter(|peer| !used.contains(peer));
        let missing = absent.map(|peer| (peer, self.absence_of(&peer))).collect();
        for verdict in &verdicts {
            match verdict.outcome {
                Outcome::Undecodable => {
                    self.charge(Evidence::plain(verdict.peer, Reject::Undecodable, round, "blob"));
                }
                _ => self.reputation.forgive(&verdict.peer),
            }
        }
        self.gossip.distance = distance.is_finite().then_some(distance);
        let members = self.gossip.roster.len() as u32;
        self.event(Event::Mixed {
            round,
            state,
            verdicts,
            missing,
            members,
            distance,
        });
        self.gossip.last_claim = self.work.training.claim.take().or(self.gossip.last_claim.take());
        if std::mem::take(&mut self.gossip.following) {
            // What was brought in on the way here may be of rounds whose blobs go now.
            for held in self.gossip.claims.values_mut().flat_map(BTreeMap::values_mut) {
                (held.payload, held.attempts) = (Payload::Elsewhere, 0);
            }
        }
        self.enter_mixing_round(
            round + 1,
            entry,
            Base {
                state,
                bytes,
                held: true,
            },
        );
        self.drop_jobs(|job| matches!(job, Job::Train));
        // A model that came in `ahead` rounds early may be mixed as many rounds late.
        let keep_from = self.round().saturating_sub(1 + 2 * self.ahead());
        self.retire_before(keep_from);
        self.begin_mixing_round();
    }

    fn enter_mixing_round(&mut self, round: Round, entry: JournalEntry, base: Base) {
        self.gossip.round = round;
        self.gossip.last = Some(entry);
        self.base = Some(base);
        self.work = RoundWork::default();
        let oldest = round.saturating_sub(self.ahead());
        for claims in self.gossip.claims.values_mut() {
            *claims = claims.split_off(&oldest);
        }
    }

    fn absence_of(&self, peer: &PeerId) -> Absence {
        if self.reputation.is_banned(peer) {
            Absence::Refused
        } else if !self.is_alive(peer) {
            Absence::Lost
        } else if self
            .gossip
            .claims
            .get(peer)
            .is_some_and(|claims| claims.values().any(Held::is_given_up))
        {
            Absence::Withheld
        } else {
            Absence::Late
        }
    }

    /// Own payload or model cannot be read: the neighbours' have to do.
    pub(crate) fn on_mixing_failed(&mut self) {
        if self.gossip.following {
            // What was brought does not do: something newer has to come.
            for held in self.gossip.claims.values_mut().flat_map(BTreeMap::values_mut) {
                (held.payload, held.attempts) = (Payload::Elsewhere, FETCH_ATTEMPTS);
            }
            return self.gossip.open(self.now);
        }
        // Who has announced a model for this round announces no other: it goes on with the next one.
        self.follow_neighbours(self.round() + u64::from(self.work.training.claim.is_some()));
    }

    // ---- falling behind ---------------------------------------------------------------------------------------------

    /// A member that fell behind what claims may be mixed goes on where the others are.
    pub(crate) fn watch_lag(&mut self) {
        let Some(others) = self
            .round_of_others(|_| true)
            .filter(|_| self.is_mixing() && !self.is_finished())
        else {
            return;
        };
        if others > self.round().saturating_add(self.ahead()) && !self.has_job(&Job::Mix) {
            self.follow_neighbours(others);
        }
    }

    /// Takes the neighbours' models of round `round` in place of an own one. Nothing is signed on the way.
    fn follow_neighbours(&mut self, round: Round) {
        let listed = self.gossip.roster.has(&self.me, Role::Trainer);
        if !listed || self.leaving {
            return;
        }
        let waiting_for = format!("its neighbours' models of round {round}");
        self.event(Event::CatchingUp {
            round: self.round(),
            waiting_for,
        });
        self.drop_jobs(|job| matches!(job, Job::Train | Job::State));
        self.gossip.following = true;
        self.gossip.last_claim = None;
        self.gossip.round = round;
        self.work = RoundWork::default();
        self.begin_mixing_round();
    }

    pub(crate) fn is_following(&self) -> bool {
        self.gossip.following
    }

    // ---- heartbeats -------------------------------------------------------------------------------------------------

    pub(crate) fn on_heartbeat_of_mixing(&mut self, from: PeerId, beat: &Heartbeat) {
        if beat.settled.is_none() {
            self.on_catch_up(from, 0);
        }
    }

    /// Says again what may have been lost; once a heartbeat.
    pub(crate) fn repeat_to_mix(&mut self) {
        if self.leaving {
            let leave = self.sign(&Message::Leave { round: self.round() });
            self.gossip.goodbyes += 1;
            self.broadcast(leave);
            if self.gossip.has_said_goodbye() {
                let me = self.me;
                self.gossip.roster.remove(&me);
                self.drop_jobs(|_| true);
                self.announce_members();
            }
            return;
        }
        let founder = self.chain[0].body.roster.get(&self.me).is_some();
        if !founder {
            self.knock();
        }
        // The claim of this round is said by `train`; until there is one, who is a round behind may need the last.
        if let Some(claim) = self
            .gossip
            .last_claim
            .clone()
            .filter(|_| self.work.training.claim.is_none())
        {
            self.broadcast(claim);
        }
        self.train();
        self.bring_neighbours();
    }

    pub(crate) fn judge_mixing(&self) -> (Lifecycle, String) {
        let (alive, needed) = (self.trainers_alive(), self.info.terms.min_members as usize);
        if !self.gossip.roster.has(&self.me, Role::Trainer) {
            return (
                Lifecycle::Paused,
                "this node does not train, and has no part in mixing".into(),
            );
        }
        if alive < needed {
            let text = format!("{alive} trainers are heard, and {needed} are needed; it goes on when they are back");
            return (Lifecycle::Paused, text);
        }
        let neighbours = self.neighbours();
        let heard = neighbours.iter().filter(|peer| self.is_alive(peer)).count();
        (
            Lifecycle::Running,
            format!("{heard} of {} neighbours are heard", neighbours.len()),
        )
    }

    // ---- crash and restart ------------------------------------------------------------------------------------------

    pub(crate) fn restore_gossip(&mut self, entry: JournalEntry) {
        match &entry {
            JournalEntry::Mixed { round, state, bytes } => {
                let base = Base {
                    state: *state,
                    bytes: *bytes,
                    held: false,
                };
                self.enter_mixing_round(round + 1, entry, base);
            }
            JournalEntry::Entered(admission) => {
                if let Ok(verified) = admission.verify() {
                    self.note_entered(&verified.value().clone(), entry);
                }
            }
            JournalEntry::Departed(leave) => {
                if let Ok(verified) = leave.verify()
                    && let Message::Leave { round } = *verified.value()
                {
                    self.note_departed(verified.signer(), round, entry);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn snapshot_gossip(&self) -> impl Iterator<Item = JournalEntry> + '_ {
        self.gossip.statements.iter().chain(&self.gossip.last).cloned()
    }
}
