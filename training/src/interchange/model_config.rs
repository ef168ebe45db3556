//! `config.json` of Hugging Face folders, out of a decoder's shape and into a model's config.
//! It refuses by name what the arithmetic here does not do, rather than to compute something else.

use std::path::Path;

use serde_json::{Map, Value, json};
use synod_protocol::identity::BlobId;

use super::ExportError;
use crate::config::{DecoderConfig, ModelConfig, TokenizerId, TrainingConfig, Vocabulary};
use crate::models::apertus::ApertusConfig;
use crate::models::shape::{Architecture, DecoderShape, RotaryConfig, RotaryScaling};

/// The contents of `config.json`.
pub(super) fn write(shape: &DecoderShape, precision: &str) -> Value {
    let (class, kind, activation) = match shape.architecture {
        Architecture::Llama => ("LlamaForCausalLM", "llama", "silu"),
        Architecture::Apertus => ("ApertusForCausalLM", "apertus", "xielu"),
    };
    let base = f64_of(shape.rotary.base);
    let mut rotary = json!({"rope_type": "default", "rope_theta": base});
    if let Some(scaling) = &shape.rotary.scaling {
        rotary = json!({
            "rope_type": "llama3",
            "rope_theta": base,
            "factor": f64_of(scaling.factor),
            "low_freq_factor": f64_of(scaling.low_frequency_factor),
            "high_freq_factor": f64_of(scaling.high_frequency_factor),
            "original_max_position_embeddings": scaling.original_context,
        });
    }
    let eod = shape.vocabulary.eod();
    json!({
        "architectures": [class],
        "model_type": kind,
        "vocab_size": shape.vocabulary.size(),
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": shape.context,
        "hidden_act": activation,
        "rms_norm_eps": f64_of(shape.norm_epsilon),
        // Both forms: libraries before 5.0 read the first two, later ones the third.
        "rope_theta": base,
        "rope_scaling": shape.rotary.scaling.as_ref().map(|_| rotary.clone()),
        "rope_parameters": rotary,
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": shape.tied,
        "initializer_range": 0.02,
        "use_cache": true,
        "bos_token_id": eod,
        "eos_token_id": eod,
        "pad_token_id": null,
        "torch_dtype": precision,
    })
}

/// The model that a folder's `config.json` describes. A vocabulary of 256 is taken for bytes; another is that of the
/// `tokenizer.json` beside it.
pub fn read_model_config(folder: &Path) -> Result<ModelConfig, ExportError> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(super::hugging_face::at(&path))?;
    let refuse = |reason: String| ExportError::Config {
        path: path.clone(),
        reason,
    };
    let fields: Map<String, Value> = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let tokenizer = std::fs::read(folder.join("tokenizer.json")).ok();
    let hash = tokenizer.map_or([0; 32], |bytes| *blake3::hash(&bytes).as_bytes());
    let model = parse(&fields, BlobId(hash)).map_err(refuse)?;
    let config = TrainingConfig {
        model,
        ..TrainingConfig::default()
    };
    config.check().map_err(|error| refuse(error.to_string()))?;
    Ok(config.model)
}

fn parse(fields: &Map<String, Value>, tokenizer: BlobId) -> Result<ModelConfig, String> {
    let kind = fields.get("model_type").and_then(Value::as_str).unwrap_or("missing");
    let (layers, heads, width) = (
        number(fields, "num_hidden_layers")?,
        number(fields, "num_attention_heads")?,
        number(fields, "hidden_size")?,
    );
    let kv_heads = Some(optional(fields, "num_key_value_heads")?.unwrap_or(heads));
    let hidden = Some(number(fields, "intermediate_size")?);
    let context = number(fields, "max_position_embeddings")?;
    for key in ["attention_bias", "mlp_bias", "post_norm"] {
        if fields.get(key).and_then(Value::as_bool) == Some(true) {
            return Err(format!("`{key}` is true, which the models here do not have"));
        }
    }
    if let Some(head_dim) = optional(fields, "head_dim")?
        && head_dim.checked_mul(heads) != Some(width)
    {
        return Err(format!(
            "`head_dim` {head_dim} times {heads} heads is not `hidden_size` {width}"
        ));
    }
    let activation = fields.get("hidden_act").and_then(Value::as_str).unwrap_or("silu");
    let vocabulary = vocabulary(fields, tokenizer)?;
    let norm_epsilon = float(fields, "rms_norm_eps")?.unwrap_or(1e-5);
    let rotary = rotary(fields)?;
    match (kind, activation) {
        ("llama", "silu") => Ok(ModelConfig::Decoder(DecoderConfig {
            layers,
            heads,
            kv_heads,
            width,
            hidden,
            context,
            vocabulary,
            tied: fields
                .get("tie_word_embeddings")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            norm_epsilon,
            rotary,
        })),
        ("apertus", "xielu") => match fields.get("tie_word_embeddings").and_then(Value::as_bool) {
            Some(true) => Err("`tie_word_embeddings` is true, but Apertus's head is its own".to_owned()),
            _ => Ok(ModelConfig::Apertus(ApertusConfig {
                layers,
                heads,
                kv_heads,
                width,
                hidden,
                context,
                vocabulary,
                norm_epsilon,
                rotary,
            })),
        },
        ("llama" | "apertus", _) => Err(format!("`hidden_act` is {activation}, which {kind} does not have here")),
        _ => Err(format!("`model_type` is {kind}: only llama and apertus are known")),
    }
}

