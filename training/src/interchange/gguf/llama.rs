//! The architecture `llama` of GGUF files: hyperparameters, names and the order of rows, out of a file and as they go into one.
//! llama.cpp rotates neighbouring coordinates of a head and Hugging Face's models its two halves, so that rows of query and key
//! matrices change places on the way.

use std::path::Path;

use super::GgufError;
use super::file::{Gguf, Value};
use super::vocabulary;
use crate::config::{DecoderConfig, ModelConfig, TrainingConfig};
use crate::layout::TensorPlace;
use crate::models::shape::{DecoderShape, RotaryConfig};

/// A model read from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufModel {
    /// Its shape.
    pub model: ModelConfig,
    /// θ, in the order of the layout.
    pub parameters: Vec<f32>,
    /// Its `tokenizer.json`; none where tokens are bytes.
    pub tokenizer: Option<Vec<u8>>,
}

/// Reads a model with its tokenizer. Memory: the parameters in f32, and one tensor as it is in the file.
pub fn import_gguf(path: &Path) -> Result<GgufModel, GgufError> {
    let mut gguf = Gguf::open(path)?;
    let (config, tokenizer) = config(&gguf)?;
    let model = ModelConfig::Decoder(config);
    let checked = TrainingConfig {
        model,
        ..TrainingConfig::default()
    };
    checked.check().map_err(|error| gguf.unsupported(error.to_string()))?;
    let model = checked.model;
    let shape = model.decoder_shape().expect("a decoder has a shape");
    let layout = shape.layout();
    // All names and shapes first: a wrong one should not cost the time to read the others.
    for place in layout.places() {
        let name = name_of(&place.name);
        match gguf.tensors.get(&name) {
            Some(info) if info.shape == place.shape => {}
            Some(info) => {
                let (found, expected) = (&info.shape, &place.shape);
                return Err(gguf.malformed(format!(
                    "{name} is {found:?}, and {expected:?} follows from the metadata"
                )));
            }
            None => return Err(gguf.malformed(format!("it has no tensor {name}"))),
        }
    }
    let known: Vec<String> = layout.places().iter().map(|place| name_of(&place.name)).collect();
    if let Some(stranger) = gguf.tensors.keys().find(|name| !known.contains(name)) {
        return Err(gguf.unsupported(format!("it has a tensor {stranger}, which a Llama here does not have")));
    }
    let mut parameters = vec![0.0; layout.len()];
    for (place, name) in layout.places().iter().zip(&known) {
        let values = gguf.values(name)?;
        let target = &mut parameters[place.range()];
        match is_rotated(place) {
            true => reorder(&values, shape.head_width, shape.width, target, Order::Halves),
            false => target.copy_from_slice(&values),
        }
    }
    Ok(GgufModel {
        model,
        parameters,
        tokenizer,
    })
}

fn config(gguf: &Gguf) -> Result<(DecoderConfig, Option<Vec<u8>>), GgufError> {
    match gguf.metadata.get("general.architecture") {
        Some(Value::Text(name)) if name == "llama" => {}
        Some(Value::Text(name)) => {
            return Err(gguf.unsupported(format!("its architecture is `{name}`, and `llama` is known")));
        }
        _ => return Err(gguf.malformed("it does not say its architecture (`general.architecture`)".to_owned())),
    }
    let value = |key: &str| gguf.metadata.get(&format!("llama.{key}"));
    let optional = |key: &str| match value(key) {
        None => Ok(None),
        Some(Value::Integer(number)) if u32::try_from(*number).is_ok() => Ok(Some(*number as u32)),
        Some(other) => Err(gguf.malformed(format!("llama.{key} is {other:?}, and should be one positive number"))),
    };
    let number = |key: &str| optional(key)?.ok_or_else(|| gguf.malformed(format!("it does not say llama.{key}")));
    let float = |key: &str| match value(key) {
        None => Ok(None),
        Some(Value::Float(number)) => Ok(Some(*number as f32)),
        Some(other) => Err(gguf.malformed(format!("llama.{key} is {other:?}, and should be a number"))),
    };
    let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
    let head_width = width.checked_div(heads).unwrap_or(0);
    for (key, expected) in [
        ("rope.dimension_count", head_width),
        ("attention.key_length", head_width),
        ("attention.value_length", head_width),
        ("expert_count", 0),
    ] {
        if optional(key)?.is_some_and(|found| found != expected) {
            return Err(gguf.unsupported(format!("llama.{key} is not {expected}, as it is in the models here")));
        }
    }
    match value("rope.scaling.type") {
        None => {}
        Some(Value::Text(kind)) if kind == "none" => {}
        Some(_) => {
            return Err(gguf.unsupported("it scales its rotary positions (`llama.rope.scaling.type`)".to_owned()));
        }
    }
    if gguf.tensors.contains_key("rope_freqs.weight") {
        return Err(gguf.unsupported("it scales its rotary positions (`rope_freqs.weight`)".to_owned()));
    }
    let embedding = gguf.tensors.get("token_embd.weight");
    let rows = embedding.and_then(|info| info.shape.first().copied());
    let rows = rows.ok_or_else(|| gguf.malformed("it has no tensor token_embd.weight".to_owned()))?;
    let (vocabulary, tokenizer) = vocabulary::read(gguf, rows)?;
    let config = DecoderConfig {
        layers: number("block_count")?,
        heads,
        kv_heads: Some(optional("attention.head_count_kv")?.unwrap_or(heads)),
        width,
        hidden: Some(number("feed_forward_length")?),
        context: number("context_length")?,
        vocabulary,
        tied: !gguf.tensors.contains_key("output.weight"),
        norm_epsilon: float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| gguf.malformed("it does not say llama.attention.layer_norm_rms_epsilon".to_owned()))?,
        rotary: RotaryConfig {
            base: float("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: None,
        },
    };
    Ok((config, tokenizer))
}

