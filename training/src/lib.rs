//! Everything a peer computes: local training steps, held-out evaluation, and the worker that turns tasks into results.
//! It knows no sockets, stores, clocks of the protocol or other peers; burn is used here and nowhere else.
//!
//! Everything speaks of parameters as one flat `f32` slice with a [`layout::Layout`]. Without the `engine` feature there is
//! no burn and only [`synthetic`] trainers; the simulator is built so.
//!
//! Training may differ between machines (on one CPU it is bit-reproducible for any number of threads); what members must
//! agree on, aggregation and the initial parameters, may not, and is computed without burn.

#[cfg(feature = "engine")]
mod allocator;
pub mod config;
pub mod course;
pub mod data;
pub mod device;
#[cfg(feature = "engine")]
pub mod evaluate;
pub mod example_privacy;
pub mod factory;
#[cfg(feature = "engine")]
pub mod generate;
#[cfg(feature = "engine")]
pub mod interchange;
pub mod layout;
#[cfg(feature = "engine")]
pub mod local_steps;
pub mod member_state;
pub mod models;
pub mod objectives;
pub mod optimizers;
pub mod processor;
mod product;
pub mod randomness;
pub mod samples;
pub mod schedules;
#[cfg(feature = "engine")]
mod second_gradient;
pub mod secure_sum;
pub mod synthetic;
pub mod trainer;
pub mod worker;

#[cfg(feature = "engine")]
pub use allocator::tune_allocator;
pub use config::TrainingConfig;
pub use device::DeviceChoice;
pub use factory::{
    BuildError, RequiredData, build_trainer, build_trainer_from, build_trainer_without_data, required_data,
};
pub use member_state::{MemberState, MemberStateConfig};
pub use trainer::{Continue, Evaluation, LocalRound, Progress, TrainError, Trained, Trainer};
pub use worker::{Done, Worker};
