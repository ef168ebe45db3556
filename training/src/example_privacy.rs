//! DP-SGD (Abadi et al. 2016, algorithm 1): each local step draws its examples by Poisson sampling, clips the gradient of each,
//! and adds noise to their sum. What an optimizer makes of the noisy gradient is as private as it is.
//! It keeps no account; `member_state` does, and refuses the release of an update that the budget does not cover.
//!
//! ```text
//! S ⊆ {1 … N}, each example with probability q;   g̃ = ( Σ_{i ∈ S} g_i · min(1, C/‖g_i‖) + N(0, z² C² I) ) / B
//! ```
//! B is the session's batch, never |S|, which tells of the data. Sample and noise come from the operating system's generator:
//! who could foresee the sample would gain nothing from sampling.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use synod_aggregation::privacy::noise::{ClippedSum, GaussianMechanism, NoiseError, NoiseSeed};
use synod_aggregation::privacy::{LocalDp, PrivacyConfig, Unit};

use crate::objectives::LossSum;
use crate::trainer::TrainError;

/// Writes the gradient of an example, by its number, over a slice; returns its loss.
pub type GradientOf<'a> = dyn FnMut(u64, &mut [f32]) -> Result<LossSum, TrainError> + 'a;

/// How local steps protect single examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExamplePrivacy {
    /// C.
    clip_norm: f32,
    /// z.
    noise_multiplier: f64,
    /// q.
    sampling_rate: f64,
    /// B, the examples that a step reckons with.
    batch: u32,
}

impl ExamplePrivacy {
    /// What a session with this privacy asks of local steps whose batch has so many sequences.
    pub fn of(privacy: &PrivacyConfig, batch: u32) -> Option<Self> {
        match privacy {
            PrivacyConfig::LocalDp(LocalDp {
                unit: Unit::Example { sampling_rate, .. },
                clip_norm,
                noise_multiplier,
                ..
            }) => Some(Self {
                clip_norm: *clip_norm,
                noise_multiplier: *noise_multiplier,
                sampling_rate: *sampling_rate,
                batch,
            }),
            _ => None,
        }
    }

    /// The examples, of so many, that enter this step.
    fn sample(&self, examples: u64) -> Result<Vec<u64>, TrainError> {
        let mut rng = ChaCha20Rng::from_seed(os_bytes()?);
        // Rounded down, so that no example enters more often than the account says.
        let below = (self.sampling_rate * 18_446_744_073_709_551_616.0) as u64;
        let all = self.sampling_rate >= 1.0;
        Ok((0..examples).filter(|_| rng.next_u64() < below || all).collect())
    }

    /// Writes the noisy gradient of one step over `gradient`. `each` writes an example's gradient over its argument, and
    /// returns its loss; one whose gradient is not finite counts as nothing.
    pub fn gradient(
        &self,
        examples: u64,
        gradient: &mut [f32],
        each: &mut GradientOf<'_>,
    ) -> Result<LossSum, TrainError> {
        let broken = |error: NoiseError| TrainError::Privacy(error.to_string());
        let mechanism = GaussianMechanism::new(self.clip_norm, self.noise_multiplier).map_err(broken)?;
        let mut total = ClippedSum::new(mechanism, gradient.len());
        let mut loss = LossSum::default();
        for example in self.sample(examples)? {
            loss += each(example, gradient)?;
            match total.add(gradient) {
                Ok(_) | Err(NoiseError::Clip(_)) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        total.release(NoiseSeed::from_os_bytes(os_bytes()?), f64::from(self.batch), gradient);
        Ok(loss)
    }
}

fn os_bytes() -> Result<[u8; 32], TrainError> {
    crate::secure_sum::os_bytes()
        .map_err(|error| TrainError::Privacy(format!("the operating system gives no random bytes: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privacy(sampling_rate: f64) -> ExamplePrivacy {
        ExamplePrivacy {
            clip_norm: 2.0,
            noise_multiplier: 0.5,
            sampling_rate,
            batch: 10,
        }
    }

    /// Twenty examples, each a long gradient along its own axis: the sum is one of clipped ones, and its noise has the
    /// deviation z C / B.
    #[test]
    fn a_step_is_the_clipped_sum_and_the_mechanisms_noise() {
        let (dimension, mut squares) = (4000, 0.0f64);
        let mut gradient = vec![0.0f32; dimension];
        let mut each = |example: u64, gradient: &mut [f32]| {
            gradient.fill(0.0);
            gradient[example as usize] = if example == 3 { f32::NAN } else { 100.0 };
            Ok(LossSum {
                weighted_nll: 3.0,
                weight: 1.0,
            })
        };
        let loss = privacy(1.0).gradient(20, &mut gradient, &mut each).unwrap();
        assert_eq!(loss.weight, 20.0);
        for (at, value) in gradient.iter().enumerate() {
            let clean = if at < 20 && at != 3 { 2.0 / 10.0 } else { 0.0 };
            squares += f64::from(value - clean).powi(2);
        }
        let deviation = (squares / dimension as f64).sqrt();
        // 0.5 · 2 / 10, to within six of its own deviations (a share 1/√8000 of it).
        assert!((deviation / 0.1 - 1.0).abs() < 0.07, "{deviation}");
    }

    #[test]
    fn examples_enter_with_the_sampling_rate_and_never_twice() {
        let privacy = privacy(0.25);
        let drawn: Vec<Vec<u64>> = (0..50).map(|_| privacy.sample(2000).unwrap()).collect();
        assert!(drawn.iter().all(|sample| sample.is_sorted_by(|a, b| a < b)));
        assert_ne!(drawn[0], drawn[1]);
        let total: usize = drawn.iter().map(Vec::len).sum();
        // 25,000 expected, deviation 137: six of them.
        assert!((24_178..25_822).contains(&total), "{total}");
        assert!(privacy.sample(0).unwrap().is_empty());
    }
}
