//! Weights in safetensors files, one or several with an index, to and from a flat slice: f32, bf16 and f16.
//! It checks every name and shape against the layout; it does not map files into memory and knows no other formats.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::ExportError;
use super::hugging_face::{at, write};
use crate::layout::{Layout, TensorPlace};

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32 bits: what is trained.
    #[default]
    F32,
    /// The upper 16 bits, rounded to the nearest (even on a tie): half the size, three digits.
    Bf16,
}

impl Precision {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|value| to_bf16(*value).to_le_bytes()).collect(),
        }
    }
}

pub(super) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((u64::from(bits) + 0x7FFF + u64::from(bits >> 16 & 1)) >> 16) as u16
}

/// An IEEE 754 half as f32; exact.
pub(super) fn from_f16(half: u16) -> f32 {
    let sign = if half >> 15 == 1 { -1.0f32 } else { 1.0 };
    let (exponent, fraction) = (half >> 10 & 0x1F, f32::from(half & 0x3FF));
    match exponent {
        0 => sign * fraction * (1.0 / (1u32 << 24) as f32),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => {
            let power = f32::from_bits((u32::from(exponent) + 127 - 15) << 23);
            sign * power * (1.0 + fraction / 1024.0)
        }
    }
}

/// The nearest IEEE 754 half, even on a tie; values beyond the largest finite one become it.
pub(super) fn to_f16(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.abs().min(65504.0);
    if magnitude < 1.0 / (1u32 << 14) as f32 {
        // Subnormal, or zero: in units of 2⁻²⁴, where adding 1.5 · 2²³ rounds.
        let units = magnitude * (1u32 << 24) as f32;
        return sign | ((units + 12_582_912.0) - 12_582_912.0) as u16;
    }
    let bits = magnitude.to_bits() - (112 << 23);
    sign | ((bits + 0xFFF + (bits >> 13 & 1)) >> 13) as u16
}

/// Writes the tensors into `folder`: one file, or several of at most `shard_bytes` each (but at least a tensor) and an index.
pub(super) fn write_weights(
    layout: &Layout,
    parameters: &[f32],
    precision: Precision,
    shard_bytes: u64,
    folder: &Path,
) -> Result<(), ExportError> {
    let shards = shards(layout, precision, shard_bytes);
    if let [all] = &shards[..] {
        return write(
            &folder.join("model.safetensors"),
            &serialise(all, parameters, precision),
        );
    }
    let mut map = serde_json::Map::new();
    for (index, places) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write(&folder.join(&name), &serialise(places, parameters, precision))?;
        for place in *places {
            map.insert(place.name.clone(), name.clone().into());
            for (constant, _) in constants_beside(place) {
                map.insert(constant, name.clone().into());
            }
        }
    }
    let total = map.len().saturating_sub(layout.places().len()) + layout.len();
    let total = total * precision.bytes();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write(&folder.join(INDEX), format!("{index:#}\n").as_bytes())
}

const INDEX: &str = "model.safetensors.index.json";

fn shards(layout: &Layout, precision: Precision, shard_bytes: u64) -> Vec<&[TensorPlace]> {
    let places = layout.places();
    let (mut shards, mut first, mut size) = (Vec::new(), 0, 0u64);
    for (index, place) in places.iter().enumerate() {
        let bytes = (place.count() * precision.bytes()) as u64;
        if size > 0 && size + bytes > shard_bytes {
            shards.push(&places[first..index]);
            (first, size) = (index, 0);
        }
        size += bytes;
    }
    shards.push(&places[first..]);
    shards
}

/// What `transformers` stores with xIELU's scalars and expects back, though they are constants: β and ε.
const XIELU_CONSTANTS: [(&str, f32); 2] = [("beta", 0.5), ("eps", -1e-6)];

/// The constants that belong to a tensor: xIELU's go with its first scalar.
fn constants_beside(place: &TensorPlace) -> impl Iterator<Item = (String, f32)> + '_ {
    let prefix = place.name.strip_suffix("alpha_p");
    prefix
        .into_iter()
        .flat_map(|prefix| XIELU_CONSTANTS.map(|(name, value)| (format!("{prefix}{name}"), value)))
}

fn serialise(places: &[TensorPlace], parameters: &[f32], precision: Precision) -> Vec<u8> {
    let first = places.first().map_or(0, |place| place.offset);
    let end = places.last().map_or(0, |place| place.range().end);
    let bytes = precision.encode(&parameters[first..end]);
    let views = places.iter().map(|place| {
        let range = (place.offset - first) * precision.bytes()..(place.range().end - first) * precision.bytes();
        let view = TensorView::new(precision.dtype(), place.shape.clone(), &bytes[range]);
        (place.name.clone(), view.expect("a place has its bytes"))
    });
    let constants: Vec<(String, Vec<u8>)> = places
        .iter()
        .flat_map(constants_beside)
        .map(|(name, value)| (name, precision.encode(&[value])))
        .collect();
    let scalars = constants.iter().map(|(name, bytes)| {
        let view = TensorView::new(precision.dtype(), Vec::new(), bytes);
        (name.clone(), view.expect("a scalar has its bytes"))
    });
    let views = views.chain(scalars);
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).expect("names are distinct and views fit their shapes")
}

