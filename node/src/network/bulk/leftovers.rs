//! The partly received blobs that ended fetches left on the disk, the oldest first, bounded by number and by bytes.
//! It deletes nothing itself, and knows nothing of what an earlier start left (the store bounds that when it opens).

use std::collections::VecDeque;

use synod_protocol::identity::BlobId;

use super::super::config::{PARTIALS_KEPT, PARTIALS_KEPT_BYTES};

#[derive(Debug, Default)]
pub(super) struct Leftovers {
    kept: VecDeque<(BlobId, u64)>,
}

impl Leftovers {
    /// A fetch goes on with this blob (or has ended well): it is no leftover any more.
    pub(super) fn taken_up(&mut self, blob: &BlobId) {
        self.kept.retain(|(kept, _)| kept != blob);
    }

    /// A fetch left so many bytes of this blob. Gives the blobs whose bytes must go for it. The newest always stays:
    /// a model larger than the bound must be resumable.
    pub(super) fn left(&mut self, blob: BlobId, bytes: u64) -> Vec<BlobId> {
        self.taken_up(&blob);
        self.kept.push_back((blob, bytes));
        let mut gone = Vec::new();
        while self.kept.len() > 1 && self.is_too_much() {
            gone.extend(self.kept.pop_front().map(|(blob, _)| blob));
        }
        gone
    }

    fn is_too_much(&self) -> bool {
        self.kept.len() > PARTIALS_KEPT || self.kept.iter().map(|(_, bytes)| bytes).sum::<u64>() > PARTIALS_KEPT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: usize) -> BlobId {
        BlobId([number as u8; 32])
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut leftovers = Leftovers::default();
        for number in 0..PARTIALS_KEPT {
            assert_eq!(leftovers.left(blob(number), 1), []);
        }
        // The first one is left once more, which makes it the newest.
        assert_eq!(leftovers.left(blob(0), 2), []);
        assert_eq!(leftovers.left(blob(200), 1), [blob(1)]);
        leftovers.taken_up(&blob(2));
        assert_eq!(leftovers.left(blob(201), 1), []);
    }

    #[test]
    fn bytes_are_bounded_but_the_newest_stays() {
        let mut leftovers = Leftovers::default();
        assert_eq!(leftovers.left(blob(1), PARTIALS_KEPT_BYTES / 2), []);
        assert_eq!(leftovers.left(blob(2), PARTIALS_KEPT_BYTES / 2), []);
        assert_eq!(leftovers.left(blob(3), PARTIALS_KEPT_BYTES * 2), [blob(1), blob(2)]);
        assert_eq!(leftovers.left(blob(4), 1), [blob(3)]);
    }
}
