//! What a round settles on: payloads decoded, combined by the rule, applied by the outer step, in one deterministic call.
//! It does not choose the payloads, check signatures or hash the result; the protocol does.

use rayon::prelude::*;

use crate::aggregator::{Aggregator, Contribution, Verdict};
use crate::encoding::{DecodeError, Encoder, EncodingConfig};
use crate::outer_step::OuterConfig;
use crate::rules::RuleConfig;
use crate::state::OuterState;

/// A session's way to combine updates: rule, encoding and outer step, built once.
pub struct Combiner {
    rule: Box<dyn Aggregator>,
    minimum: usize,
    encoder: Box<dyn Encoder>,
    outer: OuterConfig,
}

/// A settled round: the new state, and a verdict on each payload in the order in which they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Combined {
    /// The state after the outer step.
    pub state: OuterState,
    /// One a payload.
    pub verdicts: Vec<PayloadVerdict>,
}

/// What became of one payload.
#[derive(Clone, Debug, PartialEq)]
pub enum PayloadVerdict {
    /// It decoded, and the rule judged it.
    Judged(Verdict),
    /// It did not decode and was left out; its sender signed bytes that are no update.
    Undecodable(DecodeError),
    /// Its weight is not a finite number above 0, and it was left out.
    BadWeight,
}

/// Why a round cannot settle. Every member that combines the same payloads gets the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// Too few payloads were usable.
    #[error("the rule needs {needed} usable updates and got {got}; wait for more members or lower the rule's f")]
    TooFew {
        /// What the rule needs.
        needed: usize,
        /// How many payloads decoded.
        got: usize,
    },
    /// The step overflowed.
    #[error(
        "value {index} of the new state is NaN or infinite; keep the old state and use a robust rule or a smaller outer learning rate"
    )]
    NotFinite {
        /// Its place, counted over parameters and then momentum.
        index: usize,
    },
}

impl Combiner {
    /// Builds the three parts. The configs have passed their checks.
    pub fn new(rule: &RuleConfig, encoding: &EncodingConfig, outer: OuterConfig) -> Self {
        Self {
            rule: rule.build(),
            minimum: rule.minimum_contributions(),
            encoder: encoding.build(),
            outer,
        }
    }

    /// The session's encoder, which members write their updates with.
    pub fn encoder(&self) -> &dyn Encoder {
        self.encoder.as_ref()
    }

    /// Settles a round from `base`: `payloads` are (encoded pseudo-gradient, weight), sorted by the `PeerId` of their
    /// senders. A payload that does not decode is left out, the same way everywhere; the rule runs on the others.
    ///
    /// # Panics
    /// When `base` holds not one momentum a parameter.
    pub fn settle(&self, base: &OuterState, payloads: &[(&[u8], f32)]) -> Result<Combined, CombineError> {
        assert_eq!(base.parameters.len(), base.momentum.len(), "one momentum a parameter");
        let dimension = base.dimension();
        let decoded: Vec<Result<Vec<f32>, PayloadVerdict>> = payloads
            .par_iter()
            .map(|&(bytes, weight)| self.decode(bytes, weight, dimension))
            .collect();

        let contributions: Vec<Contribution<'_>> = decoded
            .iter()
            .zip(payloads)
            .filter_map(|(decoded, &(_, weight))| {
                decoded.as_ref().ok().map(|values| Contribution::dense(values, weight))
            })
            .collect();
        if contributions.len() < self.minimum {
            return Err(CombineError::TooFew {
                needed: self.minimum,
                got: contributions.len(),
            });
        }
        let mut pseudo_gradient = vec![0.0f32; dimension];
        let mut judged = self.rule.aggregate(&contributions, &mut pseudo_gradient).into_iter();

        let mut state = base.clone();
        self.outer
            .step(&mut state.parameters, &mut state.momentum, &pseudo_gradient);
        if let Some(index) = state.first_non_finite() {
            return Err(CombineError::NotFinite { index });
        }
        let verdicts = decoded
            .into_iter()
            .map(|decoded| match decoded {
                Ok(_) => PayloadVerdict::Judged(judged.next().expect("a rule returns one verdict a contribution")),
                Err(verdict) => verdict,
            })
            .collect();
        Ok(Combined { state, verdicts })
    }

    fn decode(&self, bytes: &[u8], weight: f32, dimension: usize) -> Result<Vec<f32>, PayloadVerdict> {
        if !(weight.is_finite() && weight > 0.0) {
            return Err(PayloadVerdict::BadWeight);
        }
        let mut values = vec![0.0f32; dimension]; // our model's dimension, whatever the payload announces
        self.encoder
            .decode(bytes, &mut values)
            .map_err(PayloadVerdict::Undecodable)?;
        Ok(values)
    }
}
