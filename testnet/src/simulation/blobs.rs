//! Blobs in memory: each peer's own set of ids, and one pool that shares equal bytes between all peers of a run.
//! Blobs survive a crash, as files do; nothing here checks digests, which is the receiver's business.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use synod_protocol::identity::BlobId;
use synod_protocol::task::Round;

/// What one peer holds.
#[derive(Debug, Default)]
pub struct Blobs {
    held: BTreeMap<BlobId, (Arc<[u8]>, Round)>,
}

impl Blobs {
    /// The bytes, if they are held.
    pub fn get(&self, id: &BlobId) -> Option<&Arc<[u8]>> {
        self.held.get(id).map(|(bytes, _)| bytes)
    }

    /// Keeps a blob that was needed in `round`.
    pub fn put(&mut self, id: BlobId, bytes: Arc<[u8]>, round: Round) {
        let held = self.held.entry(id).or_insert((bytes, round));
        held.1 = held.1.max(round);
    }

    /// Drops what only rounds before `keep_from` needed, except `keep`.
    pub fn retire(&mut self, keep_from: Round, keep: &[BlobId]) {
        self.held
            .retain(|id, (_, round)| *round >= keep_from || keep.contains(id));
    }

    /// Loses everything.
    pub fn clear(&mut self) {
        self.held.clear();
    }
}

/// Equal bytes are kept once, however many peers hold them.
#[derive(Debug, Default)]
pub struct Pool {
    known: BTreeMap<BlobId, Weak<[u8]>>,
}

impl Pool {
    /// The shared form of these bytes.
    pub fn share(&mut self, id: BlobId, bytes: Vec<u8>) -> Arc<[u8]> {
        if let Some(shared) = self.get(&id) {
            return shared;
        }
        if self.known.len() > 4096 {
            self.known.retain(|_, weak| weak.strong_count() > 0);
        }
        let shared: Arc<[u8]> = bytes.into();
        self.known.insert(id, Arc::downgrade(&shared));
        shared
    }

    /// The bytes, if any peer still holds them.
    pub fn get(&self, id: &BlobId) -> Option<Arc<[u8]>> {
        self.known.get(id).and_then(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retiring_keeps_what_is_needed_and_the_pool_forgets_the_rest() {
        let (mut blobs, mut pool) = (Blobs::default(), Pool::default());
        for round in 0..4u8 {
            let id = BlobId::of(&[round]);
            blobs.put(id, pool.share(id, vec![round]), round.into());
        }
        blobs.retire(2, &[BlobId::of(&[0])]);
        let held = |round: u8| blobs.get(&BlobId::of(&[round])).is_some();
        assert_eq!([0, 1, 2, 3].map(held), [true, false, true, true]);
        assert!(pool.get(&BlobId::of(&[1])).is_none() && pool.get(&BlobId::of(&[2])).is_some());
    }
}
