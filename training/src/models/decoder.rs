//! A decoder-only transformer as in Llama (Touvron et al., 2023) behind a flat seam: parameters and gradients are slices.
//! It takes no optimizer step and reads no data; `decoder_layout` says where each tensor lies.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::decoder_layout::{initial_parameters, layout};
use super::decoder_leaves::{BlockLeaves, DecoderLeaves, Leaf};
use super::fused;
use super::operations::{self, AttentionShape};
use crate::config::DecoderConfig;
use crate::layout::Layout;
use crate::randomness::{ChaCha8Rng, unit};
use crate::trainer::TrainError;

/// A decoder's arithmetic on one device.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    layout: Layout,
    leaves: DecoderLeaves,
    path: Path,
    device: Device,
}

/// Which operations compute, with their rotary tables.
#[derive(Debug)]
enum Path {
    /// Single operations on the CPU.
    Fused(fused::RotaryTable),
    /// Plain burn operations, on any device.
    Plain(Box<operations::Rotary>),
}

/// Parameters as tensors; each is a view of one flat buffer.
struct Weights {
    embedding: Tensor<2>,
    blocks: Vec<BlockWeights>,
    final_norm: Tensor<2>,
}

struct BlockWeights {
    attention_norm: Tensor<2>,
    query_key_value: Tensor<2>,
    attention_out: Tensor<2>,
    hidden_norm: Tensor<2>,
    gate_up: Tensor<2>,
    down: Tensor<2>,
}

impl Decoder {
    /// A decoder of this shape on this device.
    pub fn new(config: &DecoderConfig, device: Device) -> Self {
        let (context, head_width) = (config.context as usize, config.head_width());
        let path = match device == Device::flex() {
            true => Path::Fused(fused::RotaryTable::new(context, head_width)),
            false => Path::Plain(Box::new(operations::Rotary::new(context, head_width, &device))),
        };
        Self::with_path(config, device, path)
    }

    fn with_path(config: &DecoderConfig, device: Device, path: Path) -> Self {
        let layout = layout(config);
        let leaves = DecoderLeaves::of(&layout);
        Self {
            config: config.clone(),
            layout,
            leaves,
            path,
            device,
        }
    }

