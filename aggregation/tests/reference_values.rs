//! Rules against ByzFL's values, and the (f, κ)-robustness that theory promises. Two small cases travel with the crate;
//! the environment variable SYNOD_VECTORS names a folder with the full file, `aggregators.json`.
//!
//! Vectors are 64-bit, we answer in f32: agreement is to 1e-5 of the largest input.

use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use synod_aggregation::rules::CenteredClip;
use synod_aggregation::{Contribution, Radius, RuleConfig};

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|value| value.as_f64().expect("a number"))
        .collect()
}

fn contributions(rows: &[Vec<f32>]) -> Vec<Contribution<'_>> {
    rows.iter()
        .map(|row| Contribution {
            values: row,
            weight: 1.0,
        })
        .collect()
}

/// What our rule of ByzFL's name gives, if we have one. `CenteredClipping_m0_L3_tau1`: from zero, 3 steps, radius 1.
fn ours(name: &str, f: usize, rows: &[Vec<f32>]) -> Option<Vec<f32>> {
    let mut out = vec![0.0f32; rows[0].len()];
    if let Some(rest) = name.strip_prefix("CenteredClipping_m0_L") {
        let (iterations, radius) = rest.split_once("_tau").expect("a radius");
        let radius = Radius::Fixed(radius.parse().expect("a number"));
        CenteredClip {
            iterations: iterations.parse().expect("a count"),
            radius,
        }
        .refine(&contributions(rows), &mut out);
        return Some(out);
    }
    let rule = match name {
        "Average" => RuleConfig::Mean,
        "Median" => RuleConfig::Median,
        "TrMean" => RuleConfig::TrimmedMean { f },
        _ => return None,
    };
    rule.build().aggregate(&contributions(rows), &mut out);
    Some(out)
}

/// Compares every value in the file that we have a rule for; returns how many there were.
fn check_file(text: &str) -> usize {
    let file: Value = serde_json::from_str(text).expect("JSON");
    let mut compared = 0;
    for case in file["cases"].as_array().expect("a list of cases") {
        let rows: Vec<Vec<f32>> = case["x"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| numbers(row).iter().map(|&x| x as f32).collect())
            .collect();
        let largest = rows
            .iter()
            .flatten()
            .fold(1.0f64, |largest, x| largest.max(f64::from(x.abs())));
        for (group, results) in case["byzfl"].as_object().expect("groups") {
            let f = group
                .strip_prefix('f')
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0);
            for (name, expected) in results.as_object().expect("results") {
                let Some(got) = ours(name, f, &rows) else { continue };
                compared += 1;
                for (got, expected) in got.iter().zip(numbers(expected)) {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error <= 1e-5 * largest,
                        "{} {group} {name}: {got} for {expected}",
                        case["name"]
                    );
                }
            }
        }
    }
    compared
}

#[test]
fn the_cases_that_travel_with_the_crate_are_met() {
    assert_eq!(check_file(include_str!("data/byzfl_cases.json")), 15);
}

#[test]
fn all_cases_are_met() {
    let folder = std::env::var_os("SYNOD_VECTORS").map(PathBuf::from).unwrap_or_default();
    let path = folder.join("aggregators.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {} (SYNOD_VECTORS names the folder)", path.display());
        return;
    };
    assert!(check_file(&text) >= 25);
}

/// Allouah et al. 2023, AISTATS, definition 2 and table 1: for every S with |S| = n − f,
/// ‖F(x) − x̄_S‖² ≤ κ / |S| · Σ_{i ∈ S} ‖x_i − x̄_S‖², on random members and far outliers.
#[test]
fn kappa_robustness_holds_on_random_configurations() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut uniform = move || (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0;
    for (n, f) in [(3, 1), (4, 1), (7, 1), (7, 3), (9, 2), (9, 4)] {
        let ratio = f as f64 / (n - 2 * f) as f64;
        let trimmed = (RuleConfig::TrimmedMean { f }, 6.0 * ratio * (1.0 + ratio));
        let median = (RuleConfig::Median, 4.0 * (1.0 + ratio) * (1.0 + ratio));
        for trial in 0..40 {
            let rows: Vec<Vec<f32>> = (0..n)
                .map(|i| {
                    (0..6)
                        .map(|_| uniform() * if i < f && trial % 2 == 0 { 100.0 } else { 1.0 })
                        .collect()
                })
                .collect();
            for (rule, kappa) in [&trimmed, &median] {
                let mut out = vec![0.0f32; 6];
                rule.build().aggregate(&contributions(&rows), &mut out);
                for subset in (0u32..1 << n).filter(|subset| subset.count_ones() as usize == n - f) {
                    let chosen: Vec<&Vec<f32>> = (0..n).filter(|i| subset >> i & 1 == 1).map(|i| &rows[i]).collect();
                    let (error, variance) = error_and_variance(&out, &chosen);
                    assert!(
                        error <= kappa * variance * (1.0 + 1e-5),
                        "{rule:?}, n = {n}, f = {f}: {error} > κ {variance}"
                    );
                }
            }
        }
    }
}

/// ‖out − x̄‖² and the mean of ‖x − x̄‖² over the chosen rows.
fn error_and_variance(out: &[f32], chosen: &[&Vec<f32>]) -> (f64, f64) {
    let count = chosen.len() as f64;
    (0..out.len()).fold((0.0, 0.0), |(error, variance), k| {
        let mean = chosen.iter().map(|row| f64::from(row[k])).sum::<f64>() / count;
        let spread = chosen.iter().map(|row| (f64::from(row[k]) - mean).powi(2)).sum::<f64>() / count;
        (error + (f64::from(out[k]) - mean).powi(2), variance + spread)
    })
}
