//! Causal self-attention with rotary positions as one operation, optionally over documents in packed rows and with normed
//! queries and keys (QK-norm). The arithmetic is in `attention_kernel`; here are its places in the autodiff graph.
//! It keeps its input and one log-sum per query for the backward pass, and computes the scores again.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::attention_kernel::{Kernel, RotaryTable};
use super::{parts, tensor, values};
use crate::models::operations::AttentionShape;

/// The gains of normed queries and keys, `[1, E]` each, shared by all heads.
#[derive(Debug, Clone)]
pub(crate) struct HeadNorms {
    pub query: Tensor<2>,
    pub key: Tensor<2>,
    pub epsilon: f32,
}

/// `qkv` is `[B·T, (heads + 2·kv_heads)·E]`; the result is `[B·T, heads·E]`. `starts` as in [`Batch`](crate::data::Batch).
pub(crate) fn attention(
    qkv: Tensor<2>,
    norms: Option<HeadNorms>,
    rotary: &RotaryTable,
    shape: AttentionShape,
    starts: Option<Arc<Vec<u32>>>,
) -> Tensor<2> {
    let (input, node) = parts(qkv);
    let Some(HeadNorms { query, key, epsilon }) = norms else {
        let state = State::new(input, shape, rotary, None, starts);
        let (out, log_sums) = state.forward();
        let out = match Attention.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((state, log_sums), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        return Tensor::from_primitive::<Autodiff<Flex>>(out);
    };
    let ((query, query_node), (key, key_node)) = (parts(query), parts(key));
    let norms = Some((query, key, epsilon));
    let state = State::new(input, shape, rotary, norms, starts);
    let (out, log_sums) = state.forward();
    let out = match NormedAttention
        .prepare::<NoCheckpointing>([node, query_node, key_node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((state, log_sums), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

/// What both passes need.
#[derive(Debug, Clone)]
struct State {
    input: FlexTensor,
    shape: AttentionShape,
    rotary: RotaryTable,
    norms: Option<(FlexTensor, FlexTensor, f32)>,
    starts: Option<Arc<Vec<u32>>>,
}

impl State {
    fn new(
        input: FlexTensor,
        shape: AttentionShape,
        rotary: &RotaryTable,
        norms: Option<(FlexTensor, FlexTensor, f32)>,
        starts: Option<Arc<Vec<u32>>>,
    ) -> Self {
        Self {
            input,
            shape,
            rotary: rotary.clone(),
            norms,
            starts,
        }
    }

    fn kernel(&self, sequence: usize) -> Kernel<'_> {
        let tokens = self.shape.tokens;
        let norms = self.norms.as_ref();
        Kernel {
            shape: self.shape,
            rotary: &self.rotary,
            norms: norms.map(|(query, key, epsilon)| (values(query), values(key), *epsilon)),
            starts: self
                .starts
                .as_ref()
                .map(|starts| &starts[sequence * tokens..(sequence + 1) * tokens]),
        }
    }

    /// The result, and a log-sum per sequence, head and query.
    fn forward(&self) -> (FlexTensor, Vec<f32>) {
        let AttentionShape { heads, tokens, .. } = self.shape;
        let (in_width, out_width) = (self.shape.in_width(), self.shape.out_width());
        let input = values(&self.input);
        let rows = input.len() / in_width;
        let mut out = vec![0.0; rows * out_width];
        let mut log_sums = vec![0.0; rows * heads];
        let sequences = out.par_chunks_mut(tokens * out_width);
        let sequences = sequences.zip(log_sums.par_chunks_mut(tokens * heads));
        let sequences = sequences.zip(input.par_chunks(tokens * in_width)).enumerate();
        sequences.for_each(|(index, ((out, log_sums), input))| self.kernel(index).forward(input, out, log_sums));
        (tensor(out, &[rows, out_width]), log_sums)
    }

    /// The gradient by the input, and by the gains where there are any.
    fn backward(&self, dout: &FlexTensor, log_sums: &[f32]) -> (FlexTensor, [Vec<f32>; 2]) {
        let AttentionShape {
            heads,
            tokens,
            head_width,
            ..
        } = self.shape;
        let (in_width, out_width) = (self.shape.in_width(), self.shape.out_width());
        let input = values(&self.input);
        let mut dinput = vec![0.0; input.len()];
        let sequences = dinput
            .par_chunks_mut(tokens * in_width)
            .zip(input.par_chunks(tokens * in_width));
        let sequences = sequences.zip(values(dout).par_chunks(tokens * out_width));
        let sequences = sequences.zip(log_sums.par_chunks(tokens * heads)).enumerate();
        let partial: Vec<[Vec<f32>; 2]> = sequences
            .map(|(index, (((dinput, input), dout), log_sums))| {
                self.kernel(index).backward(input, dout, log_sums, dinput)
            })
            .collect();
        let mut dgains = [vec![0.0; head_width], vec![0.0; head_width]];
        for part in partial {
            for (sum, part) in dgains.iter_mut().zip(part) {
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        let rows = dinput.len() / in_width;
        (tensor(dinput, &[rows, in_width]), dgains)
    }
}

#[derive(Debug)]
struct Attention;

impl Backward<Flex, 1> for Attention {
    type State = (State, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (state, log_sums) = ops.state;
        let (dinput, _) = state.backward(&dout, &log_sums);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, dinput);
        }
    }
}

#[derive(Debug)]
struct NormedAttention;

impl Backward<Flex, 3> for NormedAttention {
    type State = (State, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (state, log_sums) = ops.state;
        let width = state.shape.head_width;
        let (dinput, [dquery, dkey]) = state.backward(&dout, &log_sums);
        let [parent, query_parent, key_parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, dinput);
        }
        if let Some(parent) = query_parent {
            grads.register::<Flex>(parent.id, tensor(dquery, &[1, width]));
        }
        if let Some(parent) = key_parent {
            grads.register::<Flex>(parent.id, tensor(dkey, &[1, width]));
        }
    }
}
