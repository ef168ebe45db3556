//! Each matrix of an update as a product of two thin ones (Vogels, Karimireddy & Jaggi 2019, NeurIPS, "PowerSGD"). It needs
//! error feedback (`feedback.rs`), and it shares no factor between members, as PowerSGD's all-reduce does: each sends its
//! own, so that a rule sees each member's update and none steers another's.
//!
//! The layout says where the matrices are: shapes in the order of the parameters. A matrix of m × n with r (m + n) < m n
//! travels as P (m × r, row after row) and Q (r × n, row after row); every other one, a vector (1 × n) and what lies beyond the
//! layout travel dense. Body: rank u32 · all of these numbers as bf16, little-endian, in the order of the parameters.
//!
//! ```text
//! Q₀ = signs from ChaCha8, the same for all;   twice: P ← orthonormalise(M Qᵀ), Q ← Pᵀ M;   decoded M̂ = P Q
//! ```
//! Two steps of the subspace iteration stand in for PowerSGD's warm start, which would be state between rounds. Canonical
//! form: all numbers are finite and none is −0; |p| ≤ 1 and |q| ≤ 2¹²⁰, so that no product overflows. Factors are not
//! unique: other bytes may stand for the same matrix, but no encoder here writes them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::bf16::{narrow, widen};
use super::{DecodeError, Encoder, HEADER_LEN, assert_finite, begin, body, body_for_range, check_setting};

/// Shape of one parameter, as rows of equal length that follow each other; a vector is one row.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Rows.
    pub rows: u32,
    /// Values a row.
    pub columns: u32,
}

/// The low-rank encoding for one layout.
#[derive(Clone, Debug)]
pub struct LowRank {
    rank: u32,
    pieces: Vec<Piece>,
}

/// A parameter's place in the update and in the body.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// First coordinate.
    first: usize,
    /// First number of the body.
    at: usize,
    rows: usize,
    columns: usize,
    /// Whether it travels as factors.
    factored: bool,
}

/// This encoding's tag in the header.
pub const TAG: u8 = 10;

/// The largest rank. With |p| ≤ 1 and |q| ≤ 2¹²⁰, sums of so many products stay below 2¹²⁶.
pub const MAX_RANK: u32 = 64;

/// Subspace steps.
const STEPS: usize = 2;
/// bf16 bits of 1 and of 2¹²⁰.
const ONE: u16 = 127 << 7;
const MOST: u16 = (127 + 120) << 7;
/// 2¹²⁰.
const MOST_VALUE: f64 = 1_329_227_995_784_915_872_903_807_060_280_344_576.0;

impl LowRank {
    /// An encoding of rank `rank` for updates that begin with `layout`.
    ///
    /// # Panics
    /// When `rank` is not between 1 and 64.
    pub fn new(rank: u32, layout: &[TensorShape]) -> Self {
        assert!((1..=MAX_RANK).contains(&rank), "a rank lies between 1 and {MAX_RANK}");
        let (mut first, mut at) = (0usize, 0usize);
        let pieces = layout
            .iter()
            .map(|shape| {
                let (rows, columns) = (shape.rows as usize, shape.columns as usize);
                let (area, factors) = (rows * columns, rank as usize * (rows + columns));
                let piece = Piece {
                    first,
                    at,
                    rows,
                    columns,
                    factored: factors < area,
                };
                (first, at) = (first + area, at + factors.min(area));
                piece
            })
            .collect();
        Self { rank, pieces }
    }

    /// The pieces of an update of `dimension` values, the vector beyond the layout included, and the numbers of the body.
    ///
    /// # Panics
    /// When the layout has more values than the update.
    fn pieces(&self, dimension: usize) -> (impl Iterator<Item = Piece>, usize) {
        let end = self.pieces.last().map_or((0, 0), |last| {
            (last.first + last.rows * last.columns, last.at + self.numbers(last))
        });
        assert!(
            end.0 <= dimension,
            "a layout of {} values for an update of {dimension}",
            end.0
        );
        let rest = Piece {
            first: end.0,
            at: end.1,
            rows: 1,
            columns: dimension - end.0,
            factored: false,
        };
        let total = end.1.saturating_add(rest.columns);
        (self.pieces.iter().copied().chain([rest]), total)
    }

    fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Numbers that a piece has in the body.
    fn numbers(&self, piece: &Piece) -> usize {
        if piece.factored {
            self.rank() * (piece.rows + piece.columns)
        } else {
            piece.rows * piece.columns
        }
    }
}

