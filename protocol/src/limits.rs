//! Every bound of the protocol, with its reason. A bound that is met refuses or drops; nothing grows without one.
//! Sizes of models and payloads are no constants of the protocol: a session states its own.

/// Bytes of one message on the wire. 1,000 members' settlement (about 200 bytes each) fits with room.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of a message that may go through gossip; larger ones go to each member directly.
/// Gossip multiplies every byte by the mesh degree.
pub const GOSSIP_BYTES: usize = 4096;

/// Members of one session. The settlement names each of them, and has to fit a message.
pub const MEMBERS: usize = 2048;

/// Members of a session by quorum. A proposal has up to 1,137 bytes for each place in it: two claims that convict its member,
/// a leave, an admission, and a vote of those by which the body is proposed again. All that may be proposed has to fit a
/// message with these votes, else a body that some are locked on could not be said again.
pub const QUORUM_MEMBERS: usize = 900;

/// Settlements in one catch-up answer; the asker asks again for more.
pub const CATCH_UP_SETTLEMENTS: usize = 16;

/// Members of a secure sum: keys and shares grow with their square.
pub const SUM_MEMBERS: usize = 64;

/// Shards of a session's vector: each costs two signed results in a proposal, and 34 bytes in each member's claim.
pub const SHARDS: usize = 64;

/// Rounds after which a message of an old round is a replay; before, the network may have been slow.
pub const LATE_ROUNDS: u64 = 2;

/// Runs of a peer whose heartbeat counts are kept, to tell an old heartbeat from a restart.
pub const BOOTS_KEPT: usize = 8;

/// Terms above its own that a member follows at once; a liar may not drive the count away.
pub const TERMS_AHEAD: u32 = 64;

/// Votes that a member in an earlier term is sent for one of its heartbeats, which is shorter than any of them.
pub const VOTES_AGAIN: usize = 64;

/// Admissions waiting for the next settlement.
pub const PENDING_ADMISSIONS: usize = 256;

/// Characters of a session's name.
pub const NAME_CHARS: usize = 64;

/// Bytes of a session's configuration (its canonical form travels in the admission).
pub const CONFIG_BYTES: usize = 64 * 1024;

/// Bootstrap addresses in an invite, and the length of each.
pub const INVITE_ADDRESSES: usize = 8;
/// Characters of one address.
pub const ADDRESS_CHARS: usize = 256;

/// Narrowings of one invite: each is a signature to check.
pub const INVITE_BLOCKS: usize = 8;

/// Bytes of evidence kept in memory for `status`, in pieces: the oldest goes first.
pub const EVIDENCE_KEPT: usize = 64;
