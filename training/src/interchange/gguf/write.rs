//! A Llama-style model as one GGUF file of version 3, with its tokenizer.
//! The file appears whole or not at all. Norms stay f32; of quantised forms it knows Q8_0 alone.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::GgufError;
use super::file::{ALIGNMENT, MAGIC, VERSION, Value};
use super::llama::{self, Order, is_rotated, name_of, reorder};
use super::quantisation::Encoding;
use super::vocabulary;
use crate::config::ModelConfig;
use crate::interchange::weights::{to_bf16, to_f16};
use crate::layout::TensorPlace;
use crate::models::shape::{Architecture, DecoderShape};

/// How matrices are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufPrecision {
    /// 32 bits: what is trained.
    F32,
    /// 16 bits of IEEE; values beyond ±65504 become these.
    F16,
    /// The upper 16 bits of f32.
    Bf16,
    /// 8 bits in blocks of 32 with a common scale; matrices whose rows are no whole blocks stay f16.
    Q8_0,
}

impl GgufPrecision {
    fn encoding(self, shape: &[usize]) -> Encoding {
        match (self, shape) {
            (_, [_]) | (Self::F32, _) => Encoding::F32,
            (Self::F16, _) => Encoding::F16,
            (Self::Bf16, _) => Encoding::Bf16,
            (Self::Q8_0, [.., row]) if row % Encoding::Q8_0.block() == 0 => Encoding::Q8_0,
            (Self::Q8_0, _) => Encoding::F16,
        }
    }

    /// `general.file_type`, as llama.cpp numbers it.
    fn file_type(self) -> i128 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }
}

