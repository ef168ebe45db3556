//! Well-known shapes by name, from 0.1 M parameters to 8 B, so that sizes need not be typed.
//! A preset says nothing of optimizer or data, and of a tokenizer only how many tokens the published model has.

use synod_protocol::identity::BlobId;

use super::apertus::ApertusConfig;
use super::shape::{RotaryConfig, RotaryScaling};
use crate::config::{DecoderConfig, ModelConfig, TokenizerId, Vocabulary};

/// The names that [`preset`] knows, small ones first.
pub const PRESETS: [&str; 14] = [
    "llama-0.1m",
    "llama-0.2m",
    "llama-0.8m",
    "llama-5.8m",
    "llama-30m",
    "llama-124m",
    "smollm2-135m",
    "llama-1b",
    "llama-3-8b",
    "apertus-0.1m",
    "apertus-1m",
    "apertus-30m",
    "apertus-1b",
    "apertus-8b",
];

/// The model of this name. Where its vocabulary is a tokenizer's, the tokenizer's hash is zeros: a session puts its own there.
pub fn preset(name: &str) -> Option<ModelConfig> {
    let byte = Vocabulary::Byte;
    let model = match name {
        "llama-0.1m" => llama([2, 4, 4, 64, 176], 128, byte, true),
        "llama-0.2m" => llama([4, 4, 4, 64, 176], 128, byte, true),
        "llama-0.8m" => ModelConfig::Decoder(DecoderConfig::default()),
        "llama-5.8m" => llama([6, 8, 8, 256, 688], 256, tokens(4096, 0), true),
        "llama-30m" => llama([8, 8, 8, 512, 1376], 512, tokens(8192, 0), true),
        "llama-124m" => llama([12, 12, 12, 768, 2048], 1024, tokens(50_257, 50_256), true),
        "smollm2-135m" => based(
            llama([30, 9, 3, 576, 1536], 8192, tokens(49_152, 0), true),
            100_000.0,
            None,
        ),
        "llama-1b" => scaled(
            llama([16, 32, 8, 2048, 8192], 131_072, tokens(128_256, 128_001), true),
            32.0,
        ),
        "llama-3-8b" => based(
            llama([32, 32, 8, 4096, 14_336], 8192, tokens(128_256, 128_001), false),
            500_000.0,
            None,
        ),
        "apertus-0.1m" => apertus([2, 4, 4, 64, 256], 128, byte, None),
        "apertus-1m" => ModelConfig::Apertus(ApertusConfig::default()),
        "apertus-30m" => apertus([8, 8, 4, 512, 2048], 512, tokens(8192, 2), None),
        "apertus-1b" => apertus([20, 16, 4, 2048, 8192], 4096, tokens(131_072, 2), None),
        "apertus-8b" => apertus(
            [32, 32, 8, 4096, 21_504],
            65_536,
            tokens(131_072, 2),
            Some((12_000_000.0, RotaryScaling::default())),
        ),
        _ => return None,
    };
    Some(model)
}

fn tokens(size: u32, eod: u32) -> Vocabulary {
    Vocabulary::Tokenizer(TokenizerId {
        blake3: BlobId([0; 32]),
        size,
        eod,
    })
}

fn llama(sizes: [u32; 5], context: u32, vocabulary: Vocabulary, tied: bool) -> ModelConfig {
    let [layers, heads, kv_heads, width, hidden] = sizes;
    ModelConfig::Decoder(DecoderConfig {
        layers,
        heads,
        kv_heads: Some(kv_heads),
        width,
        hidden: Some(hidden),
        context,
        vocabulary,
        tied,
        ..DecoderConfig::default()
    })
}

fn based(mut model: ModelConfig, base: f32, scaling: Option<RotaryScaling>) -> ModelConfig {
    if let ModelConfig::Decoder(decoder) = &mut model {
        decoder.rotary = RotaryConfig { base, scaling };
    }
    model
}

fn scaled(model: ModelConfig, factor: f32) -> ModelConfig {
    let scaling = RotaryScaling {
        factor,
        ..RotaryScaling::default()
    };
    based(model, 500_000.0, Some(scaling))
}

fn apertus(sizes: [u32; 5], context: u32, vocabulary: Vocabulary, long: Option<(f32, RotaryScaling)>) -> ModelConfig {
    let [layers, heads, kv_heads, width, hidden] = sizes;
    let mut config = ApertusConfig {
        layers,
        heads,
        kv_heads: Some(kv_heads),
        width,
        hidden: Some(hidden),
        context,
        vocabulary,
        ..ApertusConfig::default()
    };
    if let Some((base, scaling)) = long {
        config.rotary = RotaryConfig {
            base,
            scaling: Some(scaling),
        };
    }
    ModelConfig::Apertus(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainingConfig;

    #[test]
    fn presets_can_be_trained_and_have_the_parameters_that_they_are_named_after() {
        let counts = [
            117_056,
            217_664,
            836_736,
            5_795_072,
            29_499_904,
            123_551_232,
            134_515_008,
            1_235_814_400,
            8_030_261_248,
            131_460,
            853_384,
            31_467_024,
            1_417_763_880,
            8_053_338_176,
        ];
        for (name, count) in PRESETS.into_iter().zip(counts) {
            let config = TrainingConfig {
                model: preset(name).unwrap(),
                ..TrainingConfig::default()
            };
            assert_eq!(config.check(), Ok(()), "{name}");
            assert_eq!(config.parameter_count(), count, "{name}");
            let shape = config.model.decoder_shape().unwrap();
            assert_eq!(shape.layout().len(), count, "{name}");
        }
        assert_eq!(preset("gpt-5"), None);
    }
}
