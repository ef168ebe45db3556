//! Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023):
//! `θ ← (1 − γλ)θ − γ·sign(β₁m + (1−β₁)g)`, then `m ← β₂m + (1−β₂)g`. The momentum is not corrected for its beginning.

use serde::{Deserialize, Serialize};

use super::run::{Run, each1, sign};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// Lion's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LionConfig {
    /// Peak learning rate γ. 0.001 was tuned at 124 M parameters, 0.0005 at 210 M, 0.0002 at 720 M (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Share of the momentum in the step, β₁. 0.9 in all tuned tables (the benchmark's text says 0.99 once).
    pub beta1: f32,
    /// Decay of the momentum, β₂. 0.99 in all tuned tables.
    pub beta2: f32,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
}

impl Default for LionConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.1,
        }
    }
}

impl LionConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.lion.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.lion.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.lion.beta2", self.beta2, 0.0, 0.99999),
            ("optimizer.lion.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count()]
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self { beta1, beta2, .. } = *self;
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            each1(tensor.parameters, tensor.gradient, &mut tensor.buffers[0], |p, g, m| {
                let u = sign(beta1 * m + (1.0 - beta1) * g);
                (p * keep - rate * u, beta2 * m + (1.0 - beta2) * g)
            });
        });
    }
}
