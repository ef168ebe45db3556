//! A decoder as a Hugging Face folder that `LlamaForCausalLM` or `ApertusForCausalLM` loads, and such folders read.
//! `tests/check_export.py` compares logits with the real library, both ways; what the library would compute and we would
//! not is refused in `model_config`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::byte_tokenizer::{tokenizer, tokenizer_config};
use super::model_config::{self, read_model_config};
use super::weights::{Precision, read_weights, write_weights};
use crate::config::{ModelConfig, TrainingConfig, Vocabulary};
use crate::data::Tokenizer;
use crate::models::shape::DecoderShape;

/// How a model is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExportOptions<'a> {
    /// How numbers are written.
    pub precision: Precision,
    /// Weights of more bytes are cut into several files. 5 GB is what other libraries do.
    pub shard_bytes: u64,
    /// The session's `tokenizer.json`, to be copied into the folder where the vocabulary is not bytes.
    pub tokenizer: Option<&'a Path>,
    /// How the model was trained, to be kept beside it for those who measure it later.
    pub training: Option<&'a TrainingConfig>,
}

impl Default for ExportOptions<'_> {
    fn default() -> Self {
        Self {
            precision: Precision::F32,
            shard_bytes: 5_000_000_000,
            tokenizer: None,
            training: None,
        }
    }
}

/// The file that says how the model was trained; Hugging Face's libraries do not look at it.
const TRAINING: &str = "synod.json";

/// Why a model was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The session trains no such model.
    #[error("this session trains a synthetic objective: there is no model to export")]
    NotADecoder,
    /// The parameters are of another model.
    #[error("got {got} parameters but the session's model has {expected}: the state is of another model")]
    WrongLength {
        /// Parameters of the model.
        expected: usize,
        /// Parameters that were given.
        got: usize,
    },
    /// Something is there already.
    #[error("{path} exists and is not an empty folder: choose another name, or remove it first")]
    Occupied {
        /// Where the model should go.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{path} cannot be written or read: {reason}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The model's config is damaged, or of a model that is not known here.
    #[error("{path} describes no model that can be used here: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file that says how the model was trained is damaged or of another version.
    #[error("{path} does not say how this model was trained ({reason}): remove it to go by defaults, or export again")]
    Training {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The weights file is damaged or of another model.
    #[error("{path} holds no weights of this model: {reason}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Writes the model to `folder` as [`export_model`] does, with f32 numbers and how it was trained.
pub fn export_hugging_face(config: &TrainingConfig, parameters: &[f32], folder: &Path) -> Result<(), ExportError> {
    let options = ExportOptions {
        training: Some(config),
        ..ExportOptions::default()
    };
    export_model(&config.model, parameters, folder, options)
}

/// Writes the model to `folder`, which must not exist or be empty: into a folder beside it first, which is then renamed.
pub fn export_model(
    model: &ModelConfig,
    parameters: &[f32],
    folder: &Path,
    options: ExportOptions<'_>,
) -> Result<(), ExportError> {
    let shape = model.decoder_shape().ok_or(ExportError::NotADecoder)?;
    if parameters.len() != shape.parameter_count() {
        return Err(ExportError::WrongLength {
            expected: shape.parameter_count(),
            got: parameters.len(),
        });
    }
    if fs::symlink_metadata(folder).is_ok() && !fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
        return Err(ExportError::Occupied {
            path: folder.to_owned(),
        });
    }
    let partial = beside(folder);
    let written = write_all(&shape, parameters, options, &partial).and_then(|()| {
        // An empty folder is in the way of a rename on some systems; it is removed only now, and only while empty.
        if folder.is_dir() {
            fs::remove_dir(folder).map_err(at(folder))?;
        }
        fs::rename(&partial, folder).map_err(at(folder))
    });
    if written.is_err() {
        // The first error is the one that matters; what cannot be removed is a folder with a telling name.
        fs::remove_dir_all(&partial).ok();
    }
    written
}

/// The model of a Hugging Face folder: its config, and its parameters in the order of the layout.
pub fn import_model(folder: &Path) -> Result<(ModelConfig, Vec<f32>), ExportError> {
    let model = read_model_config(folder)?;
    let shape = model.decoder_shape().ok_or(ExportError::NotADecoder)?;
    let parameters = read_weights(&shape.layout(), folder)?;
    Ok((model, parameters))
}

/// How the model of a folder was trained, as [`export_hugging_face`] has written it; None where the folder does not say.
pub fn read_training(folder: &Path) -> Result<Option<TrainingConfig>, ExportError> {
    let path = folder.join(TRAINING);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let refuse = |reason: String| ExportError::Training {
        path: path.clone(),
        reason,
    };
    let config: TrainingConfig = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    config.check().map_err(|error| refuse(error.to_string()))?;
    Ok(Some(config))
}

/// The parameters of a folder with weights of this session's model.
pub fn import_parameters(config: &TrainingConfig, folder: &Path) -> Result<Vec<f32>, ExportError> {
    let shape = config.model.decoder_shape().ok_or(ExportError::NotADecoder)?;
    read_weights(&shape.layout(), folder)
}

/// A name for the unfinished folder, on the same file system.
fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    folder.with_file_name(name)
}

