//! How fast rules are: one JSON object a case on standard output, CPU and wall time beside what it costs to
//! read the same bytes. It asserts nothing. `make bench-aggregation` runs it, and ByzFL on the same bytes after it.
//!
//! SYNOD_BENCH_DIMENSION (10⁷), SYNOD_BENCH_MEMBERS (16), SYNOD_BENCH_FAULTY (3), SYNOD_BENCH_THREADS (1 and 2: a list),
//! SYNOD_BENCH_REPETITIONS (5), SYNOD_BENCH_ONLY (cases whose name has this in it) change what is measured;
//! SYNOD_BENCH_DUMP names a file that the updates are written to, raw f32, member after member.
//!
//! CPU time is that of all threads of this process, the figure to look at on a machine that does other things too. The floor of a case is its number of passes times one read of all updates.

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use synod_aggregation::{
    Aggregator, Composition, Context, Contribution, EncodingConfig, Neighbours, PreAggregationConfig, Radius,
    RuleConfig, Values,
};

/// What is measured, and how.
struct Bench {
    dimension: usize,
    members: usize,
    faulty: usize,
    threads: Vec<usize>,
    repetitions: usize,
    only: String,
}

/// A composition with its passes over the updates and the multiple of the floor that it aims at.
struct Case {
    name: &'static str,
    whole: Composition,
    passes: f64,
    target: Option<f64>,
}

/// One measurement: milliseconds, sorted.
struct Times {
    cpu_ms: Vec<f64>,
    wall_ms: Vec<f64>,
}

fn main() {
    let threads = text("SYNOD_BENCH_THREADS").unwrap_or_else(|| "1,2".to_owned());
    let bench = Bench {
        dimension: setting("SYNOD_BENCH_DIMENSION", 10_000_000),
        members: setting("SYNOD_BENCH_MEMBERS", 16),
        faulty: setting("SYNOD_BENCH_FAULTY", 3),
        threads: threads
            .split(',')
            .map(|n| n.trim().parse().expect("a list of numbers of threads"))
            .collect(),
        repetitions: setting("SYNOD_BENCH_REPETITIONS", 5),
        only: text("SYNOD_BENCH_ONLY").unwrap_or_default(),
    };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let rows: Vec<Vec<f32>> = (0..bench.members)
        .map(|_| update(&mut random, bench.dimension))
        .collect();
    if let Some(path) = text("SYNOD_BENCH_DUMP") {
        dump(&path, &rows);
    }
    for &threads in &bench.threads {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads");
        pool.install(|| bench.rules(&rows, threads));
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn setting(name: &str, default: usize) -> usize {
    text(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} = {text} is no number"))
    })
}

/// An update of about the bell's shape.
fn update(random: &mut ChaCha8Rng, dimension: usize) -> Vec<f32> {
    let mut uniform = || random.next_u32() as f32 / u32::MAX as f32 - 0.5;
    (0..dimension).map(|_| uniform() + uniform() + uniform()).collect()
}

fn dump(path: &str, rows: &[Vec<f32>]) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("SYNOD_BENCH_DUMP can be written"));
    for chunk in rows.iter().flat_map(|row| row.chunks(1 << 16)) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.write_all(&bytes).expect("SYNOD_BENCH_DUMP has room");
    }
}

fn cases(f: usize) -> Vec<Case> {
    let neighbours = Neighbours::Inclusive;
    let alone = |name, rule, passes, target| Case {
        name,
        whole: Composition::of(rule),
        passes,
        target,
    };
    let after = |name, pre: &[PreAggregationConfig], rule, passes, target| Case {
        name,
        whole: Composition {
            pre: pre.to_vec(),
            rule,
        },
        passes,
        target,
    };
    let nnm = PreAggregationConfig::Nnm { f };
    let arc = PreAggregationConfig::Arc { f };
    let median = RuleConfig::GeometricMedian {
        iterations: 3,
        smoothing: 0.1,
    };
    let radius = Radius::Fixed(100.0);
    let trimmed = RuleConfig::TrimmedMean { f };
    let multi_krum = RuleConfig::MultiKrum {
        f,
        keep: None,
        neighbours,
    };
    vec![
        alone("mean", RuleConfig::Mean, 1.0, Some(1.25)),
        alone("trimmed_mean", trimmed.clone(), 1.0, Some(1.6)),
        alone("median", RuleConfig::Median, 1.0, Some(1.6)),
        alone("meamed", RuleConfig::Meamed { f }, 1.0, None),
        alone("krum", RuleConfig::Krum { f, neighbours }, 1.0, None),
        alone("multi_krum", multi_krum, 2.0, Some(2.0)),
        alone("geometric_median", median.clone(), 2.0, Some(2.0)),
        alone("rfa", RuleConfig::Rfa, 2.0, None),
        alone("mda", RuleConfig::Mda { f }, 2.0, Some(2.0)),
        alone("monna", RuleConfig::Monna { f, pivot: 0 }, 2.0, Some(2.0)),
        alone(
            "carried_clip_l1",
            RuleConfig::CarriedClip { iterations: 1, radius },
            2.0,
            Some(2.0),
        ),
        alone(
            "carried_clip_l3",
            RuleConfig::CarriedClip { iterations: 3, radius },
            2.0,
            Some(2.0),
        ),
        alone(
            "centered_clip_l3",
            RuleConfig::CenteredClip { iterations: 3, radius },
            3.0,
            None,
        ),
        alone("caf", RuleConfig::Caf { f }, 2.0, None),
        alone("smea", RuleConfig::Smea { f }, 2.0, None),
        after("nnm+trimmed_mean", &[nnm], trimmed.clone(), 2.0, Some(2.5)),
        after("nnm+median", &[nnm], RuleConfig::Median, 2.0, Some(2.5)),
        after("nnm+geometric_median", &[nnm], median, 2.0, Some(2.0)),
        after("arc+nnm+trimmed_mean", &[arc, nnm], trimmed, 2.0, Some(2.5)),
    ]
}

