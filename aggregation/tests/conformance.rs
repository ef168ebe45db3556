//! Every rule passes the conformance suite, in the configurations that sessions use.

use synod_aggregation::conformance::check_rule;
use synod_aggregation::{Radius, RuleConfig};

#[test]
fn mean_conforms() {
    check_rule(&RuleConfig::Mean);
}

#[test]
fn trimmed_mean_conforms() {
    for f in [0, 1, 2, 5] {
        check_rule(&RuleConfig::TrimmedMean { f });
    }
}

#[test]
fn median_conforms() {
    check_rule(&RuleConfig::Median);
}

#[test]
fn centered_clip_conforms() {
    for iterations in [1, 3, 8] {
        check_rule(&RuleConfig::CenteredClip {
            iterations,
            radius: Radius::MedianDistance,
        });
        check_rule(&RuleConfig::CenteredClip {
            iterations,
            radius: Radius::Fixed(0.5),
        });
    }
}
