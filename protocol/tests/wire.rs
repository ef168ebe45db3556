//! The wire held still: golden bytes of every message, and decoders that survive anything.
//! When a golden value has to change, the domain's version has to change with it (docs/PROTOCOL.md).

#![allow(clippy::unwrap_used, reason = "a test's helper: a failed unwrap is a failed test")]

use std::sync::Arc;

use proptest::prelude::*;
use synod_protocol::identity::{BlobId, BodyId, Identity, PeerId, SessionId, SignatureBytes};
use synod_protocol::invite::{Admission, Invite, Permission};
use synod_protocol::message::*;
use synod_protocol::session::{Lifecycle, Member, Role, Roles, Roster};
use synod_protocol::shard::{Part, ShardAggregate, ShardResult, ShardStatement};
use synod_protocol::signed::Signed;
use synod_protocol::sum::{SumOpening, SumReply, SumRequest, SumStatement, SumWord};
use synod_protocol::task::{MemberVerdict, Outcome, TrainReport, UpdateRef};

const SESSION: SessionId = SessionId([0xaa; 32]);

fn identity() -> Identity {
    Identity::from_secret([1; 32])
}

fn invite() -> Invite {
    let roles = Roles::of(&[Role::Trainer, Role::Coordinator]);
    let permission = Permission {
        roles,
        expires_unix_s: 1_800_000_000,
        uses: 3,
    };
    let bootstrap = vec!["/ip4/127.0.0.1/udp/4001/quic-v1".to_owned()];
    let randomness = ([2; 32], [3; 16]);
    Invite::issue(&identity(), SESSION, "tiny".into(), bootstrap, permission, randomness).unwrap()
}

fn body() -> Body {
    let peer = PeerId([7; 32]);
    let report = TrainReport {
        train_loss: 1.5,
        heldout_loss: 2.0,
        tokens: 4096,
        steps: 10,
        wall_ms: 700,
    };
    let update = UpdateRef {
        peer,
        payload: BlobId([8; 32]),
        bytes: 1000,
        tokens: 4096,
    };
    let verdict = MemberVerdict {
        peer,
        weight: 1.0,
        outcome: Outcome::Used,
    };
    let member = Member {
        roles: Roles::of(&[Role::Trainer]),
        since: 0,
        absent: 1,
    };
    Body {
        round: 5,
        previous: BodyId([9; 32]),
        base: BlobId([10; 32]),
        state: BlobId([11; 32]),
        state_bytes: 2000,
        used: vec![UsedUpdate {
            update,
            report,
            verdict,
        }],
        missing: vec![(PeerId([12; 32]), Absence::Late)],
        roster: Roster::new([(peer, member)]),
        expelled: vec![],
        left: vec![],
        proposer: peer,
        lead: peer,
    }
}

fn messages() -> Vec<Message> {
    let claim = UpdateClaim {
        round: 5,
        base: BlobId([10; 32]),
        payload: BlobId([8; 32]),
        bytes: 1000,
        report: TrainReport {
            train_loss: 1.5,
            heldout_loss: 2.0,
            tokens: 4096,
            steps: 10,
            wall_ms: 700,
        },
    };
    let admission = Signed::new(
        &identity(),
        SESSION,
        &Admission {
            peer: PeerId([7; 32]),
            roles: Roles::default(),
            round: 0,
        },
    );
    let update = Signed::new(&identity(), SESSION, &Message::Update(claim.clone()));
    let change = TermChange {
        round: 5,
        term: 1,
        locked: Some((0, BodyId([13; 32]))),
    };
    let settlement = || {
        Arc::new(Settlement::new(
            body(),
            1,
            vec![(PeerId([7; 32]), SignatureBytes([14; 64]))],
        ))
    };
    let mut messages = vec![
        Message::Join(Box::new(
            invite().prove(&PeerId([7; 32]), vec!["/ip4/10.0.0.1/tcp/1".into()]),
        )),
        Message::Admitted(Box::new(Welcome {
            admission: admission.clone(),
            config: vec![1, 2, 3],
        })),
        Message::Refused(JoinRefusal::UsedUp),
        Message::Present(Box::new(admission.clone())),
        Message::Heartbeat(Heartbeat {
            boot: 1,
            count: 300,
            round: 5,
            term: 0,
            settled: Some(BodyId([9; 32])),
            phase: Phase::Training,
            lifecycle: Lifecycle::Running,
        }),
        Message::Update(claim),
        Message::Proposal(Box::new(Proposal {
            term: 1,
            body: body(),
            claims: vec![update.clone()],
            admissions: vec![admission],
            leaves: vec![],
            faults: vec![(update.clone(), update)],
            justification: vec![Signed::new(&identity(), SESSION, &Message::TermChange(change))],
            basis: Basis::Updates,
        })),
        Message::Vote(Vote {
            round: 5,
            term: 1,
            body: BodyId([13; 32]),
        }),
        Message::Settled(settlement()),
        Message::TermChange(change),
        Message::CatchUp { from: 3 },
        Message::Settlements(vec![settlement(), settlement()]),
        Message::Leave { round: 5 },
        Message::Ask(Box::new(
            invite().prove(&PeerId([7; 32]), vec!["/ip4/10.0.0.1/tcp/1".into()]),
        )),
        Message::Offer(Box::new(Offer {
            config: vec![1, 2, 3],
            uses_left: 2,
            lifecycle: Lifecycle::Paused,
            round: 5,
            members: 4,
        })),
    ];
    messages.extend(sum_messages(&messages[5]));
    let ballot = |word| {
        Message::Ballot(Ballot {
            round: 5,
            term: 1,
            word,
        })
    };
    messages.push(ballot(BallotWord::Prevote(Some(BodyId([13; 32])))));
    messages.push(ballot(BallotWord::Prevote(None)));
    messages.push(ballot(BallotWord::Nothing));
    messages.extend(shard_messages(&messages[5]));
    messages
}

