//! Sentences about agreement by quorum, told with a few machines and no simulator.
//! Random faults, collusion and many seeds are the simulator's business.

#[allow(dead_code, reason = "the federated tests use the rest")]
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use synod_protocol::contract::{Command, Input};
use synod_protocol::identity::{BlobId, BodyId, Identity, PeerId};
use synod_protocol::invite::Admission;
use synod_protocol::journal::{BallotInput, JournalEntry};
use synod_protocol::limits;
use synod_protocol::message::{
    Absence, Ballot, BallotWord, Basis, Body, Heartbeat, Message, Phase, Proposal, Settlement, UpdateClaim,
};
use synod_protocol::reject::Reject;
use synod_protocol::session::{Agreement, Decentralized, Lifecycle, Member, Role, Roles, Roster, Terms, Topology};
use synod_protocol::signed::Signed;
use synod_protocol::task::TrainReport;
use world::{SESSION, World, terms};

fn by_quorum(rounds: u64, members: u32) -> Terms {
    Terms {
        topology: Topology::Decentralized(Decentralized {
            agreement: Agreement::Quorum,
            ..Decentralized::default()
        }),
        ..terms(rounds, members)
    }
}

fn chain(world: &World, node: u8) -> Vec<std::sync::Arc<Settlement>> {
    let machine = world.nodes[&world.peer(node)].machine.as_ref().expect("it runs");
    machine.settlements().to_vec()
}

/// The four members in the order of their ids: in round r and term t it is the turn of number r + t.
fn by_turn(world: &World) -> Vec<PeerId> {
    let mut peers: Vec<PeerId> = (0..4).map(|i| world.peer(i)).collect();
    peers.sort_unstable();
    peers
}

fn is_charged(world: &World, by: PeerId, peer: PeerId) -> bool {
    let machine = world.nodes[&by].machine.as_ref().expect("it runs");
    let status = machine.status(world.now);
    status.evidence.iter().any(|evidence| evidence.peer == peer)
}

/// Runs until the first proposal of the round, and keeps it and all that is its proposer's for the term from everybody.
fn intercept(world: &mut World, round: u64) -> Proposal {
    let caught: Rc<RefCell<Option<Proposal>>> = Rc::default();
    let catch = Rc::clone(&caught);
    world.dropped = Box::new(move |_, _, message| match message {
        Message::Proposal(proposal) if proposal.body.round == round && proposal.term == 0 => {
            catch.borrow_mut().get_or_insert_with(|| Proposal::clone(proposal));
            true
        }
        _ => false,
    });
    world.run_until(|_| caught.borrow().is_some());
    let proposal = caught.borrow().clone();
    proposal.expect("it was caught")
}

/// What a member says, brought by itself.
fn said(world: &World, by: PeerId, message: &Message) -> Input {
    let message = Signed::new(&world.nodes[&by].identity, SESSION, message);
    let message = message.verify().expect("it was signed just now");
    Input::Message {
        message,
        carrier: Some(by),
    }
}

#[test]
fn four_members_settle_every_round_each_proposing_in_turn() {
    let mut world = World::new(4, by_quorum(8, 3));
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) == 9));
    world.assert_agreement();
    let info = world.nodes[&world.peer(0)].machine.as_ref().unwrap().info().clone();
    let chain = chain(&world, 0);
    let mut before = None;
    for settlement in &chain {
        assert_eq!(settlement.objection(&info, before), None, "anyone can check it");
        assert!(settlement.votes.len() >= 3, "more than two thirds of four");
        before = Some(&**settlement);
    }
    let proposers: Vec<_> = chain[1..].iter().map(|settlement| settlement.body.proposer).collect();
    for four in proposers.windows(4) {
        let mut four = four.to_vec();
        four.sort_unstable();
        four.dedup();
        assert_eq!(four.len(), 4, "a turn for each");
    }
    let status = world.nodes[&world.peer(1)].machine.as_ref().unwrap().status(world.now);
    assert_eq!((status.lifecycle, status.majority), (Lifecycle::Finished, 3));
}

