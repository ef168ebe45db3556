//! Optimizers from outside: trajectories of reference libraries, the properties that define each, and those that all share.
//! Nothing is trained here but quadratics.

#![allow(clippy::unwrap_used, reason = "a test's helper: a failed unwrap is a failed test")]

mod conformance;
mod oracles;
mod trajectories;

use synod_training::TrainingConfig;
use synod_training::layout::{Layout, Role};
use synod_training::optimizers::{Extra, GroupsConfig, Optimizer, OptimizerConfig, StepInputs};
use synod_training::schedules::{Constant, ScheduleConfig};

/// A session of this optimizer at its peak rate throughout.
fn config(optimizer: OptimizerConfig) -> TrainingConfig {
    TrainingConfig {
        optimizer,
        schedule: ScheduleConfig::Constant(Constant::without_warmup()),
        ..TrainingConfig::default()
    }
}

/// The optimizer of a line of JSON, as in `{"lion": {"beta2": 0.9}}`.
fn parse(text: &str) -> OptimizerConfig {
    serde_json::from_str(text).expect("an optimizer as JSON")
}

/// Takes a step with a gradient that is a function of index and parameter, second gradients included.
fn step(optimizer: &mut Optimizer, at: u64, parameters: &mut [f32], gradient: impl Fn(usize, f64) -> f64) {
    let mut values: Vec<f32> = parameters
        .iter()
        .enumerate()
        .map(|(i, p)| gradient(i, f64::from(*p)) as f32)
        .collect();
    let second: Vec<f32> = values.iter().map(|g| 0.9 * g + 0.001).collect();
    let extra = (optimizer.wants() != Extra::Nothing).then_some(&second[..]);
    let inputs = StepInputs {
        step: at,
        gradient: &mut values,
        extra,
        tokens: 16,
    };
    optimizer.step(parameters, inputs);
}

/// Every role, with a hidden matrix that is larger than what one thread takes at a time, and enough for several threads.
fn layout() -> Layout {
    Layout::new()
        .with("embedding", &[31, 12], Role::Embedding)
        .with("wide", &[12, 40], Role::HiddenMatrix)
        .with("large", &[300, 230], Role::HiddenMatrix)
        .with("gain", &[12], Role::Gain)
        .with("scalar", &[1], Role::Scalar)
        .with("head", &[31, 12], Role::Head)
}

fn start(i: usize) -> f64 {
    ((i * 37) % 19) as f64 / 10.0 - 0.9
}

fn optimum(i: usize) -> f64 {
    ((i * 11) % 7) as f64 / 10.0 - 0.3
}

fn curvature(i: usize) -> f64 {
    0.5 + (i % 5) as f64 / 4.0
}

fn noise(t: u64, i: usize) -> f64 {
    ((t as usize * 7 + i * 13 + t as usize * i) % 11) as f64 / 20.0 - 0.25
}

/// Gradient of the common quadratic at step `t`, counted from 1.
fn gradient(t: u64) -> impl Fn(usize, f64) -> f64 {
    move |i, p| curvature(i) * (p - optimum(i)) + noise(t, i)
}

/// Parameters after so many steps on the common quadratic.
fn run(config: &TrainingConfig, layout: &Layout, steps: u64) -> Vec<f32> {
    let mut optimizer = Optimizer::new(config, layout);
    let mut parameters: Vec<f32> = (0..layout.len()).map(|i| start(i) as f32).collect();
    (1..=steps).for_each(|t| step(&mut optimizer, t - 1, &mut parameters, gradient(t)));
    parameters
}

fn with_groups(mut config: TrainingConfig, groups: GroupsConfig) -> TrainingConfig {
    config.groups = groups;
    config
}
