//! Learning-rate schedules: pure functions from the step of the session to a factor of the peak rate in `0..=1`.
//! They hold no state and know no optimizer. Warm-up then cosine as in SGDR (Loshchilov and Hutter, 2017); warm-up, plateau
//! and cooldown as in WSD (Hu et al., MiniCPM, 2024), its shapes as in Hägele et al. (2024) and Semenov et al. (2025).

mod chart;
mod shapes;
mod stages;

pub use chart::{MOST_ROWS, chart, csv, svg};
pub use shapes::{Cooldown, WarmUpShape};
pub use stages::{Stage, Standing, check_stages, standing};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, TrainingConfig, finite_all, within};
use shapes::warm_up;

/// How the learning rate goes over the session's local steps (rounds × local steps, counted from 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleConfig {
    /// The peak rate throughout, after the warm-up.
    Constant(Constant),
    /// Warm-up, then half a cosine to the floor.
    Cosine(Cosine),
    /// Warm-up, plateau, then a cooldown to the floor.
    Wsd(Wsd),
    /// Warm-up, then a line to the floor.
    Linear(Linear),
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
    /// The factor that the warm-up begins from. 0 in all published text; the optimizer benchmark's code has 0.01.
    pub warmup_start: f32,
    /// How the rate grows.
    pub warmup_shape: WarmUpShape,
}

impl Default for Constant {
    fn default() -> Self {
        Self {
            warmup_steps: 20,
            warmup_start: 0.0,
            warmup_shape: WarmUpShape::Linear,
        }
    }
}

impl Constant {
    /// The peak rate from the first step on.
    pub fn without_warmup() -> Self {
        Self {
            warmup_steps: 0,
            ..Self::default()
        }
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
    /// The floor, as a share of the peak. A tenth is the usual choice; a hundredth was better by some hundredths of a nat
    /// in the optimizer benchmark.
    pub floor: f32,
    /// The factor that the warm-up begins from.
    pub warmup_start: f32,
    /// How the rate grows.
    pub warmup_shape: WarmUpShape,
}

impl Default for Cosine {
    fn default() -> Self {
        Self {
            warmup_steps: 20,
            total_steps: 300,
            floor: 0.1,
            warmup_start: 0.0,
            warmup_shape: WarmUpShape::Linear,
        }
    }
}

/// Warm-up, then a line to the floor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Linear {
    /// Steps over which the rate grows to its peak.
    pub warmup_steps: u32,
    /// Steps after which the floor is reached: rounds × local steps of the session.
    pub total_steps: u32,
    /// The floor, as a share of the peak. A thousandth: the best end of a line in the optimizer benchmark at 210 M
    /// parameters.
    pub floor: f32,
    /// The factor that the warm-up begins from.
    pub warmup_start: f32,
    /// How the rate grows.
    pub warmup_shape: WarmUpShape,
}

impl Default for Linear {
    fn default() -> Self {
        Self {
            warmup_steps: 20,
            total_steps: 300,
            floor: 0.001,
            warmup_start: 0.0,
            warmup_shape: WarmUpShape::Linear,
        }
    }
}

/// Warm-up, plateau, then a cooldown to the floor. Its best peak is about half of the best one of a cosine.
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
    /// How the rate falls.
    pub cooldown: Cooldown,
    /// The factor that the warm-up begins from.
    pub warmup_start: f32,
    /// How the rate grows.
    pub warmup_shape: WarmUpShape,
}

impl Default for Wsd {
    fn default() -> Self {
        Self {
            warmup_steps: 20,
            total_steps: 300,
            decay_steps: 60,
            floor: 0.0,
            cooldown: Cooldown::OneMinusSqrt,
            warmup_start: 0.0,
            warmup_shape: WarmUpShape::Linear,
        }
    }
}

/// What all schedules have in common.
struct WarmUp {
    key: &'static str,
    steps: u32,
    start: f32,
    shape: WarmUpShape,
    total: u32,
}

impl ScheduleConfig {
    /// The factor at a step of the session, counted from 0.
    pub fn factor(&self, step: u64) -> f32 {
        let warm_up_of = self.warm_up();
        let growing = warm_up(step, warm_up_of.steps, warm_up_of.start, warm_up_of.shape);
        let falling = match self {
            Self::Constant(_) => 1.0,
            Self::Cosine(c) => Cooldown::Cosine.factor(share(step, c.warmup_steps, c.total_steps), c.floor),
            Self::Linear(l) => Cooldown::Linear.factor(share(step, l.warmup_steps, l.total_steps), l.floor),
            Self::Wsd(w) => {
                let begin = w.total_steps.saturating_sub(w.decay_steps);
                w.cooldown.factor(share(step, begin, w.total_steps), w.floor)
            }
        };
        growing * falling
    }

