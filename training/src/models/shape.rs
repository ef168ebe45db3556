//! The shape of a decoder, whichever architecture it is of: what layouts, arithmetic, interchange and generation ask of it.
//! It is derived from a session's config and is not part of it.

use serde::{Deserialize, Serialize};

use super::{apertus, llama};
use crate::config::{ConfigError, DecoderConfig, Vocabulary, finite_within, within};
use crate::layout::Layout;
use crate::models::apertus::ApertusConfig;

/// A decoder's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// RMSNorm, rotary positions, SwiGLU (Touvron et al., 2023).
    Llama,
    /// As Llama, with normed queries and keys and an un-gated xIELU layer (arXiv:2509.14233).
    Apertus,
}

/// Sizes and numbers of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderShape {
    /// What the blocks are made of.
    pub architecture: Architecture,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_width: usize,
    /// Size of the residual stream.
    pub width: usize,
    /// Size of the hidden layer between the blocks' two (or three) matrices.
    pub hidden: usize,
    /// Tokens that a prediction can look back on.
    pub context: usize,
    /// What a token is.
    pub vocabulary: Vocabulary,
    /// Whether the embedding is the head, too.
    pub tied: bool,
    /// Added to the mean square under RMSNorm's root.
    pub norm_epsilon: f32,
    /// Rotary positions.
    pub rotary: RotaryConfig,
}

impl DecoderShape {
    /// Names, shapes and places of the parameters.
    pub fn layout(&self) -> Layout {
        match self.architecture {
            Architecture::Llama => llama::layout(self),
            Architecture::Apertus => apertus::layout(self),
        }
    }

    /// The initial parameters for a seed: the same bits on every machine.
    pub fn initial_parameters(&self, layout: &Layout, seed: u64) -> Vec<f32> {
        super::initial::initial_parameters(self, layout, seed)
    }

    /// Number of parameters, without the layout.
    pub fn parameter_count(&self) -> usize {
        let key_value = self.kv_heads * self.head_width;
        let attention = 2 * self.width * self.heads * self.head_width + 2 * self.width * key_value;
        let feed_forward = self.width * self.hidden;
        let block = match self.architecture {
            Architecture::Llama => attention + 3 * feed_forward + 2 * self.width,
            Architecture::Apertus => attention + 2 * feed_forward + 2 * self.width + 2 * self.head_width + 2,
        };
        let embeddings = if self.tied { 1 } else { 2 };
        embeddings * self.vocabulary.size() * self.width + self.layers * block + self.width
    }
}

impl From<&DecoderConfig> for DecoderShape {
    fn from(config: &DecoderConfig) -> Self {
        Self {
            architecture: Architecture::Llama,
            layers: config.layers as usize,
            heads: config.heads as usize,
            kv_heads: config.key_value_heads(),
            head_width: config.head_width(),
            width: config.width as usize,
            hidden: config.hidden_width(),
            context: config.context as usize,
            vocabulary: config.vocabulary,
            tied: config.tied,
            norm_epsilon: config.norm_epsilon,
            rotary: config.rotary.clone(),
        }
    }
}

impl From<&ApertusConfig> for DecoderShape {
    fn from(config: &ApertusConfig) -> Self {
        let head_width = (config.width / config.heads) as usize;
        Self {
            architecture: Architecture::Apertus,
            layers: config.layers as usize,
            heads: config.heads as usize,
            kv_heads: config.kv_heads.unwrap_or(config.heads) as usize,
            head_width,
            width: config.width as usize,
            hidden: config.hidden_width(),
            context: config.context as usize,
            vocabulary: config.vocabulary,
            tied: false,
            norm_epsilon: config.norm_epsilon,
            rotary: config.rotary.clone(),
        }
    }
}

impl From<&DecoderShape> for DecoderShape {
    fn from(shape: &DecoderShape) -> Self {
        shape.clone()
    }
}

