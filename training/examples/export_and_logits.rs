//! Trains a small decoder on a text for a few steps, exports it, and writes our logits beside it for `check_export.py`.
//! It exists for that check alone; operators export with `node export`.
//!
//! `cargo run --release -p synod-training --example export_and_logits -- TEXT FOLDER [KV_HEADS]`
//! writes `FOLDER/model/` and `FOLDER/logits.json`.

use std::path::Path;

use anyhow::bail;
use synod_protocol::identity::PeerId;
use synod_training::config::{DecoderConfig, ModelConfig};
use synod_training::interchange::{export_hugging_face, import_parameters};
use synod_training::models::decoder::Decoder;
use synod_training::{Continue, DeviceChoice, TrainingConfig, build_trainer};

const PROMPTS: [&str; 3] = [
    "The quick brown fox jumps over the lazy dog.",
    "é, ü and 漢字\n\tare bytes, too",
    "A",
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [text, folder, rest @ ..] = &arguments[..] else {
        bail!("see the head of the file")
    };
    let kv_heads = rest.first().map(|heads| heads.parse()).transpose()?;
    let decoder = DecoderConfig {
        kv_heads,
        ..DecoderConfig::default()
    };
    let model = ModelConfig::Decoder(decoder.clone());
    let config = TrainingConfig {
        model,
        local_steps: 60,
        ..TrainingConfig::default()
    };
    let mut trainer = build_trainer(&config, PeerId([0; 32]), Some(Path::new(text)), &DeviceChoice::Cpu)?;
    let start = trainer.initial_parameters();
    let trained = trainer.train(1, &start, &mut |_| Continue::Go)?;
    println!("loss {:.3} over {} steps", trained.train_loss, trained.steps);

    let target = Path::new(folder).join("model");
    export_hugging_face(&config, &trained.parameters, &target)?;
    let parameters = import_parameters(&config, &target)?;
    let decoder = Decoder::new(&decoder, DeviceChoice::Cpu.open()?);
    let mut cases = Vec::new();
    for prompt in PROMPTS {
        let logits = decoder.logits(&parameters, prompt.as_bytes())?;
        cases.push(serde_json::json!({"text": prompt, "tokens": prompt.as_bytes(), "logits": logits}));
    }
    std::fs::write(Path::new(folder).join("logits.json"), serde_json::to_string(&cases)?)?;
    Ok(())
}
