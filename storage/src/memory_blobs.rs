//! The simulator's blobs: bytes in memory that many simulated peers share.
//! It measures no disk and keeps nothing over the end of the process; its bytes cannot go bad.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use synod_protocol::identity::BlobId;

use crate::error::StoreError;
use crate::store::Result;

/// One simulated peer's blobs. A clone is a copy of the disk that shares the bytes.
#[derive(Debug, Default, Clone)]
pub struct MemoryBlobs {
    blobs: BTreeMap<BlobId, Arc<[u8]>>,
}

impl MemoryBlobs {
    /// No blobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps these bytes.
    pub fn put(&mut self, bytes: &[u8]) -> BlobId {
        let id = BlobId::of(bytes);
        self.blobs.entry(id).or_insert_with(|| bytes.into());
        id
    }

    /// Keeps bytes that another peer has hashed already: a download, without a copy.
    pub fn put_shared(&mut self, id: BlobId, bytes: Arc<[u8]>) {
        self.blobs.insert(id, bytes);
    }

    /// The blob's bytes.
    pub fn read(&self, id: &BlobId) -> Result<Arc<[u8]>> {
        let missing = || StoreError::BlobMissing {
            id: *id,
            path: PathBuf::from("memory"),
        };
        self.blobs.get(id).cloned().ok_or_else(missing)
    }

    /// Whether the blob is here.
    pub fn has(&self, id: &BlobId) -> bool {
        self.blobs.contains_key(id)
    }

    /// Forgets a blob; that it is not there is no error.
    pub fn remove(&mut self, id: &BlobId) {
        self.blobs.remove(id);
    }

    /// Bytes of all blobs of this peer, shared or not.
    pub fn usage_bytes(&self) -> u64 {
        self.blobs.values().map(|bytes| bytes.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shared_between_peers_and_go_with_each() {
        let (mut one, mut other) = (MemoryBlobs::new(), MemoryBlobs::new());
        let id = one.put(b"update");
        other.put_shared(id, one.read(&id).unwrap());
        one.remove(&id);
        assert!(matches!(one.read(&id), Err(StoreError::BlobMissing { .. })));
        assert_eq!((one.usage_bytes(), other.usage_bytes()), (0, 6));
        assert!(other.has(&id));
    }
}
