//! What a faulty or malicious member may send, as plain functions over slices, for tests, simulations and drills.
//! Unreachable from a session: no config names an attack, and nothing in the node's own path calls this module.

pub mod gaussian;
pub mod scaled;
pub mod sign_flip;

pub use gaussian::gaussian;
pub use scaled::scaled;
pub use sign_flip::sign_flip;
