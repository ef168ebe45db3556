//! Causal self-attention with rotary positions as one operation, forward and backward, without a `[T, T]` tensor: scores of a
//! block of queries live as long as the block (Dao et al., FlashAttention, 2022; blocks of queries only, all keys at once).
//! It keeps its input and one log-sum per query for the backward pass, and computes the scores again.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;
use std::sync::Arc;

use super::numeric::{dot, exp, exp_shifted, greatest, vectorised};
use super::product::{Matrix, multiply};
use super::{parts, tensor, values};
use crate::models::operations::{AttentionShape, rotary_angles};

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
    pub fn new(tokens: usize, head_width: usize) -> Self {
        let angles = rotary_angles(tokens, head_width);
        let table = |function: fn(f32) -> f32| Arc::new(angles.iter().map(|angle| function(*angle)).collect());
        Self {
            cosines: table(f32::cos),
            sines: table(f32::sin),
        }
    }
}

/// `qkv` is `[B·T, (heads + 2·kv_heads)·E]`; the result is `[B·T, heads·E]`.
pub(crate) fn attention(qkv: Tensor<2>, rotary: &RotaryTable, shape: AttentionShape) -> Tensor<2> {
    let rows = qkv.dims()[0];
    let (input, node) = parts(qkv);
    let kernel = Kernel {
        shape,
        rotary: rotary.clone(),
    };
    let mut out = vec![0.0; rows * kernel.out_width()];
    let mut log_sums = vec![0.0; rows * shape.heads];
    let sequences = out.par_chunks_mut(shape.tokens * kernel.out_width());
    let sequences = sequences.zip(log_sums.par_chunks_mut(shape.tokens * shape.heads));
    let sequences = sequences.zip(values(&input).par_chunks(shape.tokens * kernel.in_width()));
    sequences.for_each(|((out, log_sums), input)| kernel.forward(input, out, log_sums));
    let out = tensor(out, &[rows, kernel.out_width()]);
    let out = match Attention.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((input, log_sums, kernel), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug)]
struct Attention;

impl Backward<Flex, 1> for Attention {
    type State = (FlexTensor, Vec<f32>, Kernel);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (input, log_sums, kernel) = ops.state;
        let (tokens, heads) = (kernel.shape.tokens, kernel.shape.heads);
        let (in_width, out_width) = (kernel.in_width(), kernel.out_width());
        let mut dinput = vec![0.0; values(&input).len()];
        let rows = dinput.len() / in_width;
        let sequences = dinput
            .par_chunks_mut(tokens * in_width)
            .zip(values(&input).par_chunks(tokens * in_width));
        let sequences = sequences.zip(values(&dout).par_chunks(tokens * out_width));
        let sequences = sequences.zip(log_sums.par_chunks(tokens * heads));
        sequences.for_each(|(((dinput, input), dout), log_sums)| kernel.backward(input, dout, log_sums, dinput));
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, tensor(dinput, &[rows, in_width]));
        }
    }
}

/// The arithmetic of one sequence.
#[derive(Debug, Clone)]
struct Kernel {
    shape: AttentionShape,
    rotary: RotaryTable,
}

impl Kernel {
    fn in_width(&self) -> usize {
        (self.shape.heads + 2 * self.shape.kv_heads) * self.shape.head_width
    }

    fn out_width(&self) -> usize {
        self.shape.heads * self.shape.head_width
    }

