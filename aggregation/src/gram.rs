//! The matrix of scalar products of all updates, in one pass over the data: all that distance rules need to know.
//! It holds no values of the updates; a second pass ([`weighted_sum`](crate::weighted_sum)) makes a vector of weights.
//!
//! Krum, geometric medians, clipping, nearest-neighbour mixing and the rest of their family answer with Σ w_i x_i, and
//! their weights depend on nothing but G_ij = ⟨x_i − c, x_j − c⟩. So two passes do, however many steps a rule takes.
//!
//! *Precision.* The product of two f32 is exact in f64 and never over- or underflows there; sums are f64. A squared
//! distance G_ii + G_jj − 2 G_ij is thus off by about 1e-15 of G_ii + G_jj, far below the rounding of the f32 values
//! themselves, and equal updates have a distance of exactly 0.
//!
//! *The centre c* must be one that no attacker controls; the mean of the updates would not do, since one far update
//! drags it along and the distances among all others drown in rounding. Updates here are pseudo-gradients, base − local,
//! so the model that all agreed on in the round before is already subtracted: the default centre is zero. Rules that
//! carry a centre of their own pass it.
//!
//! *Order.* Within a chunk, a product is summed over [`LANES`] interleaved accumulators, added from first to last;
//! chunk sums are added in chunk order. Every machine and every number of threads gets the same bits.

use rayon::prelude::*;

use crate::aggregator::Contribution;
use crate::chunk_reader::ChunkReader;
use crate::numeric::{CHUNK, LANES};
use crate::simd::{BLOCK, Kernels, ProductBlock, Rows};

/// Memory that the sums of the chunks of one batch may take: batches bound it, and change no bit.
const BATCH_BYTES: usize = 256 << 10;

/// Columns over which all products are taken before the next ones: so many of sixteen rows stay in the second-level cache,
/// and memory is read in long runs. It changes no bit.
const RUN: usize = 2048;

/// What stands for members who are not there, so that every block of rows is whole.
static ABSENT: [f32; RUN] = [0.0; RUN];

/// Scalar products of n vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    n: usize,
    products: Vec<f64>,
}

impl Gram {
    /// The products of the contributions, each minus `centre` where there is one.
    ///
    /// # Panics
    /// When there is no contribution or a length differs.
    pub fn of(contributions: &[Contribution<'_>], centre: Option<&[f32]>) -> Self {
        Self::with(Kernels::detect(), contributions, centre)
    }

    fn with(kernels: Kernels, contributions: &[Contribution<'_>], centre: Option<&[f32]>) -> Self {
        let n = contributions.len();
        let dimension = contributions.first().expect("at least one contribution").values.len();
        let lengths = contributions.iter().map(|c| c.values.len());
        assert!(
            lengths
                .chain(centre.map(<[f32]>::len))
                .all(|length| length == dimension)
        );
        let mut products = vec![0.0f64; n * n];
        let chunks = dimension.div_ceil(CHUNK);
        let batch = (BATCH_BYTES / (8 * n * n)).max(16);
        for begin in (0..chunks).step_by(batch) {
            let sums: Vec<Vec<f64>> = (begin..chunks.min(begin + batch))
                .into_par_iter()
                .map_init(
                    || Scratch::new(n, kernels),
                    |scratch, chunk| {
                        let start = chunk * CHUNK;
                        scratch.chunk(contributions, centre, start, CHUNK.min(dimension - start))
                    },
                )
                .collect();
            for sum in sums {
                for (product, part) in products.iter_mut().zip(sum) {
                    *product += part;
                }
            }
        }
        Self { n, products }
    }

    /// A matrix from its entries, row by row.
    ///
    /// # Panics
    /// When these are not n².
    pub fn from_products(n: usize, products: Vec<f64>) -> Self {
        assert_eq!(products.len(), n * n, "n² products");
        Self { n, products }
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// ⟨x_i, x_j⟩.
    pub fn product(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.n + j]
    }

    /// ‖x_i‖². Not finite exactly where a value of x_i is not.
    pub fn squared_norm(&self, i: usize) -> f64 {
        self.product(i, i)
    }

    /// ‖x_i − x_j‖², never below 0.
    pub fn squared_distance(&self, i: usize, j: usize) -> f64 {
        clamped(self.product(i, i) + self.product(j, j) - 2.0 * self.product(i, j))
    }

    /// ‖x_i − Σ_j w_j x_j‖ for every i.
    pub fn distances_from(&self, weights: &[f64]) -> Vec<f64> {
        let projected: Vec<f64> = self
            .products
            .chunks(self.n.max(1))
            .map(|row| dot(row, weights))
            .collect();
        let square = dot(&projected, weights);
        (0..self.n)
            .map(|i| clamped(self.squared_norm(i) - 2.0 * projected[i] + square).sqrt())
            .collect()
    }

    /// The members ordered by their distance from member `pivot`, nearest first, ties by index.
    pub fn by_distance_from(&self, pivot: usize) -> Vec<usize> {
        order_by(self.n, |i| self.squared_distance(pivot, i))
    }
}

/// A value of at least 0: what rounding pushed below is 0.
fn clamped(value: f64) -> f64 {
    if value > 0.0 { value } else { 0.0 }
}

/// Σ a_i b_i from first to last; a weight of 0 leaves its term out.
pub(crate) fn dot(values: &[f64], weights: &[f64]) -> f64 {
    values
        .iter()
        .zip(weights)
        .filter(|(_, weight)| **weight != 0.0)
        .fold(0.0, |sum, (value, weight)| sum + value * weight)
}

/// The indices 0..n in the order of `key`, least first, ties by index.
pub(crate) fn order_by(n: usize, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let keys: Vec<f64> = (0..n).map(key).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]).then(a.cmp(&b)));
    order
}

