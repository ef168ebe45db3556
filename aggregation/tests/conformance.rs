//! Every rule passes the conformance suite, alone and after every pre-aggregation, in the configurations that sessions use.

use synod_aggregation::conformance::{check_composition, check_rule};
use synod_aggregation::{Composition, Neighbours, PreAggregationConfig, Radius, RuleConfig};

fn rules(f: usize) -> Vec<RuleConfig> {
    let neighbours = Neighbours::Blanchard;
    vec![
        RuleConfig::Mean,
        RuleConfig::CappedMean { cap: 2.0 },
        RuleConfig::TrimmedMean { f },
        RuleConfig::Median,
        RuleConfig::Meamed { f },
        RuleConfig::Krum { f, neighbours },
        RuleConfig::Krum {
            f,
            neighbours: Neighbours::Inclusive,
        },
        RuleConfig::MultiKrum {
            f,
            keep: None,
            neighbours,
        },
        RuleConfig::MultiKrum {
            f,
            keep: Some(2),
            neighbours,
        },
        RuleConfig::Bulyan { f },
        RuleConfig::GeometricMedian {
            iterations: 3,
            smoothing: 0.1,
        },
        RuleConfig::Rfa,
        RuleConfig::Mda { f },
        RuleConfig::Smea { f },
        RuleConfig::Monna { f, pivot: 0 },
        RuleConfig::Cge { f },
        RuleConfig::CenteredClip {
            iterations: 3,
            radius: Radius::MedianDistance,
        },
        RuleConfig::CenteredClip {
            iterations: 1,
            radius: Radius::Fixed(0.5),
        },
        RuleConfig::CarriedClip {
            iterations: 1,
            radius: Radius::MedianDistance,
        },
        RuleConfig::CarriedClip {
            iterations: 2,
            radius: Radius::Fixed(0.5),
        },
        RuleConfig::Fltrust,
        RuleConfig::Caf { f },
    ]
}

#[test]
fn every_rule_conforms_without_faults() {
    for rule in rules(0) {
        check_rule(&rule);
    }
}

#[test]
fn every_rule_conforms_with_one_fault() {
    for rule in rules(1) {
        check_rule(&rule);
    }
}

#[test]
fn every_rule_conforms_with_several_faults() {
    for rule in rules(3) {
        check_rule(&rule);
    }
}

fn conform_after(pre: &[PreAggregationConfig], f: usize) {
    for rule in rules(f) {
        let whole = Composition {
            pre: pre.to_vec(),
            rule,
        };
        if whole.check(whole.minimum_contributions().max(12)).is_ok() {
            check_composition(&whole);
        }
    }
}

#[test]
fn every_rule_conforms_after_nearest_neighbour_mixing() {
    conform_after(&[PreAggregationConfig::Nnm { f: 1 }], 1);
    conform_after(&[PreAggregationConfig::Nnm { f: 2 }], 2);
}

#[test]
fn every_rule_conforms_after_adaptive_clipping() {
    conform_after(&[PreAggregationConfig::Arc { f: 1 }], 1);
    conform_after(&[PreAggregationConfig::Arc { f: 2 }], 2);
}

#[test]
fn every_rule_conforms_after_fixed_clipping_and_bucketing() {
    conform_after(&[PreAggregationConfig::Clipping { norm: 0.75 }], 1);
    conform_after(&[PreAggregationConfig::Bucketing { size: 2 }], 1);
}

#[test]
fn the_advised_composition_conforms() {
    for f in 1..4 {
        check_composition(&Composition::robust(f));
    }
    conform_after(
        &[
            PreAggregationConfig::Arc { f: 1 },
            PreAggregationConfig::Bucketing { size: 2 },
            PreAggregationConfig::Nnm { f: 1 },
        ],
        1,
    );
}
