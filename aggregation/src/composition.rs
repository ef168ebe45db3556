//! A rule with what is done before it: the whole way from a round's updates to one, and what each member's part was.
//! It is what a session states; it knows neither payloads nor the outer step.
//!
//! All parts before the rule and all rules of weights need only the products of the updates, so the passes over the data
//! are: one for a coordinate rule or a mean alone; two for everything else (products; then a weighted sum, or mixing and
//! sorting in one), and a third where `centered_clip` first finds its median.

use crate::aggregator::{Aggregator, Context, Contribution, Verdict, assert_preconditions};
use crate::coordinates::{Reduction, reduce};
use crate::gram::Gram;
use crate::pre_aggregation::{Mixture, PreAggregationConfig, mixture_of};
use crate::rules::{RuleConfig, RuleError, Weighing, verdicts_of_weights};
use crate::weighted_sum::{Weights, weighted_sum};

/// The most steps before a rule: each is O(n³) work of its own, and more than two are of no known use.
pub const MOST_STEPS: usize = 4;

/// Steps before the rule, in their order, and the rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    /// What is done before.
    pub pre: Vec<PreAggregationConfig>,
    /// The rule.
    pub rule: RuleConfig,
}

impl Composition {
    /// A rule alone.
    pub fn of(rule: RuleConfig) -> Self {
        Self { pre: Vec::new(), rule }
    }

    /// What is advised against up to `f` faulty members: adaptive clipping, nearest-neighbour mixing, trimmed mean, the
    /// best worst case of thirteen compositions over members with like and with unlike data (Allouah et al. 2024, arXiv
    /// 2405.14432, find the same). Workers should send momenta, and more than 3 f members should take part.
    pub fn robust(f: usize) -> Self {
        Self {
            pre: vec![PreAggregationConfig::Arc { f }, PreAggregationConfig::Nnm { f }],
            rule: RuleConfig::TrimmedMean { f },
        }
    }

    /// Its parts by name, in order: `arc → nnm → trimmed_mean`.
    pub fn name(&self) -> String {
        let mut names: Vec<&str> = self.pre.iter().map(PreAggregationConfig::name).collect();
        names.push(self.rule.name());
        names.join(" → ")
    }

    /// Whether the whole can work among `members` members. Ask when a session is created, not when a round fails.
    pub fn check(&self, members: usize) -> Result<(), RuleError> {
        if self.pre.len() > MOST_STEPS {
            return Err(RuleError::TooManySteps {
                got: self.pre.len(),
                at_most: MOST_STEPS,
            });
        }
        self.check_faults()?;
        let mut rows = members;
        for pre in &self.pre {
            rows = pre.check(rows)?;
        }
        self.rule.check(rows).map_err(|reason| match rows == members {
            true => reason,
            false => RuleError::After {
                rows,
                members,
                reason: Box::new(reason),
            },
        })
    }

