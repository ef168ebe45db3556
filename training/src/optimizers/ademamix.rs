//! AdEMAMix (Pagliardini, Ablin and Grangier, 2024): AdamW with a second, slow mean of gradients:
//! `θ ← (1 − γλ)θ − γ(m̂₁ + α m₂) / (√v̂ + ε)`; m₁ (β₁) and v (β₂) are corrected for their beginning, m₂ (β₃) is not.
//!
//! α grows linearly and β₃ linearly in half-life, from β₁, over steps of the session:
//! `ln β₃(t) = ln β₁ · ln β₃ / ((1−a) ln β₃ + a ln β₁)`, `a = min(t/T, 1)`. With α = 0 this is AdamW.

use serde::{Deserialize, Serialize};

use super::run::{Run, correction, each3};
use crate::config::{ConfigError, finite_all};
use crate::layout::TensorPlace;

/// AdEMAMix's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdEmaMixConfig {
    /// Peak learning rate γ. 0.001 was tuned at all sizes (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Decay of the fast mean, β₁.
    pub beta1: f32,
    /// Decay of the mean of squared gradients, β₂. 0.999, tuned; runs of a few thousand steps want 0.99.
    pub beta2: f32,
    /// Decay of the slow mean, β₃. 0.999, tuned below 100 000 steps (0.9999 above): a half-life of some hundredths of the
    /// run.
    pub beta3: f32,
    /// Weight of the slow mean, α. 8, tuned (5 and 12 were tried).
    pub alpha: f32,
    /// Steps of the session over which α grows; the benchmark takes all of them. 0: α holds from the start.
    pub alpha_warmup_steps: u32,
    /// Steps of the session over which β₃ grows; the benchmark takes all of them. 0: β₃ holds from the start.
    pub beta3_warmup_steps: u32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
}

impl Default for AdEmaMixConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            beta3: 0.999,
            alpha: 8.0,
            alpha_warmup_steps: 0,
            beta3_warmup_steps: 0,
            epsilon: 1e-8,
            weight_decay: 0.1,
        }
    }
}

impl AdEmaMixConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.ademamix.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.ademamix.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.ademamix.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.ademamix.beta3", self.beta3, 0.0, 0.999999),
            ("optimizer.ademamix.alpha", self.alpha, 0.0, 1000.0),
            ("optimizer.ademamix.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.ademamix.weight_decay", self.weight_decay, 0.0, 100.0),
        ])
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        vec![place.count(); 3]
    }

    /// α at a step of the session, counted from 1.
    fn alpha_at(&self, step: u64) -> f32 {
        (f64::from(self.alpha) * progress(step, self.alpha_warmup_steps)) as f32
    }

    /// β₃ at a step of the session, counted from 1.
    fn beta3_at(&self, step: u64) -> f32 {
        let done = progress(step, self.beta3_warmup_steps);
        if done >= 1.0 || self.beta1 == 0.0 || self.beta3 == 0.0 {
            return self.beta3;
        }
        let (first, last) = (f64::from(self.beta1).ln(), f64::from(self.beta3).ln());
        let now = (first * last / ((1.0 - done) * last + done * first)).exp();
        (now as f32).min(self.beta3)
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let Self {
            beta1, beta2, epsilon, ..
        } = *self;
        let (alpha, beta3) = (self.alpha_at(run.session_count), self.beta3_at(run.session_count));
        let fast = (1.0 / correction(beta1, run.count)) as f32;
        let root = (1.0 / correction(beta2, run.count).sqrt()) as f32;
        run.each(|tensor| {
            let rate = tensor.pace.rate(self.learning_rate);
            let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
            let [mean, slow, square] = tensor.buffers else {
                unreachable!("AdEMAMix has three buffers")
            };
            each3(
                tensor.parameters,
                tensor.gradient,
                [mean, slow, square],
                |p, g, [m, s, v]| {
                    let m = beta1 * m + (1.0 - beta1) * g;
                    let s = beta3 * s + (1.0 - beta3) * g;
                    let v = beta2 * v + (1.0 - beta2) * g * g;
                    let u = (m * fast + alpha * s) / (v.sqrt() * root + epsilon);
                    (p * keep - rate * u, [m, s, v])
                },
            );
        });
    }
}

/// `min(step / steps, 1)`.
fn progress(step: u64, steps: u32) -> f64 {
    match steps {
        0 => 1.0,
        steps => (step as f64 / f64::from(steps)).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_grows_in_a_line_and_beta3_in_a_line_of_half_lives() {
        let config = AdEmaMixConfig {
            beta3: 0.9999,
            alpha_warmup_steps: 100,
            beta3_warmup_steps: 100,
            ..AdEmaMixConfig::default()
        };
        assert_eq!([25, 100, 200].map(|step| config.alpha_at(step)), [2.0, 8.0, 8.0]);
        let half_life = |beta: f32| 0.5f64.ln() / f64::from(beta).ln() - 1.0;
        let (first, last) = (half_life(config.beta1), half_life(config.beta3));
        let middle = half_life(config.beta3_at(50));
        assert!((middle / (0.5 * first + 0.5 * last) - 1.0).abs() < 1e-3, "{middle}");
        assert_eq!(config.beta3_at(100), config.beta3);
    }
}
