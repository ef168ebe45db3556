//! When to stop waiting for updates: the median of the arrival offsets plus `k` median absolute deviations.
//! Robust against a few very slow members where a mean is not; it looks at offsets only, never at a clock.

use crate::session::DeadlineConfig;

/// Milliseconds after the round was opened at which the coordinator stops waiting, given the offsets of the updates
/// that are in. None without any.
pub fn close_after_ms(offsets_ms: &[u64], config: &DeadlineConfig) -> Option<u64> {
    let mut sorted = offsets_ms.to_vec();
    let median = median(&mut sorted)?;
    let mut deviations: Vec<u64> = sorted.iter().map(|offset| offset.abs_diff(median)).collect();
    let spread = self::median(&mut deviations)?;
    let wait = median.saturating_add(spread.saturating_mul(u64::from(config.k)));
    Some(wait.clamp(config.floor_ms, config.cap_ms))
}

/// The upper median: of an even count the later one, so that two members wait for each other.
fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DeadlineConfig = DeadlineConfig {
        floor_ms: 100,
        cap_ms: 10_000,
        k: 6,
    };

    #[test]
    fn one_slow_member_does_not_move_the_deadline() {
        let quick = [1_000, 1_010, 1_020, 1_030, 1_040];
        assert_eq!(close_after_ms(&quick, &CONFIG), Some(1_020 + 6 * 10));
        let with_slow = [1_000, 1_010, 1_020, 1_030, 9_000_000];
        assert_eq!(close_after_ms(&with_slow, &CONFIG), Some(1_020 + 6 * 10));
    }

    #[test]
    fn floor_and_cap_hold() {
        assert_eq!(close_after_ms(&[1, 1, 1], &CONFIG), Some(100));
        assert_eq!(close_after_ms(&[50_000, 50_001], &CONFIG), Some(10_000));
        assert_eq!(close_after_ms(&[], &CONFIG), None);
    }
}
