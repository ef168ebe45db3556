//! The mean around the median (Xie, Koyejo & Gupta 2018, arXiv 1802.10116, "Generalized Byzantine-tolerant SGD", §4).
//! Like all coordinate-wise rules it sees no direction in the updates, and it reads no weights.
//!
//! Per coordinate the mean of the n − f values nearest to the median; where two windows of sorted values are as near, the
//! lower one. n > 2f · breakdown point f/n < ½ · one pass, a full sorting network, O(n log² n · d) · no κ is published.
//! Verdict weight: as for the trimmed mean.

use crate::coordinates::Reduction;

/// What is kept of n values.
pub(super) fn reduction(n: usize, f: usize) -> Reduction {
    Reduction::NearMedian { keep: n - f }
}
