//! Gaussian noise for sums of clipped vectors: drawn exactly from the discrete Gaussian, in whole numbers (Canonne, Kamath and
//! Steinke 2020). It keeps no account of what is spent; that is the ledger's.
//!
//! **Why whole numbers.** A textbook sampler's floating-point output betrays the input: which floats can occur at all
//! depends on what the noise is added to (Mironov 2012). Here each clipped vector is first cut to a grid (towards zero, so
//! that no norm grows; the bound is then checked exactly, in integers), vectors are added as integers, the noise is an
//! integer drawn without any rounding, and only the noisy integer becomes a float. The grid depends on clip norm and
//! noise alone: its step is 2⁻²⁷ to 2⁻²⁸ of the noise's deviation. What is released is thus a function of (exact sum + exact
//! noise), and the Rényi bounds of the continuous Gaussian hold for it (shown in the same paper). With sampling,
//! accountants compute with the continuous Gaussian; at this resolution the two differ by far less than 2⁻¹⁰⁰⁰.
//!
//! **What it does not buy.** Drawing takes longer for some values than for others: whoever measures a node's time to within
//! nanoseconds learns something about its noise. And noise is only as secret as its seed ([`NoiseSeed`]).
//!
//! There is no `exp` or `ln` here: coins of probability e^(−a/b) are thrown with whole numbers alone.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::clip::{ClipError, Clipping, check_radius, l2_norm};
use super::secure_sum::{SecureSumError, SumPlan};
use super::stream::{STRIDE, Stream};
use crate::numeric::{CHUNK, first_non_finite};

/// The seed of one release's noise. It is consumed by that release and can be neither copied, printed nor serialised:
/// noise drawn twice from one seed can be subtracted away.
pub struct NoiseSeed(Zeroizing<[u8; 32]>);

impl NoiseSeed {
    /// Takes 32 fresh bytes from the operating system (`getrandom::fill` in the caller: this crate draws none). Never a
    /// session's seed or a beacon's value: whoever knows the seed subtracts the noise.
    pub fn from_os_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for NoiseSeed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("NoiseSeed(secret)")
    }
}

/// A mechanism that cannot work, or a vector that it cannot take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoiseError {
    /// Noise too small to protect or too large for the grid.
    #[error(
        "noise: noise_multiplier = {got} must lie between {MIN_MULTIPLIER} and {MAX_MULTIPLIER}; 1 is a usual value"
    )]
    Multiplier {
        /// What was asked for.
        got: f64,
    },
    /// Clip norm or vector.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The sum might leave 64-bit integers.
    #[error("noise: a sum takes at most {MAX_SUMMANDS} vectors; release it and begin another")]
    TooMany,
}

/// The least noise multiplier: below it, a budget means nothing.
pub const MIN_MULTIPLIER: f64 = 0.01;
/// The greatest: the grid then still has 2¹⁷ steps to the clip norm.
pub const MAX_MULTIPLIER: f64 = 1000.0;
/// The most vectors of one sum: each adds at most 2³⁵ steps to a coordinate.
pub const MAX_SUMMANDS: u32 = 1 << 24;

/// The noise has between 2²⁷ and 2²⁸ steps to its deviation.
const DEVIATION_BITS: u32 = 27;

/// The Gaussian mechanism for sums of vectors, each clipped to `clip_norm`: noise of deviation
/// `noise_multiplier · clip_norm` in each coordinate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianMechanism {
    clip_norm: f32,
    noise_multiplier: f64,
    /// The grid's step, a power of two.
    step: f64,
    /// The noise's deviation in steps, rounded up.
    deviation: u64,
}

