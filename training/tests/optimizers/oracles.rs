//! What defines each optimizer, checked without a reference implementation.

use synod_training::layout::{Layout, Role};
use synod_training::optimizers::{Optimizer, StepInputs};

use crate::{config, gradient, layout, noise, parse, run, start, step};

fn one(role: Role, shape: &[usize]) -> Layout {
    Layout::new().with("w", shape, role)
}

fn close(a: &[f32], b: &[f32], most: f32) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= most, "they differ by {worst}");
}

#[test]
fn ademamix_without_its_slow_mean_is_adamw() {
    let mixed = parse(r#"{"ademamix": {"alpha": 0, "beta2": 0.95, "learning_rate": 0.0015}}"#);
    close(
        &run(&config(mixed), &layout(), 20),
        &run(&config(parse(r#"{"adamw": {}}"#)), &layout(), 20),
        1e-6,
    );
}

#[test]
fn soap_in_the_identity_basis_is_adamw_after_its_first_step() {
    let layout = one(Role::HiddenMatrix, &[5, 4]);
    let soap = config(parse(
        r#"{"soap": {"longest_side": 0, "beta2": 0.95, "learning_rate": 0.0015, "epsilon": 1e-12, "weight_decay": 0}}"#,
    ));
    let mut optimizer = Optimizer::new(&soap, &layout);
    let mut parameters: Vec<f32> = (0..20).map(|i| start(i) as f32).collect();
    let before = parameters.clone();
    step(&mut optimizer, 0, &mut parameters, |_, _| 123.0);
    assert_eq!(parameters, before, "the first step moves no matrix");
    for t in 1..=20 {
        step(&mut optimizer, t, &mut parameters, gradient(t));
    }
    let adamw = run(
        &config(parse(r#"{"adamw": {"epsilon": 1e-12, "weight_decay": 0}}"#)),
        &layout,
        20,
    );
    close(&parameters, &adamw, 1e-6);
}

#[test]
fn a_d_muon_update_is_of_the_size_that_was_asked_for() {
    for shape in [[24, 60], [60, 24], [48, 16]] {
        let layout = one(Role::HiddenMatrix, &shape);
        let config = config(parse(r#"{"d_muon": {"learning_rate": 1.0, "weight_decay": 0}}"#));
        let mut optimizer = Optimizer::new(&config, &layout);
        let mut parameters = vec![0.0; layout.len()];
        step(&mut optimizer, 0, &mut parameters, |i, _| {
            let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64 / 16_777_216.0 - 0.5
        });
        let size = (parameters.iter().map(|p| p * p).sum::<f32>() / parameters.len() as f32).sqrt();
        // Singular values between 0.7 and 1.2 around 1.
        assert!((0.16..0.23).contains(&size), "{shape:?}: {size}");
    }
}

#[test]
fn schedule_free_evaluates_the_weighted_mean_of_its_points() {
    let layout = one(Role::HiddenMatrix, &[1, 1]);
    let mut session = config(parse(
        r#"{"schedule_free": {"learning_rate": 0.1, "beta2": 0.9, "weight_decay": 0.1}}"#,
    ));
    session.schedule = serde_json::from_str(r#"{"constant": {"warmup_steps": 8}}"#).unwrap();
    let mut optimizer = Optimizer::new(&session, &layout);
    let mut y = vec![1.5f32];
    let (mut z, mut square, mut weighted, mut weights) = (1.5f64, 0f64, 0f64, 0f64);
    for t in 1..=30u64 {
        let before = f64::from(y[0]);
        step(&mut optimizer, t - 1, &mut y, gradient(t));
        let g = gradient(t)(0, before);
        square = 0.9 * square + 0.1 * g * g;
        let root = (square / (1.0 - 0.9f64.powi(t as i32))).sqrt();
        let rate = 0.1 * (t as f64 / 8.0).min(1.0);
        z -= rate * (g / (root + 1e-8) + 0.1 * before);
        weighted += rate * rate * z;
        weights += rate * rate;
        let mut x = y.clone();
        optimizer.to_evaluation_point(&mut x);
        let mean = weighted / weights;
        assert!(
            (f64::from(x[0]) - mean).abs() < 1e-5,
            "step {t}: {} instead of {mean}",
            x[0]
        );
        let mut back = x.clone();
        optimizer.to_training_point(&mut back);
        close(&back, &y, 1e-6);
    }
}

#[test]
fn adopt_does_not_move_in_its_first_step_and_never_far_in_the_second() {
    let config = config(parse(
        r#"{"adopt": {"learning_rate": 0.1, "beta1": 0, "weight_decay": 0.1}}"#,
    ));
    let layout = one(Role::HiddenMatrix, &[2, 2]);
    let mut optimizer = Optimizer::new(&config, &layout);
    let mut parameters = vec![1.0f32; 4];
    step(&mut optimizer, 0, &mut parameters, |i, _| i as f64 * 1e-3);
    assert_eq!(parameters, [1.0; 4]);
    step(&mut optimizer, 1, &mut parameters, |_, _| 1000.0);
    close(&parameters, &[0.99 - 0.1; 4], 1e-6);
}

#[test]
fn prodigys_length_never_falls_and_grows_from_almost_nothing() {
    let config = config(parse(r#"{"prodigy": {"weight_decay": 0}}"#));
    let layout = layout();
    let mut optimizer = Optimizer::new(&config, &layout);
    let mut parameters: Vec<f32> = (0..layout.len()).map(|i| start(i) as f32).collect();
    let mut lengths = Vec::new();
    for t in 1..=120 {
        step(&mut optimizer, t - 1, &mut parameters, gradient(t));
        lengths.push(optimizer.estimated_length().unwrap());
    }
    assert!(lengths.is_sorted(), "{lengths:?}");
    assert!(lengths.last().unwrap() > &1e-3, "{lengths:?}");
}

#[test]
fn sign_methods_move_every_parameter_by_exactly_the_rate() {
    for text in [
        r#"{"lion": {"learning_rate": 0.125, "weight_decay": 0}}"#,
        r#"{"signum": {"learning_rate": 0.125, "weight_decay": 0}}"#,
        r#"{"signum": {"learning_rate": 0.125, "weight_decay": 0, "momentum": 0}}"#,
    ] {
        let layout = layout();
        let mut optimizer = Optimizer::new(&config(parse(text)), &layout);
        let mut parameters = vec![0f32; layout.len()];
        for t in 1..=5 {
            let before = parameters.clone();
            step(&mut optimizer, t - 1, &mut parameters, |i, _| noise(t, i) + 0.01);
            let moved = parameters.iter().zip(&before).map(|(a, b)| (a - b).abs());
            assert!(moved.into_iter().all(|by| by == 0.125), "{text}");
        }
    }
}

#[test]
fn signsgd_follows_the_sign_of_each_gradient_alone() {
    let config = config(parse(
        r#"{"signum": {"momentum": 0, "learning_rate": 0.5, "weight_decay": 0}}"#,
    ));
    let layout = one(Role::HiddenMatrix, &[1, 3]);
    let mut optimizer = Optimizer::new(&config, &layout);
    let mut parameters = vec![0f32; 3];
    optimizer.step(&mut parameters, StepInputs::of(0, &mut [3.0, -1e-9, 0.0]));
    assert_eq!(parameters, [-0.5, 0.5, 0.0]);
    optimizer.step(&mut parameters, StepInputs::of(1, &mut [-1.0, -1.0, 2.0]));
    assert_eq!(parameters, [0.0, 1.0, -0.5]);
}

/// Sophia by hand, β = (0.9, 0.5), ρ = 0.25, B = 16, k = 2, γ = 0.1, λ = 0: two elements, g = (1, 0.001).
/// Step 1, with g̃ = (1, 1): h = 0.5·16 = 8, ρh = 2; m = (0.1, 0.0001): u = (0.05, 0.00005).
/// Step 2, no estimate: m = (0.19, 0.00019): u = (0.095, 0.000095).
/// Step 3, with g̃ = (0, 0): h = 4, ρh = 1; m = (0.271, 0.000271): u = m.
#[test]
fn sophia_divides_by_the_curvature_that_it_was_brought() {
    let config = config(parse(
        r#"{"sophia": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.5, "rho": 0.25, "every": 2, "weight_decay": 0}}"#,
    ));
    let layout = one(Role::HiddenMatrix, &[1, 2]);
    let mut optimizer = Optimizer::new(&config, &layout);
    let mut parameters = vec![0f32; 2];
    let mut sum = 0.0;
    for (at, estimate, u) in [
        (0, Some([1.0, 1.0]), 0.05),
        (1, None, 0.095),
        (2, Some([0.0, 0.0]), 0.271),
    ] {
        let mut gradient = [1.0, 0.001];
        let inputs = StepInputs {
            step: at,
            gradient: &mut gradient,
            extra: estimate.as_ref().map(|values: &[f32; 2]| &values[..]),
            tokens: 16,
        };
        assert_eq!(
            optimizer.wants() != synod_training::optimizers::Extra::Nothing,
            estimate.is_some()
        );
        optimizer.step(&mut parameters, inputs);
        sum += 0.1 * u;
        close(&parameters, &[-sum, -0.001 * sum], 1e-7);
    }
}

#[test]
fn sophia_is_a_sign_where_nothing_is_known_of_the_curvature() {
    let config = config(parse(r#"{"sophia": {"learning_rate": 0.25, "weight_decay": 0}}"#));
    let mut optimizer = Optimizer::new(&config, &one(Role::HiddenMatrix, &[1, 2]));
    let mut parameters = vec![0f32; 2];
    let inputs = StepInputs {
        step: 0,
        gradient: &mut [1e-6, -5.0],
        extra: Some(&[0.0, 0.0]),
        tokens: 16,
    };
    optimizer.step(&mut parameters, inputs);
    assert_eq!(parameters, [-0.25, 0.25]);
}

/// With g′ = g the correction is nothing: exact MARS that is brought its own gradient is AdamW on gradients of norm ≤ 1.
#[test]
fn exact_mars_without_a_difference_is_adamw_on_normalised_gradients() {
    let layout = one(Role::HiddenMatrix, &[2, 3]);
    let mars = config(parse(r#"{"mars": {"exact": true, "learning_rate": 0.01}}"#));
    let adamw = config(parse(
        r#"{"adamw": {"learning_rate": 0.01, "beta1": 0.95, "beta2": 0.99}}"#,
    ));
    let (mut first, mut second) = (Optimizer::new(&mars, &layout), Optimizer::new(&adamw, &layout));
    let (mut a, mut b) = (vec![0.5f32; 6], vec![0.5f32; 6]);
    for t in 0..10 {
        let raw: Vec<f32> = (0..6).map(|i| noise(t + 1, i) as f32 * 4.0).collect();
        let size = raw.iter().map(|g| g * g).sum::<f32>().sqrt().max(1.0);
        let mut scaled: Vec<f32> = raw.iter().map(|g| g / size).collect();
        let inputs = StepInputs {
            step: t,
            gradient: &mut raw.clone(),
            extra: Some(&raw),
            tokens: 1,
        };
        first.step(&mut a, inputs);
        second.step(&mut b, StepInputs::of(t, &mut scaled));
    }
    close(&a, &b, 1e-6);
}

#[test]
fn matrix_rules_go_by_role_and_not_by_shape() {
    for text in [
        r#"{"muon": {}}"#,
        r#"{"d_muon": {}}"#,
        r#"{"soap": {}}"#,
        r#"{"mars": {}}"#,
    ] {
        let as_role = |role| run(&config(parse(text)), &one(role, &[8, 6]), 4);
        assert_ne!(as_role(Role::Embedding), as_role(Role::HiddenMatrix), "{text}");
        assert_eq!(as_role(Role::Embedding), as_role(Role::Head), "{text}");
    }
}
