//! The decoder's operations on burn tensors, in plain burn operations: the reference for `fused` and the path of GPUs.
//! Activations are 2-D, `[B·T, width]`: Flex keeps products of 3-D activations batched, which is slower.

use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Added to the mean square under RMSNorm's root.
pub(crate) const NORM_EPSILON: f32 = 1e-5;

/// The base of rotary frequencies.
pub(crate) const ROTARY_BASE: f32 = 10_000.0;

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

/// Cosines and sines of rotary positions, `[T, head_width / 2]` each.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    pub cosines: Tensor<2>,
    pub sines: Tensor<2>,
}

impl Rotary {
    /// The tables of positions `0..tokens`, in f32 as `transformers` computes them (Su et al., RoFormer, 2021).
    pub fn new(tokens: usize, head_width: usize, device: &Device) -> Self {
        let half = head_width / 2;
        let angles = rotary_angles(tokens, head_width);
        let table = |function: fn(f32) -> f32| {
            Tensor::from_data(
                TensorData::new(angles.iter().map(|a| function(*a)).collect(), [tokens, half]),
                device,
            )
        };
        Self {
            cosines: table(f32::cos),
            sines: table(f32::sin),
        }
    }
}

/// The angles of positions `0..tokens` for the pairs of a head, `[T, head_width / 2]`.
pub(crate) fn rotary_angles(tokens: usize, head_width: usize) -> Vec<f32> {
    let frequency = |pair: usize| 1.0 / ROTARY_BASE.powf(2.0 * pair as f32 / head_width as f32);
    let position = |position: usize| (0..head_width / 2).map(move |pair| position as f32 * frequency(pair));
    (0..tokens).flat_map(position).collect()
}

/// `x / rms(x) · gain`, row by row (Zhang and Sennrich, 2019). `x` is `[N, D]`, `gain` `[1, D]`.
pub(crate) fn rms_norm(x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
    let inverse = (x.clone() * x.clone())
        .mean_dim(1)
        .add_scalar(NORM_EPSILON)
        .sqrt()
        .recip(); // [N, 1]
    x * inverse * gain
}

/// Causal self-attention with rotary positions. `qkv` is `[B·T, (heads + 2·kv_heads)·head_width]`; the result is
/// `[B·T, heads·head_width]`.
pub(crate) fn attention(qkv: Tensor<2>, rotary: &Rotary, shape: AttentionShape) -> Tensor<2> {
    let AttentionShape {
        heads,
        kv_heads,
        head_width,
        tokens,
    } = shape;
    let batch = qkv.dims()[0] / tokens;
    let qkv = qkv
        .reshape([batch, tokens, heads + 2 * kv_heads, head_width])
        .swap_dims(1, 2); // [B, H + 2K, T, E]
    let query = rotate(qkv.clone().narrow(1, 0, heads), rotary); // [B, H, T, E]
    let key = share(rotate(qkv.clone().narrow(1, heads, kv_heads), rotary), heads);
    let value = share(qkv.narrow(1, heads + kv_heads, kv_heads), heads);

    let scale = 1.0 / (head_width as f32).sqrt();
    let scores = query.matmul(key.swap_dims(2, 3)).mul_scalar(scale); // [B, H, T, T]
    let scores = scores
        .clone()
        .mask_fill(future(tokens, &scores.device()), f32::NEG_INFINITY);
    let mixed = softmax(scores, 3).matmul(value); // [B, H, T, E]
    mixed.swap_dims(1, 2).reshape([batch * tokens, heads * head_width])
}

/// Rotates the pairs `(i, i + E/2)` of every head: Llama's half-split form.
fn rotate(x: Tensor<4>, rotary: &Rotary) -> Tensor<4> {
    let [_, _, tokens, width] = x.dims();
    let half = width / 2;
    let table = |table: &Tensor<2>| table.clone().narrow(0, 0, tokens).reshape([1, 1, tokens, half]);
    let (cosines, sines) = (table(&rotary.cosines), table(&rotary.sines));
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

/// True where a key lies after the query: `[1, 1, T, T]`.
fn future(tokens: usize, device: &Device) -> Tensor<4, Bool> {
    let mask: Vec<bool> = (0..tokens * tokens).map(|i| i % tokens > i / tokens).collect();
    Tensor::from_data(TensorData::new(mask, [1, 1, tokens, tokens]), device)
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

/// Mean negative log-likelihood of `targets` `[N]` under the head's logits `x · headᵀ`.
pub(crate) fn head_loss(x: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let rows = x.dims()[0];
    let logits = x.matmul(head.transpose()); // [N, V]
    log_softmax(logits, 1)
        .gather(1, targets.reshape([rows, 1]))
        .mean()
        .neg()
}