impl GaussianMechanism {
    /// The mechanism of these two numbers.
    pub fn new(clip_norm: f32, noise_multiplier: f64) -> Result<Self, NoiseError> {
        check_radius(clip_norm)?;
        check_multiplier(noise_multiplier)?;
        let deviation = noise_multiplier * f64::from(clip_norm);
        let step = power_of_two_below(deviation) / f64::from(1u32 << DEVIATION_BITS);
        Ok(Self {
            clip_norm,
            noise_multiplier,
            step,
            deviation: (deviation / step).ceil() as u64,
        })
    }

    /// The noise's deviation divided by the clip norm, as accountants ask for it.
    pub fn noise_multiplier(&self) -> f64 {
        self.noise_multiplier
    }

    /// Clips one update and adds noise to it: the local model, in which a member trusts nobody.
    pub fn privatise(&self, update: &mut [f32], seed: NoiseSeed) -> Result<Clipping, NoiseError> {
        let mut sum = ClippedSum::new(*self, update.len());
        let clipping = sum.add(update)?;
        sum.release(seed, 1.0, update);
        Ok(clipping)
    }
}

/// Whether a noise multiplier is within bounds.
pub(crate) fn check_multiplier(got: f64) -> Result<(), NoiseError> {
    if (MIN_MULTIPLIER..=MAX_MULTIPLIER).contains(&got) {
        Ok(())
    } else {
        Err(NoiseError::Multiplier { got })
    }
}

/// The greatest power of two that is not above a normal number.
fn power_of_two_below(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & (0x7ff << 52))
}

/// A sum of clipped vectors on the grid, to be released once with noise. Three uses: the gradients of a batch's examples
/// (one member's records are protected), a single update (local model), the updates of all members (central model).
pub struct ClippedSum {
    mechanism: GaussianMechanism,
    steps: Vec<i64>,
    summands: u32,
}

impl ClippedSum {
    /// An empty sum. It holds 8 bytes a coordinate.
    pub fn new(mechanism: GaussianMechanism, dimension: usize) -> Self {
        Self {
            mechanism,
            steps: vec![0; dimension],
            summands: 0,
        }
    }

    /// Clips a vector and adds it. After an error the sum is as before, and the vector counts as zero: an example whose
    /// gradient is not finite may be left out without harm to the guarantee.
    ///
    /// # Panics
    /// When the length is another.
    pub fn add(&mut self, values: &[f32]) -> Result<Clipping, NoiseError> {
        assert_eq!(values.len(), self.steps.len(), "vectors of one sum have one length");
        if self.summands == MAX_SUMMANDS {
            return Err(NoiseError::TooMany);
        }
        if let Some(index) = first_non_finite(values) {
            return Err(ClipError::NotFinite { index }.into());
        }
        let (norm, clip_norm) = (l2_norm(values), f64::from(self.mechanism.clip_norm));
        let factor = if norm > clip_norm { clip_norm / norm } else { 1.0 };
        let scale = shrink_to_fit(values, factor / self.mechanism.step, clip_norm / self.mechanism.step);
        self.steps
            .par_chunks_mut(CHUNK)
            .zip(values.par_chunks(CHUNK))
            .for_each(|(steps, values)| {
                for (sum, &value) in steps.iter_mut().zip(values) {
                    *sum += cut(value, scale);
                }
            });
        self.summands += 1;
        Ok(Clipping { norm, factor })
    }

    /// How many vectors are in the sum. This number is as private as the vectors are.
    pub fn summands(&self) -> u32 {
        self.summands
    }

    /// Writes (sum + noise) / `divisor` over `out`. The divisor must not depend on the data: under Poisson sampling it is
    /// the *expected* batch, not the batch that came.
    ///
    /// # Panics
    /// When the length of `out` is another.
    pub fn release(mut self, seed: NoiseSeed, divisor: f64, out: &mut [f32]) {
        assert_eq!(out.len(), self.steps.len(), "the output has the vectors' length");
        add_discrete_gaussian(&seed, self.mechanism.deviation, &mut self.steps);
        let scale = self.mechanism.step / divisor;
        out.par_chunks_mut(CHUNK)
            .zip(self.steps.par_chunks(CHUNK))
            .for_each(|(out, steps)| {
                for (value, &steps) in out.iter_mut().zip(steps) {
                    *value = (steps as f64 * scale) as f32;
                }
            });
    }
}

