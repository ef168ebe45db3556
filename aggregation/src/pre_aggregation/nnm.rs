//! Nearest-neighbour mixing (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot & Stephan 2023, AISTATS, algorithm 2).
//! It drops nobody: a far update still makes a row, out of its own neighbours.
//!
//! Row i is the mean of the n − f updates nearest to x_i, itself among them; ties by index. It brings the κ of the rule
//! that follows to at most (8 f / (n − f)) (κ + 1), which is of the best possible order.
//! n > 2 f · keeps the breakdown point of the rule · O(n² log n) after the pass.

use super::Mixture;
use crate::gram::Gram;

pub(super) fn mixture(gram: &Gram, f: usize) -> Mixture {
    let n = gram.len();
    let groups: Vec<Vec<usize>> = (0..n)
        .map(|i| {
            let mut nearest = gram.by_distance_from(i);
            nearest.truncate(n - f);
            nearest
        })
        .collect();
    Mixture::means(&groups, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_mean_of_its_neighbours() {
        // Points 0, 1, 3 on a line.
        let points = [0.0, 1.0, 3.0];
        let products = points.iter().flat_map(|a| points.map(|b| a * b)).collect();
        let gram = Gram::from_products(3, products);
        let expected = Mixture::means(&[vec![0, 1], vec![0, 1], vec![1, 2]], 3);
        assert_eq!(mixture(&gram, 1), expected);
    }
}
