//! `node export SESSION DIR`: the last settled model as a Hugging Face folder.
//! It refuses to overwrite; a folder that appears is complete.

use serde_json::json;
use synod_training::interchange::{ExportError, ExportOptions, export_model};

use super::Terminal;
use super::model_source::of_session;
use crate::cli::ExportArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// Writes the folder.
pub fn run(dir: &DataDir, args: &ExportArgs, terminal: Terminal) -> Outcome {
    let model = of_session(dir, &args.session)?;
    if model.training.model.decoder_shape().is_some() {
        // A folder without its tokenizer, or with a damaged one, is of no use.
        model.tokenizer()?;
    }
    let options = ExportOptions {
        training: Some(&model.training),
        tokenizer: model.tokenizer.as_deref(),
        ..ExportOptions::default()
    };
    let exported = export_model(&model.training.model, &model.parameters, &args.folder, options);
    exported.map_err(|error| match error {
        ExportError::NotADecoder | ExportError::Occupied { .. } => Failure::user(error),
        _ => Failure::environment(error),
    })?;
    let folder = args.folder.display();
    match args.json {
        true => terminal.print_json(&json!({
            "folder": folder.to_string(),
            "origin": model.origin,
            "state": model.state,
            "parameters": model.parameters.len(),
        })),
        false => terminal.tell(format!(
            "wrote {folder}: {}, {} parameters",
            model.origin,
            model.parameters.len()
        )),
    }
    Ok(())
}
