//! What happened: one vocabulary for operators' logs, metrics, tests and papers.
//! Events report; nothing is ever decided by reading them back.

use serde::{Deserialize, Serialize};

use crate::identity::{BlobId, BodyId, PeerId};
use crate::message::{Absence, Term};
use crate::reject::Reject;
use crate::session::Lifecycle;
use crate::task::{MemberVerdict, Round, TrainReport};

/// Something that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The machine was started; `round` tells where it continues.
    Started {
        /// The round that it will work on.
        round: Round,
    },
    /// The session's life moved on.
    LifecycleChanged {
        /// To this.
        lifecycle: Lifecycle,
        /// Because of this.
        reason: String,
    },
    /// A member was admitted by this node.
    Admitted {
        /// Who.
        peer: PeerId,
    },
    /// A joiner was turned away by this node.
    JoinRefused {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// The operator asked to leave, and this node may not.
    LeaveRefused {
        /// Why, and what to do.
        reason: String,
    },
    /// A round began for this member.
    RoundStarted {
        /// Which.
        round: Round,
        /// From this state.
        base: BlobId,
        /// Led by this member.
        coordinator: PeerId,
    },
    /// This member's local steps are done and its update is announced.
    UpdateReady {
        /// For this round.
        round: Round,
        /// Its content id.
        payload: BlobId,
        /// Its length.
        bytes: u64,
        /// How training went.
        report: TrainReport,
    },
    /// The coordinator (this node) took a member's update.
    UpdateAccepted {
        /// For this round.
        round: Round,
        /// Whose.
        peer: PeerId,
        /// Milliseconds after this coordinator began to collect.
        after_ms: u64,
    },
    /// The coordinator (this node) proposed a settlement.
    Proposed {
        /// Of this round.
        round: Round,
        /// In this term.
        term: Term,
        /// With this state.
        state: BlobId,
        /// From so many updates.
        updates: u32,
    },
    /// This member voted.
    Voted {
        /// In this round.
        round: Round,
        /// And term.
        term: Term,
        /// For this body.
        body: BodyId,
    },
    /// A round was settled and adopted.
    Settled {
        /// Which.
        round: Round,
        /// In this term.
        term: Term,
        /// The body's id.
        body: BodyId,
        /// The new state.
        state: BlobId,
        /// How each update was judged.
        verdicts: Vec<MemberVerdict>,
        /// Who was missing, and why.
        missing: Vec<(PeerId, Absence)>,
        /// Members of the next round.
        members: u32,
    },
    /// The coordinator was not heard; this member asks for the next term.
    CoordinatorLost {
        /// In this round.
        round: Round,
        /// The term that should begin.
        term: Term,
        /// Who was lost.
        lost: PeerId,
        /// Who should lead.
        next: PeerId,
    },
    /// This node took the coordinator's role over.
    TookOver {
        /// In this round.
        round: Round,
        /// With this term.
        term: Term,
    },
    /// This member lags and is fetching what it missed.
    CatchingUp {
        /// Its own round.
        round: Round,
        /// What it waits for.
        waiting_for: String,
    },
    /// A peer's message was refused.
    Rejected {
        /// Whose.
        peer: PeerId,
        /// Why.
        reject: Reject,
        /// The kind of message.
        kind: String,
        /// What is left of its reputation.
        reputation: i64,
    },
    /// A peer was cut off.
    Banned {
        /// Who.
        peer: PeerId,
    },
    /// This node cannot do its part of a round.
    TaskFailed {
        /// Of this round.
        round: Round,
        /// Why, and what to do.
        reason: String,
    },
    /// Held-out loss of the settled state on this institution's data.
    Evaluated {
        /// The round that settled it.
        round: Round,
        /// Nats a token.
        loss: f32,
        /// Measured on so many tokens.
        tokens: u64,
    },
    /// Without a coordinator: this member mixed its model with its neighbours', or took theirs.
    Mixed {
        /// In this round.
        round: Round,
        /// Its own new state.
        state: BlobId,
        /// How each model was judged, its own included.
        verdicts: Vec<MemberVerdict>,
        /// Neighbours without a model in time, and why.
        missing: Vec<(PeerId, Absence)>,
        /// Members as this one knows them.
        members: u32,
        /// Root mean square distance from the own model to the neighbours' before mixing; NaN where there was none.
        distance: f32,
    },
    /// All rounds are settled.
    Finished {
        /// The last round.
        round: Round,
        /// The session's result.
        state: BlobId,
    },
}
