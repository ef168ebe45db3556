//! The small models of federated and convex work: linear, logistic and softmax regression, a multi-layer perceptron and a
//! small convolutional network (as in McMahan et al., 2017), by hand over slices, with their gradients.
//! There is no burn here, and every sum has a fixed order: the same bits for any number of threads and vector width.

use serde::{Deserialize, Serialize};

use super::numeric::{dot, exp, ln, softplus, vectorised};
use crate::config::{ConfigError, finite_within, within};
use crate::layout::{Layout, Role};
use crate::randomness::{StreamName, symmetric};
use crate::samples::Samples;

/// What is computed from a sample's features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// A weighted sum, with half the squared error as its loss: least squares.
    Linear,
    /// A weighted sum as the logarithm of odds, for two classes. Convex; strongly so with `l2`.
    Logistic,
    /// A weighted sum a class.
    Softmax,
    /// Hidden layers of these sizes with ReLU, then a sum a class.
    Perceptron(Vec<u32>),
    /// For square one-channel images: two layers of 3 × 3 convolutions with this many channels, ReLU, and 2 × 2 maxima;
    /// then a sum a class.
    Convolutions([u32; 2]),
}

/// A small model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// What is computed.
    pub kind: NetworkKind,
    /// Features of a sample; files with fewer have zeros there.
    pub inputs: u32,
    /// Classes; 2 for logistic regression, and not used by linear regression.
    pub classes: u32,
    /// Half the factor of the squared norm of the weights (not of biases) that is added to the loss. 0 by default: it is a
    /// choice about the problem.
    pub l2: f32,
}

impl Default for NetworkConfig {
    /// Logistic regression on the features of a9a.
    fn default() -> Self {
        Self {
            kind: NetworkKind::Logistic,
            inputs: 123,
            classes: 2,
            l2: 0.0,
        }
    }
}

impl NetworkConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        within("model.network.inputs", self.inputs, 1, 1 << 20)?;
        let (least, most) = if self.kind == NetworkKind::Logistic {
            (2, 2)
        } else {
            (2, 1 << 16)
        };
        within("model.network.classes", self.classes, least, most)?;
        finite_within("model.network.l2", self.l2, 0.0, 1e3)?;
        match &self.kind {
            NetworkKind::Perceptron(hidden) => {
                within("model.network.kind.perceptron (its length)", hidden.len() as u32, 1, 16)?;
                hidden
                    .iter()
                    .try_for_each(|size| within("model.network.kind.perceptron", *size, 1, 1 << 14))
            }
            NetworkKind::Convolutions(channels) => {
                let side = self.inputs.isqrt();
                // A side below 10 leaves no image after two convolutions and maxima.
                within("model.network.inputs (for convolutions, a square)", side, 10, 1024)?;
                within(
                    "model.network.inputs (for convolutions, a square)",
                    self.inputs,
                    side * side,
                    side * side,
                )?;
                channels
                    .iter()
                    .try_for_each(|count| within("model.network.kind.convolutions", *count, 1, 1024))
            }
            _ => Ok(()),
        }
    }

    fn outputs(&self) -> usize {
        match self.kind {
            NetworkKind::Linear | NetworkKind::Logistic => 1,
            _ => self.classes as usize,
        }
    }

    /// The parameters' places.
    pub fn layout(&self) -> Layout {
        Network::new(self).layout
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.layout().len()
    }
}

/// A layer; its weights and then its biases lie at `offset`.
#[derive(Debug, Clone, Copy)]
enum Layer {
    /// `[outputs, inputs]`.
    Dense {
        inputs: usize,
        outputs: usize,
        offset: usize,
    },
    /// `[channels, inputs, 3, 3]` over images of `side`², without padding, then maxima of 2 × 2.
    Convolution {
        inputs: usize,
        channels: usize,
        side: usize,
        offset: usize,
    },
}

/// A small model's arithmetic.
#[derive(Debug, Clone)]
pub struct Network {
    config: NetworkConfig,
    layers: Vec<Layer>,
    layout: Layout,
}

