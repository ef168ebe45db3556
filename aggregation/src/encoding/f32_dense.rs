//! Updates as 32-bit floats, bit for bit: the reference that other encodings are measured against.
//! It compresses nothing.
//!
//! Body: d values, f32 little-endian. Every finite bit pattern is accepted and kept, −0 and subnormals included.

use super::{DecodeError, Encoder, HEADER_LEN, all_finite, assert_finite, begin, body, body_for_range};

/// The exact encoding.
#[derive(Clone, Copy, Debug)]
pub struct F32Dense;

/// This encoding's tag in the header.
pub const TAG: u8 = 1;

/// The exponent of an f32; all ones in NaN and infinities.
const EXPONENT_OF_F32: u32 = 0x7f80_0000;

impl Encoder for F32Dense {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        begin(out, TAG, values.len(), self.encoded_len(values.len()));
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let (words, _) = body.as_chunks::<4>();
        all_finite(words, |word| {
            u32::from_le_bytes(word) & EXPONENT_OF_F32 == EXPONENT_OF_F32
        })
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, _) = body_for_range(bytes, first, out.len());
        let (words, _) = body[4 * first..].as_chunks::<4>();
        for (out, word) in out.iter_mut().zip(words) {
            *out = f32::from_le_bytes(*word);
        }
    }

    fn in_place<'b>(&self, bytes: &'b [u8], first: usize, len: usize) -> Option<&'b [f32]> {
        let (body, _) = body_for_range(bytes, first, len);
        let words = &body[4 * first..4 * (first + len)];
        cfg!(target_endian = "little")
            .then(|| bytemuck::try_cast_slice(words).ok()) // not where they do not begin at a multiple of four
            .flatten()
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension.saturating_mul(4).saturating_add(HEADER_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::CHUNK;

    #[test]
    fn values_in_place_are_the_decoded_ones_at_every_alignment() {
        let values: Vec<f32> = (0..CHUNK + 9).map(|i| i as f32 - 0.5).collect();
        let mut bytes = Vec::new();
        F32Dense.encode(&values, &mut bytes);
        let mut found = 0;
        for shift in 0..4 {
            let mut shifted = vec![0; shift];
            shifted.extend(&bytes);
            for (first, len) in [(0, 5), (0, CHUNK + 9), (CHUNK, 9), (CHUNK, 0)] {
                if let Some(read) = F32Dense.in_place(&shifted[shift..], first, len) {
                    assert_eq!(read, &values[first..first + len]);
                    found += usize::from(len > 0);
                }
            }
        }
        assert_eq!(
            found,
            if cfg!(target_endian = "little") { 3 } else { 0 },
            "one alignment of four"
        );
    }
}
