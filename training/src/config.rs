//! What a session says of its training: model, optimizer, schedule, local steps; part of the session's hashed config.
//! Paths, devices and threads are a machine's own business and are not here.

use serde::{Deserialize, Serialize};
use synod_protocol::identity::BlobId;
use synod_protocol::pace::StepTerms;

use crate::layout::{Layout, Role};
use crate::models::apertus::ApertusConfig;
use crate::models::network::NetworkConfig;
use crate::models::shape::{DecoderShape, RotaryConfig, check_heads};
use crate::objectives::LossConfig;
use crate::optimizers::{AdamWConfig, Extra, GroupsConfig, Optimizer};
use crate::schedules::{ScheduleConfig, Stage, check_stages};

pub use crate::optimizers::OptimizerConfig;

/// How a session trains. In TOML every field may be left out; then it has the value of [`TrainingConfig::default`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// What is trained.
    pub model: ModelConfig,
    /// The inner optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate's factor over all local steps of the session.
    pub schedule: ScheduleConfig,
    /// The global gradient norm is cut to this. 1.0 is what nearly every published recipe uses.
    pub gradient_clip: f32,
    /// Optimizer steps between two exchanges. 60 keep a round of the default model near four seconds on
    /// one idle core; DiLoCo goes to 500 where the network is slow.
    pub local_steps: u32,
    /// Sequences in a batch. 4 × 128 tokens: for a given number of tokens, small batches with small rates learn more (8, 4 and
    /// 2 sequences were compared), and cost a processor hardly more.
    pub batch_sequences: u32,
    /// Seeds initial parameters and sampling. At most 2⁶³ − 1, because TOML has no larger numbers.
    pub seed: u64,
    /// The share of each institution's text that is never trained on. A tenth is enough for a steady loss from 1 MB on.
    pub heldout_fraction: f32,
    /// Held-out sequences that are measured at most, evenly spread. 64 × 128 tokens take about a third of a second.
    pub evaluation_sequences: u32,
    /// Which tokens count in the loss.
    pub loss: LossConfig,
    /// Factors by role on the optimizer's rate and decay, and how decay is applied.
    pub groups: GroupsConfig,
    /// Changes of the batch by consumed sequences, in their order; none by default.
    pub stages: Vec<Stage>,
    /// What becomes of the inner optimizer's state between rounds.
    pub optimizer_state: OptimizerState,
    /// Members take local steps by their measured speed, around `local_steps`, so that they finish together. None by
    /// default: all take the same number, which is right among like machines.
    pub local_steps_by_speed: Option<StepsBySpeed>,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            model: ModelConfig::Decoder(DecoderConfig::default()),
            optimizer: OptimizerConfig::AdamW(AdamWConfig::default()),
            schedule: ScheduleConfig::default(),
            gradient_clip: 1.0,
            local_steps: 60,
            batch_sequences: 4,
            seed: 1,
            heldout_fraction: 0.1,
            evaluation_sequences: 64,
            loss: LossConfig::default(),
            groups: GroupsConfig::default(),
            stages: Vec::new(),
            optimizer_state: OptimizerState::default(),
            local_steps_by_speed: None,
        }
    }
}

/// Bounds on local steps by speed; see [`synod_protocol::pace`].
///
/// Updates of unequal length pull the model towards members with many steps (FedNova: Wang et al., 2020). Each is therefore
/// scaled by H/τ, as in their normalised averaging with τ_eff = H: the mean by tokens, which are in proportion to τ, then
/// weighs every local step alike, and rules that compare updates compare like with like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepsBySpeed {
    /// The fewest steps that a member takes. 1: a very slow member still counts for what it does.
    pub min: u32,
    /// The most; left out: four times `local_steps`. Members that step long drift apart.
    pub max: Option<u32>,
}

impl Default for StepsBySpeed {
    fn default() -> Self {
        Self { min: 1, max: None }
    }
}

