//! The opening of a secure sum: what coordinator and voters do alike, with liars among those who reveal shares, and with
//! openings that are not the sum's. Whose masks are lifted is compared with the sum in the clear.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failed unwrap is a failed test")]

use synod_aggregation::privacy::secure_sum::{
    KeyAdvert, KeyRoster, MaskedInput, Member, OpenedSum, Opening, SealedShare, SecureSumError, ShareDelivery, SumPlan,
    SumSeed, UnmaskReply, UnmaskRequest, open_sum,
};

const DIMENSION: u32 = 40;

fn plan(members: u8, threshold: u8) -> SumPlan {
    SumPlan {
        context: [3; 32],
        members,
        threshold,
        dimension: DIMENSION,
        range: 2.0,
        max_weight: 1,
        noise: None,
    }
}

fn update(member: u8) -> Vec<f32> {
    (0..DIMENSION)
        .map(|i| ((i * 31 + u32::from(member) * 17) % 41) as f32 / 20.0 - 1.0)
        .collect()
}

/// A sum of all members up to the replies: everyone dealt, those from `survivors` on were lost before masking.
struct Sum {
    plan: SumPlan,
    adverts: Vec<KeyAdvert>,
    request: UnmaskRequest,
    inputs: Vec<MaskedInput>,
    replies: Vec<UnmaskReply>,
}

fn sum(members: u8, threshold: u8, survivors: u8) -> Sum {
    let plan = plan(members, threshold);
    let mut all: Vec<Member> = (0..members)
        .map(|index| Member::new(plan.clone(), index, SumSeed::from_os_bytes([index + 1; 32])).unwrap())
        .collect();
    let adverts: Vec<KeyAdvert> = all.iter().map(Member::advert).collect();
    let roster = KeyRoster {
        adverts: adverts.clone(),
    };
    let dealt: Vec<_> = all.iter_mut().map(|member| member.share(&roster).unwrap()).collect();
    let delivery = |to: u8| {
        let for_it = dealt.iter().filter(|shares| shares.member != to).map(|shares| {
            let share = shares.sealed.iter().find(|share| share.peer == to).unwrap();
            SealedShare {
                peer: shares.member,
                ..share.clone()
            }
        });
        ShareDelivery {
            member: to,
            sealed: for_it.collect(),
        }
    };
    let inputs = (0..survivors)
        .map(|index| {
            let masked = all[usize::from(index)].mask(&delivery(index), &update(index), 1, None);
            masked.unwrap().0
        })
        .collect();
    let request = UnmaskRequest {
        survivors: (0..survivors).collect(),
        dropped: (survivors..members).collect(),
    };
    let replies = all[..usize::from(survivors)]
        .iter_mut()
        .map(|member| member.unmask(&request).unwrap());
    let replies = replies.collect();
    Sum {
        plan,
        adverts,
        request,
        inputs,
        replies,
    }
}

impl Sum {
    fn open(&self) -> Result<Opening, SecureSumError> {
        open_sum(&self.plan, &self.adverts, &self.request, &self.replies)
    }

    fn mean(&self, opening: &Opening) -> Result<Vec<f32>, SecureSumError> {
        let mut sum = OpenedSum::new(&self.plan, &self.adverts, &self.request.survivors, opening)?;
        self.inputs.iter().try_for_each(|input| sum.add(input))?;
        Ok(sum.mean()?.0)
    }

    fn assert_mean(&self, opening: &Opening) {
        let survivors = self.request.survivors.len() as u8;
        let mean = self.mean(opening).unwrap();
        for (at, value) in mean.iter().enumerate() {
            let expected = (0..survivors).map(|member| update(member)[at]).sum::<f32>() / f32::from(survivors);
            assert!(
                (value - expected).abs() < 1e-6,
                "coordinate {at}: {value}, not {expected}"
            );
        }
    }
}

#[test]
fn an_opening_lifts_the_masks_of_the_sum_whoever_dropped_out() {
    for (members, threshold, survivors) in [(3, 2, 3), (3, 2, 2), (7, 5, 7), (7, 5, 5), (16, 11, 12)] {
        let sum = sum(members, threshold, survivors);
        sum.assert_mean(&sum.open().unwrap());
    }
}

