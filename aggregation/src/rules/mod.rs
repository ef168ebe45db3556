//! The rules by name: what a session's config says, what it takes for granted, and the code behind it.
//! It runs no rule itself, and it holds nothing that changes from round to round.
//!
//! [`RuleConfig`] is externally tagged, so that one type reads well in TOML (`rule = "mean"`,
//! `rule = { trimmed_mean = { f = 1 } }`) and passes through postcard, which carries no field names.
//!
//! A rule is of one of two families. *Coordinate rules* (median, trimmed mean, mean around the median) sort each coordinate:
//! one pass over the data. All others are *weights* computed from the [`Gram`](crate::gram::Gram) matrix: two passes. Bulyan is both.

mod bulyan;
mod caf;
pub mod centered_clip;
mod cge;
mod error;
mod fltrust;
mod geometric_median;
mod krum;
mod mda;
mod meamed;
pub mod mean;
pub mod median;
mod monna;
mod smea;
pub mod trimmed_mean;

use serde::{Deserialize, Serialize};

use crate::aggregator::{Aggregator, Verdict, VerdictOutcome};
use crate::composition::Composition;
use crate::coordinates::Reduction;
use crate::gram::Gram;
use crate::weighted_sum::Weights;

pub use centered_clip::{CenteredClip, Radius};
pub use error::RuleError;
pub use krum::Neighbours;
pub use mean::Mean;
pub use median::Median;
pub use trimmed_mean::TrimmedMean;

/// Which rule a session combines updates by. Its canonical bytes are part of the session's identity: variants are
/// only ever appended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RuleConfig {
    /// Mean, weighted by the tokens each member trained on. Not robust: one member can move it anywhere.
    Mean,
    /// Coordinate-wise mean without the `f` least and the `f` greatest values.
    TrimmedMean {
        /// Members that may be faulty; more than `2 f` contributions are needed.
        f: usize,
    },
    /// Coordinate-wise median.
    Median,
    /// Mean of the updates, each clipped to a ball around a robust centre.
    CenteredClip {
        /// Clipping steps. One brings most of the gain; three let the centre leave a poor start (Karimireddy et al.
        /// 2021 use one to five).
        #[serde(default = "default_iterations")]
        iterations: u32,
        /// Radius of the ball.
        #[serde(default)]
        radius: Radius,
    },
    /// Mean with claimed weights up to a multiple of the median claim. Not robust either.
    CappedMean {
        /// The most a member counts for, in medians of the claims, at least 1. Two lets honest differences stand.
        #[serde(default = "default_cap")]
        cap: f32,
    },
    /// Coordinate-wise mean of the n − `f` values nearest to the median.
    Meamed {
        /// Members that may be faulty; more than `2 f` contributions are needed.
        f: usize,
    },
    /// The update that is closest to its neighbours.
    Krum {
        /// Members that may be faulty; `2 f + 3` contributions are needed.
        f: usize,
        /// How many neighbours count.
        #[serde(default)]
        neighbours: Neighbours,
    },
    /// The mean of the updates that are closest to their neighbours.
    MultiKrum {
        /// Members that may be faulty; `2 f + 3` contributions are needed.
        f: usize,
        /// How many updates are averaged; n − f unless given.
        #[serde(default)]
        keep: Option<usize>,
        /// How many neighbours count.
        #[serde(default)]
        neighbours: Neighbours,
    },
    /// Krum again and again, then the mean around the median of the chosen.
    Bulyan {
        /// Members that may be faulty; `4 f + 3` contributions are needed.
        f: usize,
    },
    /// A few smoothed Weiszfeld steps from zero towards the geometric median.
    GeometricMedian {
        /// Steps. Three, as ByzFL and the experiments of Karimireddy et al. take.
        #[serde(default = "default_iterations")]
        iterations: u32,
        /// Distances below it count as it, in the unit of the updates. ByzFL's 0.1.
        #[serde(default = "default_smoothing")]
        smoothing: f32,
    },
    /// The geometric median itself: robust federated averaging.
    Rfa,
    /// The mean of the n − `f` updates of least diameter.
    Mda {
        /// Members that may be faulty; more than `2 f` contributions are needed, and not too many subsets.
        f: usize,
    },
    /// The mean of the n − `f` updates whose covariance has the least greatest eigenvalue.
    Smea {
        /// Members that may be faulty; more than `2 f` contributions are needed, and not too many subsets.
        f: usize,
    },
    /// The mean of the n − `f` updates nearest to a trusted member's.
    Monna {
        /// Members that may be faulty; more than `2 f` contributions are needed.
        f: usize,
        /// The trusted member's place in the order of members.
        #[serde(default)]
        pivot: usize,
    },
    /// The mean of the n − `f` shortest updates.
    Cge {
        /// Members that may be faulty; more than `2 f` contributions are needed.
        f: usize,
    },
    /// Centered clipping around the aggregate of the round before, which is part of the agreed state.
    CarriedClip {
        /// Clipping steps. One is what the paper analyses; a good start needs no more.
        #[serde(default = "one")]
        iterations: u32,
        /// Radius of the ball.
        #[serde(default)]
        radius: Radius,
    },
    /// Members count by how far they agree with a validator's update.
    Fltrust,
    /// Weights shrunk along the direction of greatest variance.
    Caf {
        /// Members that may be faulty; more than `2 f` contributions are needed.
        f: usize,
    },
}

