//! The weighted mean, out = Σ w_i x_i / Σ w_i (federated averaging: McMahan et al. 2017, AISTATS, algorithm 1).
//! It defends against nobody: a single contribution can move it anywhere, so use it only among members who trust each other.
//!
//! n ≥ 1 · breakdown point 0 · one pass, O(n d). Verdict weight: w_i / Σ w.
//! Capped, no member counts for more than `cap` times the median of the claimed weights: who claims a billion tokens gets
//! little more than the others. That bounds what a *claim* is worth; an update itself can still be anything.

use crate::aggregator::{Aggregator, Contribution, Verdict, VerdictOutcome, assert_preconditions};
use crate::numeric::median_of_scalars;
use crate::weighted_sum::{Weights, weighted_sum};

/// The weighted mean.
#[derive(Clone, Copy, Debug)]
pub struct Mean;

/// Weights for rows that claim these.
pub(super) fn weights(claims: &[f64], cap: Option<f64>) -> Weights {
    let most = cap.map_or(f64::INFINITY, |cap| cap * median_of_scalars(claims));
    let weights: Vec<f64> = claims
        .iter()
        .map(|&claim| if claim < most { claim } else { most })
        .collect();
    let divisor = weights.iter().fold(0.0, |sum, weight| sum + weight);
    Weights { weights, divisor }
}

impl Aggregator for Mean {
    fn aggregate(&self, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict> {
        assert_preconditions(contributions, out);
        let claims: Vec<f64> = contributions.iter().map(|c| f64::from(c.weight)).collect();
        assert!(
            claims.iter().all(|claim| claim.is_finite() && *claim > 0.0),
            "a weight is finite and positive"
        );
        // The product of two f32 is exact in f64, and no sum of them overflows it: one rounding an addition, one at the end.
        let weights = weights(&claims, None);
        weighted_sum(contributions, &weights, 0.0, out);
        weights
            .weights
            .iter()
            .map(|weight| Verdict {
                weight: (weight / weights.divisor) as f32,
                outcome: VerdictOutcome::Used,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_count_tokens() {
        let mut out = [0.0; 2];
        let contributions = [
            Contribution::dense(&[1.0, 0.0], 3.0),
            Contribution::dense(&[5.0, 4.0], 1.0),
        ];
        let verdicts = Mean.aggregate(&contributions, &mut out);
        assert_eq!(out, [2.0, 1.0]);
        assert_eq!(verdicts.iter().map(|v| v.weight).collect::<Vec<_>>(), [0.75, 0.25]);
    }

    #[test]
    fn a_cap_takes_the_worth_out_of_a_large_claim() {
        let capped = weights(&[1.0, 2.0, 1e9], Some(1.5));
        assert_eq!(capped.weights, [1.0, 2.0, 3.0]);
        assert_eq!(capped.divisor, 6.0);
    }
}
