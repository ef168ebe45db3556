//! The attacker that knows the rule: the strength of an attack is searched for so that the aggregate is moved farthest
//! (Shejwalkar & Houmansadr 2021, NDSS; the search is the one of ByzFL's `OptimalALittleIsEnough`, González et al. 2025, arXiv
//! 2505.24802). It tries strengths only: the direction is that of the attack it drives.

use super::mean;

/// The strength, of at most `evaluations` tried, that does most damage: from 0 in steps that double while they help,
/// then in steps that shrink by a fifth each time. The first of equals stays.
pub fn line_search(evaluations: usize, first_step: f64, mut damage: impl FnMut(f64) -> f64) -> f64 {
    let mut best = (0.0, damage(0.0));
    let mut step = first_step;
    let mut doubling = true;
    for _ in 1..evaluations {
        let tried = best.0 + step;
        let done = damage(tried);
        let better = done > best.1;
        if better {
            best = (tried, done);
        }
        doubling &= better;
        step *= if doubling { 2.0 } else { 0.8 };
    }
    best.0
}

/// The strongest vector of a family against a rule. `bend` makes the vector of a strength; `aggregate` is what the rule
/// makes of the honest vectors and the attackers' copies of it. Damage is the distance from the honest mean.
pub fn strongest(
    honest: &[&[f32]],
    evaluations: usize,
    bend: impl Fn(f64) -> Vec<f32>,
    mut aggregate: impl FnMut(&[f32]) -> Vec<f32>,
) -> Vec<f32> {
    let mean = mean(honest);
    let strength = line_search(evaluations, 10.0, |strength| {
        let aggregate = aggregate(&bend(strength));
        let square = aggregate.iter().zip(&mean).fold(0.0, |sum, (&value, mean)| {
            let difference = f64::from(value) - mean;
            sum + difference * difference
        });
        square.sqrt()
    });
    bend(strength)
}
