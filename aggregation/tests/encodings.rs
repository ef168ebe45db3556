//! Encodings from outside: golden bytes, error bounds, and decoders under damage.

use proptest::prelude::*;
use synod_aggregation::numeric::CHUNK;
use synod_aggregation::{DecodeError, Encoder, EncodingConfig};

const ALL: [EncodingConfig; 6] = [
    EncodingConfig::F32,
    EncodingConfig::Bf16,
    EncodingConfig::Int8 { block: 1 },
    EncodingConfig::Int8 { block: 8 },
    EncodingConfig::Int8 { block: 256 },
    EncodingConfig::Int8 { block: 300 }, // no divisor of a chunk
];

fn encode(encoder: &dyn Encoder, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xee; 3]; // what was there must not matter
    encoder.encode(values, &mut bytes);
    assert_eq!(bytes.len(), encoder.encoded_len(values.len()));
    bytes
}

fn round_trip(config: EncodingConfig, values: &[f32]) -> Vec<f32> {
    let encoder = config.build();
    let mut out = vec![7.0; values.len()];
    encoder
        .decode(&encode(&*encoder, values), &mut out)
        .expect("what was encoded decodes");
    out
}

/// The update decoded in one go, and in ranges of `chunks` chunks each.
fn whole_and_in_ranges(config: EncodingConfig, bytes: &[u8], dimension: usize, chunks: usize) -> [Vec<f32>; 2] {
    let encoder = config.build();
    let (mut whole, mut ranges) = (vec![7.0; dimension], vec![8.0; dimension]);
    encoder.decode(bytes, &mut whole).expect("what was encoded decodes");
    encoder.validate(bytes, dimension).expect("what decodes is valid");
    for (index, out) in ranges.chunks_mut(chunks * CHUNK).enumerate().rev() {
        encoder.decode_range(bytes, index * chunks * CHUNK, out);
    }
    [whole, ranges]
}

#[test]
fn ranges_make_up_the_whole() {
    let values: Vec<f32> = (0..3 * CHUNK + 77).map(|i| ((i * i) % 1001) as f32 - 500.0).collect();
    for config in ALL {
        for (dimension, chunks) in [(values.len(), 1), (values.len(), 2), (2 * CHUNK, 1), (5, 1)] {
            let bytes = encode(&*config.build(), &values[..dimension]);
            let [whole, ranges] = whole_and_in_ranges(config, &bytes, dimension, chunks);
            assert!(
                whole == ranges,
                "{config:?}, {dimension} values, {chunks} chunks a range"
            );
        }
    }
}

#[test]
#[should_panic(expected = "ends beyond the dimension")]
fn a_range_beyond_the_update_is_the_callers_bug() {
    let encoder = EncodingConfig::Bf16.build();
    let bytes = encode(&*encoder, &[1.0; 10]);
    encoder.decode_range(&bytes, 0, &mut [0.0; 11]);
}

fn golden(config: EncodingConfig, values: &[f32], expected: &str) {
    let hex: String = encode(&*config.build(), values)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, expected.replace(' ', ""), "{}", config.name());
}

#[test]
fn golden_bytes() {
    let values = [1.0, -0.5, 0.25];
    golden(
        EncodingConfig::F32,
        &values,
        "53594e55 01 01 0000 0300000000000000 0000803f 000000bf 0000803e",
    );
    golden(
        EncodingConfig::Bf16,
        &values,
        "53594e55 02 01 0000 0300000000000000 803f 00bf 803e",
    );
    golden(
        EncodingConfig::Int8 { block: 2 },
        &[127.0, -64.0, -254.0],
        "53594e55 03 01 0000 0300000000000000 02000000 0000803f 00000040 7f c0 81",
    );
}

#[test]
fn an_empty_update_is_a_header() {
    for config in ALL {
        assert_eq!(round_trip(config, &[]), [0.0f32; 0]);
    }
}

#[test]
fn each_damage_to_the_header_has_its_error() {
    let encoder = EncodingConfig::F32.build();
    let bytes = encode(&*encoder, &[1.0, 2.0]);
    let check = |damage: &dyn Fn(&mut Vec<u8>), expected: DecodeError| {
        let mut bytes = bytes.clone();
        damage(&mut bytes);
        assert_eq!(encoder.decode(&bytes, &mut [0.0; 2]), Err(expected));
    };
    check(&|b| b.truncate(15), DecodeError::TooShort { len: 15 });
    check(&|b| b[1] = 0, DecodeError::Magic);
    check(&|b| b[4] = 2, DecodeError::Tag { expected: 1, found: 2 });
    check(&|b| b[5] = 9, DecodeError::Version { found: 9 });
    check(&|b| b[7] = 1, DecodeError::Reserved);
    check(
        &|b| b[8..16].fill(0xff),
        DecodeError::Dimension {
            announced: u64::MAX,
            expected: 2,
        },
    );
    check(
        &|b| b.truncate(23),
        DecodeError::Length {
            expected: 24,
            found: 23,
        },
    );
    check(
        &|b| b.push(0),
        DecodeError::Length {
            expected: 24,
            found: 25,
        },
    );
    check(
        &|b| b[20..24].copy_from_slice(&f32::NAN.to_le_bytes()),
        DecodeError::NotFinite { index: 1 },
    );
    check(
        &|b| b[16..20].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes()),
        DecodeError::NotFinite { index: 0 },
    );
}

