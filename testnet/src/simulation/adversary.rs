//! Peers that do not follow the protocol: each runs the honest machine and bends what it computes, says or serves.
//! An adversary holds its own key only; it can repeat what others signed, and cannot sign for them.

use serde::Deserialize;
use synod_aggregation::EncodingConfig;
use synod_aggregation::attacks::{self, StaleReplay};
use synod_protocol::contract::Output;
use synod_protocol::identity::{BlobId, BodyId, Identity, PeerId, SessionId};
use synod_protocol::message::{Absence, Ballot, BallotWord, Message, Proposal, UpdateClaim, Vote};
use synod_protocol::reject::Reject;
use synod_protocol::shard::{ShardDone, ShardStatement, manifest};
use synod_protocol::signed::{Signed, Verified};
use synod_protocol::sum::{SumStatement, SumTask, SumWord};
use synod_protocol::task::{Task, TaskResult};
use synod_training::Done;

use super::dice::Dice;

/// One adversary of a scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversaryConfig {
    /// Which peer.
    pub peer: usize,
    /// What it does.
    pub does: Misdeed,
}

/// What an adversary does.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misdeed {
    /// Sends its update times this: negative ones flip the sign.
    Scale(f32),
    /// Sends random bytes for an update.
    Garbage,
    /// Sends an update of half the length.
    WrongLength,
    /// Sends a payload of this many bytes.
    Oversize(usize),
    /// Announces two different updates a round.
    Equivocate,
    /// Votes for a made-up body too, whenever it votes.
    DoubleVote,
    /// As coordinator, proposes different bodies to different members.
    DoublePropose,
    /// Sends again what it and others said before.
    Replay,
    /// Announces updates and does not serve them.
    Withhold,
    /// Serves other bytes than were asked for.
    WrongBytes,
    /// Computes wrong states, and proposes them as coordinator.
    Lie,
    /// Sends messages whose signature does not hold.
    Forge,
    /// Sends messages of another session.
    Foreign,
    /// Announces updates from another base.
    StaleBase,
    /// Announces a length that its payload does not have.
    Misstate,
    /// Announces the base state for its update.
    Copy,
    /// Never votes.
    Abstain,
    /// By quorum: sends no update, proposes different good bodies to different members, and tells each member that it votes
    /// for what that one found right.
    Collude,
    /// By quorum: hears nothing of this peer, so that it leaves it out and says that it is lost.
    Shun(usize),
    /// By quorum: says each of its proposals twice, once with a proof that is none.
    FalseProof,
    /// By quorum: proposes that it leaves, by its own word said twice.
    LeaveTwice,
    /// By quorum: proposes that it leaves and that nothing else changes, with another length of the state that stays.
    MisstateState,
    /// Says in its heartbeats that it is a thousand rounds ahead.
    Boast,
    /// Sends infinities and NaN, which only a decoder can refuse.
    NotFinite,
    /// Sends normal noise of this deviation.
    Gaussian(f32),
    /// Sends the update that it computed this many rounds before.
    Stale(usize),
    /// Adds to its update, in every coordinate, this much more each round.
    Drift(f32),
    /// Announces another member's payload as its own.
    FreeRide,
    /// In a secure sum, shows keys that are points of low order, with which nobody can share a secret.
    ShowWeakKeys,
    /// In a secure sum, shows keys that are too short.
    ShowShortKeys,
    /// In a secure sum, deals shares that do not open.
    DealGarbage,
    /// As coordinator of a secure sum, delivers other shares than were dealt, to have their dealers blamed.
    BendDelivery,
    /// In a secure sum, reveals wrong shares.
    LieInReply,
    /// In a secure sum, adds this many units of the ring to every coordinate under its mask, where nobody sees it.
    PoisonSum(u32),
    /// In a secure sum, says a weight under its mask that nobody can have.
    BreakSum,
    /// With shards, signs a wrong aggregate of each shard that falls to it, and serves it.
    LieInShard,
    /// With shards, combines and tells nothing.
    CombineNothing,
    /// As coordinator of a secure sum, asks each member for one secret of a survivor, and then for its other one.
    AskForBoth,
}

