//! A little is enough: the honest mean, shifted by z standard deviations in every coordinate, where rules that look at
//! coordinates or distances still take it for honest (Baruch, Baruch & Goldberg 2019, NeurIPS, algorithm 3).
//! It needs the honest vectors; it does not know the rule, which [`strongest`](super::strongest) does.

use super::{deviation, mean, sendable};

/// mean + z · deviation of the honest vectors, coordinate by coordinate.
pub fn little_is_enough(honest: &[&[f32]], z: f64) -> Vec<f32> {
    let mean = mean(honest);
    let deviation = deviation(honest, &mean);
    sendable(
        mean.iter()
            .zip(&deviation)
            .map(|(mean, deviation)| mean + z * deviation),
    )
}

/// The paper's z: the largest shift at which enough honest members are expected farther out that, with the faulty ones,
/// they make a majority. Φ⁻¹((n − f − s) / (n − f)) with s = ⌊n/2 + 1⌋ − f; 0 when the faulty are a majority.
pub fn hidden_deviation(members: usize, faulty: usize) -> f64 {
    let needed = (members / 2 + 1).saturating_sub(faulty);
    let honest = members.saturating_sub(faulty);
    if needed == 0 || needed >= honest {
        return 0.0;
    }
    let share = (honest - needed) as f64 / honest as f64;
    let (mut low, mut high) = (0.0f64, 6.0f64);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if normal_share_below(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// 1 / √(2π).
const NORMAL_PEAK: f64 = 0.398_942_280_401_432_7;

/// Φ(z) by the series ½ + φ(0) Σ (−1)^k z^(2k+1) / (2^k k! (2k + 1)), for z between 0 and 6.
fn normal_share_below(z: f64) -> f64 {
    let (mut power, mut sum) = (z, z);
    for k in 1..200 {
        power *= -z * z / (2.0 * f64::from(k));
        sum += power / (2.0 * f64::from(k) + 1.0);
    }
    0.5 + NORMAL_PEAK * sum
}
