//! A linear layer as one operation: `y = x·Wᵀ`, with or without a residual that it is added to, forward and backward through
//! [`product`](crate::product) on all threads. It keeps x and W, which others hold anyway, and has no bias.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::product::{Matrix, add_product, product};
use super::{parts, tensor, values};

/// `x` is `[N, in]`, `weight` `[out, in]`; the result is `[N, out]`.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let shape = Shape::of(&x, &weight);
    let ((x, x_node), (weight, weight_node)) = (parts(x), parts(weight));
    let out = tensor(
        product(shape.x(&x), shape.weight(&weight).transposed()),
        &[shape.rows, shape.outputs],
    );
    let out = match Linear
        .prepare::<NoCheckpointing>([x_node, weight_node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((x, weight, shape), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

/// `residual + x·Wᵀ`; `residual` is `[N, out]`.
pub(crate) fn linear_add(residual: Tensor<2>, x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let shape = Shape::of(&x, &weight);
    let (residual, residual_node) = parts(residual);
    let ((x, x_node), (weight, weight_node)) = (parts(x), parts(weight));
    let mut out = values(&residual).to_vec();
    add_product(&mut out, shape.x(&x), shape.weight(&weight).transposed());
    let out = tensor(out, &[shape.rows, shape.outputs]);
    let out = match LinearAdd
        .prepare::<NoCheckpointing>([residual_node, x_node, weight_node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((x, weight, shape), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(out)
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Shape {
    fn of(x: &Tensor<2>, weight: &Tensor<2>) -> Self {
        let ([rows, inputs], [outputs, _]) = (x.dims(), weight.dims());
        Self { rows, inputs, outputs }
    }

    fn x<'a>(&self, x: &'a FlexTensor) -> Matrix<'a> {
        Matrix::new(values(x), self.rows, self.inputs, self.inputs)
    }

    fn weight<'a>(&self, weight: &'a FlexTensor) -> Matrix<'a> {
        Matrix::new(values(weight), self.outputs, self.inputs, self.inputs)
    }

    /// dx = dy·W.
    fn x_gradient(&self, dy: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        let dy = Matrix::new(values(dy), self.rows, self.outputs, self.outputs);
        tensor(product(dy, self.weight(weight)), &[self.rows, self.inputs])
    }

    /// dW = dyᵀ·x.
    fn weight_gradient(&self, dy: &FlexTensor, x: &FlexTensor) -> FlexTensor {
        let dy = Matrix::new(values(dy), self.rows, self.outputs, self.outputs);
        tensor(product(dy.transposed(), self.x(x)), &[self.outputs, self.inputs])
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<Flex, 2> for Linear {
    type State = (FlexTensor, FlexTensor, Shape);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, weight, shape) = ops.state;
        let [x_parent, weight_parent] = ops.parents;
        if let Some(parent) = weight_parent {
            grads.register::<Flex>(parent.id, shape.weight_gradient(&dy, &x));
        }
        if let Some(parent) = x_parent {
            grads.register::<Flex>(parent.id, shape.x_gradient(&dy, &weight));
        }
    }
}

#[derive(Debug)]
struct LinearAdd;

impl Backward<Flex, 3> for LinearAdd {
    type State = (FlexTensor, FlexTensor, Shape);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, weight, shape) = ops.state;
        let [residual_parent, x_parent, weight_parent] = ops.parents;
        if let Some(parent) = weight_parent {
            grads.register::<Flex>(parent.id, shape.weight_gradient(&dy, &x));
        }
        if let Some(parent) = x_parent {
            grads.register::<Flex>(parent.id, shape.x_gradient(&dy, &weight));
        }
        if let Some(parent) = residual_parent {
            grads.register::<Flex>(parent.id, dy);
        }
    }
}
