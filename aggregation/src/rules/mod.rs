//! The rules by name: what a session's config says, what it takes for granted, and the code behind it.
//! It runs no rule itself, and it holds nothing that changes from round to round.
//!
//! [`RuleConfig`] is externally tagged, so that one type reads well in TOML (`rule = "mean"`,
//! `rule = { trimmed_mean = { f = 1 } }`) and passes through postcard, which carries no field names.

pub mod centered_clip;
pub mod mean;
pub mod median;
pub mod trimmed_mean;

use serde::{Deserialize, Serialize};

use crate::aggregator::{Aggregator, Verdict, VerdictOutcome};

pub use centered_clip::{CenteredClip, Radius};
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
}

fn default_iterations() -> u32 {
    3
}

/// The most clipping steps that a session may ask for: each costs two passes over all updates.
pub const MAX_ITERATIONS: u32 = 100;

/// A rule that cannot work in the session that asks for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// No member, no aggregate.
    #[error("rule {rule}: a session needs at least one member")]
    NoMembers {
        /// The rule's name.
        rule: &'static str,
    },
    /// `f` faulty members cannot be borne by so few.
    #[error(
        "rule {rule}: f = {f} faulty members need more than 2 f = {} contributions, and {members} members can bear f = {at_most} at most; lower f or invite more members",
        .f.saturating_mul(2)
    )]
    TooManyFaulty {
        /// The rule's name.
        rule: &'static str,
        /// What was asked for.
        f: usize,
        /// The session's members.
        members: usize,
        /// The largest possible `f`.
        at_most: usize,
    },
    /// The number of clipping steps is out of range.
    #[error("rule centered_clip: iterations = {got} must lie between 1 and {MAX_ITERATIONS}")]
    Iterations {
        /// What was asked for.
        got: u32,
    },
    /// The radius is not a positive number.
    #[error("rule centered_clip: a fixed radius must be finite and greater than 0, and {got} is not")]
    Radius {
        /// What was asked for.
        got: f32,
    },
}

impl RuleConfig {
    /// The rule's name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::TrimmedMean { .. } => "trimmed_mean",
            Self::Median => "median",
            Self::CenteredClip { .. } => "centered_clip",
        }
    }

    /// Whether the rule can work among `members` members. Ask when a session is created, not when a round fails.
    pub fn check(&self, members: usize) -> Result<(), RuleError> {
        if members == 0 {
            return Err(RuleError::NoMembers { rule: self.name() });
        }
        match *self {
            Self::Mean | Self::Median => Ok(()),
            Self::TrimmedMean { f } => {
                let at_most = (members - 1) / 2;
                if f > at_most {
                    return Err(RuleError::TooManyFaulty {
                        rule: self.name(),
                        f,
                        members,
                        at_most,
                    });
                }
                Ok(())
            }
            Self::CenteredClip { iterations, radius } => {
                if !(1..=MAX_ITERATIONS).contains(&iterations) {
                    return Err(RuleError::Iterations { got: iterations });
                }
                match radius {
                    Radius::Fixed(got) if !(got.is_finite() && got > 0.0) => Err(RuleError::Radius { got }),
                    Radius::Fixed(_) | Radius::MedianDistance => Ok(()),
                }
            }
        }
    }

    /// The fewest contributions that the rule can be run on. A round's quorum is the session's affair and usually higher.
    pub fn minimum_contributions(&self) -> usize {
        match *self {
            Self::Mean | Self::Median | Self::CenteredClip { .. } => 1,
            Self::TrimmedMean { f } => f.saturating_mul(2).saturating_add(1),
        }
    }

    /// The code behind the name.
    ///
    /// # Panics
    /// Never for a config that [`check`](Self::check) has passed.
    pub fn build(&self) -> Box<dyn Aggregator> {
        match *self {
            Self::Mean => Box::new(Mean),
            Self::TrimmedMean { f } => Box::new(TrimmedMean { f }),
            Self::Median => Box::new(Median),
            Self::CenteredClip { iterations, radius } => Box::new(CenteredClip { iterations, radius }),
        }
    }
}

/// Verdicts of a coordinate-wise rule: a contribution's weight is its share of all values within the kept ranges.
pub(crate) fn verdicts_of_kept(kept: &[u64], dimension: usize) -> Vec<Verdict> {
    let total: u64 = kept.iter().sum();
    kept.iter()
        .map(|&kept| match (dimension, kept) {
            (0, _) => Verdict {
                weight: 0.0,
                outcome: VerdictOutcome::Used,
            },
            (_, 0) => Verdict {
                weight: 0.0,
                outcome: VerdictOutcome::Excluded,
            },
            (_, kept) => Verdict {
                weight: (kept as f64 / total as f64) as f32,
                outcome: VerdictOutcome::Used,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_faults_are_refused_with_the_bound() {
        let rule = RuleConfig::TrimmedMean { f: 2 };
        assert_eq!(rule.check(5), Ok(()));
        let error = rule.check(4).unwrap_err();
        assert_eq!(
            error,
            RuleError::TooManyFaulty {
                rule: "trimmed_mean",
                f: 2,
                members: 4,
                at_most: 1
            }
        );
        assert!(error.to_string().contains("f = 1 at most"), "{error}");
        assert!(RuleConfig::TrimmedMean { f: usize::MAX }.check(9).is_err());
    }

    #[test]
    fn empty_sessions_and_senseless_clipping_are_refused() {
        assert!(RuleConfig::Mean.check(0).is_err());
        for iterations in [0, MAX_ITERATIONS + 1] {
            assert!(
                RuleConfig::CenteredClip {
                    iterations,
                    radius: Radius::MedianDistance
                }
                .check(3)
                .is_err()
            );
        }
        for radius in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(
                RuleConfig::CenteredClip {
                    iterations: 1,
                    radius: Radius::Fixed(radius)
                }
                .check(3)
                .is_err()
            );
        }
    }
}
