//! Sophia-G (Liu et al., 2023): a sign-like step, longer where the loss is flat:
//! `θ ← (1 − γλ)θ`, `m ← β₁m + (1−β₁)g`, `θ ← θ − γ·clamp(m / max(ρh, 10⁻¹⁵), ±1)`, and every k steps, before the step,
//! `h ← β₂h + (1−β₂)·B·g̃²`: the Gauss–Newton–Bartlett estimate from B tokens, g̃ the gradient of the mean loss.
//!
//! g̃ belongs to labels that the model sampled itself; the caller brings it where `Optimizer::wants` says so. With
//! `estimate = "empirical"` it is the batch's own gradient. The authors' and the benchmark's code take B as 480·length
//! whatever the batch is; here it is the batch's true number of tokens, as in the paper, hence ρ has to be tuned anew.
//! The paper prints another update than its code has; this is the code's.

use serde::{Deserialize, Serialize};

use super::Extra;
use super::run::{Run, each2};
use crate::config::{ConfigError, finite_all, within};
use crate::layout::TensorPlace;

/// Sophia-G's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SophiaConfig {
    /// Peak learning rate γ. 0.001 was tuned at 124 M and 210 M parameters, half of it at 720 M (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Decay of the mean of gradients, β₁.
    pub beta1: f32,
    /// Decay of the mean of curvature, β₂. 0.999 was tuned.
    pub beta2: f32,
    /// Where the step stops to be a sign, ρ. 0.04 was tuned with the constant 245 760 as B.
    pub rho: f32,
    /// Steps between two estimates, k. 10, the authors' choice: it costs a tenth of a backward pass a step.
    pub every: u32,
    /// What the estimate is made from.
    pub estimate: Curvature,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
}

/// What a diagonal of the curvature is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curvature {
    /// The gradient for labels sampled from the model (Gauss–Newton–Bartlett): unbiased, one more backward pass.
    #[default]
    Sampled,
    /// The batch's own gradient (empirical Fisher): free, and biased.
    Empirical,
}

impl Default for SophiaConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            rho: 0.04,
            every: 10,
            estimate: Curvature::Sampled,
            weight_decay: 0.1,
        }
    }
}

impl SophiaConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.sophia.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.sophia.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.sophia.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.sophia.rho", self.rho, 0.0, 1e6),
            ("optimizer.sophia.weight_decay", self.weight_decay, 0.0, 100.0),
        ])?;
        within("optimizer.sophia.every", self.every, 1, 1_000_000)
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 2]
    }

    /// What the step after `count` steps needs.
    pub(super) fn wants(&self, count: u64) -> Extra {
        match self.estimate == Curvature::Sampled && count.is_multiple_of(u64::from(self.every)) {
            true => Extra::SampledLabels,
            false => Extra::Nothing,
        }
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self { beta1, beta2, rho, .. } = *self;
        let due = (run.count - 1).is_multiple_of(u64::from(self.every));
        let weight = (1.0 - beta2) * run.tokens as f32;
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            let [mean, curvature] = tensor.buffers else {
                unreachable!("Sophia has two buffers")
            };
            let estimate = match self.estimate {
                Curvature::Empirical if due => Some(tensor.gradient),
                Curvature::Empirical => None,
                Curvature::Sampled => tensor.extra,
            };
            if let Some(estimate) = estimate {
                let each = curvature.iter_mut().zip(estimate);
                each.for_each(|(h, g)| *h = beta2 * *h + weight * g * g);
            }
            each2(tensor.parameters, tensor.gradient, mean, curvature, |p, g, m, h| {
                let m = beta1 * m + (1.0 - beta1) * g;
                let u = (m / (rho * h).max(1e-15)).clamp(-1.0, 1.0);
                (p * keep - rate * u, m, h)
            });
        });
    }
}
