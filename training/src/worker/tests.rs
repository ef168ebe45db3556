//! What a worker answers, for a synthetic trainer; its contract with machines is tested by the simulator.
//! No engine and no data are needed here.

use std::collections::BTreeMap;

use synod_aggregation::{EncodingConfig, OuterConfig, RuleConfig};

use super::*;
use crate::config::{ModelConfig, OptimizerState, StepsBySpeed, SyntheticConfig, TrainingConfig};
use crate::models::network::{NetworkConfig, NetworkKind};
use crate::samples::{SampleTrainer, Samples};
use crate::synthetic::SyntheticTrainer;

/// Some members with one store between them.
struct World {
    workers: Vec<Worker>,
    store: BTreeMap<BlobId, Vec<u8>>,
    /// What each member that carries something has stored last.
    last_member_state: BTreeMap<usize, Vec<u8>>,
}

impl World {
    fn new(members: u8) -> Self {
        let config = TrainingConfig::default();
        let workers = (0..members).map(|member| {
            let trainer = SyntheticTrainer::new(&SyntheticConfig::default(), &config, [member; 32]);
            let outer = OuterConfig {
                learning_rate: 0.7,
                momentum: 0.5,
                nesterov: true,
                ..OuterConfig::default()
            };
            let combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, outer);
            Worker::new(Box::new(trainer), combiner)
        });
        Self {
            workers: workers.collect(),
            store: BTreeMap::new(),
            last_member_state: BTreeMap::new(),
        }
    }

    fn run(&mut self, member: usize, task: &Task) -> Result<TaskResult, TaskFailure> {
        let store = &self.store;
        let mut read = |id: &BlobId| store.get(id).cloned().ok_or_else(|| "no such blob".to_owned());
        let done = self.workers[member].run(task, &mut read, &mut |_| Continue::Go)?;
        self.store.extend(done.blobs);
        if let Some((_, state)) = done.member_state {
            self.last_member_state.insert(member, self.store[&state].clone());
        }
        Ok(done.result)
    }

    fn initialise(&mut self, member: usize) -> BlobId {
        match self.run(member, &Task::Initialise) {
            Ok(TaskResult::Initialised { state, .. }) => state,
            other => panic!("{other:?}"),
        }
    }

    fn train(&mut self, member: usize, round: u64, base: BlobId) -> UpdateRef {
        match self.run(
            member,
            &Task::Train {
                round,
                base,
                steps: None,
            },
        ) {
            Ok(TaskResult::Trained { payload, bytes, report }) => UpdateRef {
                peer: PeerId([member as u8; 32]),
                payload,
                bytes,
                tokens: report.tokens,
            },
            other => panic!("{other:?}"),
        }
    }

    fn loss(&mut self, member: usize, state: BlobId) -> f32 {
        match self.run(member, &Task::Evaluate { round: 0, state }) {
            Ok(TaskResult::Evaluated { loss, .. }) => loss,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rounds_go_from_the_initial_state_towards_the_common_optimum_at_every_member_alike() {
    let mut world = World::new(5);
    let mut state = world.initialise(0);
    for member in 1..5 {
        assert_eq!(world.initialise(member), state);
    }
    let before = world.loss(0, state);
    for round in 1..=4 {
        let updates: Vec<_> = (0..5).map(|member| world.train(member, round, state)).collect();
        let task = Task::Aggregate {
            round,
            base: state,
            updates,
        };
        let results: Vec<_> = (0..5).map(|member| world.run(member, &task).unwrap()).collect();
        assert!(results.iter().all(|result| *result == results[0]));
        let TaskResult::Aggregated {
            state: next, verdicts, ..
        } = &results[0]
        else {
            panic!("{results:?}")
        };
        assert!(
            verdicts
                .iter()
                .enumerate()
                .all(|(i, v)| v.peer == PeerId([i as u8; 32])),
            "{verdicts:?}"
        );
        assert!(verdicts.iter().all(|v| v.outcome == Outcome::Used), "{verdicts:?}");
        state = *next;
    }
    let after = world.loss(0, state);
    assert!(after < before / 3.0, "{before} {after}");
}

#[test]
fn a_member_that_restarts_makes_the_same_update() {
    let (mut first, mut second) = (World::new(1), World::new(1));
    let base = first.initialise(0);
    second.store = first.store.clone();
    first.train(0, 1, base);
    assert_eq!(first.train(0, 2, base), second.train(0, 2, base));
}

/// Three members that train a plane by AdamW and carry its moments. Each round ends in the mean of their updates; before
/// round 4 member 1 restarts from what was stored after rounds 2 and 3, or from what `spoil` makes of that.
fn session_of_planes(restarts: bool, spoil: fn(&mut Vec<u8>)) -> (BlobId, Vec<String>) {
    let network = NetworkConfig {
        kind: NetworkKind::Linear,
        inputs: 2,
        ..NetworkConfig::default()
    };
    let config = TrainingConfig {
        model: ModelConfig::Network(network.clone()),
        local_steps: 5,
        optimizer_state: OptimizerState::Carry,
        ..TrainingConfig::default()
    };
    let worker = |member: u8| {
        let features: Vec<f32> = (0..100)
            .map(|i| (i * (37 + u32::from(member)) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let labels = features.chunks(2).map(|x| 3.0 * x[0] - x[1]).collect();
        let samples = Samples::new(features, labels, 2).unwrap();
        let trainer = SampleTrainer::new(&config, &network, [member; 32], Some(samples));
        let combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, OuterConfig::default());
        Worker::new(Box::new(trainer), combiner)
    };
    let mut world = World {
        workers: (0..3).map(worker).collect(),
        store: BTreeMap::new(),
        last_member_state: BTreeMap::new(),
    };
    let mut state = world.initialise(0);
    let (mut stored, mut complaints) = (Vec::new(), Vec::new());
    for round in 1..=5 {
        if restarts && round == 4 {
            world.workers[1] = worker(1);
            let complaint = |bytes: &mut Vec<u8>| {
                spoil(bytes);
                world.workers[1].restore_member_state(bytes).err()
            };
            complaints = stored
                .iter_mut()
                .skip(1)
                .filter_map(complaint)
                .map(|error| error.to_string())
                .collect();
        }
        let updates = (0..3).map(|member| world.train(member, round, state)).collect();
        stored.push(world.last_member_state[&1].clone());
        let task = Task::Aggregate {
            round,
            base: state,
            updates,
        };
        let Ok(TaskResult::Aggregated { state: next, .. }) = world.run(0, &task) else {
            panic!("three updates settle")
        };
        state = next;
    }
    (state, complaints)
}

#[test]
fn a_member_that_carries_its_optimizer_goes_on_after_a_restart_as_if_there_had_been_none() {
    let through = session_of_planes(false, |_| ());
    assert_eq!(session_of_planes(true, |_| ()), through);
    let (lost, complaints) = session_of_planes(true, |bytes| _ = bytes.pop());
    assert_ne!(lost, through.0, "it has begun afresh");
    assert!(
        complaints.iter().all(|text| text.contains("optimizer's state")),
        "{complaints:?}"
    );
    assert_eq!(complaints.len(), 2);
}

/// A member's update of round 1 by so many steps, each short beside the way to its optimum.
fn update_of(steps: u32, terms: Option<StepTerms>) -> Vec<f32> {
    let objective = SyntheticConfig {
        noise: 0.0,
        learning_rate: 1e-5,
        ..SyntheticConfig::default()
    };
    let mut world = World::new(1);
    let trainer = SyntheticTrainer::new(&objective, &TrainingConfig::default(), [0; 32]);
    let combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, OuterConfig::default());
    world.workers[0] = Worker::new(Box::new(trainer), combiner).by_speed(terms);
    let task = Task::Train {
        round: 1,
        base: world.initialise(0),
        steps: Some(steps),
    };
    let Ok(TaskResult::Trained { payload, report, .. }) = world.run(0, &task) else {
        panic!("it trains")
    };
    assert_eq!(report.steps, steps);
    let mut update = vec![0.0; 64];
    EncodingConfig::F32
        .build()
        .decode(&world.store[&payload], &mut update)
        .unwrap();
    update
}

#[test]
fn an_update_of_more_or_fewer_steps_is_brought_to_the_sessions_number() {
    let terms = TrainingConfig {
        local_steps_by_speed: Some(StepsBySpeed::default()),
        ..TrainingConfig::default()
    }
    .step_terms();
    let nominal = update_of(60, terms);
    for steps in [15, 240] {
        let (scaled, plain) = (update_of(steps, terms), update_of(steps, None));
        for ((scaled, plain), nominal) in scaled.iter().zip(&plain).zip(&nominal) {
            assert!((scaled / nominal - 1.0).abs() < 0.01, "{scaled} {nominal}");
            assert!(
                (plain / nominal - steps as f32 / 60.0).abs() < 0.05,
                "{plain} {nominal}"
            );
        }
    }
}

#[test]
fn an_update_that_is_no_update_is_left_out_and_named() {
    let mut world = World::new(3);
    let base = world.initialise(0);
    let mut updates: Vec<_> = (0..3).map(|member| world.train(member, 1, base)).collect();
    updates[1].payload = BlobId::of(b"rubbish");
    world.store.insert(updates[1].payload, b"rubbish".to_vec());
    let result = world
        .run(
            0,
            &Task::Aggregate {
                round: 1,
                base,
                updates,
            },
        )
        .unwrap();
    let TaskResult::Aggregated { verdicts, .. } = result else {
        panic!("{result:?}")
    };
    let outcomes: Vec<_> = verdicts.iter().map(|v| v.outcome).collect();
    assert_eq!(outcomes, [Outcome::Used, Outcome::Undecodable, Outcome::Used]);
    assert_eq!(verdicts[1].weight, 0.0);
}

#[test]
fn missing_blobs_and_too_few_updates_are_failures_of_their_own_kind() {
    let mut world = World::new(1);
    let base = world.initialise(0);
    let mut update = world.train(0, 1, base);
    update.payload = BlobId::of(b"lost");
    let missing = world.run(
        0,
        &Task::Aggregate {
            round: 1,
            base,
            updates: vec![update.clone()],
        },
    );
    assert!(
        matches!(&missing, Err(TaskFailure::Environment(text)) if text.contains("cannot be read")),
        "{missing:?}"
    );
    world.store.insert(update.payload, b"lost".to_vec());
    let unusable = world.run(
        0,
        &Task::Aggregate {
            round: 1,
            base,
            updates: vec![update],
        },
    );
    assert!(matches!(&unusable, Err(TaskFailure::Unusable(_))), "{unusable:?}");
    let nowhere = BlobId::of(b"nowhere");
    let failure = world
        .run(
            0,
            &Task::Train {
                round: 1,
                base: nowhere,
                steps: None,
            },
        )
        .unwrap_err();
    assert!(matches!(failure, TaskFailure::Environment(_)), "{failure:?}");
}

#[test]
fn training_that_is_stopped_says_so() {
    let mut world = World::new(1);
    let base = world.initialise(0);
    let store = world.store.clone();
    let mut read = |id: &BlobId| store.get(id).cloned().ok_or_else(String::new);
    let failure = world.workers[0].run(
        &Task::Train {
            round: 7,
            base,
            steps: None,
        },
        &mut read,
        &mut |_| Continue::Stop,
    );
    let Err(TaskFailure::Environment(text)) = failure else {
        panic!("{failure:?}")
    };
    assert!(text.contains("round 7 was stopped after 1 of 60 steps"), "{text}");
    assert_eq!(world.train(0, 7, base).peer, PeerId([0; 32]));
}

/// A member's share of a mix: its model after round `round` of training from `base`.
fn share(world: &mut World, member: usize, round: u64, base: BlobId, weight: f64) -> Share {
    let UpdateRef {
        peer, payload, bytes, ..
    } = world.train(member, round, base);
    Share {
        peer,
        payload,
        bytes,
        weight,
    }
}

fn mixing(mut world: World, config: &MixingConfig) -> World {
    world.workers = world
        .workers
        .into_iter()
        .map(|worker| worker.mixing(config.clone()))
        .collect();
    world
}

/// One member mixes; `shares` has everybody's, its own included.
fn mix(world: &mut World, member: usize, shares: &[Share]) -> (BlobId, Vec<MemberVerdict>, f32) {
    let me = PeerId([member as u8; 32]);
    let (own, neighbours): (Vec<Share>, Vec<Share>) = shares.iter().cloned().partition(|share| share.peer == me);
    let own = own.into_iter().next();
    match world.run(
        member,
        &Task::Mix {
            round: 1,
            own,
            neighbours,
        },
    ) {
        Ok(TaskResult::Mixed {
            state,
            verdicts,
            distance,
            ..
        }) => (state, verdicts, distance),
        other => panic!("{other:?}"),
    }
}

fn parameters(world: &World, state: &BlobId) -> Vec<f32> {
    OuterState::from_bytes(&world.store[state], None).unwrap().parameters
}

/// A share that carries these very parameters: a round of training at zero learning rate.
fn untrained(world: &mut World, member: usize, state: &BlobId, weight: f64) -> Share {
    let mut bytes = Vec::new();
    EncodingConfig::F32
        .build()
        .encode(&parameters(world, state), &mut bytes);
    let payload = BlobId::of(&bytes);
    let length = bytes.len() as u64;
    world.store.insert(payload, bytes);
    Share {
        peer: PeerId([member as u8; 32]),
        payload,
        bytes: length,
        weight,
    }
}

#[test]
fn mixing_on_a_complete_graph_is_federated_averaging_bit_for_bit_where_the_base_is_zero() {
    let outer = OuterConfig::AVERAGING;
    let mut federated = World::new(4);
    federated.workers = federated
        .workers
        .into_iter()
        .map(|mut worker| {
            worker.combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, outer);
            worker
        })
        .collect();
    let mut mixed = mixing(World::new(4), &MixingConfig::Gossip);
    // Base minus local is exact where the base is zero; elsewhere it is rounded once, and the last bit may differ.
    let dimension = federated.workers[0].trainer.layout().len();
    let zero = OuterState::new(vec![0.0; dimension]).to_bytes();
    let base = BlobId::of(&zero);
    federated.store.insert(base, zero.clone());
    mixed.store.insert(base, zero);
    let mut updates: Vec<_> = (0..4).map(|member| federated.train(member, 1, base)).collect();
    // Members count alike on a graph: so they do here.
    updates.iter_mut().for_each(|update| update.tokens = 1);
    let Ok(TaskResult::Aggregated { state: settled, .. }) = federated.run(
        0,
        &Task::Aggregate {
            round: 1,
            base,
            updates,
        },
    ) else {
        panic!("the mean of four updates settles")
    };
    let shares: Vec<Share> = (0..4).map(|member| share(&mut mixed, member, 1, base, 0.25)).collect();
    for member in 0..4 {
        let (state, ..) = mix(&mut mixed, member, &shares);
        let bits = |values: Vec<f32>| {
            values
                .into_iter()
                .map(|value| (value + 0.0).to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            bits(parameters(&mixed, &state)),
            bits(parameters(&federated, &settled)),
            "member {member}"
        );
    }
}

#[test]
fn without_training_the_distance_shrinks_as_the_spectral_gap_says() {
    use synod_protocol::graph::{GraphConfig, Weighting, Weights};
    const MEMBERS: usize = 8;
    let mut world = mixing(World::new(MEMBERS as u8), &MixingConfig::Gossip);
    let base = world.initialise(0);
    let shares: Vec<Share> = (0..MEMBERS)
        .map(|member| share(&mut world, member, 1, base, 1.0))
        .collect();
    // Each keeps its own: the models differ.
    let mut models: Vec<BlobId> = (0..MEMBERS)
        .map(|member| mix(&mut world, member, &shares[member..=member]).0)
        .collect();
    let seed = [0; 32];
    let weights = Weights::of(
        &GraphConfig::Ring.build(MEMBERS, 1, &seed).unwrap(),
        Weighting::Metropolis,
    );
    let factor = GraphConfig::Ring
        .contraction(MEMBERS, Weighting::Metropolis, &seed)
        .unwrap()
        .unwrap()
        .factor;
    let distance = |world: &World, models: &[BlobId]| {
        let rows: Vec<Vec<f32>> = models.iter().map(|model| parameters(world, model)).collect();
        let mean = |at: usize| rows.iter().map(|row| f64::from(row[at])).sum::<f64>() / MEMBERS as f64;
        let square = |at: usize| {
            rows.iter()
                .map(|row| (f64::from(row[at]) - mean(at)).powi(2))
                .sum::<f64>()
        };
        (0..rows[0].len()).map(square).sum::<f64>().sqrt()
    };
    let mut before = distance(&world, &models);
    assert!(before > 0.1, "{before}");
    let mut last = 0.0;
    for _ in 0..14 {
        let next: Vec<BlobId> = (0..MEMBERS)
            .map(|member| {
                let row = weights.row(member).to_vec();
                let shares: Vec<Share> = row
                    .iter()
                    .map(|&(at, weight)| untrained(&mut world, at, &models[at], weight))
                    .collect();
                mix(&mut world, member, &shares).0
            })
            .collect();
        models = next;
        let after = distance(&world, &models);
        assert!(
            after <= before * factor * (1.0 + 1e-3),
            "{after} of {before}, at most {factor}"
        );
        (last, before) = (after / before, after);
    }
    // The slowest direction is what is left.
    assert!((last - factor).abs() < 0.02 * factor, "{last} {factor}");
}

#[test]
fn a_model_that_is_none_counts_as_missing_and_its_weight_stays() {
    let mut world = mixing(World::new(3), &MixingConfig::Gossip);
    let base = world.initialise(0);
    let mut shares: Vec<Share> = (0..3)
        .map(|member| share(&mut world, member, 1, base, 1.0 / 3.0))
        .collect();
    shares[2].payload = BlobId::of(b"rubbish");
    world.store.insert(shares[2].payload, b"rubbish".to_vec());
    let (_, verdicts, distance) = mix(&mut world, 0, &shares);
    let outcomes: Vec<_> = verdicts.iter().map(|verdict| verdict.outcome).collect();
    assert_eq!(outcomes, [Outcome::Used, Outcome::Used, Outcome::Undecodable]);
    assert!((verdicts[0].weight - 2.0 / 3.0).abs() < 1e-6, "{verdicts:?}");
    assert!(distance > 0.0);
}

#[test]
fn a_member_without_a_model_takes_the_median_of_its_neighbours() {
    let mut world = mixing(World::new(4), &MixingConfig::NearestNeighbours { b: 1 });
    let base = world.initialise(0);
    let shares: Vec<Share> = (1..4).map(|member| share(&mut world, member, 1, base, 0.25)).collect();
    let (state, ..) = mix(&mut world, 0, &shares);
    let trained: Vec<Vec<f32>> = shares
        .iter()
        .map(|share| {
            let mut values = vec![0.0; world.workers[0].trainer.layout().len()];
            EncodingConfig::F32
                .build()
                .decode(&world.store[&share.payload], &mut values)
                .unwrap();
            values
        })
        .collect();
    for (at, value) in parameters(&world, &state).into_iter().enumerate() {
        let mut column: Vec<f32> = trained.iter().map(|row| row[at]).collect();
        column.sort_by(f32::total_cmp);
        assert_eq!(value, column[1]);
    }
}

#[test]
fn with_too_few_neighbours_for_its_rule_a_member_keeps_its_own_model() {
    let mut world = mixing(World::new(2), &MixingConfig::NearestNeighbours { b: 1 });
    let base = world.initialise(0);
    let shares: Vec<Share> = (0..2).map(|member| share(&mut world, member, 1, base, 0.5)).collect();
    let (alone, ..) = mix(&mut world, 0, &shares[..1]);
    let (state, verdicts, _) = mix(&mut world, 0, &shares);
    assert_eq!(state, alone);
    assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Excluded));
}
