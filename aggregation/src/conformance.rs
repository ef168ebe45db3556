//! The properties that every rule must satisfy, each a function that panics, naming rule and property, where it fails.
//! It measures no speed and compares with no reference values: the benchmark and the tests of this crate do.
//!
//! A new rule is right when [`check_rule`] passes on its configs and its reference vectors are met. The inputs are
//! drawn from a fixed generator, so that a failure repeats.

use crate::aggregator::{Contribution, Verdict};
use crate::numeric::CHUNK;
use crate::rules::{Radius, RuleConfig};

/// Runs every check on `rule`.
pub fn check_rule(rule: &RuleConfig) {
    identical_inputs_come_out_unchanged(rule);
    a_single_contribution_comes_out_unchanged(rule);
    members_may_be_permuted(rule);
    ties_may_be_permuted(rule);
    translation_commutes(rule);
    scaling_commutes(rule);
    outliers_are_bounded(rule);
    verdict_weights_are_shares(rule);
    subnormal_values_stay_in_range(rule);
    huge_values_stay_finite(rule);
    thread_counts_change_no_bit(rule);
}

/// Whether the rule promises a bounded result under faulty members.
pub fn is_robust(rule: &RuleConfig) -> bool {
    match *rule {
        RuleConfig::Mean | RuleConfig::TrimmedMean { f: 0 } => false,
        RuleConfig::TrimmedMean { .. } | RuleConfig::Median | RuleConfig::CenteredClip { .. } => true,
    }
}

/// How many faulty members of `n` the rule bears.
pub fn most_faulty(rule: &RuleConfig, n: usize) -> usize {
    match *rule {
        RuleConfig::Mean => 0,
        RuleConfig::TrimmedMean { f } => f,
        RuleConfig::Median | RuleConfig::CenteredClip { .. } => (n - 1) / 2,
    }
}

/// n equal vectors aggregate to that vector, bit for bit (−0 apart), whatever their weights.
pub fn identical_inputs_come_out_unchanged(rule: &RuleConfig) {
    let mut random = Random(1);
    for n in sizes(rule) {
        let rows = vec![random.vector(19, 1.0); n];
        let (out, _) = aggregate(rule, &rows);
        assert_eq!(out, rows[0], "{}: {n} identical inputs", rule.name());
    }
}

/// One vector alone comes out as it went in, for rules that accept one.
pub fn a_single_contribution_comes_out_unchanged(rule: &RuleConfig) {
    if rule.minimum_contributions() > 1 {
        return;
    }
    let rows = [vec![1.5, -0.25, 0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE / 4.0]];
    let (out, verdicts) = aggregate(rule, &rows);
    assert_eq!(out, rows[0], "{}: n = 1", rule.name());
    assert_eq!(verdicts[0].weight, 1.0, "{}: n = 1", rule.name());
}

/// Reordering the members reorders the verdicts and leaves the aggregate as it was (sums of many members may differ
/// in their last bit, which is why callers sort).
pub fn members_may_be_permuted(rule: &RuleConfig) {
    let mut random = Random(2);
    for n in sizes(rule) {
        let rows = random.vectors(n, 33, 1.0);
        permuted_alike(rule, &rows, "permutation");
    }
}

/// The same where most values are equal to others.
pub fn ties_may_be_permuted(rule: &RuleConfig) {
    let mut random = Random(3);
    for n in sizes(rule) {
        let mut rows = random.vectors(n, 33, 1.0);
        rows.iter_mut()
            .flatten()
            .for_each(|value| *value = if *value > 0.0 { 1.0 } else { -0.0 });
        permuted_alike(rule, &rows, "ties");
    }
}

/// Adding one vector to all inputs adds it to the aggregate.
pub fn translation_commutes(rule: &RuleConfig) {
    let mut random = Random(4);
    for n in sizes(rule) {
        let rows = random.vectors(n, 21, 1.0);
        let shift = random.vector(21, 8.0);
        let moved: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| row.iter().zip(&shift).map(|(value, shift)| value + shift).collect())
            .collect();
        let (out, _) = aggregate(rule, &rows);
        let expected: Vec<f32> = out.iter().zip(&shift).map(|(value, shift)| value + shift).collect();
        close(
            &aggregate(rule, &moved).0,
            &expected,
            2e-5,
            &format!("{}: translation, n = {n}", rule.name()),
        );
    }
}

