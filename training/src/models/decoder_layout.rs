//! The decoder's parameters: names and shapes as `LlamaForCausalLM` has them, and their initial values.
//! It computes no loss and needs no burn; initial values use only `+ − × ÷ √`, hence all machines get the same bits.

use crate::config::DecoderConfig;
use crate::layout::{Layout, Role};
use crate::randomness::{StreamName, symmetric};

/// The layout of a decoder. Matrices are `[out, in]`, row-major. Query, key and value matrices follow each other, as do gate
/// and up: each group is one matrix for the arithmetic.
pub fn layout(config: &DecoderConfig) -> Layout {
    let (width, hidden) = (config.width as usize, config.hidden_width());
    let key_value = config.key_value_heads() * config.head_width();
    let mut layout = Layout::new().with(
        "model.embed_tokens.weight",
        &[config.vocabulary.size(), width],
        Role::Embedding,
    );
    for layer in 0..config.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        layout = layout
            .with(name("input_layernorm"), &[width], Role::Gain)
            .with(name("self_attn.q_proj"), &[width, width], Role::HiddenMatrix)
            .with(name("self_attn.k_proj"), &[key_value, width], Role::HiddenMatrix)
            .with(name("self_attn.v_proj"), &[key_value, width], Role::HiddenMatrix)
            .with(name("self_attn.o_proj"), &[width, width], Role::HiddenMatrix)
            .with(name("post_attention_layernorm"), &[width], Role::Gain)
            .with(name("mlp.gate_proj"), &[hidden, width], Role::HiddenMatrix)
            .with(name("mlp.up_proj"), &[hidden, width], Role::HiddenMatrix)
            .with(name("mlp.down_proj"), &[width, hidden], Role::HiddenMatrix);
    }
    layout.with("model.norm.weight", &[width], Role::Gain)
}

/// The standard deviation of initial embeddings: with unit-norm activations the first logits are near zero, hence the first
/// loss is near ln 256 (GPT-2's choice).
const EMBEDDING_DEVIATION: f32 = 0.02;

/// The initial parameters: gains are 1; matrices are uniform with deviation 1/√in, those that write to the residual stream
/// 1/√(2·layers) of it (GPT-2), so that the stream's size does not grow with depth.
pub fn initial_parameters(config: &DecoderConfig, layout: &Layout, seed: u64) -> Vec<f32> {
    let mut rng = StreamName {
        purpose: "decoder initial parameters",
        seed,
        ..StreamName::default()
    }
    .open();
    let mut parameters = Vec::with_capacity(layout.len());
    for place in layout.places() {
        let deviation = match place.role {
            Role::Gain | Role::Scalar => {
                parameters.resize(parameters.len() + place.count(), 1.0);
                continue;
            }
            Role::Embedding | Role::Head => EMBEDDING_DEVIATION,
            Role::HiddenMatrix => {
                let residual = place.name.contains("o_proj") || place.name.contains("down_proj");
                let scale = if residual {
                    (2.0 * config.layers as f32).sqrt()
                } else {
                    1.0
                };
                1.0 / ((place.shape[1] as f32).sqrt() * scale)
            }
        };
        // A uniform number in [-a, a) has deviation a/√3.
        let half_width = deviation * 3f32.sqrt();
        parameters.extend((0..place.count()).map(|_| half_width * symmetric(&mut rng)));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DecoderConfig {
        DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads: Some(2),
            width: 16,
            ..DecoderConfig::default()
        }
    }

    #[test]
    fn the_layout_has_as_many_parameters_as_the_config_counts() {
        for config in [config(), DecoderConfig::default()] {
            assert_eq!(layout(&config).len(), config.parameter_count());
        }
    }

    /// The digest is written down: another machine, compiler or version that gets other bits could join no session.
    #[test]
    fn initial_parameters_are_the_same_bits_everywhere() {
        let config = config();
        let bytes: Vec<u8> = initial_parameters(&config, &layout(&config), 7)
            .iter()
            .flat_map(|p| p.to_le_bytes())
            .collect();
        let digest = blake3::hash(&bytes).to_hex();
        assert_eq!(&digest[..16], "0527ba56bfca4e99");
    }

    #[test]
    fn initial_parameters_have_the_deviation_that_they_should() {
        let config = DecoderConfig::default();
        let layout = layout(&config);
        let parameters = initial_parameters(&config, &layout, 1);
        let deviation = |name: &str| {
            let place = layout.places().iter().find(|place| place.name.contains(name)).unwrap();
            let values = &parameters[place.range()];
            (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
        };
        for (name, expected) in [
            ("embed_tokens", 0.02),
            ("layers.0.self_attn.q_proj", 128f32.sqrt().recip()),
            ("layers.3.mlp.down_proj", (352f32 * 8.0).sqrt().recip()),
            ("model.norm", 1.0),
        ] {
            assert!(
                (deviation(name) / expected - 1.0).abs() < 0.02,
                "{name}: {}",
                deviation(name)
            );
        }
    }
}
