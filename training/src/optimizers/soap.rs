//! SOAP (Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024) on hidden matrices: Adam in the slowly
//! turning eigenbasis of Shampoo's `L ← β₂L + (1−β₂)GGᵀ`, `R ← β₂R + (1−β₂)GᵀG`. With `G′ = Q_LᵀGQ_R`:
//! `m ← β₁m + (1−β₁)G`, `v ← β₂v + (1−β₂)G′²`, `N = Q_L[(Q_LᵀmQ_R)/(√v + ε)]Q_Rᵀ`,
//! `θ ← (1 − γλ)(θ − γ√(1−β₂ᵗ)/(1−β₁ᵗ)·N)`; then L and R, and every f steps `Q ← qr(L·Q)` with Q's columns (and v) sorted by
//! `diag(QᵀLQ)`. Other roles take AdamW with the same numbers.
//!
//! The first step makes L, R and their eigenvectors and moves no matrix; t counts the steps after it. Decay is taken after
//! the step, as in the authors' code (the paper: at once). Its state is large, and its first step slow: a poor fit for short
//! rounds that begin with a fresh state.

use serde::{Deserialize, Serialize};

use super::adamw::AdamWConfig;
use super::eigen::{orthonormal_factor, symmetric_eigenvectors};
use super::matrix::{matrix, product};
use super::run::{Run, Tensor, correction, is_hidden_matrix, sides};
use crate::config::{ConfigError, finite_all, within};
use crate::layout::TensorPlace;

/// SOAP's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoapConfig {
    /// Peak learning rate γ. 0.001 was tuned at all sizes (Semenov et al., 2025).
    pub learning_rate: f32,
    /// Decay of the mean of gradients, β₁. 0.9, tuned at 124 M and 210 M parameters.
    pub beta1: f32,
    /// Decay of the mean of squared gradients and of L and R, β₂. 0.999, tuned; 0.9999 above 100 000 steps.
    pub beta2: f32,
    /// Keeps the quotient finite, ε.
    pub epsilon: f32,
    /// Weight decay λ. 0.1, as for all optimizers of the benchmark.
    pub weight_decay: f32,
    /// Steps between two turns of the basis, f. 10, tuned: 1 and 5 were no better.
    pub every: u32,
    /// A side longer than this keeps the identity as its basis. 10 000, the authors' choice: L and Q take its square.
    pub longest_side: u32,
}

impl Default for SoapConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            every: 10,
            longest_side: 10_000,
        }
    }
}

/// A matrix's buffers.
struct Buffers<'a> {
    mean: &'a mut [f32],
    square: &'a mut [f32],
    left: Side<'a>,
    right: Side<'a>,
}

/// One side's statistics and basis; both empty where the side is too long.
struct Side<'a> {
    gram: &'a mut [f32],
    basis: &'a mut [f32],
    len: usize,
}

impl SoapConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        finite_all(&[
            ("optimizer.soap.learning_rate", self.learning_rate, 0.0, 10.0),
            ("optimizer.soap.beta1", self.beta1, 0.0, 0.99999),
            ("optimizer.soap.beta2", self.beta2, 0.0, 0.999999),
            ("optimizer.soap.epsilon", self.epsilon, 1e-30, 1.0),
            ("optimizer.soap.weight_decay", self.weight_decay, 0.0, 100.0),
        ])?;
        within("optimizer.soap.every", self.every, 1, 1_000_000)?;
        within("optimizer.soap.longest_side", self.longest_side, 0, 16_384)
    }

    pub(super) fn buffers(&self, place: &TensorPlace) -> Vec<usize> {
        let count = place.count();
        if !is_hidden_matrix(place) {
            return vec![count; 2];
        }
        let (rows, columns) = sides(place);
        let square = |side: usize| {
            if side > self.longest_side as usize {
                0
            } else {
                side * side
            }
        };
        let (left, right) = (square(rows), square(columns));
        vec![count, count, left, left, right, right]
    }

    pub(super) fn step(&self, mut run: Run<'_>) {
        let count = run.count;
        let other = AdamWConfig {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
        };
        run.each(|tensor| match tensor.is_hidden_matrix() {
            true => self.update(tensor, count),
            false => other.update(tensor, count),
        });
    }

    fn update(&self, tensor: &mut Tensor<'_>, count: u64) {
        let (rows, columns) = tensor.sides();
        let rate = f64::from(tensor.pace.rate(self.learning_rate));
        let keep = tensor.pace.keep(self.learning_rate, self.weight_decay);
        let [mean, square, left_gram, left_basis, right_gram, right_basis] = tensor.buffers else {
            unreachable!("SOAP has six buffers for a matrix")
        };
        let side = |gram, basis, len| Side { gram, basis, len };
        let mut state = Buffers {
            mean,
            square,
            left: side(left_gram, left_basis, rows),
            right: side(right_gram, right_basis, columns),
        };
        let g = tensor.gradient;
        if count == 1 {
            self.gather(&mut state, g);
            state.left.begin();
            state.right.begin();
            return;
        }
        let steps = count - 1;
        let length = rate * correction(self.beta2, steps).sqrt() / correction(self.beta1, steps);
        let direction = self.direction(&mut state, g);
        let each = tensor.parameters.iter_mut().zip(&direction);
        each.for_each(|(p, n)| *p = (*p - length as f32 * n) * keep);
        self.gather(&mut state, g);
        if steps.is_multiple_of(u64::from(self.every)) {
            let order = state.left.turn();
            permute_rows(state.square, columns, &order);
            let order = state.right.turn();
            permute_columns(state.square, columns, &order);
        }
    }

    /// Updates `m` and `v`, and returns `N`.
    fn direction(&self, state: &mut Buffers<'_>, gradient: &[f32]) -> Vec<f32> {
        let turned = state.turn_to(gradient);
        let each = state.mean.iter_mut().zip(gradient);
        each.for_each(|(m, g)| *m = self.beta1 * *m + (1.0 - self.beta1) * g);
        let each = state.square.iter_mut().zip(&turned);
        each.for_each(|(v, g)| *v = self.beta2 * *v + (1.0 - self.beta2) * g * g);
        let mut quotient = state.turn_to(state.mean);
        let each = quotient.iter_mut().zip(&*state.square);
        each.for_each(|(m, v)| *m /= v.sqrt() + self.epsilon);
        state.turn_back(quotient)
    }

    /// Updates `L` and `R`.
    fn gather(&self, state: &mut Buffers<'_>, gradient: &[f32]) {
        let (rows, columns) = (state.left.len, state.right.len);
        let g = matrix(gradient, rows, columns);
        let (keep, weight) = (Some(self.beta2), 1.0 - self.beta2);
        if !state.left.gram.is_empty() {
            product(state.left.gram, rows, keep, weight, g, g.transposed());
        }
        if !state.right.gram.is_empty() {
            product(state.right.gram, columns, keep, weight, g.transposed(), g);
        }
    }
}

