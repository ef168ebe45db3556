//! Models in GGUF files, in and out: one file with metadata, tokenizer and perhaps quantised weights, as llama.cpp has them.
//! It knows the architecture `llama` alone, decodes all weights to f32, and refuses what it would compute differently.
//!
//! The format is that of the ggml project's `docs/gguf.md`, versions 2 and 3, little-endian.

mod file;
mod llama;
mod quantisation;
mod vocabulary;
mod write;

use std::path::{Path, PathBuf};

pub use llama::{GgufModel, import_gguf};
pub use write::{GgufPrecision, export_gguf};

/// Why a GGUF file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file system refused.
    #[error("{path} cannot be written or read: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The bytes are no such file, or end before they should.
    #[error("{path} is damaged, or no GGUF file: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// A sound file of something that is not computed here.
    #[error("{path} holds a model that cannot be used here: {what}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// What was to be written has no form in GGUF.
    #[error("{0}")]
    NotWritable(String),
    /// Something is there already.
    #[error("{path} exists: choose another name, or remove it first")]
    Occupied {
        /// Where the file should go.
        path: PathBuf,
    },
}

/// Whether a file begins as GGUF files do.
pub fn is_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == file::MAGIC
}