/// Writes a model to the file `path`, which must not exist. `tokenizer` is its `tokenizer.json` where tokens are not bytes.
pub fn export_gguf(
    model: &ModelConfig,
    parameters: &[f32],
    tokenizer: Option<&[u8]>,
    precision: GgufPrecision,
    path: &Path,
) -> Result<(), GgufError> {
    let not_writable = |reason: &str| GgufError::NotWritable(reason.to_owned());
    let shape = model
        .decoder_shape()
        .ok_or_else(|| not_writable("this session trains a synthetic objective: there is no model to export"))?;
    if shape.architecture != Architecture::Llama {
        return Err(not_writable(
            "Apertus models are not written to GGUF: export a Hugging Face folder, which llama.cpp converts",
        ));
    }
    if shape.rotary.scaling.is_some() {
        return Err(not_writable(
            "models with scaled rotary positions are not written to GGUF: export a Hugging Face folder",
        ));
    }
    if parameters.len() != shape.parameter_count() {
        let (got, expected) = (parameters.len(), shape.parameter_count());
        return Err(GgufError::NotWritable(format!(
            "got {got} parameters but the session's model has {expected}: the state is of another model"
        )));
    }
    let mut metadata = llama::metadata(&shape);
    metadata.push(("general.file_type".to_owned(), Value::Integer(precision.file_type())));
    metadata.extend(vocabulary::metadata(&shape.vocabulary, tokenizer)?);
    if fs::symlink_metadata(path).is_ok() {
        return Err(GgufError::Occupied { path: path.to_owned() });
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(name);
    let written = write(&partial, &metadata, &shape, parameters, precision).and_then(|()| fs::rename(&partial, path));
    written.map_err(|reason| {
        // The first error is the one that matters; what cannot be removed is a file with a telling name.
        fs::remove_file(&partial).ok();
        GgufError::File {
            path: path.to_owned(),
            reason,
        }
    })
}

fn write(
    path: &Path,
    metadata: &[(String, Value)],
    shape: &DecoderShape,
    parameters: &[f32],
    precision: GgufPrecision,
) -> std::io::Result<()> {
    let layout = shape.layout();
    let places: Vec<(&TensorPlace, Encoding)> = layout
        .places()
        .iter()
        .map(|place| (place, precision.encoding(&place.shape)))
        .collect();
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((places.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset = 0u64;
    for (place, encoding) in &places {
        put_text(&mut head, &name_of(&place.name));
        head.extend((place.shape.len() as u32).to_le_bytes());
        for size in place.shape.iter().rev() {
            head.extend((*size as u64).to_le_bytes());
        }
        head.extend(encoding.kind().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += bytes_of(place, *encoding).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    let mut file = BufWriter::new(fs::File::create(path)?);
    file.write_all(&head)?;
    for (place, encoding) in places {
        let mut values = parameters[place.range()].to_vec();
        if is_rotated(place) {
            let ours = &parameters[place.range()];
            reorder(ours, shape.head_width, shape.width, &mut values, Order::Neighbours);
        }
        let mut bytes = encode(encoding, &values);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        file.write_all(&bytes)?;
    }
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()
}

fn bytes_of(place: &TensorPlace, encoding: Encoding) -> u64 {
    (place.count() / encoding.block() * encoding.block_bytes()) as u64
}

fn encode(encoding: Encoding, values: &[f32]) -> Vec<u8> {
    match encoding {
        Encoding::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Encoding::F16 => values.iter().flat_map(|value| to_f16(*value).to_le_bytes()).collect(),
        Encoding::Bf16 => values.iter().flat_map(|value| to_bf16(*value).to_le_bytes()).collect(),
        Encoding::Q8_0 => values.chunks_exact(32).flat_map(q8_0).collect(),
        other => unreachable!("{} is never written", other.name()),
    }
}

/// 32 values as ggml writes them: the scale is the largest magnitude over 127, in f16; quotients by the scale before it was
/// rounded, to the nearest integer, ties away from zero.
fn q8_0(values: &[f32]) -> [u8; 34] {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&to_f16(scale).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    block
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Kinds of values, as the format numbers them: u32 4, i32 5, f32 6, bool 7, text 8, list 9.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::Integer(number) => {
            out.extend(4u32.to_le_bytes());
            out.extend((*number as u32).to_le_bytes());
        }
        Value::Float(number) => {
            out.extend(6u32.to_le_bytes());
            out.extend((*number as f32).to_le_bytes());
        }
        Value::Bool(flag) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*flag));
        }
        Value::Text(text) => {
            out.extend(8u32.to_le_bytes());
            put_text(out, text);
        }
        Value::Integers(numbers) => {
            list(out, 5, numbers.len());
            numbers
                .iter()
                .for_each(|number| out.extend((*number as i32).to_le_bytes()));
        }
        Value::Floats(numbers) => {
            list(out, 6, numbers.len());
            numbers
                .iter()
                .for_each(|number| out.extend((*number as f32).to_le_bytes()));
        }
        Value::Bools(flags) => {
            list(out, 7, flags.len());
            flags.iter().for_each(|flag| out.push(u8::from(*flag)));
        }
        Value::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::interchange::{import_gguf, is_gguf};
    use crate::models::presets::preset;

    fn model(tied: bool) -> (ModelConfig, Vec<f32>) {
        let decoder = DecoderConfig {
            layers: 2,
            kv_heads: Some(2),
            width: 64,
            tied,
            ..DecoderConfig::default()
        };
        let model = ModelConfig::Decoder(decoder);
        let shape = model.decoder_shape().unwrap();
        let parameters = shape.initial_parameters(&shape.layout(), 5);
        (model, parameters)
    }

    #[test]
    fn a_file_reads_back_bit_for_bit_and_in_fewer_bits_nearly() {
        let folder = tempfile::tempdir().unwrap();
        for (precision, tolerance) in [
            (GgufPrecision::F32, 0.0),
            (GgufPrecision::F16, 1.0 / 2048.0),
            (GgufPrecision::Bf16, 1.0 / 256.0),
            (GgufPrecision::Q8_0, 1.0 / 100.0),
        ] {
            let (model, parameters) = model(precision == GgufPrecision::F32);
            let path = folder.path().join(format!("{precision:?}.gguf"));
            export_gguf(&model, &parameters, None, precision, &path).unwrap();
            assert!(is_gguf(&path));
            let read = import_gguf(&path).unwrap();
            assert_eq!(read.model.decoder_shape(), model.decoder_shape());
            assert_eq!(read.tokenizer, None);
            let largest = parameters
                .iter()
                .fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (ours, theirs) in parameters.iter().zip(&read.parameters) {
                let of = match precision {
                    GgufPrecision::Q8_0 => largest,
                    _ => ours.abs(),
                };
                // Half a unit of the smallest f16, where there is any rounding.
                let allowed = tolerance * of + if tolerance > 0.0 { 3e-8 } else { 0.0 };
                assert!((ours - theirs).abs() <= allowed, "{precision:?}: {ours} {theirs}");
            }
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            4,
            "nothing is left beside them"
        );
    }

    #[test]
    fn what_has_no_form_in_a_file_is_refused_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let refused = |model: &ModelConfig, parameters: &[f32]| {
            let error = export_gguf(model, parameters, None, GgufPrecision::F32, &path).unwrap_err();
            error.to_string()
        };
        let (llama, parameters) = model(true);
        assert!(refused(&llama, &parameters[1..]).contains("of another model"));
        assert!(refused(&preset("apertus-0.1m").unwrap(), &[]).contains("Apertus"));
        fs::write(&path, "mine").unwrap();
        assert!(refused(&llama, &parameters).contains("exists"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    /// Every cut, and a changed byte at every place of the head: an error or a model, never a panic, and no memory beyond
    /// what the file's length allows.
    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (model, parameters) = model(true);
        let path = folder.path().join("model.gguf");
        export_gguf(&model, &parameters, None, GgufPrecision::Q8_0, &path).unwrap();
        let whole = fs::read(&path).unwrap();
        let damaged = folder.path().join("damaged.gguf");
        let head = whole.len() - parameters.len();
        assert!(head > 4000, "the head has texts and numbers");
        for cut in (0..head.min(6000)).step_by(7).chain([whole.len() - 1]) {
            fs::write(&damaged, &whole[..cut]).unwrap();
            let error = import_gguf(&damaged).unwrap_err().to_string();
            assert!(error.contains("damaged.gguf"), "{cut}: {error}");
        }
        for at in (0..head.min(6000)).step_by(11) {
            for flip in [0x01, 0x80, 0xFF] {
                let mut bent = whole.clone();
                bent[at] ^= flip;
                fs::write(&damaged, &bent).unwrap();
                if let Ok(read) = import_gguf(&damaged) {
                    assert!(read.parameters.iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}
