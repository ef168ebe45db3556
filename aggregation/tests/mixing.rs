//! Mixing against reference values, the properties that every rule of mixing shares, and what each kind with memory
//! promises: a mean that is kept, relayed, or tracked.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use synod_aggregation::encoding::{DecodeError, Encoder};
use synod_aggregation::mixing::{
    Choco, GossipRadius, GradientTracking, MessageError, PushSum, RelayMessage, RelaySum, Share, gossip::gossip,
};
use synod_aggregation::{
    Contribution, EncodingConfig, MixingConfig, MixingError, Neighbour, Neighbourhood, PreAggregationConfig,
    RuleConfig, VerdictOutcome,
};

fn numbers(value: &Value) -> Vec<f32> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|value| value.as_f64().expect("a number") as f32)
        .collect()
}

fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0
}

fn random_rows(seed: u64, members: usize, dimension: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..members)
        .map(|_| (0..dimension).map(|_| uniform(&mut random)).collect())
        .collect()
}

/// Mixes at `own` with these rows and weights.
fn mix(
    config: &MixingConfig,
    rows: &[Vec<f32>],
    weights: &[f64],
    own: usize,
) -> (Vec<f32>, Vec<(f32, VerdictOutcome)>) {
    let members: Vec<Neighbour<'_>> = rows
        .iter()
        .zip(weights)
        .map(|(values, &weight)| Neighbour { values, weight })
        .collect();
    let neighbourhood = Neighbourhood { members: &members, own };
    let mut out = vec![0.0; rows[0].len()];
    let verdicts = config.mix(&neighbourhood, &mut out);
    (out, verdicts.iter().map(|v| (v.weight, v.outcome)).collect())
}

/// A gossip row of the ring: a third each for itself, the one before and the one after, in the order of members.
fn ring_row(member: usize, members: usize) -> Vec<(usize, f64)> {
    let mut row = [(member + members - 1) % members, member, (member + 1) % members];
    row.sort_unstable();
    row.iter().map(|&member| (member, 1.0 / 3.0)).collect()
}

/// One round of gossip on a ring.
fn ring_round(config: &MixingConfig, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    (0..rows.len())
        .map(|i| {
            let row = ring_row(i, rows.len());
            let heard: Vec<Vec<f32>> = row.iter().map(|&(j, _)| rows[j].clone()).collect();
            let weights: Vec<f64> = row.iter().map(|&(_, weight)| weight).collect();
            let own = row.iter().position(|&(j, _)| j == i).expect("itself");
            mix(config, &heard, &weights, own).0
        })
        .collect()
}

fn mean_of(rows: &[Vec<f32>]) -> Vec<f64> {
    (0..rows[0].len())
        .map(|k| rows.iter().map(|row| f64::from(row[k])).sum::<f64>() / rows.len() as f64)
        .collect()
}

/// √Σ ‖x_i − x̄‖².
fn consensus_distance(rows: &[Vec<f32>]) -> f64 {
    let mean = mean_of(rows);
    let squares = rows
        .iter()
        .flat_map(|row| row.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)));
    squares.sum::<f64>().sqrt()
}

fn assert_near(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= tolerance, "{what}: {got} for {expected}");
    }
}

/// Rules without memory, for neighbourhoods of seven neighbours with two liars among them.
fn robust() -> Vec<MixingConfig> {
    vec![
        MixingConfig::ClippedGossip {
            radius: GossipRadius::Ranked { b: 2 },
        },
        MixingConfig::ClippedGossip {
            radius: GossipRadius::Spread { b: 2 },
        },
        MixingConfig::ClippedGossip {
            radius: GossipRadius::Fixed(0.5),
        },
        MixingConfig::NearestNeighbours { b: 2 },
        MixingConfig::TrimmedGossip { b: 2 },
        MixingConfig::Rule {
            rule: RuleConfig::TrimmedMean { f: 2 },
            pre: vec![PreAggregationConfig::Nnm { f: 2 }],
        },
    ]
}

fn without_memory() -> Vec<MixingConfig> {
    [vec![MixingConfig::Gossip, MixingConfig::Epidemic], robust()].concat()
}

