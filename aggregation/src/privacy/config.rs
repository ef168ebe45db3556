//! What a session says about privacy, whether it can work, and what it then promises in words.
//! It runs no mechanism; docs/PRIVACY.md says what each protects against whom, and what it does not.

use serde::{Deserialize, Serialize};

use super::accountant::{Accountant, AccountantError};
use super::clip::{ClipError, check_radius};
use super::ledger::{Budget, Event, Mechanism, Sampling};
use super::noise::{NoiseError, SumNoise, check_multiplier};
use super::secure_sum::{
    SecureSumError, SumGroups, SumPlan, check_groups, check_members, check_range, check_threshold, check_weight,
    default_threshold, group_threshold, tolerated_faults,
};
use crate::rules::RuleConfig;

/// How a session protects its members' data. Its canonical bytes are part of the session's identity: variants are only
/// ever appended.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PrivacyConfig {
    /// Not at all beyond not sending data: who sees an update may learn about the data behind it. The default, because
    /// noise has a price in quality that a session must choose to pay.
    #[default]
    None,
    /// Each member noises what it sends and trusts nobody.
    LocalDp(LocalDp),
    /// The coordinator sees clipped updates and noises their mean. Members trust every coordinator.
    CentralDp(CentralDp),
    /// The coordinator sees sums only, with noise in them if asked for.
    SecureSum(SecureSumConfig),
}

/// What a guarantee speaks of: what may be there or not without anyone being able to tell.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Unit {
    /// One example of a member's data: gradients are clipped an example, noise is added every local step (DP-SGD).
    Example {
        /// Probability with which each example enters a step's batch: batch size over examples. Batches must be drawn so.
        sampling_rate: f64,
        /// Local steps of a round.
        steps_per_round: u32,
    },
    /// All that a member has: its whole update of a round is clipped and noised.
    Update,
}

/// The local model.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LocalDp {
    /// What is protected.
    pub unit: Unit,
    /// Norm that gradients of examples, or updates, are clipped to.
    pub clip_norm: f32,
    /// Deviation of the noise over `clip_norm`.
    pub noise_multiplier: f64,
    /// ε of each member's budget: a node stops before it would exceed it.
    pub epsilon: f64,
    /// δ of each member's budget.
    pub delta: f64,
    /// How ε is computed.
    #[serde(default)]
    pub accountant: Accountant,
}

/// The central model: one member more or less cannot be told from the means.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct CentralDp {
    /// Norm that updates are clipped to. All members have equal weight.
    pub clip_norm: f32,
    /// Deviation of the noise in the *sum* over `clip_norm`.
    pub noise_multiplier: f64,
    /// ε of the session's budget.
    pub epsilon: f64,
    /// δ of the session's budget.
    pub delta: f64,
    /// How ε is computed.
    #[serde(default)]
    pub accountant: Accountant,
}

/// Secure sums. The rule must be the mean, or groups must be formed for the rule to work across.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SecureSumConfig {
    /// Members of a sum needed to unmask it; without it, two thirds and one.
    #[serde(default)]
    pub threshold: Option<u8>,
    /// Coordinates are clipped to ± this. 8 as in Flower's SecAgg+; the resolution stays 4·10⁻⁹ of it among 16.
    #[serde(default = "default_range")]
    pub range: f32,
    /// The greatest weight. 1, equal weights, unless said otherwise: a weight is a claim that nobody can check.
    #[serde(default = "default_max_weight")]
    pub max_weight: u32,
    /// Members of a group, at least 3; without it, all members are one.
    #[serde(default)]
    pub group_size: Option<u32>,
    /// Noise, so that the sums are differentially private too.
    #[serde(default)]
    pub noise: Option<CentralDp>,
}

fn default_range() -> f32 {
    8.0
}

fn default_max_weight() -> u32 {
    1
}

