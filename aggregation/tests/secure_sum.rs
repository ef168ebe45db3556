//! Secure sums from the first message to the mean: 3 to 64 members, members lost at each stage, requests that must be
//! refused, and what a coordinator cannot find out. Every message passes through its bytes.

use proptest::prelude::*;
use synod_aggregation::privacy::clip::clip_to_norm;
use synod_aggregation::privacy::noise::{NoiseSeed, SumNoise};
use synod_aggregation::privacy::secure_sum::{
    Coordinator, KeyRoster, MaskedInput, Member, SecureMean, SecureSumError, ShareDelivery, SumMessage, SumPlan,
    SumSeed, UnmaskReply, UnmaskRequest, default_threshold,
};
use synod_aggregation::{Contribution, RuleConfig};

fn plan(members: u8, dimension: u32) -> SumPlan {
    SumPlan {
        context: [9; 32],
        members,
        threshold: default_threshold(members.into()) as u8,
        dimension,
        range: 4.0,
        max_weight: 1000,
        noise: None,
        groups: None,
    }
}

fn seed(member: u8, attempt: u8) -> SumSeed {
    SumSeed::from_os_bytes(std::array::from_fn(|i| {
        member ^ (i as u8 * 3) ^ attempt.wrapping_mul(91)
    }))
}

fn update(member: u8, dimension: u32) -> Vec<f32> {
    (0..dimension)
        .map(|i| ((u64::from(i) * 7919 + u64::from(member) * 104_729) % 2003) as f32 / 501.0 - 2.0)
        .collect()
}

fn weight(member: u8) -> u32 {
    1 + u32::from(member) * 13 % 1000
}

/// Through bytes and back.
fn passed(message: SumMessage) -> SumMessage {
    SumMessage::from_bytes(&message.to_bytes()).expect("our own bytes")
}

/// A sum that has reached its masked inputs.
struct Run {
    members: Vec<Member>,
    coordinator: Coordinator,
    inputs: Vec<MaskedInput>,
}

impl Run {
    /// Runs until inputs are masked; those lost before a stage send nothing in it.
    fn to_inputs(
        plan: &SumPlan,
        lost_before_adverts: &[u8],
        lost_before_shares: &[u8],
    ) -> Result<Self, SecureSumError> {
        let mut coordinator = Coordinator::new(plan.clone())?;
        let mut members: Vec<Member> = (0..plan.members)
            .map(|index| Member::new(plan.clone(), index, seed(index, 0)).expect("a plan"))
            .collect();
        let gone = |lists: &[&[u8]], index: usize| lists.iter().any(|list| list.contains(&(index as u8)));
        for (index, member) in members.iter().enumerate() {
            if !gone(&[lost_before_adverts], index) {
                let SumMessage::Advert(advert) = passed(SumMessage::Advert(member.advert())) else {
                    panic!()
                };
                coordinator.take_advert(advert)?;
            }
        }
        let SumMessage::Roster(roster) = passed(SumMessage::Roster(coordinator.close_adverts()?)) else {
            panic!()
        };
        for (index, member) in members.iter_mut().enumerate() {
            if !gone(&[lost_before_adverts, lost_before_shares], index) {
                let SumMessage::Shares(shares) = passed(SumMessage::Shares(member.share(&roster)?)) else {
                    panic!()
                };
                coordinator.take_shares(shares)?;
            }
        }
        let mut inputs = Vec::new();
        for delivery in coordinator.close_shares()? {
            let SumMessage::Delivery(delivery) = passed(SumMessage::Delivery(delivery)) else {
                panic!()
            };
            let values = update(delivery.member, plan.dimension);
            let noise = plan.noise.map(|_| NoiseSeed::from_os_bytes([delivery.member + 1; 32]));
            let weight = if plan.noise.is_some() {
                1
            } else {
                weight(delivery.member)
            };
            let member = &mut members[usize::from(delivery.member)];
            let (input, _) = member.mask(&delivery, &values, weight, noise)?;
            inputs.push(MaskedInput::from_bytes(&input.to_bytes(), plan).expect("our own bytes"));
        }
        Ok(Self {
            members,
            coordinator,
            inputs,
        })
    }

