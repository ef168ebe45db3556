//! The one trait behind every rule: many vectors in, one vector and a verdict on each out.
//! It decides neither who may contribute nor what happens to an excluded member, and it never sees an identity.

use crate::encoding::Encoder;

/// One member's update, as a rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct Contribution<'a> {
    /// The update: finite values only, since decoding refuses NaN and infinities.
    pub values: Values<'a>,
    /// The member's share of the work (tokens trained on), finite and positive. Only the means read it: a weight is a
    /// claim that its owner makes, so a robust rule that trusted it would hand an attacker as many votes as it asks for.
    pub weight: f32,
}

impl<'a> Contribution<'a> {
    /// A contribution of plain values.
    pub fn dense(values: &'a [f32], weight: f32) -> Self {
        Self {
            values: Values::Dense(values),
            weight,
        }
    }
}

/// Where the values of an update lie. Rules read them a chunk at a time and never ask which it is.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// In memory, as they are.
    Dense(&'a [f32]),
    /// In encoded bytes that [`Encoder::validate`] has accepted for this dimension.
    Encoded {
        /// What wrote them.
        encoder: &'a dyn Encoder,
        /// The encoded update.
        bytes: &'a [u8],
        /// How many values it has.
        dimension: usize,
    },
}

impl std::fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense(values) => f.debug_tuple("Dense").field(values).finish(),
            Self::Encoded { bytes, dimension, .. } => {
                write!(f, "Encoded({dimension} values in {} bytes)", bytes.len())
            }
        }
    }
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Dense(values)
    }
}

impl Values<'_> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Dense(values) => values.len(),
            Self::Encoded { dimension, .. } => *dimension,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values `first..first + length`; `scratch` holds at least as many, and is used where they must be decoded.
    pub(crate) fn read<'s>(&'s self, first: usize, length: usize, scratch: &'s mut [f32]) -> &'s [f32] {
        match self {
            Self::Dense(values) => &values[first..first + length],
            Self::Encoded { encoder, bytes, .. } => {
                if let Some(values) = encoder.in_place(bytes, first, length) {
                    return values;
                }
                let values = &mut scratch[..length];
                encoder.decode_range(bytes, first, values);
                values
            }
        }
    }

    /// Whether [`read`](Self::read) needs scratch.
    pub(crate) fn is_encoded(&self) -> bool {
        matches!(self, Self::Encoded { .. })
    }
}

/// What a rule may need beside the contributions. Every member that settles the round has the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// From the round's shared randomness: the permutation of bucketing is drawn from it, and nothing else.
    pub seed: u64,
    /// The aggregate of the round before, which `carried_clip` starts from; `None` stands for zeros.
    pub centre: Option<&'a [f32]>,
    /// An update that is trusted (a validator's, on clean data of its own), which `fltrust` measures all others by.
    pub reference: Option<&'a [f32]>,
}

/// How one contribution fared; the verdicts stand in the order of the contributions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The share of the aggregate that is due to this contribution, between 0 and 1. Each rule says how it counts.
    pub weight: f32,
    /// What the rule did with it.
    pub outcome: VerdictOutcome,
}

/// What a rule did with one contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictOutcome {
    /// It entered the aggregate with its full influence.
    Used,
    /// It entered with a shortened distance from the centre.
    Clipped,
    /// Nothing of it entered.
    Excluded,
}

/// A rule: how the updates of a round become one.
///
/// Callers sort the contributions by `PeerId`, so that every member feeds every rule in the same order. The result
/// depends on nothing else, in particular not on the number of threads.
pub trait Aggregator: Send + Sync {
    /// Writes the aggregate of `contributions` over `out` and returns one verdict a contribution.
    ///
    /// # Panics
    /// When there is no contribution, when a length differs from `out`'s, or when there are fewer contributions than
    /// [`RuleConfig::minimum_contributions`](crate::rules::RuleConfig::minimum_contributions): these are the caller's bugs, never a peer's doing.
    fn aggregate(&self, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict>;

    /// The same with what some rules need beside the contributions; the others ignore it.
    ///
    /// # Panics
    /// As [`aggregate`](Self::aggregate), and when the rule needs a reference and there is none.
    fn aggregate_with(
        &self,
        context: &Context<'_>,
        contributions: &[Contribution<'_>],
        out: &mut [f32],
    ) -> Vec<Verdict> {
        let _ = context;
        self.aggregate(contributions, out)
    }
}

/// Asserts what every rule may take for granted.
pub(crate) fn assert_preconditions(contributions: &[Contribution<'_>], out: &[f32]) {
    assert!(!contributions.is_empty(), "a rule needs at least one contribution");
    for (index, contribution) in contributions.iter().enumerate() {
        assert_eq!(
            contribution.values.len(),
            out.len(),
            "contribution {index} and the output differ in length"
        );
    }
}
