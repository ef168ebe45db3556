//! The geometric median by smoothed Weiszfeld steps: `geometric_median` with few steps from zero, and `rfa`, robust
//! federated averaging (Pillutla, Kakade & Harchaoui 2022, IEEE TSP, algorithm 2), run until it stands still.
//! Neither reads weights, and neither drops anyone: a far update keeps a weight of one over its distance.
//!
//! ```text
//! β_i = 1 / max(ν, ‖x_i − z‖),   z ← Σ β_i x_i / Σ β_i        z = Σ w_i x_i, so the products of the updates suffice
//! ```
//! | | start | ν | steps | result |
//! | --- | --- | --- | --- | --- |
//! | `geometric_median` | z = 0, the model of the round before | given | T, given | ByzFL's, for its defaults ν = 0.1, T = 3 |
//! | `rfa` | the mean | 1e-9 of the median distance from it | until no weight moves by 1e-12 of itself, at most 5000 | the median itself |
//!
//! RFA's authors stop after three or four steps and weigh by numbers of samples. From the mean a few steps are not enough
//! against far updates (each takes off a factor of about f/(n − f)), and steps are free here; and a number of samples is a
//! claim. `rfa` commutes with translation and scaling; `geometric_median` does not, since zero and ν are fixed.
//! n ≥ 1 · breakdown point ½ · two passes, O(n² d), steps of O(n²) · κ ≤ 4 (1 + f/(n − 2f))² for the median itself
//! (Allouah et al. 2023, AISTATS, table 1). Verdict weight: w_i.

use crate::gram::Gram;
use crate::numeric::median_of_scalars;
use crate::weighted_sum::Weights;

/// `iterations` steps from zero.
pub(super) fn weights(gram: &Gram, smoothing: f64, iterations: u32) -> Weights {
    let mut weights = vec![0.0; gram.len()];
    for _ in 0..iterations {
        weights = step(&gram.distances_from(&weights), smoothing);
    }
    Weights { weights, divisor: 1.0 }
}

const MOST_STEPS: usize = 5000;
/// Relative, and for each weight: a far update of weight 1e-13 still moves z.
const STILL: f64 = 1e-12;

/// The median to convergence, from the mean.
pub(super) fn converged(gram: &Gram) -> Weights {
    let n = gram.len();
    let mut weights = vec![1.0 / n as f64; n];
    for _ in 0..MOST_STEPS {
        let distances = gram.distances_from(&weights);
        let next = step(&distances, 1e-9 * median_of_scalars(&distances));
        let still = weights
            .iter()
            .zip(&next)
            .all(|(old, new)| (old - new).abs() <= STILL * new);
        weights = next;
        if still {
            break;
        }
    }
    Weights { weights, divisor: 1.0 }
}

/// The weights of the next z. Where all distances are 0, all weigh the same.
fn step(distances: &[f64], smoothing: f64) -> Vec<f64> {
    const LEAST: f64 = 1e-150; // the inverse is finite, and below any distance between f32 vectors
    let floor = if smoothing > LEAST { smoothing } else { LEAST };
    let inverse: Vec<f64> = distances
        .iter()
        .map(|&distance| 1.0 / if distance > floor { distance } else { floor })
        .collect();
    let total = inverse.iter().fold(0.0, |sum, weight| sum + weight);
    inverse.iter().map(|weight| weight / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[f64]) -> Gram {
        let products = points.iter().flat_map(|a| points.iter().map(move |b| a * b)).collect();
        Gram::from_products(points.len(), products)
    }

    #[test]
    fn on_a_line_it_is_the_median_however_far_the_last_one_is() {
        for far in [10.0, 1e30, 1e38] {
            let gram = line(&[1.0, 2.0, far]);
            let weights = converged(&gram).weights;
            assert!(weights[1] > 1.0 - 1e-6, "{far:e}: {weights:?}");
        }
    }

    #[test]
    fn one_step_from_zero_by_hand() {
        let weights = weights(&line(&[1.0, -2.0, 0.0]), 0.5, 1).weights;
        assert_eq!(weights, [1.0 / 3.5, 0.5 / 3.5, 2.0 / 3.5]);
    }
}
