//! How much memory aggregating large encoded updates takes, as the kernel counts it: the most that was resident while a rule
//! ran, beyond what was before, over the size of one dense model. It is no part of a session; one JSON object a rule on
//! standard output. Linux alone, since it reads /proc.
//!
//! `cargo run --release -p synod-aggregation --example large_memory -- [dimension = 100000000] [members = 16]
//! [int8 | bf16 | f32]`: sixteen int8 updates of 10⁸ values take 1.6 GB, the output 0.4 GB.

use std::fs;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;
use synod_aggregation::{Aggregator, Composition, Contribution, EncodingConfig, RuleConfig, Values};

/// Of n = 16 a breakdown point that all of the rules below allow.
const F: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| {
        arguments
            .next()
            .map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (dimension, members) = (number(100_000_000), number(16));
    let encoding = match arguments.next().as_deref() {
        None | Some("int8") => EncodingConfig::Int8 { block: 256 },
        Some("bf16") => EncodingConfig::Bf16,
        Some("f32") => EncodingConfig::F32,
        Some(other) => panic!("{other:?} is none of int8, bf16, f32"),
    };
    let encoder = encoding.build();
    let updates: Vec<Vec<u8>> = (0..members)
        .map(|member| {
            let mut random = ChaCha8Rng::seed_from_u64(member as u64);
            let values: Vec<f32> = (0..dimension)
                .map(|_| (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0)
                .collect();
            let mut bytes = Vec::with_capacity(encoder.encoded_len(dimension));
            encoder.encode(&values, &mut bytes);
            bytes
        })
        .collect();
    let contributions: Vec<Contribution<'_>> = updates
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
    let dense = 4.0 * dimension as f64;
    for whole in [
        Composition::of(RuleConfig::Mean),
        Composition::of(RuleConfig::TrimmedMean { f: F }),
        Composition::of(RuleConfig::Rfa),
        Composition::robust(F),
    ] {
        let before = begin_to_count();
        let begun = Instant::now();
        let mut out = vec![0.0f32; dimension];
        let verdicts = whole.aggregate(&contributions, &mut out);
        let seconds = begun.elapsed().as_secs_f64();
        let most = resident("VmHWM:");
        let used = verdicts.iter().filter(|verdict| verdict.weight > 0.0).count();
        println!(
            "{}",
            json!({
                "case": whole.name(), "encoding": encoding.name(), "n": members, "d": dimension,
                "resident_before_bytes": before, "resident_most_bytes": most, "counted": used,
                "dense_models_beside_updates": most.saturating_sub(before) as f64 / dense, "wall_s": seconds,
            })
        );
    }
}

/// What is resident now; from here on the kernel keeps the most anew.
fn begin_to_count() -> u64 {
    fs::write("/proc/self/clear_refs", "5").expect("a kernel that lets a process reset its own peak");
    resident("VmRSS:")
}

/// A line of this process's status, in bytes.
fn resident(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc of Linux");
    let found = status
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .expect("a status with that line");
    let kibibytes: u64 = found
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number of kB");
    1024 * kibibytes
}