#[test]
fn a_certificate_that_lacks_a_vote_of_two_thirds_is_refused() {
    let mut world = World::new(4, by_quorum(2, 3));
    world.run_until(|world| world.round(world.peer(0)) == 3);
    let info = world.nodes[&world.peer(0)].machine.as_ref().unwrap().info().clone();
    let chain = chain(&world, 0);
    let mut votes = chain[1].votes.clone();
    votes.truncate(2);
    let short = Settlement::new(chain[1].body.clone(), chain[1].term, votes);
    let objection = short.objection(&info, Some(&chain[0])).unwrap();
    assert!(objection.contains("too few"), "{objection}");
}

#[test]
fn a_founding_of_fewer_than_the_session_begins_with_is_refused() {
    let mut world = World::new(4, by_quorum(2, 3));
    let founding = intercept(&mut world, 0);
    let creator = world.creator;
    let voter = founding.body.roster.peers().find(|peer| *peer != creator).unwrap();
    let left_out = founding
        .body
        .roster
        .peers()
        .find(|peer| ![creator, voter].contains(peer));
    let mut fewer = founding;
    fewer.body.roster.remove(&left_out.unwrap());
    fewer
        .admissions
        .retain(|admission| Some(admission.verify().unwrap().value().peer) != left_out);
    let lie = said(&world, creator, &Message::Proposal(Box::new(fewer)));
    world.give(voter, lie);
    assert!(is_charged(&world, voter, creator));

    let mut world = World::new(4, by_quorum(2, 3));
    world.run_until(|world| world.round(world.peer(0)) == 1);
    let mut info = world.nodes[&world.peer(0)].machine.as_ref().unwrap().info().clone();
    let founding = &chain(&world, 0)[0];
    assert_eq!(founding.objection(&info, None), None);
    info.terms.begin_members = 5;
    assert!(founding.objection(&info, None).unwrap().contains("fewer trainers"));
}

#[test]
fn one_of_four_may_be_silent_and_two_may_not() {
    let mut world = World::new(4, by_quorum(1_000, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 3);
    world.kill(world.peer(3));
    let round = world.round(world.peer(0));
    world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) >= round + 8));
    world.kill(world.peer(2));
    let paused = |world: &World, node: u8| {
        let machine = world.nodes[&world.peer(node)].machine.as_ref().unwrap();
        machine.status(world.now).lifecycle == Lifecycle::Paused
    };
    world.run_until(|world| paused(world, 0) && paused(world, 1));
    let round = world.round(world.peer(0));
    world.start(world.peer(2));
    world.run_until(|world| (0..3).all(|i| world.round(world.peer(i)) >= round + 3));
    world.assert_agreement();
}

#[test]
fn a_word_that_another_passes_on_is_no_sign_of_life() {
    let mut world = World::new(4, by_quorum(1_000, 2));
    world.run_until(|world| world.round(world.peer(0)) >= 3);
    let (gone, by) = (world.peer(3), world.peer(0));
    world.kill(gone);
    world.kill(world.peer(2));
    let lifecycle = |world: &World| world.nodes[&by].machine.as_ref().unwrap().status(world.now).lifecycle;
    world.run_until(|world| lifecycle(world) == Lifecycle::Paused);
    let (round, term, word) = (world.round(by), 9, BallotWord::Nothing);
    let Input::Message { message, .. } = said(&world, gone, &Message::Ballot(Ballot { round, term, word })) else {
        panic!("it is a message")
    };
    for (carrier, found) in [(world.peer(1), Lifecycle::Paused), (gone, Lifecycle::Running)] {
        let message = message.clone();
        let carrier = Some(carrier);
        world.give(by, Input::Message { message, carrier });
        assert_eq!(lifecycle(&world), found);
    }
}

