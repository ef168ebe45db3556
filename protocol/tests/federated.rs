//! Sentences about a federated session, told with a few machines and no simulator.
//! Random faults and many seeds are the simulator's business.

mod world;

use synod_protocol::contract::{Command, Input};
use synod_protocol::event::Event;
use synod_protocol::identity::Identity;
use synod_protocol::message::{JoinRefusal, Message, UpdateClaim};
use synod_protocol::reject::Reject;
use synod_protocol::session::{Lifecycle, Role, Terms, Verification};
use synod_protocol::signed::Signed;
use world::{SESSION, World, terms};

#[test]
fn four_members_settle_all_rounds_and_agree() {
    let mut world = World::new(4, terms(5, 4));
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) == 6));
    world.assert_agreement();
    let machine = world.nodes[&world.peer(2)].machine.as_ref().unwrap();
    assert!(
        machine.settlements()[1..]
            .iter()
            .all(|settlement| settlement.body.used.len() == 4)
    );
    assert_eq!(machine.status(world.now).lifecycle, Lifecycle::Finished);
}

#[test]
fn voters_combine_what_will_be_proposed_before_it_is_and_only_once() {
    let mut world = World::new(4, terms(5, 4));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    world.dropped = Box::new(|_, _, message| matches!(message, Message::Proposal(_)));
    world.run_until(|world| {
        world
            .events(0)
            .any(|event| matches!(event, Event::Proposed { round: 3, .. }))
    });
    (0..3).for_each(|_| world.step());
    let proposed = world.events(0).find_map(|event| match event {
        Event::Proposed { round: 3, state, .. } => Some(*state),
        _ => None,
    });
    assert!((1..4).all(|i| world.nodes[&world.peer(i)].blobs.contains(&proposed.unwrap())));
    world.dropped = Box::new(|_, _, _| false);
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) == 6));
    world.assert_agreement();
    assert!(world.combined.values().all(|times| *times == 5), "{:?}", world.combined);
}

#[test]
fn a_session_of_one_trains_alone() {
    let mut world = World::new(1, terms(3, 1));
    world.run_until(|world| world.round(world.peer(0)) == 4);
}

#[test]
fn members_that_only_check_digests_agree_too() {
    let mut world = World::new(
        5,
        Terms {
            verification: Verification::Digest,
            ..terms(4, 5)
        },
    );
    world.run_until(|world| (0..5).all(|i| world.round(world.peer(i)) == 5));
    world.assert_agreement();
}

#[test]
fn a_lost_trainer_is_left_out_and_comes_back() {
    let mut world = World::new(4, terms(200, 3));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let lost = world.peer(3);
    world.kill(lost);
    let round = world.round(world.peer(0));
    world.run_until(|world| world.round(world.peer(0)) >= round + 2);
    world.start(lost);
    world.run_until(|world| world.round(world.peer(3)) >= round + 4 && world.round(world.peer(0)) >= round + 4);
    world.assert_agreement();
    let back = world.round(world.peer(0));
    world.run_until(|world| {
        let last = world.nodes[&world.peer(0)]
            .machine
            .as_ref()
            .unwrap()
            .settlements()
            .last()
            .unwrap()
            .clone();
        last.body.round > back && last.body.used.iter().any(|used| used.update.peer == lost)
    });
}

#[test]
fn the_next_in_line_takes_over_a_lost_coordinator_and_the_round_goes_on() {
    for wait in 0..12 {
        World::new(4, terms(1_000, 3)).loses_its_creator(wait);
    }
}

#[test]
fn a_minority_waits_and_says_so() {
    let mut world = World::new(4, terms(100, 2));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let (a, b) = (world.peer(2), world.peer(3));
    world.kill(a);
    world.kill(b);
    (0..5_000).for_each(|_| world.step());
    let status = world.nodes[&world.creator].machine.as_ref().unwrap().status(world.now);
    assert_eq!(status.lifecycle, Lifecycle::Paused, "{}", status.explanation);
    world.start(a);
    let round = world.round(world.creator);
    world.run_until(|world| world.round(world.creator) >= round + 2);
    world.assert_agreement();
}

