//! The decoder's operations as single autodiff operations on burn's Flex backend: the same mathematics as `operations`,
//! without intermediate tensors. They run on the CPU only; other devices use the plain operations.
//!
//! Work is cut into sequences or into chunks of rows of a fixed size, and partial sums are added in their order: results
//! are the same bits for any number of threads.

mod attention;
pub(crate) mod attention_kernel;
mod embed;
mod head_loss;
mod linear;
#[cfg(test)]
mod references;
pub(crate) mod rms_norm;
pub(crate) mod swiglu;
pub(crate) mod xielu;

pub(crate) use attention::{HeadNorms, attention};
pub(crate) use attention_kernel::RotaryTable;
pub(crate) use embed::embed;
pub(crate) use head_loss::head_loss;
pub(crate) use linear::{linear, linear_add};
pub(crate) use rms_norm::rms_norm;
pub(crate) use swiglu::swiglu;
pub(crate) use xielu::xielu;

pub(crate) use super::numeric;
use crate::product;
use burn::backend::autodiff::ops::NodeGuard;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Bytes, DType, Shape, Tensor};

/// Rows that one thread takes at a time.
const ROWS: usize = 64;

/// A tensor's numbers and its place in the graph.
fn parts<const D: usize>(tensor: Tensor<D>) -> (FlexTensor, NodeGuard) {
    let tensor = tensor
        .try_into_primitive::<Autodiff<Flex>>()
        .expect("fused operations are called on the CPU only");
    let (primitive, node) = tensor.into_parts();
    (primitive.to_contiguous(), node)
}

/// The numbers of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("the tensor was made contiguous and holds f32")
}

/// A tensor of these numbers.
fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(Shape::from(shape.to_vec())),
        DType::F32,
    )
}
