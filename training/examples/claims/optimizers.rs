//! Optimizers side by side, each with its tuned rate, and the claims O1 to O11 that a small machine can look at.
//! What a claim expects is written beside it; what was seen decides the word after it.

use anyhow::Context;
use serde_json::{Value, json};
use synod_training::TrainingConfig;
use synod_training::schedules::{Linear, ScheduleConfig, Wsd};

use crate::report::{self, Claim, Curve, Sample};
use crate::runs::{Bench, Outcome};
use crate::sizes::{SEEDS, Size, cosine};

/// An optimizer of the table: its key, what differs from its defaults, and the middle of its grid of rates. Means have the
/// horizons that a run of some hundred steps can fill (papers' are for ten thousands): half-lives of a few per cent of it.
const TABLE: &[(&str, &str, f64)] = &[
    ("adamw", r#"{"beta2": 0.99}"#, 4e-3),
    ("ademamix", r#"{"beta2": 0.99, "beta3": 0.99, "alpha": 4}"#, 4e-3),
    ("adopt", r#"{"beta2": 0.99}"#, 4e-3),
    ("lion", r#"{"weight_decay": 0.5}"#, 8e-4),
    ("signum", r#"{}"#, 8e-4),
    ("sgd", r#"{}"#, 0.25),
    ("muon", r#"{}"#, 0.02),
    ("d_muon", r#"{}"#, 1.6e-2),
    ("soap", r#"{"beta2": 0.99}"#, 4e-3),
    ("sophia", r#"{}"#, 1e-3),
    ("schedule_free", r#"{"beta2": 0.99}"#, 8e-3),
    ("prodigy", r#"{"beta2": 0.99}"#, 1.0),
    ("mars", r#"{}"#, 6e-3),
    ("adafactor", r#"{}"#, 0.03),
    ("lamb", r#"{"beta2": 0.99}"#, 2e-2),
    ("scion", r#"{}"#, 1e-3),
];

/// Factors on the middle of a grid; a best one at its end moves the grid on, up to twice.
const GRID: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// An optimizer by key, with a rate and other numbers over its defaults.
fn with(base: &TrainingConfig, key: &str, numbers: &Value, rate: f64) -> anyhow::Result<TrainingConfig> {
    let mut fields = numbers.as_object().cloned().unwrap_or_default();
    fields.insert("learning_rate".to_owned(), json!(rate));
    if key == "ademamix" {
        // Both grow over the whole run, as its authors have it.
        fields.insert("alpha_warmup_steps".to_owned(), json!(base.local_steps));
        fields.insert("beta3_warmup_steps".to_owned(), json!(base.local_steps));
    }
    let mut config = base.clone();
    let named = json!({ key: fields });
    config.optimizer = serde_json::from_value(named).with_context(|| format!("the table's line of {key}"))?;
    Ok(config)
}

fn seeded(mut config: TrainingConfig, seed: u64) -> TrainingConfig {
    config.seed = seed;
    config
}

/// A tuned optimizer.
struct Tuned {
    key: &'static str,
    numbers: Value,
    rate: f64,
    curve: Vec<(f64, f64)>,
    runs: Vec<Outcome>,
}

impl Tuned {
    fn sample(&self) -> Sample {
        Sample::of(self.key, &self.runs)
    }
}

/// Finds the best rate with the first seed: a grid of factors of two, moved on while the best lies at its end.
fn tune(
    bench: &Bench,
    what: &str,
    base: &TrainingConfig,
    key: &'static str,
    numbers: &Value,
    middle: f64,
) -> anyhow::Result<Tuned> {
    let mut rates: Vec<f64> = GRID.iter().map(|factor| middle * factor).collect();
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for _ in 0..3 {
        let wanted = rates
            .iter()
            .map(|rate| {
                Ok((
                    format!("{key}, rate {rate:.2e}"),
                    seeded(with(base, key, numbers, *rate)?, SEEDS[0]),
                ))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let outcomes = bench.run(&format!("{what}: rates"), &wanted)?;
        curve.extend(rates.iter().copied().zip(outcomes.iter().map(Outcome::or_infinite)));
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        let best = best_of(&curve);
        let (first, last) = (curve[0].0, curve[curve.len() - 1].0);
        rates = match best {
            best if best == first => vec![first / 2.0, first / 4.0],
            best if best == last => vec![last * 2.0, last * 4.0],
            _ => break,
        };
    }
    let rate = best_of(&curve);
    let runs = repeated(bench, what, key, &with(base, key, numbers, rate)?)?;
    Ok(Tuned {
        key,
        numbers: numbers.clone(),
        rate,
        curve,
        runs,
    })
}

fn best_of(curve: &[(f64, f64)]) -> f64 {
    let least = curve.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    least.expect("a grid has rates").0
}

/// One configuration with every seed.
fn repeated(bench: &Bench, what: &str, name: &str, config: &TrainingConfig) -> anyhow::Result<Vec<Outcome>> {
    let wanted: Vec<_> = SEEDS
        .iter()
        .map(|seed| (format!("{name}, seed {seed}"), seeded(config.clone(), *seed)))
        .collect();
    bench.run(what, &wanted)
}

/// Arms of a claim, each with every seed.
fn arms(bench: &Bench, what: &str, arms: &[(String, TrainingConfig)]) -> anyhow::Result<Vec<Sample>> {
    arms.iter()
        .map(|(name, config)| Ok(Sample::of(name, &repeated(bench, what, name, config)?)))
        .collect()
}

/// The table, the plot, then the claims.
pub fn run(bench: &Bench, size: Size) -> anyhow::Result<()> {
    let base = size.config();
    let mut table = Vec::new();
    for (key, numbers, middle) in TABLE {
        let numbers: Value = serde_json::from_str(numbers)?;
        table.push(tune(bench, key, &base, key, &numbers, *middle)?);
    }
    let curves: Vec<Curve> = table
        .iter()
        .map(|tuned| Curve {
            name: tuned.key.to_owned(),
            points: tuned.curve.clone(),
        })
        .collect();
    report::plot(
        &bench.dir.join("rates.svg"),
        "learning rate over the tuned one",
        &relative(&curves, &table),
    )?;
    let rows: Vec<(Sample, f64)> = table.iter().map(|tuned| (tuned.sample(), tuned.rate)).collect();
    report::optimizers(bench, size, &rows)?;
    let claims = claims(bench, size, &table)?;
    report::claims(bench, "optimizers", size, &claims)
}

/// Rates over the tuned one: all optimizers in one picture.
fn relative(curves: &[Curve], table: &[Tuned]) -> Vec<Curve> {
    let of = |(curve, tuned): (&Curve, &Tuned)| Curve {
        name: curve.name.clone(),
        points: curve
            .points
            .iter()
            .map(|(rate, loss)| (rate / tuned.rate, *loss))
            .collect(),
    };
    curves.iter().zip(table).map(of).collect()
}

fn tuned<'a>(table: &'a [Tuned], key: &str) -> anyhow::Result<&'a Tuned> {
    table
        .iter()
        .find(|tuned| tuned.key == key)
        .with_context(|| format!("{key} is in the table"))
}

fn claims(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Vec<Claim>> {
    Ok(vec![
        longer_runs(bench, size, table)?,
        sign_and_batch(bench, size)?,
        decay_and_rate(bench, size, table)?,
        muon_and_decay(bench, size, table)?,
        end_of_schedule(bench, size, table)?,
        second_mean(bench, size, table)?,
        Claim::not_tried(
            "O7",
            "Prodigy finds a rate near the best of AdamW",
            "its estimate is not visible outside of it",
        ),
        newton_schulz(bench, size, table)?,
        schedule_free_clip(bench, size, table)?,
        signum_variants(bench, size, table)?,
        cost(table),
    ])
}

fn longer_runs(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let mut samples = Vec::new();
    for steps in [size.steps / 4, size.steps, size.steps * 4] {
        for key in ["adamw", "ademamix"] {
            let of = tuned(table, key)?;
            let mut base = size.config();
            (base.local_steps, base.schedule) = (steps, cosine(steps, 0.01));
            let config = with(&base, key, &of.numbers, of.rate)?;
            let name = format!("{key}, {steps} steps");
            samples.push(Sample::of(&name, &repeated(bench, "O1", &name, &config)?));
        }
    }
    let gaps: Vec<f64> = samples.chunks(2).map(|pair| pair[0].mean - pair[1].mean).collect();
    let grows = gaps.windows(2).all(|pair| pair[1] > pair[0]) && gaps[2] > 0.0;
    Ok(Claim::new(
        "O1",
        "AdEMAMix is ahead of AdamW, by more in longer runs (rates as tuned at the middle length)",
        grows,
        format!("AdamW − AdEMAMix: {:.4}, {:.4}, {:.4} nats", gaps[0], gaps[1], gaps[2]),
        samples,
    ))
}

fn sign_and_batch(bench: &Bench, size: Size) -> anyhow::Result<Claim> {
    let (mut samples, mut gaps) = (Vec::new(), Vec::new());
    for factor in [0.25, 4.0] {
        let mut base = size.config();
        base.batch_sequences = (f64::from(size.batch) * factor) as u32;
        base.local_steps = (f64::from(size.steps) / factor) as u32;
        base.schedule = cosine(base.local_steps, 0.01);
        let mut means = Vec::new();
        for (key, numbers, middle) in TABLE
            .iter()
            .filter(|line| ["adamw", "lion", "signum"].contains(&line.0))
        {
            let what = format!("O2, {} sequences", base.batch_sequences);
            let found = tune(bench, &what, &base, key, &serde_json::from_str(numbers)?, *middle)?;
            let mut sample = found.sample();
            sample.name = format!("{key}, {} sequences, rate {:.2e}", base.batch_sequences, found.rate);
            means.push(sample.mean);
            samples.push(sample);
        }
        gaps.push([means[1] - means[0], means[2] - means[0]]);
    }
    let shrinks = (0..2).all(|at| gaps[1][at] < gaps[0][at]);
    Ok(Claim::new(
        "O2",
        "Sign methods need large batches: their distance to AdamW shrinks when the batch grows, for equal tokens",
        shrinks,
        format!(
            "Lion − AdamW {:+.4} → {:+.4}, Signum − AdamW {:+.4} → {:+.4}",
            gaps[0][0], gaps[1][0], gaps[0][1], gaps[1][1]
        ),
        samples,
    ))
}

fn decay_and_rate(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let of = tuned(table, "adamw")?;
    let mut samples = Vec::new();
    for times in [1.0, 4.0] {
        let rate = of.rate * times;
        // ω = rate · λ · steps: what decay does in all, whatever the length of a run.
        for omega in [0.0, 0.6, 3.0, 12.0, 60.0] {
            let mut numbers = of.numbers.clone();
            numbers["weight_decay"] = json!(omega / (rate * f64::from(size.steps)));
            let config = with(&size.config(), "adamw", &numbers, rate)?;
            let name = format!("{times} × tuned rate, ω = {omega}");
            samples.push(Sample::of(&name, &repeated(bench, "O3", &name, &config)?));
        }
    }
    let norms: Vec<f64> = samples[..5].iter().map(|sample| sample.matrix_rms).collect();
    let (at_tuned, above) = samples.split_at(5);
    let inner = |samples: &[Sample]| samples[1..4].iter().map(|s| s.mean).fold(f64::INFINITY, f64::min);
    let falls = norms.windows(2).all(|pair| pair[1] < pair[0]);
    let over = inner(at_tuned) < at_tuned[4].mean && inner(above) < above[4].mean.max(above[0].mean);
    Ok(Claim::new(
        "O3",
        "The loss is U-shaped in ω = rate · λ · steps; decay shrinks the matrices, and helps more at high rates",
        falls && over && inner(above) < above[0].mean,
        format!(
            "best inner ω against none: {:+.4} at the tuned rate, {:+.4} at four times it; matrices' size {:.3} to {:.3}",
            inner(at_tuned) - at_tuned[0].mean,
            inner(above) - above[0].mean,
            norms[0],
            norms[4]
        ),
        samples,
    ))
}

fn muon_and_decay(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let muon = tuned(table, "muon")?;
    let arm = |decay: f64| {
        let mut numbers = muon.numbers.clone();
        numbers["matrix_weight_decay"] = json!(decay);
        with(&size.config(), "muon", &numbers, muon.rate)
    };
    // The decay of a whole run is ω = 3 for the matrices of the second arm.
    let decayed = 3.0 / (muon.rate * f64::from(size.steps));
    let list = [
        ("muon, matrices not decayed".to_owned(), arm(0.0)?),
        ("muon, matrices decayed".to_owned(), arm(decayed)?),
    ];
    let mut samples = arms(bench, "O4", &list)?;
    samples.push(tuned(table, "d_muon")?.sample());
    let closed = samples[0].mean - samples[1].mean;
    let gap = samples[0].mean - samples[2].mean;
    Ok(Claim::new(
        "O4",
        "D-Muon is ahead of Muon because it decays matrices: decay closes most of the distance",
        gap > 0.0 && closed > gap / 2.0,
        format!("Muon − D-Muon {gap:+.4}; decay of matrices alone brings {closed:+.4}"),
        samples,
    ))
}

fn end_of_schedule(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let of = tuned(table, "adamw")?;
    let steps = size.steps;
    let mut samples = Vec::new();
    for floor in [0.1f32, 0.01, 0.001] {
        let shapes = [
            ("cosine", cosine(steps, floor)),
            (
                "linear",
                ScheduleConfig::Linear(Linear {
                    warmup_steps: steps / 10,
                    total_steps: steps,
                    floor,
                    ..Linear::default()
                }),
            ),
            (
                "wsd",
                ScheduleConfig::Wsd(Wsd {
                    warmup_steps: steps / 10,
                    total_steps: steps,
                    decay_steps: steps / 5,
                    floor,
                    ..Wsd::default()
                }),
            ),
        ];
        for (shape, schedule) in shapes {
            let mut config = with(&size.config(), "adamw", &of.numbers, of.rate)?;
            config.schedule = schedule;
            let name = format!("{shape} to {floor}");
            samples.push(Sample::of(&name, &repeated(bench, "O5", &name, &config)?));
        }
    }
    let mean = |floor: usize| samples[3 * floor..3 * floor + 3].iter().map(|s| s.mean).sum::<f64>() / 3.0;
    let worse = (0..3).all(|shape| samples[shape].mean > samples[3 + shape].mean.min(samples[6 + shape].mean));
    Ok(Claim::new(
        "O5",
        "Ending at a tenth of the peak rate is worse than ending at a hundredth or less, for every shape",
        worse,
        format!(
            "mean of three shapes: {:.4} at 0.1, {:.4} at 0.01, {:.4} at 0.001",
            mean(0),
            mean(1),
            mean(2)
        ),
        samples,
    ))
}

fn second_mean(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let of = tuned(table, "adamw")?;
    let (mut samples, mut best) = (Vec::new(), Vec::new());
    for steps in [size.steps / 4, size.steps * 2] {
        let mut losses = Vec::new();
        for beta2 in [0.9, 0.95, 0.99, 0.999] {
            let mut config = with(&size.config(), "adamw", &json!({ "beta2": beta2 }), of.rate)?;
            (config.local_steps, config.schedule) = (steps, cosine(steps, 0.01));
            let name = format!("β2 = {beta2}, {steps} steps");
            let sample = Sample::of(&name, &repeated(bench, "O6", &name, &config)?);
            losses.push((beta2, sample.mean));
            samples.push(sample);
        }
        best.push(best_of(&losses));
    }
    Ok(Claim::new(
        "O6",
        "Longer runs want a longer second mean: the best β2 does not fall with the number of steps",
        best[1] >= best[0],
        format!(
            "best β2: {} in short runs, {} in runs eight times as long",
            best[0], best[1]
        ),
        samples,
    ))
}

fn newton_schulz(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let of = tuned(table, "d_muon")?;
    let list = [1, 5, 10]
        .into_iter()
        .map(|steps| {
            let mut numbers = of.numbers.clone();
            numbers["newton_schulz_steps"] = json!(steps);
            Ok((
                format!("{steps} Newton–Schulz steps"),
                with(&size.config(), "d_muon", &numbers, of.rate)?,
            ))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let samples = arms(bench, "O8", &list)?;
    let noise = samples[1].spread().max(samples[2].spread());
    let (one, flat) = (
        samples[0].mean - samples[1].mean,
        (samples[2].mean - samples[1].mean).abs(),
    );
    Ok(Claim::new(
        "O8",
        "One Newton–Schulz step is clearly worse than five, and ten bring nothing more",
        one > noise && flat <= noise.max(0.25 * one),
        format!("one − five {one:+.4}, |ten − five| {flat:.4}, spread of seeds {noise:.4}"),
        samples,
    ))
}

fn schedule_free_clip(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let of = tuned(table, "schedule_free")?;
    let list = [("clipped to 0.5", 0.5f32), ("not clipped", 1e6)]
        .into_iter()
        .map(|(name, clip)| {
            let mut config = with(&size.config(), "schedule_free", &of.numbers, of.rate)?;
            config.gradient_clip = clip;
            Ok((name.to_owned(), config))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let samples = arms(bench, "O9", &list)?;
    let gain = samples[1].mean - samples[0].mean;
    Ok(Claim::new(
        "O9",
        "Schedule-Free AdamW is better with clipping",
        gain > 0.0,
        format!(
            "clipping gains {gain:+.4}; spikes {} against {}",
            samples[0].spikes, samples[1].spikes
        ),
        samples,
    ))
}

fn signum_variants(bench: &Bench, size: Size, table: &[Tuned]) -> anyhow::Result<Claim> {
    let of = tuned(table, "signum")?;
    let variants = [
        ("Nesterov", json!({ "nesterov": true, "dampening": 0.0 })),
        ("plain", json!({ "nesterov": false, "dampening": 0.0 })),
        ("dampened", json!({ "nesterov": false, "dampening": 0.9 })),
    ];
    let list = variants
        .into_iter()
        .map(|(name, numbers)| Ok((name.to_owned(), with(&size.config(), "signum", &numbers, of.rate)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let samples = arms(bench, "O10", &list)?;
    Ok(Claim::new(
        "O10",
        "Of Signum's variants, Nesterov momentum is the best",
        samples[0].mean < samples[1].mean.min(samples[2].mean),
        format!("{:.4}, {:.4}, {:.4}", samples[0].mean, samples[1].mean, samples[2].mean),
        samples,
    ))
}

fn cost(table: &[Tuned]) -> Claim {
    let samples: Vec<Sample> = table.iter().map(Tuned::sample).collect();
    let dearest = samples
        .iter()
        .max_by(|a, b| a.cpu_ms_a_step.total_cmp(&b.cpu_ms_a_step));
    let dearest = dearest.map_or("none", |sample| &sample.name).to_owned();
    let text = format!("dearest a step: {dearest}");
    Claim::new("O11", "SOAP's step costs most", dearest == "soap", text, samples)
}