#[test]
fn a_late_joiner_checks_the_chain_and_trains_from_the_next_border() {
    let mut world = World::new(3, terms(400, 2));
    world.run_until(|world| world.round(world.peer(0)) == 5);
    world.add(Identity::from_secret([9; 32]), Vec::new());
    let joiner = Identity::from_secret([9; 32]).peer_id();
    let invite = world.invite(10);
    assert!(matches!(world.join(&invite, joiner), Message::Admitted(_)));
    world.run_until(|world| {
        let chain = world.nodes[&world.creator]
            .machine
            .as_ref()
            .unwrap()
            .settlements()
            .to_vec();
        chain
            .last()
            .unwrap()
            .body
            .used
            .iter()
            .any(|used| used.update.peer == joiner)
    });
    world.assert_agreement();
}

#[test]
fn a_leaver_goes_at_the_border_and_its_absence_stops_nothing() {
    let mut world = World::new(3, terms(100, 1));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let coordinator = world.creator;
    world.give(coordinator, Input::Command(Command::Leave));
    world.run_until(|world| {
        world.nodes[&world.peer(1)]
            .machine
            .as_ref()
            .unwrap()
            .roster()
            .get(&coordinator)
            .is_none()
    });
    let round = world.round(world.peer(1));
    world.run_until(|world| world.round(world.peer(1)) >= round + 3);
    world.assert_agreement();
}

#[test]
fn below_its_minimum_a_session_waits_and_goes_on_with_whoever_joins() {
    let mut world = World::new(2, terms(100, 2));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let leaver = world.peer(1);
    world.give(leaver, Input::Command(Command::Leave));
    let chain = |world: &World| {
        world.nodes[&world.creator]
            .machine
            .as_ref()
            .unwrap()
            .settlements()
            .to_vec()
    };
    world.run_until(|world| chain(world).last().unwrap().body.roster.get(&leaver).is_none());
    let alone = world.round(world.creator);
    (0..5_000).for_each(|_| world.step());
    let status = world.nodes[&world.creator].machine.as_ref().unwrap().status(world.now);
    assert_eq!(
        (world.round(world.creator), status.lifecycle),
        (alone, Lifecycle::Paused),
        "{}",
        status.explanation
    );

    world.add(Identity::from_secret([9; 32]), Vec::new());
    let joiner = Identity::from_secret([9; 32]).peer_id();
    let invite = world.invite(1);
    assert!(matches!(world.join(&invite, joiner), Message::Admitted(_)));
    world.run_until(|world| world.round(world.creator) >= alone + 3);
    world.assert_agreement();
    // The joiner came in by a settlement that changed the roster alone.
    let chain = chain(&world);
    let border = &chain[alone as usize].body;
    assert!(border.used.is_empty() && border.state == border.base && border.roster.get(&joiner).is_some());
    assert!(chain[alone as usize + 1].body.used.len() == 2);
}

#[test]
fn who_only_watches_does_not_found_a_session() {
    let mut world = World::new(
        1,
        Terms {
            begin_members: 0,
            ..terms(20, 2)
        },
    );
    world.terms.begin_members = 2;
    let creator = world.creator;
    world.kill(creator);
    world.start(creator);
    let join = |world: &mut World, secret: u8, roles: &[Role]| {
        world.add(Identity::from_secret([secret; 32]), Vec::new());
        let invite = world.invite_as(roles, 1);
        let answer = world.join(&invite, Identity::from_secret([secret; 32]).peer_id());
        assert!(matches!(answer, Message::Admitted(_)));
    };
    join(&mut world, 9, &[Role::Observer]);
    join(&mut world, 10, &[Role::Coordinator]);
    (0..3_000).for_each(|_| world.step());
    assert_eq!(world.round(creator), 0);
    join(&mut world, 11, &[Role::Trainer]);
    world.run_until(|world| world.round(creator) >= 3);
}

