//! The outer step: what one round's aggregate does to the agreed parameters (DiLoCo: Douillard et al. 2023, algorithm 1).
//! It computes no gradient; the aggregate of the members' pseudo-gradients comes in, and nothing random does.
//!
//! With g the aggregated pseudo-gradient, g = mean_i (θ − θ_i) for local results θ_i (so g points *against* the
//! progress, as a gradient does), m the momentum buffer, zero at first, μ the momentum and η the learning rate:
//!
//! ```text
//! m ← μ m + g
//! θ ← θ − η (g + μ m)   with Nesterov's look-ahead (Sutskever et al. 2013, as torch.optim.SGD(nesterov=True) has it)
//! θ ← θ − η m           without
//! ```
//! With μ = 0 that is θ ← θ − η g, and there is no buffer to keep.
//!
//! With a clipping radius τ, the aggregate is first drawn towards what the momentum expects (Karimireddy, He & Jaggi 2021,
//! §4, with the server's own history as centre): c = (1 − μ) m is the running mean of past aggregates, and
//!
//! ```text
//! g ← c + (g − c) · min(1, τ / ‖g − c‖)
//! ```
//! so that no round, however its members conspired, moves the direction by more than τ.
//! Each operation is rounded to f32 in this order. The norm is the only sum over coordinates: in f64, lane by lane and chunk
//! by chunk as in `numeric.rs`. Fragments that are settled in turn are in `streaming.rs`.

pub mod streaming;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::numeric::{CHUNK, LANES};

pub use streaming::{Due, Fragments, Replica, StreamedState, StreamingConfig, StreamingError};

/// The outer optimiser's settings. The defaults are DiLoCo's best (Douillard et al. 2023, §3: Nesterov, 0.7, 0.9).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct OuterConfig {
    /// η, the step length. 1 with momentum 0 is federated averaging.
    pub learning_rate: f32,
    /// μ, the share of the last step's direction that is kept.
    pub momentum: f32,
    /// Whether to look ahead along the momentum.
    pub nesterov: bool,
    /// τ, in the unit of the pseudo-gradients. None by default: a radius that is right for one model and one number of local
    /// steps is wrong for the next, and one that is too small stops the training.
    pub clip_radius: Option<f32>,
}

impl Default for OuterConfig {
    fn default() -> Self {
        Self::DILOCO
    }
}

/// An outer step that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OuterError {
    /// The learning rate is not a positive number.
    #[error("outer step: learning_rate = {got} must be finite and greater than 0; DiLoCo uses 0.7, averaging 1.0")]
    LearningRate {
        /// What was asked for.
        got: f32,
    },
    /// The momentum is not in [0, 1).
    #[error("outer step: momentum = {got} must be at least 0 and less than 1; DiLoCo uses 0.9, averaging 0.0")]
    Momentum {
        /// What was asked for.
        got: f32,
    },
    /// The clipping radius is not a positive number.
    #[error("outer step: clip_radius = {got} must be finite and greater than 0; leave it out to clip nothing")]
    ClipRadius {
        /// What was asked for.
        got: f32,
    },
}

impl OuterConfig {
    /// DiLoCo's step, the default.
    pub const DILOCO: Self = Self {
        learning_rate: 0.7,
        momentum: 0.9,
        nesterov: true,
        clip_radius: None,
    };

    /// Federated averaging: the new parameters are the mean of the local results.
    pub const AVERAGING: Self = Self {
        learning_rate: 1.0,
        momentum: 0.0,
        nesterov: false,
        clip_radius: None,
    };

