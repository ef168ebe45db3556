//! Secure sums in groups, so that a robust rule can work across group means (bucketing: Karimireddy et al. 2022).
//! It says which groups are possible and what a rule across them can bear; who is in which is drawn where the round's
//! members are known.

use super::{MIN_MEMBERS, SecureSumError, default_threshold};

/// Whether groups of `size` can be formed. Groups of fewer than three hide nothing: a sum of two tells each member the
/// other's update.
pub fn check_groups(members: usize, size: usize) -> Result<(), SecureSumError> {
    if size < MIN_MEMBERS || size > members {
        return Err(SecureSumError::GroupSize { got: size, members });
    }
    Ok(())
}

/// The fewest survivors of a group of `size` whose sum may be opened: two thirds and one, and never fewer than three.
pub fn group_threshold(size: usize) -> usize {
    default_threshold(size).max(MIN_MEMBERS)
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
    fn groups_that_hide_nothing_are_refused() {
        for (members, size) in [(16, 0), (16, 1), (16, 2), (2, 3), (0, 3)] {
            assert!(check_groups(members, size).is_err(), "{members} {size}");
        }
        assert_eq!([3, 4, 5, 6, 9].map(group_threshold), [3, 3, 4, 5, 7]);
        assert_eq!(tolerated_faults(16, 4), 1);
        assert_eq!(tolerated_faults(16, 3), 2);
        assert_eq!(tolerated_faults(64, 3), 10);
        assert_eq!(tolerated_faults(5, 3), 0);
    }
}