#[test]
fn reference_values_are_met() {
    let file: Value = serde_json::from_str(include_str!("data/mixing_and_attacks.json")).unwrap();
    let case = &file["decentralised"];
    let rows: Vec<Vec<f32>> = std::iter::once(&case["x0"])
        .chain(case["neighbours"].as_array().unwrap())
        .map(numbers)
        .collect();
    let weights = [0.25, 0.15, 0.15, 0.15, 0.15, 0.15];
    let clipped = |radius| MixingConfig::ClippedGossip { radius };
    for (name, config) in [
        ("plain_gossip", MixingConfig::Gossip),
        ("clipped_gossip_tau1", clipped(GossipRadius::Fixed(1.0))),
        ("clipped_gossip_tau2", clipped(GossipRadius::Fixed(2.0))),
        ("cs_plus_b0.15", clipped(GossipRadius::Ranked { b: 1 })),
        ("cs_plus_b0.3", clipped(GossipRadius::Ranked { b: 2 })),
        ("gts_nna_b0.15", MixingConfig::TrimmedGossip { b: 1 }),
        ("gts_nna_b0.3", MixingConfig::TrimmedGossip { b: 2 }),
    ] {
        let expected = case[name].get("x").unwrap_or(&case[name]);
        assert_near(&mix(&config, &rows, &weights, 0).0, &numbers(expected), 1e-6, name);
    }
}

#[test]
fn among_equals_nothing_changes_and_weights_add_up() {
    let rows = vec![vec![0.1f32, -3.7, 1e-30, 12345.678]; 8];
    for config in without_memory() {
        let (out, verdicts) = mix(&config, &rows, &[1.0 / 8.0; 8], 3);
        assert_eq!(out, rows[0], "{config:?}");
        let total: f32 = verdicts.iter().map(|(weight, _)| weight).sum();
        assert!((total - 1.0).abs() < 1e-5, "{config:?}: {total}");
    }
}

#[test]
fn a_member_alone_keeps_its_vector() {
    let rows = vec![vec![1.5f32, -2.0, 3e38]];
    for config in [
        MixingConfig::Gossip,
        MixingConfig::Epidemic,
        MixingConfig::NearestNeighbours { b: 0 },
        MixingConfig::TrimmedGossip { b: 0 },
        MixingConfig::ClippedGossip {
            radius: GossipRadius::Ranked { b: 0 },
        },
    ] {
        assert_eq!(mix(&config, &rows, &[1.0], 0).0, rows[0], "{config:?}");
    }
}

#[test]
fn mixing_commutes_with_translation() {
    let rows = random_rows(1, 8, 40);
    let moved: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(|x| x + 8.0).collect()).collect();
    for config in without_memory() {
        let (out, _) = mix(&config, &rows, &[1.0 / 8.0; 8], 5);
        let (out_moved, _) = mix(&config, &moved, &[1.0 / 8.0; 8], 5);
        let expected: Vec<f32> = out.iter().map(|x| x + 8.0).collect();
        assert_near(&out_moved, &expected, 4e-6, config.name());
    }
}

/// Two of seven neighbours send whatever; honest vectors lie in the unit cube of dimension 40.
#[test]
fn two_liars_cannot_move_a_robust_mix_beyond_honest_distances() {
    let honest = random_rows(2, 8, 40);
    let diameter = 2.0 * 40f64.sqrt();
    for lie in [1e3f32, -1e30, f32::MAX, f32::MIN] {
        for config in robust() {
            for own in [0, 4, 7] {
                let mut rows = honest.clone();
                for liar in [(own + 1) % 8, (own + 3) % 8] {
                    rows[liar] = vec![lie; 40];
                }
                let (out, _) = mix(&config, &rows, &[1.0 / 8.0; 8], own);
                let moved = out
                    .iter()
                    .zip(&rows[own])
                    .map(|(a, b)| f64::from(a - b).powi(2))
                    .sum::<f64>()
                    .sqrt();
                assert!(moved <= diameter, "{config:?}, {lie}: moved by {moved}");
            }
        }
        let mut rows = honest.clone();
        rows[1] = vec![lie; 40];
        let (out, _) = mix(&MixingConfig::Gossip, &rows, &[1.0 / 8.0; 8], 0);
        assert!(out[0].abs() > 50.0, "plain gossip is not robust");
    }
}

