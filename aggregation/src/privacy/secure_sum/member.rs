//! A member of a secure sum: four messages out, three in, and a log of one line, what it has revealed.
//! It sends nothing itself and reads no clock; a message out of turn changes nothing and says so.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::keys::{Secrets, SumSeed, open, pair_mask, seal, self_mask};
use super::messages::{
    KeyAdvert, KeyRoster, MaskedInput, MemberShares, ShareDelivery, UnmaskReply, UnmaskRequest, increasing,
};
use super::plan::quantise;
use super::shamir::{Secret, deal, forget};
use super::{SecureSumError, SumPlan};
use crate::numeric::CHUNK;
use crate::privacy::noise::NoiseSeed;
use crate::privacy::stream::Stream;

/// One member's part of one secure sum.
pub struct Member {
    plan: SumPlan,
    secrets: Secrets,
    advert: KeyAdvert,
    phase: Phase,
}

enum Phase {
    Advertised,
    /// Who dealt, and this member's shares of its own secrets.
    Shared {
        roster: BTreeMap<u8, KeyAdvert>,
        own: [Secret; 2],
    },
    /// Shares of each member that is masked with, itself included: of the seed, of the key.
    Masked(BTreeMap<u8, [Secret; 2]>),
    Answered {
        request: UnmaskRequest,
        reply: UnmaskReply,
    },
}

/// What became of a member's values on their way into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantisation {
    /// Coordinates that were clipped to the plan's range. More than a few say that the range is too narrow.
    pub clipped: usize,
}

impl Member {
    /// Begins member `index`'s part. `seed` is fresh: from the operating system, for this sum and no other.
    pub fn new(plan: SumPlan, index: u8, seed: SumSeed) -> Result<Self, SecureSumError> {
        plan.check()?;
        if index >= plan.members {
            return Err(SecureSumError::UnknownMember { member: index });
        }
        let secrets = Secrets::new(&seed, &plan.context);
        let advert = secrets.advert(index, &plan.context);
        Ok(Self {
            plan,
            secrets,
            advert,
            phase: Phase::Advertised,
        })
    }

    /// The first message: this member's keys. The caller signs it.
    pub fn advert(&self) -> KeyAdvert {
        self.advert.clone()
    }

    /// The second message: shares of this member's secrets, sealed for each other member of the roster.
    ///
    /// The caller has checked that each advert is signed by the member that it names: with keys of its own making in
    /// the roster, a coordinator would hold all the shares.
    pub fn share(&mut self, roster: &KeyRoster) -> Result<MemberShares, SecureSumError> {
        if !matches!(self.phase, Phase::Advertised) {
            return Err(SecureSumError::OutOfTurn {
                expected: "none: shares are dealt once",
            });
        }
        self.check_roster(roster)?;
        let points: Vec<u8> = roster.adverts.iter().map(|advert| advert.member + 1).collect();
        let threshold = usize::from(self.plan.threshold);
        let [seed_shares, key_shares] =
            [(0, *self.secrets.seed), (1, self.secrets.mask.to_bytes())].map(|(sharing, secret)| {
                let coefficients = self.secrets.coefficients(sharing, threshold - 1);
                let shares = deal(&secret, &coefficients, &points);
                forget(coefficients);
                shares
            });
        let mut own = [[0u8; 32]; 2];
        let mut sealed = Vec::with_capacity(points.len());
        for (to, (seed_share, key_share)) in roster.adverts.iter().zip(seed_shares.into_iter().zip(key_shares)) {
            if to.member == self.advert.member {
                own = [seed_share, key_share];
            } else {
                sealed.push(seal(
                    &self.plan.context,
                    &self.secrets,
                    &self.advert,
                    to,
                    [seed_share, key_share],
                )?);
            }
        }
        let roster = roster
            .adverts
            .iter()
            .map(|advert| (advert.member, advert.clone()))
            .collect();
        self.phase = Phase::Shared { roster, own };
        Ok(MemberShares {
            member: self.advert.member,
            sealed,
        })
    }

    fn check_roster(&self, roster: &KeyRoster) -> Result<(), SecureSumError> {
        let members: Vec<u8> = roster.adverts.iter().map(|advert| advert.member).collect();
        check_set(&members, &self.plan)?;
        check_enough(members.len(), &self.plan)?;
        if !roster.adverts.contains(&self.advert) {
            return Err(SecureSumError::NotInRoster {
                member: self.advert.member,
            });
        }
        for (at, advert) in roster.adverts.iter().enumerate() {
            for earlier in &roster.adverts[..at] {
                if earlier.mask_key == advert.mask_key || earlier.channel_key == advert.channel_key {
                    return Err(SecureSumError::SameKey {
                        first: earlier.member,
                        second: advert.member,
                    });
                }
            }
        }
        Ok(())
    }