    fn finish(mut self, lost_before_inputs: &[u8], lost_before_replies: &[u8]) -> Result<SecureMean, SecureSumError> {
        for input in self
            .inputs
            .iter()
            .filter(|input| !lost_before_inputs.contains(&input.member))
        {
            self.coordinator.take_input(input)?;
        }
        let SumMessage::Request(request) = passed(SumMessage::Request(self.coordinator.close_inputs()?)) else {
            panic!()
        };
        for &survivor in request
            .survivors
            .iter()
            .filter(|survivor| !lost_before_replies.contains(survivor))
        {
            let reply = self.members[usize::from(survivor)].unmask(&request)?;
            let SumMessage::Reply(reply) = passed(SumMessage::Reply(reply)) else {
                panic!()
            };
            self.coordinator.take_reply(reply)?;
        }
        self.coordinator.finish()
    }
}

/// The same mean in the clear: fixed point as the plan says, added as integers.
fn expected(plan: &SumPlan, survivors: &[u8]) -> (Vec<f32>, u64) {
    let quanta = f64::from(plan.quantum_count());
    let total: u64 = survivors.iter().map(|&member| u64::from(weight(member))).sum();
    let mut sums = vec![0i64; plan.dimension as usize];
    for &member in survivors {
        let scale = quanta * (f64::from(weight(member)) / f64::from(plan.max_weight)) / f64::from(plan.range);
        for (sum, value) in sums.iter_mut().zip(update(member, plan.dimension)) {
            *sum += (f64::from(value) * scale).round_ties_even() as i64;
        }
    }
    let scale = plan.unit() * f64::from(plan.max_weight) / total as f64;
    (sums.iter().map(|&sum| (sum as f64 * scale) as f32).collect(), total)
}

#[track_caller]
fn check(members: u8, dimension: u32, lost: [&[u8]; 4]) {
    let plan = plan(members, dimension);
    let run = Run::to_inputs(&plan, lost[0], lost[1]).expect("enough are left");
    let mean = run.finish(lost[2], lost[3]).expect("enough are left");
    let survivors: Vec<u8> = (0..members)
        .filter(|member| lost[..3].iter().all(|list| !list.contains(member)))
        .collect();
    let (values, total) = expected(&plan, &survivors);
    assert_eq!(mean.survivors, survivors);
    assert_eq!(mean.total_weight, total);
    assert_eq!(mean.values, values);
    let mut plain = vec![0.0f64; dimension as usize];
    for &member in &survivors {
        let share = f64::from(weight(member)) / total as f64;
        for (sum, value) in plain.iter_mut().zip(update(member, dimension)) {
            *sum += share * f64::from(value);
        }
    }
    assert!(
        mean.values
            .iter()
            .zip(&plain)
            .all(|(value, plain)| (f64::from(*value) - plain).abs() < 1e-5)
    );
}

#[test]
fn sums_are_exact_for_few_and_for_many_members() {
    for members in (3..=17).chain([31, 32, 33, 64]) {
        check(members, 40, [&[], &[], &[], &[]]);
    }
}

#[test]
fn sums_cross_tiles_and_chunks() {
    check(4, 40_000, [&[], &[], &[3], &[]]);
}

#[test]
fn members_lost_at_each_stage_are_borne() {
    check(7, 30, [&[1], &[], &[], &[]]);
    check(7, 30, [&[], &[6], &[], &[]]);
    check(7, 30, [&[], &[], &[0], &[]]);
    check(7, 30, [&[], &[], &[0, 3], &[]]);
    check(7, 30, [&[], &[], &[], &[2, 5]]);
    check(9, 30, [&[0], &[], &[], &[4]]);
    check(9, 30, [&[], &[3], &[8], &[]]);
    check(10, 30, [&[0], &[5], &[9], &[]]);
    check(64, 30, [&[0, 1], &[2, 3], &[4, 63], &[10, 20, 30]]);
}

/// Every subset of five members lost at each of the four stages: four or more survive with the right sum, fewer are refused.
#[test]
fn every_subset_of_five_is_borne_or_refused() {
    for stage in 0..4 {
        for mask in 0u8..32 {
            let lost: Vec<u8> = (0..5).filter(|member| mask >> member & 1 == 1).collect();
            let mut at = [&[][..]; 4];
            at[stage] = &lost;
            if lost.len() <= 1 {
                check(5, 8, at);
            } else {
                let run = Run::to_inputs(&plan(5, 8), at[0], at[1]).and_then(|run| run.finish(at[2], at[3]));
                let found = 5 - lost.len();
                assert_eq!(run.unwrap_err(), SecureSumError::TooFew { found, threshold: 4 });
            }
        }
    }
}

