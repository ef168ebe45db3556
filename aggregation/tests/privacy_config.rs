//! What a session may say about privacy: how it reads in TOML, its canonical bytes, which combinations are refused, and what
//! it promises in words.

use serde::{Deserialize, Serialize};
use synod_aggregation::RuleConfig;
use synod_aggregation::privacy::accountant::Accountant;
use synod_aggregation::privacy::{
    CentralDp, LocalDp, PrivacyConfig, PrivacyError, RuleClass, SecureSumConfig, Unit, masking_conflict,
};

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Section {
    #[serde(default)]
    privacy: PrivacyConfig,
}

fn read(text: &str) -> PrivacyConfig {
    toml::from_str::<Section>(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .privacy
}

fn local(unit: Unit) -> LocalDp {
    LocalDp {
        unit,
        clip_norm: 1.0,
        noise_multiplier: 1.1,
        epsilon: 8.0,
        delta: 1e-5,
        accountant: Accountant::Pld,
    }
}

fn central() -> CentralDp {
    CentralDp {
        clip_norm: 2.0,
        noise_multiplier: 10.0,
        epsilon: 4.0,
        delta: 1e-3,
        accountant: Accountant::Pld,
    }
}

fn sums() -> SecureSumConfig {
    SecureSumConfig {
        threshold: None,
        range: 8.0,
        max_weight: 1,
        group_size: None,
        noise: None,
    }
}

#[test]
fn toml_is_what_a_person_would_write() {
    assert_eq!(read(""), PrivacyConfig::None);
    assert_eq!(read("privacy = \"none\""), PrivacyConfig::None);
    let unit = Unit::Example {
        sampling_rate: 0.01,
        steps_per_round: 50,
    };
    let text = "[privacy.local_dp]\nunit = { example = { sampling_rate = 0.01, steps_per_round = 50 } }\nclip_norm = 1.0\n\
                noise_multiplier = 1.1\nepsilon = 8.0\ndelta = 1e-5";
    assert_eq!(read(text), PrivacyConfig::LocalDp(local(unit)));
    let text = "privacy = { central_dp = { clip_norm = 2.0, noise_multiplier = 10.0, epsilon = 4.0, delta = 1e-3 } }";
    assert_eq!(read(text), PrivacyConfig::CentralDp(central()));
    assert_eq!(read("[privacy.secure_sum]"), PrivacyConfig::SecureSum(sums()));
    let text = "[privacy.secure_sum]\ngroup_size = 4\nthreshold = 3\nrange = 2.0";
    let expected = SecureSumConfig {
        threshold: Some(3),
        range: 2.0,
        group_size: Some(4),
        ..sums()
    };
    assert_eq!(read(text), PrivacyConfig::SecureSum(expected));
}

#[test]
fn unknown_keys_and_names_are_refused() {
    for text in [
        "privacy = \"nothing\"",
        "[privacy.secure_sum]\ngroups = 3",
        "[privacy.central_dp]\nclip_norm = 2.0\nnoise_multiplier = 10.0\nepsilon = 4.0",
        "[privacy.local_dp]\nunit = \"examples\"\nclip_norm = 1.0\nnoise_multiplier = 1.0\nepsilon = 1.0\ndelta = 1e-5",
    ] {
        assert!(toml::from_str::<Section>(text).is_err(), "{text}");
    }
}

#[test]
fn postcard_brings_every_variant_back_and_its_tags_are_fixed() {
    let unit = Unit::Example {
        sampling_rate: 0.5,
        steps_per_round: 3,
    };
    let noised = SecureSumConfig {
        noise: Some(central()),
        threshold: Some(5),
        ..sums()
    };
    for (tag, config) in [
        (0, PrivacyConfig::None),
        (1, PrivacyConfig::LocalDp(local(unit))),
        (1, PrivacyConfig::LocalDp(local(Unit::Update))),
        (2, PrivacyConfig::CentralDp(central())),
        (3, PrivacyConfig::SecureSum(sums())),
        (3, PrivacyConfig::SecureSum(noised)),
    ] {
        let bytes = postcard::to_stdvec(&config).unwrap();
        assert_eq!(bytes[0], tag);
        assert_eq!(postcard::from_bytes::<PrivacyConfig>(&bytes).unwrap(), config);
    }
    let bytes = postcard::to_stdvec(&PrivacyConfig::SecureSum(sums())).unwrap();
    assert_eq!(bytes, [3, 0, 0, 0, 0, 0x41, 1, 0, 0]);
}

#[test]
fn rules_that_look_at_single_updates_are_refused_under_masks_and_allowed_across_groups() {
    for class in [RuleClass::Coordinates, RuleClass::Updates, RuleClass::Scores] {
        assert!(masking_conflict(class, false).unwrap().contains("group_size"));
        assert_eq!(masking_conflict(class, true), None);
    }
    assert_eq!(masking_conflict(RuleClass::Sum, false), None);
    let one = PrivacyConfig::SecureSum(sums());
    assert_eq!(one.check(16, &RuleConfig::Mean), Ok(()));
    for rule in [RuleConfig::Median, RuleConfig::TrimmedMean { f: 1 }] {
        let error = one.check(16, &rule).unwrap_err();
        assert!(matches!(error, PrivacyError::Masked { .. }), "{error}");
        assert!(error.to_string().contains(rule.name()));
    }
    let grouped = SecureSumConfig {
        group_size: Some(4),
        ..sums()
    };
    assert_eq!(grouped.tolerated_faults(16), Some(1));
    let grouped = PrivacyConfig::SecureSum(grouped);
    assert_eq!(grouped.check(16, &RuleConfig::Median), Ok(()));
    assert_eq!(grouped.check(16, &RuleConfig::TrimmedMean { f: 1 }), Ok(()));
    assert!(grouped.check(16, &RuleConfig::TrimmedMean { f: 2 }).is_err());
}

#[test]
fn impossible_sums_are_refused() {
    let refused = |change: &dyn Fn(&mut SecureSumConfig), members: usize| {
        let mut config = sums();
        change(&mut config);
        PrivacyConfig::SecureSum(config)
            .check(members, &RuleConfig::Mean)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&|_| (), 2).contains("3 to 64"));
    assert!(refused(&|_| (), 65).contains("3 to 64"));
    assert!(refused(&|c| c.threshold = Some(8), 16).contains("9 to 16"));
    assert!(refused(&|c| c.group_size = Some(2), 16).contains("groups of 2"));
    assert!(refused(&|c| c.max_weight = u32::MAX, 16).contains("max_weight"));
    assert!(refused(&|c| c.range = -1.0, 16).contains("range"));
    assert!(
        refused(
            &|c| c.noise = Some(CentralDp {
                clip_norm: 9.0,
                ..central()
            }),
            16
        )
        .contains("clip_norm")
    );
    let weighted = |c: &mut SecureSumConfig| (c.noise, c.max_weight) = (Some(central()), 7);
    assert!(refused(&weighted, 16).contains("equal weights"));
    let noised = SecureSumConfig {
        noise: Some(central()),
        ..sums()
    };
    assert_eq!(PrivacyConfig::SecureSum(noised).check(16, &RuleConfig::Mean), Ok(()));
    let grouped = SecureSumConfig {
        group_size: Some(5),
        ..noised
    };
    // Each group's sum has the whole noise, so that any rule may work on what comes out.
    assert_eq!(PrivacyConfig::SecureSum(grouped).check(16, &RuleConfig::Median), Ok(()));
    let (one, four) = (
        noised.plan([0; 32], 16, 1, None),
        grouped.plan([0; 32], 16, 1, Some(vec![0; 16])),
    );
    assert_eq!((one.least_in_sum(), four.least_in_sum()), (11, 4));
    let error = PrivacyConfig::SecureSum(noised).check(16, &RuleConfig::Median);
    assert!(matches!(error, Err(PrivacyError::Masked { .. })));
}