    /// Scores are scaled through the queries.
    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_width as f32).sqrt()
    }

    /// Where key head `kv` and its value begin in a row of the input.
    fn key_value_columns(&self, kv: usize) -> (usize, usize) {
        let AttentionShape {
            heads,
            kv_heads,
            head_width,
            ..
        } = self.shape;
        ((heads + kv) * head_width, (heads + kv_heads + kv) * head_width)
    }

    /// `input` is `[T, in_width]`, `out` `[T, out_width]`, `log_sums` `[heads, T]`.
    fn forward(&self, input: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let AttentionShape {
            heads,
            kv_heads,
            head_width,
            tokens,
        } = self.shape;
        let (in_width, out_width) = (self.in_width(), self.out_width());
        let (mut query, mut key) = (vec![0.0; tokens * head_width], vec![0.0; tokens * head_width]);
        let mut scores = vec![0.0; BLOCK.min(tokens) * tokens];
        for head in 0..heads {
            let (key_column, value_column) = self.key_value_columns(head * kv_heads / heads);
            self.rotate(&input[head * head_width..], self.scale(), &mut query);
            self.rotate(&input[key_column..], 1.0, &mut key);
            for first in (0..tokens).step_by(BLOCK) {
                let end = (first + BLOCK).min(tokens);
                let scores = &mut scores[..(end - first) * end];
                let block = Matrix::new(&query[first * head_width..], end - first, head_width, head_width);
                multiply(
                    scores,
                    end,
                    block,
                    Matrix::new(&key, end, head_width, head_width).transposed(),
                    false,
                );
                for (row, position) in scores.chunks_mut(end).zip(first..) {
                    let (seen, future) = row.split_at_mut(position + 1);
                    let top = greatest(seen);
                    let total = exp_shifted(seen, top);
                    log_sums[head * tokens + position] = total.ln() + top;
                    let share = 1.0 / total;
                    seen.iter_mut().for_each(|value| *value *= share);
                    future.fill(0.0);
                }
                let weights = Matrix::new(scores, end - first, end, end);
                let value = Matrix::new(&input[value_column..], end, head_width, in_width);
                multiply(
                    &mut out[first * out_width + head * head_width..],
                    out_width,
                    weights,
                    value,
                    false,
                );
            }
        }
    }

    /// With P the weights and S the scores: dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P·(dP − rowsum(P·dP)), dQ = dS·K, dK = dSᵀ·Q.
    fn backward(&self, input: &[f32], dout: &[f32], log_sums: &[f32], dinput: &mut [f32]) {
        let AttentionShape {
            heads,
            kv_heads,
            head_width,
            tokens,
        } = self.shape;
        let (in_width, out_width) = (self.in_width(), self.out_width());
        let buffer = || vec![0.0; tokens * head_width];
        let (mut query, mut key, mut dquery, mut dkey) = (buffer(), buffer(), buffer(), buffer());
        let (mut weights, mut dscores) = (
            vec![0.0; BLOCK.min(tokens) * tokens],
            vec![0.0; BLOCK.min(tokens) * tokens],
        );
        for head in 0..heads {
            let kv = head * kv_heads / heads;
            let (key_column, value_column) = self.key_value_columns(kv);
            self.rotate(&input[head * head_width..], self.scale(), &mut query);
            self.rotate(&input[key_column..], 1.0, &mut key);
            if head % (heads / kv_heads) == 0 {
                dkey.fill(0.0);
            }
            for first in (0..tokens).step_by(BLOCK) {
                let end = (first + BLOCK).min(tokens);
                let rows = end - first;
                let (weights, dscores) = (&mut weights[..rows * end], &mut dscores[..rows * end]);
                let query_block = Matrix::new(&query[first * head_width..], rows, head_width, head_width);
                let keys = Matrix::new(&key, end, head_width, head_width);
                let dout_block = Matrix::new(
                    &dout[first * out_width + head * head_width..],
                    rows,
                    head_width,
                    out_width,
                );
                let value = Matrix::new(&input[value_column..], end, head_width, in_width);
                multiply(weights, end, query_block, keys.transposed(), false);
                multiply(dscores, end, dout_block, value.transposed(), false);
                for ((weights, dscores), position) in weights.chunks_mut(end).zip(dscores.chunks_mut(end)).zip(first..)
                {
                    score_gradients(weights, dscores, position + 1, log_sums[head * tokens + position]);
                }
                let (weights, dscores) = (
                    Matrix::new(weights, rows, end, end),
                    Matrix::new(dscores, rows, end, end),
                );
                multiply(
                    &mut dinput[value_column..],
                    in_width,
                    weights.transposed(),
                    dout_block,
                    true,
                );
                multiply(&mut dquery[first * head_width..], head_width, dscores, keys, false);
                multiply(&mut dkey, head_width, dscores.transposed(), query_block, true);
            }
            self.rotate_back(&dquery, self.scale(), &mut dinput[head * head_width..]);
            if (head + 1) % (heads / kv_heads) == 0 {
                self.rotate_back(&dkey, 1.0, &mut dinput[key_column..]);
            }
        }
    }

    /// Rotates the pairs `(i, i + E/2)` of a head's rows, which begin `in_width` apart, into `[T, E]`.
    fn rotate(&self, from: &[f32], scale: f32, to: &mut [f32]) {
        let half = self.shape.head_width / 2;
        for (position, to) in to.chunks_exact_mut(2 * half).enumerate() {
            let from = &from[position * self.in_width()..][..2 * half];
            let (cosines, sines) = self.turns(position);
            rotate_row(from, cosines, sines, scale, to);
        }
    }

    /// The transpose of [`Self::rotate`]: from `[T, E]` to rows `in_width` apart.
    fn rotate_back(&self, from: &[f32], scale: f32, to: &mut [f32]) {
        let half = self.shape.head_width / 2;
        for (position, from) in from.chunks_exact(2 * half).enumerate() {
            let to = &mut to[position * self.in_width()..][..2 * half];
            let (cosines, sines) = self.turns(position);
            rotate_back_row(from, cosines, sines, scale, to);
        }
    }

    fn turns(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.shape.head_width / 2;
        let range = position * half..(position + 1) * half;
        (&self.rotary.cosines[range.clone()], &self.rotary.sines[range])
    }
}

vectorised! {
    /// From scores to weights, and from weight gradients to score gradients; both are zero from `seen` on.
    fn score_gradients(weights: &mut [f32], dscores: &mut [f32], seen: usize, log_sum: f32) {
        for weight in &mut weights[..seen] {
            *weight = exp(*weight - log_sum);
        }
        weights[seen..].fill(0.0);
        let (weights, gradients) = (&weights[..seen], &mut dscores[..seen]);
        let mean = dot(weights, gradients);
        for (gradient, weight) in gradients.iter_mut().zip(weights) {
            *gradient = weight * (*gradient - mean);
        }
        dscores[seen..].fill(0.0);
    }
}

vectorised! {
    fn rotate_row(from: &[f32], cosines: &[f32], sines: &[f32], scale: f32, to: &mut [f32]) {
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
