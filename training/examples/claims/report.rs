//! What was seen, for people and for programs: JSON lines, a Markdown table, a plot.
//! It trains nothing.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::runs::{Bench, Outcome};
use crate::sizes::Size;

/// The runs of one configuration with several seeds.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    losses: Vec<f64>,
    /// Infinite where one diverged.
    pub mean: f64,
    pub cpu_ms_a_step: f64,
    wall_ms_a_step: f64,
    pub spikes: u32,
    pub matrix_rms: f64,
}

impl Sample {
    pub fn of(name: &str, runs: &[Outcome]) -> Self {
        let mut losses: Vec<f64> = runs.iter().map(Outcome::or_infinite).collect();
        losses.sort_by(f64::total_cmp);
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / runs.len() as f64;
        Self {
            name: name.to_owned(),
            mean: mean(&mut losses.iter().copied()),
            cpu_ms_a_step: mean(&mut runs.iter().map(|run| run.cpu_ms_a_step)),
            wall_ms_a_step: mean(&mut runs.iter().map(|run| run.wall_ms_a_step)),
            spikes: runs.iter().map(|run| run.spikes).sum(),
            matrix_rms: mean(&mut runs.iter().map(|run| run.matrix_rms)),
            losses,
        }
    }

    /// Greatest minus least.
    pub fn spread(&self) -> f64 {
        self.losses[self.losses.len() - 1] - self.losses[0]
    }

    fn median(&self) -> f64 {
        self.losses[self.losses.len() / 2]
    }

    fn json(&self, case: &str) -> serde_json::Value {
        let finite = |value: f64| value.is_finite().then_some(value);
        json!({
            "case": case,
            "arm": self.name,
            "measure": "loss on all held-out text, nats a byte",
            "n": self.losses.len(),
            "median": finite(self.median()),
            "least": finite(self.losses[0]),
            "greatest": finite(self.losses[self.losses.len() - 1]),
            "cpu_ms_a_step": self.cpu_ms_a_step,
            "wall_ms_a_step": self.wall_ms_a_step,
            "spikes": self.spikes,
            "matrix_rms": finite(self.matrix_rms),
            "load": load(),
        })
    }
}

/// A claim and what was seen of it.
pub struct Claim {
    id: &'static str,
    text: &'static str,
    verdict: &'static str,
    seen: String,
    samples: Vec<Sample>,
}

impl Claim {
    pub fn new(id: &'static str, text: &'static str, holds: bool, seen: String, samples: Vec<Sample>) -> Self {
        Self {
            id,
            text,
            verdict: if holds { "seen" } else { "not seen" },
            seen,
            samples,
        }
    }

    pub fn not_tried(id: &'static str, text: &'static str, reason: &str) -> Self {
        Self {
            id,
            text,
            verdict: "not tried",
            seen: reason.to_owned(),
            samples: Vec::new(),
        }
    }
}

/// A line of a plot.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The table of optimizers: standard output, and `optimizers.md`.
pub fn optimizers(bench: &Bench, size: Size, rows: &[(Sample, f64)]) -> anyhow::Result<()> {
    let mut sorted: Vec<&(Sample, f64)> = rows.iter().collect();
    sorted.sort_by(|a, b| a.0.mean.total_cmp(&b.0.mean));
    let mut text = String::from(
        "| optimizer | rate | held-out loss, median | least to greatest | CPU ms a step | spikes |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for (sample, rate) in sorted {
        let mut line = sample.json(&format!("optimizers/{}", size.name));
        line["learning_rate"] = json!(rate);
        println!("{line}");
        writeln!(
            text,
            "| {} | {rate:.2e} | {:.4} | {:.4} to {:.4} | {:.1} | {} |",
            sample.name,
            sample.median(),
            sample.losses[0],
            sample.losses[sample.losses.len() - 1],
            sample.cpu_ms_a_step,
            sample.spikes
        )?;
    }
    write(&bench.dir.join("optimizers.md"), &text)
}

