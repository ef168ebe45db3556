//! The properties that every rule must satisfy, alone and after every pre-aggregation, each a function that panics, naming
//! composition and property, where it fails. It measures no speed and compares with no reference values: the benchmark
//! and the tests of this crate do.
//!
//! A new rule is right when [`check_composition`] passes on its configs and its reference vectors are met. The inputs are
//! drawn from a fixed generator, so that a failure repeats.

use crate::aggregator::{Aggregator, Context, Contribution, Verdict};
use crate::composition::Composition;
use crate::numeric::CHUNK;
use crate::pre_aggregation::PreAggregationConfig;
use crate::rules::{Radius, RuleConfig};

/// Runs every check on `rule` alone.
pub fn check_rule(rule: &RuleConfig) {
    check_composition(&Composition::of(rule.clone()));
}

/// Runs every check on `whole`.
pub fn check_composition(whole: &Composition) {
    identical_inputs_come_out_unchanged(whole);
    a_single_contribution_comes_out_unchanged(whole);
    members_may_be_permuted(whole);
    ties_may_be_permuted(whole);
    translation_commutes(whole);
    scaling_commutes(whole);
    outliers_are_bounded(whole);
    verdict_weights_are_shares(whole);
    subnormal_values_stay_in_range(whole);
    huge_values_stay_finite(whole);
    thread_counts_change_no_bit(whole);
    kappa_robustness_holds(whole);
}

/// Whether the whole promises a bounded result under faulty members.
pub fn is_robust(whole: &Composition) -> bool {
    let mean = matches!(whole.rule, RuleConfig::Mean | RuleConfig::CappedMean { .. });
    whole.f() != Some(0) && (!mean || whole.pre.iter().any(shortens))
}

/// How many faulty members of `n` the whole bears.
pub fn most_faulty(whole: &Composition, n: usize) -> usize {
    let rows = whole.pre.iter().fold(n, |rows, pre| pre.check(rows).unwrap_or(rows));
    let mean = matches!(whole.rule, RuleConfig::Mean | RuleConfig::CappedMean { .. });
    match whole.f() {
        Some(f) => f,
        None if mean => 0,
        None => (rows - 1) / 2,
    }
}

/// Whether adding a vector to all inputs adds it to the aggregate: not where lengths or a fixed origin count.
pub fn translates(whole: &Composition) -> bool {
    let from_origin = matches!(
        whole.rule,
        RuleConfig::GeometricMedian { .. }
            | RuleConfig::Cge { .. }
            | RuleConfig::CarriedClip { .. }
            | RuleConfig::Fltrust
    );
    !from_origin && !whole.pre.iter().any(shortens)
}

/// Whether multiplying all inputs multiplies the aggregate: not where the session fixes a length.
pub fn scales(whole: &Composition) -> bool {
    let fixed = |radius: &Radius| matches!(radius, Radius::Fixed(_));
    let rule = match &whole.rule {
        RuleConfig::CenteredClip { radius, .. } | RuleConfig::CarriedClip { radius, .. } => !fixed(radius),
        RuleConfig::GeometricMedian { .. } => false,
        _ => true,
    };
    rule && !whole
        .pre
        .iter()
        .any(|pre| matches!(pre, PreAggregationConfig::Clipping { .. }))
}

/// Whether far updates are shortened.
fn shortens(pre: &PreAggregationConfig) -> bool {
    matches!(
        pre,
        PreAggregationConfig::Arc { .. } | PreAggregationConfig::Clipping { .. }
    )
}

/// Whether every update enters with full weight.
fn takes_all(rule: &RuleConfig) -> bool {
    matches!(
        rule,
        RuleConfig::Mean | RuleConfig::CappedMean { .. } | RuleConfig::TrimmedMean { f: 0 }
    )
}