fn write_all(
    shape: &DecoderShape,
    parameters: &[f32],
    options: ExportOptions<'_>,
    folder: &Path,
) -> Result<(), ExportError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    write_weights(
        &shape.layout(),
        parameters,
        options.precision,
        options.shard_bytes,
        folder,
    )?;
    let json = |name: &str, value: Value| write(&folder.join(name), format!("{value:#}\n").as_bytes());
    json("config.json", model_config::write(shape, options.precision.name()))?;
    json("generation_config.json", generation_config(shape))?;
    if let Some(config) = options.training {
        let training = serde_json::to_string_pretty(config).expect("a configuration is plain data");
        write(&folder.join(TRAINING), format!("{training}\n").as_bytes())?;
    }
    let mut about = tokenizer_config(shape.context as u32);
    if shape.vocabulary == Vocabulary::Byte {
        json("tokenizer.json", tokenizer())?;
    } else if let Some(path) = options.tokenizer {
        let bytes = fs::read(path).map_err(at(path))?;
        if let Some(name) = Tokenizer::name_of(&bytes, shape.vocabulary.eod()) {
            about["eos_token"] = Value::String(name);
        }
        write(&folder.join("tokenizer.json"), &bytes)?;
    }
    json("tokenizer_config.json", about)
}

/// Writes and flushes one file, so that a full disk shows here and not later.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut file = fs::File::create(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
    let path = path.to_owned();
    move |reason| ExportError::File { path, reason }
}

fn generation_config(shape: &DecoderShape) -> Value {
    json!({
        "bos_token_id": shape.vocabulary.eod(),
        "eos_token_id": shape.vocabulary.eod(),
        "do_sample": true,
        "temperature": 0.8,
        "top_k": 40,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::models::presets::preset;

    fn model() -> (TrainingConfig, Vec<f32>) {
        let decoder = DecoderConfig {
            layers: 2,
            kv_heads: Some(2),
            width: 32,
            ..DecoderConfig::default()
        };
        let shape = DecoderShape::from(&decoder);
        let parameters = shape.initial_parameters(&shape.layout(), 5);
        (
            TrainingConfig {
                model: ModelConfig::Decoder(decoder),
                ..TrainingConfig::default()
            },
            parameters,
        )
    }

    #[test]
    fn an_export_reads_back_bit_for_bit() {
        let (config, parameters) = model();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        export_hugging_face(&config, &parameters, &target).unwrap();
        assert_eq!(import_parameters(&config, &target).unwrap(), parameters);
        assert_eq!(read_training(&target).unwrap(), Some(config));
        let mut names: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let expected = [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "synod.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn several_files_read_back_as_one_does_and_half_precision_nearly() {
        let model = preset("apertus-0.1m").unwrap();
        let shape = model.decoder_shape().unwrap();
        let parameters = shape.initial_parameters(&shape.layout(), 5);
        let folder = tempfile::tempdir().unwrap();
        for (index, precision) in [Precision::F32, Precision::Bf16].into_iter().enumerate() {
            let options = ExportOptions {
                precision,
                shard_bytes: 100_000,
                ..ExportOptions::default()
            };
            let target = folder.path().join(index.to_string());
            export_model(&model, &parameters, &target, options).unwrap();
            assert!(!target.join("model.safetensors").exists());
            let (again, read) = import_model(&target).unwrap();
            assert_eq!(again, model);
            let tolerance = if precision == Precision::F32 { 0.0 } else { 1.0 / 256.0 };
            for (ours, theirs) in parameters.iter().zip(&read) {
                assert!((ours - theirs).abs() <= tolerance * ours.abs(), "{ours} {theirs}");
            }
            let index_file = target.join("model.safetensors.index.json");
            let text = fs::read_to_string(&index_file).unwrap();
            fs::write(&index_file, text.replace("model-00001", "../model-00001")).unwrap();
            let error = import_model(&target).unwrap_err().to_string();
            assert!(error.contains("not the name of a file beside it"), "{error}");
        }
    }

    #[test]
    fn how_a_model_was_trained_reads_back_is_unknown_or_is_refused() {
        let (mut config, parameters) = model();
        config.heldout_fraction = 0.3;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        export_hugging_face(&config, &parameters, &target).unwrap();
        assert_eq!(read_training(&target).unwrap().unwrap().heldout_fraction, 0.3);
        let file = target.join(TRAINING);
        let text = fs::read_to_string(&file).unwrap();
        for bad in [
            text.replace("0.3", "3.0"),
            "{".to_owned(),
            text.replace("local_steps", "steps"),
        ] {
            fs::write(&file, bad).unwrap();
            let refused = read_training(&target).unwrap_err().to_string();
            assert!(refused.contains("synod.json"), "{refused}");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(read_training(&target).unwrap(), None);
    }

    #[test]
    fn an_empty_folder_is_filled_and_a_full_one_left_alone() {
        let (config, parameters) = model();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        fs::create_dir(&target).unwrap();
        export_hugging_face(&config, &parameters, &target).unwrap();
        let error = export_hugging_face(&config, &parameters, &target)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is not an empty folder"), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        assert!(matches!(
            export_hugging_face(&config, &parameters, &file),
            Err(ExportError::Occupied { .. })
        ));
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    }

    #[test]
    fn foreign_and_damaged_weights_are_refused() {
        let (config, parameters) = model();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        assert!(matches!(
            export_hugging_face(&config, &[1.0], &target),
            Err(ExportError::WrongLength { .. })
        ));
        export_hugging_face(&config, &parameters, &target).unwrap();
        let other = TrainingConfig::default();
        let error = import_parameters(&other, &target).unwrap_err().to_string();
        assert!(error.contains("not F32, BF16 or F16"), "{error}");
        let path = target.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        assert!(matches!(
            import_parameters(&config, &target),
            Err(ExportError::Weights { .. })
        ));
    }
}
