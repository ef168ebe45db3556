//! Mixing by name: how a member of a session without a coordinator combines its vector with its neighbours'.
//! It chooses no neighbours and no weights (the graph does), and it trains nothing: first a local step, then a mix.
//!
//! Rules without memory are one call, [`MixingConfig::mix`]; those with memory are types whose state is plain data:
//! [`PushSum`], [`RelaySum`], [`Choco`], [`GradientTracking`].

pub mod choco;
pub mod clipped_gossip;
pub mod epidemic;
pub mod gossip;
pub mod gradient_tracking;
pub mod nearest_neighbours;
pub mod push_sum;
pub mod relay_sum;
pub mod trimmed_gossip;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::aggregator::{Aggregator, Context, Contribution, Verdict, VerdictOutcome};
use crate::composition::Composition;
use crate::encoding::DecodeError;
use crate::numeric::{self, LANES};
use crate::pre_aggregation::PreAggregationConfig;
use crate::rules::{RuleConfig, RuleError};

pub use choco::Choco;
pub use clipped_gossip::GossipRadius;
pub use gradient_tracking::GradientTracking;
pub use push_sum::{PushSum, Share};
pub use relay_sum::{RelayMessage, RelaySum};

/// One member's vector, as a neighbour (or the member itself) sees it.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour<'a> {
    /// The vector: finite values only, since decoding refuses NaN and infinities.
    pub values: &'a [f32],
    /// What the graph lets this member count for, finite and not negative. Rules that trust nobody ignore it.
    pub weight: f64,
}

/// A member and those that it hears from, in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub struct Neighbourhood<'a> {
    /// All of them, the member itself included.
    pub members: &'a [Neighbour<'a>],
    /// The member's own place among them.
    pub own: usize,
}

impl<'a> Neighbourhood<'a> {
    /// The member's own vector: what it trusts, whatever the others send.
    pub fn own_values(&self) -> &'a [f32] {
        self.members[self.own].values
    }

    /// The others' places, from the nearest to the farthest from the own vector, with their distances; the smaller
    /// place first among equals.
    fn by_distance(&self) -> Vec<(usize, f64)> {
        let own = self.own_values();
        let distances: Vec<f64> = self
            .members
            .par_iter()
            .map(|member| squared_distance(member.values, own))
            .collect();
        let mut others: Vec<(usize, f64)> = distances.into_iter().map(f64::sqrt).enumerate().collect();
        others.remove(self.own);
        others.sort_by(|a, b| a.1.total_cmp(&b.1));
        others
    }

    /// Asserts what every rule of mixing may take for granted.
    fn assert_preconditions(&self, out: &[f32]) {
        assert!(
            self.own < self.members.len(),
            "the member itself is one of its neighbourhood"
        );
        for (index, member) in self.members.iter().enumerate() {
            assert_eq!(
                member.values.len(),
                out.len(),
                "member {index} and the output differ in length"
            );
            let weight = member.weight;
            assert!(
                weight.is_finite() && weight >= 0.0,
                "weight {index} is finite and not negative"
            );
        }
    }
}

/// How a session's members mix. Its canonical bytes are part of the session's identity: variants are only ever appended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MixingConfig {
    /// The weighted mean of the neighbourhood. Not robust: one neighbour can move it anywhere.
    Gossip,
    /// Sums and weights that travel together, for graphs whose links go one way. Not robust.
    PushSum,
    /// A pull towards each neighbour, clipped around the own vector.
    ClippedGossip {
        /// How far a neighbour may pull.
        radius: GossipRadius,
    },
    /// The mean of the own vector and its nearest neighbours: the `b` farthest are dropped. The choice for sessions
    /// whose members do not trust each other.
    NearestNeighbours {
        /// Neighbours that may be faulty.
        b: usize,
    },
    /// Gossip without the `b` farthest neighbours, whose weight stays with the own vector.
    TrimmedGossip {
        /// Neighbours that may be faulty.
        b: usize,
    },
    /// A rule for updates, on the whole neighbourhood. Where a rule asks for what it may trust (a centre, a reference, a
    /// pivot), that is the own vector; buckets are the same in every round.
    Rule {
        /// The rule.
        rule: RuleConfig,
        /// What is done before it.
        #[serde(default)]
        pre: Vec<PreAggregationConfig>,
    },
    /// Sums relayed along a spanning tree: every member gets the exact, if late, mean. Not robust: one lie reaches all.
    RelaySum,
    /// Gossip on copies that compressed differences keep up to date. Not robust.
    Choco {
        /// The step towards the neighbours' copies, γ. The coarser the compression, the smaller it must be; 0.5 suits
        /// encodings that keep a tenth or more of the norm (Koloskova, Stich & Jaggi 2019, ICML, choose by trial).
        #[serde(default = "default_step")]
        step: f32,
    },
    /// Gossip on vectors and on estimates of everyone's mean gradient, so that unlike data do not pull members apart.
    /// Not robust.
    GradientTracking,
    /// The plain mean of the own vector and whatever came in, on a graph that is drawn anew each round. Not robust.
    Epidemic,
}

