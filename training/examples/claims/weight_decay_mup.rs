//! How the best learning rate drifts with the width of a model, under rules for width and decay (Kosson et al., 2025).
//! The models are a few thousand parameters wide at most: what it can show is the direction of the drift.

use synod_training::TrainingConfig;
use synod_training::config::{DecoderConfig, ModelConfig};
use synod_training::optimizers::{AdamWConfig, GroupConfig, OptimizerConfig, WidthRule};
use synod_training::schedules::{Linear, ScheduleConfig};

use crate::report::{self, Claim, Curve, Sample};
use crate::runs::{Bench, Outcome};
use crate::sizes::Size;

/// How far a run goes: widths, steps, sequences in a batch, seeds.
struct Reach {
    widths: &'static [u32],
    steps: u32,
    batch: u32,
    seeds: &'static [u64],
}

impl Reach {
    fn of(size: Size) -> Self {
        match size.name {
            "tiny" => Self {
                widths: &[16, 64],
                steps: 250,
                batch: 16,
                seeds: &[1, 2],
            },
            "small" => Self {
                widths: &[16, 32, 64],
                steps: 500,
                batch: 16,
                seeds: &[1, 2],
            },
            _ => Self {
                widths: &[16, 32, 64, 128],
                steps: 1000,
                batch: 32,
                seeds: &[1, 2, 3],
            },
        }
    }
}

const BASE_WIDTH: u32 = 16;
const RATES: [f32; 6] = [4e-3, 8e-3, 16e-3, 32e-3, 64e-3, 128e-3];

/// ω = rate · λ · steps at the middle of the grid: equilibrium must be reached, or there is nothing to see.
const OMEGA: f32 = 4.0;
const MIDDLE: f32 = 22e-3;

