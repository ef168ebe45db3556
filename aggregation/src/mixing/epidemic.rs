//! Epidemic learning: the plain mean of the own vector and whatever came in (de Vos et al. 2023, NeurIPS, algorithm 1), and
//! how many of those that came in may be faulty. Who sends to whom is the graph's affair, and nobody is defended against.
//!
//! Breakdown point 0 · one pass, O(received · d). Verdict weight: 1 / (1 + received).

use super::{Neighbourhood, verdicts, weighted_mean};
use crate::aggregator::Verdict;

/// The mean of the neighbourhood, whatever weights it names.
pub fn mean(neighbourhood: &Neighbourhood<'_>, out: &mut [f32]) -> Vec<Verdict> {
    neighbourhood.assert_preconditions(out);
    weighted_mean(neighbourhood.members.iter().map(|member| (member.values, 1.0)), out);
    verdicts(&vec![1.0; neighbourhood.members.len()], |_| false)
}

/// How many faulty members a draw of `drawn` among the `members − 1` others may hold, so that over `rounds` rounds and
/// all honest members the chance of more is at most `failure`: the tail of the hypergeometric distribution, by the
/// union bound (the choice of b̂ that RPEL makes, arXiv 2510.08311). A robust rule on the draw must bear as many.
///
/// # Panics
/// When there are not more members than faulty ones, or fewer others than are drawn.
pub fn faulty_among_drawn(members: usize, faulty: usize, drawn: usize, rounds: u64, failure: f64) -> usize {
    assert!(faulty < members, "some member is honest");
    let others = members - 1;
    assert!(drawn <= others, "no more are drawn than there are");
    let honest_others = others - faulty;
    let least = drawn.saturating_sub(honest_others);
    let most = drawn.min(faulty);
    // p(k + 1) / p(k), from p(least) = 1; scaled down before it could overflow, and normalised at the end.
    let mut chances = vec![1.0f64];
    for k in least..most {
        let up = (faulty - k) as f64 * (drawn - k) as f64;
        let down = (k + 1) as f64 * (honest_others + k + 1 - drawn) as f64;
        let next = chances[k - least] * up / down;
        chances.push(next);
        if next > 1e200 {
            chances.iter_mut().for_each(|chance| *chance /= 1e200);
        }
    }
    let total = chances.iter().fold(0.0, |sum, chance| sum + chance);
    let allowed = failure / ((members - faulty) as f64 * rounds.max(1) as f64);
    let mut tail = 0.0;
    for k in (least..=most).rev() {
        tail += chances[k - least] / total;
        if tail > allowed {
            return k;
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faulty_members_in_a_draw_are_as_many_as_the_reference_says() {
        for (members, faulty, drawn, expected) in [
            (16, 2, 8, 2),
            (32, 4, 12, 4),
            (64, 6, 24, 6),
            (64, 8, 8, 6),
            (64, 8, 12, 7),
            (64, 8, 24, 8),
            (256, 25, 8, 7),
            (256, 25, 12, 8),
            (256, 25, 16, 10),
            (256, 25, 24, 12),
        ] {
            let got = faulty_among_drawn(members, faulty, drawn, 1000, 1e-2);
            assert_eq!(got, expected, "{members} {faulty} {drawn}");
        }
    }

    #[test]
    fn who_draws_everyone_draws_all_the_faulty_and_large_sessions_do_not_overflow() {
        assert_eq!(faulty_among_drawn(10, 3, 9, 1, 0.5), 3);
        assert_eq!(faulty_among_drawn(10, 0, 4, 1000, 1e-9), 0);
        let got = faulty_among_drawn(2048, 600, 1000, 1000, 1e-2);
        assert!((300..420).contains(&got), "{got}");
    }
}
