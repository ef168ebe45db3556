//! Push-sum: each splits a sum and a weight among itself and those it sends to; their quotient tends to the mean on any
//! connected graph, also where links go one way and change (Kempe, Dobra & Gehrke 2003, FOCS; SGP: Assran et al. 2019,
//! ICML). It defends against nobody: who misstates a weight moves everyone.
//!
//! Breakdown point 0 · one pass, O(received · d). What is lost on the way is lost from the sum and from the weight alike, and
//! shifts the mean only by what the lost vector differed.

use serde::{Deserialize, Serialize};

use super::{MessageError, check_values, within_range};

/// A member's part of the sum.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PushSum {
    /// The sum that it holds.
    sum: Vec<f32>,
    /// The weight that it holds; all members' weights add up to their number.
    weight: f64,
}

/// What one member sends to another, or keeps.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its part of the sum.
    pub sum: Vec<f32>,
    /// Its part of the weight.
    pub weight: f64,
}

impl PushSum {
    /// The beginning: the own vector, with weight 1.
    pub fn new(values: &[f32]) -> Self {
        Self {
            sum: values.to_vec(),
            weight: 1.0,
        }
    }

    /// The weight that it holds.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The estimate of the mean, sum / weight: the vector to train from.
    pub fn estimate(&self, out: &mut [f32]) {
        assert_eq!(self.sum.len(), out.len(), "the output has the model's dimension");
        for (out, &sum) in out.iter_mut().zip(&self.sum) {
            *out = within_range(f64::from(sum) / self.weight);
        }
    }

    /// Adds a local step to the estimate: to the sum, as many times as its weight says.
    pub fn step(&mut self, step: &[f32]) {
        assert_eq!(self.sum.len(), step.len(), "the step has the model's dimension");
        for (sum, &step) in self.sum.iter_mut().zip(step) {
            *sum = within_range(f64::from(*sum) + self.weight * f64::from(step));
        }
    }

    /// The share that each of `receivers` members gets and that stays here: all are equal.
    pub fn share(&self, receivers: usize) -> Share {
        let parts = receivers as f64 + 1.0;
        Share {
            sum: self.sum.iter().map(|&sum| (f64::from(sum) / parts) as f32).collect(),
            weight: self.weight / parts,
        }
    }

    /// Replaces what it holds by what it kept and what came in, which the caller sorts by member.
    ///
    /// # Panics
    /// When there is no share, or one was not checked.
    pub fn absorb(&mut self, shares: &[&Share]) {
        assert!(!shares.is_empty(), "a member keeps a share itself");
        for (at, sum) in self.sum.iter_mut().enumerate() {
            *sum = within_range(shares.iter().fold(0.0, |total, share| total + f64::from(share.sum[at])));
        }
        self.weight = shares.iter().fold(0.0, |total, share| total + share.weight);
    }
}

impl Share {
    /// Whether a share that came in can be one, in a session of `members` members: no honest weight exceeds their
    /// number, nor half of it once it was split.
    pub fn check(&self, dimension: usize, members: usize) -> Result<(), MessageError> {
        check_values(&self.sum, dimension)?;
        let most = members as f64 / 2.0;
        if !(self.weight > 0.0 && self.weight <= most) {
            return Err(MessageError::Weight {
                found: self.weight,
                most,
            });
        }
        Ok(())
    }
}
