//! What a peer must remember: its sessions and journal, its blobs, its checkpoints and its key.
//! It decides nothing: what is worth keeping is the machine's and the operator's business.

pub mod blobs;
pub mod checkpoint;
mod codec;
pub mod conformance;
pub mod error;
mod files;
pub mod keys;
mod late_sync;
pub mod lock;
pub mod member_states;
pub mod members;
pub mod memory_blobs;
pub mod memory_store;
pub mod retention;
#[cfg(feature = "rocks")]
pub mod rocks_store;
pub mod store;
