//! A blob's group hashes: the nodes of its BLAKE3 tree one mebibyte above the leaves, which the blob's id commits to.
//! With them each group is verified as it arrives, from whichever holder; they are computed when asked for and not stored.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use synod_protocol::identity::BlobId;
use tokio::sync::{mpsc, oneshot};

use super::super::config::{BLOB_CHUNK_BYTES, BLOB_GROUP_BYTES, BLOB_MAX_BYTES, TREES_KEPT};
use super::access::{BlobAccess, blocking};

/// The group hashes of one blob, known to belong to its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    length: u64,
    groups: Vec<ChainingValue>,
}

/// How many groups a blob of this length has; an empty one has none.
pub(super) fn group_count(length: u64) -> u64 {
    length.div_ceil(BLOB_GROUP_BYTES)
}

impl Tree {
    /// The tree of a blob of one group or none is its id itself: nothing needs to be asked.
    pub(super) fn needed(length: u64) -> bool {
        length > BLOB_GROUP_BYTES
    }

    /// Takes group hashes that a holder sent; none when they do not add up to the blob's id.
    pub(super) fn verified(blob: &BlobId, length: u64, bytes: &[u8]) -> Option<Self> {
        let (groups, rest) = bytes.as_chunks::<32>();
        let complete = rest.is_empty() && groups.len() as u64 == group_count(length);
        if !complete || !Self::needed(length) || length > BLOB_MAX_BYTES || root(groups, length) != blob.0 {
            return None;
        }
        Some(Self {
            length,
            groups: groups.to_vec(),
        })
    }

    /// Reads a whole blob; none when the file is not the blob (a damaged disk).
    pub(super) fn of_file(blob: &BlobId, file: File, length: u64) -> io::Result<Option<Self>> {
        let mut groups = Vec::with_capacity(group_count(length) as usize);
        let mut reader = file.take(length);
        for group in 0..group_count(length) {
            let mut check = GroupCheck::new(group);
            let mut left = group_length(group, length);
            let mut piece = vec![0; BLOB_CHUNK_BYTES];
            while left > 0 {
                let take = left.min(BLOB_CHUNK_BYTES as u64) as usize;
                reader.read_exact(&mut piece[..take])?;
                check.update(&piece[..take]);
                left -= take as u64;
            }
            groups.push(check.hasher.finalize_non_root());
        }
        Ok(Self::verified(blob, length, groups.as_flattened()))
    }

