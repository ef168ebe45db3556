//! Per-role rates and decay, and what changes with the width of a model: factors on top of an optimizer's own numbers.
//! It routes by role and never by shape or name, and holds no state. Width rules after Kosson et al., "Weight Decay may
//! Matter More than μP for Learning Rate Transfer in Practice" (2025), layer-wise as in Everett et al. (2024).

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, finite_all, within};
use crate::layout::Role;

/// How rates and decay differ between roles, and how decay is applied.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupsConfig {
    /// How weight decay is applied, for all optimizers that have one.
    pub decay: Decay,
    /// What the width does to hidden matrices and the head.
    pub width: WidthRule,
    /// Factors for the embedding (tied to the head or not).
    pub embedding: GroupConfig,
    /// Factors for a head that is not tied.
    pub head: GroupConfig,
    /// Factors for matrices between hidden layers.
    pub hidden_matrix: GroupConfig,
    /// Factors for norm gains.
    pub gain: GroupConfig,
    /// Factors for trainable numbers and plain vectors.
    pub scalar: GroupConfig,
}

/// The factors of one role.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupConfig {
    /// The learning rate is multiplied by this. 1, since the tuned tables of optimizers know no such factor.
    pub learning_rate: f32,
    /// Weight decay is multiplied by this. Left out: 1 for matrices and embeddings; 0 for gains and scalars, because zero
    /// is no neutral value for them.
    pub weight_decay: Option<f32>,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1.0,
            weight_decay: None,
        }
    }
}

/// How weight decay λ is applied; γ is the rate of this step, s the schedule's factor in `0..=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// `θ ← (1 − γλ)θ` beside the step, as PyTorch's AdamW has it. The default: all tuned tables mean this one.
    #[default]
    Decoupled,
    /// `θ ← (1 − sλ)θ`: λ does not scale with the peak rate (Loshchilov and Hutter, 2019, as written in the paper).
    Independent,
    /// `g ← g + λθ` before the step: a penalty in the loss, as PyTorch's SGD and Adam have it.
    Coupled,
}

/// What a model `ratio` times as wide as the one that was tuned does with hidden matrices and the head; other roles keep
/// their rates. The embedding keeps its rate even where it is tied.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WidthRule {
    /// Nothing (standard parametrisation). The default: no width was tuned before.
    #[default]
    Standard,
    /// μP: rate / ratio, and λ as it is; γλ shrinks with width.
    Mup {
        /// Width over tuned width.
        ratio: f32,
    },
    /// μP with independent decay: rate / ratio and λ · ratio, hence γλ is kept. The best transfer in the paper.
    MupIndependentDecay {
        /// Width over tuned width.
        ratio: f32,
    },
    /// No μP, but a further warm-up that grows exponentially from 1 / ratio to 1 over so many steps.
    ExponentialWarmup {
        /// Width over tuned width.
        ratio: f32,
        /// Steps of the warm-up.
        steps: u32,
    },
    /// No μP, but the warm-up that independent decay implies: `(1 + (ratio² − 1) ∏(1 − γλ)²)^-½`, the product over all
    /// steps before this one.
    DecayAwayWarmup {
        /// Width over tuned width.
        ratio: f32,
    },
}

impl WidthRule {
    fn ratio(self) -> Option<f32> {
        match self {
            Self::Standard => None,
            Self::Mup { ratio }
            | Self::MupIndependentDecay { ratio }
            | Self::ExponentialWarmup { ratio, .. }
            | Self::DecayAwayWarmup { ratio } => Some(ratio),
        }
    }

    /// Factors of rate and decay for hidden matrices and the head at `step` (from 0). `remaining` is `∏(1 − γλ)` over
    /// all steps before.
    pub fn factors(self, step: u64, remaining: f64) -> (f64, f64) {
        match self {
            Self::Standard => (1.0, 1.0),
            Self::Mup { ratio } => (1.0 / f64::from(ratio), 1.0),
            Self::MupIndependentDecay { ratio } => (1.0 / f64::from(ratio), f64::from(ratio)),
            Self::ExponentialWarmup { ratio, steps } => {
                let left = 1.0 - (step as f64 / f64::from(steps)).min(1.0);
                (f64::from(ratio).powf(-left), 1.0)
            }
            Self::DecayAwayWarmup { ratio } => {
                let excess = f64::from(ratio) * f64::from(ratio) - 1.0;
                (1.0 / (1.0 + excess * remaining * remaining).sqrt(), 1.0)
            }
        }
    }
}

impl GroupsConfig {
    /// The factors of a role.
    pub fn of(&self, role: Role) -> GroupConfig {
        match role {
            Role::Embedding => self.embedding,
            Role::Head => self.head,
            Role::HiddenMatrix => self.hidden_matrix,
            Role::Gain => self.gain,
            Role::Scalar => self.scalar,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let groups = [
            ("groups.embedding", self.embedding),
            ("groups.head", self.head),
            ("groups.hidden_matrix", self.hidden_matrix),
            ("groups.gain", self.gain),
            ("groups.scalar", self.scalar),
        ];
        for (key, group) in groups {
            let decay = group.weight_decay.unwrap_or(0.0);
            finite_all(&[(key, group.learning_rate, 0.0, 1e4), (key, decay, 0.0, 1e4)])?;
        }
        if let Some(ratio) = self.width.ratio() {
            finite_all(&[("groups.width ratio", ratio, 1.0 / 1024.0, 1024.0)])?;
        }
        match self.width {
            WidthRule::ExponentialWarmup { steps, .. } => within("groups.width steps", steps, 1, u32::MAX),
            _ => Ok(()),
        }
    }
}

/// One tensor's factors at one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    rate: f64,
    decay: f64,
    schedule: f64,
    mode: Decay,
}

