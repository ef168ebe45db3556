//! A decoder-only transformer behind a flat seam: parameters and gradients are slices. One arithmetic serves the
//! architectures of `llama` and `apertus`, which say what lies where. It takes no optimizer step and reads no data.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

use super::fused;
use super::leaves::{Leaf, leaves};
use super::operations::{self, AttentionShape, Targets};
use super::shape::{Architecture, DecoderShape};
use crate::data::Batch;
use crate::device::Precision;
use crate::layout::Layout;
use crate::objectives::LossSum;
use crate::randomness::{ChaCha8Rng, unit};
use crate::trainer::TrainError;

/// A decoder's arithmetic on one device.
#[derive(Debug)]
pub struct Decoder {
    shape: DecoderShape,
    layout: Layout,
    leaves: Vec<Leaf>,
    path: Path,
    device: Device,
    memory: Memory,
    z_loss: f32,
}

/// How memory is traded for time. Neither changes what is computed, but for the rounding of sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Rows of a batch that are computed at once, their gradients being added; `None`: all.
    pub micro_batch_rows: Option<usize>,
    /// Keep the activations between blocks only, and compute those within a block again when its gradient is due
    /// (Chen et al., 2016): a third more arithmetic.
    pub recompute_blocks: bool,
}

/// Which operations compute, with their rotary tables.
#[derive(Debug)]
enum Path {
    /// Single operations on the CPU.
    Fused(fused::RotaryTable),
    /// Plain burn operations, on any device, with products of this precision.
    Plain(Box<operations::Rotary>, Precision),
}

/// What the sum of a part's losses is divided by, and what is added to it.
#[derive(Debug, Clone, Copy)]
struct Measure {
    divisor: f64,
    z_loss: f32,
}

/// What the blocks need to know of a batch.
#[derive(Debug, Clone)]
struct Rows {
    shape: AttentionShape,
    starts: Option<Arc<Vec<u32>>>,
}

impl Decoder {
    /// A decoder of this shape on this device.
    pub fn new(shape: impl Into<DecoderShape>, device: Device) -> Self {
        let shape = shape.into();
        let (context, head_width) = (shape.context, shape.head_width);
        let path = match device == Device::flex() {
            true => Path::Fused(fused::RotaryTable::new(context, head_width, &shape.rotary)),
            false => Path::Plain(
                Box::new(operations::Rotary::new(context, head_width, &shape.rotary, &device)),
                Precision::F32,
            ),
        };
        Self::with_path(shape, device, path)
    }

    fn with_path(shape: DecoderShape, device: Device, path: Path) -> Self {
        let layout = shape.layout();
        Self {
            leaves: leaves(&layout),
            layout,
            shape,
            path,
            device,
            memory: Memory::default(),
            z_loss: 0.0,
        }
    }

