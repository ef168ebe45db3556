//! The inner loop of training a language model, on one screen (DiLoCo's workers: Douillard et al., 2023, algorithm 1).
//! It knows nothing of rounds beyond their number; what its optimizer remembers from one to the next the worker keeps.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;

use crate::config::TrainingConfig;
use crate::course::Course;
use crate::data::{Batch, DataSummary, Dataset, Order, Prefetch};
use crate::device::Precision;
use crate::evaluate::heldout_loss;
use crate::example_privacy::ExamplePrivacy;
use crate::layout::Layout;
use crate::models::data_parallel;
use crate::models::decoder::Decoder;
use crate::models::shape::DecoderShape;
use crate::objectives::LossSum;
use crate::optimizers::{Optimizer, StateError, StepInputs, clip_global_norm};
use crate::randomness::StreamName;
use crate::second_gradient::{Ground, SecondGradient};
use crate::trainer::{Continue, Evaluation, LocalRound, Progress, TrainError, Trained, Trainer};

/// Trains a decoder on one institution's text.
#[derive(Debug)]
pub struct LanguageTrainer {
    config: TrainingConfig,
    /// One for each device, the first for all that is not a step's gradient.
    decoders: Vec<Decoder>,
    member: [u8; 32],
    data: Option<Arc<Dataset>>,
    privacy: Option<ExamplePrivacy>,
}

impl LanguageTrainer {
    /// The trainer of one member; without data it can only make initial parameters.
    pub fn new(
        config: &TrainingConfig,
        decoder: impl Into<DecoderShape>,
        member: [u8; 32],
        data: Option<Dataset>,
        device: Device,
    ) -> Self {
        Self {
            config: config.clone(),
            decoders: vec![Decoder::new(decoder, device).with_z_loss(config.loss.z_loss)],
            member,
            data: data.map(Arc::new),
            privacy: None,
        }
    }

    /// The same trainer, whose steps protect single examples: the windows of one fixed cut of its text.
    pub fn protecting(mut self, privacy: Option<ExamplePrivacy>) -> Self {
        self.privacy = privacy;
        self
    }

    /// The same trainer, whose batches are shared by these devices, at least one, with products of this precision.
    pub fn on(mut self, devices: Vec<Device>, precision: Precision) -> Self {
        let shape = self.decoder().shape().clone();
        let decoder = |device| {
            Decoder::new(shape.clone(), device)
                .with_precision(precision)
                .with_z_loss(self.config.loss.z_loss)
        };
        self.decoders = devices.into_iter().map(decoder).collect();
        assert!(!self.decoders.is_empty(), "a trainer computes on some device");
        self
    }

    fn decoder(&self) -> &Decoder {
        &self.decoders[0]
    }

    /// The noisy gradient of one step over sampled windows; the loss of those.
    fn private_gradient(
        &self,
        data: &Dataset,
        order: Order,
        parameters: &[f32],
        gradient: &mut [f32],
    ) -> Result<LossSum, TrainError> {
        let privacy = self.privacy.expect("asked for by a private step");
        privacy.gradient(data.rows_per_epoch(), gradient, &mut |row, gradient| {
            // Rows of the first epoch: one cut of the text in all rounds.
            let batch = data.training_batch(order, row, 1).map_err(TrainError::data)?;
            self.decoder().loss_and_gradient(parameters, &batch, gradient)
        })
    }

    /// The text, where there is some.
    pub fn data(&self) -> Option<&Dataset> {
        self.data.as_deref()
    }
}

impl Trainer for LanguageTrainer {
    fn layout(&self) -> &Layout {
        self.decoder().layout()
    }

    fn data_summary(&self) -> Option<DataSummary> {
        self.data().map(Dataset::summary)
    }

