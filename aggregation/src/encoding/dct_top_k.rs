//! The largest cosine coefficients of each 64 × 64 block (Peng, Quesnelle & Kingma 2024, "DeMo: Decoupled Momentum
//! Optimization", as DisTrO sends its updates). It needs error feedback (`feedback.rs`), and it does not take the sign of the
//! aggregate, as DeMo's optimizer does afterwards.
//!
//! A block is 4096 values that follow each other, as 64 rows of 64; the last is filled up with zeros. The transform is in
//! `cosine.rs`; place 64 l + k has frequency l along the rows and k down the columns. Body: kept u32 · for each block `keep` places of 12 bits, packed, filled up to a whole byte, then as many
//! values, bf16 little-endian. So an update of d values has exactly 20 + ⌈d / 4096⌉ · (⌈12 keep / 8⌉ + 2 keep) bytes: 28 bits
//! a kept coefficient.
//! Magnitudes lie between 2⁻⁶⁴ and 2⁶⁴: smaller coefficients count as zero, larger values and coefficients are cut, so that
//! neither direction of the transform can overflow. Canonical form: places increase, values are normal and in that range;
//! entries that are not used come last and are zero throughout. Encoding what was decoded may give other bytes: the transform
//! rounds.

use super::bf16::{narrow, widen};
use super::bits::{Packer, packed_len, padding_is_zero, unpack};
use super::cosine::{AREA, Block, Cosine, SIDE};
use super::selection::Selection;
use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting};

/// The encoding by largest cosine coefficients.
#[derive(Clone, Debug)]
pub struct DctTopK {
    keep: u32,
    cosine: Cosine,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 9;

/// Bits of a place.
const WIDTH: u32 = AREA.trailing_zeros();
/// f32 magnitude bits of 2⁻⁶⁴.
const LEAST: u32 = (127 - 64) << 23;
/// 2⁶⁴.
const MOST: f32 = 18_446_744_073_709_551_616.0;
/// bf16 magnitude bits of the values that may be sent.
const RANGE: std::ops::RangeInclusive<u16> = (127 - 64) << 7..=(127 + 64) << 7;

impl DctTopK {
    /// An encoding that keeps `keep` coefficients of each block.
    ///
    /// # Panics
    /// When `keep` is not between 1 and 4096.
    pub fn new(keep: u32) -> Self {
        assert!(
            (1..=AREA as u32).contains(&keep),
            "a block keeps some of its coefficients"
        );
        Self {
            keep,
            cosine: Cosine::new(),
        }
    }

    fn kept(&self) -> usize {
        self.keep as usize
    }

    /// Bytes of the places of a block.
    fn places_len(&self) -> usize {
        packed_len(self.kept(), WIDTH)
    }

