//! Text in, batches of byte tokens out: documents, a deterministic held-out split, seeded windows.
//! It keeps the text in memory and has neither filters nor tokenizers yet.
//!
//! Documents are joined to one stream with a byte 0 between them. The stream is cut into blocks; a block is held out when
//! the BLAKE3 of its bytes says so, hence a block that two institutions share is held out at both. Windows for
//! training lie wholly within runs of training blocks, windows for evaluation within held-out ones: they share no byte.

mod batch;
mod documents;
mod windows;

pub use batch::{Batch, BatchError};
pub use documents::{DOCUMENT_SEPARATOR, Documents, read_documents};
pub use windows::{Dataset, Windows};

use std::path::PathBuf;

/// Why data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Nothing is there.
    #[error("the data path {path} does not exist: check it for typing errors")]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("the data file {path} cannot be read: {reason}")]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A folder without text files.
    #[error("the folder {path} holds no .txt, .md or .jsonl file: give a folder that does, or a single text file")]
    NoTextFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A line of JSON Lines is no JSON object with a text.
    #[error("line {line} of {path} is not a JSON object with a string under `text`: correct or remove the line")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// Files without a byte of text.
    #[error("{path} holds no text at all: give a path with at least {needed} bytes of text")]
    Empty {
        /// What was asked for.
        path: PathBuf,
        /// Bytes that the session needs.
        needed: u64,
    },
    /// Not enough text to train and to evaluate.
    #[error("{path} holds {found} bytes of text but this session needs at least {needed}: add text")]
    TooSmall {
        /// What was asked for.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes that the session needs.
        needed: u64,
    },
}
