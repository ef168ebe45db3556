//! ADOPT (Taniguchi et al., 2024) with its later element-wise clipping: the first step only takes `v = g²`; then
//! `u = clamp(g / max(√v, ε), ±c)` with `c = n^¼` after n steps, `m ← β₁m + (1−β₁)u`, `θ ← (1 − γλ)θ − γm`,
//! `v ← β₂v + (1−β₂)g²`. It divides by the `v` of before, and corrects nothing for its beginning.

use serde::{Deserialize, Serialize};

use super::run::{Run, each2};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// ADOPT's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdoptConfig {
    /// Peak learning rate γ. 0.001 was tuned at all sizes (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Decay of the mean of steps, β₁. 0.9 was tuned at 124 M and 210 M parameters.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂. 0.999 was tuned at all sizes: despite the method's claim it matters.
    pub beta2: f32,
    /// The least root of `v` that is divided by, ε. 1e-6, as the authors have it.
    pub epsilon: f32,
    /// Clip each element of the quotient at n^¼. On, as in the benchmark: without it early steps may be huge.
    pub clip: bool,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
}

impl Default for AdoptConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-6,
            clip: true,
            weight_decay: 0.1,
        }
    }
}

impl AdoptConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.adopt.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.adopt.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.adopt.beta2", self.beta2, 0.0, 0.99999),
            ("optimizer.adopt.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.adopt.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 2]
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        if run.is_first() {
            run.each(|tensor| {
                let square = &mut tensor.buffers[1];
                square.iter_mut().zip(tensor.gradient).for_each(|(v, g)| *v = g * g);
            });
            return;
        }
        let bound = match self.clip {
            true => ((run.count - 1) as f64).sqrt().sqrt() as f32,
            false => f32::INFINITY,
        };
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            let [mean, square] = tensor.buffers else {
                unreachable!("ADOPT has two buffers")
            };
            each2(tensor.parameters, tensor.gradient, mean, square, |p, g, m, v| {
                let u = (g / v.sqrt().max(epsilon)).clamp(-bound, bound);
                let m = beta1 * m + (1.0 - beta1) * u;
                (p * keep - rate * m, m, beta2 * v + (1.0 - beta2) * g * g)
            });
        });
    }
}
