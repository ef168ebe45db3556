//! The free rider: it trains nothing and sends what another sent, disguised so that the bytes differ (Fraboni, Vidal & Lorenzi
//! 2021, AISTATS, "Free-rider Attacks on Model Aggregation in Federated Learning"). It wants the model and a reward, no harm.

/// A copy of `victim` where each value is changed by `disguise` of itself, up and down in turns; 0 for a plain copy.
pub fn free_riding_copy(victim: &[f32], disguise: f32) -> Vec<f32> {
    victim
        .iter()
        .enumerate()
        .map(|(place, &value)| {
            let by = if place.is_multiple_of(2) { disguise } else { -disguise };
            (value * (1.0 + by)).clamp(f32::MIN, f32::MAX)
        })
        .collect()
}
