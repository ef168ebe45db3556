//! Updates as 4-bit integers with one scale a block: int8's scheme (`int8.rs`) with a seventh as many levels, as
//! low-communication training sends its outer gradients (Douillard et al. 2025, "Streaming DiLoCo", §3.3: 4 bits a value,
//! no loss measured). It keeps no rounding error for the next round; error feedback does.
//!
//! Body: block length u32 · one scale f32 a block · ⌈d / 2⌉ bytes, two values each, the first in the lower half, in two's
//! complement. With a = max |x| over a block,
//!
//! ```text
//! s = a / 7,   q = round(x / s) in −7..=7,   decoded x̂ = s · q,   |x − x̂| ≤ s / 2 (up to f32 rounding)
//! ```
//! Canonical form: s is +0 and every q is 0; or s is normal, 7 · s is finite and some |q| is 7; never −8; the upper half
//! of a last byte that holds one value is 0. A block so small that s would be subnormal is written as zeros.

use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting, largest_of};

/// The blockwise int4 encoding.
#[derive(Clone, Copy, Debug)]
pub struct Int4 {
    block: u32,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 5;

/// 1.5 · 2²³, which rounds what is added to it (`int8.rs`).
const ROUNDER: f32 = 12_582_912.0;

impl Int4 {
    /// An encoding with `block` values a scale.
    ///
    /// # Panics
    /// When `block` is 0 or odd: blocks begin at whole bytes.
    pub fn new(block: u32) -> Self {
        assert!(
            block > 0 && block.is_multiple_of(2),
            "a block holds an even number of values"
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

impl Encoder for Int4 {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        let total = self.encoded_len(values.len());
        begin(out, TAG, values.len(), total);
        out.extend_from_slice(&self.block.to_le_bytes());
        out.resize(total, 0);
        let (scales, quanta) = out[HEADER_LEN + 4..].split_at_mut(self.scales_len(values.len()));
        let (scales, _) = scales.as_chunks_mut::<4>();
        let blocks = values
            .chunks(self.block_len())
            .zip(quanta.chunks_mut(self.block_len() / 2));
        for ((values, quanta), scale) in blocks.zip(scales) {
            *scale = encode_block(values, quanta).to_le_bytes();
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let (scales, quanta) = check_setting(body, self.block)?.split_at(self.scales_len(dimension));
        let (scales, _) = scales.as_chunks::<4>();
        for (block, (quanta, scale)) in quanta.chunks(self.block_len() / 2).zip(scales).enumerate() {
            validate_block(block, f32::from_le_bytes(*scale), quanta)?;
        }
        if dimension % 2 == 1 && quanta.last().is_some_and(|last| last >> 4 != 0) {
            return Err(DecodeError::Padding);
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, dimension) = body_for_range(bytes, first, out.len());
        let (scales, quanta) = body[4..].split_at(self.scales_len(dimension));
        let (scales, _) = scales.as_chunks::<4>();
        let (mut out, mut at) = (out, first);
        while !out.is_empty() {
            // The first block may have begun before the range; the last may end after it. Both begin at whole bytes.
            let block = at / self.block_len();
            let len = out.len().min((block + 1) * self.block_len() - at);
            let (head, tail) = out.split_at_mut(len);
            decode_block(f32::from_le_bytes(scales[block]), &quanta[at / 2..], head);
            (out, at) = (tail, at + len);
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension
            .div_ceil(2)
            .saturating_add(self.scales_len(dimension))
            .saturating_add(HEADER_LEN + 4)
    }
}

/// Writes a block's integers and returns its scale.
fn encode_block(values: &[f32], quanta: &mut [u8]) -> f32 {
    let mut scale = largest_of(values) / 7.0;
    if !scale.is_normal() {
        quanta.fill(0);
        return 0.0;
    }
    if !(scale * 7.0).is_finite() {
        scale = scale.next_down();
    }
    let inverse = 1.0 / scale;
    let quantise = |value: f32| (value * inverse + ROUNDER).to_bits() as u8 & 0xf;
    let (pairs, rest) = values.as_chunks::<2>();
    for (quantum, [even, odd]) in quanta.iter_mut().zip(pairs) {
        *quantum = quantise(*even) | quantise(*odd) << 4;
    }
    if let ([value], Some(quantum)) = (rest, quanta.last_mut()) {
        *quantum = quantise(*value);
    }
    scale
}

/// The values of the lower and the upper half of a byte.
fn halves(quantum: u8) -> [i8; 2] {
    [(quantum << 4) as i8 >> 4, quantum as i8 >> 4]
}

/// Checks that a block is canonical; a −8 shows as a largest magnitude of 8.
fn validate_block(block: usize, scale: f32, quanta: &[u8]) -> Result<(), DecodeError> {
    let zero = scale.to_bits() == 0;
    let usable = scale.is_normal() && scale > 0.0 && (scale * 7.0).is_finite();
    if !(zero || usable) {
        return Err(DecodeError::Scale { block });
    }
    let largest = quanta.iter().fold(0u8, |largest, &quantum| {
        let [even, odd] = halves(quantum);
        largest.max(even.unsigned_abs()).max(odd.unsigned_abs())
    });
    if largest != if zero { 0 } else { 7 } {
        return Err(DecodeError::NotCanonical { block });
    }
    Ok(())
}

/// Writes a block's values, of which the first is in the lower half of the first byte.
fn decode_block(scale: f32, quanta: &[u8], out: &mut [f32]) {
    let (pairs, rest) = out.as_chunks_mut::<2>();
    let tail = quanta.get(pairs.len());
    for (pair, &quantum) in pairs.iter_mut().zip(quanta) {
        *pair = halves(quantum).map(|q| scale * f32::from(q));
    }
    if let ([value], Some(&quantum)) = (rest, tail) {
        *value = scale * f32::from(halves(quantum)[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_the_scale_are_exact_and_packed_in_pairs() {
        let encoder = Int4::new(4);
        let values = [7.0, -3.0, 0.0, 5.0, -14.0, 2.0, 4.0];
        let (mut bytes, mut decoded) = (Vec::new(), [9.0; 7]);
        encoder.encode(&values, &mut bytes);
        assert_eq!(bytes[20..], [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0xd7, 0x50, 0x19, 0x02]);
        encoder.decode(&bytes, &mut decoded).unwrap();
        assert_eq!(decoded, values);
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = Int4::new(2);
        let mut bytes = Vec::new();
        encoder.encode(&[7.0, 1.0, 7.0], &mut bytes); // scales at 20..28, values at 28 and 29
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.validate(&bytes, 3), Err(expected));
        };
        check(28, &[0x87], DecodeError::NotCanonical { block: 0 }); // −8
        check(28, &[0x16], DecodeError::NotCanonical { block: 0 }); // the largest is not 7
        check(29, &[0x17], DecodeError::Padding);
        check(20, &0f32.to_le_bytes(), DecodeError::NotCanonical { block: 0 });
        for scale in [-1.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-40] {
            check(24, &scale.to_le_bytes(), DecodeError::Scale { block: 1 });
        }
        check(16, &4u32.to_le_bytes(), DecodeError::Block { expected: 2, found: 4 });
    }
}
