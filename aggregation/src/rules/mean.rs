//! The weighted mean, out = Σ w_i x_i / Σ w_i (federated averaging: McMahan et al. 2017, AISTATS, algorithm 1).
//! It defends against nobody: a single contribution can move it anywhere, so use it only among members who trust each other.
//!
//! n ≥ 1 · breakdown point 0 · one pass, O(n d). Verdict weight: w_i / Σ w.

use crate::aggregator::{Aggregator, Contribution, Verdict, VerdictOutcome, assert_preconditions};
use crate::numeric;

/// The weighted mean.
#[derive(Clone, Copy, Debug)]
pub struct Mean;

/// Coordinates summed side by side.
const WIDTH: usize = 256;

impl Aggregator for Mean {
    fn aggregate(&self, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict> {
        assert_preconditions(contributions, out);
        let mut total = 0.0f64;
        for contribution in contributions {
            assert!(
                contribution.weight.is_finite() && contribution.weight > 0.0,
                "a weight is finite and positive"
            );
            total += f64::from(contribution.weight);
        }
        // The product of two f32 is exact in f64, and no sum of them overflows it: one rounding an addition, one at the end.
        numeric::for_each_chunk(out, |start, out| {
            for (index, out) in out.chunks_mut(WIDTH).enumerate() {
                let begin = start + index * WIDTH;
                let mut sums = [0.0f64; WIDTH];
                for contribution in contributions {
                    let weight = f64::from(contribution.weight);
                    for (sum, &value) in sums.iter_mut().zip(&contribution.values[begin..begin + out.len()]) {
                        *sum += weight * f64::from(value);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = (sum / total) as f32;
                }
            }
        });
        contributions
            .iter()
            .map(|c| Verdict {
                weight: (f64::from(c.weight) / total) as f32,
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
        let verdicts = Mean.aggregate(
            &[
                Contribution {
                    values: &[1.0, 0.0],
                    weight: 3.0,
                },
                Contribution {
                    values: &[5.0, 4.0],
                    weight: 1.0,
                },
            ],
            &mut out,
        );
        assert_eq!(out, [2.0, 1.0]);
        assert_eq!(verdicts.iter().map(|v| v.weight).collect::<Vec<_>>(), [0.75, 0.25]);
    }
}