    /// Whether the settings make sense. Ask when a session is created.
    pub fn check(&self) -> Result<(), OuterError> {
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(OuterError::LearningRate {
                got: self.learning_rate,
            });
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(OuterError::Momentum { got: self.momentum });
        }
        match self.clip_radius {
            Some(got) if !(got.is_finite() && got > 0.0) => Err(OuterError::ClipRadius { got }),
            Some(_) | None => Ok(()),
        }
    }

    /// Moves `parameters` and `momentum` by one step.
    ///
    /// # Panics
    /// When the three lengths differ; where no momentum is kept, there may be none.
    pub fn step(&self, parameters: &mut [f32], momentum: &mut [f32], pseudo_gradient: &[f32]) {
        assert_eq!(parameters.len(), pseudo_gradient.len(), "one gradient a parameter");
        if momentum.is_empty() && !self.keeps_momentum() {
            return self.step_along(parameters, pseudo_gradient);
        }
        assert_eq!(parameters.len(), momentum.len(), "one momentum a parameter");
        let (learning_rate, mu, nesterov) = (self.learning_rate, self.momentum, self.nesterov);
        // How far each g moves from the centre; 1 leaves it alone, to the bit.
        let share = match self.clip_radius {
            Some(radius) => clipped_share(f64::from(radius), 1.0 - mu, momentum, pseudo_gradient),
            None => 1.0,
        };
        parameters
            .par_chunks_mut(CHUNK)
            .zip(momentum.par_chunks_mut(CHUNK))
            .zip(pseudo_gradient.par_chunks(CHUNK))
            .for_each(|((parameters, momentum), gradient)| {
                for ((theta, m), &g) in parameters.iter_mut().zip(momentum).zip(gradient) {
                    let g = if share == 1.0 {
                        g
                    } else {
                        drawn(g, (1.0 - mu) * *m, share)
                    };
                    *m = mu * *m + g;
                    let step = if nesterov { g + mu * *m } else { *m };
                    *theta -= learning_rate * step;
                }
            });
    }

    /// Whether a step looks at the momentum of the one before; without, there need not be any.
    pub fn keeps_momentum(&self) -> bool {
        self.momentum != 0.0 || self.clip_radius.is_some()
    }

    /// θ ← θ − η g.
    fn step_along(&self, parameters: &mut [f32], pseudo_gradient: &[f32]) {
        let chunks = parameters.par_chunks_mut(CHUNK).zip(pseudo_gradient.par_chunks(CHUNK));
        chunks.for_each(|(parameters, gradient)| {
            for (theta, g) in parameters.iter_mut().zip(gradient) {
                *theta -= self.learning_rate * g;
            }
        });
    }
}

/// c + (g − c) · share: in f64, where two f32 cannot overflow.
fn drawn(g: f32, centre: f32, share: f64) -> f32 {
    let centre = f64::from(centre);
    (centre + (f64::from(g) - centre) * share) as f32
}

