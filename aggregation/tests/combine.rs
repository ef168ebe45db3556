//! A round from payloads to the new state: who is left out, what is refused, and that threads change no bit.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use synod_aggregation::{
    Aggregator, CombineError, Combiner, Composition, Contribution, EncodingConfig, Neighbours, OuterConfig, OuterState,
    PayloadVerdict, Radius, RuleConfig, Values, attacks,
};

const AVERAGING: OuterConfig = OuterConfig::AVERAGING;

fn encode(combiner: &Combiner, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    combiner.encoder().encode(values, &mut bytes);
    bytes
}

fn random_update(seed: u64, dimension: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..dimension)
        .map(|_| (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

#[test]
fn a_weighted_round_of_averaging() {
    let combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, AVERAGING);
    let base = OuterState::new(vec![10.0, 10.0]);
    let (a, b) = (encode(&combiner, &[1.0, 0.0]), encode(&combiner, &[5.0, 4.0]));
    let combined = combiner.settle(&base, &[(&a, 3.0), (&b, 1.0)]).unwrap();
    assert_eq!(combined.state.parameters, [8.0, 9.0]);
}

#[test]
fn what_does_not_decode_is_left_out_and_named() {
    let combiner = Combiner::new(&RuleConfig::Median, &EncodingConfig::F32, AVERAGING);
    let base = OuterState::new(vec![0.0; 3]);
    let good = encode(&combiner, &[1.0, 2.0, 3.0]);
    let cut = &good[..20];
    let payloads: [(&[u8], f32); 5] = [(cut, 1.0), (&good, 1.0), (&good, f32::NAN), (&good, 0.0), (&good, 1.0)];
    let combined = combiner.settle(&base, &payloads).unwrap();
    assert_eq!(combined.state.parameters, [-1.0, -2.0, -3.0]);
    assert!(matches!(combined.verdicts[0], PayloadVerdict::Undecodable(_)));
    assert!(matches!(combined.verdicts[1], PayloadVerdict::Judged(verdict) if verdict.weight == 0.5));
    assert_eq!(
        combined.verdicts[2..4],
        [PayloadVerdict::BadWeight, PayloadVerdict::BadWeight]
    );
    let without = combiner.settle(&base, &[(&good, 1.0), (&good, 1.0)]).unwrap();
    assert_eq!(combined.state, without.state);
}

#[test]
fn too_few_usable_payloads_settle_nothing() {
    let combiner = Combiner::new(&RuleConfig::TrimmedMean { f: 1 }, &EncodingConfig::Bf16, AVERAGING);
    let base = OuterState::new(vec![0.0; 2]);
    let good = encode(&combiner, &[1.0, 2.0]);
    let payloads: [(&[u8], f32); 3] = [(&good, 1.0), (b"nothing", 1.0), (&good, 1.0)];
    assert_eq!(
        combiner.settle(&base, &payloads),
        Err(CombineError::TooFew { needed: 3, got: 2 })
    );
    assert_eq!(
        combiner.settle(&base, &[]),
        Err(CombineError::TooFew { needed: 3, got: 0 })
    );
}

#[test]
fn a_step_that_overflows_is_refused() {
    let combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, AVERAGING);
    let base = OuterState::new(vec![0.0, f32::MAX]);
    let payload = encode(&combiner, &[0.0, f32::MIN]);
    assert_eq!(
        combiner.settle(&base, &[(&payload, 1.0)]),
        Err(CombineError::NotFinite { index: 1 })
    );
}

#[test]
fn thread_counts_change_no_byte_of_the_state() {
    let dimension = 70_001;
    for rule in [
        RuleConfig::Mean,
        RuleConfig::TrimmedMean { f: 2 },
        RuleConfig::Median,
        RuleConfig::CenteredClip {
            iterations: 3,
            radius: Radius::MedianDistance,
        },
    ] {
        for encoding in [
            EncodingConfig::F32,
            EncodingConfig::Bf16,
            EncodingConfig::Int8 { block: 256 },
        ] {
            let combiner = Combiner::new(&rule, &encoding, OuterConfig::default());
            let base = OuterState {
                parameters: random_update(90, dimension),
                momentum: random_update(91, dimension),
                carried: Vec::new(),
            };
            let payloads: Vec<Vec<u8>> = (0..7)
                .map(|seed| encode(&combiner, &random_update(seed, dimension)))
                .collect();
            let payloads: Vec<(&[u8], f32)> = payloads
                .iter()
                .zip(1u8..)
                .map(|(p, w)| (p.as_slice(), f32::from(w)))
                .collect();
            let settle = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| combiner.settle(&base, &payloads)).unwrap()
            };
            let one = settle(1);
            for threads in [2, 3, 16] {
                let many = settle(threads);
                assert!(
                    many.state.to_bytes() == one.state.to_bytes(),
                    "{rule:?}, {encoding:?}, {threads} threads"
                );
                assert_eq!(many.verdicts, one.verdicts);
            }
        }
    }
}