    /// The same decoder, trading memory for time as told.
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// The same decoder, multiplying numbers of this precision where its device can.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        if let Path::Plain(_, of_products) = &mut self.path {
            *of_products = precision;
        }
        self
    }

    /// The same decoder, with `z_loss` times the squared log-partition of the logits added to the loss that gradients are of
    /// (Chowdhery et al., PaLM, 2022). Reported losses do not contain it.
    pub fn with_z_loss(mut self, z_loss: f32) -> Self {
        self.z_loss = z_loss;
        self
    }

    /// The shape.
    pub fn shape(&self) -> &DecoderShape {
        &self.shape
    }

    /// The parameters' places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The initial parameters for this seed.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        self.shape.initial_parameters(&self.layout, seed)
    }

    /// The loss of a batch, and the gradient of its mean (Σ w·nll / Σ w, and the z-loss) over `gradient`. A batch in which
    /// no token counts has no gradient.
    pub fn loss_and_gradient(
        &self,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> Result<LossSum, TrainError> {
        self.gradient_with(self.z_loss, parameters, batch, gradient)
    }

    /// The gradient over `gradient` of the mean loss, without z-loss, for labels that are drawn from the model's own
    /// predictions on the inputs of `batch`: what the Gauss–Newton–Bartlett estimate of the curvature is made from (Liu et
    /// al., 2023). Weights and documents are those of the batch.
    pub fn sampled_label_gradient(
        &self,
        parameters: &[f32],
        batch: &Batch,
        rng: &mut ChaCha8Rng,
        gradient: &mut [f32],
    ) -> Result<(), TrainError> {
        self.check(parameters, batch)?;
        let weights = self.weights(parameters, false);
        let mut sampled = batch.clone();
        sampled.targets.clear();
        for row in 0..batch.rows() {
            let logits = self.logits_of(&weights, &batch.slice(row..row + 1))?; // [T, V]
            let rows = logits.chunks_exact(self.shape.vocabulary.size());
            sampled.targets.extend(rows.map(|row| draw(row, rng)));
        }
        self.gradient_with(0.0, parameters, &sampled, gradient).map(drop)
    }

    fn gradient_with(
        &self,
        z_loss: f32,
        parameters: &[f32],
        batch: &Batch,
        gradient: &mut [f32],
    ) -> Result<LossSum, TrainError> {
        self.check(parameters, batch)?;
        let mut loss = LossSum::default();
        gradient.fill(0.0);
        let divisor = batch.weight();
        if divisor == 0.0 {
            return Ok(loss);
        }
        let measure = Measure { divisor, z_loss };
        let weights = self.weights(parameters, true);
        for part in self.parts(batch) {
            loss += match self.memory.recompute_blocks {
                false => self.whole_gradient(&weights, &part, measure, gradient)?,
                true => self.gradient_by_blocks(parameters, &weights, &part, measure, gradient)?,
            };
        }
        Ok(loss)
    }

    /// The loss of a batch alone.
    pub fn loss(&self, parameters: &[f32], batch: &Batch) -> Result<LossSum, TrainError> {
        self.check(parameters, batch)?;
        let weights = self.weights(parameters, false);
        let mut loss = LossSum::default();
        let measure = Measure {
            divisor: 1.0,
            z_loss: self.z_loss,
        };
        for part in self.parts(batch) {
            let rows = self.rows(&part);
            let x = self.hidden(&weights, &part.tokens, &rows);
            loss += self.head_loss(x, &weights, &part, measure)?.1;
        }
        Ok(loss)
    }

    /// The logits after each of `tokens` (one sequence, at most the context long): `tokens.len()` rows of the vocabulary.
    pub fn logits(&self, parameters: &[f32], tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        let batch = Batch {
            length: tokens.len(),
            tokens: tokens.to_vec(),
            targets: tokens.to_vec(),
            ..Batch::default()
        };
        self.check(parameters, &batch)?;
        self.logits_of(&self.weights(parameters, false), &batch)
    }

    /// The logits after each token of `part`: `[B·T, V]`.
    fn logits_of(&self, weights: &[Tensor<2>], part: &Batch) -> Result<Vec<f32>, TrainError> {
        let hidden = self.hidden(weights, &part.tokens, &self.rows(part));
        let hidden = self.rms_norm(hidden, weights[self.final_norm()].clone());
        let logits = self.linear(hidden, weights[self.head()].clone()); // [T, V]
        logits.inner().into_data().try_into_vec().map_err(engine)
    }

    fn check(&self, parameters: &[f32], batch: &Batch) -> Result<(), TrainError> {
        TrainError::check_length(&self.layout, parameters)?;
        batch.check(self.shape.vocabulary.size())?;
        match batch.length > self.shape.context {
            true => Err(TrainError::RowTooLong {
                length: batch.length,
                context: self.shape.context,
            }),
            false => Ok(()),
        }
    }

    fn parts(&self, batch: &Batch) -> Vec<Batch> {
        let rows = batch.rows();
        match self.memory.micro_batch_rows {
            Some(at_once) if at_once < rows => (0..rows)
                .step_by(at_once.max(1))
                .map(|first| batch.slice(first..(first + at_once.max(1)).min(rows)))
                .collect(),
            _ => vec![batch.clone()],
        }
    }

    fn rows(&self, batch: &Batch) -> Rows {
        Rows {
            shape: AttentionShape {
                heads: self.shape.heads,
                kv_heads: self.shape.kv_heads,
                head_width: self.shape.head_width,
                tokens: batch.length,
            },
            starts: batch.starts.clone().map(Arc::new),
        }
    }

    /// Adds the gradient of one part of a batch, from one graph.
    fn whole_gradient(
        &self,
        weights: &[Tensor<2>],
        part: &Batch,
        measure: Measure,
        gradient: &mut [f32],
    ) -> Result<LossSum, TrainError> {
        let x = self.hidden(weights, &part.tokens, &self.rows(part));
        let (loss, sum) = self.head_loss(x, weights, part, measure)?;
        let mut gradients = loss.backward();
        self.collect(0..weights.len(), weights, &mut gradients, gradient)?;
        Ok(sum)
    }

    /// The same from a graph per block, built from kept inputs of blocks, last block first.
    fn gradient_by_blocks(
        &self,
        parameters: &[f32],
        weights: &[Tensor<2>],
        part: &Batch,
        measure: Measure,
        gradient: &mut [f32],
    ) -> Result<LossSum, TrainError> {
        let (rows, untracked) = (self.rows(part), self.weights(parameters, false));
        let mut inputs = vec![self.embed(untracked[0].clone(), &part.tokens)];
        for layer in 0..self.shape.layers {
            let next = self.block(inputs[layer].clone(), &untracked[self.block_leaves(layer)], &rows);
            inputs.push(next);
        }
        drop(untracked);
        let missing = || TrainError::Engine("activations have no gradient".to_owned());
        let mut last = || inputs.pop().map(|x| x.detach().require_grad()).ok_or_else(missing);
        let x = last()?;
        let (loss, sum) = self.head_loss(x.clone(), weights, part, measure)?;
        let mut gradients = loss.backward();
        self.collect(self.final_norm()..weights.len(), weights, &mut gradients, gradient)?;
        if self.shape.tied {
            self.collect(0..1, weights, &mut gradients, gradient)?;
        }
        let mut dx = x.grad_remove(&mut gradients).ok_or_else(missing)?;
        for layer in (0..self.shape.layers).rev() {
            let (x, leaves) = (last()?, self.block_leaves(layer));
            let y = self.block(x.clone(), &weights[leaves.clone()], &rows);
            let mut gradients = (y * dx.clone().autodiff()).sum().backward();
            self.collect(leaves, weights, &mut gradients, gradient)?;
            dx = x.grad_remove(&mut gradients).ok_or_else(missing)?;
        }
        let x = self.embed(weights[0].clone(), &part.tokens);
        let mut gradients = (x * dx.autodiff()).sum().backward();
        self.collect(0..1, weights, &mut gradients, gradient)?;
        Ok(sum)
    }

    /// Adds the gradients of some weights to their places.
    fn collect(
        &self,
        which: Range<usize>,
        weights: &[Tensor<2>],
        gradients: &mut Gradients,
        gradient: &mut [f32],
    ) -> Result<(), TrainError> {
        for (leaf, weight) in self.leaves[which.clone()].iter().zip(&weights[which]) {
            let values = weight.grad_remove(gradients).map(Tensor::into_data);
            let values = values.ok_or_else(|| TrainError::Engine("a parameter has no gradient".to_owned()))?;
            let values = values.as_slice::<f32>().map_err(engine)?;
            let place = &mut gradient[leaf.range.clone()];
            place.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    /// The last hidden activations, before the final norm: `[B·T, D]`.
    fn hidden(&self, weights: &[Tensor<2>], tokens: &[u32], rows: &Rows) -> Tensor<2> {
        let mut x = self.embed(weights[0].clone(), tokens); // [B·T, D]
        for layer in 0..self.shape.layers {
            x = self.block(x, &weights[self.block_leaves(layer)], rows);
        }
        x
    }

    fn block(&self, x: Tensor<2>, weights: &[Tensor<2>], rows: &Rows) -> Tensor<2> {
        let mut weights = weights.iter().cloned();
        let mut next = || weights.next().expect("a block has as many leaves as its layout");
        let normed = self.rms_norm(x.clone(), next());
        let qkv = self.linear(normed, next()); // [B·T, (H + 2K)·E]
        let norms = match self.shape.architecture {
            Architecture::Llama => None,
            Architecture::Apertus => Some((next(), next())),
        };
        let mixed = self.attention(qkv, norms, rows); // [B·T, H·E]
        let x = self.linear_add(x, mixed, next());
        let normed = self.rms_norm(x.clone(), next());
        let up = self.linear(normed, next()); // [B·T, 2F] or [B·T, F]
        let hidden = match self.shape.architecture {
            Architecture::Llama => self.swiglu(up),
            Architecture::Apertus => self.xielu(up, next(), next()),
        }; // [B·T, F]
        self.linear_add(x, hidden, next())
    }

    /// The leaves of a block.
    fn block_leaves(&self, layer: usize) -> Range<usize> {
        let count = match self.shape.architecture {
            Architecture::Llama => 6,
            Architecture::Apertus => 10,
        };
        1 + layer * count..1 + (layer + 1) * count
    }

    fn final_norm(&self) -> usize {
        self.block_leaves(self.shape.layers).start
    }

    fn head(&self) -> usize {
        if self.shape.tied { 0 } else { self.final_norm() + 1 }
    }

    fn embed(&self, embedding: Tensor<2>, tokens: &[u32]) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::embed(embedding, tokens),
            Path::Plain(..) => operations::embed(embedding, self.token_tensor(tokens)),
        }
    }

    fn linear(&self, x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::linear(x, weight),
            Path::Plain(_, precision) => operations::product(x, weight.transpose(), *precision),
        }
    }

    fn linear_add(&self, residual: Tensor<2>, x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::linear_add(residual, x, weight),
            Path::Plain(_, precision) => residual + operations::product(x, weight.transpose(), *precision),
        }
    }

    fn rms_norm(&self, x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::rms_norm(x, gain, self.shape.norm_epsilon),
            Path::Plain(..) => operations::rms_norm(x, gain, self.shape.norm_epsilon),
        }
    }

    fn attention(&self, qkv: Tensor<2>, norms: Option<(Tensor<2>, Tensor<2>)>, rows: &Rows) -> Tensor<2> {
        let epsilon = self.shape.norm_epsilon;
        match &self.path {
            Path::Fused(rotary) => {
                let norms = norms.map(|(query, key)| fused::HeadNorms { query, key, epsilon });
                fused::attention(qkv, norms, rotary, rows.shape, rows.starts.clone())
            }
            Path::Plain(rotary, precision) => {
                let norms = norms.map(|(query, key)| (query, key, epsilon));
                let starts = rows.starts.as_ref().map(|starts| starts.as_slice());
                operations::attention(qkv, norms, rotary, rows.shape, starts, *precision)
            }
        }
    }

    fn swiglu(&self, gate_up: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::swiglu(gate_up),
            Path::Plain(..) => operations::swiglu(gate_up),
        }
    }

    fn xielu(&self, x: Tensor<2>, raw_p: Tensor<2>, raw_n: Tensor<2>) -> Tensor<2> {
        match &self.path {
            Path::Fused(_) => fused::xielu(x, raw_p, raw_n),
            Path::Plain(..) => operations::xielu(x, raw_p, raw_n),
        }
    }

    /// What gradients are of, and the loss to report.
    fn head_loss(
        &self,
        x: Tensor<2>,
        weights: &[Tensor<2>],
        part: &Batch,
        measure: Measure,
    ) -> Result<(Tensor<1>, LossSum), TrainError> {
        let x = self.rms_norm(x, weights[self.final_norm()].clone());
        let head = weights[self.head()].clone();
        let targets = Targets {
            tokens: &part.targets,
            weights: part.weights.as_deref(),
            divisor: measure.divisor,
            z_loss: measure.z_loss,
        };
        let (loss, weighted_nll) = match &self.path {
            Path::Fused(_) => {
                let (loss, parts) = fused::head_loss(x, head, targets);
                (loss, parts.weighted_nll)
            }
            Path::Plain(_, precision) => {
                let [nll, z] = operations::head_loss(x, head, targets, *precision);
                let weighted_nll = f64::from(scalar(nll.clone().inner())?);
                ((nll + z).div_scalar(measure.divisor as f32), weighted_nll)
            }
        };
        let weight = part.weight();
        Ok((loss, LossSum { weighted_nll, weight }))
    }

    fn token_tensor(&self, tokens: &[u32]) -> Tensor<1, Int> {
        let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        let count = tokens.len();
        Tensor::from_data(TensorData::new(tokens, [count]), &self.device)
    }

    /// Parameters as tensors; each is a view of one flat buffer.
    fn weights(&self, parameters: &[f32], tracked: bool) -> Vec<Tensor<2>> {
        let flat = Tensor::<1>::from_data(TensorData::new(parameters.to_vec(), [parameters.len()]), &self.device);
        let view = |leaf: &Leaf| {
            let tensor = flat.clone().slice([leaf.range.clone()]).reshape(leaf.shape).autodiff();
            if tracked { tensor.require_grad() } else { tensor }
        };
        self.leaves.iter().map(view).collect()
    }
}

