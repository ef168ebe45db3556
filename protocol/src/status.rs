//! A machine's state as an operator may see it: for `node status`, dashboards and tests.
//! A snapshot; nothing is decided from it.

use serde::{Deserialize, Serialize};

use crate::identity::{BlobId, BodyId, PeerId, SessionId};
use crate::message::{Phase, Term};
use crate::reject::Evidence;
use crate::session::{Lifecycle, Roles};
use crate::task::Round;

/// One session on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The session.
    pub session: SessionId,
    /// This node.
    pub me: PeerId,
    /// Where the session is in its life.
    pub lifecycle: Lifecycle,
    /// One sentence: what it is waiting for, or why it is not going on.
    pub explanation: String,
    /// The round being worked on.
    pub round: Round,
    /// Rounds in all.
    pub rounds: Round,
    /// What this member is doing.
    pub phase: Phase,
    /// Who leads, if the session has begun.
    pub coordinator: Option<PeerId>,
    /// The term within the round.
    pub term: Term,
    /// The last settled body.
    pub settled: Option<BodyId>,
    /// The state that it settled.
    pub state: Option<BlobId>,
    /// Votes that a settlement needs.
    pub majority: usize,
    /// Without a coordinator: how far the neighbours' models were from this one before they were mixed last.
    pub distance: Option<f32>,
    /// The members, by id.
    pub members: Vec<MemberStatus>,
    /// What peers were charged with lately.
    pub evidence: Vec<Evidence>,
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Who.
    pub peer: PeerId,
    /// As what.
    pub roles: Roles,
    /// Milliseconds since it was last heard, if ever.
    pub heard_ms_ago: Option<u64>,
    /// What it said that it was doing.
    pub phase: Option<Phase>,
    /// Its round by its own word.
    pub round: Option<Round>,
    /// What is left of its reputation (100 is full).
    pub reputation: i64,
    /// Settled rounds in a row without its update.
    pub absent_rounds: u32,
}