#[test]
fn the_farthest_are_dropped_by_count_and_ties_go_to_the_later_place() {
    let rows = vec![vec![1.0f32], vec![0.0], vec![-1.0], vec![1.0]];
    let (out, verdicts) = mix(&MixingConfig::NearestNeighbours { b: 1 }, &rows, &[0.25; 4], 1);
    assert_eq!(out, [0.0]);
    assert_eq!(verdicts[3], (0.0, VerdictOutcome::Excluded));
    let (out, verdicts) = mix(&MixingConfig::TrimmedGossip { b: 2 }, &rows, &[0.25; 4], 1);
    assert_eq!(out, [0.25]);
    assert_eq!(verdicts[1], (0.75, VerdictOutcome::Used));
}

#[test]
fn on_a_complete_graph_gossip_is_the_mean_bit_for_bit_at_every_member() {
    let rows = random_rows(3, 7, 20_000);
    let contributions: Vec<Contribution<'_>> = rows.iter().map(|values| Contribution::dense(values, 1.0)).collect();
    let mut mean = vec![0.0; 20_000];
    RuleConfig::Mean.build().aggregate(&contributions, &mut mean);
    for own in 0..7 {
        for config in [MixingConfig::Gossip, MixingConfig::Epidemic] {
            assert_eq!(mix(&config, &rows, &[1.0 / 7.0; 7], own).0, mean, "{config:?}");
        }
    }
}

#[test]
fn gossip_keeps_the_mean_and_contracts_as_the_gap_says() {
    // A ring of 16 with thirds has the gap 0.050747: what is left after t rounds is 0.949253^t at worst.
    let mut rows = random_rows(4, 16, 50);
    let mean = mean_of(&rows);
    let start = consensus_distance(&rows);
    let mut at_forty = 0.0;
    for round in 1..=80 {
        rows = ring_round(&MixingConfig::Gossip, &rows);
        let distance = consensus_distance(&rows);
        assert!(distance <= start * 0.949253f64.powi(round) * 1.001, "round {round}");
        if round == 40 {
            at_forty = distance;
        }
    }
    let rate = (consensus_distance(&rows) / at_forty).powf(1.0 / 40.0);
    assert!((rate - 0.949253).abs() < 1e-3, "{rate}");
    for (now, then) in mean_of(&rows).iter().zip(&mean) {
        assert!((now - then).abs() < 1e-6);
    }
}

#[test]
fn push_sum_finds_the_mean_over_links_that_go_one_way() {
    // Member i sends to i + 1; the even ones also to i + 3: out-degrees differ, so plain averages would be biased.
    let rows = random_rows(5, 9, 10);
    let mean = mean_of(&rows);
    let receivers = |i: usize| {
        if i.is_multiple_of(2) {
            vec![(i + 1) % 9, (i + 3) % 9]
        } else {
            vec![(i + 1) % 9]
        }
    };
    let mut members: Vec<PushSum> = rows.iter().map(|row| PushSum::new(row)).collect();
    for _ in 0..120 {
        let shares: Vec<Share> = (0..9).map(|i| members[i].share(receivers(i).len())).collect();
        assert!(shares.iter().all(|share| share.check(10, 9).is_ok()));
        for (i, member) in members.iter_mut().enumerate() {
            let came: Vec<&Share> = (0..9)
                .filter(|&j| j == i || receivers(j).contains(&i))
                .map(|j| &shares[j])
                .collect();
            member.absorb(&came);
        }
    }
    let total: f64 = members.iter().map(PushSum::weight).sum();
    assert!((total - 9.0).abs() < 1e-9);
    assert!(members.iter().any(|member| (member.weight() - 1.0).abs() > 0.1));
    for member in &members {
        let mut estimate = vec![0.0; 10];
        member.estimate(&mut estimate);
        for (got, expected) in estimate.iter().zip(&mean) {
            assert!((f64::from(*got) - expected).abs() < 1e-5, "{got} for {expected}");
        }
    }
}

