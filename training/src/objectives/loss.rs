//! The session's choices about the loss, and a loss as the two sums that members can add.
//! It computes no loss.

use serde::{Deserialize, Serialize};

use super::goldfish::GoldfishConfig;
use crate::config::{ConfigError, Vocabulary, finite_within};

/// Which tokens count in the loss and which see each other; the same for all members. Nothing is masked by default,
/// because every mask costs tokens, and what it buys depends on the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Leave a share of the tokens out of the loss, chosen by what they follow, so that long passages are not learnt by
    /// heart.
    pub goldfish: Option<GoldfishConfig>,
    /// Do not learn to predict the first token of a document from the end of an unrelated one.
    pub mask_after_eod: bool,
    /// Tokens see their own document only, and positions begin anew in each.
    pub separate_documents: bool,
    /// The factor of the squared log-partition of the logits that is added to the loss of each token; 0 is without. 1e-4
    /// is PaLM's value.
    pub z_loss: f32,
}

impl LossConfig {
    /// Refuses what cannot work with a vocabulary.
    pub fn check(&self, vocabulary: &Vocabulary) -> Result<(), ConfigError> {
        if let Some(goldfish) = &self.goldfish {
            goldfish.check(vocabulary)?;
        }
        finite_within("loss.z_loss", self.z_loss, 0.0, 1.0)
    }
}

/// A loss of many tokens that can be added to others'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSum {
    /// Σ w·nll over the tokens, in nats.
    pub weighted_nll: f64,
    /// Σ w over the tokens: their number where nothing is masked.
    pub weight: f64,
}

impl LossSum {
    /// Σ w·nll / Σ w; NaN where no token counts.
    pub fn mean(&self) -> f64 {
        self.weighted_nll / self.weight
    }
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.weighted_nll += other.weighted_nll;
        self.weight += other.weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_weigh_members_by_their_kept_tokens_and_not_alike() {
        let mut sum = LossSum {
            weighted_nll: 10.0,
            weight: 10.0,
        };
        sum += LossSum {
            weighted_nll: 90.0,
            weight: 30.0,
        };
        assert_eq!(sum.mean(), 2.5);
        assert!(LossSum::default().mean().is_nan());
    }
}
