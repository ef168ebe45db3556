//! One vector of many: (keep · out + Σ w_i x_i) / divisor, in one pass, in f64, rounded once.
//! It chooses no weights; the rules do.

use crate::aggregator::Contribution;
use crate::chunk_reader::ChunkReader;
use crate::numeric;
use crate::simd::{Kernels, SUM_WIDTH};

/// Weights of contributions; the aggregate is their weighted sum over the divisor.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// One a contribution; 0 leaves it out, and its values are not even read.
    pub weights: Vec<f64>,
    /// What the sum is divided by. Selections have weights of 1 and divide by their number, so that equal updates come
    /// out as they went in.
    pub divisor: f64,
}

impl Weights {
    /// The mean of the chosen members among n.
    pub(crate) fn mean_of(chosen: &[usize], n: usize) -> Self {
        let mut weights = vec![0.0; n];
        for &index in chosen {
            weights[index] = 1.0;
        }
        Self {
            weights,
            divisor: chosen.len() as f64,
        }
    }
}

/// Writes (keep · out + Σ w_i x_i) / divisor over `out`: for each coordinate a sum in f64 from first to last, one
/// division, one rounding to f32, within its range. Where `keep` is 0, what `out` held is not read.
///
/// # Panics
/// When there is not one weight a contribution, or a length differs from `out`'s.
pub fn weighted_sum(contributions: &[Contribution<'_>], weights: &Weights, keep: f64, out: &mut [f32]) {
    assert_eq!(contributions.len(), weights.weights.len(), "one weight a contribution");
    assert!(contributions.iter().all(|c| c.values.len() == out.len()));
    let pairs = contributions.iter().zip(&weights.weights);
    let (used, factors): (Vec<Contribution<'_>>, Vec<f64>) = pairs
        .filter(|(_, weight)| **weight != 0.0)
        .map(|(c, w)| (*c, *w))
        .unzip();
    numeric::for_each_chunk_init(out, ChunkReader::default, |reader, start, out| {
        let kernels = Kernels::detect();
        let rows = reader.rows(&used, start, out.len());
        for (at, out) in out.chunks_mut(SUM_WIDTH).enumerate() {
            let mut sums = [0.0f64; SUM_WIDTH];
            if keep != 0.0 {
                for (sum, out) in sums.iter_mut().zip(out.iter()) {
                    *sum = keep * f64::from(*out);
                }
            }
            kernels.add_rows(&rows, at * SUM_WIDTH, &factors, &mut sums);
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = rounded(sum / weights.divisor);
            }
        }
    });
}

/// The nearest f32; beyond the largest, the largest: weights above 1 must not turn finite updates into an infinity.
fn rounded(value: f64) -> f32 {
    const MOST: f64 = f32::MAX as f64;
    let bounded = if value > MOST { MOST } else { value };
    (if bounded < -MOST { -MOST } else { bounded }) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_on_integers_for_every_shape() {
        for (n, dimension) in [
            (1, 1),
            (3, 255),
            (8, 256),
            (9, 2050),
            (20, 300),
            (17, numeric::CHUNK + 1),
        ] {
            let rows: Vec<Vec<f32>> = (0..n)
                .map(|i| (0..dimension).map(|k| ((k + i * 5) % 11) as f32 - 5.0).collect())
                .collect();
            let contributions: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
            let weights = Weights {
                weights: (0..n).map(|i| (i % 3) as f64).collect(),
                divisor: 2.0,
            };
            let mut out = vec![4.0f32; dimension];
            weighted_sum(&contributions, &weights, 0.5, &mut out);
            for (k, out) in out.iter().enumerate() {
                let sum: f64 = (0..n).map(|i| (i % 3) as f64 * f64::from(rows[i][k])).sum();
                assert_eq!(f64::from(*out), (2.0 + sum) / 2.0, "n = {n}, d = {dimension}, {k}");
            }
        }
    }
}