#[test]
fn budgets_that_no_round_fits_into_are_refused() {
    let mean = RuleConfig::Mean;
    assert_eq!(PrivacyConfig::CentralDp(central()).check(5, &mean), Ok(()));
    let error = PrivacyConfig::CentralDp(central())
        .check(5, &RuleConfig::Median)
        .unwrap_err();
    assert_eq!(error, PrivacyError::NotAMean { rule: "median" });
    let scant = CentralDp {
        noise_multiplier: 0.1,
        ..central()
    };
    assert!(matches!(
        PrivacyConfig::CentralDp(scant).check(5, &mean),
        Err(PrivacyError::NoRound { .. })
    ));
    for change in [
        (|c: &mut CentralDp| c.delta = 0.0) as fn(&mut CentralDp),
        |c| c.epsilon = f64::NAN,
        |c| c.clip_norm = 0.0,
        |c| c.noise_multiplier = 0.0,
    ] {
        let mut config = central();
        change(&mut config);
        assert!(PrivacyConfig::CentralDp(config).check(5, &mean).is_err());
    }
    let update = PrivacyConfig::LocalDp(local(Unit::Update));
    assert_eq!(update.check(5, &RuleConfig::Median), Ok(()));
    let wrong_rate = Unit::Example {
        sampling_rate: 2.0,
        steps_per_round: 1,
    };
    assert!(PrivacyConfig::LocalDp(local(wrong_rate)).check(5, &mean).is_err());
}

/// The rounds that a statement names fit into the budget, and one more does not.
#[test]
fn a_statement_says_what_is_promised_and_for_how_long() {
    let unit = Unit::Example {
        sampling_rate: 0.01,
        steps_per_round: 500,
    };
    for config in [
        PrivacyConfig::LocalDp(local(unit)),
        PrivacyConfig::CentralDp(central()),
        PrivacyConfig::SecureSum(SecureSumConfig {
            noise: Some(central()),
            ..sums()
        }),
    ] {
        let statement = config.statement().unwrap();
        let rounds = statement.rounds.unwrap();
        let (event, (budget, accountant)) = config.round_event().zip(config.budget()).unwrap();
        let spent = |rounds: u32| {
            let mut event = event;
            event.count *= rounds;
            accountant.epsilon(&[event], budget.delta).unwrap()
        };
        assert!(rounds >= 1 && spent(rounds) <= budget.epsilon && spent(rounds + 1) > budget.epsilon);
        assert!(
            statement.text.contains(&format!("for {rounds} rounds")),
            "{}",
            statement.text
        );
        assert_eq!(statement.budget, Some(budget));
    }
    for config in [PrivacyConfig::None, PrivacyConfig::SecureSum(sums())] {
        let statement = config.statement().unwrap();
        assert_eq!((statement.budget, statement.rounds), (None, None));
        assert!(statement.text.contains("pdates"));
    }
}
