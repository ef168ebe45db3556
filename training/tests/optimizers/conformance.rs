//! What every optimizer of the list must do, whatever its rule.

use synod_training::layout::{Layout, Role};
use synod_training::optimizers::{
    Decay, GroupConfig, GroupsConfig, Optimizer, OptimizerConfig, StateError, WidthRule, clip_global_norm,
};
use synod_training::{TrainingConfig, schedules};

use crate::{config, gradient, layout, parse, run, start, step, with_groups};

/// Every optimizer, and the variants that keep another state.
fn all() -> Vec<OptimizerConfig> {
    let mut all = OptimizerConfig::all();
    for text in [
        r#"{"sgd": {"momentum": 0}}"#,
        r#"{"signum": {"momentum": 0}}"#,
        r#"{"mars": {"base": "lion"}}"#,
        r#"{"mars": {"base": "shampoo"}}"#,
        r#"{"mars": {"exact": true}}"#,
        r#"{"sophia": {"estimate": "empirical", "every": 3}}"#,
        r#"{"soap": {"longest_side": 20, "every": 2}}"#,
    ] {
        all.push(parse(text));
    }
    all
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    for optimizer in all() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&config(optimizer.clone()), &layout(), 6))
        };
        let alone = on(1);
        assert!(bits(&alone) == bits(&on(3)), "{optimizer:?}");
        assert!(alone.iter().all(|value| value.is_finite()), "{optimizer:?}");
    }
}

#[test]
fn a_state_that_was_written_and_read_goes_on_bit_for_bit() {
    for optimizer in all() {
        let config = config(optimizer.clone());
        let layout = layout();
        let mut first = Optimizer::new(&config, &layout);
        let mut parameters: Vec<f32> = (0..layout.len()).map(|i| start(i) as f32).collect();
        (1..=7).for_each(|t| step(&mut first, t - 1, &mut parameters, gradient(t)));
        let bytes = first.state_bytes();
        let mut second = Optimizer::from_bytes(&config, &layout, &bytes).unwrap();
        assert!(second.state_bytes() == bytes, "{optimizer:?}: bytes are canonical");
        assert_eq!(second.steps_taken(), 7);
        let mut other = parameters.clone();
        (8..=14).for_each(|t| step(&mut first, t - 1, &mut parameters, gradient(t)));
        (8..=14).for_each(|t| step(&mut second, t - 1, &mut other, gradient(t)));
        assert!(bits(&parameters) == bits(&other), "{optimizer:?}");
    }
}

