//! What the members of a secure sum agree on before it begins, and the ring of fixed-point integers they add in.
//! It holds no key and no state.
//!
//! A coordinate x of a member of weight w travels as the integer round(x/range · w/W · q) in Z_{2^32}, W the greatest weight
//! allowed, q = ⌊(2³¹ − 1)/n⌋ the greatest integer of one member; the weight itself is one more coordinate. **Nothing
//! overflows**: |x| ≤ range and w ≤ W are enforced before rounding, so that n summands stay within ±(2³¹ − 1), and
//! n W < 2³² is required. This binds honest members only: a dishonest one can send any ring element, hence move the sum
//! anywhere, as under a plain mean. The rounding error of a mean is at most n·range·W/(2 q Σw) a coordinate: with equal
//! weights, range · n/2³² (16 members: 4·10⁻⁹ of the range).

use serde::{Deserialize, Serialize};

use super::SecureSumError;
use super::member::{check_enough, check_set};
use crate::privacy::noise::SumNoise;

/// The fewest members: in a sum of two, each learns the other's update.
pub const MIN_MEMBERS: usize = 3;

/// The most members. Keys and shares grow with the square of the members, masks with the members.
pub const MAX_MEMBERS: usize = 64;

/// The parameters of one secure sum, known to all of its members.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SumPlan {
    /// Digest of the session, the round, the attempt, the group and the list of members. Enters every key: a message
    /// of another sum cannot be opened in this one.
    pub context: [u8; 32],
    /// n, the members who may take part; each has an index below it.
    pub members: u8,
    /// t, the members needed to unmask. The fewest whose updates a sum may hide each other in.
    pub threshold: u8,
    /// Coordinates of an update.
    pub dimension: u32,
    /// Coordinates are clipped to ± this.
    pub range: f32,
    /// W, the greatest weight. 1 gives all members equal weight.
    pub max_weight: u32,
    /// Noise that each member adds, so that the sum is differentially private.
    pub noise: Option<SumNoise>,
    /// Groups that are summed apart, each under masks of its own; without them, all members are one sum. Keys are shared
    /// among all, so that whoever survives lifts the masks of every group.
    pub groups: Option<SumGroups>,
}

/// Who is summed with whom.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SumGroups {
    /// The group of each member, by index.
    pub of: Vec<u8>,
    /// The fewest survivors of a group whose sum may be opened.
    pub least: u8,
}

/// ⌊2n/3⌋ + 1: bears a third of the members dropping out, and a coordinator that shows members different lists of
/// survivors learns nothing unless more than a third of the members help it.
pub fn default_threshold(members: usize) -> usize {
    members.saturating_mul(2) / 3 + 1
}

impl SumPlan {
    /// Whether the parameters can work.
    pub fn check(&self) -> Result<(), SecureSumError> {
        let (members, threshold) = (usize::from(self.members), usize::from(self.threshold));
        check_members(members)?;
        check_threshold(members, threshold)?;
        check_range(self.range)?;
        check_weight(members, self.max_weight)?;
        if let Some(noise) = &self.noise {
            if self.max_weight != 1 {
                return Err(SecureSumError::WeightedNoise {
                    max_weight: self.max_weight,
                });
            }
            noise.check(self)?;
        }
        if let Some(groups) = &self.groups {
            groups.check(members)?;
        }
        if self.dimension == 0 || self.dimension == u32::MAX {
            return Err(SecureSumError::NoCoordinates);
        }
        Ok(())
    }

    /// q, the greatest integer that one member's coordinate becomes. With noise it leaves room for that of all members,
    /// twelve standard deviations of it: exceeded with probability below 10⁻³² a coordinate.
    pub fn quantum_count(&self) -> u32 {
        let members = f64::from(self.members);
        let room = match &self.noise {
            None => members,
            Some(noise) => {
                let per_member = noise.member_deviation(self.least_in_sum()) / f64::from(self.range);
                members + 12.0 * per_member * members.sqrt()
            }
        };
        (f64::from(i32::MAX) / room) as u32
    }

    /// What one unit of the ring is worth in a coordinate of weight W.
    pub fn unit(&self) -> f64 {
        f64::from(self.range) / f64::from(self.quantum_count())
    }

