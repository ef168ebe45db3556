//! The coordinate-wise trimmed mean (Yin, Chen, Ramchandran & Bartlett 2018, ICML, definition 2).
//! It ignores the weights that members claim, and it looks at each coordinate alone, so it sees no direction in the updates.
//!
//! Per coordinate k, with x_(1) ≤ … ≤ x_(n) the sorted values: out_k = 1/(n − 2f) · Σ_{r = f+1}^{n−f} x_(r).
//! n > 2f · breakdown point f/n < ½ · one pass, a pruned sorting network, O(n log² n · d).
//! κ ≤ 6 f/(n − 2f) · (1 + f/(n − 2f)) (Allouah et al. 2023, AISTATS, table 1).
//! Verdict weight: the contribution's share of all values that lay within the kept ranges; `Excluded` when none of its
//! did (counted as [`coordinates`](crate::coordinates) says).

use super::verdicts_of_kept;
use crate::aggregator::{Aggregator, Contribution, Verdict, assert_preconditions};
use crate::coordinates::{Reduction, reduce};

/// The coordinate-wise trimmed mean.
#[derive(Clone, Copy, Debug)]
pub struct TrimmedMean {
    /// How many values are dropped from each end of every coordinate.
    pub f: usize,
}

impl Aggregator for TrimmedMean {
    fn aggregate(&self, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict> {
        assert_preconditions(contributions, out);
        let kept = reduce(contributions, None, Reduction::Middle { trim: self.f }, out);
        verdicts_of_kept(&kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregator::VerdictOutcome;

    #[test]
    fn the_ends_of_each_coordinate_are_dropped() {
        let rows = [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [-1e30, 1e30], [6.0, -5.0]];
        let contributions: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
        let mut out = [0.0; 2];
        let verdicts = TrimmedMean { f: 1 }.aggregate(&contributions, &mut out);
        assert_eq!(out, [2.0, 8.0]);
        assert_eq!(verdicts[3].outcome, VerdictOutcome::Excluded);
        assert_eq!(verdicts[0].outcome, VerdictOutcome::Used);
        assert!((verdicts[0].weight - 1.0 / 3.0).abs() < 1e-6);
    }
}
