//! The one interface to what a peer remembers in records: sessions, journal, metadata, rounds, and links to blobs.
//! It holds no megabytes (see `blobs`), and it does not know what a journal entry or a metadata value means.

use serde::{Deserialize, Serialize};
use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::task::Round;

use crate::error::StoreError;

/// Result of every operation here.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A place for records. Calls block; what a call has written is durable when it returns.
///
/// A call writes all or nothing, whatever happens to the process. Calls from several threads take effect in some order.
pub trait Store: Send + Sync {
    /// Keeps this session, in place of an earlier record of the same id.
    fn put_session(&self, record: &SessionRecord) -> Result<()>;
    /// The record of one session.
    fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>>;
    /// All sessions, sorted by id.
    fn sessions(&self) -> Result<Vec<SessionRecord>>;
    /// Forgets a session with its journal, metadata, rounds and links. The blobs named in the answer
    /// are linked by no other session: their files can go.
    fn remove_session(&self, id: &SessionId) -> Result<Vec<BlobId>>;

    /// Adds one entry to a session's journal.
    fn append(&self, session: &SessionId, entry: &JournalEntry) -> Result<()>;
    /// A session's journal, in the order in which it was written.
    fn journal(&self, session: &SessionId) -> Result<Vec<JournalEntry>>;
    /// Puts these entries in place of the whole journal of a session, at once.
    fn replace_journal(&self, session: &SessionId, entries: &[JournalEntry]) -> Result<()>;

    /// Keeps a small value under a key.
    fn put_meta(&self, scope: Scope, key: &str, value: &[u8]) -> Result<()>;
    /// The value under a key.
    fn meta(&self, scope: Scope, key: &str) -> Result<Option<Vec<u8>>>;
    /// All keys that begin with `prefix`, sorted, with their values.
    fn metas(&self, scope: Scope, prefix: &str) -> Result<Vec<(String, Vec<u8>)>>;
    /// Forgets a key; that it is not there is no error.
    fn remove_meta(&self, scope: Scope, key: &str) -> Result<()>;

    /// Keeps a row of measurements of one round, in place of an earlier one.
    fn put_round(&self, session: &SessionId, round: Round, row: &[u8]) -> Result<()>;
    /// The rows of rounds from `from` on, in order.
    fn rounds(&self, session: &SessionId, from: Round) -> Result<Vec<(Round, Vec<u8>)>>;

    /// Notes that a round of a session needs a blob. A blob that nothing links to may be deleted at any start.
    fn link_blob(&self, session: &SessionId, link: &BlobLink) -> Result<()>;
    /// A session's links, sorted by round and blob.
    fn links(&self, session: &SessionId) -> Result<Vec<BlobLink>>;
    /// Whether any round of any session links to this blob.
    fn is_linked(&self, blob: &BlobId) -> Result<bool>;
    /// Drops a session's links of rounds before `keep_from`, except those to blobs in `keep`. The blobs named
    /// in the answer (sorted) have no link left, in any session: their files can go.
    fn retire(&self, session: &SessionId, keep_from: Round, keep: &[BlobId]) -> Result<Vec<BlobId>>;
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This node's own.
    Node,
    /// One session's; it goes with the session.
    Session(SessionId),
}

/// That a round needs a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobLink {
    /// The round.
    pub round: Round,
    /// The blob.
    pub blob: BlobId,
    /// Its length.
    pub bytes: u64,
}

/// What a node keeps of a session that it takes part in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// BLAKE3 of `config`.
    pub id: SessionId,
    /// The session's name, for people.
    pub name: String,
    /// The session configuration's canonical bytes.
    pub config: Vec<u8>,
    /// Where this node's own data for the session is; empty for a member that brings none. Records of one path are
    /// the same bytes as they were when there could be no more than one.
    pub data: Vec<String>,
    /// How this node came to the session, and whether it is still in it.
    pub standing: Standing,
    /// When the record was first made, in seconds since 1970.
    pub created_unix_s: u64,
    /// Addresses at which members may be found when no known one answers.
    pub bootstrap: Vec<String>,
}

/// How this node stands to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It created the session.
    Created,
    /// It joined by an invite key.
    Joined,
    /// It has left; the record stays for `export` and `show`.
    Left,
}
