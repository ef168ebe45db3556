//! Gossip averaging: x_i ← Σ_j W_ij x_j over a neighbourhood (D-PSGD: Lian et al. 2017, NeurIPS, algorithm 1; here a
//! local step is taken first and its result is mixed). It defends against nobody: one neighbour can move it anywhere.
//!
//! Breakdown point 0 · one pass, O(deg · d). Verdict weight: W_ij.

use super::{Neighbourhood, verdicts, weighted_mean};
use crate::aggregator::Verdict;

/// The weighted mean of a neighbourhood. Equal weights count as one each: on a complete graph every member's mix is then
/// the plain mean, bit for bit.
pub fn gossip(neighbourhood: &Neighbourhood<'_>, out: &mut [f32]) -> Vec<Verdict> {
    neighbourhood.assert_preconditions(out);
    let members = neighbourhood.members;
    let equal = members.iter().all(|member| member.weight == members[0].weight);
    let weights: Vec<f64> = members
        .iter()
        .map(|member| if equal { 1.0 } else { member.weight })
        .collect();
    let rows = members.iter().map(|member| member.values).zip(weights.iter().copied());
    weighted_mean(rows, out);
    verdicts(&weights, |_| false)
}
