//! xIELU (Huang and Schlag, 2024; Apertus, arXiv:2509.14233, 2025) as one operation, with its two trainable scalars:
//! `α_p·x² + β·x` above zero, `α_n·(eˣ − 1 − x) + β·x` below, with α_p = softplus(a_p), α_n = β + softplus(a_n), β = ½.
//! It keeps its input. The ε of the published code, which moves values by less than 1e-6·α_n, is left out.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::numeric::{exp_minus_line, sigmoid, softplus, sum, vectorised};
use super::{parts, tensor, values};
use crate::models::operations::XIELU_BETA;

/// Numbers that one thread takes at a time.
const CHUNK: usize = 16 * 1024;

/// `x` is `[N, F]`, `raw_p` and `raw_n` (a_p, a_n) `[1, 1]`; the result is `[N, F]`.
pub(crate) fn xielu(x: Tensor<2>, raw_p: Tensor<2>, raw_n: Tensor<2>) -> Tensor<2> {
    let shape = x.dims();
    let (x, x_node) = parts(x);
    let ((raw_p, p_node), (raw_n, n_node)) = (parts(raw_p), parts(raw_n));
    let raw = [values(&raw_p)[0], values(&raw_n)[0]];
    let [alpha_p, alpha_n] = alphas(raw);
    let mut out = vec![0.0; values(&x).len()];
    let chunks = out.par_chunks_mut(CHUNK).zip(values(&x).par_chunks(CHUNK));
    chunks.for_each(|(out, x)| forward(x, alpha_p, alpha_n, out));
    let out = tensor(out, &shape);
    let out = match Xielu
        .prepare::<NoCheckpointing>([x_node, p_node, n_node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((x, raw, shape), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

/// α_p and α_n of the stored numbers.
pub(crate) fn alphas([raw_p, raw_n]: [f32; 2]) -> [f32; 2] {
    [softplus(raw_p), XIELU_BETA + softplus(raw_n)]
}

#[derive(Debug)]
struct Xielu;

impl Backward<Flex, 3> for Xielu {
    type State = (FlexTensor, [f32; 2], [usize; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, raw, shape) = ops.state;
        let [alpha_p, alpha_n] = alphas(raw);
        let mut dx = vec![0.0; values(&x).len()];
        let chunks = dx
            .par_chunks_mut(CHUNK)
            .zip(values(&x).par_chunks(CHUNK))
            .zip(values(&dy).par_chunks(CHUNK));
        let partial: Vec<[f32; 2]> = chunks
            .map(|((dx, x), dy)| backward(x, alpha_p, alpha_n, dy, dx))
            .collect();
        let total = |index: usize| partial.iter().map(|part| f64::from(part[index])).sum::<f64>() as f32;
        let draw = [total(0) * sigmoid(raw[0]), total(1) * sigmoid(raw[1])];
        let [x_parent, p_parent, n_parent] = ops.parents;
        if let Some(parent) = x_parent {
            grads.register::<Flex>(parent.id, tensor(dx, &shape));
        }
        if let Some(parent) = p_parent {
            grads.register::<Flex>(parent.id, tensor(vec![draw[0]], &[1, 1]));
        }
        if let Some(parent) = n_parent {
            grads.register::<Flex>(parent.id, tensor(vec![draw[1]], &[1, 1]));
        }
    }
}

vectorised! {
    pub(crate) fn forward(x: &[f32], alpha_p: f32, alpha_n: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            let x = *x;
            let curve = if x > 0.0 { alpha_p * x * x } else { alpha_n * exp_minus_line(x) };
            *out = curve + XIELU_BETA * x;
        }
    }
}

vectorised! {
    /// dx, and the sums of the gradients by α_p and α_n, in eight lanes and then across them.
    fn backward(x: &[f32], alpha_p: f32, alpha_n: f32, dy: &[f32], dx: &mut [f32]) -> [f32; 2] {
        let one = |x: f32, dy: f32| {
            let line = exp_minus_line(x);
            let (above, below) = if x > 0.0 { (x * x, 0.0) } else { (0.0, line) };
            let slope = if x > 0.0 { 2.0 * alpha_p * x } else { alpha_n * (line + x) };
            (dy * (slope + XIELU_BETA), dy * above, dy * below)
        };
        let (mut by_p, mut by_n) = ([0f32; 8], [0f32; 8]);
        let ((dx, dx_rest), (x, x_rest), (dy, dy_rest)) = (dx.as_chunks_mut::<8>(), x.as_chunks::<8>(), dy.as_chunks::<8>());
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            for lane in 0..8 {
                let (slope, above, below) = one(x[lane], dy[lane]);
                dx[lane] = slope;
                by_p[lane] += above;
                by_n[lane] += below;
            }
        }
        for (lane, ((dx, x), dy)) in dx_rest.iter_mut().zip(x_rest).zip(dy_rest).enumerate() {
            let (slope, above, below) = one(*x, *dy);
            *dx = slope;
            by_p[lane] += above;
            by_n[lane] += below;
        }
        [sum(&by_p), sum(&by_n)]
    }
}
