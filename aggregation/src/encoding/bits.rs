//! Numbers of a few bits each, packed without gaps from the least bit of the first byte on.
//! It knows neither what the numbers mean nor whether they are in order.

/// Bytes of `count` numbers of `width` bits; saturates where it exceeds `usize`.
pub(super) fn packed_len(count: usize, width: u32) -> usize {
    count.saturating_mul(width as usize).div_ceil(8)
}

/// Bits that the numbers `0..count` need.
pub(super) fn width_below(count: usize) -> u32 {
    usize::BITS - count.saturating_sub(1).leading_zeros()
}

/// Appends numbers to bytes.
pub(super) struct Packer<'a> {
    out: &'a mut Vec<u8>,
    pending: u64,
    filled: u32,
}

impl<'a> Packer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            pending: 0,
            filled: 0,
        }
    }

    /// Appends the lower `width` bits of `value`, of which the others are zero; `width` is at most 48.
    pub(super) fn push(&mut self, value: u64, width: u32) {
        self.pending |= value << self.filled;
        self.filled += width;
        while self.filled >= 8 {
            self.out.push(self.pending as u8);
            self.pending >>= 8;
            self.filled -= 8;
        }
    }

    /// Fills the last byte up with zeros.
    pub(super) fn finish(self) {
        if self.filled > 0 {
            self.out.push(self.pending as u8);
        }
    }
}

/// The number at place `at` of numbers of `width` ≤ 48 bits.
pub(super) fn unpack(packed: &[u8], at: usize, width: u32) -> u64 {
    let bit = at * width as usize;
    let rest = &packed[bit / 8..];
    let word = match rest.first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    word >> (bit % 8) & ((1 << width) - 1)
}

/// Whether the bits after `count` numbers of `width` bits are zero.
pub(super) fn padding_is_zero(packed: &[u8], count: usize, width: u32) -> bool {
    let used = count * width as usize % 8;
    used == 0 || packed.last().is_none_or(|last| last >> used == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_at_every_width() {
        for width in 1..=48u32 {
            let numbers: Vec<u64> = (0..29u64)
                .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - width))
                .collect();
            let mut bytes = Vec::new();
            let mut packer = Packer::new(&mut bytes);
            numbers.iter().for_each(|&number| packer.push(number, width));
            packer.finish();
            assert_eq!(bytes.len(), packed_len(numbers.len(), width));
            assert!(padding_is_zero(&bytes, numbers.len(), width));
            let read: Vec<u64> = (0..numbers.len()).map(|at| unpack(&bytes, at, width)).collect();
            assert_eq!(read, numbers, "{width} bits");
        }
        assert_eq!(unpack(&[], 0, 0), 0);
    }

    #[test]
    fn widths_are_the_least_that_hold_every_index() {
        for (count, width) in [(0, 0), (1, 0), (2, 1), (3, 2), (4096, 12), (4097, 13)] {
            assert_eq!(width_below(count), width, "{count}");
        }
    }
}
