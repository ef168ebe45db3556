//! How much of the past is kept: blobs of the last rounds, within a number of bytes, and what is named (checkpoints,
//! the member's own state).
//! It deletes blobs only: the machine compacts its journal itself, and a round's row of measurements is small and stays.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::task::Round;

use crate::blobs::BlobStore;
use crate::checkpoint;
use crate::member_states;
use crate::store::{BlobLink, Result, Store};

/// Bounds on what a session keeps. Both hold; the newest round and named checkpoints are kept whatever they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Rounds whose blobs are kept, the newest included.
    pub rounds: u64,
    /// Bytes of blobs that a session may keep; the oldest rounds go first.
    pub max_bytes: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            // A member that was away for a round or two fetches from any other one; later ones catch up from a state.
            rounds: 3,
            // 3 rounds of 4 members with a model of 500 M parameters in bf16 and its optimizer state fit.
            max_bytes: 32 << 30,
        }
    }
}

/// What a call has deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// The blobs, sorted.
    pub blobs: Vec<BlobId>,
    /// Their bytes.
    pub bytes: u64,
}

/// Applies the bounds to one session, whose latest settled round is `newest`. `keep`: blobs that are needed still,
/// of whatever round. Call it from the thread that links blobs: a link made meanwhile could come too late.
pub fn apply(
    store: &dyn Store,
    blobs: &BlobStore,
    session: &SessionId,
    newest: Round,
    keep: &[BlobId],
    config: &RetentionConfig,
) -> Result<Freed> {
    let mut keep = keep.to_vec();
    keep.extend(
        checkpoint::list(store, session)?
            .iter()
            .map(|checkpoint| checkpoint.blob),
    );
    keep.extend(member_states::list(store, session)?.iter().map(|state| state.blob));
    let links = store.links(session)?;
    let keep_from = first_kept_round(&links, newest, &keep, config);
    let lengths: BTreeMap<BlobId, u64> = links.iter().map(|link| (link.blob, link.bytes)).collect();
    let retired = store.retire(session, keep_from, &keep)?;
    delete(blobs, retired, &lengths)
}

/// Forgets a session and deletes the blobs that no other session needs.
pub fn remove_session(store: &dyn Store, blobs: &BlobStore, session: &SessionId) -> Result<Freed> {
    let lengths: BTreeMap<BlobId, u64> = store
        .links(session)?
        .iter()
        .map(|link| (link.blob, link.bytes))
        .collect();
    let retired = store.remove_session(session)?;
    delete(blobs, retired, &lengths)
}

/// At the start of a node: deletes blobs that nothing links to (a crash came between `put` and `link_blob`, or
/// between `retire` and the deletion). Says how many bytes that freed.
pub fn sweep(store: &dyn Store, blobs: &BlobStore) -> Result<u64> {
    blobs.retain(|id| store.is_linked(id))
}

fn first_kept_round(links: &[BlobLink], newest: Round, keep: &[BlobId], config: &RetentionConfig) -> Round {
    let by_rounds = newest.saturating_sub(config.rounds.saturating_sub(1));
    let mut counted: BTreeSet<BlobId> = BTreeSet::new();
    let mut bytes = 0u64;
    for link in links.iter().filter(|link| keep.contains(&link.blob)) {
        if counted.insert(link.blob) {
            bytes = bytes.saturating_add(link.bytes);
        }
    }
    // From the newest round backwards, for as long as the sum stays within the bound.
    for link in links.iter().rev().filter(|link| link.round >= by_rounds) {
        if counted.insert(link.blob) {
            bytes = bytes.saturating_add(link.bytes);
        }
        if bytes > config.max_bytes && link.round < newest {
            return link.round + 1;
        }
    }
    by_rounds
}