fn default_step() -> f32 {
    0.5
}

/// Mixing that cannot work in the session that asks for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MixingError {
    /// Too few neighbours to bear `b` faulty ones.
    #[error(
        "mixing {mixing}: b = {b} faulty neighbours need at least {needed} neighbours, and some member has {neighbours}, which bear b = {at_most} at most; lower b or choose a graph with more links"
    )]
    TooManyFaulty {
        /// The rule's name.
        mixing: &'static str,
        /// What was asked for.
        b: usize,
        /// Neighbours that would do.
        needed: usize,
        /// What the member with the fewest has.
        neighbours: usize,
        /// The largest possible `b`.
        at_most: usize,
    },
    /// A number that is not one of those allowed.
    #[error("mixing {mixing}: {key} = {got} must be finite, greater than 0 and at most {most}")]
    Number {
        /// The rule's name.
        mixing: &'static str,
        /// The key of the configuration.
        key: &'static str,
        /// What was asked for.
        got: f32,
        /// The most.
        most: f32,
    },
    /// The rule on the neighbourhood cannot work.
    #[error("mixing rule, in a neighbourhood of {members}: {source}")]
    Rule {
        /// The member with the fewest neighbours, and these.
        members: usize,
        /// What is wrong.
        source: RuleError,
    },
    /// Links that go one way only.
    #[error(
        "mixing {mixing} needs an answer along each link, and this graph's go one way; use push_sum or epidemic, or an undirected graph"
    )]
    Directed {
        /// The rule's name.
        mixing: &'static str,
    },
    /// Neighbours that change.
    #[error(
        "mixing {mixing} remembers its neighbours, and this graph's change from round to round; use gossip, push_sum or epidemic, or a fixed graph"
    )]
    Varies {
        /// The rule's name.
        mixing: &'static str,
    },
}

