//! What is done to the updates before a rule sees them: each makes new rows, which are weighted sums of the old ones.
//! It runs no rule and touches no values: a [`Mixture`] of weights is all that a pre-aggregation answers.
//!
//! Pre-aggregations are listed in the order in which they run; each sees the rows that the one before it made. The
//! products of the new rows follow from those of the old ones, M G Mᵀ, so a list of any length needs one pass.

mod arc;
mod bucketing;
mod clipping;
mod mixture;
mod nnm;

use serde::{Deserialize, Serialize};

use crate::gram::Gram;
use crate::rules::RuleError;

pub use mixture::Mixture;

/// A step before the rule. Its canonical bytes are part of the session's identity: variants are only ever appended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PreAggregationConfig {
    /// Clipping to a norm that adapts to the updates at hand.
    Arc {
        /// Members that may be faulty; more than `2 f` are needed.
        f: usize,
    },
    /// Nearest-neighbour mixing: each update becomes the mean of those nearest to it.
    Nnm {
        /// Members that may be faulty; more than `2 f` are needed.
        f: usize,
    },
    /// Means of random groups: fewer rows, less spread, and as many faulty rows as there are faulty members.
    Bucketing {
        /// Members of a bucket. Two is what Karimireddy et al. advise: more would multiply the share of faulty rows.
        #[serde(default = "default_size")]
        size: usize,
    },
    /// Clipping to a fixed norm.
    Clipping {
        /// The largest norm that is left as it is, in the unit of the updates.
        norm: f32,
    },
}

fn default_size() -> usize {
    2
}

impl PreAggregationConfig {
    /// The name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arc { .. } => "arc",
            Self::Nnm { .. } => "nnm",
            Self::Bucketing { .. } => "bucketing",
            Self::Clipping { .. } => "clipping",
        }
    }

    /// How many faulty rows it was told to reckon with, if it asks.
    pub fn f(&self) -> Option<usize> {
        match *self {
            Self::Arc { f } | Self::Nnm { f } => Some(f),
            Self::Bucketing { .. } | Self::Clipping { .. } => None,
        }
    }

    /// Whether it can work on `rows` rows; if so, how many it makes of them.
    pub fn check(&self, rows: usize) -> Result<usize, RuleError> {
        match *self {
            Self::Arc { f } | Self::Nnm { f } => {
                RuleError::unless_more_than_twice(self.name(), f, rows)?;
                Ok(rows)
            }
            Self::Bucketing { size: 0 } => Err(RuleError::BucketSize),
            Self::Bucketing { size } => Ok(rows.div_ceil(size)),
            Self::Clipping { norm } if norm.is_finite() && norm > 0.0 => Ok(rows),
            Self::Clipping { norm } => Err(RuleError::Norm { got: norm }),
        }
    }

    /// The fewest rows from which it makes at least `needed`.
    pub(crate) fn minimum_rows(&self, needed: usize) -> usize {
        match *self {
            Self::Arc { f } | Self::Nnm { f } => needed.max(f.saturating_mul(2).saturating_add(1)),
            Self::Bucketing { size } => needed.saturating_sub(1).saturating_mul(size).saturating_add(1),
            Self::Clipping { .. } => needed,
        }
    }

    /// Whether its weights depend on the updates.
    pub(crate) fn reads_products(&self) -> bool {
        !matches!(self, Self::Bucketing { .. })
    }

    /// The weights of the rows that it makes of `rows` rows with these products.
    ///
    /// # Panics
    /// When it needs the products and is not given them, or has not passed [`check`](Self::check).
    pub fn mixture(&self, rows: usize, gram: Option<&Gram>, seed: u64) -> Mixture {
        match (*self, gram) {
            (Self::Bucketing { size }, _) => bucketing::mixture(rows, size, seed),
            (Self::Arc { f }, Some(gram)) => arc::mixture(gram, f),
            (Self::Nnm { f }, Some(gram)) => nnm::mixture(gram, f),
            (Self::Clipping { norm }, Some(gram)) => clipping::mixture(gram, f64::from(norm)),
            (_, None) => unreachable!("whoever reads products is given them"),
        }
    }
}

/// What a list of pre-aggregations makes of `n` contributions. `gram` may be left out when none of them reads it.
///
/// # Panics
/// When it is left out and one does.
pub(crate) fn mixture_of(list: &[PreAggregationConfig], n: usize, gram: Option<&Gram>, seed: u64) -> Mixture {
    let mut mixture = Mixture::identity(n);
    for pre in list {
        let mixed = gram.map(|gram| mixture.gram(gram));
        let step = pre.mixture(mixture.rows(), mixed.as_ref(), seed);
        mixture = step.after(&mixture);
    }
    mixture
}
