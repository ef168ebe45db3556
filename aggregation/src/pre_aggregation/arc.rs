//! Adaptive robust clipping (Allouah, Guerraoui, Gupta, Jellouli, Rizk & Stephan 2024, arXiv 2405.14432, algorithm 2).
//! It shortens; it never drops, and it turns no update.
//!
//! The k = ⌊2 f (n − f) / n⌋ longest updates are shortened to the norm of the longest of the others. Unlike a fixed norm it
//! keeps the (f, κ)-robustness of the rule that follows, and f far updates cannot move what the others are clipped to.
//! n > 2 f · keeps the breakdown point of the rule · norms only, O(n log n) after the pass.

use super::Mixture;
use super::clipping::factors_to;
use crate::gram::{Gram, order_by};

pub(super) fn mixture(gram: &Gram, f: usize) -> Mixture {
    let n = gram.len();
    let clipped = 2 * f * (n - f) / n;
    let order = order_by(n, |i| gram.squared_norm(i));
    let longest_kept = gram.squared_norm(order[n - 1 - clipped]).sqrt();
    Mixture::scaling(&factors_to(gram, longest_kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_take_the_norm_of_the_longest_of_the_others() {
        // Norms 1, 2, 3, 10, 100; f = 1: k = ⌊2 · 4 / 5⌋ = 1.
        let mut products = vec![0.0; 25];
        for (i, norm) in [1.0f64, 2.0, 3.0, 10.0, 100.0].into_iter().enumerate() {
            products[i * 6] = norm * norm;
        }
        let gram = Gram::from_products(5, products);
        assert_eq!(mixture(&gram, 1), Mixture::scaling(&[1.0, 1.0, 1.0, 1.0, 0.1]));
        assert_eq!(mixture(&gram, 2), Mixture::scaling(&[1.0, 1.0, 1.0, 0.3, 0.03]));
        assert_eq!(mixture(&gram, 0), Mixture::identity(5));
    }
}
