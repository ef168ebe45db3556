//! A decoder as a Hugging Face folder that `LlamaForCausalLM` and `AutoTokenizer` load, and its weights read back.
//! It writes f32 only and reads only what it wrote; `tests/check_export.py` compares logits with the real library.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::byte_tokenizer::{tokenizer, tokenizer_config};
use crate::config::{DecoderConfig, ModelConfig, TrainingConfig};
use crate::data::DOCUMENT_SEPARATOR;
use crate::layout::Layout;
use crate::models::decoder_layout::layout;
use crate::models::operations::{NORM_EPSILON, ROTARY_BASE};

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

/// Writes the model to `folder`, which must not exist or be empty: into a folder beside it first, which is then renamed.
pub fn export_hugging_face(config: &TrainingConfig, parameters: &[f32], folder: &Path) -> Result<(), ExportError> {
    let ModelConfig::Decoder(decoder) = &config.model else {
        return Err(ExportError::NotADecoder);
    };
    let layout = layout(decoder);
    if parameters.len() != layout.len() {
        return Err(ExportError::WrongLength {
            expected: layout.len(),
            got: parameters.len(),
        });
    }
    if fs::symlink_metadata(folder).is_ok() && !fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
        return Err(ExportError::Occupied {
            path: folder.to_owned(),
        });
    }
    let partial = beside(folder);
    let written = write_all(config, decoder, &layout, parameters, &partial).and_then(|()| {
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

/// The parameters of a folder that [`export_hugging_face`] wrote for this model.
pub fn import_parameters(config: &TrainingConfig, folder: &Path) -> Result<Vec<f32>, ExportError> {
    let ModelConfig::Decoder(decoder) = &config.model else {
        return Err(ExportError::NotADecoder);
    };
    let layout = layout(decoder);
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).map_err(at(&path))?;
    let refuse = |reason: String| ExportError::Weights {
        path: path.clone(),
        reason,
    };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(error.to_string()))?;
    let mut parameters = Vec::with_capacity(layout.len());
    for place in layout.places() {
        let tensor = tensors
            .tensor(&place.name)
            .map_err(|error| refuse(format!("{}: {error}", place.name)))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != place.shape {
            let reason = format!(
                "{} is {:?} {:?}, not F32 {:?}",
                place.name,
                tensor.dtype(),
                tensor.shape(),
                place.shape
            );
            return Err(refuse(reason));
        }
        let (words, _) = tensor.data().as_chunks::<4>();
        parameters.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
    }
    Ok(parameters)
}

/// A name for the unfinished folder, on the same file system.
fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    folder.with_file_name(name)
}

fn write_all(
    config: &TrainingConfig,
    decoder: &DecoderConfig,
    layout: &Layout,
    parameters: &[f32],
    folder: &Path,
) -> Result<(), ExportError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    write(&folder.join("model.safetensors"), &weights(layout, parameters))?;
    let training = serde_json::to_string_pretty(config).expect("a configuration is plain data");
    write(&folder.join(TRAINING), format!("{training}\n").as_bytes())?;
    let texts = [
        ("config.json", model_config(decoder)),
        ("generation_config.json", generation_config()),
        ("tokenizer.json", tokenizer()),
        ("tokenizer_config.json", tokenizer_config(decoder.context)),
    ];
    for (name, value) in texts {
        write(&folder.join(name), format!("{value:#}\n").as_bytes())?;
    }
    Ok(())
}

/// Writes and flushes one file, so that a full disk shows here and not later.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut file = fs::File::create(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
    let path = path.to_owned();
    move |reason| ExportError::File { path, reason }
}

fn weights(layout: &Layout, parameters: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    let views = layout.places().iter().map(|place| {
        let range = place.range();
        let view = TensorView::new(Dtype::F32, place.shape.clone(), &bytes[4 * range.start..4 * range.end]);
        (place.name.clone(), view.expect("a place has four bytes an element"))
    });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).expect("names are distinct and views fit their shapes")
}

fn model_config(decoder: &DecoderConfig) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": decoder.vocabulary.size(),
        "hidden_size": decoder.width,
        "intermediate_size": decoder.hidden_width(),
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.key_value_heads(),
        "head_dim": decoder.head_width(),
        "max_position_embeddings": decoder.context,
        "hidden_act": "silu",
        "rms_norm_eps": f64_of(NORM_EPSILON),
        "rope_theta": f64_of(ROTARY_BASE),
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": true,
        "initializer_range": 0.02,
        "use_cache": true,
        "bos_token_id": DOCUMENT_SEPARATOR,
        "eos_token_id": DOCUMENT_SEPARATOR,
        "torch_dtype": "float32",
    })
}

fn generation_config() -> Value {
    json!({
        "bos_token_id": DOCUMENT_SEPARATOR,
        "eos_token_id": DOCUMENT_SEPARATOR,
        "do_sample": true,
        "temperature": 0.8,
        "top_k": 40,
    })
}

/// The shortest decimal number of an f32, not the long one of its f64.
fn f64_of(value: f32) -> f64 {
    value.to_string().parse().expect("an f32 prints as a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::decoder_layout::initial_parameters;

    fn model() -> (TrainingConfig, Vec<f32>) {
        let decoder = DecoderConfig {
            layers: 2,
            kv_heads: Some(2),
            width: 32,
            ..DecoderConfig::default()
        };
        let parameters = initial_parameters(&decoder, &layout(&decoder), 5);
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
        assert!(error.contains("not F32"), "{error}");
        let path = target.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        assert!(matches!(
            import_parameters(&config, &target),
            Err(ExportError::Weights { .. })
        ));
    }
}
