//! The loss on held-out windows, in small batches.
//! It measures language models only, and nothing but their loss.

use crate::data::Dataset;
use crate::models::decoder::Decoder;
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
    let window = decoder.config().context as usize + 1;
    let (mut sum, mut tokens) = (0f64, 0u64);
    for rows in data.heldout_rows(most_windows).chunks(WINDOWS_AT_ONCE) {
        let batch = data.heldout_batch(rows).map_err(TrainError::data)?;
        let predicted = rows.len() * (window - 1);
        let windows = batch.byte_windows().ok_or_else(TrainError::only_bytes)?;
        sum += f64::from(decoder.loss(parameters, &windows, window)?) * predicted as f64;
        tokens += predicted as u64;
    }
    Ok(Evaluation {
        loss: (sum / tokens as f64) as f32,
        tokens,
    })
}