    /// The fewest survivors whose sum may be opened: of a group, or of all.
    pub fn least_in_sum(&self) -> u8 {
        self.groups.as_ref().map_or(self.threshold, |groups| groups.least)
    }

    /// The group of a member of the plan; 0 where all are one.
    pub(crate) fn group_of(&self, member: u8) -> u8 {
        self.groups.as_ref().map_or(0, |groups| groups.of[usize::from(member)])
    }

    /// Whether a request to unmask may come of these who dealt shares: each group in full or not at all, and of each
    /// enough survivors. Says who is wrong.
    pub(crate) fn check_request(&self, dealt: &[u8], survivors: &[u8], dropped: &[u8]) -> Result<(), SecureSumError> {
        check_set(dealt, self)?;
        check_set(survivors, self)?;
        check_set(dropped, self)?;
        check_enough(survivors.len(), self)?;
        if let Some(&member) = survivors.iter().find(|member| dropped.contains(member)) {
            return Err(SecureSumError::BothSecrets { member });
        }
        let named = |member: &u8| survivors.contains(member) || dropped.contains(member);
        if let Some(&member) = survivors.iter().chain(dropped).find(|member| !dealt.contains(member)) {
            return Err(SecureSumError::InconsistentSets { member });
        }
        for &member in dealt {
            let group = self.group_of(member);
            let surviving = survivors.iter().filter(|&&other| self.group_of(other) == group).count();
            let opened = dealt.iter().any(|other| self.group_of(*other) == group && named(other));
            if opened && !named(&member) {
                return Err(SecureSumError::InconsistentSets { member });
            }
            if opened && surviving < usize::from(self.least_in_sum()) {
                return Err(SecureSumError::TooFew {
                    found: surviving,
                    threshold: self.least_in_sum(),
                });
            }
        }
        Ok(())
    }

    /// Words of a masked input: the coordinates and the weight.
    pub fn words(&self) -> usize {
        self.dimension as usize + 1
    }
}

impl SumGroups {
    /// Every member is in a group, and no group is smaller than what may be opened of it.
    fn check(&self, members: usize) -> Result<(), SecureSumError> {
        let refuse = |got: usize| Err(SecureSumError::GroupSize { got, members });
        if self.of.len() != members || usize::from(self.least) < MIN_MEMBERS {
            return refuse(usize::from(self.least));
        }
        for group in &self.of {
            let size = self.of.iter().filter(|other| *other == group).count();
            if size < usize::from(self.least) {
                return refuse(size);
            }
        }
        Ok(())
    }
}

/// Whether a secure sum can have so many members.
pub(crate) fn check_members(members: usize) -> Result<(), SecureSumError> {
    if !(MIN_MEMBERS..=MAX_MEMBERS).contains(&members) {
        return Err(SecureSumError::Members { got: members });
    }
    Ok(())
}

/// Whether a threshold is safe among so many.
pub(crate) fn check_threshold(members: usize, threshold: usize) -> Result<(), SecureSumError> {
    let at_least = members / 2 + 1;
    if !(at_least..=members).contains(&threshold) {
        return Err(SecureSumError::Threshold {
            got: threshold,
            at_least,
            members,
        });
    }
    Ok(())
}

/// Whether a clipping range is one.
pub(crate) fn check_range(range: f32) -> Result<(), SecureSumError> {
    if !(range.is_normal() && range > 0.0 && range <= 1e30) {
        return Err(SecureSumError::Range { got: range });
    }
    Ok(())
}

/// Whether the sum of weights stays in the ring.
pub(crate) fn check_weight(members: usize, max_weight: u32) -> Result<(), SecureSumError> {
    let at_most = u32::MAX / (members.max(1) as u32);
    if !(1..=at_most).contains(&max_weight) {
        return Err(SecureSumError::MaxWeight {
            got: max_weight,
            at_most,
        });
    }
    Ok(())
}

/// Rounds to the nearest integer, ties to even, for |x| ≤ 2³¹: adding 1.5 · 2⁵² leaves the integer in the low bits.
/// Vectorises, which `round_ties_even` does not on the baseline processor.
#[inline(always)]
fn nearest(x: f64) -> u32 {
    (x + 6_755_399_441_055_744.0).to_bits() as u32
}

