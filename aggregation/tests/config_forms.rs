//! The configs read well in TOML and pass through postcard, whose bytes are part of a session's identity.

use serde::{Deserialize, Serialize};
use synod_aggregation::{EncodingConfig, OuterConfig, Radius, RuleConfig};

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
