//! SignSGD and Signum (Bernstein et al., 2018), the latter with Nesterov momentum as in Semenov et al. (2025):
//! `m ← μm + (1−τ)g`, `θ ← (1 − γλ)θ − γ·sign(u)` with `u = g + μm` (Nesterov), else `m`; μ = 0 is SignSGD.
//!
//! The benchmark's code begins with `m` at a copy of the parameters, and for some hundred steps decays their signs; here it
//! begins at zero, as the paper says.

use serde::{Deserialize, Serialize};

use super::run::{Run, each0, each1, sign};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// Signum's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignumConfig {
    /// Peak learning rate γ: each step moves every parameter by exactly this. 0.001 was tuned at 124 M parameters and half
    /// of it at 210 M (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Momentum μ; 0 is SignSGD. 0.95 was tuned with Nesterov's form.
    pub momentum: f32,
    /// Look ahead along the momentum: better by 0.1 to 0.45 perplexity in the benchmark.
    pub nesterov: bool,
    /// Dampening τ of the gradient's weight. 0: the dampened form was never better.
    pub dampening: f32,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
}

impl Default for SignumConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            momentum: 0.95,
            nesterov: true,
            dampening: 0.0,
            weight_decay: 0.1,
        }
    }
}

impl SignumConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.signum.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.signum.momentum", self.momentum, 0.0, 0.99999),
            ("optimizer.signum.dampening", self.dampening, 0.0, 0.99999),
            ("optimizer.signum.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        match self.momentum > 0.0 {
            true => vec![place.count()],
            false => Vec::new(),
        }
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self { momentum, nesterov, .. } = *self;
        let weight = 1.0 - self.dampening;
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            match tensor.buffers {
                [] => each0(tensor.parameters, tensor.gradient, |p, g| p * keep - rate * sign(g)),
                [mean, ..] => each1(tensor.parameters, tensor.gradient, mean, |p, g, m| {
                    let m = momentum * m + weight * g;
                    let u = if nesterov { g + momentum * m } else { m };
                    (p * keep - rate * sign(u), m)
                }),
            }
        });
    }
}
