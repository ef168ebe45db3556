//! The coordinator of a secure sum: gathers keys, passes sealed shares on, adds masked inputs, lifts the masks of the sum.
//! It learns the sum and who took part, and no single update; it holds one vector, however many members there are.

use std::collections::{BTreeMap, BTreeSet};

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use super::keys::{commitment, pair_mask, self_mask};
use super::member::{apply, check_enough, check_set};
use super::messages::{
    KeyAdvert, KeyRoster, MaskedInput, MemberShares, SealedShare, ShareDelivery, UnmaskReply, UnmaskRequest,
};
use super::plan::mean_of_sum;
use super::shamir::{Secret, reconstruct};
use super::{SecureSumError, SumPlan};
use crate::privacy::stream::Stream;

/// The gathering of one secure sum. When to stop waiting for a stage's messages is the caller's decision.
pub struct Coordinator {
    plan: SumPlan,
    adverts: BTreeMap<u8, KeyAdvert>,
    shares: BTreeMap<u8, Vec<SealedShare>>,
    inputs: BTreeSet<u8>,
    sum: Vec<u32>,
    replies: BTreeMap<u8, UnmaskReply>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Adverts,
    Shares,
    Inputs,
    Replies,
    Done,
}

/// What a secure sum tells.
#[derive(Clone, Debug, PartialEq)]
pub struct SecureMean {
    /// The weighted mean of the survivors' updates, clipped to the plan's range.
    pub values: Vec<f32>,
    /// The sum of their weights.
    pub total_weight: u64,
    /// Whose updates are in it, increasing.
    pub survivors: Vec<u8>,
}

impl Coordinator {
    /// Begins to gather.
    pub fn new(plan: SumPlan) -> Result<Self, SecureSumError> {
        plan.check()?;
        if plan.groups.is_some() {
            return Err(SecureSumError::Grouped);
        }
        Ok(Self {
            plan,
            adverts: BTreeMap::new(),
            shares: BTreeMap::new(),
            inputs: BTreeSet::new(),
            sum: Vec::new(),
            replies: BTreeMap::new(),
            stage: Stage::Adverts,
        })
    }

    fn expect(&self, stage: Stage, expected: &'static str) -> Result<(), SecureSumError> {
        if self.stage == stage {
            Ok(())
        } else {
            Err(SecureSumError::OutOfTurn { expected })
        }
    }

    /// Takes a member's first message.
    pub fn take_advert(&mut self, advert: KeyAdvert) -> Result<(), SecureSumError> {
        self.expect(Stage::Adverts, "keys are taken at the beginning")?;
        check_set(&[advert.member], &self.plan)?;
        let doubled =
            |earlier: &&KeyAdvert| earlier.mask_key == advert.mask_key || earlier.channel_key == advert.channel_key;
        match self.adverts.values().find(doubled) {
            Some(earlier) if *earlier == advert => Ok(()),
            Some(earlier) => Err(SecureSumError::SameKey {
                first: earlier.member,
                second: advert.member,
            }),
            None if self.adverts.contains_key(&advert.member) => Err(SecureSumError::Twice { member: advert.member }),
            None => {
                self.adverts.insert(advert.member, advert);
                Ok(())
            }
        }
    }

    /// Ends the first stage; the roster goes to all who are in it.
    pub fn close_adverts(&mut self) -> Result<KeyRoster, SecureSumError> {
        self.expect(Stage::Adverts, "keys are taken at the beginning")?;
        check_enough(self.adverts.len(), &self.plan)?;
        self.stage = Stage::Shares;
        Ok(KeyRoster {
            adverts: self.adverts.values().cloned().collect(),
        })
    }

    /// Takes a member's second message: one sealed share for each other member of the roster.
    pub fn take_shares(&mut self, shares: MemberShares) -> Result<(), SecureSumError> {
        self.expect(Stage::Shares, "shares follow the roster")?;
        let member = shares.member;
        if !self.adverts.contains_key(&member) {
            return Err(SecureSumError::UnknownMember { member });
        }
        if !shares.sealed.iter().map(|sealed| sealed.peer).eq(self
            .adverts
            .keys()
            .copied()
            .filter(|&peer| peer != member))
        {
            return Err(SecureSumError::MalformedShare { dealer: member });
        }
        match self.shares.get(&member) {
            Some(earlier) if *earlier == shares.sealed => Ok(()),
            Some(_) => Err(SecureSumError::Twice { member }),
            None => {
                self.shares.insert(member, shares.sealed);
                Ok(())
            }
        }
    }

    /// Ends the second stage; each delivery goes to its member, which then masks with all who dealt.
    pub fn close_shares(&mut self) -> Result<Vec<ShareDelivery>, SecureSumError> {
        self.expect(Stage::Shares, "shares follow the roster")?;
        check_enough(self.shares.len(), &self.plan)?;
        self.stage = Stage::Inputs;
        self.sum = vec![0; self.plan.words()];
        let to = |member: u8| {
            let sealed = self.shares.iter().filter(|(from, _)| **from != member);
            let sealed = sealed.filter_map(|(&from, shares)| {
                let share = shares.iter().find(|share| share.peer == member)?;
                Some(SealedShare {
                    peer: from,
                    ..share.clone()
                })
            });
            ShareDelivery {
                member,
                sealed: sealed.collect(),
            }
        };
        Ok(self.shares.keys().map(|&member| to(member)).collect())
    }

