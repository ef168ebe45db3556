//! Batcher's merge-exchange network over blocks of coordinates, and the mean of the middle ranks that it yields.
//! It sorts no keys, knows no ties beyond `<`, and takes no branch that depends on data.
//!
//! A network is a fixed list of comparators (a, b), a < b, each of which puts the smaller value in row a. Sorting 64
//! coordinates of n members at once is then a list of lane-wise minima and maxima, which compilers turn into vector
//! instructions. Construction: K. E. Batcher 1968; Knuth, The Art of Computer Programming 3, §5.2.2, algorithm M,
//! which works for every n, not only for powers of two.

use crate::aggregator::Contribution;
use crate::numeric;

/// Coordinates that are sorted side by side: 256 bytes a row, so that 64 members fit the first-level cache.
const WIDTH: usize = 64;

/// The comparators that sort `n` values, least first, in the order in which they must run.
pub fn merge_exchange(n: usize) -> Vec<(usize, usize)> {
    let mut comparators = Vec::new();
    if n < 2 {
        return comparators;
    }
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut distance) = (top, 0, p);
        loop {
            comparators.extend((0..n - distance).filter(|i| i & p == r).map(|i| (i, i + distance)));
            if q == p {
                break;
            }
            distance = q - p;
            q /= 2;
            r = p;
        }
        p /= 2;
    }
    comparators
}

/// Drops the comparators that no rank in `first..=last` depends on. The kept ranks come out as before.
pub fn prune(comparators: &[(usize, usize)], n: usize, first: usize, last: usize) -> Vec<(usize, usize)> {
    let mut needed: Vec<bool> = (0..n).map(|rank| (first..=last).contains(&rank)).collect();
    let mut kept = Vec::with_capacity(comparators.len());
    for &(low, high) in comparators.iter().rev() {
        if needed[low] || needed[high] {
            needed[low] = true;
            needed[high] = true;
            kept.push((low, high));
        }
    }
    kept.reverse();
    kept
}

