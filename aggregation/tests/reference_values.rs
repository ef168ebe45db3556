//! Rules against reference values: ByzFL's, an independent f64 implementation's, and weights computed from products alone.
//! Two small cases travel with the crate; the environment variable SYNOD_VECTORS names a folder with the full files,
//! `aggregators.json` and `gram_weights.json`.
//!
//! Vectors are 64-bit, we answer in f32: agreement is to 1e-5 of the largest input.
//!
//! Where we differ from the reference on purpose: its CAF takes the maximum over members already dropped, which need not
//! end; its SMEA takes one power step from a random start (we compare with exact eigenvalues); its Krum counts n − f − 1
//! neighbours (`neighbours = "inclusive"` does, too). Among equal scores it has no order; ours is by index.

use std::path::PathBuf;

use serde_json::Value;
use synod_aggregation::gram::Gram;
use synod_aggregation::rules::CenteredClip;
use synod_aggregation::{
    Aggregator, Composition, Contribution, Neighbours, PreAggregationConfig, Radius, RuleConfig, Verdict,
};

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|value| value.as_f64().expect("a number"))
        .collect()
}

fn contributions(rows: &[Vec<f32>]) -> Vec<Contribution<'_>> {
    rows.iter().map(|row| Contribution::dense(row, 1.0)).collect()
}

/// The rule that the references call by this name.
fn rule_named(name: &str, f: usize) -> Option<RuleConfig> {
    let neighbours = Neighbours::Inclusive;
    let median = |iterations| RuleConfig::GeometricMedian {
        iterations,
        smoothing: 0.1,
    };
    Some(match name {
        "Average" => RuleConfig::Mean,
        "Median" => RuleConfig::Median,
        "TrMean" => RuleConfig::TrimmedMean { f },
        "Meamed" => RuleConfig::Meamed { f },
        "Krum" => RuleConfig::Krum { f, neighbours },
        "MultiKrum" => RuleConfig::MultiKrum {
            f,
            keep: None,
            neighbours,
        },
        "MDA" => RuleConfig::Mda { f },
        "MoNNA_idx0" => RuleConfig::Monna { f, pivot: 0 },
        "GeometricMedian" | "GeometricMedian_nu0.1_T3" => median(3),
        "GeometricMedian_nu0.1_T8" => median(8),
        "geometric_median_converged" => RuleConfig::Rfa,
        "bulyan" => RuleConfig::Bulyan { f },
        "smea" => RuleConfig::Smea { f },
        "caf_exact_eig" => RuleConfig::Caf { f },
        _ => return None,
    })
}

fn composition_named(name: &str, f: usize) -> Option<Composition> {
    let (pre, rule) = match name.strip_prefix("NNM+") {
        Some(rule) => (vec![PreAggregationConfig::Nnm { f }], rule),
        None => (Vec::new(), name),
    };
    let rule = rule_named(rule, f)?;
    Some(Composition { pre, rule })
}

fn aggregate(whole: &Composition, rows: &[Vec<f32>]) -> (Vec<f32>, Vec<Verdict>) {
    let mut out = vec![f32::NAN; rows[0].len()];
    let verdicts = whole.aggregate(&contributions(rows), &mut out);
    (out, verdicts)
}

/// What our rule of that name gives, if we have one. `CenteredClipping_m0_L3_tau1`: from zero, 3 steps, radius 1.
fn ours(name: &str, f: usize, rows: &[Vec<f32>]) -> Option<Vec<f32>> {
    if let Some(rest) = name.strip_prefix("CenteredClipping_m0_L") {
        let (iterations, radius) = rest.split_once("_tau").expect("a radius");
        let mut out = vec![0.0f32; rows[0].len()];
        CenteredClip {
            iterations: iterations.parse().expect("a count"),
            radius: Radius::Fixed(radius.parse().expect("a number")),
        }
        .refine(&contributions(rows), &mut out);
        return Some(out);
    }
    composition_named(name, f).map(|whole| aggregate(&whole, rows).0)
}

/// The pre-aggregation that the references call by this name.
fn pre_named(name: &str, f: usize) -> Option<PreAggregationConfig> {
    Some(match name {
        "NNM" => PreAggregationConfig::Nnm { f },
        "ARC" => PreAggregationConfig::Arc { f },
        "Clipping_c2" => PreAggregationConfig::Clipping { norm: 2.0 },
        _ => return None,
    })
}

fn rows_of(case: &Value) -> Vec<Vec<f32>> {
    let rows = case["x"].as_array().expect("rows");
    rows.iter()
        .map(|row| numbers(row).iter().map(|&x| x as f32).collect())
        .collect()
}

/// Compares every value in the file that we have a rule for; returns how many there were.
fn check_file(text: &str) -> usize {
    let file: Value = serde_json::from_str(text).expect("JSON");
    let mut compared = 0;
    for case in file["cases"].as_array().expect("a list of cases") {
        let rows = rows_of(case);
        let largest = rows
            .iter()
            .flatten()
            .fold(1.0f64, |largest, x| largest.max(f64::from(x.abs())));
        for source in ["byzfl", "ref"] {
            for (group, results) in case[source].as_object().into_iter().flatten() {
                let f = group
                    .strip_prefix('f')
                    .and_then(|digits| digits.parse().ok())
                    .unwrap_or(0);
                for (name, expected) in results.as_object().expect("results") {
                    compared += check_value(case, group, name, f, &rows, largest, expected);
                }
            }
        }
    }
    compared
}