    /// Takes a member's third message and adds it to the sum.
    pub fn take_input(&mut self, input: &MaskedInput) -> Result<(), SecureSumError> {
        self.expect(Stage::Inputs, "masked inputs follow the delivery of shares")?;
        let member = input.member;
        if !self.shares.contains_key(&member) {
            return Err(SecureSumError::UnknownMember { member });
        }
        if input.words.len() != self.sum.len() {
            return Err(SecureSumError::InputLength {
                expected: self.sum.len(),
                found: input.words.len(),
            });
        }
        if !self.inputs.insert(member) {
            return Err(SecureSumError::Twice { member });
        }
        for (sum, word) in self.sum.iter_mut().zip(&input.words) {
            *sum = sum.wrapping_add(*word);
        }
        Ok(())
    }

    /// Ends the third stage: from here on, an input that comes late stays masked for good. The request goes to all
    /// survivors, the same to each.
    pub fn close_inputs(&mut self) -> Result<UnmaskRequest, SecureSumError> {
        self.expect(Stage::Inputs, "masked inputs follow the delivery of shares")?;
        check_enough(self.inputs.len(), &self.plan)?;
        self.stage = Stage::Replies;
        Ok(self.request())
    }

    fn request(&self) -> UnmaskRequest {
        UnmaskRequest {
            survivors: self.inputs.iter().copied().collect(),
            dropped: self
                .shares
                .keys()
                .copied()
                .filter(|member| !self.inputs.contains(member))
                .collect(),
        }
    }

    /// Takes a survivor's fourth message; returns whether there are enough now. More than enough let wrong shares be noticed.
    pub fn take_reply(&mut self, reply: UnmaskReply) -> Result<bool, SecureSumError> {
        self.expect(Stage::Replies, "replies follow the request to unmask")?;
        let member = reply.member;
        if !self.inputs.contains(&member) {
            return Err(SecureSumError::UnknownMember { member });
        }
        let request = self.request();
        if (reply.seed_shares.len(), reply.key_shares.len()) != (request.survivors.len(), request.dropped.len()) {
            return Err(SecureSumError::MalformedReply { member });
        }
        match self.replies.get(&member) {
            Some(earlier) if *earlier != reply => return Err(SecureSumError::Twice { member }),
            Some(_) => {}
            None => {
                self.replies.insert(member, reply);
            }
        }
        Ok(self.replies.len() >= usize::from(self.plan.threshold))
    }

    /// Lifts all masks off the sum. After `TooFew` more replies may still come; other errors end this sum.
    pub fn finish(&mut self) -> Result<SecureMean, SecureSumError> {
        self.expect(Stage::Replies, "replies follow the request to unmask")?;
        check_enough(self.replies.len(), &self.plan)?;
        let request = self.request();
        let mut masks: Vec<(Stream, bool)> = Vec::new();
        for (at, &owner) in request.survivors.iter().enumerate() {
            let mut seed = self.seed_of(owner, at)?;
            masks.push((self_mask(&self.plan.context, &seed), true));
            seed.zeroize();
        }
        for (at, &owner) in request.dropped.iter().enumerate() {
            let secret = self.key_of(owner, at)?;
            let own_key = &self.adverts[&owner].mask_key;
            for &survivor in &request.survivors {
                // The survivor added the pair's mask if its index is the smaller, and subtracted it otherwise.
                let mask = pair_mask(&self.plan.context, &secret, own_key, &self.adverts[&survivor].mask_key);
                let mask = mask.ok_or(SecureSumError::WeakKey { member: owner })?;
                masks.push((mask, survivor < owner));
            }
        }
        self.stage = Stage::Done;
        let mut sum = std::mem::take(&mut self.sum);
        apply(&masks, &mut sum);
        let mut values = vec![0.0f32; self.plan.dimension as usize];
        let total_weight = mean_of_sum(&self.plan, &sum, request.survivors.len(), &mut values)?;
        Ok(SecureMean {
            values,
            total_weight,
            survivors: request.survivors,
        })
    }

    fn seed_of(&self, owner: u8, at: usize) -> Result<Secret, SecureSumError> {
        let points: Vec<_> = self
            .replies
            .iter()
            .map(|(member, reply)| (member + 1, reply.seed_shares[at]))
            .collect();
        reconstruct(&points, usize::from(self.plan.threshold))
            .filter(|seed| commitment(seed, &self.plan.context) == self.adverts[&owner].seed_commitment)
            .ok_or(SecureSumError::WrongShares { owner })
    }

    fn key_of(&self, owner: u8, at: usize) -> Result<StaticSecret, SecureSumError> {
        let points: Vec<_> = self
            .replies
            .iter()
            .map(|(member, reply)| (member + 1, reply.key_shares[at]))
            .collect();
        reconstruct(&points, usize::from(self.plan.threshold))
            .map(StaticSecret::from)
            .filter(|secret| PublicKey::from(secret).to_bytes() == self.adverts[&owner].mask_key)
            .ok_or(SecureSumError::WrongShares { owner })
    }
}
