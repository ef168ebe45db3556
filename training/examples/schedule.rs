//! Draws the learning rate that a session file asks for: in the terminal, with `--json` as rows, with `--svg PATH` as a file.
//! It reads the `[training]` table alone, and builds without burn:
//! `cargo run -p synod-training --no-default-features --example schedule -- mine.toml [--json] [--svg PATH]`.

use anyhow::{Context, bail};
use synod_training::TrainingConfig;
use synod_training::schedules::{MOST_ROWS, chart, svg, table};

fn main() -> anyhow::Result<()> {
    let (mut file, mut json, mut picture) = (None, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--svg" => picture = Some(arguments.next().context("--svg needs a path")?),
            _ if argument.starts_with('-') => bail!("{argument} is no option: give FILE [--json] [--svg PATH]"),
            _ => file = Some(argument),
        }
    }
    let file = file.context("give a session file: FILE [--json] [--svg PATH]")?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("{file} cannot be read"))?;
    let session: toml::Table = text.parse().with_context(|| format!("{file} is no TOML"))?;
    let training = session
        .get("training")
        .cloned()
        .unwrap_or_else(|| toml::Table::new().into());
    let config: TrainingConfig = training.try_into().with_context(|| format!("{file}, [training]"))?;
    config.check()?;
    let rounds = session
        .get("protocol")
        .and_then(|protocol| protocol.get("rounds"))
        .and_then(|rounds| rounds.as_integer())
        .map_or(20, |rounds| rounds.max(1) as u64); // as many as a session has by default
    let rows = table(&config, rounds * u64::from(config.local_steps), MOST_ROWS);
    match json {
        true => println!("{}", serde_json::to_string(&rows)?),
        false => print!("{}", chart(&rows)),
    }
    if let Some(path) = picture {
        std::fs::write(&path, svg(&rows)).with_context(|| format!("{path} cannot be written"))?;
    }
    Ok(())
}
