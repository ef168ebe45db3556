//! A Synod node: the real driver of the protocol's machines, its network, its door and its command line.
//! It decides nothing about rounds: machines do (`synod-protocol`); it carries what they want to the world and back.
//!
//! Where to read: `cli` and `commands` are what an operator types; `node` starts and stops everything; `driver` owns the
//! machines, `effects` carries out what they want, `compute` is their workers' threads, `network` their peers, `api` the
//! operator's door.

pub mod address_book;
pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod compute;
pub mod data_dir;
pub mod driver;
pub mod effects;
pub mod events_log;
pub mod failure;
pub mod invite_book;
pub mod joining;
pub mod network;
pub mod node;
pub mod readable;
pub mod recorder;
pub mod requirements;
pub mod rounds;
pub mod session_data;
pub mod session_runtime;
pub mod settled_chain;
pub mod shutdown;
pub mod telemetry;
