//! What an optimizer's rule sees: the tensors of one step with their state, and loops that give the same bits for any number
//! of threads. It knows no rule.

use rayon::prelude::*;

use super::groups::Pace;
use crate::layout::{Role, TensorPlace};

/// Elements that one thread takes at a time.
pub(super) const CHUNK: usize = 16 * 1024;

/// A model of fewer parameters is one thread's: waking others would cost more than they save.
const SMALL: usize = 64 * 1024;

/// One tensor at one step.
pub(super) struct Tensor<'a> {
    pub place: &'a TensorPlace,
    pub parameters: &'a mut [f32],
    pub gradient: &'a [f32],
    /// The second gradient that the optimizer asked for, where it asked.
    pub extra: Option<&'a [f32]>,
    /// The tensor's state, as the rule's `buffers` sized it.
    pub buffers: &'a mut [Vec<f32>],
    pub pace: Pace,
}

impl Tensor<'_> {
    /// Whether matrix rules apply.
    pub fn is_hidden_matrix(&self) -> bool {
        is_hidden_matrix(self.place)
    }

    /// Rows and columns of a matrix `[out, in…]`.
    pub fn sides(&self) -> (usize, usize) {
        sides(self.place)
    }
}

/// Whether a tensor is a matrix between hidden layers (by role).
pub(super) fn is_hidden_matrix(place: &TensorPlace) -> bool {
    place.role == Role::HiddenMatrix
}

/// Rows and columns of a matrix `[out, in…]`: later sizes are one, as of a convolution.
pub(super) fn sides(place: &TensorPlace) -> (usize, usize) {
    let rows = place.shape.first().copied().unwrap_or(1);
    (rows, place.count() / rows.max(1))
}

/// One step over all tensors.
pub(super) struct Run<'a> {
    pub tensors: Vec<Tensor<'a>>,
    /// Steps since the state began, with this one.
    pub count: u64,
    /// Steps of the session, with this one.
    pub session_count: u64,
    /// Tokens (or samples) behind each gradient.
    pub tokens: u64,
    /// The schedule's factor of this step.
    pub schedule: f32,
    /// Two numbers of the rule's own, 0 in the beginning.
    pub numbers: &'a mut [f64; 2],
}

