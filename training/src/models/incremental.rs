//! A decoder that takes tokens as they come and remembers their keys and values: what generating text needs.
//! Plain Rust over slices, on the processor; it computes no gradient and forgets nothing: who fills it starts another.

use rayon::prelude::*;

use super::decoder::Decoder;
use super::fused::RotaryTable;
use super::fused::attention_kernel::{rotate_row, weights_of};
use super::fused::numeric::{dot, vectorised};
use super::fused::{rms_norm, swiglu, xielu};
use super::leaves::{Leaf, leaves};
use super::shape::{Architecture, DecoderShape};
use crate::product::{Matrix, product};
use crate::trainer::TrainError;

/// Keys and values of the tokens so far, and what computes the next.
#[derive(Debug)]
pub struct Incremental<'a> {
    shape: &'a DecoderShape,
    parameters: &'a [f32],
    leaves: Vec<Leaf>,
    rotary: RotaryTable,
    /// One a layer: `[tokens, kv_heads · E]`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    tokens: usize,
}

/// Rows of a matrix that one thread multiplies with a vector.
const ROWS: usize = 128;

impl<'a> Incremental<'a> {
    /// A decoder that has seen no token.
    pub fn new(decoder: &'a Decoder, parameters: &'a [f32]) -> Result<Self, TrainError> {
        let shape = decoder.shape();
        TrainError::check_length(decoder.layout(), parameters)?;
        Ok(Self {
            shape,
            parameters,
            leaves: leaves(decoder.layout()),
            rotary: RotaryTable::new(shape.context, shape.head_width, &shape.rotary),
            keys: vec![Vec::new(); shape.layers],
            values: vec![Vec::new(); shape.layers],
            tokens: 0,
        })
    }

    /// Tokens that there is room for.
    pub fn room(&self) -> usize {
        self.shape.context - self.tokens
    }

