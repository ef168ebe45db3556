//! Encodings from outside: golden bytes, error bounds, and decoders under damage.

use proptest::prelude::*;
use synod_aggregation::numeric::CHUNK;
use synod_aggregation::{DecodeError, Encoder, EncodingConfig, TensorShape};

const ALL: [EncodingConfig; 22] = [
    EncodingConfig::F32,
    EncodingConfig::Bf16,
    EncodingConfig::Int8 { block: 1 },
    EncodingConfig::Int8 { block: 8 },
    EncodingConfig::Int8 { block: 256 },
    EncodingConfig::Int8 { block: 300 }, // no divisor of a chunk
    EncodingConfig::F16,
    EncodingConfig::Int4 { block: 2 },
    EncodingConfig::Int4 { block: 128 },
    EncodingConfig::Int4 { block: 300 },
    EncodingConfig::Sign { block: 8 },
    EncodingConfig::Sign { block: 256 },
    EncodingConfig::Sign { block: 24 },
    EncodingConfig::TopK { one_in: 1 },
    EncodingConfig::TopK { one_in: 7 },
    EncodingConfig::TopK { one_in: 1000 },
    EncodingConfig::ChunkedTopK { chunk: 64, keep: 5 },
    EncodingConfig::ChunkedTopK { chunk: 4096, keep: 64 },
    EncodingConfig::DctTopK { keep: 9 },
    EncodingConfig::LowRank { rank: 2 },
    EncodingConfig::RandomSeeds { pairs: 1 },
    EncodingConfig::RandomSeeds { pairs: 5 },
];

/// What `low_rank` takes for the layout of updates of this length: as square a matrix as fits, and a rest.
fn layout(dimension: usize) -> Vec<TensorShape> {
    let side = dimension.isqrt() as u32;
    vec![TensorShape {
        rows: side,
        columns: side,
    }]
}

fn build(config: EncodingConfig, dimension: usize) -> Box<dyn Encoder> {
    config.build_for(&layout(dimension))
}

fn encode(encoder: &dyn Encoder, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xee; 3]; // what was there must not matter
    encoder.encode(values, &mut bytes);
    assert_eq!(bytes.len(), encoder.encoded_len(values.len()));
    bytes
}

fn round_trip(config: EncodingConfig, values: &[f32]) -> Vec<f32> {
    let encoder = build(config, values.len());
    let mut out = vec![7.0; values.len()];
    encoder
        .decode(&encode(&*encoder, values), &mut out)
        .expect("what was encoded decodes");
    out
}

