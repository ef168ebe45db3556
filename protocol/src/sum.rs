//! Secure sums as the protocol sees them: who may take part, what members and coordinator say, what the worker is asked.
//! Keys, shares and masks are opaque bytes here: the worker makes and opens them, and no secret of a living member is in a
//! message but sealed (the protocol is Bonawitz et al. 2017, "Practical secure aggregation").

use serde::{Deserialize, Serialize};

use crate::identity::{BlobId, PeerId, SessionId};
use crate::limits;
use crate::message::{Message, Term, UpdateClaim};
use crate::signed::Signed;
use crate::task::{Round, UpdateRef};

/// A secret of one sum, or a share of one. Becomes public only with a sum that it unmasks.
pub type SumSecret = [u8; 32];

/// That a session sums its updates securely. Comes from the session's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SumTerms {
    /// Members needed to unmask a sum; None: two thirds of the round's trainers and one.
    pub threshold: Option<u8>,
}

/// The fewest members of a sum: in a sum of two, each learns the other's update.
pub const LEAST_IN_A_SUM: usize = 3;

impl SumTerms {
    /// Members needed to unmask a sum that so many may take part in: more than half of them, whatever the configuration
    /// said when there were others, so that no two sets of that size are strangers to each other.
    pub fn needed(&self, trainers: usize) -> usize {
        let wanted = self.threshold.map_or(trainers * 2 / 3 + 1, usize::from);
        wanted.clamp((trainers / 2 + 1).min(trainers), trainers)
    }
}

/// One secure sum: of which round and term, among whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumScope {
    /// The round.
    pub round: Round,
    /// The term in which it was begun: a coordinator's loss begins another sum under fresh keys.
    pub term: Term,
    /// The round's trainers in the order of their ids; a member's index is its place.
    pub members: Vec<PeerId>,
    /// How many of them lift the masks.
    pub threshold: u8,
    /// Digest of all this and the session: it enters every key.
    pub context: [u8; 32],
}

impl SumScope {
    /// The sum of these.
    pub fn new(session: &SessionId, round: Round, term: Term, members: Vec<PeerId>, threshold: usize) -> Self {
        let threshold = u8::try_from(threshold).unwrap_or(u8::MAX);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"synod/sum/1\0");
        hasher.update(&session.0);
        hasher.update(&round.to_le_bytes());
        hasher.update(&term.to_le_bytes());
        hasher.update(&[threshold]);
        members.iter().for_each(|member| _ = hasher.update(&member.0));
        Self {
            round,
            term,
            members,
            threshold,
            context: *hasher.finalize().as_bytes(),
        }
    }
}

/// What is said in a secure sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SumStatement {
    /// The round.
    pub round: Round,
    /// The term.
    pub term: Term,
    /// What.
    pub word: SumWord,
}

/// Bytes that one member sealed for another, or that were sealed for it, with the other's name.
pub type Sealed = (PeerId, Vec<u8>);

/// One step of a secure sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SumWord {
    /// Member to coordinator: my keys for this sum.
    Keys(Vec<u8>),
    /// Coordinator to members: the signed keys of those who take part, in the order of ids.
    Roster(Vec<Signed<Message>>),
    /// Member to coordinator: shares of my secrets, sealed for each other member of the roster, in the order of ids.
    Shares(Vec<Sealed>),
    /// Coordinator to one member: what the others sealed for you, in the order of ids. Mask with these.
    Delivery(Vec<Sealed>),
    /// Member to coordinator: my masked update is ready under this content id.
    Masked(UpdateClaim),
    /// Coordinator to the survivors: lift the masks of this sum.
    Request(SumRequest),
    /// Survivor to coordinator: my shares of the survivors' self-masks and of the dropped members' mask keys.
    Reply(SumReply),
    /// Member to coordinator of a later term: I have answered in this round, and answer no more.
    Spent,
}

/// Whose masks are to be lifted, and how. A member answers one a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumRequest {
    /// Members whose masked updates are in the sum, in the order of ids.
    pub survivors: Vec<PeerId>,
    /// Members who dealt shares and sent no update, in the order of ids.
    pub dropped: Vec<PeerId>,
}

/// A survivor's shares, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumReply {
    /// Of each survivor's self-mask.
    pub of_survivors: Vec<SumSecret>,
    /// Of each dropped member's mask key.
    pub of_dropped: Vec<SumSecret>,
}

/// What lifts the masks of a sum, in a proposal: every voter can subtract them itself. The secrets fit the signed keys, or
/// the proposal is a lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SumOpening {
    /// The term of the sum. A later term that must repeat the body repeats its opening.
    pub term: Term,
    /// The signed keys of those who dealt shares, in the order of ids.
    pub keys: Vec<Signed<Message>>,
    /// The seed of each survivor's self-mask, in the order of ids.
    pub seeds: Vec<SumSecret>,
    /// The mask key of each member that dealt and is no survivor, in the order of ids.
    pub mask_keys: Vec<SumSecret>,
}