/// Reads all tensors of the layout. Others in the files are refused, but for buffers that are constants here.
pub(super) fn read_weights(layout: &Layout, folder: &Path) -> Result<Vec<f32>, ExportError> {
    let places: BTreeMap<&str, &TensorPlace> = layout
        .places()
        .iter()
        .map(|place| (place.name.as_str(), place))
        .collect();
    let mut parameters = vec![0.0; layout.len()];
    let mut found = 0;
    let files = files(folder)?;
    for path in &files {
        let refuse = |reason: String| ExportError::Weights {
            path: path.clone(),
            reason,
        };
        let bytes = fs::read(path).map_err(at(path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| refuse(error.to_string()))?;
        for (name, tensor) in tensors.tensors() {
            let Some(place) = places.get(name.as_str()) else {
                let mut beta = [XIELU_CONSTANTS[0].1];
                if name.ends_with(".act_fn.beta") {
                    decode(tensor.dtype(), tensor.data(), &mut beta);
                }
                match is_constant(&name, layout) {
                    true if beta[0] == XIELU_CONSTANTS[0].1 => continue,
                    true => return Err(refuse(format!("{name} is {}, but xIELU has ½ here", beta[0]))),
                    false => return Err(refuse(format!("{name} is not a tensor of this model"))),
                }
            };
            let same = tensor.shape() == place.shape || (tensor.shape().is_empty() && place.count() == 1);
            let known = matches!(tensor.dtype(), Dtype::F32 | Dtype::BF16 | Dtype::F16);
            if !(same && known) {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                return Err(refuse(format!(
                    "{name} is {dtype:?} {shape:?}, not F32, BF16 or F16 {:?}",
                    place.shape
                )));
            }
            decode(tensor.dtype(), tensor.data(), &mut parameters[place.range()]);
            found += 1;
        }
    }
    match found == places.len() {
        true => Ok(parameters),
        false => Err(ExportError::Weights {
            path: folder.to_owned(),
            reason: format!("{found} tensors of {} are there", places.len()),
        }),
    }
}

/// The files that hold weights, without doubles.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let index = folder.join(INDEX);
    if !index.is_file() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    let refuse = |reason: String| ExportError::Weights {
        path: index.clone(),
        reason,
    };
    let text = fs::read_to_string(&index).map_err(at(&index))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| refuse("`weight_map` is missing".to_owned()))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // A name with a path in it could lead out of the folder.
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\']) || **name == "..") {
        return Err(refuse(format!("`{name}` is not the name of a file beside it")));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Buffers that libraries store though they are constants, and the head of a tied model, which is its embedding.
fn is_constant(name: &str, layout: &Layout) -> bool {
    let tied = !layout.places().iter().any(|place| place.name == "lm_head.weight");
    name.ends_with(".act_fn.beta")
        || name.ends_with(".act_fn.eps")
        || name.ends_with("rotary_emb.inv_freq")
        || (tied && name == "lm_head.weight")
}

fn decode(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    match dtype {
        Dtype::BF16 => out
            .iter_mut()
            .zip(halves())
            .for_each(|(out, half)| *out = f32::from_bits(u32::from(half) << 16)),
        Dtype::F16 => out
            .iter_mut()
            .zip(halves())
            .for_each(|(out, half)| *out = from_f16(half)),
        _ => {
            let words = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            out.iter_mut().zip(words).for_each(|(out, word)| *out = word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_both_kinds_are_those_of_ieee() {
        for (half, value) in [
            (0x3C00u16, 1.0f32),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03FF, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x8000, -0.0),
            (0x7C00, f32::INFINITY),
        ] {
            assert_eq!(from_f16(half).to_bits(), value.to_bits(), "{half:04x}");
        }
        assert!(from_f16(0x7E00).is_nan());
        for (value, bits) in [
            (1.0f32, 0x3F80u16),
            (1.003_906_3, 0x3F80),
            (1.011_718_8, 0x3F82),
            (-0.1, 0xBDCD),
        ] {
            assert_eq!(to_bf16(value), bits, "{value}");
        }
        assert_eq!(to_bf16(f32::MAX), 0x7F80);
        // Every finite half is its own nearest one; ties go to the even neighbour, and what is beyond becomes the largest.
        for half in (0..0x7C00u16).chain(0x8000..0xFC00) {
            assert_eq!(to_f16(from_f16(half)), half, "{half:04x}");
        }
        for (value, bits) in [
            (1.0 + 1.0 / 2048.0, 0x3C00u16),
            (1.0 + 3.0 / 2048.0, 0x3C02),
            (2.980_232_2e-8, 0x0000),
            (8.940_697e-8, 0x0002),
            (6.102e-5, 0x0400),
            (1e6, 0x7BFF),
            (-1e6, 0xFBFF),
        ] {
            assert_eq!(to_f16(value), bits, "{value}");
        }
        assert!(f32::from_bits(u32::from(to_bf16(f32::NAN)) << 16).is_nan());
    }
}