    fn initial_parameters(&mut self) -> Vec<f32> {
        self.decoder().initial_parameters(self.config.seed)
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
        let layout = self.decoder().layout();
        TrainError::check_length(layout, start)?;
        let data = self.data.as_ref().ok_or(TrainError::NoData)?;
        let steps = course.steps;
        let context = self.decoder().shape().context;

        let began = Instant::now();
        let mut optimizer = Optimizer::of_round(&self.config, layout, local)?;
        let mut parameters = start.to_vec(); // [P]
        let mut gradient = vec![0.0; parameters.len()]; // [P]
        let mut second = SecondGradient::default();
        second.remember(&optimizer, start);
        let order = Order {
            seed: self.config.seed,
            member: self.member,
        };
        let mut batches = match self.privacy {
            None => Some(Prefetch::of(data.clone(), order, course.rows(self.config.clone()))),
            Some(_) => None,
        };
        let (mut loss_sum, mut tokens) = (0f64, 0u64);
        for step in 0..steps {
            let name = StreamName {
                purpose: "training batch",
                seed: self.config.seed,
                member: self.member,
                round,
                step: u64::from(step),
            };
            let (sum, batch) = match batches.as_mut() {
                Some(batches) => {
                    let batch = batches.next().ok_or_else(|| TrainError::data("its thread ended"))?;
                    let batch = batch.map_err(TrainError::data)?; // [B, T] tokens and targets
                    let sum = data_parallel::loss_and_gradient(&self.decoders, &parameters, &batch, &mut gradient)?;
                    (sum, batch)
                }
                // Each sequence for itself; what the optimizer hears of the step is the session's, not the sample's.
                None => (
                    self.private_gradient(data, order, &parameters, &mut gradient)?,
                    Batch::default(),
                ),
            };
            // Where masks leave no token, there is no loss and no gradient.
            let loss = if sum.weight == 0.0 { 0.0 } else { sum.mean() as f32 };
            let norm = match self.privacy {
                None => clip_global_norm(&mut gradient, self.config.gradient_clip),
                Some(_) => 0.0,
            };
            if !(loss.is_finite() && norm.is_finite()) {
                return Err(TrainError::Diverged {
                    round,
                    step: step + 1,
                    loss,
                });
            }
            let ground = Ground {
                decoder: self.decoder(),
                parameters: &parameters,
                batch: &batch,
                clip: self.config.gradient_clip,
                name,
            };
            second.compute(optimizer.wants(), ground)?;
            second.remember(&optimizer, &parameters);
            let inputs = StepInputs {
                step: course.session_step(step),
                gradient: &mut gradient,
                extra: second.of(optimizer.wants()),
                tokens: match self.privacy {
                    None => sum.weight as u64,
                    Some(_) => u64::from(self.config.batch_sequences) * context as u64,
                },
            };
            optimizer.step(&mut parameters, inputs);

            loss_sum += f64::from(loss);
            let rows = match self.privacy {
                None => batch.rows(),
                Some(_) => self.config.batch_sequences as usize,
            };
            tokens += (rows * context) as u64;
            let tokens_per_second = Some(tokens as f32 / began.elapsed().as_secs_f32().max(1e-6));
            let now = Progress {
                step: step + 1,
                steps,
                loss,
                tokens,
                tokens_per_second,
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
        let train_loss = (loss_sum / f64::from(steps)) as f32;
        Ok(Trained {
            parameters,
            train_loss,
            tokens,
            steps,
            wall_ms: began.elapsed().as_millis() as u64,
            optimizer: optimizer.carried(self.config.optimizer_state),
            consumed: course.consumed_after(&self.config),
        })
    }

    fn evaluate(&mut self, parameters: &[f32]) -> Result<Evaluation, TrainError> {
        match &self.data {
            None => Ok(Evaluation {
                loss: f32::NAN,
                tokens: 0,
            }),
            Some(data) => heldout_loss(
                self.decoder(),
                data,
                self.config.evaluation_sequences as usize,
                parameters,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DecoderConfig, ModelConfig, OptimizerConfig, OptimizerState, StepsBySpeed};
    use crate::data::Windows;
    use crate::optimizers::AdamWConfig;
    use crate::schedules::{Constant, ScheduleConfig};
    use synod_aggregation::privacy::accountant::Accountant;
    use synod_aggregation::privacy::{LocalDp, PrivacyConfig, Unit};

    /// A small model on a text with a pattern that is quickly learnt.
    fn trainer(member: u8) -> LanguageTrainer {
        let decoder = DecoderConfig {
            layers: 1,
            heads: 2,
            width: 32,
            context: 32,
            ..DecoderConfig::default()
        };
        let config = TrainingConfig {
            model: ModelConfig::Decoder(decoder.clone()),
            schedule: ScheduleConfig::Constant(Constant {
                warmup_steps: 5,
                ..Constant::default()
            }),
            local_steps: 40,
            optimizer_state: OptimizerState::Carry,
            batch_sequences: 8,
            optimizer: OptimizerConfig::AdamW(AdamWConfig {
                learning_rate: 3e-3,
                ..AdamWConfig::default()
            }),
            ..TrainingConfig::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        let lines = (0..2000).map(|i| format!("{} green bottles, hanging on the wall; ", i * i % 97));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let data = Dataset::open(&path, Windows::of(&config, decoder.context as usize)).unwrap();
        LanguageTrainer::new(&config, &decoder, [member; 32], Some(data), Device::flex())
    }

    fn round(trainer: &mut LanguageTrainer, round: u64, start: &[f32]) -> Vec<f32> {
        trainer
            .train(LocalRound::of(round, start), &mut |_| Continue::Go)
            .unwrap()
            .parameters
    }

    /// With little noise a protected round learns as another does; it says no more of its sample than the session does, and
    /// no two are alike.
    #[test]
    fn protected_steps_learn_and_tell_the_sessions_batch() {
        let trainer = trainer(1);
        let rows = trainer.data().unwrap().rows_per_epoch();
        let privacy = PrivacyConfig::LocalDp(LocalDp {
            unit: Unit::Example {
                sampling_rate: 8.0 / rows as f64,
                steps_per_round: 40,
            },
            clip_norm: 1.0,
            noise_multiplier: 0.01,
            epsilon: 1e6,
            delta: 1e-5,
            accountant: Accountant::default(),
        });
        let mut trainer = trainer.protecting(ExamplePrivacy::of(&privacy, 8));
        let start = trainer.initial_parameters();
        let before = trainer.evaluate(&start).unwrap().loss;
        let trained = trainer.train(LocalRound::of(1, &start), &mut |_| Continue::Go).unwrap();
        let after = trainer.evaluate(&trained.parameters).unwrap().loss;
        assert!(after < before - 1.5, "{before} {after}");
        assert_eq!((trained.steps, trained.tokens), (40, 40 * 8 * 32));
        assert_ne!(round(&mut trainer, 1, &start), trained.parameters);
        assert_eq!(ExamplePrivacy::of(&PrivacyConfig::None, 8), None);
    }

    #[test]
    fn the_heldout_loss_falls_far_below_a_guess() {
        let mut trainer = trainer(1);
        let start = trainer.initial_parameters();
        let before = trainer.evaluate(&start).unwrap();
        let mut seen = Vec::new();
        let mut listen = |now: Progress| {
            seen.push((now.step, now.tokens));
            Continue::Go
        };
        let trained = trainer.train(LocalRound::of(1, &start), &mut listen).unwrap();
        let end = round(&mut trainer, 2, &trained.parameters);
        let after = trainer.evaluate(&end).unwrap();
        assert!(
            (before.loss - 256f32.ln()).abs() < 0.1 && after.loss < 2.0,
            "{before:?} {after:?}"
        );
        assert_eq!((trained.steps, trained.tokens), (40, 40 * 8 * 32));
        assert_eq!((seen.len(), seen[0], seen[39]), (40, (1, 256), (40, 40 * 256)));
    }

    #[test]
    fn a_round_repeats_bit_for_bit_after_a_restart_and_for_any_number_of_threads() {
        let start = trainer(1).initial_parameters();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| round(&mut trainer(1), 3, &start))
        };
        let first = run(1);
        assert!(first == run(2));
        let mut lived_longer = trainer(1);
        round(&mut lived_longer, 2, &start);
        assert!(first == round(&mut lived_longer, 3, &start));
        assert!(
            first != round(&mut trainer(2), 3, &start),
            "members draw different windows"
        );
        assert!(
            first != round(&mut trainer(1), 4, &start),
            "rounds draw different windows"
        );
    }

    #[test]
    fn every_optimizer_trains_and_repeats_itself() {
        for text in [
            r#"{"sgd": {"learning_rate": 0.1}}"#,
            r#"{"signum": {}}"#,
            r#"{"adopt": {"learning_rate": 0.003, "beta2": 0.95}}"#,
            r#"{"ademamix": {"learning_rate": 0.002, "beta2": 0.95, "beta3": 0.95, "alpha": 2}}"#,
            r#"{"lion": {}}"#,
            r#"{"muon": {"other_learning_rate": 0.003}}"#,
            r#"{"d_muon": {"learning_rate": 0.01}}"#,
            r#"{"soap": {"learning_rate": 0.003, "beta2": 0.95}}"#,
            r#"{"sophia": {"beta2": 0.9}}"#,
            r#"{"sophia": {"beta2": 0.9, "estimate": "empirical"}}"#,
            r#"{"schedule_free": {"learning_rate": 0.01, "beta2": 0.95}}"#,
            r#"{"prodigy": {"beta2": 0.95, "first_length": 0.0003}}"#,
            r#"{"mars": {}}"#,
            r#"{"mars": {"exact": true}}"#,
            r#"{"mars": {"base": "shampoo", "learning_rate": 0.01}}"#,
            r#"{"adafactor": {"learning_rate": 0.1}}"#,
            r#"{"lamb": {"learning_rate": 0.02, "beta2": 0.95}}"#,
            r#"{"scion": {}}"#,
        ] {
            let mut trainer = trainer(1);
            trainer.config.optimizer = serde_json::from_str(text).unwrap();
            let start = trainer.initial_parameters();
            let before = trainer.evaluate(&start).unwrap().loss;
            let end = round(&mut trainer, 1, &start);
            let after = trainer.evaluate(&end).unwrap().loss;
            assert!(after < before - 1.0, "{text}: {before} to {after}");
            assert!(end == round(&mut trainer, 1, &start), "{text}");
        }
    }

    #[test]
    fn batches_change_with_the_stages() {
        let mut trainer = trainer(1);
        trainer.config.stages = vec![crate::schedules::Stage {
            after_sequences: 80,
            batch_sequences: 16,
        }];
        let start = trainer.initial_parameters();
        let trained = trainer.train(LocalRound::of(1, &start), &mut |_| Continue::Go).unwrap();
        assert_eq!(trained.tokens, (10 * 8 + 30 * 16) * 32);
    }

    #[test]
    fn a_fast_member_takes_more_steps_and_goes_on_behind_the_rows_that_it_has_seen() {
        let mut trainer = trainer(1);
        trainer.config.local_steps_by_speed = Some(StepsBySpeed::default());
        let start = trainer.initial_parameters();
        let mut consumed = Some(0);
        for (round, steps, expected) in [(1, 60, 480), (2, 10, 560)] {
            let local = LocalRound {
                steps: Some(steps),
                consumed,
                ..LocalRound::of(round, &start)
            };
            let trained = trainer.train(local, &mut |_| Continue::Go).unwrap();
            assert_eq!((trained.steps, trained.consumed), (steps, Some(expected)));
            consumed = trained.consumed;
        }
    }

    #[test]
    fn an_optimizer_that_is_carried_goes_on_and_one_of_another_session_is_refused() {
        let mut trainer = trainer(1);
        let start = trainer.initial_parameters();
        let first = trainer.train(LocalRound::of(1, &start), &mut |_| Continue::Go).unwrap();
        let second = LocalRound {
            optimizer: &first.optimizer,
            ..LocalRound::of(2, &first.parameters)
        };
        let carried = trainer.train(second, &mut |_| Continue::Go).unwrap().parameters;
        assert!(carried != round(&mut trainer, 2, &first.parameters));
        assert!(trainer.check_optimizer(&first.optimizer).is_ok());
        trainer.config.optimizer = serde_json::from_str(r#"{"adamw": {"beta1": 0.8}}"#).unwrap();
        assert!(matches!(
            trainer.check_optimizer(&first.optimizer),
            Err(StateError::Foreign)
        ));
        let error = trainer.train(second, &mut |_| Continue::Go).unwrap_err();
        assert_eq!(error, TrainError::Optimizer(StateError::Foreign));
    }

    #[test]
    fn every_optimizer_can_be_carried() {
        for optimizer in OptimizerConfig::all() {
            let mut trainer = trainer(1);
            let key = optimizer.key();
            (trainer.config.optimizer, trainer.config.local_steps) = (optimizer, 3);
            let start = trainer.initial_parameters();
            let first = trainer.train(LocalRound::of(1, &start), &mut |_| Continue::Go).unwrap();
            let second = LocalRound {
                optimizer: &first.optimizer,
                ..LocalRound::of(2, &first.parameters)
            };
            let trained = trainer.train(second, &mut |_| Continue::Go).unwrap();
            assert!(trained.parameters.iter().all(|value| value.is_finite()), "{key}");
            assert_eq!(first.optimizer.len(), trained.optimizer.len(), "{key}");
        }
    }

    #[test]
    fn parameters_that_are_no_numbers_are_noticed() {
        let mut trainer = trainer(1);
        let mut start = trainer.initial_parameters();
        start[5000] = f32::NAN;
        let result = trainer.train(LocalRound::of(9, &start), &mut |_| Continue::Go);
        assert!(
            matches!(result, Err(TrainError::Diverged { round: 9, step: 1, .. })),
            "{result:?}"
        );
    }

    #[test]
    fn without_data_there_is_a_beginning_but_no_training() {
        let with_data = trainer(1).initial_parameters();
        let config = trainer(1).config;
        let ModelConfig::Decoder(decoder) = config.model.clone() else {
            unreachable!("the test's model is a decoder")
        };
        let mut trainer = LanguageTrainer::new(&config, &decoder, [1; 32], None, Device::flex());
        assert_eq!(trainer.initial_parameters(), with_data);
        assert_eq!(
            trainer.train(LocalRound::of(1, &with_data), &mut |_| Continue::Go),
            Err(TrainError::NoData)
        );
        assert_eq!(trainer.evaluate(&with_data).unwrap().tokens, 0);
    }
}