/// A node that joins late takes the centre from the state that it fetched, as everybody else has it.
#[test]
fn a_carried_centre_is_part_of_the_state() {
    let rule = RuleConfig::CarriedClip {
        iterations: 1,
        radius: Radius::Fixed(1.0),
    };
    let combiner = Combiner::new(&rule, &EncodingConfig::F32, AVERAGING);
    let payload = encode(&combiner, &[3.0, 4.0]);
    let base = OuterState::new(vec![0.0; 2]);
    let first = combiner.settle(&base, &[(&payload, 1.0)]).unwrap().state;
    assert_eq!(first.carried, [0.6, 0.8], "one step of length one from zero");
    let fetched = OuterState::from_bytes(&first.to_bytes(), Some(2)).unwrap();
    let second = combiner.settle(&fetched, &[(&payload, 1.0)]).unwrap().state;
    assert_eq!(second.carried, [1.2, 1.6], "and one more from there");
    assert_eq!(second, combiner.settle(&first, &[(&payload, 1.0)]).unwrap().state);
    let other = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, AVERAGING);
    assert_eq!(other.settle(&base, &[(&payload, 1.0)]).unwrap().state.carried, []);
}

#[test]
fn a_rule_that_needs_a_reference_says_so() {
    let combiner = Combiner::new(&RuleConfig::Fltrust, &EncodingConfig::F32, AVERAGING);
    let (good, bad) = (encode(&combiner, &[2.0, 0.0]), encode(&combiner, &[-9.0, 0.0]));
    let base = OuterState::new(vec![0.0; 2]);
    let payloads: [(&[u8], f32); 2] = [(&good, 1.0), (&bad, 1.0)];
    assert_eq!(combiner.settle(&base, &payloads), Err(CombineError::NoReference));
    let combined = combiner.settle_with(&base, &payloads, Some(&[1.0, 0.0])).unwrap();
    assert_eq!(combined.state.parameters, [-1.0, 0.0]);
}

/// Bytes or floats: a rule cannot tell.
#[test]
fn encoded_updates_give_the_bits_of_decoded_ones() {
    let dimension = 10_001;
    let neighbours = Neighbours::Blanchard;
    for encoding in [
        EncodingConfig::F32,
        EncodingConfig::Bf16,
        EncodingConfig::Int8 { block: 8192 },
    ] {
        let encoder = encoding.build();
        let bytes: Vec<Vec<u8>> = (0..7)
            .map(|seed| {
                let mut bytes = Vec::new();
                encoder.encode(&random_update(seed, dimension), &mut bytes);
                bytes
            })
            .collect();
        let decoded: Vec<Vec<f32>> = bytes
            .iter()
            .map(|bytes| {
                let mut values = vec![0.0; dimension];
                encoder.decode(bytes, &mut values).unwrap();
                values
            })
            .collect();
        let dense: Vec<_> = decoded.iter().map(|values| Contribution::dense(values, 1.0)).collect();
        let encoded: Vec<_> = bytes
            .iter()
            .map(|bytes| Contribution {
                values: Values::Encoded {
                    encoder: encoder.as_ref(),
                    bytes,
                    dimension,
                },
                weight: 1.0,
            })
            .collect();
        for whole in [
            Composition::of(RuleConfig::Mean),
            Composition::of(RuleConfig::Median),
            Composition::of(RuleConfig::Krum { f: 1, neighbours }),
            Composition::robust(2),
        ] {
            let (mut from_floats, mut from_bytes) = (vec![0.0; dimension], vec![1.0; dimension]);
            let verdicts = whole.aggregate(&dense, &mut from_floats);
            assert_eq!(whole.aggregate(&encoded, &mut from_bytes), verdicts);
            assert!(from_floats == from_bytes, "{} on {encoding:?}", whole.name());
        }
    }
}

