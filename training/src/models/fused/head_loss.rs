//! Head and cross-entropy as one operation over chunks of rows: neither logits nor probabilities outlive their chunk.
//! Gradients are computed in the forward pass, while the logits are at hand (as in Liger's fused linear cross-entropy, 2024).

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::numeric::{exp_shifted, greatest};
use super::product::{Matrix, multiply};
use super::{parts, tensor, values};

/// Rows of logits at a time: with a byte vocabulary their memory stays in the second-level cache.
const CHUNK_ROWS: usize = 128;

/// Mean negative log-likelihood of `targets` under the logits `x · headᵀ`; `x` is `[N, D]`, `head` `[V, D]`.
pub(crate) fn head_loss(x: Tensor<2>, head: Tensor<2>, targets: &[u8]) -> Tensor<1> {
    let shape = Shape {
        rows: x.dims()[0],
        width: x.dims()[1],
        vocabulary: head.dims()[0],
    };
    assert_eq!(targets.len(), shape.rows, "one target a row");
    let ((x, x_node), (head, head_node)) = (parts(x), parts(head));
    let out = match HeadLoss
        .prepare::<NoCheckpointing>([x_node, head_node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let (loss, dx, dhead) = loss_and_gradients(values(&x), values(&head), targets, shape);
            prep.finish((dx, dhead, shape), tensor(vec![loss], &[1]))
        }
        OpsKind::UnTracked(prep) => prep.finish(tensor(vec![loss(values(&x), values(&head), targets, shape)], &[1])),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    width: usize,
    vocabulary: usize,
}

#[derive(Debug)]
struct HeadLoss;

impl Backward<Flex, 2> for HeadLoss {
    type State = (Vec<f32>, Vec<f32>, Shape);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dloss = values(&grads.consume::<Flex>(&ops.node).to_contiguous())[0];
        let (mut dx, mut dhead, shape) = ops.state;
        if dloss != 1.0 {
            dx.iter_mut().chain(&mut dhead).for_each(|value| *value *= dloss);
        }
        let [x_parent, head_parent] = ops.parents;
        if let Some(parent) = x_parent {
            grads.register::<Flex>(parent.id, tensor(dx, &[shape.rows, shape.width]));
        }
        if let Some(parent) = head_parent {
            grads.register::<Flex>(parent.id, tensor(dhead, &[shape.vocabulary, shape.width]));
        }
    }
}

fn loss(x: &[f32], head: &[f32], targets: &[u8], shape: Shape) -> f32 {
    let chunks = x
        .par_chunks(CHUNK_ROWS * shape.width)
        .zip(targets.par_chunks(CHUNK_ROWS));
    let losses: Vec<f64> = chunks
        .map(|(x, targets)| softmax_rows(x, head, targets, shape).1)
        .collect();
    (losses.iter().sum::<f64>() / shape.rows as f64) as f32
}

/// The loss, its gradient by x and its gradient by the head.
fn loss_and_gradients(x: &[f32], head: &[f32], targets: &[u8], shape: Shape) -> (f32, Vec<f32>, Vec<f32>) {
    let Shape {
        rows,
        width,
        vocabulary,
    } = shape;
    let mut dx = vec![0.0; rows * width];
    let chunks = dx
        .par_chunks_mut(CHUNK_ROWS * width)
        .zip(x.par_chunks(CHUNK_ROWS * width));
    let partial: Vec<(f64, Vec<f32>)> = chunks
        .zip(targets.par_chunks(CHUNK_ROWS))
        .map(|((dx, x), targets)| {
            let (mut dlogits, loss) = softmax_rows(x, head, targets, shape); // [C, V]
            for (row, target) in dlogits.chunks_mut(vocabulary).zip(targets) {
                row[usize::from(*target)] -= 1.0;
                row.iter_mut().for_each(|value| *value /= rows as f32);
            }
            let dlogits = Matrix::new(&dlogits, targets.len(), vocabulary, vocabulary);
            multiply(dx, width, dlogits, Matrix::new(head, vocabulary, width, width), false);
            let mut dhead = vec![0.0; vocabulary * width];
            multiply(
                &mut dhead,
                width,
                dlogits.transposed(),
                Matrix::new(x, targets.len(), width, width),
                false,
            );
            (loss, dhead)
        })
        .collect();
    let mut dhead = vec![0.0; vocabulary * width];
    let mut loss = 0.0;
    for (part_loss, part) in partial {
        loss += part_loss;
        dhead.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    ((loss / rows as f64) as f32, dx, dhead)
}

/// Probabilities of a chunk of rows, and the sum of their targets' negative log-likelihoods.
fn softmax_rows(x: &[f32], head: &[f32], targets: &[u8], shape: Shape) -> (Vec<f32>, f64) {
    let Shape { width, vocabulary, .. } = shape;
    let mut logits = vec![0.0; targets.len() * vocabulary];
    let head = Matrix::new(head, vocabulary, width, width);
    multiply(
        &mut logits,
        vocabulary,
        Matrix::new(x, targets.len(), width, width),
        head.transposed(),
        false,
    );
    let mut loss = 0f64;
    for (row, target) in logits.chunks_mut(vocabulary).zip(targets) {
        let (top, of_target) = (greatest(row), row[usize::from(*target)]);
        let total = exp_shifted(row, top);
        loss += f64::from(total.ln() + top - of_target);
        let share = 1.0 / total;
        row.iter_mut().for_each(|value| *value *= share);
    }
    (logits, loss)
}