fn default_iterations() -> u32 {
    3
}

fn one() -> u32 {
    1
}

fn default_cap() -> f32 {
    2.0
}

fn default_smoothing() -> f32 {
    0.1
}

/// The most steps that a session may ask for. They cost little; more than a few bring nothing.
pub const MAX_ITERATIONS: u32 = 100;

/// The most subsets that `mda` and `smea` look at: `smea` takes some 20 µs a subset, one or two seconds a round.
pub const MOST_SUBSETS: u64 = 50_000;

/// What a rule of weights answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weighing {
    /// One a row.
    pub(crate) weights: Weights,
    /// What counts as a row's share, where that is not its weight.
    pub(crate) shares: Option<Vec<f64>>,
    /// Which rows were shortened.
    pub(crate) clipped: Vec<bool>,
}

impl Weighing {
    fn plain(weights: Weights) -> Self {
        Self {
            shares: None,
            clipped: vec![false; weights.weights.len()],
            weights,
        }
    }

    /// Each row's share, not yet normalised.
    pub(crate) fn shares(&self) -> &[f64] {
        self.shares.as_deref().unwrap_or(&self.weights.weights)
    }
}

impl RuleConfig {
    /// The rule's name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::TrimmedMean { .. } => "trimmed_mean",
            Self::Median => "median",
            Self::CenteredClip { .. } => "centered_clip",
            Self::CappedMean { .. } => "capped_mean",
            Self::Meamed { .. } => "meamed",
            Self::Krum { .. } => "krum",
            Self::MultiKrum { .. } => "multi_krum",
            Self::Bulyan { .. } => "bulyan",
            Self::GeometricMedian { .. } => "geometric_median",
            Self::Rfa => "rfa",
            Self::Mda { .. } => "mda",
            Self::Smea { .. } => "smea",
            Self::Monna { .. } => "monna",
            Self::Cge { .. } => "cge",
            Self::CarriedClip { .. } => "carried_clip",
            Self::Fltrust => "fltrust",
            Self::Caf { .. } => "caf",
        }
    }

    /// How many faulty members it was told to reckon with, if it asks.
    pub fn f(&self) -> Option<usize> {
        match *self {
            Self::TrimmedMean { f }
            | Self::Meamed { f }
            | Self::Krum { f, .. }
            | Self::MultiKrum { f, .. }
            | Self::Bulyan { f }
            | Self::Mda { f }
            | Self::Smea { f }
            | Self::Monna { f, .. }
            | Self::Cge { f }
            | Self::Caf { f } => Some(f),
            Self::Mean
            | Self::Median
            | Self::CenteredClip { .. }
            | Self::CappedMean { .. }
            | Self::GeometricMedian { .. }
            | Self::Rfa
            | Self::CarriedClip { .. }
            | Self::Fltrust => None,
        }
    }

    /// Whether the rule can work among `members` members. Ask when a session is created, not when a round fails.
    pub fn check(&self, members: usize) -> Result<(), RuleError> {
        let rule = self.name();
        if members == 0 {
            return Err(RuleError::NoMembers { rule });
        }
        if let Some(f) = self.f() {
            RuleError::unless_more_than_twice(rule, f, members)?;
            if let Some((bound, needed)) = self.bound().filter(|(_, needed)| members < *needed) {
                return Err(RuleError::TooFew {
                    rule,
                    f,
                    bound,
                    needed,
                    members,
                });
            }
        }
        self.check_settings(members)
    }

    fn check_settings(&self, members: usize) -> Result<(), RuleError> {
        let rule = self.name();
        match *self {
            Self::CenteredClip { iterations, radius } | Self::CarriedClip { iterations, radius } => {
                check_iterations(rule, iterations)?;
                match radius {
                    Radius::Fixed(got) if !(got.is_finite() && got > 0.0) => Err(RuleError::Radius { rule, got }),
                    Radius::Fixed(_) | Radius::MedianDistance => Ok(()),
                }
            }
            Self::GeometricMedian { iterations, smoothing } => {
                check_iterations(rule, iterations)?;
                match smoothing.is_finite() && smoothing > 0.0 {
                    true => Ok(()),
                    false => Err(RuleError::Smoothing { got: smoothing }),
                }
            }
            Self::CappedMean { cap } if !(cap.is_finite() && cap >= 1.0) => Err(RuleError::Cap { got: cap }),
            Self::MultiKrum { f, keep: Some(got), .. } if !(1..=members - f).contains(&got) => Err(RuleError::Keep {
                got,
                at_most: members - f,
            }),
            Self::Monna { pivot, .. } if pivot >= members => Err(RuleError::Pivot { got: pivot, members }),
            Self::Mda { f } | Self::Smea { f } if subsets(members, f) > MOST_SUBSETS => {
                Err(RuleError::TooManySubsets { rule, f, members })
            }
            _ => Ok(()),
        }
    }

    /// What it needs beyond n > 2 f: the bound as a formula, and its value.
    fn bound(&self) -> Option<(&'static str, usize)> {
        match *self {
            Self::Krum { f, .. } | Self::MultiKrum { f, .. } => {
                Some(("2 f + 3", f.saturating_mul(2).saturating_add(3)))
            }
            Self::Bulyan { f } => Some(("4 f + 3", f.saturating_mul(4).saturating_add(3))),
            _ => None,
        }
    }

    /// The fewest contributions that the rule can be run on. A round's quorum is the session's affair and usually higher.
    pub fn minimum_contributions(&self) -> usize {
        let majority = self.f().map_or(1, |f| f.saturating_mul(2).saturating_add(1));
        let asked = match *self {
            Self::MultiKrum { f, keep, .. } => keep.unwrap_or(1).saturating_add(f),
            Self::Monna { pivot, .. } => pivot.saturating_add(1),
            _ => 1,
        };
        self.bound().map_or(1, |(_, needed)| needed).max(majority).max(asked)
    }

    /// The κ for which the rule is proved (f, κ)-robust among n members, where one is published (Allouah et al. 2023,
    /// AISTATS, table 1): ‖F(x) − x̄_S‖² ≤ κ / |S| · Σ_S ‖x_i − x̄_S‖² for every S of n − f members.
    pub fn kappa(&self, n: usize, f: usize) -> Option<f64> {
        if 2 * f >= n {
            return None;
        }
        let ratio = f as f64 / (n - 2 * f) as f64;
        match self {
            Self::TrimmedMean { .. } => Some(6.0 * ratio * (1.0 + ratio)),
            Self::Median | Self::Rfa => Some(4.0 * (1.0 + ratio) * (1.0 + ratio)),
            Self::Krum { .. } | Self::MultiKrum { .. } => Some(6.0 * (1.0 + ratio)),
            _ => None,
        }
    }

    /// The code behind the name, without anything before it.
    ///
    /// # Panics
    /// Never for a config that [`check`](Self::check) has passed.
    pub fn build(&self) -> Box<dyn Aggregator> {
        Box::new(Composition::of(self.clone()))
    }

    /// What a coordinate rule keeps of n rows; `None` for rules of weights.
    pub(crate) fn reduction(&self, n: usize) -> Option<Reduction> {
        match *self {
            Self::TrimmedMean { f } => Some(Reduction::Middle { trim: f }),
            Self::Median => Some(median::reduction(n)),
            Self::Meamed { f } => Some(meamed::reduction(n, f)),
            _ => None,
        }
    }

    /// Which rows enter, and what is kept of their values, for the rule that is of both families.
    pub(crate) fn selection(&self, gram: &Gram) -> Option<(Vec<usize>, Reduction)> {
        match *self {
            Self::Bulyan { f } => Some(bulyan::choose(gram, f)),
            _ => None,
        }
    }

    /// The clipping around a centre that the rule does.
    pub(crate) fn clipping(&self) -> Option<CenteredClip> {
        match *self {
            Self::CenteredClip { iterations, radius } | Self::CarriedClip { iterations, radius } => {
                Some(CenteredClip { iterations, radius })
            }
            _ => None,
        }
    }

    /// Whether the rule reads weights that members claim, and nothing else about them.
    pub(crate) fn mean_of_claims(&self, claims: &[f64]) -> Option<Weights> {
        match *self {
            Self::Mean => Some(mean::weights(claims, None)),
            Self::CappedMean { cap } => Some(mean::weights(claims, Some(f64::from(cap)))),
            _ => None,
        }
    }

    /// What a rule of weights makes of the products of its rows (of which the last is the reference, for `fltrust`).
    pub(crate) fn weigh(&self, gram: &Gram) -> Weighing {
        let n = gram.len();
        let weights = match *self {
            Self::Krum { f, neighbours } => krum::weights(gram, f, 1, neighbours),
            Self::MultiKrum { f, keep, neighbours } => krum::weights(gram, f, keep.unwrap_or(n - f), neighbours),
            Self::GeometricMedian { iterations, smoothing } => {
                geometric_median::weights(gram, f64::from(smoothing), iterations)
            }
            Self::Rfa => geometric_median::converged(gram),
            Self::Mda { f } => mda::weights(gram, f),
            Self::Smea { f } => smea::weights(gram, f),
            Self::Monna { f, pivot } => monna::weights(gram, f, pivot),
            Self::Cge { f } => cge::weights(gram, f),
            Self::Caf { f } => caf::weights(gram, f),
            Self::Fltrust => return fltrust::weigh(gram),
            Self::CenteredClip { iterations, radius } | Self::CarriedClip { iterations, radius } => {
                return CenteredClip { iterations, radius }.weigh(gram);
            }
            Self::Mean
            | Self::CappedMean { .. }
            | Self::TrimmedMean { .. }
            | Self::Median
            | Self::Meamed { .. }
            | Self::Bulyan { .. } => unreachable!("{} is no rule of weights", self.name()),
        };
        Weighing::plain(weights)
    }
}

