//! The end of a secure sum as anyone can repeat it: secrets put together from shares, checked against the signed keys, and
//! the masks that they make subtracted from the sum of masked inputs. It asks nobody and keeps no state between sums.
//!
//! The opening holds the survivors' self-mask seeds and the dropped members' mask keys: exactly what the coordinator of a
//! sum learns (Bonawitz et al. 2017). Showing it to all members shows them the sum and no single update.

use std::collections::BTreeMap;

use x25519_dalek::{PublicKey, StaticSecret};

use super::keys::{commitment, pair_mask, self_mask};
use super::member::{apply, check_enough, check_set};
use super::messages::{KeyAdvert, MaskedInput, UnmaskReply, UnmaskRequest};
use super::plan::mean_of_sum;
use super::shamir::{Secret, reconstruct};
use super::{SecureSumError, SumPlan};
use crate::privacy::stream::Stream;

/// The secrets that lift the masks of one sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The seed of each survivor's self-mask, in the order of indices.
    pub seeds: Vec<[u8; 32]>,
    /// The secret half of each dropped member's mask key, in the order of indices.
    pub mask_keys: Vec<[u8; 32]>,
}

/// As many holders' wrong shares as are found out and left aside, when there are so many more replies than the threshold.
const LIARS: usize = 2;

/// Puts the secrets together that `replies` share. Up to two wrong replies are left aside where enough others are there; a
/// secret that no threshold of shares gives is its owner's fault (or that of more holders than that), who is named.
pub fn open_sum(
    plan: &SumPlan,
    adverts: &[KeyAdvert],
    request: &UnmaskRequest,
    replies: &[UnmaskReply],
) -> Result<Opening, SecureSumError> {
    plan.check()?;
    plan.check_request(&members_of(adverts), &request.survivors, &request.dropped)?;
    check_enough(replies.len(), plan)?;
    for reply in replies {
        if (reply.seed_shares.len(), reply.key_shares.len()) != (request.survivors.len(), request.dropped.len()) {
            return Err(SecureSumError::MalformedReply { member: reply.member });
        }
    }
    let threshold = usize::from(plan.threshold);
    let secrets = |owners: &[u8], share: &dyn Fn(&UnmaskReply, usize) -> Secret, fits: &dyn Fn(&Secret, u8) -> bool| {
        let of = |(at, &owner): (usize, &u8)| {
            let points: Vec<(u8, Secret)> = replies
                .iter()
                .map(|reply| (reply.member + 1, share(reply, at)))
                .collect();
            without_liars(&points, threshold, &|secret| fits(secret, owner))
                .ok_or(SecureSumError::WrongShares { owner })
        };
        owners.iter().enumerate().map(of).collect::<Result<Vec<_>, _>>()
    };
    Ok(Opening {
        seeds: secrets(
            &request.survivors,
            &|reply, at| reply.seed_shares[at],
            &|secret, owner| seed_fits(plan, adverts, secret, owner),
        )?,
        mask_keys: secrets(&request.dropped, &|reply, at| reply.key_shares[at], &|secret, owner| {
            key_fits(adverts, secret, owner)
        })?,
    })
}

/// The secret behind the points, with as few of them left out as makes it fit.
fn without_liars(points: &[(u8, Secret)], threshold: usize, fits: &dyn Fn(&Secret) -> bool) -> Option<Secret> {
    let without = |left_out: &[usize]| {
        let kept: Vec<_> = points
            .iter()
            .enumerate()
            .filter(|(at, _)| !left_out.contains(at))
            .map(|(_, point)| *point)
            .collect();
        reconstruct(&kept, threshold).filter(|secret| fits(secret))
    };
    let spare = points.len().saturating_sub(threshold).min(LIARS);
    let all = 0..points.len();
    without(&[])
        .or_else(|| (spare >= 1).then(|| all.clone().find_map(|one| without(&[one])))?)
        .or_else(|| {
            (spare >= 2).then(|| {
                all.clone()
                    .find_map(|one| (0..one).find_map(|other| without(&[one, other])))
            })?
        })
}

fn members_of(adverts: &[KeyAdvert]) -> Vec<u8> {
    adverts.iter().map(|advert| advert.member).collect()
}

fn advert_of(adverts: &[KeyAdvert], member: u8) -> Option<&KeyAdvert> {
    adverts.iter().find(|advert| advert.member == member)
}

fn seed_fits(plan: &SumPlan, adverts: &[KeyAdvert], seed: &Secret, owner: u8) -> bool {
    advert_of(adverts, owner).is_some_and(|advert| commitment(seed, &plan.context) == advert.seed_commitment)
}

fn key_fits(adverts: &[KeyAdvert], secret: &Secret, owner: u8) -> bool {
    let public = PublicKey::from(&StaticSecret::from(*secret)).to_bytes();
    advert_of(adverts, owner).is_some_and(|advert| public == advert.mask_key)
}