impl Run<'_> {
    /// Whether this is the first step of the state.
    pub fn is_first(&self) -> bool {
        self.count == 1
    }

    /// Does one thing to every tensor.
    pub fn each(&mut self, rule: impl Fn(&mut Tensor<'_>) + Sync) {
        match self.is_small() {
            true => self.tensors.iter_mut().for_each(rule),
            false => self.tensors.par_iter_mut().for_each(&rule),
        }
    }

    fn is_small(&self) -> bool {
        self.tensors.iter().map(|tensor| tensor.gradient.len()).sum::<usize>() < SMALL
    }

    /// Adds up two numbers of every tensor, in the order of tensors.
    pub fn sum_each(&mut self, rule: impl Fn(&mut Tensor<'_>) -> [f64; 2] + Sync) -> [f64; 2] {
        let parts: Vec<[f64; 2]> = match self.is_small() {
            true => self.tensors.iter_mut().map(rule).collect(),
            false => self.tensors.par_iter_mut().map(&rule).collect(),
        };
        parts
            .iter()
            .fold([0.0; 2], |sum, part| [sum[0] + part[0], sum[1] + part[1]])
    }
}

/// `β^count` to `1 − β^count`, the share of an exponential mean that is not yet its zero beginning.
pub(super) fn correction(beta: f32, count: u64) -> f64 {
    1.0 - f64::from(beta).powi(count.min(i32::MAX as u64) as i32)
}

/// −1, 0 or 1.
pub(super) fn sign(value: f32) -> f32 {
    f32::from(u8::from(value > 0.0)) - f32::from(u8::from(value < 0.0))
}

/// `p ← rule(p, g)`.
pub(super) fn each0(p: &mut [f32], g: &[f32], rule: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(p.len(), g.len(), "slices of one tensor");
    if p.len() <= CHUNK {
        return p.iter_mut().zip(g).for_each(|(p, g)| *p = rule(*p, *g));
    }
    p.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .for_each(|(p, g)| p.iter_mut().zip(g).for_each(|(p, g)| *p = rule(*p, *g)));
}

/// `(p, a) ← rule(p, g, a)`.
pub(super) fn each1(p: &mut [f32], g: &[f32], a: &mut [f32], rule: impl Fn(f32, f32, f32) -> (f32, f32) + Sync) {
    assert!(p.len() == g.len() && a.len() == g.len(), "slices of one tensor");
    if p.len() <= CHUNK {
        return inner1(p, g, a, &rule);
    }
    let chunks = p
        .par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(a.par_chunks_mut(CHUNK));
    chunks.for_each(|((p, g), a)| inner1(p, g, a, &rule));
}

fn inner1(p: &mut [f32], g: &[f32], a: &mut [f32], rule: &impl Fn(f32, f32, f32) -> (f32, f32)) {
    for ((p, g), a) in p.iter_mut().zip(g).zip(a) {
        (*p, *a) = rule(*p, *g, *a);
    }
}

/// `(p, a, b) ← rule(p, g, a, b)`.
pub(super) fn each2(
    p: &mut [f32],
    g: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    rule: impl Fn(f32, f32, f32, f32) -> (f32, f32, f32) + Sync,
) {
    assert!(
        p.len() == g.len() && a.len() == g.len() && b.len() == g.len(),
        "slices of one tensor"
    );
    if p.len() <= CHUNK {
        return inner2(p, g, a, b, &rule);
    }
    p.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(a.par_chunks_mut(CHUNK))
        .zip(b.par_chunks_mut(CHUNK))
        .for_each(|(((p, g), a), b)| inner2(p, g, a, b, &rule));
}

// Arguments of a function are known not to overlap; without that the loop would not become vector instructions.
fn inner2(
    p: &mut [f32],
    g: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    rule: &impl Fn(f32, f32, f32, f32) -> (f32, f32, f32),
) {
    for (((p, g), a), b) in p.iter_mut().zip(g).zip(a).zip(b) {
        (*p, *a, *b) = rule(*p, *g, *a, *b);
    }
}

/// `(p, a, b, c) ← rule(p, g, a, b, c)`.
pub(super) fn each3(
    p: &mut [f32],
    g: &[f32],
    [a, b, c]: [&mut [f32]; 3],
    rule: impl Fn(f32, f32, [f32; 3]) -> (f32, [f32; 3]) + Sync,
) {
    assert!(
        [p.len(), a.len(), b.len(), c.len()].iter().all(|len| *len == g.len()),
        "slices of one tensor"
    );
    if p.len() <= CHUNK {
        return inner3(p, g, a, b, c, &rule);
    }
    p.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(a.par_chunks_mut(CHUNK))
        .zip(b.par_chunks_mut(CHUNK))
        .zip(c.par_chunks_mut(CHUNK))
        .for_each(|((((p, g), a), b), c)| inner3(p, g, a, b, c, &rule));
}

fn inner3(
    p: &mut [f32],
    g: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
    rule: &impl Fn(f32, f32, [f32; 3]) -> (f32, [f32; 3]),
) {
    for ((((p, g), a), b), c) in p.iter_mut().zip(g).zip(a).zip(b).zip(c) {
        (*p, [*a, *b, *c]) = rule(*p, *g, [*a, *b, *c]);
    }
}

/// `Σ of(chunk of a, chunk of b)` over fixed chunks, added in their order.
pub(super) fn sum_pairs(a: &[f32], b: &[f32], of: impl Fn(&[f32], &[f32]) -> f64 + Sync) -> f64 {
    assert_eq!(a.len(), b.len(), "slices of one tensor");
    if a.len() <= CHUNK {
        return of(a, b);
    }
    let parts: Vec<f64> = a
        .par_chunks(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .map(|(a, b)| of(a, b))
        .collect();
    parts.iter().sum()
}

/// The Euclidean norm.
pub(super) fn norm(values: &[f32]) -> f64 {
    sum_pairs(values, values, |values, _| super::clip::squares(values)).sqrt()
}
