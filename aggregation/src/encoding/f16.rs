//! Updates as IEEE half floats, rounded to nearest, ties to even.
//! It shares no scale between values and keeps no rounding error for the next round.
//!
//! Body: d values, the bits of a binary16 as u16 little-endian. Relative error at most 2⁻¹¹ between 6.1e-5 and 65504,
//! absolute error at most 2⁻²⁵ below, down to zero; values beyond 65504 become that, so that finite stays finite. It is
//! eight times as exact as bf16 where the updates' size is known, and of no use where it is not.

use super::{DecodeError, Encoder, HEADER_LEN, all_finite, assert_finite, begin, body, body_for_range};

/// The f16 encoding.
#[derive(Clone, Copy, Debug)]
pub struct F16;

/// This encoding's tag in the header.
pub const TAG: u8 = 4;

/// The exponent of a binary16; all ones in NaN and infinities.
const EXPONENT: u16 = 0x7c00;
/// f32 magnitude bits of 65504, the largest finite binary16.
const LARGEST: u32 = 0x477f_e000;
/// f32 magnitude bits of 2⁻¹⁴, the least normal binary16.
const LEAST_NORMAL: u32 = 0x3880_0000;
/// f32 magnitude bits of ½: adding ½ to |x| < 2⁻¹⁴ leaves |x| in units of 2⁻²⁴, rounded to even, in the low bits.
const HALF: u32 = 0x3f00_0000;
/// The difference of the exponents' biases, 127 − 15, at the place of an f32's exponent.
const REBIAS: u32 = 112 << 23;

impl Encoder for F16 {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        let total = self.encoded_len(values.len());
        begin(out, TAG, values.len(), total);
        out.resize(total, 0);
        let (words, _) = out[HEADER_LEN..].as_chunks_mut::<2>();
        for (word, value) in words.iter_mut().zip(values) {
            *word = narrow(*value).to_le_bytes();
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let (words, _) = body.as_chunks::<2>();
        all_finite(words, |word| u16::from_le_bytes(word) & EXPONENT == EXPONENT)
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, _) = body_for_range(bytes, first, out.len());
        let (words, _) = body[2 * first..].as_chunks::<2>();
        for (out, word) in out.iter_mut().zip(words) {
            *out = widen(u16::from_le_bytes(*word));
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension.saturating_mul(2).saturating_add(HEADER_LEN)
    }
}

/// Rounds a finite f32 to the nearest binary16. Both ways are computed and one is taken, so that it vectorises.
fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = (bits & 0x7fff_ffff).min(LARGEST);
    let normal = (magnitude
        .wrapping_sub(REBIAS)
        .wrapping_add(0xfff + (magnitude >> 13 & 1)))
        >> 13;
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(HALF)).to_bits() - HALF;
    let rounded = if magnitude < LEAST_NORMAL { subnormal } else { normal };
    ((bits >> 16 & 0x8000) | rounded) as u16
}

/// The f32 that a finite binary16 stands for. A subnormal one gets 2⁻¹⁴ as its leading bit, which is then taken away.
fn widen(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let normal = magnitude + REBIAS;
    let subnormal = (f32::from_bits(magnitude + LEAST_NORMAL) - f32::from_bits(LEAST_NORMAL)).to_bits();
    let widened = if magnitude < 1 << 23 { subnormal } else { normal };
    f32::from_bits(sign | widened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_comes_back() {
        for bits in (0..=u16::MAX).filter(|bits| bits & EXPONENT != EXPONENT) {
            assert_eq!(narrow(widen(bits)), bits, "{bits:#06x}");
        }
    }

    #[test]
    fn values_by_hand() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 2f32.powi(-14)),
            (0x0001, 2f32.powi(-24)),
            (0x03ff, 1023.0 * 2f32.powi(-24)),
            (0x8000, -0.0),
        ] {
            assert_eq!(widen(bits).to_bits(), f32::to_bits(value), "{bits:#06x}");
        }
    }

    #[test]
    fn ties_go_to_even_and_the_largest_stay_finite() {
        let ulp = 2f32.powi(-10);
        for (value, bits) in [
            (1.0 + 0.5 * ulp, 0x3c00),
            (1.0 + 1.5 * ulp, 0x3c02),
            (1.0 + 0.51 * ulp, 0x3c01),
            (1.5 * 2f32.powi(-24), 0x0002),
            (0.5 * 2f32.powi(-24), 0x0000),
            (1023.75 * 2f32.powi(-24), 0x0400), // rounds up into the normal range
            (65535.0, 0x7bff),
            (f32::MAX, 0x7bff),
            (-f32::MAX, 0xfbff),
            (f32::from_bits(1), 0x0000),
        ] {
            assert_eq!(narrow(value), bits, "{value}");
        }
    }
}
