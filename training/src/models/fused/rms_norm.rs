//! RMSNorm (Zhang and Sennrich, 2019) as one operation: `y = x · r · gain` with `r = 1/√(mean(x²) + ε)`, row by row.
//! It keeps x and r for the backward pass and nothing else.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::numeric::{dot, vectorised};
use super::{ROWS, parts, tensor, values};

/// `x` is `[N, D]`, `gain` `[1, D]`.
pub(crate) fn rms_norm(x: Tensor<2>, gain: Tensor<2>, epsilon: f32) -> Tensor<2> {
    let shape = x.dims();
    let ((x, x_node), (gain, gain_node)) = (parts(x), parts(gain));
    let (y, inverse) = forward(values(&x), values(&gain), epsilon);
    let y = tensor(y, &shape);
    let out = match RmsNorm
        .prepare::<NoCheckpointing>([x_node, gain_node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((x, gain, inverse), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug)]
struct RmsNorm;

impl Backward<Flex, 2> for RmsNorm {
    type State = (FlexTensor, FlexTensor, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, gain, inverse) = ops.state;
        let width = values(&gain).len();
        let (dx, dgain) = backward(values(&x), values(&gain), &inverse, values(&dy));
        let [x_parent, gain_parent] = ops.parents;
        if let Some(parent) = x_parent {
            grads.register::<Flex>(parent.id, tensor(dx, &[inverse.len(), width]));
        }
        if let Some(parent) = gain_parent {
            grads.register::<Flex>(parent.id, tensor(dgain, &[1, width]));
        }
    }
}

fn forward(x: &[f32], gain: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let (mut y, mut inverse) = (vec![0.0; x.len()], vec![0.0; x.len() / width]);
    let chunks = y
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .zip(inverse.par_chunks_mut(ROWS));
    chunks.for_each(|((y, x), inverse)| {
        for ((y, x), inverse) in y.chunks_mut(width).zip(x.chunks(width)).zip(inverse) {
            *inverse = forward_row(x, gain, epsilon, y);
        }
    });
    (y, inverse)
}

fn backward(x: &[f32], gain: &[f32], inverse: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let mut dx = vec![0.0; x.len()];
    let chunks = dx
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .zip(dy.par_chunks(ROWS * width));
    let partial: Vec<Vec<f32>> = chunks
        .zip(inverse.par_chunks(ROWS))
        .map(|(((dx, x), dy), inverse)| {
            let mut dgain = vec![0.0; width];
            let rows = dx
                .chunks_mut(width)
                .zip(x.chunks(width))
                .zip(dy.chunks(width))
                .zip(inverse);
            for (((dx, x), dy), inverse) in rows {
                backward_row(x, gain, *inverse, dy, dx, &mut dgain);
            }
            dgain
        })
        .collect();
    let mut dgain = vec![0.0; width];
    for part in partial {
        dgain.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    (dx, dgain)
}

vectorised! {
    pub(crate) fn forward_row(x: &[f32], gain: &[f32], epsilon: f32, y: &mut [f32]) -> f32 {
        let mean = dot(x, x) / x.len() as f32;
        let inverse = 1.0 / (mean + epsilon).sqrt();
        for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
            *y = x * inverse * gain;
        }
        inverse
    }
}

vectorised! {
    /// dx = r · (g·dy − x · r² · mean(g·dy·x)); dgain grows by dy · x · r.
    pub(crate) fn backward_row(x: &[f32], gain: &[f32], inverse: f32, dy: &[f32], dx: &mut [f32], dgain: &mut [f32]) {
        for ((dx, gain), dy) in dx.iter_mut().zip(gain).zip(dy) {
            *dx = gain * dy;
        }
        let pull = dot(dx, x) * inverse * inverse / x.len() as f32;
        for (((dx, x), dy), dgain) in dx.iter_mut().zip(x).zip(dy).zip(dgain) {
            *dx = inverse * (*dx - x * pull);
            *dgain += dy * x * inverse;
        }
    }
}
