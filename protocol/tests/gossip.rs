//! Sentences about a session without a coordinator, told with a few machines and no simulator.
//! Random faults and many seeds are the simulator's business; how models mix is the worker's.

#[allow(dead_code, reason = "the federated tests use the rest")]
mod world;

use synod_protocol::contract::{Command, Input};
use synod_protocol::event::Event;
use synod_protocol::graph::{GraphConfig, Weighting};
use synod_protocol::identity::{BlobId, Identity};
use synod_protocol::journal::JournalEntry;
use synod_protocol::message::{Message, UpdateClaim};
use synod_protocol::reject::Reject;
use synod_protocol::session::{Decentralized, Lifecycle, Terms, Topology};
use synod_protocol::signed::Signed;
use synod_protocol::task::{MemberVerdict, Round};
use world::{SESSION, World, terms};

fn mixing(graph: GraphConfig, rounds: u64, members: u32) -> Terms {
    let topology = Topology::Decentralized(Decentralized {
        graph,
        ..Decentralized::default()
    });
    Terms {
        topology,
        ..terms(rounds, members)
    }
}

/// What a node mixed: round and verdicts, in order.
fn mixes(world: &World, node: u8) -> Vec<(Round, Vec<MemberVerdict>)> {
    let events = &world.nodes[&world.peer(node)].events;
    let mixed = |event: &Event| match event {
        Event::Mixed { round, verdicts, .. } => Some((*round, verdicts.clone())),
        _ => None,
    };
    events.iter().filter_map(mixed).collect()
}

#[test]
fn five_members_on_a_ring_mix_each_round_with_both_neighbours_and_finish() {
    let mut world = World::new(5, mixing(GraphConfig::Ring, 4, 2));
    world.run_until(|world| (0..5).all(|i| world.round(world.peer(i)) == 5));
    for node in 0..5 {
        let mixes = mixes(&world, node);
        assert_eq!(mixes.iter().map(|mix| mix.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        for (_, verdicts) in mixes {
            assert_eq!(verdicts.len(), 3, "itself and two neighbours");
            // Equal degrees have equal weights, to the last bit.
            assert!(verdicts.iter().all(|verdict| verdict.weight == (1.0f64 / 3.0) as f32));
        }
        let machine = world.nodes[&world.peer(node)].machine.as_ref().unwrap();
        let status = machine.status(world.now);
        assert_eq!((status.lifecycle, status.coordinator), (Lifecycle::Finished, None));
        assert_eq!(machine.settlements().len(), 1, "only the founding is settled");
    }
}

#[test]
fn a_lost_neighbours_weight_goes_to_the_member_itself() {
    let mut world = World::new(5, mixing(GraphConfig::Ring, 400, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 3);
    world.kill(world.peer(2));
    let round = world.round(world.peer(0));
    world.run_until(|world| {
        (0..5)
            .filter(|i| *i != 2)
            .all(|i| world.round(world.peer(i)) >= round + 20)
    });
    let alone = (0..5)
        .flat_map(|node| mixes(&world, node).pop())
        .find(|(_, verdicts)| verdicts.len() == 2);
    let weights: Vec<f32> = alone.unwrap().1.iter().map(|verdict| verdict.weight).collect();
    let total: f32 = weights.iter().sum();
    assert!(
        (total - 1.0).abs() < 1e-6 && weights.iter().any(|weight| *weight > 0.6),
        "{weights:?}"
    );
}

#[test]
fn a_member_that_comes_back_late_takes_its_neighbours_models_and_goes_on_with_them() {
    let mut world = World::new(4, mixing(GraphConfig::Complete, 100_000, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 3);
    let late = world.peer(3);
    world.kill(late);
    let round = world.round(world.peer(0));
    world.run_until(|world| world.round(world.peer(0)) >= round + 20);
    world.start(late);
    world.run_until(|world| world.round(late) >= round + 20);
    let back = world.round(world.peer(0));
    world.run_until(|world| {
        let used = mixes(world, 0).into_iter().filter(|(round, _)| *round > back);
        used.flat_map(|mix| mix.1).any(|verdict| verdict.peer == late)
    });
}

#[test]
fn a_restart_announces_the_same_model_again() {
    let mut world = World::new(3, mixing(GraphConfig::Complete, 50, 2));
    world.run_until(|world| {
        let journal = &world.nodes[&world.peer(1)].journal;
        matches!(journal.last(), Some(JournalEntry::Claimed { round: 2, .. }))
    });
    let peer = world.peer(1);
    world.kill(peer);
    world.start(peer);
    world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) >= 5));
    let claims = world.nodes[&peer]
        .journal
        .iter()
        .filter(|entry| matches!(entry, JournalEntry::Claimed { round: 2, .. }));
    assert_eq!(claims.count(), 1, "one claim a round");
    let charged = world.nodes.values().flat_map(|node| &node.events);
    assert!(!charged.into_iter().any(|event| matches!(event, Event::Rejected { .. })));
}

#[test]
fn a_snapshot_restores_what_the_journal_would() {
    let mut world = World::new(4, mixing(GraphConfig::Ring, 50, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 6);
    let peer = world.peer(1);
    let machine = world.nodes[&peer].machine.as_ref().unwrap();
    let (round, state) = (machine.round(), machine.status(world.now).state);
    let snapshot = machine.snapshot();
    world.kill(peer);
    world.nodes.get_mut(&peer).unwrap().journal = snapshot;
    world.start(peer);
    let restored = world.nodes[&peer].machine.as_ref().unwrap();
    assert_eq!((restored.round(), restored.status(world.now).state), (round, state));
    world.run_until(|world| world.round(peer) >= round + 3);
}

#[test]
fn two_models_for_a_round_convict_their_sender_everywhere() {
    let mut world = World::new(4, mixing(GraphConfig::Complete, 500, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 2);
    let liar = world.peer(3);
    let round = world.round(world.peer(1)) + 1;
    let identity = Identity::from_secret([4; 32]);
    for (to, payload) in [(0, 1u8), (1, 2)] {
        let claim = UpdateClaim {
            round,
            base: BlobId([9; 32]),
            payload: BlobId([payload; 32]),
            bytes: 100,
            report: Default::default(),
        };
        let message = Signed::new(&identity, SESSION, &Message::Update(claim))
            .verify()
            .unwrap();
        let input = Input::Message {
            message,
            carrier: Some(liar),
        };
        world.give(world.peer(to), input);
    }
    // Each saw one; the liar's own claim for that round is a second one for both, and they show the pair to all.
    let convicted =
        |event: &Event| matches!(event, Event::Rejected { peer, reject: Reject::Equivocation, .. } if *peer == liar);
    world.run_until(|world| (0..3).all(|i| world.nodes[&world.peer(i)].events.iter().any(convicted)));
    let after = world.round(world.peer(0)) + 2;
    world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) > after));
    let last = mixes(&world, 0).pop().unwrap().1;
    assert!(last.iter().all(|verdict| verdict.peer != liar), "{last:?}");
}

