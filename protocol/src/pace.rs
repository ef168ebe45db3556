//! Local steps by measured speed: how many a member takes so that all of a round are ready at about the same time.
//! It reads settled reports alone, measures nothing, and knows neither data nor models.
//!
//! With s̃ the median over the members of their times a step, as they reported them in the last rounds, a member with the time
//! s takes
//!
//! ```text
//! clamp( round(H · s̃ / s), least, most )      of the session's H local steps
//! ```
//! so that H · s̃ is the time of everyone whom the bounds do not hold. Reports are self-declared. A member's own report
//! enters its own number, and beside it the median alone: who lies about its speed makes itself take too many or too few
//! steps, and moves the others' as far as one of them moves a median. It gains no more than by lying about its tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::PeerId;
use crate::message::Settlement;

/// What a session says of steps by speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTerms {
    /// H, the session's local steps a round: what a member takes whose speed is not known yet.
    pub nominal: u32,
    /// The fewest that a member takes, 1 or more.
    pub least: u32,
    /// The most that a member takes.
    pub most: u32,
}

/// Newest settled rounds that tell a member's speed: a machine's load changes, and one round is a noisy measure.
const ROUNDS: usize = 4;

/// The local steps of `member` in the round after `chain`, whose settlements are in the order of rounds. It depends on what
/// is settled alone: a restart changes nothing.
pub fn local_steps(terms: &StepTerms, chain: &[Arc<Settlement>], member: PeerId) -> u32 {
    let newest = &chain[chain.len().saturating_sub(ROUNDS)..];
    let mut spent: BTreeMap<PeerId, (u64, u64)> = BTreeMap::new();
    for used in newest.iter().flat_map(|settlement| &settlement.body.used) {
        let (wall_ms, steps) = spent.entry(used.update.peer).or_default();
        *wall_ms = wall_ms.saturating_add(used.report.wall_ms);
        *steps += u64::from(used.report.steps);
    }
    let known = spent.iter().filter(|(_, (_, steps))| *steps > 0);
    let us_a_step: BTreeMap<PeerId, u64> = known
        .map(|(peer, (wall_ms, steps))| (*peer, (wall_ms.saturating_mul(1000) / steps).max(1)))
        .collect();
    let Some(own) = us_a_step.get(&member) else {
        return terms.nominal;
    };
    let mut times: Vec<u64> = us_a_step.values().copied().collect();
    times.sort_unstable();
    // Of an even number the mean of the two in the middle.
    let middle = u128::from(times[(times.len() - 1) / 2]) + u128::from(times[times.len() / 2]);
    let steps = (u128::from(terms.nominal) * middle + u128::from(*own)) / (2 * u128::from(*own));
    u32::try_from(steps).unwrap_or(u32::MAX).clamp(terms.least, terms.most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{BlobId, BodyId};
    use crate::message::{Body, UsedUpdate};
    use crate::session::Roster;
    use crate::task::{MemberVerdict, Outcome, TrainReport, UpdateRef};

    const TERMS: StepTerms = StepTerms {
        nominal: 60,
        least: 5,
        most: 240,
    };

    /// A settled round in which these members took so many steps in so many milliseconds.
    fn settled(reports: &[(u8, u32, u64)]) -> Arc<Settlement> {
        let used = reports.iter().map(|&(member, steps, wall_ms)| {
            let peer = PeerId([member; 32]);
            UsedUpdate {
                update: UpdateRef {
                    peer,
                    payload: BlobId([0; 32]),
                    bytes: 0,
                    tokens: 1,
                },
                report: TrainReport {
                    steps,
                    wall_ms,
                    ..TrainReport::default()
                },
                verdict: MemberVerdict {
                    peer,
                    weight: 1.0,
                    outcome: Outcome::Used,
                },
            }
        });
        let body = Body {
            round: 1,
            previous: BodyId([0; 32]),
            base: BlobId([0; 32]),
            state: BlobId([0; 32]),
            state_bytes: 0,
            used: used.collect(),
            missing: Vec::new(),
            roster: Roster::default(),
            expelled: Vec::new(),
            left: Vec::new(),
            proposer: PeerId([0; 32]),
            lead: PeerId([0; 32]),
        };
        Arc::new(Settlement::new(body, 0, Vec::new()))
    }

    fn check(chain: &[Arc<Settlement>], expected: &[(u8, u32)]) {
        for (member, steps) in expected {
            assert_eq!(
                local_steps(&TERMS, chain, PeerId([*member; 32])),
                *steps,
                "member {member}"
            );
        }
    }

    #[test]
    fn all_take_the_median_members_time() {
        let chain = [settled(&[(1, 60, 600), (2, 60, 1200), (3, 60, 4800)])];
        check(&chain, &[(1, 120), (2, 60), (3, 15)]);
        let even = [settled(&[(1, 60, 600), (2, 60, 1800)])];
        check(&even, &[(1, 120), (2, 40)]);
    }

    #[test]
    fn who_is_not_known_takes_the_sessions_number_and_nobody_leaves_the_bounds() {
        check(&[], &[(1, 60)]);
        let chain = [settled(&[(1, 60, 0), (2, 60, 1000), (3, 60, u64::MAX), (4, 0, 0)])];
        check(&chain, &[(1, 240), (2, 60), (3, 5), (4, 60), (9, 60)]);
    }

    #[test]
    fn a_speed_is_measured_over_the_last_rounds_and_older_ones_are_forgotten() {
        let old = settled(&[(1, 60, 60_000), (2, 60, 600)]);
        let new = settled(&[(1, 60, 600), (2, 60, 600)]);
        let chain: Vec<_> = [&old, &new, &new, &new, &new].into_iter().cloned().collect();
        check(&chain, &[(1, 60), (2, 60)]);
        check(&chain[..2], &[(1, 31)]);
    }

    #[test]
    fn a_liar_moves_the_others_no_further_than_a_median_moves() {
        let honest = [(1, 60, 1000), (2, 60, 1100), (3, 60, 1200), (4, 60, 1300)];
        for lie in [0, u64::MAX] {
            let mut reports = honest.to_vec();
            reports.push((5, 60, lie));
            let chain = [settled(&reports)];
            for (member, _, wall_ms) in honest {
                let steps = u64::from(local_steps(&TERMS, &chain, PeerId([member; 32])));
                let time = steps * wall_ms / 60;
                assert!((1080..=1220).contains(&time), "{member}: {time}");
            }
        }
    }
}
