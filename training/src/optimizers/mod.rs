//! Inner optimizers over flat slices, one a file, and the clipping of their gradients.
//! They know roles and ranges of parameters but neither models nor devices.

mod adamw;
mod clip;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::clip_global_norm;