fn vocabulary(fields: &Map<String, Value>, blake3: BlobId) -> Result<Vocabulary, String> {
    let size = number(fields, "vocab_size")?;
    if size == 256 {
        return Ok(Vocabulary::Byte);
    }
    let eos = match fields.get("eos_token_id") {
        Some(Value::Array(several)) => several.first().and_then(Value::as_u64),
        Some(one) => one.as_u64(),
        None => None,
    };
    let eod = eos.and_then(|eos| u32::try_from(eos).ok()).unwrap_or(0);
    Ok(Vocabulary::Tokenizer(TokenizerId { blake3, size, eod }))
}

/// Rotary positions, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`.
fn rotary(fields: &Map<String, Value>) -> Result<RotaryConfig, String> {
    let of = |key: &str| fields.get(key).and_then(Value::as_object);
    let scaling = of("rope_parameters").or_else(|| of("rope_scaling"));
    let base = match scaling
        .map(|scaling| float(scaling, "rope_theta"))
        .transpose()?
        .flatten()
    {
        Some(base) => base,
        None => float(fields, "rope_theta")?.unwrap_or(RotaryConfig::default().base),
    };
    let Some(scaling) = scaling else {
        return Ok(RotaryConfig { base, scaling: None });
    };
    let kind = scaling
        .get("rope_type")
        .or_else(|| scaling.get("type"))
        .and_then(Value::as_str);
    let need = |key: &str| float(scaling, key)?.ok_or_else(|| format!("`{key}` is missing from the rotary scaling"));
    match kind.unwrap_or("default") {
        "default" => Ok(RotaryConfig { base, scaling: None }),
        "llama3" => Ok(RotaryConfig {
            base,
            scaling: Some(RotaryScaling {
                factor: need("factor")?,
                low_frequency_factor: need("low_freq_factor")?,
                high_frequency_factor: need("high_freq_factor")?,
                original_context: number(scaling, "original_max_position_embeddings")?,
            }),
        }),
        other => Err(format!(
            "rotary scaling `{other}` is not known: only `default` and `llama3` are"
        )),
    }
}

fn number(fields: &Map<String, Value>, key: &str) -> Result<u32, String> {
    optional(fields, key)?.ok_or_else(|| format!("`{key}` is missing"))
}

fn optional(fields: &Map<String, Value>, key: &str) -> Result<Option<u32>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let value = value.as_u64().and_then(|value| u32::try_from(value).ok());
            value
                .map(Some)
                .ok_or_else(|| format!("`{key}` is no whole number of 32 bits"))
        }
    }
}

fn float(fields: &Map<String, Value>, key: &str) -> Result<Option<f32>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let value = value.as_f64().map(|value| value as f32);
            value.map(Some).ok_or_else(|| format!("`{key}` is no number"))
        }
    }
}

/// The shortest decimal number of an f32, not the long one of its f64.
fn f64_of(value: f32) -> f64 {
    value.to_string().parse().expect("an f32 prints as a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::presets::{PRESETS, preset};

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn every_preset_reads_back_from_its_config() {
        for name in PRESETS {
            let model = preset(name).unwrap();
            let written = write(&model.decoder_shape().unwrap(), "float32");
            let read = parse(&fields(written), BlobId([0; 32])).unwrap();
            assert_eq!(read.decoder_shape(), model.decoder_shape(), "{name}");
        }
    }

    /// The published config of Apertus-8B, in the form of that time.
    #[test]
    fn the_published_apertus_is_the_preset() {
        let published = json!({
            "architectures": ["ApertusForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "xielu", "hidden_dropout": 0.0, "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 21504, "max_position_embeddings": 65536, "mlp_bias": false,
            "model_type": "apertus", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "pad_token_id": 3, "post_norm": false, "qk_norm": true, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3", "type": "llama3"},
            "rope_theta": 12000000, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
            "vocab_size": 131072
        });
        let model = parse(&fields(published), BlobId([0; 32])).unwrap();
        assert_eq!(Some(model), preset("apertus-8b"));
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        let good = write(&preset("llama-3-8b").unwrap().decoder_shape().unwrap(), "float32");
        for (key, value, part) in [
            ("model_type", json!("mistral"), "only llama and apertus"),
            ("hidden_act", json!("gelu"), "`hidden_act` is gelu"),
            ("attention_bias", json!(true), "`attention_bias` is true"),
            ("head_dim", json!(64), "`head_dim` 64"),
            ("num_hidden_layers", json!(-1), "`num_hidden_layers` is no whole number"),
            ("hidden_size", json!(null), "`hidden_size` is missing"),
            ("rope_parameters", json!({"rope_type": "yarn"}), "`yarn` is not known"),
        ] {
            let mut changed = fields(good.clone());
            changed.insert(key.to_owned(), value);
            let error = parse(&changed, BlobId([0; 32])).unwrap_err();
            assert!(error.contains(part), "{key}: {error}");
        }
    }
}
