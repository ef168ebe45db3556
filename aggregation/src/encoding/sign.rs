//! Updates as signs with one scale a block, the mean magnitude (Karimireddy, Rebjock, Stich & Jaggi 2019, ICML, "Error
//! Feedback Fixes SignSGD"). It converges only with error feedback, which lies outside (`feedback.rs`).
//!
//! Body: block length u32 · one scale f32 a block · ⌈d / 8⌉ bytes of signs, the first value in the least bit, 1 for x < 0.
//!
//! ```text
//! s = mean |x| over the block,   decoded x̂ = s where x ≥ 0, −s where x < 0
//! ```
//! Canonical form: s is +0 and the block's bits are 0; or s is positive and normal; bits after the last value are 0. A block
//! whose mean would be subnormal is written as zeros.

use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting};
use crate::numeric::LANES;

/// The encoding by sign and mean magnitude.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    block: u32,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 6;

impl Sign {
    /// An encoding with `block` values a scale.
    ///
    /// # Panics
    /// When `block` is 0 or no multiple of 8: blocks begin at whole bytes.
    pub fn new(block: u32) -> Self {
        assert!(
            block > 0 && block.is_multiple_of(8),
            "a block holds a multiple of 8 values"
        );
        Self { block }
    }

    fn block_len(&self) -> usize {
        self.block as usize
    }

    fn scales_len(&self, dimension: usize) -> usize {
        dimension.div_ceil(self.block_len()).saturating_mul(4)
    }
}

impl Encoder for Sign {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        let total = self.encoded_len(values.len());
        begin(out, TAG, values.len(), total);
        out.extend_from_slice(&self.block.to_le_bytes());
        out.resize(total, 0);
        let (scales, signs) = out[HEADER_LEN + 4..].split_at_mut(self.scales_len(values.len()));
        let (scales, _) = scales.as_chunks_mut::<4>();
        let blocks = values
            .chunks(self.block_len())
            .zip(signs.chunks_mut(self.block_len() / 8));
        for ((values, signs), scale) in blocks.zip(scales) {
            let mean = mean_magnitude(values);
            if !mean.is_normal() {
                continue; // zeros stand there already
            }
            *scale = mean.to_le_bytes();
            for (signs, values) in signs.iter_mut().zip(values.chunks(8)) {
                *signs = values
                    .iter()
                    .enumerate()
                    .fold(0, |signs, (bit, value)| signs | u8::from(*value < 0.0) << bit);
            }
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let (scales, signs) = check_setting(body, self.block)?.split_at(self.scales_len(dimension));
        let (scales, _) = scales.as_chunks::<4>();
        for (block, (signs, scale)) in signs.chunks(self.block_len() / 8).zip(scales).enumerate() {
            let scale = f32::from_le_bytes(*scale);
            if scale.to_bits() == 0 {
                if signs.iter().any(|&signs| signs != 0) {
                    return Err(DecodeError::NotCanonical { block });
                }
            } else if !(scale.is_normal() && scale > 0.0) {
                return Err(DecodeError::Scale { block });
            }
        }
        let used = dimension % 8;
        if used != 0 && signs.last().is_some_and(|last| last >> used != 0) {
            return Err(DecodeError::Padding);
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, dimension) = body_for_range(bytes, first, out.len());
        let (scales, signs) = body[4..].split_at(self.scales_len(dimension));
        let (scales, _) = scales.as_chunks::<4>();
        let (mut out, mut at) = (out, first);
        while !out.is_empty() {
            let block = at / self.block_len();
            let len = out.len().min((block + 1) * self.block_len() - at);
            let (head, tail) = out.split_at_mut(len);
            decode_block(u32::from_le_bytes(scales[block]), &signs[at / 8..], head);
            (out, at) = (tail, at + len);
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension
            .div_ceil(8)
            .saturating_add(self.scales_len(dimension))
            .saturating_add(HEADER_LEN + 4)
    }
}

/// The mean of |x|, at most the largest: summed in f64 over interleaved accumulators.
fn mean_magnitude(values: &[f32]) -> f32 {
    let mut lanes = [0.0f64; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane += f64::from(value.abs());
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(value.abs());
    }
    (lanes.iter().fold(0.0, |sum, lane| sum + lane) / values.len() as f64) as f32
}

/// Writes a block's values, of which the first has the least bit of the first byte.
fn decode_block(scale: u32, signs: &[u8], out: &mut [f32]) {
    let (groups, rest) = out.as_chunks_mut::<8>();
    let tail = signs.get(groups.len());
    for (group, &signs) in groups.iter_mut().zip(signs) {
        for (bit, value) in group.iter_mut().enumerate() {
            *value = f32::from_bits(scale | (u32::from(signs) >> bit & 1) << 31);
        }
    }
    if let Some(&signs) = tail {
        for (bit, value) in rest.iter_mut().enumerate() {
            *value = f32::from_bits(scale | (u32::from(signs) >> bit & 1) << 31);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_mean_by_hand() {
        let encoder = Sign::new(8);
        let values = [1.0, -3.0, 0.0, -0.0, 2.0, 2.0, -4.0, 4.0, -6.0, 2.0];
        let (mut bytes, mut decoded) = (Vec::new(), [9.0; 10]);
        encoder.encode(&values, &mut bytes);
        assert_eq!(bytes[20..], [0, 0, 0, 0x40, 0, 0, 0x80, 0x40, 0b0100_0010, 0b01]);
        encoder.decode(&bytes, &mut decoded).unwrap();
        assert_eq!(decoded, [2.0, -2.0, 2.0, 2.0, 2.0, 2.0, -2.0, 2.0, -4.0, 4.0]);
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = Sign::new(8);
        let mut bytes = Vec::new();
        encoder.encode(&[1.0, -1.0, 1.0], &mut bytes); // scale at 20..24, signs at 24
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.validate(&bytes, 3), Err(expected));
        };
        check(24, &[0b1010], DecodeError::Padding);
        check(20, &0f32.to_le_bytes(), DecodeError::NotCanonical { block: 0 });
        for scale in [-1.0, -0.0, f32::NAN, f32::INFINITY, 1e-40] {
            check(20, &scale.to_le_bytes(), DecodeError::Scale { block: 0 });
        }
        check(16, &16u32.to_le_bytes(), DecodeError::Block { expected: 8, found: 16 });
    }
}
