//! How GGUF files hold numbers: plain floats, blocks of 32 with a scale (and a minimum), and ggml's super-blocks of 256.
//! All are decoded to f32 exactly as ggml defines them; f32, f16, bf16 and Q8_0 are written, too.

use crate::interchange::weights::from_f16;

/// ggml's types of tensors that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Encoding {
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// By ggml's number.
    pub fn of(kind: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.kind() == kind)
    }

    /// ggml's number, name, values of a block, and bytes of one.
    fn facts(self) -> (u32, &'static str, usize, usize) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::Bf16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
        }
    }

    pub fn kind(self) -> u32 {
        self.facts().0
    }

    pub fn name(self) -> &'static str {
        self.facts().1
    }

    pub fn block(self) -> usize {
        self.facts().2
    }

    pub fn block_bytes(self) -> usize {
        self.facts().3
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    /// When there are not as many bytes as the values take.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        assert_eq!(
            values.len() / self.block() * self.block_bytes(),
            bytes.len(),
            "whole blocks"
        );
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (block, values) in blocks.zip(values.chunks_exact_mut(self.block())) {
            match self {
                Self::F32 => values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => values[0] = half(block),
                Self::Bf16 => values[0] = f32::from_bits(u32::from(u16::from_le_bytes([block[0], block[1]])) << 16),
                Self::Q4_0 => fours(&block[2..], values, |q| half(block) * (f32::from(q) - 8.0)),
                Self::Q4_1 => {
                    let (scale, minimum) = (half(block), half(&block[2..]));
                    fours(&block[4..], values, |q| scale * f32::from(q) + minimum);
                }
                Self::Q5_0 => fives(&block[2..], values, |q| half(block) * (f32::from(q) - 16.0)),
                Self::Q5_1 => {
                    let (scale, minimum) = (half(block), half(&block[2..]));
                    fives(&block[4..], values, |q| scale * f32::from(q) + minimum);
                }
                Self::Q8_0 => {
                    let scale = half(block);
                    let quants = block[2..].iter().map(|byte| f32::from(*byte as i8));
                    values.iter_mut().zip(quants).for_each(|(value, q)| *value = scale * q);
                }
                Self::Q4K => of_256_in_4(block, &[], &block[16..], values),
                Self::Q5K => of_256_in_4(block, &block[16..48], &block[48..], values),
                Self::Q6K => of_256_in_6(block, values),
            }
        }
    }
}

fn half(bytes: &[u8]) -> f32 {
    from_f16(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// 32 values of four bits: the lower halves of 16 bytes, then the upper ones.
fn fours(quants: &[u8], values: &mut [f32], value_of: impl Fn(u8) -> f32) {
    let (low, high) = values.split_at_mut(16);
    for ((byte, low), high) in quants.iter().zip(low).zip(high) {
        (*low, *high) = (value_of(byte & 15), value_of(byte >> 4));
    }
}

/// 32 values of five bits: 32 highest bits, then as [`fours`].
fn fives(block: &[u8], values: &mut [f32], value_of: impl Fn(u8) -> f32) {
    let highest = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let fifth = |at: usize| (highest >> at & 1) as u8 * 16;
    let (low, high) = values.split_at_mut(16);
    for (at, ((byte, low), high)) in block[4..].iter().zip(low).zip(high).enumerate() {
        *low = value_of(byte & 15 | fifth(at));
        *high = value_of(byte >> 4 | fifth(at + 16));
    }
}

/// The scale and the minimum of part `at` of eight, six bits each, out of twelve bytes: parts 0 to 3 have theirs in the lower
/// bits of bytes 0 to 7; those of parts 4 to 7 are in the last four bytes and the two upper bits of the others.
fn scale_and_minimum(packed: &[u8], at: usize) -> (f32, f32) {
    let (scale, minimum) = match at {
        0..4 => (packed[at] & 63, packed[at + 4] & 63),
        _ => (
            packed[at + 4] & 15 | packed[at - 4] >> 6 << 4,
            packed[at + 4] >> 4 | packed[at] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(minimum))
}

/// Q4_K and, with fifth bits, Q5_K: 256 values in eight parts of 32, two of which share 32 bytes of quants.
fn of_256_in_4(block: &[u8], fifths: &[u8], quants: &[u8], values: &mut [f32]) {
    let (scale, minimum, packed) = (half(block), half(&block[2..]), &block[4..16]);
    for (part, values) in values.chunks_exact_mut(32).enumerate() {
        let (of_scale, of_minimum) = scale_and_minimum(packed, part);
        let (scale, minimum) = (scale * of_scale, minimum * of_minimum);
        let bytes = &quants[part / 2 * 32..][..32];
        for (at, (byte, value)) in bytes.iter().zip(values).enumerate() {
            let four = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            let fifth = fifths.get(at).map_or(0, |bits| bits >> part & 1);
            *value = scale * f32::from(four + 16 * fifth) - minimum;
        }
    }
}

/// Q6_K: 256 values of six bits in two halves of 128, a scale for each 16.
fn of_256_in_6(block: &[u8], values: &mut [f32]) {
    let (fours, twos, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half(&block[208..]);
    for (at, value) in values.iter_mut().enumerate() {
        // Of each half: 32 by 32, the first two parts are lower halves of bytes, the last two upper ones.
        let (side, part, place) = (at / 128, at % 128 / 32, at % 32);
        let byte = fours[side * 64 + part % 2 * 32 + place];
        let four = if part < 2 { byte & 15 } else { byte >> 4 };
        let two = twos[side * 32 + place] >> (2 * part) & 3;
        let of_sixteen = scales[at / 16] as i8;
        *value = scale * f32::from(of_sixteen) * (f32::from(four | two << 4) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        r#type: String,
        bytes: String,
        bits: Vec<u32>,
    }

    /// Blocks and what llama.cpp's own package makes of them (`tests/check_gguf.py blocks`).
    #[test]
    fn blocks_of_every_type_are_decoded_as_llama_cpp_decodes_them() {
        let text = include_str!("../../../tests/fixtures/gguf_blocks.json");
        let fixture: Fixture = serde_json::from_str(text).unwrap();
        for encoding in Encoding::ALL {
            let case = fixture
                .cases
                .iter()
                .find(|case| case.r#type == encoding.name())
                .unwrap();
            let byte = |at: usize| u8::from_str_radix(&case.bytes[2 * at..][..2], 16).unwrap();
            let bytes: Vec<u8> = (0..case.bytes.len() / 2).map(byte).collect();
            let mut values = vec![0.0; case.bits.len()];
            encoding.decode(&bytes, &mut values);
            let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
            assert_eq!(bits, case.bits, "{}", encoding.name());
        }
        assert_eq!(fixture.cases.len(), Encoding::ALL.len());
    }
}
