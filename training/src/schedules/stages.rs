//! Changes of the batch by consumed sequences (as in Apertus, whose batch doubled at a sample count, not at a step).
//! A pure function of the step of the session: nothing is counted while training, hence nothing can be lost by a restart.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, TrainingConfig, within};

/// From a number of consumed sequences on, batches have another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The first step before which a member has consumed at least this many sequences begins the stage.
    pub after_sequences: u64,
    /// Sequences in a batch of the stage.
    pub batch_sequences: u32,
}

/// Where a member stands before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// 0 before the first of the stages, then 1 and so on: data may change with it, too.
    pub stage: usize,
    /// Sequences in the step's batch.
    pub batch_sequences: u32,
    /// Sequences that a member has consumed before the step.
    pub consumed_sequences: u64,
}

/// Stages that a session has at most.
const MOST_STAGES: usize = 64;

/// Where a member stands before `step` of the session, counted from 0.
pub fn standing(config: &TrainingConfig, step: u64) -> Standing {
    let mut now = Standing {
        stage: 0,
        batch_sequences: config.batch_sequences,
        consumed_sequences: 0,
    };
    let mut steps_left = step;
    for stage in &config.stages {
        let missing = stage.after_sequences.saturating_sub(now.consumed_sequences);
        let steps = missing.div_ceil(u64::from(now.batch_sequences.max(1)));
        if steps > steps_left {
            break;
        }
        steps_left -= steps;
        now = Standing {
            stage: now.stage + 1,
            batch_sequences: stage.batch_sequences,
            consumed_sequences: now.consumed_sequences + steps * u64::from(now.batch_sequences),
        };
    }
    let more = steps_left.saturating_mul(u64::from(now.batch_sequences));
    now.consumed_sequences = now.consumed_sequences.saturating_add(more);
    now
}

/// Refuses stages that are out of order, too many or of no size.
pub fn check_stages(stages: &[Stage]) -> Result<(), ConfigError> {
    within("stages (their number)", stages.len() as u32, 0, MOST_STAGES as u32)?;
    let mut before = 0;
    for stage in stages {
        within("stages.batch_sequences", stage.batch_sequences, 1, 65_536)?;
        if stage.after_sequences <= before || stage.after_sequences > i64::MAX as u64 {
            return Err(ConfigError::Range {
                key: "stages.after_sequences",
                value: stage.after_sequences as f64,
                least: (before + 1) as f64,
                most: i64::MAX as f64,
            });
        }
        before = stage.after_sequences;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(stages: &[(u64, u32)]) -> TrainingConfig {
        let stage = |(after_sequences, batch_sequences): &(u64, u32)| Stage {
            after_sequences: *after_sequences,
            batch_sequences: *batch_sequences,
        };
        TrainingConfig {
            batch_sequences: 4,
            stages: stages.iter().map(stage).collect(),
            ..TrainingConfig::default()
        }
    }

    #[test]
    fn standing_agrees_with_counting_step_by_step() {
        for stages in [
            &[][..],
            &[(10, 8)],
            &[(10, 8), (11, 2), (100, 16)],
            &[(4, 3), (4000, 9)],
        ] {
            let config = config(stages);
            assert_eq!(check_stages(&config.stages), Ok(()));
            let (mut consumed, mut stage, mut batch) = (0, 0, config.batch_sequences);
            for step in 0..200 {
                while let Some(next) = config.stages.get(stage).filter(|next| consumed >= next.after_sequences) {
                    (stage, batch) = (stage + 1, next.batch_sequences);
                }
                let expected = Standing {
                    stage,
                    batch_sequences: batch,
                    consumed_sequences: consumed,
                };
                assert_eq!(standing(&config, step), expected, "step {step} of {stages:?}");
                consumed += u64::from(batch);
            }
        }
    }

    #[test]
    fn stages_out_of_order_or_of_no_size_are_refused() {
        for (stages, part) in [
            (&[(10, 8), (10, 9)][..], "stages.after_sequences is 10"),
            (&[(0, 8)], "stages.after_sequences is 0"),
            (&[(5, 0)], "stages.batch_sequences is 0"),
            (&[(u64::MAX, 1)], "stages.after_sequences"),
        ] {
            let error = config(stages).check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
