//! From a session's config and a machine's data path and device to a trainer, or to a sentence that says what is missing.
//! It reads the data but trains nothing.

use std::path::Path;

use crate::config::{ConfigError, ModelConfig, TrainingConfig};
#[cfg(feature = "engine")]
use crate::data::Dataset;
use crate::data::{DataError, DataOptions, Windows};
use crate::device::{DeviceChoice, DeviceError};
use crate::example_privacy::ExamplePrivacy;
use crate::models::network::{NetworkConfig, NetworkKind};
use crate::samples::{SampleError, SampleTrainer, Samples, read_samples};
use crate::synthetic::SyntheticTrainer;
use crate::trainer::Trainer;
use synod_aggregation::privacy::PrivacyConfig;
use synod_protocol::identity::PeerId;

/// Why there is no trainer.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The session's config cannot be used.
    #[error("the session's configuration cannot be trained: {0}")]
    Config(#[from] ConfigError),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The samples cannot be used.
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// The session trains on samples and this member brought none.
    #[error(
        "this session trains on samples with labels: give --data PATH (a file in LIBSVM's format, or a folder with IDX files of \
         images and labels; either may be gzipped)"
    )]
    SamplesNeeded,
    /// Samples are one file or one folder.
    #[error(
        "this session trains on samples with labels, which are one file or one folder, but {given} paths were given"
    )]
    OneSamplesPath {
        /// Paths that were given.
        given: usize,
    },
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The session trains on text and this member brought none.
    #[error(
        "this session trains a language model: give --data PATH (a text file, a .jsonl or .parquet file with a `text` field, \
         or a folder of such files) with at least {bytes} bytes of text"
    )]
    DataNeeded {
        /// The least number of bytes.
        bytes: u64,
    },
    /// This build cannot train this model.
    #[error("this build has no training engine: build with the `engine` feature of synod-training")]
    NoEngine,
}

/// What a session asks of a member's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredData {
    /// Whether the member must bring text at all.
    pub text: bool,
    /// Bytes of text that are needed at least; 0 where no text is.
    pub least_bytes: u64,
    /// One sentence for a person.
    pub sentence: String,
}

/// What a session asks of a member's data, for `join --dry-run`.
pub fn required_data(config: &TrainingConfig) -> RequiredData {
    match &config.model {
        ModelConfig::Decoder(_) | ModelConfig::Apertus(_) => {
            let least_bytes = windows_of(config).least_bytes();
            let sentence = format!(
                "text of at least {least_bytes} bytes: a text file, a .jsonl or .parquet file with a `text` field, or a folder \
                 of such files; {:.0} % of the documents are kept out of training for evaluation",
                100.0 * config.heldout_fraction
            );
            RequiredData {
                text: true,
                least_bytes,
                sentence,
            }
        }
        ModelConfig::Network(network) => {
            let sentence = format!(
                "samples of {} features with labels: a file in LIBSVM's format, or a folder with IDX files; {:.0} % of them are \
                 kept out of training for evaluation",
                network.inputs,
                100.0 * config.heldout_fraction
            );
            RequiredData {
                text: true,
                least_bytes: 1,
                sentence,
            }
        }
        ModelConfig::Synthetic(_) => {
            let sentence = "no data: the session trains a synthetic objective".to_owned();
            RequiredData {
                text: false,
                least_bytes: 0,
                sentence,
            }
        }
    }
}

/// The trainer of one member of a session on this machine.
///
/// A member that only aggregates or initialises (a coordinator without data) uses [`build_trainer_without_data`].
pub fn build_trainer(
    config: &TrainingConfig,
    member: PeerId,
    data: Option<&Path>,
    device: &DeviceChoice,
) -> Result<Box<dyn Trainer>, BuildError> {
    let data = data.map(DataOptions::from);
    build_trainer_from(config, &PrivacyConfig::None, member, data.as_ref(), device)
}

