//! Rows that are weighted sums of the contributions: what a pre-aggregation makes, before any value is touched.
//! It does not choose the weights.

use crate::aggregator::Contribution;
use crate::gram::{Gram, dot};

/// A matrix M: row r of the mixed updates is Σ_j M_rj x_j.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    columns: usize,
    entries: Vec<f64>,
    /// Which contributions were shortened.
    clipped: Vec<bool>,
}

impl Mixture {
    /// Every row is a contribution as it came.
    pub(crate) fn identity(n: usize) -> Self {
        Self::scaling(&vec![1.0; n])
    }

    /// Every row is a contribution times its factor; one below 1 counts as clipped.
    pub(crate) fn scaling(factors: &[f64]) -> Self {
        let n = factors.len();
        let mut entries = vec![0.0; n * n];
        for (i, factor) in factors.iter().enumerate() {
            entries[i * n + i] = *factor;
        }
        let clipped = factors.iter().map(|factor| *factor < 1.0).collect();
        Self {
            columns: n,
            entries,
            clipped,
        }
    }

    /// Every row is the mean of the contributions that its group names.
    pub(crate) fn means(groups: &[Vec<usize>], columns: usize) -> Self {
        let mut entries = vec![0.0; groups.len() * columns];
        for (group, row) in groups.iter().zip(entries.chunks_mut(columns)) {
            let share = 1.0 / group.len() as f64;
            for &member in group {
                row[member] = share;
            }
        }
        Self {
            columns,
            entries,
            clipped: vec![false; columns],
        }
    }

    /// The same with these rows alone.
    pub(crate) fn only(&self, chosen: &[usize]) -> Self {
        let rows: Vec<&[f64]> = self.weights().collect();
        Self {
            columns: self.columns,
            entries: chosen.iter().flat_map(|&row| rows[row].iter().copied()).collect(),
            clipped: self.clipped.clone(),
        }
    }

    /// How many rows it makes.
    pub fn rows(&self) -> usize {
        self.entries.len() / self.columns.max(1)
    }

    /// Row by row, the weights of the contributions.
    pub fn weights(&self) -> impl Iterator<Item = &[f64]> {
        self.entries.chunks(self.columns.max(1))
    }

    /// Whether contribution `j` was shortened.
    pub(crate) fn is_clipped(&self, j: usize) -> bool {
        self.clipped[j]
    }

    /// This step after another: M = self · first.
    pub(crate) fn after(&self, first: &Self) -> Self {
        let mut entries = Vec::with_capacity(self.rows() * first.columns);
        for row in self.weights() {
            entries.extend(first.back(row));
        }
        // A step that scales has one row a row of the step before; what it shortened, it shortened for all who are in it.
        let shortened = |j: usize| {
            let rows = first.weights().zip(&self.clipped);
            first.clipped[j] || rows.into_iter().any(|(row, clipped)| *clipped && row[j] != 0.0)
        };
        Self {
            columns: first.columns,
            entries,
            clipped: (0..first.columns).map(shortened).collect(),
        }
    }

    /// Weights of the contributions that follow from weights of the rows: Mᵀ w.
    pub(crate) fn back(&self, row_weights: &[f64]) -> Vec<f64> {
        let mut weights = vec![0.0; self.columns];
        for (row, row_weight) in self.weights().zip(row_weights) {
            if *row_weight != 0.0 {
                for (weight, entry) in weights.iter_mut().zip(row) {
                    *weight += row_weight * entry;
                }
            }
        }
        weights
    }

    /// The products of the rows: M G Mᵀ.
    pub(crate) fn gram(&self, gram: &Gram) -> Gram {
        let (rows, n) = (self.rows(), self.columns);
        let half: Vec<Vec<f64>> = self
            .weights()
            .map(|row| {
                let column = |j: usize| (0..n).map(|k| gram.product(k, j)).collect::<Vec<f64>>();
                (0..n).map(|j| dot(&column(j), row)).collect()
            })
            .collect();
        let mut products = vec![0.0; rows * rows];
        for (i, row) in self.weights().enumerate() {
            for j in 0..=i {
                let product = dot(&half[j], row);
                products[i * rows + j] = product;
                products[j * rows + i] = product;
            }
        }
        Gram::from_products(rows, products)
    }

    /// The same with one more contribution, which passes as it is and becomes the last row.
    pub(crate) fn with_one_more(&self) -> Self {
        let mut entries = Vec::with_capacity((self.rows() + 1) * (self.columns + 1));
        for row in self.weights() {
            entries.extend_from_slice(row);
            entries.push(0.0);
        }
        entries.extend(std::iter::repeat_n(0.0, self.columns));
        entries.push(1.0);
        let mut clipped = self.clipped.clone();
        clipped.push(false);
        Self {
            columns: self.columns + 1,
            entries,
            clipped,
        }
    }

    /// Members' weights, for rules that read them: a row counts as much as those who are in it.
    pub(crate) fn claims(&self, contributions: &[Contribution<'_>]) -> Vec<f64> {
        self.weights()
            .map(|row| {
                let terms = row.iter().zip(contributions);
                terms
                    .filter(|(entry, _)| **entry != 0.0)
                    .fold(0.0, |sum, (_, contribution)| sum + f64::from(contribution.weight))
            })
            .collect()
    }

    /// Row by row, the contributions that enter and their weights, in order.
    pub(crate) fn terms(&self) -> Vec<Vec<(usize, f64)>> {
        let used = |row: &[f64]| {
            row.iter()
                .copied()
                .enumerate()
                .filter(|(_, weight)| *weight != 0.0)
                .collect()
        };
        self.weights().map(used).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_compose_and_their_products_follow() {
        let scaled = Mixture::scaling(&[1.0, 0.5, 1.0]);
        let means = Mixture::means(&[vec![0, 1], vec![2]], 3);
        let both = means.after(&scaled);
        assert_eq!(
            both.weights().collect::<Vec<_>>(),
            [&[0.5, 0.25, 0.0][..], &[0.0, 0.0, 1.0]]
        );
        assert!(both.is_clipped(1) && !both.is_clipped(0));
        let gram = Gram::from_products(3, vec![4.0, 2.0, 0.0, 2.0, 8.0, 1.0, 0.0, 1.0, 9.0]);
        let mixed = both.gram(&gram);
        assert_eq!(mixed, scaled_then_mean(&gram));
        assert_eq!(both.back(&[2.0, 1.0]), [1.0, 0.5, 1.0]);
    }

    fn scaled_then_mean(gram: &Gram) -> Gram {
        let g = |i, j| gram.product(i, j);
        let first = 0.25 * g(0, 0) + 2.0 * 0.125 * g(0, 1) + 0.0625 * g(1, 1);
        let cross = 0.5 * g(0, 2) + 0.25 * g(1, 2);
        Gram::from_products(2, vec![first, cross, cross, g(2, 2)])
    }
}
