//! Colluding equivocation: one half of the members is told one thing and the other half its mirror image, to drive the
//! two apart. Where payloads are named by their hash in a signed claim, two claims are evidence; this is the content.

use super::{deviation, mean, sendable};

/// What the attackers tell the member `receiver`: the honest mean, and `z` deviations above it for even receivers, below
/// it for odd ones. All attackers tell one receiver the same.
pub fn equivocation(honest: &[&[f32]], z: f64, receiver: usize) -> Vec<f32> {
    let mean = mean(honest);
    let deviation = deviation(honest, &mean);
    let signed = if receiver.is_multiple_of(2) { z } else { -z };
    sendable(
        mean.iter()
            .zip(&deviation)
            .map(|(mean, deviation)| mean + signed * deviation),
    )
}