/// An adversary at work.
pub struct Adversary {
    misdeed: Misdeed,
    identity: Identity,
    session: SessionId,
    encoding: EncodingConfig,
    dice: Dice,
    /// Signed messages of this and other members, for repeating.
    heard: Vec<Signed<Message>>,
    /// Updates of its own, for sending late.
    own_updates: StaleReplay,
    /// Updates that it sent.
    sent: u64,
    /// The last claim of another member, for riding free.
    other_claim: Option<UpdateClaim>,
}

/// What goes out in place of the machine's outputs.
pub struct Bent {
    /// Outputs to execute.
    pub outputs: Vec<Output>,
    /// Peers that are handed something whose signature does not hold.
    pub forged: Vec<PeerId>,
}

/// As many messages as a replayer remembers.
const REMEMBERED: usize = 200;

impl Adversary {
    /// An adversary behind this identity.
    pub fn new(misdeed: Misdeed, identity: Identity, session: SessionId, encoding: EncodingConfig, dice: Dice) -> Self {
        Self {
            misdeed,
            identity,
            session,
            encoding,
            dice,
            heard: Vec::new(),
            own_updates: StaleReplay::new(match misdeed {
                Misdeed::Stale(rounds) => rounds,
                _ => 0,
            }),
            sent: 0,
            other_claim: None,
        }
    }

    /// What a peer gets that fetches from here: the bytes, other bytes, or nothing.
    pub fn serve(&self, bytes: Option<Vec<u8>>) -> Option<Vec<u8>> {
        match self.misdeed {
            Misdeed::Withhold => None,
            Misdeed::WrongBytes => bytes.map(|mut bytes| {
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                bytes
            }),
            _ => bytes,
        }
    }

    /// Whether it does as if what this peer says had not come.
    pub fn is_deaf_to(&self, peer: usize) -> bool {
        self.misdeed == Misdeed::Shun(peer)
    }

    /// Listens to a message that came in.
    pub fn hear(&mut self, message: &Verified<Message>) {
        match (self.misdeed, message.value()) {
            (Misdeed::Replay, _) => self.remember(message.signed().clone()),
            (Misdeed::FreeRide, Message::Update(claim)) => self.other_claim = Some(claim.clone()),
            _ => {}
        }
    }

    /// Bends what the worker computed.
    pub fn bend_result(&mut self, task: &Task, done: &mut Done) {
        match (task, &mut done.result) {
            (Task::Sum(sum), TaskResult::Trained { payload, .. }) if matches!(**sum, SumTask::Mask { .. }) => {
                let Some((id, bytes)) = done.blobs.iter_mut().find(|(id, _)| *id == *payload) else {
                    return;
                };
                self.bend_masked(bytes);
                *id = BlobId::of(bytes);
                *payload = *id;
            }
            (Task::Train { .. }, TaskResult::Trained { payload, bytes, .. }) => {
                let Some((_, honest)) = done.blobs.first() else { return };
                let bent = self.bend_payload(honest);
                (*payload, *bytes) = (BlobId::of(&bent), bent.len() as u64);
                done.blobs = vec![(*payload, bent)];
            }
            (_, TaskResult::Aggregated { state, .. } | TaskResult::Shard(ShardDone::Settled { state, .. }))
                if self.misdeed == Misdeed::Lie =>
            {
                *state = lie(*state, &mut done.blobs);
            }
            (_, TaskResult::Shard(ShardDone::Combined(combined))) if self.misdeed == Misdeed::LieInShard => {
                combined.part.blob = lie(combined.part.blob, &mut done.blobs);
            }
            (_, TaskResult::Shard(ShardDone::Trained { parts, .. })) => {
                for part in parts.iter_mut() {
                    let Some((id, bytes)) = done.blobs.iter_mut().find(|(id, _)| *id == part.blob) else {
                        return;
                    };
                    *bytes = self.bend_payload(bytes);
                    *id = BlobId::of(bytes);
                    (part.blob, part.bytes) = (*id, bytes.len() as u64);
                }
                let list = manifest(parts);
                done.blobs.push((BlobId::of(&list), list));
            }
            _ => {}
        }
    }

