//! Shards as the protocol sees them: the vector in ranges, who combines which, and what is said about it.
//! Updates and aggregates are content ids here; where the cuts lie is the worker's business. The pattern of traffic is that of
//! a butterfly all-reduce (Ryabinin et al. 2021, "Moshpit SGD", arXiv 2103.03239); each range is combined twice and compared.

use serde::{Deserialize, Serialize};

use crate::graph::random;
use crate::identity::{BlobId, PeerId, SessionId};
use crate::limits;
use crate::message::{Message, Term, UpdateClaim};
use crate::session::Roster;
use crate::signed::Signed;
use crate::task::{MemberVerdict, Outcome, Round, TrainReport, UpdateRef};

/// One range of an update as it was encoded, or of an aggregate (as an update in f32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its content id.
    pub blob: BlobId,
    /// Its length.
    pub bytes: u64,
}

/// First bytes of a manifest: name and version.
const MANIFEST: [u8; 5] = *b"SYNP\x01";

/// The list of an update's parts as a blob. Its id is what a claim, and a settlement, name as the payload.
pub fn manifest(parts: &[Part]) -> Vec<u8> {
    postcard::to_extend(parts, MANIFEST.to_vec()).expect("plain data always encodes")
}

/// The parts that a manifest lists; None for other bytes.
pub fn parts_of(manifest_bytes: &[u8]) -> Option<Vec<Part>> {
    let parts: Vec<Part> = postcard::from_bytes(manifest_bytes.strip_prefix(&MANIFEST)?).ok()?;
    (manifest(&parts) == manifest_bytes).then_some(parts)
}

/// The two members that combine each shard in a term: a pure function of session, round, term, base state and roster. The
/// voters are shuffled, and taken two by two, so that the work is spread and nobody chooses whom it is paired with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment(Vec<[PeerId; 2]>);

impl Assignment {
    /// Of `shards` shards among the voters of a roster. In a roster of one, both are the same member.
    pub fn new(session: &SessionId, (round, term): (Round, Term), base: &BlobId, roster: &Roster, shards: u32) -> Self {
        let voters: Vec<PeerId> = roster.voters().collect();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"synod/shards/1\0");
        hasher.update(&session.0);
        hasher.update(&round.to_le_bytes());
        hasher.update(&term.to_le_bytes());
        hasher.update(&base.0);
        let order = random::shuffled(voters.len(), hasher.finalize().as_bytes(), "aggregators of shards");
        let at = |place: usize| voters[order[place % order.len()]];
        let pairs = (0..shards as usize).map(|shard| [at(2 * shard), at(2 * shard + 1)]);
        Self(if voters.is_empty() { Vec::new() } else { pairs.collect() })
    }

    /// Who combines a shard; nobody for one that there is not.
    pub fn pair(&self, shard: u32) -> &[PeerId] {
        self.0.get(shard as usize).map_or(&[], |pair| pair)
    }

    /// The shards that a member combines, in order.
    pub fn shards_of(&self, peer: &PeerId) -> impl Iterator<Item = u32> + '_ {
        let peer = *peer;
        (0u32..)
            .zip(&self.0)
            .filter(move |(_, pair)| pair.contains(&peer))
            .map(|(shard, _)| shard)
    }
}

/// Names what is combined: the updates, in the order of peers, on top of a base, in a round of a session.
pub fn selection_id(session: &SessionId, round: Round, base: &BlobId, updates: &[UpdateRef]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"synod/selection/1\0");
    hasher.update(&session.0);
    hasher.update(&round.to_le_bytes());
    hasher.update(&base.0);
    hasher.update(&postcard::to_stdvec(updates).expect("plain data always encodes"));
    *hasher.finalize().as_bytes()
}

