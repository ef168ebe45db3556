//! Trains a small model on one institution's samples, in mini-batches drawn with replacement, by the session's optimizer
//! (plain descent gives FedAvg's local steps: McMahan et al., 2017). Which samples are held out depends on their bytes
//! alone; it needs no burn, and gives no second gradients.

use std::time::Instant;

use super::Samples;
use crate::config::TrainingConfig;
use crate::course::Course;
use crate::example_privacy::ExamplePrivacy;
use crate::layout::Layout;
use crate::models::network::{Network, NetworkConfig};
use crate::objectives::LossSum;
use crate::optimizers::{Optimizer, StateError, StepInputs, clip_global_norm};
use crate::randomness::{StreamName, below};
use crate::trainer::{Continue, Evaluation, LocalRound, Progress, TrainError, Trained, Trainer};

/// See the module.
#[derive(Debug, Clone)]
pub struct SampleTrainer {
    config: TrainingConfig,
    network: Network,
    member: [u8; 32],
    training: Samples,
    heldout: Samples,
    privacy: Option<ExamplePrivacy>,
}

impl SampleTrainer {
    /// The trainer of one member; without samples it can only make initial parameters.
    pub fn new(config: &TrainingConfig, network: &NetworkConfig, member: [u8; 32], samples: Option<Samples>) -> Self {
        let samples = samples.unwrap_or_default();
        let heldout = |index: &usize| is_heldout(&samples, *index, config.heldout_fraction);
        let (held, kept): (Vec<usize>, Vec<usize>) = (0..samples.len()).partition(heldout);
        Self {
            config: config.clone(),
            network: Network::new(network),
            member,
            training: samples.select(&kept),
            heldout: samples.select(&held),
            privacy: None,
        }
    }

    /// The same trainer, whose steps protect single samples.
    pub fn protecting(mut self, privacy: Option<ExamplePrivacy>) -> Self {
        self.privacy = privacy;
        self
    }

    /// The gradient of one step over samples by chance, and their mean loss.
    fn gradient(&self, name: StreamName, parameters: &[f32], gradient: &mut [f32]) -> Result<f64, TrainError> {
        let count = self.training.len() as u64;
        if let Some(privacy) = self.privacy {
            let sum = privacy.gradient(count, gradient, &mut |index, gradient| {
                let sample = self.training.select(&[index as usize]);
                Ok(LossSum {
                    weighted_nll: self.network.loss_and_gradient(parameters, &sample, gradient),
                    weight: 1.0,
                })
            })?;
            return Ok(if sum.weight == 0.0 { 0.0 } else { sum.mean() });
        }
        let mut rng = name.open();
        let chosen: Vec<usize> = (0..self.config.batch_sequences)
            .map(|_| below(&mut rng, count) as usize)
            .collect();
        let batch = self.training.select(&chosen);
        Ok(self.network.loss_and_gradient(parameters, &batch, gradient))
    }

    /// The share of held-out samples whose class is the likeliest.
    pub fn accuracy(&self, parameters: &[f32]) -> f64 {
        self.network.loss_and_accuracy(parameters, &self.heldout).1
    }
}

/// Whether the BLAKE3 of a sample's bytes is below the fraction: two institutions hold out the same samples.
fn is_heldout(samples: &Samples, index: usize, fraction: f32) -> bool {
    let mut hasher = blake3::Hasher::new();
    for value in samples.features(index).iter().chain([&samples.label(index)]) {
        hasher.update(&value.to_le_bytes());
    }
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) < f64::from(fraction) * f64::from(u32::MAX)
}

impl Trainer for SampleTrainer {
    fn layout(&self) -> &Layout {
        self.network.layout()
    }

    fn initial_parameters(&mut self) -> Vec<f32> {
        self.network.initial_parameters(self.config.seed)
    }

    fn check_optimizer(&self, bytes: &[u8]) -> Result<(), StateError> {
        Optimizer::check_bytes(&self.config.optimizer, self.layout(), bytes)
    }

