//! The inner loops of the passes over the data, for the widest instructions that the processor has.
//! It knows no rules; and its answers are the same bits on every processor, since all do the same operations in one order.
//!
//! Additions and multiplications are never fused where that would show: a processor without fused ones would round twice
//! where another rounds once. The product of two f32 is exact in f64, and there, and only there, both round once.

mod columns;
pub(crate) mod networks;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use self::networks::Comparator;
use crate::coordinates::Mixing;
use crate::numeric::LANES;

/// Rows of a block of products.
pub(crate) const BLOCK: usize = 4;
/// The values of a block of rows, each as long as the others.
pub(crate) type Rows<'a> = [&'a [f32]; BLOCK];
/// Lanes of the products of a block of rows with another.
pub(crate) type ProductBlock = [[[f64; LANES]; BLOCK]; BLOCK];
/// Columns that are summed or sorted side by side.
pub(crate) const SUM_WIDTH: usize = 256;
/// Columns that are mixed side by side: sixteen rows of f64 are 8 KiB and stay in the first-level cache.
pub(crate) const MIX_WIDTH: usize = 64;
/// Weighted values of one row, of columns that are mixed side by side.
pub(crate) type MixedPart = [f64; MIX_WIDTH];
/// A block of one row.
pub(crate) type MixedRow = [f32; SUM_WIDTH];
/// The least and the greatest value that counted, column by column.
pub(crate) type Borders = (MixedRow, MixedRow);

/// The kernels that this processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Plain Rust for any processor.
    Portable,
    /// x86 with AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86 with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Calls the kernel of that name with wider instructions, or the portable expression.
macro_rules! dispatch {
    ($kernels:expr, $name:ident($($argument:expr),*), $portable:expr) => {
        match $kernels {
            Kernels::Portable => $portable,
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            // SAFETY: `detect` and `all` make these only where the processor has the instructions.
            Kernels::Avx2 => unsafe { x86::avx2::$name($($argument),*) },
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            // SAFETY: as above.
            Kernels::Avx512 => unsafe { x86::avx512::$name($($argument),*) },
        }
    };
}

impl Kernels {
    /// The best for this processor.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// All that this processor can run, for tests that compare them.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
        }
        all
    }

    /// Adds the products of the rows of `left` with those of `right`, each minus `centre` where there is one, lane by lane:
    /// column k to lane k mod [`LANES`].
    pub(crate) fn products(self, left: &Rows<'_>, right: &Rows<'_>, centre: Option<&[f32]>, block: &mut ProductBlock) {
        dispatch!(
            self,
            products(left, right, centre, block),
            products(left, right, centre, block)
        )
    }

    /// Adds the products of the rows with each other, those with j ≥ i.
    pub(crate) fn own_products(self, rows: &Rows<'_>, centre: Option<&[f32]>, block: &mut ProductBlock) {
        dispatch!(
            self,
            own_products(rows, centre, block),
            products(rows, rows, centre, block)
        )
    }

    /// out[k] = (keep · out[k] + Σ_i factors[i] · rows[i][k]) / divisor, within the range of f32. Each row has as many values
    /// as `out`.
    pub(crate) fn sum_rows(self, rows: &[&[f32]], factors: &[f64], keep: f64, divisor: f64, out: &mut [f32]) {
        dispatch!(
            self,
            sum_rows(rows, factors, keep, divisor, out),
            sum_rows(rows, factors, keep, divisor, out)
        )
    }

    /// Writes these columns of the mixed rows, at most [`SUM_WIDTH`], rounded, to the beginning of `mixed`. `terms` is scratch,
    /// one for each of the mixing's terms.
    pub(crate) fn mix(
        self,
        rows: &[&[f32]],
        mixing: &Mixing,
        columns: Range<usize>,
        terms: &mut [MixedPart],
        mixed: &mut [MixedRow],
    ) {
        for (at, first) in columns.clone().step_by(MIX_WIDTH).enumerate() {
            let part = first..columns.end.min(first + MIX_WIDTH);
            let to = at * MIX_WIDTH;
            dispatch!(
                self,
                mix(rows, mixing, part, terms, mixed, to),
                mix(rows, mixing, part, terms, mixed, to)
            );
        }
    }

    /// out[k] = scale · integers[k], where the bytes are i8.
    pub(crate) fn scaled(self, integers: &[u8], scale: f32, out: &mut [f32]) {
        dispatch!(
            self,
            scaled(integers, scale, out),
            columns::scaled(integers, scale, out)
        )
    }

    /// Runs a network over all columns.
    pub(crate) fn walk(self, network: &[Comparator], rows: &mut [MixedRow]) {
        dispatch!(self, walk(network, rows), columns::walk(network, rows))
    }

    /// The mean of the rows, and the least and the greatest value of each column.
    pub(crate) fn mean_of_rows(self, rows: &[MixedRow], out: &mut [f32], borders: Option<&mut Borders>) {
        dispatch!(
            self,
            mean_of_rows(rows, out, borders),
            columns::mean_of_rows(rows, out, borders)
        )
    }

    /// The mean of the window of `keep` sorted values that lies nearest to the median, and its borders.
    pub(crate) fn near_median(self, sorted: &[MixedRow], keep: usize, out: &mut [f32], borders: Option<&mut Borders>) {
        dispatch!(
            self,
            near_median(sorted, keep, out, borders),
            columns::near_median(sorted, keep, out, borders)
        )
    }

    /// Sorts columns `begin..begin + length` into `sorted`. False where this processor has no kernel for so many rows or
    /// for a number of columns that is no multiple of its lanes.
    pub(crate) fn sort(self, rows: &[&[f32]], begin: usize, length: usize, sorted: &mut [MixedRow]) -> bool {
        length.is_multiple_of(self.lanes()) && dispatch!(self, sort(rows, begin, length, sorted), false)
    }

    /// Writes the mean of the ranks `trim..n - trim` of the columns from `begin` on over `out`, and with `borders` the least
    /// and the greatest value that counted. False as for [`sort`](Self::sort).
    pub(crate) fn middle(
        self,
        rows: &[&[f32]],
        trim: usize,
        begin: usize,
        out: &mut [f32],
        borders: Option<&mut Borders>,
    ) -> bool {
        out.len().is_multiple_of(self.lanes()) && dispatch!(self, middle(rows, trim, begin, out, borders), false)
    }

    /// f32 that are worked on at once.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Portable => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::avx512::LANES,
        }
    }
}

