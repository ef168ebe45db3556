//! Models, one a file: their layout and initial parameters in plain Rust; what decoders share in arithmetic is on burn.
//! They see flat slices from outside; neither optimizers nor data know which model it is.

pub mod apertus;
mod initial;
pub mod llama;
pub mod network;
pub(crate) mod numeric;
pub mod presets;
pub mod shape;

#[cfg(feature = "engine")]
pub mod data_parallel;
#[cfg(feature = "engine")]
pub mod decoder;
#[cfg(feature = "engine")]
pub(crate) mod fused;
#[cfg(feature = "engine")]
pub mod incremental;
#[cfg(feature = "engine")]
mod leaves;
#[cfg(feature = "engine")]
pub(crate) mod operations;

pub use shape::{Architecture, DecoderShape, RotaryConfig, RotaryScaling};
