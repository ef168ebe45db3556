//! Seeded random streams: each is named by what it is for, the session's seed, the member, the round and the step.
//! It never asks the operating system for randomness, so that a restarted member draws the same numbers again.

pub use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Which of a session's streams is meant. Streams with different names are independent.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamName<'a> {
    /// What the numbers are for.
    pub purpose: &'a str,
    /// The session's seed.
    pub seed: u64,
    /// Whose numbers they are; zeros where every member must draw the same.
    pub member: [u8; 32],
    /// The round, where it matters.
    pub round: u64,
    /// The step in the round, where it matters.
    pub step: u64,
}

impl StreamName<'_> {
    /// The stream of this name, at its beginning.
    pub fn open(&self) -> ChaCha8Rng {
        let mut hasher = blake3::Hasher::new_derive_key("synod training random stream v1");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&self.member);
        hasher.update(&self.round.to_le_bytes());
        hasher.update(&self.step.to_le_bytes());
        hasher.update(self.purpose.as_bytes());
        ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
    }
}

/// Uniform in `[0, 1)`, on a grid of 2⁻²⁴: exact, hence equal on every machine.
pub fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Uniform in `[-1, 1)`.
pub fn symmetric(rng: &mut ChaCha8Rng) -> f32 {
    2.0 * unit(rng) - 1.0
}

/// Uniform in `0..bound` (the bias of the multiply-shift method is below 2⁻³² for bounds below 2³²).
pub fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_same_stream_and_another_name_another() {
        let name = StreamName {
            purpose: "batch",
            seed: 1,
            member: [3; 32],
            round: 2,
            step: 5,
        };
        let first = name.open().next_u64();
        assert_eq!(first, name.open().next_u64());
        let others = [
            StreamName {
                purpose: "noise",
                ..name
            },
            StreamName { seed: 2, ..name },
            StreamName {
                member: [4; 32],
                ..name
            },
            StreamName { round: 3, ..name },
            StreamName { step: 6, ..name },
        ];
        for other in others {
            assert_ne!(first, other.open().next_u64(), "{other:?}");
        }
    }

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut rng = StreamName {
            purpose: "test",
            ..StreamName::default()
        }
        .open();
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&unit(&mut rng)));
            assert!((-1.0..1.0).contains(&symmetric(&mut rng)));
            seen[below(&mut rng, 5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }
}