impl Buffers<'_> {
    /// `Q_Lᵀ x Q_R`.
    fn turn_to(&self, x: &[f32]) -> Vec<f32> {
        let (rows, columns) = (self.left.len, self.right.len);
        let mut x = x.to_vec();
        let mut out = vec![0.0; x.len()];
        if !self.left.basis.is_empty() {
            let basis = matrix(self.left.basis, rows, rows).transposed();
            product(&mut out, columns, None, 1.0, basis, matrix(&x, rows, columns));
            std::mem::swap(&mut x, &mut out);
        }
        if !self.right.basis.is_empty() {
            let basis = matrix(self.right.basis, columns, columns);
            product(&mut out, columns, None, 1.0, matrix(&x, rows, columns), basis);
            std::mem::swap(&mut x, &mut out);
        }
        x
    }

    /// `Q_L x Q_Rᵀ`.
    fn turn_back(&self, mut x: Vec<f32>) -> Vec<f32> {
        let (rows, columns) = (self.left.len, self.right.len);
        let mut out = vec![0.0; x.len()];
        if !self.left.basis.is_empty() {
            let basis = matrix(self.left.basis, rows, rows);
            product(&mut out, columns, None, 1.0, basis, matrix(&x, rows, columns));
            std::mem::swap(&mut x, &mut out);
        }
        if !self.right.basis.is_empty() {
            let basis = matrix(self.right.basis, columns, columns).transposed();
            product(&mut out, columns, None, 1.0, matrix(&x, rows, columns), basis);
            std::mem::swap(&mut x, &mut out);
        }
        x
    }
}

impl Side<'_> {
    /// The first basis: eigenvectors.
    fn begin(&mut self) {
        if !self.gram.is_empty() {
            self.basis
                .copy_from_slice(&symmetric_eigenvectors(self.gram, self.len).1);
        }
    }

    /// Turns the basis by one power iteration; returns which column each new one was (all in place where there is no basis).
    fn turn(&mut self) -> Vec<usize> {
        let len = self.len;
        let mut order: Vec<usize> = (0..len).collect();
        if self.gram.is_empty() {
            return order;
        }
        let mut powered = vec![0.0; len * len];
        let (gram, basis) = (matrix(self.gram, len, len), matrix(self.basis, len, len));
        product(&mut powered, len, None, 1.0, gram, basis);
        let mut estimates = vec![0f64; len];
        for (basis, powered) in self.basis.chunks_exact(len).zip(powered.chunks_exact(len)) {
            let each = estimates.iter_mut().zip(basis.iter().zip(powered));
            each.for_each(|(sum, (q, p))| *sum += f64::from(*q) * f64::from(*p));
        }
        order.sort_by(|a, b| estimates[*b].total_cmp(&estimates[*a]));
        permute_columns(&mut powered, len, &order);
        self.basis.copy_from_slice(&orthonormal_factor(&powered, len));
        order
    }
}

fn permute_rows(values: &mut [f32], columns: usize, order: &[usize]) {
    let before = values.to_vec();
    for (row, from) in values.chunks_exact_mut(columns).zip(order) {
        row.copy_from_slice(&before[from * columns..(from + 1) * columns]);
    }
}

fn permute_columns(values: &mut [f32], columns: usize, order: &[usize]) {
    let mut before = vec![0.0; columns];
    for row in values.chunks_exact_mut(columns) {
        before.copy_from_slice(row);
        row.iter_mut()
            .zip(order)
            .for_each(|(value, from)| *value = before[*from]);
    }
}
