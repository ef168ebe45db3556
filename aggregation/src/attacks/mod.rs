//! What a faulty or malicious member may send, as plain functions over slices, for tests, simulations and drills.
//! Unreachable from a session: no config names an attack, and nothing in the node's own path calls this module.
//!
//! Attackers are taken to know what they can at worst: the honest vectors of the round, and for the optimised ones the
//! rule. Nothing here draws randomness; who wants noise brings it.

pub mod dissensus;
pub mod drift;
pub mod equivocation;
pub mod free_riding;
pub mod gaussian;
pub mod inner_product;
pub mod label_flip;
pub mod little_is_enough;
pub mod mimic;
pub mod min_max;
pub mod not_finite;
pub mod optimised;
pub mod scaled;
pub mod sign_flip;
pub mod stale_replay;

pub use dissensus::dissensus;
pub use drift::drift;
pub use equivocation::equivocation;
pub use free_riding::free_riding_copy;
pub use gaussian::gaussian;
pub use inner_product::inner_product;
pub use label_flip::flipped_label;
pub use little_is_enough::{hidden_deviation, little_is_enough};
pub use mimic::{Mimic, mimic};
pub use min_max::{Direction, min_max, min_sum};
pub use not_finite::{infinity, not_a_number};
pub use optimised::{line_search, strongest};
pub use scaled::scaled;
pub use sign_flip::sign_flip;
pub use stale_replay::StaleReplay;

/// The mean of the honest vectors, in f64.
///
/// # Panics
/// When there is none, or lengths differ.
pub(crate) fn mean(honest: &[&[f32]]) -> Vec<f64> {
    assert!(!honest.is_empty(), "an attack on nobody");
    let mut mean = vec![0.0f64; honest[0].len()];
    for row in honest {
        assert_eq!(row.len(), mean.len(), "honest vectors have one length");
        mean.iter_mut()
            .zip(*row)
            .for_each(|(sum, &value)| *sum += f64::from(value));
    }
    mean.iter_mut().for_each(|sum| *sum /= honest.len() as f64);
    mean
}

/// The standard deviation of each coordinate over the honest vectors, with n − 1; 0 for a single one.
pub(crate) fn deviation(honest: &[&[f32]], mean: &[f64]) -> Vec<f64> {
    let mut squares = vec![0.0f64; mean.len()];
    for row in honest {
        for ((square, &value), mean) in squares.iter_mut().zip(*row).zip(mean) {
            let difference = f64::from(value) - mean;
            *square += difference * difference;
        }
    }
    let divisor = (honest.len() as f64 - 1.0).max(1.0);
    squares.into_iter().map(|square| (square / divisor).sqrt()).collect()
}

/// As f32 within the finite range, so that it still encodes.
pub(crate) fn sendable(values: impl IntoIterator<Item = f64>) -> Vec<f32> {
    values
        .into_iter()
        .map(|value| (value as f32).clamp(f32::MIN, f32::MAX))
        .collect()
}
