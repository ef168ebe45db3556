//! Adafactor (Shazeer and Stern, 2018) without momentum, in PyTorch's form: matrices keep means of squares by row and by
//! column only, `v = R Cᵀ / mean(R)`; `β₂ = 1 − t^(−κ)`, `u = g/√v`, `u ← u / max(1, rms(u)/d)`,
//! `θ ← (1 − γλ)θ − max(ε₂, rms(θ))·min(γ, 1/√t)·u`.
//!
//! Embeddings, heads and hidden matrices are factored, by role; gains and scalars keep all of `v`. The paper adds 10⁻³⁰ to
//! each g²; PyTorch and this file keep `v` above it instead.

use serde::{Deserialize, Serialize};

use super::run::{Run, Tensor, norm, sides};
use crate::config::{ConfigError, finite_all};
use crate::layout::{Role, TensorPlace};

/// Adafactor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdafactorConfig {
    /// Greatest relative step γ: a step moves a tensor by at most this share of its size. 0.01, the paper's.
    pub learning_rate: f32,
    /// How fast the memory of squares grows, κ. 0.8, the paper's.
    pub memory: f32,
    /// Steps of a greater root mean square than this are cut to it, d. 1, the paper's.
    pub clip: f32,
    /// Least size of a tensor that the step is relative to, ε₂. 0.001, the paper's.
    pub least_size: f32,
    /// Weight decay λ. 0, as in the paper and in PyTorch.
    pub weight_decay: f32,
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            memory: 0.8,
            clip: 1.0,
            least_size: 1e-3,
            weight_decay: 0.0,
        }
    }
}

/// The least `v`.
const LEAST: f32 = 1e-30;

fn is_factored(place: &TensorPlace) -> bool {
    matches!(place.role, Role::Embedding | Role::Head | Role::HiddenMatrix)
}

impl AdafactorConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.adafactor.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.adafactor.memory", self.memory, 0.0, 1.0),
            ("optimizer.adafactor.clip", self.clip, 1e-6, 1e6),
            ("optimizer.adafactor.least_size", self.least_size, 0.0, 1.0),
            ("optimizer.adafactor.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        match is_factored(place) {
            true => {
                let (rows, columns) = sides(place);
                vec![rows, columns]
            }
            false => vec![place.count()],
        }
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let weight = (run.count as f64).powf(-f64::from(self.memory)) as f32;
        let cap = (1.0 / (run.count as f64).sqrt()) as f32;
        run.each(|tensor| {
            let update = match is_factored(tensor.place) {
                true => factored(tensor, weight),
                false => full(tensor, weight),
            };
            let root_count = (update.len() as f64).sqrt();
            let size = (norm(tensor.parameters) / root_count) as f32;
            let excess = (norm(&update) / root_count) as f32 / self.clip;
            let rate = tensor.pace.rate(self.learning_rate).min(cap);
            let length = size.max(self.least_size) * rate / excess.max(1.0);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            let each = tensor.parameters.iter_mut().zip(&update);
            each.for_each(|(p, u)| *p = *p * keep - length * u);
        });
    }
}

/// `g/√v` with all of `v`.
fn full(tensor: &mut Tensor<'_>, weight: f32) -> Vec<f32> {
    let square = &mut tensor.buffers[0];
    let each = square.iter_mut().zip(tensor.gradient);
    each.for_each(|(v, g)| *v += weight * (g * g - *v));
    let each = square.iter().zip(tensor.gradient);
    each.map(|(v, g)| g / v.max(LEAST).sqrt()).collect()
}

/// `g/√v` with `v` from means by row and by column.
fn factored(tensor: &mut Tensor<'_>, weight: f32) -> Vec<f32> {
    let (rows, columns) = tensor.sides();
    let [by_row, by_column] = tensor.buffers else {
        unreachable!("factored tensors have two buffers")
    };
    let mut column_sums = vec![0f64; columns];
    for (row, mean) in tensor.gradient.chunks_exact(columns).zip(by_row.iter_mut()) {
        let mut sum = 0f64;
        for (g, column) in row.iter().zip(&mut column_sums) {
            let square = f64::from(*g) * f64::from(*g);
            sum += square;
            *column += square;
        }
        *mean += weight * ((sum / columns as f64) as f32 - *mean);
    }
    for (mean, sum) in by_column.iter_mut().zip(&column_sums) {
        *mean += weight * ((sum / rows as f64) as f32 - *mean);
    }
    let mean_row = by_row.iter().map(|value| f64::from(*value)).sum::<f64>() / rows as f64;
    let scale = (1.0 / mean_row.max(f64::from(LEAST))) as f32;
    let mut update = Vec::with_capacity(tensor.gradient.len());
    for (row, of_row) in tensor.gradient.chunks_exact(columns).zip(by_row.iter()) {
        let of_row = of_row * scale;
        let each = row.iter().zip(by_column.iter());
        update.extend(each.map(|(g, of_column)| g / (of_row * of_column).max(LEAST).sqrt()));
    }
    update
}
