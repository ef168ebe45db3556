//! Secure sums in groups, so that a robust rule can work across group means (bucketing: Karimireddy et al. 2022).
//! It forms groups and counts what a rule across them can bear; it runs neither sums nor rules.

use super::{MAX_MEMBERS, MIN_MEMBERS, SecureSumError};
use crate::privacy::stream::Stream;

/// Cuts `members` into ⌊members/size⌋ groups of `size` or one more, shuffled by `beacon`: a value that no member could
/// foresee when it joined, and that all hold. Each group is sorted; every member is in one.
pub fn form_groups(members: usize, size: usize, beacon: &[u8; 32]) -> Result<Vec<Vec<usize>>, SecureSumError> {
    check_groups(members, size)?;
    let count = members / size;
    let mut order: Vec<usize> = (0..members).collect();
    let mut words = vec![0u32; 2 * members];
    let key = blake3::derive_key("synod secure sum v1: groups", beacon);
    Stream::new(&key, 0).add_to(0, &mut words);
    // Fisher and Yates; a 64-bit word scaled to at most 2³² places is uniform to within 2⁻³².
    let (draws, _) = words.as_chunks::<2>();
    for (last, draw) in (1..members).rev().zip(draws) {
        let wide = u128::from(draw[0]) | u128::from(draw[1]) << 32;
        order.swap(last, ((wide * (last as u128 + 1)) >> 64) as usize);
    }
    let mut groups = vec![Vec::with_capacity(size + 1); count];
    for (at, member) in order.into_iter().enumerate() {
        groups[at % count].push(member);
    }
    groups.iter_mut().for_each(|group| group.sort_unstable());
    Ok(groups)
}

/// Whether groups of `size` can be formed. Groups of fewer than three hide nothing: a sum of two tells each member the
/// other's update.
pub fn check_groups(members: usize, size: usize) -> Result<(), SecureSumError> {
    if size < MIN_MEMBERS || size > members || members.div_ceil(members / size) > MAX_MEMBERS {
        return Err(SecureSumError::GroupSize { got: size, members });
    }
    Ok(())
}

/// How many faulty members a robust rule across the groups can bear: each may spoil one group, and fewer than half of
/// the groups may be spoilt.
pub fn tolerated_faults(members: usize, size: usize) -> usize {
    (members / size.max(1)).saturating_sub(1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_in_one_group_and_the_beacon_decides_which() {
        for (members, size) in [(3, 3), (10, 3), (16, 4), (64, 5), (1000, 3)] {
            let groups = form_groups(members, size, &[7; 32]).unwrap();
            assert_eq!(groups.len(), members / size);
            assert!(groups.iter().all(|group| group.len() >= size && group.is_sorted()));
            let mut all = groups.concat();
            all.sort_unstable();
            assert_eq!(all, (0..members).collect::<Vec<_>>());
            assert_eq!(groups, form_groups(members, size, &[7; 32]).unwrap());
        }
        assert_ne!(form_groups(16, 4, &[1; 32]), form_groups(16, 4, &[2; 32]));
    }

    /// Over many beacons each pair of members meets equally often: 16 members in fours meet with probability 3/15.
    #[test]
    fn pairs_meet_equally_often() {
        let mut meetings = [[0u32; 16]; 16];
        for beacon in 0..4000u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&beacon.to_le_bytes());
            for group in form_groups(16, 4, &bytes).unwrap() {
                group
                    .iter()
                    .for_each(|&a| group.iter().for_each(|&b| meetings[a][b] += 1));
            }
        }
        for (a, row) in meetings.iter().enumerate() {
            for (b, &count) in row.iter().enumerate().filter(|(b, _)| *b != a) {
                // 800 expected, deviation 25: six of them.
                assert!((650..950).contains(&count), "{a} {b}: {count}");
            }
        }
    }

    #[test]
    fn groups_that_hide_nothing_are_refused() {
        for (members, size) in [(16, 0), (16, 1), (16, 2), (2, 3), (0, 3), (200, 65), (100, 60)] {
            assert!(form_groups(members, size, &[0; 32]).is_err(), "{members} {size}");
        }
        assert_eq!(tolerated_faults(16, 4), 1);
        assert_eq!(tolerated_faults(16, 3), 2);
        assert_eq!(tolerated_faults(64, 3), 10);
        assert_eq!(tolerated_faults(5, 3), 0);
    }
}
