//! The configs read well in TOML and pass through postcard, whose bytes are part of a session's identity.

use serde::{Deserialize, Serialize};
use synod_aggregation::{
    Composition, EncodingConfig, Neighbours, OuterConfig, PreAggregationConfig, Radius, RuleConfig, RuleError,
};

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Section {
    rule: RuleConfig,
    encoding: EncodingConfig,
    #[serde(default)]
    outer: OuterConfig,
}

fn read(text: &str) -> Section {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn toml_is_what_a_person_would_write() {
    let section = read("rule = \"mean\"\nencoding = \"bf16\"");
    assert_eq!(
        section,
        Section {
            rule: RuleConfig::Mean,
            encoding: EncodingConfig::Bf16,
            outer: OuterConfig::default()
        }
    );
    let section = read("rule = { trimmed_mean = { f = 1 } }\nencoding = { int8 = { block = 64 } }");
    assert_eq!(section.rule, RuleConfig::TrimmedMean { f: 1 });
    assert_eq!(section.encoding, EncodingConfig::Int8 { block: 64 });
    let section = read("encoding = { int8 = {} }\n[rule.centered_clip]\n[outer]\nmomentum = 0.5");
    assert_eq!(
        section.rule,
        RuleConfig::CenteredClip {
            iterations: 3,
            radius: Radius::MedianDistance
        }
    );
    assert_eq!(section.encoding, EncodingConfig::Int8 { block: 256 });
    assert_eq!(
        section.outer,
        OuterConfig {
            learning_rate: 0.7,
            momentum: 0.5,
            nesterov: true,
            clip_radius: None,
        }
    );
    let section = read("rule = \"mean\"\nencoding = \"f32\"\n[outer]\nclip_radius = 2.5");
    assert_eq!(section.outer.clip_radius, Some(2.5));
    let section = read("encoding = \"f32\"\n[rule.centered_clip]\niterations = 1\nradius = { fixed = 2.5 }");
    assert_eq!(
        section.rule,
        RuleConfig::CenteredClip {
            iterations: 1,
            radius: Radius::Fixed(2.5)
        }
    );
}

#[test]
fn every_encoding_has_its_name_and_defaults_that_work() {
    for (text, expected) in [
        ("\"f16\"", EncodingConfig::F16),
        ("{ int4 = {} }", EncodingConfig::Int4 { block: 128 }),
        ("{ sign = {} }", EncodingConfig::Sign { block: 256 }),
        ("{ top_k = { one_in = 100 } }", EncodingConfig::TopK { one_in: 100 }),
        (
            "{ chunked_top_k = {} }",
            EncodingConfig::ChunkedTopK { chunk: 4096, keep: 64 },
        ),
        ("{ dct_top_k = { keep = 32 } }", EncodingConfig::DctTopK { keep: 32 }),
        ("{ low_rank = {} }", EncodingConfig::LowRank { rank: 4 }),
        ("{ random_seeds = {} }", EncodingConfig::RandomSeeds { pairs: 64 }),
    ] {
        let section = read(&format!("rule = \"mean\"\nencoding = {text}"));
        assert_eq!(section.encoding, expected);
        assert_eq!(expected.check(), Ok(()));
        assert!(text.contains(expected.name()));
    }
}

#[test]
fn unknown_keys_and_names_are_refused() {
    for text in [
        "rule = \"krumm\"\nencoding = \"f32\"",
        "rule = { trimmed_mean = { f = 1, g = 2 } }\nencoding = \"f32\"",
        "rule = { trimmed_mean = { } }\nencoding = \"f32\"",
        "rule = \"mean\"\nencoding = { int8 = { blocks = 3 } }",
        "rule = \"mean\"\nencoding = \"f32\"\n[outer]\nlr = 1.0",
    ] {
        assert!(toml::from_str::<Section>(text).is_err(), "{text}");
    }
}

#[test]
fn postcard_brings_every_variant_back_and_its_bytes_are_fixed() {
    let check = |rule: RuleConfig, expected: &[u8]| {
        let bytes = postcard::to_stdvec(&rule).unwrap();
        assert_eq!(bytes, expected, "{rule:?}");
        assert_eq!(postcard::from_bytes::<RuleConfig>(&bytes).unwrap(), rule);
    };
    check(RuleConfig::Mean, &[0]);
    check(RuleConfig::TrimmedMean { f: 300 }, &[1, 0xac, 2]);
    check(RuleConfig::Median, &[2]);
    check(
        RuleConfig::CenteredClip {
            iterations: 3,
            radius: Radius::MedianDistance,
        },
        &[3, 3, 0],
    );
    check(
        RuleConfig::CenteredClip {
            iterations: 1,
            radius: Radius::Fixed(1.0),
        },
        &[3, 1, 1, 0, 0, 0x80, 0x3f],
    );
    let neighbours = Neighbours::Inclusive;
    check(RuleConfig::CappedMean { cap: 2.0 }, &[4, 0, 0, 0, 0x40]);
    check(RuleConfig::Meamed { f: 1 }, &[5, 1]);
    check(RuleConfig::Krum { f: 1, neighbours }, &[6, 1, 1]);
    let keep = Some(4);
    check(RuleConfig::MultiKrum { f: 1, keep, neighbours }, &[7, 1, 1, 4, 1]);
    check(RuleConfig::Bulyan { f: 1 }, &[8, 1]);
    let median = RuleConfig::GeometricMedian {
        iterations: 3,
        smoothing: 1.0,
    };
    check(median, &[9, 3, 0, 0, 0x80, 0x3f]);
    check(RuleConfig::Rfa, &[10]);
    check(RuleConfig::Mda { f: 2 }, &[11, 2]);
    check(RuleConfig::Smea { f: 2 }, &[12, 2]);
    check(RuleConfig::Monna { f: 2, pivot: 3 }, &[13, 2, 3]);
    check(RuleConfig::Cge { f: 2 }, &[14, 2]);
    let carried = RuleConfig::CarriedClip {
        iterations: 1,
        radius: Radius::MedianDistance,
    };
    check(carried, &[15, 1, 0]);
    check(RuleConfig::Fltrust, &[16]);
    check(RuleConfig::Caf { f: 2 }, &[17, 2]);
    for (pre, expected) in [
        (PreAggregationConfig::Arc { f: 1 }, vec![0, 1]),
        (PreAggregationConfig::Nnm { f: 2 }, vec![1, 2]),
        (PreAggregationConfig::Bucketing { size: 2 }, vec![2, 2]),
        (PreAggregationConfig::Clipping { norm: 1.0 }, vec![3, 0, 0, 0x80, 0x3f]),
    ] {
        let bytes = postcard::to_stdvec(&pre).unwrap();
        assert_eq!(bytes, expected);
        assert_eq!(postcard::from_bytes::<PreAggregationConfig>(&bytes).unwrap(), pre);
    }
    for (encoding, expected) in [
        (EncodingConfig::F32, vec![0]),
        (EncodingConfig::Bf16, vec![1]),
        (EncodingConfig::Int8 { block: 64 }, vec![2, 64]),
        (EncodingConfig::F16, vec![3]),
        (EncodingConfig::Int4 { block: 64 }, vec![4, 64]),
        (EncodingConfig::Sign { block: 64 }, vec![5, 64]),
        (EncodingConfig::TopK { one_in: 64 }, vec![6, 64]),
        (EncodingConfig::ChunkedTopK { chunk: 64, keep: 3 }, vec![7, 64, 3]),
        (EncodingConfig::DctTopK { keep: 3 }, vec![8, 3]),
        (EncodingConfig::LowRank { rank: 3 }, vec![9, 3]),
        (EncodingConfig::RandomSeeds { pairs: 3 }, vec![10, 3]),
    ] {
        let bytes = postcard::to_stdvec(&encoding).unwrap();
        assert_eq!(bytes, expected);
        assert_eq!(postcard::from_bytes::<EncodingConfig>(&bytes).unwrap(), encoding);
    }
    let outer = OuterConfig {
        clip_radius: Some(1.0),
        ..OuterConfig::default()
    };
    let averaging = postcard::to_stdvec(&OuterConfig::AVERAGING).unwrap();
    assert_eq!(averaging, [0, 0, 0x80, 0x3f, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        postcard::from_bytes::<OuterConfig>(&postcard::to_stdvec(&outer).unwrap()).unwrap(),
        outer
    );
}

#[derive(Serialize, Deserialize)]
struct Whole {
    pre: Vec<PreAggregationConfig>,
    rule: RuleConfig,
}

/// A composition from TOML.
fn whole(text: &str) -> Composition {
    let Whole { pre, rule } = toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    Composition { pre, rule }
}

#[test]
fn a_composition_is_refused_where_its_parts_do_not_fit_together() {
    let advised = whole("pre = [{ arc = { f = 2 } }, { nnm = { f = 2 } }]\nrule = { trimmed_mean = { f = 2 } }");
    assert_eq!(advised, Composition::robust(2));
    assert_eq!(advised.name(), "arc → nnm → trimmed_mean");
    assert_eq!(advised.minimum_contributions(), 5);
    assert_eq!(advised.check(5), Ok(()));
    assert!(matches!(
        advised.check(4),
        Err(RuleError::TooManyFaulty { rule: "arc", .. })
    ));

    let refused = |text: &str, members, part: &str| {
        let error = whole(text).check(members).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        "pre = [{ nnm = { f = 1 } }]\nrule = { trimmed_mean = { f = 2 } }",
        9,
        "nnm reckons with f = 1 faulty members and trimmed_mean with f = 2",
    );
    refused(
        "pre = [{ bucketing = {} }]\nrule = { krum = { f = 1 } }",
        8,
        "4 rows are left of 8 members by what comes before the rule: rule krum: f = 1 faulty members need n ≥ 2 f + 3 = 5",
    );
    refused("pre = [{ bucketing = { size = 0 } }]\nrule = 'median'", 8, "size = 0");
    refused(
        "pre = [{ clipping = { norm = -1.0 } }]\nrule = 'median'",
        8,
        "norm must be",
    );
    refused(
        "pre = [{ bucketing = {} }]\nrule = { monna = { f = 1 } }",
        8,
        "leave bucketing out",
    );
    let many =
        "pre = [{ bucketing = {} }, { bucketing = {} }, { bucketing = {} }, { bucketing = {} }, { bucketing = {} }]";
    refused(&format!("{many}\nrule = 'median'"), 64, "at most 4");
}

#[test]
fn the_fewest_contributions_pass_the_check_and_one_less_does_not() {
    for text in [
        "pre = [{ bucketing = {} }]\nrule = { krum = { f = 1 } }",
        "pre = [{ bucketing = { size = 3 } }, { nnm = { f = 2 } }]\nrule = { bulyan = { f = 2 } }",
        "pre = [{ nnm = { f = 3 } }]\nrule = 'median'",
    ] {
        let whole = whole(text);
        let least = whole.minimum_contributions();
        assert_eq!(whole.check(least), Ok(()), "{text}");
        assert!(whole.check(least - 1).is_err(), "{text}");
    }
}
