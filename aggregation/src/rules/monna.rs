//! MoNNA, the mean of the nearest neighbours of a trusted member (Farhadkhani, Guerraoui, Gupta, Hoang, Pinot & Stephan
//! 2023, ICML, "Robust Collaborative Learning with Linear Gradient Overhead"). With a faulty pivot it promises nothing.
//!
//! The mean of the n − f updates nearest to the pivot's, its own among them; ties by index. The pivot is a place in the
//! order of members. n > 2f (proved for n > 11f) · breakdown point f/n < ½ with an honest pivot · two passes, O(n² d).
//! Verdict weight: 1/(n − f) for the chosen.

use crate::gram::Gram;
use crate::weighted_sum::Weights;

pub(super) fn weights(gram: &Gram, f: usize, pivot: usize) -> Weights {
    let n = gram.len();
    let nearest = gram.by_distance_from(pivot);
    Weights::mean_of(&nearest[..n - f], n)
}