/// Rotary positions (Su et al., RoFormer, 2021), in the half-split form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotaryConfig {
    /// The base θ of the frequencies `θ^(−2i/E)`. 10 000 is RoFormer's; long contexts want more.
    pub base: f32,
    /// Slower low frequencies, for contexts longer than those of pre-training; none by default.
    pub scaling: Option<RotaryScaling>,
}

impl Default for RotaryConfig {
    fn default() -> Self {
        Self {
            base: 10_000.0,
            scaling: None,
        }
    }
}

/// Llama 3's scaling: wavelengths above `original_context / low_frequency_factor` are stretched by `factor`, those below
/// `original_context / high_frequency_factor` are left, and between them both are mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotaryScaling {
    /// How much low frequencies are slowed.
    pub factor: f32,
    /// Below this many turns in the original context a frequency is low.
    pub low_frequency_factor: f32,
    /// Above this many turns in the original context a frequency is high.
    pub high_frequency_factor: f32,
    /// The context of pre-training.
    pub original_context: u32,
}

impl Default for RotaryScaling {
    /// What Llama 3.1 and Apertus publish.
    fn default() -> Self {
        Self {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192,
        }
    }
}

impl RotaryConfig {
    /// Refuses bases and scalings that are no such.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        finite_within("model.rotary.base", self.base, 1.0, 1e9)?;
        if let Some(scaling) = &self.scaling {
            let (low, high) = (scaling.low_frequency_factor, scaling.high_frequency_factor);
            finite_within("model.rotary.scaling.factor", scaling.factor, 1.0, 1e6)?;
            finite_within("model.rotary.scaling.low_frequency_factor", low, 1e-3, 1e6)?;
            finite_within("model.rotary.scaling.high_frequency_factor", high, low * 1.001, 1e6)?;
            within(
                "model.rotary.scaling.original_context",
                scaling.original_context,
                2,
                1 << 24,
            )?;
        }
        Ok(())
    }

    /// The angles by which the pairs of a head turn from one position to the next, `[E / 2]`.
    #[cfg(feature = "engine")]
    pub(crate) fn frequencies(&self, head_width: usize) -> Vec<f32> {
        let frequency = |pair: usize| {
            let plain = f64::from(self.base).powf(-2.0 * pair as f64 / head_width as f64);
            self.scaling.as_ref().map_or(plain, |scaling| scaling.apply(plain)) as f32
        };
        (0..head_width / 2).map(frequency).collect()
    }
}

#[cfg(feature = "engine")]
impl RotaryScaling {
    fn apply(&self, frequency: f64) -> f64 {
        let turns = f64::from(self.original_context) * frequency / std::f64::consts::TAU;
        let (low, high) = (
            f64::from(self.low_frequency_factor),
            f64::from(self.high_frequency_factor),
        );
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - smooth) * frequency / f64::from(self.factor) + smooth * frequency
    }
}

/// Refuses a width that heads cannot share.
pub(crate) fn check_heads(width: u32, heads: u32, kv_heads: Option<u32>) -> Result<(), ConfigError> {
    if !width.is_multiple_of(heads) || !(width / heads).is_multiple_of(2) {
        return Err(ConfigError::Heads { width, heads });
    }
    if let Some(kv_heads) = kv_heads {
        within("model.decoder.kv_heads", kv_heads, 1, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::KeyValueHeads { heads, kv_heads });
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_those_of_the_papers() {
        let plain = RotaryConfig::default().frequencies(4);
        assert_eq!(plain, [1.0, 0.01]);
        let scaled = RotaryConfig {
            base: 500_000.0,
            scaling: Some(RotaryScaling::default()),
        };
        let frequencies = scaled.frequencies(128);
        assert_eq!(frequencies[0], 1.0, "high frequencies are left");
        let slowest = 500_000f64.powf(-126.0 / 128.0) / 8.0;
        assert!(
            (f64::from(frequencies[63]) / slowest - 1.0).abs() < 1e-6,
            "low ones are stretched"
        );
    }
}
