//! The decoder's operations on burn tensors, in plain burn operations: the reference for `fused` and the path of GPUs.
//! Activations are 2-D, `[B·T, width]`: Flex keeps products of 3-D activations batched, which is slower.

use burn::tensor::activation::{log_softmax, silu, softmax, softplus};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

use super::shape::RotaryConfig;
use crate::device::Precision;

/// xIELU's slope at zero.
pub(crate) const XIELU_BETA: f32 = 0.5;

/// What the head's loss is computed for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets<'a> {
    /// The token after each, `[N]`.
    pub tokens: &'a [u32],
    /// What each counts, `[N]`; without: 1.
    pub weights: Option<&'a [f32]>,
    /// What the sum of the weighted losses is divided by.
    pub divisor: f64,
    /// The factor of the squared log-partition.
    pub z_loss: f32,
}

/// How heads share a row of activations, and how sequences share the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_width: usize,
    /// Tokens in a sequence, T.
    pub tokens: usize,
}

impl AttentionShape {
    /// Numbers in a row of queries, keys and values.
    pub fn in_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_width
    }

    /// Numbers in a row of the result.
    pub fn out_width(&self) -> usize {
        self.heads * self.head_width
    }
}

/// Cosines and sines of rotary positions, `[T, head_width / 2]` each.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    pub cosines: Tensor<2>,
    pub sines: Tensor<2>,
}

impl Rotary {
    /// The tables of positions `0..tokens`, in f32 as `transformers` computes them (Su et al., RoFormer, 2021).
    pub fn new(tokens: usize, head_width: usize, config: &RotaryConfig, device: &Device) -> Self {
        let half = head_width / 2;
        let angles = rotary_angles(tokens, head_width, config);
        let table = |function: fn(f64) -> f64| {
            let values = angles.iter().map(|angle| function(f64::from(*angle)) as f32).collect();
            Tensor::from_data(TensorData::new(values, [tokens, half]), device)
        };
        Self {
            cosines: table(f64::cos),
            sines: table(f64::sin),
        }
    }
}

impl Rotary {
    /// Cosines and sines of the tokens' positions in their documents, `[1 or B, 1, T, E / 2]` each.
    fn at(&self, starts: Option<&[u32]>, batch: usize, tokens: usize) -> [Tensor<4>; 2] {
        [&self.cosines, &self.sines].map(|table| {
            let half = table.dims()[1];
            let Some(starts) = starts else {
                return table.clone().narrow(0, 0, tokens).reshape([1, 1, tokens, half]);
            };
            let position = |(index, start): (usize, &u32)| (index % tokens) as i32 - *start as i32;
            let positions: Vec<i32> = starts.iter().enumerate().map(position).collect();
            let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [batch * tokens]), &table.device());
            table.clone().select(0, positions).reshape([batch, 1, tokens, half])
        })
    }
}

/// The angles of positions `0..tokens` for the pairs of a head, `[T, head_width / 2]`.
pub(crate) fn rotary_angles(tokens: usize, head_width: usize, config: &RotaryConfig) -> Vec<f32> {
    let frequencies = config.frequencies(head_width);
    let position = |position: usize| frequencies.iter().map(move |frequency| position as f32 * frequency);
    (0..tokens).flat_map(position).collect()
}

/// The matrix product of two f32 tensors, in f32, computed from factors of that precision. With bf16 the gradients of the
/// factors go through bf16 in turn.
pub(crate) fn product<const D: usize>(left: Tensor<D>, right: Tensor<D>, precision: Precision) -> Tensor<D> {
    match precision {
        Precision::F32 => left.matmul(right),
        Precision::Bf16 => left.cast(DType::BF16).matmul(right.cast(DType::BF16)).cast(DType::F32),
    }
}

/// `x / rms(x) · gain`, along the last dimension (Zhang and Sennrich, 2019). `gain` must be broadcastable.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<D>, epsilon: f32) -> Tensor<D> {
    let inverse = (x.clone() * x.clone())
        .mean_dim(D - 1)
        .add_scalar(epsilon)
        .sqrt()
        .recip(); // [.., 1]
    x * inverse * gain
}

