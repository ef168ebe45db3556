//! `node generate MODEL`: text from a session's model or an exported folder, printed as it is drawn.
//! It runs in this process, on this machine's device, and needs no running node for a folder.

use std::io::Write;

use synod_training::generate::{Sampling, generate};
use synod_training::models::decoder::Decoder;

use super::model_source::model;
use super::{Terminal, settings};
use crate::cli::GenerateArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// Writes the text.
pub fn run(dir: &DataDir, args: &GenerateArgs, _: Terminal) -> Outcome {
    if !args.temperature.is_finite() || args.temperature < 0.0 {
        return Err(Failure::user(format!(
            "--temperature {}: it must be 0 or more",
            args.temperature
        )));
    }
    let model = model(dir, &args.model)?;
    let device = settings(dir, &[]).map(|config| config.device()).unwrap_or_default();
    let decoder = Decoder::new(model.shape()?, device.open().map_err(Failure::environment)?);
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        seed: args.seed,
        ..Sampling::default()
    };
    let mut out = std::io::stdout().lock();
    // Whoever reads may go away: then there is no one to write for.
    let mut hear = |bytes: &[u8]| out.write_all(bytes).and_then(|()| out.flush()).is_ok();
    hear(args.prompt.as_bytes());
    generate(
        &decoder,
        &model.parameters,
        args.prompt.as_bytes(),
        args.bytes,
        sampling,
        &mut |byte| hear(&[byte]),
    )
    .map_err(Failure::environment)?;
    hear(b"\n");
    Ok(())
}