impl Encoder for LowRank {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_finite(values);
        begin(out, TAG, values.len(), self.encoded_len(values.len()));
        out.extend_from_slice(&self.rank.to_le_bytes());
        for piece in self.pieces(values.len()).0 {
            let matrix = &values[piece.first..piece.first + piece.rows * piece.columns];
            if piece.factored {
                let (p, q) = factorise(matrix, piece.columns, self.rank());
                out.extend(p.iter().flat_map(|&p| number(p.clamp(-1.0, 1.0)).to_le_bytes()));
                let cut = |q: f64| number(q.clamp(-MOST_VALUE, MOST_VALUE));
                out.extend(q.iter().flat_map(|&q| cut(q).to_le_bytes()));
            } else {
                out.extend(matrix.iter().flat_map(|&value| number(f64::from(value)).to_le_bytes()));
            }
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        let body = body(bytes, TAG, dimension, self.encoded_len(dimension))?;
        let (numbers, _) = check_setting(body, self.rank)?.as_chunks::<2>();
        for (block, piece) in self.pieces(dimension).0.enumerate() {
            let numbers = &numbers[piece.at..piece.at + self.numbers(&piece)];
            let (p, q) = numbers.split_at(if piece.factored { self.rank() * piece.rows } else { 0 });
            let most = if piece.factored { MOST } else { 0x7f7f };
            for (numbers, most) in [(p, ONE), (q, most)] {
                let bad = numbers.iter().fold(false, |bad, number| {
                    let bits = u16::from_le_bytes(*number);
                    bad | (bits & 0x7fff > most) | (bits == 0x8000)
                });
                if bad {
                    return Err(DecodeError::NotCanonical { block });
                }
            }
        }
        Ok(())
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let (body, dimension) = body_for_range(bytes, first, out.len());
        let (numbers, _) = body[4..].as_chunks::<2>();
        let end = first + out.len();
        for piece in self.pieces(dimension).0 {
            let from = piece.first.max(first);
            let to = (piece.first + piece.rows * piece.columns).min(end);
            if from >= to {
                continue;
            }
            let numbers = &numbers[piece.at..piece.at + self.numbers(&piece)];
            let out = &mut out[from - first..to - first];
            if piece.factored {
                multiply(numbers, piece, self.rank(), from - piece.first, out);
            } else {
                for (out, number) in out.iter_mut().zip(&numbers[from - piece.first..]) {
                    *out = widen(u16::from_le_bytes(*number));
                }
            }
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        self.pieces(dimension)
            .1
            .saturating_mul(2)
            .saturating_add(HEADER_LEN + 4)
    }
}

/// The nearest bf16, never −0.
fn number(value: f64) -> u16 {
    let bits = narrow(value as f32);
    if bits == 0x8000 { 0 } else { bits }
}

/// P (m × r, row after row) with orthonormal or zero columns and Q = Pᵀ M (r × n, row after row).
fn factorise(matrix: &[f32], columns: usize, rank: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = matrix.len() / columns;
    let mut random = ChaCha8Rng::from_seed(*b"synod low-rank start of subspace");
    let mut q: Vec<f64> = (0..rank * columns)
        .map(|_| if random.next_u32() & 1 == 0 { 1.0 } else { -1.0 })
        .collect();
    let mut p = vec![0.0f64; rows * rank];
    for _ in 0..STEPS {
        for (row, p) in matrix.chunks_exact(columns).zip(p.chunks_exact_mut(rank)) {
            for (p, q) in p.iter_mut().zip(q.chunks_exact(columns)) {
                *p = dot(row, q);
            }
        }
        orthonormalise(&mut p, rank);
        q.fill(0.0);
        for (row, p) in matrix.chunks_exact(columns).zip(p.chunks_exact(rank)) {
            for (&p, q) in p.iter().zip(q.chunks_exact_mut(columns)) {
                for (q, &value) in q.iter_mut().zip(row) {
                    *q += p * f64::from(value);
                }
            }
        }
    }
    (p, q)
}

/// Σ a b over interleaved accumulators, added from first to last.
fn dot(a: &[f32], b: &[f64]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            lanes[lane] += f64::from(a[lane]) * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += f64::from(*a) * b;
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

/// Gram-Schmidt, each column twice; a column that the ones before it span becomes zero.
fn orthonormalise(p: &mut [f64], rank: usize) {
    let norm = |p: &[f64], k: usize| p.chunks_exact(rank).fold(0.0, |sum, row| sum + row[k] * row[k]).sqrt();
    for k in 0..rank {
        let before = norm(p, k);
        for _ in 0..2 {
            for earlier in 0..k {
                let along = p.chunks_exact(rank).fold(0.0, |sum, row| sum + row[earlier] * row[k]);
                p.chunks_exact_mut(rank).for_each(|row| row[k] -= along * row[earlier]);
            }
        }
        let after = norm(p, k);
        let scale = if after > before * 1e-9 && after > 0.0 {
            1.0 / after
        } else {
            0.0
        };
        p.chunks_exact_mut(rank).for_each(|row| row[k] *= scale);
    }
}

/// Writes P Q from the matrix's value `first` on; each value is a sum over the rank, in order, in f32.
fn multiply(numbers: &[[u8; 2]], piece: Piece, rank: usize, first: usize, out: &mut [f32]) {
    let (p, q) = numbers.split_at(piece.rows * rank);
    let (mut out, mut at) = (out, first);
    while !out.is_empty() {
        let (row, column) = (at / piece.columns, at % piece.columns);
        let len = out.len().min(piece.columns - column);
        let (head, tail) = out.split_at_mut(len);
        head.fill(0.0);
        for (k, p) in p[row * rank..(row + 1) * rank].iter().enumerate() {
            let p = widen(u16::from_le_bytes(*p));
            let q = &q[k * piece.columns + column..][..len];
            for (out, q) in head.iter_mut().zip(q) {
                *out += p * widen(u16::from_le_bytes(*q));
            }
        }
        (out, at) = (tail, at + len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: [TensorShape; 3] = [
        TensorShape { rows: 1, columns: 5 },
        TensorShape { rows: 20, columns: 30 },
        TensorShape { rows: 2, columns: 2 },
    ];

    fn decoded(encoder: &LowRank, values: &[f32]) -> Vec<f32> {
        let (mut bytes, mut decoded) = (Vec::new(), vec![9.0; values.len()]);
        encoder.encode(values, &mut bytes);
        assert_eq!(bytes.len(), encoder.encoded_len(values.len()));
        encoder.decode(&bytes, &mut decoded).unwrap();
        decoded
    }

    /// A vector, a matrix of rank 2, a small matrix, and three values beyond the layout.
    fn update() -> Vec<f32> {
        let matrix = (0..600).map(|i| {
            let (row, column) = ((i / 30) as f32, (i % 30) as f32);
            (row - 9.5) * (column - 3.0) / 64.0 + (row * row / 40.0 - 3.0) * ((column * 7.0) % 11.0 - 5.0) / 16.0
        });
        let mut values = vec![0.5, -1.0, 2.0, 0.0, -0.0];
        values.extend(matrix);
        values.extend([1.0, 2.0, 3.0, 4.0, -8.0, 16.0, 0.25]);
        values
    }

    #[test]
    fn a_matrix_of_the_rank_comes_back_up_to_bf16_and_vectors_do_too() {
        let values = update();
        let got = decoded(&LowRank::new(2, &LAYOUT), &values);
        let error: f32 = got.iter().zip(&values).map(|(a, b)| (a - b) * (a - b)).sum();
        let norm: f32 = values.iter().map(|value| value * value).sum();
        assert!(error < norm * 3e-5, "{error} of {norm}");
        assert_eq!(got[..5], values[..5]);
        assert_eq!(got[605..], values[605..]);
        assert_eq!(LowRank::new(2, &LAYOUT).encoded_len(612), 20 + 2 * (5 + 2 * 50 + 4 + 3));
    }

    #[test]
    fn without_a_layout_all_is_a_vector() {
        assert_eq!(LowRank::new(1, &[]).encoded_len(100), 20 + 200);
        assert_eq!(decoded(&LowRank::new(1, &[]), &[1.0, -0.0, 3.0]), [1.0, 0.0, 3.0]);
    }

    #[test]
    fn extremes_stay_finite() {
        for size in [f32::MAX, f32::from_bits(1), 0.0] {
            let values: Vec<f32> = (0..612).map(|i| if i % 3 == 0 { size } else { -size }).collect();
            assert!(
                decoded(&LowRank::new(4, &LAYOUT), &values)
                    .iter()
                    .all(|got| got.is_finite()),
                "{size}"
            );
        }
    }

    #[test]
    fn numbers_beyond_their_range_are_refused() {
        let encoder = LowRank::new(1, &LAYOUT);
        let mut bytes = Vec::new();
        encoder.encode(&update(), &mut bytes); // 5 numbers at 20, 20 of P at 30, 30 of Q at 70, dense from 130 on
        let check = |at: usize, with: u16, block: usize| {
            let mut bytes = bytes.clone();
            bytes[at..at + 2].copy_from_slice(&with.to_le_bytes());
            assert_eq!(encoder.validate(&bytes, 612), Err(DecodeError::NotCanonical { block }));
        };
        check(20, 0x7f80, 0); // infinite
        check(30, ONE + 1, 1);
        check(70, MOST + 1, 1);
        check(70, 0x8000, 1); // −0
        check(130, 0x7fc0, 2); // NaN
        check(138, 0xff80, 3); // beyond the layout
    }
}
