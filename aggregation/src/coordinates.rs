//! Rules that look at each coordinate alone: values sorted by a network, then the mean of those that count.
//! It mixes members' values first where a [`Mixture`] says so; it knows no distances.
//!
//! The result of a coordinate is a sum in f64, divided once, rounded once to f32; a zero comes out as +0. The values are
//! added in the order in which the network leaves them: the network is part of the definition. Ties know only `<`, and no
//! branch depends on data.
//!
//! How often each member's values counted is taken on the first [`COUNTED`] coordinates of every
//! [`CHUNK`](numeric::CHUNK): exact for small updates, a sample of a sixteenth for large ones. It decides nothing.

use rayon::prelude::*;

use crate::aggregator::Contribution;
use crate::chunk_reader::ChunkReader;
use crate::numeric;
use crate::pre_aggregation::Mixture;
use crate::simd::networks::{self, Comparator};
use crate::simd::{Borders, Kernels, MIX_WIDTH, MixedPart, MixedRow, SUM_WIDTH};
use crate::sorting_network::{merge_exchange, prune};

/// Coordinates of a chunk on which members' values within the kept ranges are counted.
pub const COUNTED: usize = 256;

/// Chunks that one task works on, so that counts take little memory.
const CHUNKS: usize = 16;

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
    network: Vec<Comparator>,
    /// What each row is made of, where rows are mixed.
    mixing: Option<Mixing>,
    kernels: Kernels,
}