    pub(super) fn to_bytes(&self) -> &[u8] {
        self.groups.as_flattened()
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// The length of a group: a mebibyte, or what is left for the last one.
pub(super) fn group_length(group: u64, length: u64) -> u64 {
    (length - group * BLOB_GROUP_BYTES).min(BLOB_GROUP_BYTES)
}

/// Merges group hashes to the blob's hash. There are at least two.
fn root(groups: &[ChainingValue], length: u64) -> [u8; 32] {
    let left = left_subtree_len(length);
    let (low, high) = groups.split_at((left / BLOB_GROUP_BYTES) as usize);
    *merge_subtrees_root(&subtree(low, left), &subtree(high, length - left), Mode::Hash).as_bytes()
}

fn subtree(groups: &[ChainingValue], length: u64) -> ChainingValue {
    if let [group] = groups {
        return *group;
    }
    let left = left_subtree_len(length);
    let (low, high) = groups.split_at((left / BLOB_GROUP_BYTES) as usize);
    merge_subtrees_non_root(&subtree(low, left), &subtree(high, length - left), Mode::Hash)
}

/// Checks one group while its bytes arrive.
pub(super) struct GroupCheck {
    group: u64,
    hasher: blake3::Hasher,
}

impl GroupCheck {
    pub(super) fn new(group: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(group * BLOB_GROUP_BYTES);
        Self { group, hasher }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Whether the group's bytes, all of them given, belong to the blob.
    pub(super) fn holds(&self, blob: &BlobId, tree: Option<&Tree>) -> bool {
        match tree {
            Some(tree) => tree.groups.get(self.group as usize) == Some(&self.hasher.finalize_non_root()),
            None => self.group == 0 && *self.hasher.finalize().as_bytes() == blob.0,
        }
    }
}

/// The groups of a partly received file that are not there, or not right.
pub(super) fn missing_groups(blob: &BlobId, tree: &Tree, mut file: File) -> io::Result<BTreeSet<u64>> {
    let have = file.metadata()?.len().min(tree.length);
    let mut missing = BTreeSet::new();
    let mut piece = vec![0; BLOB_CHUNK_BYTES];
    for group in 0..group_count(tree.length) {
        let mut left = group_length(group, tree.length);
        if group * BLOB_GROUP_BYTES + left > have {
            missing.insert(group);
            continue;
        }
        let mut check = GroupCheck::new(group);
        while left > 0 {
            let take = left.min(BLOB_CHUNK_BYTES as u64) as usize;
            file.read_exact(&mut piece[..take])?;
            check.update(&piece[..take]);
            left -= take as u64;
        }
        if !check.holds(blob, Some(tree)) {
            missing.insert(group);
        }
    }
    Ok(missing)
}

/// A request for the tree of a blob in the store; none when it is not here or damaged.
pub(super) type TreeRequest = (BlobId, oneshot::Sender<Option<Arc<Tree>>>);

/// Computes trees one after the other, so that askers cannot occupy the machine with hashing, and keeps the last ones.
pub(super) async fn keep_trees(blobs: BlobAccess, mut requests: mpsc::Receiver<TreeRequest>) {
    let mut kept: VecDeque<(BlobId, Arc<Tree>)> = VecDeque::new();
    while let Some((blob, reply)) = requests.recv().await {
        if reply.is_closed() {
            continue;
        }
        if let Some((_, tree)) = kept.iter().find(|(known, _)| *known == blob) {
            drop(reply.send(Some(Arc::clone(tree))));
            continue;
        }
        let tree = match blobs.open(blob).await {
            Ok(Some((file, length))) => blocking(move || Tree::of_file(&blob, file, length)).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let tree = tree.unwrap_or_else(|error| {
            tracing::warn!(%blob, %error, "a blob of the store cannot be read");
            None
        });
        let tree = tree.map(Arc::new);
        if let Some(tree) = &tree {
            kept.push_back((blob, Arc::clone(tree)));
            if kept.len() > TREES_KEPT {
                kept.pop_front();
            }
        }
        drop(reply.send(tree));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn blob_of(length: usize) -> (BlobId, Vec<u8>, File) {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&bytes).expect("it is written");
        std::io::Seek::rewind(&mut file).expect("it rewinds");
        (BlobId::of(&bytes), bytes, file)
    }

    #[test]
    fn group_hashes_add_up_to_the_id_for_any_length() {
        const G: usize = BLOB_GROUP_BYTES as usize;
        for length in [G + 1, 2 * G, 2 * G + 1, 3 * G - 1, 5 * G + 77, 8 * G] {
            let (blob, bytes, file) = blob_of(length);
            let tree = Tree::of_file(&blob, file, length as u64)
                .expect("it reads")
                .expect("it is the blob");
            assert_eq!(
                Tree::verified(&blob, length as u64, tree.to_bytes()),
                Some(tree.clone())
            );
            for (group, part) in bytes.chunks(G).enumerate() {
                let mut check = GroupCheck::new(group as u64);
                check.update(part);
                assert!(check.holds(&blob, Some(&tree)), "length {length}, group {group}");
            }
        }
    }

    #[test]
    fn false_hashes_and_false_lengths_are_refused() {
        let length = 3 * BLOB_GROUP_BYTES + 5;
        let (blob, _, file) = blob_of(length as usize);
        let tree = Tree::of_file(&blob, file, length)
            .expect("it reads")
            .expect("it is the blob");
        let mut bytes = tree.to_bytes().to_vec();
        for wrong in [0, length - 1, length + BLOB_GROUP_BYTES, u64::MAX] {
            // A length that shares the shape of the tree is caught by the last group instead.
            if group_count(wrong) != group_count(length) {
                assert_eq!(Tree::verified(&blob, wrong, &bytes), None, "{wrong}");
            }
        }
        assert_eq!(Tree::verified(&blob, length, &bytes[1..]), None);
        bytes[40] ^= 1;
        assert_eq!(Tree::verified(&blob, length, &bytes), None);
    }

    #[test]
    fn of_a_damaged_partial_file_only_the_damaged_and_the_absent_groups_are_missing() {
        let length = 3 * BLOB_GROUP_BYTES + 5;
        let (blob, mut bytes, file) = blob_of(length as usize);
        let tree = Tree::of_file(&blob, file, length)
            .expect("it reads")
            .expect("it is the blob");
        bytes[BLOB_GROUP_BYTES as usize + 9] ^= 1;
        let mut partial = tempfile::tempfile().expect("a temporary file");
        partial.write_all(&bytes[..bytes.len() - 1]).expect("it is written");
        std::io::Seek::rewind(&mut partial).expect("it rewinds");
        let missing = missing_groups(&blob, &tree, partial).expect("it reads");
        assert_eq!(
            missing.into_iter().collect::<Vec<_>>(),
            [1, 3],
            "the bent one, and the last, which is cut"
        );
    }
}
