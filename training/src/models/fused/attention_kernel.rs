//! The arithmetic of attention over one row of tokens, forward and backward, without a `[T, T]` tensor: scores of a block
//! of queries live as long as the block (Dao et al., FlashAttention, 2022; blocks of queries only, all keys at once).
//! It runs on the calling thread and knows no graph; queries and keys may be normed before they are rotated (QK-norm,
//! Henry et al., 2020), and tokens may be kept to their documents.

use std::sync::Arc;

use super::numeric::{dot, exp, exp_shifted, greatest, ln, vectorised};
use super::product::{Matrix, multiply};
use super::rms_norm;
use crate::models::operations::{AttentionShape, rotary_angles};
use crate::models::shape::RotaryConfig;

/// Queries at a time. Keys after the block's last query are not looked at, so smaller blocks waste less; larger ones
/// make better use of a matrix product.
const BLOCK: usize = 64;

/// Cosines and sines of rotary positions, `[T, E/2]` each.
#[derive(Debug, Clone)]
pub(crate) struct RotaryTable {
    cosines: Arc<Vec<f32>>,
    sines: Arc<Vec<f32>>,
}

impl RotaryTable {
    /// The tables of positions `0..tokens`.
    pub fn new(tokens: usize, head_width: usize, config: &RotaryConfig) -> Self {
        let angles = rotary_angles(tokens, head_width, config);
        let table = |function: fn(f64) -> f64| {
            let values = angles.iter().map(|angle| function(f64::from(*angle)) as f32);
            Arc::new(values.collect())
        };
        Self {
            cosines: table(f64::cos),
            sines: table(f64::sin),
        }
    }

    /// The row of a position for heads of `2·half` numbers.
    pub fn turns(&self, position: usize, half: usize) -> (&[f32], &[f32]) {
        let range = position * half..(position + 1) * half;
        (&self.cosines[range.clone()], &self.sines[range])
    }
}

/// The arithmetic of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel<'a> {
    pub shape: AttentionShape,
    pub rotary: &'a RotaryTable,
    /// Gains of queries and keys `[E]`, and ε.
    pub norms: Option<(&'a [f32], &'a [f32], f32)>,
    /// Where each token's document begins, `[T]`.
    pub starts: Option<&'a [u32]>,
}

/// A head's rows within the input.
#[derive(Clone, Copy)]
struct Head<'a> {
    column: usize,
    gain: Option<(&'a [f32], f32)>,
    scale: f32,
}

impl<'a> Kernel<'a> {
    fn start(&self, token: usize) -> usize {
        self.starts.map_or(0, |starts| starts[token] as usize)
    }

