//! How fast rules and encodings are: one JSON object a case on standard output, median and spread over repetitions.
//! It asserts nothing. `cargo bench -p synod-aggregation`; SYNOD_BENCH_DIMENSION and SYNOD_BENCH_MEMBERS change d and n.

use std::hint::black_box;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;
use synod_aggregation::{Contribution, EncodingConfig, OuterConfig, Radius, RuleConfig};

const REPETITIONS: usize = 9;

fn main() {
    let dimension = setting("SYNOD_BENCH_DIMENSION", 1_000_000);
    let members = setting("SYNOD_BENCH_MEMBERS", 10);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let rows: Vec<Vec<f32>> = (0..members)
        .map(|_| {
            (0..dimension)
                .map(|_| (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0)
                .collect()
        })
        .collect();
    for threads in [1, rayon::current_num_threads()] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads");
        pool.install(|| rules(&rows, threads));
        if threads == rayon::current_num_threads() {
            break;
        }
    }
    encodings(&rows[0]);
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} = {text} is no number"))
    })
}

fn rules(rows: &[Vec<f32>], threads: usize) {
    let contributions: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
    let dimension = rows[0].len();
    let mut out = vec![0.0f32; dimension];
    let read_bytes = 4 * rows.len() * dimension;
    report("copy of one row", rows.len(), threads, 4 * dimension, dimension, || {
        out.copy_from_slice(black_box(&rows[0]))
    });
    let f = (rows.len() - 1) / 4;
    for rule in [
        RuleConfig::Mean,
        RuleConfig::TrimmedMean { f },
        RuleConfig::Median,
        RuleConfig::CenteredClip {
            iterations: 1,
            radius: Radius::MedianDistance,
        },
        RuleConfig::CenteredClip {
            iterations: 3,
            radius: Radius::MedianDistance,
        },
    ] {
        let aggregator = rule.build();
        report(&format!("{rule:?}"), rows.len(), threads, read_bytes, dimension, || {
            black_box(aggregator.aggregate(black_box(&contributions), &mut out));
        });
    }
    let (mut parameters, mut momentum) = (rows[0].clone(), vec![0.0f32; dimension]);
    let outer = OuterConfig {
        learning_rate: 1e-3,
        ..OuterConfig::default()
    };
    report("outer step", 1, threads, 12 * dimension, dimension, || {
        outer.step(&mut parameters, &mut momentum, black_box(&rows[0]))
    });
}

fn encodings(values: &[f32]) {
    let mut decoded = vec![0.0f32; values.len()];
    for config in [
        EncodingConfig::F32,
        EncodingConfig::Bf16,
        EncodingConfig::Int8 { block: 256 },
        EncodingConfig::Int8 { block: 64 },
    ] {
        let encoder = config.build();
        let mut bytes = Vec::new();
        let f32_bytes = 4 * values.len();
        report(&format!("encode {config:?}"), 1, 1, f32_bytes, values.len(), || {
            encoder.encode(black_box(values), &mut bytes)
        });
        report(&format!("decode {config:?}"), 1, 1, f32_bytes, values.len(), || {
            encoder
                .decode(black_box(&bytes), &mut decoded)
                .expect("our own bytes decode");
        });
    }
}

/// Times `work` and prints median, least and greatest; GB/s counts `bytes` of f32 a call.
fn report(case: &str, members: usize, threads: usize, bytes: usize, dimension: usize, mut work: impl FnMut()) {
    work();
    let mut nanoseconds: Vec<u64> = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            work();
            u64::try_from(start.elapsed().as_nanos()).expect("a run of less than 500 years")
        })
        .collect();
    nanoseconds.sort_unstable();
    let median = nanoseconds[REPETITIONS / 2];
    let load = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next().map(str::to_owned));
    println!(
        "{}",
        json!({
            "case": case, "members": members, "dimension": dimension, "threads": threads, "repetitions": REPETITIONS,
            "median_ns": median, "least_ns": nanoseconds[0], "greatest_ns": nanoseconds[REPETITIONS - 1],
            "gb_per_s": (bytes as f64 / median as f64 * 100.0).round() / 100.0, "load": load,
        })
    );
}