    /// The shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The parameters' places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The initial parameters for this seed.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        initial_parameters(&self.config, &self.layout, seed)
    }

    /// The mean loss over `batch` (windows of `window` bytes, one after the other: each byte but the first is predicted from
    /// those before it), and its gradient over `gradient`.
    pub fn loss_and_gradient(
        &self,
        parameters: &[f32],
        batch: &[u8],
        window: usize,
        gradient: &mut [f32],
    ) -> Result<f32, TrainError> {
        let weights = self.weights(parameters, true);
        let loss = self.loss_tensor(&weights, batch, window);
        self.backward(&weights, &loss, gradient)?;
        scalar(loss.inner())
    }

    /// The gradient over `gradient` of the mean loss for labels that are drawn from the model's own predictions on the
    /// inputs of `batch`: what the Gauss–Newton–Bartlett estimate of the curvature is made from (Liu et al., 2023).
    pub fn sampled_label_gradient(
        &self,
        parameters: &[f32],
        batch: &[u8],
        window: usize,
        rng: &mut ChaCha8Rng,
        gradient: &mut [f32],
    ) -> Result<(), TrainError> {
        let (mut inputs, mut labels) = (Vec::new(), Vec::new());
        for bytes in batch.chunks_exact(window) {
            inputs.extend_from_slice(&bytes[..window - 1]);
            let logits = self.logits(parameters, &bytes[..window - 1])?; // [T, V]
            labels.extend(
                logits
                    .chunks_exact(self.config.vocabulary.size())
                    .map(|row| draw(row, rng)),
            );
        }
        let weights = self.weights(parameters, true);
        let hidden = self.hidden(&weights, &inputs, window - 1); // [B·T, D]
        let loss = self.head_loss(hidden, weights.embedding.clone(), &labels);
        self.backward(&weights, &loss, gradient)
    }

    fn backward(&self, weights: &Weights, loss: &Tensor<1>, gradient: &mut [f32]) -> Result<(), TrainError> {
        let mut gradients = loss.backward();
        weights.for_each(&self.leaves, |leaf, tensor| {
            let values = tensor.grad_remove(&mut gradients).map(Tensor::into_data);
            let values = values.ok_or_else(|| TrainError::Engine("a parameter has no gradient".to_owned()))?;
            gradient[leaf.range.clone()].copy_from_slice(values.as_slice().map_err(engine)?);
            Ok(())
        })
    }

    /// The mean loss alone.
    pub fn loss(&self, parameters: &[f32], batch: &[u8], window: usize) -> Result<f32, TrainError> {
        scalar(
            self.loss_tensor(&self.weights(parameters, false), batch, window)
                .inner(),
        )
    }

    /// The logits after each of `tokens` (one sequence, at most the context long): `tokens.len()` rows of the vocabulary.
    pub fn logits(&self, parameters: &[f32], tokens: &[u8]) -> Result<Vec<f32>, TrainError> {
        let weights = self.weights(parameters, false);
        let hidden = self.hidden(&weights, tokens, tokens.len());
        let logits = hidden.matmul(weights.embedding.transpose()); // [T, V]
        logits.inner().into_data().try_into_vec().map_err(engine)
    }

    fn loss_tensor(&self, weights: &Weights, batch: &[u8], window: usize) -> Tensor<1> {
        let inputs: Vec<u8> = batch
            .chunks_exact(window)
            .flat_map(|bytes| &bytes[..window - 1])
            .copied()
            .collect();
        let targets: Vec<u8> = batch
            .chunks_exact(window)
            .flat_map(|bytes| &bytes[1..])
            .copied()
            .collect();
        let hidden = self.hidden(weights, &inputs, window - 1); // [B·T, D]
        self.head_loss(hidden, weights.embedding.clone(), &targets)
    }

    /// The last hidden activations of sequences of `tokens` tokens each: `[B·T, D]`.
    fn hidden(&self, weights: &Weights, inputs: &[u8], tokens: usize) -> Tensor<2> {
        let shape = AttentionShape {
            heads: self.config.heads as usize,
            kv_heads: self.config.key_value_heads(),
            head_width: self.config.head_width(),
            tokens,
        };
        let mut x = operations::embed(weights.embedding.clone(), self.token_tensor(inputs)); // [B·T, D]
        for block in &weights.blocks {
            let normed = self.rms_norm(x.clone(), block.attention_norm.clone());
            let qkv = normed.matmul(block.query_key_value.clone().transpose()); // [B·T, (H + 2K)·E]
            let mixed = self.attention(qkv, shape); // [B·T, H·E]
            x = x + mixed.matmul(block.attention_out.clone().transpose());
            let normed = self.rms_norm(x.clone(), block.hidden_norm.clone());
            let gate_up = normed.matmul(block.gate_up.clone().transpose()); // [B·T, 2F]
            x = x + self.swiglu(gate_up).matmul(block.down.clone().transpose());
        }
        self.rms_norm(x, weights.final_norm.clone())
    }

    fn rms_norm(&self, x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::rms_norm(x, gain),
            Path::Plain(_) => operations::rms_norm(x, gain),
        }
    }

    fn attention(&self, qkv: Tensor<2>, shape: AttentionShape) -> Tensor<2> {
        match &self.path {
            Path::Fused(rotary) => fused::attention(qkv, rotary, shape),
            Path::Plain(rotary) => operations::attention(qkv, rotary, shape),
        }
    }

    fn swiglu(&self, gate_up: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::swiglu(gate_up),
            Path::Plain(_) => operations::swiglu(gate_up),
        }
    }

    fn head_loss(&self, x: Tensor<2>, head: Tensor<2>, targets: &[u8]) -> Tensor<1> {
        match &self.path {
            Path::Fused(_) => fused::head_loss(x, head, targets),
            Path::Plain(_) => operations::head_loss(x, head, self.token_tensor(targets)),
        }
    }

    fn token_tensor(&self, tokens: &[u8]) -> Tensor<1, Int> {
        let tokens: Vec<i32> = tokens.iter().map(|token| i32::from(*token)).collect();
        let count = tokens.len();
        Tensor::from_data(TensorData::new(tokens, [count]), &self.device)
    }

    fn weights(&self, parameters: &[f32], tracked: bool) -> Weights {
        let flat = Tensor::<1>::from_data(TensorData::new(parameters.to_vec(), [parameters.len()]), &self.device);
        let view = |leaf: &Leaf| {
            let tensor = flat.clone().slice([leaf.range.clone()]).reshape(leaf.shape).autodiff();
            if tracked { tensor.require_grad() } else { tensor }
        };
        let block = |block: &BlockLeaves| BlockWeights {
            attention_norm: view(&block.attention_norm),
            query_key_value: view(&block.query_key_value),
            attention_out: view(&block.attention_out),
            hidden_norm: view(&block.hidden_norm),
            gate_up: view(&block.gate_up),
            down: view(&block.down),
        };
        Weights {
            embedding: view(&self.leaves.embedding),
            blocks: self.leaves.blocks.iter().map(block).collect(),
            final_norm: view(&self.leaves.final_norm),
        }
    }
}

