//! Updates as brain floats: the upper half of an f32, rounded to nearest, ties to even.
//! It shares no scale between values and keeps no rounding error for the next round.
//!
//! Body: d values, the bits of a bf16 as u16 little-endian. Relative error at most 2⁻⁸ for normal values (bf16 keeps
//! 8 significant bits). Values beyond the largest bf16, 3.39e38, become that, so that finite stays finite.

use super::{DecodeError, Encoder, HEADER_LEN, all_finite, assert_finite, begin, body, body_for_range};

/// The bf16 encoding.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

/// This encoding's tag in the header.
pub const TAG: u8 = 2;

/// The exponent of a bf16; all ones in NaN and infinities.
const EXPONENT: u16 = 0x7f80;

/// Magnitude bits of the largest finite bf16, widened to f32.
const LARGEST: u32 = 0x7f7f_0000;

impl Encoder for Bf16 {
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

/// Rounds a finite f32 to the nearest bf16. Adding just under half of the last kept place carries exactly when the
/// dropped half is above one half, and the last kept bit breaks the tie towards even.
pub(super) fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = (bits & 0x7fff_ffff).min(LARGEST);
    let rounded = magnitude + 0x7fff + (magnitude >> 16 & 1);
    ((bits & 0x8000_0000 | rounded) >> 16) as u16
}

/// The f32 that a bf16 stands for.
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_even() {
        for (value, bits) in [
            (0x3f80_0000, 0x3f80), // 1, exact
            (0x3f80_8000, 0x3f80), // halfway, even below
            (0x3f81_8000, 0x3f82), // halfway, even above
            (0x3f80_8001, 0x3f81), // above halfway
            (0xbf80_7fff, 0xbf80), // below halfway, negative
            (0x3fff_8000, 0x4000), // the carry reaches the exponent
            (0x8000_0000, 0x8000), // −0
            (0x0000_0001, 0x0000), // the least subnormal
        ] {
            assert_eq!(narrow(f32::from_bits(value)), bits, "{value:#x}");
        }
    }

    #[test]
    fn the_largest_values_stay_finite() {
        assert_eq!(narrow(f32::MAX), 0x7f7f);
        assert_eq!(narrow(f32::MIN), 0xff7f);
    }
}
