//! Clipping of the global gradient norm (Pascanu et al., 2013): one norm over all parameters, not one a tensor.
//! It does not look for NaN; the local steps refuse a loss that is not finite before they come here.

use rayon::prelude::*;

use super::run::{CHUNK, norm};

/// Scales `gradient` down so that its norm is at most `most`; returns the norm it had.
///
/// The sum runs in f64 over fixed chunks and is added up in order, hence the result is the same for any number of threads.
pub fn clip_global_norm(gradient: &mut [f32], most: f32) -> f32 {
    let norm = norm(gradient) as f32;
    if norm > most {
        let factor = most / norm;
        let scale = |chunk: &mut [f32]| chunk.iter_mut().for_each(|g| *g *= factor);
        match gradient.len() <= CHUNK {
            true => scale(gradient),
            false => gradient.par_chunks_mut(CHUNK).for_each(scale),
        }
    }
    norm
}

/// Sum of squares over eight fixed lanes, so that the compiler may use vectors without choosing the order.
pub(super) fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_gradient_is_cut_and_a_short_one_left_alone() {
        let mut long = vec![3.0; 10_000];
        assert_eq!(clip_global_norm(&mut long, 1.0), 300.0);
        assert!((squares(&long).sqrt() - 1.0).abs() < 1e-6);
        let mut short = vec![0.3, 0.4];
        assert_eq!(clip_global_norm(&mut short, 1.0), 0.5);
        assert_eq!(short, [0.3, 0.4]);
    }
}
