//! Fixed-order arithmetic: chunks that never depend on the machine, sums that never depend on the chunks' timing.
//! It knows nothing of rules; it holds only what several of them need.
//!
//! Work is cut into chunks of [`CHUNK`] coordinates, whatever the number of threads. Inside a chunk a sum runs over
//! [`LANES`] interleaved accumulators, which are then added from first to last; chunk sums are added in chunk order.
//! A sum over d values therefore has one definition, and every machine computes exactly that.

use rayon::prelude::*;

use crate::aggregator::Contribution;

/// Coordinates a task works on: 64 KiB of f32, so that a row of it stays in the first-level caches. Part of the
/// definition of every sum below: changing it changes the last bits of results, hence the protocol version.
pub const CHUNK: usize = 16_384;

/// Interleaved accumulators of a sum. Part of the definition, as [`CHUNK`] is.
pub const LANES: usize = 8;

/// Calls `work(first coordinate, chunk)` for each chunk of `out`, in parallel; chunks share nothing.
pub fn for_each_chunk(out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(index, chunk)| work(index * CHUNK, chunk));
}

/// Calls `work(first coordinate, chunk)` for each chunk of `out`, in parallel, and returns the answers in chunk order.
pub fn map_chunks<T: Send>(out: &mut [f32], work: impl Fn(usize, &mut [f32]) -> T + Sync) -> Vec<T> {
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .map(|(index, chunk)| work(index * CHUNK, chunk))
        .collect()
}

/// ‖a − b‖² of one chunk, in f64: two f32 can neither overflow nor underflow it.
fn chunk_squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            lanes[lane] += difference * difference;
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        let difference = f64::from(a) - f64::from(b);
        lanes[lane] += difference * difference;
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

/// ‖x_i − centre‖² for every contribution, in one parallel pass over the coordinates.
pub fn squared_distances(contributions: &[Contribution<'_>], centre: &[f32]) -> Vec<f64> {
    let by_chunk: Vec<Vec<f64>> = centre
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(index, centre)| {
            let range = index * CHUNK..index * CHUNK + centre.len();
            contributions
                .iter()
                .map(|c| chunk_squared_distance(&c.values[range.clone()], centre))
                .collect()
        })
        .collect();
    let mut totals = vec![0.0f64; contributions.len()];
    for chunk in by_chunk {
        for (total, part) in totals.iter_mut().zip(chunk) {
            *total += part;
        }
    }
    totals
}

/// The median of finite scalars; an even count averages the two in the middle.
///
/// # Panics
/// When `values` is empty.
pub fn median_of_scalars(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

/// Whether no value is NaN or infinite. Runs over the bits, so that it vectorises.
pub fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    values.chunks(CHUNK).all(|chunk| {
        !chunk
            .iter()
            .fold(false, |bad, value| bad | (value.to_bits() & EXPONENT == EXPONENT))
    })
}

/// The index of the first NaN or infinity, if there is one.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    if all_finite(values) {
        None
    } else {
        values.iter().position(|value| !value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_exact_on_integers_across_chunk_borders() {
        let dimension = 2 * CHUNK + 13;
        let a: Vec<f32> = (0..dimension).map(|i| (i % 7) as f32).collect();
        let centre: Vec<f32> = (0..dimension).map(|i| (i % 5) as f32).collect();
        let expected: f64 = a.iter().zip(&centre).map(|(a, c)| f64::from((a - c) * (a - c))).sum();
        let got = squared_distances(
            &[Contribution {
                values: &a,
                weight: 1.0,
            }],
            &centre,
        );
        assert_eq!(got, vec![expected]);
    }

    #[test]
    fn distances_of_the_largest_values_stay_finite() {
        let (a, b) = (vec![f32::MAX; 40], vec![f32::MIN; 40]);
        let got = squared_distances(
            &[Contribution {
                values: &a,
                weight: 1.0,
            }],
            &b,
        );
        assert!(got[0].is_finite() && got[0] > 1e78);
    }

    #[test]
    fn the_median_of_an_even_count_averages_the_middle() {
        assert_eq!(median_of_scalars(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median_of_scalars(&[9.0, 1.0, 3.0]), 3.0);
    }

    #[test]
    fn one_bad_value_anywhere_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for index in [0, 1, CHUNK - 1, CHUNK, CHUNK + 5] {
                let mut values = vec![f32::MAX; CHUNK + 6];
                assert_eq!(first_non_finite(&values), None);
                values[index] = bad;
                assert_eq!(first_non_finite(&values), Some(index));
            }
        }
    }
}