#[test]
fn a_voter_that_restarts_says_what_it_has_said() {
    let mut world = World::new(4, by_quorum(50, 3));
    let peer = world.peer(1);
    let voted = |world: &World| {
        let own = |entry: &JournalEntry| match entry {
            JournalEntry::Ballots { round: 2, inputs } => inputs.iter().find_map(|input| match input {
                BallotInput::Voted(signed) if signed.signer() == peer => Some(signed.clone()),
                _ => None,
            }),
            _ => None,
        };
        world.nodes[&peer].journal.iter().filter_map(own).collect::<Vec<_>>()
    };
    world.run_until(|world| !voted(world).is_empty());
    world.kill(peer);
    world.start(peer);
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) >= 4));
    world.assert_agreement();
    let stages: std::collections::BTreeSet<_> = voted(&world).iter().map(|vote| vote.to_bytes()).collect();
    assert!(
        stages.len() <= 2,
        "one vote a stage, whatever the restart: {}",
        stages.len()
    );
}

/// The sender of 500 heartbeats of an old term within 50 ms, half the time between two of them, gets one answer.
#[test]
fn heartbeats_that_come_fast_ask_for_no_more_votes() {
    let mut world = World::new(4, by_quorum(50, 3));
    let (by, fast) = (world.peer(0), world.peer(3));
    world.run_until(|world| world.round(by) == 2);
    let sent: Rc<RefCell<Vec<Message>>> = Rc::default();
    let send = Rc::clone(&sent);
    world.dropped = Box::new(move |from, to, message| {
        let vote = matches!(message, Message::Vote(_) | Message::Ballot(_));
        if vote && (from, to) == (by, fast) {
            send.borrow_mut().push(message.clone());
        }
        matches!(message, Message::Proposal(proposal) if proposal.body.round == 2)
    });
    let term = |world: &World, peer: PeerId| world.nodes[&peer].machine.as_ref().unwrap().status(world.now).term;
    world.run_until(|world| (0..4).all(|i| term(world, world.peer(i)) >= 2));
    world.kill(fast);
    let boot = world.now.0;
    let mut beats = 0;
    let mut answers = |world: &mut World, times: u64| {
        let before = sent.borrow().len();
        for _ in 0..times {
            beats += 1;
            let beat = Message::Heartbeat(Heartbeat {
                boot,
                count: beats,
                round: 2,
                term: 0,
                settled: None,
                phase: Phase::Training,
                lifecycle: Lifecycle::Running,
            });
            let beat = said(world, fast, &beat);
            world.give(by, beat);
        }
        let terms: Vec<u32> = sent.borrow()[before..].iter().filter_map(term_of).collect();
        terms
    };
    let own = answers(&mut world, 1);
    assert!(!own.is_empty(), "the first one is answered");
    assert_eq!(answers(&mut world, 499), []);
    world.run_until({
        let until = world.now.after_ms(50);
        move |world| world.now >= until
    });
    let all = answers(&mut world, 500);
    assert!(
        all.len() > own.len() && all.len() <= limits::VOTES_AGAIN,
        "what others said, once"
    );
}

fn term_of(vote: &Message) -> Option<u32> {
    match vote {
        Message::Vote(vote) => Some(vote.term),
        Message::Ballot(ballot) => Some(ballot.term),
        _ => None,
    }
}

/// A member is behind; one that claims a far round is heard before any other, every millisecond, and has no answer.
#[test]
fn who_claims_a_later_round_does_not_keep_others_from_being_asked() {
    let mut world = World::new(4, by_quorum(1_000, 3));
    let (behind, liar) = (world.peer(0), world.peer(3));
    world.run_until(|world| world.round(behind) == 2);
    world.dropped = Box::new(move |_, to, _| to == behind);
    world.run_until(|world| (1..4).all(|i| world.round(world.peer(i)) >= 5));
    world.kill(liar);
    world.dropped = Box::new(|_, _, message| matches!(message, Message::Settled(_)));
    let boot = world.now.0;
    for count in 1..1_000 {
        let beat = Message::Heartbeat(Heartbeat {
            boot,
            count,
            round: 1_000,
            term: 0,
            settled: None,
            phase: Phase::Training,
            lifecycle: Lifecycle::Running,
        });
        let beat = said(&world, liar, &beat);
        world.give(behind, beat);
        world.step();
    }
    assert!(world.round(behind) >= 5);
}

