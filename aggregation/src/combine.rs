//! What a round settles on: payloads checked, combined by the rule, applied by the outer step, in one deterministic call.
//! It does not choose the payloads, check signatures or hash the result; the protocol does.
//!
//! Updates are never all in memory as floats: rules read the encoded bytes a chunk at a time. Beside payloads and states,
//! a round holds one dense vector, and 16 KiB a member and thread.

use std::ops::Range;

use rayon::prelude::*;

use crate::aggregator::{Aggregator, Context, Contribution, Values, Verdict};
use crate::composition::Composition;
use crate::encoding::{DecodeError, Encoder, EncodingConfig};
use crate::numeric::first_non_finite;
use crate::outer_step::OuterConfig;
use crate::rules::RuleConfig;
use crate::state::OuterState;

/// A session's way to combine updates: rule, encoding and outer step, built once.
pub struct Combiner {
    rule: Composition,
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
    /// The rule measures updates by one that is trusted, and there is none.
    #[error("the rule needs a validator's update and there is none; let a validator contribute one")]
    NoReference,
    /// The step overflowed.
    #[error(
        "value {index} of the new state is NaN or infinite; keep the old state and use a robust rule or a smaller outer learning rate"
    )]
    NotFinite {
        /// Its place, counted over the vectors that the state has.
        index: usize,
    },
}

impl Combiner {
    /// Builds the three parts, with nothing before the rule. The configs have passed their checks.
    pub fn new(rule: &RuleConfig, encoding: &EncodingConfig, outer: OuterConfig) -> Self {
        Self::composed(Composition::of(rule.clone()), encoding.build(), outer)
    }

    /// The same with what is done before the rule.
    pub fn composed(rule: Composition, encoder: Box<dyn Encoder>, outer: OuterConfig) -> Self {
        Self { rule, encoder, outer }
    }

    /// The session's encoder, which members write their updates with.
    pub fn encoder(&self) -> &dyn Encoder {
        self.encoder.as_ref()
    }

    /// Settles a round from `base`: `payloads` are (encoded pseudo-gradient, weight), sorted by the `PeerId` of their
    /// senders. A payload that does not decode is left out, the same way everywhere; the rule runs on the others.
    ///
    /// # Panics
    /// When `base` holds momentum, and not one a parameter.
    pub fn settle(&self, base: &OuterState, payloads: &[(&[u8], f32)]) -> Result<Combined, CombineError> {
        self.settle_with(base, payloads, None)
    }

    /// The same with an update that is trusted, for rules that need one.
    ///
    /// # Panics
    /// As [`settle`](Self::settle), and when the reference has another length.
    pub fn settle_with(
        &self,
        base: &OuterState,
        payloads: &[(&[u8], f32)],
        reference: Option<&[f32]>,
    ) -> Result<Combined, CombineError> {
        let (state, verdicts) = over(self.encoder(), payloads, base.dimension(), |contributions| {
            self.combine(base, contributions, reference)
        })?;
        Ok(Combined { state, verdicts })
    }

    /// The rule alone, over one range of the coordinates: `payloads` are (that range of a pseudo-gradient, encoded by
    /// `encoder`; weight), in the order of peers. What it answers is that range of what [`settle`](Self::settle) would take
    /// its outer step along, if the rule works coordinate by coordinate.
    pub fn combine_range(
        &self,
        base: &OuterState,
        range: Range<usize>,
        encoder: &dyn Encoder,
        payloads: &[(&[u8], f32)],
    ) -> Result<(Vec<f32>, Vec<PayloadVerdict>), CombineError> {
        let (aggregate, verdicts) = over(encoder, payloads, range.len(), |contributions| {
            self.reduce(base, range.len(), contributions, None)
        })?;
        match first_non_finite(&aggregate) {
            Some(index) => Err(CombineError::NotFinite {
                index: range.start + index,
            }),
            None => Ok((aggregate, verdicts)),
        }
    }

