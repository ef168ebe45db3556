//! Prodigy (Mishchenko and Defazio, 2023): Adam that estimates its own step length `d` from how far it has come. With
//! `γ̃ = dγ·bc` (bc: Adam's corrections, if on) and β₃ = √β₂:
//! `n ← β₃n + (d/d₀)γ̃⟨g, θ₀−θ⟩`, `s ← β₃s + (d/d₀)γ̃g`, `m ← β₁m + (1−β₁)dg`, `v ← β₂v + (1−β₂)d²g²`,
//! `d ← max(d, n/‖s‖₁)`, `θ ← (1 − γ̃λ)θ − γ̃·m/(√v + dε)`; γ̃ is of the old `d`, and sums go over all tensors.
//!
//! Each member has its own `d`: members that must keep one in common have to be told it, which no message does.

use serde::{Deserialize, Serialize};

use super::run::{Run, correction, each2, sum_pairs};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// Prodigy's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProdigyConfig {
    /// Factor γ on the estimated length. 1: 0.5, 2, 10 and 100 were no better (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Decay of the mean of gradients, β₁.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂. 0.999 was tuned at 124 M parameters.
    pub beta2: f32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
    /// The first length, d₀. 1e-6, the authors' choice: it grows within some dozen steps.
    pub first_length: f32,
    /// Adam's corrections for the beginning. On: without them it diverges at small batches.
    pub bias_correction: bool,
}

impl Default for ProdigyConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            first_length: 1e-6,
            bias_correction: true,
        }
    }
}

impl ProdigyConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.prodigy.learning_rate", self.learning_rate, 0.0, 1000.0),
            ("optimizer.prodigy.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.prodigy.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.prodigy.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.prodigy.weight_decay", self.weight_decay, 0.0, 100.0),
            ("optimizer.prodigy.first_length", self.first_length, 1e-20, 1e3),
        ])
    }

    /// `m`, `v`, `s` and the first parameters.
    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 4]
    }

    /// The run's numbers are the numerator `n` and the length `d`.
    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        if run.is_first() {
            run.numbers[1] = f64::from(self.first_length);
            run.each(|tensor| tensor.buffers[3].copy_from_slice(tensor.parameters));
        }
        let [numerator, length] = *run.numbers;
        let beta3 = f64::from(beta2).sqrt();
        let growth = length / f64::from(self.first_length);
        let corrected = match self.bias_correction {
            true => correction(beta2, run.count).sqrt() / correction(beta1, run.count),
            false => 1.0,
        };
        let scale = (length * corrected) as f32;
        let d = length as f32;

        let sums = run.sum_each(|tensor| {
            let weight = growth * f64::from(scale * tensor.pace.rate(self.learning_rate));
            let [mean, square, path, first] = tensor.buffers else {
                unreachable!("Prodigy has four buffers")
            };
            let mut come = 0.0;
            for (at, g) in tensor.gradient.iter().enumerate() {
                come += f64::from(*g) * (f64::from(first[at]) - f64::from(tensor.parameters[at]));
                mean[at] = beta1 * mean[at] + (1.0 - beta1) * d * g;
                square[at] = beta2 * square[at] + (1.0 - beta2) * (d * g) * (d * g);
                path[at] = beta3 as f32 * path[at] + weight as f32 * g;
            }
            let size = sum_pairs(path, path, |path, _| path.iter().map(|s| f64::from(s.abs())).sum());
            [weight * come, size]
        });
        let numerator = beta3 * numerator + sums[0];
        let longer = if sums[1] > 0.0 {
            length.max(numerator / sums[1])
        } else {
            length
        };
        *run.numbers = [numerator, longer];

        let least = longer as f32 * epsilon;
        run.each(|tensor| {
            let rate = scale * tensor.pace.rate(self.learning_rate);
            let keep = 1.0 - scale * tensor.pace.shrink(self.learning_rate, self.weight_decay);
            let [mean, square, ..] = tensor.buffers else {
                unreachable!("Prodigy has four buffers")
            };
            each2(tensor.parameters, tensor.gradient, mean, square, |p, _, m, v| {
                let quotient = if m == 0.0 { 0.0 } else { m / (v.sqrt() + least) };
                (p * keep - rate * quotient, m, v)
            });
        });
    }
}