#[test]
fn two_liars_among_the_replies_are_left_aside_and_a_third_is_not() {
    for liars in 0..=3usize {
        let mut sum = sum(9, 6, 9);
        for reply in sum.replies.iter_mut().skip(2).step_by(3).take(liars) {
            reply.seed_shares.iter_mut().for_each(|share| share[5] ^= 0x40);
        }
        match liars {
            0..=2 => sum.assert_mean(&sum.open().unwrap()),
            _ => assert_eq!(sum.open(), Err(SecureSumError::WrongShares { owner: 0 })),
        }
    }
    // With no reply to spare a liar cannot be told from a bad dealer.
    let mut tight = sum(9, 9, 9);
    tight.replies[4].seed_shares[7][0] ^= 1;
    assert_eq!(tight.open(), Err(SecureSumError::WrongShares { owner: 7 }));
}

#[test]
fn an_opening_that_does_not_fit_the_keys_is_refused() {
    let sum = sum(7, 5, 6);
    let opening = sum.open().unwrap();
    for owner in 0..6 {
        let mut bent = opening.clone();
        bent.seeds[owner][0] ^= 1;
        let owner = owner as u8;
        assert_eq!(sum.mean(&bent), Err(SecureSumError::WrongShares { owner }));
    }
    let mut bent = opening.clone();
    bent.mask_keys[0][9] ^= 1;
    assert_eq!(sum.mean(&bent), Err(SecureSumError::WrongShares { owner: 6 }));
    let mut short = opening;
    short.seeds.pop();
    assert_eq!(sum.mean(&short), Err(SecureSumError::NotCanonical));
}

#[test]
fn a_malformed_input_shows_in_the_sum_of_weights() {
    let mut sum = sum(5, 4, 5);
    let opening = sum.open().unwrap();
    *sum.inputs[2].words.last_mut().unwrap() ^= 1 << 20;
    let error = sum.mean(&opening).unwrap_err();
    assert!(matches!(error, SecureSumError::TotalWeight { .. }), "{error}");
}

/// All masked inputs but the opening: over many sums, the words of a member that sends the same update are spread evenly
/// over the ring, and so is the sum of all inputs, which the coordinator holds before it asks.
#[test]
fn before_the_opening_inputs_and_their_sum_are_uniform() {
    let mut buckets = [[0u32; 16]; 2];
    for context in 0..64u8 {
        let plan = SumPlan {
            context: [context; 32],
            ..plan(4, 3)
        };
        let mut all: Vec<Member> = (0..4)
            .map(|index| Member::new(plan.clone(), index, SumSeed::from_os_bytes([index * 64 + context; 32])).unwrap())
            .collect();
        let roster = KeyRoster {
            adverts: all.iter().map(Member::advert).collect(),
        };
        let dealt: Vec<_> = all.iter_mut().map(|member| member.share(&roster).unwrap()).collect();
        let mut total = vec![0u32; plan.words()];
        for index in 0..4u8 {
            let others = dealt.iter().filter(|shares| shares.member != index);
            let sealed = others.map(|shares| SealedShare {
                peer: shares.member,
                ..shares.sealed.iter().find(|share| share.peer == index).unwrap().clone()
            });
            let delivery = ShareDelivery {
                member: index,
                sealed: sealed.collect(),
            };
            let (input, _) = all[usize::from(index)]
                .mask(&delivery, &[0.5; DIMENSION as usize], 1, None)
                .unwrap();
            input
                .words
                .iter()
                .zip(&mut total)
                .for_each(|(word, total)| *total = total.wrapping_add(*word));
            if index == 1 {
                input
                    .words
                    .iter()
                    .for_each(|word| buckets[0][(word >> 28) as usize] += 1);
            }
        }
        total.iter().for_each(|word| buckets[1][(word >> 28) as usize] += 1);
    }
    // 64 sums of 41 words: 164 expected in each of 16 buckets, deviation 12.4; six of them.
    for (which, counts) in buckets.iter().enumerate() {
        assert!(
            counts.iter().all(|count| (90..240).contains(count)),
            "{which}: {counts:?}"
        );
    }
}
