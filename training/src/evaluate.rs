//! The loss on held-out windows, on whole documents and on continuations, in small batches.
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

/// Tokens in a batch of documents: as many as sixteen windows of a thousand.
const TOKENS_AT_ONCE: usize = 16 * 1024;

/// The loss on whole documents: every token but a document's first is predicted once, from the tokens before it in the
/// document, a context's length of them at the most. Short documents share rows, and do not see each other.
pub struct DocumentLoss<'a> {
    decoder: &'a Decoder,
    parameters: &'a [f32],
    rows: Vec<PackedRow>,
    sum: LossSum,
}

/// A row of pieces of documents.
#[derive(Default)]
struct PackedRow {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    starts: Vec<u32>,
}

impl<'a> DocumentLoss<'a> {
    /// Nothing measured yet.
    pub fn new(decoder: &'a Decoder, parameters: &'a [f32]) -> Result<Self, TrainError> {
        TrainError::check_length(decoder.layout(), parameters)?;
        Ok(Self {
            decoder,
            parameters,
            rows: Vec::new(),
            sum: LossSum::default(),
        })
    }

    /// Adds a document. A single token has nothing to be predicted from.
    pub fn add(&mut self, document: &[u32]) -> Result<(), TrainError> {
        let context = self.decoder.shape().context;
        let mut first = 0;
        while first + 1 < document.len() {
            let end = (first + context).min(document.len() - 1);
            self.place(&document[first..end], &document[first + 1..=end])?;
            first = end;
        }
        Ok(())
    }

    fn place(&mut self, tokens: &[u32], targets: &[u32]) -> Result<(), TrainError> {
        let context = self.decoder.shape().context;
        let fits = |row: &PackedRow| row.tokens.len() + tokens.len() <= context;
        if !self.rows.last().is_some_and(fits) {
            if self.rows.len() >= (TOKENS_AT_ONCE / context).max(1) {
                self.measure()?;
            }
            self.rows.push(PackedRow::default());
        }
        let row = self.rows.last_mut().expect("there is a row that it fits in");
        let start = row.tokens.len() as u32;
        row.tokens.extend_from_slice(tokens);
        row.targets.extend_from_slice(targets);
        row.starts.extend(tokens.iter().map(|_| start));
        Ok(())
    }

    /// Measures the rows that wait, all as long as the longest: what is filled up counts nothing.
    fn measure(&mut self) -> Result<(), TrainError> {
        let length = self.rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        if length == 0 {
            return Ok(());
        }
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        let (mut weights, mut starts) = (Vec::new(), Vec::new());
        for mut row in self.rows.drain(..) {
            weights.extend((0..length).map(|at| if at < row.tokens.len() { 1.0 } else { 0.0 }));
            row.starts.extend(row.starts.len() as u32..length as u32);
            row.tokens.resize(length, 0);
            row.targets.resize(length, 0);
            tokens.append(&mut row.tokens);
            targets.append(&mut row.targets);
            starts.append(&mut row.starts);
        }
        let batch = Batch {
            length,
            tokens,
            targets,
            weights: Some(weights),
            starts: Some(starts),
        };
        self.sum += self.decoder.loss(self.parameters, &batch)?;
        Ok(())
    }

    /// Tokens that were predicted so far.
    pub fn tokens(&self) -> u64 {
        self.sum.weight as u64
    }

    /// The sum over all documents.
    pub fn finish(mut self) -> Result<LossSum, TrainError> {
        self.measure()?;
        Ok(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::DecoderConfig;

    #[test]
    fn documents_that_share_rows_cost_what_each_costs_alone() {
        let config = DecoderConfig {
            layers: 1,
            heads: 2,
            width: 16,
            context: 12,
            ..DecoderConfig::default()
        };
        let decoder = Decoder::new(&config, Device::flex());
        let parameters = decoder.initial_parameters(1);
        let document = |length: u32| (0..length).map(|i| (i * i + length) % 251).collect::<Vec<u32>>();
        let documents: Vec<Vec<u32>> = [5, 1, 0, 3, 13, 30, 2, 12, 7].map(document).to_vec();
        let mut together = DocumentLoss::new(&decoder, &parameters).unwrap();
        let mut alone = LossSum::default();
        for document in &documents {
            together.add(document).unwrap();
            // Pieces of the context's length, each beginning with the last token of the one before.
            for first in (0..document.len().saturating_sub(1)).step_by(12) {
                let piece = &document[first..document.len().min(first + 13)];
                alone += continuation_loss(&decoder, &parameters, piece, 1).unwrap();
            }
        }
        let together = together.finish().unwrap();
        let predicted: usize = documents.iter().map(|document| document.len().saturating_sub(1)).sum();
        assert_eq!((together.weight, alone.weight), (predicted as f64, predicted as f64));
        assert!(
            (together.weighted_nll / alone.weighted_nll - 1.0).abs() < 1e-6,
            "{together:?} {alone:?}"
        );
    }

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