    /// Bends a masked update: a header of 12 bytes, a word a coordinate, and the weight (PROTOCOL.md, section 4.14).
    fn bend_masked(&self, bytes: &mut [u8]) {
        let (words, _) = bytes[12..].as_chunks_mut::<4>();
        let Some((weight, coordinates)) = words.split_last_mut() else {
            return;
        };
        match self.misdeed {
            Misdeed::PoisonSum(units) => {
                for word in coordinates {
                    *word = u32::from_le_bytes(*word).wrapping_add(units).to_le_bytes();
                }
            }
            Misdeed::BreakSum => *weight = u32::from_le_bytes(*weight).wrapping_add(1 << 20).to_le_bytes(),
            _ => {}
        }
    }

    /// Bends what the machine wants done. `others` are the members that it may talk to.
    pub fn bend(&mut self, outputs: Vec<Output>, others: &[PeerId]) -> Bent {
        let mut bent = Bent {
            outputs: Vec::with_capacity(outputs.len()),
            forged: Vec::new(),
        };
        for output in outputs {
            let message = match &output {
                Output::Send { message, .. } | Output::Broadcast(message) => message.verify().ok(),
                _ => None,
            };
            match message {
                Some(message) => self.bend_message(output, &message, others, &mut bent),
                None => bent.outputs.push(output),
            }
        }
        bent
    }