    /// Takes tokens (at least one, at most as many as there is room for) and returns the logits after the last: `[V]`.
    pub fn push(&mut self, tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        if tokens.is_empty() || tokens.len() > self.room() {
            return Err(TrainError::RowTooLong {
                length: self.tokens + tokens.len(),
                context: self.shape.context,
            });
        }
        let vocabulary = self.shape.vocabulary.size();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(crate::data::BatchError::Foreign {
                token: *token,
                vocabulary,
            }
            .into());
        }
        let width = self.shape.width;
        let embedding = self.weight(0);
        let mut x: Vec<f32> = tokens
            .iter()
            .flat_map(|token| &embedding[*token as usize * width..][..width])
            .copied()
            .collect(); // [N, D]
        let mut at = 1;
        for layer in 0..self.shape.layers {
            self.block(layer, &mut at, &mut x);
        }
        self.tokens += tokens.len();
        let last = self.normed(&x[x.len() - width..], at);
        let head = if self.shape.tied { 0 } else { at + 1 };
        Ok(self.linear(&last, head))
    }

    fn weight(&self, leaf: usize) -> &'a [f32] {
        &self.parameters[self.leaves[leaf].range.clone()]
    }

    /// Adds a block to `x`, `[N, D]`; `at` is its first leaf, and then the next block's.
    fn block(&mut self, layer: usize, at: &mut usize, x: &mut [f32]) {
        let mut next = || {
            *at += 1;
            *at - 1
        };
        let qkv = self.linear(&self.normed(x, next()), next()); // [N, (H + 2K)·E]
        let norms = match self.shape.architecture {
            Architecture::Llama => None,
            Architecture::Apertus => Some((self.weight(next()), self.weight(next()))),
        };
        let mixed = self.attention(layer, qkv, norms);
        add(x, &self.linear(&mixed, next()));
        let up = self.linear(&self.normed(x, next()), next());
        let hidden = match self.shape.architecture {
            Architecture::Llama => {
                let mut hidden = vec![0.0; up.len() / 2];
                let width = self.shape.hidden;
                for (hidden, up) in hidden.chunks_mut(width).zip(up.chunks(2 * width)) {
                    let (gate, up) = up.split_at(width);
                    swiglu::forward_row(gate, up, hidden);
                }
                hidden
            }
            Architecture::Apertus => {
                let raw = [self.weight(next())[0], self.weight(next())[0]];
                let [alpha_p, alpha_n] = xielu::alphas(raw);
                let mut hidden = vec![0.0; up.len()];
                xielu::forward(&up, alpha_p, alpha_n, &mut hidden);
                hidden
            }
        };
        add(x, &self.linear(&hidden, next()));
    }

    fn normed(&self, x: &[f32], gain: usize) -> Vec<f32> {
        let gain = self.weight(gain);
        let mut out = vec![0.0; x.len()];
        for (x, out) in x.chunks(gain.len()).zip(out.chunks_mut(gain.len())) {
            rms_norm::forward_row(x, gain, self.shape.norm_epsilon, out);
        }
        out
    }

    /// `x·Wᵀ` of one row or several.
    fn linear(&self, x: &[f32], leaf: usize) -> Vec<f32> {
        let [outputs, inputs] = self.leaves[leaf].shape;
        let weight = self.weight(leaf);
        let rows = x.len() / inputs;
        if rows > 1 {
            let weight = Matrix::new(weight, outputs, inputs, inputs);
            return product(Matrix::new(x, rows, inputs, inputs), weight.transposed());
        }
        let mut out = vec![0.0; outputs];
        let chunks = out.par_chunks_mut(ROWS).zip(weight.par_chunks(ROWS * inputs));
        chunks.for_each(|(out, weight)| dots(weight, x, out));
        out
    }

    /// Remembers the rows' keys and values, and mixes the values that each row sees: `[N, H·E]`.
    fn attention(&mut self, layer: usize, mut qkv: Vec<f32>, norms: Option<(&[f32], &[f32])>) -> Vec<f32> {
        let (heads, kv_heads, width) = (self.shape.heads, self.shape.kv_heads, self.shape.head_width);
        let in_width = (heads + 2 * kv_heads) * width;
        let scale = 1.0 / (width as f32).sqrt();
        let (mut normed, mut turned) = (vec![0.0; width], vec![0.0; width]);
        for (index, row) in qkv.chunks_mut(in_width).enumerate() {
            let (cosines, sines) = self.rotary.turns(self.tokens + index, width / 2);
            for (head, part) in row[..(heads + kv_heads) * width].chunks_mut(width).enumerate() {
                let is_query = head < heads;
                normed.copy_from_slice(part);
                if let Some((query, key)) = norms {
                    let gain = if is_query { query } else { key };
                    rms_norm::forward_row(part, gain, self.shape.norm_epsilon, &mut normed);
                }
                let scale = if is_query { scale } else { 1.0 };
                rotate_row(&normed, cosines, sines, scale, &mut turned);
                part.copy_from_slice(&turned);
            }
            self.keys[layer].extend_from_slice(&row[heads * width..(heads + kv_heads) * width]);
            self.values[layer].extend_from_slice(&row[(heads + kv_heads) * width..]);
        }
        let (keys, values, before) = (&self.keys[layer], &self.values[layer], self.tokens);
        let mut out = vec![0.0; qkv.len() / in_width * heads * width];
        let rows = out.par_chunks_mut(heads * width).zip(qkv.par_chunks(in_width));
        rows.enumerate().for_each(|(index, (out, row))| {
            let seen = before + index + 1;
            for (head, out) in out.chunks_mut(width).enumerate() {
                let column = head * kv_heads / heads * width;
                let query = &row[head * width..][..width];
                mix(query, keys, values, column, kv_heads * width, &mut vec![0.0; seen], out);
            }
        });
        out
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

vectorised! {
    /// The products of a matrix's rows with a vector.
    fn dots(matrix: &[f32], x: &[f32], out: &mut [f32]) {
        for (row, out) in matrix.chunks_exact(x.len()).zip(out) {
            *out = dot(row, x);
        }
    }
}

vectorised! {
    /// The values of one head, mixed by the likeness of their keys to the query. Rows of keys and values are `stride` apart.
    fn mix(query: &[f32], keys: &[f32], values: &[f32], column: usize, stride: usize, scores: &mut [f32], out: &mut [f32]) {
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(stride)) {
            *score = dot(query, &key[column..column + query.len()]);
        }
        weights_of(scores);
        for (weight, value) in scores.iter().zip(values.chunks_exact(stride)) {
            for (out, value) in out.iter_mut().zip(&value[column..]) {
                *out += weight * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::models::apertus::ApertusConfig;

    #[test]
    fn tokens_one_by_one_or_together_have_the_logits_of_the_whole() {
        let llama = DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads: Some(2),
            width: 32,
            tied: false,
            ..DecoderConfig::default()
        };
        let apertus = ApertusConfig {
            layers: 2,
            kv_heads: Some(2),
            width: 32,
            ..ApertusConfig::default()
        };
        for shape in [DecoderShape::from(&llama), DecoderShape::from(&apertus)] {
            let decoder = Decoder::new(&shape, burn::tensor::Device::flex());
            let parameters: Vec<f32> = decoder.initial_parameters(2).iter().map(|p| 2.0 * p).collect();
            let tokens: Vec<u32> = (0..40).map(|i| i * i % 251).collect();
            let whole = decoder.logits(&parameters, &tokens).unwrap();
            let mut incremental = Incremental::new(&decoder, &parameters).unwrap();
            let mut cuts = tokens.chunks(7).flat_map(|chunk| {
                if chunk[0] % 2 == 0 {
                    vec![chunk]
                } else {
                    chunk.chunks(1).collect()
                }
            });
            let mut end = 0;
            cuts.all(|cut| {
                let logits = incremental.push(cut).unwrap();
                end += cut.len();
                let expected = &whole[(end - 1) * 256..end * 256];
                let far = logits
                    .iter()
                    .zip(expected)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(far < 1e-5, "{end}: {far}");
                true
            });
            assert_eq!((end, incremental.room()), (40, 128 - 40));
            assert!(incremental.push(&[256]).is_err() && incremental.push(&[]).is_err());
            assert!(incremental.push(&[0; 89]).is_err());
        }
    }
}
