//! Rules that look at each coordinate alone: values sorted by a network, then the mean of those that count.
//! It mixes members' values first where a [`Mixture`] says so; it knows no distances.
//!
//! The result of a coordinate is a sum in f64 in rank order, divided once, rounded once to f32; a zero comes out as +0.
//! It is thus a function of the *multiset* of values: permuting the members changes no bit. Ties know only `<`, and no
//! branch depends on data.
//!
//! How often each member's values counted is taken on the first [`COUNTED`] coordinates of every
//! [`CHUNK`](numeric::CHUNK): exact for small updates, a sample of a sixteenth for large ones. It decides nothing.

use rayon::prelude::*;

use crate::aggregator::Contribution;
use crate::chunk_reader::ChunkReader;
use crate::numeric;
use crate::pre_aggregation::Mixture;
use crate::sorting_network::{merge_exchange, prune};

/// Coordinates of a chunk on which members' values within the kept ranges are counted.
pub const COUNTED: usize = 256;

/// Coordinates that are sorted side by side: 256 bytes a row, so that 64 members fit the first-level cache.
const WIDTH: usize = 64;

/// Which of the sorted values of a coordinate count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    /// All but the `trim` least and the `trim` greatest.
    Middle {
        /// Values dropped at each end.
        trim: usize,
    },
    /// The `keep` values nearest to the median; of two windows as near, the lower one.
    NearMedian {
        /// Values that count.
        keep: usize,
    },
}

/// A reduction of n rows, ready to run.
struct Plan {
    rows: usize,
    reduction: Reduction,
    network: Vec<(usize, usize)>,
}

impl Plan {
    fn new(rows: usize, reduction: Reduction) -> Self {
        let network = merge_exchange(rows);
        let network = match reduction {
            Reduction::Middle { trim } => {
                assert!(
                    2 * trim < rows,
                    "trimming {trim} from each side of {rows} values leaves none"
                );
                prune(&network, rows, trim, rows - 1 - trim)
            }
            Reduction::NearMedian { keep } => {
                assert!(
                    (1..=rows).contains(&keep),
                    "{keep} of {rows} values cannot be those near the median"
                );
                network
            }
        };
        Self {
            rows,
            reduction,
            network,
        }
    }
}

