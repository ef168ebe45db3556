//! Muon (Jordan, 2024), the original form: hidden matrices `m ← μm + g`, `u = g + μm` (Nesterov), `O = NS(u)`,
//! `θ ← (1 − γλ_M)θ − γ√max(1, r/c)·O` with λ_M = 0; other roles take AdamW with a rate of their own.
//! Which tensors are matrices is a matter of role: the benchmark's test by shape would take a byte model's embedding for
//! one. Query, key and value matrices are orthogonalised one by one.

use serde::{Deserialize, Serialize};

use super::adamw::AdamWConfig;
use super::newton_schulz::{MUON, newton_schulz};
use super::run::{Run, Tensor, is_hidden_matrix};
use crate::config::{ConfigError, finite_all, within};
use crate::layout::TensorPlace;

/// Muon's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Peak learning rate γ of hidden matrices. 0.01 was tuned at all sizes (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Momentum μ of hidden matrices. 0.95, tuned.
    pub momentum: f32,
    /// Look ahead along the momentum. On, as in all published runs.
    pub nesterov: bool,
    /// Newton–Schulz steps. 5: one is worse, ten and twenty are no better.
    pub newton_schulz_steps: u32,
    /// Weight decay of hidden matrices. 0 is the original, and what keeps it behind D-Muon in long runs.
    pub matrix_weight_decay: f32,
    /// Weight decay λ of the embedding and the head. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
    /// Peak learning rate of other roles, by AdamW. 0.001, tuned.
    pub other_learning_rate: f32,
    /// AdamW's β₁ for other roles. 0.8, tuned.
    pub other_beta1: f32,
    /// AdamW's β₂ for other roles. 0.999, tuned.
    pub other_beta2: f32,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            momentum: 0.95,
            nesterov: true,
            newton_schulz_steps: 5,
            matrix_weight_decay: 0.0,
            weight_decay: 0.1,
            other_learning_rate: 1e-3,
            other_beta1: 0.8,
            other_beta2: 0.999,
        }
    }
}

impl MuonConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.muon.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.muon.momentum", self.momentum, 0.0, 0.99999),
            (
                "optimizer.muon.matrix_weight_decay",
                self.matrix_weight_decay,
                0.0,
                100.0,
            ),
            ("optimizer.muon.weight_decay", self.weight_decay, 0.0, 100.0),
            (
                "optimizer.muon.other_learning_rate",
                self.other_learning_rate,
                0.0,
                10.0,
            ),
            ("optimizer.muon.other_beta1", self.other_beta1, 0.0, 0.99999),
            ("optimizer.muon.other_beta2", self.other_beta2, 0.0, 0.999999),
        ])?;
        within("optimizer.muon.newton_schulz_steps", self.newton_schulz_steps, 1, 99)
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        match is_hidden_matrix(place) {
            true => vec![place.count()],
            false => vec![place.count(); 2],
        }
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let count = run.count;
        let other = AdamWConfig {
            learning_rate: self.other_learning_rate,
            beta1: self.other_beta1,
            beta2: self.other_beta2,
            epsilon: 1e-8,
            weight_decay: self.weight_decay,
        };
        let momentum = Momentum {
            momentum: self.momentum,
            nesterov: self.nesterov,
            steps: self.newton_schulz_steps,
        };
        run.each(|tensor| {
            if !tensor.is_hidden_matrix() {
                return other.update(tensor, count);
            }
            let (rows, columns) = tensor.sides();
            let length = tensor.pace.rate(self.learning_rate) * (rows as f32 / columns as f32).max(1.0).sqrt();
            let keep = tensor.pace.keep(self.learning_rate, self.matrix_weight_decay);
            momentum.step(tensor, keep, length);
        });
    }
}

/// The part that Muon and D-Muon share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Momentum {
    pub momentum: f32,
    pub nesterov: bool,
    pub steps: u32,
}

impl Momentum {
    /// `θ ← keep·θ − length·NS(u)`; the tensor's first buffer is `m`.
    pub fn step(&self, tensor: &mut Tensor<'_>, keep: f32, length: f32) {
        let (rows, columns) = tensor.sides();
        let mean = &mut tensor.buffers[0];
        let each = mean.iter_mut().zip(tensor.gradient);
        each.for_each(|(m, g)| *m = self.momentum * *m + g);
        let ahead: Vec<f32> = match self.nesterov {
            true => mean
                .iter()
                .zip(tensor.gradient)
                .map(|(m, g)| g + self.momentum * m)
                .collect(),
            false => mean.clone(),
        };
        let direction = newton_schulz(&ahead, rows, columns, MUON, self.steps);
        let each = tensor.parameters.iter_mut().zip(&direction);
        each.for_each(|(p, u)| *p = *p * keep - length * u);
    }
}
