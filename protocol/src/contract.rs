//! The contract between a machine and its driver: what goes in, what comes out, and what each side may rely on.
//! It is plain data; nothing here decides or executes.
//!
//! The driver promises:
//! 1. Outputs are executed in order, and `Persist` is durable before the next output of the list is executed.
//! 2. Every `Compute` and every `Fetch` is answered exactly once, by `Computed` or `Fetched` with the same job,
//!    also when it was cancelled or failed. A blob that a result names is in the store before the answer.
//! 3. `now` never goes back. `Tick` comes at or after `next_deadline()`; coming more often does no harm.
//! 4. Messages were verified ([`Signed::verify`](crate::signed::Signed::verify)); that proves the signer and nothing else.
//!
//! The driver may assume:
//! 1. `handle` never fails, never blocks and never panics on what peers send.
//! 2. `Send` and `Broadcast` may be lost, late, doubled or reordered: the machine repeats what matters.
//! 3. Answers to unknown jobs are ignored.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::identity::{BlobId, PeerId};
use crate::invite::BlockId;
use crate::journal::JournalEntry;
use crate::message::Message;
use crate::reject::Reject;
use crate::signed::{Signed, Verified};
use crate::task::{JobId, Round, Task, TaskFailure, TaskResult};

/// Milliseconds since the Unix epoch as the driver saw it when it began, and monotonic from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// This many milliseconds later.
    pub fn after_ms(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 if it is later.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What happened, as the driver tells the machine.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A verified message came in.
    Message {
        /// What its signer says.
        message: Verified<Message>,
        /// The peer that handed it over itself, if it did not come by gossip: who carries another's old words is
        /// charged for that, not the one who once signed them.
        carrier: Option<PeerId>,
    },
    /// `from` handed over something that is no verified message of this session.
    Refused {
        /// Who handed it over (the transport's peer, proved by the transport).
        from: PeerId,
        /// What was wrong.
        reject: Reject,
    },
    /// The worker's answer.
    Computed {
        /// To this job.
        job: JobId,
        /// Its result.
        result: Result<TaskResult, TaskFailure>,
    },
    /// The network's answer.
    Fetched {
        /// To this job.
        job: JobId,
        /// Whether the blob is now in the store, verified.
        result: Result<(), FetchFailure>,
    },
    /// The operator's word.
    Command(Command),
}

/// What an operator asks of one session's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Void a block of an invite that this node issued.
    Revoke(BlockId),
    /// Leave the session at the next border between rounds.
    Leave,
}

/// Why a blob is not in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchFailure {
    /// This peer sent bytes that do not hash to the id.
    WrongDigest(PeerId),
    /// This peer's blob is longer or shorter than was announced.
    Oversize(PeerId),
    /// The store has this blob, and it is longer or shorter than was announced.
    OtherLength,
    /// Nobody who was asked has it, or could be reached, in time.
    Unavailable,
    /// This node cannot keep it (the disk is full, say).
    Environment(String),
}

/// What the machine wants done.
#[derive(Debug, Clone, Serialize)]
pub enum Output {
    /// Make this durable before anything that follows.
    Persist(JournalEntry),
    /// Send this to one peer (who may be no member yet).
    Send {
        /// To whom.
        to: PeerId,
        /// What.
        message: Signed<Message>,
    },
    /// Send this to all members.
    Broadcast(Signed<Message>),
    /// Have the worker do this.
    Compute {
        /// The name for the answer.
        job: JobId,
        /// The work.
        task: Task,
    },
    /// Stop that computation or fetch if it has not ended; it is answered all the same.
    Cancel(JobId),
    /// Bring this blob into the store; if it is there, answer at once.
    Fetch {
        /// The name for the answer.
        job: JobId,
        /// Which blob.
        blob: BlobId,
        /// Its length; more is refused.
        bytes: u64,
        /// Who should have it, likeliest first.
        from: Vec<PeerId>,
        /// Give up after this many milliseconds.
        within_ms: u64,
    },
    /// Members changed: keep connections to these, serve blobs to these.
    Members(Vec<PeerId>),
    /// Cut this peer off.
    Ban(PeerId),
    /// Blobs that only rounds before this one need may be dropped.
    Retire {
        /// The first round whose blobs are still needed.
        keep_from: Round,
        /// States that stay whatever their round.
        keep: Vec<BlobId>,
    },
    /// Tell whoever listens.
    Event(Event),
}
