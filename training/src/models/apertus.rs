//! The Apertus decoder (arXiv:2509.14233): QK-norm before rotary positions, an un-gated xIELU layer with two trainable
//! scalars, embedding and head apart. Its config, and its parameters as `ApertusForCausalLM` names them; the arithmetic
//! is that of `decoder`.

use serde::{Deserialize, Serialize};

use super::shape::{DecoderShape, RotaryConfig, check_heads};
use crate::config::{ConfigError, Vocabulary, finite_within, within};
use crate::layout::{Layout, Role};

/// An Apertus decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApertusConfig {
    /// Transformer blocks.
    pub layers: u32,
    /// Query heads; `width / heads` must be even for rotary positions.
    pub heads: u32,
    /// Key and value heads, each shared by `heads / kv_heads` query heads; left out: as many as `heads`.
    pub kv_heads: Option<u32>,
    /// Size of the residual stream.
    pub width: u32,
    /// Size of the hidden layer; left out: four widths, rounded up to a multiple of 16. That is 1.5 times what a gated layer
    /// of as many parameters has, as in the paper.
    pub hidden: Option<u32>,
    /// Tokens that a prediction can look back on, and the length of training sequences.
    pub context: u32,
    /// What a token is.
    pub vocabulary: Vocabulary,
    /// Added to the mean square under RMSNorm's root; the published 1e-5.
    pub norm_epsilon: f32,
    /// Rotary positions.
    pub rotary: RotaryConfig,
}

impl Default for ApertusConfig {
    /// As large as the default decoder, for the same reason; the base of rotary positions is that of pre-training.
    fn default() -> Self {
        Self {
            layers: 4,
            heads: 4,
            kv_heads: None,
            width: 128,
            hidden: None,
            context: 128,
            vocabulary: Vocabulary::Byte,
            norm_epsilon: 1e-5,
            rotary: RotaryConfig {
                base: 500_000.0,
                scaling: None,
            },
        }
    }
}

impl ApertusConfig {
    /// Size of the hidden layer.
    pub fn hidden_width(&self) -> usize {
        self.hidden.unwrap_or((4 * self.width).next_multiple_of(16)) as usize
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        within("model.apertus.layers", self.layers, 1, 128)?;
        within("model.apertus.heads", self.heads, 1, 256)?;
        within("model.apertus.width", self.width, 2, 16_384)?;
        within("model.apertus.context", self.context, 2, 131_072)?;
        check_heads(self.width, self.heads, self.kv_heads)?;
        if let Some(hidden) = self.hidden {
            within("model.apertus.hidden", hidden, 1, 131_072)?;
        }
        finite_within("model.apertus.norm_epsilon", self.norm_epsilon, 1e-12, 1.0)?;
        self.rotary.check()?;
        self.vocabulary.check()
    }
}

/// softplus⁻¹(0.8) and softplus⁻¹(0.3): xIELU starts with α_p = 0.8 and α_n = ½ + 0.3.
pub(crate) const INITIAL_RAW_ALPHAS: [f32; 2] = [0.203_382_32, -1.050_225_6];

/// The layout. Matrices are `[out, in]`, row-major. Query, key and value matrices follow each other: they are one matrix
/// for the arithmetic.
pub fn layout(shape: &DecoderShape) -> Layout {
    let (width, hidden, head_width) = (shape.width, shape.hidden, shape.head_width);
    let (query, key_value) = (shape.heads * head_width, shape.kv_heads * head_width);
    let vocabulary = shape.vocabulary.size();
    let mut layout = Layout::new().with("model.embed_tokens.weight", &[vocabulary, width], Role::Embedding);
    for layer in 0..shape.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        layout = layout
            .with(name("attention_layernorm.weight"), &[width], Role::Gain)
            .with(name("self_attn.q_proj.weight"), &[query, width], Role::HiddenMatrix)
            .with(name("self_attn.k_proj.weight"), &[key_value, width], Role::HiddenMatrix)
            .with(name("self_attn.v_proj.weight"), &[key_value, width], Role::HiddenMatrix)
            .with(name("self_attn.q_norm.weight"), &[head_width], Role::Gain)
            .with(name("self_attn.k_norm.weight"), &[head_width], Role::Gain)
            .with(name("self_attn.o_proj.weight"), &[width, query], Role::HiddenMatrix)
            .with(name("feedforward_layernorm.weight"), &[width], Role::Gain)
            .with(name("mlp.up_proj.weight"), &[hidden, width], Role::HiddenMatrix)
            .with(name("mlp.act_fn.alpha_p"), &[1], Role::Scalar)
            .with(name("mlp.act_fn.alpha_n"), &[1], Role::Scalar)
            .with(name("mlp.down_proj.weight"), &[width, hidden], Role::HiddenMatrix);
    }
    layout
        .with("model.norm.weight", &[width], Role::Gain)
        .with("lm_head.weight", &[vocabulary, width], Role::Head)
}
