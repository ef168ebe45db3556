//! A perceptron with one hidden layer on flat slices: scores, the gradient of the cross-entropy, accuracy.
//! It is for experiments with rules that need many thousand short runs; no session trains it.
//!
//! Parameters lie one behind the other: W₁ `[PIXELS, HIDDEN]`, b₁ `[HIDDEN]`, W₂ `[HIDDEN, CLASSES]`, b₂ `[CLASSES]`.

use super::images::{CLASSES, Images, PIXELS, normal};
use crate::simulation::dice::Dice;

/// Hidden units.
pub const HIDDEN: usize = 32;
/// Parameters.
pub const PARAMETERS: usize = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES;

const B1: usize = PIXELS * HIDDEN;
const W2: usize = B1 + HIDDEN;
const B2: usize = W2 + HIDDEN * CLASSES;

/// Parameters to begin with: normal with variance 2 / inputs (He, Zhang, Ren & Sun 2015, ICCV), biases zero.
pub fn beginning(dice: &mut Dice) -> Vec<f32> {
    let scale = |inputs: usize| (2.0 / inputs as f64).sqrt();
    (0..PARAMETERS)
        .map(|at| match at {
            0..B1 => (scale(PIXELS) * normal(dice)) as f32,
            W2..B2 => (scale(HIDDEN) * normal(dice)) as f32,
            _ => 0.0,
        })
        .collect()
}

/// Activations of the hidden layer after ReLU, and the classes' scores.
fn forward(parameters: &[f32], image: &[f32]) -> ([f32; HIDDEN], [f32; CLASSES]) {
    let mut hidden = [0.0f32; HIDDEN];
    hidden.copy_from_slice(&parameters[B1..W2]);
    for (&pixel, row) in image.iter().zip(parameters.chunks_exact(HIDDEN)) {
        if pixel != 0.0 {
            hidden
                .iter_mut()
                .zip(row)
                .for_each(|(sum, weight)| *sum += pixel * weight);
        }
    }
    hidden.iter_mut().for_each(|sum| *sum = sum.max(0.0));
    let mut scores = [0.0f32; CLASSES];
    scores.copy_from_slice(&parameters[B2..]);
    for (&unit, row) in hidden.iter().zip(parameters[W2..B2].chunks_exact(CLASSES)) {
        scores
            .iter_mut()
            .zip(row)
            .for_each(|(sum, weight)| *sum += unit * weight);
    }
    (hidden, scores)
}

/// The mean gradient over a batch of (image, label), written over `gradient`.
pub fn gradient<'a>(
    parameters: &[f32],
    batch: impl ExactSizeIterator<Item = (&'a [f32], usize)>,
    gradient: &mut [f32],
) {
    gradient.fill(0.0);
    let share = 1.0 / batch.len() as f32;
    for (image, label) in batch {
        let (hidden, scores) = forward(parameters, image);
        let highest = scores.iter().copied().fold(f32::MIN, f32::max);
        let mut towards = scores.map(|score| (score - highest).exp()); // softmax, then minus one-hot
        let total: f32 = towards.iter().sum();
        towards
            .iter_mut()
            .for_each(|share_of_class| *share_of_class *= share / total);
        towards[label] -= share;
        let mut back = [0.0f32; HIDDEN];
        for (unit, back) in back.iter_mut().enumerate() {
            let row = W2 + unit * CLASSES..W2 + (unit + 1) * CLASSES;
            if hidden[unit] > 0.0 {
                *back = parameters[row.clone()]
                    .iter()
                    .zip(&towards)
                    .map(|(weight, by)| weight * by)
                    .sum();
                gradient[row]
                    .iter_mut()
                    .zip(&towards)
                    .for_each(|(sum, by)| *sum += hidden[unit] * by);
            }
        }
        gradient[B2..].iter_mut().zip(&towards).for_each(|(sum, by)| *sum += by);
        gradient[B1..W2].iter_mut().zip(&back).for_each(|(sum, by)| *sum += by);
        for (&pixel, row) in image.iter().zip(gradient.chunks_exact_mut(HIDDEN)) {
            if pixel != 0.0 {
                row.iter_mut().zip(&back).for_each(|(sum, by)| *sum += pixel * by);
            }
        }
    }
}

/// The share of images, in percent, whose label has the highest score. What is not a number is wrong.
pub fn accuracy(parameters: &[f32], images: &Images) -> f64 {
    let right = (0..images.len()).filter(|&index| {
        let (image, label) = images.get(index);
        let (_, scores) = forward(parameters, image);
        let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        scores.iter().all(|score| score.is_finite()) && best == Some(label)
    });
    100.0 * right.count() as f64 / images.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(parameters: &[f32], image: &[f32], label: usize) -> f64 {
        let (_, scores) = forward(parameters, image);
        let total: f64 = scores.iter().map(|score| f64::from(*score).exp()).sum();
        total.ln() - f64::from(scores[label])
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let mut dice = Dice::new(3, "test");
        let mut parameters = beginning(&mut dice);
        let image: Vec<f32> = (0..PIXELS)
            .map(|at| if at % 3 == 0 { 0.0 } else { dice.unit() as f32 })
            .collect();
        let mut got = vec![0.0; PARAMETERS];
        gradient(&parameters, [(image.as_slice(), 4)].into_iter(), &mut got);
        for at in (0..PARAMETERS).step_by(97).chain([B1, W2, B2, B2 + 4]) {
            let kept = parameters[at];
            parameters[at] = kept + 1e-2;
            let above = loss(&parameters, &image, 4);
            parameters[at] = kept - 1e-2;
            let below = loss(&parameters, &image, 4);
            parameters[at] = kept;
            let expected = (above - below) / 2e-2;
            assert!(
                (f64::from(got[at]) - expected).abs() < 2e-3,
                "{at}: {} for {expected}",
                got[at]
            );
        }
    }

    #[test]
    fn parameters_that_are_no_numbers_are_never_right() {
        let images = Images::default().sample(0, &mut Dice::new(0, "none"));
        assert!(images.is_empty());
        let (_, scores) = forward(&vec![f32::NAN; PARAMETERS], &[1.0; PIXELS]);
        assert!(scores.iter().all(|score| score.is_nan()));
    }
}
