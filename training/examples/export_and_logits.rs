//! Exports models, or imports them, and writes our logits beside them for `tests/check_export.py`, which compares with the
//! real `transformers`. It exists for that check alone; operators export with `node export`.
//!
//! `cargo run --release -p synod-training --example export_and_logits -- export TEXT FOLDER` trains small Llama and Apertus
//! models on a text for a few steps and writes `FOLDER/NAME/model/` and `FOLDER/NAME/logits.json`;
//! `… -- import FOLDER` reads each `FOLDER/NAME/model/` that the script wrote and writes `FOLDER/NAME/logits.json`.

use std::path::Path;

use anyhow::bail;
use serde_json::json;
use synod_protocol::identity::PeerId;
use synod_training::config::{DecoderConfig, ModelConfig};
use synod_training::interchange::{ExportOptions, Precision, export_model, import_model};
use synod_training::models::apertus::ApertusConfig;
use synod_training::models::decoder::Decoder;
use synod_training::{Continue, DeviceChoice, LocalRound, TrainingConfig, build_trainer};

const PROMPTS: [&str; 3] = [
    "The quick brown fox jumps over the lazy dog.",
    "é, ü and 漢字\n\tare bytes, too",
    "A",
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["export", text, folder] => export(Path::new(text), Path::new(folder)),
        ["import", folder] => import(Path::new(folder)),
        _ => bail!("see the head of the file"),
    }
}

fn models() -> [(&'static str, ModelConfig, ExportOptions<'static>); 4] {
    let llama = DecoderConfig {
        kv_heads: Some(2),
        ..DecoderConfig::default()
    };
    let untied = DecoderConfig {
        tied: false,
        ..DecoderConfig::default()
    };
    let apertus = ApertusConfig {
        kv_heads: Some(2),
        ..ApertusConfig::default()
    };
    let mut long = apertus.clone();
    long.rotary.scaling = Some(Default::default());
    let sharded = ExportOptions {
        shard_bytes: 500_000,
        ..ExportOptions::default()
    };
    let half = ExportOptions {
        precision: Precision::Bf16,
        ..ExportOptions::default()
    };
    [
        ("llama", ModelConfig::Decoder(llama), ExportOptions::default()),
        ("llama-untied-sharded", ModelConfig::Decoder(untied), sharded),
        ("apertus", ModelConfig::Apertus(apertus), ExportOptions::default()),
        ("apertus-scaled-bf16", ModelConfig::Apertus(long), half),
    ]
}

fn export(text: &Path, folder: &Path) -> anyhow::Result<()> {
    for (name, model, options) in models() {
        let config = TrainingConfig {
            model,
            local_steps: 60,
            ..TrainingConfig::default()
        };
        let mut trainer = build_trainer(&config, PeerId([0; 32]), Some(text), &DeviceChoice::Cpu)?;
        let start = trainer.initial_parameters();
        let trained = trainer.train(LocalRound::of(1, &start), &mut |_| Continue::Go)?;
        println!("{name}: loss {:.3} over {} steps", trained.train_loss, trained.steps);
        std::fs::create_dir_all(folder.join(name))?;
        export_model(
            &config.model,
            &trained.parameters,
            &folder.join(name).join("model"),
            options,
        )?;
    }
    import(folder)
}

/// Logits of what is on disk.
fn import(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let folder = entry?.path();
        if !folder.join("model").is_dir() {
            continue;
        }
        let (model, parameters) = import_model(&folder.join("model"))?;
        let Some(shape) = model.decoder_shape() else {
            bail!("no decoder")
        };
        let decoder = Decoder::new(&shape, DeviceChoice::Cpu.open()?);
        let mut cases = Vec::new();
        for prompt in PROMPTS {
            let tokens: Vec<u32> = prompt.bytes().map(u32::from).collect();
            let logits = decoder.logits(&parameters, &tokens)?;
            cases.push(json!({"text": prompt, "tokens": tokens, "logits": logits}));
        }
        std::fs::write(folder.join("logits.json"), serde_json::to_string(&cases)?)?;
    }
    Ok(())
}