    fn query_head(&self, head: usize) -> Head<'a> {
        Head {
            column: head * self.shape.head_width,
            gain: self.norms.map(|(query, _, epsilon)| (query, epsilon)),
            // Scores are scaled through the queries.
            scale: 1.0 / (self.shape.head_width as f32).sqrt(),
        }
    }

    fn key_head(&self, kv: usize) -> Head<'a> {
        Head {
            column: (self.shape.heads + kv) * self.shape.head_width,
            gain: self.norms.map(|(_, key, epsilon)| (key, epsilon)),
            scale: 1.0,
        }
    }

    fn value_column(&self, kv: usize) -> usize {
        (self.shape.heads + self.shape.kv_heads + kv) * self.shape.head_width
    }

    /// `input` is `[T, in_width]`, `out` `[T, out_width]`, `log_sums` `[heads, T]`.
    pub fn forward(&self, input: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let AttentionShape {
            heads,
            kv_heads,
            head_width,
            tokens,
        } = self.shape;
        let (in_width, out_width) = (self.shape.in_width(), self.shape.out_width());
        let (mut query, mut key) = (vec![0.0; tokens * head_width], vec![0.0; tokens * head_width]);
        let mut scores = vec![0.0; BLOCK.min(tokens) * tokens];
        for head in 0..heads {
            let kv = head * kv_heads / heads;
            self.rotate(input, self.query_head(head), &mut query);
            if head % (heads / kv_heads) == 0 {
                self.rotate(input, self.key_head(kv), &mut key);
            }
            for first in (0..tokens).step_by(BLOCK) {
                let (begin, end) = (self.start(first), (first + BLOCK).min(tokens));
                let width = end - begin;
                let scores = &mut scores[..(end - first) * width];
                let block = Matrix::new(&query[first * head_width..], end - first, head_width, head_width);
                let keys = Matrix::new(&key[begin * head_width..], width, head_width, head_width);
                multiply(scores, width, block, keys.transposed(), false);
                for (row, position) in scores.chunks_mut(width).zip(first..) {
                    let (past, rest) = row.split_at_mut(self.start(position) - begin);
                    let (seen, future) = rest.split_at_mut(position + 1 - self.start(position));
                    log_sums[head * tokens + position] = weights_of(seen);
                    past.fill(0.0);
                    future.fill(0.0);
                }
                let weights = Matrix::new(scores, end - first, width, width);
                let value = &input[begin * in_width + self.value_column(kv)..];
                let target = &mut out[first * out_width + head * head_width..];
                multiply(
                    target,
                    out_width,
                    weights,
                    Matrix::new(value, width, head_width, in_width),
                    false,
                );
            }
        }
    }

    /// With P the weights and S the scores: dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P·(dP − rowsum(P·dP)), dQ = dS·K, dK = dSᵀ·Q.
    /// Returns the gradients by the gains, zero without norms.
    pub fn backward(&self, input: &[f32], dout: &[f32], log_sums: &[f32], dinput: &mut [f32]) -> [Vec<f32>; 2] {
        let AttentionShape {
            heads,
            kv_heads,
            head_width,
            tokens,
        } = self.shape;
        let (in_width, out_width) = (self.shape.in_width(), self.shape.out_width());
        let buffer = || vec![0.0; tokens * head_width];
        let (mut query, mut key, mut dquery, mut dkey) = (buffer(), buffer(), buffer(), buffer());
        let block = || vec![0.0; BLOCK.min(tokens) * tokens];
        let (mut weights, mut dscores) = (block(), block());
        let mut dgains = [vec![0.0; head_width], vec![0.0; head_width]];
        for head in 0..heads {
            let kv = head * kv_heads / heads;
            self.rotate(input, self.query_head(head), &mut query);
            if head % (heads / kv_heads) == 0 {
                self.rotate(input, self.key_head(kv), &mut key);
                dkey.fill(0.0);
            }
            for first in (0..tokens).step_by(BLOCK) {
                let (begin, end) = (self.start(first), (first + BLOCK).min(tokens));
                let (rows, width) = (end - first, end - begin);
                let (weights, dscores) = (&mut weights[..rows * width], &mut dscores[..rows * width]);
                let queries = Matrix::new(&query[first * head_width..], rows, head_width, head_width);
                let keys = Matrix::new(&key[begin * head_width..], width, head_width, head_width);
                let dout = &dout[first * out_width + head * head_width..];
                let dout = Matrix::new(dout, rows, head_width, out_width);
                let value = &input[begin * in_width + self.value_column(kv)..];
                let value = Matrix::new(value, width, head_width, in_width);
                multiply(weights, width, queries, keys.transposed(), false);
                multiply(dscores, width, dout, value.transposed(), false);
                let each = weights.chunks_mut(width).zip(dscores.chunks_mut(width)).zip(first..);
                for ((weights, dscores), position) in each {
                    let seen = [self.start(position) - begin, position + 1 - begin];
                    score_gradients(weights, dscores, seen, log_sums[head * tokens + position]);
                }
                let weights = Matrix::new(weights, rows, width, width);
                let dscores = Matrix::new(dscores, rows, width, width);
                let dvalue = &mut dinput[begin * in_width + self.value_column(kv)..];
                multiply(dvalue, in_width, weights.transposed(), dout, true);
                multiply(&mut dquery[first * head_width..], head_width, dscores, keys, false);
                multiply(
                    &mut dkey[begin * head_width..],
                    head_width,
                    dscores.transposed(),
                    queries,
                    true,
                );
            }
            self.rotate_back(&dquery, input, self.query_head(head), dinput, &mut dgains[0]);
            if (head + 1) % (heads / kv_heads) == 0 {
                self.rotate_back(&dkey, input, self.key_head(kv), dinput, &mut dgains[1]);
            }
        }
        dgains
    }

    /// Norms a head's rows where that is asked, and rotates their pairs `(i, i + E/2)`, into `[T, E]`.
    fn rotate(&self, input: &[f32], head: Head<'_>, to: &mut [f32]) {
        let width = self.shape.head_width;
        let mut normed = vec![0.0; width];
        for (token, to) in to.chunks_exact_mut(width).enumerate() {
            let mut from = &input[token * self.shape.in_width() + head.column..][..width];
            if let Some((gain, epsilon)) = head.gain {
                rms_norm::forward_row(from, gain, epsilon, &mut normed);
                from = &normed;
            }
            let (cosines, sines) = self.rotary.turns(token - self.start(token), width / 2);
            rotate_row(from, cosines, sines, head.scale, to);
        }
    }

    /// The gradient of [`Self::rotate`]: from `[T, E]` to rows of `dinput`; the gain's gradient grows.
    fn rotate_back(&self, from: &[f32], input: &[f32], head: Head<'_>, dinput: &mut [f32], dgain: &mut [f32]) {
        let width = self.shape.head_width;
        let (mut turned, mut unused) = (vec![0.0; width], vec![0.0; width]);
        for (token, from) in from.chunks_exact(width).enumerate() {
            let place = token * self.shape.in_width() + head.column;
            let (cosines, sines) = self.rotary.turns(token - self.start(token), width / 2);
            let to = &mut dinput[place..][..width];
            match head.gain {
                None => rotate_back_row(from, cosines, sines, head.scale, to),
                Some((gain, epsilon)) => {
                    rotate_back_row(from, cosines, sines, head.scale, &mut turned);
                    let x = &input[place..][..width];
                    let inverse = rms_norm::forward_row(x, gain, epsilon, &mut unused);
                    rms_norm::backward_row(x, gain, inverse, &turned, to, dgain);
                }
            }
        }
    }
}