    fn warm_up(&self) -> WarmUp {
        let of = |key, steps, start, shape, total| WarmUp {
            key,
            steps,
            start,
            shape,
            total,
        };
        match self {
            Self::Constant(c) => of(
                "schedule.constant.warmup_steps",
                c.warmup_steps,
                c.warmup_start,
                c.warmup_shape,
                u32::MAX,
            ),
            Self::Cosine(c) => of(
                "schedule.cosine.warmup_steps",
                c.warmup_steps,
                c.warmup_start,
                c.warmup_shape,
                c.total_steps,
            ),
            Self::Linear(l) => of(
                "schedule.linear.warmup_steps",
                l.warmup_steps,
                l.warmup_start,
                l.warmup_shape,
                l.total_steps,
            ),
            Self::Wsd(w) => of(
                "schedule.wsd.warmup_steps",
                w.warmup_steps,
                w.warmup_start,
                w.warmup_shape,
                w.total_steps,
            ),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let warm_up = self.warm_up();
        let floor = match self {
            Self::Constant(_) => 0.0,
            Self::Cosine(cosine) => cosine.floor,
            Self::Linear(linear) => linear.floor,
            Self::Wsd(wsd) => {
                let most = wsd.total_steps.saturating_sub(wsd.warmup_steps);
                within("schedule.wsd.decay_steps", wsd.decay_steps, 1, most)?;
                if wsd.cooldown == Cooldown::Exponential {
                    finite_all(&[("schedule.wsd.floor", wsd.floor, 1e-6, 1.0)])?;
                }
                wsd.floor
            }
        };
        let least_start = match warm_up.shape {
            WarmUpShape::Exponential if warm_up.steps > 0 => 1e-6,
            _ => 0.0,
        };
        finite_all(&[
            ("schedule floor", floor, 0.0, 1.0),
            ("schedule warmup_start", warm_up.start, least_start, 1.0),
        ])?;
        within(warm_up.key, warm_up.steps, 0, warm_up.total.saturating_sub(1))
    }
}

/// How far `step` is between `from` and `to`, in `0..=1`.
fn share(step: u64, from: u32, to: u32) -> f64 {
    let (from, to) = (u64::from(from), u64::from(to));
    (step.clamp(from, to.max(from)) - from) as f64 / to.saturating_sub(from).max(1) as f64
}

/// One line of a table of a session's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Step of the session, from 0.
    pub step: u64,
    /// Round that the step is in, from 1.
    pub round: u64,
    /// The schedule's factor.
    pub factor: f32,
    /// Peak rate × factor.
    pub learning_rate: f32,
    /// Sequences in the step's batch.
    pub batch_sequences: u32,
    /// Sequences that a member has consumed before the step.
    pub consumed_sequences: u64,
}