impl Weights {
    /// Every weight with its place.
    fn for_each(
        &self,
        leaves: &DecoderLeaves,
        mut visit: impl FnMut(&Leaf, &Tensor<2>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        visit(&leaves.embedding, &self.embedding)?;
        for (leaves, weights) in leaves.blocks.iter().zip(&self.blocks) {
            visit(&leaves.attention_norm, &weights.attention_norm)?;
            visit(&leaves.query_key_value, &weights.query_key_value)?;
            visit(&leaves.attention_out, &weights.attention_out)?;
            visit(&leaves.hidden_norm, &weights.hidden_norm)?;
            visit(&leaves.gate_up, &weights.gate_up)?;
            visit(&leaves.down, &weights.down)?;
        }
        visit(&leaves.final_norm, &self.final_norm)
    }
}

/// A token drawn with the probabilities of its logits.
fn draw(logits: &[f32], rng: &mut ChaCha8Rng) -> u8 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - greatest).exp();
    let mut left = f64::from(unit(rng)) * logits.iter().map(|logit| weight(*logit)).sum::<f64>();
    let drawn = logits.iter().position(|logit| {
        left -= weight(*logit);
        left < 0.0
    });
    drawn.unwrap_or(logits.len() - 1) as u8
}

fn scalar(tensor: Tensor<1>) -> Result<f32, TrainError> {
    tensor.try_into_scalar::<f32>().map_err(engine)
}