    /// The third message: `values` under `weight`, masked. Once only: two inputs under one mask would reveal their
    /// difference.
    ///
    /// `noise` is needed when the plan asks for noise, and refused when it does not. After an error nothing has changed.
    ///
    /// # Panics
    /// When the number of values is not the plan's.
    pub fn mask(
        &mut self,
        delivery: &ShareDelivery,
        values: &[f32],
        weight: u32,
        noise: Option<NoiseSeed>,
    ) -> Result<(MaskedInput, Quantisation), SecureSumError> {
        assert_eq!(
            values.len(),
            self.plan.dimension as usize,
            "an update of the plan's dimension"
        );
        let Phase::Shared { roster, own } = &self.phase else {
            return Err(SecureSumError::OutOfTurn {
                expected: "the roster first, and one delivery",
            });
        };
        self.check_input(delivery, values, weight)?;
        let mut shares = BTreeMap::from([(self.advert.member, *own)]);
        let mut masks = Vec::new();
        for sealed in &delivery.sealed {
            let from = roster
                .get(&sealed.peer)
                .filter(|from| from.member != self.advert.member);
            let from = from.ok_or(SecureSumError::UnknownMember { member: sealed.peer })?;
            shares.insert(
                from.member,
                open(&self.plan.context, &self.secrets, from, &self.advert, sealed)?,
            );
            if self.plan.group_of(from.member) != self.plan.group_of(self.advert.member) {
                continue;
            }
            let mask = pair_mask(
                &self.plan.context,
                &self.secrets.mask,
                &self.advert.mask_key,
                &from.mask_key,
            );
            let mask = mask.ok_or(SecureSumError::WeakKey { member: from.member })?;
            masks.push((mask, from.member < self.advert.member));
        }
        masks.push((self_mask(&self.plan.context, &self.secrets.seed), false));
        let mut words = vec![0u32; self.plan.words()];
        let clipped = match (&self.plan.noise, noise) {
            (None, None) => quantise(&self.plan, values, weight, &mut words),
            (Some(config), Some(seed)) => config.quantise(&self.plan, values, seed, &mut words)?,
            (Some(_), None) => return Err(SecureSumError::NoiseSeed { needed: true }),
            (None, Some(_)) => return Err(SecureSumError::NoiseSeed { needed: false }),
        };
        apply(&masks, &mut words);
        self.phase = Phase::Masked(shares);
        let input = MaskedInput {
            member: self.advert.member,
            words,
        };
        Ok((input, Quantisation { clipped }))
    }

    fn check_input(&self, delivery: &ShareDelivery, values: &[f32], weight: u32) -> Result<(), SecureSumError> {
        if delivery.member != self.advert.member {
            return Err(SecureSumError::WrongReceiver {
                member: delivery.member,
            });
        }
        let senders: Vec<u8> = delivery.sealed.iter().map(|sealed| sealed.peer).collect();
        check_set(&senders, &self.plan)?;
        check_enough(senders.len() + 1, &self.plan)?;
        if !(1..=self.plan.max_weight).contains(&weight) {
            return Err(SecureSumError::Weight {
                got: weight,
                at_most: self.plan.max_weight,
            });
        }
        match crate::numeric::first_non_finite(values) {
            Some(index) => Err(SecureSumError::NotFinite { index }),
            None => Ok(()),
        }
    }

    /// The fourth message: shares of survivors' self-masks and of dropped members' mask keys.
    ///
    /// A member answers one request a sum, and the same again if it is repeated; never both secrets of one member, for
    /// whoever has both reads that member's update. The caller sends the reply only after its store remembers the
    /// request (a member that forgot it in a crash must not answer again: its secrets are gone, so it cannot).
    pub fn unmask(&mut self, request: &UnmaskRequest) -> Result<UnmaskReply, SecureSumError> {
        let shares = match &self.phase {
            Phase::Masked(shares) => shares,
            Phase::Answered {
                request: earlier,
                reply,
            } if earlier == request => return Ok(reply.clone()),
            Phase::Answered { .. } => return Err(SecureSumError::AnotherRequest),
            Phase::Advertised | Phase::Shared { .. } => {
                return Err(SecureSumError::OutOfTurn {
                    expected: "the delivery of shares",
                });
            }
        };
        let dealt: Vec<u8> = shares.keys().copied().collect();
        self.plan.check_request(&dealt, &request.survivors, &request.dropped)?;
        if !request.survivors.contains(&self.advert.member) {
            return Err(SecureSumError::InconsistentSets {
                member: self.advert.member,
            });
        }
        let pick = |members: &[u8], which: usize| members.iter().map(|member| shares[member][which]).collect();
        let reply = UnmaskReply {
            member: self.advert.member,
            seed_shares: pick(&request.survivors, 0),
            key_shares: pick(&request.dropped, 1),
        };
        self.phase = Phase::Answered {
            request: request.clone(),
            reply: reply.clone(),
        };
        Ok(reply)
    }
}

/// Indices in order, none twice, all of the plan.
pub(super) fn check_set(members: &[u8], plan: &SumPlan) -> Result<(), SecureSumError> {
    if let Some(&member) = members.iter().find(|&&member| member >= plan.members) {
        return Err(SecureSumError::UnknownMember { member });
    }
    if increasing(members) {
        Ok(())
    } else {
        Err(SecureSumError::NotCanonical)
    }
}

/// Whether so many survivors can unmask.
pub(super) fn check_enough(found: usize, plan: &SumPlan) -> Result<(), SecureSumError> {
    if found < usize::from(plan.threshold) {
        return Err(SecureSumError::TooFew {
            found,
            threshold: plan.threshold,
        });
    }
    Ok(())
}

/// Words that stay in the first-level cache while all masks are added to them.
const TILE: usize = 4096;

/// Adds each stream to `words`, or subtracts it where the flag says so.
pub(super) fn apply(masks: &[(Stream, bool)], words: &mut [u32]) {
    words.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
        for (tile_index, tile) in chunk.chunks_mut(TILE).enumerate() {
            let first = index * CHUNK + tile_index * TILE;
            for (mask, subtract) in masks {
                if *subtract {
                    mask.subtract_from(first, tile);
                } else {
                    mask.add_to(first, tile);
                }
            }
        }
    });
}
