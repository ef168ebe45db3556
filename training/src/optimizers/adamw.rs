//! AdamW (Loshchilov and Hutter, 2019), in PyTorch's form, fused over one flat slice:
//! `θ ← θ(1 − ηλ)`, `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← θ − η/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + ε)`.
//! It clips nothing and reads no schedule: the caller brings the learning rate of each step.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, finite_within};
use crate::layout::Layout;

/// AdamW's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak learning rate η. 0.0015 was the best of 0.0015, 0.003 and 0.006 for the default model and
    /// batch; larger models want less.
    pub learning_rate: f32,
    /// Decay of the mean of gradients, β₁.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂. 0.95 rather than PyTorch's 0.999: it adapts within a few dozen
    /// steps, and a round has no more.
    pub beta2: f32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Decoupled weight decay λ, on matrices and embeddings only. 0.1 is usual for language models.
    pub weight_decay: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1.5e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
        }
    }
}

impl AdamWConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        finite_within("optimizer.adamw.learning_rate", self.learning_rate, 0.0, 10.0)?;
        finite_within("optimizer.adamw.beta1", self.beta1, 0.0, 0.99999)?;
        finite_within("optimizer.adamw.beta2", self.beta2, 0.0, 0.99999)?;
        finite_within("optimizer.adamw.epsilon", self.epsilon, 1e-30, 1.0)?;
        finite_within("optimizer.adamw.weight_decay", self.weight_decay, 0.0, 10.0)
    }
}

/// AdamW with its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    mean: Vec<f32>,
    square: Vec<f32>,
    step: u32,
}

/// Elements that one thread takes at a time.
const CHUNK: usize = 16 * 1024;

impl AdamW {
    /// An optimizer that has seen no gradient.
    pub fn new(config: AdamWConfig, layout: &Layout) -> Self {
        Self {
            config,
            mean: vec![0.0; layout.len()],
            square: vec![0.0; layout.len()],
            step: 0,
        }
    }

    /// Takes one step with learning rate `rate`.
    pub fn step(&mut self, layout: &Layout, rate: f32, parameters: &mut [f32], gradient: &[f32]) {
        assert_eq!(parameters.len(), layout.len(), "parameters are of the layout");
        assert_eq!(gradient.len(), layout.len(), "the gradient is of the layout");
        self.step += 1;
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
            ..
        } = self.config;
        let correction1 = 1.0 - f64::from(beta1).powi(self.step as i32);
        let correction2 = 1.0 - f64::from(beta2).powi(self.step as i32);
        let numbers = Numbers {
            keep: 1.0,
            beta1,
            beta2,
            epsilon,
            step_length: (f64::from(rate) / correction1) as f32,
            root_correction2: correction2.sqrt() as f32,
        };
        for place in layout.places() {
            let keep = if place.role.is_decayed() {
                1.0 - rate * weight_decay
            } else {
                1.0
            };
            let (numbers, range) = (Numbers { keep, ..numbers }, place.range());
            let chunks = parameters[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(gradient[range.clone()].par_chunks(CHUNK))
                .zip(self.mean[range.clone()].par_chunks_mut(CHUNK))
                .zip(self.square[range].par_chunks_mut(CHUNK));
            chunks.for_each(|(((p, g), m), v)| numbers.apply(p, g, m, v));
        }
    }
}

/// What one tensor's update needs.
#[derive(Clone, Copy)]
struct Numbers {
    keep: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    step_length: f32,
    root_correction2: f32,
}

impl Numbers {
    fn apply(&self, parameters: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        let each = parameters.iter_mut().zip(gradient).zip(mean).zip(square);
        for (((p, g), m), v) in each {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            let denominator = v.sqrt() / self.root_correction2 + self.epsilon;
            *p = *p * self.keep - self.step_length * *m / denominator;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Role;

    /// Two steps by hand, in f64, with η = 0.1, β = (0.9, 0.99), λ = 0.5, θ₀ = 1, g = (0.5, −0.25).
    /// Step 1: m̂ = 0.5, v̂ = 0.25, so θ₁ = 1·0.95 − 0.1·0.5/0.5 = 0.85.
    /// Step 2: m = 0.9·0.05 − 0.025 = 0.02, m̂ = 0.02/0.19 = 0.1052632; v = 0.99·0.0025 + 0.000625 = 0.0031,
    /// v̂ = 0.0031/0.0199 = 0.1557789, √ = 0.3946883; θ₂ = 0.85·0.95 − 0.1·0.1052632/0.3946883 = 0.7808300.
    #[test]
    fn two_steps_agree_with_a_calculation_by_hand() {
        let layout = Layout::new()
            .with("decayed", &[1, 1], Role::HiddenMatrix)
            .with("gain", &[1], Role::Gain);
        let config = AdamWConfig {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-12,
            weight_decay: 0.5,
        };
        let mut optimizer = AdamW::new(config, &layout);
        let mut parameters = [1.0, 1.0];
        optimizer.step(&layout, 0.1, &mut parameters, &[0.5, 0.5]);
        assert!((parameters[0] - 0.85).abs() < 1e-6, "{parameters:?}");
        assert!(
            (parameters[1] - 0.9).abs() < 1e-6,
            "a gain is not decayed: {parameters:?}"
        );
        optimizer.step(&layout, 0.1, &mut parameters, &[-0.25, -0.25]);
        assert!((parameters[0] - 0.780_830).abs() < 1e-6, "{parameters:?}");
        assert!((parameters[1] - 0.873_330).abs() < 1e-6, "{parameters:?}");
    }

    #[test]
    fn it_finds_the_minimum_of_a_badly_scaled_quadratic() {
        let layout = Layout::new().with("point", &[2], Role::Scalar);
        let mut optimizer = AdamW::new(AdamWConfig::default(), &layout);
        let mut parameters = [1.0, -1.0];
        for step in 0..2000 {
            let gradient = [100.0 * parameters[0], 0.01 * parameters[1]];
            optimizer.step(&layout, 0.02 * (1.0 - step as f32 / 2000.0), &mut parameters, &gradient);
        }
        assert!(parameters.iter().all(|p| p.abs() < 1e-2), "{parameters:?}");
    }
}