/// Writes the reduction of each coordinate over `out`. Returns, for each row (contribution, or row of the mixture), in
/// how many of the counted coordinates its value lay within the kept range (a tie with its border counts as within).
///
/// # Panics
/// When the reduction keeps no value of so many rows.
pub(crate) fn reduce(
    contributions: &[Contribution<'_>],
    mixture: Option<&Mixture>,
    reduction: Reduction,
    out: &mut [f32],
) -> Vec<u64> {
    let rows = mixture.map_or(contributions.len(), Mixture::rows);
    let plan = Plan::new(rows, reduction);
    let counts: Vec<Vec<u64>> = out
        .par_chunks_mut(numeric::CHUNK)
        .enumerate()
        .map_init(
            || Scratch::new(&plan),
            |scratch, (index, out)| scratch.chunk(&plan, contributions, mixture, index * numeric::CHUNK, out),
        )
        .collect();
    let mut totals = vec![0u64; rows];
    for chunk in counts {
        for (total, part) in totals.iter_mut().zip(chunk) {
            *total += part;
        }
    }
    totals
}

/// What one thread works in.
struct Scratch {
    reader: ChunkReader,
    /// The values of a block as they came, then sorted.
    values: Vec<[f32; WIDTH]>,
    sorted: Vec<[f32; WIDTH]>,
}

impl Scratch {
    fn new(plan: &Plan) -> Self {
        Self {
            reader: ChunkReader::default(),
            values: vec![[0.0; WIDTH]; plan.rows],
            sorted: vec![[0.0; WIDTH]; plan.rows],
        }
    }

    fn chunk(
        &mut self,
        plan: &Plan,
        contributions: &[Contribution<'_>],
        mixture: Option<&Mixture>,
        start: usize,
        out: &mut [f32],
    ) -> Vec<u64> {
        let mut counts = vec![0u64; plan.rows];
        let rows = self.reader.rows(contributions, start, out.len());
        for (at, out) in out.chunks_mut(WIDTH).enumerate() {
            let begin = at * WIDTH;
            match mixture {
                None => {
                    for (values, row) in self.values.iter_mut().zip(&rows) {
                        values[..out.len()].copy_from_slice(&row[begin..begin + out.len()]);
                    }
                }
                Some(mixture) => mixture.mix(&rows, begin, out.len(), &mut self.values),
            }
            self.sorted.copy_from_slice(&self.values);
            for &(low, high) in &plan.network {
                let (head, tail) = self.sorted.split_at_mut(high);
                compare_exchange(&mut head[low], &mut tail[0]);
            }
            let (low, high) = finish(plan, &self.sorted, out);
            if begin < COUNTED {
                for (count, values) in counts.iter_mut().zip(&self.values) {
                    *count += count_within(&values[..out.len()], &low, &high);
                }
            }
        }
        counts
    }
}

/// Writes the means of the kept values; returns the borders of the kept ranges.
fn finish(plan: &Plan, sorted: &[[f32; WIDTH]], out: &mut [f32]) -> ([f32; WIDTH], [f32; WIDTH]) {
    match plan.reduction {
        Reduction::Middle { trim } => {
            let last = plan.rows - 1 - trim;
            mean_of_rows(&sorted[trim..=last], out);
            (sorted[trim], sorted[last])
        }
        Reduction::NearMedian { keep } => near_median(sorted, keep, out),
    }
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

/// The mean of the window of `keep` sorted values that lies nearest to the median. The window begins at rank 0 and moves
/// up one rank at a time while the value that it would gain is nearer to the median than the one that it would lose.
fn near_median(sorted: &[[f32; WIDTH]], keep: usize, out: &mut [f32]) -> ([f32; WIDTH], [f32; WIDTH]) {
    let n = sorted.len();
    let (lower, upper) = (&sorted[(n - 1) / 2], &sorted[n / 2]);
    let median: [f64; WIDTH] = std::array::from_fn(|lane| (f64::from(lower[lane]) + f64::from(upper[lane])) / 2.0);
    let mut starts = [0u32; WIDTH];
    for (lost, gained) in sorted.iter().zip(&sorted[keep..]) {
        for lane in 0..WIDTH {
            let nearer = f64::from(gained[lane]) - median[lane] < median[lane] - f64::from(lost[lane]);
            starts[lane] = starts[lane].wrapping_add(u32::from(nearer)); // at most n, and checks would not vectorise
        }
    }
    let (mut sums, mut low, mut high) = ([0.0f64; WIDTH], [0.0f32; WIDTH], [0.0f32; WIDTH]);
    for (rank, row) in (0u32..).zip(sorted) {
        for lane in 0..WIDTH {
            let offset = rank.wrapping_sub(starts[lane]);
            sums[lane] += if offset < keep as u32 {
                f64::from(row[lane])
            } else {
                0.0
            };
            low[lane] = if offset == 0 { row[lane] } else { low[lane] };
            high[lane] = if offset == keep as u32 - 1 {
                row[lane]
            } else {
                high[lane]
            };
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum / keep as f64) as f32;
    }
    (low, high)
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

    fn run(columns: &[f32], reduction: Reduction) -> (f32, Vec<u64>) {
        let rows: Vec<[f32; 1]> = columns.iter().map(|value| [*value]).collect();
        let contributions: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
        let mut out = [1.0f32];
        let counts = reduce(&contributions, None, reduction, &mut out);
        (out[0], counts)
    }

    #[test]
    fn zeros_come_out_positive_in_any_order() {
        for values in [[-0.0f32, 0.0, -0.0], [0.0, -0.0, -0.0], [-0.0, -0.0, -0.0]] {
            for reduction in [Reduction::Middle { trim: 1 }, Reduction::NearMedian { keep: 2 }] {
                assert_eq!(run(&values, reduction).0.to_bits(), 0);
            }
        }
    }

    #[test]
    fn the_window_lies_nearest_to_the_median() {
        let near = |values: &[f32], keep| run(values, Reduction::NearMedian { keep });
        assert_eq!(
            near(&[0.0, 10.0, 11.0, 13.0, 50.0], 3),
            (34.0 / 3.0, vec![0, 1, 1, 1, 0])
        );
        assert_eq!(near(&[f32::MAX, 1.0, 2.0], 2), (1.5, vec![0, 1, 1]));
        assert_eq!(near(&[f32::MIN, 1.0, 2.0], 2), (1.5, vec![0, 1, 1]));
        assert_eq!(near(&[3.0, 1.0, 2.0], 2).0, 1.5, "a tie goes to the lower window");
        assert_eq!(near(&[3.0], 1), (3.0, vec![1]));
    }
}