#[test]
fn bf16_infinities_are_refused() {
    let encoder = EncodingConfig::Bf16.build();
    let mut bytes = encode(&*encoder, &[1.0, 2.0]);
    bytes[18..20].copy_from_slice(&0x7f80u16.to_le_bytes());
    assert_eq!(
        encoder.decode(&bytes, &mut [0.0; 2]),
        Err(DecodeError::NotFinite { index: 1 })
    );
}

#[test]
#[should_panic(expected = "value 1 of the update")]
fn encoding_a_nan_is_the_callers_bug() {
    encode(&*EncodingConfig::Bf16.build(), &[0.0, f32::NAN]);
}

#[test]
fn senseless_blocks_are_refused() {
    assert!(EncodingConfig::Int8 { block: 0 }.check().is_err());
    assert!(EncodingConfig::Int8 { block: u32::MAX }.check().is_err());
    ALL.iter().for_each(|config| assert_eq!(config.check(), Ok(())));
}

/// Finite floats over the whole range of exponents, signs and subnormals.
fn finite() -> impl Strategy<Value = f32> {
    any::<u32>()
        .prop_map(f32::from_bits)
        .prop_filter("finite", |value| value.is_finite())
}

fn updates() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(finite(), 0..600),
        prop::collection::vec(-1.0f32..1.0, 0..600)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f32_is_exact(values in updates()) {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&round_trip(EncodingConfig::F32, &values)), bits(&values));
    }

    #[test]
    fn bf16_errs_by_half_a_place(values in updates()) {
        for (value, got) in values.iter().zip(round_trip(EncodingConfig::Bf16, &values)) {
            let (value, got) = (f64::from(*value), f64::from(got));
            if value.abs() < 3.389e38 {
                // Half of the last place: 2⁻⁹ of the leading power of two, and a fixed 2⁻¹³⁴ below the normal range.
                prop_assert!((value - got).abs() <= (value.abs() / 256.0).max(2f64.powi(-134)));
            } else {
                prop_assert!((value / got - 1.0).abs() < 1.0 / 256.0);
            }
        }
    }

    #[test]
    fn int8_errs_by_half_a_quantum(values in updates(), block in 1u32..300) {
        let got = round_trip(EncodingConfig::Int8 { block }, &values);
        for (values, got) in values.chunks(block as usize).zip(got.chunks(block as usize)) {
            let largest = values.iter().fold(0.0f64, |largest, value| largest.max(f64::from(value.abs())));
            let bound = (largest / 254.0 * (1.0 + 1e-4)).max(1.5e-36);
            for (value, got) in values.iter().zip(got) {
                prop_assert!((f64::from(*value) - f64::from(*got)).abs() <= bound, "{value} -> {got}, block max {largest}");
            }
        }
    }

    #[test]
    fn encoding_what_was_decoded_gives_the_same_bytes(values in updates(), config in prop::sample::select(ALL.to_vec())) {
        let encoder = config.build();
        let bytes = encode(&*encoder, &values);
        let mut decoded = vec![0.0; values.len()];
        encoder.decode(&bytes, &mut decoded).unwrap();
        let again = encode(&*encoder, &decoded);
        let mut decoded_again = vec![0.0; values.len()];
        encoder.decode(&again, &mut decoded_again).unwrap();
        if let EncodingConfig::Int8 { .. } = config {
            // A scale may move by a rounding; the values that it stands for may not, beyond that.
            for (a, b) in decoded.iter().zip(&decoded_again) {
                prop_assert!((a - b).abs() <= a.abs() * 3e-7);
            }
        } else {
            prop_assert_eq!(bytes, again);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), dimension in 0usize..100) {
        for config in ALL {
            let mut out = vec![0.0; dimension];
            prop_assert!(config.build().decode(&bytes, &mut out).is_err());
            prop_assert!(out.iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn random_bodies_decode_to_finite_values_or_not_at_all(
        body in prop::collection::vec(any::<u8>(), 800), dimension in 0usize..190, config in prop::sample::select(ALL.to_vec()),
    ) {
        let encoder = config.build();
        let mut bytes = encode(&*encoder, &vec![0.0; dimension]);
        bytes[16..].iter_mut().zip(&body).for_each(|(byte, random)| *byte = *random);
        let mut out = vec![0.0; dimension];
        let _ = encoder.decode(&bytes, &mut out);
        prop_assert!(out.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn a_cut_is_refused_and_a_flipped_bit_never_panics(values in updates(), at in any::<usize>(), bit in 0u8..8) {
        for config in ALL {
            let encoder = config.build();
            let mut bytes = encode(&*encoder, &values);
            let at = at % bytes.len();
            let mut out = vec![0.0; values.len()];
            prop_assert!(encoder.decode(&bytes[..at], &mut out).is_err());
            bytes[at] ^= 1 << bit;
            if encoder.decode(&bytes, &mut out).is_ok() {
                prop_assert!(at >= 16, "a damaged header was accepted");
                prop_assert!(out.iter().all(|value| value.is_finite()));
            }
        }
    }
}