/// Per coordinate: sorts the n values, drops `trim` at each end, and writes the mean of the n − 2·trim that remain.
///
/// The mean is a sum in f64 in rank order, divided once, rounded once to f32; a zero comes out as +0. It is thus a
/// function of the *multiset* of values: permuting the members changes no bit. Returns, for each contribution, in
/// how many coordinates it lay within the kept range (a tie with its border counts as within).
///
/// # Panics
/// When `2 * trim >= contributions.len()`.
pub fn mean_of_middle_ranks(contributions: &[Contribution<'_>], trim: usize, out: &mut [f32]) -> Vec<u64> {
    let n = contributions.len();
    assert!(2 * trim < n, "trimming {trim} from each side of {n} values leaves none");
    let (first, last) = (trim, n - 1 - trim);
    let network = prune(&merge_exchange(n), n, first, last);
    let by_chunk = numeric::map_chunks(out, |start, out| {
        let mut rows = vec![[0.0f32; WIDTH]; n];
        let mut within = vec![0u64; n];
        for (index, out) in out.chunks_mut(WIDTH).enumerate() {
            let begin = start + index * WIDTH;
            for (row, contribution) in rows.iter_mut().zip(contributions) {
                row[..out.len()].copy_from_slice(&contribution.values[begin..begin + out.len()]);
            }
            for &(low, high) in &network {
                let (head, tail) = rows.split_at_mut(high);
                compare_exchange(&mut head[low], &mut tail[0]);
            }
            mean_of_rows(&rows[first..=last], out);
            for (count, contribution) in within.iter_mut().zip(contributions) {
                *count += count_within(
                    &contribution.values[begin..begin + out.len()],
                    &rows[first],
                    &rows[last],
                );
            }
        }
        within
    });
    let mut within = vec![0u64; n];
    for chunk in by_chunk {
        for (total, part) in within.iter_mut().zip(chunk) {
            *total += part;
        }
    }
    within
}

/// Lane by lane: the smaller value to `low`, the larger to `high`. Written as selections on one comparison, since
/// `f32::min` leaves open which of −0 and +0 it returns; and on copies of eight lanes, without which the compiler
/// makes sixty-four branches of it.
#[inline(always)]
fn compare_exchange(low: &mut [f32; WIDTH], high: &mut [f32; WIDTH]) {
    const LANES: usize = 8;
    let (lows, _) = low.as_chunks_mut::<LANES>();
    let (highs, _) = high.as_chunks_mut::<LANES>();
    for (low, high) in lows.iter_mut().zip(highs) {
        let (a, b) = (*low, *high);
        *low = std::array::from_fn(|lane| if b[lane] < a[lane] { b[lane] } else { a[lane] });
        *high = std::array::from_fn(|lane| if b[lane] < a[lane] { a[lane] } else { b[lane] });
    }
}

#[inline(always)]
fn mean_of_rows(rows: &[[f32; WIDTH]], out: &mut [f32]) {
    let count = rows.len() as f64;
    let mut sums = [0.0f64; WIDTH];
    for row in rows {
        for lane in 0..WIDTH {
            sums[lane] += f64::from(row[lane]);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum / count) as f32;
    }
}

#[inline(always)]
fn count_within(values: &[f32], low: &[f32; WIDTH], high: &[f32; WIDTH]) -> u64 {
    let mut count = 0u32;
    for ((value, low), high) in values.iter().zip(low).zip(high) {
        count = count.wrapping_add(u32::from((low <= value) & (value <= high))); // at most WIDTH, and checks would not vectorise
    }
    u64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 0/1 principle: a network that sorts every sequence of zeros and ones sorts everything.
    #[test]
    fn merge_exchange_sorts_every_zero_one_sequence_up_to_twelve() {
        for n in 0..=12usize {
            let network = merge_exchange(n);
            for pattern in 0u32..1 << n {
                let mut values: Vec<u32> = (0..n).map(|i| pattern >> i & 1).collect();
                apply(&network, &mut values);
                assert!(values.is_sorted(), "n = {n}, pattern {pattern:b}");
            }
        }
    }

    #[test]
    fn pruned_networks_deliver_the_kept_ranks() {
        for n in 1..=10usize {
            let full = merge_exchange(n);
            for trim in 0..=(n - 1) / 2 {
                let (first, last) = (trim, n - 1 - trim);
                let pruned = prune(&full, n, first, last);
                assert!(pruned.len() <= full.len());
                for pattern in 0u32..1 << n {
                    let mut sorted: Vec<u32> = (0..n).map(|i| pattern >> i & 1).collect();
                    let mut values = sorted.clone();
                    sorted.sort_unstable();
                    apply(&pruned, &mut values);
                    assert_eq!(values[first..=last], sorted[first..=last], "n = {n}, trim = {trim}");
                }
            }
        }
    }

    #[test]
    fn comparator_counts_are_batchers() {
        let counts: Vec<usize> = [2, 4, 8, 16, 32].into_iter().map(|n| merge_exchange(n).len()).collect();
        assert_eq!(counts, [1, 5, 19, 63, 191]);
    }

    #[test]
    fn zeros_come_out_positive_in_any_order() {
        for values in [[-0.0f32, 0.0, -0.0], [0.0, -0.0, -0.0], [-0.0, -0.0, -0.0]] {
            let rows: Vec<[f32; 1]> = values.iter().map(|v| [*v]).collect();
            let contributions: Vec<_> = rows
                .iter()
                .map(|row| Contribution {
                    values: row,
                    weight: 1.0,
                })
                .collect();
            let mut out = [1.0f32];
            mean_of_middle_ranks(&contributions, 1, &mut out);
            assert_eq!(out[0].to_bits(), 0);
        }
    }

    fn apply(network: &[(usize, usize)], values: &mut [u32]) {
        for &(low, high) in network {
            if values[high] < values[low] {
                values.swap(low, high);
            }
        }
    }
}