/// What is said in a session whose vector is in shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ShardStatement {
    /// Trainer to coordinator: my update is ready, in these parts. The claim's payload is their [`manifest`]'s id, its length
    /// the sum of theirs.
    Update {
        /// The announcement.
        claim: UpdateClaim,
        /// One a shard, in their order.
        parts: Vec<Part>,
    },
    /// Coordinator to aggregators: combine these.
    Selection {
        /// The round.
        round: Round,
        /// The term.
        term: Term,
        /// The signed `Update`s, in the order of peers.
        claims: Vec<Signed<Message>>,
    },
    /// Aggregator to coordinator, and in its proposal: this is what the rule makes of a shard.
    Result(ShardResult),
    /// Aggregator to coordinator: a member's part of a shard cannot be had.
    Missing {
        /// The round.
        round: Round,
        /// The term.
        term: Term,
        /// Of which selection.
        selection: [u8; 32],
        /// Which shard.
        shard: u32,
        /// Whose part.
        peer: PeerId,
    },
}

/// An aggregator's word on a shard. What it says is true or false whatever the term: it follows from the selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardResult {
    /// The round.
    pub round: Round,
    /// The term in which it was asked: says who was to combine the shard.
    pub term: Term,
    /// What was combined: [`selection_id`].
    pub selection: [u8; 32],
    /// Which shard.
    pub shard: u32,
    /// What the rule made of it.
    pub combined: ShardAggregate,
}

/// What the rule made of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardAggregate {
    /// The range of the aggregated pseudo-gradient, as an update in f32.
    pub part: Part,
    /// How the rule judged each update's part: its share, and in a word; in the order of peers.
    pub verdicts: Vec<(f32, Outcome)>,
}

impl ShardAggregate {
    /// Whether every update's part decoded.
    pub fn is_whole(&self) -> bool {
        self.verdicts
            .iter()
            .all(|(_, outcome)| *outcome != Outcome::Undecodable)
    }
}

impl ShardStatement {
    /// A short name for logs and counters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Update { .. } => "update",
            Self::Selection { .. } => "selection",
            Self::Result(_) => "shard_result",
            Self::Missing { .. } => "part_missing",
        }
    }

    /// The round that it speaks of.
    pub fn round(&self) -> Round {
        match self {
            Self::Update { claim, .. } => claim.round,
            Self::Selection { round, .. } | Self::Missing { round, .. } => *round,
            Self::Result(result) => result.round,
        }
    }

    /// Whether lists are within their limits.
    pub fn within_limits(&self) -> bool {
        match self {
            Self::Update { parts, .. } => parts.len() <= limits::SHARDS,
            Self::Selection { claims, .. } => claims.len() <= limits::MEMBERS,
            Self::Result(result) => result.combined.verdicts.len() <= limits::MEMBERS,
            Self::Missing { .. } => true,
        }
    }
}

/// Whether an announcement's payload is the manifest of these parts, one a shard, and its length the sum of theirs.
pub fn is_cut_right(claim: &UpdateClaim, parts: &[Part], shards: u32) -> bool {
    let bytes = parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add);
    parts.len() == shards as usize && claim.bytes == bytes && claim.payload == BlobId::of(&manifest(parts))
}

/// About the bytes of a proposal among so many members: a claim with its parts and place in the body, and two results a
/// shard with a verdict a member.
pub fn proposal_bytes(members: u64, shards: u64) -> u64 {
    members * (500 + 40 * shards) + 2 * shards * (280 + 6 * members)
}

/// Where a shard of a settlement comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ShardSource {
    /// Two aggregators have signed this, and it is in the store.
    Signed(ShardAggregate),
    /// It is combined here: these parts of the updates are in the store.
    Parts(Vec<UpdateRef>),
}

