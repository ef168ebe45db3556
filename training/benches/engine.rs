//! Training steps of Llama-style models beside PyTorch on the same processor: tokens a second of wall clock and of CPU time,
//! peak memory, and how near the products come to the `gemm` crate's own speed. One JSON object a line.
//! It measures and checks nothing; PyTorch runs in a child process, where `SYNOD_TORCH_PYTHON` names a Python that has it.
//!
//! `cargo bench -p synod-training --bench engine -- [CASE…]`; `SYNOD_BENCH_STEPS` and `RAYON_NUM_THREADS` as usual.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use synod_protocol::identity::BlobId;
use synod_training::config::{DecoderConfig, TokenizerId, Vocabulary};
use synod_training::data::Batch;
use synod_training::models::decoder::Decoder;
use synod_training::optimizers::{Optimizer, StepInputs};
use synod_training::{DeviceChoice, TrainingConfig, tune_allocator};

struct Case {
    name: &'static str,
    layers: u32,
    heads: u32,
    width: u32,
    hidden: u32,
    vocabulary: u32,
    rows: usize,
    length: usize,
}

const CASES: [Case; 4] = [
    case("5.8M", [6, 8, 256, 688, 4096], 16, 256),
    case("0.2M", [4, 4, 64, 176, 256], 16, 128),
    case("30M", [8, 8, 512, 1376, 8192], 4, 512),
    case("124M", [12, 12, 768, 2048, 50_257], 4, 512),
];

const fn case(name: &'static str, sizes: [u32; 5], rows: usize, length: usize) -> Case {
    let [layers, heads, width, hidden, vocabulary] = sizes;
    Case {
        name,
        layers,
        heads,
        width,
        hidden,
        vocabulary,
        rows,
        length,
    }
}

fn main() {
    tune_allocator();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| text != "--bench").collect();
    if let [flag, name] = &arguments[..]
        && flag == "--one"
    {
        let case = CASES.iter().find(|case| case.name == *name).expect("a case");
        println!("{}", ours(case));
        return;
    }
    let python = std::env::var("SYNOD_TORCH_PYTHON").ok();
    if python.is_none() {
        eprintln!("without PyTorch: set SYNOD_TORCH_PYTHON to a Python that has it");
    }
    for case in CASES
        .iter()
        .filter(|case| arguments.is_empty() || arguments.iter().any(|name| name == case.name))
    {
        // Each engine has a process of its own, so that peaks of memory are its own.
        let this = std::env::current_exe().expect("this program has a path");
        let mut ours = Command::new(this);
        ours.args(["--one", case.name]);
        print_line(case.name, ours);
        for (precision, mode) in [
            ("f32", "eager"),
            ("f32", "compile"),
            ("bf16", "eager"),
            ("bf16", "compile"),
        ] {
            if let Some(python) = &python {
                print_line(case.name, torch(python, case, precision, mode));
            }
        }
    }
}

fn print_line(name: &str, mut command: Command) {
    let output = command.output().expect("the child process starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str::<Value>(line).ok());
    match result {
        Some(Value::Object(mut fields)) => {
            fields.insert("case".to_owned(), name.into());
            println!("{}", Value::Object(fields));
        }
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let reason = errors.lines().last().unwrap_or("no output");
            println!(
                "{}",
                json!({"case": name, "skipped": format!("{:?}", command.get_args()), "reason": reason})
            );
        }
    }
}

fn steps() -> usize {
    std::env::var("SYNOD_BENCH_STEPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5)
}

fn torch(python: &str, case: &Case, precision: &str, mode: &str) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/engine_torch.py");
    let mut command = Command::new(python);
    command.arg(script);
    let sizes = [case.layers, case.heads, case.width, case.hidden, case.vocabulary];
    command.args(sizes.map(|size| size.to_string()));
    let counts = [case.rows, case.length, steps(), rayon::current_num_threads()];
    command.args(counts.map(|count| count.to_string()));
    command.args([precision, mode]);
    command
}