/// Masked inputs being added up, of a sum whose opening is known and fits the keys. Groups are added up apart.
pub struct OpenedSum {
    plan: SumPlan,
    groups: Vec<GroupSum>,
}

/// One group's survivors, the masks that are left in their sum, and the sum so far.
struct GroupSum {
    survivors: Vec<u8>,
    masks: Vec<(Stream, bool)>,
    sum: Vec<u32>,
    added: usize,
}

/// What the masked inputs of one group, or of all members, add up to.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMean {
    /// Whose, increasing.
    pub survivors: Vec<u8>,
    /// The weighted mean and the sum of weights; or why the inputs cannot be what members make.
    pub mean: Result<(Vec<f32>, u64), SecureSumError>,
}

impl OpenedSum {
    /// Checks that the opening is that of these keys. `adverts` are of those who dealt. A group of which nobody survives
    /// is not opened; who of another is no survivor has dropped out.
    pub fn new(
        plan: &SumPlan,
        adverts: &[KeyAdvert],
        survivors: &[u8],
        opening: &Opening,
    ) -> Result<Self, SecureSumError> {
        plan.check()?;
        let dealt = members_of(adverts);
        check_set(survivors, plan)?;
        let opened = |member: &u8| {
            let group = plan.group_of(*member);
            survivors.iter().any(|other| plan.group_of(*other) == group)
        };
        check_set(&dealt, plan)?;
        let dropped = dealt
            .iter()
            .copied()
            .filter(|member| opened(member) && !survivors.contains(member));
        let dropped: Vec<u8> = dropped.collect();
        plan.check_request(&dealt, survivors, &dropped)?;
        if (opening.seeds.len(), opening.mask_keys.len()) != (survivors.len(), dropped.len()) {
            return Err(SecureSumError::NotCanonical);
        }
        let mut groups: BTreeMap<u8, GroupSum> = BTreeMap::new();
        for (&owner, seed) in survivors.iter().zip(&opening.seeds) {
            if !seed_fits(plan, adverts, seed, owner) {
                return Err(SecureSumError::WrongShares { owner });
            }
            let group = groups.entry(plan.group_of(owner)).or_insert_with(|| GroupSum {
                survivors: Vec::new(),
                masks: Vec::new(),
                sum: Vec::new(),
                added: 0,
            });
            group.survivors.push(owner);
            group.masks.push((self_mask(&plan.context, seed), true));
        }
        for (&owner, secret) in dropped.iter().zip(&opening.mask_keys) {
            let fits = key_fits(adverts, secret, owner);
            let own = advert_of(adverts, owner).filter(|_| fits);
            let own = own.ok_or(SecureSumError::WrongShares { owner })?;
            let secret = StaticSecret::from(*secret);
            let group = groups.get_mut(&plan.group_of(owner)).expect("an opened group");
            for advert in adverts.iter().filter(|advert| group.survivors.contains(&advert.member)) {
                // The survivor added the pair's mask if its index is the smaller, and subtracted it otherwise.
                let mask = pair_mask(&plan.context, &secret, &own.mask_key, &advert.mask_key);
                let mask = mask.ok_or(SecureSumError::WeakKey { member: owner })?;
                group.masks.push((mask, advert.member < owner));
            }
        }
        Ok(Self {
            plan: plan.clone(),
            groups: groups.into_values().collect(),
        })
    }

    /// Adds the next survivor's input, in the order of indices.
    pub fn add(&mut self, input: &MaskedInput) -> Result<(), SecureSumError> {
        let (member, words) = (input.member, self.plan.words());
        let due = |group: &&mut GroupSum| group.survivors.get(group.added) == Some(&member);
        let Some(group) = self.groups.iter_mut().find(due) else {
            return Err(SecureSumError::UnknownMember { member });
        };
        if input.words.len() != words {
            let (expected, found) = (words, input.words.len());
            return Err(SecureSumError::InputLength { expected, found });
        }
        group.sum.resize(words, 0);
        for (sum, word) in group.sum.iter_mut().zip(&input.words) {
            *sum = sum.wrapping_add(*word);
        }
        group.added += 1;
        Ok(())
    }

    /// Subtracts the masks: what each group's inputs add up to, in the order of groups; one where there are none. A weight
    /// that cannot be tells of a spoilt input.
    pub fn means(self) -> Result<Vec<GroupMean>, SecureSumError> {
        let plan = &self.plan;
        if let Some(group) = self.groups.iter().find(|group| group.added != group.survivors.len()) {
            return Err(SecureSumError::TooFew {
                found: group.added,
                threshold: plan.threshold,
            });
        }
        let of_group = |mut group: GroupSum| {
            apply(&group.masks, &mut group.sum);
            let mut values = vec![0.0f32; plan.dimension as usize];
            let total = mean_of_sum(plan, &group.sum, group.survivors.len(), &mut values);
            GroupMean {
                survivors: group.survivors,
                mean: total.map(|total| (values, total)),
            }
        };
        Ok(self.groups.into_iter().map(of_group).collect())
    }
}