vectorised! {
    /// From scores to weights that sum to one; returns the logarithm of the sum of their exponentials.
    pub(crate) fn weights_of(scores: &mut [f32]) -> f32 {
        let top = greatest(scores);
        let total = exp_shifted(scores, top);
        let share = 1.0 / total;
        scores.iter_mut().for_each(|value| *value *= share);
        ln(total) + top
    }
}

vectorised! {
    /// From scores to weights, and from weight gradients to score gradients; both are zero but from `seen[0]` to `seen[1]`.
    fn score_gradients(weights: &mut [f32], dscores: &mut [f32], seen: [usize; 2], log_sum: f32) {
        for row in [&mut *weights, &mut *dscores] {
            row[..seen[0]].fill(0.0);
            row[seen[1]..].fill(0.0);
        }
        let (weights, gradients) = (&mut weights[seen[0]..seen[1]], &mut dscores[seen[0]..seen[1]]);
        for weight in weights.iter_mut() {
            *weight = exp(*weight - log_sum);
        }
        let mean = dot(weights, gradients);
        for (gradient, weight) in gradients.iter_mut().zip(weights) {
            *gradient = *weight * (*gradient - mean);
        }
    }
}

vectorised! {
    /// Turns a head's pairs by their angles and scales them.
    pub(crate) fn rotate_row(from: &[f32], cosines: &[f32], sines: &[f32], scale: f32, to: &mut [f32]) {
        let (first, second) = from.split_at(cosines.len());
        let (to_first, to_second) = to.split_at_mut(cosines.len());
        let from = first.iter().zip(second).zip(cosines.iter().zip(sines));
        for ((to_first, to_second), ((first, second), (cosine, sine))) in to_first.iter_mut().zip(to_second).zip(from) {
            *to_first = (first * cosine - second * sine) * scale;
            *to_second = (second * cosine + first * sine) * scale;
        }
    }
}

vectorised! {
    fn rotate_back_row(from: &[f32], cosines: &[f32], sines: &[f32], scale: f32, to: &mut [f32]) {
        let (first, second) = from.split_at(cosines.len());
        let (to_first, to_second) = to.split_at_mut(cosines.len());
        let from = first.iter().zip(second).zip(cosines.iter().zip(sines));
        for ((to_first, to_second), ((first, second), (cosine, sine))) in to_first.iter_mut().zip(to_second).zip(from) {
            *to_first = (first * cosine + second * sine) * scale;
            *to_second = (second * cosine - first * sine) * scale;
        }
    }
}
