//! The sizes and masks that a session cuts its data by.
//! It holds no data.

use crate::config::{TrainingConfig, Vocabulary};
use crate::objectives::LossConfig;

/// How a session cuts its members' data into rows; the same for all members.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windows {
    /// Tokens that a row predicts; it is read with one more.
    pub context: usize,
    /// The share of documents that is held out.
    pub heldout_fraction: f32,
    /// What a token is.
    pub vocabulary: Vocabulary,
    /// Which tokens count.
    pub loss: LossConfig,
}

/// Fewer tokens than this many rows are refused: a held-out loss on less would be mostly noise.
const LEAST_ROWS: usize = 64;

/// A token is this many bytes of English text for common tokenizers; only told to people.
const BYTES_PER_TOKEN: u64 = 4;

impl Windows {
    /// The sizes of a session whose rows are `context` tokens long.
    pub fn of(config: &TrainingConfig, context: usize) -> Self {
        let shape = config.model.decoder_shape();
        Self {
            context,
            heldout_fraction: config.heldout_fraction,
            vocabulary: shape.map_or(Vocabulary::Byte, |shape| shape.vocabulary),
            loss: config.loss,
        }
    }

    /// The least tokens that can be split.
    pub fn least_tokens(&self) -> u64 {
        (LEAST_ROWS * (self.context + 1)) as u64
    }

    /// The least text that can be split: exact for bytes, about right for tokenizers.
    pub fn least_bytes(&self) -> u64 {
        match self.vocabulary {
            Vocabulary::Byte => self.least_tokens(),
            Vocabulary::Tokenizer(_) => self.least_tokens() * BYTES_PER_TOKEN,
        }
    }

    /// The least length of a piece of plain text, in bytes: two rows, so that small texts have several pieces, but no more
    /// than 4 KiB.
    pub fn piece_bytes(&self) -> usize {
        (2 * (self.context + 1)).clamp(64, 4096)
    }
}
