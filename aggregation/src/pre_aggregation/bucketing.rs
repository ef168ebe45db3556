//! Bucketing (Karimireddy, He & Jaggi 2022, ICLR, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing").
//! It draws no randomness: the permutation follows from a seed that all members share.
//!
//! Members in the order of a permutation, cut into buckets of s (the last may be smaller); each bucket becomes its mean.
//! f faulty members spoil at most f of the ⌈n/s⌉ rows, so the rule that follows must bear f of ⌈n/s⌉: ask before.
//! n ≥ 1 · needs f < ⌈n/s⌉ / 2 · O(n), and no pass over the data.

use super::Mixture;

pub(super) fn mixture(n: usize, size: usize, seed: u64) -> Mixture {
    let order = permutation(n, seed);
    let buckets: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
    Mixture::means(&buckets, n)
}

/// A permutation of 0..n: Fisher & Yates's shuffle, driven by SplitMix64 (Steele, Lea & Flood 2014, OOPSLA). Bucketing
/// holds in the worst case over permutations, so that it need not be hard to guess, only the same for all.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let other = below(last as u64 + 1, &mut state);
        order.swap(last, other as usize);
    }
    order
}

/// A uniform number below `bound`: what would favour the small ones is drawn again.
fn below(bound: u64, state: &mut u64) -> u64 {
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = *state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        if word < fair {
            return word % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_permutation_and_others_have_others() {
        assert_eq!(permutation(8, 1), permutation(8, 1));
        let mut seen: Vec<Vec<usize>> = (0..200).map(|seed| permutation(3, seed)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 6, "all orders of three occur");
    }

    #[test]
    fn everybody_is_in_one_bucket() {
        let mixture = mixture(5, 2, 7);
        assert_eq!(mixture.rows(), 3);
        let totals = mixture.back(&[2.0, 2.0, 1.0]);
        assert_eq!(totals, [1.0; 5]);
    }
}
