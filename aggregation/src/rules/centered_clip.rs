//! Centered clipping (Karimireddy, He & Jaggi 2021, ICML, "Learning from History for Byzantine Robust Optimization", §4).
//! It carries no centre from round to round, as the paper's does; that is for a rule with state, and this one has none.
//!
//! ```text
//! v ← coordinate-wise median of x_1 … x_n
//! repeat L times:  v ← v + (1/n) Σ_i (x_i − v) · min(1, τ / ‖x_i − v‖)
//! ```
//! Why the median as a start: the bound of the paper holds for a centre near the honest mean. The previous aggregate
//! would serve, but makes the result depend on history that a member who joins late must first be told; zero would
//! make the rule depend on where the origin lies. Fewer than n/2 attackers cannot move the median out of the range
//! of the honest values.
//! Why τ is the median of the distances ‖x_i − v‖ by default: the right τ is of the size of the honest spread, which
//! changes over training and which no operator knows in advance. With f < n/2 that median is at most the largest
//! honest distance, so attackers can neither blow τ up beyond the honest spread nor push v by more than τ·f/n a step;
//! and it scales with the updates, so that the rule commutes with scaling and translation.
//! n ≥ 1 · breakdown point ½, with good accuracy for f well below it · 2 L + 1 passes, O((L + log² n) n d).
//! Verdict weight: the last step's min(1, τ/‖x_i − v‖) as a share of their sum; `Clipped` where it is below 1,
//! `Excluded` where it is 0.

use serde::{Deserialize, Serialize};

use super::median::Median;
use crate::aggregator::{Aggregator, Contribution, Verdict, VerdictOutcome, assert_preconditions};
use crate::numeric::{for_each_chunk, median_of_scalars, squared_distances};

/// The radius of the ball that updates are clipped to.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Radius {
    /// The median of the updates' distances from the centre, taken anew in each step.
    #[default]
    MedianDistance,
    /// A fixed radius, in the unit of the updates.
    Fixed(f32),
}

/// Centered clipping around the coordinate-wise median.
#[derive(Clone, Copy, Debug)]
pub struct CenteredClip {
    /// Clipping steps, L.
    pub iterations: u32,
    /// The radius, τ.
    pub radius: Radius,
}

/// Coordinates summed side by side.
const WIDTH: usize = 256;

impl Aggregator for CenteredClip {
    fn aggregate(&self, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict> {
        assert_preconditions(contributions, out);
        Median.aggregate(contributions, out);
        self.refine(contributions, out)
    }
}

impl CenteredClip {
    /// The clipping steps alone, from the centre that the caller brings and that the result replaces.
    ///
    /// # Panics
    /// As [`Aggregator::aggregate`] does.
    pub fn refine(&self, contributions: &[Contribution<'_>], centre: &mut [f32]) -> Vec<Verdict> {
        assert_preconditions(contributions, centre);
        let mut factors = vec![1.0f64; contributions.len()];
        for _ in 0..self.iterations {
            let distances: Vec<f64> = squared_distances(contributions, centre)
                .into_iter()
                .map(f64::sqrt)
                .collect();
            let radius = match self.radius {
                Radius::MedianDistance => median_of_scalars(&distances),
                Radius::Fixed(radius) => f64::from(radius),
            };
            for (factor, &distance) in factors.iter_mut().zip(&distances) {
                *factor = if distance <= radius { 1.0 } else { radius / distance };
            }
            step_towards(contributions, &factors, centre);
        }
        verdicts_of_factors(&factors)
    }
}

/// v ← v + (1/n) Σ_i factor_i (x_i − v), coordinate by coordinate, in f64.
fn step_towards(contributions: &[Contribution<'_>], factors: &[f64], centre: &mut [f32]) {
    let count = contributions.len() as f64;
    for_each_chunk(centre, |start, centre| {
        for (index, centre) in centre.chunks_mut(WIDTH).enumerate() {
            let begin = start + index * WIDTH;
            let mut sums = [0.0f64; WIDTH];
            for (contribution, factor) in contributions.iter().zip(factors) {
                let values = &contribution.values[begin..begin + centre.len()];
                for ((sum, &value), &centre) in sums.iter_mut().zip(values).zip(centre.iter()) {
                    *sum += factor * (f64::from(value) - f64::from(centre));
                }
            }
            for (centre, sum) in centre.iter_mut().zip(sums) {
                *centre = (f64::from(*centre) + sum / count) as f32;
            }
        }
    });
}

fn verdicts_of_factors(factors: &[f64]) -> Vec<Verdict> {
    let total = factors.iter().fold(0.0, |sum, factor| sum + factor);
    factors
        .iter()
        .map(|&factor| Verdict {
            weight: (factor / total) as f32,
            outcome: match factor {
                1.0 => VerdictOutcome::Used,
                0.0 => VerdictOutcome::Excluded,
                _ => VerdictOutcome::Clipped,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rule: CenteredClip, rows: &[Vec<f32>]) -> (Vec<f32>, Vec<Verdict>) {
        let contributions: Vec<_> = rows
            .iter()
            .map(|row| Contribution {
                values: row,
                weight: 1.0,
            })
            .collect();
        let mut out = vec![0.0; rows[0].len()];
        let verdicts = rule.aggregate(&contributions, &mut out);
        (out, verdicts)
    }

    #[test]
    fn one_step_of_a_fixed_radius_by_hand() {
        // Median (0, 0); distances 0, 0, 5; the last is clipped to length 1 and pulls by a third of it.
        let rows = [vec![0.0, 0.0], vec![0.0, 0.0], vec![3.0, 4.0]];
        let (out, verdicts) = run(
            CenteredClip {
                iterations: 1,
                radius: Radius::Fixed(1.0),
            },
            &rows,
        );
        assert_eq!(out, [(0.6f64 / 3.0) as f32, (0.8f64 / 3.0) as f32]);
        assert_eq!(verdicts[2].outcome, VerdictOutcome::Clipped);
        assert!((verdicts[2].weight - 0.2 / 2.2).abs() < 1e-6);
    }

    #[test]
    fn a_wide_radius_gives_the_mean() {
        let rows = [vec![1.0, 2.0], vec![2.0, 4.0], vec![6.0, 0.0]];
        let (out, verdicts) = run(
            CenteredClip {
                iterations: 1,
                radius: Radius::Fixed(1e6),
            },
            &rows,
        );
        assert_eq!(out, [3.0, 2.0]);
        assert!(verdicts.iter().all(|v| v.outcome == VerdictOutcome::Used));
    }

    #[test]
    fn a_lone_outlier_among_equals_is_excluded() {
        let rows = [vec![1.0; 4], vec![1.0; 4], vec![1.0; 4], vec![1e30; 4]];
        let (out, verdicts) = run(
            CenteredClip {
                iterations: 3,
                radius: Radius::MedianDistance,
            },
            &rows,
        );
        assert_eq!(out, vec![1.0; 4]);
        assert_eq!(
            verdicts[3],
            Verdict {
                weight: 0.0,
                outcome: VerdictOutcome::Excluded
            }
        );
    }
}
