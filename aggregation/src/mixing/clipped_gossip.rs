//! Clipped gossip, or self-centered clipping: x_i + Σ_j W_ij clip(x_j − x_i, τ_i) (He, Karimireddy & Jaggi 2022, arXiv
//! 2202.01545, §4; the ranked radius is CS+ of Gaucher, Dieuleveut & Hendrikx 2025, ICML, arXiv 2410.10418).
//! It cannot undo a pull that stays within the radius and never tires: clipped messages do not vanish, so on unlike data a
//! constant push by few wins in the end where dropping the farthest would not let it.
//!
//! Breakdown: bounded by the algebraic connectivity of the honest graph against the faulty weight · two passes,
//! O(deg · d). Verdict weight: W_ij min(1, τ/‖x_j − x_i‖) as a share of the whole, the own vector with the rest;
//! `Clipped` where the factor is below 1.

use serde::{Deserialize, Serialize};

use super::{Neighbourhood, pull, verdicts};
use crate::aggregator::Verdict;

/// How far a neighbour may pull.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GossipRadius {
    /// The distance of rank 2 b + 1, counted from the farthest (CS+): whatever b faulty neighbours send, it is at most
    /// an honest distance, and as many honest pulls are shortened as faulty ones. By count of neighbours, not by sums of
    /// weights, whose rounding would decide ties.
    Ranked {
        /// Neighbours that may be faulty.
        b: usize,
    },
    /// √(Σ W_ij ‖x_j − x_i‖² / (b max W)), the sum over all but the b farthest (the radius of the paper's theory, with
    /// what is known in place of the expectation). No clipping for b = 0.
    Spread {
        /// Neighbours that may be faulty.
        b: usize,
    },
    /// A fixed radius, in the unit of the vectors.
    Fixed(f32),
}

/// Clipped gossip with one radius for all neighbours.
pub fn clipped_gossip(neighbourhood: &Neighbourhood<'_>, radius: GossipRadius, out: &mut [f32]) -> Vec<Verdict> {
    neighbourhood.assert_preconditions(out);
    let nearest_first = neighbourhood.by_distance();
    let radius = radius.among(neighbourhood, &nearest_first);
    let mut factors = vec![1.0f64; neighbourhood.members.len()];
    for &(place, distance) in &nearest_first {
        factors[place] = if distance <= radius { 1.0 } else { radius / distance };
    }
    let members = neighbourhood.members;
    let shares: Vec<f64> = members
        .iter()
        .zip(&factors)
        .map(|(m, factor)| m.weight * factor)
        .collect();
    let rows = members.iter().map(|member| member.values).zip(shares.iter().copied());
    pull(neighbourhood.own_values(), rows, out);
    verdicts_with_rest(neighbourhood, shares, |place| factors[place] < 1.0)
}

impl GossipRadius {
    /// The radius among neighbours whose distances are known, the nearest first.
    pub(super) fn among(self, neighbourhood: &Neighbourhood<'_>, nearest_first: &[(usize, f64)]) -> f64 {
        let left = |b: usize| nearest_first.len().saturating_sub(b);
        match self {
            Self::Fixed(radius) => f64::from(radius),
            Self::Ranked { b } => match left(b.saturating_mul(2)) {
                0 => 0.0,
                rank => nearest_first[rank - 1].1,
            },
            Self::Spread { b: 0 } => f64::INFINITY,
            Self::Spread { b } => {
                let weight = |place: usize| neighbourhood.members[place].weight;
                let spread = nearest_first[..left(b)]
                    .iter()
                    .fold(0.0, |sum, &(place, distance)| sum + weight(place) * distance * distance);
                let heaviest = nearest_first
                    .iter()
                    .fold(0.0f64, |most, &(place, _)| most.max(weight(place)));
                if heaviest > 0.0 {
                    (spread / (b as f64 * heaviest)).sqrt()
                } else {
                    0.0
                }
            }
        }
    }
}

/// Verdicts where the own vector keeps whatever weight the others lost.
pub(super) fn verdicts_with_rest(
    neighbourhood: &Neighbourhood<'_>,
    mut shares: Vec<f64>,
    clipped: impl Fn(usize) -> bool,
) -> Vec<Verdict> {
    let own = neighbourhood.own;
    let total = neighbourhood
        .members
        .iter()
        .fold(0.0, |sum, member| sum + member.weight);
    let others = shares.iter().enumerate().filter(|(place, _)| *place != own);
    let taken = others.fold(0.0, |sum, (_, share)| sum + share);
    shares[own] = (total.max(1.0) - taken).max(f64::MIN_POSITIVE);
    verdicts(&shares, |place| place != own && clipped(place))
}