impl Drop for ClippedSum {
    fn drop(&mut self) {
        self.steps.zeroize();
    }
}

/// A coordinate in steps of the grid, cut towards zero.
#[inline(always)]
fn cut(value: f32, scale: f64) -> i64 {
    (f64::from(value) * scale) as i64
}

/// The greatest scale, from `scale` downwards, under which the cut vector's norm is at most `bound` steps, exactly.
fn shrink_to_fit(values: &[f32], mut scale: f64, bound: f64) -> f64 {
    let bound = u128::from(bound as u64).pow(2);
    let squared = |scale: f64| -> u128 {
        let chunk_sum = |chunk: &[f32]| {
            chunk
                .iter()
                .map(|&value| u128::from(cut(value, scale).unsigned_abs()).pow(2))
                .sum()
        };
        let chunks: Vec<u128> = values.par_chunks(CHUNK).map(chunk_sum).collect();
        chunks.into_iter().sum()
    };
    while squared(scale) > bound {
        scale *= 1.0 - 1.0 / f64::from(1u32 << 31);
    }
    scale
}

/// Noise that each member of a secure sum adds to its own update, so that the sum carries the mechanism's noise and the
/// coordinator need not be trusted with less (distributed discrete Gaussian: Kairouz, Liu and Steinke 2021).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SumNoise {
    /// Updates are clipped to this norm.
    pub clip_norm: f32,
    /// The deviation of the noise that a member who knows its own share still faces in the smallest sum, in clip norms. More
    /// members make more noise.
    pub noise_multiplier: f64,
}

/// The least deviation of a member's noise in steps: a sum of discrete Gaussians so wide is a discrete Gaussian for every
/// purpose (the same paper bounds the difference by a multiple of e^(−π² · 1024²)).
const MIN_MEMBER_DEVIATION: f64 = 1024.0;

impl SumNoise {
    /// The deviation of one member's noise, in the units of an update: that of t − 1 members together is the mechanism's,
    /// t the fewest that may be summed. Who reads the sum is a member and can take its own noise out of it.
    pub(crate) fn member_deviation(&self, least: u8) -> f64 {
        let others = least.saturating_sub(1).max(1);
        self.noise_multiplier * f64::from(self.clip_norm) / f64::from(others).sqrt()
    }

    /// Whether this noise fits the plan's ring.
    pub(crate) fn check(&self, plan: &SumPlan) -> Result<(), SecureSumError> {
        let refuse = |reason: String| Err(SecureSumError::Noise { reason });
        if let Err(error) = GaussianMechanism::new(self.clip_norm, self.noise_multiplier) {
            return refuse(error.to_string());
        }
        if self.clip_norm > plan.range {
            return refuse(format!(
                "clip_norm = {} must be at most range = {}: a clipped update's coordinates must fit the range",
                self.clip_norm, plan.range
            ));
        }
        let deviation = self.member_deviation(plan.least_in_sum()) / plan.unit();
        if !(MIN_MEMBER_DEVIATION..MAX_DEVIATION as f64).contains(&deviation) {
            return refuse(format!(
                "noise of {deviation:.0} steps of the ring where {MIN_MEMBER_DEVIATION} to {MAX_DEVIATION} are possible; choose a range near the clip norm"
            ));
        }
        Ok(())
    }

