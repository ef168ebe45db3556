//! One safe door to the `gemm` crate: products of strided matrices on slices, on one thread or on all of rayon's.
//! The bits of a product are specified: see [`PIECE`]. Any number of threads and any processor with fused multiply-add
//! computes the same; a processor without it does not.

#[cfg(target_arch = "x86_64")]
use gemm_common::simd::{MixedSimd, V3};
#[cfg(target_arch = "x86_64")]
use gemm_f32::microkernel::fma::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};

use std::ops::Range;

/// Lanes of an AVX2 vector, and rows of its kernel.
#[cfg(target_arch = "x86_64")]
const LANES: usize = 8;
#[cfg(target_arch = "x86_64")]
const ROWS: usize = MR_DIV_N * LANES;

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

/// Products longer than this are summed in pieces of this length. Within a piece every element is one chain of fused
/// multiply-adds in the order of k, whatever the kernel; pieces are added in their order. Without the limit the `gemm` crate
/// would choose the pieces by the sizes of the processor's caches.
const PIECE: usize = 512;

/// Products with at most this many elements are computed here: for some of them the `gemm` crate has kernels that sum over
/// the lanes of a vector, so that the bits would depend on its width.
const SMALL: usize = 256;

/// Writes `left · right` over `out`, or adds it to what is there, on the calling thread.
#[cfg(feature = "engine")]
pub(crate) fn multiply(out: &mut [f32], row_stride: usize, left: Matrix<'_>, right: Matrix<'_>, add: bool) {
    let keep = if add { Some(1.0) } else { None };
    multiply_scaled(out, row_stride, keep, 1.0, left, right);
}

/// Writes `keep · out + scale · left · right` over `out`; without `keep`, what is there is not read.
pub(crate) fn multiply_scaled(
    out: &mut [f32],
    row_stride: usize,
    keep: Option<f32>,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
) {
    check_target(out.len(), row_stride, left, right);
    // SAFETY: the target was just checked against the length of `out`, which is borrowed mutably and hence shares nothing
    // with the others.
    #[allow(unsafe_code)]
    unsafe {
        pieces(
            out.as_mut_ptr(),
            row_stride,
            keep,
            scale,
            left,
            right,
            gemm::Parallelism::None,
        );
    }
}

/// `left · right` as rows without gaps, on all threads.
#[cfg(feature = "engine")]
pub(crate) fn product(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    let count = left.rows * right.columns;
    if count == 0 || left.columns == 0 {
        return vec![0.0; count];
    }
    let mut out = Vec::with_capacity(count);
    check_target(count, right.columns, left, right);
    // SAFETY: there is room for `count` numbers, and without `keep` all of them are written before any is read.
    #[allow(unsafe_code)]
    unsafe {
        pieces(
            out.as_mut_ptr(),
            right.columns,
            None,
            1.0,
            left,
            right,
            gemm::Parallelism::Rayon(0),
        );
        out.set_len(count);
    }
    out
}

/// Adds `left · right` to `out`, rows without gaps, on all threads.
#[cfg(feature = "engine")]
pub(crate) fn add_product(out: &mut [f32], left: Matrix<'_>, right: Matrix<'_>) {
    check_target(out.len(), right.columns, left, right);
    // SAFETY: as in `multiply_scaled`.
    #[allow(unsafe_code)]
    unsafe {
        pieces(
            out.as_mut_ptr(),
            right.columns,
            Some(1.0),
            1.0,
            left,
            right,
            gemm::Parallelism::Rayon(0),
        );
    }
}

fn check_target(length: usize, row_stride: usize, left: Matrix<'_>, right: Matrix<'_>) {
    assert_eq!(left.columns, right.rows, "the inner sizes agree");
    assert!(
        reaches(left.rows, right.columns, row_stride) <= length,
        "the product fits"
    );
    // Distinct elements of `out` have distinct places.
    assert!(
        left.rows <= 1 || right.columns <= row_stride,
        "rows of the product do not overlap"
    );
}

/// The product, piece by piece of k. `out` must be valid for writes as [`check_target`] checks, and for reads with `keep`.
#[allow(unsafe_code)]
unsafe fn pieces(
    out: *mut f32,
    row_stride: usize,
    mut keep: Option<f32>,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
    parallelism: gemm::Parallelism,
) {
    if left.rows == 0 || right.columns == 0 {
        return;
    }
    let inner = left.columns;
    for first in (0..inner.max(1)).step_by(PIECE) {
        let count = (inner - first).min(PIECE);
        let left = Matrix {
            data: left.data.get(first * left.column_stride..).unwrap_or_default(),
            columns: count,
            ..left
        };
        let right = Matrix {
            data: right.data.get(first * right.row_stride..).unwrap_or_default(),
            rows: count,
            ..right
        };
        let small = left.rows * right.columns <= SMALL || left.rows == 1 || right.columns == 1 || count <= 2;
        // SAFETY: a piece reads what the whole product reads, and writes where the caller promises.
        unsafe {
            match small {
                true => chains(out, row_stride, keep, scale, left, right),
                false => one_piece(out, row_stride, keep, scale, left, right, parallelism),
            }
        }
        keep = Some(1.0);
    }
}