impl Network {
    /// A model of this shape.
    pub fn new(config: &NetworkConfig) -> Self {
        let (mut layers, mut layout, mut size) = (Vec::new(), Layout::new(), config.inputs as usize);
        if let NetworkKind::Convolutions(channels) = config.kind {
            let (mut inputs, mut side) = (1, config.inputs.isqrt() as usize);
            for (index, channels) in channels.into_iter().enumerate() {
                let (channels, offset) = (channels as usize, layout.len());
                layers.push(Layer::Convolution {
                    inputs,
                    channels,
                    side,
                    offset,
                });
                layout = layout
                    .with(
                        format!("convolution{index}.weight"),
                        &[channels, inputs, 3, 3],
                        Role::HiddenMatrix,
                    )
                    .with(format!("convolution{index}.bias"), &[channels], Role::Scalar);
                (inputs, side) = (channels, (side - 2) / 2);
            }
            size = inputs * side * side;
        }
        let hidden: &[u32] = match &config.kind {
            NetworkKind::Perceptron(hidden) => hidden,
            _ => &[],
        };
        let sizes = hidden.iter().map(|size| *size as usize).chain([config.outputs()]);
        for (index, outputs) in sizes.enumerate() {
            let (role, offset) = (
                if index == hidden.len() {
                    Role::Head
                } else {
                    Role::HiddenMatrix
                },
                layout.len(),
            );
            layers.push(Layer::Dense {
                inputs: size,
                outputs,
                offset,
            });
            layout = layout
                .with(format!("dense{index}.weight"), &[outputs, size], role)
                .with(format!("dense{index}.bias"), &[outputs], Role::Scalar);
            size = outputs;
        }
        Self {
            config: config.clone(),
            layers,
            layout,
        }
    }

    /// The parameters' places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Initial parameters: zeros where the loss is convex, and otherwise uniform weights with deviation √(2/inputs) (He et al.,
    /// 2015) and zero biases.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        let name = StreamName {
            purpose: "network initial parameters",
            seed,
            ..StreamName::default()
        };
        let mut rng = name.open();
        let convex = self.layers.len() == 1;
        let mut parameters = Vec::with_capacity(self.layout.len());
        for place in self.layout.places() {
            let inputs: usize = place.shape[1..].iter().product();
            let half_width = match place.shape.len() {
                1 => 0.0,
                _ if convex => 0.0,
                _ => (6.0 / inputs as f32).sqrt(),
            };
            parameters.extend((0..place.count()).map(|_| half_width * symmetric(&mut rng)));
        }
        parameters
    }

    /// The mean loss of the samples, with the penalty on weights, and its gradient over `gradient`.
    pub fn loss_and_gradient(&self, parameters: &[f32], samples: &Samples, gradient: &mut [f32]) -> f64 {
        assert_eq!(
            samples.width(),
            self.config.inputs as usize,
            "samples are of the model's width"
        );
        gradient.fill(0.0);
        let count = samples.len().max(1) as f64;
        let mut loss = 0.0;
        for index in 0..samples.len() {
            let activations = self.forward(parameters, samples.features(index));
            let (own, mut slopes) = self.loss_of(&activations[self.layers.len()], samples.label(index));
            loss += f64::from(own);
            slopes
                .iter_mut()
                .for_each(|slope| *slope = (f64::from(*slope) / count) as f32);
            for (index, layer) in self.layers.iter().enumerate().rev() {
                // The output of a layer that is not the last went through ReLU.
                if index + 1 < self.layers.len() {
                    let outputs = activations[index + 1].iter();
                    slopes
                        .iter_mut()
                        .zip(outputs)
                        .for_each(|(slope, y)| *slope = if *y > 0.0 { *slope } else { 0.0 });
                }
                slopes = layer.backward(parameters, &activations[index], &slopes, gradient);
            }
        }
        loss / count + self.penalty(parameters, Some(gradient))
    }

    /// The mean loss alone (without the penalty), and the share of samples whose class is the likeliest (NaN for regression).
    pub fn loss_and_accuracy(&self, parameters: &[f32], samples: &Samples) -> (f64, f64) {
        let (mut loss, mut right) = (0.0, 0.0);
        for index in 0..samples.len() {
            let activations = self.forward(parameters, samples.features(index));
            let outputs = &activations[self.layers.len()];
            loss += f64::from(self.loss_of(outputs, samples.label(index)).0);
            let class = match self.config.kind {
                NetworkKind::Linear => f32::NAN,
                NetworkKind::Logistic => f32::from(u8::from(outputs[0] > 0.0)),
                _ => {
                    let best = (0..outputs.len()).max_by(|a, b| outputs[*a].total_cmp(&outputs[*b]).then(b.cmp(a)));
                    best.unwrap_or(0) as f32
                }
            };
            right += if class.is_nan() {
                f64::NAN
            } else {
                f64::from(u8::from(class == samples.label(index)))
            };
        }
        let count = samples.len() as f64;
        (loss / count, right / count)
    }

    /// The features and every layer's output.
    fn forward(&self, parameters: &[f32], features: &[f32]) -> Vec<Vec<f32>> {
        let mut activations = vec![features.to_vec()];
        for (index, layer) in self.layers.iter().enumerate() {
            let mut out = layer.forward(parameters, &activations[index]);
            if index + 1 < self.layers.len() {
                out.iter_mut().for_each(|y| *y = if *y > 0.0 { *y } else { 0.0 });
            }
            activations.push(out);
        }
        activations
    }

    /// A sample's loss, and its gradient by the outputs.
    fn loss_of(&self, outputs: &[f32], label: f32) -> (f32, Vec<f32>) {
        match self.config.kind {
            NetworkKind::Linear => {
                let error = outputs[0] - label;
                (0.5 * error * error, vec![error])
            }
            NetworkKind::Logistic => {
                let logit = outputs[0];
                (softplus(logit) - label * logit, vec![1.0 / (1.0 + exp(-logit)) - label])
            }
            _ => {
                let top = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut slopes: Vec<f32> = outputs.iter().map(|logit| exp(logit - top)).collect();
                let total: f32 = slopes.iter().sum();
                let target = label as usize;
                let loss = ln(total) + top - outputs[target];
                slopes.iter_mut().for_each(|slope| *slope /= total);
                slopes[target] -= 1.0;
                (loss, slopes)
            }
        }
    }

    /// ½·l2·|weights|², its gradient added where one is asked for.
    fn penalty(&self, parameters: &[f32], mut gradient: Option<&mut [f32]>) -> f64 {
        let l2 = self.config.l2;
        let mut sum = 0.0;
        for place in self.layout.places().iter().filter(|place| place.role != Role::Scalar) {
            let range = if l2 == 0.0 { 0..0 } else { place.range() };
            for index in range {
                sum += f64::from(parameters[index]) * f64::from(parameters[index]);
                if let Some(gradient) = &mut gradient {
                    gradient[index] += l2 * parameters[index];
                }
            }
        }
        0.5 * f64::from(l2) * sum
    }
}

