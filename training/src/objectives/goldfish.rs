//! The Goldfish loss: one token in k is left out of the loss, always the same one after the same tokens, so that no
//! passage is learnt word by word (Hans et al., 2024, arXiv:2406.10209). It chooses tokens; it computes no loss.
//!
//! Two ways to choose. [`GoldfishMode::Apertus`] reproduces the masks of Apertus (arXiv:2509.14233) bit for bit: the
//! product of the last h token ids, in wrapping 64-bit arithmetic, picks an entry of a table of random numbers. Products
//! of ids collapse to zero (each even id gives a factor of two), for byte tokens nearly always, and rates are then far from
//! 1/k. [`GoldfishMode::Mixed`] hashes the same window well, for any vocabulary, and never looks past a document's start.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Vocabulary, within};

/// Which tokens are left out of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GoldfishConfig {
    /// One token in this many is left out. 50 is Apertus's value: two percent of the tokens for a memory that hardly grows
    /// with repetition.
    pub k: u32,
    /// Tokens that decide, the one in question among them. 50 is Apertus's value: shorter windows would mask common phrases.
    pub h: u32,
    /// How they decide.
    pub mode: GoldfishMode,
}

impl Default for GoldfishConfig {
    fn default() -> Self {
        Self {
            k: 50,
            h: 50,
            mode: GoldfishMode::Mixed,
        }
    }
}

/// How the last h tokens decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoldfishMode {
    /// A mixing hash: the rate is 1/k for every vocabulary.
    Mixed,
    /// The product and table of Apertus, bit for bit.
    Apertus,
}

/// With bytes, products of more ids than this are mostly zero (measured on English: 84 % at h = 50).
const MOST_BYTES_IN_A_PRODUCT: u32 = 13;

