//! Which numbers of members and faults the rules accept, and what they say when they do not.

use super::*;

#[test]
fn impossible_faults_are_refused_with_the_bound() {
    let rule = RuleConfig::TrimmedMean { f: 2 };
    assert_eq!(rule.check(5), Ok(()));
    let error = rule.check(4).unwrap_err();
    assert_eq!(
        error,
        RuleError::TooManyFaulty {
            rule: "trimmed_mean",
            f: 2,
            members: 4,
            at_most: 1
        }
    );
    assert!(error.to_string().contains("f = 1 at most"), "{error}");
    assert!(RuleConfig::TrimmedMean { f: usize::MAX }.check(9).is_err());
}

#[test]
fn rules_with_a_larger_bound_name_it() {
    let krum = |f| RuleConfig::Krum {
        f,
        neighbours: Neighbours::Blanchard,
    };
    assert_eq!(krum(2).check(7), Ok(()));
    let error = krum(2).check(6).unwrap_err().to_string();
    assert!(error.contains("n ≥ 2 f + 3 = 7"), "{error}");
    assert_eq!(RuleConfig::Bulyan { f: 2 }.check(11), Ok(()));
    let error = RuleConfig::Bulyan { f: 2 }.check(10).unwrap_err().to_string();
    assert!(error.contains("n ≥ 4 f + 3 = 11"), "{error}");
    assert!(RuleConfig::Bulyan { f: usize::MAX }.check(9).is_err());
    for f in 0..4 {
        for rule in [krum(f), RuleConfig::Bulyan { f }, RuleConfig::Mda { f }] {
            let least = rule.minimum_contributions();
            assert_eq!(rule.check(least), Ok(()), "{rule:?}");
            assert!(rule.check(least - 1).is_err(), "{rule:?}");
        }
    }
}

#[test]
fn searches_without_end_are_refused() {
    assert_eq!(RuleConfig::Smea { f: 3 }.check(16), Ok(()));
    let error = RuleConfig::Mda { f: 15 }.check(32).unwrap_err().to_string();
    assert!(error.contains("50000 subsets"), "{error}");
    assert_eq!((subsets(16, 3), subsets(5, 0), subsets(17, 5)), (560, 1, 6188));
}

#[test]
fn empty_sessions_and_senseless_settings_are_refused() {
    assert!(RuleConfig::Mean.check(0).is_err());
    let refused = |rule: RuleConfig| assert!(rule.check(3).is_err(), "{rule:?}");
    for iterations in [0, MAX_ITERATIONS + 1] {
        let radius = Radius::MedianDistance;
        refused(RuleConfig::CenteredClip { iterations, radius });
        refused(RuleConfig::CarriedClip { iterations, radius });
        refused(RuleConfig::GeometricMedian {
            iterations,
            smoothing: 0.1,
        });
    }
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused(RuleConfig::CenteredClip {
            iterations: 1,
            radius: Radius::Fixed(value),
        });
        refused(RuleConfig::GeometricMedian {
            iterations: 1,
            smoothing: value,
        });
        refused(RuleConfig::CappedMean { cap: value });
    }
    refused(RuleConfig::Monna { f: 0, pivot: 3 });
    for keep in [Some(0), Some(4)] {
        let neighbours = Neighbours::Blanchard;
        refused(RuleConfig::MultiKrum { f: 0, keep, neighbours });
    }
}
