//! One vector of many: (keep · out + Σ w_i x_i) / divisor, in one pass, in f64, rounded once.
//! It chooses no weights; the rules do.

use crate::aggregator::Contribution;
use crate::chunk_reader::ChunkReader;
use crate::numeric;
use crate::simd::Kernels;

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
    weighted_sum_with(Kernels::detect(), &used, &factors, weights.divisor, keep, out);
}

fn weighted_sum_with(
    kernels: Kernels,
    contributions: &[Contribution<'_>],
    factors: &[f64],
    divisor: f64,
    keep: f64,
    out: &mut [f32],
) {
    numeric::for_each_chunk_init(out, ChunkReader::default, |reader, start, out| {
        let rows = reader.rows(contributions, start, out.len());
        kernels.sum_rows(&rows, factors, keep, divisor, out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_agree_to_the_last_bit() {
        for (n, dimension, keep) in [(1, 5, 0.0), (3, 64, 0.3), (16, 200, 0.0), (17, 555, 1.7)] {
            let rows: Vec<Vec<f32>> = (0..n)
                .map(|i| {
                    (0..dimension)
                        .map(|k| ((k * 37 + i * 11) % 101) as f32 / 7.0 - 6.0)
                        .collect()
                })
                .collect();
            let contributions: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
            let factors: Vec<f64> = (0..n).map(|i| 1.0 / (i + 3) as f64).collect();
            for (divisor, scale) in [(1.3, 1.0f32), (1e-300, 1e30)] {
                let results: Vec<Vec<u32>> = Kernels::all()
                    .into_iter()
                    .map(|kernels| {
                        let mut out = vec![0.7 * scale; dimension];
                        weighted_sum_with(kernels, &contributions, &factors, divisor, keep, &mut out);
                        assert!(out.iter().all(|value| value.is_finite()));
                        out.iter().map(|value| value.to_bits()).collect()
                    })
                    .collect();
                assert!(
                    results.iter().all(|result| *result == results[0]),
                    "n = {n}, d = {dimension}"
                );
            }
        }
    }

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