#[test]
fn what_failed_for_a_while_is_tried_again() {
    let mut world = World::new(2, terms(100, 2));
    let (creator, other) = (world.creator, world.peer(1));
    world.failing = [creator, other].into();
    (0..3_000).for_each(|_| world.step());
    assert_eq!(world.round(creator), 0, "no initial state, no session");
    world.failing.clear();
    world.run_until(|world| world.round(other) == 3);
    world.failing.insert(other);
    (0..4_000).for_each(|_| world.step());
    let stuck = world.round(creator);
    let status = world.nodes[&other].machine.as_ref().unwrap().status(world.now);
    assert!(status.explanation.contains("failed here"), "{}", status.explanation);
    world.failing.clear();
    world.run_until(|world| world.round(creator) >= stuck + 2 && world.round(other) >= stuck + 2);
    world.assert_agreement();
}

#[test]
fn a_coordinator_that_is_heard_and_does_nothing_is_replaced_also_after_restarts() {
    for restarted in [false, true] {
        let mut world = World::new(3, terms(1_000, 2));
        world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) == 3));
        let creator = world.creator;
        let says_nothing =
            move |from, _, message: &Message| from == creator && !matches!(message, Message::Heartbeat(_));
        world.dropped = Box::new(says_nothing);
        (0..300).for_each(|_| world.step());
        if restarted {
            for i in 1..3 {
                let peer = world.peer(i);
                world.kill(peer);
                world.start(peer);
            }
        }
        let round = world.round(world.peer(1));
        world.run_until(|world| (1..3).all(|i| world.round(world.peer(i)) >= round + 3));
        world.assert_agreement();
    }
}

#[test]
fn a_voter_that_crashed_after_an_election_asks_for_the_next_term() {
    let mut world = World::new(3, terms(1_000, 2));
    world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) == 3));
    // The creator is lost. Another is elected, settles the round, and is lost before anyone hears of it.
    let creator = world.creator;
    world.kill(creator);
    world.dropped = Box::new(|_, _, message| matches!(message, Message::Settled(_) | Message::Settlements(_)));
    let has = |world: &World, i: u8, what: fn(&Event) -> bool| world.nodes[&world.peer(i)].events.iter().any(what);
    let voted: fn(&Event) -> bool = |event| matches!(event, Event::Voted { term, .. } if *term > 0);
    let led: fn(&Event) -> bool = |event| matches!(event, Event::TookOver { .. });
    world.run_until(|world| (1..3).all(|i| has(world, i, voted)));
    let leads = if has(&world, 1, led) { 1 } else { 2 };
    let (leader, voter) = (world.peer(leads), world.peer(3 - leads));
    world.kill(leader);
    world.kill(voter);
    world.dropped = Box::new(|_, _, _| false);
    world.start(voter);
    world.start(creator);
    let round = world.round(voter);
    world.run_until(|world| world.round(voter) >= round + 3 && world.round(creator) >= round + 3);
    world.start(leader);
    world.run_until(|world| world.round(leader) >= round + 3);
    world.assert_agreement();
}

#[test]
fn uses_of_an_invite_are_counted_and_a_revoked_one_is_void() {
    let mut world = World::new(
        1,
        Terms {
            max_members: 9,
            ..terms(5, 3)
        },
    );
    for i in 10..14 {
        world.add(Identity::from_secret([i; 32]), Vec::new());
    }
    let joiner = |i: u8| Identity::from_secret([i; 32]).peer_id();
    let invite = world.invite(2);
    assert!(matches!(world.join(&invite, joiner(10)), Message::Admitted(_)));
    assert!(
        matches!(world.join(&invite, joiner(10)), Message::Admitted(_)),
        "asking again is free"
    );
    assert!(matches!(world.join(&invite, joiner(11)), Message::Admitted(_)));
    assert_eq!(world.join(&invite, joiner(12)), Message::Refused(JoinRefusal::UsedUp));
    let other = world.invite(9);
    let block = *other.block_ids().last().unwrap();
    let creator = world.creator;
    world.give(creator, Input::Command(Command::Revoke(block)));
    assert_eq!(world.join(&other, joiner(13)), Message::Refused(JoinRefusal::Revoked));
    world.kill(creator);
    world.start(creator);
    assert_eq!(
        world.join(&invite, joiner(12)),
        Message::Refused(JoinRefusal::UsedUp),
        "also after a restart"
    );
}

