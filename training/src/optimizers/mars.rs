//! MARS (Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024) on hidden
//! matrices: `c = g + η·β₁/(1−β₁)·(g − g′)`, `c ← c/max(1, ‖c‖)` (a tensor), then a base step on `c`:
//! *adamw*: AdamW's; *lion*: `m ← β₁m + (1−β₁)c`, step `sign(m)`; *shampoo*: `NS(m/(1−β₁))·√max(1, r/c)`.
//! Other roles take AdamW with numbers of their own.
//!
//! g′ is the last step's gradient of the *last* batch (the approximate form, which all published runs use), or with `exact`
//! the gradient of *this* batch at the parameters before, clipped like `g`, which costs a second backward pass; in the
//! first step g′ is 0 in the approximate form, as in the authors' code, and g in the exact one. The code lets embeddings
//! take MARS, the paper does not: here roles decide, as in the paper.

use serde::{Deserialize, Serialize};

use super::Extra;
use super::adamw::AdamWConfig;
use super::newton_schulz::{MUON, newton_schulz};
use super::run::{Run, Tensor, correction, each1, each2, is_hidden_matrix, norm, sign};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// MARS's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarsConfig {
    /// The step that is taken on the corrected gradient. AdamW: the form that the benchmark ranks.
    pub base: MarsBase,
    /// Peak learning rate γ of hidden matrices. 0.003 was tuned at all sizes, for AdamW as base (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Decay of the mean of corrected gradients, β₁. 0.95, tuned.
    pub beta1: f32,
    /// Decay of the mean of their squares, β₂. 0.99, tuned.
    pub beta2: f32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Strength η of the correction. 0.025, the authors' choice.
    pub correction: f32,
    /// Take g′ on this batch at the parameters before. Off: it doubles the cost, and published runs do without.
    pub exact: bool,
    /// Weight decay λ, for all roles that decay. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
    /// Peak learning rate of other roles, by AdamW. 0.001, tuned.
    pub other_learning_rate: f32,
    /// AdamW's β₁ for other roles. 0.8, tuned.
    pub other_beta1: f32,
    /// AdamW's β₂ for other roles. 0.999, tuned.
    pub other_beta2: f32,
}

/// The step that MARS takes on the corrected gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarsBase {
    /// AdamW's.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// The sign of the mean.
    Lion,
    /// The orthogonal factor of the mean.
    Shampoo,
}

impl Default for MarsConfig {
    fn default() -> Self {
        Self {
            base: MarsBase::AdamW,
            learning_rate: 3e-3,
            beta1: 0.95,
            beta2: 0.99,
            epsilon: 1e-8,
            correction: 0.025,
            exact: false,
            weight_decay: 0.1,
            other_learning_rate: 1e-3,
            other_beta1: 0.8,
            other_beta2: 0.999,
        }
    }
}

impl MarsConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.mars.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.mars.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.mars.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.mars.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.mars.correction", self.correction, 0.0, 10.0),
            ("optimizer.mars.weight_decay", self.weight_decay, 0.0, 100.0),
            (
                "optimizer.mars.other_learning_rate",
                self.other_learning_rate,
                0.0,
                10.0,
            ),
            ("optimizer.mars.other_beta1", self.other_beta1, 0.0, 0.99999),
            ("optimizer.mars.other_beta2", self.other_beta2, 0.0, 0.999999),
        ])
    }

    /// Hidden matrices: `m`, `v` (AdamW as base only), g′ (approximate only); others `m` and `v`.
    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        let count = place.count();
        if !is_hidden_matrix(place) {
            return vec![count; 2];
        }
        let square = if self.base == MarsBase::AdamW { count } else { 0 };
        let last = if self.exact { 0 } else { count };
        vec![count, square, last]
    }

    /// What the step after `count` steps needs.
    pub(super) fn wants(&self, count: u64) -> Extra {
        match self.exact && count > 0 {
            true => Extra::ParametersBefore,
            false => Extra::Nothing,
        }
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let count = run.count;
        let other = AdamWConfig {
            learning_rate: self.other_learning_rate,
            beta1: self.other_beta1,
            beta2: self.other_beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
        };
        run.each(|tensor| match tensor.is_hidden_matrix() {
            true => self.update(tensor, count),
            false => other.update(tensor, count),
        });
    }

    fn update(&self, tensor: &mut Tensor<'_>, count: u64) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        let (rows, columns) = tensor.sides();
        let rate = tensor.pace.rate(self.learning_rate);
        let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
        let [mean, square, last] = tensor.buffers else {
            unreachable!("MARS has three buffers")
        };
        let corrected = self.corrected(tensor.gradient, tensor.extra, last);
        let parameters = &mut *tensor.parameters;
        match self.base {
            MarsBase::AdamW => {
                let step_length = (f64::from(rate) / correction(beta1, count)) as f32;
                let root = (1.0 / correction(beta2, count).sqrt()) as f32;
                each2(parameters, &corrected, mean, square, |p, c, m, v| {
                    let m = beta1 * m + (1.0 - beta1) * c;
                    let v = beta2 * v + (1.0 - beta2) * c * c;
                    (p * keep - step_length * m / (v.sqrt() * root + epsilon), m, v)
                });
            }
            MarsBase::Lion => each1(parameters, &corrected, mean, |p, c, m| {
                let m = beta1 * m + (1.0 - beta1) * c;
                (p * keep - rate * sign(m), m)
            }),
            MarsBase::Shampoo => {
                let each = mean.iter_mut().zip(&corrected);
                each.for_each(|(m, c)| *m = beta1 * *m + (1.0 - beta1) * c);
                // The factor 1/(1−β₁) of the paper falls away: an orthogonal factor has no scale.
                let direction = newton_schulz(mean, rows, columns, MUON, 5);
                let length = rate * (rows as f32 / columns as f32).max(1.0).sqrt();
                let each = parameters.iter_mut().zip(&direction);
                each.for_each(|(p, u)| *p = *p * keep - length * u);
            }
        }
    }

    /// `c`; keeps this gradient for the next step in the approximate form.
    fn corrected(&self, gradient: &[f32], extra: Option<&[f32]>, last: &mut [f32]) -> Vec<f32> {
        let strength = self.correction * self.beta1 / (1.0 - self.beta1);
        let correct = |before: &[f32]| -> Vec<f32> {
            let each = gradient.iter().zip(before);
            each.map(|(g, before)| g + strength * (g - before)).collect()
        };
        let mut corrected = match self.exact {
            true => extra.map_or_else(|| gradient.to_vec(), correct),
            false => correct(last),
        };
        if !self.exact {
            last.copy_from_slice(gradient);
        }
        let size = norm(&corrected) as f32;
        if size > 1.0 {
            corrected.iter_mut().for_each(|c| *c /= size);
        }
        corrected
    }
}
