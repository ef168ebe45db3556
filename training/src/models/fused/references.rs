//! Every fused operation beside its definition in f64, and its gradients beside central differences of that definition.
//! The definitions are written out here from the papers, and share no line with the operations or with the plain ones.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::{HeadNorms, RotaryTable, attention, embed, head_loss, linear, linear_add, rms_norm, swiglu, xielu};
use crate::models::operations::{AttentionShape, Targets};
use crate::models::shape::RotaryConfig;

/// Numbers of an input `[rows, columns]`, and whether a gradient is asked for.
type Input = (Vec<f32>, [usize; 2]);

/// Values between −1 and 1 that look random and are written down nowhere.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn input(rows: usize, columns: usize, seed: u64) -> Input {
    (numbers(rows * columns, seed), [rows, columns])
}

/// Checks values, and the gradient of Σ wᵢ·outᵢ for weights by chance with respect to every number of every input.
fn check(
    name: &str,
    inputs: &[Input],
    operation: &dyn Fn(&[Tensor<2>]) -> Tensor<2>,
    definition: &dyn Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let device = Device::flex();
    let tensors: Vec<Tensor<2>> = inputs
        .iter()
        .map(|(values, shape)| {
            let tensor = Tensor::<2>::from_data(TensorData::new(values.clone(), *shape), &device);
            tensor.autodiff().require_grad()
        })
        .collect();
    let out = operation(&tensors);
    let shape = out.dims();
    let ours: Vec<f32> = out.clone().into_data().try_to_vec().unwrap();
    let exact: Vec<Vec<f64>> = inputs
        .iter()
        .map(|(values, _)| values.iter().map(|value| f64::from(*value)).collect())
        .collect();
    let expected = definition(&exact);
    near(&format!("{name}, values"), &ours, &expected);

    let weights = numbers(ours.len(), 99);
    let weighted = Tensor::<2>::from_data(TensorData::new(weights.clone(), shape), &device).autodiff();
    let gradients = (out * weighted).sum().backward();
    let total = |inputs: &[Vec<f64>]| -> f64 {
        let out = definition(inputs);
        out.iter()
            .zip(&weights)
            .map(|(out, weight)| out * f64::from(*weight))
            .sum()
    };
    for (place, tensor) in tensors.iter().enumerate() {
        let ours: Vec<f32> = tensor.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        let slope = |at: usize| {
            let along = |step: f64| {
                let mut moved = exact.clone();
                moved[place][at] += step;
                total(&moved)
            };
            // Of the fourth order: what is left is far below f32's rounding.
            let step = 1e-3;
            (8.0 * (along(step) - along(-step)) - (along(2.0 * step) - along(-2.0 * step))) / (12.0 * step)
        };
        let expected: Vec<f64> = (0..ours.len()).map(slope).collect();
        near(&format!("{name}, gradient of input {place}"), &ours, &expected);
    }
}

/// Within a few roundings of the largest.
fn near(what: &str, ours: &[f32], expected: &[f64]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    assert!(largest > 1e-3, "{what}: nothing to compare");
    for (at, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        let far = (f64::from(*ours) - expected).abs() / largest;
        assert!(far < 1e-5, "{what}, number {at}: {ours}, not {expected}: {far}");
    }
}

#[test]
fn rms_norm_is_its_definition() {
    let (width, epsilon) = (37, 1e-5f32);
    let definition = |inputs: &[Vec<f64>]| {
        let row = |x: &[f64]| {
            let square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let inverse = 1.0 / (square + f64::from(epsilon)).sqrt();
            x.iter()
                .zip(&inputs[1])
                .map(|(x, gain)| x * inverse * gain)
                .collect::<Vec<_>>()
        };
        inputs[0].chunks(width).flat_map(row).collect()
    };
    let inputs = [input(5, width, 1), input(1, width, 2)];
    let operation = |t: &[Tensor<2>]| rms_norm(t[0].clone(), t[1].clone(), epsilon);
    check("rms_norm", &inputs, &operation, &definition);
}

