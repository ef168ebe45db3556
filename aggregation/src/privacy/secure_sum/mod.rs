//! Secure sums: a coordinator learns the weighted mean of 3 to 64 updates and no single one of them, also when members
//! drop out (double masking: Bonawitz et al. 2017). It sends, signs and waits for nothing: pure state machines.
//!
//! ```text
//! member                                   coordinator
//! Member::new, advert      ── KeyAdvert ──▶ take_advert … close_adverts
//! share                    ◀─ KeyRoster ──
//!                          ─ MemberShares ▶ take_shares … close_shares
//! mask                     ◀ ShareDelivery
//!                          ─ MaskedInput ─▶ take_input … close_inputs
//! unmask                   ◀ UnmaskRequest
//!                          ─ UnmaskReply ─▶ take_reply … finish → SecureMean
//! ```
//! Member i sends y_i = q_i + G(b_i) + Σ_{j>i} G(s_ij) − Σ_{j<i} G(s_ij) in Z_{2^32}: q_i its update in fixed point
//! ([`SumPlan`]), G a ChaCha20 stream, b_i its own seed, s_ij a key that it shares with j alone (X25519, BLAKE3). Pairwise
//! masks cancel in the sum of all. A member that dropped out after dealing its shares left masks behind, so t others
//! reveal shares of its mask key; for one that stayed they reveal shares of b_i. Never both of one member: its update would
//! lie open. Hence the second mask: an input that arrives after its sender was given up for lost stays masked by b_i.
//!
//! What must come from outside: signatures on adverts (else the coordinator poses as members), and one list of
//! survivors for all (else it asks some for b_i and others for i's key). With threshold t, lists that differ gain nothing
//! unless 2t − n members or more help the coordinator. docs/PRIVACY.md says what is protected against whom.

mod coordinator;
mod groups;
mod keys;
mod member;
mod messages;
mod opening;
mod plan;
mod shamir;

pub use coordinator::{Coordinator, SecureMean};
pub use groups::{check_groups, group_threshold, tolerated_faults};
pub use keys::SumSeed;
pub use member::{Member, Quantisation};
pub use messages::{
    KeyAdvert, KeyRoster, MAX_MESSAGE_BYTES, MaskedInput, MemberShares, SealedShare, ShareDelivery, SumMessage,
    UnmaskReply, UnmaskRequest,
};
pub use opening::{GroupMean, OpenedSum, Opening, open_sum};
pub use plan::{MAX_MEMBERS, MIN_MEMBERS, SumGroups, SumPlan, default_threshold};
pub(crate) use plan::{check_members, check_range, check_threshold, check_weight};