/// The claims: standard output, and `claims.md`.
pub fn claims(bench: &Bench, about: &str, size: Size, claims: &[Claim]) -> anyhow::Result<()> {
    let mut text = String::from("| claim | | seen |\n| --- | --- | --- |\n");
    for claim in claims {
        for sample in &claim.samples {
            println!("{}", sample.json(&format!("{about}/{}/{}", size.name, claim.id)));
        }
        println!(
            "{}",
            json!({ "case": format!("{about}/{}/{}", size.name, claim.id), "claim": claim.text, "verdict": claim.verdict, "seen": claim.seen })
        );
        writeln!(
            text,
            "| {}: {} | **{}** | {} |",
            claim.id, claim.text, claim.verdict, claim.seen
        )?;
    }
    write(&bench.dir.join("claims.md"), &text)
}

/// Writes a plot of losses over rates: rates by factors of two, losses up to the level that all curves reach.
pub fn plot(path: &Path, across: &str, curves: &[Curve]) -> anyhow::Result<()> {
    const SIZE: (f64, f64) = (760.0, 460.0);
    const EDGE: (f64, f64) = (60.0, 40.0);
    let all = || {
        curves
            .iter()
            .flat_map(|curve| &curve.points)
            .filter(|point| point.1.is_finite())
    };
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    let (left, right) = (
        least(&mut all().map(|p| p.0.log2())),
        most(&mut all().map(|p| p.0.log2())),
    );
    let bottom = least(&mut all().map(|p| p.1));
    // What lies far above hides what differs below.
    let top = most(&mut all().map(|p| p.1)).min(bottom + 1.0);
    let x = |rate: f64| EDGE.0 + (rate.log2() - left) / (right - left).max(1e-9) * (SIZE.0 - 200.0);
    let y = |loss: f64| SIZE.1 - EDGE.1 - (loss.min(top) - bottom) / (top - bottom).max(1e-9) * (SIZE.1 - 2.0 * EDGE.1);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n",
        SIZE.0, SIZE.1
    );
    for step in 0..=4 {
        let loss = bottom + (top - bottom) * f64::from(step) / 4.0;
        writeln!(svg, "<text x='8' y='{:.1}'>{loss:.2}</text>", y(loss) + 4.0)?;
        writeln!(
            svg,
            "<line x1='{}' x2='{}' y1='{2:.1}' y2='{2:.1}' stroke='#ddd'/>",
            EDGE.0,
            SIZE.0 - 140.0,
            y(loss)
        )?;
    }
    for exponent in left.ceil() as i32..=right.floor() as i32 {
        let rate = f64::from(exponent).exp2();
        writeln!(
            svg,
            "<text x='{:.1}' y='{}' text-anchor='middle'>{rate:.3}</text>",
            x(rate),
            SIZE.1 - 22.0
        )?;
    }
    writeln!(
        svg,
        "<text x='{}' y='{}'>{across}; held-out loss above, nats a byte</text>",
        EDGE.0,
        SIZE.1 - 6.0
    )?;
    for (at, curve) in curves.iter().enumerate() {
        let colour = format!("hsl({}, 65%, 42%)", at * 360 / curves.len().max(1));
        let points: Vec<String> = curve
            .points
            .iter()
            .filter(|point| point.1.is_finite())
            .map(|(rate, loss)| format!("{:.1},{:.1}", x(*rate), y(*loss)))
            .collect();
        writeln!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='1.5'/>",
            points.join(" ")
        )?;
        writeln!(
            svg,
            "<text x='{}' y='{}' fill='{colour}'>{}</text>",
            SIZE.0 - 130.0,
            30 + 18 * at,
            curve.name
        )?;
    }
    svg.push_str("</svg>\n");
    write(path, &svg)
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("part");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// The machine's load over the last minute, where it tells.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
