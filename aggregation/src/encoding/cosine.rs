//! The discrete cosine transform of 64 × 64 blocks, DCT-II and its inverse, bit for bit the same everywhere.
//! It asks no library for a cosine and knows nothing of what the coefficients are for.
//!
//! One dimension of N = 64, orthonormal: `c_k = a_k √(2/N) Σ_i x_i cos((2i + 1) k π / 2N)`, a_0 = √½ and else 1. It is
//! computed by Lee's recursion (Lee 1984, IEEE TASSP 32(6)): sums and differences of mirrored values, each half
//! transformed, N log₂ N steps; always in the same order, in f32, on 64 columns side by side.
//!
//! The recursion needs 1 / (2 cos φ) for φ = (2i + 1) π / 2n, n = 2, 4 … 64. From cos π/4 = √½, half angles give the
//! rest: cos(φ/2) = √((1 + cos φ) / 2), and cos(π − φ) = −cos φ. Only + − × ÷ and √ in f64, which IEEE 754 rounds
//! correctly, then one rounding to f32: every machine has the same table.

/// Values a side of a block.
pub(super) const SIDE: usize = 64;
/// Values of a block.
pub(super) const AREA: usize = SIDE * SIDE;

type Row = [f32; SIDE];
/// A block of values or of coefficients, row after row.
pub(super) type Block = [Row; SIDE];

/// Table of the transform: for n = 2^(level + 1), 1 / (2 cos((2i + 1) π / 2n)) for i below n / 2.
#[derive(Clone, Debug)]
pub(super) struct Cosine {
    factors: [[f32; SIDE / 2]; 6],
}

impl Cosine {
    pub(super) fn new() -> Self {
        let mut factors = [[0.0f32; SIDE / 2]; 6];
        let mut cosines = [0.0f64; SIDE / 2];
        cosines[0] = 0.5f64.sqrt(); // π/4, of n = 2
        for (level, factors) in factors.iter_mut().enumerate() {
            let half = 1 << level;
            if level > 0 {
                // The angles of n are halves of those of n/2, continued by their mirror images beyond π/2.
                let coarse = cosines;
                for (i, cosine) in cosines.iter_mut().enumerate().take(half) {
                    let whole = if i < half / 2 { coarse[i] } else { -coarse[half - 1 - i] };
                    *cosine = ((1.0 + whole) / 2.0).sqrt();
                }
            }
            for (factor, cosine) in factors.iter_mut().zip(cosines).take(half) {
                *factor = (1.0 / (2.0 * cosine)) as f32;
            }
        }
        Self { factors }
    }

    /// Turns values into coefficients: `[l][k]` gets that of frequency k down the columns and l along the rows, so that one
    /// transposition is enough. `scratch` may hold anything.
    pub(super) fn forward(&self, block: &mut Block, scratch: &mut Block) {
        self.forward_columns(block, scratch);
        transpose(block, scratch);
        self.forward_columns(scratch, block);
        for (l, (row, from)) in block.iter_mut().zip(scratch.iter()).enumerate() {
            for (k, (value, from)) in row.iter_mut().zip(from).enumerate() {
                *value = from * scale(k) * scale(l);
            }
        }
    }

    /// Turns such coefficients into values. `scratch` may hold anything.
    pub(super) fn inverse(&self, block: &mut Block, scratch: &mut Block) {
        for (l, row) in block.iter_mut().enumerate() {
            for (k, value) in row.iter_mut().enumerate() {
                *value *= scale(k) * scale(l);
            }
        }
        self.inverse_columns(block, scratch);
        transpose(block, scratch);
        self.inverse_columns(scratch, block);
        *block = *scratch;
    }

    /// X_k = Σ_i x_i cos((2i + 1) k π / 2n) down each column.
    fn forward_columns(&self, rows: &mut [Row], scratch: &mut [Row]) {
        let n = rows.len();
        if n == 1 {
            return;
        }
        let half = n / 2;
        let factors = &self.factors[half.trailing_zeros() as usize];
        let (even, odd) = scratch.split_at_mut(half);
        let pairs = rows[..half].iter().zip(rows[half..].iter().rev());
        for (((x, mirrored), (sum, difference)), &factor) in pairs.zip(even.iter_mut().zip(odd.iter_mut())).zip(factors)
        {
            for column in 0..SIDE {
                sum[column] = x[column] + mirrored[column];
                difference[column] = (x[column] - mirrored[column]) * factor;
            }
        }
        let (even_scratch, odd_scratch) = rows.split_at_mut(half);
        self.forward_columns(even, even_scratch);
        self.forward_columns(odd, odd_scratch);
        let (pairs, _) = rows.as_chunks_mut::<2>();
        for (i, [even_row, odd_row]) in pairs.iter_mut().enumerate() {
            *even_row = even[i];
            match odd.get(i + 1) {
                Some(next) => {
                    for column in 0..SIDE {
                        odd_row[column] = odd[i][column] + next[column];
                    }
                }
                None => *odd_row = odd[i],
            }
        }
    }