    /// One session has one f; and a pivot has no bucket.
    fn check_faults(&self) -> Result<(), RuleError> {
        let parts = self.pre.iter().map(|pre| (pre.name(), pre.f()));
        let mut known: Option<(&'static str, usize)> = None;
        for (second, f) in parts.chain([(self.rule.name(), self.rule.f())]) {
            let Some(second_f) = f else { continue };
            match known {
                Some((first, first_f)) if first_f != second_f => {
                    return Err(RuleError::DifferentFaults {
                        first,
                        first_f,
                        second,
                        second_f,
                    });
                }
                _ => known = Some((second, second_f)),
            }
        }
        let buckets = self
            .pre
            .iter()
            .any(|pre| matches!(pre, PreAggregationConfig::Bucketing { .. }));
        match buckets && matches!(self.rule, RuleConfig::Monna { .. }) {
            true => Err(RuleError::PivotInBucket),
            false => Ok(()),
        }
    }

    /// The fewest contributions that it can be run on.
    pub fn minimum_contributions(&self) -> usize {
        let rule = self.rule.minimum_contributions();
        self.pre.iter().rev().fold(rule, |needed, pre| pre.minimum_rows(needed))
    }

    /// How many faulty members it was told to reckon with, if any part asks.
    pub fn f(&self) -> Option<usize> {
        self.rule
            .f()
            .or_else(|| self.pre.iter().find_map(PreAggregationConfig::f))
    }

    /// The κ for which the whole is proved (f, κ)-robust among n members, where that is known: the rule's own, and after
    /// nearest-neighbour mixing 8 f / (n − f) · (κ + 1) (Allouah et al. 2023, AISTATS, lemma 5).
    pub fn kappa(&self, n: usize, f: usize) -> Option<f64> {
        let rule = self.rule.kappa(n, f)?;
        match self.pre[..] {
            [] => Some(rule),
            [PreAggregationConfig::Nnm { f: mixed }] if mixed == f => {
                Some(8.0 * f as f64 / (n - f) as f64 * (rule + 1.0))
            }
            _ => None,
        }
    }

    /// Whether it starts from the aggregate of the round before, which the agreed state must then carry.
    pub fn carries_centre(&self) -> bool {
        matches!(self.rule, RuleConfig::CarriedClip { .. })
    }

    /// Whether it needs a trusted update beside the members'.
    pub fn needs_reference(&self) -> bool {
        matches!(self.rule, RuleConfig::Fltrust)
    }

    /// Whether what comes before the rule depends on the updates.
    fn reads_products(&self) -> bool {
        self.pre.iter().any(PreAggregationConfig::reads_products)
    }

    /// What is done before the rule, as weights; `None` where nothing is.
    fn mixture(&self, n: usize, gram: Option<&Gram>, seed: u64) -> Option<Mixture> {
        (!self.pre.is_empty()).then(|| mixture_of(&self.pre, n, gram, seed))
    }
}

impl Aggregator for Composition {
    fn aggregate(&self, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict> {
        self.aggregate_with(&Context::default(), contributions, out)
    }

    fn aggregate_with(
        &self,
        context: &Context<'_>,
        contributions: &[Contribution<'_>],
        out: &mut [f32],
    ) -> Vec<Verdict> {
        assert_preconditions(contributions, out);
        let least = self.minimum_contributions();
        let n = contributions.len();
        assert!(n >= least, "{} needs {least} contributions and got {n}", self.name());
        if let Some(clipping) = self.rule.clipping() {
            return match self.pre.is_empty() {
                true => {
                    self.start(context, contributions, None, out);
                    clipping.refine(contributions, out)
                }
                false => self.clip(context, contributions, out),
            };
        }
        let one_pass = self.rule.reduction(n).is_some() || self.rule.mean_of_claims(&[1.0]).is_some();
        if one_pass && !self.reads_products() {
            let mixture = self.mixture(n, None, context.seed);
            return self.finish(contributions, mixture, None, out);
        }
        let gram = Gram::of(contributions, None);
        let mixture = self.mixture(n, Some(&gram), context.seed);
        if self.needs_reference() {
            return self.judge(context, contributions, mixture, out);
        }
        self.finish(contributions, mixture, Some(&gram), out)
    }
}

impl Composition {
    /// The last pass of rules that need nothing beside the updates.
    fn finish(
        &self,
        contributions: &[Contribution<'_>],
        mixture: Option<Mixture>,
        gram: Option<&Gram>,
        out: &mut [f32],
    ) -> Vec<Verdict> {
        let rows = mixture.as_ref().map_or(contributions.len(), Mixture::rows);
        if let Some(reduction) = self.rule.reduction(rows) {
            return reduced(contributions, mixture.as_ref(), reduction, out);
        }
        let claims = match &mixture {
            Some(mixture) => mixture.claims(contributions),
            None => contributions.iter().map(|c| f64::from(c.weight)).collect(),
        };
        if let Some(weights) = self.rule.mean_of_claims(&claims) {
            let weighing = Weighing {
                clipped: vec![false; rows],
                shares: None,
                weights,
            };
            return summed(contributions, mixture.as_ref(), &weighing, 0.0, out);
        }
        let gram = gram.expect("rules of weights are given the products");
        let mixed = mixture.as_ref().map(|mixture| mixture.gram(gram));
        let gram = mixed.as_ref().unwrap_or(gram);
        match self.rule.selection(gram) {
            Some((chosen, reduction)) => {
                let all = mixture.unwrap_or_else(|| Mixture::identity(contributions.len()));
                selected(contributions, &all, &chosen, reduction, out)
            }
            None => summed(contributions, mixture.as_ref(), &self.rule.weigh(gram), 0.0, out),
        }
    }

    /// Writes the centre of a clipping rule over `out`.
    fn start(
        &self,
        context: &Context<'_>,
        contributions: &[Contribution<'_>],
        mixture: Option<&Mixture>,
        out: &mut [f32],
    ) {
        match (self.carries_centre(), context.centre) {
            (true, Some(centre)) => out.copy_from_slice(centre),
            (true, None) => out.fill(0.0),
            (false, _) => {
                let rows = mixture.map_or(contributions.len(), Mixture::rows);
                let reduction = RuleConfig::Median.reduction(rows).expect("the median keeps ranks");
                reduce(contributions, mixture, reduction, out);
            }
        }
    }

    /// Clipping of mixed rows around a centre: the centre is one more vector among the products.
    fn clip(&self, context: &Context<'_>, contributions: &[Contribution<'_>], out: &mut [f32]) -> Vec<Verdict> {
        let n = contributions.len();
        let gram = self.reads_products().then(|| Gram::of(contributions, None));
        let mixture = mixture_of(&self.pre, n, gram.as_ref(), context.seed);
        self.start(context, contributions, Some(&mixture), out);
        let mut with_centre = contributions.to_vec();
        with_centre.push(Contribution::dense(out, 1.0));
        let gram = mixture.with_one_more().gram(&Gram::of(&with_centre, None));
        let weighing = self.rule.weigh(&relative_to_last(&gram));
        let kept = 1.0 - weighing.weights.weights.iter().fold(0.0, |sum, weight| sum + weight);
        summed(contributions, Some(&mixture), &weighing, kept, out)
    }

    /// Weights by agreement with the reference: one more vector among the products, which is not mixed.
    fn judge(
        &self,
        context: &Context<'_>,
        contributions: &[Contribution<'_>],
        mixture: Option<Mixture>,
        out: &mut [f32],
    ) -> Vec<Verdict> {
        let reference = context.reference.expect("a rule that needs a reference is given one");
        let mut with_reference = contributions.to_vec();
        with_reference.push(Contribution::dense(reference, 1.0));
        let gram = Gram::of(&with_reference, None);
        let mixed = mixture.as_ref().map(|mixture| mixture.with_one_more().gram(&gram));
        let weighing = self.rule.weigh(mixed.as_ref().unwrap_or(&gram));
        summed(contributions, mixture.as_ref(), &weighing, 0.0, out)
    }
}

/// The products of all vectors but the last, each minus the last.
fn relative_to_last(gram: &Gram) -> Gram {
    let last = gram.len() - 1;
    let mut products = Vec::with_capacity(last * last);
    for i in 0..last {
        for j in 0..last {
            let crossed = gram.product(i, last) + gram.product(j, last);
            let product = gram.product(i, j) - crossed + gram.product(last, last);
            products.push(if i == j && product < 0.0 { 0.0 } else { product });
        }
    }
    Gram::from_products(last, products)
}

/// A coordinate rule over the rows of a mixture, or over the contributions.
fn reduced(
    contributions: &[Contribution<'_>],
    mixture: Option<&Mixture>,
    reduction: Reduction,
    out: &mut [f32],
) -> Vec<Verdict> {
    let kept: Vec<f64> = reduce(contributions, mixture, reduction, out)
        .iter()
        .map(|&k| k as f64)
        .collect();
    match mixture {
        None => verdicts_of_weights(&kept, |_| false),
        Some(mixture) => verdicts_of_weights(&mixture.back(&kept), |j| mixture.is_clipped(j)),
    }
}

/// A coordinate rule over some rows.
fn selected(
    contributions: &[Contribution<'_>],
    mixture: &Mixture,
    chosen: &[usize],
    reduction: Reduction,
    out: &mut [f32],
) -> Vec<Verdict> {
    reduced(contributions, Some(&mixture.only(chosen)), reduction, out)
}

/// (keep · out + Σ w_r y_r) / divisor over the rows y of a mixture, or over the contributions.
fn summed(
    contributions: &[Contribution<'_>],
    mixture: Option<&Mixture>,
    weighing: &Weighing,
    keep: f64,
    out: &mut [f32],
) -> Vec<Verdict> {
    let Some(mixture) = mixture else {
        weighted_sum(contributions, &weighing.weights, keep, out);
        return verdicts_of_weights(weighing.shares(), |i| weighing.clipped[i]);
    };
    let weights = Weights {
        weights: mixture.back(&weighing.weights.weights),
        divisor: weighing.weights.divisor,
    };
    weighted_sum(contributions, &weights, keep, out);
    let shortened = |j: usize| {
        let mut rows = mixture.weights().zip(&weighing.clipped);
        mixture.is_clipped(j) || rows.any(|(row, clipped)| *clipped && row[j] != 0.0)
    };
    verdicts_of_weights(&mixture.back(weighing.shares()), shortened)
}