fn products(left: &Rows<'_>, right: &Rows<'_>, centre: Option<&[f32]>, block: &mut ProductBlock) {
    for (left, block) in left.iter().zip(block) {
        for (right, lanes) in right.iter().zip(block) {
            for (k, (&left, &right)) in left.iter().zip(*right).enumerate() {
                let centre = centre.map_or(0.0, |centre| f64::from(centre[k]));
                lanes[k % LANES] += (f64::from(left) - centre) * (f64::from(right) - centre);
            }
        }
    }
}

fn sum_rows(rows: &[&[f32]], factors: &[f64], keep: f64, divisor: f64, out: &mut [f32]) {
    for (at, out) in out.chunks_mut(SUM_WIDTH).enumerate() {
        let mut sums = [0.0f64; SUM_WIDTH];
        if keep != 0.0 {
            for (sum, out) in sums.iter_mut().zip(out.iter()) {
                *sum = keep * f64::from(*out);
            }
        }
        for (row, factor) in rows.iter().zip(factors) {
            for (sum, &value) in sums.iter_mut().zip(&row[at * SUM_WIDTH..]) {
                *sum += factor * f64::from(value);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = rounded(sum / divisor);
        }
    }
}

/// The nearest f32; beyond the largest, the largest: weights above 1 must not turn finite updates into an infinity.
fn rounded(value: f64) -> f32 {
    const MOST: f64 = f32::MAX as f64;
    let bounded = if value > MOST { MOST } else { value };
    (if bounded < -MOST { -MOST } else { bounded }) as f32
}

fn mix(
    rows: &[&[f32]],
    mixing: &Mixing,
    columns: Range<usize>,
    terms: &mut [MixedPart],
    mixed: &mut [MixedRow],
    at: usize,
) {
    for (term, &(row, weight)) in terms.iter_mut().zip(&mixing.terms) {
        for (term, &value) in term.iter_mut().zip(&rows[row][columns.clone()]) {
            *term = weight * f64::from(value);
        }
    }
    let mut shared = [0.0f64; MIX_WIDTH];
    for &term in &mixing.shared {
        for (sum, value) in shared.iter_mut().zip(&terms[term]) {
            *sum += value;
        }
    }
    for ((lacking, beside), mixed) in mixing.rows.iter().zip(mixed) {
        let mut sums = shared;
        for &term in lacking {
            for (sum, value) in sums.iter_mut().zip(&terms[term]) {
                *sum -= value;
            }
        }
        for &term in beside {
            for (sum, value) in sums.iter_mut().zip(&terms[term]) {
                *sum += value;
            }
        }
        for (mixed, sum) in mixed[at..].iter_mut().zip(&sums[..columns.len()]) {
            *mixed = *sum as f32;
        }
    }
}
