//! What must survive a crash: each entry is durable before the machine acts on it.
//! It is a list of facts, replayed by `Machine::restore`; it knows no file format.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::{BlobId, PeerId};
use crate::invite::{Admission, BlockId};
use crate::message::{Message, Settlement, Term};
use crate::signed::Signed;
use crate::task::Round;

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum JournalEntry {
    /// A round was settled and adopted. Ends the meaning of every entry of that round below.
    Settled(Arc<Settlement>),
    /// This member's own update: no other one may be signed for the round.
    Claimed {
        /// The round.
        round: Round,
        /// The claim as it is sent.
        claim: Signed<Message>,
    },
    /// This member votes in no earlier term of the round.
    Promised {
        /// The round.
        round: Round,
        /// The lowest term it still votes in.
        term: Term,
    },
    /// This member voted for a proposal.
    Voted {
        /// The round.
        round: Round,
        /// The term.
        term: Term,
        /// The proposal, to be shown to a next coordinator.
        proposal: Signed<Message>,
    },
    /// This member proposed a settlement in a term that it leads: no other one may be signed for the term.
    Proposed {
        /// The round.
        round: Round,
        /// The term.
        term: Term,
        /// The proposal as it is sent.
        proposal: Signed<Message>,
    },
    /// This node's own admission to the session.
    OwnAdmission(Signed<Admission>),
    /// As an issuer: a peer was admitted on these blocks of an invite, one use of each.
    Admitted {
        /// The admission given.
        admission: Signed<Admission>,
        /// The invite's blocks whose uses it counts against.
        blocks: Vec<BlockId>,
    },
    /// As an issuer: a block of an invite is void.
    Revoked(BlockId),
    /// A member was found to misbehave provably, or below the ban threshold.
    Banned(PeerId),
    /// This node's operator took it out of the session.
    Left,
    /// Without a coordinator: this member mixed its model in a round. Ends the meaning of its claim for it.
    Mixed {
        /// The round that ended.
        round: Round,
        /// This member's model since.
        state: BlobId,
        /// Its length.
        bytes: u64,
    },
    /// Without a coordinator: a member entered this member's view of the roster.
    Entered(Signed<Admission>),
    /// Without a coordinator: a member left it, by its own word.
    Departed(Signed<Message>),
    /// This member is about to reveal shares of a secure sum's secrets: it answers no other request of the round.
    Unmasked {
        /// The round.
        round: Round,
        /// The term.
        term: Term,
    },
    /// By quorum: what this member took in before it spoke, in order. Taken in again, it makes the same member, which says the
    /// same.
    Ballots {
        /// The round.
        round: Round,
        /// What it took in since the last such entry.
        inputs: Vec<BallotInput>,
    },
}

/// What an agreement by quorum takes in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum BallotInput {
    /// A term began.
    Began(Term),
    /// A proposal came, and was examined.
    Proposed {
        /// As its proposer signed it.
        proposal: Signed<Message>,
        /// Whether it holds.
        valid: bool,
    },
    /// A vote of either stage.
    Voted(Signed<Message>),
    /// Votes of the first stage of one term for one body, of more than two thirds: they came with a proposal that rests on
    /// them, and count also where one of them contradicts what its signer said here.
    Proved(Vec<Signed<Message>>),
    /// A wait was over.
    TimedOut(Term, BallotWait),
}

/// What is waited for in a term, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BallotWait {
    /// The proposal.
    Proposal,
    /// More votes of the first stage.
    Prevotes,
    /// More votes of the second stage.
    Votes,
}

impl JournalEntry {
    /// The round after whose settlement the entry means nothing any more; None: it is kept for the session's life.
    pub fn expires_with(&self) -> Option<Round> {
        match self {
            JournalEntry::Claimed { round, .. }
            | JournalEntry::Promised { round, .. }
            | JournalEntry::Voted { round, .. }
            | JournalEntry::Proposed { round, .. }
            | JournalEntry::Unmasked { round, .. }
            | JournalEntry::Ballots { round, .. } => Some(*round),
            _ => None,
        }
    }
}
