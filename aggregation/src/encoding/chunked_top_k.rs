//! The largest values of each chunk, two bits each (Sarfi et al. 2025, "SparseLoCo": chunks of 4096, hence 12 bits of place
//! and 2 of value). It converges only with error feedback, which lies outside (`feedback.rs`).
//!
//! Body: chunk length u32 · kept u32 · for each chunk of c values, of which n = min(kept, c) entries have room:
//!
//! ```text
//! low, high   bf16 each, the code book:   00 → low   01 → high   10 → −low   11 → −high
//! n entries of (w + 2) bits, packed, filled up to a whole byte: place, then code above it; w = log₂(chunk length)
//! ```
//! The encoder keeps the n largest magnitudes of the chunk (ties to the lower place, subnormals count as zero). Those above
//! their mean are `high`, the others `low`; each of the two is the mean of the magnitudes it stands for: one step of the
//! two-level quantiser of Lloyd and Max. So an update of d values has, apart from 24 bytes before them, exactly
//! ⌊d / c⌋ · (4 + ⌈n (w + 2) / 8⌉) bytes and as much for a shorter last chunk: with 64 of 4096, 116 bytes, 14.5 bits a
//! kept value, 0.23 bits a value.
//! Canonical form: places increase. Entries that are not used come last and are zero, which no used entry but the first
//! can be. A chunk of zeros is zero bytes. Both code book values are normal and occur, low < high, or high is 0 and does
//! not occur. Unused bits are 0.

use super::bf16::{narrow, widen};
use super::bits::{Packer, packed_len, padding_is_zero, unpack};
use super::selection::{LEAST_NORMAL, Selection};
use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting};
use crate::numeric::CHUNK;

/// The encoding by the largest values of each chunk.
#[derive(Clone, Copy, Debug)]
pub struct ChunkedTopK {
    chunk: u32,
    keep: u32,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 8;

/// The code's bit that says `high`.
const HIGH: u64 = 1;
/// The code's bit that says minus.
const MINUS: u64 = 2;
/// Bytes of the code book.
const BOOK_LEN: usize = 4;
/// bf16 bits of the least normal and the largest finite value.
const NORMAL: std::ops::RangeInclusive<u16> = 0x0080..=0x7f7f;

impl ChunkedTopK {
    /// An encoding that keeps `keep` of each `chunk` values.
    ///
    /// # Panics
    /// When `chunk` is no power of two between 2 and 16384, or `keep` is not between 1 and `chunk`.
    pub fn new(chunk: u32, keep: u32) -> Self {
        assert!(
            chunk.is_power_of_two() && (2..=CHUNK as u32).contains(&chunk),
            "a chunk is a power of two"
        );
        assert!((1..=chunk).contains(&keep), "a chunk keeps some of its values");
        Self { chunk, keep }
    }

    fn chunk_len(&self) -> usize {
        self.chunk as usize
    }

    /// Bits of a place.
    fn width(&self) -> u32 {
        self.chunk.trailing_zeros()
    }

