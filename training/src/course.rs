//! Which steps of the session, and which rows of its data, the local steps of one member in one round are.
//! Pure functions of the session and of what the member has consumed before; it reads no data and takes no step.
//!
//! Where all members take the session's H steps, step *i* of round *t* is the session's step (*t* − 1) H + *i*, and rows follow
//! from it. Where steps go by speed, a member with τ of them goes through the same H steps of the session, in strides of H/τ:
//! schedules and stages are the same for all at the end of a round. Its rows are numbered by what it has consumed itself.

use std::ops::Range;

use crate::config::TrainingConfig;
use crate::schedules::standing;
use crate::trainer::LocalRound;

/// The course of one member through one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// The session's step that the round begins with.
    first: u64,
    /// H.
    nominal: u32,
    /// τ, the local steps that are taken.
    pub steps: u32,
    /// Sequences that the member has consumed before, where it counts them.
    consumed: Option<u64>,
}

impl Course {
    /// The course of a round. A member that counts but has lost its count goes on behind all that it can have consumed.
    pub fn of(config: &TrainingConfig, local: &LocalRound<'_>) -> Self {
        let rounds = local.round.max(1) - 1;
        let nominal = config.local_steps;
        let behind_all = |most: u32| {
            let batches = config.stages.iter().map(|stage| stage.batch_sequences);
            let largest = batches.fold(config.batch_sequences, u32::max);
            rounds.saturating_mul(u64::from(most) * u64::from(largest))
        };
        let counts = config.step_terms().filter(|_| local.steps.is_some());
        Self {
            first: rounds.saturating_mul(u64::from(nominal)),
            nominal,
            steps: local.steps.unwrap_or(nominal).max(1),
            consumed: counts.map(|terms| local.consumed.unwrap_or_else(|| behind_all(terms.most))),
        }
    }

    /// The session's step that local step `step`, from 0, counts as.
    pub fn session_step(&self, step: u32) -> u64 {
        self.first + u64::from(step) * u64::from(self.nominal) / u64::from(self.steps)
    }

    /// The rows of each local step, in order; a row is never the member's twice in an epoch.
    pub fn rows(self, config: TrainingConfig) -> impl Iterator<Item = Range<u64>> + Send + 'static {
        let mut consumed = self.consumed;
        (0..self.steps).map(move |step| {
            let now = standing(&config, self.session_step(step));
            let from = consumed.unwrap_or(now.consumed_sequences);
            let to = from + u64::from(now.batch_sequences);
            consumed = consumed.map(|_| to);
            from..to
        })
    }

    /// What the member has consumed after the round, where it counts.
    pub fn consumed_after(self, config: &TrainingConfig) -> Option<u64> {
        self.consumed?;
        self.rows(config.clone()).last().map(|rows| rows.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StepsBySpeed;
    use crate::schedules::Stage;

    fn config(by_speed: bool) -> TrainingConfig {
        TrainingConfig {
            local_steps: 10,
            batch_sequences: 4,
            stages: vec![Stage {
                after_sequences: 60,
                batch_sequences: 8,
            }],
            local_steps_by_speed: by_speed.then(StepsBySpeed::default),
            ..TrainingConfig::default()
        }
    }

    fn rows(config: &TrainingConfig, local: LocalRound<'_>) -> Vec<Range<u64>> {
        Course::of(config, &local).rows(config.clone()).collect()
    }

    #[test]
    fn the_sessions_number_of_steps_is_counted_through_all_rounds() {
        let config = config(false);
        let (one, two) = (
            rows(&config, LocalRound::of(1, &[])),
            rows(&config, LocalRound::of(2, &[])),
        );
        assert_eq!((one[0].clone(), one[9].clone(), two[0].clone()), (0..4, 36..40, 40..44));
        assert_eq!((two[4].clone(), two[5].clone(), two[9].end), (56..60, 60..68, 100));
        assert_eq!(
            Course::of(&config, &LocalRound::of(2, &[])).consumed_after(&config),
            None
        );
    }

    #[test]
    fn a_fast_and_a_slow_member_go_through_the_same_steps_of_the_session() {
        let config = config(true);
        for steps in [1, 3, 10, 37] {
            let local = LocalRound {
                steps: Some(steps),
                ..LocalRound::of(3, &[])
            };
            let course = Course::of(&config, &local);
            let counted: Vec<u64> = (0..steps).map(|step| course.session_step(step)).collect();
            assert!(
                counted.is_sorted() && counted[0] == 20 && counted[counted.len() - 1] < 30,
                "{counted:?}"
            );
        }
    }

    #[test]
    fn rows_follow_what_a_member_has_consumed_and_none_comes_twice() {
        let config = config(true);
        let (mut consumed, mut seen) = (Some(0), 0);
        for (round, steps) in [(1, 7), (2, 40), (3, 1), (4, 10)] {
            let local = LocalRound {
                steps: Some(steps),
                consumed,
                ..LocalRound::of(round, &[])
            };
            for rows in rows(&config, local) {
                assert_eq!(rows.start, seen, "round {round}");
                seen = rows.end;
            }
            consumed = Course::of(&config, &local).consumed_after(&config);
            assert_eq!(consumed, Some(seen));
        }
        let lost = LocalRound {
            steps: Some(10),
            ..LocalRound::of(5, &[])
        };
        assert!(
            rows(&config, lost)[0].start >= seen,
            "a member without its count begins behind all of it"
        );
    }
}