/// Multiplying all inputs by a power of two multiplies the aggregate by it, exactly; a fixed radius is no such rule.
pub fn scaling_commutes(rule: &RuleConfig) {
    if matches!(
        rule,
        RuleConfig::CenteredClip {
            radius: Radius::Fixed(_),
            ..
        }
    ) {
        return;
    }
    let mut random = Random(5);
    for n in sizes(rule) {
        let rows = random.vectors(n, 21, 1.0);
        let scaled: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| row.iter().map(|value| value * -1024.0).collect())
            .collect();
        let expected: Vec<f32> = aggregate(rule, &rows).0.iter().map(|value| value * -1024.0).collect();
        close(
            &aggregate(rule, &scaled).0,
            &expected,
            1e-3,
            &format!("{}: scaling, n = {n}", rule.name()),
        );
    }
}

/// As many outliers as the rule bears move the aggregate no farther than the honest spread allows, however far away
/// they are; and a rule that promises nothing is indeed moved by one.
pub fn outliers_are_bounded(rule: &RuleConfig) {
    let mut random = Random(6);
    for n in sizes(rule).into_iter().filter(|&n| n >= 3) {
        for reach in [1e2f32, 1e10, f32::MAX] {
            let mut rows = random.vectors(n, 17, 1.0);
            let faulty = most_faulty(rule, n).max(usize::from(!is_robust(rule)));
            for row in &mut rows[..faulty] {
                row.fill(reach);
            }
            let (out, _) = aggregate(rule, &rows);
            let honest = &rows[faulty..];
            let excess = distance_from_range(&out, honest);
            if is_robust(rule) {
                let bound = bound_on_excess(rule, honest);
                assert!(
                    excess <= bound,
                    "{}: {faulty} of {n} at {reach:e} push by {excess} > {bound}",
                    rule.name()
                );
            } else {
                assert!(
                    excess > 1.0,
                    "{} claims no robustness, yet an outlier did not move it",
                    rule.name()
                );
            }
        }
    }
}

/// Verdicts come one a contribution, with weights between 0 and 1 that add up to 1.
pub fn verdict_weights_are_shares(rule: &RuleConfig) {
    let mut random = Random(7);
    for n in sizes(rule) {
        let (_, verdicts) = aggregate(rule, &random.vectors(n, 40, 3.0));
        assert_eq!(verdicts.len(), n, "{}", rule.name());
        let sum: f32 = verdicts.iter().map(|verdict| verdict.weight).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{}: weights add up to {sum}", rule.name());
        assert!(
            verdicts.iter().all(|verdict| (0.0..=1.0).contains(&verdict.weight)),
            "{}",
            rule.name()
        );
    }
}

/// Subnormal inputs give an output between the least and the greatest of each coordinate.
pub fn subnormal_values_stay_in_range(rule: &RuleConfig) {
    let mut random = Random(8);
    for n in sizes(rule) {
        let mut rows = random.vectors(n, 23, 1.0);
        rows.iter_mut().flatten().for_each(|value| *value *= 1e-40);
        let (out, _) = aggregate(rule, &rows);
        assert_eq!(
            distance_from_range(&out, &rows),
            0.0,
            "{}: subnormal values, n = {n}",
            rule.name()
        );
        assert!(
            n == 1 || out.iter().any(|value| *value != 0.0),
            "{}: subnormals were flushed",
            rule.name()
        );
    }
}

/// Inputs at the ends of f32 give a finite output.
pub fn huge_values_stay_finite(rule: &RuleConfig) {
    let mut random = Random(9);
    for n in sizes(rule) {
        let mut rows = random.vectors(n, 23, 1.0);
        rows.iter_mut()
            .flatten()
            .for_each(|value| *value = if *value > 0.0 { f32::MAX } else { f32::MIN });
        let (out, _) = aggregate(rule, &rows);
        assert!(
            out.iter().all(|value| value.is_finite()),
            "{}: huge values, n = {n}",
            rule.name()
        );
    }
}

/// Aggregate and verdicts are the same to the last bit on one, two, three and seven threads.
pub fn thread_counts_change_no_bit(rule: &RuleConfig) {
    let mut random = Random(10);
    let n = rule.minimum_contributions().max(5);
    let rows = random.vectors(n, 5 * CHUNK + 77, 1.0);
    let mut reference: Option<(Vec<u32>, Vec<Verdict>)> = None;
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a few threads can be started");
        let (out, verdicts) = pool.install(|| aggregate(rule, &rows));
        let result = (out.iter().map(|value| value.to_bits()).collect(), verdicts);
        match &reference {
            None => reference = Some(result),
            Some(reference) => assert!(
                *reference == result,
                "{}: {threads} threads differ from one",
                rule.name()
            ),
        }
    }
}

/// The numbers of members that a rule is tried with.
fn sizes(rule: &RuleConfig) -> Vec<usize> {
    let least = rule.minimum_contributions();
    (least..least + 9).chain([least + 31]).collect()
}