    fn train(
        &mut self,
        local: LocalRound<'_>,
        progress: &mut dyn FnMut(Progress) -> Continue,
    ) -> Result<Trained, TrainError> {
        let LocalRound { round, start, .. } = local;
        let course = Course::of(&self.config, &local);
        TrainError::check_length(self.layout(), start)?;
        if self.training.is_empty() {
            return Err(TrainError::NoData);
        }
        let (began, steps) = (Instant::now(), course.steps);
        let mut optimizer = Optimizer::of_round(&self.config, self.layout(), local)?;
        let mut parameters = start.to_vec();
        let mut gradient = vec![0.0; parameters.len()];
        let (mut loss_sum, mut tokens) = (0f64, 0u64);
        for step in 0..steps {
            let name = StreamName {
                purpose: "training samples",
                seed: self.config.seed,
                member: self.member,
                round,
                step: u64::from(step),
            };
            let loss = self.gradient(name, &parameters, &mut gradient)?;
            let norm = match self.privacy {
                None => clip_global_norm(&mut gradient, self.config.gradient_clip),
                Some(_) => 0.0,
            };
            if !(loss.is_finite() && norm.is_finite()) {
                return Err(TrainError::Diverged {
                    round,
                    step: step + 1,
                    loss: loss as f32,
                });
            }
            let inputs = StepInputs {
                step: course.session_step(step),
                gradient: &mut gradient,
                extra: None,
                tokens: u64::from(self.config.batch_sequences),
            };
            optimizer.step(&mut parameters, inputs);
            loss_sum += loss;
            tokens += u64::from(self.config.batch_sequences);
            let now = Progress {
                step: step + 1,
                steps,
                loss: loss as f32,
                tokens,
                tokens_per_second: Some(tokens as f32 / began.elapsed().as_secs_f32().max(1e-6)),
            };
            if progress(now) == Continue::Stop {
                return Err(TrainError::Stopped {
                    round,
                    step: step + 1,
                    steps,
                });
            }
        }
        optimizer.to_evaluation_point(&mut parameters);
        Ok(Trained {
            parameters,
            train_loss: (loss_sum / f64::from(steps)) as f32,
            tokens,
            steps,
            wall_ms: began.elapsed().as_millis() as u64,
            optimizer: optimizer.carried(self.config.optimizer_state),
            consumed: None,
        })
    }

