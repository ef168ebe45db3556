//! Models as files that other programs read: Hugging Face folders and GGUF files, in and out.
//! It knows no network; it writes a folder whole or not at all, and refuses what it would compute differently.

mod byte_tokenizer;
mod gguf;
mod hugging_face;
mod model_config;
mod weights;

pub use gguf::{GgufError, GgufModel, GgufPrecision, export_gguf, import_gguf, is_gguf};
pub use hugging_face::{
    ExportError, ExportOptions, export_hugging_face, export_model, import_model, import_parameters, read_training,
};
pub use model_config::read_model_config;
pub use weights::Precision;
