//! Inner optimizers over flat slices, one a file with its update rule, and the clipping of their gradients.
//! They know roles and ranges of parameters but neither models nor devices.
//!
//! A new optimizer is one file (with its `mod` line) and one line of the list at the end of this one. The file has a config
//! with at least `learning_rate` and `weight_decay`, and three functions: `check`, `buffers` (the lengths of a tensor's
//! state) and `step`. Clipping, schedules, factors by role, threads, bytes of the state and the conformance tests are there.

mod adafactor;
mod adamw;
mod ademamix;
mod adopt;
mod clip;
mod d_muon;
mod eigen;
mod groups;
mod lamb;
mod lion;
mod mars;
mod matrix;
mod muon;
mod newton_schulz;
mod optimizer;
mod prodigy;
mod run;
mod schedule_free;
mod scion;
mod sgd;
mod signum;
mod soap;
mod sophia;
mod state;

pub use clip::clip_global_norm;
pub use groups::{Decay, GroupConfig, GroupsConfig, WidthRule};
pub use mars::MarsBase;
pub use newton_schulz::{MUON, newton_schulz};
pub use optimizer::{Extra, Optimizer, StepInputs};
pub use sophia::Curvature;
pub use state::StateError;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::layout::{Role, TensorPlace};

/// Makes the configuration's enum and its way to each file, in the order of the list (which the canonical bytes keep).
macro_rules! optimizers {
    ($($(#[$doc:meta])* $key:literal => $variant:ident($file:ident::$config:ident);)+) => {
        $(pub use $file::$config;)+

        /// The inner optimizer.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum OptimizerConfig {
            $($(#[$doc])* #[serde(rename = $key)] $variant($config),)+
        }

        impl OptimizerConfig {
            /// The key of every optimizer, in the order of the canonical bytes.
            pub const KEYS: &[&str] = &[$($key),+];

            /// Every optimizer with its default numbers.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant($config::default())),+]
            }

            /// Its key in a session file.
            pub fn key(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $key,)+
                }
            }

            pub(crate) fn check(&self) -> Result<(), ConfigError> {
                match self {
                    $(Self::$variant(config) => config.check(),)+
                }
            }

            /// Peak learning rate.
            pub fn learning_rate(&self) -> f32 {
                match self {
                    $(Self::$variant(config) => config.learning_rate,)+
                }
            }

            /// Weight decay λ, of all that has no λ of its own.
            fn weight_decay(&self) -> f32 {
                match self {
                    $(Self::$variant(config) => config.weight_decay,)+
                }
            }

            fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
                match self {
                    $(Self::$variant(config) => config.buffers(place),)+
                }
            }

            fn step(&self, run: run::Run<'_>) {
                match self {
                    $(Self::$variant(config) => config.step(run),)+
                }
            }
        }
    };
}

// New ones at the end.
optimizers! {
    /// Adam with decoupled weight decay.
    "adamw" => AdamW(adamw::AdamWConfig);
    /// Gradient descent, with momentum unless it is 0.
    "sgd" => Sgd(sgd::SgdConfig);
    /// Signum, and SignSGD where its momentum is 0.
    "signum" => Signum(signum::SignumConfig);
    /// ADOPT.
    "adopt" => Adopt(adopt::AdoptConfig);
    /// AdEMAMix: AdamW with a second, slow mean.
    "ademamix" => AdEmaMix(ademamix::AdEmaMixConfig);
    /// Lion.
    "lion" => Lion(lion::LionConfig);
    /// Muon on hidden matrices, AdamW elsewhere.
    "muon" => Muon(muon::MuonConfig);
    /// D-Muon: Muon with one rate and one decay for all.
    "d_muon" => DMuon(d_muon::DMuonConfig);
    /// SOAP: Adam in Shampoo's eigenbasis.
    "soap" => Soap(soap::SoapConfig);
    /// Sophia-G.
    "sophia" => Sophia(sophia::SophiaConfig);
    /// Schedule-Free AdamW.
    "schedule_free" => ScheduleFree(schedule_free::ScheduleFreeConfig);
    /// Prodigy: Adam that finds its own rate.
    "prodigy" => Prodigy(prodigy::ProdigyConfig);
    /// MARS with AdamW, Lion or Shampoo as base.
    "mars" => Mars(mars::MarsConfig);
    /// Adafactor.
    "adafactor" => Adafactor(adafactor::AdafactorConfig);
    /// LAMB.
    "lamb" => Lamb(lamb::LambConfig);
    /// Scion.
    "scion" => Scion(scion::ScionConfig);
}

impl OptimizerConfig {
    /// Weight decay λ of a role.
    fn weight_decay_of(&self, role: Role) -> f32 {
        match (self, role) {
            (Self::Muon(muon), Role::HiddenMatrix) => muon.matrix_weight_decay,
            _ => self.weight_decay(),
        }
    }
}
