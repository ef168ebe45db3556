//! CAF, covariance-bound agnostic filtering (Allouah, Guerraoui & Stephan 2025, ICML, "Towards Trustworthy Federated
//! Learning with Untrusted Participants"). It needs no bound on the variance of honest updates, and it names nobody
//! faulty: it shrinks weights along the direction in which the updates vary most.
//!
//! ```text
//! c = 1;  while Σ c > n − 2f:   μ, Σ: mean and covariance weighted by c;  (λ, v) its top eigenpair
//!                               keep μ where λ is the least so far
//!                               τ_i = ⟨v, x_i − μ⟩²;   c_i ← c_i (1 − τ_i / max τ)
//! ```
//! The maximum is over members with c_i > 0: one of them drops out each time, so that it ends after n steps at most
//! (ByzFL takes it over all, and does not end under a far update). Eigenpairs are exact, from the weighted centred
//! products. n > 2f · breakdown point f/n < ½ · two passes, O(n² d + n⁴). Verdict weight: c_i / Σ c of the kept mean.

use crate::eigen::spectrum;
use crate::gram::{Gram, dot};
use crate::weighted_sum::Weights;

/// What is told apart: members who lie equally far out drop together, and a sum that meets the bound ends it.
const ROUNDING: f64 = 1e-9;

pub(super) fn weights(gram: &Gram, f: usize) -> Weights {
    let n = gram.len();
    let mut shares = vec![1.0f64; n];
    let mut best: Option<(f64, Vec<f64>)> = None;
    loop {
        let total = shares.iter().fold(0.0, |sum, share| sum + share);
        let (value, spread) = top_direction(gram, &shares, total);
        if best.as_ref().is_none_or(|(least, _)| value < *least) {
            best = Some((value, shares.iter().map(|share| share / total).collect()));
        }
        let widest = (0..n)
            .filter(|&i| shares[i] > 0.0)
            .fold(0.0f64, |most, i| if spread[i] > most { spread[i] } else { most });
        if widest <= 0.0 {
            break; // all who still count are equal
        }
        for (share, spread) in shares.iter_mut().zip(&spread) {
            let kept = 1.0 - spread / widest;
            *share *= if kept > ROUNDING { kept } else { 0.0 };
        }
        let total = shares.iter().fold(0.0, |sum, share| sum + share);
        if total <= (n - 2 * f) as f64 + ROUNDING {
            break;
        }
    }
    Weights {
        weights: best.map(|(_, weights)| weights).unwrap_or_default(),
        divisor: 1.0,
    }
}

/// The greatest eigenvalue of the covariance weighted by `shares`, and each member's squared extent along its direction.
fn top_direction(gram: &Gram, shares: &[f64], total: f64) -> (f64, Vec<f64>) {
    let n = gram.len();
    let rows: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| gram.product(i, j)).collect()).collect();
    let means: Vec<f64> = rows.iter().map(|row| dot(row, shares) / total).collect();
    let mean = dot(&means, shares) / total;
    let roots: Vec<f64> = shares.iter().map(|share| share.sqrt()).collect();
    let centred = |i: usize, j: usize| rows[i][j] - means[i] - means[j] + mean;
    let active: Vec<usize> = (0..n).filter(|&i| shares[i] > 0.0).collect();
    let kernel = active
        .iter()
        .flat_map(|&i| active.iter().map(move |&j| (i, j)))
        .map(|(i, j)| roots[i] * roots[j] * centred(i, j))
        .collect();
    let found = spectrum(active.len(), kernel);
    let value = found.values.first().copied().unwrap_or(0.0);
    if value <= 0.0 {
        return (0.0, vec![0.0; n]);
    }
    // v = Σ √c_i u_i (x_i − μ) / √λ, so ⟨v, x_j − μ⟩ = √λ u_j / √c_j.
    let mut spread = vec![0.0; n];
    for (&j, u) in active.iter().zip(&found.top) {
        spread[j] = value * u * u / shares[j];
    }
    (value / total, spread)
}