#[test]
fn asking_what_an_invite_brings_changes_nothing() {
    let mut world = World::new(1, terms(5, 3));
    for i in 10..13 {
        world.add(Identity::from_secret([i; 32]), Vec::new());
    }
    let joiner = |i: u8| Identity::from_secret([i; 32]).peer_id();
    let (invite, creator) = (world.invite(2), world.creator);
    // The machine has started and its first deadline is met: what follows is the question's doing alone.
    world.give(creator, Input::Tick);
    let before = world.nodes[&creator].journal.clone();
    for asker in [10, 10, 11, 12] {
        let (answer, others) = world.ask(&invite, joiner(asker));
        let Message::Offer(offer) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((offer.uses_left, offer.members, offer.round), (2, 1, 0));
        assert_eq!((&offer.config[..], others), (&b"config"[..], 0));
    }
    assert_eq!(world.nodes[&creator].journal, before);
    assert!(matches!(world.join(&invite, joiner(10)), Message::Admitted(_)));
    let left = |answer: Message| match answer {
        Message::Offer(offer) => offer.uses_left,
        other => panic!("{other:?}"),
    };
    assert_eq!(left(world.ask(&invite, joiner(11)).0), 1);
    assert!(matches!(world.join(&invite, joiner(11)), Message::Admitted(_)));
    let used_up = Message::Refused(JoinRefusal::UsedUp);
    assert_eq!(world.ask(&invite, joiner(12)).0, used_up);
    assert_eq!(left(world.ask(&invite, joiner(10)).0), 0, "it has its place");
}

#[test]
fn an_equivocator_is_expelled_with_evidence() {
    let mut world = World::new(4, terms(100, 2));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let (creator, culprit) = (world.creator, world.peer(3));
    let machine = world.nodes[&creator].machine.as_ref().unwrap();
    let (round, base) = (machine.round(), machine.settlements().last().unwrap().body.state);
    for payload in [1, 2] {
        let payload = synod_protocol::identity::BlobId([payload; 32]);
        let claim = UpdateClaim {
            round,
            base,
            payload,
            bytes: 10,
            report: Default::default(),
        };
        let signed = Signed::new(&world.nodes[&culprit].identity, SESSION, &Message::Update(claim));
        world.give(
            creator,
            Input::Message {
                message: signed.verify().unwrap(),
                carrier: Some(culprit),
            },
        );
    }
    world.run_until(|world| world.round(world.peer(1)) > round + 1);
    let machine = world.nodes[&world.peer(1)].machine.as_ref().unwrap();
    assert!(machine.roster().get(&culprit).is_none());
    let status = world.nodes[&creator].machine.as_ref().unwrap().status(world.now);
    let evidence = status
        .evidence
        .iter()
        .find(|evidence| evidence.reject == Reject::Equivocation)
        .unwrap();
    assert_eq!(evidence.statements.len(), 2);
}

#[test]
fn a_lying_coordinator_gets_no_votes_and_is_replaced() {
    let mut world = World::new(4, terms(100, 2));
    let creator = world.creator;
    world.run_until(|world| world.round(world.peer(0)) == 3);
    world.nodes.get_mut(&creator).unwrap().lies_about_state = true;
    let round = world.round(world.peer(1));
    world.run_until(|world| (1..4).all(|i| world.round(world.peer(i)) >= round + 3));
    for i in 1..4 {
        let events = &world.nodes[&world.peer(i)].events;
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Event::Banned { peer } if *peer == creator))
        );
    }
}

#[test]
fn lost_messages_are_said_again() {
    let mut world = World::new(4, terms(20, 3));
    let mut count = 0u32;
    world.dropped = Box::new(move |_, _, _| {
        count = count.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        count >> 24 < 80
    });
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) == 21));
    world.assert_agreement();
}
