//! `node export MODEL PATH`: the last settled model, or one in another form, as a Hugging Face folder or a GGUF file.
//! It refuses to overwrite; what appears is complete.

use std::path::Path;

use serde_json::json;
use synod_training::interchange::{
    ExportError, ExportOptions, GgufError, GgufPrecision, Precision, export_gguf, export_model,
};

use super::Terminal;
use super::model_source::{Model, model};
use crate::cli::{ExportArgs, ExportPrecision};
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// Writes it.
pub fn run(dir: &DataDir, args: &ExportArgs, terminal: Terminal) -> Outcome {
    let model = model(dir, &args.model)?;
    if model.training.model.decoder_shape().is_some() {
        // A model without its tokenizer, or with a damaged one, is of no use.
        model.tokenizer()?;
    }
    let as_gguf = args.path.extension().is_some_and(|extension| extension == "gguf");
    let precision = args.precision.unwrap_or(ExportPrecision::F32);
    match as_gguf {
        true => to_gguf(&model, precision, &args.path)?,
        false => to_folder(&model, precision, &args.path)?,
    }
    let path = args.path.display();
    match args.json {
        true => terminal.print_json(&json!({
            "folder": path.to_string(),
            "format": if as_gguf { "gguf" } else { "hugging_face" },
            "origin": model.origin,
            "state": model.state,
            "parameters": model.parameters.len(),
        })),
        false => terminal.tell(format!(
            "wrote {path}: {}, {} parameters",
            model.origin,
            model.parameters.len()
        )),
    }
    Ok(())
}

fn to_folder(model: &Model, precision: ExportPrecision, folder: &Path) -> Outcome {
    let options = ExportOptions {
        precision: match precision {
            ExportPrecision::F32 => Precision::F32,
            ExportPrecision::Bf16 => Precision::Bf16,
            ExportPrecision::F16 | ExportPrecision::Q8_0 => {
                return Err(Failure::user(format!(
                    "--precision: folders hold f32 or bf16; give a file whose name ends in .gguf in place of {}",
                    folder.display()
                )));
            }
        },
        training: model.settings_known.then_some(&model.training),
        tokenizer: model.tokenizer.as_deref(),
        ..ExportOptions::default()
    };
    let exported = export_model(&model.training.model, &model.parameters, folder, options);
    exported.map_err(|error| match error {
        ExportError::NotADecoder | ExportError::Occupied { .. } => Failure::user(error),
        _ => Failure::environment(error),
    })
}

fn to_gguf(model: &Model, precision: ExportPrecision, path: &Path) -> Outcome {
    let precision = match precision {
        ExportPrecision::F32 => GgufPrecision::F32,
        ExportPrecision::Bf16 => GgufPrecision::Bf16,
        ExportPrecision::F16 => GgufPrecision::F16,
        ExportPrecision::Q8_0 => GgufPrecision::Q8_0,
    };
    let tokenizer = match &model.tokenizer {
        Some(path) => {
            let read = std::fs::read(path);
            Some(read.map_err(|error| Failure::environment(format!("{}: {error}", path.display())))?)
        }
        None => None,
    };
    let written = export_gguf(
        &model.training.model,
        &model.parameters,
        tokenizer.as_deref(),
        precision,
        path,
    );
    written.map_err(|error| match error {
        GgufError::File { .. } => Failure::environment(error),
        _ => Failure::user(error),
    })
}
