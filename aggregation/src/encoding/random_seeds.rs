//! An update as seeds and scalars: a sum of random directions that the receiver makes again (zeroth-order training as in
//! Malladi et al. 2023, NeurIPS, "MeZO"; sent as such by Qin et al. 2024, ICML, "FedKSeed"). It suits trainers that step along
//! random directions, and describes any other update only in so far as a few directions can: a share of about pairs / d.
//!
//! Body: pairs u32 · seeds, u64 each, increasing · scalars, f32 each, in the order of their seeds. With s the scalars,
//!
//! ```text
//! decoded x̂ = Σ_j s_j z_j,   in the order of the seeds, in f32
//! z_j ∈ {−1, +1}^d: coordinate i is −1 where bit i of ChaCha8's output is set (bytes in order, least bit first),
//! keyed by the 8 bytes of the seed and the 24 of "synod random direction 1"
//! ```
//! Signs rather than Gaussian values, because a logarithm's last bit depends on the machine; their variance is 1 as well.
//! The generator can be entered anywhere, so that a range costs what it holds. Canonical form: seeds increase; a scalar is +0
//! or normal and at most 2¹⁰⁰ in magnitude, so that no sum overflows.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting};
use crate::numeric::CHUNK;

/// The encoding by random directions.
#[derive(Clone, Copy, Debug)]
pub struct RandomSeeds {
    pairs: u32,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 11;

/// The most pairs: decoding costs as many passes over the update, and generating as many directions.
pub const MAX_PAIRS: u32 = 1024;

/// 2¹⁰⁰.
const MOST: f32 = 1_267_650_600_228_229_401_496_703_205_376.0;

impl RandomSeeds {
    /// An encoding of `pairs` seeds and scalars.
    ///
    /// # Panics
    /// When `pairs` is not between 1 and 1024.
    pub fn new(pairs: u32) -> Self {
        assert!((1..=MAX_PAIRS).contains(&pairs), "between 1 and {MAX_PAIRS} pairs");
        Self { pairs }
    }

    /// Writes what a trainer found along directions that it knows: their seeds and its scalars.
    ///
    /// # Panics
    /// When these are not as many pairs as the encoding has, with increasing seeds and scalars of at most 2¹⁰⁰.
    pub fn encode_pairs(&self, dimension: usize, pairs: &[(u64, f32)], out: &mut Vec<u8>) {
        assert_eq!(pairs.len(), self.pairs as usize, "the session's number of pairs");
        assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "seeds increase");
        begin(out, TAG, dimension, self.encoded_len(dimension));
        out.extend_from_slice(&self.pairs.to_le_bytes());
        out.extend(pairs.iter().flat_map(|(seed, _)| seed.to_le_bytes()));
        for (_, scalar) in pairs {
            assert!(scalar.abs() <= MOST, "a scalar is at most 2^100, and {scalar} is not");
            let scalar = if scalar.is_normal() { *scalar } else { 0.0 };
            out.extend_from_slice(&scalar.to_le_bytes());
        }
    }

    fn pairs<'a>(&self, rest: &'a [u8]) -> impl Iterator<Item = (u64, f32)> + use<'a> {
        let (seeds, scalars) = rest.split_at(8 * self.pairs as usize);
        let scalars = scalars
            .as_chunks::<4>()
            .0
            .iter()
            .map(|scalar| f32::from_le_bytes(*scalar));
        let seeds = seeds.as_chunks::<8>().0.iter().map(|seed| u64::from_le_bytes(*seed));
        seeds.zip(scalars)
    }
}

/// Adds `scalar` times the coordinates `first ..` of a seed's direction; `first` is a multiple of 16384. A trainer that
/// searches along random directions moves by this.
pub fn add_direction(seed: u64, scalar: f32, first: usize, out: &mut [f32]) {
    let mut direction = Direction::enter(seed, first);
    for out in out.chunks_mut(CHUNK) {
        let signs = direction.next_signs();
        let (groups, rest) = out.as_chunks_mut::<8>();
        let last = signs[groups.len().min(CHUNK / 8 - 1)];
        for (group, &signs) in groups.iter_mut().zip(signs) {
            for (bit, value) in group.iter_mut().enumerate() {
                *value += signed(scalar, signs, bit);
            }
        }
        for (bit, value) in rest.iter_mut().enumerate() {
            *value += signed(scalar, last, bit);
        }
    }
}

