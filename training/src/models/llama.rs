//! The Llama decoder's parameters (Touvron et al., 2023): names and shapes as `LlamaForCausalLM` has them.
//! Its config is [`DecoderConfig`](crate::config::DecoderConfig), its arithmetic is that of `decoder`.

use super::shape::DecoderShape;
use crate::layout::{Layout, Role};

/// The layout of a decoder. Matrices are `[out, in]`, row-major. Query, key and value matrices follow each other, as do gate
/// and up: each group is one matrix for the arithmetic.
pub fn layout(shape: &DecoderShape) -> Layout {
    let (width, hidden) = (shape.width, shape.hidden);
    let (query, key_value) = (shape.heads * shape.head_width, shape.kv_heads * shape.head_width);
    let mut layout = Layout::new().with(
        "model.embed_tokens.weight",
        &[shape.vocabulary.size(), width],
        Role::Embedding,
    );
    for layer in 0..shape.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        layout = layout
            .with(name("input_layernorm"), &[width], Role::Gain)
            .with(name("self_attn.q_proj"), &[query, width], Role::HiddenMatrix)
            .with(name("self_attn.k_proj"), &[key_value, width], Role::HiddenMatrix)
            .with(name("self_attn.v_proj"), &[key_value, width], Role::HiddenMatrix)
            .with(name("self_attn.o_proj"), &[width, query], Role::HiddenMatrix)
            .with(name("post_attention_layernorm"), &[width], Role::Gain)
            .with(name("mlp.gate_proj"), &[hidden, width], Role::HiddenMatrix)
            .with(name("mlp.up_proj"), &[hidden, width], Role::HiddenMatrix)
            .with(name("mlp.down_proj"), &[width, hidden], Role::HiddenMatrix);
    }
    let layout = layout.with("model.norm.weight", &[width], Role::Gain);
    match shape.tied {
        true => layout,
        false => layout.with("lm_head.weight", &[shape.vocabulary.size(), width], Role::Head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::models::apertus::ApertusConfig;

    fn config() -> DecoderConfig {
        DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads: Some(2),
            width: 16,
            ..DecoderConfig::default()
        }
    }

    fn shapes() -> Vec<DecoderShape> {
        let untied = DecoderConfig {
            tied: false,
            ..config()
        };
        let shared = ApertusConfig {
            kv_heads: Some(1),
            ..ApertusConfig::default()
        };
        vec![
            (&config()).into(),
            (&DecoderConfig::default()).into(),
            (&untied).into(),
            (&ApertusConfig::default()).into(),
            (&shared).into(),
        ]
    }

    #[test]
    fn layouts_have_as_many_parameters_as_the_shape_counts() {
        for shape in shapes() {
            assert_eq!(shape.layout().len(), shape.parameter_count(), "{shape:?}");
        }
    }

    /// The digest is written down: another machine, compiler or version that gets other bits could join no session.
    #[test]
    fn initial_parameters_are_the_same_bits_everywhere() {
        let shape = DecoderShape::from(&config());
        let bytes: Vec<u8> = shape
            .initial_parameters(&shape.layout(), 7)
            .iter()
            .flat_map(|p| p.to_le_bytes())
            .collect();
        let digest = blake3::hash(&bytes).to_hex();
        assert_eq!(&digest[..16], "0527ba56bfca4e99");
    }

    #[test]
    fn initial_parameters_have_the_deviation_that_they_should() {
        let shape = DecoderShape::from(&DecoderConfig::default());
        let layout = shape.layout();
        let parameters = shape.initial_parameters(&layout, 1);
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

    #[test]
    fn every_tensor_has_the_role_of_what_it_is() {
        for shape in shapes() {
            for place in shape.layout().places() {
                let name = place.name.as_str();
                let expected = match name {
                    _ if name.contains("embed") => Role::Embedding,
                    _ if name.contains("lm_head") => Role::Head,
                    _ if name.contains("norm") => Role::Gain,
                    _ if name.contains("alpha") => Role::Scalar,
                    _ => Role::HiddenMatrix,
                };
                assert_eq!(place.role, expected, "{name}");
            }
        }
    }
}
