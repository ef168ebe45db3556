//! Comparative gradient elimination (Gupta, Liu & Vaidya 2021, ICDCN, "Byzantine Fault-Tolerant Distributed Optimization
//! Using Norms of Gradients"). It looks at lengths alone, so a short update in a wrong direction passes.
//!
//! The mean of the n − f shortest updates (the paper sums them: a matter of the step size); ties by index.
//! n > 2f · breakdown point f/n < ½ in that the result is no longer than the longest honest update · two passes, O(n d)
//! and the rest of the matrix of products. Verdict weight: 1/(n − f) for the chosen.

use crate::gram::{Gram, order_by};
use crate::weighted_sum::Weights;

pub(super) fn weights(gram: &Gram, f: usize) -> Weights {
    let n = gram.len();
    let shortest = order_by(n, |i| gram.squared_norm(i));
    Weights::mean_of(&shortest[..n - f], n)
}
