//! FLTrust (Cao, Fang, Liu & Gong 2021, NDSS): members count by how far they agree with an update that is trusted.
//! It is as good as that update: a validator with few or strange data judges all others wrongly.
//!
//! ```text
//! w_i = max(0, cos(x_i, g)),   out = Σ w_i (‖g‖ / ‖x_i‖) x_i / Σ w_i       g: the reference
//! ```
//! The reference is a further input, computed by a validator on clean data of its own from the same model. Where nobody
//! agrees with it, the result is zero: the round changes nothing.
//! n ≥ 1 · any number of faulty members while the reference is honest · two passes, O(n² d). Verdict weight:
//! w_i / Σ w; `Excluded` at 0, `Clipped` where the update was longer than the reference.

use super::Weighing;
use crate::gram::Gram;
use crate::weighted_sum::Weights;

/// Weights of all but the last row, which is the reference.
pub(super) fn weigh(gram: &Gram) -> Weighing {
    let reference = gram.len() - 1;
    let length = gram.squared_norm(reference).sqrt();
    let lengths: Vec<f64> = (0..reference).map(|i| gram.squared_norm(i).sqrt()).collect();
    let trust: Vec<f64> = (0..reference)
        .map(|i| {
            let cosine = gram.product(i, reference) / lengths[i] / length;
            if cosine > 0.0 { cosine } else { 0.0 } // NaN, of a zero vector, is no agreement
        })
        .collect();
    let total = trust.iter().fold(0.0, |sum, trust| sum + trust);
    let weights = trust
        .iter()
        .zip(&lengths)
        .map(|(trust, own)| if *trust > 0.0 { trust * (length / own) } else { 0.0 })
        .collect();
    Weighing {
        weights: Weights {
            weights,
            divisor: if total > 0.0 { total } else { 1.0 },
        },
        shares: Some(trust),
        clipped: lengths.iter().map(|own| *own > length).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_agrees_counts_and_nobody_is_longer_than_the_reference() {
        // x: (4, 0), (0, 3), (−1, 0); reference (2, 0).
        let points = [[4.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [2.0, 0.0]];
        let products = points
            .iter()
            .flat_map(|a| points.map(|b| a[0] * b[0] + a[1] * b[1]))
            .collect();
        let found = weigh(&Gram::from_products(4, products));
        assert_eq!(found.weights.weights, [0.5, 0.0, 0.0]);
        assert_eq!(found.weights.divisor, 1.0);
        assert_eq!(found.clipped, [true, true, false]);
    }
}