fn check_value(
    case: &Value,
    group: &str,
    name: &str,
    f: usize,
    rows: &[Vec<f32>],
    largest: f64,
    expected: &Value,
) -> usize {
    let near = |got: &[f32], expected: &[f64]| {
        for (got, expected) in got.iter().zip(expected) {
            let error = (f64::from(*got) - expected).abs();
            assert!(
                error <= 1e-5 * largest,
                "{} {group} {name}: {got} for {expected}",
                case["name"]
            );
        }
    };
    if let Some(pre) = pre_named(name, f) {
        let gram = Gram::of(&contributions(rows), None);
        let mixture = pre.mixture(rows.len(), Some(&gram), 0);
        for (weights, expected) in mixture.weights().zip(expected.as_array().expect("rows")) {
            let row: Vec<f32> = (0..rows[0].len())
                .map(|k| {
                    weights
                        .iter()
                        .zip(rows)
                        .map(|(w, row)| w * f64::from(row[k]))
                        .sum::<f64>() as f32
                })
                .collect();
            near(&row, &numbers(expected));
        }
        return 1;
    }
    match name {
        "krum_blanchard_index" | "smea_subset" | "multikrum_blanchard_m=n-f-2" => {
            let neighbours = Neighbours::Blanchard;
            let keep = Some(rows.len() - f - 2);
            let rule = match name {
                "krum_blanchard_index" => RuleConfig::Krum { f, neighbours },
                "smea_subset" => RuleConfig::Smea { f },
                _ if rows.len() < 2 * f + 3 => return 0, // below the rule's bound
                _ => RuleConfig::MultiKrum { f, keep, neighbours },
            };
            if rule.check(rows.len()).is_err() {
                return 0;
            }
            let (_, verdicts) = aggregate(&Composition::of(rule), rows);
            let chosen: Vec<u64> = (0..)
                .zip(&verdicts)
                .filter(|(_, v)| v.weight > 0.0)
                .map(|(i, _)| i)
                .collect();
            let expected: Vec<u64> = match expected.as_u64() {
                Some(index) => vec![index],
                None => numbers(expected).iter().map(|&index| index as u64).collect(),
            };
            assert_eq!(chosen, expected, "{} {group} {name}", case["name"]);
            1
        }
        _ => {
            let known = composition_named(name, f).is_none_or(|whole| whole.check(rows.len()).is_ok());
            let Some(got) = known.then(|| ours(name, f, rows)).flatten() else {
                return 0;
            };
            near(&got, &numbers(expected));
            1
        }
    }
}

#[test]
fn the_cases_that_travel_with_the_crate_are_met() {
    let compared = check_file(include_str!("data/byzfl_cases.json"));
    assert_eq!(compared, TRAVELLING);
}

/// Values in the file of the crate for which we have a rule.
const TRAVELLING: usize = 15;

fn read(name: &str) -> Option<String> {
    let folder = std::env::var_os("SYNOD_VECTORS").map(PathBuf::from).unwrap_or_default();
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("skipped: no {} (SYNOD_VECTORS names the folder)", path.display());
    }
    text
}

#[test]
fn all_cases_are_met() {
    let Some(text) = read("aggregators.json") else { return };
    let compared = check_file(&text);
    println!("{compared} values compared");
    assert!(compared >= 150, "{compared}");
}

#[test]
fn weights_from_products_alone_are_met() {
    let (Some(cases), Some(weights)) = (read("aggregators.json"), read("gram_weights.json")) else {
        return;
    };
    let cases: Value = serde_json::from_str(&cases).expect("JSON");
    let weights: Value = serde_json::from_str(&weights).expect("JSON");
    let mut compared = 0;
    for expected in weights["cases"].as_array().expect("a list") {
        let case = cases["cases"].as_array().expect("a list");
        let case = case
            .iter()
            .find(|case| case["name"] == expected["name"])
            .expect("a case");
        let rows = rows_of(case);
        for (name, expected) in expected.as_object().expect("results") {
            let (base, f) = match name.rsplit_once("_f") {
                Some((base, f)) => (base, f.parse().expect("a number")),
                None => (name.as_str(), 0),
            };
            let got: Vec<f64> = if name == "CC_L3_tau1" {
                let clip = CenteredClip {
                    iterations: 3,
                    radius: Radius::Fixed(1.0),
                };
                let verdicts = clip.refine(&contributions(&rows), &mut vec![0.0; rows[0].len()]);
                let sum: f64 = numbers(expected).iter().sum();
                verdicts.iter().map(|v| f64::from(v.weight) * sum).collect()
            } else {
                let base = if base == "GM_nu0.1_T3" { "GeometricMedian" } else { base };
                let Some(whole) = composition_named(base, f).filter(|whole| whole.check(rows.len()).is_ok()) else {
                    continue;
                };
                aggregate(&whole, &rows).1.iter().map(|v| f64::from(v.weight)).collect()
            };
            compared += 1;
            for (got, expected) in got.iter().zip(numbers(expected)) {
                assert!(
                    (got - expected).abs() < 1e-7,
                    "{} {name}: {got} for {expected}",
                    case["name"]
                );
            }
        }
    }
    assert!(compared >= 40, "{compared}");
}
