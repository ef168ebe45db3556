//! The opening of a secure sum: what coordinator and voters do alike, with liars among those who reveal shares, and with
//! openings that are not the sum's. Whose masks are lifted is compared with the sum in the clear.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failed unwrap is a failed test")]

use synod_aggregation::privacy::secure_sum::{
    GroupMean, KeyAdvert, KeyRoster, MaskedInput, Member, OpenedSum, Opening, SealedShare, SecureSumError,
    ShareDelivery, SumGroups, SumPlan, SumSeed, UnmaskReply, UnmaskRequest, open_sum,
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
        groups: None,
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
    let request = UnmaskRequest {
        survivors: (0..survivors).collect(),
        dropped: (survivors..members).collect(),
    };
    sum_of(plan(members, threshold), request)
}

/// The same with this request, which the survivors can answer.
fn sum_of(plan: SumPlan, request: UnmaskRequest) -> Sum {
    let members = plan.members;
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
    let survivors = request.survivors.iter().copied();
    let inputs = survivors
        .clone()
        .map(|index| {
            let masked = all[usize::from(index)].mask(&delivery(index), &update(index), 1, None);
            masked.unwrap().0
        })
        .collect();
    let replies = survivors
        .map(|index| all[usize::from(index)].unmask(&request).unwrap())
        .collect();
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

    fn means(&self, opening: &Opening) -> Result<Vec<GroupMean>, SecureSumError> {
        let mut sum = OpenedSum::new(&self.plan, &self.adverts, &self.request.survivors, opening)?;
        self.inputs.iter().try_for_each(|input| sum.add(input))?;
        sum.means()
    }

    fn mean(&self, opening: &Opening) -> Result<Vec<f32>, SecureSumError> {
        let mut means = self.means(opening)?;
        assert_eq!(means.len(), 1, "one sum without groups");
        Ok(means.remove(0).mean?.0)
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

/// Nine members in threes, one group after the other: 0 3 6, 1 4 7, 2 5 8.
fn in_threes(threshold: u8) -> SumPlan {
    SumPlan {
        groups: Some(SumGroups {
            of: (0..9).map(|member| member % 3).collect(),
            least: 3,
        }),
        ..plan(9, threshold)
    }
}

fn mean_of(members: &[u8]) -> Vec<f32> {
    let sum = |at: usize| members.iter().map(|member| update(*member)[at]).sum::<f32>();
    (0..DIMENSION as usize)
        .map(|at| sum(at) / members.len() as f32)
        .collect()
}

#[test]
fn groups_are_summed_apart_and_one_that_lost_a_member_stays_masked() {
    let request = |survivors: &[u8], dropped: &[u8]| UnmaskRequest {
        survivors: survivors.to_vec(),
        dropped: dropped.to_vec(),
    };
    type Case<'a> = (u8, &'a [u8], &'a [&'a [u8]]);
    let cases: [Case<'_>; 2] = [
        (7, &[0, 1, 2, 3, 4, 5, 6, 7, 8], &[&[0, 3, 6], &[1, 4, 7], &[2, 5, 8]]),
        // 4 is lost: 1 and 7 alone would tell each other's update.
        (5, &[0, 2, 3, 5, 6, 8], &[&[0, 3, 6], &[2, 5, 8]]),
    ];
    for (threshold, survivors, groups) in cases {
        let sum = sum_of(in_threes(threshold), request(survivors, &[]));
        let means = sum.means(&sum.open().unwrap()).unwrap();
        assert_eq!(means.len(), groups.len());
        for (mean, group) in means.iter().zip(groups) {
            assert_eq!(mean.survivors, *group);
            let (values, total) = mean.mean.as_ref().unwrap();
            assert_eq!(*total, group.len() as u64);
            for (value, expected) in values.iter().zip(mean_of(group)) {
                assert!((value - expected).abs() < 1e-6, "{value}, not {expected}");
            }
        }
    }
}

#[test]
fn a_spoilt_input_spoils_its_group_alone() {
    let all = UnmaskRequest {
        survivors: (0..9).collect(),
        dropped: Vec::new(),
    };
    let mut sum = sum_of(in_threes(7), all);
    *sum.inputs[5].words.last_mut().unwrap() ^= 1 << 20;
    let means = sum.means(&sum.open().unwrap()).unwrap();
    let spoilt: Vec<bool> = means.iter().map(|mean| mean.mean.is_err()).collect();
    assert_eq!(spoilt, [false, false, true]);
}

#[test]
fn a_member_opens_no_group_in_part_and_none_with_too_few_survivors() {
    let sum = sum_of(
        in_threes(5),
        UnmaskRequest {
            survivors: (0..9).collect(),
            dropped: Vec::new(),
        },
    );
    // Each in place of what was asked, to a member that has not answered yet.
    for (survivors, dropped) in [
        // Half a group.
        (vec![0, 2, 3, 5, 6], vec![]),
        // A group of two survivors.
        (vec![0, 1, 2, 3, 5, 6, 7, 8], vec![4]),
        // One both ways.
        (vec![0, 2, 3, 5, 6, 8], vec![8]),
    ] {
        let request = UnmaskRequest { survivors, dropped };
        let error = open_sum(&sum.plan, &sum.adverts, &request, &sum.replies);
        assert!(error.is_err(), "{request:?}");
        let survivors = &request.survivors;
        let opening = Opening {
            seeds: vec![[0; 32]; survivors.len()],
            mask_keys: vec![[0; 32]; request.dropped.len()],
        };
        assert!(OpenedSum::new(&sum.plan, &sum.adverts, survivors, &opening).is_err());
    }
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
