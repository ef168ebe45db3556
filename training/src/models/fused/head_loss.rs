//! Head and cross-entropy as one operation over chunks of rows: neither logits nor probabilities outlive their chunk.
//! Gradients are computed in the forward pass, while the logits are at hand (as in Liger's fused linear cross-entropy, 2024).

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::numeric::{exp_shifted, greatest, ln, vectorised};
use super::product::{Matrix, add_product, product};
use super::{parts, tensor, values};
use crate::models::operations::Targets;

/// Logits at a time: 32 M numbers, hence at most 128 MB, and not more rows than one piece of a product.
const CHUNK_LOGITS: usize = 1 << 25;
const CHUNK_ROWS: usize = 512;

/// What [`head_loss`] knows of the loss beside its gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct HeadLoss {
    /// Σ w·nll.
    pub weighted_nll: f64,
    /// Σ w·z·lse², what the z-loss adds.
    pub weighted_z: f64,
}

/// `(Σ w·nll + Σ w·z·lse²) / divisor` of the targets under the logits `x · headᵀ`; `x` is `[N, D]`, `head` `[V, D]`.
pub(crate) fn head_loss(x: Tensor<2>, head: Tensor<2>, targets: Targets<'_>) -> (Tensor<1>, HeadLoss) {
    let shape = Shape {
        rows: x.dims()[0],
        width: x.dims()[1],
        vocabulary: head.dims()[0],
    };
    assert_eq!(targets.tokens.len(), shape.rows, "one target a row");
    let ((x, x_node), (head, head_node)) = (parts(x), parts(head));
    let scalar = |loss: HeadLoss| {
        let sum = loss.weighted_nll + loss.weighted_z;
        tensor(vec![(sum / targets.divisor) as f32], &[1])
    };
    let prepared = Head
        .prepare::<NoCheckpointing>([x_node, head_node])
        .compute_bound()
        .stateful();
    let (out, loss) = match prepared {
        OpsKind::Tracked(prep) => {
            let mut gradients = (
                vec![0.0; shape.rows * shape.width],
                vec![0.0; shape.vocabulary * shape.width],
            );
            let loss = all_chunks(values(&x), values(&head), targets, shape, Some(&mut gradients));
            (prep.finish((gradients.0, gradients.1, shape), scalar(loss)), loss)
        }
        OpsKind::UnTracked(prep) => {
            let loss = all_chunks(values(&x), values(&head), targets, shape, None);
            (prep.finish(scalar(loss)), loss)
        }
    };
    (Tensor::from_primitive::<Autodiff<Flex>>(out), loss)
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    width: usize,
    vocabulary: usize,
}

#[derive(Debug)]
struct Head;

impl Backward<Flex, 2> for Head {
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

/// The loss, and its gradients by x and by the head where they are asked for.
fn all_chunks(
    x: &[f32],
    head: &[f32],
    targets: Targets<'_>,
    shape: Shape,
    mut gradients: Option<&mut (Vec<f32>, Vec<f32>)>,
) -> HeadLoss {
    let Shape { width, vocabulary, .. } = shape;
    let rows_at_once = (CHUNK_LOGITS / vocabulary).clamp(1, CHUNK_ROWS);
    let head = Matrix::new(head, vocabulary, width, width);
    let mut loss = HeadLoss::default();
    for first in (0..shape.rows).step_by(rows_at_once) {
        let end = (first + rows_at_once).min(shape.rows);
        let x = Matrix::new(&x[first * width..], end - first, width, width);
        let mut logits = product(x, head.transposed()); // [C, V]
        let rows: Vec<[f64; 2]> = logits
            .par_chunks_mut(vocabulary)
            .enumerate()
            .map(|(index, row)| one_row(row, targets, first + index, gradients.is_some()))
            .collect();
        for [nll, z] in rows {
            loss.weighted_nll += nll;
            loss.weighted_z += z;
        }
        if let Some((dx, dhead)) = &mut gradients {
            let dlogits = Matrix::new(&logits, end - first, vocabulary, vocabulary);
            add_product(&mut dx[first * width..end * width], dlogits, head);
            add_product(dhead, dlogits.transposed(), x);
        }
    }
    loss
}

/// The weighted loss of one row, whose logits become their gradients.
fn one_row(row: &mut [f32], targets: Targets<'_>, index: usize, gradient: bool) -> [f64; 2] {
    let weight = targets.weights.map_or(1.0, |weights| weights[index]);
    let target = targets.tokens[index] as usize;
    let (top, of_target) = (greatest(row), row[target]);
    let total = exp_shifted(row, top);
    let log_sum = ln(total) + top;
    if gradient {
        let factor = (f64::from(weight) / targets.divisor) as f32;
        scale(row, factor * (1.0 + 2.0 * targets.z_loss * log_sum) / total);
        row[target] -= factor;
    }
    let z = targets.z_loss * log_sum * log_sum;
    [
        f64::from(weight) * f64::from(log_sum - of_target),
        f64::from(weight) * f64::from(z),
    ]
}

vectorised! {
    fn scale(row: &mut [f32], factor: f32) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}
