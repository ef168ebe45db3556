//! Updates read a chunk of coordinates at a time, side by side, from memory or from encoded bytes.
//! It computes nothing; reading chunks is what all passes over the data have in common.

use crate::aggregator::Contribution;
use crate::numeric::CHUNK;

/// From one decoded row to the next: a few cache lines more than a chunk. Rows a power of two apart would all fall into the
/// same sets of the first-level cache and push each other out.
const STRIDE: usize = CHUNK + 80;

/// Reads chunks; holds the values of encoded updates while one is worked on (16 KiB a member), and nothing for dense ones.
#[derive(Default)]
pub(crate) struct ChunkReader {
    scratch: Vec<f32>,
}

impl ChunkReader {
    /// Values `first..first + length` of every contribution.
    ///
    /// # Panics
    /// When `length` exceeds [`CHUNK`], or `first` is no multiple of it.
    pub(crate) fn rows<'r>(
        &'r mut self,
        contributions: &'r [Contribution<'_>],
        first: usize,
        length: usize,
    ) -> Vec<&'r [f32]> {
        assert!(length <= CHUNK && first.is_multiple_of(CHUNK), "one chunk at a time");
        let encoded = contributions.iter().filter(|c| c.values.is_encoded()).count();
        self.scratch.resize(encoded * STRIDE, 0.0);
        let mut scratch = self.scratch.chunks_mut(STRIDE);
        contributions
            .iter()
            .map(|contribution| {
                let scratch = match contribution.values.is_encoded() {
                    true => scratch.next().unwrap_or_default(),
                    false => &mut [],
                };
                contribution.values.read(first, length, scratch)
            })
            .collect()
    }
}
