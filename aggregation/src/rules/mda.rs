//! Minimum-diameter averaging (El Mhamdi, Guerraoui & Rouault 2020, "Fast and Robust Distributed Learning in High
//! Dimension", from Rousseeuw 1985). It finds the best subset, not a good one, so its cost grows with C(n, f).
//!
//! The mean of the n − f updates whose largest mutual distance is least; of several such subsets, the one that comes first
//! in the order of indices. The least diameter is found among the n (n − 1)/2 distances by bisection: may f members be
//! left out so that no pair farther apart remains? That is a vertex cover of size f, searched by branching on an uncovered
//! pair: at most 2^f branches. n > 2f · breakdown point f/n < ½ · two passes, O(n² d), and the search. Sessions with
//! C(n, f) above [`MOST_SUBSETS`](super::MOST_SUBSETS) are refused. Verdict weight: 1/(n − f) for the chosen.

use crate::gram::Gram;
use crate::weighted_sum::Weights;

pub(super) fn weights(gram: &Gram, f: usize) -> Weights {
    let n = gram.len();
    let mut distances = Vec::with_capacity(n * n / 2 + 1);
    distances.push(0.0);
    for i in 0..n {
        distances.extend((0..i).map(|j| gram.squared_distance(i, j)));
    }
    distances.sort_unstable_by(f64::total_cmp);
    let everyone: Vec<usize> = (0..n).collect();
    // The greatest distance always does; find the first that does.
    let (mut below, mut enough) = (0, distances.len() - 1);
    while below < enough {
        let middle = (below + enough) / 2;
        if coverable(gram, distances[middle], &everyone, f) {
            enough = middle;
        } else {
            below = middle + 1;
        }
    }
    Weights::mean_of(&first_subset(gram, distances[enough], f), n)
}

/// Whether at most `budget` of `members` can be left out so that no two of the others are farther apart than `most`.
fn coverable(gram: &Gram, most: f64, members: &[usize], budget: usize) -> bool {
    let far = members.iter().enumerate().find_map(|(at, &i)| {
        let later = members[at + 1..].iter();
        later
            .copied()
            .find(|&j| gram.squared_distance(i, j) > most)
            .map(|j| (i, j))
    });
    let Some((i, j)) = far else { return true };
    budget > 0
        && [i, j].into_iter().any(|out| {
            let others: Vec<usize> = members.iter().copied().filter(|&member| member != out).collect();
            coverable(gram, most, &others, budget - 1)
        })
}

/// The first subset of n − f members within `most` of each other, which there is: each member is taken, in order, if the
/// rest can then still be completed.
fn first_subset(gram: &Gram, most: f64, f: usize) -> Vec<usize> {
    let n = gram.len();
    let (mut chosen, mut left_out): (Vec<usize>, usize) = (Vec::with_capacity(n - f), 0);
    let near = |i: usize, j: usize| gram.squared_distance(i, j) <= most;
    for member in 0..n {
        if chosen.len() == n - f {
            break;
        }
        let fits = chosen.iter().all(|&other| near(other, member));
        let candidates: Vec<usize> = (member + 1..n)
            .filter(|&later| near(member, later) && chosen.iter().all(|&other| near(other, later)))
            .collect();
        let lost = n - member - 1 - candidates.len();
        if fits && left_out + lost <= f && coverable(gram, most, &candidates, f - left_out - lost) {
            chosen.push(member);
        } else {
            left_out += 1;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All subsets, in order: what the search must agree with.
    fn by_enumeration(gram: &Gram, f: usize) -> Vec<usize> {
        let n = gram.len();
        let mut subsets: Vec<Vec<usize>> = (0u32..1 << n)
            .filter(|subset| subset.count_ones() as usize == n - f)
            .map(|subset| (0..n).filter(|i| subset >> i & 1 == 1).collect())
            .collect();
        subsets.sort();
        let diameter = |subset: &[usize]| {
            let pairs = subset.iter().flat_map(|&i| subset.iter().map(move |&j| (i, j)));
            pairs.fold(0.0f64, |most, (i, j)| most.max(gram.squared_distance(i, j)))
        };
        let mut best = subsets[0].clone();
        for subset in subsets {
            if diameter(&subset) < diameter(&best) {
                best = subset;
            }
        }
        best
    }

    #[test]
    fn the_search_finds_what_enumeration_finds_also_among_ties() {
        for seed in 0..60usize {
            let n = 4 + seed % 6;
            let points: Vec<f64> = (0..n)
                .map(|i| ((i * 7 + seed * 13 + i * i * seed) % (5 + seed % 9)) as f64)
                .collect();
            let products = points.iter().flat_map(|a| points.iter().map(move |b| a * b)).collect();
            let gram = Gram::from_products(n, products);
            for f in 0..n.div_ceil(2) {
                let expected = Weights::mean_of(&by_enumeration(&gram, f), n);
                assert_eq!(weights(&gram, f), expected, "{points:?}, f = {f}");
            }
        }
    }
}
