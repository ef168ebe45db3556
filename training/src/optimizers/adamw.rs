//! AdamW (Loshchilov and Hutter, 2019), in PyTorch's form, fused over flat slices:
//! `θ ← (1 − γλ)θ`, `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← θ − γ/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + ε)`.
//! It clips nothing and reads no schedule. Matrix optimizers take it for all that is no hidden matrix.

use serde::{Deserialize, Serialize};

use super::run::{Run, Tensor, correction, each2};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// AdamW's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak learning rate γ. 0.0015 was the best of 0.0015, 0.003 and 0.006 for the default model and
    /// batch; larger models want less.
    pub learning_rate: f32,
    /// Decay of the mean of gradients, β₁.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂. 0.95 rather than PyTorch's 0.999: it adapts within a few dozen
    /// steps, and a round has no more.
    pub beta2: f32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Weight decay λ, on matrices and embeddings only. 0.1 is usual for language models.
    pub weight_decay: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1.5e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
        }
    }
}

impl AdamWConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.adamw.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.adamw.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.adamw.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.adamw.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.adamw.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 2]
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let count = run.count;
        run.each(|tensor| self.update(tensor, count));
    }

    /// One tensor's update; its first two buffers are `m` and `v`.
    pub(super) fn update(&self, tensor: &mut Tensor<'_>, count: u64) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
        let step_length = (f64::from(tensor.pace.rate(self.learning_rate)) / correction(beta1, count)) as f32;
        let root = (1.0 / correction(beta2, count).sqrt()) as f32;
        let [mean, square, ..] = tensor.buffers else {
            unreachable!("AdamW has two buffers")
        };
        each2(tensor.parameters, tensor.gradient, mean, square, |p, g, m, v| {
            let m = beta1 * m + (1.0 - beta1) * g;
            let v = beta2 * v + (1.0 - beta2) * g * g;
            (p * keep - step_length * m / (v.sqrt() * root + epsilon), m, v)
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{OptimizerConfig, TrainingConfig};
    use crate::layout::{Layout, Role};
    use crate::optimizers::{AdamWConfig, Optimizer, StepInputs};
    use crate::schedules::{Constant, ScheduleConfig};

    fn config(adamw: AdamWConfig) -> TrainingConfig {
        TrainingConfig {
            optimizer: OptimizerConfig::AdamW(adamw),
            schedule: ScheduleConfig::Constant(Constant::without_warmup()),
            ..TrainingConfig::default()
        }
    }

    /// Two steps by hand, in f64, with γ = 0.1, β = (0.9, 0.99), λ = 0.5, θ₀ = 1, g = (0.5, −0.25).
    /// Step 1: m̂ = 0.5, v̂ = 0.25, so θ₁ = 1·0.95 − 0.1·0.5/0.5 = 0.85.
    /// Step 2: m = 0.9·0.05 − 0.025 = 0.02, m̂ = 0.02/0.19 = 0.1052632; v = 0.99·0.0025 + 0.000625 = 0.0031,
    /// v̂ = 0.0031/0.0199 = 0.1557789, √ = 0.3946883; θ₂ = 0.85·0.95 − 0.1·0.1052632/0.3946883 = 0.7808300.
    #[test]
    fn two_steps_agree_with_a_calculation_by_hand() {
        let layout = Layout::new()
            .with("decayed", &[1, 1], Role::HiddenMatrix)
            .with("gain", &[1], Role::Gain);
        let adamw = AdamWConfig {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-12,
            weight_decay: 0.5,
        };
        let mut optimizer = Optimizer::new(&config(adamw), &layout);
        let mut parameters = [1.0, 1.0];
        optimizer.step(&mut parameters, StepInputs::of(0, &mut [0.5, 0.5]));
        assert!((parameters[0] - 0.85).abs() < 1e-6, "{parameters:?}");
        assert!(
            (parameters[1] - 0.9).abs() < 1e-6,
            "a gain is not decayed: {parameters:?}"
        );
        optimizer.step(&mut parameters, StepInputs::of(1, &mut [-0.25, -0.25]));
        assert!((parameters[0] - 0.780_830).abs() < 1e-6, "{parameters:?}");
        assert!((parameters[1] - 0.873_330).abs() < 1e-6, "{parameters:?}");
    }
}
