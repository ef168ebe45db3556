//! How fast encodings are, and how many bytes they take: one JSON object a case on standard output, one core, beside a copy
//! of the same values. It asserts nothing. `cargo bench -p synod-aggregation --bench encodings`; SYNOD_BENCH_DIMENSION
//! changes d.

use std::hint::black_box;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;
use synod_aggregation::numeric::CHUNK;
use synod_aggregation::{EncodingConfig, TensorShape};

const REPETITIONS: usize = 9;

const CASES: [EncodingConfig; 13] = [
    EncodingConfig::F32,
    EncodingConfig::Bf16,
    EncodingConfig::F16,
    EncodingConfig::Int8 { block: 256 },
    EncodingConfig::Int8 { block: 64 },
    EncodingConfig::Int4 { block: 128 },
    EncodingConfig::Sign { block: 256 },
    EncodingConfig::TopK { one_in: 64 },
    EncodingConfig::TopK { one_in: 1000 },
    EncodingConfig::ChunkedTopK { chunk: 4096, keep: 64 },
    EncodingConfig::DctTopK { keep: 64 },
    EncodingConfig::LowRank { rank: 4 },
    EncodingConfig::RandomSeeds { pairs: 16 },
];

fn main() {
    let dimension = std::env::var("SYNOD_BENCH_DIMENSION").map_or(4_194_304, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("SYNOD_BENCH_DIMENSION = {text} is no number"))
    });
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // Sums of four uniform values: near enough to the bell that updates are, tails included.
    let values: Vec<f32> = (0..dimension)
        .map(|_| {
            (0..4)
                .map(|_| (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0)
                .sum()
        })
        .collect();
    let mut decoded = vec![0.0f32; dimension];
    report("copy", "", dimension, 4 * dimension, || {
        decoded.copy_from_slice(black_box(&values))
    });
    let layout = vec![
        TensorShape {
            rows: 1024,
            columns: 1024
        };
        dimension >> 20
    ];
    for config in CASES {
        let encoder = config.build_for(&layout);
        let name = format!("{config:?}");
        let mut bytes = Vec::new();
        let len = encoder.encoded_len(dimension);
        report("encode", &name, dimension, len, || {
            encoder.encode(black_box(&values), &mut bytes)
        });
        report("validate", &name, dimension, len, || {
            encoder
                .validate(black_box(&bytes), dimension)
                .expect("our own bytes are valid");
        });
        report("decode_range", &name, dimension, len, || {
            for (index, out) in decoded.chunks_mut(CHUNK).enumerate() {
                encoder.decode_range(black_box(&bytes), index * CHUNK, out);
            }
        });
        report("decode", &name, dimension, len, || {
            encoder
                .decode(black_box(&bytes), &mut decoded)
                .expect("our own bytes decode");
        });
    }
}

/// This thread's processor time so far, which other programs' load does not touch; the kernel adds it up at a switch.
fn processor_ns() -> Option<u64> {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Times `work` and prints median, least and greatest; GB/s counts the f32 that go in or come out, `cpu_` by processor time.
fn report(work_name: &str, encoding: &str, dimension: usize, encoded_bytes: usize, mut work: impl FnMut()) {
    work();
    let mut wall: Vec<u64> = Vec::new();
    let mut processor: Vec<u64> = Vec::new();
    for _ in 0..REPETITIONS {
        let (before, start) = (processor_ns(), Instant::now());
        work();
        wall.push(u64::try_from(start.elapsed().as_nanos()).expect("a run of less than 500 years"));
        processor.extend(before.and_then(|before| processor_ns()?.checked_sub(before)));
    }
    wall.sort_unstable();
    processor.sort_unstable();
    let median = wall[REPETITIONS / 2];
    let processor = processor.get(processor.len() / 2).copied();
    let gb_per_s = |nanoseconds: u64| (4.0 * dimension as f64 / nanoseconds as f64 * 100.0).round() / 100.0;
    let load = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next().map(str::to_owned));
    println!(
        "{}",
        json!({
            "case": format!("{work_name} {encoding}").trim(), "dimension": dimension, "encoded_bytes": encoded_bytes,
            "threads": 1, "repetitions": REPETITIONS, "median_ns": median, "least_ns": wall[0],
            "greatest_ns": wall[REPETITIONS - 1], "gb_per_s": gb_per_s(median), "cpu_median_ns": processor,
            "cpu_gb_per_s": processor.map(gb_per_s), "load": load,
        })
    );
}
