//! Schedule-Free AdamW (Defazio et al., "The Road Less Scheduled", 2024). The parameters while training are `y`; with
//! `ĝ = g(y)/(√v̂ + ε) + λy` and `c = ω/Σω`, `ω = γ_max²·tʳ`:
//! `y ← (1−c)y + cz + γ(β₁(1−c) − 1)ĝ`, `z ← z − γĝ`; what is evaluated and exchanged is `x = y + (1 − 1/β₁)(z − y)`.
//!
//! It wants the constant schedule (the warm-up is the session's). Clipping of gradients is not left out, contrary to the
//! authors' advice: Semenov et al. (2025) found it needed. `x` is the ω-weighted mean of the `z` after each step.

use serde::{Deserialize, Serialize};

use super::run::{Run, correction, each2};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// Schedule-Free AdamW's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleFreeConfig {
    /// Peak learning rate γ. 0.001 was tuned at all sizes (Semenov et al., 2025).
    pub learning_rate: f32,
    /// How far the gradient's point lies towards the mean, β₁. Not 0: `x` is found from `y` and `z` by dividing by it.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂. 0.9999 was tuned at all sizes; short runs want less.
    pub beta2: f32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Weight decay λ, taken at `y`. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
    /// Power r of the step in the mean's weights. 0, as in the benchmark.
    pub power: f32,
}

impl Default for ScheduleFreeConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.9999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            power: 0.0,
        }
    }
}

impl ScheduleFreeConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.schedule_free.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.schedule_free.beta1", self.beta1, 0.01, 0.99999),
            ("optimizer.schedule_free.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.schedule_free.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.schedule_free.weight_decay", self.weight_decay, 0.0, 100.0),
            ("optimizer.schedule_free.power", self.power, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 2]
    }

    /// The run's numbers are `Σω` and the greatest rate so far.
    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        if run.is_first() {
            run.each(|tensor| tensor.buffers[0].copy_from_slice(tensor.parameters));
        }
        let greatest = run.numbers[1].max(f64::from(self.learning_rate) * f64::from(run.schedule));
        let weight = greatest * greatest * (run.count as f64).powf(f64::from(self.power));
        let sum = run.numbers[0] + weight;
        *run.numbers = [sum, greatest];
        let share = if sum > 0.0 { (weight / sum) as f32 } else { 0.0 };
        let root = (1.0 / correction(beta2, run.count).sqrt()) as f32;
        let look_ahead = beta1 * (1.0 - share) - 1.0;
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let decay = tensor.pace.decay_within(self.learning_rate, self.weight_decay);
            let [point, square] = tensor.buffers else {
                unreachable!("Schedule-Free has two buffers")
            };
            each2(tensor.parameters, tensor.gradient, point, square, |y, g, z, v| {
                let v = beta2 * v + (1.0 - beta2) * g * g;
                let u = g / (v.sqrt() * root + epsilon) + decay * y;
                (y + share * (z - y) + rate * look_ahead * u, z - rate * u, v)
            });
        });
    }

    /// From the point that gradients are taken at, `y`, to the one that is evaluated, `x`; `point` is `z`.
    pub(super) fn evaluation_point(&self, parameters: &mut [f32], point: &[f32]) {
        towards(parameters, point, 1.0 - 1.0 / self.beta1);
    }

    /// From `x` back to `y`.
    pub(super) fn training_point(&self, parameters: &mut [f32], point: &[f32]) {
        towards(parameters, point, 1.0 - self.beta1);
    }
}

fn towards(parameters: &mut [f32], point: &[f32], share: f32) {
    let each = parameters.iter_mut().zip(point);
    each.for_each(|(p, z)| *p += share * (z - *p));
}