#[test]
fn a_request_for_both_secrets_of_a_member_is_refused() {
    let mut run = Run::to_inputs(&plan(5, 8), &[], &[]).unwrap();
    let mut ask = |survivors: &[u8], dropped: &[u8]| {
        run.members[0].unmask(&UnmaskRequest {
            survivors: survivors.to_vec(),
            dropped: dropped.to_vec(),
        })
    };
    assert_eq!(
        ask(&[0, 1, 2, 3, 4], &[2]),
        Err(SecureSumError::BothSecrets { member: 2 })
    );
    assert_eq!(
        ask(&[0, 1, 2, 3], &[]),
        Err(SecureSumError::InconsistentSets { member: 4 })
    );
    assert_eq!(
        ask(&[1, 2, 3, 4], &[0]),
        Err(SecureSumError::InconsistentSets { member: 0 })
    );
    assert_eq!(
        ask(&[0, 1, 2, 3, 4, 5], &[]),
        Err(SecureSumError::UnknownMember { member: 5 })
    );
    assert_eq!(
        ask(&[0, 1, 2], &[3, 4]),
        Err(SecureSumError::TooFew { found: 3, threshold: 4 })
    );
    assert_eq!(ask(&[1, 0, 2, 3, 4], &[]), Err(SecureSumError::NotCanonical));
    // One request is answered, repeatedly; the other half of a secret is not to be had by a second one.
    let first = ask(&[0, 1, 2, 3], &[4]).unwrap();
    assert_eq!(ask(&[0, 1, 2, 3], &[4]).unwrap(), first);
    assert_eq!(ask(&[0, 1, 2, 4], &[3]), Err(SecureSumError::AnotherRequest));
    assert_eq!(ask(&[0, 1, 2, 3, 4], &[]), Err(SecureSumError::AnotherRequest));
}

/// A member that was given up for lost sends its input late: the coordinator holds the shares of its mask key, and may
/// lift all pairwise masks, but the self-mask stays. What remains differs from the update in every word.
#[test]
fn a_late_input_stays_masked() {
    let plan = plan(5, 64);
    let mut run = Run::to_inputs(&plan, &[], &[]).unwrap();
    let late = run.inputs.remove(4);
    for input in &run.inputs {
        run.coordinator.take_input(input).unwrap();
    }
    let request = run.coordinator.close_inputs().unwrap();
    assert_eq!(request.dropped, [4]);
    assert!(matches!(
        run.coordinator.take_input(&late),
        Err(SecureSumError::OutOfTurn { .. })
    ));
    for index in 0..4 {
        let reply = run.members[index].unmask(&request).unwrap();
        assert_eq!((reply.seed_shares.len(), reply.key_shares.len()), (4, 1));
        run.coordinator.take_reply(reply).unwrap();
    }
    let mean = run.coordinator.finish().unwrap();
    assert_eq!((mean.values, mean.total_weight), expected(&plan, &[0, 1, 2, 3]));
    // A second sum with the late one counted in, by adding its words: no unmasking of it is to be had any more.
    let with_late = UnmaskRequest {
        survivors: vec![0, 1, 2, 3, 4],
        dropped: vec![],
    };
    for index in 0..4 {
        assert_eq!(
            run.members[index].unmask(&with_late),
            Err(SecureSumError::AnotherRequest)
        );
    }
}

/// One member's masked words, over fresh seeds, are uniform whatever the update is: the mean of their top bits, and of their
/// xor between two opposite updates, is that of a coin.
#[test]
fn masked_words_look_uniform_for_every_update() {
    let words_of = |value: f32, attempt: u8| {
        let plan = SumPlan {
            dimension: 20_000,
            ..plan(3, 1)
        };
        let mut members: Vec<Member> = (0..3)
            .map(|index| Member::new(plan.clone(), index, seed(index, attempt)).unwrap())
            .collect();
        let roster = KeyRoster {
            adverts: members.iter().map(Member::advert).collect(),
        };
        let dealt: Vec<_> = members
            .iter_mut()
            .map(|member| member.share(&roster).unwrap())
            .collect();
        let sealed = dealt[1..].iter().map(|shares| {
            let mut share = shares.sealed[0].clone();
            assert_eq!(share.peer, 0);
            share.peer = shares.member;
            share
        });
        let delivery = ShareDelivery {
            member: 0,
            sealed: sealed.collect(),
        };
        members[0]
            .mask(&delivery, &vec![value; 20_000], 5, None)
            .unwrap()
            .0
            .words
    };
    let (low, high) = (words_of(-4.0, 1), words_of(4.0, 2));
    for bit in [0, 7, 16, 24, 30, 31] {
        for ones in [
            low.iter().filter(|&&word| word >> bit & 1 == 1).count(),
            high.iter().filter(|&&word| word >> bit & 1 == 1).count(),
            low.iter().zip(&high).filter(|(a, b)| (*a ^ *b) >> bit & 1 == 1).count(),
        ] {
            // 10,000 expected, deviation 71: six of them.
            assert!((9_576..10_424).contains(&ones), "bit {bit}: {ones}");
        }
    }
}