/// Three of four agree; the fourth hears late what two of them said, its own vote is the third, and it dies before the
/// settlement is in its journal.
#[test]
fn a_voter_that_dies_between_its_vote_and_the_settlement_settles_when_it_is_back() {
    let mut world = World::new(4, by_quorum(50, 3));
    let peer = by_turn(&world)[0];
    world.run_until(|world| world.round(peer) == 2);
    let heard: Rc<RefCell<Vec<(PeerId, Message)>>> = Rc::default();
    let hear = Rc::clone(&heard);
    world.dropped = Box::new(move |from, to, message| {
        let counts = matches!(message, Message::Proposal(_) | Message::Vote(_) | Message::Ballot(_));
        if to == peer && counts && message.round() == Some(2) {
            hear.borrow_mut().push((from, message.clone()));
        }
        to == peer
    });
    world.run_until(|world| (0..4).all(|i| world.peer(i) == peer || world.round(world.peer(i)) >= 3));
    world.dropped = Box::new(|_, _, _| true);
    assert_eq!(world.round(peer), 2);
    let (proposals, votes): (Vec<_>, Vec<_>) = heard
        .take()
        .into_iter()
        .partition(|(_, message)| matches!(message, Message::Proposal(_)));
    let third = by_turn(&world)[1];
    let decides = |(from, message): &&(PeerId, Message)| *from == third && matches!(message, Message::Vote(_));
    for (from, message) in votes.iter().filter(|said| !decides(said)).chain(&proposals) {
        let input = said(&world, *from, message);
        world.give(peer, input);
    }
    world.run_until(|world| world.round(peer) == 3);
    let journal = &mut world.nodes.get_mut(&peer).unwrap().journal;
    let settled = |entry: &JournalEntry| matches!(entry, JournalEntry::Settled(settled) if settled.body.round == 2);
    journal.truncate(journal.iter().position(settled).expect("it has settled"));
    world.kill(peer);
    world.start(peer);
    world.run_until(|world| world.round(peer) == 3);
    world.assert_agreement();
}

#[test]
fn who_votes_twice_in_a_stage_is_found_out_and_only_its_first_vote_counts() {
    let mut world = World::new(4, by_quorum(20, 3));
    world.run_until(|world| world.round(world.peer(0)) == 2);
    let liar = Identity::from_secret([4; 32]);
    assert_eq!(liar.peer_id(), world.peer(3));
    for body in [BodyId([1; 32]), BodyId([2; 32])] {
        let word = BallotWord::Prevote(Some(body));
        let ballot = Message::Ballot(Ballot {
            round: 2,
            term: 5,
            word,
        });
        let message = Signed::new(&liar, SESSION, &ballot).verify().unwrap();
        let carrier = Some(liar.peer_id());
        world.give(world.peer(0), Input::Message { message, carrier });
    }
    let machine = world.nodes[&world.peer(0)].machine.as_ref().unwrap();
    let status = machine.status(world.now);
    let evidence = status
        .evidence
        .iter()
        .find(|evidence| evidence.peer == liar.peer_id())
        .unwrap();
    assert_eq!(evidence.reject, Reject::Equivocation);
    assert_eq!(evidence.statements.len(), 2, "the pair proves it");
}

