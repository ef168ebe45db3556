//! The loss on held-out windows, in small batches.
//! It measures language models only, and nothing but their loss.

use crate::data::Dataset;
use crate::models::decoder::Decoder;
use crate::objectives::LossSum;
use crate::trainer::{Evaluation, TrainError};

/// Windows in a batch: enough to fill the processor, small enough to stay in its caches.
const WINDOWS_AT_ONCE: usize = 16;

/// The mean loss over at most `most_windows` held-out windows, every predicted token counting the same.
pub fn heldout_loss(
    decoder: &Decoder,
    data: &Dataset,
    most_windows: usize,
    parameters: &[f32],
) -> Result<Evaluation, TrainError> {
    TrainError::check_length(decoder.layout(), parameters)?;
    let mut sum = LossSum::default();
    for rows in data.heldout_rows(most_windows).chunks(WINDOWS_AT_ONCE) {
        let batch = data.heldout_batch(rows).map_err(TrainError::data)?;
        sum += decoder.loss(parameters, &batch)?;
    }
    Ok(Evaluation {
        loss: sum.mean() as f32,
        tokens: sum.weight as u64,
    })
}