#[test]
fn another_sums_shares_and_swapped_keys_do_not_pass() {
    let plan = plan(3, 4);
    let mut other = plan.clone();
    other.context = [10; 32];
    let start = |plan: &SumPlan| -> Vec<Member> {
        (0..3)
            .map(|index| Member::new(plan.clone(), index, seed(index, 0)).unwrap())
            .collect()
    };
    let (mut ours, mut theirs) = (start(&plan), start(&other));
    let roster = KeyRoster {
        adverts: ours.iter().map(Member::advert).collect(),
    };
    let foreign = KeyRoster {
        adverts: theirs.iter().map(Member::advert).collect(),
    };
    assert_eq!(ours[0].share(&foreign), Err(SecureSumError::NotInRoster { member: 0 }));
    let mut doubled = roster.clone();
    doubled.adverts[2].mask_key = doubled.adverts[1].mask_key;
    assert_eq!(
        ours[0].share(&doubled),
        Err(SecureSumError::SameKey { first: 1, second: 2 })
    );
    let mut weak = roster.clone();
    weak.adverts[1].channel_key = [0; 32];
    assert_eq!(ours[0].share(&weak), Err(SecureSumError::WeakKey { member: 1 }));
    let mut short = roster.clone();
    short.adverts.pop();
    assert!(matches!(
        ours[0].share(&short),
        Err(SecureSumError::TooFew { found: 2, .. })
    ));
    ours[0].share(&roster).unwrap();
    assert!(matches!(ours[0].share(&roster), Err(SecureSumError::OutOfTurn { .. })));
    let sealed = [1, 2].map(|from: usize| {
        let mut share = theirs[from].share(&foreign).unwrap().sealed[0].clone();
        share.peer = from as u8;
        share
    });
    let delivery = ShareDelivery {
        member: 0,
        sealed: sealed.to_vec(),
    };
    assert_eq!(
        ours[0].mask(&delivery, &[0.0; 4], 1, None).unwrap_err(),
        SecureSumError::MalformedShare { dealer: 1 }
    );
}

#[test]
fn wrong_weights_values_and_repetitions_are_refused() {
    let plan = plan(3, 4);
    let mut coordinator = Coordinator::new(plan.clone()).unwrap();
    let mut members: Vec<Member> = (0..3)
        .map(|index| Member::new(plan.clone(), index, seed(index, 0)).unwrap())
        .collect();
    for member in &members {
        coordinator.take_advert(member.advert()).unwrap();
        coordinator.take_advert(member.advert()).unwrap();
    }
    let impostor = Member::new(plan.clone(), 1, seed(1, 7)).unwrap();
    assert_eq!(
        coordinator.take_advert(impostor.advert()),
        Err(SecureSumError::Twice { member: 1 })
    );
    let roster = coordinator.close_adverts().unwrap();
    for member in &mut members {
        coordinator.take_shares(member.share(&roster).unwrap()).unwrap();
    }
    let deliveries = coordinator.close_shares().unwrap();
    let member = &mut members[0];
    let mut mask =
        |delivery: &ShareDelivery, values: &[f32], weight, noise| member.mask(delivery, values, weight, noise);
    for weight in [0, 1001] {
        assert!(matches!(
            mask(&deliveries[0], &[0.0; 4], weight, None),
            Err(SecureSumError::Weight { .. })
        ));
    }
    let broken = [0.0, f32::NAN, 0.0, 0.0];
    assert_eq!(
        mask(&deliveries[0], &broken, 1, None).unwrap_err(),
        SecureSumError::NotFinite { index: 1 }
    );
    assert_eq!(
        mask(&deliveries[1], &[0.0; 4], 1, None).unwrap_err(),
        SecureSumError::WrongReceiver { member: 1 }
    );
    let noise = Some(NoiseSeed::from_os_bytes([1; 32]));
    assert_eq!(
        mask(&deliveries[0], &[0.0; 4], 1, noise).unwrap_err(),
        SecureSumError::NoiseSeed { needed: false }
    );
    let (input, quantisation) = mask(&deliveries[0], &[0.0, 5.0, -4.0, -9.0], 1, None).unwrap();
    assert_eq!(quantisation.clipped, 2);
    assert!(matches!(
        mask(&deliveries[0], &[0.0; 4], 1, None),
        Err(SecureSumError::OutOfTurn { .. })
    ));
    coordinator.take_input(&input).unwrap();
    assert_eq!(coordinator.take_input(&input), Err(SecureSumError::Twice { member: 0 }));
    let short = MaskedInput {
        member: 1,
        words: vec![0; 4],
    };
    assert!(matches!(
        coordinator.take_input(&short),
        Err(SecureSumError::InputLength { .. })
    ));
    assert!(matches!(
        coordinator.close_inputs(),
        Err(SecureSumError::TooFew { found: 1, .. })
    ));
}