#[test]
fn who_joins_late_enters_every_members_graph_and_who_leaves_goes_from_it() {
    let mut world = World::new(3, mixing(GraphConfig::Complete, 100_000, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 8);
    let invite = world.invite(9);
    world.add(Identity::from_secret([9; 32]), Vec::new());
    let newcomer = world.peer(8);
    world.join(&invite, newcomer);
    world.run_until(|world| {
        let all = (0..3).all(|i| world.nodes[&world.peer(i)].machine.as_ref().unwrap().roster().len() == 4);
        let near = world.round(newcomer) + 4 >= world.round(world.peer(0));
        all && near
            && mixes(world, 1)
                .pop()
                .unwrap()
                .1
                .iter()
                .any(|verdict| verdict.peer == newcomer)
    });
    world.give(newcomer, Input::Command(Command::Leave));
    world.run_until(|world| (0..3).all(|i| world.nodes[&world.peer(i)].machine.as_ref().unwrap().roster().len() == 3));
    world.run_until(|world| mixes(world, 1).pop().unwrap().1.len() == 3);
}

#[test]
fn a_member_alone_waits_for_others_and_a_fast_one_stays_near_them() {
    let mut world = World::new(3, mixing(GraphConfig::Complete, 100_000, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 3);
    world.kill(world.peer(1));
    world.kill(world.peer(2));
    let last = world.peer(0);
    let is_paused = |world: &World| {
        let machine = world.nodes[&last].machine.as_ref().unwrap();
        machine.status(world.now).lifecycle == Lifecycle::Paused
    };
    world.run_until(is_paused);
    let round = world.round(last);
    let until = world.now.after_ms(10_000);
    world.run_until(|world| world.now >= until);
    assert_eq!(world.round(last), round);
    world.start(world.peer(1));
    world.run_until(|world| world.round(world.peer(0)) > round + 3);
    assert!(world.round(world.peer(1)) + 4 >= world.round(last));
}

#[test]
fn graphs_that_some_number_of_members_cannot_have_are_refused_with_the_reason() {
    let refused = |terms: Terms| terms.check().unwrap_err().to_string();
    let torus = refused(Terms {
        begin_members: 9,
        max_members: 16,
        ..mixing(GraphConfig::Torus, 5, 2)
    });
    assert!(
        torus.contains("no grid") && torus.contains("begin_members = max_members"),
        "{torus}"
    );
    let fixed = Terms {
        begin_members: 9,
        max_members: 9,
        ..mixing(GraphConfig::Torus, 5, 2)
    };
    assert_eq!(fixed.check(), Ok(()));
    let idle = refused(Terms {
        creator_trains: false,
        ..mixing(GraphConfig::Complete, 5, 2)
    });
    assert!(idle.contains("creator_trains"), "{idle}");
    let push = Topology::Decentralized(Decentralized {
        weighting: Weighting::Push,
        ..Decentralized::default()
    });
    assert!(
        refused(Terms {
            topology: push,
            ..terms(5, 2)
        })
        .contains("push-sum")
    );
}

#[test]
fn topologies_and_entries_have_fixed_bytes() {
    let bytes = |topology: &Topology| postcard::to_stdvec(topology).unwrap();
    assert_eq!(bytes(&Topology::Federated), [0]);
    let ring = Topology::Decentralized(Decentralized {
        graph: GraphConfig::Ring,
        ..Decentralized::default()
    });
    assert_eq!(bytes(&ring), [1, 1, 0, 0, 4]);
    let entry = JournalEntry::Mixed {
        round: 5,
        state: BlobId([7; 32]),
        bytes: 300,
    };
    let mut expected = vec![10, 5];
    expected.extend([7; 32]);
    expected.extend([0xac, 2]);
    assert_eq!(postcard::to_stdvec(&entry).unwrap(), expected);
}