/// Whether a place in the order of members means something to it: a pivot, a bucket, or the choices of rules
/// that often tie: Bulyan's last scores are of one neighbour, so that two who are each other's nearest have the same, and
/// several subsets may have the pair in them that makes the least diameter; and what was clipped has one length.
fn knows_places(whole: &Composition) -> bool {
    if matches!(whole.rule, RuleConfig::Cge { .. }) && whole.pre.iter().any(shortens) {
        return true;
    }
    let bucketing = |pre: &PreAggregationConfig| matches!(pre, PreAggregationConfig::Bucketing { .. });
    matches!(
        whole.rule,
        RuleConfig::Monna { .. } | RuleConfig::Bulyan { .. } | RuleConfig::Mda { .. }
    ) || whole.pre.iter().any(bucketing)
}

/// n equal vectors aggregate to that vector, bit for bit (−0 apart), whatever their weights.
pub fn identical_inputs_come_out_unchanged(whole: &Composition) {
    if !scales(whole) {
        return; // what a fixed length shortens does not come out as it went in
    }
    let mut random = Random(1);
    for n in sizes(whole) {
        let rows = vec![random.vector(19, 1.0); n];
        let (out, _) = aggregate(whole, &rows);
        assert_eq!(out, rows[0], "{}: {n} identical inputs", whole.name());
    }
}

/// One vector alone comes out as it went in, for compositions that accept one.
pub fn a_single_contribution_comes_out_unchanged(whole: &Composition) {
    if whole.minimum_contributions() > 1 || !(scales(whole) || translates(whole)) {
        return;
    }
    let rows = [vec![1.5, -0.25, 0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE / 4.0]];
    let (out, verdicts) = aggregate(whole, &rows);
    assert_eq!(out, rows[0], "{}: n = 1", whole.name());
    assert_eq!(verdicts[0].weight, 1.0, "{}: n = 1", whole.name());
}

/// Reordering the members reorders the verdicts and leaves the aggregate as it was (sums of many members may differ
/// in their last bit, which is why callers sort).
pub fn members_may_be_permuted(whole: &Composition) {
    if knows_places(whole) {
        return;
    }
    let mut random = Random(2);
    for n in sizes(whole) {
        let rows = random.vectors(n, 33, 1.0);
        permuted_alike(whole, &rows, "permutation", true);
    }
}

/// The same where most values are equal to others. Rules that choose whole members break ties by index: they are tried
/// on members of whom several are equal, of whom it does not matter which is chosen.
pub fn ties_may_be_permuted(whole: &Composition) {
    if knows_places(whole) {
        return;
    }
    let mut random = Random(3);
    let chooses = whole.f().is_some() && whole.rule.reduction(9).is_none() || !whole.pre.is_empty();
    for n in sizes(whole) {
        let mut rows = random.vectors(n, 33, 1.0);
        if chooses {
            let (first, others) = rows.split_at_mut(1);
            others
                .iter_mut()
                .skip(n - 1 - n / 3)
                .for_each(|row| row.clone_from(&first[0]));
        } else {
            rows.iter_mut()
                .flatten()
                .for_each(|value| *value = if *value > 0.0 { 1.0 } else { -0.0 });
        }
        permuted_alike(whole, &rows, "ties", !chooses);
    }
}

/// Adding one vector to all inputs adds it to the aggregate.
pub fn translation_commutes(whole: &Composition) {
    // Mixed rows are often equal but for rounding, which a translation changes, and with it their order.
    let often_ties = matches!(
        whole.rule,
        RuleConfig::Bulyan { .. } | RuleConfig::Mda { .. } | RuleConfig::Smea { .. }
    );
    if !translates(whole) || often_ties && !whole.pre.is_empty() {
        return;
    }
    let mut random = Random(4);
    for n in sizes(whole) {
        let rows = random.vectors(n, 21, 1.0);
        let shift = random.vector(21, 8.0);
        let moved: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| row.iter().zip(&shift).map(|(value, shift)| value + shift).collect())
            .collect();
        let (out, _) = aggregate(whole, &rows);
        let expected: Vec<f32> = out.iter().zip(&shift).map(|(value, shift)| value + shift).collect();
        close(
            &aggregate(whole, &moved).0,
            &expected,
            2e-5,
            &format!("{}: translation, n = {n}", whole.name()),
        );
    }
}

