//! Why a peer's message was refused, and what that costs the peer.
//! A refusal is data for the score, the log and the evidence list; it is never an error of this node.

use serde::{Deserialize, Serialize};

use crate::identity::PeerId;

/// What was wrong with what a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reject {
    /// Does not decode, or is over a limit.
    #[error("malformed message")]
    Malformed,
    /// The signature is not the signer's.
    #[error("bad signature")]
    BadSignature,
    /// For a session that this machine is not in.
    #[error("message of another session")]
    ForeignSession,
    /// From somebody who is not a member, or lacks the role for it.
    #[error("sender is not entitled to this message")]
    NotEntitled,
    /// For a round that was settled just now: honest when the network is slow.
    #[error("late: the round is settled")]
    Late,
    /// For a round settled long ago.
    #[error("replayed: the round was settled long ago")]
    Replay,
    /// An update that does not start from the round's base.
    #[error("update does not start from the agreed base")]
    StaleBase,
    /// A payload or state longer than the session allows.
    #[error("payload over the session's limit")]
    Oversize,
    /// Bytes that do not hash to the id that was promised.
    #[error("bytes do not match their digest")]
    WrongDigest,
    /// An announced payload that its owner did not deliver.
    #[error("announced payload could not be fetched")]
    Withheld,
    /// A payload that does not decode to a finite update of the right length.
    #[error("payload does not decode")]
    Undecodable,
    /// Two different updates, proposals or votes for one round and term.
    #[error("equivocation: two different statements for one round")]
    Equivocation,
    /// A proposal whose claims, roster or justification do not hold.
    #[error("proposal is not justified")]
    BadProposal,
    /// A proposal whose state is not what its updates give.
    #[error("proposed state is not what its updates give")]
    WrongState,
    /// A settlement whose votes do not hold.
    #[error("settlement without the votes it needs")]
    BadSettlement,
    /// Shares of a secure sum's secret that do not give what its owner announced.
    #[error("shares that do not give the secret that was announced")]
    WrongShares,
    /// A request of a secure sum that would lay one member's update open.
    #[error("asked for shares that would lay one member's update open")]
    SinglesOut,
}

impl Reject {
    /// Points off the sender's reputation. Zero where honest peers on a lossy network do the same.
    pub fn cost(self) -> u32 {
        match self {
            Reject::Late => 0,
            Reject::Withheld => 2,
            Reject::NotEntitled | Reject::ForeignSession | Reject::Replay => 5,
            Reject::StaleBase => 10,
            Reject::Malformed | Reject::BadSignature | Reject::Oversize | Reject::Undecodable => 25,
            Reject::WrongDigest | Reject::BadSettlement | Reject::WrongShares => 50,
            Reject::BadProposal | Reject::WrongState | Reject::Equivocation | Reject::SinglesOut => 100,
        }
    }
}

/// One refusal as it is kept for the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Who is charged.
    pub peer: PeerId,
    /// With what.
    pub reject: Reject,
    /// In which round of ours.
    pub round: u64,
    /// The kind of message.
    pub kind: String,
    /// The signed statements themselves, hex-encoded wire form, where they prove it; at most two.
    pub statements: Vec<String>,
}
