//! Looking up rows of the embedding as one operation. Its gradient is added row by row in the order of the tokens, so that
//! it is the same bits for any number of threads; burn adds it to the head's where the two are tied.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;

use super::{parts, tensor, values};

/// `embedding` is `[V, D]`; the result is `[N, D]`. Tokens must be below V.
pub(crate) fn embed(embedding: Tensor<2>, tokens: &[u32]) -> Tensor<2> {
    let [vocabulary, width] = embedding.dims();
    let (embedding, node) = parts(embedding);
    let mut out = Vec::with_capacity(tokens.len() * width);
    for token in tokens {
        out.extend_from_slice(&values(&embedding)[*token as usize * width..][..width]);
    }
    let out = tensor(out, &[tokens.len(), width]);
    let out = match Embed.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((tokens.to_vec(), [vocabulary, width]), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug)]
struct Embed;

impl Backward<Flex, 1> for Embed {
    type State = (Vec<u32>, [usize; 2]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (tokens, [vocabulary, width]) = ops.state;
        let mut gradient = vec![0.0; vocabulary * width];
        for (token, dy) in tokens.iter().zip(values(&dy).chunks_exact(width)) {
            let row = &mut gradient[*token as usize * width..][..width];
            row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, tensor(gradient, &[vocabulary, width]));
        }
    }
}