    /// Clips, cuts to the ring's grid, adds this member's noise; returns 0, since no coordinate leaves the range.
    pub(crate) fn quantise(
        &self,
        plan: &SumPlan,
        values: &[f32],
        seed: NoiseSeed,
        words: &mut [u32],
    ) -> Result<usize, SecureSumError> {
        if let Some(index) = first_non_finite(values) {
            return Err(SecureSumError::NotFinite { index });
        }
        let (norm, clip_norm, unit) = (l2_norm(values), f64::from(self.clip_norm), plan.unit());
        let factor = if norm > clip_norm { clip_norm / norm } else { 1.0 };
        let scale = shrink_to_fit(values, factor / unit, clip_norm / unit);
        let mut steps: Vec<i64> = values.iter().map(|&value| cut(value, scale)).collect();
        let deviation = (self.member_deviation(plan.least_in_sum()) / unit).ceil() as u64;
        add_discrete_gaussian(&seed, deviation, &mut steps);
        let (weight, coordinates) = words.split_last_mut().expect("a sum has a weight");
        *weight = 1;
        for (word, step) in coordinates.iter_mut().zip(&steps) {
            *word = *step as u32;
        }
        steps.zeroize();
        Ok(0)
    }
}

/// The greatest deviation, in steps, that the sampler draws exactly.
const MAX_DEVIATION: u64 = 1 << 28;

/// Adds to each value an independent integer from the discrete Gaussian of this deviation.
///
/// # Panics
/// When the deviation is zero or above [`MAX_DEVIATION`].
fn add_discrete_gaussian(seed: &NoiseSeed, deviation: u64, values: &mut [i64]) {
    assert!(
        (1..=MAX_DEVIATION).contains(&deviation),
        "a deviation of {deviation} steps"
    );
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
        let mut coins = Coins::new(Stream::new(&seed.0, index as u64));
        for value in chunk {
            *value += coins.discrete_gaussian(deviation);
        }
    });
}

/// Exact coins from a stream of random words.
struct Coins {
    stream: Stream,
    words: [u32; STRIDE],
    next: usize,
    drawn: usize,
}