fn ours(case: &Case) -> Value {
    let config = DecoderConfig {
        layers: case.layers,
        heads: case.heads,
        width: case.width,
        hidden: Some(case.hidden),
        context: case.length as u32,
        vocabulary: Vocabulary::Tokenizer(TokenizerId {
            blake3: BlobId([0; 32]),
            size: case.vocabulary,
            eod: 0,
        }),
        ..DecoderConfig::default()
    };
    let decoder = Decoder::new(&config, DeviceChoice::Cpu.open().expect("the processor is there"));
    let mut parameters = decoder.initial_parameters(1);
    let mut gradient = vec![0.0; parameters.len()];
    let mut optimizer = Optimizer::new(&TrainingConfig::default(), decoder.layout());
    let mut random = 1u64;
    let (mut walls, mut processor, mut optimizer_seconds, mut loss) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for step in 0..steps() + 2 {
        let windows: Vec<u32> = (0..case.rows * (case.length + 1))
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as u32 % case.vocabulary
            })
            .collect();
        let batch = Batch::of_windows(&windows, case.length);
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        loss = decoder
            .loss_and_gradient(&parameters, &batch, &mut gradient)
            .expect("the batch fits")
            .mean();
        let stepping = Instant::now();
        optimizer.step(&mut parameters, StepInputs::of(step as u64, &mut gradient));
        if step >= 2 {
            optimizer_seconds.push(stepping.elapsed().as_secs_f64());
            walls.push(wall.elapsed().as_secs_f64());
            processor.push(cpu_seconds() - cpu);
        }
    }
    let peak_mb = status("VmHWM:") / 1024;
    let tokens = (case.rows * case.length) as f64;
    let (products, attention) = flops(case, parameters.len());
    let cpu = median(processor);
    let (gemm_cpu, gemm_flops) = products_alone(case);
    json!({
        "engine": "synod f32",
        "parameters": parameters.len(),
        "loss": (loss * 1e4).round() / 1e4,
        "tokens_per_second": round(tokens / median(walls)),
        "tokens_per_cpu_second": round(tokens / cpu),
        "peak_mb": peak_mb,
        "optimizer_ms": round(1e3 * median(optimizer_seconds)),
        "gflops_per_cpu_second": round((products + attention) / cpu * 1e-9),
        "gemm_ceiling_gflops": round(gemm_flops / gemm_cpu * 1e-9),
        "gemm_share": round(gemm_cpu / cpu),
        "of_ceiling": round((products + attention) / cpu / (gemm_flops / gemm_cpu)),
        "instructions": format!("{:?}", synod_training::processor::instructions()),
        "threads": rayon::current_num_threads(),
    })
}

/// Floating-point operations of a step: six a matrix parameter and token, and the causal half of attention's products.
fn flops(case: &Case, parameters: usize) -> (f64, f64) {
    let tokens = (case.rows * case.length) as f64;
    let attention = 6.0 * f64::from(case.layers) * case.length as f64 * f64::from(case.width);
    (6.0 * parameters as f64 * tokens, attention * tokens)
}

/// CPU seconds and operations of a step's matrix products alone, by the `gemm` crate on preallocated matrices.
fn products_alone(case: &Case) -> (f64, f64) {
    let (rows, width, hidden) = (case.rows * case.length, case.width as usize, case.hidden as usize);
    let (mut seconds, mut flops) = (0.0, 0.0);
    let layers = case.layers as usize;
    for (inputs, outputs, times) in [
        (width, 3 * width, layers),
        (width, width, layers),
        (width, 2 * hidden, layers),
        (hidden, width, layers),
        (width, case.vocabulary as usize, 1),
    ] {
        // The head's products are cut into chunks of rows, as in training.
        let rows_at_once = if outputs == case.vocabulary as usize {
            rows.min(512)
        } else {
            rows
        };
        let pieces = (rows / rows_at_once * times) as f64;
        for (m, n, k) in [
            (rows_at_once, outputs, inputs),
            (rows_at_once, inputs, outputs),
            (outputs, inputs, rows_at_once),
        ] {
            let (left, right, mut out) = (vec![0.5f32; m * k], vec![0.5f32; k * n], vec![0f32; m * n]);
            let mut times = Vec::new();
            for _ in 0..3 {
                let before = cpu_seconds();
                multiply(m, n, k, &left, &right, &mut out);
                times.push(cpu_seconds() - before);
            }
            seconds += pieces * median(times);
            flops += pieces * 2.0 * (m * n * k) as f64;
        }
    }
    (seconds, flops)
}

#[allow(unsafe_code)]
fn multiply(m: usize, n: usize, k: usize, left: &[f32], right: &[f32], out: &mut [f32]) {
    assert!(left.len() >= m * k && right.len() >= k * n && out.len() >= m * n);
    // SAFETY: the sizes were just checked, and strides are those of rows without gaps.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            left.as_ptr(),
            1,
            k as isize,
            right.as_ptr(),
            1,
            n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

/// CPU time of all threads of this process so far.
#[allow(unsafe_code)]
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux and macOS, and the structure is ours.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0, "the process has a clock");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// A number of kilobytes in `/proc/self/status`; 0 where there is none.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
