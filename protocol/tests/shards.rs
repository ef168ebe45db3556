//! Sentences about a session whose vector is in shards, told with a few machines and no simulator.
//! That the arithmetic of ranges is that of the whole, `aggregation/tests/shards.rs` and the simulator show.

#[allow(dead_code, reason = "the federated tests use the rest")]
mod world;

use synod_protocol::contract::Input;
use synod_protocol::event::Event;
use synod_protocol::identity::PeerId;
use synod_protocol::journal::JournalEntry;
use synod_protocol::message::{Basis, Message, Proposal, UpdateClaim};
use synod_protocol::reject::Reject;
use synod_protocol::session::{Sharded, Terms, Topology, Verification};
use synod_protocol::shard::{ShardStatement, selection_id};
use synod_protocol::signed::Signed;
use synod_protocol::task::{TrainReport, UpdateRef};
use world::{SESSION, World, terms};

fn sharded(rounds: u64, members: u32, shards: u32) -> Terms {
    Terms {
        topology: Topology::Sharded(Sharded { shards }),
        ..terms(rounds, members)
    }
}

/// Who has refused what of whom.
fn rejected(world: &World, by: PeerId) -> Vec<(PeerId, Reject)> {
    let events = world.nodes[&by].events.iter();
    events
        .filter_map(|event| match event {
            Event::Rejected { peer, reject, .. } => Some((*peer, *reject)),
            _ => None,
        })
        .collect()
}

/// The results that round `round`'s proposal of term 0 rested on.
fn results(world: &World, proposer: PeerId, round: u64) -> Vec<Signed<Message>> {
    let (_, proposal) = proposed(world, proposer, round);
    let Basis::Shards(results) = proposal.basis else {
        panic!("a proposal with updates rests on results")
    };
    results
}

fn proposed(world: &World, proposer: PeerId, of: u64) -> (Signed<Message>, Proposal) {
    let mut journal = world.nodes[&proposer].journal.iter();
    let found = journal.find_map(|entry| match entry {
        JournalEntry::Proposed { round, proposal, .. } if *round == of => Some(proposal.clone()),
        _ => None,
    });
    let signed = found.expect("the round was proposed");
    let verified = signed.verify().expect("signed here");
    let Message::Proposal(proposal) = verified.value() else {
        panic!("a {} in the place of a proposal", verified.value().kind())
    };
    (signed, (**proposal).clone())
}

#[test]
fn members_settle_all_rounds_by_two_equal_results_a_shard() {
    for (members, shards) in [(2, 2), (3, 2), (4, 3), (7, 4)] {
        let mut world = World::new(members, sharded(4, u32::from(members), shards));
        world.run_until(|world| (0..members).all(|i| world.round(world.peer(i)) == 5));
        world.assert_agreement();
        let results = results(&world, world.creator, 2);
        assert_eq!(results.len(), 2 * shards as usize, "{members} members");
        assert!((0..members).all(|i| rejected(&world, world.peer(i)).is_empty()));
    }
}

#[test]
fn a_session_of_one_combines_its_shards_alone() {
    let mut world = World::new(1, sharded(3, 1, 2));
    world.run_until(|world| world.round(world.peer(0)) == 4);
}

#[test]
fn who_signs_a_wrong_aggregate_is_found_out_by_every_voter() {
    let mut world = World::new(5, sharded(6, 4, 3));
    let liar = world.peer(3);
    world.nodes.get_mut(&liar).unwrap().lies_about_state = true;
    world.run_until(|world| [0, 1, 2, 4].iter().all(|i| world.round(world.peer(*i)) == 7));
    world.assert_agreement();
    for honest in [0, 1, 2, 4].map(|i| world.peer(i)) {
        assert!(
            rejected(&world, honest).contains(&(liar, Reject::WrongState)),
            "{honest} did not notice"
        );
    }
}

#[test]
fn a_lost_aggregator_costs_a_wait_and_no_round() {
    for wait in 0..12 {
        let mut world = World::new(4, sharded(1_000, 3, 4));
        world.run_until(|world| world.round(world.peer(0)) == 3);
        (0..wait).for_each(|_| world.step());
        let lost = world.peer(3);
        world.kill(lost);
        let round = world.round(world.peer(0));
        world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) >= round + 3));
        world.assert_agreement();
    }
}

#[test]
fn a_lost_coordinator_is_replaced_whatever_it_had_selected() {
    for wait in 0..16 {
        World::new(4, sharded(1_000, 3, 2)).loses_its_creator(wait);
    }
}

#[test]
fn who_delivers_no_part_is_left_out_and_the_others_are_selected_anew() {
    let mut world = World::new(4, sharded(200, 3, 2));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let silent = world.peer(2);
    // Its announcement arrives, its blobs do not: it dies once it has told.
    let told = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = told.clone();
    world.dropped = Box::new(move |from, _, message| {
        let of_silent = from == silent && message.kind() == "update";
        seen.set(seen.get() || of_silent);
        false
    });
    world.run_until(|_| told.get());
    world.kill(silent);
    let round = world.round(world.creator);
    world.run_until(|world| world.round(world.creator) >= round + 2);
    let creator = world.nodes[&world.creator].machine.as_ref().unwrap();
    let body = &creator.settlements()[round as usize].body;
    assert!(body.missing.iter().any(|(peer, _)| *peer == silent), "{body:?}");
    world.assert_agreement();
}

