//! Initial parameters of decoders, by the roles of their tensors. Only `+ − × ÷ √` are used and no burn, hence all machines
//! get the same bits.

use super::apertus::INITIAL_RAW_ALPHAS;
use super::shape::DecoderShape;
use crate::layout::{Layout, Role};
use crate::randomness::{StreamName, symmetric};

/// The standard deviation of initial embeddings and heads: with unit-norm activations the first logits are near zero, hence
/// the first loss is near the logarithm of the vocabulary's size (GPT-2's choice).
const EMBEDDING_DEVIATION: f32 = 0.02;

/// The initial parameters: gains are 1; matrices are uniform with deviation 1/√in, those that write to the residual stream
/// 1/√(2·layers) of it (GPT-2), so that the stream's size does not grow with depth.
pub(super) fn initial_parameters(shape: &DecoderShape, layout: &Layout, seed: u64) -> Vec<f32> {
    let mut rng = StreamName {
        purpose: "decoder initial parameters",
        seed,
        ..StreamName::default()
    }
    .open();
    let mut parameters = Vec::with_capacity(layout.len());
    for place in layout.places() {
        let deviation = match place.role {
            Role::Gain => {
                parameters.resize(parameters.len() + place.count(), 1.0);
                continue;
            }
            Role::Scalar => {
                let [positive, negative] = INITIAL_RAW_ALPHAS;
                parameters.push(if place.name.ends_with("alpha_p") {
                    positive
                } else {
                    negative
                });
                continue;
            }
            Role::Embedding | Role::Head => EMBEDDING_DEVIATION,
            Role::HiddenMatrix => {
                let residual = place.name.contains("o_proj") || place.name.contains("down_proj");
                let scale = if residual {
                    (2.0 * shape.layers as f32).sqrt()
                } else {
                    1.0
                };
                1.0 / ((place.shape[1] as f32).sqrt() * scale)
            }
        };
        // A uniform number in [-a, a) has deviation a/√3.
        let half_width = deviation * 3f32.sqrt();
        parameters.extend((0..place.count()).map(|_| half_width * symmetric(&mut rng)));
    }
    parameters
}