/// Multiplying all inputs by a power of two multiplies the aggregate by it.
pub fn scaling_commutes(whole: &Composition) {
    if !scales(whole) {
        return;
    }
    // The lower of two windows around the median is the upper one after a change of sign.
    let sided = matches!(whole.rule, RuleConfig::Meamed { .. } | RuleConfig::Bulyan { .. });
    let factor = if sided { 1024.0 } else { -1024.0 };
    let mut random = Random(5);
    for n in sizes(whole) {
        let rows = random.vectors(n, 21, 1.0);
        let scaled: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| row.iter().map(|value| value * factor).collect())
            .collect();
        let expected: Vec<f32> = aggregate(whole, &rows).0.iter().map(|value| value * factor).collect();
        close(
            &aggregate(whole, &scaled).0,
            &expected,
            1e-3,
            &format!("{}: scaling, n = {n}", whole.name()),
        );
    }
}

/// As many outliers as the whole bears move the aggregate no farther than the honest spread allows, however far away
/// they are; and a rule that promises nothing is indeed moved by one.
pub fn outliers_are_bounded(whole: &Composition) {
    let mut random = Random(6);
    for n in sizes(whole).into_iter().filter(|&n| n >= 3) {
        for reach in [1e2f32, 1e10, f32::MAX] {
            let mut rows = random.vectors(n, 17, 1.0);
            let faulty = most_faulty(whole, n).max(usize::from(!is_robust(whole)));
            // A pivot at place 0 is trusted: the faulty ones stand last.
            for row in &mut rows[n - faulty..] {
                row.fill(reach);
            }
            let (honest, _) = rows.split_at(n - faulty);
            let (out, _) = aggregate_weighted(whole, &rows, &weights(n), &honest[0]);
            let excess = distance_from_range(&out, honest);
            if is_robust(whole) {
                let bound = bound_on_excess(whole, honest, n);
                assert!(
                    excess <= bound,
                    "{}: {faulty} of {n} at {reach:e} push by {excess} > {bound}",
                    whole.name()
                );
            } else if whole.pre.is_empty() && takes_all(&whole.rule) {
                assert!(
                    excess > 1.0,
                    "{} claims no robustness, yet an outlier did not move it",
                    whole.name()
                );
            }
        }
    }
}

/// Verdicts come one a contribution, with weights between 0 and 1 that add up to 1.
pub fn verdict_weights_are_shares(whole: &Composition) {
    let mut random = Random(7);
    for n in sizes(whole) {
        let (_, verdicts) = aggregate(whole, &random.vectors(n, 40, 3.0));
        assert_eq!(verdicts.len(), n, "{}", whole.name());
        let sum: f32 = verdicts.iter().map(|verdict| verdict.weight).sum();
        let nobody = sum == 0.0 && matches!(whole.rule, RuleConfig::Fltrust); // agrees with the reference
        assert!(
            nobody || (sum - 1.0).abs() < 1e-5,
            "{}: weights add up to {sum}",
            whole.name()
        );
        assert!(
            verdicts.iter().all(|verdict| (0.0..=1.0).contains(&verdict.weight)),
            "{}",
            whole.name()
        );
    }
}

/// Subnormal inputs give an output between the least and the greatest of each coordinate (and zero, for what shortens).
pub fn subnormal_values_stay_in_range(whole: &Composition) {
    if matches!(whole.rule, RuleConfig::Fltrust) {
        return; // takes the reference's length
    }
    let mut random = Random(8);
    for n in sizes(whole) {
        let mut rows = random.vectors(n, 23, 1.0);
        rows.iter_mut().flatten().for_each(|value| *value *= 1e-40);
        let (out, _) = aggregate(whole, &rows);
        if !translates(whole) {
            rows.push(vec![0.0; 23]);
        }
        assert_eq!(
            distance_from_range(&out, &rows),
            0.0,
            "{}: subnormal values, n = {n}",
            whole.name()
        );
        assert!(
            n == 1 || out.iter().any(|value| *value != 0.0),
            "{}: subnormals were flushed",
            whole.name()
        );
    }
}