/// min(1, τ / ‖g − c‖) with c = `scale` · m.
fn clipped_share(radius: f64, scale: f32, momentum: &[f32], gradient: &[f32]) -> f64 {
    let by_chunk: Vec<f64> = momentum
        .par_chunks(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .map(|(momentum, gradient)| {
            let mut lanes = [0.0f64; LANES];
            for (momentum, gradient) in momentum.chunks(LANES).zip(gradient.chunks(LANES)) {
                for ((lane, &m), &g) in lanes.iter_mut().zip(momentum).zip(gradient) {
                    let difference = f64::from(g) - f64::from(scale * m);
                    *lane += difference * difference;
                }
            }
            lanes.iter().fold(0.0, |sum, lane| sum + lane)
        })
        .collect();
    let distance = by_chunk.iter().fold(0.0, |sum, part| sum + part).sqrt();
    if distance <= radius { 1.0 } else { radius / distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesterov_by_hand() {
        // Powers of two: every intermediate is exact. m: 1, then 0.5 · 1 + 2 = 2.5; step: 1.5, then 3.25.
        let config = OuterConfig {
            learning_rate: 0.5,
            momentum: 0.5,
            ..OuterConfig::DILOCO
        };
        let (mut theta, mut m) = ([8.0], [0.0]);
        config.step(&mut theta, &mut m, &[1.0]);
        assert_eq!((theta, m), ([7.25], [1.0]));
        config.step(&mut theta, &mut m, &[2.0]);
        assert_eq!((theta, m), ([5.625], [2.5]));
    }

    /// Under a constant gradient 1 the buffer is m_t = (1 − μ^t)/(1 − μ), and the look-ahead steps by 1 + μ m_t = m_{t+1}.
    #[test]
    fn a_constant_gradient_meets_the_closed_form() {
        let config = OuterConfig::default();
        let (mut theta, mut m, mut expected) = ([0.0f32], [0.0f32], 0.0f64);
        for round in 1..=50 {
            config.step(&mut theta, &mut m, &[1.0]);
            expected -= 0.7 * (1.0 - 0.9f64.powi(round + 1)) / (1.0 - 0.9);
            assert!(
                (f64::from(theta[0]) - expected).abs() < 1e-5 * expected.abs(),
                "round {round}: {theta:?}, {expected}"
            );
        }
    }

    #[test]
    fn rate_one_without_momentum_is_federated_averaging() {
        let config = OuterConfig::AVERAGING;
        let (mut theta, mut m) = ([3.0, -1.0], [0.0; 2]);
        let mean_of_local_results = [2.0, 4.0];
        let gradient = [theta[0] - mean_of_local_results[0], theta[1] - mean_of_local_results[1]];
        config.step(&mut theta, &mut m, &gradient);
        assert_eq!(theta, mean_of_local_results);
    }

    #[test]
    fn senseless_settings_are_refused() {
        assert_eq!(OuterConfig::default().check(), Ok(()));
        for learning_rate in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(
                OuterConfig {
                    learning_rate,
                    ..OuterConfig::default()
                }
                .check()
                .is_err()
            );
        }
        for momentum in [-0.1, 1.0, f32::NAN] {
            assert!(
                OuterConfig {
                    momentum,
                    ..OuterConfig::default()
                }
                .check()
                .is_err()
            );
        }
    }

    #[test]
    fn clipping_by_hand() {
        // Centre 0 at first: (3, 4) is cut to length 2.5. Then m = (1.5, 2), c = m / 2 = (0.75, 1); g − c = (0, 5) is halved.
        let config = OuterConfig {
            learning_rate: 1.0,
            momentum: 0.5,
            nesterov: false,
            clip_radius: Some(2.5),
        };
        let (mut theta, mut m) = ([0.0, 0.0], [0.0; 2]);
        config.step(&mut theta, &mut m, &[3.0, 4.0]);
        assert_eq!((theta, m), ([-1.5, -2.0], [1.5, 2.0]));
        config.step(&mut theta, &mut m, &[0.75, 6.0]);
        assert_eq!((theta, m), ([-3.0, -6.5], [1.5, 4.5]));
    }

    #[test]
    fn a_radius_that_nothing_reaches_changes_no_bit() {
        let (wide, none) = (
            OuterConfig {
                clip_radius: Some(1e30),
                ..OuterConfig::DILOCO
            },
            OuterConfig::DILOCO,
        );
        let gradient: Vec<f32> = (0..CHUNK + 9).map(|i| (i % 97) as f32 * 0.013 - 0.6).collect();
        let run = |config: OuterConfig| {
            let (mut theta, mut m) = (vec![1.0; gradient.len()], vec![0.0; gradient.len()]);
            (0..3).for_each(|_| config.step(&mut theta, &mut m, &gradient));
            (theta, m)
        };
        assert!(run(wide) == run(none));
    }

    /// An attacker who owns the aggregate for one round moves a model whose honest direction is steady by no more than the
    /// radius allows, however large its vector.
    #[test]
    fn one_bad_round_moves_the_momentum_by_the_radius_at_most() {
        let config = OuterConfig {
            clip_radius: Some(0.5),
            ..OuterConfig::DILOCO
        };
        let (mut theta, mut m) = ([0.0; 4], [0.0; 4]);
        (0..200).for_each(|_| config.step(&mut theta, &mut m, &[0.1, 0.1, 0.1, 0.1]));
        let before = m;
        config.step(&mut theta, &mut m, &[-f32::MAX, f32::MAX, 0.0, 0.0]);
        let moved: f32 = m
            .iter()
            .zip(before)
            .map(|(after, before)| (after - before).powi(2))
            .sum();
        assert!(moved.sqrt() < 0.5 + 1e-3, "{moved}");
    }

    #[test]
    fn senseless_radii_are_refused() {
        for radius in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let config = OuterConfig {
                clip_radius: Some(radius),
                ..OuterConfig::DILOCO
            };
            assert!(config.check().is_err());
        }
    }
}
