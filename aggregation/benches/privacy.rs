//! How fast masking, unmasking, clipping, noise and accounts are: one JSON object a case on standard output.
//! It asserts nothing. `cargo bench -p synod-aggregation --bench privacy`; SYNOD_BENCH_DIMENSION and SYNOD_BENCH_MEMBERS
//! change d and n; everything runs on one thread.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;
use synod_aggregation::privacy::accountant::Accountant;
use synod_aggregation::privacy::clip::clip_to_norm;
use synod_aggregation::privacy::ledger::{Event, Mechanism, Sampling};
use synod_aggregation::privacy::noise::{GaussianMechanism, NoiseSeed};
use synod_aggregation::privacy::secure_sum::{
    Coordinator, MaskedInput, Member, ShareDelivery, SumPlan, SumSeed, default_threshold,
};

const REPETITIONS: usize = 5;

fn main() {
    let dimension = setting("SYNOD_BENCH_DIMENSION", 10_000_000);
    let members = setting("SYNOD_BENCH_MEMBERS", 16);
    let values: Vec<f32> = (0..dimension)
        .map(|i| (i * 7919 % 2003) as f32 / 1000.0 - 1.0)
        .collect();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread");
    pool.install(|| {
        let mut copy = vec![0.0f32; dimension];
        report(
            "copy of one vector",
            dimension,
            1,
            |_| (),
            |()| copy.copy_from_slice(black_box(&values)),
        );
        secure_sums(&values, members);
        noise(&values);
        accounts();
    });
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} = {text} is no number"))
    })
}

/// A sum whose shares are dealt: members that may mask, their deliveries, and the coordinator.
fn dealt(dimension: usize, members: usize, attempt: usize) -> (Vec<Member>, Vec<ShareDelivery>, Coordinator) {
    let plan = SumPlan {
        context: [attempt as u8; 32],
        members: members as u8,
        threshold: default_threshold(members) as u8,
        dimension: dimension as u32,
        range: 4.0,
        max_weight: 1,
        noise: None,
        groups: None,
    };
    let mut coordinator = Coordinator::new(plan.clone()).expect("a plan");
    let mut all: Vec<Member> = (0..members as u8)
        .map(|index| Member::new(plan.clone(), index, SumSeed::from_os_bytes([index; 32])).expect("a plan"))
        .collect();
    for member in &all {
        coordinator.take_advert(member.advert()).expect("in turn");
    }
    let roster = coordinator.close_adverts().expect("all are there");
    for member in &mut all {
        coordinator
            .take_shares(member.share(&roster).expect("in turn"))
            .expect("in turn");
    }
    let deliveries = coordinator.close_shares().expect("all are there");
    (all, deliveries, coordinator)
}

fn secure_sums(values: &[f32], members: usize) {
    let dimension = values.len();
    report(
        "secure sum: keys and shares of all",
        1,
        members,
        |_| (),
        |()| {
            black_box(dealt(1, members, 0));
        },
    );
    // n − 1 pairwise masks and a self-mask each: the difference of the two cases is n − 3 masks.
    for members in [3, members] {
        report(
            "secure sum: one member masks",
            dimension,
            members,
            |i| dealt(dimension, members, i),
            |(mut all, deliveries, _)| {
                black_box(
                    all[0]
                        .mask(&deliveries[0], black_box(values), 1, None)
                        .expect("in turn"),
                );
            },
        );
    }
    for dropped in [0, 1] {
        let prepare = |attempt: usize| {
            let (mut all, deliveries, mut coordinator) = dealt(dimension, members, attempt);
            let input = |member: &mut Member, delivery: &ShareDelivery| -> MaskedInput {
                member.mask(delivery, values, 1, None).expect("in turn").0
            };
            for (member, delivery) in all.iter_mut().zip(&deliveries).skip(dropped) {
                coordinator.take_input(&input(member, delivery)).expect("in turn");
            }
            let request = coordinator.close_inputs().expect("enough");
            for member in &mut all[dropped..] {
                coordinator
                    .take_reply(member.unmask(&request).expect("in turn"))
                    .expect("in turn");
            }
            coordinator
        };
        let case = format!("secure sum: coordinator unmasks, {dropped} dropped");
        report(&case, dimension, members, prepare, |mut coordinator| {
            black_box(coordinator.finish().expect("enough"));
        });
    }
}

fn noise(values: &[f32]) {
    let mechanism = GaussianMechanism::new(1.0, 1.0).expect("a mechanism");
    report(
        "clip to a norm",
        values.len(),
        1,
        |_| values.to_vec(),
        |mut copy| {
            black_box(clip_to_norm(&mut copy, 1.0).expect("finite"));
        },
    );
    report(
        "clip, cut, noise",
        values.len(),
        1,
        |_| values.to_vec(),
        |mut copy| {
            black_box(
                mechanism
                    .privatise(&mut copy, NoiseSeed::from_os_bytes([1; 32]))
                    .expect("finite"),
            );
        },
    );
}

fn accounts() {
    for (rate, noise_multiplier, count) in [(0.01, 1.1, 10_000), (0.001, 0.8, 50_000), (1.0, 5.0, 50)] {
        let event = Event {
            mechanism: Mechanism::Gaussian { noise_multiplier },
            sampling: Sampling::Poisson { rate },
            count,
        };
        for accountant in [Accountant::Rdp, Accountant::Pld] {
            let case = format!("{accountant:?}: q = {rate}, sigma = {noise_multiplier}, {count} steps");
            report(
                &case,
                1,
                1,
                |_| (),
                |()| {
                    black_box(accountant.epsilon(&[event], 1e-5).expect("an account"));
                },
            );
        }
    }
}

/// Times `work` on what `prepare` makes, which is not timed.
fn report<T>(case: &str, dimension: usize, members: usize, prepare: impl Fn(usize) -> T, mut work: impl FnMut(T)) {
    let mut milliseconds: Vec<f64> = (0..REPETITIONS)
        .map(|attempt| {
            let prepared = prepare(attempt);
            let start = Instant::now();
            work(prepared);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    milliseconds.sort_unstable_by(f64::total_cmp);
    println!(
        "{}",
        json!({
            "case": case,
            "dimension": dimension,
            "members": members,
            "median_ms": milliseconds[REPETITIONS / 2],
            "least_ms": milliseconds[0],
            "greatest_ms": milliseconds[REPETITIONS - 1],
        })
    );
}
