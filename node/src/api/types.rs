//! What goes through the node's door: requests and answers as JSON, with ids in their printed forms.
//! These types are the API; nothing of the protocol's own encoding shows through.

use serde::{Deserialize, Serialize};
use synod_protocol::contract::Time;
use synod_protocol::message::Phase;
use synod_protocol::session::Lifecycle;
use synod_protocol::status::{MemberStatus, SessionStatus};
use synod_storage::store::Standing;

use crate::failure::{Failure, Fault};
use crate::requirements::Need;
use crate::rounds::{Bytes, RoundRow};
use crate::session_runtime::SessionRuntime;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// This node's id.
    pub peer: String,
    /// Its software.
    pub version: String,
    /// Its folder.
    pub data_dir: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Multiaddrs under which it can be reached, as invites carry them.
    pub listen: Vec<String>,
    /// Addresses of its bulk plane.
    pub listen_bulk: Vec<String>,
    /// What peers say of its reachability.
    pub reachability: String,
    /// Where it computes.
    pub device: String,
    /// Peers connected now.
    pub peers_connected: usize,
    /// Message bytes since it started.
    pub control_bytes: Bytes,
    /// Model and update bytes since it started.
    pub bulk_bytes: Bytes,
    /// Its sessions.
    pub sessions: Vec<SessionView>,
}

/// One session on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// The session's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How this node came to it.
    pub standing: Standing,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// One sentence: what it waits for, or why it does not go on.
    pub explanation: String,
    /// Why this node does nothing in it any more, if so.
    pub stopped: Option<String>,
    /// Whether this node has left it.
    pub left: bool,
    /// Why this node could not do its part of a round lately, if so.
    pub trouble: Option<String>,
    /// The round being worked on.
    pub round: u64,
    /// Rounds in all.
    pub rounds: u64,
    /// The term within the round.
    pub term: u32,
    /// What this node is doing.
    pub phase: Phase,
    /// Local steps of the running training.
    pub progress: Option<ProgressView>,
    /// Who leads.
    pub coordinator: Option<String>,
    /// Who founded it.
    pub creator: String,
    /// The last settled state.
    pub state: Option<String>,
    /// Votes that a settlement needs.
    pub majority: usize,
    /// In a decentralized session: how far the neighbours' models were from this one before they were mixed last.
    #[serde(default)]
    pub distance: Option<f32>,
    /// Where this node's data is.
    pub data: Vec<String>,
    /// Its members.
    pub members: Vec<MemberView>,
    /// What peers were charged with lately.
    pub evidence: Vec<EvidenceView>,
    /// The newest row of `node log`.
    pub last_round: Option<RoundRow>,
}

/// Local steps under way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Done.
    pub step: u32,
    /// In all.
    pub steps: u32,
    /// Loss of the last batch.
    pub loss: f32,
    /// Speed.
    pub tokens_per_s: Option<f32>,
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Who.
    pub peer: String,
    /// Whether it is this node.
    pub me: bool,
    /// As what.
    pub roles: String,
    /// Milliseconds since it was last heard.
    pub heard_ms_ago: Option<u64>,
    /// What it said that it was doing.
    pub phase: Option<Phase>,
    /// Its round by its own word.
    pub round: Option<u64>,
    /// What is left of its reputation.
    pub reputation: i64,
    /// Settled rounds in a row without its update.
    pub absent_rounds: u32,
}

/// One charge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvidenceView {
    /// Against whom.
    pub peer: String,
    /// What.
    pub reject: String,
    /// In which round.
    pub round: u64,
    /// In what kind of message.
    pub kind: String,
    /// The signed statements that prove it, in their wire form, hexadecimal; none where a refusal rests on this node's word.
    pub statements: Vec<String>,
}

impl SessionView {
    /// A session as it is now.
    pub fn of(runtime: &SessionRuntime, now: Time) -> Self {
        let SessionStatus {
            session,
            me,
            lifecycle,
            explanation,
            round,
            rounds,
            phase,
            coordinator,
            term,
            state,
            majority,
            distance,
            members,
            evidence,
            ..
        } = runtime.machine.status(now);
        let progress = runtime.compute.as_ref().and_then(|compute| compute.activity().progress);
        Self {
            id: session.to_string(),
            name: runtime.record.name.clone(),
            standing: runtime.record.standing,
            lifecycle,
            explanation,
            stopped: runtime.stopped.clone(),
            left: runtime.machine.is_out(),
            trouble: runtime.trouble.clone(),
            round,
            rounds,
            term,
            phase,
            progress: progress.map(|now| ProgressView {
                step: now.step,
                steps: now.steps,
                loss: now.loss,
                tokens_per_s: now.tokens_per_second,
            }),
            coordinator: coordinator.map(|peer| peer.to_string()),
            creator: runtime.config.creator.to_string(),
            state: state.map(|state| state.to_string()),
            majority,
            distance,
            data: runtime.record.data.clone(),
            members: members
                .iter()
                .map(|member| MemberView::of(member, me == member.peer))
                .collect(),
            evidence: evidence
                .iter()
                .map(|one| EvidenceView {
                    peer: one.peer.to_string(),
                    reject: one.reject.to_string(),
                    round: one.round,
                    kind: one.kind.clone(),
                    statements: one.statements.clone(),
                })
                .collect(),
            last_round: runtime.book.last().cloned(),
        }
    }
}

