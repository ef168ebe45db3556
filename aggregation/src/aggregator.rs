//! The one trait behind every rule: many vectors in, one vector and a verdict on each out.
//! It decides neither who may contribute nor what happens to an excluded member, and it never sees an identity.

/// One member's decoded update, as a rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct Contribution<'a> {
    /// The update: finite values only, since decoding refuses NaN and infinities.
    pub values: &'a [f32],
    /// The member's share of the work (tokens trained on), finite and positive. Only `mean` reads it: a weight is a claim
    /// that its owner makes, so a robust rule that trusted it would hand an attacker as many votes as it asks for.
    pub weight: f32,
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
