//! Products of row-major matrices on several threads: rows of the product are cut into blocks of a fixed size, hence the
//! bits do not depend on the number of threads. It holds no decomposition.

use rayon::prelude::*;

use crate::product::{Matrix, multiply_scaled};

/// Rows of a product that one thread takes at a time.
const ROWS: usize = 128;

/// `out ← keep·out + scale·left·right`; `out` has `columns` columns. Without `keep` it is not read.
pub(super) fn product(
    out: &mut [f32],
    columns: usize,
    keep: Option<f32>,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) {
    let rows = out.len() / columns;
    if rows <= ROWS {
        return multiply_scaled(out, columns, keep, scale, left, right);
    }
    out.par_chunks_mut(ROWS * columns).enumerate().for_each(|(block, out)| {
        let range = block * ROWS..(block * ROWS + ROWS).min(rows);
        multiply_scaled(out, columns, keep, scale, left.rows(range), right);
    });
}

/// A row-major matrix of these numbers.
pub(super) fn matrix(values: &[f32], rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::new(values, rows, columns, columns)
}