fn engine(error: impl std::fmt::Debug) -> TrainError {
    TrainError::Engine(format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::randomness::{StreamName, symmetric};

    fn config(kv_heads: Option<u32>) -> DecoderConfig {
        DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads,
            width: 16,
            context: 150,
            ..DecoderConfig::default()
        }
    }

    fn decoder(kv_heads: Option<u32>) -> Decoder {
        Decoder::new(&config(kv_heads), Device::flex())
    }

    fn plain(kv_heads: Option<u32>) -> Decoder {
        let config = config(kv_heads);
        let rotary = operations::Rotary::new(150, config.head_width(), &Device::flex());
        Decoder::with_path(&config, Device::flex(), Path::Plain(Box::new(rotary)))
    }

    /// Larger than initial parameters, so that no path through the model is too faint to be checked.
    fn parameters(decoder: &Decoder) -> Vec<f32> {
        let mut rng = StreamName {
            purpose: "test",
            ..StreamName::default()
        }
        .open();
        decoder
            .initial_parameters(3)
            .iter()
            .map(|p| p + 0.2 * symmetric(&mut rng))
            .collect()
    }

    const BATCH: &[u8] = b"a small boat on a wide and quiet sea ...";

    /// Sequences longer than a block of the fused attention, more rows than a chunk of any fused operation.
    #[test]
    fn fused_operations_agree_with_plain_ones_in_loss_and_gradient() {
        let batch: Vec<u8> = (0..3 * 151u32).map(|i| (i * i / 5 % 251) as u8).collect();
        for kv_heads in [None, Some(2), Some(1)] {
            let (fused, plain) = (decoder(kv_heads), plain(kv_heads));
            let start = parameters(&fused);
            let (mut ours, mut theirs) = (vec![0.0; start.len()], vec![0.0; start.len()]);
            let loss = fused.loss_and_gradient(&start, &batch, 151, &mut ours).unwrap();
            let reference = plain.loss_and_gradient(&start, &batch, 151, &mut theirs).unwrap();
            assert!((loss / reference - 1.0).abs() < 1e-6, "{loss} {reference}");
            assert!((fused.loss(&start, &batch, 151).unwrap() / reference - 1.0).abs() < 1e-6);
            for place in fused.layout().places() {
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
                let far =
                    norm(&mut place.range().map(|i| ours[i] - theirs[i])) / norm(&mut place.range().map(|i| theirs[i]));
                assert!(far < 1e-5, "{}: {far}", place.name);
            }
        }
    }

    #[test]
    fn labels_are_drawn_as_often_as_the_model_finds_them_likely() {
        let mut rng = StreamName::default().open();
        let mut counts = [0; 3];
        (0..40_000).for_each(|_| counts[usize::from(draw(&[1f32.ln(), 2f32.ln(), 5f32.ln()], &mut rng))] += 1);
        for (count, share) in counts.iter().zip([0.125, 0.25, 0.625]) {
            assert!((f64::from(*count) / 40_000.0 - share).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences_in_every_tensor() {
        for (decoder, kv_heads) in [
            (decoder as fn(_) -> Decoder, None),
            (decoder, Some(2)),
            (plain, None),
            (plain, Some(1)),
        ] {
            let decoder = decoder(kv_heads);
            let start = parameters(&decoder);
            let mut gradient = vec![f32::NAN; start.len()];
            decoder.loss_and_gradient(&start, BATCH, 13, &mut gradient).unwrap();
            for place in decoder.layout().places() {
                let range = place.range();
                let norm = gradient[range.clone()].iter().map(|g| g * g).sum::<f32>().sqrt();
                assert!(norm > 1e-4, "{}: {norm}", place.name);
                let step = 4e-3 / norm;
                let along = |sign: f32| {
                    let mut moved = start.clone();
                    for (p, g) in moved[range.clone()].iter_mut().zip(&gradient[range.clone()]) {
                        *p += sign * step * g;
                    }
                    f64::from(decoder.loss(&moved, BATCH, 13).unwrap())
                };
                let slope = ((along(1.0) - along(-1.0)) / (2.0 * f64::from(step) * f64::from(norm))) as f32;
                assert!(
                    (slope / norm - 1.0).abs() < 0.02,
                    "{}: slope {slope}, norm {norm}",
                    place.name
                );
            }
        }
    }

    #[test]
    fn the_gradient_is_the_same_bits_for_any_number_of_threads() {
        let decoder = decoder(Some(2));
        let start = parameters(&decoder);
        let batch: Vec<u8> = (0..8 * 65u32).map(|i| (i * i / 5 % 251) as u8).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut gradient = vec![0.0; start.len()];
            let loss = pool
                .install(|| decoder.loss_and_gradient(&start, &batch, 65, &mut gradient))
                .unwrap();
            (loss, gradient)
        };
        let first = run(1);
        assert!(first == run(2) && first == run(3) && first == run(1));
    }

    #[test]
    fn a_token_does_not_see_those_after_it() {
        let decoder = decoder(Some(2));
        let parameters = parameters(&decoder);
        let whole = decoder.logits(&parameters, b"abcdefgh").unwrap();
        let part = decoder.logits(&parameters, b"abcd").unwrap();
        let far = part.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "{far}");
    }

    #[test]
    fn the_first_loss_is_that_of_a_guess() {
        let decoder = decoder(None);
        let loss = decoder.loss(&decoder.initial_parameters(1), BATCH, 13).unwrap();
        assert!((loss - 256f32.ln()).abs() < 0.1, "{loss}");
    }
}