impl GoldfishConfig {
    pub(super) fn check(&self, vocabulary: &Vocabulary) -> Result<(), ConfigError> {
        within("loss.goldfish.k", self.k, 2, 1_000_000)?;
        within("loss.goldfish.h", self.h, 1, 4096)?;
        match (self.mode, vocabulary) {
            (GoldfishMode::Apertus, Vocabulary::Byte) if self.h > MOST_BYTES_IN_A_PRODUCT => {
                Err(ConfigError::GoldfishOfBytes {
                    h: self.h,
                    most: MOST_BYTES_IN_A_PRODUCT,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Sets the weights of the chosen tokens of one row to zero. `targets` are the row's labels (already shifted); `before` are
/// the stream's tokens before the first of them, as far as they are known.
///
/// A label is only left out where h labels up to it are known. `Apertus` looks at the row alone, as its code does, and
/// across documents; `Mixed` looks back into `before` and not past an end of document, hence chooses the same tokens of a
/// document wherever it is packed (where `before` has h - 1 tokens or the beginning of the document).
pub fn mask_goldfish(config: &GoldfishConfig, before: &[u32], targets: &[u32], eod: u32, weights: &mut [f32]) {
    assert_eq!(targets.len(), weights.len(), "one weight a target");
    match config.mode {
        GoldfishMode::Apertus => mask_by_product(config, targets, weights),
        GoldfishMode::Mixed => mask_by_mixing(config, before, targets, eod, weights),
    }
}

fn mask_by_product(config: &GoldfishConfig, targets: &[u32], weights: &mut [f32]) {
    let (table, limit) = (table(), (1.0 / f64::from(config.k)) as f32);
    let h = config.h as usize;
    for (window, weight) in targets.windows(h).zip(weights.iter_mut().skip(h - 1)) {
        let key = window
            .iter()
            .fold(1i64, |key, token| key.wrapping_mul(i64::from(*token)));
        if table[key.rem_euclid(TABLE_LENGTH as i64) as usize] < limit {
            *weight = 0.0;
        }
    }
}

/// The multiplier of the rolling hash: odd, so that no token's part is ever lost.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

fn mask_by_mixing(config: &GoldfishConfig, before: &[u32], targets: &[u32], eod: u32, weights: &mut [f32]) {
    let h = config.h as usize;
    let limit = u64::MAX / u64::from(config.k);
    let before = &before[before.len().saturating_sub(h - 1)..];
    // MULTIPLIER^h: the factor with which a token leaves the window.
    let leaving = (0..h).fold(1u64, |power, _| power.wrapping_mul(MULTIPLIER));
    let label = |at: usize| match at < before.len() {
        true => before[at],
        false => targets[at - before.len()],
    };
    let (mut hash, mut known) = (0u64, 0usize);
    for at in 0..before.len() + targets.len() {
        let token = label(at);
        hash = hash.wrapping_mul(MULTIPLIER).wrapping_add(scatter(u64::from(token)));
        if known >= h {
            hash = hash.wrapping_sub(leaving.wrapping_mul(scatter(u64::from(label(at - h)))));
        }
        known += 1;
        if known >= h && at >= before.len() && scatter(hash) < limit {
            weights[at - before.len()] = 0.0;
        }
        if token == eod {
            (hash, known) = (0, 0);
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the input moves every bit of the output.
fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(MULTIPLIER);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

const TABLE_LENGTH: usize = 1_000_003;
const TABLE_SEED: u32 = 2_971_215_073;

/// Apertus's table: what PyTorch's CPU generator draws from [0, 1) under its seed, the lower 24 bits of each output of
/// the Mersenne Twister. 4 MB, made at first use.
fn table() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut twister = MersenneTwister::new(TABLE_SEED);
        (0..TABLE_LENGTH)
            .map(|_| (twister.next() & 0xFF_FFFF) as f32 / 16_777_216.0)
            .collect()
    })
}

/// MT19937 (Matsumoto and Nishimura, 1998), seeded by its 32-bit routine of 2002.
struct MersenneTwister {
    state: [u32; 624],
    at: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(last ^ (last >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, at: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7FFF_FFFF);
                let twist = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (joined >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(config: &GoldfishConfig, before: &[u32], targets: &[u32]) -> Vec<usize> {
        let mut weights = vec![1.0; targets.len()];
        mask_goldfish(config, before, targets, 0, &mut weights);
        (0..targets.len()).filter(|at| weights[*at] == 0.0).collect()
    }

    fn apertus(k: u32, h: u32) -> GoldfishConfig {
        GoldfishConfig {
            k,
            h,
            mode: GoldfishMode::Apertus,
        }
    }

    fn mixed(k: u32, h: u32) -> GoldfishConfig {
        GoldfishConfig {
            k,
            h,
            mode: GoldfishMode::Mixed,
        }
    }

    /// The Mersenne Twister's well-known floats for seed 0, and the table's first numbers and counts as computed from
    /// PyTorch's generator.
    #[test]
    fn the_table_is_that_of_pytorch() {
        let mut twister = MersenneTwister::new(0);
        let first: Vec<_> = (0..5)
            .map(|_| (twister.next() & 0xFF_FFFF) as f32 / 16_777_216.0)
            .collect();
        for (got, expected) in first.iter().zip([0.4963, 0.7682, 0.0885, 0.1320, 0.3074]) {
            assert!((got - expected).abs() < 5e-5, "{first:?}");
        }
        let numbers: Vec<u32> = table()[..8].iter().map(|x| (x * 16_777_216.0) as u32).collect();
        assert_eq!(
            numbers,
            [3920565, 7403182, 12434395, 15255051, 11934008, 18878, 3643388, 640936]
        );
        let below = |limit: f32| table().iter().filter(|x| **x < limit).count();
        assert_eq!((below(0.02), below(0.25)), (19_901, 249_533));
    }

    /// A vector of the Apertus masks: labels y, h = 4, k = 4.
    #[test]
    fn apertus_masks_are_reproduced() {
        let labels: Vec<u32> = (0..64).map(|i| (7 * i * i + 13 * i + 5) % 1000 + 3).collect();
        assert_eq!(
            dropped(&apertus(4, 4), &[1, 2, 3], &labels),
            [10, 14, 23, 29, 30, 35, 47, 50, 51, 54, 55, 56, 60]
        );
    }

    #[test]
    fn products_wrap_as_signed_numbers_and_an_id_of_zero_decides_alone() {
        // 0 in the window: entry 0 of the table, 0.2337, which is below 1/4 and not below 1/5.
        let labels = [9, 0, 9, 9];
        assert_eq!(dropped(&apertus(4, 2), &[], &labels), [1, 2]);
        assert_eq!(dropped(&apertus(5, 2), &[], &[0, 0]), [0usize; 0]);
        // 131071^4 is above 2^63: as a signed number it is negative, and the remainder must not be.
        let product = (0..4).fold(1i64, |key, _| key.wrapping_mul(131_071));
        assert!(product < 0 || i64::checked_pow(131_071, 4).is_none());
        dropped(&apertus(50, 4), &[], &[131_071; 64]);
    }

    #[test]
    fn mixing_keeps_the_rate_where_products_collapse() {
        let text: Vec<u32> = (0..200_000u32)
            .map(|i| [32, 101, 116, 32, 97, 111, 32, 110][(scatter(u64::from(i)) % 8) as usize])
            .collect();
        let rate = |config: &GoldfishConfig| dropped(config, &[], &text).len() as f64 / text.len() as f64;
        assert!((rate(&mixed(50, 50)) - 0.02).abs() < 0.002);
        assert!((rate(&mixed(4, 13)) - 0.25).abs() < 0.01);
        let collapsed = rate(&apertus(50, 50));
        assert!(collapsed < 0.005, "{collapsed}");
    }

    #[test]
    fn a_passage_is_masked_alike_wherever_it_stands_and_however_it_is_cut() {
        let passage: Vec<u32> = (0..400).map(|i| (scatter(i) % 200) as u32 + 1).collect();
        let config = mixed(4, 20);
        let alone = dropped(&config, &[], &passage);
        assert!((50..150).contains(&alone.len()), "{}", alone.len());

        // Behind another document, whose tokens must not matter.
        let mut packed: Vec<u32> = (0..33).collect();
        packed.push(0);
        packed.extend(&passage);
        let shifted: Vec<_> = dropped(&config, &[], &packed)
            .into_iter()
            .filter(|at| *at >= 34)
            .map(|at| at - 34)
            .collect();
        assert_eq!(shifted, alone);

        // Cut into two rows, the second of which knows what came before.
        let (first, second) = passage.split_at(150);
        let mut cut = dropped(&config, &[], first);
        cut.extend(dropped(&config, first, second).into_iter().map(|at| at + 150));
        assert_eq!(cut, alone);
        assert!(alone.iter().all(|at| *at >= 19));
    }

    #[test]
    fn long_products_of_bytes_are_refused_with_what_to_do() {
        let error = apertus(50, 50).check(&Vocabulary::Byte).unwrap_err().to_string();
        assert!(error.contains("mixed") && error.contains("13"), "{error}");
        assert_eq!(apertus(50, 13).check(&Vocabulary::Byte), Ok(()));
        assert_eq!(mixed(50, 50).check(&Vocabulary::Byte), Ok(()));
        assert!(mixed(1, 50).check(&Vocabulary::Byte).is_err());
    }
}
