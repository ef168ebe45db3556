//! SwiGLU (Shazeer, 2020) as one operation: `silu(gate) · up` over `[N, 2·hidden]`, gate first.
//! It keeps its input and computes the sigmoid again in the backward pass.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::numeric::{sigmoid, vectorised};
use super::{ROWS, parts, tensor, values};

/// `gate_up` is `[N, 2·hidden]`; the result is `[N, hidden]`.
pub(crate) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    let [rows, double] = gate_up.dims();
    let hidden = double / 2;
    let (input, node) = parts(gate_up);
    let mut out = vec![0.0; rows * hidden];
    let chunks = out
        .par_chunks_mut(ROWS * hidden)
        .zip(values(&input).par_chunks(ROWS * double));
    chunks.for_each(|(out, input)| {
        for (out, input) in out.chunks_mut(hidden).zip(input.chunks(double)) {
            let (gate, up) = input.split_at(hidden);
            forward_row(gate, up, out);
        }
    });
    let out = tensor(out, &[rows, hidden]);
    let out = match SwiGlu.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((input, hidden), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug)]
struct SwiGlu;

impl Backward<Flex, 1> for SwiGlu {
    type State = (FlexTensor, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (input, hidden) = ops.state;
        let double = 2 * hidden;
        let mut dinput = vec![0.0; values(&input).len()];
        let rows = dinput.len() / double;
        let chunks = dinput
            .par_chunks_mut(ROWS * double)
            .zip(values(&input).par_chunks(ROWS * double));
        chunks
            .zip(values(&dout).par_chunks(ROWS * hidden))
            .for_each(|((dinput, input), dout)| {
                for ((dinput, input), dout) in dinput
                    .chunks_mut(double)
                    .zip(input.chunks(double))
                    .zip(dout.chunks(hidden))
                {
                    let (gate, up) = input.split_at(hidden);
                    let (dgate, dup) = dinput.split_at_mut(hidden);
                    backward_row(gate, up, dout, dgate, dup);
                }
            });
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, tensor(dinput, &[rows, double]));
        }
    }
}

vectorised! {
    pub(crate) fn forward_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(*gate) * up;
        }
    }
}

vectorised! {
    /// silu′(g) = σ(g) · (1 + g · (1 − σ(g))).
    fn backward_row(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((gate, up), dout), dgate), dup) in gate.iter().zip(up).zip(dout).zip(dgate).zip(dup) {
            let sigma = sigmoid(*gate);
            *dgate = dout * up * sigma * (1.0 + gate * (1.0 - sigma));
            *dup = dout * gate * sigma;
        }
    }
}
