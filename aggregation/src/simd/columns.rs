//! Columns of values side by side: networks walked along, means of kept ranks, windows around medians.
//! Plain loops, which compilers make vectors of; straight-line kernels for small networks are in the processors' modules.

use super::networks::Comparator;
use super::{Borders, MixedRow, SUM_WIDTH};

/// Runs a network over all columns.
#[inline(always)]
pub(crate) fn walk(network: &[Comparator], rows: &mut [MixedRow]) {
    for &(low, high) in network {
        let (head, tail) = rows.split_at_mut(high);
        compare_exchange(&mut head[low], &mut tail[0]);
    }
}

/// Lane by lane: the smaller value to `low`, the larger to `high`. Written as selections on one comparison, since
/// `f32::min` leaves open which of −0 and +0 it returns; and on copies of eight lanes, without which the compiler
/// makes a branch of each.
#[inline(always)]
fn compare_exchange(low: &mut MixedRow, high: &mut MixedRow) {
    const LANES: usize = 8;
    let (lows, _) = low.as_chunks_mut::<LANES>();
    let (highs, _) = high.as_chunks_mut::<LANES>();
    for (low, high) in lows.iter_mut().zip(highs) {
        let (a, b) = (*low, *high);
        *low = std::array::from_fn(|lane| if b[lane] < a[lane] { b[lane] } else { a[lane] });
        *high = std::array::from_fn(|lane| if b[lane] < a[lane] { a[lane] } else { b[lane] });
    }
}

/// The mean of the rows, and the least and the greatest value of each column.
#[inline(always)]
pub(crate) fn mean_of_rows(rows: &[MixedRow], out: &mut [f32], borders: Option<&mut Borders>) {
    let count = rows.len() as f64;
    let mut sums = [0.0f64; SUM_WIDTH];
    for row in rows {
        for lane in 0..SUM_WIDTH {
            sums[lane] += f64::from(row[lane]);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum / count) as f32;
    }
    if let Some((low, high)) = borders {
        (*low, *high) = (rows[0], rows[0]);
        for row in rows {
            for lane in 0..SUM_WIDTH {
                low[lane] = if row[lane] < low[lane] { row[lane] } else { low[lane] };
                high[lane] = if high[lane] < row[lane] { row[lane] } else { high[lane] };
            }
        }
    }
}

/// The mean of the window of `keep` sorted values that lies nearest to the median. The window begins at rank 0 and moves
/// up one rank at a time while the value that it would gain is nearer to the median than the one that it would lose.
#[inline(always)]
pub(crate) fn near_median(sorted: &[MixedRow], keep: usize, out: &mut [f32], borders: Option<&mut Borders>) {
    let n = sorted.len();
    let (lower, upper) = (&sorted[(n - 1) / 2], &sorted[n / 2]);
    let mut median = [0.0f64; SUM_WIDTH];
    for lane in 0..SUM_WIDTH {
        median[lane] = (f64::from(lower[lane]) + f64::from(upper[lane])) / 2.0;
    }
    let mut starts = [0u32; SUM_WIDTH];
    for (lost, gained) in sorted.iter().zip(&sorted[keep..]) {
        for lane in 0..SUM_WIDTH {
            let nearer = f64::from(gained[lane]) - median[lane] < median[lane] - f64::from(lost[lane]);
            starts[lane] = starts[lane].wrapping_add(u32::from(nearer)); // at most n, and checks would not vectorise
        }
    }
    let (mut sums, mut low, mut high) = ([0.0f64; SUM_WIDTH], [0.0f32; SUM_WIDTH], [0.0f32; SUM_WIDTH]);
    let keep = keep as u32;
    for (rank, row) in (0u32..).zip(sorted) {
        for lane in 0..SUM_WIDTH {
            let offset = rank.wrapping_sub(starts[lane]);
            sums[lane] += if offset < keep { f64::from(row[lane]) } else { 0.0 };
            low[lane] = if offset == 0 { row[lane] } else { low[lane] };
            high[lane] = if offset == keep - 1 { row[lane] } else { high[lane] };
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum / f64::from(keep)) as f32;
    }
    if let Some(borders) = borders {
        *borders = (low, high);
    }
}

/// Integers times a scale, one rounding each.
#[inline(always)]
pub(crate) fn scaled(integers: &[u8], scale: f32, out: &mut [f32]) {
    for (out, &integer) in out.iter_mut().zip(integers) {
        *out = scale * f32::from(integer as i8);
    }
}