/// The same, with all that a machine can say of its data: several paths, the text's field, a tokenizer, a folder for
/// tokens; and what its session promises of single examples.
pub fn build_trainer_from(
    config: &TrainingConfig,
    privacy: &PrivacyConfig,
    member: PeerId,
    data: Option<&DataOptions>,
    device: &DeviceChoice,
) -> Result<Box<dyn Trainer>, BuildError> {
    config.check()?;
    match &config.model {
        ModelConfig::Synthetic(synthetic) => Ok(Box::new(SyntheticTrainer::new(synthetic, config, member.0))),
        ModelConfig::Decoder(_) | ModelConfig::Apertus(_) => {
            let windows = windows_of(config);
            let options = data.ok_or(BuildError::DataNeeded {
                bytes: windows.least_bytes(),
            })?;
            let privacy = ExamplePrivacy::of(privacy, config.batch_sequences);
            decoder_trainer(config, privacy, member, Some((options, windows)), device)
        }
        ModelConfig::Network(network) => {
            let options = data.ok_or(BuildError::SamplesNeeded)?;
            let [path] = options.paths.as_slice() else {
                return Err(BuildError::OneSamplesPath {
                    given: options.paths.len(),
                });
            };
            let samples = read_network_samples(path, network)?;
            let trainer = SampleTrainer::new(config, network, member.0, Some(samples));
            let privacy = ExamplePrivacy::of(privacy, config.batch_sequences);
            Ok(Box::new(trainer.protecting(privacy)))
        }
    }
}

/// A trainer that can make initial parameters and tell the layout, but has nothing to train or evaluate on.
pub fn build_trainer_without_data(
    config: &TrainingConfig,
    member: PeerId,
    device: &DeviceChoice,
) -> Result<Box<dyn Trainer>, BuildError> {
    config.check()?;
    match &config.model {
        ModelConfig::Synthetic(synthetic) => Ok(Box::new(SyntheticTrainer::new(synthetic, config, member.0))),
        ModelConfig::Decoder(_) | ModelConfig::Apertus(_) => decoder_trainer(config, None, member, None, device),
        ModelConfig::Network(network) => Ok(Box::new(SampleTrainer::new(config, network, member.0, None))),
    }
}

/// Samples of the network's width, whose classes are among its own.
fn read_network_samples(path: &Path, network: &NetworkConfig) -> Result<Samples, SampleError> {
    let samples = read_samples(path, network.inputs as usize, network.kind == NetworkKind::Logistic)?;
    let is_class = |label: f32| label >= 0.0 && label < network.classes as f32 && label.fract() == 0.0;
    let foreign = (0..samples.len())
        .map(|index| samples.label(index))
        .find(|label| !is_class(*label));
    match foreign {
        Some(label) if network.kind != NetworkKind::Linear => Err(SampleError::Malformed {
            path: path.to_owned(),
            reason: format!("a label is {label}, but classes are 0 to {}", network.classes - 1),
        }),
        _ => Ok(samples),
    }
}

fn windows_of(config: &TrainingConfig) -> Windows {
    let shape = config.model.decoder_shape();
    Windows::of(config, shape.map_or(0, |shape| shape.context))
}

#[cfg(feature = "engine")]
fn decoder_trainer(
    config: &TrainingConfig,
    privacy: Option<ExamplePrivacy>,
    member: PeerId,
    data: Option<(&DataOptions, Windows)>,
    device: &DeviceChoice,
) -> Result<Box<dyn Trainer>, BuildError> {
    let decoder = config
        .model
        .decoder_shape()
        .expect("a decoder's trainer is made for a decoder only");
    let devices = device.open_all()?;
    let dataset = data
        .map(|(options, windows)| Dataset::open(options.clone(), windows))
        .transpose()?;
    let trainer = crate::local_steps::LanguageTrainer::new(config, decoder, member.0, dataset, devices[0].clone());
    Ok(Box::new(trainer.protecting(privacy).on(devices, device.precision())))
}

#[cfg(not(feature = "engine"))]
fn decoder_trainer(
    _: &TrainingConfig,
    _: Option<ExamplePrivacy>,
    _: PeerId,
    _: Option<(&DataOptions, Windows)>,
    _: &DeviceChoice,
) -> Result<Box<dyn Trainer>, BuildError> {
    Err(BuildError::NoEngine)
}
