//! Models, one a file: their layout and initial parameters in plain Rust, their arithmetic on burn.
//! They see flat slices from outside; neither optimizers nor data know which model it is.

pub mod decoder_layout;

#[cfg(feature = "engine")]
pub mod decoder;
#[cfg(feature = "engine")]
mod decoder_leaves;
#[cfg(feature = "engine")]
mod fused;
#[cfg(feature = "engine")]
pub(crate) mod operations;