/// Work in a session whose vector is in shards. Training is `Task::Train`, answered by [`ShardDone::Trained`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ShardTask {
    /// Combine one shard by the session's rule.
    Combine {
        /// The agreed state that the updates started from.
        base: BlobId,
        /// Which shard.
        shard: u32,
        /// The updates' parts of it, sorted by peer, in the store.
        parts: Vec<UpdateRef>,
    },
    /// Take the outer step from `base` along the shards' aggregates.
    Settle {
        /// The agreed state that the updates started from.
        base: BlobId,
        /// Whose updates, sorted.
        peers: Vec<PeerId>,
        /// All shards, in order.
        shards: Vec<ShardSource>,
    },
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ShardDone {
    /// For `Task::Train`: the update in parts, which are in the store with their manifest.
    Trained {
        /// One a shard.
        parts: Vec<Part>,
        /// What the member says of it.
        report: TrainReport,
    },
    /// For `Combine`. It is in the store.
    Combined(ShardAggregate),
    /// For `Settle`.
    Settled {
        /// Content id of the new state, which is in the store.
        state: BlobId,
        /// Its length.
        bytes: u64,
        /// One verdict an update, over all shards.
        verdicts: Vec<MemberVerdict>,
        /// All shards, those that were combined here among them.
        shards: Vec<ShardAggregate>,
    },
}

impl ShardDone {
    /// The blobs that are in the store by it, with their lengths.
    pub fn blobs(&self) -> Vec<Part> {
        match self {
            Self::Trained { parts, .. } => {
                let list = manifest(parts);
                let list = Part {
                    blob: BlobId::of(&list),
                    bytes: list.len() as u64,
                };
                parts.iter().copied().chain([list]).collect()
            }
            Self::Combined(combined) => vec![combined.part],
            Self::Settled {
                state, bytes, shards, ..
            } => {
                let state = Part {
                    blob: *state,
                    bytes: *bytes,
                };
                shards.iter().map(|shard| shard.part).chain([state]).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::session::{Member, Role, Roles};

    const SESSION: SessionId = SessionId([1; 32]);

    fn roster(n: u8) -> Roster {
        let roles = Roles::of(&[Role::Trainer]);
        let member = Member {
            roles,
            since: 0,
            absent: 0,
        };
        Roster::new((0..n).map(|id| (PeerId([id; 32]), member)))
    }

    #[test]
    fn each_shard_has_two_different_members_and_the_work_is_spread() {
        for (n, shards) in [(2u8, 2u32), (3, 2), (5, 4), (8, 4), (16, 4), (4, 16)] {
            let mut work: BTreeMap<PeerId, usize> = BTreeMap::new();
            let assignment = Assignment::new(&SESSION, (3, 0), &BlobId([2; 32]), &roster(n), shards);
            for shard in 0..shards {
                let pair = assignment.pair(shard);
                assert!(pair.len() == 2 && pair[0] != pair[1], "{n} members, shard {shard}");
                pair.iter().for_each(|peer| *work.entry(*peer).or_default() += 1);
            }
            let most = work.values().max().copied().unwrap_or(0);
            assert!(
                most <= (2 * shards as usize).div_ceil(usize::from(n)),
                "{n} members: {work:?}"
            );
            assert!(assignment.pair(shards).is_empty());
            for (peer, shards) in work {
                assert_eq!(assignment.shards_of(&peer).count(), shards);
            }
        }
    }

    #[test]
    fn another_term_round_or_base_has_other_pairs() {
        let pairs = |round, term, base| Assignment::new(&SESSION, (round, term), &BlobId([base; 32]), &roster(16), 8);
        assert_eq!(pairs(3, 0, 2), pairs(3, 0, 2));
        assert!(
            [pairs(4, 0, 2), pairs(3, 1, 2), pairs(3, 0, 5)]
                .iter()
                .all(|other| *other != pairs(3, 0, 2))
        );
    }

    #[test]
    fn a_manifest_has_one_form() {
        let parts = [Part {
            blob: BlobId([3; 32]),
            bytes: 300,
        }];
        let bytes = manifest(&parts);
        assert_eq!(parts_of(&bytes).as_deref(), Some(&parts[..]));
        assert_eq!(parts_of(&bytes[..bytes.len() - 1]), None);
        assert_eq!(parts_of(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(parts_of(b"other"), None);
    }
}
