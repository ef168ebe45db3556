//! How large the benchmark is: the model, the batch, the steps.
//! It says nothing of optimizers.

use synod_training::TrainingConfig;
use synod_training::config::{DecoderConfig, ModelConfig};
use synod_training::schedules::{Cosine, ScheduleConfig};

/// A model and how long it trains.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub name: &'static str,
    layers: u32,
    width: u32,
    context: u32,
    pub batch: u32,
    pub steps: u32,
}

/// Seeds of the final runs; rates are tuned with the first.
pub const SEEDS: [u64; 3] = [1, 2, 3];

impl Size {
    /// 0.1 M parameters, 0.2 M tokens a run.
    pub const TINY: Self = Self {
        name: "tiny",
        layers: 2,
        width: 64,
        context: 64,
        batch: 8,
        steps: 400,
    };
    /// 0.4 M parameters, 0.6 M tokens a run.
    pub const SMALL: Self = Self {
        name: "small",
        layers: 3,
        width: 96,
        context: 96,
        batch: 16,
        steps: 400,
    };
    /// 0.8 M parameters, 4 M tokens a run.
    pub const FULL: Self = Self {
        name: "full",
        layers: 4,
        width: 128,
        context: 128,
        batch: 16,
        steps: 2000,
    };

    pub fn named(name: &str) -> Option<Self> {
        [Self::TINY, Self::SMALL, Self::FULL]
            .into_iter()
            .find(|size| size.name == name)
    }

    /// A session's training without its optimizer: a warm-up of a tenth, cosine to a hundredth, clip 1, a fiftieth of the
    /// documents held out and measured whole.
    pub fn config(&self) -> TrainingConfig {
        let model = DecoderConfig {
            layers: self.layers,
            heads: self.width / 16,
            width: self.width,
            context: self.context,
            ..DecoderConfig::default()
        };
        TrainingConfig {
            model: ModelConfig::Decoder(model),
            schedule: cosine(self.steps, 0.01),
            local_steps: self.steps,
            batch_sequences: self.batch,
            heldout_fraction: 0.02,
            evaluation_sequences: 1_000_000,
            ..TrainingConfig::default()
        }
    }
}

/// A warm-up of a tenth of the steps, then a cosine to `floor`.
pub fn cosine(steps: u32, floor: f32) -> ScheduleConfig {
    ScheduleConfig::Cosine(Cosine {
        warmup_steps: steps / 10,
        total_steps: steps,
        floor,
        ..Cosine::default()
    })
}
