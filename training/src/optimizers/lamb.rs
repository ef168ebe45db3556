//! LAMB (You et al., "Large Batch Optimization for Deep Learning", 2020): Adam's step, scaled by tensor to the size of the
//! parameters: `u = m̂/(√v̂ + ε) + λθ`, `θ ← θ − γ·min(‖θ‖, cap)/‖u‖·u`, the ratio being 1 where a norm is 0.
//! The benchmark's code leaves the corrections for the beginning out (as version 3 of the paper does); here they are on
//! unless `bias_correction = false`. Its cap on ‖θ‖ is kept.

use serde::{Deserialize, Serialize};

use super::run::{Run, correction, norm};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// LAMB's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LambConfig {
    /// Peak learning rate γ: about the share of a tensor that a step changes. 0.001, the benchmark code's default (LAMB was
    /// not tuned there).
    pub learning_rate: f32,
    /// Decay of the mean of gradients, β₁.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂.
    pub beta2: f32,
    /// Keeps the quotient finite, ε. 1e-6, the paper's.
    pub epsilon: f32,
    /// Adam's corrections for the beginning, as in the paper's algorithm 2.
    pub bias_correction: bool,
    /// Norms of parameters above this count as this. 10, the authors' choice.
    pub norm_cap: f32,
    /// Weight decay λ, inside of the scaled step. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
}

impl Default for LambConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-6,
            bias_correction: true,
            norm_cap: 10.0,
            weight_decay: 0.1,
        }
    }
}

impl LambConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.lamb.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.lamb.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.lamb.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.lamb.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.lamb.norm_cap", self.norm_cap, 1e-6, 1e9),
            ("optimizer.lamb.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 2]
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        let (first, root) = match self.bias_correction {
            true => (
                (1.0 / correction(beta1, run.count)) as f32,
                (1.0 / correction(beta2, run.count).sqrt()) as f32,
            ),
            false => (1.0, 1.0),
        };
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let decay = tensor.pace.decay_within(self.learning_rate, self.weight_decay);
            let [mean, square] = tensor.buffers else {
                unreachable!("LAMB has two buffers")
            };
            let each = tensor.gradient.iter().zip(&*tensor.parameters);
            let each = each.zip(mean.iter_mut().zip(square.iter_mut()));
            let update: Vec<f32> = each
                .map(|((g, p), (m, v))| {
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *m * first / (v.sqrt() * root + epsilon) + decay * p
                })
                .collect();
            let (size, step_size) = (norm(tensor.parameters), norm(&update));
            let ratio = match size > 0.0 && step_size > 0.0 {
                true => size.min(f64::from(self.norm_cap)) / step_size,
                false => 1.0,
            };
            let length = (f64::from(rate) * ratio) as f32;
            let each = tensor.parameters.iter_mut().zip(&update);
            each.for_each(|(p, u)| *p -= length * u);
        });
    }
}