    /// Settles a round from (mean, weight) of groups whose updates were summed elsewhere (secure sums): the rule works across
    /// the groups. One verdict a group, in their order.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn settle_means(
        &self,
        base: &OuterState,
        means: &[(Vec<f32>, f32)],
    ) -> Result<(OuterState, Vec<Verdict>), CombineError> {
        let lengths = means.iter().all(|(mean, _)| mean.len() == base.dimension());
        assert!(lengths, "one value a parameter");
        let contributions: Vec<Contribution<'_>> = means
            .iter()
            .map(|(mean, weight)| Contribution::dense(mean, *weight))
            .collect();
        self.combine(base, &contributions, None)
    }

    /// The rule over what is usable, and the outer step along what it makes of it.
    fn combine(
        &self,
        base: &OuterState,
        contributions: &[Contribution<'_>],
        reference: Option<&[f32]>,
    ) -> Result<(OuterState, Vec<Verdict>), CombineError> {
        let (pseudo_gradient, judged) = self.reduce(base, base.dimension(), contributions, reference)?;
        Ok((self.step(base, pseudo_gradient)?, judged))
    }

    /// The rule over `dimension` coordinates of what is usable.
    fn reduce(
        &self,
        base: &OuterState,
        dimension: usize,
        contributions: &[Contribution<'_>],
        reference: Option<&[f32]>,
    ) -> Result<(Vec<f32>, Vec<Verdict>), CombineError> {
        if self.rule.needs_reference() && reference.is_none() {
            return Err(CombineError::NoReference);
        }
        let needed = self.rule.minimum_contributions();
        if contributions.len() < needed {
            return Err(CombineError::TooFew {
                needed,
                got: contributions.len(),
            });
        }
        let context = Context {
            seed: seed_of(base),
            centre: (!base.carried.is_empty()).then_some(&base.carried[..]),
            reference,
        };
        let mut pseudo_gradient = vec![0.0f32; dimension];
        let judged = self.rule.aggregate_with(&context, contributions, &mut pseudo_gradient);
        Ok((pseudo_gradient, judged))
    }

    /// The outer step from `base` along an aggregated pseudo-gradient.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn step(&self, base: &OuterState, pseudo_gradient: Vec<f32>) -> Result<OuterState, CombineError> {
        let mut state = OuterState {
            parameters: base.parameters.clone(),
            momentum: self.momentum_of(base),
            carried: Vec::new(),
        };
        self.outer
            .step(&mut state.parameters, &mut state.momentum, &pseudo_gradient);
        if self.rule.carries_centre() {
            state.carried = pseudo_gradient;
        }
        match state.first_non_finite() {
            Some(index) => Err(CombineError::NotFinite { index }),
            None => Ok(state),
        }
    }

    /// The buffer of the outer step, where it keeps one: nothing has moved before the first round.
    fn momentum_of(&self, base: &OuterState) -> Vec<f32> {
        match (self.outer.keeps_momentum(), base.momentum.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec![0.0; base.dimension()],
            (true, false) => base.momentum.clone(),
        }
    }
}

/// Combines the payloads that decode to `dimension` values and have a weight; one verdict a payload, in their order.
fn over<T>(
    encoder: &dyn Encoder,
    payloads: &[(&[u8], f32)],
    dimension: usize,
    combine: impl FnOnce(&[Contribution<'_>]) -> Result<(T, Vec<Verdict>), CombineError>,
) -> Result<(T, Vec<PayloadVerdict>), CombineError> {
    let checked: Vec<Result<(), PayloadVerdict>> = payloads
        .par_iter()
        .map(|&(bytes, weight)| check(encoder, bytes, weight, dimension))
        .collect();
    let usable = checked.iter().zip(payloads).filter(|(checked, _)| checked.is_ok());
    let contributions: Vec<Contribution<'_>> = usable
        .map(|(_, &(bytes, weight))| Contribution {
            values: Values::Encoded {
                encoder,
                bytes,
                dimension,
            },
            weight,
        })
        .collect();
    let (combined, judged) = combine(&contributions)?;
    let mut judged = judged.into_iter();
    let verdicts = checked
        .into_iter()
        .map(|checked| match checked {
            Ok(()) => PayloadVerdict::Judged(judged.next().expect("a rule returns one verdict a contribution")),
            Err(verdict) => verdict,
        })
        .collect();
    Ok((combined, verdicts))
}

fn check(encoder: &dyn Encoder, bytes: &[u8], weight: f32, dimension: usize) -> Result<(), PayloadVerdict> {
    if !(weight.is_finite() && weight > 0.0) {
        return Err(PayloadVerdict::BadWeight);
    }
    // Our model's dimension, whatever the payload announces.
    encoder.validate(bytes, dimension).map_err(PayloadVerdict::Undecodable)
}

/// Randomness that all who hold the base share and that changes from round to round: it only permutes buckets, which need
/// not be hard to guess. The bits of up to 1024 parameters spread over the model, folded by multiplication (FNV-1a).
fn seed_of(base: &OuterState) -> u64 {
    let stride = (base.dimension() / 1024).max(1);
    let bits = base.parameters.iter().step_by(stride).map(|value| value.to_bits());
    bits.fold(0xcbf2_9ce4_8422_2325, |hash, bits| {
        (hash ^ u64::from(bits)).wrapping_mul(0x0100_0000_01b3)
    })
}