/// The rules, with their names.
fn rules(ratio: f32, steps: u32) -> [(&'static str, WidthRule, bool); 6] {
    [
        ("standard", WidthRule::Standard, true),
        ("μP, standard decay", WidthRule::Mup { ratio }, true),
        ("μP, independent decay", WidthRule::MupIndependentDecay { ratio }, true),
        (
            "standard, exponential warm-up",
            WidthRule::ExponentialWarmup {
                ratio,
                steps: steps / 4,
            },
            true,
        ),
        (
            "standard, decay-away warm-up",
            WidthRule::DecayAwayWarmup { ratio },
            true,
        ),
        ("μP, no decay", WidthRule::Mup { ratio }, false),
    ]
}

fn config(reach: &Reach, width: u32, rule: WidthRule, decayed: bool, rate: f32, seed: u64) -> TrainingConfig {
    let mut config = Size::TINY.config();
    config.model = ModelConfig::Decoder(DecoderConfig {
        layers: 2,
        heads: width / 16,
        width,
        context: 64,
        tied: false,
        ..DecoderConfig::default()
    });
    config.optimizer = OptimizerConfig::AdamW(AdamWConfig {
        learning_rate: rate,
        beta1: 0.9,
        beta2: 0.98,
        weight_decay: if decayed {
            OMEGA / (MIDDLE * reach.steps as f32)
        } else {
            0.0
        },
        ..AdamWConfig::default()
    });
    config.schedule = ScheduleConfig::Linear(Linear {
        warmup_steps: reach.steps / 10,
        total_steps: reach.steps,
        floor: 0.0,
        ..Linear::default()
    });
    config.groups.width = rule;
    config.groups.embedding = GroupConfig {
        weight_decay: Some(0.0),
        ..GroupConfig::default()
    };
    (config.local_steps, config.batch_sequences, config.seed) = (reach.steps, reach.batch, seed);
    config
}

/// One rule's losses over rates at every width, and what follows from them.
struct Seen {
    name: &'static str,
    curves: Vec<Curve>,
    samples: Vec<Sample>,
    drift: f64,
    penalty: f64,
}

/// All rules, then what the paper expects of their drifts.
pub fn run(bench: &Bench, size: Size) -> anyhow::Result<()> {
    let reach = Reach::of(size);
    let mut all = Vec::new();
    for at in 0..rules(1.0, reach.steps).len() {
        all.push(see(bench, &reach, at)?);
    }
    for (at, seen) in all.iter().enumerate() {
        report::plot(
            &bench.dir.join(format!("rule-{at}.svg")),
            &format!("{}: learning rate", seen.name),
            &seen.curves,
        )?;
    }
    let [standard, mup, independent, ..] = all.as_slice() else {
        unreachable!("there are six rules")
    };
    let told = |seen: &Seen| format!("drift {:+.2}, transfer costs {:.4}", seen.drift, seen.penalty);
    let mut claims = vec![
        Claim::new(
            "W1",
            "Under standard parametrisation, wider models want smaller rates",
            standard.drift < -0.1,
            told(standard),
            standard.samples.clone(),
        ),
        Claim::new(
            "W2",
            "Under μP with standard decay, wider models want larger rates",
            mup.drift > 0.1,
            told(mup),
            mup.samples.clone(),
        ),
        Claim::new(
            "W3",
            "Under μP with independent decay the best rate stays: its drift is the least of the three",
            independent.drift.abs() < standard.drift.abs().min(mup.drift.abs()),
            told(independent),
            independent.samples.clone(),
        ),
    ];
    for (id, seen) in ["W4", "W5", "W6"].into_iter().zip(&all[3..]) {
        let closer = seen.drift.abs() < standard.drift.abs();
        let text = match id {
            "W4" => "An exponential further warm-up without μP cures most of the drift",
            "W5" => "The warm-up that independent decay implies cures most of the drift without μP",
            _ => "Without decay, μP's best rate drifts less than that of the standard parametrisation",
        };
        claims.push(Claim::new(id, text, closer, told(seen), seen.samples.clone()));
    }
    report::claims(bench, "weight-decay-mup", size, &claims)
}

fn see(bench: &Bench, reach: &Reach, at: usize) -> anyhow::Result<Seen> {
    let name = rules(1.0, reach.steps)[at].0;
    let (mut curves, mut samples, mut best) = (Vec::new(), Vec::new(), Vec::new());
    for width in reach.widths {
        let ratio = *width as f32 / BASE_WIDTH as f32;
        let (_, rule, decayed) = rules(ratio, reach.steps)[at];
        let wanted: Vec<(String, TrainingConfig)> = RATES
            .iter()
            .flat_map(|rate| reach.seeds.iter().map(move |seed| (*rate, *seed)))
            .map(|(rate, seed)| {
                let title = format!("width {width}, rate {rate:.0e}, seed {seed}");
                (title, config(reach, *width, rule, decayed, rate, seed))
            })
            .collect();
        let outcomes = bench.run(name, &wanted)?;
        let mut points = Vec::new();
        for (rate, runs) in RATES.iter().zip(outcomes.chunks(reach.seeds.len())) {
            let sample = Sample::of(&format!("{name}, width {width}, rate {rate}"), runs);
            points.push((f64::from(*rate), mean(runs)));
            samples.push(sample);
        }
        best.push((f64::from(*width).log2(), optimum(&points)));
        curves.push(Curve {
            name: format!("width {width}"),
            points,
        });
    }
    let (narrowest, widest) = (&best[0], &curves[curves.len() - 1]);
    let least = widest.points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    Ok(Seen {
        name,
        drift: slope(&best),
        penalty: interpolated(&widest.points, narrowest.1) - least,
        curves,
        samples,
    })
}

fn mean(runs: &[Outcome]) -> f64 {
    runs.iter().map(Outcome::or_infinite).sum::<f64>() / runs.len() as f64
}

/// log₂ of the best rate: the vertex of the parabola through the best point and its neighbours, or the best point where it
/// lies at the end of the grid.
fn optimum(points: &[(f64, f64)]) -> f64 {
    let best = (0..points.len())
        .min_by(|a, b| points[*a].1.total_cmp(&points[*b].1))
        .unwrap_or(0);
    let at = |index: usize| (points[index].0.log2(), points[index].1);
    let inner = best > 0 && best + 1 < points.len();
    if !inner || !(points[best - 1].1 + points[best + 1].1).is_finite() {
        return at(best).0;
    }
    let ((_, low), (middle, mid), (_, high)) = (at(best - 1), at(best), at(best + 1));
    // Rates lie a factor of two apart, hence one apart here.
    let bend = low - 2.0 * mid + high;
    middle + if bend > 0.0 { 0.5 * (low - high) / bend } else { 0.0 }
}

/// The loss at a rate between those of the grid.
fn interpolated(points: &[(f64, f64)], log_rate: f64) -> f64 {
    let first = points[0].0.log2();
    let place = (log_rate - first).clamp(0.0, (points.len() - 1) as f64);
    let below = (place.floor() as usize).min(points.len() - 2);
    let share = place - below as f64;
    points[below].1 * (1.0 - share) + points[below + 1].1 * share
}

/// The slope of a line of least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / count, y / count);
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vertex_of_a_parabola_is_found_between_rates_and_the_drift_over_widths() {
        let curve = |best: f64| {
            (0..6)
                .map(|at| (f64::from(at).exp2(), 1.0 + 0.1 * (f64::from(at) - best).powi(2)))
                .collect::<Vec<_>>()
        };
        assert!((optimum(&curve(2.3)) - 2.3).abs() < 1e-9);
        assert_eq!(optimum(&curve(-1.0)), 0.0, "at the end of the grid, its end");
        let drift = slope(&[
            (4.0, optimum(&curve(3.0))),
            (5.0, optimum(&curve(2.5))),
            (6.0, optimum(&curve(2.0))),
        ]);
        assert!((drift + 0.5).abs() < 1e-9);
        assert!((interpolated(&curve(2.0), 2.5) - 1.05).abs() < 1e-9);
    }
}