/// The proposer of a term says its good proposal once more, resting on votes that prove nothing: on one of its own for the
/// body, in this term or far ahead, or for no body.
#[test]
fn a_proposal_said_again_proves_nothing() {
    let mut world = World::new(4, by_quorum(20, 3));
    let caught: Rc<RefCell<Option<Proposal>>> = Rc::default();
    let catch = Rc::clone(&caught);
    world.dropped = Box::new(move |_, _, message| {
        if let Message::Proposal(proposal) = message
            && proposal.body.round == 2
        {
            catch.borrow_mut().get_or_insert_with(|| Proposal::clone(proposal));
        }
        false
    });
    world.run_until(|_| caught.borrow().is_some());
    let proposal = caught.borrow().clone().expect("it was caught");
    let members = (1..=4).map(|i| Identity::from_secret([i; 32]));
    let (liars, honest): (Vec<Identity>, Vec<Identity>) =
        members.partition(|member| member.peer_id() == proposal.body.proposer);
    let liar = &liars[0];
    let reached = |world: &World, member: &&Identity| world.round(member.peer_id()) == 2;
    let to = honest
        .iter()
        .find(|member| reached(&world, member))
        .expect("one is in the round")
        .peer_id();
    let body = Some(proposal.body.id(&SESSION));
    let mut say = |justification: Vec<Signed<Message>>| {
        let again = Message::Proposal(Box::new(Proposal {
            justification,
            ..proposal.clone()
        }));
        let message = Signed::new(liar, SESSION, &again).verify().unwrap();
        let carrier = Some(liar.peer_id());
        world.give(to, Input::Message { message, carrier });
    };
    say(Vec::new());
    for (term, body) in [(proposal.term, None), (4_000_000_000, body), (proposal.term, body)] {
        let word = BallotWord::Prevote(body);
        let vote = Message::Ballot(Ballot { round: 2, term, word });
        say(vec![Signed::new(liar, SESSION, &vote)]);
    }
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) >= 5));
    world.assert_agreement();
    let proved = |entry: &JournalEntry| match entry {
        JournalEntry::Ballots { inputs, .. } => inputs.iter().any(|input| matches!(input, BallotInput::Proved(_))),
        _ => false,
    };
    assert!(!world.nodes[&to].journal.iter().any(proved), "nothing was proved");
    let charged = |peer: &Identity| {
        let machine = world.nodes[&to].machine.as_ref().unwrap();
        let status = machine.status(world.now);
        status.evidence.iter().any(|evidence| evidence.peer == peer.peer_id())
    };
    assert!(!honest.iter().any(charged));
}

/// Two proposers in turn do not hear a member that the two others hear. `absent_rounds` is 1, and one of four may lie.
#[test]
fn a_member_whom_some_hear_stays() {
    let terms = Terms {
        absent_rounds: 1,
        ..by_quorum(50, 3)
    };
    let mut world = World::new(4, terms);
    let turns = by_turn(&world);
    let (member, deaf) = (turns[0], [turns[2], turns[3]]);
    let begun = Rc::new(Cell::new(false));
    let deafened = Rc::clone(&begun);
    let mut said = BTreeMap::new();
    world.dropped = Box::new(move |from, to, message| {
        // Who is silent is lost only after a while: each update is said eight times before it is heard.
        let early = matches!(message, Message::Update(claim) if {
            let times: &mut u32 = said.entry((from, to, claim.round)).or_default();
            *times += 1;
            *times <= 8
        });
        deafened.get() && (early || from == member && deaf.contains(&to))
    });
    world.run_until(|world| world.round(deaf[0]) == 2);
    begun.set(true);
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) >= 5));
    world.assert_agreement();
    let chain = chain(&world, 0);
    let rosters = chain.iter().map(|settlement| &settlement.body.roster);
    assert!(rosters.into_iter().all(|roster| roster.get(&member).is_some()));
    let absent = chain[2].body.roster.get(&member).unwrap().absent;
    assert_eq!((chain[2].term, absent), (0, 1), "one proposer's word puts nobody out");
    assert!(chain[3].term > 0, "nor do two words, against what others hear");
    assert!(
        !turns
            .iter()
            .any(|by| deaf.iter().any(|peer| is_charged(&world, *by, *peer)))
    );
}