    fn bend_message(&mut self, output: Output, message: &Verified<Message>, others: &[PeerId], bent: &mut Bent) {
        let signed = message.signed().clone();
        match (self.misdeed, message.value()) {
            (Misdeed::Equivocate, Message::Update(claim)) => {
                let other = UpdateClaim {
                    payload: BlobId(self.dice.bytes()),
                    ..claim.clone()
                };
                let other = self.sign(&Message::Update(other));
                let pair = if self.dice.chance(0.5) {
                    [signed, other]
                } else {
                    [other, signed]
                };
                for message in pair {
                    bent.outputs.extend(others.iter().map(|to| Output::Send {
                        to: *to,
                        message: message.clone(),
                    }));
                }
            }
            (Misdeed::StaleBase, Message::Update(claim)) => {
                let stale = UpdateClaim {
                    base: BlobId(self.dice.bytes()),
                    ..claim.clone()
                };
                bent.outputs.push(same_way(output, self.sign(&Message::Update(stale))));
            }
            (Misdeed::Misstate, Message::Update(claim)) => {
                let longer = UpdateClaim {
                    bytes: claim.bytes + 1,
                    ..claim.clone()
                };
                bent.outputs.push(same_way(output, self.sign(&Message::Update(longer))));
            }
            (Misdeed::Copy, Message::Update(claim)) => {
                let copied = UpdateClaim {
                    payload: claim.base,
                    ..claim.clone()
                };
                bent.outputs.push(same_way(output, self.sign(&Message::Update(copied))));
            }
            (Misdeed::FreeRide, Message::Update(claim)) => {
                // Before it heard another claim of this round there is nothing to ride on.
                let other = self.other_claim.as_ref().filter(|other| other.round == claim.round);
                let copied = other.map_or(claim.clone(), |other| UpdateClaim {
                    payload: other.payload,
                    bytes: other.bytes,
                    ..claim.clone()
                });
                bent.outputs.push(same_way(output, self.sign(&Message::Update(copied))));
            }
            (Misdeed::DoubleVote, Message::Vote(vote)) => {
                let other = Vote {
                    body: BodyId(self.dice.bytes()),
                    ..*vote
                };
                let other = self.sign(&Message::Vote(other));
                bent.outputs.push(same_way(output.clone(), other));
                bent.outputs.push(output);
            }
            (Misdeed::DoubleVote, Message::Ballot(ballot)) => {
                let word = BallotWord::Prevote(Some(BodyId(self.dice.bytes())));
                let other = self.sign(&Message::Ballot(Ballot { word, ..*ballot }));
                bent.outputs.push(same_way(output.clone(), other));
                bent.outputs.push(output);
            }
            (Misdeed::Abstain, Message::Vote(_) | Message::Ballot(_)) => {}
            (Misdeed::CombineNothing, Message::Shard(statement))
                if matches!(**statement, ShardStatement::Result(_)) => {}
            (Misdeed::Collude, Message::Proposal(proposal)) => {
                self.propose_twice(output, signed, proposal, others, bent);
            }
            // It votes for all that it hears of, in `answer`; and a member without an update makes two bodies possible.
            (Misdeed::Collude, Message::Vote(_) | Message::Ballot(_) | Message::Update(_))
                if message.value().round() != Some(0) => {}
            (Misdeed::DoublePropose, Message::Proposal(proposal)) => {
                self.propose_twice(output, signed, proposal, others, bent);
            }
            (Misdeed::FalseProof | Misdeed::LeaveTwice | Misdeed::MisstateState, Message::Proposal(proposal))
                if proposal.body.round > 0 =>
            {
                self.bend_proposal(output, proposal, bent)
            }
            (Misdeed::Boast, Message::Heartbeat(beat)) => {
                let mut far = beat.clone();
                far.round += 1_000;
                bent.outputs.push(same_way(output, self.sign(&Message::Heartbeat(far))));
            }
            (
                Misdeed::ShowWeakKeys
                | Misdeed::ShowShortKeys
                | Misdeed::DealGarbage
                | Misdeed::BendDelivery
                | Misdeed::LieInReply
                | Misdeed::AskForBoth,
                Message::Sum(statement),
            ) => {
                self.bend_sum(output, statement, bent);
            }
            (Misdeed::Foreign, value) => {
                let session = SessionId(self.dice.bytes());
                bent.outputs
                    .push(same_way(output.clone(), Signed::new(&self.identity, session, value)));
                bent.outputs.push(output);
            }
            (Misdeed::Forge, _) => {
                if self.dice.chance(0.2) {
                    bent.forged
                        .extend(others.get(self.dice.below(others.len() as u64) as usize));
                }
                bent.outputs.push(output);
            }
            (Misdeed::Replay, _) => {
                self.remember(signed);
                bent.outputs.push(output);
                if let Some(old) = self.heard.get(self.dice.below(self.heard.len() as u64) as usize) {
                    bent.outputs.extend(others.iter().map(|to| Output::Send {
                        to: *to,
                        message: old.clone(),
                    }));
                }
            }
            _ => bent.outputs.push(output),
        }
    }

    /// What it says unasked to a message that came in: who found a body right hears, from it alone, that this peer did too,
    /// and votes for it.
    pub fn answer(&mut self, message: &Verified<Message>) -> Vec<Output> {
        let (Misdeed::Collude, Message::Ballot(Ballot { round, term, word })) = (self.misdeed, message.value()) else {
            return Vec::new();
        };
        let (BallotWord::Prevote(Some(body)), to) = (word, message.signer()) else {
            return Vec::new();
        };
        let first = self.sign(&Message::Ballot(Ballot {
            round: *round,
            term: *term,
            word: *word,
        }));
        let second = self.sign(&Message::Vote(Vote {
            round: *round,
            term: *term,
            body: *body,
        }));
        [first, second].map(|message| Output::Send { to, message }).into()
    }