impl Drop for Coins {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

impl Coins {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            words: [0; STRIDE],
            next: STRIDE,
            drawn: 0,
        }
    }

    #[inline]
    fn word(&mut self) -> u64 {
        if self.next == STRIDE {
            self.words.fill(0);
            self.stream.add_to(self.drawn, &mut self.words);
            self.drawn += STRIDE;
            self.next = 0;
        }
        let word = u64::from(self.words[self.next]) | u64::from(self.words[self.next + 1]) << 32;
        self.next += 2;
        word
    }

    /// Uniform in 0..bound (Lemire 2019, exact).
    #[inline]
    fn below(&mut self, bound: u64) -> u64 {
        let mut wide = u128::from(self.word()) * u128::from(bound);
        if (wide as u64) < bound {
            let biased = bound.wrapping_neg() % bound;
            while (wide as u64) < biased {
                wide = u128::from(self.word()) * u128::from(bound);
            }
        }
        (wide >> 64) as u64
    }

    /// True with probability exactly `numerator / denominator` ≤ 1: a uniform real is compared by its first 64 bits, and
    /// by further ones when those do not decide.
    #[inline]
    fn with_probability(&mut self, mut numerator: u64, denominator: u64) -> bool {
        loop {
            let threshold = u128::from(numerator) << 64;
            let from = u128::from(self.word()) * u128::from(denominator);
            if from + u128::from(denominator) <= threshold {
                return true;
            }
            if from >= threshold {
                return false;
            }
            numerator = (threshold - from) as u64;
        }
    }

    /// True with probability exp(−numerator/denominator), the fraction at most 1, the denominator at most 2⁵⁷: the first
    /// of coins of probability γ/1, γ/2, γ/3 … to fail has an odd number that often (their algorithm 1).
    #[inline]
    fn with_exponential_probability(&mut self, numerator: u64, denominator: u64) -> bool {
        // The 64th coin is reached with probability 1/64!, less than 2⁻²⁹⁰.
        (1..64)
            .find(|&k| !self.with_probability(numerator, denominator * k))
            .unwrap_or(1)
            % 2
            == 1
    }

    /// The discrete Gaussian, by rejection from a discrete Laplace distribution of the same scale (their algorithms 2, 3).
    fn discrete_gaussian(&mut self, deviation: u64) -> i64 {
        let twice_variance = 2 * deviation * deviation;
        loop {
            let magnitude = self.geometric(deviation);
            let negative = self.word() & 1 == 1;
            if negative && magnitude == 0 {
                continue;
            }
            let distance = u128::from(magnitude.abs_diff(deviation)).pow(2);
            let whole = distance / u128::from(twice_variance);
            let part = (distance % u128::from(twice_variance)) as u64;
            let accepted = (0..whole).all(|_| self.with_exponential_probability(1, 1))
                && self.with_exponential_probability(part, twice_variance);
            if accepted {
                let magnitude = magnitude as i64;
                return if negative { -magnitude } else { magnitude };
            }
        }
    }

    /// m ≥ 0 with probability proportional to exp(−m/scale).
    #[inline]
    fn geometric(&mut self, scale: u64) -> u64 {
        loop {
            let within = self.below(scale);
            if self.with_exponential_probability(within, scale) {
                let mut periods = 0;
                while self.with_exponential_probability(1, 1) {
                    periods += 1;
                }
                return within + scale * periods;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(byte: u8) -> NoiseSeed {
        NoiseSeed::from_os_bytes([byte; 32])
    }

    fn draws(deviation: u64, count: usize, byte: u8) -> Vec<i64> {
        let mut values = vec![0i64; count];
        add_discrete_gaussian(&seed(byte), deviation, &mut values);
        values
    }

    /// Frequencies at a deviation so small that the discrete law is far from a rounded Gaussian's, against its formula.
    #[test]
    fn small_deviations_have_the_discrete_law() {
        let count = 200_000;
        for deviation in [1u64, 2, 5] {
            let values = draws(deviation, count, 1);
            let weight = |x: i64| (-((x * x) as f64) / (2 * deviation * deviation) as f64).exp();
            let total: f64 = (-200..=200).map(weight).sum();
            for x in -3 * deviation as i64..=3 * deviation as i64 {
                let expected = weight(x) / total * count as f64;
                let found = values.iter().filter(|&&value| value == x).count() as f64;
                assert!(
                    (found - expected).abs() < 5.0 * expected.sqrt() + 1.0,
                    "{deviation} {x}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn large_deviations_have_gaussian_moments_and_quantiles() {
        for deviation in [(1 << 27) + 12_345, MAX_DEVIATION] {
            let count = 200_000;
            let unit: Vec<f64> = draws(deviation, count, 2)
                .iter()
                .map(|&x| x as f64 / deviation as f64)
                .collect();
            let moment = |power: i32| unit.iter().map(|x| x.powi(power)).sum::<f64>() / count as f64;
            // Deviations of the sample moments: √(1, 2, 15, 96 / count).
            assert!(moment(1).abs() < 0.012, "{}", moment(1));
            assert!((moment(2) - 1.0).abs() < 0.017, "{}", moment(2));
            assert!(moment(3).abs() < 0.045, "{}", moment(3));
            assert!((moment(4) - 3.0).abs() < 0.12, "{}", moment(4));
            for (at, probability) in [
                (-2.0, 0.02275),
                (-1.0, 0.15866),
                (0.0, 0.5),
                (0.5, 0.69146),
                (3.0, 0.99865),
            ] {
                let below = unit.iter().filter(|&&x| x < at).count() as f64 / count as f64;
                assert!((below - probability).abs() < 0.006, "{at}: {below}");
            }
        }
    }

    #[test]
    fn coins_are_exact_where_it_can_be_counted() {
        let mut coins = Coins::new(Stream::new(&[3; 32], 0));
        let count = 100_000;
        for (a, b) in [(0, 1), (1, 1), (1, 3), (5, 7)] {
            let plain = (0..count).filter(|_| coins.with_probability(a, b)).count() as f64 / f64::from(count);
            assert!((plain - a as f64 / b as f64).abs() < 0.008, "{a}/{b}: {plain}");
            let exponential = (0..count).filter(|_| coins.with_exponential_probability(a, b)).count() as f64;
            assert!((exponential / f64::from(count) - (-(a as f64) / b as f64).exp()).abs() < 0.008);
            assert!((0..100).all(|_| coins.below(b) < b));
        }
    }

    #[test]
    fn noise_is_a_function_of_the_seed_for_any_number_of_threads() {
        let runs = [1, 2, 7].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| draws(1 << 20, 2 * CHUNK + 3, 5))
        });
        assert_eq!(runs[0], runs[1]);
        assert_eq!(runs[0], runs[2]);
        assert_ne!(runs[0], draws(1 << 20, 2 * CHUNK + 3, 6));
        assert_ne!(runs[0][..CHUNK], runs[0][CHUNK..2 * CHUNK]);
        assert_eq!(format!("{:?}", seed(1)), "NoiseSeed(secret)");
    }

    #[test]
    fn a_released_sum_is_the_clipped_sum_and_noise_of_the_stated_deviation() {
        let dimension = 20_000;
        let mechanism = GaussianMechanism::new(3.0, 0.5).unwrap();
        let mut sum = ClippedSum::new(mechanism, dimension);
        let mut long = vec![0.0f32; dimension];
        long[7] = 400.0;
        let mut short = vec![0.0f32; dimension];
        short[8] = -2.0;
        assert_eq!(sum.add(&long).unwrap().factor, 3.0 / 400.0);
        assert_eq!(sum.add(&short).unwrap().factor, 1.0);
        assert!(sum.add(&vec![f32::NAN; dimension]).is_err());
        assert_eq!(sum.summands(), 2);
        let exact: Vec<i64> = sum.steps.clone();
        assert!((exact[7] as f64 * mechanism.step - 3.0).abs() <= 2.0 * mechanism.step);
        assert_eq!(exact[8] as f64 * mechanism.step, -2.0);
        let mut out = vec![0.0f32; dimension];
        sum.release(seed(4), 2.0, &mut out);
        let deviation = (out.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / dimension as f64).sqrt();
        assert!((deviation - 3.0 * 0.5 / 2.0).abs() < 0.02, "{deviation}");
    }

    /// The grid's bound is exact: no vector of clip norm or more is longer than it after cutting.
    #[test]
    fn a_cut_vector_is_within_the_bound_in_whole_numbers() {
        for multiplier in [MIN_MULTIPLIER, 1.0, 1.999, MAX_MULTIPLIER] {
            let mechanism = GaussianMechanism::new(0.7, multiplier).unwrap();
            let bound = f64::from(0.7f32) / mechanism.step;
            assert!((1 << 27..=1 << 28).contains(&mechanism.deviation));
            for scale in [1.0f32, 1e-3, 1e30] {
                let values: Vec<f32> = (1..1000)
                    .map(|i| scale * (i as f32).sqrt() * if i % 3 == 0 { -1.0 } else { 1.0 })
                    .collect();
                let mut sum = ClippedSum::new(mechanism, values.len());
                sum.add(&values).unwrap();
                let squared: u128 = sum.steps.iter().map(|&x| u128::from(x.unsigned_abs()).pow(2)).sum();
                assert!(squared <= u128::from(bound as u64).pow(2));
                assert!((squared as f64).sqrt() >= bound * 0.998, "{multiplier}");
            }
        }
    }

    #[test]
    fn senseless_mechanisms_are_refused() {
        for multiplier in [0.0, -1.0, 0.009, 1001.0, f64::NAN, f64::INFINITY] {
            assert!(GaussianMechanism::new(1.0, multiplier).is_err());
        }
        for clip_norm in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(GaussianMechanism::new(clip_norm, 1.0).is_err());
        }
    }
}
