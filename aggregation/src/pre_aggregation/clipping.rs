//! Clipping to a fixed norm: x_i · min(1, c / ‖x_i‖).
//! It does not choose c, and a c below the honest norms breaks the (f, κ)-robustness of the rule that follows
//! (Allouah et al. 2024, arXiv 2405.14432, §3): where no norm is known, use `arc`.
//!
//! n ≥ 1 · norms only, O(n) after the pass.

use super::Mixture;
use crate::gram::Gram;

pub(super) fn mixture(gram: &Gram, norm: f64) -> Mixture {
    Mixture::scaling(&factors_to(gram, norm))
}

/// What each vector must be multiplied by to be no longer than `norm`.
pub(super) fn factors_to(gram: &Gram, norm: f64) -> Vec<f64> {
    (0..gram.len())
        .map(|i| {
            let length = gram.squared_norm(i).sqrt();
            if length > norm { norm / length } else { 1.0 }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_longer_is_shortened() {
        let gram = Gram::from_products(3, vec![16.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(factors_to(&gram, 2.0), [0.5, 1.0, 1.0]);
    }
}