/// What a decoder's metadata say of its shape.
pub(super) fn metadata(shape: &DecoderShape) -> Vec<(String, Value)> {
    let number = |value: usize| Value::Integer(value as i128);
    let float = |value: f32| Value::Float(value.into());
    let named = [
        ("context_length", number(shape.context)),
        ("embedding_length", number(shape.width)),
        ("block_count", number(shape.layers)),
        ("feed_forward_length", number(shape.hidden)),
        ("attention.head_count", number(shape.heads)),
        ("attention.head_count_kv", number(shape.kv_heads)),
        ("attention.layer_norm_rms_epsilon", float(shape.norm_epsilon)),
        ("rope.freq_base", float(shape.rotary.base)),
        ("rope.dimension_count", number(shape.head_width)),
        ("vocab_size", number(shape.vocabulary.size())),
    ];
    let named = named.map(|(key, value)| (format!("llama.{key}"), value));
    let architecture = ("general.architecture".to_owned(), Value::Text("llama".to_owned()));
    [architecture].into_iter().chain(named).collect()
}

/// llama.cpp's name of a tensor of our layout, whose names are Hugging Face's.
pub(super) fn name_of(ours: &str) -> String {
    let part = |rest: &str| match rest {
        "input_layernorm.weight" => "attn_norm.weight",
        "self_attn.q_proj.weight" => "attn_q.weight",
        "self_attn.k_proj.weight" => "attn_k.weight",
        "self_attn.v_proj.weight" => "attn_v.weight",
        "self_attn.o_proj.weight" => "attn_output.weight",
        "post_attention_layernorm.weight" => "ffn_norm.weight",
        "mlp.gate_proj.weight" => "ffn_gate.weight",
        "mlp.up_proj.weight" => "ffn_up.weight",
        "mlp.down_proj.weight" => "ffn_down.weight",
        other => panic!("{other} is a part of no Llama layer"),
    };
    match ours {
        "model.embed_tokens.weight" => "token_embd.weight".to_owned(),
        "model.norm.weight" => "output_norm.weight".to_owned(),
        "lm_head.weight" => "output.weight".to_owned(),
        layered => {
            let rest = layered
                .strip_prefix("model.layers.")
                .and_then(|rest| rest.split_once('.'));
            let (layer, rest) = rest.expect("a tensor outside the layers has a name above");
            format!("blk.{layer}.{}", part(rest))
        }
    }
}

/// Whether a matrix makes what is rotated, so that its rows change places: of queries and keys.
pub(super) fn is_rotated(place: &TensorPlace) -> bool {
    place.name.ends_with("q_proj.weight") || place.name.ends_with("k_proj.weight")
}

/// Which coordinates of a head make a pair that is rotated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// i and i + E/2: Hugging Face's, and ours.
    Halves,
    /// 2 i and 2 i + 1: llama.cpp's.
    Neighbours,
}

/// Copies a matrix of `head_width` rows a head, from the other order into this one.
pub(super) fn reorder(values: &[f32], head_width: usize, columns: usize, target: &mut [f32], into: Order) {
    let (head, half) = (head_width * columns, head_width / 2);
    for (values, target) in values.chunks_exact(head).zip(target.chunks_exact_mut(head)) {
        for pair in 0..half {
            for side in 0..2 {
                let (neighbours, halves) = ((2 * pair + side) * columns, (side * half + pair) * columns);
                let (from, to) = match into {
                    Order::Halves => (neighbours, halves),
                    Order::Neighbours => (halves, neighbours),
                };
                target[to..to + columns].copy_from_slice(&values[from..from + columns]);
            }
        }
    }
}
