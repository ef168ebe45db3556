//! The one trait of this crate: whatever turns agreed parameters and local data into better parameters.
//! It knows nothing of sessions, encodings, digests or peers; the worker adds those.

use crate::data::DataSummary;
use crate::layout::Layout;
use crate::optimizers::StateError;

/// Makes local progress from agreed parameters, and measures parameters on held-out data.
///
/// All parameters are one flat slice, in the order of [`Trainer::layout`].
pub trait Trainer: Send {
    /// Names, shapes and places of the parameters in the flat slice.
    fn layout(&self) -> &Layout;

    /// The parameters that the session starts from: the same bits on every member and machine.
    fn initial_parameters(&mut self) -> Vec<f32>;

    /// Takes the local steps of one round. The result depends on the session, the member, its data and `local` alone, so
    /// that a restarted member repeats it.
    fn train(
        &mut self,
        local: LocalRound<'_>,
        progress: &mut dyn FnMut(Progress) -> Continue,
    ) -> Result<Trained, TrainError>;

    /// Whether these bytes are the state of this session's inner optimizer, as [`Trained::optimizer`] gives it.
    fn check_optimizer(&self, bytes: &[u8]) -> Result<(), StateError>;

    /// The loss of `parameters` on this institution's held-out data.
    fn evaluate(&mut self, parameters: &[f32]) -> Result<Evaluation, TrainError>;

    /// What this institution's text has come to, for the operator; none where the trainer has no text.
    fn data_summary(&self) -> Option<DataSummary> {
        None
    }
}

/// What a round asks of a trainer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalRound<'a> {
    /// The round, from 1.
    pub round: u64,
    /// The agreed parameters to start from, [P].
    pub start: &'a [f32],
    /// The inner optimizer's state after this member's last round, which [`Trainer::check_optimizer`] has passed; empty:
    /// it begins afresh.
    pub optimizer: &'a [u8],
    /// Local steps, where the session lets members take them by their speed; none: the session's number.
    pub steps: Option<u32>,
    /// Sequences that this member has consumed in its rounds before, as [`Trained::consumed`] said; none: not known.
    pub consumed: Option<u64>,
}

impl<'a> LocalRound<'a> {
    /// A round from `start` with a fresh optimizer.
    pub fn of(round: u64, start: &'a [f32]) -> Self {
        Self {
            round,
            start,
            optimizer: &[],
            steps: None,
            consumed: None,
        }
    }
}

/// Where the local steps are; reported after each of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Local steps done.
    pub step: u32,
    /// Local steps in all.
    pub steps: u32,
    /// Loss of the batch of this step, in nats a token, before the step was taken.
    pub loss: f32,
    /// Tokens (or samples) seen in this round so far.
    pub tokens: u64,
    /// Tokens a second of this round so far; `None` where time is virtual.
    pub tokens_per_second: Option<f32>,
}

/// The listener's answer to a [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continue {
    /// Take the next step.
    Go,
    /// Give up this round: the result is no longer wanted.
    Stop,
}

/// Where the local steps led.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The parameters after the last local step.
    pub parameters: Vec<f32>,
    /// Mean of the steps' batch losses, in nats a token.
    pub train_loss: f32,
    /// Tokens (or samples) seen.
    pub tokens: u64,
    /// Local optimizer steps taken.
    pub steps: u32,
    /// Time it took in milliseconds: measured by real trainers, made up (but repeatable) by synthetic ones.
    pub wall_ms: u64,
    /// The inner optimizer's state for the member's next round; empty where the session lets it begin afresh.
    pub optimizer: Vec<u8>,
    /// Sequences that the member has consumed in all its rounds; none where the round's number tells it.
    pub consumed: Option<u64>,
}

/// A loss and how much data it was measured on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean loss in nats a token; NaN where there is no held-out data.
    pub loss: f32,
    /// Tokens (or samples) that were measured; 0 where there is no held-out data.
    pub tokens: u64,
}

/// Why a trainer has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The listener answered [`Continue::Stop`].
    #[error("training of round {round} was stopped after {step} of {steps} steps, as asked")]
    Stopped {
        /// The round that was given up.
        round: u64,
        /// Steps done by then.
        step: u32,
        /// Steps in all.
        steps: u32,
    },
    /// The loss or the parameters are no longer finite numbers.
    #[error("training of round {round} diverged at step {step}: the loss is {loss}; lower the session's learning rate")]
    Diverged {
        /// The round that failed.
        round: u64,
        /// The step at which it was noticed.
        step: u32,
        /// The loss of that step.
        loss: f32,
    },
    /// The slice is not of this session's model.
    #[error("got {got} parameters but the session's model has {expected}: the state is of another model")]
    WrongLength {
        /// Parameters of the model.
        expected: usize,
        /// Parameters that were given.
        got: usize,
    },
    /// The batch is none.
    #[error(transparent)]
    Batch(#[from] crate::data::BatchError),
    /// A row is longer than the model can look back.
    #[error("a row of {length} tokens is longer than the model's context of {context}: cut it")]
    RowTooLong {
        /// Tokens in the row.
        length: usize,
        /// The context.
        context: usize,
    },
    /// A trainer that was built without data.
    #[error("this member has no data to train on: join with --data PATH")]
    NoData,
    /// The optimizer's state is of another session.
    #[error(transparent)]
    Optimizer(#[from] StateError),
    /// The data can no longer be read.
    #[error("the training data failed: {0}")]
    Data(String),
    /// No noise can be made.
    #[error("examples cannot be protected, so nothing was trained: {0}")]
    Privacy(String),
    /// The engine (burn, the device) failed.
    #[error("the training engine failed: {0}")]
    Engine(String),
}

impl TrainError {
    /// The data's failure, in its own words.
    pub fn data(error: impl std::fmt::Display) -> Self {
        Self::Data(error.to_string())
    }

    /// Refuses a flat slice of the wrong length.
    pub fn check_length(layout: &Layout, parameters: &[f32]) -> Result<(), Self> {
        match parameters.len() == layout.len() {
            true => Ok(()),
            false => Err(Self::WrongLength {
                expected: layout.len(),
                got: parameters.len(),
            }),
        }
    }
}
