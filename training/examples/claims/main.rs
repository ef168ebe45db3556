//! What a small benchmark of optimizers shows of published claims: `make reproduce CLAIM=optimizers|weight-decay-mup`.
//! It asserts none of them. It trains, keeps every run, and says of each claim what was seen.
//!
//! Claims and set-ups: Semenov et al., "Benchmarking Optimizers for Large Language Model Pretraining" (2025); Kosson et al.,
//! "Weight Decay may Matter More than μP for Learning Rate Transfer in Practice" (2025). Both train models a thousand times
//! as large for a thousand times as long: what does not show here may show there.

mod optimizers;
mod report;
mod runs;
mod sizes;
mod weight_decay_mup;

use std::path::PathBuf;

use anyhow::{Context, bail};

use runs::Bench;
use sizes::Size;

const USAGE: &str = "\
claims optimizers|weight-decay-mup --data FILE [--data FILE …] [--dir FOLDER] [--size tiny|small|full] [--jobs N]

  --data FILE    text (.txt, .jsonl, compressed or not); the same for all runs
  --dir FOLDER   where runs.jsonl, the table and the plot go; what is in runs.jsonl is not run again
  --size SIZE    tiny: minutes; small: hours; full: a night on two cores [default: full]
  --jobs N       runs at a time, each on one thread [default: one a core]

One JSON object a case on standard output; progress on standard error.";

fn main() -> anyhow::Result<()> {
    synod_training::tune_allocator();
    let mut arguments = std::env::args().skip(1);
    let (mut claim, mut data, mut size) = (None, Vec::new(), Size::FULL);
    let mut dir = PathBuf::from("target/claims");
    let mut jobs = std::thread::available_parallelism().map_or(1, usize::from);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value\n\n{USAGE}"))
        };
        match argument.as_str() {
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            "--data" => data.push(PathBuf::from(value()?)),
            "--dir" => dir = value()?.into(),
            "--size" => {
                let name = value()?;
                size = Size::named(&name).with_context(|| format!("--size {name}: say tiny, small or full"))?;
            }
            "--jobs" => {
                let number = value()?;
                jobs = number
                    .parse()
                    .with_context(|| format!("--jobs {number}: say a number"))?;
            }
            name if !name.starts_with('-') && claim.is_none() => claim = Some(name.to_owned()),
            other => bail!("{other} is not understood\n\n{USAGE}"),
        }
    }
    if data.is_empty() {
        bail!("give a text to train on with --data (or set SYNOD_DATA for `make reproduce`)\n\n{USAGE}");
    }
    let bench = Bench::open(dir, data, jobs.max(1))?;
    match claim.as_deref() {
        Some("optimizers") => optimizers::run(&bench, size),
        Some("weight-decay-mup") => weight_decay_mup::run(&bench, size),
        _ => bail!("say which claim\n\n{USAGE}"),
    }
}
