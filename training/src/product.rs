//! One safe door to the `gemm` crate: products of strided matrices on slices, on the calling thread.
//! It chooses no blocking and spawns no threads; callers cut their work by sequences.

use std::ops::Range;

/// A matrix in a slice: element `(r, c)` is at `r · row_stride + c · column_stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` numbers that begin `row_stride` apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            reaches(rows, columns, row_stride) <= data.len(),
            "the matrix lies within its slice"
        );
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// Some of its rows.
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(
            range.start < range.end && range.end <= self.rows,
            "some rows of the matrix"
        );
        Self {
            data: &self.data[range.start * self.row_stride..],
            rows: range.len(),
            ..self
        }
    }

    /// The same numbers, rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride,
        } = self;
        Self {
            data,
            rows: columns,
            columns: rows,
            row_stride: column_stride,
            column_stride: row_stride,
        }
    }
}

fn reaches(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * row_stride + columns
    }
}

/// Writes `left · right` over `out`, or adds it to what is there.
#[cfg(feature = "engine")]
pub(crate) fn multiply(out: &mut [f32], row_stride: usize, left: Matrix<'_>, right: Matrix<'_>, add: bool) {
    let keep = if add { Some(1.0) } else { None };
    multiply_scaled(out, row_stride, keep, 1.0, left, right);
}

/// Writes `keep · out + scale · left · right` over `out`; without `keep`, what is there is not read.
#[allow(unsafe_code)]
pub(crate) fn multiply_scaled(
    out: &mut [f32],
    row_stride: usize,
    keep: Option<f32>,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) {
    assert_eq!(left.columns, right.rows, "the inner sizes agree");
    assert!(
        reaches(left.rows, right.columns, row_stride) <= out.len(),
        "the product fits"
    );
    // Distinct elements of `out` have distinct places.
    assert!(
        left.rows <= 1 || right.columns <= row_stride,
        "rows of the product do not overlap"
    );
    // SAFETY: every element of the three matrices lies within its slice (asserted here and in `Matrix::new`, and kept by
    // `transposed`), `out` is borrowed mutably and hence shares nothing with the others, and strides fit in isize since slices do.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            keep.is_some(),
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            keep.unwrap_or(0.0),
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_matrices_are_right() {
        let data: Vec<f32> = (0..60).map(|i| (i * 7 % 11) as f32).collect();
        let left = Matrix::new(&data, 3, 4, 9); // 3 × 4
        let right = Matrix::new(&data[5..], 2, 4, 6).transposed(); // 4 × 2
        let mut out = vec![1.0; 3 * 5];
        multiply_scaled(&mut out, 5, Some(1.0), 1.0, left, right);
        for (row, values) in out.chunks(5).enumerate() {
            for (column, value) in values[..2].iter().enumerate() {
                let expected: f32 = (0..4).map(|k| data[row * 9 + k] * data[5 + column * 6 + k]).sum();
                assert_eq!(*value, 1.0 + expected);
            }
            assert_eq!(values[2..], [1.0; 3]);
        }
    }

    #[test]
    fn some_rows_scaled_are_right_and_the_rest_untouched() {
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let left = Matrix::new(&data, 3, 4, 4).transposed(); // 4 × 3
        let right = Matrix::new(&data, 3, 2, 4); // 3 × 2
        let mut out = vec![2.0; 4];
        multiply_scaled(&mut out, 2, Some(10.0), 0.5, left.rows(1..3), right);
        let product = |row: usize, column: usize| (0..3).map(|k| data[k * 4 + row] * data[k * 4 + column]).sum::<f32>();
        let expected = [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(row, column)| 20.0 + 0.5 * product(row, column));
        assert_eq!(out, expected);
    }

    #[test]
    #[should_panic(expected = "lies within its slice")]
    fn a_matrix_beyond_its_slice_is_a_bug() {
        Matrix::new(&[0.0; 10], 2, 4, 7);
    }
}