/// Why a secure sum cannot begin, go on, or end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SecureSumError {
    /// Too few members to hide in, or more than the protocol is made for.
    #[error("secure sum: {got} members, where {MIN_MEMBERS} to {MAX_MEMBERS} can take part")]
    Members {
        /// What was asked for.
        got: usize,
    },
    /// A threshold that is unsafe or cannot be met.
    #[error(
        "secure sum: threshold = {got} must lie in {at_least} to {members}; two thirds of the members and one is a good choice"
    )]
    Threshold {
        /// What was asked for.
        got: usize,
        /// The least safe one: with half of the members, two halves could be told different things.
        at_least: usize,
        /// All members.
        members: usize,
    },
    /// A clipping range that is none.
    #[error(
        "secure sum: range = {got} must be greater than 0 and at most 1e30; a few times an update's largest coordinate is a good choice"
    )]
    Range {
        /// What was asked for.
        got: f32,
    },
    /// Weights whose sum leaves the ring.
    #[error(
        "secure sum: max_weight = {got} must lie between 1 and {at_most}, so that all weights together stay below 2^32"
    )]
    MaxWeight {
        /// What was asked for.
        got: u32,
        /// The greatest possible.
        at_most: u32,
    },
    /// Noise in a weighted sum.
    #[error(
        "secure sum: noise needs equal weights, max_weight = 1, and it is {max_weight}: a weight would scale what one member can change"
    )]
    WeightedNoise {
        /// What was asked for.
        max_weight: u32,
    },
    /// Noise that cannot be added.
    #[error("secure sum: {reason}")]
    Noise {
        /// Why.
        reason: String,
    },
    /// No coordinates, or 2³² of them.
    #[error("secure sum: an update has at least one coordinate and fewer than 2^32 - 1")]
    NoCoordinates,
    /// A coordinator that adds everything up, in a sum of groups.
    #[error("secure sum: groups are added up apart, from the masked inputs; use the opening")]
    Grouped,
    /// Groups that hide nothing or cannot be formed.
    #[error("secure sum: groups of {got} among {members} members; a group has {MIN_MEMBERS} to {MAX_MEMBERS} members")]
    GroupSize {
        /// What was asked for.
        got: usize,
        /// All members.
        members: usize,
    },
    /// An index that is not of this sum or this stage.
    #[error("secure sum: member {member} has no part in this stage")]
    UnknownMember {
        /// Its index.
        member: u8,
    },
    /// A message for another member.
    #[error("secure sum: the shares are for member {member}")]
    WrongReceiver {
        /// Whom they are for.
        member: u8,
    },
    /// This member's keys are not in the roster, or not those that it sent.
    #[error("secure sum: the roster does not have the keys of member {member}, who is asked to share")]
    NotInRoster {
        /// The member.
        member: u8,
    },
    /// Two members under one key: one of them copied the other's.
    #[error("secure sum: members {first} and {second} show the same key")]
    SameKey {
        /// One of them.
        first: u8,
        /// The other.
        second: u8,
    },
    /// A key without a secret behind it.
    #[error("secure sum: the key of member {member} is a point of low order, which anyone could compute masks for")]
    WeakKey {
        /// Whose.
        member: u8,
    },
    /// A sealed share that does not open, or is for someone else.
    #[error("secure sum: the shares that member {dealer} dealt cannot be used")]
    MalformedShare {
        /// Who dealt it.
        dealer: u8,
    },
    /// A reply with another number of shares than were asked for.
    #[error("secure sum: member {member} answered with another number of shares than it was asked for")]
    MalformedReply {
        /// Who.
        member: u8,
    },
    /// Shares that do not give back what their owner announced: the owner dealt, or a holder returned, wrong ones.
    #[error("secure sum: the shares of member {owner}'s secret do not fit together; repeat the round without it")]
    WrongShares {
        /// Whose secret.
        owner: u8,
    },
    /// Fewer than the threshold are left.
    #[error(
        "secure sum: {found} members are left, and {threshold} are needed; repeat the round with those who are there"
    )]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many are needed.
        threshold: u8,
    },
    /// Asked for shares of both secrets of one member.
    #[error(
        "secure sum: member {member} is called both a survivor and dropped; with both secrets its update would lie open"
    )]
    BothSecrets {
        /// Whose.
        member: u8,
    },
    /// The sets in a request to unmask are not those that were masked with.
    #[error("secure sum: the request to unmask and the shares delivered disagree about member {member}")]
    InconsistentSets {
        /// One that is in one of them only.
        member: u8,
    },
    /// A second, different request to unmask.
    #[error("secure sum: another request to unmask was answered already; a second one could open an update")]
    AnotherRequest,
    /// A message before its time, or after it.
    #[error("secure sum: a message out of turn; {expected}")]
    OutOfTurn {
        /// What would be in turn.
        expected: &'static str,
    },
    /// A second, different message of one member for one stage.
    #[error("secure sum: member {member} sent a second, different message for one stage")]
    Twice {
        /// Who.
        member: u8,
    },
    /// A weight of zero, or above the plan's greatest.
    #[error("secure sum: weight = {got} must lie between 1 and {at_most}")]
    Weight {
        /// What was asked for.
        got: u32,
        /// The plan's greatest.
        at_most: u32,
    },
    /// An update that is no update.
    #[error("secure sum: value {index} is NaN or infinite")]
    NotFinite {
        /// Its coordinate.
        index: usize,
    },
    /// Noise asked for without a seed, or a seed without noise.
    #[error("secure sum: {}", if *.needed { "the plan asks for noise, and no seed for it was given" } else { "a seed for noise was given, and the plan has none" })]
    NoiseSeed {
        /// Whether one is needed.
        needed: bool,
    },
    /// The weights in the sum cannot be: some member sent a malformed input.
    #[error(
        "secure sum: weights of {got} in all where {at_least} to {at_most} are possible; some member sent a malformed input"
    )]
    TotalWeight {
        /// What came out.
        got: u32,
        /// One for each survivor.
        at_least: u64,
        /// The greatest weight for each.
        at_most: u64,
    },
    /// A message longer than any.
    #[error("secure sum: {found} bytes are more than the {MAX_MESSAGE_BYTES} of the longest message")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// A masked input of another length.
    #[error("secure sum: a masked input of length {found} where the plan's have {expected}")]
    InputLength {
        /// The plan's.
        expected: usize,
        /// The input's.
        found: usize,
    },
    /// Bytes that no encoder writes.
    #[error("secure sum: the bytes are no message in canonical form")]
    NotCanonical,
}