/// A privacy config that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PrivacyError {
    /// The clip norm.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The noise.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The budget, or what is to be accounted for.
    #[error(transparent)]
    Account(#[from] AccountantError),
    /// The secure sum.
    #[error(transparent)]
    SecureSum(#[from] SecureSumError),
    /// Not even one round fits.
    #[error(
        "privacy: one round alone spends epsilon = {spent:.3} of {epsilon}; more noise, fewer local steps or a larger budget are needed"
    )]
    NoRound {
        /// What a round spends.
        spent: f64,
        /// The budget's ε.
        epsilon: f64,
    },
    /// Rule and masking exclude each other.
    #[error("privacy: rule {rule} cannot be combined with secure sums: {reason}")]
    Masked {
        /// The rule's name.
        rule: &'static str,
        /// Why, and what can be done.
        reason: &'static str,
    },
    /// The central model's noise is for a mean.
    #[error(
        "privacy: central_dp and noise in secure sums are for the rule mean, not {rule}: what one member can change under another rule has no such bound; use local_dp"
    )]
    NotAMean {
        /// The rule's name.
        rule: &'static str,
    },
}

/// What a rule needs to see, as far as masking is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleClass {
    /// A weighted sum with weights known beforehand: mean.
    Sum,
    /// Orders the values of a coordinate: median, trimmed mean, mean around the median.
    Coordinates,
    /// Compares or shortens whole updates: Krum, geometric median, centered clipping, mixing, bucketing, ARC and all others
    /// that need distances or norms.
    Updates,
    /// Scores each update, for example by a validator's loss.
    Scores,
}

/// Why a rule of this class cannot work on masked updates; `None` when it can. With groups, each rule sees group means in the
/// clear, and any can work.
pub fn masking_conflict(class: RuleClass, grouped: bool) -> Option<&'static str> {
    if grouped {
        return None;
    }
    match class {
        RuleClass::Sum => None,
        RuleClass::Coordinates => Some(
            "it orders the members' values in each coordinate, and masked values have no order; set group_size, so that it works across group means",
        ),
        RuleClass::Updates => Some(
            "it compares or shortens single updates, and masked updates are uniformly random; set group_size, so that it works across group means",
        ),
        RuleClass::Scores => Some(
            "it scores single updates, and a masked update cannot be tried out; set group_size, so that it works across group means",
        ),
    }
}

/// What a member is told before it joins.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The guarantee in one sentence.
    pub text: String,
    /// (ε, δ), where there is one.
    pub budget: Option<Budget>,
    /// Rounds until the budget is spent.
    pub rounds: Option<u32>,
}

impl PrivacyConfig {
    /// The name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::LocalDp(_) => "local_dp",
            Self::CentralDp(_) => "central_dp",
            Self::SecureSum(_) => "secure_sum",
        }
    }

    /// Whether it can work among `members` members under `rule`. Ask when a session is created.
    pub fn check(&self, members: usize, rule: &RuleConfig) -> Result<(), PrivacyError> {
        match self {
            Self::None => Ok(()),
            Self::LocalDp(local) => {
                check_radius(local.clip_norm)?;
                check_multiplier(local.noise_multiplier)?;
                check_first_round(&local.round_event(), local.budget(), local.accountant)
            }
            Self::CentralDp(central) => {
                central.check()?;
                require_mean(rule)
            }
            Self::SecureSum(sums) => sums.check(members, rule),
        }
    }

    /// The event that each round adds to the ledger of whoever is protected; `None` where nothing is noised.
    pub fn round_event(&self) -> Option<Event> {
        match self {
            Self::None => None,
            Self::LocalDp(local) => Some(local.round_event()),
            Self::CentralDp(central) => Some(central.round_event()),
            Self::SecureSum(sums) => sums.noise.map(|noise| noise.round_event()),
        }
    }

    /// The budget and who counts it; `None` where nothing is noised.
    pub fn budget(&self) -> Option<(Budget, Accountant)> {
        match self {
            Self::None => None,
            Self::LocalDp(local) => Some((local.budget(), local.accountant)),
            Self::CentralDp(central) => Some((central.budget(), central.accountant)),
            Self::SecureSum(sums) => sums.noise.map(|noise| (noise.budget(), noise.accountant)),
        }
    }

    /// What the session promises. The config must have passed [`check`](Self::check).
    pub fn statement(&self) -> Result<Statement, PrivacyError> {
        let Some((event, (budget, accountant))) = self.round_event().zip(self.budget()) else {
            let text = match self {
                Self::SecureSum(sums) if sums.group_size.is_some() => {
                    "Members see sums of groups, never a single update, if no more of them help the coordinator than the threshold leaves out. What the sums themselves tell is not bounded."
                }
                Self::SecureSum(_) => {
                    "Members see sums of updates, never a single one, if no more of them help the coordinator than the threshold leaves out. What the sums themselves tell is not bounded."
                }
                _ => "Updates are seen by the session's members as they are.",
            };
            return Ok(Statement {
                text: text.to_owned(),
                budget: None,
                rounds: None,
            });
        };
        let rounds = rounds_within(&event, &budget, accountant)?;
        let (unit, seen) = match self {
            Self::LocalDp(LocalDp {
                unit: Unit::Example { .. },
                ..
            }) => ("one example of a member", "all that it sends"),
            Self::LocalDp(_) => ("all data of a member", "all that it sends"),
            Self::CentralDp(_) => (
                "all data of a member",
                "the agreed models, if every coordinator is honest",
            ),
            Self::None | Self::SecureSum(_) => (
                "all data of a member",
                "sums and agreed models, if no more members help the coordinator than the threshold leaves out",
            ),
        };
        Ok(Statement {
            text: format!(
                "({}, {})-differential privacy of {unit} towards whoever sees {seen}, for {rounds} rounds; then it stops.",
                budget.epsilon, budget.delta
            ),
            budget: Some(budget),
            rounds: Some(rounds),
        })
    }
}

