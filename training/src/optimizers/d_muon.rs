//! D-Muon (Liu et al., "Muon is Scalable for LLM Training", 2025): Muon's momentum and orthogonal factor, but one rate and
//! one decay for all: hidden matrices `θ ← (1 − γλ)θ − γ·0.2·√max(r, c)·O`, other roles AdamW with the same γ and λ. The
//! factor gives an update of the size that AdamW's has, about 0.2 a parameter. Roles decide what a matrix is, as in Muon.

use serde::{Deserialize, Serialize};

use super::adamw::AdamWConfig;
use super::muon::Momentum;
use super::run::{Run, is_hidden_matrix};
use crate::config::{ConfigError, finite_all, within};
use crate::layout::TensorPlace;

/// D-Muon's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DMuonConfig {
    /// Peak learning rate γ of all roles. 0.001 was tuned at all sizes (Semenov et al., 2025); short runs of small models
    /// want up to ten times more.
    pub learning_rate: f32,
    /// Momentum μ of hidden matrices. 0.95, tuned.
    pub momentum: f32,
    /// Look ahead along the momentum. On, as in all published runs.
    pub nesterov: bool,
    /// Newton–Schulz steps. 5: one is worse, ten and twenty are no better.
    pub newton_schulz_steps: u32,
    /// Root mean square of an update before the rate. 0.2, AdamW's as the authors measured it.
    pub update_size: f32,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
    /// AdamW's β₁ for other roles. 0.8, tuned at 124 M and 210 M parameters.
    pub beta1: f32,
    /// AdamW's β₂ for other roles. 0.999, tuned at 124 M and 210 M parameters.
    pub beta2: f32,
}

impl Default for DMuonConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            momentum: 0.95,
            nesterov: true,
            newton_schulz_steps: 5,
            update_size: 0.2,
            weight_decay: 0.1,
            beta1: 0.8,
            beta2: 0.999,
        }
    }
}

impl DMuonConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.d_muon.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.d_muon.momentum", self.momentum, 0.0, 0.99999),
            ("optimizer.d_muon.update_size", self.update_size, 0.0, 100.0),
            ("optimizer.d_muon.weight_decay", self.weight_decay, 0.0, 100.0),
            ("optimizer.d_muon.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.d_muon.beta2", self.beta2, 0.0, 0.999999),
        ])?;
        within("optimizer.d_muon.newton_schulz_steps", self.newton_schulz_steps, 1, 99)
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
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
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
            let size = self.update_size * (rows.max(columns) as f32).sqrt();
            let length = tensor.pace.rate(self.learning_rate) * size;
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            momentum.step(tensor, keep, length);
        });
    }
}