/// Writes the ring elements of `values` under `weight` over `words`, one longer; returns how many were clipped.
///
/// Values must be finite and 1 ≤ weight ≤ W: the caller has checked.
pub(crate) fn quantise(plan: &SumPlan, values: &[f32], weight: u32, words: &mut [u32]) -> usize {
    let range = plan.range;
    let scale = f64::from(plan.quantum_count()) * (f64::from(weight) / f64::from(plan.max_weight)) / f64::from(range);
    let bound = plan.quantum_count() as i32;
    let (coordinates, last) = words.split_at_mut(values.len());
    last[0] = weight;
    let mut clipped = 0;
    for (word, &value) in coordinates.iter_mut().zip(values) {
        clipped += usize::from(value.abs() > range);
        let within = value.clamp(-range, range);
        *word = (nearest(f64::from(within) * scale) as i32).clamp(-bound, bound) as u32;
    }
    clipped
}

/// Writes the weighted mean that a sum of ring elements stands for over `out`; returns the sum of weights.
pub(crate) fn mean_of_sum(
    plan: &SumPlan,
    sum: &[u32],
    survivors: usize,
    out: &mut [f32],
) -> Result<u64, SecureSumError> {
    let (&total, coordinates) = sum.split_last().expect("a sum has a weight");
    let allowed = survivors as u64..=survivors as u64 * u64::from(plan.max_weight);
    if !allowed.contains(&u64::from(total)) {
        return Err(SecureSumError::TotalWeight {
            got: total,
            at_least: *allowed.start(),
            at_most: *allowed.end(),
        });
    }
    let scale = plan.unit() * f64::from(plan.max_weight) / f64::from(total);
    for (value, &word) in out.iter_mut().zip(coordinates) {
        *value = (f64::from(word as i32) * scale) as f32;
    }
    Ok(u64::from(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(members: u8, max_weight: u32) -> SumPlan {
        SumPlan {
            context: [0; 32],
            members,
            threshold: default_threshold(members.into()) as u8,
            dimension: 6,
            range: 2.0,
            max_weight,
            noise: None,
            groups: None,
        }
    }

    #[test]
    fn the_largest_sum_of_the_most_members_does_not_wrap() {
        for (members, weight) in [(3, 1), (16, 1000), (64, 1), (64, u32::MAX / 64)] {
            let plan = plan(members, weight);
            plan.check().unwrap();
            for sign in [1.0f32, -1.0] {
                let values = [sign * 2.0, sign * f32::MAX, sign, 0.0, -0.0, sign * f32::MIN_POSITIVE];
                let mut words = vec![0u32; 7];
                assert_eq!(quantise(&plan, &values, weight, &mut words), 1);
                let mut sum = vec![0u32; 7];
                for _ in 0..members {
                    sum.iter_mut()
                        .zip(&words)
                        .for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
                }
                let mut mean = vec![0.0f32; 6];
                let total = mean_of_sum(&plan, &sum, members.into(), &mut mean).unwrap();
                assert_eq!(total, u64::from(weight) * u64::from(members));
                assert_eq!(mean, [sign * 2.0, sign * 2.0, mean[2], 0.0, 0.0, 0.0]);
                assert!((mean[2] - sign).abs() <= 2.0 * f32::EPSILON);
            }
        }
    }

    #[test]
    fn impossible_plans_are_refused() {
        let refused = |change: &dyn Fn(&mut SumPlan)| {
            let mut changed = plan(9, 4);
            changed.check().unwrap();
            change(&mut changed);
            changed.check().unwrap_err().to_string()
        };
        assert!(refused(&|p| p.members = 2).contains("3 to 64"));
        assert!(refused(&|p| p.members = 65).contains("3 to 64"));
        assert!(refused(&|p| p.threshold = 4).contains("5 to 9"));
        assert!(refused(&|p| p.threshold = 10).contains("5 to 9"));
        assert!(refused(&|p| p.range = 0.0).contains("range"));
        assert!(refused(&|p| p.range = f32::NAN).contains("range"));
        assert!(refused(&|p| p.max_weight = 0).contains("max_weight"));
        assert!(refused(&|p| p.max_weight = u32::MAX).contains("max_weight"));
        assert!(refused(&|p| p.dimension = 0).contains("coordinate"));
    }
}