fn require_mean(rule: &RuleConfig) -> Result<(), PrivacyError> {
    if class_of(rule) == RuleClass::Sum {
        Ok(())
    } else {
        Err(PrivacyError::NotAMean { rule: rule.name() })
    }
}

/// What a rule looks at. One whose weights depend on all claims (a capped mean) looks at updates, as far as masks go.
fn class_of(rule: &RuleConfig) -> RuleClass {
    match rule {
        RuleConfig::Mean => RuleClass::Sum,
        RuleConfig::Median | RuleConfig::TrimmedMean { .. } | RuleConfig::Meamed { .. } => RuleClass::Coordinates,
        RuleConfig::Fltrust => RuleClass::Scores,
        RuleConfig::CappedMean { .. }
        | RuleConfig::CenteredClip { .. }
        | RuleConfig::CarriedClip { .. }
        | RuleConfig::Krum { .. }
        | RuleConfig::MultiKrum { .. }
        | RuleConfig::Bulyan { .. }
        | RuleConfig::GeometricMedian { .. }
        | RuleConfig::Rfa
        | RuleConfig::Mda { .. }
        | RuleConfig::Smea { .. }
        | RuleConfig::Monna { .. }
        | RuleConfig::Cge { .. }
        | RuleConfig::Caf { .. } => RuleClass::Updates,
    }
}

fn check_first_round(event: &Event, budget: Budget, accountant: Accountant) -> Result<(), PrivacyError> {
    if !(budget.epsilon.is_finite() && budget.epsilon > 0.0) {
        return Err(AccountantError::Epsilon { got: budget.epsilon }.into());
    }
    let spent = accountant.epsilon(&[*event], budget.delta)?;
    if spent <= budget.epsilon {
        Ok(())
    } else {
        Err(PrivacyError::NoRound {
            spent,
            epsilon: budget.epsilon,
        })
    }
}

/// The most rounds of this event that a budget allows.
fn rounds_within(event: &Event, budget: &Budget, accountant: Accountant) -> Result<u32, AccountantError> {
    let fits = |rounds: u32| -> Result<bool, AccountantError> {
        match event.count.checked_mul(rounds) {
            None => Ok(false),
            Some(count) => Ok(accountant.epsilon(&[Event { count, ..*event }], budget.delta)? <= budget.epsilon),
        }
    };
    let (mut enough, mut too_many) = (0u32, 1u32);
    while fits(too_many)? {
        (enough, too_many) = (too_many, too_many.saturating_mul(2));
        if enough >= 1 << 24 {
            return Ok(enough);
        }
    }
    while too_many - enough > 1 {
        let middle = enough + (too_many - enough) / 2;
        if fits(middle)? {
            enough = middle;
        } else {
            too_many = middle;
        }
    }
    Ok(enough)
}

