//! What a session does to the loss of each token: weights, masks, the places where documents begin, and the two sums.
//! Plain functions over slices of tokens; logits, gradients and attention are the model's, which takes a
//! [`Batch`](crate::data::Batch) with what is computed here.
//!
//! A mask is a pure function of token content and configuration, so that any member can compute it again. The loss of
//! members is combined as the pair (Σ w·nll, Σ w), never as a mean of means.

mod documents;
mod goldfish;
mod loss;

pub use documents::{document_starts, mask_after_eod, positions};
pub use goldfish::{GoldfishConfig, GoldfishMode, mask_goldfish};
pub use loss::{LossConfig, LossSum};
