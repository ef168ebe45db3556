//! Fixed-order arithmetic: chunks that never depend on the machine, sums that never depend on the chunks' timing.
//! It knows nothing of rules; it holds only what several of them need.
//!
//! Work is cut into chunks of [`CHUNK`] coordinates, whatever the number of threads. Inside a chunk a sum runs over
//! [`LANES`] interleaved accumulators, which are then added from first to last; chunk sums are added in chunk order.
//! A sum over d values therefore has one definition, and every machine computes exactly that.

use rayon::prelude::*;

/// Coordinates that are worked on at a time: 16 KiB of f32, so that a chunk of sixteen members stays in the second-level
/// cache. Part of the definition of every sum over coordinates: changing it changes the last bits of results, hence the
/// protocol version.
pub const CHUNK: usize = 4096;

/// Interleaved accumulators of a sum. Part of the definition, as [`CHUNK`] is.
pub const LANES: usize = 8;

/// Calls `work(first coordinate, chunk)` for each chunk of `out`, in parallel; chunks share nothing.
pub fn for_each_chunk(out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(index, chunk)| work(index * CHUNK, chunk));
}

/// The same with scratch that `init` makes once a thread, not once a chunk.
pub(crate) fn for_each_chunk_init<S>(
    out: &mut [f32],
    init: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) {
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each_init(init, |scratch, (index, chunk)| work(scratch, index * CHUNK, chunk));
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