#[test]
fn a_push_sum_step_moves_the_estimate_by_the_step() {
    let mut member = PushSum::new(&[1.0, 2.0]);
    let kept = member.share(3);
    member.absorb(&[&kept]);
    assert_eq!(member.weight(), 0.25);
    member.step(&[0.5, -1.0]);
    let mut estimate = [0.0; 2];
    member.estimate(&mut estimate);
    assert_eq!(estimate, [1.5, 1.0]);
}

#[test]
fn shares_that_no_honest_member_sends_are_refused() {
    let share = |sum: &[f32], weight| {
        Share {
            sum: sum.to_vec(),
            weight,
        }
        .check(2, 8)
    };
    assert_eq!(share(&[1.0, 2.0], 4.0), Ok(()));
    for weight in [0.0, -1.0, 4.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(share(&[1.0, 2.0], weight), Err(MessageError::Weight { .. })));
    }
    assert!(matches!(share(&[1.0], 1.0), Err(MessageError::Dimension { .. })));
    assert_eq!(share(&[1.0, f32::NAN], 1.0), Err(MessageError::NotFinite { index: 1 }));
}

/// A chain 0 – 1 – … – n−1.
fn chain(member: usize, members: usize) -> Vec<usize> {
    [member.checked_sub(1), Some(member + 1).filter(|next| *next < members)]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn relayed_sums_bring_every_member_the_mean_as_late_as_the_tree_is_long() {
    let rows = random_rows(6, 6, 8);
    let mean = mean_of(&rows);
    let mut members: Vec<RelaySum> = (0..6).map(|i| RelaySum::new(8, 6, &chain(i, 6))).collect();
    let mut exact_after = None;
    for round in 1..=6 {
        let sent: Vec<(usize, usize, RelayMessage)> = (0..6)
            .flat_map(|i| chain(i, 6).into_iter().map(move |to| (i, to)))
            .map(|(i, to)| (i, to, members[i].message(&rows[i], to)))
            .collect();
        for (from, to, message) in sent {
            members[to].receive(from, message).unwrap();
        }
        let worst = members.iter().zip(&rows).fold(0.0f64, |worst, (member, row)| {
            let mut out = vec![0.0; 8];
            member.mean(row, &mut out);
            out.iter()
                .zip(&mean)
                .fold(worst, |worst, (x, m)| worst.max((f64::from(*x) - m).abs()))
        });
        if worst < 1e-6 && exact_after.is_none() {
            exact_after = Some(round);
        }
    }
    assert_eq!(exact_after, Some(5));
}

#[test]
fn relayed_lies_about_counts_and_strangers_are_refused() {
    let mut member = RelaySum::new(1, 4, &[0, 2]);
    let message = |count| RelayMessage { sum: vec![1.0], count };
    assert_eq!(member.receive(3, message(1)), Err(MessageError::Stranger { from: 3 }));
    for count in [0, 4, u64::MAX] {
        assert_eq!(
            member.receive(0, message(count)),
            Err(MessageError::Count { found: count, most: 3 })
        );
    }
    assert_eq!(member.receive(0, message(3)), Ok(()));
    let infinite = RelayMessage {
        sum: vec![f32::INFINITY],
        count: 1,
    };
    assert_eq!(member.receive(2, infinite), Err(MessageError::NotFinite { index: 0 }));
}

/// The tenth of the values that is largest, as pairs of place and value: enough of an encoding for gossip on differences.
struct LargestTenth;

impl Encoder for LargestTenth {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        let mut places: Vec<usize> = (0..values.len()).collect();
        places.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
        out.clear();
        for &place in &places[..values.len().div_ceil(10)] {
            out.extend_from_slice(&(place as u32).to_le_bytes());
            out.extend_from_slice(&values[place].to_le_bytes());
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        match bytes.len() == self.encoded_len(dimension) {
            true => Ok(()),
            false => Err(DecodeError::TooShort { len: bytes.len() }),
        }
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        out.fill(0.0);
        for pair in bytes.chunks_exact(8) {
            let place = u32::from_le_bytes(pair[..4].try_into().expect("four bytes")) as usize;
            if let Some(value) = out.get_mut(place.wrapping_sub(first)) {
                *value = f32::from_le_bytes(pair[4..].try_into().expect("four bytes"));
            }
        }
    }

    fn encoded_len(&self, dimension: usize) -> usize {
        dimension.div_ceil(10) * 8
    }
}

/// Gossip on a ring of eight by compressed differences; returns members and their vectors after these rounds.
fn choco_ring(encoder: &dyn Encoder, step: f32, rounds: usize, rows: &[Vec<f32>]) -> (Vec<Choco>, Vec<Vec<f32>>) {
    let around = |i: usize| [(i + 7) % 8, (i + 1) % 8];
    let mut rows = rows.to_vec();
    let zero = vec![0.0; rows[0].len()];
    let mut members: Vec<Choco> = (0..8).map(|i| Choco::new(&zero, i, &around(i))).collect();
    for _ in 0..rounds {
        let sent: Vec<(u64, Vec<u8>)> = members
            .iter_mut()
            .zip(&rows)
            .map(|(member, row)| {
                let mut bytes = Vec::new();
                (member.announce(row, encoder, &mut bytes), bytes)
            })
            .collect();
        for (i, member) in members.iter_mut().enumerate() {
            for from in around(i) {
                let (number, bytes) = &sent[from];
                member.receive(from, *number, bytes, encoder).expect("the next message");
            }
            member.mix(&ring_row(i, 8), step, &mut rows[i]);
        }
    }
    (members, rows)
}

#[test]
fn compressed_gossip_reaches_the_mean_although_each_message_leaves_most_out() {
    let rows = random_rows(7, 8, 60);
    let mean = mean_of(&rows);
    let int8 = EncodingConfig::Int8 { block: 32 }.build();
    for (encoder, step, rounds) in [(&*int8, 1.0, 200), (&LargestTenth as &dyn Encoder, 0.2, 3000)] {
        let (_, mixed) = choco_ring(encoder, step, rounds, &rows);
        assert!(consensus_distance(&mixed) < 1e-3 * consensus_distance(&rows));
        for (now, then) in mean_of(&mixed).iter().zip(&mean) {
            assert!((now - then).abs() < 1e-4, "{now} for {then}");
        }
    }
}

#[test]
fn all_copies_of_a_member_are_the_same_bits_and_a_lost_message_is_noticed() {
    let (mut members, _) = choco_ring(&LargestTenth, 0.2, 17, &random_rows(8, 8, 60));
    for i in 0..8 {
        let own = members[i].copy_of(i).unwrap();
        assert_eq!(own.1, 17);
        for holder in [(i + 7) % 8, (i + 1) % 8] {
            assert_eq!(members[holder].copy_of(i), Some(own));
        }
    }
    assert_eq!(members[0].copy_of(4), None);
    let mut bytes = Vec::new();
    LargestTenth.encode(&[1.0; 60], &mut bytes);
    let mut receive = |from, number, bytes: &[u8]| members[0].receive(from, number, bytes, &LargestTenth);
    let expected = MessageError::Sequence {
        expected: 17,
        found: 18,
    };
    assert_eq!(receive(1, 18, &bytes), Err(expected));
    assert_eq!(receive(4, 0, &bytes), Err(MessageError::Stranger { from: 4 }));
    assert_eq!(receive(0, 17, &bytes), Err(MessageError::Stranger { from: 0 }));
    assert!(matches!(receive(1, 17, &bytes[1..]), Err(MessageError::Decode(_))));
    assert_eq!(receive(1, 17, &bytes), Ok(()));
}

/// Member i's objective is ½ a_i (x − c_i)², so that local optima and curvatures differ; the optimum of the sum is known.
#[test]
fn tracked_gradients_reach_the_joint_optimum_where_plain_gossip_stops_beside_it() {
    let centres: Vec<f32> = (0..8).map(|i| (i * i) as f32 / 8.0).collect();
    let curvature: Vec<f32> = (0..8).map(|i| 0.2 + i as f32 / 8.0).collect();
    let weighted: f32 = centres.iter().zip(&curvature).map(|(c, a)| a * c).sum();
    let optimum = weighted / curvature.iter().sum::<f32>();
    let gradient = |i: usize, x: f32| curvature[i] * (x - centres[i]);
    let rate = 0.2;
    let furthest = |rows: &[Vec<f32>]| rows.iter().fold(0.0f32, |far, row| far.max((row[0] - optimum).abs()));

    let mut plain = vec![vec![0.0f32]; 8];
    for _ in 0..600 {
        let stepped: Vec<Vec<f32>> = plain
            .iter()
            .enumerate()
            .map(|(i, x)| vec![x[0] - rate * gradient(i, x[0])])
            .collect();
        plain = ring_round(&MixingConfig::Gossip, &stepped);
    }
    assert!(furthest(&plain) > 0.2, "{}", furthest(&plain));

    let mut rows = vec![vec![0.0f32]; 8];
    let mut trackers: Vec<GradientTracking> = (0..8).map(|i| GradientTracking::new(&[gradient(i, 0.0)])).collect();
    for _ in 0..600 {
        let stepped: Vec<Vec<f32>> = rows
            .iter()
            .zip(&trackers)
            .map(|(x, tracker)| vec![x[0] - rate * tracker.estimate()[0]])
            .collect();
        rows = ring_round(&MixingConfig::Gossip, &stepped);
        let estimates: Vec<Vec<f32>> = trackers.iter().map(|tracker| tracker.estimate().to_vec()).collect();
        let mixed = ring_round(&MixingConfig::Gossip, &estimates);
        for (i, tracker) in trackers.iter_mut().enumerate() {
            tracker.track(&mixed[i], &[gradient(i, rows[i][0])]);
        }
    }
    assert!(furthest(&rows) < 1e-3, "{}", furthest(&rows));
}

#[test]
fn faults_that_a_neighbourhood_cannot_bear_are_refused_with_the_bound() {
    let refused = |config: MixingConfig, neighbours| config.check(neighbours).unwrap_err().to_string();
    assert_eq!(MixingConfig::NearestNeighbours { b: 2 }.check(4), Ok(()));
    let error = refused(MixingConfig::NearestNeighbours { b: 3 }, 4);
    assert!(
        error.contains("b = 2 at most") && error.contains("at least 6"),
        "{error}"
    );
    assert!(refused(MixingConfig::TrimmedGossip { b: usize::MAX }, 4).contains("b = 2 at most"));
    let ranked = |b| MixingConfig::ClippedGossip {
        radius: GossipRadius::Ranked { b },
    };
    assert_eq!(ranked(1).check(3), Ok(()));
    assert!(refused(ranked(1), 2).contains("b = 0 at most"));
    assert_eq!(ranked(0).check(0), Ok(()));
    for radius in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let fixed = MixingConfig::ClippedGossip {
            radius: GossipRadius::Fixed(radius),
        };
        assert!(matches!(fixed.check(4), Err(MixingError::Number { .. })));
    }
    assert!(refused(MixingConfig::Choco { step: 1.5 }, 2).contains("step = 1.5"));
    let rule = MixingConfig::Rule {
        rule: RuleConfig::TrimmedMean { f: 2 },
        pre: Vec::new(),
    };
    assert_eq!(rule.check(4), Ok(()));
    assert!(refused(rule, 3).contains("in a neighbourhood of 4"));
}