    fn bend_sum(&mut self, output: Output, statement: &SumStatement, bent: &mut Bent) {
        let mut word = statement.word.clone();
        let mut first = None;
        match (self.misdeed, &mut word) {
            (Misdeed::ShowWeakKeys, SumWord::Keys(bytes)) => bytes.fill(0),
            (Misdeed::ShowShortKeys, SumWord::Keys(bytes)) => bytes.truncate(95),
            (Misdeed::DealGarbage, SumWord::Shares(shares) | SumWord::Delivery(shares)) => {
                // As coordinator it passes on what others dealt as it came.
                for share in shares
                    .iter_mut()
                    .filter(|share| share.signer() == self.identity.peer_id())
                {
                    *share = self.garble(share);
                }
            }
            (Misdeed::BendDelivery, SumWord::Delivery(shares)) => {
                for share in shares {
                    *share = self.garble(share);
                }
            }
            (Misdeed::LieInReply, SumWord::Reply(reply)) => {
                let shares = reply.of_survivors.iter_mut().chain(&mut reply.of_dropped);
                shares.for_each(|share| share[0] ^= 1);
            }
            (Misdeed::AskForBoth, SumWord::Request(request)) => {
                first = Some(output.clone());
                let dropped = request.survivors.pop();
                request.dropped.extend(dropped);
                request.dropped.sort_unstable();
            }
            _ => return bent.outputs.push(output),
        }
        let message = self.sign(&Message::Sum(Box::new(SumStatement {
            word,
            ..statement.clone()
        })));
        bent.outputs.extend(first);
        bent.outputs.push(same_way(output, message));
    }

    /// A share of other bytes, under this member's own signature: it has no other.
    fn garble(&self, share: &Signed<Message>) -> Signed<Message> {
        let Ok(verified) = share.verify() else {
            return share.clone();
        };
        let Message::Sum(statement) = verified.value() else {
            return share.clone();
        };
        let mut bent = (**statement).clone();
        if let SumWord::Share((_, bytes)) = &mut bent.word {
            bytes.fill(7);
        }
        self.sign(&Message::Sum(Box::new(bent)))
    }

    /// A proposal that is good but for one thing, by which a voter that does not look might be taken in.
    fn bend_proposal(&self, output: Output, proposal: &Proposal, bent: &mut Bent) {
        let (mut other, me) = (proposal.clone(), self.identity.peer_id());
        let (round, body) = (proposal.body.round, &mut other.body);
        if self.misdeed == Misdeed::FalseProof {
            let (term, word) = (proposal.term, BallotWord::Prevote(Some(body.id(&self.session))));
            let term = term.saturating_sub(1);
            other.justification = vec![self.sign(&Message::Ballot(Ballot { round, term, word }))];
            bent.outputs.push(output.clone());
            return bent
                .outputs
                .push(same_way(output, self.sign(&Message::Proposal(Box::new(other)))));
        }
        let leave = self.sign(&Message::Leave { round });
        (body.left, other.leaves) = (vec![me], vec![leave]);
        body.roster.remove(&me);
        if self.misdeed == Misdeed::LeaveTwice {
            other.leaves.extend_from_within(..);
        } else {
            let used = body.used.drain(..).map(|used| (used.update.peer, Absence::Late));
            body.missing.extend(used);
            body.missing.sort_by_key(|(peer, _)| *peer);
            (body.state, body.state_bytes) = (body.base, body.state_bytes + 1);
            other.claims.clear();
        }
        bent.outputs
            .push(same_way(output, self.sign(&Message::Proposal(Box::new(other)))));
    }

    /// Every second member gets a proposal that differs in what is harmless by itself: one update fewer, or another
    /// reason for an absence.
    fn propose_twice(
        &mut self,
        output: Output,
        signed: Signed<Message>,
        proposal: &Proposal,
        others: &[PeerId],
        bent: &mut Bent,
    ) {
        let mut other = proposal.clone();
        let lead = other
            .body
            .roster
            .succession()
            .into_iter()
            .find(|peer| *peer != other.body.lead);
        let late = other.body.missing.iter_mut().map(|(_, absence)| absence);
        let mut late = late.filter(|absence| **absence == Absence::Late);
        match (self.misdeed, late.next(), lead) {
            (Misdeed::Collude, Some(absence), _) => *absence = Absence::Refused,
            (_, _, Some(lead)) => other.body.lead = lead,
            _ => other.body.state = other.body.base,
        }
        let other = self.sign(&Message::Proposal(Box::new(other)));
        let half = |to: &PeerId| others.iter().position(|peer| peer == to).is_some_and(|at| at % 2 == 1);
        let choose = |to: &PeerId| if half(to) { other.clone() } else { signed.clone() };
        match output {
            Output::Send { to, .. } => bent.outputs.push(Output::Send {
                to,
                message: choose(&to),
            }),
            _ => bent.outputs.extend(others.iter().map(|to| Output::Send {
                to: *to,
                message: choose(to),
            })),
        }
    }

