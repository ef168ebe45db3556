//! The inner loops of the passes over the data.
//! It knows no rules, and its answers are the same bits on every processor.

use crate::numeric::LANES;

/// Rows of a block of products.
pub(crate) const BLOCK: usize = 4;
/// Groups of [`LANES`] columns that a panel holds.
pub(crate) const DEPTH: usize = 32;
/// A row of a panel: converted values.
pub(crate) type PanelRow = [[f64; LANES]; DEPTH];
/// Lanes of the products of a block of rows with another.
pub(crate) type ProductBlock = [[[f64; LANES]; BLOCK]; BLOCK];
/// Rows that are added at once.
pub(crate) const SUM_ROWS: usize = 8;
/// Columns that are added at once.
pub(crate) const SUM_WIDTH: usize = 256;

/// The kernels that this processor runs.
#[derive(Clone, Copy)]
pub(crate) struct Kernels;

impl Kernels {
    pub(crate) fn detect() -> Self {
        Self
    }

    /// Converts `values` (minus `centre`) to f64 and pads with zeros.
    pub(crate) fn pack(self, values: &[f32], centre: Option<&[f32]>, panel: &mut PanelRow) {
        pack(values, centre, panel);
    }

    /// Adds the products of the rows of `left` with those of `right`, lane by lane.
    pub(crate) fn products(self, left: &[PanelRow; BLOCK], right: &[PanelRow; BLOCK], block: &mut ProductBlock) {
        products(left, right, block);
    }

    /// sums[k] += Σ_i factors[i] · rows[i][begin + k], at most [`SUM_ROWS`] rows, as far as they reach.
    pub(crate) fn add_rows(self, rows: &[&[f32]], begin: usize, factors: &[f64], sums: &mut [f64; SUM_WIDTH]) {
        for (row, factor) in rows.iter().zip(factors) {
            for (sum, &value) in sums.iter_mut().zip(&row[begin..]) {
                *sum += factor * f64::from(value);
            }
        }
    }
}

#[inline(always)]
fn pack(values: &[f32], centre: Option<&[f32]>, panel: &mut PanelRow) {
    let panel = panel.as_flattened_mut();
    let (head, tail) = panel.split_at_mut(values.len());
    match centre {
        None => {
            for (packed, &value) in head.iter_mut().zip(values) {
                *packed = f64::from(value);
            }
        }
        Some(centre) => {
            for ((packed, &value), &centre) in head.iter_mut().zip(values).zip(centre) {
                *packed = f64::from(value) - f64::from(centre);
            }
        }
    }
    tail.fill(0.0);
}

#[inline(always)]
fn products(left: &[PanelRow; BLOCK], right: &[PanelRow; BLOCK], block: &mut ProductBlock) {
    for (left, block) in left.iter().zip(block) {
        for (right, lanes) in right.iter().zip(block) {
            let mut sums = *lanes;
            for (left, right) in left.iter().zip(right) {
                for lane in 0..LANES {
                    sums[lane] += left[lane] * right[lane];
                }
            }
            *lanes = sums;
        }
    }
}
