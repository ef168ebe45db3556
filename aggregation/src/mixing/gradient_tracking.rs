//! Gradient tracking: beside its vector each member gossips an estimate of everyone's mean gradient, and steps along that
//! (Di Lorenzo & Scutari 2016, IEEE TSIPN; DIGing: Nedić, Olshevsky & Shi 2017, SIAM J. Optim.). Unlike data then do not
//! pull members apart, at twice the bytes. It defends against nobody.
//!
//! ```text
//! x_i ← Σ_j W_ij (x_j − η y_j);   y_i ← Σ_j W_ij y_j + g_i(new) − g_i(old),  from y_i = g_i
//! ```
//! The mixing of both is [`gossip`](super::gossip::gossip) on weights that keep the mean, else y does not track.

use serde::{Deserialize, Serialize};

use super::within_range;

/// A member's estimate, and the gradient that went into it last.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GradientTracking {
    estimate: Vec<f32>,
    last: Vec<f32>,
}

impl GradientTracking {
    /// The beginning: the estimate is the own gradient.
    pub fn new(gradient: &[f32]) -> Self {
        Self {
            estimate: gradient.to_vec(),
            last: gradient.to_vec(),
        }
    }

    /// The estimate of the mean gradient: what to step along, and what to send.
    pub fn estimate(&self) -> &[f32] {
        &self.estimate
    }

    /// Takes the mix of the neighbourhood's estimates and the gradient at the new vector.
    ///
    /// # Panics
    /// When a length differs.
    pub fn track(&mut self, mixed: &[f32], gradient: &[f32]) {
        assert_eq!(mixed.len(), self.estimate.len(), "the mix has the model's dimension");
        assert_eq!(
            gradient.len(),
            self.estimate.len(),
            "the gradient has the model's dimension"
        );
        for (((estimate, &mixed), &new), last) in self.estimate.iter_mut().zip(mixed).zip(gradient).zip(&mut self.last)
        {
            *estimate = within_range(f64::from(mixed) + f64::from(new) - f64::from(*last));
            *last = new;
        }
    }
}
