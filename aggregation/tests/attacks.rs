//! Attacks against reference values, and what each one does to those it is made for.

use serde_json::Value;
use synod_aggregation::attacks::{
    Direction, Mimic, StaleReplay, dissensus, drift, equivocation, flipped_label, free_riding_copy, hidden_deviation,
    infinity, inner_product, line_search, little_is_enough, mimic, min_max, min_sum, not_a_number, strongest,
};
use synod_aggregation::{
    Contribution, EncodingConfig, MixingConfig, Neighbour, Neighbourhood, RuleConfig, VerdictOutcome,
};

fn file() -> Value {
    serde_json::from_str(include_str!("data/mixing_and_attacks.json")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f32> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|value| value.as_f64().expect("a number") as f32)
        .collect()
}

fn honest() -> Vec<Vec<f32>> {
    file()["attacks"]["honest"]
        .as_array()
        .expect("rows")
        .iter()
        .map(numbers)
        .collect()
}

fn slices(rows: &[Vec<f32>]) -> Vec<&[f32]> {
    rows.iter().map(Vec::as_slice).collect()
}

fn aggregate(rule: &RuleConfig, rows: &[Vec<f32>]) -> Vec<f32> {
    let contributions: Vec<Contribution<'_>> = rows.iter().map(|values| Contribution::dense(values, 1.0)).collect();
    let mut out = vec![0.0; rows[0].len()];
    rule.build().aggregate(&contributions, &mut out);
    out
}

/// Each vector replaced by the mean of the n − f nearest to it, itself included: nearest-neighbour mixing.
fn mix_nearest(rows: &[Vec<f32>], f: usize) -> Vec<Vec<f32>> {
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    rows.iter()
        .map(|row| {
            let mut nearest: Vec<&Vec<f32>> = rows.iter().collect();
            nearest.sort_by(|a, b| distance(row, a).total_cmp(&distance(row, b)));
            let kept: Vec<Vec<f32>> = nearest[..rows.len() - f].iter().map(|row| (*row).clone()).collect();
            aggregate(&RuleConfig::Mean, &kept)
        })
        .collect()
}

fn assert_near(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 2e-6, "{what}: {got} for {expected}");
    }
}

#[test]
fn attacks_that_know_the_honest_vectors_are_those_of_the_reference() {
    let (file, rows) = (file(), honest());
    let honest = slices(&rows);
    let attacks = &file["attacks"];
    let check = |name: &str, got: Vec<f32>| {
        let expected = attacks[name].get("vector").unwrap_or(&attacks[name]);
        assert_near(&got, &numbers(expected), name);
    };
    check("SignFlipping", inner_product(&honest, 1.0));
    check("IPM_tau2", inner_product(&honest, 2.0));
    check("ALIE_tau1.5", little_is_enough(&honest, 1.5));
    check("Mimic_0", mimic(&honest, 0));
    for (name, direction) in [
        ("unit", Direction::Unit),
        ("std", Direction::Deviation),
        ("sign", Direction::Sign),
    ] {
        check(&format!("MinMax_{name}"), min_max(&honest, direction));
        check(&format!("MinSum_{name}"), min_sum(&honest, direction));
    }
    let with_two = |vector: &[f32]| [rows.clone(), vec![vector.to_vec(); 2]].concat();
    let mixed_trimmed =
        |vector: &[f32]| aggregate(&RuleConfig::TrimmedMean { f: 2 }, &mix_nearest(&with_two(vector), 2));
    let median = |vector: &[f32]| aggregate(&RuleConfig::Median, &with_two(vector));
    let shifted = |z: f64| little_is_enough(&honest, z);
    check("OptALIE_vs_Median_f2", strongest(&honest, 20, shifted, median));
    check(
        "OptALIE_vs_NNM+TrMean_f2",
        strongest(&honest, 20, shifted, mixed_trimmed),
    );
    let reversed = |factor: f64| inner_product(&honest, factor);
    check(
        "OptIPM_vs_NNM+TrMean_f2",
        strongest(&honest, 20, reversed, mixed_trimmed),
    );
}

#[test]
fn the_hidden_deviation_is_the_papers() {
    for case in file()["attacks"]["alie_zmax"].as_array().expect("cases") {
        let count = |key: &str| case[key].as_u64().expect("a count") as usize;
        let (got, expected) = (
            hidden_deviation(count("n"), count("f")),
            case["z"].as_f64().expect("a number"),
        );
        assert!((got - expected).abs() < 1e-9, "{case}: {got}");
    }
    assert_eq!(hidden_deviation(4, 3), 0.0);
    assert_eq!(hidden_deviation(0, 0), 0.0);
}

#[test]
fn the_search_doubles_while_it_helps_and_then_closes_in() {
    let mut tried = Vec::new();
    let found = line_search(20, 1.0, |x| {
        tried.push(x);
        -(x - 5.0).abs()
    });
    assert_eq!(&tried[..4], &[0.0, 1.0, 3.0, 7.0]);
    assert_eq!(tried.len(), 20);
    // It never steps back, as the reference's does not.
    assert!((found - 6.2).abs() < 1e-12, "{found}");
    assert_eq!(line_search(10, 1.0, |_| 0.0), 0.0);
}

