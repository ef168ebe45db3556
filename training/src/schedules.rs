//! Learning-rate schedules: pure functions from the step of the session to a factor of the peak rate in `0..=1`.
//! They hold no state and know no optimizer. Warm-up then cosine as in SGDR (Loshchilov and Hutter, 2017), warm-up,
//! plateau and linear decay as in WSD (Hu et al., MiniCPM, 2024).

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, finite_within};

/// How the learning rate goes over the session's local steps (rounds × local steps, counted from 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleConfig {
    /// The peak rate throughout, after the warm-up.
    Constant(Constant),
    /// Warm-up, then half a cosine to the floor.
    Cosine(Cosine),
    /// Warm-up, plateau, then a line to the floor.
    Wsd(Wsd),
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant(Constant::default())
    }
}

/// The peak rate throughout, after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Constant {
    /// Steps over which the rate grows to its peak. 20 lets Adam's second moments settle.
    pub warmup_steps: u32,
}

impl Default for Constant {
    fn default() -> Self {
        Self { warmup_steps: 20 }
    }
}

/// Warm-up, then half a cosine to the floor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cosine {
    /// Steps over which the rate grows to its peak.
    pub warmup_steps: u32,
    /// Steps after which the floor is reached: rounds × local steps of the session.
    pub total_steps: u32,
    /// The floor, as a share of the peak. A tenth is the usual choice.
    pub floor: f32,
}

impl Default for Cosine {
    fn default() -> Self {
        Self {
            warmup_steps: 20,
            total_steps: 300,
            floor: 0.1,
        }
    }
}

/// Warm-up, plateau, then a line to the floor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wsd {
    /// Steps over which the rate grows to its peak.
    pub warmup_steps: u32,
    /// Steps after which the floor is reached: rounds × local steps of the session.
    pub total_steps: u32,
    /// The last steps, over which the rate falls. A fifth of all is a good share.
    pub decay_steps: u32,
    /// The floor, as a share of the peak.
    pub floor: f32,
}

impl Default for Wsd {
    fn default() -> Self {
        Self {
            warmup_steps: 20,
            total_steps: 300,
            decay_steps: 60,
            floor: 0.0,
        }
    }
}

impl ScheduleConfig {
    /// The factor at a step of the session, counted from 0.
    pub fn factor(&self, step: u64) -> f32 {
        match self {
            Self::Constant(constant) => warm_up(step, constant.warmup_steps),
            Self::Cosine(cosine) => {
                let done = share(step, cosine.warmup_steps, cosine.total_steps);
                let falling = 0.5 * (1.0 + (std::f64::consts::PI * done).cos()) as f32;
                warm_up(step, cosine.warmup_steps) * (cosine.floor + (1.0 - cosine.floor) * falling)
            }
            Self::Wsd(wsd) => {
                let done = share(step, wsd.total_steps.saturating_sub(wsd.decay_steps), wsd.total_steps);
                warm_up(step, wsd.warmup_steps) * (1.0 - (1.0 - wsd.floor) * done as f32)
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let (warm_up, total, floor, key) = match self {
            Self::Constant(_) => return Ok(()),
            Self::Cosine(c) => (c.warmup_steps, c.total_steps, c.floor, "schedule.cosine.warmup_steps"),
            Self::Wsd(w) => {
                let most = w.total_steps.saturating_sub(w.warmup_steps);
                crate::config::within("schedule.wsd.decay_steps", w.decay_steps, 1, most)?;
                (w.warmup_steps, w.total_steps, w.floor, "schedule.wsd.warmup_steps")
            }
        };
        finite_within("schedule floor", floor, 0.0, 1.0)?;
        crate::config::within(key, warm_up, 0, total.saturating_sub(1))
    }
}

/// The factor of a linear warm-up; the first step is not wasted on a rate of zero.
fn warm_up(step: u64, steps: u32) -> f32 {
    match step < u64::from(steps) {
        true => (step + 1) as f32 / steps as f32,
        false => 1.0,
    }
}

/// How far `step` is between `from` and `to`, in `0..=1`.
fn share(step: u64, from: u32, to: u32) -> f64 {
    let (from, to) = (u64::from(from), u64::from(to));
    (step.clamp(from, to.max(from)) - from) as f64 / to.saturating_sub(from).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &ScheduleConfig, expected: &[(u64, f32)]) {
        for (step, factor) in expected {
            let got = schedule.factor(*step);
            assert!((got - factor).abs() < 1e-6, "step {step}: {got} instead of {factor}");
        }
    }

    #[test]
    fn a_constant_rate_warms_up_and_stays() {
        let schedule = ScheduleConfig::Constant(Constant { warmup_steps: 4 });
        check(&schedule, &[(0, 0.25), (3, 1.0), (4, 1.0), (1_000_000, 1.0)]);
    }

    #[test]
    fn a_cosine_falls_to_its_floor_and_stays() {
        let schedule = ScheduleConfig::Cosine(Cosine {
            warmup_steps: 10,
            total_steps: 110,
            floor: 0.1,
        });
        check(&schedule, &[(9, 1.0), (10, 1.0), (60, 0.55), (110, 0.1), (5000, 0.1)]);
    }

    #[test]
    fn wsd_holds_its_plateau_then_falls_in_a_line() {
        let schedule = ScheduleConfig::Wsd(Wsd {
            warmup_steps: 2,
            total_steps: 100,
            decay_steps: 20,
            floor: 0.0,
        });
        check(
            &schedule,
            &[(0, 0.5), (2, 1.0), (80, 1.0), (90, 0.5), (100, 0.0), (200, 0.0)],
        );
    }

    #[test]
    fn a_warm_up_longer_than_the_session_is_refused() {
        let schedule = ScheduleConfig::Cosine(Cosine {
            warmup_steps: 300,
            total_steps: 300,
            floor: 0.1,
        });
        assert!(
            schedule
                .check()
                .unwrap_err()
                .to_string()
                .contains("schedule.cosine.warmup_steps is 300")
        );
    }
}