/// Inputs at the ends of f32 give a finite output.
pub fn huge_values_stay_finite(whole: &Composition) {
    let mut random = Random(9);
    for n in sizes(whole) {
        let mut rows = random.vectors(n, 23, 1.0);
        rows.iter_mut()
            .flatten()
            .for_each(|value| *value = if *value > 0.0 { f32::MAX } else { f32::MIN });
        let (out, _) = aggregate(whole, &rows);
        assert!(
            out.iter().all(|value| value.is_finite()),
            "{}: huge values, n = {n}",
            whole.name()
        );
    }
}

/// Aggregate and verdicts are the same to the last bit on 1, 2, 7 and 16 threads.
pub fn thread_counts_change_no_bit(whole: &Composition) {
    let mut random = Random(10);
    let n = whole.minimum_contributions().max(5);
    let rows = random.vectors(n, 3 * CHUNK + 77, 1.0);
    let mut reference: Option<(Vec<u32>, Vec<Verdict>)> = None;
    for threads in [1, 2, 7, 16] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a few threads can be started");
        let (out, verdicts) = pool.install(|| aggregate(whole, &rows));
        let result = (out.iter().map(|value| value.to_bits()).collect(), verdicts);
        match &reference {
            None => reference = Some(result),
            Some(reference) => assert!(
                *reference == result,
                "{}: {threads} threads differ from one",
                whole.name()
            ),
        }
    }
}