/// How far beyond the range of honest values (in Euclidean distance) attackers may push a robust rule.
///
/// Coordinate-wise rules: not at all. Centered clipping starts within the range and each step moves by at most τ. With
/// D the diagonal of the range, a fixed τ gives L τ; the median of distances is at most the greatest honest distance,
/// ≤ D at first and at most doubled by each step, hence Σ_{l<L} 2^l D < 2^L D.
fn bound_on_excess(rule: &RuleConfig, honest: &[Vec<f32>]) -> f64 {
    match *rule {
        RuleConfig::CenteredClip {
            iterations,
            radius: Radius::Fixed(radius),
        } => f64::from(iterations) * f64::from(radius),
        RuleConfig::CenteredClip {
            iterations,
            radius: Radius::MedianDistance,
        } => {
            let squares = (0..honest[0].len()).map(|k| {
                let (low, high) = range(honest, k);
                (f64::from(high) - f64::from(low)).powi(2)
            });
            squares.sum::<f64>().sqrt() * f64::from(1u32 << iterations.min(30))
        }
        RuleConfig::Mean | RuleConfig::TrimmedMean { .. } | RuleConfig::Median => 0.0,
    }
}

/// Euclidean distance from `out` to the box that `rows` span.
fn distance_from_range(out: &[f32], rows: &[Vec<f32>]) -> f64 {
    let squares = out.iter().enumerate().map(|(k, &value)| {
        let (low, high) = range(rows, k);
        (f64::from(value) - f64::from(value.clamp(low, high))).powi(2)
    });
    squares.sum::<f64>().sqrt()
}

fn range(rows: &[Vec<f32>], coordinate: usize) -> (f32, f32) {
    rows.iter()
        .map(|row| row[coordinate])
        .fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(x), high.max(x)))
}

/// The weights that the checks give to n members: unequal, and small integers so that sums are exact.
fn weights(n: usize) -> Vec<f32> {
    [3.0, 1.0, 4.0, 2.0].into_iter().cycle().take(n).collect()
}

fn aggregate(rule: &RuleConfig, rows: &[Vec<f32>]) -> (Vec<f32>, Vec<Verdict>) {
    aggregate_weighted(rule, rows, &weights(rows.len()))
}

fn aggregate_weighted(rule: &RuleConfig, rows: &[Vec<f32>], weights: &[f32]) -> (Vec<f32>, Vec<Verdict>) {
    let contributions: Vec<_> = rows
        .iter()
        .zip(weights)
        .map(|(row, &weight)| Contribution { values: row, weight })
        .collect();
    let mut out = vec![f32::NAN; rows[0].len()];
    let verdicts = rule.build().aggregate(&contributions, &mut out);
    (out, verdicts)
}

fn permuted_alike(rule: &RuleConfig, rows: &[Vec<f32>], property: &str) {
    let (out, verdicts) = aggregate(rule, rows);
    let weights = weights(rows.len());
    for shift in [1, rows.len() / 2] {
        let order: Vec<usize> = (0..rows.len()).rev().map(|i| (i + shift) % rows.len()).collect();
        let moved_rows: Vec<Vec<f32>> = order.iter().map(|&i| rows[i].clone()).collect();
        let moved_weights: Vec<f32> = order.iter().map(|&i| weights[i]).collect();
        let (moved_out, moved_verdicts) = aggregate_weighted(rule, &moved_rows, &moved_weights);
        close(
            &moved_out,
            &out,
            2e-6,
            &format!("{}: {property}, n = {}", rule.name(), rows.len()),
        );
        for (moved, &original) in moved_verdicts.iter().zip(&order) {
            let original = verdicts[original];
            assert_eq!(moved.outcome, original.outcome, "{}: {property}", rule.name());
            assert!(
                (moved.weight - original.weight).abs() < 1e-5,
                "{}: {property}",
                rule.name()
            );
        }
    }
}

fn close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    for (k, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= tolerance,
            "{what}: coordinate {k} is {got}, expected {expected}"
        );
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014): enough for test inputs, and in no other use.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Values of about the bell's shape (a sum of four uniform ones), within ±2 · scale.
    fn vector(&mut self, dimension: usize, scale: f32) -> Vec<f32> {
        let mut uniform = || (self.next() >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
        (0..dimension)
            .map(|_| (uniform() + uniform() + uniform() + uniform()) * scale)
            .collect()
    }

    fn vectors(&mut self, n: usize, dimension: usize, scale: f32) -> Vec<Vec<f32>> {
        (0..n).map(|_| self.vector(dimension, scale)).collect()
    }
}
