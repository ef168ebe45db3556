//! Min-max and min-sum: as far from the honest mean as the farthest honest vectors are from each other (Shejwalkar &
//! Houmansadr 2021, NDSS, §4). They need the honest vectors and no knowledge of the rule.

use super::{deviation, mean, sendable};

/// Which way the honest mean is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Against the mean itself, −μ/‖μ‖.
    Unit,
    /// Against the deviations, −σ.
    Deviation,
    /// Against the signs of the mean.
    Sign,
}

/// The farthest vector along the direction whose greatest squared distance to an honest one is that among these.
pub fn min_max(honest: &[&[f32]], direction: Direction) -> Vec<f32> {
    let bound = honest
        .iter()
        .flat_map(|a| honest.iter().map(|b| squared_distance_between(a, b)));
    let bound = bound.fold(0.0, f64::max);
    farthest(honest, direction, |vector| {
        honest
            .iter()
            .map(|row| squared_distance(row, vector))
            .fold(0.0, f64::max)
            <= bound
    })
}

/// The farthest vector along the direction whose sum of squared distances is the greatest such sum of an honest one.
pub fn min_sum(honest: &[&[f32]], direction: Direction) -> Vec<f32> {
    let sums = honest.iter().map(|a| {
        honest
            .iter()
            .map(|b| squared_distance_between(a, b))
            .fold(0.0, |sum, d| sum + d)
    });
    let bound = sums.fold(0.0, f64::max);
    farthest(honest, direction, |vector| {
        honest
            .iter()
            .map(|row| squared_distance(row, vector))
            .fold(0.0, |sum, d| sum + d)
            <= bound
    })
}

fn squared_distance(row: &[f32], vector: &[f64]) -> f64 {
    row.iter().zip(vector).fold(0.0, |sum, (&x, v)| {
        let difference = f64::from(x) - v;
        sum + difference * difference
    })
}

fn squared_distance_between(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (&a, &b)| {
        let difference = f64::from(a) - f64::from(b);
        sum + difference * difference
    })
}

/// μ + γ p with the largest γ that passes, by doubling and bisection.
fn farthest(honest: &[&[f32]], direction: Direction, passes: impl Fn(&[f64]) -> bool) -> Vec<f32> {
    let mean = mean(honest);
    let norm = mean.iter().fold(0.0, |sum, mean| sum + mean * mean).sqrt();
    let towards: Vec<f64> = match direction {
        Direction::Unit if norm == 0.0 => vec![0.0; mean.len()],
        Direction::Unit => mean.iter().map(|mean| -mean / norm).collect(),
        Direction::Deviation => deviation(honest, &mean)
            .into_iter()
            .map(|deviation| -deviation)
            .collect(),
        Direction::Sign => mean
            .iter()
            .map(|&mean| if mean == 0.0 { 0.0 } else { -mean.signum() })
            .collect(),
    };
    let at = |gamma: f64| -> Vec<f64> { mean.iter().zip(&towards).map(|(mean, p)| mean + gamma * p).collect() };
    let (mut low, mut high) = (0.0f64, 1.0f64);
    for _ in 0..60 {
        if !passes(&at(high)) {
            break;
        }
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if passes(&at(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    sendable(at(low))
}
