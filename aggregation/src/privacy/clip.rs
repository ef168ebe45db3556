//! Clipping to a ball: the one thing that bounds what a single example or a single member can change (Abadi et al. 2016).
//! It adds no noise and chooses no radius.
//!
//! Norms are sums of squares in f64 in the fixed order of [`crate::numeric`]: chunks, lanes, one definition.

use rayon::prelude::*;

use crate::numeric::{CHUNK, LANES, first_non_finite};

/// What clipping did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clipping {
    /// ‖x‖₂ before.
    pub norm: f64,
    /// By what the vector was multiplied: 1 if it was within the ball, less otherwise.
    pub factor: f64,
}

/// Vectors and radii that cannot be clipped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClipError {
    /// The radius is not a positive number.
    #[error(
        "clipping: clip_norm = {got} must be a normal number greater than 0; the median norm of updates is a good choice"
    )]
    Radius {
        /// What was asked for.
        got: f32,
    },
    /// The vector has no norm.
    #[error("clipping: value {index} is NaN or infinite; leave this vector out")]
    NotFinite {
        /// Its coordinate.
        index: usize,
    },
}

/// Whether a radius is one.
pub(crate) fn check_radius(radius: f32) -> Result<(), ClipError> {
    if radius.is_normal() && radius > 0.0 {
        Ok(())
    } else {
        Err(ClipError::Radius { got: radius })
    }
}

/// ‖factor · x‖², each product rounded to f32 first.
fn scaled_squared_norm(values: &[f32], factor: f64) -> f64 {
    let chunk_sum = |chunk: &[f32]| {
        let square = |value: f32| {
            let scaled = f64::from((f64::from(value) * factor) as f32);
            scaled * scaled
        };
        let mut lanes = [0.0f64; LANES];
        let (blocks, rest) = chunk.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                lanes[lane] += square(block[lane]);
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane += square(value);
        }
        lanes.iter().fold(0.0, |sum, lane| sum + lane)
    };
    let chunks: Vec<f64> = values.par_chunks(CHUNK).map(chunk_sum).collect();
    chunks.iter().fold(0.0, |sum, chunk| sum + chunk)
}

/// ‖x‖₂. Two f32 can neither overflow nor underflow an f64's square.
pub fn l2_norm(values: &[f32]) -> f64 {
    scaled_squared_norm(values, 1.0).sqrt()
}

/// Shortens `values` to norm `radius` if they are longer. Afterwards [`l2_norm`] is at most `radius`, rounding included.
///
/// After an error nothing has changed.
pub fn clip_to_norm(values: &mut [f32], radius: f32) -> Result<Clipping, ClipError> {
    check_radius(radius)?;
    if let Some(index) = first_non_finite(values) {
        return Err(ClipError::NotFinite { index });
    }
    let norm = l2_norm(values);
    let bound = f64::from(radius);
    if norm <= bound {
        return Ok(Clipping { norm, factor: 1.0 });
    }
    let mut factor = bound / norm;
    while scaled_squared_norm(values, factor).sqrt() > bound {
        factor *= 1.0 - f64::from(f32::EPSILON);
    }
    values.par_chunks_mut(CHUNK).for_each(|chunk| {
        for value in chunk {
            *value = (f64::from(*value) * factor) as f32;
        }
    });
    Ok(Clipping { norm, factor })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_hand() {
        let mut values = [3.0, -4.0];
        assert_eq!(clip_to_norm(&mut values, 5.0), Ok(Clipping { norm: 5.0, factor: 1.0 }));
        assert_eq!(values, [3.0, -4.0]);
        assert_eq!(clip_to_norm(&mut values, 2.5), Ok(Clipping { norm: 5.0, factor: 0.5 }));
        assert_eq!(values, [1.5, -2.0]);
        let mut zero = [0.0; 3];
        assert_eq!(clip_to_norm(&mut zero, 1.0), Ok(Clipping { norm: 0.0, factor: 1.0 }));
    }

    #[test]
    fn what_cannot_be_clipped_is_refused_and_left() {
        let mut values = [1.0, f32::NAN];
        assert_eq!(clip_to_norm(&mut values, 1.0), Err(ClipError::NotFinite { index: 1 }));
        assert_eq!(values[0], 1.0);
        for radius in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42] {
            assert!(clip_to_norm(&mut [1.0], radius).is_err());
        }
    }

    #[test]
    fn the_norm_does_not_depend_on_threads() {
        let values: Vec<f32> = (0..3 * CHUNK + 5)
            .map(|i| ((i * 7919) % 1001) as f32 / 333.0 - 1.5)
            .collect();
        let norms = [1, 2, 7].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| l2_norm(&values)).to_bits()
        });
        assert!(norms.iter().all(|&norm| norm == norms[0]));
    }

    proptest! {
        #[test]
        fn the_result_is_within_the_ball_and_no_shorter_than_it_must_be(
            values in proptest::collection::vec(any::<f32>().prop_filter("finite", |x| x.is_finite()), 1..40),
            radius in (-100i32..100).prop_map(|e| 1.37f32 * 2f32.powi(e)),
        ) {
            let mut clipped = values.clone();
            let done = clip_to_norm(&mut clipped, radius).unwrap();
            let norm = l2_norm(&clipped);
            prop_assert!(norm <= f64::from(radius));
            if done.factor < 1.0 {
                prop_assert!(norm >= f64::from(radius) * (1.0 - 1e-5), "{} {}", norm, radius);
            } else {
                prop_assert_eq!(clipped, values);
            }
        }
    }
}