impl Layer {
    fn forward(&self, parameters: &[f32], x: &[f32]) -> Vec<f32> {
        match *self {
            Self::Dense {
                inputs,
                outputs,
                offset,
            } => {
                let (weights, biases) = parameters[offset..].split_at(inputs * outputs);
                let mut out = biases[..outputs].to_vec();
                dense(weights, x, &mut out);
                out
            }
            Self::Convolution { .. } => self
                .convolve(parameters, x)
                .into_iter()
                .map(|(value, _)| value)
                .collect(),
        }
    }

    /// Adds the gradient by the parameters, and returns that by `x`.
    fn backward(&self, parameters: &[f32], x: &[f32], dout: &[f32], gradient: &mut [f32]) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        match *self {
            Self::Dense {
                inputs,
                outputs,
                offset,
            } => {
                let weights = &parameters[offset..offset + inputs * outputs];
                let (dweights, dbiases) = gradient[offset..].split_at_mut(inputs * outputs);
                let rows = weights.chunks_exact(inputs).zip(dweights.chunks_exact_mut(inputs));
                for (((weights, dweights), dbias), slope) in rows.zip(dbiases).zip(dout) {
                    *dbias += slope;
                    if *slope != 0.0 {
                        dense_back(weights, x, *slope, dweights, &mut dx);
                    }
                }
            }
            Self::Convolution {
                inputs,
                channels,
                side,
                offset,
            } => {
                let out_count = dout.len() / channels;
                for (index, ((_, corner), slope)) in self.convolve(parameters, x).into_iter().zip(dout).enumerate() {
                    let channel = index / out_count;
                    gradient[offset + channels * inputs * 9 + channel] += slope;
                    for input in 0..inputs {
                        for tap in 0..9 {
                            let weight = offset + (channel * inputs + input) * 9 + tap;
                            let pixel = input * side * side + corner + tap / 3 * side + tap % 3;
                            gradient[weight] += slope * x[pixel];
                            dx[pixel] += slope * parameters[weight];
                        }
                    }
                }
            }
        }
        dx
    }

    /// The greatest of each 2 × 2 convolutions, channel by channel, and the place of the image under its upper left tap.
    fn convolve(&self, parameters: &[f32], x: &[f32]) -> Vec<(f32, usize)> {
        let Self::Convolution {
            inputs,
            channels,
            side,
            offset,
        } = *self
        else {
            unreachable!("only convolutions convolve")
        };
        let half = (side - 2) / 2;
        let mut out = Vec::with_capacity(channels * half * half);
        for channel in 0..channels {
            let weights = &parameters[offset + channel * inputs * 9..][..inputs * 9];
            let bias = parameters[offset + channels * inputs * 9 + channel];
            let at = |corner: usize| {
                let mut sum = bias;
                for (input, weights) in weights.chunks_exact(9).enumerate() {
                    for (row, weights) in weights.chunks_exact(3).enumerate() {
                        let pixels = &x[input * side * side + corner + row * side..][..3];
                        sum += weights[0] * pixels[0] + weights[1] * pixels[1] + weights[2] * pixels[2];
                    }
                }
                sum
            };
            for place in 0..half * half {
                let corner = place / half * 2 * side + place % half * 2;
                let mut best = (at(corner), corner);
                for other in [corner + 1, corner + side, corner + side + 1] {
                    let value = at(other);
                    if value > best.0 {
                        best = (value, other);
                    }
                }
                out.push(best);
            }
        }
        out
    }
}