/// What the schedule says at `rows` steps, evenly spread over the first `steps` of the session, first and last among them.
pub fn table(config: &TrainingConfig, steps: u64, rows: usize) -> Vec<Row> {
    let last = steps.saturating_sub(1);
    let count = (rows as u64).clamp(1, steps.max(1));
    let row = |at: u64| {
        let step = match count {
            1 => 0,
            count => (u128::from(at) * u128::from(last) / u128::from(count - 1)) as u64,
        };
        let factor = config.schedule.factor(step);
        let standing = standing(config, step);
        Row {
            step,
            round: step / u64::from(config.local_steps.max(1)) + 1,
            factor,
            learning_rate: factor * config.optimizer.learning_rate(),
            batch_sequences: standing.batch_sequences,
            consumed_sequences: standing.consumed_sequences,
        }
    };
    (0..count).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &ScheduleConfig, expected: &[(u64, f32)]) {
        assert_eq!(schedule.check(), Ok(()));
        for (step, factor) in expected {
            let got = schedule.factor(*step);
            assert!((got - factor).abs() < 1e-6, "step {step}: {got} instead of {factor}");
        }
    }

    #[test]
    fn a_constant_rate_warms_up_and_stays() {
        let schedule = ScheduleConfig::Constant(Constant {
            warmup_steps: 4,
            ..Constant::default()
        });
        check(&schedule, &[(0, 0.25), (3, 1.0), (4, 1.0), (1_000_000, 1.0)]);
        check(&ScheduleConfig::Constant(Constant::without_warmup()), &[(0, 1.0)]);
    }

    #[test]
    fn a_cosine_falls_to_its_floor_and_stays() {
        let schedule = ScheduleConfig::Cosine(Cosine {
            warmup_steps: 10,
            total_steps: 110,
            ..Cosine::default()
        });
        check(&schedule, &[(9, 1.0), (10, 1.0), (60, 0.55), (110, 0.1), (5000, 0.1)]);
    }

    #[test]
    fn a_line_falls_to_its_floor_and_stays() {
        let schedule = ScheduleConfig::Linear(Linear {
            warmup_steps: 10,
            total_steps: 110,
            floor: 0.2,
            ..Linear::default()
        });
        check(
            &schedule,
            &[(4, 0.5), (10, 1.0), (60, 0.6), (85, 0.4), (110, 0.2), (5000, 0.2)],
        );
    }

    #[test]
    fn wsd_holds_its_plateau_then_falls_in_any_of_its_shapes() {
        for (cooldown, quarter, half) in [
            (Cooldown::Linear, 0.75, 0.5),
            (Cooldown::OneMinusSqrt, 0.5, 1.0 - 0.5f32.sqrt()),
            (Cooldown::Cosine, 0.5 + 0.125f32.sqrt(), 0.5),
            (Cooldown::MirrorCosine, 1.0 - 0.125f32.sqrt(), 0.5),
            (Cooldown::Square, 0.9375, 0.75),
        ] {
            let wsd = Wsd {
                warmup_steps: 2,
                total_steps: 100,
                decay_steps: 20,
                cooldown,
                ..Wsd::default()
            };
            check(
                &ScheduleConfig::Wsd(wsd),
                &[
                    (0, 0.5),
                    (2, 1.0),
                    (80, 1.0),
                    (85, quarter),
                    (90, half),
                    (100, 0.0),
                    (200, 0.0),
                ],
            );
            let raised = Wsd { floor: 0.1, ..wsd };
            check(&ScheduleConfig::Wsd(raised), &[(85, 0.1 + 0.9 * quarter), (100, 0.1)]);
        }
        let exponential = Wsd {
            warmup_steps: 0,
            total_steps: 100,
            decay_steps: 20,
            floor: 0.01,
            cooldown: Cooldown::Exponential,
            ..Wsd::default()
        };
        check(
            &ScheduleConfig::Wsd(exponential),
            &[(80, 1.0), (90, 0.1), (100, 0.01), (300, 0.01)],
        );
    }

    #[test]
    fn warm_ups_begin_where_they_are_told_and_end_at_one() {
        let of = |warmup_shape| {
            ScheduleConfig::Constant(Constant {
                warmup_steps: 100,
                warmup_start: 0.01,
                warmup_shape,
            })
        };
        check(&of(WarmUpShape::Linear), &[(49, 0.505), (99, 1.0), (100, 1.0)]);
        check(
            &of(WarmUpShape::Exponential),
            &[(49, 0.1), (74, 0.1f32.sqrt()), (99, 1.0), (100, 1.0)],
        );
        check(&of(WarmUpShape::Cosine), &[(49, 0.505), (99, 1.0), (100, 1.0)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let text = |schedule: ScheduleConfig| schedule.check().unwrap_err().to_string();
        let long = ScheduleConfig::Cosine(Cosine {
            warmup_steps: 300,
            total_steps: 300,
            ..Cosine::default()
        });
        assert!(text(long).contains("schedule.cosine.warmup_steps is 300"));
        let to_nothing = ScheduleConfig::Wsd(Wsd {
            cooldown: Cooldown::Exponential,
            ..Wsd::default()
        });
        assert!(text(to_nothing).contains("schedule.wsd.floor is 0"));
        let from_nothing = ScheduleConfig::Constant(Constant {
            warmup_shape: WarmUpShape::Exponential,
            ..Constant::default()
        });
        assert!(text(from_nothing).contains("warmup_start is 0"));
    }

    #[test]
    fn a_table_has_the_first_and_the_last_step() {
        let config = TrainingConfig {
            stages: vec![Stage {
                after_sequences: 400,
                batch_sequences: 8,
            }],
            ..TrainingConfig::default()
        };
        let rows = table(&config, 300, 4);
        assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [0, 99, 199, 299]);
        assert_eq!(rows.iter().map(|row| row.round).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(
            rows.iter().map(|row| row.batch_sequences).collect::<Vec<_>>(),
            [4, 4, 8, 8]
        );
        assert_eq!(rows[3].consumed_sequences, 400 + 199 * 8);
        assert_eq!(rows[0].learning_rate, 1.5e-3 / 20.0);
        assert_eq!(table(&config, 1, 10).len(), 1);
    }
}