#[test]
fn bytes_of_something_else_are_refused() {
    let layout = layout();
    let adamw = config(parse(r#"{"adamw": {}}"#));
    let bytes = Optimizer::new(&adamw, &layout).state_bytes();
    let read = |config: &TrainingConfig, layout: &Layout, bytes: &[u8]| {
        Optimizer::from_bytes(config, layout, bytes).map(|_| ())
    };
    assert_eq!(read(&adamw, &layout, &bytes), Ok(()));
    for short in [&[][..], &bytes[..50], &bytes[..bytes.len() - 1]] {
        assert!(matches!(read(&adamw, &layout, short), Err(StateError::Length { .. })));
    }
    let lion = config(parse(r#"{"lion": {}}"#));
    assert!(matches!(read(&lion, &layout, &bytes), Err(StateError::Length { .. })));
    let other_numbers = config(parse(r#"{"adamw": {"beta2": 0.5}}"#));
    assert_eq!(read(&other_numbers, &layout, &bytes), Err(StateError::Foreign));
    let renamed = Layout::new().with("everything", &[layout.len()], Role::Scalar);
    assert_eq!(read(&adamw, &renamed, &bytes), Err(StateError::Foreign));
    let mut newer = bytes.clone();
    newer[0] += 1;
    assert_eq!(read(&adamw, &layout, &newer), Err(StateError::Version));
}

/// Mean of squared distances to the optimum.
fn distance(parameters: &[f32]) -> f64 {
    let each = parameters.iter().enumerate();
    let squares = each.map(|(i, p)| (f64::from(*p) - crate::optimum(i)).powi(2));
    squares.sum::<f64>() / parameters.len() as f64
}

#[test]
fn every_optimizer_comes_nearer_to_the_minimum_of_a_quadratic() {
    for optimizer in all() {
        let mut config = config(optimizer.clone());
        config.schedule =
            serde_json::from_str(r#"{"linear": {"warmup_steps": 10, "total_steps": 400, "floor": 0}}"#).unwrap();
        let small = Layout::new()
            .with("embedding", &[5, 4], Role::Embedding)
            .with("hidden", &[6, 8], Role::HiddenMatrix)
            .with("gain", &[4], Role::Gain);
        let mut boosted = GroupsConfig::default();
        // Tuned rates are for thousands of steps; here are four hundred.
        let factor = match optimizer.key() {
            "sgd" | "prodigy" => 1.0,
            "scion" => 3.0,
            _ => 10.0,
        };
        for group in [&mut boosted.embedding, &mut boosted.hidden_matrix, &mut boosted.gain] {
            *group = GroupConfig {
                learning_rate: factor,
                weight_decay: Some(0.0),
            };
        }
        let config = with_groups(config, boosted);
        let mut state = Optimizer::new(&config, &small);
        let mut parameters: Vec<f32> = (0..small.len()).map(|i| start(i) as f32).collect();
        let before = distance(&parameters);
        for t in 0..400 {
            step(&mut state, t, &mut parameters, |i, p| {
                crate::curvature(i) * (p - crate::optimum(i))
            });
        }
        state.to_evaluation_point(&mut parameters);
        let after = distance(&parameters);
        // Orthogonal steps are of one length in all directions: momentum carries them far past a point.
        let share = if matches!(optimizer.key(), "muon" | "d_muon") {
            0.4
        } else {
            0.2
        };
        assert!(after < share * before, "{optimizer:?}: {before} to {after}");
    }
}

#[test]
fn a_rate_of_zero_for_a_role_leaves_it_alone_and_the_others_not() {
    for optimizer in OptimizerConfig::all() {
        let frozen = GroupsConfig {
            hidden_matrix: GroupConfig {
                learning_rate: 0.0,
                weight_decay: Some(0.0),
            },
            ..GroupsConfig::default()
        };
        let layout = layout();
        let after = run(&with_groups(config(optimizer.clone()), frozen), &layout, 4);
        for place in layout.places() {
            let moved = place.range().any(|i| after[i] != start(i) as f32);
            assert_eq!(
                moved,
                place.role != Role::HiddenMatrix,
                "{}: {}",
                optimizer.key(),
                place.name
            );
        }
    }
}

#[test]
fn decay_pulls_matrices_to_zero_in_all_three_ways() {
    let decayed = |decay, weight_decay: f32| {
        let groups = GroupsConfig {
            decay,
            ..GroupsConfig::default()
        };
        let optimizer = parse(&format!(
            r#"{{"sgd": {{"weight_decay": {weight_decay}, "momentum": 0}}}}"#
        ));
        let layout = Layout::new()
            .with("w", &[1, 2], Role::HiddenMatrix)
            .with("g", &[1], Role::Gain);
        let mut state = Optimizer::new(&with_groups(config(optimizer), groups), &layout);
        let mut parameters = vec![1f32, 2.0, 3.0];
        step(&mut state, 0, &mut parameters, |_, _| 0.0);
        parameters
    };
    assert_eq!(decayed(Decay::Decoupled, 0.5), [0.95, 1.9, 3.0]);
    assert_eq!(decayed(Decay::Coupled, 0.5), [0.95, 1.9, 3.0]);
    assert_eq!(decayed(Decay::Independent, 0.5), [0.5, 1.0, 3.0]);
}

#[test]
fn the_decay_away_warm_up_follows_the_decay_that_was_taken() {
    let groups = GroupsConfig {
        width: WidthRule::DecayAwayWarmup { ratio: 4.0 },
        ..GroupsConfig::default()
    };
    let optimizer = parse(r#"{"signum": {"learning_rate": 0.1, "weight_decay": 1.0, "momentum": 0}}"#);
    let session = with_groups(config(optimizer), groups);
    let layout = Layout::new().with("w", &[1, 1], Role::HiddenMatrix);
    // The rate at step t is 0.1 · (1 + 15 · 0.9^2t)^-½, seen from the step without decay's share.
    let rate_at = |at: u64| {
        let mut state = Optimizer::new(&session, &layout);
        let mut parameters = vec![0f32];
        step(&mut state, at, &mut parameters, |_, _| 1.0);
        -parameters[0]
    };
    for at in [0u64, 1, 5, 50] {
        let expected = 0.1 / (1.0 + 15.0 * 0.9f64.powi(2 * at as i32)).sqrt();
        assert!((f64::from(rate_at(at)) - expected).abs() < 1e-6, "step {at}");
    }
}

#[test]
fn every_optimizer_can_be_named_in_toml_like_json_and_refuses_unknown_keys() {
    for (optimizer, key) in OptimizerConfig::all().iter().zip(OptimizerConfig::KEYS) {
        assert_eq!(optimizer.key(), *key);
        assert_eq!(&parse(&format!(r#"{{"{key}": {{}}}}"#)), optimizer);
        let unknown = serde_json::from_str::<OptimizerConfig>(&format!(r#"{{"{key}": {{"lr": 1}}}}"#));
        assert!(unknown.unwrap_err().to_string().contains("unknown field `lr`"), "{key}");
        assert_eq!(config(optimizer.clone()).check(), Ok(()), "{key}");
        let negative = parse(&format!(r#"{{"{key}": {{"learning_rate": -1}}}}"#));
        let error = config(negative).check().unwrap_err().to_string();
        let expected = format!("training.optimizer.{key}.learning_rate is -1 but must be between");
        assert!(error.contains(&expected), "{error}");
        let negative = parse(&format!(r#"{{"{key}": {{"weight_decay": -1}}}}"#));
        let error = config(negative).check().unwrap_err().to_string();
        assert!(
            error.contains(&format!("training.optimizer.{key}.weight_decay is -1")),
            "{error}"
        );
    }
}

#[test]
fn the_clip_is_over_all_tensors_at_once() {
    let mut gradient = vec![3.0, 4.0];
    assert_eq!(clip_global_norm(&mut gradient, 1.0), 5.0);
    assert!((gradient[0] - 0.6).abs() < 1e-6 && (gradient[1] - 0.8).abs() < 1e-6);
}

#[test]
fn the_schedule_scales_the_step_of_every_optimizer_that_has_no_first_step_to_skip() {
    for optimizer in OptimizerConfig::all() {
        let mut half = config(optimizer.clone());
        half.schedule = schedules::ScheduleConfig::Constant(schedules::Constant {
            warmup_steps: 2,
            ..schedules::Constant::default()
        });
        let layout = Layout::new().with("g", &[3], Role::Gain);
        // From zero, where small steps are not rounded away.
        let moved = |config: &TrainingConfig| {
            let mut parameters = vec![0f32; 3];
            step(&mut Optimizer::new(config, &layout), 0, &mut parameters, |_, _| 0.5);
            parameters[0]
        };
        let (whole, half) = (moved(&config(optimizer.clone())), moved(&half));
        match optimizer.key() {
            "adopt" => assert_eq!((whole, half), (0.0, 0.0)),
            _ => assert!(
                (half / whole - 0.5).abs() < 0.01,
                "{}: {half} of {whole}",
                optimizer.key()
            ),
        }
    }
}
