//! Trimmed gossip: x_i + Σ W_ij (x_j − x_i) over all but the b farthest neighbours (NNA with the graph's weights, "GTS" in
//! Gaucher, Dieuleveut & Hendrikx 2025, ICML, arXiv 2410.10418). The weight of those left out stays with the own vector; how
//! many are left out is a count, never a sum of weights whose rounding would decide.
//!
//! deg ≥ 2 b · two passes, O(deg · d). Verdict weight: W_ij, the own vector with the rest.

use super::clipped_gossip::verdicts_with_rest;
use super::nearest_neighbours::kept;
use super::{Neighbourhood, pull};
use crate::aggregator::Verdict;

/// Gossip without the `b` farthest neighbours.
pub fn trimmed_gossip(neighbourhood: &Neighbourhood<'_>, b: usize, out: &mut [f32]) -> Vec<Verdict> {
    neighbourhood.assert_preconditions(out);
    let members = neighbourhood.members;
    let shares: Vec<f64> = kept(neighbourhood, b)
        .into_iter()
        .zip(members)
        .map(|(kept, member)| kept * member.weight)
        .collect();
    let rows = members.iter().map(|member| member.values).zip(shares.iter().copied());
    pull(neighbourhood.own_values(), rows.filter(|(_, share)| *share > 0.0), out);
    verdicts_with_rest(neighbourhood, shares, |_| false)
}
