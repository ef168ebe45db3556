//! Dissensus: on a graph the attackers push each honest member away from its honest neighbours, undoing what gossip does
//! (He, Karimireddy & Jaggi 2022, arXiv 2202.01545, §5). It needs the vectors around each victim and tells each another lie.

use super::sendable;

/// What all attackers around a victim send it: x_i − ε Σ_j W_ij (x_j − x_i) / (attackers' weight), the sum over its honest
/// neighbours. With ε = 1 plain gossip stands still; above, members move apart.
///
/// # Panics
/// When lengths differ, or the attackers have no weight.
pub fn dissensus(victim: &[f32], honest: &[(&[f32], f64)], attackers_weight: f64, strength: f64) -> Vec<f32> {
    assert!(attackers_weight > 0.0, "attackers that nobody hears");
    sendable(victim.iter().enumerate().map(|(place, &own)| {
        let own = f64::from(own);
        let pull = honest.iter().fold(0.0, |sum, (values, weight)| {
            assert_eq!(values.len(), victim.len(), "neighbours have one length");
            sum + weight * (f64::from(values[place]) - own)
        });
        own - strength * pull / attackers_weight
    }))
}
