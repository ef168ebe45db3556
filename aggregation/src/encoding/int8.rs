//! Updates as 8-bit integers with one scale a block: symmetric quantisation by the block's largest magnitude
//! (Dettmers, Lewis, Shleifer & Zettlemoyer 2022, ICLR, §2, with a linear code). It rounds to nearest, never at
//! random, and it keeps no rounding error for the next round.
//!
//! Body: block length u32 · one scale f32 a block · d values i8. With a = max |x| over a block,
//!
//! ```text
//! s = a / 127,   q = round(x / s) in −127..=127,   decoded x̂ = s · q,   |x − x̂| ≤ s / 2 (up to f32 rounding)
//! ```
//! Canonical form: s is +0 and every q is 0; or s is normal, 127 · s is finite and some |q| is 127; never −128.
//! A block so small that s would be subnormal (a < 1.5e-36) is written as zeros.

use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting, largest_of};
use crate::simd::Kernels;

/// The blockwise int8 encoding.
#[derive(Clone, Copy, Debug)]
pub struct Int8 {
    block: u32,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 3;

/// 1.5 · 2²³: added to |x| ≤ 2²², it pushes the fraction out of the significand, which rounds to nearest even; the
/// integer is then the low bits. Several times faster than a call that rounds.
const ROUNDER: f32 = 12_582_912.0;

impl Int8 {
    /// An encoding with `block` values a scale.
    ///
    /// # Panics
    /// When `block` is 0.
    pub fn new(block: u32) -> Self {
        assert!(block > 0, "a block holds at least one value");
        Self { block }
    }

    fn block_len(&self) -> usize {
        self.block as usize
    }
}

impl Encoder for Int8 {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        let total = self.encoded_len(values.len());
        begin(out, TAG, values.len(), total);
        out.extend_from_slice(&self.block.to_le_bytes());
        out.resize(total, 0);
        let scales_len = values.len().div_ceil(self.block_len()) * 4;
        let (scales, quanta) = out[HEADER_LEN + 4..].split_at_mut(scales_len);
        let (scales, _) = scales.as_chunks_mut::<4>();
        let blocks = values.chunks(self.block_len()).zip(quanta.chunks_mut(self.block_len()));
        for ((values, quanta), scale) in blocks.zip(scales) {
            *scale = encode_block(values, quanta).to_le_bytes();
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let rest = check_setting(body, self.block)?;
        let (scales, quanta) = rest.split_at(dimension.div_ceil(self.block_len()) * 4);
        let (scales, _) = scales.as_chunks::<4>();
        for (index, (quanta, scale)) in quanta.chunks(self.block_len()).zip(scales).enumerate() {
            validate_block(index, f32::from_le_bytes(*scale), quanta)?;
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, dimension) = body_for_range(bytes, first, out.len());
        let (scales, quanta) = body[4..].split_at(dimension.div_ceil(self.block_len()) * 4);
        let (scales, _) = scales.as_chunks::<4>();
        let kernels = Kernels::detect();
        let (mut out, mut at) = (out, first);
        while !out.is_empty() {
            // The first block may have begun before the range; the last may end after it.
            let block = at / self.block_len();
            let len = out.len().min((block + 1) * self.block_len() - at);
            let (head, tail) = out.split_at_mut(len);
            let scale = f32::from_le_bytes(scales[block]);
            kernels.scaled(&quanta[at..at + len], scale, head);
            (out, at) = (tail, at + len);
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        let scales = dimension.div_ceil(self.block_len()).saturating_mul(4);
        dimension.saturating_add(scales).saturating_add(HEADER_LEN + 4)
    }
}

/// Writes a block's integers and returns its scale.
fn encode_block(values: &[f32], quanta: &mut [u8]) -> f32 {
    let mut scale = largest_of(values) / 127.0;
    if !scale.is_normal() {
        quanta.fill(0);
        return 0.0;
    }
    if !(scale * 127.0).is_finite() {
        scale = scale.next_down();
    }
    // x / s ≤ 127 (1 + 2⁻²²) after all roundings, so the nearest integer is at most 127, and the largest x meets it.
    let inverse = 1.0 / scale;
    for (quantum, value) in quanta.iter_mut().zip(values) {
        *quantum = (value * inverse + ROUNDER).to_bits() as u8;
    }
    scale
}

/// Checks that a block is canonical.
fn validate_block(block: usize, scale: f32, quanta: &[u8]) -> Result<(), DecodeError> {
    let zero = scale.to_bits() == 0;
    let usable = scale.is_normal() && scale > 0.0 && (scale * 127.0).is_finite();
    if !(zero || usable) {
        return Err(DecodeError::Scale { block });
    }
    let largest = quanta
        .iter()
        .fold(0u8, |largest, &quantum| largest.max((quantum as i8).unsigned_abs()));
    if largest != if zero { 0 } else { 127 } {
        return Err(DecodeError::NotCanonical { block });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(values: &[f32]) -> Vec<f32> {
        let encoder = Int8::new(4);
        let (mut bytes, mut decoded) = (Vec::new(), vec![9.0; values.len()]);
        encoder.encode(values, &mut bytes);
        assert_eq!(bytes.len(), encoder.encoded_len(values.len()));
        encoder.decode(&bytes, &mut decoded).unwrap();
        decoded
    }

    #[test]
    fn multiples_of_the_scale_are_exact() {
        let values = [127.0, -3.0, 0.0, 64.0, -254.0, 2.0, 4.0, -6.0, 0.0, 0.0];
        assert_eq!(round_trip(&values), values);
    }

    #[test]
    fn the_extremes_survive() {
        let largest = round_trip(&[f32::MAX, f32::MIN, 0.0]);
        assert!((largest[0] / f32::MAX - 1.0).abs() < 1e-6 && largest[1] == -largest[0]);
        assert_eq!(round_trip(&[1e-40, -1e-37, 0.0]), [0.0, 0.0, 0.0]);
        let least = 127.0 * f32::MIN_POSITIVE * 1.001;
        assert!((round_trip(&[least, 0.0])[0] / least - 1.0).abs() < 1e-6);
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = Int8::new(2);
        let mut bytes = Vec::new();
        encoder.encode(&[127.0, 1.0], &mut bytes); // scale 1 at 20..24, values at 24 and 25
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.decode(&bytes, &mut [0.0; 2]), Err(expected));
        };
        check(24, &[0x80], DecodeError::NotCanonical { block: 0 }); // −128
        check(24, &[100], DecodeError::NotCanonical { block: 0 }); // the largest is not 127
        check(20, &0f32.to_le_bytes(), DecodeError::NotCanonical { block: 0 });
        for scale in [-1.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-40] {
            check(20, &scale.to_le_bytes(), DecodeError::Scale { block: 0 });
        }
        check(16, &3u32.to_le_bytes(), DecodeError::Block { expected: 2, found: 3 });
    }
}
