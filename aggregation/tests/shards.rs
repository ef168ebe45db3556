//! A model combined range by range is the model combined whole, to the bit: for each rule and encoding that can be cut.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use synod_aggregation::numeric::CHUNK;
use synod_aggregation::{
    Combiner, Composition, EncodingConfig, OuterConfig, OuterState, PreAggregationConfig, RangeEncoder, Ranges,
    RuleConfig,
};

const DIMENSION: usize = 5 * CHUNK + 123;

fn random_update(seed: u64, dimension: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..dimension)
        .map(|_| (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

fn weigh(payloads: &[Vec<u8>]) -> Vec<(&[u8], f32)> {
    let weights = (1u8..).map(f32::from);
    payloads.iter().map(Vec::as_slice).zip(weights).collect()
}

fn check(composition: Composition, encoding: EncodingConfig, shards: usize) {
    let outer = OuterConfig {
        clip_radius: Some(3.0),
        ..OuterConfig::default()
    };
    let whole = Combiner::composed(composition.clone(), encoding.build(), outer);
    let ranges = Ranges::new(DIMENSION, shards, &encoding).expect("they can be cut");
    let cut = Combiner::composed(
        composition,
        Box::new(RangeEncoder::new(ranges, encoding.build())),
        outer,
    );
    let base = OuterState {
        parameters: random_update(90, DIMENSION),
        momentum: random_update(91, DIMENSION),
        carried: Vec::new(),
    };
    let encode = |combiner: &Combiner, seed| {
        let mut bytes = Vec::new();
        combiner.encoder().encode(&random_update(seed, DIMENSION), &mut bytes);
        bytes
    };
    let payloads = |combiner: &Combiner| -> Vec<Vec<u8>> { (0..7).map(|seed| encode(combiner, seed)).collect() };
    let (of_whole, of_cut) = (payloads(&whole), payloads(&cut));
    let expected = whole
        .settle(&base, &weigh(&of_whole))
        .expect("all decode")
        .state
        .to_bytes();
    assert!(cut.settle(&base, &weigh(&of_cut)).expect("all decode").state.to_bytes() == expected);

    let each = encoding.build();
    let mut aggregate = Vec::new();
    let mut first = 0;
    for range in ranges.iter() {
        let length = each.encoded_len(range.len());
        let parts: Vec<Vec<u8>> = of_cut
            .iter()
            .map(|bytes| bytes[first..first + length].to_vec())
            .collect();
        first += length;
        let combined = cut
            .combine_range(&base, range, each.as_ref(), &weigh(&parts))
            .expect("all decode");
        aggregate.extend(combined.0);
    }
    assert!(
        cut.step(&base, aggregate).expect("it is finite").to_bytes() == expected,
        "{encoding:?}, {shards} shards"
    );
}

#[test]
fn ranges_combine_to_what_the_whole_gives_for_every_rule() {
    let bucketing = Composition {
        pre: vec![PreAggregationConfig::Bucketing { size: 2 }],
        rule: RuleConfig::Median,
    };
    let rules = [
        RuleConfig::Mean,
        RuleConfig::CappedMean { cap: 2.0 },
        RuleConfig::Median,
        RuleConfig::TrimmedMean { f: 2 },
        RuleConfig::Meamed { f: 2 },
    ];
    for composition in rules.map(Composition::of).into_iter().chain([bucketing]) {
        for shards in [1, 2, 3, 6] {
            check(composition.clone(), EncodingConfig::Bf16, shards);
        }
    }
}

#[test]
fn ranges_combine_to_what_the_whole_gives_for_every_encoding() {
    for encoding in [
        EncodingConfig::F32,
        EncodingConfig::F16,
        EncodingConfig::Int8 { block: 256 },
        EncodingConfig::Int8 { block: 8192 },
        EncodingConfig::Int4 { block: 128 },
        EncodingConfig::Sign { block: 256 },
        EncodingConfig::ChunkedTopK { chunk: 1024, keep: 16 },
        EncodingConfig::DctTopK { keep: 64 },
    ] {
        check(Composition::of(RuleConfig::Mean), encoding, 3);
    }
}
