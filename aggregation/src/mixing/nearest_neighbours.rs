//! Nearest-neighbour averaging, NNA: the mean of the own vector and the neighbours nearest to it, the b farthest dropped
//! (Farhadkhani, Guerraoui, Gupta, Hoang, Pinot & Stephan 2023, ICML, "Robust Collaborative Learning with Linear
//! Gradient Overhead"). It ignores the graph's weights, and what is dropped is as often an honest member with unlike data.
//!
//! deg ≥ 2 b (proved for 11 b < n) · two passes, O(deg · d). Verdict weight: 1 / (1 + kept).

use super::{Neighbourhood, verdicts, weighted_mean};
use crate::aggregator::Verdict;

/// The mean of the own vector and all but the `b` farthest neighbours; among equals the larger place is dropped first.
pub fn nearest_neighbours(neighbourhood: &Neighbourhood<'_>, b: usize, out: &mut [f32]) -> Vec<Verdict> {
    neighbourhood.assert_preconditions(out);
    let shares = kept(neighbourhood, b);
    let rows = neighbourhood.members.iter().map(|member| member.values);
    weighted_mean(rows.zip(shares.iter().copied()).filter(|(_, share)| *share > 0.0), out);
    verdicts(&shares, |_| false)
}

/// 1 for the own place and all but the `b` farthest, 0 for these.
pub(super) fn kept(neighbourhood: &Neighbourhood<'_>, b: usize) -> Vec<f64> {
    let nearest_first = neighbourhood.by_distance();
    let keep = nearest_first.len().saturating_sub(b);
    let mut shares = vec![0.0; neighbourhood.members.len()];
    shares[neighbourhood.own] = 1.0;
    for &(place, _) in &nearest_first[..keep] {
        shares[place] = 1.0;
    }
    shares
}