/// What becomes of the inner optimizer's state (AdamW's moments, say) between a member's rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerState {
    /// Each member keeps its own, as DiLoCo's workers do (Douillard et al., 2023, algorithm 1). It never travels.
    Carry,
    /// It begins anew with each round: an update is then a function of base, data and seed alone, and nothing is stored. The
    /// default: where both were measured, carrying was never better, and worse in short rounds.
    #[default]
    Fresh,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelConfig {
    /// A decoder-only transformer as in Llama.
    Decoder(DecoderConfig),
    /// No model: a noisy quadratic with a different optimum at each member, for simulation.
    Synthetic(SyntheticConfig),
    /// A decoder-only transformer as in Apertus.
    Apertus(ApertusConfig),
    /// Regression, a perceptron or a small convolutional network, on samples with labels.
    Network(NetworkConfig),
}

impl ModelConfig {
    /// The shape, where the model is a decoder.
    pub fn decoder_shape(&self) -> Option<DecoderShape> {
        match self {
            Self::Decoder(decoder) => Some(decoder.into()),
            Self::Apertus(apertus) => Some(apertus.into()),
            Self::Synthetic(_) | Self::Network(_) => None,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Decoder(decoder) => decoder.check(),
            Self::Apertus(apertus) => apertus.check(),
            Self::Synthetic(synthetic) => synthetic.check(),
            Self::Network(network) => network.check(),
        }
    }
}

/// A Llama-style decoder: RMSNorm before each block, rotary positions, SwiGLU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Transformer blocks.
    pub layers: u32,
    /// Query heads; `width / heads` must be even for rotary positions.
    pub heads: u32,
    /// Key and value heads, each shared by `heads / kv_heads` query heads; left out: as many as `heads`.
    pub kv_heads: Option<u32>,
    /// Size of the residual stream.
    pub width: u32,
    /// Size of the gated hidden layer; left out: 8/3 of the width, rounded up to a multiple of 16 (as many parameters
    /// as an un-gated layer of four widths).
    pub hidden: Option<u32>,
    /// Tokens that a prediction can look back on, and the length of training sequences.
    pub context: u32,
    /// What a token is.
    pub vocabulary: Vocabulary,
    /// Whether the embedding is the head, too. It is by default: of a small model it would be a large part.
    pub tied: bool,
    /// Added to the mean square under RMSNorm's root. 1e-5 is what Llama 2 and 3 have.
    pub norm_epsilon: f32,
    /// Rotary positions.
    pub rotary: RotaryConfig,
}

impl Default for DecoderConfig {
    /// 0.8 M parameters: what two cores train to readable text in minutes.
    fn default() -> Self {
        Self {
            layers: 4,
            heads: 4,
            kv_heads: None,
            width: 128,
            hidden: None,
            context: 128,
            vocabulary: Vocabulary::Byte,
            tied: true,
            norm_epsilon: 1e-5,
            rotary: RotaryConfig::default(),
        }
    }
}

impl DecoderConfig {
    /// Size of one head.
    pub fn head_width(&self) -> usize {
        (self.width / self.heads) as usize
    }

    /// Key and value heads.
    pub fn key_value_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads) as usize
    }

    /// Size of the gated hidden layer.
    pub fn hidden_width(&self) -> usize {
        self.hidden.unwrap_or((self.width * 8).div_ceil(48) * 16) as usize
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        DecoderShape::from(self).parameter_count()
    }

    fn check(&self) -> Result<(), ConfigError> {
        within("model.decoder.layers", self.layers, 1, 128)?;
        within("model.decoder.heads", self.heads, 1, 256)?;
        within("model.decoder.width", self.width, 2, 16_384)?;
        within("model.decoder.context", self.context, 2, 131_072)?;
        check_heads(self.width, self.heads, self.kv_heads)?;
        if let Some(hidden) = self.hidden {
            within("model.decoder.hidden", hidden, 1, 65_536)?;
        }
        finite_within("model.decoder.norm_epsilon", self.norm_epsilon, 1e-12, 1.0)?;
        self.rotary.check()?;
        self.vocabulary.check()
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vocabulary {
    /// A byte of UTF-8 text; byte 0 parts documents. Needs no tokenizer that members would have to agree on.
    Byte,
    /// What a tokenizer makes of the text; each member needs its file.
    Tokenizer(TokenizerId),
}

/// The tokenizer that all members of a session use. `node` prints these three for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerId {
    /// BLAKE3 of the tokenizer file's bytes, 64 hexadecimal digits.
    #[serde(with = "hexadecimal")]
    pub blake3: BlobId,
    /// Tokens of the vocabulary, the added ones among them. A model may have more: a multiple of 64 is faster on GPUs.
    pub size: u32,
    /// The token that ends a document.
    pub eod: u32,
}

