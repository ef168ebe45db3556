//! Scion (Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs", 2025): `b ← (1−μ)b + μg`,
//! `θ ← (1−γ)θ − γ·s·lmo(b)`: each tensor stays in a ball of radius s of the norm of its role.
//!
//! Hidden matrices: `NS(b)·max(1, √(out/in))`; a head: `sign(b)/in`; an embedding: each token's vector over its root mean
//! square, or, where it is the head as well, `sign(b)`; gains and scalars: `b/rms(b)`. Unconstrained, the shrinking of θ is
//! left out. Which is which is a matter of role; the code compares shapes.

use serde::{Deserialize, Serialize};

use super::newton_schulz::{MUON, newton_schulz};
use super::run::{Run, Tensor, norm, sign};
use crate::config::{ConfigError, finite_all, within};
use crate::layout::{Role, TensorPlace};

/// Scion's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScionConfig {
    /// Peak learning rate γ, also the share that θ shrinks by. 0.001, the benchmark code's default (Scion was not ranked
    /// there).
    pub learning_rate: f32,
    /// Weight μ of the new gradient in its mean. 0.1, the authors' choice: a momentum of 0.9.
    pub momentum: f32,
    /// Radius of hidden matrices, gains and scalars. 3, the authors' choice.
    pub hidden_scale: f32,
    /// Radius of a head, or of an embedding that is the head as well. 10, the benchmark's.
    pub head_scale: f32,
    /// Radius of an embedding that is not the head. 1, the authors' choice.
    pub embedding_scale: f32,
    /// Leave the shrinking of θ out.
    pub unconstrained: bool,
    /// Newton–Schulz steps. 5, as in the benchmark.
    pub newton_schulz_steps: u32,
    /// Weight decay λ beside the shrinking. 0, as in the paper: the ball already bounds θ.
    pub weight_decay: f32,
}

impl Default for ScionConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            momentum: 0.1,
            hidden_scale: 3.0,
            head_scale: 10.0,
            embedding_scale: 1.0,
            unconstrained: false,
            newton_schulz_steps: 5,
            weight_decay: 0.0,
        }
    }
}

impl ScionConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.scion.learning_rate", self.learning_rate, 0.0, 1.0),
            ("optimizer.scion.momentum", self.momentum, 1e-6, 1.0),
            ("optimizer.scion.hidden_scale", self.hidden_scale, 0.0, 1e6),
            ("optimizer.scion.head_scale", self.head_scale, 0.0, 1e6),
            ("optimizer.scion.embedding_scale", self.embedding_scale, 0.0, 1e6),
            ("optimizer.scion.weight_decay", self.weight_decay, 0.0, 100.0),
        ])?;
        within("optimizer.scion.newton_schulz_steps", self.newton_schulz_steps, 1, 99)
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count()]
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let tied = run.tensors.iter().all(|tensor| tensor.place.role != Role::Head);
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let kept = tensor.pace.keep(self.learning_rate, self.weight_decay);
            let keep = if self.unconstrained { kept } else { kept - rate };
            let each = tensor.buffers[0].iter_mut().zip(tensor.gradient);
            each.for_each(|(b, g)| *b = (1.0 - self.momentum) * *b + self.momentum * g);
            let (direction, scale) = self.direction(tensor, tied);
            let length = rate * scale;
            let each = tensor.parameters.iter_mut().zip(&direction);
            each.for_each(|(p, u)| *p = *p * keep - length * u);
        });
    }

    /// The corner of the unit ball along the mean, and the ball's radius.
    fn direction(&self, tensor: &Tensor<'_>, tied: bool) -> (Vec<f32>, f32) {
        let mean = &tensor.buffers[0];
        let (rows, columns) = tensor.sides();
        let signs = || mean.iter().map(|b| sign(*b)).collect();
        match tensor.place.role {
            Role::HiddenMatrix => {
                let scale = (rows as f32 / columns as f32).sqrt().max(1.0);
                let direction = newton_schulz(mean, rows, columns, MUON, self.newton_schulz_steps);
                (direction, self.hidden_scale * scale)
            }
            Role::Head => (signs(), self.head_scale / columns as f32),
            Role::Embedding if tied => (signs(), self.head_scale),
            Role::Embedding => (by_size(mean, columns), self.embedding_scale),
            Role::Gain | Role::Scalar => (by_size(mean, mean.len()), self.hidden_scale),
        }
    }
}

/// Each run of `len` numbers over its root mean square.
fn by_size(values: &[f32], len: usize) -> Vec<f32> {
    let size = |row: &[f32]| (norm(row) / (len as f64).sqrt()) as f32 + 1e-8;
    let scaled = |row: &[f32]| {
        let size = size(row);
        row.iter().map(|value| value / size).collect::<Vec<f32>>()
    };
    values.chunks(len).flat_map(scaled).collect()
}
