//! The test network: the simulated driver of machines and workers, and what the `testnet` binary does with it.
//! It is no part of a node; a node never links it.

pub mod cli;
pub mod containers;
pub mod demo;
pub mod processes;
pub mod replay;
pub mod reproduce;
pub mod simulation;