/// Causal self-attention with rotary positions. `qkv` is `[B·T, (heads + 2·kv_heads)·head_width]`; the result is
/// `[B·T, heads·head_width]`. `norms` are the gains of queries and keys, `[1, head_width]`, and ε; `starts` says where each
/// token's document begins in its row.
pub(crate) fn attention(
    qkv: Tensor<2>,
    norms: Option<(Tensor<2>, Tensor<2>, f32)>,
    rotary: &Rotary,
    shape: AttentionShape,
    starts: Option<&[u32]>,
    precision: Precision,
) -> Tensor<2> {
    let AttentionShape {
        heads,
        kv_heads,
        head_width,
        tokens,
    } = shape;
    let batch = qkv.dims()[0] / tokens;
    let tables = rotary.at(starts, batch, tokens);
    let qkv = qkv
        .reshape([batch, tokens, heads + 2 * kv_heads, head_width])
        .swap_dims(1, 2); // [B, H + 2K, T, E]
    let (mut query, mut key) = (qkv.clone().narrow(1, 0, heads), qkv.clone().narrow(1, heads, kv_heads));
    if let Some((query_gain, key_gain, epsilon)) = norms {
        query = rms_norm(query, query_gain.reshape([1, 1, 1, head_width]), epsilon);
        key = rms_norm(key, key_gain.reshape([1, 1, 1, head_width]), epsilon);
    }
    let query = rotate(query, &tables); // [B, H, T, E]
    let key = share(rotate(key, &tables), heads);
    let value = share(qkv.narrow(1, heads + kv_heads, kv_heads), heads);

    let scale = 1.0 / (head_width as f32).sqrt();
    let scores = product(query, key.swap_dims(2, 3), precision).mul_scalar(scale); // [B, H, T, T]
    let hidden = hidden_keys(starts, tokens, &scores.device());
    let scores = scores.mask_fill(hidden.expand([batch, heads, tokens, tokens]), f32::NEG_INFINITY);
    let mixed = product(softmax(scores, 3), value, precision); // [B, H, T, E]
    mixed.swap_dims(1, 2).reshape([batch * tokens, heads * head_width])
}

/// Rotates the pairs `(i, i + E/2)` of every head: Llama's half-split form.
fn rotate(x: Tensor<4>, [cosines, sines]: &[Tensor<4>; 2]) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let (cosines, sines) = (cosines.clone(), sines.clone());
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned_first = first.clone() * cosines.clone() - second.clone() * sines.clone();
    let turned_second = second * cosines + first * sines;
    Tensor::cat(vec![turned_first, turned_second], 3)
}

/// Repeats each key or value head for the query heads that share it.
fn share(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv_heads, tokens, width] = x.dims();
    match heads / kv_heads {
        1 => x,
        group => x
            .reshape([batch, kv_heads, 1, tokens * width])
            .repeat_dim(2, group)
            .reshape([batch, heads, tokens, width]),
    }
}

/// True where a key lies after the query, or in another document before it: `[1 or B, 1, T, T]`.
fn hidden_keys(starts: Option<&[u32]>, tokens: usize, device: &Device) -> Tensor<4, Bool> {
    let rows = starts.map_or(1, |starts| starts.len() / tokens);
    let mask: Vec<bool> = (0..rows * tokens)
        .flat_map(|row| {
            let start = starts.map_or(0, |starts| starts[row] as usize);
            (0..tokens).map(move |key| key > row % tokens || key < start)
        })
        .collect();
    Tensor::from_data(TensorData::new(mask, [rows, 1, tokens, tokens]), device)
}

/// `silu(gate) · up` (Shazeer, 2020). `gate_up` is `[N, 2·hidden]`; the result is `[N, hidden]`.
pub(crate) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    let hidden = gate_up.dims()[1] / 2;
    silu(gate_up.clone().narrow(1, 0, hidden)) * gate_up.narrow(1, hidden, hidden)
}

/// Rows of the embedding: `[V, D]` and `[N]` to `[N, D]`.
pub(crate) fn embed(embedding: Tensor<2>, tokens: Tensor<1, Int>) -> Tensor<2> {
    embedding.select(0, tokens)
}

/// xIELU with α_p = softplus(`raw_p`) and α_n = β + softplus(`raw_n`); see `fused::xielu`. `x` is `[N, F]`, the raw numbers
/// `[1, 1]`.
pub(crate) fn xielu(x: Tensor<2>, raw_p: Tensor<2>, raw_n: Tensor<2>) -> Tensor<2> {
    let (above, below) = (x.clone().clamp_min(0.0), x.clone().clamp_max(0.0));
    let (alpha_p, alpha_n) = (softplus(raw_p, 1.0), softplus(raw_n, 1.0).add_scalar(XIELU_BETA));
    let line = below.clone().exp().sub_scalar(1.0) - below;
    above.clone() * above * alpha_p + line * alpha_n + x.mul_scalar(XIELU_BETA)
}

/// Σ w·nll and Σ w·z·lse² of the targets under the head's logits `x · headᵀ`.
pub(crate) fn head_loss(x: Tensor<2>, head: Tensor<2>, targets: Targets<'_>, precision: Precision) -> [Tensor<1>; 2] {
    let (rows, device) = (x.dims()[0], x.device());
    let logits = product(x, head.transpose(), precision); // [N, V]
    let tokens: Vec<i32> = targets.tokens.iter().map(|token| *token as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [rows, 1]), &device);
    let weights = targets.weights.map_or_else(|| vec![1.0; rows], <[f32]>::to_vec);
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [rows, 1]), &device);
    let log_likelihoods = log_softmax(logits.clone(), 1).gather(1, tokens.clone()); // [N, 1]
    let log_sums = logits.gather(1, tokens) - log_likelihoods.clone();
    let nll = (log_likelihoods * weights.clone()).sum().neg();
    let z = (log_sums.clone() * log_sums * weights).sum().mul_scalar(targets.z_loss);
    [nll, z]
}
