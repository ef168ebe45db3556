//! Secure sums as the protocol sees them: who may take part, what members and coordinator say, what the worker is asked.
//! Keys, shares and masks are opaque bytes here: the worker makes and opens them, and no secret of a living member is in a
//! message but sealed (the protocol is Bonawitz et al. 2017, "Practical secure aggregation").

use serde::{Deserialize, Serialize};

use crate::graph::random;
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
    /// Sums of groups instead of one sum, for a rule that works across them.
    pub groups: Option<GroupTerms>,
}

/// How the trainers of a round are dealt into groups that are summed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTerms {
    /// Members of a group, or one or two more where they do not divide.
    pub size: u32,
    /// The fewest survivors of a group whose sum may be opened.
    pub least: u8,
    /// The fewest groups that the session's rule can work on.
    pub rule_needs: u32,
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
    /// The group of each member, in their order, where the session sums in groups.
    pub groups: Option<Vec<u8>>,
    /// Digest of all this, the session and the base of the round: it enters every key.
    pub context: [u8; 32],
}

impl SumScope {
    /// The sum of these trainers, in the order of their ids, on top of this state. Who is in which group follows from all of
    /// it: the state comes of updates that nobody knew before the round before was settled.
    pub fn new(
        session: &SessionId,
        (round, term): (Round, Term),
        base: &BlobId,
        members: Vec<PeerId>,
        terms: &SumTerms,
    ) -> Self {
        let threshold = u8::try_from(terms.needed(members.len())).unwrap_or(u8::MAX);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"synod/sum/2\0");
        hasher.update(&session.0);
        hasher.update(&round.to_le_bytes());
        hasher.update(&term.to_le_bytes());
        hasher.update(&base.0);
        hasher.update(&[threshold]);
        members.iter().for_each(|member| _ = hasher.update(&member.0));
        let context = *hasher.finalize().as_bytes();
        let groups = terms.groups.map(|groups| {
            let count = members.len() / (groups.size.max(1) as usize);
            let mut of = vec![0; members.len()];
            let order = random::shuffled(members.len(), &context, "groups of a sum");
            for (place, member) in order.into_iter().enumerate() {
                of[member] = u8::try_from(place % count.max(1)).unwrap_or(u8::MAX);
            }
            of
        });
        Self {
            round,
            term,
            members,
            threshold,
            groups,
            context,
        }
    }

    /// The group of a member; 0 where all are one, or for a stranger.
    fn group_of(&self, peer: &PeerId) -> u8 {
        let at = self.members.iter().position(|member| member == peer);
        let groups = self.groups.as_ref().zip(at);
        groups.map_or(0, |(groups, at)| groups.get(at).copied().unwrap_or(0))
    }

    /// Of these who dealt shares, those whose groups can be opened when `here` have sent their updates: as (survivors,
    /// dropped), each in order. A group with too few survivors stays masked as if it had not been.
    pub fn openable(&self, dealt: &[PeerId], here: &[PeerId], terms: &SumTerms) -> SumRequest {
        let least = self.least_in_sum(terms);
        let surviving = |group: u8| here.iter().filter(|peer| self.group_of(peer) == group).count();
        let opened = |peer: &&PeerId| surviving(self.group_of(peer)) >= least;
        let (survivors, dropped) = dealt.iter().filter(opened).partition(|peer| here.contains(peer));
        SumRequest { survivors, dropped }
    }

    /// The fewest survivors whose sum may be opened: of a group, or of all.
    pub fn least_in_sum(&self, terms: &SumTerms) -> usize {
        let least = terms.groups.map_or(self.threshold, |groups| groups.least);
        usize::from(least).max(LEAST_IN_A_SUM)
    }

    /// How many groups these survivors are of.
    pub fn groups_of(&self, survivors: &[PeerId]) -> usize {
        let mut groups: Vec<u8> = survivors.iter().map(|peer| self.group_of(peer)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.len()
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
    /// Member to coordinator: shares of my secrets, a [`Share`](Self::Share) for each other member of the roster, in the
    /// order of ids. Each is signed by itself, so that whoever cannot open one knows that it came so from its dealer.
    Shares(Vec<Signed<Message>>),
    /// Coordinator to one member: what the others dealt for you, in the order of ids. Mask with these.
    Delivery(Vec<Signed<Message>>),
    /// Member to coordinator: my masked update is ready under this content id.
    Masked(UpdateClaim),
    /// Coordinator to the survivors: lift the masks of this sum.
    Request(SumRequest),
    /// Survivor to coordinator: my shares of the survivors' self-masks and of the dropped members' mask keys.
    Reply(SumReply),
    /// Member to coordinator of a later term: I have answered in this round, and answer no more.
    Spent,
    /// One share of my secrets, sealed for this member. Travels in `Shares` and `Delivery` only.
    Share(Sealed),
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
        match &self.word {
            SumWord::Keys(bytes) => bytes.len() <= 128,
            SumWord::Roster(list) | SumWord::Shares(list) | SumWord::Delivery(list) => few(list.len()),
            SumWord::Share((_, bytes)) => bytes.len() <= 128,
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
            SumWord::Share(_) => "sum_share",
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
        let needed = |threshold, trainers| {
            SumTerms {
                threshold,
                groups: None,
            }
            .needed(trainers)
        };
        assert_eq!([3, 4, 5, 6, 9, 64].map(|n| needed(None, n)), [3, 3, 4, 5, 7, 43]);
        assert_eq!([3, 4, 9].map(|n| needed(Some(4), n)), [3, 4, 5]);
        assert_eq!(needed(None, 0), 0);
    }

    #[test]
    fn the_context_of_a_sum_changes_with_everything() {
        let members = |n: u8| (0..n).map(|i| PeerId([i; 32])).collect::<Vec<_>>();
        let scope = |session, round_term, base, n, threshold| {
            let terms = SumTerms {
                threshold: Some(threshold),
                groups: None,
            };
            SumScope::new(
                &SessionId([session; 32]),
                round_term,
                &BlobId([base; 32]),
                members(n),
                &terms,
            )
            .context
        };
        let all = [
            scope(1, (1, 0), 1, 4, 3),
            scope(2, (1, 0), 1, 4, 3),
            scope(1, (2, 0), 1, 4, 3),
            scope(1, (1, 1), 1, 4, 3),
            scope(1, (1, 0), 2, 4, 3),
            scope(1, (1, 0), 1, 5, 3),
            scope(1, (1, 0), 1, 4, 4),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }

    fn grouped(size: u32, least: u8) -> SumTerms {
        SumTerms {
            threshold: None,
            groups: Some(GroupTerms {
                size,
                least,
                rule_needs: 3,
            }),
        }
    }

    fn scope_of(n: u8, base: u8, terms: &SumTerms) -> SumScope {
        let members = (0..n).map(|i| PeerId([i; 32])).collect();
        SumScope::new(&SessionId([1; 32]), (1, 0), &BlobId([base; 32]), members, terms)
    }

    #[test]
    fn each_trainer_is_in_one_group_and_the_base_decides_which() {
        for (n, size) in [(9, 3), (10, 3), (16, 4), (64, 5), (11, 4)] {
            let groups = scope_of(n, 1, &grouped(size, 3)).groups.unwrap();
            let count = usize::from(n) / size as usize;
            let sizes = (0..count).map(|group| groups.iter().filter(|of| usize::from(**of) == group).count());
            let sizes: Vec<usize> = sizes.collect();
            assert_eq!(sizes.iter().sum::<usize>(), usize::from(n));
            assert!(
                sizes.iter().all(|got| *got >= size as usize),
                "{n} in {size}: {sizes:?}"
            );
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
        let of = |base| scope_of(16, base, &grouped(4, 3)).groups;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    /// Over many bases each pair of trainers meets equally often: 16 in fours meet with probability 3/15.
    #[test]
    fn pairs_meet_equally_often() {
        let mut meetings = [[0u32; 16]; 16];
        for base in 0..4000u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&base.to_le_bytes());
            let members = (0..16).map(|i| PeerId([i; 32])).collect();
            let scope = SumScope::new(&SessionId([1; 32]), (1, 0), &BlobId(id), members, &grouped(4, 3));
            let of = scope.groups.unwrap();
            for (a, row) in meetings.iter_mut().enumerate() {
                for (b, met) in row.iter_mut().enumerate() {
                    *met += u32::from(of[a] == of[b]);
                }
            }
        }
        for (a, row) in meetings.iter().enumerate() {
            for (b, &count) in row.iter().enumerate().filter(|(b, _)| *b != a) {
                // 800 expected, deviation 25: six of them.
                assert!((650..950).contains(&count), "{a} {b}: {count}");
            }
        }
    }

    #[test]
    fn a_group_that_lost_too_many_is_not_opened() {
        let terms = grouped(3, 3);
        let scope = scope_of(9, 1, &terms);
        let group = |of: u8| -> Vec<PeerId> {
            let members = scope.members.iter().filter(|peer| scope.group_of(peer) == of);
            members.copied().collect()
        };
        let all = &scope.members;
        let here: Vec<PeerId> = all.iter().filter(|peer| **peer != group(1)[0]).copied().collect();
        let request = scope.openable(all, &here, &terms);
        let mut expected = [group(0), group(2)].concat();
        expected.sort_unstable();
        assert_eq!(request.survivors, expected);
        assert!(request.dropped.is_empty());
        assert_eq!(scope.groups_of(&request.survivors), 2);
        // Without groups the one who is lost has dropped out of the sum of all.
        let one = SumTerms::default();
        let scope = scope_of(9, 1, &one);
        let request = scope.openable(&scope.members, &here, &one);
        assert_eq!((request.survivors.len(), request.dropped.len()), (8, 1));
    }
}
