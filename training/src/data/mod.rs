//! Data in, batches of tokens out: documents of many formats, tokenizers, a split by content, seeded shuffling.
//! It filters and deduplicates nothing, and never sends a document anywhere.
//!
//! Files → documents with metadata ([`readers`](self)) → tokens, kept in memory or on disk → two sides, by the documents'
//! hashes → rows, in an order that is a function of seed, member and position → [`Batch`]. What can be read around is
//! counted and named in a [`DataReport`]; what cannot is a [`DataError`].

mod batch;
#[cfg(feature = "text")]
mod dataset;
#[cfg(feature = "text")]
mod document;
mod options;
#[cfg(feature = "text")]
mod permutation;
#[cfg(feature = "text")]
mod pieces;
#[cfg(feature = "text")]
mod prefetch;
#[cfg(feature = "text")]
mod readers;
mod report;
#[cfg(feature = "text")]
mod split;
#[cfg(feature = "text")]
mod store;
#[cfg(feature = "text")]
mod tokenizer;
#[cfg(feature = "text")]
mod whole;
mod windows;

pub use batch::{Batch, BatchError};
#[cfg(feature = "text")]
pub use dataset::{BuildProgress, Dataset, Order};
#[cfg(feature = "text")]
pub use document::{Content, Document, Metadata};
pub use options::DataOptions;
#[cfg(feature = "text")]
pub use permutation::Permutation;
#[cfg(feature = "text")]
pub use prefetch::Prefetch;
#[cfg(feature = "text")]
pub use readers::{Cut, LINE_BYTES_MAX, METADATA_BYTES_MAX, Sink, SourceFile, list_files, read_files};
pub use report::{DataReport, DataSummary, Met, Problem};
#[cfg(feature = "text")]
pub use store::unused_tokens;
#[cfg(feature = "text")]
pub use tokenizer::{TOKENIZER_BYTES_MAX, Tokenizer, TokenizerError, WordCache, train_byte_pairs};
#[cfg(feature = "text")]
pub use whole::{DOCUMENT_SEPARATOR, Documents, Sample, read_documents, sample_documents, tokens_of_documents};
pub use windows::Windows;

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
    /// Tokens cannot be kept.
    #[error("tokens cannot be kept in {path}: {reason}")]
    Unwritable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A folder without files of a known kind.
    #[error(
        "the folder {path} holds no .txt, .md, .jsonl, .parquet, .u16, .u32 or .bin file (.gz and .zst of text are read \
         too): give a folder that does, or a single file"
    )]
    NoKnownFiles {
        /// The folder.
        path: PathBuf,
    },
    /// Kept tokens that are no longer whole.
    #[error("the kept tokens {path} are cut off or damaged: delete the folder, they are made again at the next start")]
    ShardShrunk {
        /// The file.
        path: PathBuf,
    },
    /// Nothing to use.
    #[error("{path} holds no text at all: give a path with at least {needed} bytes of text ({report})")]
    Empty {
        /// What was asked for.
        path: PathBuf,
        /// Bytes that the session needs.
        needed: u64,
        /// What was read.
        report: Box<DataReport>,
    },
    /// So much is damaged that what is left cannot be what was meant.
    #[error(
        "{path}: {left_out} of {all} documents are damaged and would be left out, more than a tenth: mend the data, or give a \
         path without them ({report})"
    )]
    Damaged {
        /// What was asked for.
        path: PathBuf,
        /// Documents that would be left out.
        left_out: u64,
        /// These and the others.
        all: u64,
        /// What was read.
        report: Box<DataReport>,
    },
    /// Not enough text to train and to evaluate.
    #[error("{path} holds {found} bytes of text but this session needs at least {needed}: add text ({report})")]
    TooSmall {
        /// What was asked for.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes that the session needs.
        needed: u64,
        /// What was read.
        report: Box<DataReport>,
    },
    /// Not enough tokens to train and to evaluate.
    #[error("{path} holds {found} tokens but this session needs at least {needed}: add text ({report})")]
    TooFewTokens {
        /// What was asked for.
        path: PathBuf,
        /// Tokens found.
        found: u64,
        /// Tokens that the session needs.
        needed: u64,
        /// What was read.
        report: Box<DataReport>,
    },
    /// Too few documents for two sides.
    #[error(
        "{path} holds {documents} document(s), which cannot be split into a part for training and one held out of a row \
         each: give more documents, or long ones as plain text"
    )]
    CannotSplit {
        /// What was asked for.
        path: PathBuf,
        /// Documents found.
        documents: usize,
    },
    /// The tokenizer cannot be used.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