/// Where a κ is proved: ‖F(x) − x̄_S‖² ≤ κ / |S| · Σ_{i ∈ S} ‖x_i − x̄_S‖² for every S of n − f members (Allouah et al.
/// 2023, AISTATS, definition 2), on members of like and of very unlike length.
pub fn kappa_robustness_holds(whole: &Composition) {
    const DIMENSION: usize = 6;
    let mut random = Random(11);
    for (n, f) in [(4, 1), (5, 1), (7, 2), (9, 3)] {
        let Some(kappa) = whole
            .kappa(n, f)
            .filter(|_| whole.check(n).is_ok() && whole.f().is_none_or(|own| own == f))
        else {
            continue;
        };
        for trial in 0..12 {
            let reach = [1.0, 5.0, 1000.0][trial % 3];
            let rows: Vec<Vec<f32>> = (0..n)
                .map(|i| random.vector(DIMENSION, if i < f { reach } else { 1.0 }))
                .collect();
            let (out, _) = aggregate(whole, &rows);
            for subset in (0u32..1 << n).filter(|subset| subset.count_ones() as usize == n - f) {
                let chosen: Vec<&Vec<f32>> = (0..n).filter(|i| subset >> i & 1 == 1).map(|i| &rows[i]).collect();
                let (error, variance) = error_and_variance(&out, &chosen);
                assert!(
                    error <= kappa * variance * (1.0 + 1e-5),
                    "{}: n = {n}, f = {f}: {error} > {kappa} · {variance}",
                    whole.name()
                );
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

/// The numbers of members that a composition is tried with: not so many that a search over subsets takes long.
fn sizes(whole: &Composition) -> Vec<usize> {
    let least = whole.minimum_contributions();
    let searches = matches!(whole.rule, RuleConfig::Mda { .. } | RuleConfig::Smea { .. });
    match searches {
        true => (least..least + 6).collect(),
        false => (least..least + 9).chain([least + 31]).collect(),
    }
}

/// How far beyond the range of honest values (in Euclidean distance) attackers may push a robust rule.
///
/// Coordinate-wise rules alone: not at all. Centered clipping alone starts within the range and each step moves by at most
/// τ. With D the diagonal of the range, a fixed τ gives L τ; the median of distances is at most the greatest honest
/// distance, ≤ D at first and at most doubled by each step, hence Σ_{l<L} 2^l D < 2^L D. Geometric medians: 2 (n − f) /
/// (n − 2f) times the greatest honest distance. All else: a generous multiple of the honest diagonal, or of the honest
/// lengths where these count; attackers are up to 1e38 away.
fn bound_on_excess(whole: &Composition, honest: &[Vec<f32>], n: usize) -> f64 {
    let squares = (0..honest[0].len()).map(|k| {
        let (low, high) = range(honest, k);
        let most = if translates(whole) {
            f64::from(high) - f64::from(low)
        } else {
            2.0 * f64::from(high.max(-low))
        };
        most.powi(2)
    });
    let diagonal = squares.sum::<f64>().sqrt();
    let faulty = n - honest.len();
    let majority = 2.0 * honest.len() as f64 / (n - 2 * faulty).max(1) as f64;
    match whole.rule {
        RuleConfig::TrimmedMean { .. } | RuleConfig::Median if whole.pre.is_empty() => 0.0,
        RuleConfig::CenteredClip {
            iterations,
            radius: Radius::Fixed(radius),
        } if whole.pre.is_empty() => f64::from(iterations) * f64::from(radius),
        RuleConfig::CenteredClip {
            iterations,
            radius: Radius::MedianDistance,
        } => diagonal * f64::from(1u32 << iterations.min(30)) * 4.0,
        RuleConfig::GeometricMedian { .. } => 30.0 * diagonal,
        _ => majority.max(8.0) * diagonal,
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

fn aggregate(whole: &Composition, rows: &[Vec<f32>]) -> (Vec<f32>, Vec<Verdict>) {
    aggregate_weighted(whole, rows, &weights(rows.len()), &rows[0])
}

fn aggregate_weighted(
    whole: &Composition,
    rows: &[Vec<f32>],
    weights: &[f32],
    reference: &[f32],
) -> (Vec<f32>, Vec<Verdict>) {
    let contributions: Vec<_> = rows
        .iter()
        .zip(weights)
        .map(|(row, &weight)| Contribution::dense(row, weight))
        .collect();
    let mut out = vec![f32::NAN; rows[0].len()];
    let context = Context {
        seed: 5,
        centre: None,
        reference: Some(reference),
    };
    let verdicts = whole.aggregate_with(&context, &contributions, &mut out);
    (out, verdicts)
}

/// With `all_differ`, verdicts follow their members too; else equal members may stand in for each other, and weigh the same.
fn permuted_alike(whole: &Composition, rows: &[Vec<f32>], property: &str, all_differ: bool) {
    let weights = if all_differ {
        weights(rows.len())
    } else {
        vec![1.0; rows.len()]
    };
    let (out, verdicts) = aggregate_weighted(whole, rows, &weights, &rows[0]);
    for shift in [1, rows.len() / 2] {
        let order: Vec<usize> = (0..rows.len()).rev().map(|i| (i + shift) % rows.len()).collect();
        let moved_rows: Vec<Vec<f32>> = order.iter().map(|&i| rows[i].clone()).collect();
        let moved_weights: Vec<f32> = order.iter().map(|&i| weights[i]).collect();
        let (moved_out, moved_verdicts) = aggregate_weighted(whole, &moved_rows, &moved_weights, &rows[0]);
        close(
            &moved_out,
            &out,
            2e-6,
            &format!("{}: {property}, n = {}", whole.name(), rows.len()),
        );
        for (moved, &original) in moved_verdicts.iter().zip(&order).filter(|_| all_differ) {
            let original = verdicts[original];
            // A weight that rounding leaves of 0 is no outcome of its own.
            let slight = moved.weight.max(original.weight) < 1e-6;
            assert!(
                slight || moved.outcome == original.outcome,
                "{}: {property}",
                whole.name()
            );
            assert!(
                (moved.weight - original.weight).abs() < 1e-5,
                "{}: {property}",
                whole.name()
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
