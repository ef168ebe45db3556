//! The values of largest magnitude and their places, nothing of the others (Stich, Cordonnier & Jaggi 2018, NeurIPS,
//! "Sparsified SGD with Memory"). It converges only with error feedback, which lies outside (`feedback.rs`).
//!
//! Body: share u32 ("one in so many") · k places of w bits each, packed, increasing · k values, bf16 little-endian, in the
//! order of their places; k = ⌈d / share⌉, w = the bits of d − 1. Magnitudes are compared after rounding to bf16, ties go to
//! the lower place: what is kept is the best that bf16 can say, and one pass over a histogram finds it.
//! Canonical form: places increase; unused bits are 0; a value of zero is +0, and only there because fewer than k are not
//! zero: then the zeros' places are the lowest ones that are free.

use super::bf16::{narrow, widen};
use super::bits::{Packer, packed_len, padding_is_zero, unpack, width_below};
use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting};

/// The encoding by largest values.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    one_in: u32,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 7;

/// Magnitudes that a finite bf16 can have.
const MAGNITUDES: usize = 0x7f80;

/// Values that are passed over together.
const GROUP: usize = 32;

impl TopK {
    /// An encoding that keeps one value in `one_in`, rounded up.
    ///
    /// # Panics
    /// When `one_in` is 0.
    pub fn new(one_in: u32) -> Self {
        assert!(one_in > 0, "one value in zero cannot be kept");
        Self { one_in }
    }

    /// Values that an update of `dimension` keeps.
    pub fn kept(&self, dimension: usize) -> usize {
        dimension.div_ceil(self.one_in as usize)
    }

    /// Splits a body after its share into packed places and values.
    fn split<'a>(&self, rest: &'a [u8], dimension: usize) -> (&'a [u8], &'a [[u8; 2]]) {
        let (places, values) = rest.split_at(packed_len(self.kept(dimension), width_below(dimension)));
        (places, values.as_chunks::<2>().0)
    }
}

impl Encoder for TopK {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        begin(out, TAG, values.len(), self.encoded_len(values.len()));
        out.extend_from_slice(&self.one_in.to_le_bytes());
        let chosen = largest(values, self.kept(values.len()));
        let width = width_below(values.len());
        let mut packer = Packer::new(out);
        chosen.iter().for_each(|&(place, _)| packer.push(place as u64, width));
        packer.finish();
        out.extend(chosen.iter().flat_map(|(_, value)| value.to_le_bytes()));
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let (places, values) = self.split(check_setting(body, self.one_in)?, dimension);
        let width = width_below(dimension);
        let mut least = 0;
        for (entry, value) in values.iter().enumerate() {
            let place = unpack(places, entry, width) as usize;
            if place < least || place >= dimension {
                return Err(DecodeError::Place { entry });
            }
            least = place + 1;
            let bits = u16::from_le_bytes(*value);
            if usize::from(bits & 0x7fff) >= MAGNITUDES {
                return Err(DecodeError::NotFinite { index: place });
            }
            // Every place before a zero must be taken.
            if bits == 0x8000 || (bits == 0 && place != entry) {
                return Err(DecodeError::NotCanonical { block: entry });
            }
        }
        if !padding_is_zero(places, values.len(), width) {
            return Err(DecodeError::Padding);
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, dimension) = body_for_range(bytes, first, out.len());
        let (places, values) = self.split(&body[4..], dimension);
        let width = width_below(dimension);
        out.fill(0.0);
        let (mut low, mut high) = (0, values.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if (unpack(places, middle, width) as usize) < first {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        for (entry, value) in values.iter().enumerate().skip(low) {
            let place = unpack(places, entry, width) as usize - first;
            let Some(out) = out.get_mut(place) else {
                break;
            };
            *out = widen(u16::from_le_bytes(*value));
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        let kept = self.kept(dimension);
        packed_len(kept, width_below(dimension))
            .saturating_add(kept.saturating_mul(2))
            .saturating_add(HEADER_LEN + 4)
    }
}

fn magnitude(value: f32) -> u16 {
    narrow(value) & 0x7fff
}

/// The `kept` largest values as (place, bf16), in the order of their places.
fn largest(values: &[f32], kept: usize) -> Vec<(usize, u16)> {
    let mut counts = vec![0usize; MAGNITUDES];
    for value in values {
        counts[usize::from(magnitude(*value))] += 1;
    }
    let (mut above, mut threshold) = (0, 0);
    for (magnitude, &count) in counts.iter().enumerate().rev() {
        if above + count >= kept {
            threshold = magnitude as u16;
            break;
        }
        above += count;
    }
    let mut ties = kept - above;
    let mut chosen = Vec::with_capacity(kept);
    for (group, part) in values.chunks(GROUP).enumerate() {
        if part.iter().fold(0, |largest, &value| magnitude(value).max(largest)) < threshold {
            continue;
        }
        for (within, &value) in part.iter().enumerate() {
            let magnitude = magnitude(value);
            if magnitude > threshold || (magnitude == threshold && ties > 0) {
                ties -= usize::from(magnitude == threshold);
                let bits = if magnitude == 0 { 0 } else { narrow(value) };
                chosen.push((group * GROUP + within, bits));
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoder: TopK, values: &[f32]) -> Vec<f32> {
        let (mut bytes, mut decoded) = (Vec::new(), vec![9.0; values.len()]);
        encoder.encode(values, &mut bytes);
        encoder.decode(&bytes, &mut decoded).unwrap();
        decoded
    }

    #[test]
    fn the_largest_stay_and_ties_go_to_the_lower_place() {
        let values = [1.0, -8.0, 2.0, 2.0, -2.0, 4.0, 0.5, 0.0];
        assert_eq!(
            decoded(TopK::new(2), &values),
            [0.0, -8.0, 2.0, 2.0, 0.0, 4.0, 0.0, 0.0]
        );
        assert_eq!(
            decoded(TopK::new(8), &values),
            [0.0, -8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(decoded(TopK::new(1), &values), values);
        assert_eq!(decoded(TopK::new(100), &[0.0, -1.0]), [0.0, -1.0]);
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = TopK::new(2);
        let mut bytes = Vec::new();
        encoder.encode(&[0.0, 3.0, 0.0, -1.0, 2.0], &mut bytes); // places 1, 3, 4 in 9 bits at 20..22, values from 22 on
        assert_eq!(bytes[20..], [0b0001_1001, 0b1, 0x40, 0x40, 0x80, 0xbf, 0x00, 0x40]);
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.validate(&bytes, 5), Err(expected));
        };
        check(20, &[0b0000_1001], DecodeError::Place { entry: 1 }); // 1, 1
        check(20, &[0b0101_1001], DecodeError::Place { entry: 2 }); // 1, 3, 5
        check(21, &[0b11], DecodeError::Padding);
        check(24, &[0x80, 0x7f], DecodeError::NotFinite { index: 3 });
        check(24, &[0, 0], DecodeError::NotCanonical { block: 1 }); // place 0 is free
        check(16, &3u32.to_le_bytes(), DecodeError::Block { expected: 2, found: 3 });
    }
}
