//! What a language model computes one loss on: rows of tokens of one length, and what is known about each token.
//! It owns plain numbers; it neither reads text nor knows a device.

use std::ops::Range;

/// Rows of tokens, one after the other. All fields are row-major `[rows, length]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Tokens in a row, T.
    pub length: usize,
    /// What the model sees: `[B, T]`.
    pub tokens: Vec<u32>,
    /// The token to predict after each: `[B, T]`.
    pub targets: Vec<u32>,
    /// What each target counts in the loss, finite and not negative: `[B, T]`. `None`: each counts 1.
    pub weights: Option<Vec<f32>>,
    /// The place in its row at which each token's document begins: `[B, T]`. Token `i` of a row sees `starts[i]..=i` and
    /// stands at position `i - starts[i]`. `None`: every row is one document.
    pub starts: Option<Vec<u32>>,
}

impl Batch {
    /// A batch out of rows of `length + 1` tokens, each token but the first being the target of the one before.
    pub fn of_windows(windows: &[u32], length: usize) -> Self {
        assert_eq!(windows.len() % (length + 1), 0, "whole windows");
        let mut batch = Self {
            length,
            ..Self::default()
        };
        windows
            .chunks_exact(length + 1)
            .for_each(|window| batch.push_window(window));
        batch
    }

    /// Adds one row of `length + 1` tokens to a batch without weights and starts.
    pub fn push_window(&mut self, window: &[u32]) {
        assert_eq!(window.len(), self.length + 1, "a row and the token after it");
        self.tokens.extend_from_slice(&window[..self.length]);
        self.targets.extend_from_slice(&window[1..]);
    }

    /// Rows, B.
    pub fn rows(&self) -> usize {
        self.tokens.len().checked_div(self.length).unwrap_or(0)
    }

    /// Σ w: what the loss is divided by.
    pub fn weight(&self) -> f64 {
        match &self.weights {
            None => self.targets.len() as f64,
            Some(weights) => weights.iter().map(|weight| f64::from(*weight)).sum(),
        }
    }

    /// The rows as windows of `length + 1` bytes, for a model over bytes that counts all tokens alike; `None` where tokens are
    /// no bytes or have weights or documents.
    pub fn byte_windows(&self) -> Option<Vec<u8>> {
        if self.weights.is_some() || self.starts.is_some() || self.length == 0 {
            return None;
        }
        let rows = self
            .tokens
            .chunks_exact(self.length)
            .zip(self.targets.chunks_exact(self.length));
        let windows = rows.flat_map(|(tokens, targets)| tokens.iter().chain(targets.last()));
        windows.map(|token| u8::try_from(*token).ok()).collect()
    }

    /// Some of the rows, as a micro-batch.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let range = rows.start * self.length..rows.end * self.length;
        Self {
            length: self.length,
            tokens: self.tokens[range.clone()].to_vec(),
            targets: self.targets[range.clone()].to_vec(),
            weights: self.weights.as_ref().map(|all| all[range.clone()].to_vec()),
            starts: self.starts.as_ref().map(|all| all[range].to_vec()),
        }
    }

    /// Refuses what a model must not be given: ragged fields, foreign tokens, weights that are none, starts that lie ahead.
    pub fn check(&self, vocabulary: usize) -> Result<(), BatchError> {
        let count = self.tokens.len();
        let whole = self.length > 0 && count.is_multiple_of(self.length) && self.targets.len() == count;
        let fields = [
            self.weights.as_ref().map_or(count, Vec::len),
            self.starts.as_ref().map_or(count, Vec::len),
        ];
        if !whole || fields != [count, count] {
            return Err(BatchError::Ragged);
        }
        let foreign = |token: &&u32| **token as usize >= vocabulary;
        if let Some(token) = self.tokens.iter().chain(&self.targets).find(foreign) {
            return Err(BatchError::Foreign {
                token: *token,
                vocabulary,
            });
        }
        let bad = |weight: &&f32| !(weight.is_finite() && **weight >= 0.0);
        if let Some(weight) = self.weights.iter().flatten().find(bad) {
            return Err(BatchError::Weight { weight: *weight });
        }
        for row in self.starts.iter().flat_map(|starts| starts.chunks(self.length)) {
            let ahead = row.iter().enumerate().any(|(at, start)| *start as usize > at);
            if ahead || !row.is_sorted() {
                return Err(BatchError::Starts);
            }
        }
        Ok(())
    }
}

/// Why a batch is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// The fields do not fit each other.
    #[error("the batch is ragged: tokens, targets, weights and starts must be rows of one length")]
    Ragged,
    /// A token beyond the vocabulary.
    #[error(
        "token {token} is not among the {vocabulary} of the session's vocabulary: the data was cut by another tokenizer"
    )]
    Foreign {
        /// The token.
        token: u32,
        /// Tokens that there are.
        vocabulary: usize,
    },
    /// A weight that cannot be summed.
    #[error("a token's weight is {weight}, but it must be finite and not negative")]
    Weight {
        /// The weight.
        weight: f32,
    },
    /// A document that begins behind one of its tokens.
    #[error("a token's document begins after the token itself")]
    Starts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_become_tokens_and_the_tokens_after_them() {
        let batch = Batch::of_windows(&[1, 2, 3, 4, 5, 6], 2);
        assert_eq!((batch.rows(), batch.weight()), (2, 4.0));
        assert_eq!(
            (batch.tokens.as_slice(), batch.targets.as_slice()),
            (&[1, 2, 4, 5][..], &[2, 3, 5, 6][..])
        );
        assert_eq!(batch.slice(1..2), Batch::of_windows(&[4, 5, 6], 2));
        assert_eq!(Batch::default().rows(), 0);
        assert_eq!(batch.byte_windows(), Some(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(Batch::of_windows(&[1, 256], 1).byte_windows(), None);
    }

    #[test]
    fn what_no_model_must_see_is_refused() {
        let good = Batch {
            weights: Some(vec![0.0, 0.5]),
            starts: Some(vec![0, 1]),
            ..Batch::of_windows(&[1, 2, 3], 2)
        };
        assert_eq!((good.check(4), good.weight()), (Ok(()), 0.5));
        let check = |change: &dyn Fn(&mut Batch)| {
            let mut batch = good.clone();
            change(&mut batch);
            batch.check(4).unwrap_err()
        };
        assert_eq!(check(&|b| b.length = 0), BatchError::Ragged);
        assert_eq!(check(&|b| b.weights = Some(vec![1.0])), BatchError::Ragged);
        assert!(matches!(
            check(&|b| b.targets[1] = 4),
            BatchError::Foreign { token: 4, .. }
        ));
        assert!(matches!(
            check(&|b| b.weights = Some(vec![1.0, f32::NAN])),
            BatchError::Weight { .. }
        ));
        assert_eq!(check(&|b| b.starts = Some(vec![1, 1])), BatchError::Starts);
        assert_eq!(check(&|b| b.starts = Some(vec![0, 2])), BatchError::Starts);
    }
}