impl Pace {
    /// The pace of tensors of `role`: `schedule` is the schedule's factor, `width` the width rule's two factors.
    pub fn of(groups: &GroupsConfig, role: Role, schedule: f32, width: (f64, f64)) -> Self {
        let group = groups.of(role);
        let width = match role {
            Role::HiddenMatrix | Role::Head => width,
            Role::Embedding | Role::Gain | Role::Scalar => (1.0, 1.0),
        };
        let default_decay = if role.is_decayed() { 1.0 } else { 0.0 };
        let decay = group.weight_decay.map_or(default_decay, f64::from);
        let schedule = f64::from(schedule);
        Self {
            rate: schedule * f64::from(group.learning_rate) * width.0,
            decay: decay * width.1,
            schedule,
            mode: groups.decay,
        }
    }

    /// This step's learning rate for an optimizer of this peak rate.
    pub fn rate(&self, peak: f32) -> f32 {
        (f64::from(peak) * self.rate) as f32
    }

    /// The share of the parameters that decay takes away at this step.
    pub fn shrink(&self, peak: f32, weight_decay: f32) -> f32 {
        let decay = f64::from(weight_decay) * self.decay;
        match self.mode {
            Decay::Decoupled => (f64::from(peak) * self.rate * decay) as f32,
            Decay::Independent => (self.schedule * decay) as f32,
            Decay::Coupled => 0.0,
        }
    }

    /// What is left of the parameters after decay.
    pub fn keep(&self, peak: f32, weight_decay: f32) -> f32 {
        1.0 - self.shrink(peak, weight_decay)
    }

    /// The λ that belongs inside of an update that is multiplied by the rate later.
    pub fn decay_within(&self, peak: f32, weight_decay: f32) -> f32 {
        let rate = self.rate(peak);
        if rate > 0.0 {
            self.shrink(peak, weight_decay) / rate
        } else {
            0.0
        }
    }

    /// The λ of a penalty in the loss.
    pub fn coupled(&self, weight_decay: f32) -> f32 {
        match self.mode {
            Decay::Coupled => (f64::from(weight_decay) * self.decay) as f32,
            Decay::Decoupled | Decay::Independent => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: (f32, f32), expected: (f32, f32)) {
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(
            near(got.0, expected.0) && near(got.1, expected.1),
            "{got:?} instead of {expected:?}"
        );
    }

    #[test]
    fn decay_is_taken_in_each_of_its_three_ways() {
        let pace = |decay, role| {
            let groups = GroupsConfig {
                decay,
                ..GroupsConfig::default()
            };
            Pace::of(&groups, role, 0.5, (1.0, 1.0))
        };
        let decoupled = pace(Decay::Decoupled, Role::HiddenMatrix);
        close((decoupled.rate(0.1), decoupled.shrink(0.1, 0.2)), (0.05, 0.01));
        let independent = pace(Decay::Independent, Role::Embedding);
        close((independent.rate(0.1), independent.shrink(0.1, 0.2)), (0.05, 0.1));
        let coupled = pace(Decay::Coupled, Role::Head);
        close((coupled.shrink(0.1, 0.2), coupled.coupled(0.2)), (0.0, 0.2));
        assert_eq!(pace(Decay::Decoupled, Role::Gain).keep(0.1, 0.2), 1.0);
    }

    #[test]
    fn width_rules_reach_hidden_matrices_and_heads_only() {
        let groups = GroupsConfig::default();
        let width = WidthRule::MupIndependentDecay { ratio: 4.0 }.factors(0, 1.0);
        let hidden = Pace::of(&groups, Role::HiddenMatrix, 1.0, width);
        close((hidden.rate(0.1), hidden.shrink(0.1, 0.2)), (0.025, 0.02));
        let standard = Pace::of(&groups, Role::Head, 1.0, WidthRule::Mup { ratio: 4.0 }.factors(0, 1.0));
        close((standard.rate(0.1), standard.shrink(0.1, 0.2)), (0.025, 0.005));
        let embedding = Pace::of(&groups, Role::Embedding, 1.0, width);
        close((embedding.rate(0.1), embedding.shrink(0.1, 0.2)), (0.1, 0.02));
    }

    #[test]
    fn further_warm_ups_go_from_one_over_the_ratio_to_one() {
        let exponential = WidthRule::ExponentialWarmup {
            ratio: 16.0,
            steps: 100,
        };
        let got = [0, 50, 75, 100, 1000].map(|step| exponential.factors(step, 1.0).0);
        assert_eq!(got, [1.0 / 16.0, 0.25, 0.5, 1.0, 1.0]);
        let away = WidthRule::DecayAwayWarmup { ratio: 4.0 };
        assert_eq!(away.factors(0, 1.0).0, 0.25);
        // Half of the weights decayed away: 1 / √(1 + 15/4).
        assert!((away.factors(9, 0.5).0 - 4.75f64.sqrt().recip()).abs() < 1e-12);
        assert_eq!(away.factors(9, 0.0).0, 1.0);
    }
}
