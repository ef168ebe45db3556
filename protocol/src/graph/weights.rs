//! How much each member takes from each other: the rows of a mixing matrix W, x_i ← Σ_j W_ij x_j.
//! It decides weights by degrees alone; no member's claim about itself enters.

use serde::{Deserialize, Serialize};

use super::Graph;

/// By which rule weights follow from a graph. Variants are only ever appended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// W_ij = 1 / (1 + max(deg_i, deg_j)), the rest to itself (Xiao, Boyd & Lall 2005, IPSN). The default: symmetric and
    /// doubly stochastic on every undirected graph, so that mixing keeps the mean, and each needs to know only its
    /// neighbours' degrees.
    #[default]
    Metropolis,
    /// W_ij = 1 / (1 + those that i hears from). Keeps the mean on regular graphs only; on others those who are heard by
    /// many count for more.
    Uniform,
    /// W_ij = 1 / (1 + those that j sends to): each column sums to one. For push-sum, which divides by the weight that
    /// travels along.
    Push,
}

/// A mixing matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    rows: Vec<Vec<(usize, f64)>>,
}

impl Weights {
    /// The weights of a graph.
    pub fn of(graph: &Graph, weighting: Weighting) -> Self {
        let heard = graph.hears_from();
        let share = |degree: usize| 1.0 / (1.0 + degree as f64);
        let rows = heard.iter().enumerate().map(|(i, heard_by_i)| {
            let mut row: Vec<(usize, f64)> = heard_by_i
                .iter()
                .map(|&j| match weighting {
                    Weighting::Metropolis => (j, share(heard_by_i.len().max(heard[j].len()))),
                    Weighting::Uniform => (j, share(heard_by_i.len())),
                    Weighting::Push => (j, share(graph.sends_to(j).len())),
                })
                .collect();
            let own = match weighting {
                Weighting::Uniform => share(heard_by_i.len()),
                Weighting::Push => share(graph.sends_to(i).len()),
                // Among neighbours of no higher degree all weights are equal; said so, and not as a difference, they
                // are equal to the last bit.
                Weighting::Metropolis if heard_by_i.iter().all(|&j| heard[j].len() <= heard_by_i.len()) => {
                    share(heard_by_i.len())
                }
                Weighting::Metropolis => row.iter().fold(1.0, |rest, (_, weight)| rest - weight),
            };
            row.push((i, own));
            row.sort_unstable_by_key(|(j, _)| *j);
            row
        });
        Self { rows: rows.collect() }
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.rows.len()
    }

    /// What a member takes: pairs of a member, itself included, and a weight, in increasing order of members.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn row(&self, member: usize) -> &[(usize, f64)] {
        &self.rows[member]
    }

    /// W x.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.rows
            .iter()
            .map(|row| row.iter().fold(0.0, |sum, &(j, weight)| sum + weight * x[j]))
            .collect()
    }

    /// Wᵀ x.
    pub fn apply_transposed(&self, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; x.len()];
        for (row, x) in self.rows.iter().zip(x) {
            for &(j, weight) in row {
                out[j] += weight * x;
            }
        }
        out
    }

    /// The largest |1 − sum| over all rows.
    pub fn row_error(&self) -> f64 {
        largest_error(&self.apply(&vec![1.0; self.members()]))
    }

    /// The largest |1 − sum| over all columns: 0, up to rounding, when mixing keeps the mean.
    pub fn column_error(&self) -> f64 {
        largest_error(&self.apply_transposed(&vec![1.0; self.members()]))
    }
}

fn largest_error(sums: &[f64]) -> f64 {
    sums.iter().fold(0.0, |largest, sum| (sum - 1.0).abs().max(largest))
}
