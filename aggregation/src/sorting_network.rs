//! Batcher's merge-exchange network for any number of values, and the part of it that given ranks depend on.
//! It moves no data; [`coordinates`](crate::coordinates) runs networks over many coordinates side by side.
//!
//! A network is a fixed list of comparators (a, b), a < b, each of which puts the smaller value in row a: no branch
//! depends on data, so many coordinates are sorted at once by lane-wise minima and maxima. Construction: K. E. Batcher 1968; Knuth, The Art of Computer Programming 3, §5.2.2, algorithm M,
//! which works for every n, not only for powers of two.

/// The comparators that sort `n` values, least first, in the order in which they must run.
pub fn merge_exchange(n: usize) -> Vec<(usize, usize)> {
    let mut comparators = Vec::new();
    if n < 2 {
        return comparators;
    }
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut distance) = (top, 0, p);
        loop {
            comparators.extend((0..n - distance).filter(|i| i & p == r).map(|i| (i, i + distance)));
            if q == p {
                break;
            }
            distance = q - p;
            q /= 2;
            r = p;
        }
        p /= 2;
    }
    comparators
}

/// Drops the comparators that no rank in `first..=last` depends on. The kept ranks come out as before.
pub fn prune(comparators: &[(usize, usize)], n: usize, first: usize, last: usize) -> Vec<(usize, usize)> {
    let mut needed: Vec<bool> = (0..n).map(|rank| (first..=last).contains(&rank)).collect();
    let mut kept = Vec::with_capacity(comparators.len());
    for &(low, high) in comparators.iter().rev() {
        if needed[low] || needed[high] {
            needed[low] = true;
            needed[high] = true;
            kept.push((low, high));
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 0/1 principle: a network that sorts every sequence of zeros and ones sorts everything.
    #[test]
    fn merge_exchange_sorts_every_zero_one_sequence_up_to_twelve() {
        for n in 0..=12usize {
            let network = merge_exchange(n);
            for pattern in 0u32..1 << n {
                let mut values: Vec<u32> = (0..n).map(|i| pattern >> i & 1).collect();
                apply(&network, &mut values);
                assert!(values.is_sorted(), "n = {n}, pattern {pattern:b}");
            }
        }
    }

    #[test]
    fn pruned_networks_deliver_the_kept_ranks() {
        for n in 1..=10usize {
            let full = merge_exchange(n);
            for trim in 0..=(n - 1) / 2 {
                let (first, last) = (trim, n - 1 - trim);
                let pruned = prune(&full, n, first, last);
                assert!(pruned.len() <= full.len());
                for pattern in 0u32..1 << n {
                    let mut sorted: Vec<u32> = (0..n).map(|i| pattern >> i & 1).collect();
                    let mut values = sorted.clone();
                    sorted.sort_unstable();
                    apply(&pruned, &mut values);
                    assert_eq!(values[first..=last], sorted[first..=last], "n = {n}, trim = {trim}");
                }
            }
        }
    }

    #[test]
    fn comparator_counts_are_batchers() {
        let counts: Vec<usize> = [2, 4, 8, 16, 32].into_iter().map(|n| merge_exchange(n).len()).collect();
        assert_eq!(counts, [1, 5, 19, 63, 191]);
    }

    fn apply(network: &[(usize, usize)], values: &mut [u32]) {
        for &(low, high) in network {
            if values[high] < values[low] {
                values.swap(low, high);
            }
        }
    }
}