    fn evaluate(&mut self, parameters: &[f32]) -> Result<Evaluation, TrainError> {
        TrainError::check_length(self.layout(), parameters)?;
        let (loss, _) = self.network.loss_and_accuracy(parameters, &self.heldout);
        Ok(Evaluation {
            loss: loss as f32,
            tokens: self.heldout.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerState;
    use crate::models::network::NetworkKind;
    use crate::optimizers::{Extra, OptimizerConfig, ScheduleFreeConfig, SgdConfig};
    use crate::samples::read_samples;
    use crate::schedules::{Constant, ScheduleConfig};
    use std::path::PathBuf;

    fn data(part: &str) -> Option<PathBuf> {
        let folder = std::env::var_os("SYNOD_DATA");
        if folder.is_none() {
            eprintln!("skipped: SYNOD_DATA does not name the folder of data sets");
        }
        Some(PathBuf::from(folder?).join(part))
    }

    fn trained(network: NetworkConfig, samples: Samples, steps: u32, batch: u32) -> (SampleTrainer, Vec<f32>) {
        let descent = SgdConfig {
            momentum: 0.0,
            ..SgdConfig::default()
        };
        trained_by(OptimizerConfig::Sgd(descent), network, samples, steps, batch)
    }

    fn trained_by(
        optimizer: OptimizerConfig,
        network: NetworkConfig,
        samples: Samples,
        steps: u32,
        batch: u32,
    ) -> (SampleTrainer, Vec<f32>) {
        let config = TrainingConfig {
            optimizer,
            gradient_clip: 1e6,
            schedule: ScheduleConfig::Constant(Constant::without_warmup()),
            local_steps: steps,
            batch_sequences: batch,
            ..TrainingConfig::default()
        };
        let mut trainer = SampleTrainer::new(&config, &network, [1; 32], Some(samples));
        let start = trainer.initial_parameters();
        let end = trainer
            .train(LocalRound::of(1, &start), &mut |_| Continue::Go)
            .unwrap()
            .parameters;
        let again = trainer
            .train(LocalRound::of(1, &start), &mut |_| Continue::Go)
            .unwrap()
            .parameters;
        assert!(end == again, "a round repeats bit for bit");
        (trainer, end)
    }

    /// Samples of the plane 3x − y + 1/2, and the model for them.
    fn plane() -> (NetworkConfig, Samples) {
        let features: Vec<f32> = (0..400).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let labels = features.chunks(2).map(|x| 3.0 * x[0] - x[1] + 0.5).collect();
        let network = NetworkConfig {
            kind: NetworkKind::Linear,
            inputs: 2,
            ..NetworkConfig::default()
        };
        (network, Samples::new(features, labels, 2).unwrap())
    }

    #[test]
    fn linear_regression_finds_the_plane_that_the_samples_lie_on() {
        let (network, samples) = plane();
        let (mut trainer, end) = trained(network, samples, 800, 16);
        assert!(trainer.evaluate(&end).unwrap().loss < 1e-6);
        for (found, expected) in end.iter().zip([3.0, -1.0, 0.5]) {
            assert!((found - expected).abs() < 1e-2, "{end:?}");
        }
    }

    #[test]
    fn every_optimizer_that_needs_one_gradient_learns_the_plane() {
        let optimizers = OptimizerConfig::all().into_iter();
        for optimizer in optimizers.filter(|optimizer| optimizer.will_want() == Extra::Nothing) {
            let (network, samples) = plane();
            let key = optimizer.key();
            let (mut trainer, end) = trained_by(optimizer, network, samples, 400, 16);
            let before = trainer.initial_parameters();
            let loss = |trainer: &mut SampleTrainer, at: &[f32]| trainer.evaluate(at).unwrap().loss;
            let (before, after) = (loss(&mut trainer, &before), loss(&mut trainer, &end));
            assert!(after < 0.999 * before, "{key}: {before} to {after}");
        }
    }

    #[test]
    fn rounds_whose_moments_are_carried_are_one_long_round() {
        // One sample again and again: batches do not differ, and nothing but the moments can.
        let (network, _) = plane();
        let samples = Samples::new([0.5, -0.25].repeat(100), vec![2.0; 100], 2).unwrap();
        let run = |optimizer_state, rounds: u64, local_steps| {
            let config = TrainingConfig {
                optimizer_state,
                local_steps,
                heldout_fraction: 0.001,
                ..TrainingConfig::default()
            };
            let mut trainer = SampleTrainer::new(&config, &network, [1; 32], Some(samples.clone()));
            let (mut parameters, mut optimizer) = (trainer.initial_parameters(), Vec::new());
            for round in 1..=rounds {
                let local = LocalRound {
                    optimizer: &optimizer,
                    ..LocalRound::of(round, &parameters)
                };
                let trained = trainer.train(local, &mut |_| Continue::Go).unwrap();
                (parameters, optimizer) = (trained.parameters, trained.optimizer);
            }
            (parameters, optimizer)
        };
        let whole = run(OptimizerState::Carry, 1, 40);
        assert_eq!(run(OptimizerState::Carry, 10, 4), whole);
        let (fresh, nothing) = run(OptimizerState::Fresh, 10, 4);
        assert!(fresh != whole.0 && nothing.is_empty());
    }

    #[test]
    fn schedule_free_begins_its_mean_again_where_the_outer_step_has_led() {
        let (network, samples) = plane();
        let config = TrainingConfig {
            optimizer: OptimizerConfig::ScheduleFree(ScheduleFreeConfig::default()),
            local_steps: 1,
            ..TrainingConfig::default()
        };
        let mut trainer = SampleTrainer::new(&config, &network, [1; 32], Some(samples));
        let start = trainer.initial_parameters();
        let first = trainer.train(LocalRound::of(1, &start), &mut |_| Continue::Go).unwrap();
        let far: Vec<f32> = first.parameters.iter().map(|value| value + 10.0).collect();
        let local = LocalRound {
            optimizer: &first.optimizer,
            ..LocalRound::of(2, &far)
        };
        let second = trainer.train(local, &mut |_| Continue::Go).unwrap();
        for (value, far) in second.parameters.iter().zip(&far) {
            assert!((value - far).abs() < 0.1, "{value} {far}");
        }
    }

    /// The majority class is 76 % of a9a; logistic regression is known to reach 85 %.
    #[test]
    fn logistic_regression_learns_a9a() {
        let Some(path) = data("tabular/a9a.gz") else { return };
        let samples = read_samples(&path, 123, true).unwrap();
        assert_eq!((samples.len(), samples.width()), (32_561, 123));
        let (trainer, end) = trained(NetworkConfig::default(), samples, 1500, 64);
        assert!(trainer.accuracy(&end) > 0.84, "{}", trainer.accuracy(&end));
    }

    #[test]
    fn a_perceptron_and_convolutions_learn_digits() {
        let Some(path) = data("images/mnist") else { return };
        let samples = read_samples(&path, 784, false).unwrap();
        assert_eq!(samples.len(), 60_000);
        let some = samples.select(&(0..6000).collect::<Vec<_>>());
        for (kind, least) in [
            (NetworkKind::Perceptron(vec![64]), 0.85),
            (NetworkKind::Convolutions([8, 16]), 0.9),
        ] {
            let network = NetworkConfig {
                kind,
                inputs: 784,
                classes: 10,
                ..NetworkConfig::default()
            };
            let (trainer, end) = trained(network, some.clone(), 300, 32);
            assert!(trainer.accuracy(&end) > least, "{}", trainer.accuracy(&end));
        }
    }
}