#[test]
fn an_optimised_attack_moves_a_median_farther_than_the_plain_one() {
    let rows = honest();
    let honest = slices(&rows);
    let median = |vector: &[f32]| aggregate(&RuleConfig::Median, &[rows.clone(), vec![vector.to_vec(); 2]].concat());
    let mean = aggregate(&RuleConfig::Mean, &rows);
    let damage = |vector: &[f32]| {
        let moved = median(vector);
        moved.iter().zip(&mean).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    let plain = little_is_enough(&honest, hidden_deviation(10, 2));
    let optimised = strongest(&honest, 20, |z| little_is_enough(&honest, z), median);
    assert!(damage(&optimised) > damage(&plain));
}

#[test]
fn a_mimic_learns_who_stands_apart() {
    let mut rows = vec![vec![0.0f32, 0.0, 0.1], vec![0.1, 0.0, 0.0], vec![0.0, 0.1, 0.0]];
    rows.push(vec![5.0, 0.2, 0.0]);
    let honest = slices(&rows);
    let mut attacker = Mimic::new(3);
    (0..5).for_each(|_| attacker.learn(&honest));
    assert_eq!(mimic(&honest, attacker.whom(&honest)), rows[3]);
}

#[test]
fn a_replay_is_as_late_as_it_says() {
    let mut attacker = StaleReplay::new(2);
    let sent: Vec<f32> = (0..5).map(|round| attacker.send(&[round as f32])[0]).collect();
    assert_eq!(sent, [0.0, 0.0, 0.0, 1.0, 2.0]);
}

#[test]
fn a_drift_grows_round_by_round_and_stays_sendable() {
    let mut update = [1.0, f32::MAX];
    drift(&mut update, &[-1.0, 1e38], 0.5, 4);
    assert_eq!(update, [-1.0, f32::MAX]);
}

#[test]
fn equivocators_tell_neighbours_mirror_images() {
    let rows = honest();
    let honest = slices(&rows);
    let (even, odd) = (equivocation(&honest, 2.0, 4), equivocation(&honest, 2.0, 1));
    assert_near(&even, &little_is_enough(&honest, 2.0), "even");
    assert_near(&odd, &little_is_enough(&honest, -2.0), "odd");
}

#[test]
fn a_free_rider_sends_other_bytes_and_the_same_update() {
    let victim = [1.0f32, -2.0, 0.5];
    assert_eq!(free_riding_copy(&victim, 0.0), victim);
    let copy = free_riding_copy(&victim, 1e-3);
    assert_ne!(copy, victim);
    assert!(
        copy.iter()
            .zip(&victim)
            .all(|(copy, value)| (copy - value).abs() <= 1.1e-3 * value.abs())
    );
}

#[test]
fn flipped_labels_are_the_classes_in_reverse() {
    assert_eq!(
        (flipped_label(0, 10), flipped_label(9, 10), flipped_label(4, 10)),
        (9, 0, 5)
    );
}

/// A victim between two honest neighbours and one attacker, all of one weight.
#[test]
fn dissensus_stops_plain_gossip_and_a_robust_mix_drops_it() {
    let (left, own, right) = (vec![-1.0f32, 2.0], vec![0.0f32, 0.0], vec![2.0f32, 2.0]);
    let lie = |strength| dissensus(&own, &[(&left, 0.25), (&right, 0.25)], 0.25, strength);
    let mixed = |config: MixingConfig, strength| {
        let rows = [&left, &own, &right, &lie(strength)];
        let members: Vec<Neighbour<'_>> = rows.iter().map(|values| Neighbour { values, weight: 0.25 }).collect();
        let mut out = vec![0.0; 2];
        let verdicts = config.mix(
            &Neighbourhood {
                members: &members,
                own: 1,
            },
            &mut out,
        );
        (out, verdicts[3].outcome)
    };
    assert_eq!(mixed(MixingConfig::Gossip, 1.0).0, own);
    assert!(
        mixed(MixingConfig::Gossip, 1.5).0[1] < 0.0,
        "beyond one, members move apart"
    );
    let (out, outcome) = mixed(MixingConfig::NearestNeighbours { b: 1 }, 1.5);
    assert_eq!(outcome, VerdictOutcome::Excluded);
    assert!(out[1] > 0.0);
}

#[test]
fn values_that_are_no_numbers_never_pass_a_decoder() {
    for bend in [infinity, not_a_number] {
        let mut update = [1.0f32; 4];
        let encoder = EncodingConfig::F32.build();
        let mut bytes = Vec::new();
        encoder.encode(&update, &mut bytes);
        bend(&mut update);
        let body = bytes.len() - 16;
        for (place, value) in update.iter().enumerate() {
            let at = bytes.len() - body + 4 * place;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        assert!(encoder.decode(&bytes, &mut [0.0; 4]).is_err());
    }
}
