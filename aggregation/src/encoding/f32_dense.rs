//! Updates as 32-bit floats, bit for bit: the reference that other encodings are measured against.
//! It compresses nothing.
//!
//! Body: d values, f32 little-endian. Every finite bit pattern is accepted and kept, −0 and subnormals included.

use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body};
use crate::numeric::first_non_finite;

/// The exact encoding.
#[derive(Clone, Copy, Debug)]
pub struct F32Dense;

/// This encoding's tag in the header.
pub const TAG: u8 = 1;

impl Encoder for F32Dense {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        begin(out, TAG, values.len(), self.encoded_len(values.len()));
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, out.len(), self.encoded_len(out.len()))?;
        let (words, _) = body.as_chunks::<4>();
        for (out, word) in out.iter_mut().zip(words) {
            *out = f32::from_le_bytes(*word);
        }
        if let Some(index) = first_non_finite(out) {
            out.fill(0.0);
            return Err(DecodeError::NotFinite { index });
        }
        Ok(())
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension.saturating_mul(4).saturating_add(HEADER_LEN)
    }
}
