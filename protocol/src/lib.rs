//! What peers of a session say and decide: identities, messages, and the pure state machine that handles them.
//! This crate has no clock, socket, disk, tensor, thread or source of randomness; its drivers bring all of these.

pub mod contract;
pub mod deadline;
pub mod event;
pub mod graph;
mod heard;
pub mod identity;
pub mod invite;
mod joining;
pub mod journal;
pub mod limits;
pub mod machine;
mod machine_restart;
mod machine_status;
pub mod message;
pub mod pace;
pub mod recording;
pub mod reject;
pub mod reputation;
mod round;
pub mod session;
pub mod shard;
pub mod signed;
pub mod status;
pub mod sum;
pub mod task;
pub mod topology;
