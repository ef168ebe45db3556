//! The curves that schedules are made of: warm-ups and cooldowns, each a function of how far it has come.
//! They know no steps of a session.

use serde::{Deserialize, Serialize};

/// How a rate grows from its start to its peak; x goes from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUpShape {
    /// `start + (1 − start)·x`: what papers mean by a warm-up.
    #[default]
    Linear,
    /// `start^(1 − x)`: begins gently, as independent weight decay does by itself in wide models (Kosson et al., 2025).
    Exponential,
    /// `start + (1 − start)(1 − cos πx)/2`: what one-cycle schedulers do where their users say linear.
    Cosine,
}

/// How a rate falls from its peak to its floor; x goes from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cooldown {
    /// `1 − x`.
    Linear,
    /// `1 − √x`: the best of Hägele et al. (2024), and what Apertus was trained with; hence the default.
    #[default]
    OneMinusSqrt,
    /// `(1 + cos πx)/2`.
    Cosine,
    /// The cosine mirrored at the line: `2(1 − x) − (1 + cos πx)/2`.
    MirrorCosine,
    /// `1 − x²`.
    Square,
    /// `floor^x`; needs a floor.
    Exponential,
}

impl Cooldown {
    /// The factor when the share `x` of the cooldown is done.
    pub fn factor(self, x: f64, floor: f32) -> f32 {
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * x).cos());
        let shape = match self {
            Self::Linear => 1.0 - x,
            Self::OneMinusSqrt => 1.0 - x.sqrt(),
            Self::Cosine => cosine,
            Self::MirrorCosine => 2.0 * (1.0 - x) - cosine,
            Self::Square => 1.0 - x * x,
            Self::Exponential => return f64::from(floor).powf(x) as f32,
        };
        floor + (1.0 - floor) * shape as f32
    }
}

/// The factor of a warm-up of `steps` at `step`; the first step is not wasted on the start itself.
pub(super) fn warm_up(step: u64, steps: u32, start: f32, shape: WarmUpShape) -> f32 {
    if step >= u64::from(steps) {
        return 1.0;
    }
    let x = (step + 1) as f64 / f64::from(steps);
    let start = f64::from(start);
    let factor = match shape {
        WarmUpShape::Linear => start + (1.0 - start) * x,
        WarmUpShape::Exponential => start.powf(1.0 - x),
        WarmUpShape::Cosine => start + (1.0 - start) * 0.5 * (1.0 - (std::f64::consts::PI * x).cos()),
    };
    factor as f32
}