impl Bench {
    fn rules(&self, rows: &[Vec<f32>], threads: usize) {
        let mut out = vec![0.0f32; self.dimension];
        let read = self.measure(|| {
            black_box(sum_of_bits(rows));
        });
        let copy = self.measure(|| {
            for row in rows {
                out.copy_from_slice(black_box(row));
            }
        });
        let read_ms = read.least_cpu();
        self.print("read of all updates", threads, &read, json!({}));
        self.print("copy of all updates", threads, &copy, json!({}));
        let dense: Vec<_> = rows.iter().map(|row| Contribution::dense(row, 1.0)).collect();
        for case in cases(self.faulty) {
            self.run(&case, "f32 in memory", &dense, threads, read_ms, &mut out);
        }
        for encoding in [EncodingConfig::F32, EncodingConfig::Int8 { block: 256 }] {
            let encoder = encoding.build();
            let bytes: Vec<Vec<u8>> = rows
                .iter()
                .map(|row| {
                    let mut bytes = Vec::new();
                    encoder.encode(row, &mut bytes);
                    bytes
                })
                .collect();
            let encoded: Vec<_> = bytes
                .iter()
                .map(|bytes| Contribution {
                    values: Values::Encoded {
                        encoder: encoder.as_ref(),
                        bytes,
                        dimension: self.dimension,
                    },
                    weight: 1.0,
                })
                .collect();
            let from = format!("{} bytes", encoding.name());
            let few = ["mean", "trimmed_mean", "geometric_median", "nnm+trimmed_mean"];
            for case in cases(self.faulty).iter().filter(|case| few.contains(&case.name)) {
                self.run(case, &from, &encoded, threads, read_ms, &mut out);
            }
        }
    }

    fn run(
        &self,
        case: &Case,
        from: &str,
        contributions: &[Contribution<'_>],
        threads: usize,
        read_ms: f64,
        out: &mut [f32],
    ) {
        if !case.name.contains(&self.only) || case.whole.check(self.members).is_err() {
            return;
        }
        let centre = vec![0.0f32; self.dimension];
        let context = Context {
            centre: Some(&centre),
            ..Context::default()
        };
        let times = self.measure(|| {
            black_box(case.whole.aggregate_with(&context, black_box(contributions), out));
        });
        let floor_ms = case.passes * read_ms;
        let beside = json!({
            "from": from, "passes": case.passes, "floor_cpu_ms": round(floor_ms),
            "times_floor": round(times.least_cpu() / floor_ms), "target_times_floor": case.target,
        });
        self.print(case.name, threads, &times, beside);
    }

    fn measure(&self, mut work: impl FnMut()) -> Times {
        work();
        let (mut cpu_ms, mut wall_ms) = (Vec::new(), Vec::new());
        for _ in 0..self.repetitions {
            let (cpu, wall) = (cpu_ns(), Instant::now());
            work();
            wall_ms.push(wall.elapsed().as_secs_f64() * 1e3);
            cpu_ms.push((cpu_ns() - cpu) as f64 / 1e6);
        }
        cpu_ms.sort_unstable_by(f64::total_cmp);
        wall_ms.sort_unstable_by(f64::total_cmp);
        Times { cpu_ms, wall_ms }
    }

    fn print(&self, case: &str, threads: usize, times: &Times, beside: Value) {
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let mut line = json!({
            "by": "synod", "case": case, "n": self.members, "f": self.faulty, "d": self.dimension, "threads": threads,
            "repetitions": self.repetitions, "cpu_ms": summary(&times.cpu_ms), "wall_ms": summary(&times.wall_ms),
            "load": load.and_then(|text| text.split(' ').next().and_then(|load| load.parse::<f64>().ok())),
        });
        if let (Some(line), Value::Object(beside)) = (line.as_object_mut(), beside) {
            line.extend(beside);
        }
        println!("{line}");
    }
}

impl Times {
    fn least_cpu(&self) -> f64 {
        self.cpu_ms[0]
    }
}

fn summary(sorted: &[f64]) -> Value {
    let (least, greatest) = (sorted[0], sorted[sorted.len() - 1]);
    json!({"median": round(sorted[sorted.len() / 2]), "least": round(least), "greatest": round(greatest)})
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Reads everything once, with several sums so that it waits for memory and for nothing else.
fn sum_of_bits(rows: &[Vec<f32>]) -> u32 {
    use rayon::prelude::*;
    let sum = |chunk: &[f32]| {
        let mut lanes = [0u32; 64];
        let (blocks, _) = chunk.as_chunks::<64>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane = lane.wrapping_add(value.to_bits());
            }
        }
        lanes.iter().fold(0u32, |sum, lane| sum.wrapping_add(*lane))
    };
    rows.par_iter()
        .map(|row| row.par_chunks(1 << 16).map(sum).reduce(|| 0, u32::wrapping_add))
        .reduce(|| 0, u32::wrapping_add)
}

/// CPU time of all threads of this process so far.
#[allow(unsafe_code)] // the clock has no safe door in the standard library
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes one timespec, which is ours.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0, "the process's clock can be read");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