/// ⟨x, z⟩ for a seed's direction, in f64, coordinate after coordinate.
pub fn along_direction(seed: u64, values: &[f32]) -> f64 {
    let mut direction = Direction::enter(seed, 0);
    let mut lanes = [0.0f64; 8];
    for values in values.chunks(CHUNK) {
        let signs = direction.next_signs();
        let (groups, rest) = values.as_chunks::<8>();
        let last = signs[groups.len().min(CHUNK / 8 - 1)];
        for (group, &signs) in groups.iter().zip(signs) {
            for (bit, (lane, &value)) in lanes.iter_mut().zip(group).enumerate() {
                *lane += f64::from(signed(value, signs, bit));
            }
        }
        for (bit, (lane, &value)) in lanes.iter_mut().zip(rest).enumerate() {
            *lane += f64::from(signed(value, last, bit));
        }
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

/// `value`, negated where bit `bit` of `signs` is set.
fn signed(value: f32, signs: u8, bit: usize) -> f32 {
    f32::from_bits(value.to_bits() ^ (u32::from(signs) >> bit & 1) << 31)
}

/// A direction's signs, a chunk at a time, eight a byte.
struct Direction {
    random: ChaCha8Rng,
    signs: [u8; CHUNK / 8],
}

impl Direction {
    /// A seed's direction from coordinate `first` on.
    fn enter(seed: u64, first: usize) -> Self {
        let mut key = *b"........synod random direction 1";
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_word_pos(first as u128 / 32);
        Self {
            random,
            signs: [0; CHUNK / 8],
        }
    }

    fn next_signs(&mut self) -> &[u8; CHUNK / 8] {
        self.random.fill_bytes(&mut self.signs);
        &self.signs
    }
}

impl Encoder for RandomSeeds {
    /// Takes directions that follow from the update's own bits, so that they differ from update to update, and goes along
    /// each as far as brings it nearest to what is left (matching pursuit).
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        let base = values.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, value| {
            (hash ^ u64::from(value.to_bits()))
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(5)
        });
        let mut left = values.to_vec();
        let pairs: Vec<(u64, f32)> = (0..u64::from(self.pairs))
            .map(|pair| {
                let seed = base << 10 | pair;
                let along = along_direction(seed, &left) / values.len().max(1) as f64;
                let scalar = (along as f32).clamp(-MOST, MOST);
                let scalar = if scalar.is_normal() { scalar } else { 0.0 };
                left.iter_mut()
                    .for_each(|value| *value = value.clamp(-f32::MAX / 2.0, f32::MAX / 2.0));
                add_direction(seed, -scalar, 0, &mut left);
                (seed, scalar)
            })
            .collect();
        self.encode_pairs(values.len(), &pairs, out);
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let mut least = Some(0);
        for (entry, (seed, scalar)) in self.pairs(check_setting(body, self.pairs)?).enumerate() {
            if least.is_none_or(|least| seed < least) {
                return Err(DecodeError::Place { entry });
            }
            least = seed.checked_add(1);
            if scalar.to_bits() != 0 && !(scalar.is_normal() && scalar.abs() <= MOST) {
                return Err(DecodeError::Scale { block: entry });
            }
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, _) = body_for_range(bytes, first, out.len());
        out.fill(0.0);
        // Chunk by chunk, so that the sums stay in a cache.
        for (index, out) in out.chunks_mut(CHUNK).enumerate() {
            for (seed, scalar) in self.pairs(&body[4..]) {
                add_direction(seed, scalar, first + index * CHUNK, out);
            }
        }
    }

    /// Depends on the dimension only by refusing none.
    fn encoded_len(&self, _dimension: usize) -> usize {
        HEADER_LEN + 4 + 12 * self.pairs as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trainer_found_comes_back() {
        let encoder = RandomSeeds::new(3);
        let pairs = [(5, 0.5), (7, 0.0), (u64::MAX, -2.0)];
        let (mut bytes, mut decoded) = (Vec::new(), vec![9.0; CHUNK + 37]);
        encoder.encode_pairs(decoded.len(), &pairs, &mut bytes);
        assert_eq!(bytes.len(), 16 + 4 + 36);
        encoder.decode(&bytes, &mut decoded).unwrap();
        let mut expected = vec![0.0; CHUNK + 37];
        for (seed, scalar) in pairs {
            add_direction(seed, scalar, 0, &mut expected);
        }
        assert_eq!(decoded, expected);
        assert!(decoded.iter().all(|value| [1.5, 2.5].contains(&value.abs())));
    }

    #[test]
    fn directions_are_fixed_balanced_and_unlike_each_other() {
        let mut first = vec![0.0; 40];
        add_direction(1, 1.0, 0, &mut first);
        let signs: String = first.iter().map(|value| if *value < 0.0 { '-' } else { '+' }).collect();
        assert_eq!(signs, "+-++++-+---++++-+++--+--+++-+-+----+-++-");
        let (mut a, mut b) = (vec![0.0; CHUNK], vec![0.0; CHUNK]);
        add_direction(1, 1.0, 0, &mut a);
        add_direction(2, 1.0, 0, &mut b);
        let spread = 5.0 * (CHUNK as f64).sqrt();
        assert!(a.iter().map(|value| f64::from(*value)).sum::<f64>().abs() < spread);
        assert!(along_direction(1, &b).abs() < spread);
        assert_eq!(along_direction(1, &a), CHUNK as f64);
    }

    #[test]
    fn an_update_along_its_directions_is_approached() {
        let encoder = RandomSeeds::new(64);
        let values: Vec<f32> = (0..32).map(|i| ((i * 13) % 29) as f32 - 14.0).collect();
        let (mut bytes, mut decoded) = (Vec::new(), vec![0.0; 32]);
        encoder.encode(&values, &mut bytes);
        encoder.decode(&bytes, &mut decoded).unwrap();
        let error: f32 = decoded.iter().zip(&values).map(|(a, b)| (a - b) * (a - b)).sum();
        let norm: f32 = values.iter().map(|value| value * value).sum();
        assert!(error < 0.3 * norm, "{error} of {norm}");
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = RandomSeeds::new(2);
        let mut bytes = Vec::new();
        encoder.encode_pairs(4, &[(1, 1.0), (2, 2.0)], &mut bytes); // seeds at 20 and 28, scalars at 36 and 40
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.validate(&bytes, 4), Err(expected));
        };
        check(28, &[1], DecodeError::Place { entry: 1 });
        check(20, &[0xff; 8], DecodeError::Place { entry: 1 });
        for scalar in [f32::NAN, f32::INFINITY, -0.0, 1e-40, 1.3e30] {
            check(40, &scalar.to_le_bytes(), DecodeError::Scale { block: 1 });
        }
    }
}