/// An id as people write it; 32 bytes in the canonical form.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use synod_protocol::identity::BlobId;

    pub(super) fn serialize<S: Serializer>(id: &BlobId, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(id),
            false => id.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BlobId, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?.parse().map_err(D::Error::custom),
            false => BlobId::deserialize(deserializer),
        }
    }
}

impl Vocabulary {
    /// Number of tokens.
    pub fn size(&self) -> usize {
        match self {
            Self::Byte => 256,
            Self::Tokenizer(tokenizer) => tokenizer.size as usize,
        }
    }

    /// The token between documents.
    pub fn eod(&self) -> u32 {
        match self {
            Self::Byte => 0,
            Self::Tokenizer(tokenizer) => tokenizer.eod,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Byte => Ok(()),
            Self::Tokenizer(tokenizer) => {
                within("model.decoder.vocabulary.tokenizer.size", tokenizer.size, 2, 1 << 24)?;
                within(
                    "model.decoder.vocabulary.tokenizer.eod",
                    tokenizer.eod,
                    0,
                    tokenizer.size - 1,
                )
            }
        }
    }
}

/// A quadratic per member around an optimum that differs by member. See [`crate::synthetic`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Parameters. 64 is enough to see every rule work, and costs microseconds.
    pub dimension: u32,
    /// Size of the noise on each gradient, relative to optima in [-1, 1].
    pub noise: f32,
    /// How far the members' optima lie from the common one (heterogeneity), in the same unit.
    pub spread: f32,
    /// Step length of its plain gradient descent; the session's optimizer is not used.
    pub learning_rate: f32,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            dimension: 64,
            noise: 0.1,
            spread: 0.3,
            learning_rate: 0.1,
        }
    }
}

impl SyntheticConfig {
    /// One vector.
    pub fn layout(&self) -> Layout {
        Layout::new().with("point", &[self.dimension as usize], Role::Scalar)
    }

    fn check(&self) -> Result<(), ConfigError> {
        within("model.synthetic.dimension", self.dimension, 1, 1 << 24)?;
        finite_within("model.synthetic.noise", self.noise, 0.0, 1e6)?;
        finite_within("model.synthetic.spread", self.spread, 0.0, 1e6)?;
        finite_within("model.synthetic.learning_rate", self.learning_rate, 0.0, 1.0)
    }
}

/// A value of the session's training config that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A number outside of its range.
    #[error("training.{key} is {value} but must be between {least} and {most}")]
    Range {
        /// The key, below `training`.
        key: &'static str,
        /// What it is.
        value: f64,
        /// The least value allowed.
        least: f64,
        /// The greatest value allowed.
        most: f64,
    },
    /// The width cannot be divided into heads.
    #[error("training.model.decoder.width {width} must be an even multiple of training.model.decoder.heads {heads}")]
    Heads {
        /// The width.
        width: u32,
        /// The heads.
        heads: u32,
    },
    /// The query heads cannot share the key and value heads evenly.
    #[error("training.model.decoder.heads {heads} must be a multiple of training.model.decoder.kv_heads {kv_heads}")]
    KeyValueHeads {
        /// The query heads.
        heads: u32,
        /// The key and value heads.
        kv_heads: u32,
    },
    /// Apertus's masks over bytes.
    #[error(
        "training.loss.goldfish.mode `apertus` over bytes hashes most windows of {h} to zero: choose mode `mixed`, or h at \
         most {most}"
    )]
    GoldfishOfBytes {
        /// Tokens in a window.
        h: u32,
        /// Tokens that work.
        most: u32,
    },
    /// An optimizer that needs what models of samples do not give.
    #[error(
        "training.optimizer {optimizer} asks for a second gradient, which models of labelled samples do not give: take adamw, or \
         another that needs one gradient a step"
    )]
    SecondGradient {
        /// The optimizer's key.
        optimizer: &'static str,
    },
}

