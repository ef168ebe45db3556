//! The loss on held-out windows, in small batches.
//! It measures language models only, and nothing but their loss.

use crate::data::{Batch, Dataset};
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
/// The loss of `tokens[given..]` after the tokens before them, each counting 1: minus the log-likelihood of a continuation.
/// Of what is longer than the model's context, the beginning is left out.
///
/// # Panics
/// When there are fewer than two tokens.
pub fn continuation_loss(
    decoder: &Decoder,
    parameters: &[f32],
    tokens: &[u32],
    given: usize,
) -> Result<LossSum, TrainError> {
    let cut = tokens.len().saturating_sub(decoder.shape().context + 1);
    let (tokens, given) = (&tokens[cut..], given.saturating_sub(cut).max(1));
    let mut batch = Batch::of_windows(tokens, tokens.len() - 1);
    batch.weights = Some(
        (1..tokens.len())
            .map(|at| if at >= given { 1.0 } else { 0.0 })
            .collect(),
    );
    decoder.loss(parameters, &batch)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::DecoderConfig;

    #[test]
    fn a_text_costs_what_its_beginning_and_its_continuation_cost() {
        let config = DecoderConfig {
            layers: 1,
            heads: 2,
            width: 16,
            context: 12,
            ..DecoderConfig::default()
        };
        let decoder = Decoder::new(&config, Device::flex());
        let parameters = decoder.initial_parameters(1);
        let tokens: Vec<u32> = (0..13).map(|i| i * i % 251).collect();
        let nll = |tokens: &[u32], given| continuation_loss(&decoder, &parameters, tokens, given).unwrap();
        let whole = nll(&tokens, 1);
        let parts = nll(&tokens[..6], 1).weighted_nll + nll(&tokens, 6).weighted_nll;
        assert_eq!((whole.weight, nll(&tokens, 6).weight), (12.0, 7.0));
        assert!((whole.weighted_nll - parts).abs() < 1e-4, "{whole:?} {parts}");
        // What is too long loses its beginning.
        let long: Vec<u32> = (100..140).chain(tokens.iter().copied()).collect();
        assert_eq!(nll(&long, 46), nll(&tokens, 6));
    }
}