impl LocalDp {
    /// What one round releases.
    pub fn round_event(&self) -> Event {
        let (sampling, count) = match self.unit {
            Unit::Example {
                sampling_rate,
                steps_per_round,
            } => (Sampling::Poisson { rate: sampling_rate }, steps_per_round),
            Unit::Update => (Sampling::All, 1),
        };
        let mechanism = Mechanism::Gaussian {
            noise_multiplier: self.noise_multiplier,
        };
        Event {
            mechanism,
            sampling,
            count,
        }
    }

    fn budget(&self) -> Budget {
        Budget {
            epsilon: self.epsilon,
            delta: self.delta,
        }
    }
}

impl CentralDp {
    /// What one round releases. Who is online is no secret sample, so that nothing is gained from it.
    pub fn round_event(&self) -> Event {
        Event {
            mechanism: Mechanism::Gaussian {
                noise_multiplier: self.noise_multiplier,
            },
            sampling: Sampling::All,
            count: 1,
        }
    }

    fn budget(&self) -> Budget {
        Budget {
            epsilon: self.epsilon,
            delta: self.delta,
        }
    }

    fn check(&self) -> Result<(), PrivacyError> {
        check_radius(self.clip_norm)?;
        check_multiplier(self.noise_multiplier)?;
        check_first_round(&self.round_event(), self.budget(), self.accountant)
    }
}

impl SecureSumConfig {
    fn check(&self, members: usize, rule: &RuleConfig) -> Result<(), PrivacyError> {
        let grouped = self.group_size.is_some();
        if let Some(reason) = masking_conflict(class_of(rule), grouped) {
            return Err(PrivacyError::Masked {
                rule: rule.name(),
                reason,
            });
        }
        if let Some(size) = self.group_size {
            check_groups(members, size as usize)?;
            rule_across_groups(rule, members / size as usize)?;
        }
        check_members(members)?;
        check_threshold(members, self.threshold_among(members))?;
        check_range(self.range)?;
        check_weight(members, self.max_weight)?;
        if let Some(noise) = &self.noise {
            noise.check()?;
            // Across groups any rule works on what is noised already.
            if !grouped {
                require_mean(rule)?;
            }
            self.plan([0; 32], members, 1, self.any_groups(members)).check()?;
        }
        Ok(())
    }

    /// The threshold of a sum among so many.
    pub fn threshold_among(&self, members: usize) -> usize {
        self.threshold.map_or(default_threshold(members), usize::from)
    }

    /// The fewest survivors of a group whose sum may be opened; None where all members are one sum.
    pub fn group_threshold(&self) -> Option<usize> {
        self.group_size.map(|size| group_threshold(size as usize))
    }

    /// Members dealt into groups one after the other: as good as any for what depends on sizes alone.
    fn any_groups(&self, members: usize) -> Option<Vec<u8>> {
        let count = members / self.group_size? as usize;
        Some((0..members).map(|member| (member % count.max(1)) as u8).collect())
    }

    /// The plan of a sum among `members`, of whom `groups` says who is summed with whom where the session forms groups. The
    /// config must have passed its check.
    ///
    /// # Panics
    /// When there are more members than a sum can have.
    pub fn plan(&self, context: [u8; 32], members: usize, dimension: u32, groups: Option<Vec<u8>>) -> SumPlan {
        let narrow = |count: usize| u8::try_from(count).expect("a sum has at most 64 members");
        SumPlan {
            context,
            members: narrow(members),
            threshold: narrow(self.threshold_among(members)),
            dimension,
            range: self.range,
            max_weight: self.max_weight,
            noise: self.noise.map(|noise| SumNoise {
                clip_norm: noise.clip_norm,
                noise_multiplier: noise.noise_multiplier,
            }),
            groups: groups.zip(self.group_threshold()).map(|(of, least)| SumGroups {
                of,
                least: narrow(least),
            }),
        }
    }

    /// How many faulty members a robust rule across the groups can bear; `None` without groups.
    pub fn tolerated_faults(&self, members: usize) -> Option<usize> {
        self.group_size.map(|size| tolerated_faults(members, size as usize))
    }
}

/// Whether the rule can work on so many group means.
fn rule_across_groups(rule: &RuleConfig, groups: usize) -> Result<(), PrivacyError> {
    rule.check(groups).map_err(|_| PrivacyError::Masked {
        rule: rule.name(),
        reason: "it cannot work on so few group means; smaller groups, a smaller f or more members are needed",
    })
}