fn check_iterations(rule: &'static str, got: u32) -> Result<(), RuleError> {
    match (1..=MAX_ITERATIONS).contains(&got) {
        true => Ok(()),
        false => Err(RuleError::Iterations { rule, got }),
    }
}

/// C(n, f), as far as it stays below a bound far above [`MOST_SUBSETS`].
fn subsets(n: usize, f: usize) -> u64 {
    let mut count = 1u64;
    for (taken, left) in (1..=f as u64).zip((1..=n as u64).rev()) {
        count = count.saturating_mul(left) / taken;
        if count > 1 << 40 {
            return count;
        }
    }
    count
}

/// Verdicts of a coordinate-wise rule: a contribution's weight is its share of all values within the kept ranges.
pub(crate) fn verdicts_of_kept(kept: &[u64]) -> Vec<Verdict> {
    let shares: Vec<f64> = kept.iter().map(|&kept| kept as f64).collect();
    verdicts_of_weights(&shares, |_| false)
}

/// Verdicts from shares that need not add up to 1. Where nobody has any (a vector without coordinates, a validator with
/// whom nobody agrees), all weights are 0.
pub(crate) fn verdicts_of_weights(shares: &[f64], clipped: impl Fn(usize) -> bool) -> Vec<Verdict> {
    let total = shares.iter().fold(0.0, |sum, share| sum + share);
    let verdict = |(index, &share): (usize, &f64)| Verdict {
        weight: if total > 0.0 { (share / total) as f32 } else { 0.0 },
        outcome: match share > 0.0 {
            false => VerdictOutcome::Excluded,
            true if clipped(index) => VerdictOutcome::Clipped,
            true => VerdictOutcome::Used,
        },
    };
    shares.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
mod tests;