fn delete(blobs: &BlobStore, retired: Vec<BlobId>, lengths: &BTreeMap<BlobId, u64>) -> Result<Freed> {
    for id in &retired {
        blobs.remove(id)?;
    }
    let bytes = retired.iter().filter_map(|id| lengths.get(id)).sum();
    Ok(Freed { blobs: retired, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::memory_store::MemoryStore;

    const SESSION: SessionId = SessionId([1; 32]);

    struct World {
        _dir: tempfile::TempDir,
        store: MemoryStore,
        blobs: BlobStore,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let blobs = BlobStore::open(dir.path()).unwrap();
            Self {
                _dir: dir,
                store: MemoryStore::new(),
                blobs,
            }
        }

        /// A blob of 1,000 bytes that this round needs.
        fn blob(&self, round: Round, content: u16) -> BlobId {
            let bytes = content.to_le_bytes().repeat(500);
            let blob = self.blobs.put(&bytes).unwrap();
            self.store
                .link_blob(
                    &SESSION,
                    &BlobLink {
                        round,
                        blob,
                        bytes: 1000,
                    },
                )
                .unwrap();
            blob
        }

        fn apply(&self, newest: Round, config: RetentionConfig) -> Freed {
            apply(&self.store, &self.blobs, &SESSION, newest, &[], &config).unwrap()
        }

        fn rounds_left(&self) -> Vec<Round> {
            self.store
                .links(&SESSION)
                .unwrap()
                .iter()
                .map(|link| link.round)
                .collect()
        }
    }

    #[test]
    fn usage_stays_bounded_however_long_a_session_lasts() {
        let world = World::new();
        let config = RetentionConfig {
            rounds: 3,
            max_bytes: u64::MAX,
        };
        for round in 0..50 {
            for member in 0..4 {
                world.blob(round, (round * 4 + member) as u16);
            }
            world.apply(round, config);
            assert!(world.blobs.usage_bytes().unwrap() <= 12_000);
        }
        assert_eq!(world.rounds_left(), [[47; 4], [48; 4], [49; 4]].concat());
    }

    #[test]
    fn bytes_bound_the_past_but_never_the_newest_round() {
        let world = World::new();
        for round in 0..10 {
            world.blob(round, round as u16);
        }
        let within = |max_bytes| RetentionConfig { rounds: 100, max_bytes };
        assert_eq!(world.apply(9, within(4_500)).bytes, 6_000);
        assert_eq!(world.rounds_left(), [6, 7, 8, 9]);
        world.apply(9, within(1));
        assert_eq!(world.rounds_left(), [9]);
        assert_eq!(world.blobs.usage_bytes().unwrap(), 1_000);
    }

    #[test]
    fn checkpoints_outlive_their_round_until_they_are_forgotten() {
        let world = World::new();
        let blob = world.blob(1, 1);
        let checkpoint = Checkpoint {
            name: "first".to_owned(),
            round: 1,
            blob,
            bytes: 1000,
            created_unix_s: 0,
        };
        checkpoint::put(&world.store, &SESSION, &checkpoint).unwrap();
        let config = RetentionConfig::default();
        assert_eq!(world.apply(100, config), Freed::default());
        assert!(world.blobs.has(&blob));
        checkpoint::remove(&world.store, &SESSION, "first").unwrap();
        assert_eq!(
            world.apply(100, config),
            Freed {
                blobs: vec![blob],
                bytes: 1000
            }
        );
        assert!(!world.blobs.has(&blob));
    }

    #[test]
    fn a_start_sweeps_what_nothing_links_to() {
        let world = World::new();
        let linked = world.blob(1, 1);
        world.blobs.put(b"orphan").unwrap();
        assert_eq!(sweep(&world.store, &world.blobs).unwrap(), 6);
        assert_eq!(world.blobs.list().unwrap(), [(linked, 1000)]);
        assert_eq!(
            remove_session(&world.store, &world.blobs, &SESSION).unwrap().blobs,
            [linked]
        );
        assert_eq!(world.blobs.usage_bytes().unwrap(), 0);
    }
}
