//! What `node status --json` and `node log --json` print, as far as tests and the demo read it.
//! Keys that are not listed here are ignored; the whole answer is `node::api::types`.

use serde::Deserialize;

/// `node status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeStatus {
    /// The node's id.
    pub peer: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Peers connected now.
    pub peers_connected: usize,
    /// Message bytes since it started.
    pub control_bytes: Bytes,
    /// Model and update bytes since it started.
    pub bulk_bytes: Bytes,
    /// Its sessions.
    pub sessions: Vec<SessionStatus>,
}

/// One session at one node.
#[derive(Debug, Clone, Deserialize)]
pub struct SessionStatus {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `gathering`, `running`, `paused` or `finished`.
    pub lifecycle: String,
    /// One sentence about what it waits for.
    pub explanation: String,
    /// Why the node does nothing in it any more, if so.
    pub stopped: Option<String>,
    /// The round being worked on, from 1.
    pub round: u64,
    /// Rounds in all.
    pub rounds: u64,
    /// The term within the round.
    pub term: u32,
    /// `idle`, `catching_up`, `training`, `exchanging`, `aggregating` or `settling`.
    pub phase: String,
    /// Local steps under way.
    pub progress: Option<Progress>,
    /// Who leads.
    pub coordinator: Option<String>,
    /// The last settled state.
    pub state: Option<String>,
    /// Its members.
    pub members: Vec<Member>,
    /// The newest settled round.
    pub last_round: Option<RoundRow>,
}

impl SessionStatus {
    /// All rounds are settled.
    pub fn is_finished(&self) -> bool {
        self.lifecycle == "finished"
    }

    /// Rounds that are settled here.
    pub fn settled(&self) -> u64 {
        self.last_round.as_ref().map_or(0, |row| row.round)
    }
}

/// Local steps under way.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Progress {
    /// Done.
    pub step: u32,
    /// In all.
    pub steps: u32,
    /// Loss of the last batch.
    pub loss: f32,
    /// Speed.
    pub tokens_per_s: Option<f32>,
}

/// One member as a node sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Who.
    pub peer: String,
    /// Whether it is the node that was asked.
    pub me: bool,
    /// As what.
    pub roles: String,
    /// Milliseconds since it was last heard.
    pub heard_ms_ago: Option<u64>,
    /// What is left of its reputation.
    pub reputation: i64,
    /// Settled rounds in a row without its update.
    pub absent_rounds: u32,
}

/// One settled round at one node.
#[derive(Debug, Clone, Deserialize)]
pub struct RoundRow {
    /// Which, from 1.
    pub round: u64,
    /// From the settlement before to this one, in milliseconds.
    pub wall_ms: u64,
    /// Digest of the model state that was settled.
    pub state: String,
    /// The coordinator's term: above 0 when another one took over.
    pub term: u32,
    /// Whose updates were used.
    pub participants: Vec<Participant>,
    /// The node's own training.
    pub own: Option<OwnReport>,
    /// Loss of the settled state on the node's held-out data.
    pub heldout_after: Option<f32>,
    /// Message bytes in the round.
    pub control_bytes: Bytes,
    /// Model and update bytes in the round.
    pub bulk_bytes: Bytes,
}

/// One update of a settled round.
#[derive(Debug, Clone, Deserialize)]
pub struct Participant {
    /// Whose.
    pub peer: String,
    /// Its share in the aggregate.
    pub weight: f32,
    /// `used`, `clipped`, `excluded` or `undecodable`.
    pub outcome: String,
}

/// A node's own training in a round.
#[derive(Debug, Clone, Deserialize)]
pub struct OwnReport {
    /// Mean loss over the local steps, in nats a token.
    pub train_loss: f32,
    /// Loss of the round's base on the node's held-out data.
    pub heldout_before: Option<f32>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Speed.
    pub tokens_per_s: f32,
    /// Local steps.
    pub steps: u32,
}

/// Bytes in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Bytes {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}
