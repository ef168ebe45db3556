//! Smallest maximum eigenvalue averaging (Allouah, Guerraoui, Gupta, Pinot & Stephan 2023, ICML, "On the Privacy-
//! Robustness-Utility Trilemma", §4). It looks at all C(n, f) subsets, so it is for few members.
//!
//! The mean of the n − f updates whose covariance has the least greatest eigenvalue; of several such subsets, the first in
//! the order of indices. The eigenvalues of a covariance are those of the centred products of its members, a matrix of
//! n − f rows whatever d is, and they are computed exactly (ByzFL takes one power step from a random start).
//! n > 2f · breakdown point f/n < ½ · two passes, O(n² d + C(n, f) n³); sessions with C(n, f) above
//! [`MOST_SUBSETS`](super::MOST_SUBSETS) are refused. A subset whose eigenvalues must exceed the best one's (the greatest
//! is at least Σ λ² / Σ λ) is passed over. Verdict weight: 1/(n − f) for the chosen.

use crate::eigen::spectrum;
use crate::gram::Gram;
use crate::weighted_sum::Weights;

pub(super) fn weights(gram: &Gram, f: usize) -> Weights {
    let n = gram.len();
    let mut subset: Vec<usize> = (0..n - f).collect();
    let mut best: Option<(f64, Vec<usize>)> = None;
    loop {
        let covariance = centred(gram, &subset);
        let bound = best.as_ref().map_or(f64::INFINITY, |(value, _)| *value);
        if least_possible(subset.len(), &covariance) <= bound {
            let value = spectrum(subset.len(), covariance).values[0];
            if best.is_none() || value < bound {
                best = Some((value, subset.clone()));
            }
        }
        if !advance(&mut subset, n) {
            break;
        }
    }
    let chosen = best.map(|(_, subset)| subset).unwrap_or_default();
    Weights::mean_of(&chosen, n)
}

/// ⟨x_i − x̄, x_j − x̄⟩ over a subset with mean x̄.
fn centred(gram: &Gram, subset: &[usize]) -> Vec<f64> {
    let count = subset.len() as f64;
    let means: Vec<f64> = subset
        .iter()
        .map(|&i| subset.iter().fold(0.0, |sum, &j| sum + gram.product(i, j)) / count)
        .collect();
    let mean = means.iter().fold(0.0, |sum, value| sum + value) / count;
    let entry = |(a, &i): (usize, &usize), (b, &j): (usize, &usize)| gram.product(i, j) - means[a] - means[b] + mean;
    let rows = subset.iter().enumerate();
    rows.flat_map(|row| subset.iter().enumerate().map(move |column| entry(row, column)))
        .collect()
}

/// A little less than Σ λ² / Σ λ, below which the greatest eigenvalue cannot lie.
fn least_possible(n: usize, matrix: &[f64]) -> f64 {
    let squares = matrix.iter().fold(0.0, |sum, entry| sum + entry * entry);
    let trace = (0..n).fold(0.0, |sum, i| sum + matrix[i * n + i]);
    if trace > 0.0 {
        squares / trace * (1.0 - 1e-9)
    } else {
        0.0
    }
}

/// The next subset in the order of indices; false after the last one.
fn advance(subset: &mut [usize], n: usize) -> bool {
    let count = subset.len();
    let Some(place) = (0..count).rev().find(|&place| subset[place] < n - count + place) else {
        return false;
    };
    let first = subset[place] + 1;
    for (offset, member) in subset[place..].iter_mut().enumerate() {
        *member = first + offset;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_subsets_come_once_in_order() {
        let mut subset = vec![0, 1, 2];
        let mut seen = vec![subset.clone()];
        while advance(&mut subset, 5) {
            seen.push(subset.clone());
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn the_narrowest_direction_wins() {
        // Members 0 to 2 lie close together; 3 stands off.
        let points = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]];
        let products = points
            .iter()
            .flat_map(|a| points.map(|b| a[0] * b[0] + a[1] * b[1]))
            .collect();
        assert_eq!(
            weights(&Gram::from_products(4, products), 1).weights,
            [1.0, 1.0, 1.0, 0.0]
        );
    }
}