/// Why a neighbour's message is refused. A peer's fault, never ours.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// From a member that is no neighbour.
    #[error("member {from} is no neighbour")]
    Stranger {
        /// Its place in the roster.
        from: usize,
    },
    /// A vector of another model.
    #[error("{found} values where the model has {expected}")]
    Dimension {
        /// The model's.
        expected: usize,
        /// The message's.
        found: usize,
    },
    /// NaN or infinity.
    #[error("value {index} is NaN or infinite")]
    NotFinite {
        /// Its coordinate.
        index: usize,
    },
    /// A message that is not the next one.
    #[error("message {found} came where {expected} was due; the copies differ, and only a full one mends that")]
    Sequence {
        /// The next one.
        expected: u64,
        /// The message's.
        found: u64,
    },
    /// A push-sum weight that no honest member sends.
    #[error("a share's weight of {found} is not above 0 and at most {most}")]
    Weight {
        /// The message's.
        found: f64,
        /// The most.
        most: f64,
    },
    /// A relayed sum of more members than there are beyond that neighbour, or of none.
    #[error("a sum over {found} members, of {most} at most")]
    Count {
        /// The message's.
        found: u64,
        /// The most.
        most: u64,
    },
    /// Bytes that are no compressed vector.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl MixingConfig {
    /// The name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::PushSum => "push_sum",
            Self::ClippedGossip { .. } => "clipped_gossip",
            Self::NearestNeighbours { .. } => "nearest_neighbours",
            Self::TrimmedGossip { .. } => "trimmed_gossip",
            Self::Rule { .. } => "rule",
            Self::RelaySum => "relay_sum",
            Self::Choco { .. } => "choco",
            Self::GradientTracking => "gradient_tracking",
            Self::Epidemic => "epidemic",
        }
    }

    /// Whether mixing can work when the member with the fewest neighbours has this many. Ask when a session is created.
    pub fn check(&self, neighbours: usize) -> Result<(), MixingError> {
        let mixing = self.name();
        let number = |key, got: f32, most: f32| {
            if got.is_finite() && got > 0.0 && got <= most {
                Ok(())
            } else {
                Err(MixingError::Number { mixing, key, got, most })
            }
        };
        // What is left after b faulty neighbours must be more than b: 2 b neighbours and the own vector.
        let faulty = |b: usize, needed: usize, at_most: usize| {
            if b <= at_most {
                return Ok(());
            }
            Err(MixingError::TooManyFaulty {
                mixing,
                b,
                needed,
                neighbours,
                at_most,
            })
        };
        let majority = |b: usize| faulty(b, b.saturating_mul(2), neighbours / 2);
        match self {
            Self::NearestNeighbours { b } | Self::TrimmedGossip { b } => majority(*b),
            Self::ClippedGossip { radius } => match *radius {
                GossipRadius::Fixed(radius) => number("radius", radius, f32::MAX),
                GossipRadius::Spread { b } => majority(b),
                // The radius is the distance of rank 2 b + 1.
                GossipRadius::Ranked { b } => faulty(
                    b,
                    b.saturating_mul(2).saturating_add(1),
                    neighbours.saturating_sub(1) / 2,
                ),
            },
            Self::Rule { rule, pre } => {
                let members = neighbours + 1;
                let checked = composition(rule, pre, 0).check(members);
                checked.map_err(|source| MixingError::Rule { members, source })
            }
            Self::Choco { step } => number("step", *step, 1.0),
            Self::Gossip | Self::PushSum | Self::RelaySum | Self::GradientTracking | Self::Epidemic => Ok(()),
        }
    }

    /// Whether mixing can work on a graph whose links go one way, or change from round to round.
    pub fn check_graph(&self, directed: bool, varies: bool) -> Result<(), MixingError> {
        let mixing = self.name();
        match self {
            Self::RelaySum | Self::Choco { .. } if varies => Err(MixingError::Varies { mixing }),
            Self::RelaySum | Self::Choco { .. } | Self::GradientTracking if directed => {
                Err(MixingError::Directed { mixing })
            }
            _ => Ok(()),
        }
    }

    /// Whether it remembers something from round to round, and so has a type of its own in place of [`mix`](Self::mix).
    pub fn has_memory(&self) -> bool {
        matches!(
            self,
            Self::PushSum | Self::RelaySum | Self::Choco { .. } | Self::GradientTracking
        )
    }

    /// How many faulty neighbours the rule was told to bear; 0 for those that bear none.
    pub fn faulty(&self) -> usize {
        match *self {
            Self::NearestNeighbours { b } | Self::TrimmedGossip { b } => b,
            Self::ClippedGossip {
                radius: GossipRadius::Ranked { b } | GossipRadius::Spread { b },
            } => b,
            Self::Rule { ref rule, ref pre } => composition(rule, pre, 0).f().unwrap_or(0),
            _ => 0,
        }
    }

    /// Writes the mix over `out` and returns one verdict a member of the neighbourhood, in its order.
    ///
    /// # Panics
    /// For the rules with memory, which have types of their own; and, as these are the caller's bugs and never a
    /// peer's doing, when lengths differ, a weight is no weight, or fewer members are there than [`check`](Self::check)
    /// was asked about.
    pub fn mix(&self, neighbourhood: &Neighbourhood<'_>, out: &mut [f32]) -> Vec<Verdict> {
        match self {
            Self::Gossip => gossip::gossip(neighbourhood, out),
            Self::Epidemic => epidemic::mean(neighbourhood, out),
            Self::ClippedGossip { radius } => clipped_gossip::clipped_gossip(neighbourhood, *radius, out),
            Self::NearestNeighbours { b } => nearest_neighbours::nearest_neighbours(neighbourhood, *b, out),
            Self::TrimmedGossip { b } => trimmed_gossip::trimmed_gossip(neighbourhood, *b, out),
            Self::Rule { rule, pre } => {
                neighbourhood.assert_preconditions(out);
                let members = neighbourhood.members.iter();
                let contributions: Vec<Contribution<'_>> =
                    members.map(|member| Contribution::dense(member.values, 1.0)).collect();
                let own = Some(neighbourhood.own_values());
                let context = Context {
                    seed: 0,
                    centre: own,
                    reference: own,
                };
                composition(rule, pre, neighbourhood.own).aggregate_with(&context, &contributions, out)
            }
            Self::PushSum | Self::RelaySum | Self::Choco { .. } | Self::GradientTracking => {
                panic!("mixing {} has memory: drive its type", self.name())
            }
        }
    }
}