/// What one thread works in: the blocks of the products' lanes, those of a block of rows with itself first.
struct Scratch {
    n: usize,
    kernels: Kernels,
    reader: ChunkReader,
    blocks: Vec<ProductBlock>,
}

impl Scratch {
    fn new(n: usize, kernels: Kernels) -> Self {
        let groups = n.div_ceil(BLOCK);
        Self {
            n,
            kernels,
            reader: ChunkReader::default(),
            blocks: vec![[[[0.0; LANES]; BLOCK]; BLOCK]; groups * (groups + 1) / 2],
        }
    }

    /// The products of one chunk, row by row.
    fn chunk(
        &mut self,
        contributions: &[Contribution<'_>],
        centre: Option<&[f32]>,
        start: usize,
        length: usize,
    ) -> Vec<f64> {
        let Self {
            n,
            kernels,
            reader,
            blocks,
        } = self;
        blocks.fill([[[0.0; LANES]; BLOCK]; BLOCK]);
        let rows = reader.rows(contributions, start, length);
        let groups = n.div_ceil(BLOCK);
        let (own, crossed) = blocks.split_at_mut(groups);
        let mut run: Vec<Rows<'_>> = vec![[&[]; BLOCK]; groups];
        for begin in (0..length).step_by(RUN) {
            let end = length.min(begin + RUN);
            let centre = centre.map(|centre| &centre[start + begin..start + end]);
            for (i, row) in run.as_flattened_mut().iter_mut().enumerate() {
                *row = rows.get(i).map_or(&ABSENT[..end - begin], |row| &row[begin..end]);
            }
            for (rows, block) in run.iter().zip(own.iter_mut()) {
                kernels.own_products(rows, centre, block);
            }
            for ((left, right), block) in pairs(groups).zip(crossed.iter_mut()) {
                kernels.products(&run[left], &run[right], centre, block);
            }
        }
        unfold(*n, blocks)
    }
}

/// Two different blocks of rows, in the order in which their products stand.
fn pairs(groups: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..groups).flat_map(move |left| (left + 1..groups).map(move |right| (left, right)))
}