/// How rows are mixed, in f64: what most rows share is summed once; each row is that sum, less what it lacks of it, and more
/// what it alone has. This order is part of the definition of a mixed value.
///
/// Rows that differ in f of n members cost f additions each instead of n − f. What the shared sum holds is within most rows,
/// so that a value far from the others, which robust mixing keeps out of most rows, never cancels in a row that lacks it.
pub(crate) struct Mixing {
    /// Which contribution, and its weight; no two are equal.
    pub(crate) terms: Vec<(usize, f64)>,
    /// The terms of the shared sum.
    pub(crate) shared: Vec<usize>,
    /// For each row, the shared terms that it lacks and the others that it has.
    pub(crate) rows: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Mixing {
    fn new(mixture: &Mixture) -> Self {
        let rows = mixture.terms();
        let mut terms: Vec<(usize, f64)> = rows.iter().flatten().copied().collect();
        terms.sort_by(|(a, v), (b, w)| a.cmp(b).then(v.total_cmp(w)));
        terms.dedup();
        let used = |term: &(usize, f64)| rows.iter().filter(|row| row.contains(term)).count();
        let is_shared: Vec<bool> = terms.iter().map(|term| 2 * used(term) > rows.len()).collect();
        let those = |condition: &dyn Fn(usize) -> bool| (0..terms.len()).filter(|k| condition(*k)).collect();
        let rows = rows
            .iter()
            .map(|row| {
                let has = |k: usize| row.contains(&terms[k]);
                (those(&|k| is_shared[k] && !has(k)), those(&|k| !is_shared[k] && has(k)))
            })
            .collect();
        let shared = those(&|k| is_shared[k]);
        Self { terms, shared, rows }
    }
}

impl Plan {
    fn new(rows: usize, mixture: Option<&Mixture>, reduction: Reduction, kernels: Kernels) -> Self {
        let network = match reduction {
            Reduction::Middle { trim } => {
                assert!(
                    2 * trim < rows,
                    "trimming {trim} from each side of {rows} values leaves none"
                );
                let all = || prune(&merge_exchange(rows), rows, trim, rows - 1 - trim);
                networks::middle(rows, trim).map_or_else(all, <[Comparator]>::to_vec)
            }
            Reduction::NearMedian { keep } => {
                assert!(
                    (1..=rows).contains(&keep),
                    "{keep} of {rows} values cannot be those near the median"
                );
                networks::sorting(rows).map_or_else(|| merge_exchange(rows), <[Comparator]>::to_vec)
            }
        };
        Self {
            rows,
            reduction,
            network,
            mixing: mixture.map(Mixing::new),
            kernels,
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
    reduce_with(Kernels::detect(), contributions, mixture, reduction, out)
}

fn reduce_with(
    kernels: Kernels,
    contributions: &[Contribution<'_>],
    mixture: Option<&Mixture>,
    reduction: Reduction,
    out: &mut [f32],
) -> Vec<u64> {
    let rows = mixture.map_or(contributions.len(), Mixture::rows);
    let plan = Plan::new(rows, mixture, reduction, kernels);
    let parts: Vec<Vec<u64>> = out
        .par_chunks_mut(numeric::CHUNK * CHUNKS)
        .enumerate()
        .map_init(
            || Scratch::new(&plan),
            |scratch, (index, out)| {
                let mut counts = vec![0u64; plan.rows];
                for (at, out) in out.chunks_mut(numeric::CHUNK).enumerate() {
                    let first = (index * CHUNKS + at) * numeric::CHUNK;
                    scratch.chunk(&plan, contributions, first, out, &mut counts);
                }
                counts
            },
        )
        .collect();
    let mut totals = vec![0u64; rows];
    for part in parts {
        for (total, part) in totals.iter_mut().zip(part) {
            *total += part;
        }
    }
    totals
}

/// What one thread works in.
struct Scratch {
    reader: ChunkReader,
    /// Weighted contributions, and the rows that these add up to.
    terms: Vec<MixedPart>,
    mixed: Vec<MixedRow>,
    sorted: Vec<MixedRow>,
}

impl Scratch {
    fn new(plan: &Plan) -> Self {
        Self {
            reader: ChunkReader::default(),
            terms: vec![[0.0; MIX_WIDTH]; plan.mixing.as_ref().map_or(0, |mixing| mixing.terms.len())],
            mixed: vec![[0.0; SUM_WIDTH]; plan.rows],
            sorted: vec![[0.0; SUM_WIDTH]; plan.rows],
        }
    }

    /// One chunk, block by block. Counts where it is to be counted.
    fn chunk(
        &mut self,
        plan: &Plan,
        contributions: &[Contribution<'_>],
        first: usize,
        out: &mut [f32],
        counts: &mut [u64],
    ) {
        let Self {
            reader,
            terms,
            mixed,
            sorted,
        } = self;
        let rows = reader.rows(contributions, first, out.len());
        if let Some(mixing) = &plan.mixing {
            for (block, out) in out.chunks_mut(SUM_WIDTH).enumerate() {
                let begin = block * SUM_WIDTH;
                plan.kernels.mix(&rows, mixing, begin..begin + out.len(), terms, mixed);
                let mixed: Vec<&[f32]> = mixed.iter().map(|row| &row[..]).collect();
                plan.block(&mixed, 0, out, sorted, (begin < COUNTED).then_some(&mut *counts));
            }
            return;
        }
        for (block, out) in out.chunks_mut(SUM_WIDTH).enumerate() {
            let begin = block * SUM_WIDTH;
            plan.block(&rows, begin, out, sorted, (begin < COUNTED).then_some(&mut *counts));
        }
    }
}

impl Plan {
    /// At most [`SUM_WIDTH`] columns from `begin` on. What the processor's lanes leave over is done by itself.
    fn block(
        &self,
        rows: &[&[f32]],
        begin: usize,
        out: &mut [f32],
        sorted: &mut [MixedRow],
        counts: Option<&mut [u64]>,
    ) {
        let mut borders: Borders = ([0.0; SUM_WIDTH], [0.0; SUM_WIDTH]);
        let whole = out.len() - out.len() % self.kernels.lanes();
        let (head, tail) = out.split_at_mut(whole);
        let counted = counts.is_some();
        self.columns(rows, begin, head, sorted, counted.then_some(&mut borders));
        if let Some(counts) = counts {
            for (count, row) in counts.iter_mut().zip(rows) {
                *count += count_within(&row[begin..begin + whole], &borders);
            }
            if !tail.is_empty() {
                self.columns(rows, begin + whole, tail, sorted, Some(&mut borders));
                for (count, row) in counts.iter_mut().zip(rows) {
                    *count += count_within(&row[begin + whole..begin + whole + tail.len()], &borders);
                }
            }
        } else if !tail.is_empty() {
            self.columns(rows, begin + whole, tail, sorted, None);
        }
    }

    fn columns(
        &self,
        rows: &[&[f32]],
        begin: usize,
        out: &mut [f32],
        sorted: &mut [MixedRow],
        borders: Option<&mut Borders>,
    ) {
        match self.reduction {
            Reduction::Middle { trim } => {
                let mut borders = borders;
                if !self.kernels.middle(rows, trim, begin, out, borders.as_deref_mut()) {
                    self.walk(rows, begin, out.len(), sorted);
                    self.kernels.mean_of_rows(&sorted[trim..self.rows - trim], out, borders);
                }
            }
            Reduction::NearMedian { keep } => {
                if !self.kernels.sort(rows, begin, out.len(), sorted) {
                    self.walk(rows, begin, out.len(), sorted);
                }
                self.kernels.near_median(sorted, keep, out, borders);
            }
        }
    }

    /// Runs the network comparator by comparator, for what no kernel is made for.
    fn walk(&self, rows: &[&[f32]], begin: usize, length: usize, sorted: &mut [MixedRow]) {
        for (sorted, row) in sorted.iter_mut().zip(rows) {
            sorted[..length].copy_from_slice(&row[begin..begin + length]);
        }
        self.kernels.walk(&self.network, sorted);
    }
}

fn count_within(values: &[f32], (low, high): &Borders) -> u64 {
    let mut count = 0u32;
    for ((value, low), high) in values.iter().zip(low).zip(high) {
        count = count.wrapping_add(u32::from((low <= value) & (value <= high))); // at most SUM_WIDTH, and checks would not vectorise
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

    /// Every processor's kernels give the bits of the portable ones, for every number of rows and columns.
    #[test]
    fn kernels_agree_to_the_last_bit() {
        let mut state = 7u32;
        let mut value = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 65_536.0 - 128.0) * if state & 0xc0 == 0 { 1e30 } else { 1.0 }
        };
        for n in 1..=20usize {
            let rows: Vec<Vec<f32>> = (0..n).map(|_| (0..555).map(|_| value()).collect()).collect();
            let contributions: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
            let groups: Vec<Vec<usize>> = (0..n)
                .map(|i| (0..n).filter(|j| (i + j) % 3 != 1 || i == *j).collect())
                .collect();
            let mixture = Mixture::means(&groups, n);
            let trims = (0..n.div_ceil(2)).map(|trim| Reduction::Middle { trim });
            for reduction in trims.chain((1..=n).map(|keep| Reduction::NearMedian { keep })) {
                for mixture in [None, Some(&mixture)] {
                    let results: Vec<(Vec<u32>, Vec<u64>)> = Kernels::all()
                        .into_iter()
                        .map(|kernels| {
                            let mut out = vec![0.0; 555];
                            let counts = reduce_with(kernels, &contributions, mixture, reduction, &mut out);
                            (out.iter().map(|value| value.to_bits()).collect(), counts)
                        })
                        .collect();
                    for result in &results[1..] {
                        assert!(*result == results[0], "n = {n}, {reduction:?}");
                    }
                }
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
