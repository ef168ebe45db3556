//! What the network tells the driver: messages, connections, fetched blobs.
//! It carries bytes and never what they mean; signatures are checked above it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use synod_protocol::identity::{BlobId, PeerId, SessionId};

pub use super::queued::MessageBytes;

/// The caller's name of a fetch; answered under it exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Something happened on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// The control plane listens on this multiaddr (without `/p2p/…`).
    Listening(String),
    /// A message came. `from` is who handed it to us, proven by the transport; for gossip that is the last hop, not the
    /// author. `session` is the topic for gossip and none for a direct message.
    Message {
        /// The hop.
        from: PeerId,
        /// The gossip topic, if it came by gossip.
        session: Option<SessionId>,
        /// The message; its bytes count as queued until they are dropped.
        bytes: MessageBytes,
    },
    /// The first connection to a peer stands.
    Connected(PeerId),
    /// The last connection to a peer is gone.
    Disconnected(PeerId),
    /// A fetch ended, well or not.
    Fetched {
        /// As given to `fetch`.
        id: FetchId,
        /// As given to `fetch`.
        blob: BlobId,
        /// Where it came from, or why it did not come.
        outcome: Result<FetchedFrom, FetchFailure>,
        /// Holders that sent wrong bytes on the way, also when another one served it well.
        liars: Vec<PeerId>,
    },
}

/// A blob that is now in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedFrom {
    /// The holder that sent the last byte; none when the blob was in the store already.
    pub peer: Option<PeerId>,
    /// Bytes that travelled for it, lies and repeats included.
    pub bytes: u64,
    /// From the call to the commit, waiting included.
    pub took: Duration,
}

/// Why a blob could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// A holder sent bytes that do not belong to the blob, and no other holder had it.
    #[error("{peer} sent bytes that are not the blob's; it breaks the protocol: leave it out")]
    WrongDigest {
        /// Who.
        peer: PeerId,
    },
    /// A holder has the blob under another length than was announced, or the length is over the limit.
    #[error("the blob is {says} bytes long at {peer}, but {expected} were announced: one of the two is wrong")]
    WrongLength {
        /// Who.
        peer: PeerId,
        /// The announced length.
        expected: u64,
        /// The holder's length.
        says: u64,
    },
    /// The blob is in our own store, under another length than was announced.
    #[error("the blob is here already and {says} bytes long, but {expected} were announced: the announcement is wrong")]
    OtherLength {
        /// The announced length.
        expected: u64,
        /// The blob's length.
        says: u64,
    },
    /// The announced length is over `BLOB_MAX_BYTES`.
    #[error("the announced length of {expected} bytes is over the limit for blobs: it was not fetched")]
    TooLarge {
        /// The announced length.
        expected: u64,
    },
    /// Every holder answered that it does not have the blob.
    #[error("none of the named holders has the blob: ask other members")]
    NotFound,
    /// Every holder that answered refused.
    #[error("{peer} does not let us fetch: we are not on its roster, or not yet")]
    Denied {
        /// Who.
        peer: PeerId,
    },
    /// No holder was named, or the only one named is this node.
    #[error("no holder was named: nobody can be asked")]
    NoHolder,
    /// No holder could be reached before the time was up.
    #[error("none of the holders could be reached in time ({last}): see `node doctor`")]
    Unreachable {
        /// The last failure.
        last: String,
    },
    /// Bytes came, but not all before the time was up; what came is kept for the next try.
    #[error("the time was up after {bytes} bytes ({last}); what came is kept for the next try")]
    TimedOut {
        /// Verified bytes that are kept.
        bytes: u64,
        /// The last failure.
        last: String,
    },
    /// The caller wants it no more.
    #[error("the fetch was cancelled by its caller; what came is kept for the next try")]
    Cancelled,
    /// This machine's disk failed.
    #[error("the blob could not be written here ({0}): free space or repair the data directory")]
    Disk(String),
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerId,
    /// The multiaddrs of the open connections.
    pub addresses: Vec<String>,
    /// Whether every open connection passes through a relay.
    pub relayed: bool,
    /// The last round-trip time, once it was measured.
    pub round_trip: Option<Duration>,
    /// Its clock less ours when the connection was made, up to the time that the telling took, in milliseconds.
    pub clock_ahead_ms: Option<i64>,
    /// The peer's software, as it says.
    pub agent: Option<String>,
    /// How long it has been connected.
    pub connected_for: Duration,
    /// Where its bulk plane may be reached, best guess first.
    pub bulk_addresses: Vec<SocketAddr>,
}

/// Where this node can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListenInfo {
    /// The control plane's multiaddrs with `/p2p/…`, external ones first: ready for an invite.
    pub control: Vec<String>,
    /// The bulk plane's UDP and TCP addresses.
    pub bulk: Vec<SocketAddr>,
    /// What peers said about our reachability: `public`, `private` or `unknown`.
    pub reachability: String,
}