/// Everything that the worker needs to subtract the masks of a sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSum {
    /// The sum.
    pub scope: SumScope,
    /// The keys of those who dealt, in the order of ids.
    pub keys: Vec<Sealed>,
    /// As in [`SumOpening::seeds`].
    pub seeds: Vec<SumSecret>,
    /// As in [`SumOpening::mask_keys`].
    pub mask_keys: Vec<SumSecret>,
}

/// Work of a secure sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SumTask {
    /// Make fresh keys for this sum, and forget those of any other.
    Keys(SumScope),
    /// Seal shares of the secrets behind them for these others.
    Share {
        /// The sum.
        scope: SumScope,
        /// The keys of the roster.
        keys: Vec<Sealed>,
    },
    /// Mask the update that the last training made.
    Mask {
        /// The sum.
        scope: SumScope,
        /// What the others sealed for this member.
        sealed: Vec<Sealed>,
    },
    /// Reveal the shares that are asked for.
    Answer {
        /// The sum.
        scope: SumScope,
        /// Of whose secrets.
        request: SumRequest,
    },
    /// As the coordinator: put secrets together from shares.
    Open {
        /// The sum.
        scope: SumScope,
        /// The keys of those who dealt.
        keys: Vec<Sealed>,
        /// What was asked.
        request: SumRequest,
        /// What was answered, and by whom.
        replies: Vec<(PeerId, SumReply)>,
    },
    /// Add up masked updates, subtract their masks, and take the outer step from `base`.
    Settle {
        /// The agreed state that the updates started from.
        base: BlobId,
        /// The masked updates, sorted by peer; their payloads are in the store.
        updates: Vec<UpdateRef>,
        /// What lifts their masks.
        open: OpenSum,
    },
}

/// What the worker answers to a [`SumTask`] that gives neither an update nor a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SumResult {
    /// The update is trained and waits to be masked.
    Trained,
    /// For `Keys`.
    Keys(Vec<u8>),
    /// For `Share`.
    Shares(Vec<Sealed>),
    /// For `Answer`.
    Answered(SumReply),
    /// For `Open`.
    Opened {
        /// As in [`SumOpening::seeds`].
        seeds: Vec<SumSecret>,
        /// As in [`SumOpening::mask_keys`].
        mask_keys: Vec<SumSecret>,
    },
    /// For `Open`: the shares of this member's secret do not give what its keys promise.
    Spoilt(PeerId),
}

impl SumStatement {
    /// Whether lists are within their limits: no sum has more members than [`limits::SUM_MEMBERS`].
    pub fn within_limits(&self) -> bool {
        let few = |count: usize| count <= limits::SUM_MEMBERS;
        let sealed = |list: &[Sealed]| few(list.len()) && list.iter().all(|(_, bytes)| bytes.len() <= 128);
        match &self.word {
            SumWord::Keys(bytes) => bytes.len() <= 128,
            SumWord::Roster(list) => few(list.len()),
            SumWord::Shares(list) | SumWord::Delivery(list) => sealed(list),
            SumWord::Masked(_) | SumWord::Spent => true,
            SumWord::Request(request) => few(request.survivors.len() + request.dropped.len()),
            SumWord::Reply(reply) => few(reply.of_survivors.len() + reply.of_dropped.len()),
        }
    }

    /// Its name in logs and counters.
    pub fn kind(&self) -> &'static str {
        match self.word {
            SumWord::Keys(_) => "sum_keys",
            SumWord::Roster(_) => "sum_roster",
            SumWord::Shares(_) => "sum_shares",
            SumWord::Delivery(_) => "sum_delivery",
            SumWord::Masked(_) => "sum_masked",
            SumWord::Request(_) => "sum_request",
            SumWord::Reply(_) => "sum_reply",
            SumWord::Spent => "sum_spent",
        }
    }
}

impl SumOpening {
    /// Whether lists are within their limits.
    pub fn within_limits(&self) -> bool {
        self.keys.len() <= limits::SUM_MEMBERS && self.seeds.len() + self.mask_keys.len() <= limits::SUM_MEMBERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_more_than_half_and_no_more_than_all() {
        let needed = |threshold, trainers| SumTerms { threshold }.needed(trainers);
        assert_eq!([3, 4, 5, 6, 9, 64].map(|n| needed(None, n)), [3, 3, 4, 5, 7, 43]);
        assert_eq!([3, 4, 9].map(|n| needed(Some(4), n)), [3, 4, 5]);
        assert_eq!(needed(None, 0), 0);
    }

    #[test]
    fn the_context_of_a_sum_changes_with_everything() {
        let members = |n: u8| (0..n).map(|i| PeerId([i; 32])).collect::<Vec<_>>();
        let scope = |session, round, term, n, threshold| {
            SumScope::new(&SessionId([session; 32]), round, term, members(n), threshold).context
        };
        let all = [
            scope(1, 1, 0, 4, 3),
            scope(2, 1, 0, 4, 3),
            scope(1, 2, 0, 4, 3),
            scope(1, 1, 1, 4, 3),
            scope(1, 1, 0, 5, 3),
            scope(1, 1, 0, 4, 4),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
