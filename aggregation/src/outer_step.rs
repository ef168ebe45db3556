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
//! Each operation is rounded to f32 in this order; there are no sums over coordinates, hence no order to fix.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::numeric::CHUNK;

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
}

impl Default for OuterConfig {
    fn default() -> Self {
        Self {
            learning_rate: 0.7,
            momentum: 0.9,
            nesterov: true,
        }
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
}

impl OuterConfig {
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
        Ok(())
    }

    /// Moves `parameters` and `momentum` by one step.
    ///
    /// # Panics
    /// When the three lengths differ.
    pub fn step(&self, parameters: &mut [f32], momentum: &mut [f32], pseudo_gradient: &[f32]) {
        assert_eq!(parameters.len(), momentum.len(), "one momentum a parameter");
        assert_eq!(parameters.len(), pseudo_gradient.len(), "one gradient a parameter");
        let Self {
            learning_rate,
            momentum: mu,
            nesterov,
        } = *self;
        parameters
            .par_chunks_mut(CHUNK)
            .zip(momentum.par_chunks_mut(CHUNK))
            .zip(pseudo_gradient.par_chunks(CHUNK))
            .for_each(|((parameters, momentum), gradient)| {
                for ((theta, m), &g) in parameters.iter_mut().zip(momentum).zip(gradient) {
                    *m = mu * *m + g;
                    let step = if nesterov { g + mu * *m } else { *m };
                    *theta -= learning_rate * step;
                }
            });
    }
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
            nesterov: true,
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
        let config = OuterConfig {
            learning_rate: 1.0,
            momentum: 0.0,
            nesterov: false,
        };
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
}