    /// Entries and bytes of a chunk of `len` values.
    fn sizes(&self, len: usize) -> (usize, usize) {
        let entries = len.min(self.keep as usize);
        let bytes = if len == 0 {
            0
        } else {
            BOOK_LEN + packed_len(entries, self.width() + 2)
        };
        (entries, bytes)
    }
}

impl Encoder for ChunkedTopK {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        begin(out, TAG, values.len(), self.encoded_len(values.len()));
        out.extend_from_slice(&self.chunk.to_le_bytes());
        out.extend_from_slice(&self.keep.to_le_bytes());
        let mut selection = Selection::default();
        for values in values.chunks(self.chunk_len()) {
            let (entries, bytes) = self.sizes(values.len());
            let end = out.len() + bytes;
            selection.choose(values, entries, LEAST_NORMAL);
            write_chunk(values, &selection.chosen, self.width(), out);
            out.resize(end, 0);
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let mut rest = check_setting(check_setting(body, self.chunk)?, self.keep)?;
        for block in 0..dimension.div_ceil(self.chunk_len()) {
            let len = self.chunk_len().min(dimension - block * self.chunk_len());
            let (entries, bytes) = self.sizes(len);
            let (chunk, tail) = rest.split_at(bytes);
            validate_chunk(block, chunk, len, entries, self.width())?;
            rest = tail;
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, dimension) = body_for_range(bytes, first, out.len());
        let width = self.width();
        let stride = self.sizes(self.chunk_len()).1;
        out.fill(0.0);
        for (index, out) in out.chunks_mut(self.chunk_len()).enumerate() {
            let chunk = first / self.chunk_len() + index;
            let (entries, _) = self.sizes(self.chunk_len().min(dimension - chunk * self.chunk_len()));
            let Some((book, packed)) = body[8 + chunk * stride..].split_first_chunk::<BOOK_LEN>() else {
                return;
            };
            let levels = levels(*book);
            if levels[0] == 0 {
                continue;
            }
            for entry in 0..entries {
                let number = unpack(packed, entry, width + 2);
                if entry > 0 && number == 0 {
                    break;
                }
                let (place, code) = ((number & ((1 << width) - 1)) as usize, number >> width);
                // A range may end within a chunk.
                if let Some(out) = out.get_mut(place) {
                    let level = levels[usize::from(code & HIGH != 0)];
                    *out = widen(level | u16::from(code & MINUS != 0) << 15);
                }
            }
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        let (whole, rest) = (dimension / self.chunk_len(), dimension % self.chunk_len());
        whole
            .saturating_mul(self.sizes(self.chunk_len()).1)
            .saturating_add(self.sizes(rest).1)
            .saturating_add(HEADER_LEN + 8)
    }
}

fn levels(book: [u8; BOOK_LEN]) -> [u16; 2] {
    let [a, b, c, d] = book;
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

/// Writes the code book and the chosen entries; nothing for a chunk of zeros.
fn write_chunk(values: &[f32], chosen: &[u32], width: u32, out: &mut Vec<u8>) {
    if chosen.is_empty() {
        return;
    }
    let magnitudes = || chosen.iter().map(|&place| f64::from(values[place as usize].abs()));
    let mean = magnitudes().fold(0.0, |sum, magnitude| sum + magnitude) / chosen.len() as f64;
    let mean_where = |high: bool| {
        let (sum, count) = magnitudes()
            .filter(|&magnitude| (magnitude > mean) == high)
            .fold((0.0, 0usize), |(sum, count), magnitude| (sum + magnitude, count + 1));
        if count == 0 {
            0
        } else {
            narrow((sum / count as f64) as f32)
        }
    };
    let (mut low, mut high) = (mean_where(false), mean_where(true));
    let two = low != high && high != 0;
    if !two {
        (low, high) = (narrow(mean as f32), 0);
    }
    out.extend_from_slice(&low.to_le_bytes());
    out.extend_from_slice(&high.to_le_bytes());
    let mut packer = Packer::new(out);
    for &place in chosen {
        let value = values[place as usize];
        let is_high = two && f64::from(value.abs()) > mean;
        let code = if is_high { HIGH } else { 0 } | if value < 0.0 { MINUS } else { 0 };
        packer.push(u64::from(place) | code << width, width + 2);
    }
    packer.finish();
}

/// Checks that a chunk of `len` values is canonical.
fn validate_chunk(block: usize, chunk: &[u8], len: usize, entries: usize, width: u32) -> Result<(), DecodeError> {
    let refused = Err(DecodeError::NotCanonical { block });
    let Some((book, packed)) = chunk.split_first_chunk::<BOOK_LEN>() else {
        return refused;
    };
    let [low, high] = levels(*book);
    if low == 0 {
        return if chunk.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            refused
        };
    }
    if !(NORMAL.contains(&low) && (high == 0 || (low < high && NORMAL.contains(&high)))) {
        return Err(DecodeError::Scale { block });
    }
    let (mut least, mut ended, mut seen) = (0, false, [false; 2]);
    for entry in 0..entries {
        let number = unpack(packed, entry, width + 2);
        ended |= entry > 0 && number == 0;
        if ended {
            if number != 0 {
                return refused;
            }
            continue;
        }
        let place = (number & ((1 << width) - 1)) as usize;
        if place < least || place >= len {
            return Err(DecodeError::Place { entry });
        }
        least = place + 1;
        seen[usize::from(number >> width & HIGH != 0)] = true;
    }
    if seen != [true, high != 0] {
        return refused;
    }
    if !padding_is_zero(packed, entries, width + 2) {
        return Err(DecodeError::Padding);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encoder: ChunkedTopK, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encoder.encode(values, &mut bytes);
        assert_eq!(bytes.len(), encoder.encoded_len(values.len()));
        bytes
    }

    #[test]
    fn a_chunk_by_hand() {
        // Kept: 8, −2, 2, −12; mean 6; low = 2, high = 10. Bits per entry: 3 + 2.
        let values = [0.5, 8.0, -2.0, 0.0, 2.0, -12.0, 1.0, -1.0];
        let bytes = encoded(ChunkedTopK::new(8, 4), &values);
        let entries = [0b01_001u64, 0b10_010, 0b00_100, 0b11_101];
        let packed = entries.iter().rev().fold(0, |all, entry| all << 5 | entry);
        assert_eq!(bytes[24..28], [0x00, 0x40, 0x20, 0x41]);
        assert_eq!(bytes[28..], packed.to_le_bytes()[..3]);
        let mut decoded = [9.0; 8];
        ChunkedTopK::new(8, 4).decode(&bytes, &mut decoded).unwrap();
        assert_eq!(decoded, [0.0, 10.0, -2.0, 0.0, 2.0, -10.0, 0.0, 0.0]);
    }

    #[test]
    fn fourteen_bits_a_kept_value_and_a_code_book() {
        let encoder = ChunkedTopK::new(4096, 64);
        assert_eq!(encoder.encoded_len(4096) - encoder.encoded_len(0), 4 + 64 * 14 / 8);
        assert_eq!(
            encoder.encoded_len(10) - encoder.encoded_len(0),
            4 + (10 * 14usize).div_ceil(8)
        );
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        let encoder = ChunkedTopK::new(4, 2);
        let bytes = encoded(encoder, &[0.0, 1.0, 0.0, -3.0, 0.0, 0.0]); // low 1, high 3; 0b1111_0001 at 28; zeros after
        assert_eq!(bytes[24..], [0x80, 0x3f, 0x40, 0x40, 0b1111_0001, 0, 0, 0, 0, 0]);
        let check = |at: usize, with: &[u8], expected: DecodeError| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(encoder.validate(&bytes, 6), Err(expected));
        };
        let refused = |block| DecodeError::NotCanonical { block };
        check(28, &[0b1101_0001], DecodeError::Place { entry: 1 }); // 1, 1
        check(28, &[0b1011_0001], refused(0)); // high does not occur
        check(28, &[0b1111_0101], refused(0)); // low does not occur
        check(26, &[0, 0], refused(0)); // a code without its value
        check(26, &[0x80, 0x3f], DecodeError::Scale { block: 0 }); // low = high
        check(26, &[0x80, 0x7f], DecodeError::Scale { block: 0 }); // infinite
        check(24, &[0x01, 0x00], DecodeError::Scale { block: 0 }); // subnormal
        check(33, &[1], refused(1)); // an entry in a chunk of zeros
        check(29, &[0x80, 0x3f, 0, 0, 0b0000_0010], DecodeError::Place { entry: 0 }); // beyond the last value
        check(16, &8u32.to_le_bytes(), DecodeError::Block { expected: 4, found: 8 });
        check(20, &1u32.to_le_bytes(), DecodeError::Block { expected: 2, found: 1 });
    }
}
