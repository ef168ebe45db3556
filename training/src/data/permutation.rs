//! A shuffle without memory: the place of one number under a seeded permutation of `0..length`, computed on its own.
//! A balanced Feistel network over the next power of four, walked until it lands in range (Black and Rogaway, 2002). It
//! mixes well enough for sampling and is no cipher.

use crate::randomness::StreamName;
use rand_chacha::rand_core::RngCore;

/// Six rounds: four are the least for which Luby and Rackoff's argument covers both directions; two more cost nothing here.
const ROUNDS: usize = 6;

/// A permutation of `0..length`.
#[derive(Debug, Clone)]
pub struct Permutation {
    length: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of this name.
    pub fn new(name: StreamName<'_>, length: u64) -> Self {
        let mut rng = name.open();
        let bits = u64::BITS - length.saturating_sub(1).leading_zeros();
        Self {
            length,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    /// Where `place` goes. `place` must be below the length.
    pub fn at(&self, place: u64) -> u64 {
        assert!(place < self.length, "{place} is not among the {} places", self.length);
        let mut value = self.once(place);
        while value >= self.length {
            value = self.once(value);
        }
        value
    }

    fn once(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (scatter(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finaliser of MurmurHash3 (Appleby, 2011).
fn scatter(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let value = (value ^ (value >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permutation(seed: u64, length: u64) -> Permutation {
        let name = StreamName {
            purpose: "test",
            seed,
            ..StreamName::default()
        };
        Permutation::new(name, length)
    }

    #[test]
    fn every_place_is_taken_once_for_any_length() {
        for length in [1, 2, 3, 4, 5, 17, 64, 1000, 4097] {
            let permutation = permutation(1, length);
            let mut taken = vec![false; length as usize];
            for place in 0..length {
                let to = permutation.at(place) as usize;
                assert!(!std::mem::replace(&mut taken[to], true), "{length}: {to} twice");
            }
        }
    }

    #[test]
    fn seeds_differ_and_neighbours_part() {
        let (one, other) = (permutation(1, 10_000), permutation(2, 10_000));
        let same = (0..10_000).filter(|place| one.at(*place) == other.at(*place)).count();
        assert!(same < 20, "{same}");
        let near = (1..10_000u64)
            .filter(|place| one.at(*place).abs_diff(one.at(place - 1)) < 100)
            .count();
        assert!(
            (100..400).contains(&near),
            "two random places are near with chance 2 %: {near}"
        );
    }

    #[test]
    fn the_largest_lengths_work() {
        let permutation = permutation(3, u64::MAX / 4);
        assert!(permutation.at(0) < u64::MAX / 4 && permutation.at(u64::MAX / 4 - 1) < u64::MAX / 4);
    }
}