/// A token drawn with the probabilities of its logits.
fn draw(logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - greatest).exp();
    let mut left = f64::from(unit(rng)) * logits.iter().map(|logit| weight(*logit)).sum::<f64>();
    let drawn = logits.iter().position(|logit| {
        left -= weight(*logit);
        left < 0.0
    });
    drawn.unwrap_or(logits.len() - 1) as u32
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
    use crate::config::{DecoderConfig, Vocabulary};
    use crate::models::apertus::ApertusConfig;
    use crate::models::shape::RotaryConfig;
    use crate::processor::{Instructions, instructions, limit_instructions};
    use crate::randomness::{StreamName, symmetric};

    fn llama(kv_heads: Option<u32>, tied: bool) -> DecoderShape {
        (&DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads,
            width: 16,
            context: 150,
            tied,
            ..DecoderConfig::default()
        })
            .into()
    }

    fn apertus() -> DecoderShape {
        (&ApertusConfig {
            layers: 2,
            heads: 4,
            kv_heads: Some(2),
            width: 16,
            context: 150,
            rotary: RotaryConfig {
                scaling: Some(Default::default()),
                ..RotaryConfig::default()
            },
            ..ApertusConfig::default()
        })
            .into()
    }

    fn shapes() -> [DecoderShape; 4] {
        [
            llama(None, true),
            llama(Some(2), true),
            llama(Some(1), false),
            apertus(),
        ]
    }

    fn fused(shape: &DecoderShape) -> Decoder {
        Decoder::new(shape, Device::flex())
    }

    fn plain(shape: &DecoderShape) -> Decoder {
        let rotary = operations::Rotary::new(150, shape.head_width, &shape.rotary, &Device::flex());
        Decoder::with_path(
            shape.clone(),
            Device::flex(),
            Path::Plain(Box::new(rotary), Precision::F32),
        )
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

    fn batch(rows: usize, length: usize) -> Batch {
        let tokens: Vec<u32> = (0..(rows * (length + 1)) as u32).map(|i| i * i / 5 % 251).collect();
        Batch::of_windows(&tokens, length)
    }

    /// Weights that differ, and documents that end within blocks of the attention and across them.
    fn masked(rows: usize, length: usize) -> Batch {
        let mut batch = batch(rows, length);
        let count = batch.tokens.len();
        batch.weights = Some((0..count).map(|i| [1.0, 0.0, 0.5][i % 3]).collect());
        let start = |i: usize| match (i / length, i % length) {
            (0, at) => at / 17 * 17,
            (1, at) if at > 70 => 70,
            (_, at) if at >= length - 2 => length - 2,
            _ => 0,
        };
        batch.starts = Some((0..count).map(|i| start(i) as u32).collect());
        batch
    }

    fn gradient(decoder: &Decoder, start: &[f32], batch: &Batch) -> (LossSum, Vec<f32>) {
        let mut gradient = vec![f32::NAN; start.len()];
        let loss = decoder.loss_and_gradient(start, batch, &mut gradient).unwrap();
        (loss, gradient)
    }

    fn assert_near(decoder: &Decoder, ours: &[f32], theirs: &[f32], tolerance: f32) {
        for place in decoder.layout().places() {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
            let far =
                norm(&mut place.range().map(|i| ours[i] - theirs[i])) / norm(&mut place.range().map(|i| theirs[i]));
            assert!(far < tolerance, "{}: {far}", place.name);
        }
    }

    /// Sequences longer than a block of the fused attention, more rows than a chunk of any fused operation.
    #[test]
    fn fused_operations_agree_with_plain_ones_in_loss_and_gradient() {
        for shape in shapes() {
            let (fused, plain) = (fused(&shape).with_z_loss(1e-3), plain(&shape).with_z_loss(1e-3));
            let start = parameters(&fused);
            for batch in [batch(4, 150), masked(4, 150)] {
                let (loss, ours) = gradient(&fused, &start, &batch);
                let (reference, theirs) = gradient(&plain, &start, &batch);
                assert!(
                    (loss.mean() / reference.mean() - 1.0).abs() < 1e-6,
                    "{loss:?} {reference:?}"
                );
                assert_eq!(loss.weight, reference.weight);
                assert!((fused.loss(&start, &batch).unwrap().mean() / reference.mean() - 1.0).abs() < 1e-6);
                assert_near(&fused, &ours, &theirs, 2e-5);
            }
        }
    }

    /// bf16 has eight bits: rounding of a factor is 2⁻⁹ at most, and much of it cancels in a gradient.
    #[test]
    fn products_in_bf16_stay_near_those_in_f32() {
        for shape in shapes() {
            let exact = plain(&shape);
            let rounded = plain(&shape).with_precision(Precision::Bf16);
            let start = parameters(&exact);
            let (loss, theirs) = gradient(&exact, &start, &masked(4, 150));
            let (near, ours) = gradient(&rounded, &start, &masked(4, 150));
            assert!(
                near != loss && (near.mean() / loss.mean() - 1.0).abs() < 5e-3,
                "{near:?} {loss:?}"
            );
            assert_near(&exact, &ours, &theirs, 0.1);
        }
    }

    #[test]
    fn labels_are_drawn_as_often_as_the_model_finds_them_likely() {
        let mut rng = StreamName::default().open();
        let mut counts = [0; 3];
        (0..40_000).for_each(|_| counts[draw(&[1f32.ln(), 2f32.ln(), 5f32.ln()], &mut rng) as usize] += 1);
        for (count, share) in counts.iter().zip([0.125, 0.25, 0.625]) {
            assert!((f64::from(*count) / 40_000.0 - share).abs() < 0.01, "{counts:?}");
        }
    }

    /// Where labels follow the model's own predictions, gradients are zero on average; the z-loss's would not be.
    #[test]
    fn gradients_for_drawn_labels_cancel_out_whatever_is_masked() {
        for shape in [llama(None, true), apertus()] {
            let (decoder, batch) = (fused(&shape).with_z_loss(1.0), masked(2, 20));
            let start = parameters(&decoder);
            let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
            let mut rng = StreamName::default().open();
            let (mut sum, mut norms, mut one) = (vec![0f32; start.len()], 0.0, vec![f32::NAN; start.len()]);
            for _ in 0..300 {
                decoder
                    .sampled_label_gradient(&start, &batch, &mut rng, &mut one)
                    .unwrap();
                sum.iter_mut().zip(&one).for_each(|(sum, value)| *sum += value);
                norms += norm(&one);
            }
            assert!(norms > 0.0 && norm(&sum) < 0.1 * norms, "{} {norms}", norm(&sum));
        }
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences_in_every_tensor() {
        for decoder in shapes().iter().flat_map(|shape| [fused(shape), plain(shape)]) {
            let (start, batch) = (parameters(&decoder), masked(2, 13));
            let (_, gradient) = gradient(&decoder, &start, &batch);
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
                    decoder.loss(&moved, &batch).unwrap().mean()
                };
                let slope = ((along(1.0) - along(-1.0)) / (2.0 * f64::from(step) * f64::from(norm))) as f32;
                // A loss of some nats is rounded to 5e-7, which is 6e-5 of slope over this step: of a faint one, little is left.
                let tolerance = 0.02 + 1e-4 / norm;
                assert!(
                    (slope / norm - 1.0).abs() < tolerance,
                    "{}: slope {slope}, norm {norm}",
                    place.name
                );
            }
        }
    }

    #[test]
    fn the_gradient_is_the_same_bits_for_any_number_of_threads_and_any_vector_width() {
        let run = |decoder: &Decoder, start: &[f32], batch: &Batch, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gradient(decoder, start, batch))
        };
        let wide = DecoderShape::from(&DecoderConfig {
            layers: 1,
            width: 96,
            context: 150,
            ..DecoderConfig::default()
        });
        for shape in [wide, llama(Some(2), false), apertus()] {
            let decoder = fused(&shape);
            // More than 512 rows, so that sums over rows have several pieces.
            let (start, batch) = (parameters(&decoder), masked(5, 130));
            let first = run(&decoder, &start, &batch, 1);
            for threads in [2, 3, 7] {
                assert!(first == run(&decoder, &start, &batch, threads), "{threads} threads");
            }
            let most = instructions();
            if limit_instructions(Instructions::Avx2) == Instructions::Avx2 {
                let narrow = run(&decoder, &start, &batch, 2);
                limit_instructions(most);
                assert!(first == narrow, "AVX2 and {most:?}");
            }
        }
    }

    #[test]
    fn micro_batches_and_recomputed_blocks_change_nothing_but_rounding() {
        for shape in [llama(Some(2), true), llama(None, false), apertus()] {
            let (start, batch) = (parameters(&fused(&shape)), masked(5, 40));
            let (loss, whole) = gradient(&fused(&shape), &start, &batch);
            for (micro_batch_rows, recompute_blocks) in [(Some(2), false), (None, true), (Some(3), true)] {
                let decoder = fused(&shape).with_memory(Memory {
                    micro_batch_rows,
                    recompute_blocks,
                });
                let (again, parts) = gradient(&decoder, &start, &batch);
                assert!((again.mean() / loss.mean() - 1.0).abs() < 1e-6 && again.weight == loss.weight);
                assert_near(&decoder, &parts, &whole, 1e-5);
            }
        }
    }

    #[test]
    fn a_packed_document_has_the_loss_that_it_has_alone() {
        for shape in shapes() {
            let decoder = fused(&shape);
            let start = parameters(&decoder);
            let (one, other) = (batch(1, 70), batch(1, 30));
            let packed = Batch {
                length: 100,
                tokens: [&one.tokens[..], &other.tokens].concat(),
                targets: [&one.targets[..], &other.targets].concat(),
                starts: Some((0..100).map(|i| if i < 70 { 0 } else { 70 }).collect()),
                weights: None,
            };
            let mut apart = decoder.loss(&start, &one).unwrap();
            apart += decoder.loss(&start, &other).unwrap();
            let together = decoder.loss(&start, &packed).unwrap();
            assert!(
                (together.mean() / apart.mean() - 1.0).abs() < 1e-6,
                "{together:?} {apart:?}"
            );
        }
    }

    #[test]
    fn a_batch_in_which_nothing_counts_has_no_gradient_and_foreign_tokens_are_refused() {
        let decoder = fused(&llama(None, true));
        let start = parameters(&decoder);
        let nothing = Batch {
            weights: Some(vec![0.0; 10]),
            ..batch(1, 10)
        };
        let (loss, zeros) = gradient(&decoder, &start, &nothing);
        assert!(loss.weight == 0.0 && zeros.iter().all(|g| *g == 0.0));
        let mut foreign = batch(1, 10);
        foreign.targets[3] = 256;
        assert!(matches!(decoder.loss(&start, &foreign), Err(TrainError::Batch(_))));
        assert!(matches!(
            decoder.loss(&start, &batch(1, 151)),
            Err(TrainError::RowTooLong { length: 151, .. })
        ));
    }

    #[test]
    fn a_token_does_not_see_those_after_it() {
        for shape in shapes() {
            let decoder = fused(&shape);
            let parameters = parameters(&decoder);
            let whole = decoder.logits(&parameters, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
            let part = decoder.logits(&parameters, &[1, 2, 3, 4]).unwrap();
            let far = part.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{far}");
        }
    }

    #[test]
    fn the_first_loss_is_that_of_a_guess() {
        for shape in shapes() {
            assert_eq!(shape.vocabulary, Vocabulary::Byte);
            let decoder = fused(&shape);
            let loss = decoder
                .loss(&decoder.initial_parameters(1), &batch(2, 13))
                .unwrap()
                .mean();
            assert!((loss - 256f64.ln()).abs() < 0.1, "{loss}");
        }
    }
}
