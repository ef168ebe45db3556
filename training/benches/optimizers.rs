//! How fast optimizer steps are: one JSON object a case on standard output, median and spread over repetitions.
//! Steps are set beside the memory bandwidth of an in-place sum, Newton–Schulz beside its products alone. It asserts nothing.
//! `cargo bench -p synod-training --bench optimizers`; SYNOD_BENCH_DIMENSION changes the number of parameters.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::json;
use synod_training::TrainingConfig;
use synod_training::layout::{Layout, Role};
use synod_training::optimizers::{Extra, MUON, Optimizer, OptimizerConfig, StepInputs, newton_schulz};

const REPETITIONS: usize = 9;
/// Rows of a model's hidden matrices in the bench.
const SIDE: usize = 1024;

fn main() {
    let dimension = std::env::var("SYNOD_BENCH_DIMENSION").ok().map_or(16 << 20, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("SYNOD_BENCH_DIMENSION = {text} is no number"))
    });
    let all = rayon::current_num_threads();
    for threads in if all == 1 { vec![1] } else { vec![1, all] } {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads");
        pool.install(|| {
            let bandwidth = in_place_sum(dimension, threads);
            for (name, text, bytes) in ELEMENTWISE {
                step(name, text, *bytes, dimension, threads, bandwidth);
            }
            for (rows, columns) in [(256, 256), (768, 768), (768, 2048), (1024, 4096)] {
                orthogonal_factor(rows, columns, threads);
            }
        });
    }
}

/// Name, configuration, and bytes that a step must read and write for each parameter.
const ELEMENTWISE: &[(&str, &str, usize)] = &[
    ("adamw", r#"{"adamw": {}}"#, 28),
    ("ademamix", r#"{"ademamix": {}}"#, 36),
    ("sgd", r#"{"sgd": {}}"#, 20),
    ("signum", r#"{"signum": {}}"#, 20),
    ("lion", r#"{"lion": {}}"#, 20),
    ("adopt", r#"{"adopt": {}}"#, 28),
    ("sophia", r#"{"sophia": {"estimate": "empirical"}}"#, 28),
    ("schedule_free", r#"{"schedule_free": {}}"#, 28),
];

fn values(count: usize) -> Vec<f32> {
    let value = |i: usize| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / 8_388_608.0 - 1.0;
    (0..count).map(value).collect()
}

/// GB/s of `a ← ½a + b`: reads 8 bytes and writes 4 an element, and no line that it does not read.
fn in_place_sum(dimension: usize, threads: usize) -> f64 {
    let (mut a, b) = (values(dimension), values(dimension));
    let times = time(|| {
        let chunks = a.par_chunks_mut(16 * 1024).zip(b.par_chunks(16 * 1024));
        chunks.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a = 0.5 * *a + b));
    });
    let gb_per_s = (12 * dimension) as f64 / times.median as f64;
    report(
        json!({"case": "in-place sum", "dimension": dimension, "threads": threads}),
        times,
        gb_per_s,
        None,
    );
    gb_per_s
}

fn step(name: &str, text: &str, bytes: usize, dimension: usize, threads: usize, bandwidth: f64) {
    let layout = Layout::new().with("w", &[SIDE, dimension / SIDE], Role::HiddenMatrix);
    let config = TrainingConfig {
        optimizer: serde_json::from_str::<OptimizerConfig>(text).expect("an optimizer of the list"),
        ..TrainingConfig::default()
    };
    let mut optimizer = Optimizer::new(&config, &layout);
    let mut parameters = values(layout.len());
    let mut gradient = values(layout.len());
    let mut at = 0;
    let times = time(|| {
        assert_eq!(optimizer.wants(), Extra::Nothing);
        optimizer.step(black_box(&mut parameters), StepInputs::of(at, black_box(&mut gradient)));
        at += 1;
    });
    let gb_per_s = (bytes * layout.len()) as f64 / times.median as f64;
    let case = json!({"case": name, "dimension": layout.len(), "threads": threads});
    report(
        case,
        times,
        gb_per_s,
        Some(("share_of_bandwidth", gb_per_s / bandwidth)),
    );
}

fn orthogonal_factor(rows: usize, columns: usize, threads: usize) {
    let x = values(rows * columns);
    let whole = time(|| {
        black_box(newton_schulz(black_box(&x), rows, columns, MUON, 5));
    });
    let mut gram = vec![0.0; rows * rows];
    let mut square = vec![0.0; rows * rows];
    let mut out = vec![0.0; rows * columns];
    let products = time(|| {
        for _ in 0..5 {
            multiply(&mut gram, &x, &x, [rows, columns, rows], true, threads);
            multiply(&mut square, &gram, &gram, [rows, rows, rows], false, threads);
            multiply(&mut out, &square, &x, [rows, rows, columns], false, threads);
        }
        black_box(&out);
    });
    let (r, c) = (rows as f64, columns as f64);
    let flop = 5.0 * (4.0 * r * r * c + 2.0 * r * r * r);
    let case = json!({
        "case": "newton_schulz", "rows": rows, "columns": columns, "threads": threads,
        "products_ns": products.median, "gflop_per_s": (flop / whole.median as f64 * 10.0).round() / 10.0,
    });
    let ratio = whole.median as f64 / products.median as f64;
    report(case, whole, 0.0, Some(("time_over_products", ratio)));
}

/// `out ← a · b`, or `a · bᵀ`, for row-major matrices `[m, k]` and `[k, n]`, by the `gemm` crate as it comes.
#[allow(unsafe_code)]
fn multiply(out: &mut [f32], a: &[f32], b: &[f32], [m, k, n]: [usize; 3], transposed: bool, threads: usize) {
    assert!(out.len() == m * n && a.len() == m * k && b.len() == k * n);
    let (b_column, b_row) = if transposed { (k, 1) } else { (1, n) };
    let parallelism = match threads {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    let (a_row, out_row) = (k as isize, n as isize);
    let (b_column, b_row) = (b_column as isize, b_row as isize);
    // SAFETY: the lengths were compared above, and `out` is borrowed mutably, hence overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_row,
            false,
            a.as_ptr(),
            1,
            a_row,
            b.as_ptr(),
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

struct Times {
    least: u64,
    median: u64,
    greatest: u64,
}

fn time(mut work: impl FnMut()) -> Times {
    work();
    let mut nanoseconds: Vec<u64> = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            work();
            u64::try_from(start.elapsed().as_nanos()).expect("a run of less than 500 years")
        })
        .collect();
    nanoseconds.sort_unstable();
    Times {
        least: nanoseconds[0],
        median: nanoseconds[REPETITIONS / 2],
        greatest: nanoseconds[REPETITIONS - 1],
    }
}

fn report(mut case: serde_json::Value, times: Times, gb_per_s: f64, ratio: Option<(&str, f64)>) {
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    let load = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next().map(str::to_owned));
    case["median_ns"] = json!(times.median);
    case["least_ns"] = json!(times.least);
    case["greatest_ns"] = json!(times.greatest);
    case["repetitions"] = json!(REPETITIONS);
    case["load"] = json!(load);
    if gb_per_s > 0.0 {
        case["gb_per_s"] = json!(rounded(gb_per_s));
    }
    if let Some((name, ratio)) = ratio {
        case[name] = json!(rounded(ratio));
    }
    println!("{case}");
}