/// The rule and what is before it, its pivot the member itself.
fn composition(rule: &RuleConfig, pre: &[PreAggregationConfig], own: usize) -> Composition {
    let rule = match *rule {
        RuleConfig::Monna { f, .. } => RuleConfig::Monna { f, pivot: own },
        ref other => other.clone(),
    };
    Composition {
        pre: pre.to_vec(),
        rule,
    }
}

/// ‖a − b‖² in f64, over interleaved accumulators that are added from first to last: one definition of the sum.
fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            lanes[lane] += difference * difference;
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        let difference = f64::from(a) - f64::from(b);
        lanes[lane] += difference * difference;
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

/// Coordinates summed side by side.
const WIDTH: usize = 256;

/// out ← Σ weight_i x_i / Σ weight_i, in the order of the members and in f64.
fn weighted_mean<'a>(rows: impl Iterator<Item = (&'a [f32], f64)> + Clone + Sync, out: &mut [f32]) {
    let total = rows.clone().fold(0.0, |sum, (_, weight)| sum + weight);
    assert!(total > 0.0, "some weight is above 0");
    numeric::for_each_chunk(out, |start, out| {
        for (index, out) in out.chunks_mut(WIDTH).enumerate() {
            let begin = start + index * WIDTH;
            let mut sums = [0.0f64; WIDTH];
            for (values, weight) in rows.clone() {
                for (sum, &value) in sums.iter_mut().zip(&values[begin..begin + out.len()]) {
                    *sum += weight * f64::from(value);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = (sum / total) as f32;
            }
        }
    });
}

/// out ← own + Σ factor_i (x_i − own), in the order of the members and in f64, kept within the finite range.
fn pull<'a>(own: &[f32], rows: impl Iterator<Item = (&'a [f32], f64)> + Clone + Sync, out: &mut [f32]) {
    numeric::for_each_chunk(out, |start, out| {
        for (index, out) in out.chunks_mut(WIDTH).enumerate() {
            let begin = start + index * WIDTH;
            let own = &own[begin..begin + out.len()];
            let mut sums = [0.0f64; WIDTH];
            for (values, factor) in rows.clone() {
                let values = &values[begin..begin + out.len()];
                for ((sum, &value), &own) in sums.iter_mut().zip(values).zip(own) {
                    *sum += factor * (f64::from(value) - f64::from(own));
                }
            }
            for ((out, &own), sum) in out.iter_mut().zip(own).zip(sums) {
                *out = within_range(f64::from(own) + sum);
            }
        }
    });
}

/// The nearest finite f32.
fn within_range(value: f64) -> f32 {
    (value as f32).clamp(f32::MIN, f32::MAX)
}

/// Verdicts from each member's share, 0 for who was left out, and from whose pull was shortened.
fn verdicts(shares: &[f64], clipped: impl Fn(usize) -> bool) -> Vec<Verdict> {
    let total = shares.iter().fold(0.0, |sum, share| sum + share);
    shares
        .iter()
        .enumerate()
        .map(|(index, &share)| Verdict {
            weight: if total > 0.0 { (share / total) as f32 } else { 0.0 },
            outcome: match share {
                0.0 => VerdictOutcome::Excluded,
                _ if clipped(index) => VerdictOutcome::Clipped,
                _ => VerdictOutcome::Used,
            },
        })
        .collect()
}

/// Checks a vector that came from a neighbour.
fn check_values(values: &[f32], dimension: usize) -> Result<(), MessageError> {
    if values.len() != dimension {
        return Err(MessageError::Dimension {
            expected: dimension,
            found: values.len(),
        });
    }
    match numeric::first_non_finite(values) {
        Some(index) => Err(MessageError::NotFinite { index }),
        None => Ok(()),
    }
}
