//! The contract with the worker: what a machine asks to be computed and what comes back.
//! It carries ids and numbers only; tensors and bytes stay in the store.

use serde::{Deserialize, Serialize};

use crate::identity::{BlobId, PeerId};
use crate::shard::{ShardDone, ShardTask};
use crate::sum::{SumResult, SumTask};

/// Counts rounds; round 0 is the founding settlement, training begins with round 1.
pub type Round = u64;

/// Names one `Compute` or `Fetch`, so that its answer finds the asker. Never reused by a machine within a run.
pub type JobId = u64;

/// One piece of work for the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Make the session's initial state from its seed. Every member must get the same bytes.
    Initialise,
    /// Take local steps from `base` on this institution's data and encode the pseudo-gradient.
    Train {
        /// The round that the update is for.
        round: Round,
        /// The agreed state to start from.
        base: BlobId,
        /// How many steps, where members take them by their speed; None: the session's number.
        steps: Option<u32>,
    },
    /// Decode `updates` (sorted by peer), combine them by the session's rule and take the outer step from `base`.
    Aggregate {
        /// The round that is aggregated.
        round: Round,
        /// The agreed state that the updates started from.
        base: BlobId,
        /// The updates, sorted by peer; their payloads are in the store.
        updates: Vec<UpdateRef>,
    },
    /// Measure the loss of `state` on this institution's held-out data.
    Evaluate {
        /// The round that settled `state`.
        round: Round,
        /// The state to evaluate.
        state: BlobId,
    },
    /// Mix models by the session's way of mixing. Without an own one: the coordinate-wise median of the neighbours'.
    Mix {
        /// The round that is mixed.
        round: Round,
        /// This member's model after its local steps; none for one that lost it, or came late.
        own: Option<Share>,
        /// The neighbours' models that are here, sorted by peer; their payloads are in the store.
        neighbours: Vec<Share>,
    },
    /// A step of a secure sum.
    Sum(Box<SumTask>),
    /// A step of combining updates in parts.
    Shard(Box<ShardTask>),
}

/// A member's model in a mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Whose.
    pub peer: PeerId,
    /// The encoded model's content id.
    pub payload: BlobId,
    /// Its length.
    pub bytes: u64,
    /// What the graph lets it count for, in `0..=1`.
    pub weight: f64,
}

/// Where an update's payload is and what its sender says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRef {
    /// Who computed it.
    pub peer: PeerId,
    /// The encoded update's content id.
    pub payload: BlobId,
    /// The payload's length.
    pub bytes: u64,
    /// Tokens (or samples) that the update was computed from: the weight of a weighted mean.
    pub tokens: u64,
}

/// What a member reports of its own training. Self-declared: shown, never trusted.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainReport {
    /// Mean training loss over the local steps, in nats a token.
    pub train_loss: f32,
    /// Loss of the base state on this institution's held-out data, in nats a token; NaN if it has none.
    pub heldout_loss: f32,
    /// Tokens (or samples) seen.
    pub tokens: u64,
    /// Local optimizer steps taken.
    pub steps: u32,
    /// Time that training took, in milliseconds.
    pub wall_ms: u64,
}

impl TrainReport {
    /// Equality of bits: a loss that is not a number equals itself.
    pub fn same_bits(&self, other: &Self) -> bool {
        let bits = |report: &Self| (report.train_loss.to_bits(), report.heldout_loss.to_bits());
        let rest = |report: &Self| (report.tokens, report.steps, report.wall_ms);
        bits(self) == bits(other) && rest(self) == rest(other)
    }
}

/// How the rule judged one update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemberVerdict {
    /// Whose update.
    pub peer: PeerId,
    /// The share of this update in the aggregate, in `0..=1`; 0 where the rule left it out or could not decode it.
    pub weight: f32,
    /// What the rule says of it.
    pub outcome: Outcome,
}

/// The rule's judgement in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Used as it came.
    Used,
    /// Used, but clipped or trimmed in part.
    Clipped,
    /// Decoded but left out by the rule.
    Excluded,
    /// Not decodable: wrong length, not canonical, or not finite.
    Undecodable,
}

/// What the worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TaskResult {
    /// For `Task::Initialise`.
    Initialised {
        /// Content id of the state blob, which is in the store.
        state: BlobId,
        /// Its length.
        bytes: u64,
    },
    /// For `Task::Train`.
    Trained {
        /// Content id of the encoded update, which is in the store.
        payload: BlobId,
        /// Its length.
        bytes: u64,
        /// What the member says of it.
        report: TrainReport,
    },
    /// For `Task::Aggregate`.
    Aggregated {
        /// Content id of the new state blob, which is in the store.
        state: BlobId,
        /// Its length.
        bytes: u64,
        /// One verdict an update, in the order of the task.
        verdicts: Vec<MemberVerdict>,
    },
    /// For `Task::Evaluate`.
    Evaluated {
        /// Mean loss on this institution's held-out data, nats a token.
        loss: f32,
        /// Tokens it was measured on.
        tokens: u64,
    },
    /// For `Task::Mix`.
    Mixed {
        /// Content id of the member's new state, which is in the store.
        state: BlobId,
        /// Its length.
        bytes: u64,
        /// One verdict a share, sorted by peer, the member's own included where it has one.
        verdicts: Vec<MemberVerdict>,
        /// Root mean square of the distances ‖xⱼ − xᵢ‖₂ from the own model to the neighbours' before they were mixed;
        /// NaN without an own model or without neighbours.
        distance: f32,
    },
    /// For `Task::Sum`, where it gives neither an update nor a state, and for `Task::Train` in a session of secure sums.
    Sum(SumResult),
    /// For `Task::Shard`, and for `Task::Train` in a session with shards.
    Shard(ShardDone),
}

/// Why the worker has no result. The sentence is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskFailure {
    /// This node cannot do its part (data unreadable, disk full, out of memory): it says so and stays out.
    Environment(String),
    /// The updates do not allow a result (too few decodable ones for the rule).
    Unusable(String),
}