#[test]
fn memory_of_neighbours_needs_a_fixed_graph_and_answers_both_ways() {
    for config in [MixingConfig::RelaySum, MixingConfig::Choco { step: 0.5 }] {
        assert_eq!(config.check_graph(false, false), Ok(()));
        assert!(matches!(
            config.check_graph(false, true),
            Err(MixingError::Varies { .. })
        ));
        assert!(matches!(
            config.check_graph(true, false),
            Err(MixingError::Directed { .. })
        ));
    }
    assert!(MixingConfig::GradientTracking.check_graph(true, false).is_err());
    for config in [
        MixingConfig::PushSum,
        MixingConfig::Epidemic,
        MixingConfig::NearestNeighbours { b: 1 },
    ] {
        assert_eq!(config.check_graph(true, true), Ok(()));
    }
}

#[test]
fn configs_read_well_in_toml_and_their_bytes_are_fixed() {
    #[derive(serde::Deserialize)]
    struct Section {
        mixing: MixingConfig,
    }
    let read = |text: &str| toml::from_str::<Section>(text).map(|section| section.mixing);
    assert_eq!(read("mixing = \"gossip\""), Ok(MixingConfig::Gossip));
    assert_eq!(read("mixing = { choco = {} }"), Ok(MixingConfig::Choco { step: 0.5 }));
    let ranked = MixingConfig::ClippedGossip {
        radius: GossipRadius::Ranked { b: 1 },
    };
    assert_eq!(
        read("mixing = { clipped_gossip = { radius = { ranked = { b = 1 } } } }"),
        Ok(ranked.clone())
    );
    let rule = MixingConfig::Rule {
        rule: RuleConfig::TrimmedMean { f: 1 },
        pre: Vec::new(),
    };
    assert_eq!(
        read("mixing = { rule = { rule = { trimmed_mean = { f = 1 } } } }"),
        Ok(rule.clone())
    );
    for wrong in [
        "mixing = \"gosip\"",
        "mixing = { nearest_neighbours = { b = 1, c = 2 } }",
        "mixing = { trimmed_gossip = {} }",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    for (config, expected) in [
        (MixingConfig::Gossip, vec![0]),
        (MixingConfig::PushSum, vec![1]),
        (ranked, vec![2, 0, 1]),
        (MixingConfig::NearestNeighbours { b: 2 }, vec![3, 2]),
        (MixingConfig::TrimmedGossip { b: 1 }, vec![4, 1]),
        (rule, vec![5, 1, 1, 0]),
        (MixingConfig::RelaySum, vec![6]),
        (MixingConfig::Choco { step: 0.5 }, vec![7, 0, 0, 0, 0x3f]),
        (MixingConfig::GradientTracking, vec![8]),
        (MixingConfig::Epidemic, vec![9]),
    ] {
        let bytes = postcard::to_stdvec(&config).unwrap();
        assert_eq!(bytes, expected, "{config:?}");
        assert_eq!(postcard::from_bytes::<MixingConfig>(&bytes).unwrap(), config);
    }
}

#[test]
fn state_passes_through_bytes() {
    let (members, _) = choco_ring(&LargestTenth, 0.2, 3, &random_rows(9, 8, 20));
    let bytes = postcard::to_stdvec(&members[2]).unwrap();
    assert_eq!(postcard::from_bytes::<Choco>(&bytes).unwrap(), members[2]);
    let relay = RelaySum::new(3, 5, &[1, 4]);
    let bytes = postcard::to_stdvec(&relay).unwrap();
    assert_eq!(postcard::from_bytes::<RelaySum>(&bytes).unwrap(), relay);
    let sum = PushSum::new(&[1.0, -2.0]);
    let bytes = postcard::to_stdvec(&sum).unwrap();
    assert_eq!(postcard::from_bytes::<PushSum>(&bytes).unwrap(), sum);
}

#[test]
fn the_mix_does_not_depend_on_the_number_of_threads() {
    let rows = random_rows(10, 6, 40_000);
    for config in [
        MixingConfig::Gossip,
        MixingConfig::NearestNeighbours { b: 2 },
        robust()[0].clone(),
    ] {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| mix(&config, &rows, &[1.0 / 6.0; 6], 1).0)
        };
        let one = on(1);
        assert!([2, 7].iter().all(|&threads| on(threads) == one), "{config:?}");
    }
    let members: Vec<Neighbour<'_>> = rows.iter().map(|values| Neighbour { values, weight: 1.0 }).collect();
    let mut out = vec![0.0; 40_000];
    let verdicts = gossip(
        &Neighbourhood {
            members: &members,
            own: 0,
        },
        &mut out,
    );
    assert_eq!(verdicts.len(), 6);
}