/// One of each statement about shards, and a proposal that rests on results.
fn shard_messages(update: &Message) -> Vec<Message> {
    let Message::Update(claim) = update else {
        panic!("the sixth message is an update")
    };
    let said = |statement| Message::Shard(Box::new(statement));
    let part = |blob| Part {
        blob: BlobId([blob; 32]),
        bytes: 500,
    };
    let update = said(ShardStatement::Update {
        claim: claim.clone(),
        parts: vec![part(14), part(15)],
    });
    let claims = vec![Signed::new(&identity(), SESSION, &update)];
    let result = said(ShardStatement::Result(ShardResult {
        round: 5,
        term: 1,
        selection: [16; 32],
        shard: 1,
        combined: ShardAggregate {
            part: part(17),
            verdicts: vec![(1.0, Outcome::Used)],
        },
    }));
    let proposed = Proposal {
        term: 1,
        body: body(),
        claims: claims.clone(),
        admissions: vec![],
        leaves: vec![],
        faults: vec![],
        justification: vec![],
        basis: Basis::Shards(vec![Signed::new(&identity(), SESSION, &result)]),
    };
    let selection = ShardStatement::Selection {
        round: 5,
        term: 1,
        claims,
    };
    let missing = ShardStatement::Missing {
        round: 5,
        term: 1,
        selection: [16; 32],
        shard: 1,
        peer: PeerId([7; 32]),
    };
    vec![
        update,
        said(selection),
        result,
        said(missing),
        Message::Proposal(Box::new(proposed)),
    ]
}

#[test]
fn a_shards_result_is_these_bytes() {
    let messages = messages();
    let result = messages
        .iter()
        .find(|message| message.kind() == "shard_result")
        .unwrap();
    let bytes = Signed::new(&identity(), SESSION, result).to_bytes();
    let combined = [vec![17; 32], vec![0xf4, 3, 1, 0, 0, 0x80, 0x3f, 0]].concat();
    let body = [vec![17, 2, 5, 1], vec![16; 32], vec![1], combined].concat();
    let expected = [vec![0xaa; 32], identity().peer_id().0.to_vec(), vec![77], body].concat();
    assert_eq!(bytes[..bytes.len() - 64], expected[..]);
}

/// One of each step of a secure sum, and a proposal that opens one.
fn sum_messages(update: &Message) -> Vec<Message> {
    let Message::Update(claim) = update else {
        panic!("the sixth message is an update")
    };
    let said = |word| {
        Message::Sum(Box::new(SumStatement {
            round: 5,
            term: 1,
            word,
        }))
    };
    let keys = said(SumWord::Keys(vec![1; 96]));
    let signed = Signed::new(&identity(), SESSION, &keys);
    let masked = said(SumWord::Masked(claim.clone()));
    let share = said(SumWord::Share((PeerId([7; 32]), vec![2; 80])));
    let share = Signed::new(&identity(), SESSION, &share);
    let opened = Proposal {
        term: 1,
        body: body(),
        claims: vec![Signed::new(&identity(), SESSION, &masked)],
        admissions: vec![],
        leaves: vec![],
        faults: vec![],
        justification: vec![],
        basis: Basis::Opening(SumOpening {
            term: 0,
            keys: vec![signed.clone()],
            seeds: vec![[3; 32]],
            mask_keys: vec![],
        }),
    };
    vec![
        keys,
        said(SumWord::Roster(vec![signed])),
        said(SumWord::Shares(vec![share.clone()])),
        said(SumWord::Delivery(vec![share])),
        masked,
        said(SumWord::Request(SumRequest {
            survivors: vec![PeerId([7; 32])],
            dropped: vec![PeerId([8; 32])],
        })),
        said(SumWord::Reply(SumReply {
            of_survivors: vec![[4; 32]],
            of_dropped: vec![[5; 32]],
        })),
        Message::Proposal(Box::new(opened)),
    ]
}

