//! Bulyan (El Mhamdi, Guerraoui & Rouault 2018, ICML, "The Hidden Vulnerability of Distributed Learning in Byzantium", §4).
//! It needs many members, and it is no better than its parts against an attacker who stays within the honest spread.
//!
//! θ = n − 2f updates are chosen one by one, each time Krum's among those not yet chosen (its k counted among them); then
//! per coordinate the mean of the θ − 2f chosen values nearest to their median.
//! n ≥ 4f + 3 · breakdown point below ¼ · two passes, O(n² d + n log² n · d), scores from one matrix of products · no κ
//! is published. Verdict weight: the share of values that counted; `Excluded` for who was not chosen.
//!
//! Reference code differs: LPD's pruning branch does not run, Flower's iterates Krum by searching for equal values.

use super::krum::{Neighbours, scores};
use crate::coordinates::Reduction;
use crate::gram::Gram;

/// The chosen members, in ascending order, and what is kept of their values.
pub(super) fn choose(gram: &Gram, f: usize) -> (Vec<usize>, Reduction) {
    let n = gram.len();
    let mut remaining: Vec<usize> = (0..n).collect();
    let mut chosen = Vec::with_capacity(n - 2 * f);
    while chosen.len() < n - 2 * f {
        let count = Neighbours::Blanchard.count(remaining.len(), f).max(1);
        let scores = scores(gram, &remaining, count);
        let best = (0..remaining.len()).fold(0, |best, i| if scores[i] < scores[best] { i } else { best });
        chosen.push(remaining.remove(best));
    }
    chosen.sort_unstable();
    let keep = chosen.len() - 2 * f;
    (chosen, Reduction::NearMedian { keep })
}