#[test]
fn swiglu_is_its_definition() {
    let hidden = 19;
    let definition = |inputs: &[Vec<f64>]| {
        let row = |x: &[f64]| {
            let (gate, up) = x.split_at(hidden);
            let one = |(gate, up): (&f64, &f64)| gate / (1.0 + (-gate).exp()) * up;
            gate.iter().zip(up).map(one).collect::<Vec<_>>()
        };
        inputs[0].chunks(2 * hidden).flat_map(row).collect()
    };
    let (mut values, shape) = input(4, 2 * hidden, 3);
    values.iter_mut().for_each(|value| *value *= 6.0);
    check("swiglu", &[(values, shape)], &|t| swiglu(t[0].clone()), &definition);
}

#[test]
fn xielu_is_its_definition() {
    let definition = |inputs: &[Vec<f64>]| {
        let softplus = |x: f64| (1.0 + x.exp()).ln();
        let (alpha_p, alpha_n) = (softplus(inputs[1][0]), 0.5 + softplus(inputs[2][0]));
        let one = |x: &f64| match *x > 0.0 {
            true => alpha_p * x * x + 0.5 * x,
            false => alpha_n * (x.exp() - 1.0 - x) + 0.5 * x,
        };
        inputs[0].iter().map(one).collect()
    };
    let (mut values, shape) = input(3, 41, 4);
    // Not within a step of zero, where the second derivative jumps.
    for value in &mut values {
        *value *= 4.0;
        *value += 0.01f32.copysign(*value);
    }
    let inputs = [(values, shape), (vec![0.3], [1, 1]), (vec![-0.7], [1, 1])];
    let operation = |t: &[Tensor<2>]| xielu(t[0].clone(), t[1].clone(), t[2].clone());
    check("xielu", &inputs, &operation, &definition);
}

fn product(x: &[f64], weight: &[f64], width: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let row = |x: &[f64]| weight.chunks(width).map(|w| dot(x, w)).collect::<Vec<_>>();
    x.chunks(width).flat_map(row).collect()
}

#[test]
fn products_are_their_definition() {
    let width = 23;
    let inputs = [input(6, width, 5), input(9, width, 6)];
    let plain = |inputs: &[Vec<f64>]| product(&inputs[0], &inputs[1], width);
    check("linear", &inputs, &|t| linear(t[0].clone(), t[1].clone()), &plain);
    let inputs = [input(6, 9, 7), inputs[0].clone(), inputs[1].clone()];
    let added = |inputs: &[Vec<f64>]| {
        let product = product(&inputs[1], &inputs[2], width);
        inputs[0].iter().zip(product).map(|(a, b)| a + b).collect()
    };
    let operation = |t: &[Tensor<2>]| linear_add(t[0].clone(), t[1].clone(), t[2].clone());
    check("linear_add", &inputs, &operation, &added);
}

#[test]
fn embedding_is_its_definition() {
    let (width, tokens) = (11, [3u32, 0, 3, 6]);
    let definition = |inputs: &[Vec<f64>]| {
        let row = |token: &u32| inputs[0][*token as usize * width..][..width].to_vec();
        tokens.iter().flat_map(row).collect()
    };
    check(
        "embed",
        &[input(7, width, 8)],
        &|t| embed(t[0].clone(), &tokens),
        &definition,
    );
}

#[test]
fn head_and_loss_are_their_definition() {
    let (width, rows, vocabulary, divisor, z_loss) = (13, 5, 17, 3.5, 0.01f32);
    let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 7 % vocabulary as u32).collect();
    let weights: Vec<f32> = (0..rows).map(|i| [1.0, 0.0, 0.5][i % 3]).collect();
    let definition = |inputs: &[Vec<f64>]| {
        let logits = product(&inputs[0], &inputs[1], width);
        let row = |((logits, token), weight): ((&[f64], &u32), &f32)| {
            let partition = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            f64::from(*weight) * (partition - logits[*token as usize] + f64::from(z_loss) * partition * partition)
        };
        let all = logits.chunks(vocabulary).zip(&tokens).zip(&weights).map(row);
        vec![all.sum::<f64>() / divisor]
    };
    let operation = |t: &[Tensor<2>]| {
        let targets = Targets {
            tokens: &tokens,
            weights: Some(&weights),
            divisor,
            z_loss,
        };
        head_loss(t[0].clone(), t[1].clone(), targets).0.reshape([1, 1])
    };
    let inputs = [input(rows, width, 9), input(vocabulary, width, 10)];
    check("head_loss", &inputs, &operation, &definition);
}