#[test]
fn a_request_to_unmask_is_these_bytes() {
    let request = Message::Sum(Box::new(SumStatement {
        round: 5,
        term: 1,
        word: SumWord::Request(SumRequest {
            survivors: vec![PeerId([7; 32])],
            dropped: vec![PeerId([8; 32])],
        }),
    }));
    let bytes = Signed::new(&identity(), SESSION, &request).to_bytes();
    let body = [vec![15, 5, 1, 5, 1], vec![7; 32], vec![1], vec![8; 32]].concat();
    let expected = [vec![0xaa; 32], identity().peer_id().0.to_vec(), vec![70], body].concat();
    assert_eq!(bytes[..bytes.len() - 64], expected[..]);
}

/// Kind, length and BLAKE3 (first 8 bytes) of each message's signed wire form under a fixed key.
const GOLDEN: &[(&str, usize, &str)] = &[
    ("join", 470, "bf228bcaaddc6044"),
    ("admitted", 298, "203fcb9cd59b9e06"),
    ("refused", 131, "88d5dd83e2917a9b"),
    ("present", 294, "91b07e386c41a6a8"),
    ("heartbeat", 170, "c538c6f2bcc9d42b"),
    ("update", 210, "7bb9f078f95ffab4"),
    ("proposal", 1451, "f4eb99f160aa00dd"),
    ("vote", 164, "3831a39076313f94"),
    ("settled", 583, "3bb3608a5394db12"),
    ("term_change", 166, "8351f8caef67e1a5"),
    ("catch_up", 131, "2dd05aee02ebcc69"),
    ("settlements", 1036, "1eaf2ab20256a6cd"),
    ("leave", 131, "61af499d029a1c28"),
    ("ask", 470, "cc555af7b71be6d8"),
    ("offer", 138, "e7aa049113b79f33"),
    ("sum_keys", 230, "0bb6dd5ddaa56462"),
    ("sum_roster", 365, "53b64774acac552c"),
    ("sum_shares", 381, "857df735813c5883"),
    ("sum_delivery", 381, "f0d61517da571207"),
    ("sum_masked", 213, "c4a5439acfaaff93"),
    ("sum_request", 199, "d51880e2db9a0e7d"),
    ("sum_reply", 199, "b4900a628141c827"),
    ("proposal", 971, "e5429f583440445e"),
    ("ballot", 166, "ccb0908c3628a1e9"),
    ("ballot", 134, "c2fe00d0f6e595ef"),
    ("ballot", 133, "8193d37e14fb7629"),
    ("update", 281, "dc45a820c9b57a82"),
    ("selection", 416, "f792c5d9224a0e29"),
    ("shard_result", 206, "6387e98f633d2b5c"),
    ("part_missing", 198, "4744c9aed628a194"),
    ("proposal", 980, "255c9d25d8d53605"),
];

#[test]
fn every_message_has_its_golden_bytes() {
    let wire = |message: &Message| Signed::new(&identity(), SESSION, message).to_bytes();
    let found: Vec<_> = messages()
        .iter()
        .map(|message| {
            let bytes = wire(message);
            (
                message.kind(),
                bytes.len(),
                hex::encode(&blake3::hash(&bytes).as_bytes()[..8]),
            )
        })
        .collect();
    let golden: Vec<_> = GOLDEN
        .iter()
        .map(|(kind, length, hash)| (*kind, *length, (*hash).to_owned()))
        .collect();
    assert_eq!(found, golden);
}

#[test]
fn a_vote_is_these_bytes() {
    let vote = Message::Vote(Vote {
        round: 5,
        term: 1,
        body: BodyId([13; 32]),
    });
    let bytes = Signed::new(&identity(), SESSION, &vote).to_bytes();
    let body = [vec![7, 5, 1], vec![13; 32]].concat();
    let expected = [vec![0xaa; 32], identity().peer_id().0.to_vec(), vec![35], body].concat();
    assert_eq!(bytes[..bytes.len() - 64], expected[..]);
}

#[test]
fn every_message_reads_back() {
    for message in messages() {
        let bytes = Signed::new(&identity(), SESSION, &message).to_bytes();
        let back = Signed::<Message>::from_bytes(&bytes).unwrap().verify().unwrap();
        assert_eq!(back.value(), &message);
        assert!(message.within_limits());
    }
}

#[test]
fn no_prefix_of_a_message_passes() {
    for message in messages() {
        let bytes = Signed::new(&identity(), SESSION, &message).to_bytes();
        for cut in (0..bytes.len()).step_by(7) {
            assert!(
                Signed::<Message>::from_bytes(&bytes[..cut]).is_err(),
                "{} cut at {cut}",
                message.kind()
            );
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let passed = Signed::<Message>::from_bytes(&bytes).and_then(|signed| signed.verify());
        prop_assert!(passed.is_err());
    }

    /// A correct signature over a damaged body: decoding is all that protects then.
    #[test]
    fn damaged_bodies_never_panic(which in 0usize..31, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = postcard::to_stdvec(&messages()[which]).unwrap();
        let at = at.index(body.len());
        body[at] = byte;
        if let Ok(message) = postcard::from_bytes::<Message>(&body) {
            prop_assert!(!message.kind().is_empty());
            message.within_limits();
        }
    }

    #[test]
    fn random_keys_never_panic(text in "synod1[a-z2-7]{0,500}") {
        prop_assert!(Invite::parse(&text, 0).is_err());
    }
}