    /// x_i = X_0 + Σ_{k>0} X_k cos((2i + 1) k π / 2n) down each column.
    fn inverse_columns(&self, rows: &mut [Row], scratch: &mut [Row]) {
        let n = rows.len();
        if n == 1 {
            return;
        }
        let half = n / 2;
        let factors = &self.factors[half.trailing_zeros() as usize];
        let (even, odd) = scratch.split_at_mut(half);
        let (pairs, _) = rows.as_chunks::<2>();
        for (i, [even_row, odd_row]) in pairs.iter().enumerate() {
            even[i] = *even_row;
            match i.checked_sub(1) {
                Some(before) => {
                    for column in 0..SIDE {
                        odd[i][column] = odd_row[column] + pairs[before][1][column];
                    }
                }
                None => odd[i] = *odd_row,
            }
        }
        let (even_scratch, odd_scratch) = rows.split_at_mut(half);
        self.inverse_columns(even, even_scratch);
        self.inverse_columns(odd, odd_scratch);
        let (front, back) = rows.split_at_mut(half);
        let pairs = front.iter_mut().zip(back.iter_mut().rev());
        for (((x, mirrored), (even, odd)), &factor) in pairs.zip(even.iter().zip(odd.iter())).zip(factors) {
            for column in 0..SIDE {
                let y = odd[column] * factor;
                x[column] = even[column] + y;
                mirrored[column] = even[column] - y;
            }
        }
    }
}

/// a_k √(2/64): 1/8 for k = 0, whose a is √½, and √2/8 else.
fn scale(k: usize) -> f32 {
    if k == 0 { 0.125 } else { std::f32::consts::SQRT_2 / 8.0 }
}

/// Rows become columns, tile by tile.
fn transpose(from: &Block, to: &mut Block) {
    const TILE: usize = 8;
    for top in (0..SIDE).step_by(TILE) {
        for left in (0..SIDE).step_by(TILE) {
            for i in top..top + TILE {
                for j in left..left + TILE {
                    to[j][i] = from[i][j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine_of(numerator: usize) -> f64 {
        (numerator as f64 * std::f64::consts::PI / 128.0).cos()
    }

    fn sample() -> Box<Block> {
        let mut block = Box::new([[0.0; SIDE]; SIDE]);
        for (i, value) in block.as_flattened_mut().iter_mut().enumerate() {
            *value = ((i * i * 31 + i * 17) % 257) as f32 / 128.0 - 1.0;
        }
        block
    }

    #[test]
    fn the_table_agrees_with_the_library_and_its_bits_are_fixed() {
        let table = Cosine::new();
        let mut digest = 0u64;
        for (level, factors) in table.factors.iter().enumerate() {
            for (i, factor) in factors.iter().enumerate().take(1 << level) {
                let exact = 1.0 / (2.0 * cosine_of((2 * i + 1) << (5 - level)));
                assert!((f64::from(*factor) / exact - 1.0).abs() < 6e-8, "level {level}, {i}");
                digest = digest.wrapping_mul(0x0100_0000_01b3) ^ u64::from(factor.to_bits());
            }
        }
        assert_eq!(digest, 0xc0f0_8463_4aca_1801, "{digest:#018x}");
    }

    #[test]
    fn coefficients_are_those_of_the_definition() {
        let values = sample();
        let (mut block, mut scratch) = (values.clone(), sample());
        Cosine::new().forward(&mut block, &mut scratch);
        let weight = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
        for (k, l) in [(0, 0), (0, 1), (1, 0), (5, 9), (63, 63), (31, 2), (17, 40)] {
            let mut sum = 0.0f64;
            for (i, row) in values.iter().enumerate() {
                for (j, value) in row.iter().enumerate() {
                    sum += f64::from(*value) * cosine_of((2 * i + 1) * k) * cosine_of((2 * j + 1) * l);
                }
            }
            let expected = sum * weight(k) * weight(l) / 32.0;
            assert!(
                (f64::from(block[l][k]) - expected).abs() < 1e-4,
                "{k}, {l}: {} {expected}",
                block[l][k]
            );
        }
    }

    #[test]
    fn the_inverse_brings_the_values_back() {
        let values = sample();
        let (mut block, mut scratch) = (values.clone(), sample());
        let table = Cosine::new();
        table.forward(&mut block, &mut scratch);
        table.inverse(&mut block, &mut scratch);
        for (got, value) in block.as_flattened().iter().zip(values.as_flattened()) {
            assert!((got - value).abs() < 1e-4, "{got} {value}");
        }
    }
}