#[test]
fn nobody_comes_in_whom_the_others_do_not_hear() {
    let mut world = World::new(4, by_quorum(50, 3));
    world.run_until(|world| world.round(world.peer(0)) == 2);
    let gone = Identity::from_secret([5; 32]);
    world.add(gone.clone(), Vec::new());
    let invite = world.invite(8);
    let Message::Admitted(welcome) = world.join(&invite, gone.peer_id()) else {
        panic!("there is room")
    };
    world.kill(gone.peer_id());
    let round = world.round(world.peer(0)) + 1;
    let mut proposal = intercept(&mut world, round);
    let liar = proposal.body.proposer;
    let others: Vec<PeerId> = by_turn(&world).into_iter().filter(|peer| *peer != liar).collect();
    world.run_until(|world| others.iter().all(|peer| world.round(*peer) == round));
    let roles = Roles::of(&[Role::Trainer, Role::Coordinator]);
    let (since, absent) = (round + 1, 0);
    proposal
        .body
        .roster
        .insert(gone.peer_id(), Member { roles, since, absent });
    proposal.admissions = vec![welcome.admission.clone()];
    let present = Message::Present(Box::new(welcome.admission.clone()));
    let message = Signed::new(&gone, SESSION, &present).verify().unwrap();
    let lie = said(&world, liar, &Message::Proposal(Box::new(proposal)));
    for peer in &others {
        let carrier = Some(liar);
        let message = message.clone();
        world.give(*peer, Input::Message { message, carrier });
        world.give(*peer, lie.clone());
    }
    world.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) >= round + 2));
    world.assert_agreement();
    let settled = chain(&world, 0)[round as usize].clone();
    assert!(settled.term > 0 && settled.body.roster.get(&gone.peer_id()).is_none());
    assert!(!others.iter().any(|by| is_charged(&world, *by, liar)));
    world.start(gone.peer_id());
    let listed = |world: &World| {
        chain(world, 0)
            .last()
            .unwrap()
            .body
            .roster
            .get(&gone.peer_id())
            .is_some()
    };
    world.run_until(listed);
}

#[test]
fn a_round_of_the_roster_alone_counts_no_absence() {
    let mut world = World::new(4, by_quorum(50, 3));
    world.run_until(|world| world.round(world.peer(0)) == 2);
    let lost = world.peer(3);
    world.kill(lost);
    world.failing.insert(world.peer(2));
    let joiner = Identity::from_secret([5; 32]);
    world.add(joiner.clone(), Vec::new());
    let invite = world.invite(8);
    world.join(&invite, joiner.peer_id());
    let bare = |world: &World| {
        let chain = chain(world, 0);
        let mut bare = chain.iter().filter(|settlement| settlement.body.used.is_empty());
        bare.find(|settlement| settlement.body.round > 0).cloned()
    };
    world.run_until(|world| bare(world).is_some());
    let body = &bare(&world).unwrap().body;
    assert!(body.missing.contains(&(lost, Absence::Lost)));
    let before = chain(&world, 0)[body.round as usize - 1]
        .body
        .roster
        .get(&lost)
        .copied();
    assert_eq!(body.roster.get(&lost).copied(), before);
    assert!(body.roster.get(&joiner.peer_id()).is_some());
}

#[test]
fn a_body_whose_updates_allow_no_state_is_found_wrong() {
    let mut world = World::new(4, by_quorum(50, 3));
    let turns = by_turn(&world);
    let (liar, others) = (turns[2], [turns[0], turns[1], turns[3]]);
    world.run_until(|world| world.round(liar) == 2);
    world.refusing.extend(others);
    world.run_until(|world| others.iter().all(|by| is_charged(world, *by, liar)));
    world.refusing.clear();
    world.run_until(|world| others.iter().all(|peer| world.round(*peer) >= 5));
    world.assert_agreement();
}

#[test]
fn when_all_have_left_nothing_breaks() {
    let mut world = World::new(4, by_quorum(1_000, 3));
    world.run_until(|world| world.round(world.peer(0)) >= 2);
    let peers: Vec<_> = (0..4).map(|i| world.peer(i)).collect();
    for peer in &peers {
        world.give(*peer, Input::Command(Command::Leave));
    }
    let voters = |world: &World, node: u8| chain(world, node).last().unwrap().body.roster.voters().count();
    world.run_until(|world| (0..4).any(|node| voters(world, node) == 0));
    for peer in &peers {
        world.kill(*peer);
        world.start(*peer);
    }
    let status = world.nodes[&peers[0]].machine.as_ref().unwrap().status(world.now);
    assert!(status.round > 2);
}

