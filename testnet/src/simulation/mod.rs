//! The simulated driver: the node's machine and worker under virtual time, where one seed decides everything.
//! No thread, socket, file or clock is used in a run; two runs of a seed give one event-log digest.

pub mod adversary;
pub mod blobs;
pub mod checkers;
pub mod compute;
pub mod dice;
mod ending;
pub mod faults;
pub mod network;
mod outputs;
pub mod peer;
pub mod report;
pub mod scenario;
mod trouble;
mod work;
pub mod world;

pub use checkers::Checker;
pub use report::{Report, Verdict};
pub use scenario::{Overrides, Scenario, ScenarioError};
pub use world::run;
