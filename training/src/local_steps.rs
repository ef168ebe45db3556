//! The inner loop of training a language model, on one screen (DiLoCo's workers: Douillard et al., 2023, algorithm 1).
//! It knows nothing of rounds beyond their number; the optimizer starts fresh in each, see `TrainingConfig::optimizer`.

use std::time::Instant;

use burn::tensor::Device;

use crate::config::{DecoderConfig, OptimizerConfig, TrainingConfig};
use crate::data::Dataset;
use crate::evaluate::heldout_loss;
use crate::layout::Layout;
use crate::models::decoder::Decoder;
use crate::optimizers::{AdamW, clip_global_norm};
use crate::randomness::StreamName;
use crate::trainer::{Continue, Evaluation, Progress, TrainError, Trained, Trainer};

/// Trains a decoder on one institution's text.
#[derive(Debug)]
pub struct LanguageTrainer {
    config: TrainingConfig,
    decoder: Decoder,
    member: [u8; 32],
    data: Option<Dataset>,
}

impl LanguageTrainer {
    /// The trainer of one member; without data it can only make initial parameters.
    pub fn new(
        config: &TrainingConfig,
        decoder: &DecoderConfig,
        member: [u8; 32],
        data: Option<Dataset>,
        device: Device,
    ) -> Self {
        Self {
            config: config.clone(),
            decoder: Decoder::new(decoder, device),
            member,
            data,
        }
    }

    /// The text, where there is some.
    pub fn data(&self) -> Option<&Dataset> {
        self.data.as_ref()
    }
}

impl Trainer for LanguageTrainer {
    fn layout(&self) -> &Layout {
        self.decoder.layout()
    }

    fn initial_parameters(&mut self) -> Vec<f32> {
        self.decoder.initial_parameters(self.config.seed)
    }

    fn train(
        &mut self,
        round: u64,
        start: &[f32],
        progress: &mut dyn FnMut(Progress) -> Continue,
    ) -> Result<Trained, TrainError> {
        let layout = self.decoder.layout();
        TrainError::check_length(layout, start)?;
        let data = self.data.as_ref().ok_or(TrainError::NoData)?;
        let OptimizerConfig::AdamW(adamw) = self.config.optimizer;
        let (steps, sequences) = (self.config.local_steps, self.config.batch_sequences as usize);
        let context = self.decoder.config().context as usize;

        let began = Instant::now();
        let mut optimizer = AdamW::new(adamw, layout);
        let mut parameters = start.to_vec(); // [P]
        let mut gradient = vec![0.0; parameters.len()]; // [P]
        let mut batch = Vec::new();
        let (mut loss_sum, mut tokens) = (0f64, 0u64);
        for step in 0..steps {
            let name = StreamName {
                purpose: "training batch",
                seed: self.config.seed,
                member: self.member,
                round,
                step: u64::from(step),
            };
            data.training_batch(name, sequences, &mut batch); // [B, T + 1] bytes
            let loss = self
                .decoder
                .loss_and_gradient(&parameters, &batch, context + 1, &mut gradient)?;
            let norm = clip_global_norm(&mut gradient, self.config.gradient_clip);
            if !(loss.is_finite() && norm.is_finite()) {
                return Err(TrainError::Diverged {
                    round,
                    step: step + 1,
                    loss,
                });
            }
            let steps_before = (round.max(1) - 1) * u64::from(steps);
            let rate = adamw.learning_rate * self.config.schedule.factor(steps_before + u64::from(step));
            optimizer.step(layout, rate, &mut parameters, &gradient);

            loss_sum += f64::from(loss);
            tokens += (sequences * context) as u64;
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
        let train_loss = (loss_sum / f64::from(steps)) as f32;
        Ok(Trained {
            parameters,
            train_loss,
            tokens,
            steps,
            wall_ms: began.elapsed().as_millis() as u64,
        })
    }

    fn evaluate(&mut self, parameters: &[f32]) -> Result<Evaluation, TrainError> {
        match &self.data {
            None => Ok(Evaluation {
                loss: f32::NAN,
                tokens: 0,
            }),
            Some(data) => heldout_loss(
                &self.decoder,
                data,
                self.config.evaluation_sequences as usize,
                parameters,
            ),
        }
    }
}
