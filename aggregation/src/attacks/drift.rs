//! Gradual drift: an honest update and a push in one direction that grows round by round, each step too small to stand
//! out. It adapts to no rule; a rule with memory may follow it where one without does not.

use super::sendable;

/// update + per_round · round · direction.
///
/// # Panics
/// When the lengths differ.
pub fn drift(update: &mut [f32], direction: &[f32], per_round: f64, round: u64) {
    assert_eq!(update.len(), direction.len(), "one direction value a coordinate");
    let strength = per_round * round as f64;
    let pushed = update
        .iter()
        .zip(direction)
        .map(|(&value, &towards)| f64::from(value) + strength * f64::from(towards));
    let pushed = sendable(pushed);
    update.copy_from_slice(&pushed);
}
