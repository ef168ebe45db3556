//! Why a rule, or what is done before it, cannot work in the session that asks for it.
//! Every sentence has the bound in it, and what to change.

use super::{MAX_ITERATIONS, MOST_SUBSETS};

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
    /// The rule needs more members than twice the faulty ones.
    #[error(
        "rule {rule}: f = {f} faulty members need n ≥ {bound} = {needed} contributions, and there are {members}; lower f or invite more members"
    )]
    TooFew {
        /// The rule's name.
        rule: &'static str,
        /// What was asked for.
        f: usize,
        /// The bound, as a formula in f.
        bound: &'static str,
        /// The bound for this f.
        needed: usize,
        /// The session's members.
        members: usize,
    },
    /// The rule would look at too many subsets.
    #[error(
        "rule {rule}: f = {f} of {members} members make more than {MOST_SUBSETS} subsets to look at; lower f, or use multi_krum or nnm before trimmed_mean"
    )]
    TooManySubsets {
        /// The rule's name.
        rule: &'static str,
        /// What was asked for.
        f: usize,
        /// The session's members.
        members: usize,
    },
    /// The number of steps is out of range.
    #[error("rule {rule}: iterations = {got} must lie between 1 and {MAX_ITERATIONS}")]
    Iterations {
        /// The rule's name.
        rule: &'static str,
        /// What was asked for.
        got: u32,
    },
    /// The radius is not a positive number.
    #[error("rule {rule}: a fixed radius must be finite and greater than 0, and {got} is not")]
    Radius {
        /// The rule's name.
        rule: &'static str,
        /// What was asked for.
        got: f32,
    },
    /// The smoothing of a geometric median is not a positive number.
    #[error("rule geometric_median: smoothing must be finite and greater than 0, and {got} is not")]
    Smoothing {
        /// What was asked for.
        got: f32,
    },
    /// The cap on weights is below 1.
    #[error("rule capped_mean: cap must be a finite multiple of the median weight, at least 1, and {got} is not")]
    Cap {
        /// What was asked for.
        got: f32,
    },
    /// The number of updates that Multi-Krum keeps is out of range.
    #[error("rule multi_krum: keep = {got} must lie between 1 and n − f = {at_most}")]
    Keep {
        /// What was asked for.
        got: usize,
        /// The largest that makes sense.
        at_most: usize,
    },
    /// The pivot is no member.
    #[error("rule monna: pivot = {got} is no place among {members} members, which are counted from 0")]
    Pivot {
        /// What was asked for.
        got: usize,
        /// The session's members.
        members: usize,
    },
    /// A pivot among buckets is nobody.
    #[error("rule monna: the pivot is one member, and bucketing makes means of several; leave bucketing out")]
    PivotInBucket,
    /// A bucket without room.
    #[error("pre bucketing: size = 0 must be at least 1; 2 is a good choice")]
    BucketSize,
    /// The norm to clip to is not a positive number.
    #[error("pre clipping: norm must be finite and greater than 0, and {got} is not")]
    Norm {
        /// What was asked for.
        got: f32,
    },
    /// Two parts of one session reckon with different numbers of faulty members.
    #[error("{first} reckons with f = {first_f} faulty members and {second} with f = {second_f}; give both the same f")]
    DifferentFaults {
        /// A part.
        first: &'static str,
        /// Its f.
        first_f: usize,
        /// Another part.
        second: &'static str,
        /// Its f.
        second_f: usize,
    },
    /// What comes before the rule leaves too few rows for it.
    #[error("{rows} rows are left of {members} members by what comes before the rule: {reason}")]
    After {
        /// Rows that the rule would get.
        rows: usize,
        /// The session's members.
        members: usize,
        /// What the rule says.
        reason: Box<RuleError>,
    },
    /// Too many steps before the rule.
    #[error("pre lists {got} steps, and at most {at_most} are allowed; two are usual")]
    TooManySteps {
        /// What was asked for.
        got: usize,
        /// The limit.
        at_most: usize,
    },
}

impl RuleError {
    /// Refuses f unless there are more than 2 f members.
    pub(crate) fn unless_more_than_twice(rule: &'static str, f: usize, members: usize) -> Result<(), Self> {
        if members == 0 {
            return Err(Self::NoMembers { rule });
        }
        let at_most = (members - 1) / 2;
        match f > at_most {
            true => Err(Self::TooManyFaulty {
                rule,
                f,
                members,
                at_most,
            }),
            false => Ok(()),
        }
    }
}
