//! Models as files that other programs read: Hugging Face folders, out and (our own) back in.
//! It converts no precisions and knows no network; it writes a folder whole or not at all.

mod byte_tokenizer;
mod hugging_face;

pub use hugging_face::{ExportError, export_hugging_face, import_parameters, read_training};
