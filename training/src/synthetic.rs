//! A trainer without a model: noisy gradient descent on a quadratic whose optimum differs by member.
//! It costs microseconds and only adds and multiplies, so that simulated sessions repeat bit for bit on every machine.
//!
//! Member `k` minimises `½|x − c − s·uₖ|²/d`: `c` is the session's optimum, `uₖ` the member's own direction (both
//! uniform in [-1, 1)), `s` the spread. The mean of the members' optima tends to `c`, so that agreement is worth something.

use crate::config::{SyntheticConfig, TrainingConfig};
use crate::layout::Layout;
use crate::optimizers::StateError;
use crate::randomness::{StreamName, symmetric};
use crate::trainer::{Continue, Evaluation, LocalRound, Progress, TrainError, Trained, Trainer};

/// See the module.
#[derive(Debug, Clone)]
pub struct SyntheticTrainer {
    config: SyntheticConfig,
    layout: Layout,
    seed: u64,
    member: [u8; 32],
    steps: u32,
    samples_per_step: u64,
    common_optimum: Vec<f32>,
    own_optimum: Vec<f32>,
}

impl SyntheticTrainer {
    /// The trainer of one member. `session` gives seed, steps and samples; its model entry is not looked at.
    pub fn new(config: &SyntheticConfig, session: &TrainingConfig, member: [u8; 32]) -> Self {
        let dimension = config.dimension as usize;
        let draw = |purpose, member| -> Vec<f32> {
            let mut rng = StreamName {
                purpose,
                seed: session.seed,
                member,
                ..StreamName::default()
            }
            .open();
            (0..dimension).map(|_| symmetric(&mut rng)).collect()
        };
        let common_optimum = draw("synthetic optimum", [0; 32]);
        let direction = draw("synthetic direction", member);
        let own_optimum = common_optimum
            .iter()
            .zip(&direction)
            .map(|(c, u)| c + config.spread * u)
            .collect();
        Self {
            config: config.clone(),
            layout: config.layout(),
            seed: session.seed,
            member,
            steps: session.local_steps,
            samples_per_step: u64::from(session.batch_sequences),
            common_optimum,
            own_optimum,
        }
    }
}

impl Trainer for SyntheticTrainer {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn initial_parameters(&mut self) -> Vec<f32> {
        vec![0.0; self.layout.len()]
    }

    /// Plain descent remembers nothing.
    fn check_optimizer(&self, bytes: &[u8]) -> Result<(), StateError> {
        match bytes.len() {
            0 => Ok(()),
            got => Err(StateError::Length { got, expected: 0 }),
        }
    }

    fn train(
        &mut self,
        local: LocalRound<'_>,
        progress: &mut dyn FnMut(Progress) -> Continue,
    ) -> Result<Trained, TrainError> {
        let LocalRound { round, start, .. } = local;
        let steps = local.steps.unwrap_or(self.steps).max(1);
        TrainError::check_length(&self.layout, start)?;
        let mut parameters = start.to_vec();
        let name = StreamName {
            purpose: "synthetic noise",
            seed: self.seed,
            member: self.member,
            round,
            step: 0,
        };
        let mut rng = name.open();
        let (mut loss_sum, mut tokens) = (0f32, 0);
        for step in 1..=steps {
            let loss = half_mean_square(&parameters, &self.own_optimum);
            if !loss.is_finite() {
                return Err(TrainError::Diverged { round, step, loss });
            }
            for (x, optimum) in parameters.iter_mut().zip(&self.own_optimum) {
                let noise = match self.config.noise {
                    0.0 => 0.0,
                    noise => noise * symmetric(&mut rng),
                };
                *x -= self.config.learning_rate * (*x - optimum + noise);
            }
            loss_sum += loss;
            tokens += self.samples_per_step;
            let now = Progress {
                step,
                steps,
                loss,
                tokens,
                tokens_per_second: None,
            };
            if progress(now) == Continue::Stop {
                return Err(TrainError::Stopped { round, step, steps });
            }
        }
        let train_loss = loss_sum / steps as f32;
        Ok(Trained {
            parameters,
            train_loss,
            tokens,
            steps,
            wall_ms: u64::from(steps),
            optimizer: Vec::new(),
            consumed: None,
        })
    }

    /// Half the mean squared distance to the session's common optimum, which no member knows.
    fn evaluate(&mut self, parameters: &[f32]) -> Result<Evaluation, TrainError> {
        TrainError::check_length(&self.layout, parameters)?;
        Ok(Evaluation {
            loss: half_mean_square(parameters, &self.common_optimum),
            tokens: self.samples_per_step,
        })
    }
}

fn half_mean_square(point: &[f32], optimum: &[f32]) -> f32 {
    let sum: f32 = point.iter().zip(optimum).map(|(x, o)| (x - o) * (x - o)).sum();
    0.5 * sum / point.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trainer(member: u8) -> SyntheticTrainer {
        let config = SyntheticConfig::default();
        SyntheticTrainer::new(&config, &TrainingConfig::default(), [member; 32])
    }

    fn go(_: Progress) -> Continue {
        Continue::Go
    }

    #[test]
    fn a_round_repeats_bit_for_bit_and_differs_by_member_and_round() {
        let start = trainer(1).initial_parameters();
        let first = trainer(1).train(LocalRound::of(1, &start), &mut go).unwrap();
        assert_eq!(first, trainer(1).train(LocalRound::of(1, &start), &mut go).unwrap());
        assert_ne!(
            first.parameters,
            trainer(2).train(LocalRound::of(1, &start), &mut go).unwrap().parameters
        );
        assert_ne!(
            first.parameters,
            trainer(1).train(LocalRound::of(2, &start), &mut go).unwrap().parameters
        );
    }

    #[test]
    fn many_members_together_come_closer_than_one_alone() {
        let start = trainer(0).initial_parameters();
        let ends: Vec<_> = (0..32)
            .map(|m| trainer(m).train(LocalRound::of(1, &start), &mut go).unwrap().parameters)
            .collect();
        let mean: Vec<f32> = (0..64)
            .map(|i| ends.iter().map(|end| end[i]).sum::<f32>() / 32.0)
            .collect();
        let mut judge = trainer(0);
        let (before, alone, together) = (
            judge.evaluate(&start).unwrap().loss,
            judge.evaluate(&ends[0]).unwrap().loss,
            judge.evaluate(&mean).unwrap().loss,
        );
        assert!(together < alone / 3.0 && alone < before, "{together} {alone} {before}");
    }

    #[test]
    fn a_listener_can_stop_it_and_a_foreign_state_is_refused() {
        let start = trainer(0).initial_parameters();
        let mut stop = |now: Progress| if now.step == 3 { Continue::Stop } else { Continue::Go };
        let error = trainer(0).train(LocalRound::of(5, &start), &mut stop).unwrap_err();
        assert_eq!(
            error,
            TrainError::Stopped {
                round: 5,
                step: 3,
                steps: 60
            }
        );
        assert_eq!(
            trainer(0).evaluate(&[0.0]),
            Err(TrainError::WrongLength { expected: 64, got: 1 })
        );
    }
}