/// Adds the lanes of every product, first to last, and writes the full matrix.
fn unfold(n: usize, blocks: &[ProductBlock]) -> Vec<f64> {
    let mut products = vec![0.0; n * n];
    let groups = n.div_ceil(BLOCK);
    let own = (0..groups).map(|group| (group, group));
    for ((left, right), block) in own.chain(pairs(groups)).zip(blocks) {
        for (i, row) in (left * BLOCK..n).zip(block) {
            for (j, lanes) in (right * BLOCK..n).zip(row).filter(|(j, _)| *j >= i) {
                let sum = lanes.iter().fold(0.0, |sum, lane| sum + lane);
                products[i * n + j] = sum;
                products[j * n + i] = sum;
            }
        }
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, dimension: usize) -> Vec<Vec<f32>> {
        (0..n)
            .map(|i| {
                (0..dimension)
                    .map(|k| ((k * (i + 3) + i * i) % 17) as f32 - 8.0)
                    .collect()
            })
            .collect()
    }

    fn contributions(rows: &[Vec<f32>]) -> Vec<Contribution<'_>> {
        rows.iter().map(|row| Contribution::dense(row, 1.0)).collect()
    }

    #[test]
    fn products_are_exact_on_integers_for_every_shape() {
        for (n, dimension) in [(1, 1), (2, 7), (3, 255), (4, 257), (5, 2049), (9, CHUNK + 3), (17, 300)] {
            let rows = rows(n, dimension);
            let centre: Vec<f32> = (0..dimension).map(|k| (k % 3) as f32).collect();
            for centre in [None, Some(&centre[..])] {
                let gram = Gram::of(&contributions(&rows), centre);
                let value = |i: usize, k: usize| f64::from(rows[i][k] - centre.map_or(0.0, |c| c[k]));
                for i in 0..n {
                    for j in 0..n {
                        let expected: f64 = (0..dimension).map(|k| value(i, k) * value(j, k)).sum();
                        assert_eq!(gram.product(i, j), expected, "n = {n}, d = {dimension}, {i}, {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn kernels_agree_to_the_last_bit() {
        for (n, dimension) in [(1, 3), (5, 129), (16, 5000), (19, 300)] {
            let rows: Vec<Vec<f32>> = (0..n)
                .map(|i| {
                    (0..dimension)
                        .map(|k| ((k * 37 + i * 11) % 101) as f32 / 7.0 - 6.0)
                        .collect()
                })
                .collect();
            for centre in [None, Some(&rows[0][..])] {
                let results: Vec<Gram> = Kernels::all()
                    .into_iter()
                    .map(|kernels| Gram::with(kernels, &contributions(&rows), centre))
                    .collect();
                assert!(
                    results.iter().all(|result| *result == results[0]),
                    "n = {n}, d = {dimension}"
                );
            }
        }
    }

    #[test]
    fn a_bad_value_shows_on_its_own_diagonal_and_no_other() {
        let mut rows = rows(5, 40);
        for bad in [f32::NAN, f32::INFINITY] {
            rows[2][39] = bad;
            let gram = Gram::of(&contributions(&rows), None);
            let finite: Vec<bool> = (0..5).map(|i| gram.squared_norm(i).is_finite()).collect();
            assert_eq!(finite, [true, true, false, true, true]);
        }
    }

    #[test]
    fn near_members_are_told_apart_beside_a_far_one() {
        let rows = [
            vec![1.0f32, 1.0],
            vec![1.0, 1.0 + f32::EPSILON],
            vec![f32::MAX, f32::MIN],
        ];
        let gram = Gram::of(&contributions(&rows), None);
        let expected = f64::from(f32::EPSILON) * f64::from(f32::EPSILON);
        assert!((gram.squared_distance(0, 1) / expected - 1.0).abs() < 0.1);
        assert_eq!(gram.squared_distance(2, 2), 0.0);
        assert_eq!(gram.by_distance_from(1), [1, 0, 2]);
    }

    #[test]
    fn distances_from_a_weighted_sum() {
        let rows = [vec![0.0f32, 0.0], vec![2.0, 0.0], vec![1.0, 3.0]];
        let gram = Gram::of(&contributions(&rows), None);
        assert_eq!(gram.distances_from(&[0.5, 0.5, 0.0]), [1.0, 1.0, 3.0]);
    }
}