/// Each place of the largest session: a member that is convicted and wants to leave, another one that comes in its place,
/// and a vote by which all this is proposed again. Numbers are as long as they can be.
#[test]
fn whatever_may_be_proposed_fits_a_message_with_its_proof() {
    let member = Identity::from_secret([1; 32]);
    let sign = |message: Message| Signed::new(&member, SESSION, &message);
    let (blob, body) = (BlobId([1; 32]), BodyId([1; 32]));
    let claim = sign(Message::Update(UpdateClaim {
        round: u64::MAX,
        base: blob,
        payload: blob,
        bytes: u64::MAX,
        report: TrainReport {
            tokens: u64::MAX,
            steps: u32::MAX,
            wall_ms: u64::MAX,
            ..TrainReport::default()
        },
    }));
    let leave = sign(Message::Leave { round: u64::MAX });
    let (round, term, word) = (u64::MAX, u32::MAX, BallotWord::Prevote(Some(body)));
    let prevote = sign(Message::Ballot(Ballot { round, term, word }));
    let roles = Roles::of(&[Role::Trainer]);
    let peer = member.peer_id();
    let admission = Signed::new(&member, SESSION, &Admission { peer, roles, round });
    let places = limits::QUORUM_MEMBERS;
    let peers = (0..places).map(|place| PeerId(BlobId::of(&place.to_le_bytes()).0));
    let (since, absent) = (u64::MAX, u32::MAX);
    let proposal = Proposal {
        term,
        body: Body {
            round,
            previous: body,
            base: blob,
            state: blob,
            state_bytes: u64::MAX,
            used: Vec::new(),
            missing: vec![(peer, Absence::Refused); places],
            roster: Roster::new(peers.map(|peer| (peer, Member { roles, since, absent }))),
            expelled: vec![peer; places],
            left: vec![peer; places],
            proposer: peer,
            lead: peer,
        },
        claims: Vec::new(),
        admissions: vec![admission; places],
        leaves: vec![leave; places],
        faults: vec![(claim.clone(), claim); places],
        justification: vec![prevote; places],
        basis: Basis::Updates,
    };
    let bytes = sign(Message::Proposal(Box::new(proposal))).to_bytes().len();
    assert!(bytes > limits::MESSAGE_BYTES * 9 / 10, "the bound is near: {bytes}");
    assert!(bytes <= limits::MESSAGE_BYTES, "{bytes}");
}

#[test]
fn terms_that_a_quorum_could_not_live_with_are_refused() {
    let refused = |terms: Terms| terms.check().unwrap_err().to_string();
    let four = |terms: Terms| Terms {
        begin_members: 4,
        ..terms
    };
    assert_eq!(four(by_quorum(5, 3)).check(), Ok(()));
    assert!(refused(by_quorum(5, 3)).contains("begin_members to 4"));
    assert!(refused(four(by_quorum(5, 4))).contains("so that 3 are enough"));
    // 70 of 100 are enough of four, seven and ten, and not of thirteen: ten of them, and four may be silent.
    let of_many = Terms {
        quorum_percent: 70,
        ..four(by_quorum(5, 3))
    };
    assert!(refused(of_many.clone()).contains("4 of 13 members say nothing"));
    let up_to = |max_members: u32, terms: Terms| Terms { max_members, ..terms };
    assert_eq!(up_to(12, of_many).check(), Ok(()));
    let most = limits::QUORUM_MEMBERS as u32;
    assert_eq!(up_to(most, four(by_quorum(5, 3))).check(), Ok(()));
    assert!(refused(up_to(most + 1, four(by_quorum(5, 3)))).contains("set max_members to 900 or less"));
    let digest = Terms {
        verification: synod_protocol::session::Verification::Digest,
        ..four(by_quorum(5, 3))
    };
    assert!(refused(digest).contains("recompute"));
}