/// One chain of fused multiply-adds an element.
#[allow(unsafe_code)]
unsafe fn chains(out: *mut f32, row_stride: usize, keep: Option<f32>, scale: f32, left: Matrix<'_>, right: Matrix<'_>) {
    for row in 0..left.rows {
        let mut columns = 0..right.columns;
        // Sixteen chains at a time, so that they overlap.
        while !columns.is_empty() {
            let width = columns.len().min(16);
            let mut sums = [0f32; 16];
            for k in 0..left.columns {
                let factor = left.data[row * left.row_stride + k * left.column_stride];
                let from = k * right.row_stride + columns.start * right.column_stride;
                for (index, sum) in sums[..width].iter_mut().enumerate() {
                    *sum = factor.mul_add(right.data[from + index * right.column_stride], *sum);
                }
            }
            for (index, sum) in sums[..width].iter().enumerate() {
                // SAFETY: row and column are those of the product, which has its place here, as the caller promises.
                unsafe {
                    let place = out.add(row * row_stride + columns.start + index);
                    *place = match keep {
                        None => scale * sum,
                        Some(keep) => scale.mul_add(*sum, keep * *place),
                    };
                }
            }
            columns.start += width;
        }
    }
}

/// One call of a kernel.
#[allow(unsafe_code)]
unsafe fn one_piece(
    out: *mut f32,
    row_stride: usize,
    keep: Option<f32>,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
    parallelism: gemm::Parallelism,
) {
    // Rows of the target are contiguous, and kernels want columns: they compute the transposed product.
    let (m, n, k) = (right.columns, left.rows, left.columns);
    let target = (out, row_stride as isize, 1, keep.is_some());
    let first = (
        right.data.as_ptr(),
        right.row_stride as isize,
        right.column_stride as isize,
    );
    let second = (
        left.data.as_ptr(),
        left.row_stride as isize,
        left.column_stride as isize,
    );
    let factors = (keep.unwrap_or(0.0), scale);
    // SAFETY: every element of the three matrices lies within its slice (asserted by the callers and in `Matrix::new`, and
    // kept by `rows` and `transposed`), `out` shares nothing with the others, and strides fit in isize since slices do.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if crate::processor::instructions() == crate::processor::Instructions::Avx2
            && let Some(simd) = <V3 as MixedSimd<f32, f32, f32, f32>>::try_new()
        {
            return gemm_common::gemm::gemm_basic_generic::<_, f32, LANES, ROWS, NR, MR_DIV_N, H_M, H_N>(
                simd,
                m,
                n,
                k,
                target.0,
                target.1,
                target.2,
                target.3,
                first.0,
                first.1,
                first.2,
                second.0,
                second.1,
                second.2,
                factors.0,
                factors.1,
                false,
                false,
                false,
                |a, b, c| a * b + c,
                &UKR,
                &H_UKR,
                false,
                parallelism,
            );
        }
        gemm::gemm(
            m,
            n,
            k,
            target.0,
            target.1,
            target.2,
            target.3,
            first.0,
            first.1,
            first.2,
            second.0,
            second.1,
            second.2,
            factors.0,
            factors.1,
            false,
            false,
            false,
            parallelism,
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

    /// A piece's elements are chains of fused multiply-adds in the order of k; pieces are added in their order.
    #[cfg(feature = "engine")]
    #[test]
    fn bits_are_those_of_the_specification_for_every_kernel_and_number_of_threads() {
        use crate::processor::{Instructions, instructions, limit_instructions};
        let number = |i: usize| ((i * 2_654_435_761 % 1_000_003) as f32 - 5e5) * 1e-6;
        for (rows, inner, columns) in [
            (3, 700, 5),
            (1, 40, 300),
            (130, 1100, 70),
            (65, 512, 33),
            (200, 2, 40),
            (17, 513, 16),
        ] {
            let left: Vec<f32> = (0..rows * inner).map(number).collect();
            let right: Vec<f32> = (0..columns * inner).map(|i| number(i + 77)).collect();
            let mut expected = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    let chain = |piece: std::ops::Range<usize>| {
                        piece.fold(0f32, |sum, k| {
                            left[row * inner + k].mul_add(right[column * inner + k], sum)
                        })
                    };
                    let pieces = (0..inner)
                        .step_by(PIECE)
                        .map(|first| chain(first..(first + PIECE).min(inner)));
                    expected.push(pieces.reduce(|sum, piece| sum + piece).unwrap());
                }
            }
            let most = instructions();
            for limit in [Instructions::Avx2, most] {
                limit_instructions(limit);
                for threads in [1, 2, 7] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let (a, b) = (
                        Matrix::new(&left, rows, inner, inner),
                        Matrix::new(&right, columns, inner, inner),
                    );
                    let ours = pool.install(|| product(a, b.transposed()));
                    assert!(
                        ours == expected,
                        "{rows} × {inner} × {columns}, {limit:?}, {threads} threads"
                    );
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "lies within its slice")]
    fn a_matrix_beyond_its_slice_is_a_bug() {
        Matrix::new(&[0.0; 10], 2, 4, 7);
    }
}