#[test]
fn lost_selections_and_results_are_said_again() {
    let mut world = World::new(4, sharded(5, 4, 4));
    // Half of them, without a pattern (Numerical Recipes' generator).
    let mut random = 7u32;
    world.dropped = Box::new(move |_, _, message| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        matches!(message, Message::Shard(_)) && random >> 31 == 1
    });
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) == 6));
    world.assert_agreement();
}

#[test]
fn an_update_in_one_piece_is_refused() {
    let mut world = World::new(3, sharded(50, 2, 2));
    world.run_until(|world| world.round(world.peer(0)) == 2);
    let (sender, creator) = (world.peer(1), world.creator);
    let base = world.nodes[&creator].machine.as_ref().unwrap().settlements()[1]
        .body
        .state;
    let claim = Message::Update(UpdateClaim {
        round: 2,
        base,
        payload: base,
        bytes: 10,
        report: TrainReport::default(),
    });
    let message = Signed::new(&world.nodes[&sender].identity, SESSION, &claim);
    let input = Input::Message {
        message: message.verify().unwrap(),
        carrier: Some(sender),
    };
    world.give(creator, input);
    assert!(rejected(&world, creator).contains(&(sender, Reject::NotEntitled)));
}

/// Gives a voter the proposal of a round, bent, and tells what it made of it.
fn shown(bend: impl FnOnce(&World, &mut Proposal, &mut Vec<Signed<Message>>)) -> Vec<(PeerId, Reject)> {
    let mut world = World::new(4, sharded(50, 4, 2));
    let (creator, voter) = (world.creator, world.peer(2));
    // The voter never hears of the real proposal.
    world.dropped = Box::new(move |from, to, message| {
        from == creator && to == voter && matches!(message, Message::Proposal(proposal) if proposal.body.round == 2)
    });
    world.run_until(|world| {
        world.nodes[&creator]
            .journal
            .iter()
            .any(|entry| matches!(entry, JournalEntry::Proposed { round: 2, .. }))
    });
    let (_, mut proposal) = proposed(&world, creator, 2);
    let mut results = proposal.basis.results().to_vec();
    bend(&world, &mut proposal, &mut results);
    proposal.basis = Basis::Shards(results);
    let message = Signed::new(
        &world.nodes[&creator].identity,
        SESSION,
        &Message::Proposal(Box::new(proposal)),
    );
    let input = Input::Message {
        message: message.verify().expect("signed here"),
        carrier: Some(creator),
    };
    world.give(voter, input);
    rejected(&world, voter)
}

#[test]
fn results_that_nobody_was_asked_for_are_no_basis() {
    let refused = |found: Vec<(PeerId, Reject)>| found.iter().any(|(_, reject)| *reject == Reject::BadProposal);
    assert!(!refused(shown(|_, _, _| {})), "as it was");
    assert!(
        !refused(shown(|_, _, results| _ = results.pop())),
        "one fewer is combined by the voter"
    );
    assert!(refused(shown(|_, _, results| results.swap(0, 1))), "out of order");
    assert!(refused(shown(|world, proposal, results| {
        // A result of the right updates, signed by one whose shard it is not.
        let verified = results[0].verify().unwrap();
        let Message::Shard(statement) = verified.value() else {
            return;
        };
        let ShardStatement::Result(result) = &**statement else {
            return;
        };
        let updates: Vec<UpdateRef> = proposal.body.used.iter().map(|used| used.update.clone()).collect();
        assert_eq!(
            result.selection,
            selection_id(&SESSION, 2, &proposal.body.base, &updates)
        );
        let pair: Vec<PeerId> = results[..2].iter().map(Signed::signer).collect();
        let stranger = world
            .nodes
            .values()
            .find(|node| !pair.contains(&node.identity.peer_id()))
            .unwrap();
        *results = vec![Signed::new(&stranger.identity, SESSION, verified.value())];
    })));
    assert!(refused(shown(|world, _, results| {
        // A genuine result of another selection.
        let verified = results[0].verify().unwrap();
        let Message::Shard(statement) = verified.value() else {
            return;
        };
        let ShardStatement::Result(result) = &**statement else {
            return;
        };
        let mut other = result.clone();
        other.selection = [9; 32];
        let signer = &world.nodes[&results[0].signer()].identity;
        results[0] = Signed::new(
            signer,
            SESSION,
            &Message::Shard(Box::new(ShardStatement::Result(other))),
        );
    })));
}

#[test]
fn terms_that_shards_cannot_have_are_refused_with_the_reason() {
    let refused = |terms: Terms| terms.check().unwrap_err().to_string();
    assert!(refused(sharded(5, 4, 1)).contains("2 to 64"));
    assert!(refused(sharded(5, 4, 65)).contains("2 to 64"));
    let many = Terms {
        max_members: 3,
        ..sharded(5, 3, 4)
    };
    assert!(refused(many).contains("max_members = 3"));
    let digest = Terms {
        verification: Verification::Digest,
        ..sharded(5, 4, 2)
    };
    assert!(refused(digest).contains("recompute"));
    let crowd = Terms {
        max_members: 2_000,
        ..sharded(5, 4, 64)
    };
    assert!(refused(crowd).contains("a message"));
    assert_eq!(sharded(5, 4, 4).check(), Ok(()));
}