/// Two sequences, of which one holds two documents; heads share keys and values; rotary positions begin with each document.
fn attention_in_f64(inputs: &[Vec<f64>], shape: AttentionShape, starts: &[u32], base: f64, epsilon: f64) -> Vec<f64> {
    let AttentionShape {
        heads,
        kv_heads,
        head_width: e,
        tokens,
    } = shape;
    let width = (heads + 2 * kv_heads) * e;
    let head = |row: usize, at: usize, gain: Option<&Vec<f64>>, turned: bool| -> Vec<f64> {
        let mut x = inputs[0][row * width + at * e..][..e].to_vec();
        if let Some(gain) = gain {
            let square = x.iter().map(|x| x * x).sum::<f64>() / e as f64;
            let inverse = 1.0 / (square + epsilon).sqrt();
            x.iter_mut().zip(gain).for_each(|(x, gain)| *x *= inverse * gain);
        }
        if !turned {
            return x;
        }
        let position = (row % tokens) as f64 - f64::from(starts[row]);
        let half = e / 2;
        let turn = |i: usize| position * base.powf(-2.0 * i as f64 / e as f64);
        let mut out = vec![0.0; e];
        for i in 0..half {
            let (sine, cosine) = turn(i).sin_cos();
            out[i] = x[i] * cosine - x[i + half] * sine;
            out[i + half] = x[i + half] * cosine + x[i] * sine;
        }
        out
    };
    assert_eq!(inputs[0].len(), starts.len() * width, "one start a row");
    let mut out = Vec::with_capacity(starts.len() * heads * e);
    for (row, start) in starts.iter().enumerate() {
        let first = row / tokens * tokens + *start as usize;
        for query_head in 0..heads {
            let kv = query_head / (heads / kv_heads);
            let query = head(row, query_head, inputs.get(1), true);
            let scores: Vec<f64> = (first..=row)
                .map(|other| {
                    let key = head(other, heads + kv, inputs.get(2), true);
                    query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (e as f64).sqrt()
                })
                .collect();
            let partition: f64 = scores.iter().map(|score| score.exp()).sum();
            let mut mixed = vec![0.0; e];
            for (other, score) in (first..=row).zip(&scores) {
                let value = head(other, heads + kv_heads + kv, None, false);
                let weight = score.exp() / partition;
                mixed.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight * v);
            }
            out.extend(mixed);
        }
    }
    out
}

#[test]
fn attention_is_its_definition_with_documents_and_with_normed_queries_and_keys() {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_width: 6,
        tokens: 7,
    };
    let rows = 2 * shape.tokens;
    let starts: Vec<u32> = (0..rows as u32).map(|row| if row >= 11 { 4 } else { 0 }).collect();
    let rotary = RotaryConfig {
        base: 100.0,
        scaling: None,
    };
    let table = RotaryTable::new(shape.tokens, shape.head_width, &rotary);
    let (epsilon, qkv) = (1e-5f32, input(rows, shape.in_width(), 11));
    let definition = |inputs: &[Vec<f64>]| attention_in_f64(inputs, shape, &starts, 100.0, f64::from(epsilon));
    let shared = Arc::new(starts.clone());
    let plain = |t: &[Tensor<2>]| attention(t[0].clone(), None, &table, shape, Some(shared.clone()));
    check("attention", std::slice::from_ref(&qkv), &plain, &definition);
    let normed = |t: &[Tensor<2>]| {
        let norms = HeadNorms {
            query: t[1].clone(),
            key: t[2].clone(),
            epsilon,
        };
        attention(t[0].clone(), Some(norms), &table, shape, Some(shared.clone()))
    };
    let inputs = [qkv, input(1, shape.head_width, 12), input(1, shape.head_width, 13)];
    check("attention with norms", &inputs, &normed, &definition);
}