    /// Bytes of a block.
    fn stride(&self) -> usize {
        self.places_len() + 2 * self.kept()
    }
}

impl Encoder for DctTopK {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        begin(out, TAG, values.len(), self.encoded_len(values.len()));
        out.extend_from_slice(&self.keep.to_le_bytes());
        let (mut block, mut scratch) = (Box::new([[0.0; SIDE]; SIDE]), Box::new([[0.0; SIDE]; SIDE]));
        let mut selection = Selection::default();
        for values in values.chunks(AREA) {
            let area = block.as_flattened_mut();
            for (area, value) in area.iter_mut().zip(values) {
                *area = value.clamp(-MOST, MOST);
            }
            area[values.len()..].fill(0.0);
            self.cosine.forward(&mut block, &mut scratch);
            let coefficients = block.as_flattened();
            selection.choose(coefficients, self.kept(), LEAST);

            let start = out.len();
            let mut packer = Packer::new(out);
            selection
                .chosen
                .iter()
                .for_each(|&place| packer.push(u64::from(place), WIDTH));
            packer.finish();
            out.resize(start + self.places_len(), 0);
            for &place in &selection.chosen {
                let value = coefficients[place as usize].clamp(-MOST, MOST);
                out.extend_from_slice(&narrow(value).to_le_bytes());
            }
            out.resize(start + self.stride(), 0);
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let blocks = check_setting(body, self.keep)?.chunks_exact(self.stride());
        for (block, bytes) in blocks.enumerate() {
            let (places, values) = bytes.split_at(self.places_len());
            let (mut least, mut ended) = (0, false);
            for (entry, value) in values.as_chunks::<2>().0.iter().enumerate() {
                let place = unpack(places, entry, WIDTH);
                let bits = u16::from_le_bytes(*value);
                ended |= bits == 0;
                if ended {
                    if bits != 0 || place != 0 {
                        return Err(DecodeError::NotCanonical { block });
                    }
                    continue;
                }
                if place < least {
                    return Err(DecodeError::Place { entry });
                }
                least = place + 1;
                if !RANGE.contains(&(bits & 0x7fff)) {
                    return Err(DecodeError::Scale { block });
                }
            }
            if !padding_is_zero(places, self.kept(), WIDTH) {
                return Err(DecodeError::Padding);
            }
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, _) = body_for_range(bytes, first, out.len());
        let (mut block, mut scratch): (Box<Block>, Box<Block>) =
            (Box::new([[0.0; SIDE]; SIDE]), Box::new([[0.0; SIDE]; SIDE]));
        let blocks = body[4..].chunks_exact(self.stride()).skip(first / AREA);
        for (out, bytes) in out.chunks_mut(AREA).zip(blocks) {
            let (places, values) = bytes.split_at(self.places_len());
            let coefficients = block.as_flattened_mut();
            coefficients.fill(0.0);
            for (entry, value) in values.as_chunks::<2>().0.iter().enumerate() {
                if *value == [0, 0] {
                    break;
                }
                coefficients[unpack(places, entry, WIDTH) as usize] = widen(u16::from_le_bytes(*value));
            }
            self.cosine.inverse(&mut block, &mut scratch);
            out.copy_from_slice(&block.as_flattened()[..out.len()]);
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension
            .div_ceil(AREA)
            .saturating_mul(self.stride())
            .saturating_add(HEADER_LEN + 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoder: &DctTopK, values: &[f32]) -> Vec<f32> {
        let (mut bytes, mut decoded) = (Vec::new(), vec![9.0; values.len()]);
        encoder.encode(values, &mut bytes);
        assert_eq!(bytes.len(), encoder.encoded_len(values.len()));
        encoder.decode(&bytes, &mut decoded).unwrap();
        decoded
    }

    #[test]
    fn a_constant_is_one_coefficient() {
        let values = vec![0.5f32; AREA];
        assert!(
            decoded(&DctTopK::new(1), &values)
                .iter()
                .all(|got| (got - 0.5).abs() < 1e-6)
        );
    }

    #[test]
    fn all_coefficients_give_the_values_back_up_to_bf16() {
        let values: Vec<f32> = (0..AREA + 100).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let got = decoded(&DctTopK::new(AREA as u32), &values);
        let error: f32 = got.iter().zip(&values).map(|(a, b)| (a - b) * (a - b)).sum();
        let norm: f32 = values.iter().map(|value| value * value).sum();
        assert!(error < norm * 1e-5, "{error} of {norm}");
    }

    #[test]
    fn the_largest_and_the_least_values_stay_finite() {
        for size in [f32::MAX, MOST, 1e-30, f32::from_bits(1), 0.0] {
            let values: Vec<f32> = (0..AREA).map(|i| if i % 3 == 0 { size } else { -size }).collect();
            assert!(
                decoded(&DctTopK::new(AREA as u32), &values)
                    .iter()
                    .all(|got| got.is_finite()),
                "{size}"
            );
        }
    }

    /// The extreme of what `validate` lets through: every coefficient as large as can be, in both signs.
    #[test]
    fn no_accepted_bytes_decode_to_infinity() {
        let encoder = DctTopK::new(AREA as u32);
        let mut bytes = Vec::new();
        encoder.encode(&vec![1.0; AREA], &mut bytes);
        let start = HEADER_LEN + 4;
        bytes.truncate(start);
        let mut packer = Packer::new(&mut bytes);
        (0..AREA as u64).for_each(|place| packer.push(place, WIDTH));
        packer.finish();
        for i in 0..AREA {
            let sign = if i % 5 < 2 { 0x8000 } else { 0 };
            bytes.extend_from_slice(&(RANGE.end() | sign).to_le_bytes());
        }
        let mut decoded = vec![0.0; AREA];
        encoder.decode(&bytes, &mut decoded).unwrap();
        assert!(decoded.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = DctTopK::new(3);
        let mut bytes = Vec::new();
        encoder.encode(&vec![0.5; AREA], &mut bytes); // 5 bytes of places at 20, 3 values at 25: one, and two unused
        assert_eq!(bytes[20..], [0, 0, 0, 0, 0, 0x00, 0x42, 0, 0, 0, 0]);
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.validate(&bytes, AREA), Err(expected));
        };
        check(27, &[0x00, 0x42], DecodeError::Place { entry: 1 }); // place 0 twice
        check(29, &[0x00, 0x42], DecodeError::NotCanonical { block: 0 }); // a value after the end
        check(22, &[1], DecodeError::NotCanonical { block: 0 }); // a place without a value
        check(24, &[0x10], DecodeError::Padding);
        check(25, &[0x80, 0x7f], DecodeError::Scale { block: 0 }); // infinite
        check(25, &[0x81, 0x5f], DecodeError::Scale { block: 0 }); // above 2⁶⁴
        check(25, &[0x00, 0x80], DecodeError::Scale { block: 0 }); // −0
    }
}