    fn bend_payload(&mut self, honest: &[u8]) -> Vec<u8> {
        match self.misdeed {
            Misdeed::Scale(by) => self.bend_values(honest, |_, values| attacks::scaled(values, by)),
            Misdeed::NotFinite => not_finite(honest),
            Misdeed::Gaussian(deviation) => self.bend_values(honest, |adversary, values| {
                let noise: Vec<f32> = values.iter().map(|_| adversary.normal()).collect();
                attacks::gaussian(values, &noise, deviation);
            }),
            Misdeed::Stale(_) => self.bend_values(honest, |adversary, values| {
                let stale = adversary.own_updates.send(values);
                values.copy_from_slice(&stale);
            }),
            Misdeed::Drift(per_round) => self.bend_values(honest, |adversary, values| {
                adversary.sent += 1;
                let direction = vec![1.0; values.len()];
                attacks::drift(values, &direction, f64::from(per_round), adversary.sent);
            }),
            Misdeed::Garbage => honest.iter().map(|_| self.dice.below(256) as u8).collect(),
            Misdeed::WrongLength => honest[..honest.len() / 2].to_vec(),
            Misdeed::Oversize(bytes) => vec![0; bytes],
            _ => honest.to_vec(),
        }
    }

    /// Decodes an update, bends its values, and encodes them again.
    fn bend_values(&mut self, honest: &[u8], bend: impl FnOnce(&mut Self, &mut [f32])) -> Vec<u8> {
        let encoder = self.encoding.build();
        // The dimension stands in the header, bytes 8 to 16.
        let dimension = honest
            .get(8..16)
            .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        let mut values = vec![0.0; dimension as usize];
        if encoder.decode(honest, &mut values).is_err() {
            return honest.to_vec();
        }
        bend(self, &mut values);
        let mut bytes = Vec::new();
        encoder.encode(&values, &mut bytes);
        bytes
    }

    /// About a standard normal number: the sum of twelve uniform ones, whose tails end at six.
    fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.dice.unit()).sum::<f64>() - 6.0) as f32
    }

    /// Keeps a sample of all that was ever heard: old messages are what a replayer wants.
    fn remember(&mut self, message: Signed<Message>) {
        if self.heard.len() < REMEMBERED {
            self.heard.push(message);
        } else if self.dice.chance(0.1) {
            let at = self.dice.below(REMEMBERED as u64) as usize;
            self.heard[at] = message;
        }
    }

    fn sign(&self, message: &Message) -> Signed<Message> {
        Signed::new(&self.identity, self.session, message)
    }
}

/// Changes one bit of the last value of a blob: still of its kind, only not the right one. Answers its new id.
fn lie(honest: BlobId, blobs: &mut [(BlobId, Vec<u8>)]) -> BlobId {
    let Some((id, bytes)) = blobs.iter_mut().find(|(id, _)| *id == honest) else {
        return honest;
    };
    if let Some(byte) = bytes.iter_mut().rev().nth(3) {
        *byte ^= 1;
    }
    *id = BlobId::of(bytes);
    *id
}

/// The update with all bits of its body set: no number in any encoding of floats, and no canonical form in any other.
fn not_finite(honest: &[u8]) -> Vec<u8> {
    let header = honest.len().min(16);
    let mut bytes = honest[..header].to_vec();
    bytes.resize(honest.len(), 0xff);
    bytes
}

/// What the receiver's transport says of a forged message.
pub const FORGED: Reject = Reject::BadSignature;

fn same_way(output: Output, message: Signed<Message>) -> Output {
    match output {
        Output::Send { to, .. } => Output::Send { to, message },
        _ => Output::Broadcast(message),
    }
}