/// A member that returns a wrong share spoils no result: it is noticed, and the owner of the secret is named.
#[test]
fn wrong_shares_are_noticed() {
    for dropped in [false, true] {
        let mut run = Run::to_inputs(&plan(5, 8), &[], &[]).unwrap();
        let count = if dropped { 4 } else { 5 };
        for input in &run.inputs[..count] {
            run.coordinator.take_input(input).unwrap();
        }
        let request = run.coordinator.close_inputs().unwrap();
        for index in 0..count {
            let mut reply: UnmaskReply = run.members[index].unmask(&request).unwrap();
            if index == 1 {
                let shares = if dropped {
                    &mut reply.key_shares
                } else {
                    &mut reply.seed_shares
                };
                shares[0][3] ^= 1;
            }
            run.coordinator.take_reply(reply).unwrap();
        }
        let owner = if dropped { 4 } else { 0 };
        assert_eq!(run.coordinator.finish(), Err(SecureSumError::WrongShares { owner }));
    }
}

/// Noise in the sum: at the threshold it has the deviation that the mechanism asks for even for a member, who takes its own
/// share out of it, and the mean is right but for it.
#[test]
fn noise_of_the_members_adds_up_to_the_mechanisms() {
    let dimension = 20_000;
    let noise = SumNoise {
        clip_norm: 2.0,
        noise_multiplier: 1.5,
    };
    let plan = SumPlan {
        max_weight: 1,
        noise: Some(noise),
        ..plan(6, dimension)
    };
    let survivors = [0, 1, 2, 3, 4];
    assert_eq!(usize::from(plan.threshold), survivors.len());
    let mean = Run::to_inputs(&plan, &[], &[]).unwrap().finish(&[5], &[]).unwrap();
    assert_eq!(mean.total_weight, 5);
    let mut clean = vec![0.0f64; dimension as usize];
    for member in survivors {
        let mut values = update(member, dimension);
        clip_to_norm(&mut values, noise.clip_norm).unwrap();
        clean
            .iter_mut()
            .zip(&values)
            .for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let squares: f64 = mean
        .values
        .iter()
        .zip(&clean)
        .map(|(noisy, sum)| (5.0 * f64::from(*noisy) - sum).powi(2))
        .sum();
    let deviation = (squares / f64::from(dimension)).sqrt();
    let for_a_member = deviation * (4.0f64 / 5.0).sqrt();
    assert!((for_a_member / 3.0 - 1.0).abs() < 0.03, "{deviation}");
}

/// Sixteen members in fours, one of whom sends ring elements of its choice: its group's mean is spoilt, and the median across
/// group means is one of a clean group's values, in each coordinate.
#[test]
fn a_robust_rule_across_group_means_bears_a_member_that_lies_under_its_mask() {
    let means: Vec<SecureMean> = (0..4)
        .map(|at| {
            let mut plan = plan(4, 50);
            plan.context[0] = at;
            let mut run = Run::to_inputs(&plan, &[], &[]).unwrap();
            if at == 2 {
                let coordinates = run.inputs[1].words[..50].iter_mut();
                coordinates.for_each(|word| *word = word.wrapping_add(1 << 30));
            }
            run.finish(&[], &[]).unwrap()
        })
        .collect();
    assert_ne!(means[2].values, means[0].values);
    let contributions: Vec<Contribution<'_>> = means
        .iter()
        .map(|mean| Contribution::dense(&mean.values, 1.0))
        .collect();
    let mut out = vec![0.0; 50];
    RuleConfig::Median.build().aggregate(&contributions, &mut out);
    assert_eq!(out, means[0].values);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = SumMessage::from_bytes(&bytes) {
            prop_assert_eq!(message.to_bytes(), bytes.clone());
        }
        let _ = MaskedInput::from_bytes(&bytes, &plan(3, 50));
    }
}