/// The update decoded in one go, and in ranges of `chunks` chunks each.
fn whole_and_in_ranges(config: EncodingConfig, bytes: &[u8], dimension: usize, chunks: usize) -> [Vec<f32>; 2] {
    let encoder = build(config, dimension);
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
            let bytes = encode(&*build(config, dimension), &values[..dimension]);
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
fn golden_bytes_of_the_smaller_encodings() {
    let values = [1.0, -0.5, 0.25];
    let three = "0000 0300000000000000";
    golden(
        EncodingConfig::F16,
        &values,
        &format!("53594e55 04 01 {three} 003c 00b8 0034"),
    );
    golden(
        EncodingConfig::Int4 { block: 2 },
        &[7.0, -3.0, -14.0],
        &format!("53594e55 05 01 {three} 02000000 0000803f 00000040 d7 09"),
    );
    golden(
        EncodingConfig::Sign { block: 8 },
        &[1.0, -3.0, 2.0],
        &format!("53594e55 06 01 {three} 08000000 00000040 02"),
    );
    golden(
        EncodingConfig::TopK { one_in: 2 },
        &values,
        &format!("53594e55 07 01 {three} 02000000 04 803f 00bf"), // places 0 and 1 in two bits each
    );
    golden(
        EncodingConfig::ChunkedTopK { chunk: 64, keep: 2 },
        &values,
        &format!("53594e55 08 01 {three} 40000000 02000000 003f 803f 4081"), // 0 high; 1 low, minus: 8 bits each
    );
    golden(
        EncodingConfig::DctTopK { keep: 2 },
        &[0.0; 3],
        &format!("53594e55 09 01 {three} 02000000 000000 0000 0000"),
    );
    golden(
        EncodingConfig::LowRank { rank: 1 },
        &values,
        &format!("53594e55 0a 01 {three} 01000000 803f 00bf 803e"),
    );
}

/// The same bits on every machine and with every instruction set: bytes and decoded values of updates whose every operation
/// but the encodings' own is exact.
#[test]
fn bytes_and_decoded_values_are_fixed_to_the_bit() {
    // Several chunks, and a length that stays when their size does not.
    let values: Vec<f32> = (0..33_101usize)
        .map(|i| ((i * i * 31 + i * 17) % 8191) as f32 / 4096.0 - 1.0)
        .collect();
    let digest = |words: &mut dyn Iterator<Item = u32>| {
        words.fold(0xcbf2_9ce4_8422_2325u64, |hash, word| {
            (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let found: Vec<(u64, u64)> = ALL
        .iter()
        .map(|&config| {
            let encoder = build(config, values.len());
            let bytes = encode(&*encoder, &values);
            let mut decoded = vec![0.0; values.len()];
            encoder.decode(&bytes, &mut decoded).expect("what was encoded decodes");
            (
                digest(&mut bytes.iter().map(|&byte| u32::from(byte))),
                digest(&mut decoded.iter().map(|value| value.to_bits())),
            )
        })
        .collect();
    assert_eq!(found, GOLDEN_DIGESTS, "{found:#x?}");
}

/// FNV-1a of the bytes and of the decoded values' bits, in the order of `ALL`.
const GOLDEN_DIGESTS: [(u64, u64); 22] = [
    (0xa97c_d32d_158b_657d, 0x70f4_7400_06a8_342f),
    (0x92b5_e9d0_3db8_b3a4, 0xa3de_eda5_f67e_142f),
    (0xe914_6899_fe1d_faa5, 0x0e43_162c_63e1_de21),
    (0x26fc_f2d1_35da_11d2, 0xcb0b_d230_c09c_b5b5),
    (0xde65_f37f_e367_ec1f, 0x911c_4b0b_390a_988a),
    (0x5d0f_1a14_0517_5c9d, 0x8c0f_9961_f93a_a8c3),
    (0x418b_2bb1_7c7f_4f3f, 0x290a_d2c8_f18b_742f),
    (0xd712_1322_4866_b53b, 0xb3f0_b09c_2332_d12c),
    (0x21f6_31f2_439f_a4d0, 0xe815_14b1_ffcd_0c2d),
    (0xb064_fbe6_141b_ab78, 0x2230_2a66_e985_14b2),
    (0xb4b1_f4d9_97e5_3df8, 0x3214_7f80_b0c8_ef0d),
    (0x641f_adf8_e355_0886, 0x461c_993c_5fa4_8ec5),
    (0x3148_1634_c9c4_ee02, 0xa388_695e_c185_9365),
    (0xfd0a_536c_0a4a_428b, 0xa3de_eda5_f67e_142f),
    (0xd780_b38a_aca6_c757, 0x3d9e_ca0c_11f3_142f),
    (0x2bef_82f2_b194_8cfe, 0x391b_dd12_89f1_142f),
    (0x2154_c862_d3d4_3898, 0x5cd4_7416_e331_142f),
    (0xfa53_a607_2649_5a06, 0x83ba_67cc_2339_142f),
    (0x7ed5_d46d_e459_93c2, 0x2aac_e006_df54_8ab7),
    (0x452c_cabf_4253_b663, 0x440c_c129_4a45_1a30),
    (0xdc4f_c1cd_71b3_f7c5, 0x7677_a043_a651_e9ec),
    (0x6985_237a_6276_2b19, 0xcdeb_3003_952b_38b8),
];

#[test]
fn lengths_never_depend_on_the_values() {
    for config in ALL {
        for values in [vec![0.0; 5000], (0..5000).map(|i| (i as f32).sqrt() - 30.0).collect()] {
            let encoder = build(config, 5000);
            assert_eq!(
                encode(&*encoder, &values).len(),
                encoder.encoded_len(5000),
                "{config:?}"
            );
        }
        assert_eq!(build(config, 0).encoded_len(0), encode(&*build(config, 0), &[]).len());
    }
}

#[test]
fn an_empty_update_comes_back() {
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
fn senseless_settings_are_refused() {
    for config in [
        EncodingConfig::Int8 { block: 0 },
        EncodingConfig::Int8 { block: u32::MAX },
        EncodingConfig::Int4 { block: 0 },
        EncodingConfig::Int4 { block: 7 },
        EncodingConfig::Sign { block: 4 },
        EncodingConfig::Sign { block: 65_537 },
        EncodingConfig::TopK { one_in: 0 },
        EncodingConfig::ChunkedTopK { chunk: 100, keep: 1 },
        EncodingConfig::ChunkedTopK { chunk: 32_768, keep: 1 },
        EncodingConfig::ChunkedTopK { chunk: 128, keep: 129 },
        EncodingConfig::ChunkedTopK { chunk: 128, keep: 0 },
        EncodingConfig::DctTopK { keep: 4097 },
        EncodingConfig::LowRank { rank: 0 },
        EncodingConfig::RandomSeeds { pairs: 1025 },
    ] {
        let error = config.check().expect_err(config.name()).to_string();
        assert!(error.contains(config.name()), "{error}");
    }
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
    fn f16_errs_by_half_a_place(values in updates()) {
        for (value, got) in values.iter().zip(round_trip(EncodingConfig::F16, &values)) {
            let (value, got) = (f64::from(*value), f64::from(got));
            let nearest = value.clamp(-65504.0, 65504.0);
            prop_assert!((nearest - got).abs() <= (nearest.abs() / 2048.0).max(2f64.powi(-25)), "{value} -> {got}");
        }
    }

    #[test]
    fn int4_errs_by_half_a_quantum(values in updates(), block in 1u32..150) {
        let block = 2 * block;
        let got = round_trip(EncodingConfig::Int4 { block }, &values);
        for (values, got) in values.chunks(block as usize).zip(got.chunks(block as usize)) {
            let largest = values.iter().fold(0.0f64, |largest, value| largest.max(f64::from(value.abs())));
            let bound = (largest / 14.0 * (1.0 + 1e-5)).max(1e-37);
            for (value, got) in values.iter().zip(got) {
                prop_assert!((f64::from(*value) - f64::from(*got)).abs() <= bound, "{value} -> {got}, block max {largest}");
            }
        }
    }

    /// What makes error feedback converge: an encoding that leaves something out never makes the error larger than the
    /// update (a contraction, δ > 0).
    #[test]
    fn lossy_encodings_contract(values in prop::collection::vec(-1.0f32..1.0, 1..600), config in prop::sample::select(ALL.to_vec())) {
        let got = round_trip(config, &values);
        let error: f64 = values.iter().zip(&got).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let norm: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        prop_assert!(error <= norm * (1.0 + 1e-6), "{config:?}: {error} of {norm}");
    }

    /// Except where rounding moves scales or coefficients, whose effect is bounded instead.
    #[test]
    fn encoding_what_was_decoded_gives_the_same_bytes(values in updates(), config in prop::sample::select(ALL.to_vec())) {
        let encoder = build(config, values.len());
        let bytes = encode(&*encoder, &values);
        let mut decoded = vec![0.0; values.len()];
        encoder.decode(&bytes, &mut decoded).unwrap();
        let again = encode(&*encoder, &decoded);
        let mut decoded_again = vec![0.0; values.len()];
        encoder.decode(&again, &mut decoded_again).unwrap();
        match config {
            EncodingConfig::Int8 { .. } | EncodingConfig::Int4 { .. } => {
                for (a, b) in decoded.iter().zip(&decoded_again) {
                    prop_assert!((a - b).abs() <= a.abs() * 3e-7);
                }
            }
            // Transformed, projected or drawn anew: their own files say what holds.
            EncodingConfig::DctTopK { .. } | EncodingConfig::LowRank { .. } | EncodingConfig::RandomSeeds { .. } => {}
            _ => prop_assert_eq!(bytes, again),
        }
    }

    /// One rule for all decoders: whatever the bytes, `decode` gives finite values or an error, and leaves `out` alone then.
    #[test]
    fn damaged_bytes_decode_to_finite_values_or_not_at_all(
        values in updates(), config in prop::sample::select(ALL.to_vec()),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let encoder = build(config, values.len());
        let mut bytes = encode(&*encoder, &values);
        let len = bytes.len();
        damage.iter().for_each(|&(at, byte)| bytes[at % len] = byte);
        let mut out = vec![7.0; values.len()];
        match encoder.decode(&bytes, &mut out) {
            Ok(()) => prop_assert!(out.iter().all(|value| value.is_finite()), "{config:?}"),
            Err(_) => prop_assert!(out.iter().all(|value| *value == 7.0), "{config:?}"),
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), dimension in 0usize..100) {
        for config in ALL {
            let mut out = vec![0.0; dimension];
            prop_assert!(build(config, dimension).decode(&bytes, &mut out).is_err());
        }
    }

    #[test]
    fn random_bodies_decode_to_finite_values_or_not_at_all(
        body in prop::collection::vec(any::<u8>(), 800), dimension in 0usize..190, config in prop::sample::select(ALL.to_vec()),
        skip in 0usize..12,
    ) {
        let encoder = build(config, dimension);
        let mut bytes = encode(&*encoder, &vec![0.0; dimension]);
        bytes[16..].iter_mut().skip(skip).zip(&body).for_each(|(byte, random)| *byte = *random);
        let mut out = vec![0.0; dimension];
        let _ = encoder.decode(&bytes, &mut out);
        prop_assert!(out.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn a_cut_is_refused_and_a_flipped_bit_never_panics(values in updates(), at in any::<usize>(), bit in 0u8..8) {
        for config in ALL {
            let encoder = build(config, values.len());
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Canonical form: of all byte strings, those that are accepted are the ones that the encoder writes for the decoded
    /// values. Short updates and small blocks, so that damage is often accepted.
    #[test]
    fn what_is_accepted_is_what_would_have_been_written(
        values in prop::collection::vec(prop_oneof![Just(0.0f32), -2.0f32..2.0, finite()], 1..80),
        config in prop::sample::select(vec![
            EncodingConfig::F32,
            EncodingConfig::Bf16,
            EncodingConfig::F16,
            EncodingConfig::Sign { block: 8 },
            EncodingConfig::TopK { one_in: 3 },
            EncodingConfig::ChunkedTopK { chunk: 64, keep: 6 },
        ]),
        damage in prop::collection::vec((16usize..400, prop_oneof![Just(0u8), Just(0x80), Just(0x3f), any::<u8>()]), 1..4),
    ) {
        let encoder = config.build();
        let mut bytes = encode(&*encoder, &values);
        let body = bytes.len() - 16;
        damage.iter().for_each(|&(at, byte)| bytes[16 + at % body] = byte);
        let mut decoded = vec![0.0; values.len()];
        if encoder.decode(&bytes, &mut decoded).is_ok() {
            prop_assert_eq!(encode(&*encoder, &decoded), bytes, "{:?}", config);
        }
    }
}