vectorised! {
    /// Adds the products of a matrix's rows with `x`.
    fn dense(weights: &[f32], x: &[f32], out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(weights.chunks_exact(x.len())) {
            *out += dot(row, x);
        }
    }
}

vectorised! {
    /// Adds one output's gradient by its weights and by `x`.
    fn dense_back(weights: &[f32], x: &[f32], slope: f32, dweights: &mut [f32], dx: &mut [f32]) {
        for (((weight, x), dweight), dx) in weights.iter().zip(x).zip(dweights).zip(dx) {
            *dweight += slope * x;
            *dx += slope * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(kind: NetworkKind, inputs: u32, classes: u32) -> Network {
        let config = NetworkConfig {
            kind,
            inputs,
            classes,
            l2: 0.01,
        };
        config.check().unwrap();
        Network::new(&config)
    }

    #[test]
    fn gradients_agree_with_finite_differences_in_every_tensor() {
        for network in [
            network(NetworkKind::Linear, 7, 2),
            network(NetworkKind::Logistic, 7, 2),
            network(NetworkKind::Softmax, 7, 3),
            network(NetworkKind::Perceptron(vec![9, 5]), 7, 3),
            network(NetworkKind::Convolutions([3, 4]), 144, 3),
        ] {
            let mut rng = StreamName::default().open();
            let width = network.config.inputs as usize;
            let features: Vec<f32> = (0..12 * width).map(|_| symmetric(&mut rng)).collect();
            let classes = network.config.outputs().max(2);
            let samples = Samples::new(features, (0..12).map(|i| (i * i % classes) as f32).collect(), width).unwrap();
            let start: Vec<f32> = network
                .initial_parameters(1)
                .iter()
                .map(|p| p + 0.1 * symmetric(&mut rng))
                .collect();
            let mut gradient = vec![f32::NAN; start.len()];
            network.loss_and_gradient(&start, &samples, &mut gradient);
            for place in network.layout().places() {
                let range = place.range();
                let norm = gradient[range.clone()].iter().map(|g| g * g).sum::<f32>().sqrt();
                assert!(norm > 1e-3, "{}: {norm}", place.name);
                let along = |sign: f32| {
                    let mut moved = start.clone();
                    for (p, g) in moved[range.clone()].iter_mut().zip(&gradient[range.clone()]) {
                        *p += sign * 2e-3 / norm * g;
                    }
                    network.loss_and_gradient(&moved, &samples, &mut vec![0.0; start.len()])
                };
                let slope = ((along(1.0) - along(-1.0)) / 4e-3) as f32;
                assert!(
                    (slope / norm - 1.0).abs() < 0.02,
                    "{:?} {}: {slope} {norm}",
                    network.config.kind,
                    place.name
                );
            }
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let config = |kind, inputs, classes| NetworkConfig {
            kind,
            inputs,
            classes,
            ..NetworkConfig::default()
        };
        assert!(config(NetworkKind::Convolutions([1, 1]), 145, 3).check().is_err());
        assert!(config(NetworkKind::Convolutions([1, 1]), 81, 3).check().is_err());
        assert!(config(NetworkKind::Logistic, 4, 3).check().is_err());
        assert!(config(NetworkKind::Perceptron(vec![]), 4, 3).check().is_err());
        assert!(config(NetworkKind::Softmax, 4, 3).check().is_ok());
    }
}