/// Refuses an integer outside of `least..=most`.
pub(crate) fn within(key: &'static str, value: u32, least: u32, most: u32) -> Result<(), ConfigError> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(ConfigError::Range {
            key,
            value: value.into(),
            least: least.into(),
            most: most.into(),
        }),
    }
}

/// Refuses a number that is outside of `least..=most` or is none.
pub(crate) fn finite_within(key: &'static str, value: f32, least: f32, most: f32) -> Result<(), ConfigError> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(ConfigError::Range {
            key,
            value: value.into(),
            least: least.into(),
            most: most.into(),
        }),
    }
}

/// Refuses the first number that is outside of its range or is none; each with its key, least and most.
pub(crate) fn finite_all(numbers: &[(&'static str, f32, f32, f32)]) -> Result<(), ConfigError> {
    let mut each = numbers.iter();
    each.try_for_each(|(key, value, least, most)| finite_within(key, *value, *least, *most))
}

impl TrainingConfig {
    /// Refuses values that cannot be trained with, naming the key, the value and the range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.model.check()?;
        if let Some(shape) = self.model.decoder_shape() {
            self.loss.check(&shape.vocabulary)?;
        }
        self.optimizer.check()?;
        if matches!(self.model, ModelConfig::Network(_)) && self.optimizer.will_want() != Extra::Nothing {
            let optimizer = self.optimizer.key();
            return Err(ConfigError::SecondGradient { optimizer });
        }
        self.groups.check()?;
        self.schedule.check()?;
        check_stages(&self.stages)?;
        finite_within("gradient_clip", self.gradient_clip, 1e-6, 1e6)?;
        within("local_steps", self.local_steps, 1, 1_000_000)?;
        if let Some(StepTerms { least, most, .. }) = self.step_terms() {
            within("local_steps_by_speed.min", least, 1, self.local_steps)?;
            within("local_steps_by_speed.max", most, self.local_steps, 4_000_000)?;
        }
        within("batch_sequences", self.batch_sequences, 1, 65_536)?;
        finite_within("heldout_fraction", self.heldout_fraction, 0.001, 0.9)?;
        within("evaluation_sequences", self.evaluation_sequences, 1, 1_000_000)?;
        match self.seed > i64::MAX as u64 {
            true => Err(ConfigError::Range {
                key: "seed",
                value: self.seed as f64,
                least: 0.0,
                most: i64::MAX as f64,
            }),
            false => Ok(()),
        }
    }

    /// What lies where among the parameters. A synthetic objective is one vector.
    pub fn layout(&self) -> Layout {
        match &self.model {
            ModelConfig::Decoder(decoder) => DecoderShape::from(decoder).layout(),
            ModelConfig::Apertus(apertus) => DecoderShape::from(apertus).layout(),
            ModelConfig::Network(network) => network.layout(),
            ModelConfig::Synthetic(synthetic) => synthetic.layout(),
        }
    }

    /// What the machine has to know of steps by speed, where the session has them.
    pub fn step_terms(&self) -> Option<StepTerms> {
        self.local_steps_by_speed.map(|bounds| StepTerms {
            nominal: self.local_steps,
            least: bounds.min,
            most: bounds.max.unwrap_or(self.local_steps.saturating_mul(4)),
        })
    }

    /// Bytes of the inner optimizer's state that a member carries from round to round: 8 a parameter for AdamW, 0 where it
    /// begins afresh.
    pub fn carried_optimizer_bytes(&self) -> usize {
        match (self.optimizer_state, &self.model) {
            (OptimizerState::Fresh, _) | (_, ModelConfig::Synthetic(_)) => 0,
            (OptimizerState::Carry, _) => Optimizer::state_len(&self.optimizer, &self.layout()),
        }
    }

    /// Number of parameters of the model; a state blob holds twice as many numbers (parameters and outer momentum).
    pub fn parameter_count(&self) -> usize {
        match &self.model {
            ModelConfig::Decoder(decoder) => decoder.parameter_count(),
            ModelConfig::Apertus(apertus) => DecoderShape::from(apertus).parameter_count(),
            ModelConfig::Synthetic(synthetic) => synthetic.dimension as usize,
            ModelConfig::Network(network) => network.parameter_count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(change: impl FnOnce(&mut DecoderConfig)) -> TrainingConfig {
        let mut model = DecoderConfig::default();
        change(&mut model);
        TrainingConfig {
            model: ModelConfig::Decoder(model),
            ..TrainingConfig::default()
        }
    }

    #[test]
    fn the_default_is_usable_and_survives_postcard_and_json() {
        let config = TrainingConfig::default();
        assert_eq!(config.check(), Ok(()));
        let bytes = postcard::to_stdvec(&config).unwrap();
        assert_eq!(postcard::from_bytes::<TrainingConfig>(&bytes).unwrap(), config);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainingConfig>(&text).unwrap(), config);
    }

    #[test]
    fn a_tokenizer_is_named_by_its_hash_and_ends_documents_with_one_of_its_tokens() {
        let hash = "5a".repeat(32);
        let read = |size, eod| {
            let text = format!(
                r#"{{"model": {{"decoder": {{"vocabulary": {{"tokenizer": {{"blake3": "{hash}", "size": {size}, "eod": {eod}}}}}}}}}}}"#
            );
            serde_json::from_str::<TrainingConfig>(&text).unwrap()
        };
        let config = read(50_257, 50_256);
        assert_eq!(config.check(), Ok(()));
        let bytes = postcard::to_stdvec(&config).unwrap();
        assert_eq!(postcard::from_bytes::<TrainingConfig>(&bytes).unwrap(), config);
        let error = read(50_257, 50_257).check().unwrap_err().to_string();
        assert!(error.contains("tokenizer.eod is 50257"), "{error}");
        assert!(read(0, 0).check().is_err());
    }

    #[test]
    fn an_unknown_key_is_refused_at_every_level() {
        for text in [
            r#"{"local_step": 3}"#,
            r#"{"model": {"decoder": {"depth": 3}}}"#,
            r#"{"model": {"recurrent": {}}}"#,
            r#"{"optimizer": {"adamw": {"lr": 3}}}"#,
            r#"{"schedule": {"cosine": {"warm": 3}}}"#,
            r#"{"loss": {"goldfish": {"window": 3}}}"#,
        ] {
            let error = serde_json::from_str::<TrainingConfig>(text).unwrap_err().to_string();
            assert!(error.contains("unknown"), "{text}: {error}");
        }
    }

    #[test]
    fn unusable_values_are_named() {
        let cases = [
            (decoder(|model| model.layers = 0), "training.model.decoder.layers is 0"),
            (
                decoder(|model| model.heads = 3),
                "width 128 must be an even multiple of training.model.decoder.heads 3",
            ),
            (
                decoder(|model| model.kv_heads = Some(3)),
                "heads 4 must be a multiple of training.model.decoder.kv_heads",
            ),
            (
                TrainingConfig {
                    gradient_clip: f32::NAN,
                    ..TrainingConfig::default()
                },
                "gradient_clip is NaN",
            ),
            (
                TrainingConfig {
                    heldout_fraction: 1.0,
                    ..TrainingConfig::default()
                },
                "heldout_fraction is 1",
            ),
            (
                TrainingConfig {
                    local_steps_by_speed: Some(StepsBySpeed { min: 61, max: None }),
                    ..TrainingConfig::default()
                },
                "local_steps_by_speed.min is 61 but must be between 1 and 60",
            ),
            (
                TrainingConfig {
                    local_steps_by_speed: Some(StepsBySpeed { min: 1, max: Some(59) }),
                    ..TrainingConfig::default()
                },
                "local_steps_by_speed.max is 59",
            ),
            (
                TrainingConfig {
                    seed: u64::MAX,
                    ..TrainingConfig::default()
                },
                "training.seed",
            ),
        ];
        for (config, part) in cases {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn parameters_are_counted_with_shared_key_value_heads_too() {
        assert_eq!(
            decoder(|_| ()).parameter_count(),
            256 * 128 + 4 * (256 + 4 * 128 * 128 + 3 * 128 * 352) + 128
        );
        let shared = decoder(|model| model.kv_heads = Some(1));
        assert_eq!(
            decoder(|_| ()).parameter_count() - shared.parameter_count(),
            4 * 2 * 128 * 96
        );
    }
}