impl MemberView {
    fn of(member: &MemberStatus, me: bool) -> Self {
        Self {
            peer: member.peer.to_string(),
            me,
            roles: member.roles.to_string(),
            heard_ms_ago: member.heard_ms_ago,
            phase: member.phase,
            round: member.round,
            reputation: member.reputation,
            absent_rounds: member.absent_rounds,
        }
    }
}

/// `GET /v1/sessions/{session}/config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigView {
    /// The canonical bytes, whose hash is the session's id.
    pub canonical_hex: String,
    /// The same for people.
    pub config: serde_json::Value,
    /// What the session promises of its members' privacy, in a sentence.
    pub privacy: String,
}

/// `POST /v1/sessions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateSession {
    /// The session file's text.
    pub file: String,
    /// What the file is called in errors.
    pub place: String,
    /// A name in place of the file's.
    pub name: Option<String>,
    /// Where this node's data is (absolute paths).
    #[serde(default)]
    pub data: Vec<String>,
    /// The session's tokenizer (an absolute path), where the session has one that is not on this node yet.
    #[serde(default)]
    pub tokenizer: Option<String>,
}

/// Answers `POST /v1/sessions` and `POST /v1/join`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// The session's id.
    pub session: String,
    /// Its name.
    pub name: String,
    /// This node's roles in it.
    pub roles: String,
    /// What the operator should look at, if anything.
    pub notes: Vec<String>,
}

/// `POST /v1/sessions/{session}/invites`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MintInvite {
    /// Roles, separated by commas.
    pub roles: String,
    /// Seconds from now until it expires.
    pub expires_in_s: u64,
    /// How many may join with it.
    pub uses: u32,
    /// Addresses to put in, in place of this node's own.
    pub addresses: Vec<String>,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Minted {
    /// The printed key. Treat it like a password.
    pub key: String,
    /// Names it, for revoking.
    pub block: String,
    /// Seconds since the Unix epoch.
    pub expires_unix_s: u64,
}

/// `GET /v1/sessions/{session}/invites`: one key that this node issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteView {
    /// Names it, for revoking.
    pub block: String,
    /// Roles that it gives; none for a key that somebody narrowed from one of this node's.
    pub roles: Option<String>,
    /// How many may join with it; none for a narrowed one.
    pub uses: Option<u32>,
    /// How many were admitted on it, or on keys narrowed from it.
    pub spent: u32,
    /// How many more may join.
    pub left: Option<u32>,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_unix_s: Option<u64>,
    /// When it was made.
    pub minted_unix_s: Option<u64>,
    /// Whether it still opens.
    pub standing: InviteStanding,
}

/// Whether a key still opens, by the issuer's clock and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InviteStanding {
    /// Somebody may join with it.
    Open,
    /// All its uses are spent.
    UsedUp,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
    /// It was narrowed by a holder, who alone knows what it permits; somebody has joined with it.
    Narrowed,
}

/// `POST /v1/sessions/{session}/revoke`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RevokeInvite {
    /// The key, its name, or the beginning of its name.
    pub invite: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The key's name.
    pub block: String,
    /// Whether it was void before.
    pub already: bool,
    /// How many have joined with it, or with keys narrowed from it; they stay.
    pub spent: u32,
}

/// `POST /v1/join`, and `POST /v1/join/preview`, which only says what is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinSession {
    /// The invite key.
    pub key: String,
    /// Where this node's data is (absolute paths).
    #[serde(default)]
    pub data: Vec<String>,
    /// The session's tokenizer (an absolute path); without it, the one that is on this node, or else the issuer's.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// How long to wait for the issuer.
    pub patience_s: u64,
}

/// Answers `POST /v1/join/preview`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Whether nothing is missing.
    pub ready: bool,
    /// Each requirement, with what there is and what is needed.
    pub needs: Vec<Need>,
    /// The session's whole configuration, if its issuer has told it.
    pub config: Option<serde_json::Value>,
}

impl Preview {
    /// A preview of these.
    pub fn of(needs: Vec<Need>, config: Option<serde_json::Value>) -> Self {
        Self {
            ready: needs.iter().all(|need| need.good),
            needs,
            config,
        }
    }
}

/// `GET /v1/peers`: one connected peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Who.
    pub peer: String,
    /// Where.
    pub addresses: Vec<String>,
    /// Whether only through a relay.
    pub relayed: bool,
    /// Round-trip time.
    pub round_trip_ms: Option<f64>,
    /// Its software.
    pub agent: Option<String>,
    /// For how long.
    pub connected_s: u64,
    /// Names of sessions that we share.
    pub sessions: Vec<String>,
    /// Message bytes.
    pub control_bytes: Bytes,
    /// Model and update bytes.
    pub bulk_bytes: Bytes,
    /// Speed of the last transfer of a mebibyte or more from it, over one stream, in bytes a second.
    #[serde(default)]
    pub bytes_per_s: Option<u64>,
    /// Its clock less this machine's, when the connection was made, in milliseconds.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
}

/// What a request that failed is answered with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Whose fault.
    pub fault: Fault,
    /// What, where, what to do.
    pub error: String,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self {
            fault: failure.fault,
            error: failure.message,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            fault: problem.fault,
            message: problem.error,
        }
    }
}

/// An answer without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}
