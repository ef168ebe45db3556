//! Gradient descent, with momentum unless it is 0 (Polyak, 1964; Nesterov, 1983), in PyTorch's form:
//! `m ← μm + g`, `θ ← (1 − γλ)θ − γ·u` with `u = g + μm` (Nesterov), else `m`. Its usual decay is the coupled one: a matter
//! of `training.groups.decay`, not of this file.

use serde::{Deserialize, Serialize};

use super::run::{Run, each0, each1};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// Gradient descent's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Peak learning rate γ. 0.1 is the usual beginning for convex and image problems; language models train badly with it.
    pub learning_rate: f32,
    /// Momentum μ; 0 is plain gradient descent, and then there is no state. 0.9 is what the optimizer benchmark runs.
    pub momentum: f32,
    /// Look ahead along the momentum. Off, as in PyTorch.
    pub nesterov: bool,
    /// Weight decay λ. 0: descent is used where a penalty is part of the objective.
    pub weight_decay: f32,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            learning_rate: 0.1,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
        }
    }
}

impl SgdConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.sgd.learning_rate", self.learning_rate, 0.0, 1e4),
            ("optimizer.sgd.momentum", self.momentum, 0.0, 0.99999),
            ("optimizer.sgd.weight_decay", self.weight_decay, 0.0, 100.0),
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
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            match tensor.buffers {
                [] => each0(tensor.parameters, tensor.gradient, |p, g| p * keep - rate * g),
                [mean, ..] => each1(tensor.parameters, tensor.gradient, mean, |p, g, m| {
                    let m = momentum * m + g;
                    let u = if nesterov { g + momentum * m } else { m };
                    (p * keep - rate * u, m)
                }),
            }
        });
    }
}