/// The last bit of a round, written down: a compiler, processor or edit that changes one is found here. Whoever means to
/// change them must raise the protocol's version, since old and new nodes would no longer agree.
#[test]
fn the_bits_of_a_round_are_fixed() {
    let dimension = 40_003;
    let digests: Vec<u64> = [
        (RuleConfig::Mean, EncodingConfig::F32),
        (RuleConfig::TrimmedMean { f: 2 }, EncodingConfig::Bf16),
        (RuleConfig::Median, EncodingConfig::Int8 { block: 256 }),
        (
            RuleConfig::CenteredClip {
                iterations: 3,
                radius: Radius::MedianDistance,
            },
            EncodingConfig::F32,
        ),
        (
            RuleConfig::CenteredClip {
                iterations: 2,
                radius: Radius::Fixed(1.5),
            },
            EncodingConfig::Int8 { block: 64 },
        ),
    ]
    .iter()
    .map(|(rule, encoding)| {
        let combiner = Combiner::new(rule, encoding, OuterConfig::default());
        let base = OuterState {
            parameters: random_update(90, dimension),
            momentum: random_update(91, dimension),
            carried: Vec::new(),
        };
        let payloads: Vec<Vec<u8>> = (0..6)
            .map(|seed| encode(&combiner, &random_update(seed, dimension)))
            .collect();
        let payloads: Vec<(&[u8], f32)> = payloads
            .iter()
            .zip([3.0, 1.0, 4.0, 1.5, 9.0, 2.5])
            .map(|(p, w)| (&p[..], w))
            .collect();
        fnv1a(&combiner.settle(&base, &payloads).unwrap().state.to_bytes())
    })
    .collect();
    assert_eq!(digests, GOLDEN_DIGESTS, "{digests:#018x?}");
}

const GOLDEN_DIGESTS: [u64; 5] = [
    0x198c_a3a5_77b2_c9d6,
    0xe961_59f5_82a4_a968,
    0x443d_80a6_88a2_95bf,
    0xbcfc_2ff2_cf9f_dc77,
    0xab5c_fc9c_ea1b_ace9,
];

/// Fowler, Noll & Vo's hash: no protection against an adversary, which a golden value needs none of.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The reason for robust rules, in one coordinate-free picture: attackers turn the mean around, and no robust rule.
#[test]
fn attackers_turn_the_mean_and_no_robust_rule() {
    let dimension = 400;
    let truth = random_update(1, dimension);
    let mut updates: Vec<Vec<f32>> = (0..10u64)
        .map(|member| {
            let noise = random_update(100 + member, dimension);
            truth
                .iter()
                .zip(noise)
                .map(|(truth, noise)| truth + 0.3 * noise)
                .collect()
        })
        .collect();
    attacks::scaled(&mut updates[0], -20.0);
    attacks::sign_flip(&mut updates[1]);
    let noise = random_update(7, dimension);
    attacks::gaussian(&mut updates[2], &noise, 50.0);

    let progress = |rule: RuleConfig| {
        let combiner = Combiner::new(&rule, &EncodingConfig::F32, AVERAGING);
        let payloads: Vec<Vec<u8>> = updates.iter().map(|update| encode(&combiner, update)).collect();
        let payloads: Vec<(&[u8], f32)> = payloads.iter().map(|payload| (payload.as_slice(), 1.0)).collect();
        let state = combiner
            .settle(&OuterState::new(vec![0.0; dimension]), &payloads)
            .unwrap()
            .state;
        let dot: f32 = state
            .parameters
            .iter()
            .zip(&truth)
            .map(|(step, truth)| -step * truth)
            .sum();
        let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
        dot / norm(&state.parameters) / norm(&truth)
    };
    assert!(progress(RuleConfig::Mean) < 0.1, "the mean is led astray");
    for rule in [
        RuleConfig::TrimmedMean { f: 3 },
        RuleConfig::Median,
        RuleConfig::CenteredClip {
            iterations: 3,
            radius: Radius::MedianDistance,
        },
    ] {
        let cosine = progress(rule.clone());
        assert!(cosine > 0.9, "{rule:?} goes along the truth by {cosine} only");
    }
}
