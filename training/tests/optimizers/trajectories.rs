//! Twenty steps of reference libraries (`tests/fixtures/generate_optimizers.py` ran them), repeated to 1e-5.

use std::collections::BTreeMap;

use serde::Deserialize;
use synod_training::layout::{Layout, Role};
use synod_training::optimizers::{GroupsConfig, Optimizer, OptimizerConfig};

use crate::{config, gradient, start, step, with_groups};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    reference: String,
    optimizer: OptimizerConfig,
    groups: GroupsConfig,
    layout: Vec<(String, Vec<usize>, String)>,
    parameters: BTreeMap<String, Vec<f64>>,
}

fn role(name: &str) -> Role {
    match name {
        "embedding" => Role::Embedding,
        "head" => Role::Head,
        "hidden_matrix" => Role::HiddenMatrix,
        "gain" => Role::Gain,
        other => panic!("{other} is no role of the fixture"),
    }
}

/// The greatest distance between two points, relative where numbers are greater than 1.
fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let each = got.iter().zip(expected);
    each.map(|(a, b)| (f64::from(*a) - b).abs() / b.abs().max(1.0))
        .fold(0.0, f64::max)
}

/// The greatest distance of all kept points of a case.
fn error_of(case: &Case) -> f64 {
    let layout = case.layout.iter().fold(Layout::new(), |layout, (name, shape, of)| {
        layout.with(name.clone(), shape, role(of))
    });
    let config = with_groups(config(case.optimizer.clone()), case.groups.clone());
    assert_eq!(config.check(), Ok(()), "{}", case.name);
    let mut optimizer = Optimizer::new(&config, &layout);
    let mut parameters: Vec<f32> = (0..layout.len()).map(|i| start(i) as f32).collect();
    let (mut worst, mut compared) = (0f64, 0);
    for t in 1..=20 {
        step(&mut optimizer, t - 1, &mut parameters, gradient(t));
        if let Some(expected) = case.parameters.get(&t.to_string()) {
            worst = worst.max(distance(&parameters, expected));
            compared += 1;
        }
    }
    if let Some(expected) = case.parameters.get("evaluation") {
        optimizer.to_evaluation_point(&mut parameters);
        worst = worst.max(distance(&parameters, expected));
        compared += 1;
    }
    assert_eq!(
        compared,
        case.parameters.len(),
        "{}: every kept point is compared",
        case.name
    );
    worst
}

#[test]
fn twenty_steps_agree_with_the_reference_libraries() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/optimizers.json")).unwrap();
    let errors: Vec<_> = fixture.cases.iter().map(|case| (case, error_of(case))).collect();
    for (case, error) in &errors {
        println!("{:<32} {:<28} {error:.1e}", case.name, case.reference);
    }
    let wrong: Vec<_> = errors
        .iter()
        .filter(|(_, error)| *error > 1e-5)
        .map(|(case, _)| &case.name)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let keys: std::collections::BTreeSet<_> = fixture.cases.iter().map(|case| case.optimizer.key()).collect();
    // Sophia-G has no implementation among the libraries; its oracle is by hand.
    let without: Vec<_> = OptimizerConfig::KEYS
        .iter()
        .filter(|key| !keys.contains(*key))
        .collect();
    assert_eq!(without, [&"sophia"]);
}
