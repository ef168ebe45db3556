//! A few machines on a table: messages arrive in order after one millisecond, computations are instant and made of hashes.
//! It has no faults beyond those that a test asks for; the simulator in `testnet` is where faults live.

#![allow(clippy::unwrap_used, reason = "a test's helper: a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use synod_protocol::contract::{FetchFailure, Input, Output, Time};
use synod_protocol::event::Event;
use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId};
use synod_protocol::invite::{Invite, InviteProof, Permission};
use synod_protocol::journal::JournalEntry;
use synod_protocol::machine::Machine;
use synod_protocol::message::Message;
use synod_protocol::session::{DeadlineConfig, Role, Roles, SessionInfo, Terms};
use synod_protocol::shard::{Part, ShardAggregate, ShardDone, ShardSource, ShardTask};
use synod_protocol::signed::Signed;
use synod_protocol::task::{MemberVerdict, Outcome, Share, Task, TaskFailure, TaskResult, TrainReport, UpdateRef};

pub const SESSION: SessionId = SessionId([77; 32]);

pub struct Node {
    pub identity: Identity,
    pub machine: Option<Machine>,
    pub journal: Vec<JournalEntry>,
    pub blobs: BTreeSet<BlobId>,
    pub members: Vec<PeerId>,
    pub events: Vec<Event>,
    pub lies_about_state: bool,
}

/// Says whether a message from one peer to another is lost.
pub type Filter = Box<dyn FnMut(PeerId, PeerId, &Message) -> bool>;

type Answer = Box<dyn FnOnce(BlobId, u64) -> TaskResult>;

pub struct World {
    pub now: Time,
    pub nodes: BTreeMap<PeerId, Node>,
    pub terms: Terms,
    pub creator: PeerId,
    pub dropped: Filter,
    /// Whose local steps and initial states fail.
    pub failing: BTreeSet<PeerId>,
    /// How often each combined updates.
    pub combined: BTreeMap<PeerId, u32>,
    /// Who finds that updates allow no state.
    pub refusing: BTreeSet<PeerId>,
    queue: VecDeque<(PeerId, Input)>,
}

pub fn terms(rounds: u64, members: u32) -> Terms {
    Terms {
        rounds,
        min_members: members,
        heartbeat_ms: 100,
        lost_after_ms: 500,
        deadline: DeadlineConfig {
            floor_ms: 200,
            cap_ms: 5_000,
            k: 6,
        },
        ..Terms::default()
    }
}

impl World {
    /// `n` admitted nodes; the first one created the session.
    pub fn new(n: u8, terms: Terms) -> Self {
        let terms = Terms {
            begin_members: u32::from(n),
            ..terms
        };
        let identity = |i: u8| Identity::from_secret([i + 1; 32]);
        let creator = identity(0).peer_id();
        let mut world = Self {
            now: Time(1_000_000),
            nodes: BTreeMap::new(),
            terms,
            creator,
            dropped: Box::new(|_, _, _| false),
            failing: BTreeSet::new(),
            combined: BTreeMap::new(),
            refusing: BTreeSet::new(),
            queue: VecDeque::new(),
        };
        for i in 0..n {
            world.add(identity(i), Vec::new());
        }
        let invite = world.invite(u32::from(n));
        for i in 1..n {
            world.join(&invite, identity(i).peer_id());
        }
        world
    }

    pub fn add(&mut self, identity: Identity, journal: Vec<JournalEntry>) {
        let peer = identity.peer_id();
        let node = Node {
            identity,
            machine: None,
            journal,
            blobs: BTreeSet::new(),
            members: Vec::new(),
            events: Vec::new(),
            lies_about_state: false,
        };
        self.nodes.insert(peer, node);
        if peer == self.creator {
            self.start(peer);
        }
    }

    pub fn invite(&self, uses: u32) -> Invite {
        self.invite_as(&[Role::Trainer, Role::Coordinator], uses)
    }

    pub fn invite_as(&self, roles: &[Role], uses: u32) -> Invite {
        let issuer = &self.nodes[&self.creator].identity;
        let roles = Roles::of(roles);
        let permission = Permission {
            roles,
            expires_unix_s: self.now.0 / 1000 + 3600,
            uses,
        };
        Invite::issue(issuer, SESSION, "test".into(), vec![], permission, ([50; 32], [51; 16])).unwrap()
    }

    /// Shows the invite to the issuer; on a yes the joiner's machine starts.
    pub fn join(&mut self, invite: &Invite, joiner: PeerId) -> Message {
        let (answer, _) = self.show(invite, joiner, Message::Join);
        if let Message::Admitted(welcome) = &answer {
            let entry = JournalEntry::OwnAdmission(welcome.admission.clone());
            self.nodes.get_mut(&joiner).unwrap().journal.push(entry);
            self.start(joiner);
        }
        answer
    }

    /// Asks the issuer what the invite would bring: its answer, and how many other outputs there were.
    pub fn ask(&mut self, invite: &Invite, joiner: PeerId) -> (Message, usize) {
        self.show(invite, joiner, Message::Ask)
    }

    fn show(&mut self, invite: &Invite, joiner: PeerId, question: fn(Box<InviteProof>) -> Message) -> (Message, usize) {
        let identity = self.nodes[&joiner].identity.clone();
        let question = question(Box::new(invite.prove(&joiner, vec![])));
        let question = Signed::new(&identity, SESSION, &question);
        let now = self.now;
        let issuer = self.nodes.get_mut(&self.creator).unwrap();
        let outputs = issuer.machine.as_mut().unwrap().handle(
            now,
            Input::Message {
                message: question.verify().unwrap(),
                carrier: Some(joiner),
            },
        );
        let answer = outputs.iter().find_map(|output| match output {
            Output::Send { to, message } if *to == joiner => Some(message.verify().unwrap().value().clone()),
            _ => None,
        });
        let others = outputs.len() - 1;
        self.execute(self.creator, outputs);
        (answer.expect("an issuer answers whoever shows a key"), others)
    }

    pub fn start(&mut self, peer: PeerId) {
        let info = SessionInfo {
            session: SESSION,
            name: "test".into(),
            creator: self.creator,
            terms: self.terms.clone(),
            sums: None,
            steps: None,
            config: Arc::from(&b"config"[..]),
        };
        let node = self.nodes.get_mut(&peer).unwrap();
        node.machine = Some(Machine::new(
            node.identity.clone(),
            info,
            node.journal.clone(),
            self.now,
        ));
        self.queue.push_back((peer, Input::Tick));
    }

    /// The process dies: memory is gone, journal and blobs stay.
    pub fn kill(&mut self, peer: PeerId) {
        self.nodes.get_mut(&peer).unwrap().machine = None;
        self.queue.retain(|(to, _)| *to != peer);
    }

    pub fn peer(&self, index: u8) -> PeerId {
        Identity::from_secret([index + 1; 32]).peer_id()
    }

    pub fn events(&self, index: u8) -> impl Iterator<Item = &Event> {
        self.nodes[&self.peer(index)].events.iter()
    }

    pub fn round(&self, peer: PeerId) -> u64 {
        self.nodes[&peer].machine.as_ref().map_or(0, Machine::round)
    }

    /// Runs until `done`, or panics after a minute of the world's time with every node's status.
    pub fn run_until(&mut self, mut done: impl FnMut(&World) -> bool) {
        let end = self.now.after_ms(60_000);
        while !done(self) {
            if self.now > end {
                for node in self.nodes.values().filter_map(|node| node.machine.as_ref()) {
                    eprintln!("{:#?}", node.status(self.now));
                }
                panic!("not reached within a minute of the world's time");
            }
            self.step();
        }
    }

    /// In a world of four: the creator is killed so many milliseconds into round 3, the others go on, and it comes back to them.
    pub fn loses_its_creator(mut self, wait_ms: u64) {
        let creator = self.creator;
        self.run_until(|world| world.round(world.peer(1)) == 3);
        (0..wait_ms).for_each(|_| self.step());
        self.kill(creator);
        let round = self.round(self.peer(1));
        self.run_until(|world| (1..4).all(|i| world.round(world.peer(i)) >= round + 3));
        self.start(creator);
        let round = self.round(self.peer(1));
        self.run_until(|world| (0..4).all(|i| world.round(world.peer(i)) >= round + 3));
        self.assert_agreement();
    }

    pub fn step(&mut self) {
        self.now = self.now.after_ms(1);
        for (peer, input) in std::mem::take(&mut self.queue) {
            self.give(peer, input);
        }
        let due = |node: &Node, now| {
            node.machine
                .as_ref()
                .and_then(Machine::next_deadline)
                .is_some_and(|at| at <= now)
        };
        let peers: Vec<PeerId> = self
            .nodes
            .iter()
            .filter(|(_, node)| due(node, self.now))
            .map(|(peer, _)| *peer)
            .collect();
        peers.into_iter().for_each(|peer| self.give(peer, Input::Tick));
    }

    pub fn give(&mut self, peer: PeerId, input: Input) {
        let now = self.now;
        let Some(machine) = self.nodes.get_mut(&peer).and_then(|node| node.machine.as_mut()) else {
            return;
        };
        let outputs = machine.handle(now, input);
        self.execute(peer, outputs);
    }

    fn execute(&mut self, peer: PeerId, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Persist(entry) => self.nodes.get_mut(&peer).unwrap().journal.push(entry),
                Output::Send { to, message } => self.deliver(peer, to, &message),
                Output::Broadcast(message) => {
                    for to in self.nodes[&peer].members.clone() {
                        self.deliver(peer, to, &message);
                    }
                }
                Output::Compute { job, task } => {
                    let fails = matches!(task, Task::Train { .. } | Task::Initialise) && self.failing.contains(&peer);
                    let refuses = matches!(task, Task::Aggregate { .. }) && self.refusing.contains(&peer);
                    let result = match (fails, refuses) {
                        (true, _) => Err(TaskFailure::Environment("the disk is full".into())),
                        (_, true) => Err(TaskFailure::Unusable("too few can be decoded".into())),
                        _ if self.terms.shards().is_some() => Ok(self.compute_in_shards(peer, task)),
                        _ => Ok(self.compute(peer, task)),
                    };
                    self.queue.push_back((peer, Input::Computed { job, result }));
                }
                Output::Fetch { job, blob, from, .. } => {
                    let has = |holder: &PeerId| {
                        self.nodes
                            .get(holder)
                            .is_some_and(|node| node.machine.is_some() && node.blobs.contains(&blob))
                    };
                    let found = self.nodes[&peer].blobs.contains(&blob) || from.iter().any(has);
                    if found {
                        self.nodes.get_mut(&peer).unwrap().blobs.insert(blob);
                    }
                    let result = if found { Ok(()) } else { Err(FetchFailure::Unavailable) };
                    self.queue.push_back((peer, Input::Fetched { job, result }));
                }
                Output::Members(members) => self.nodes.get_mut(&peer).unwrap().members = members,
                Output::Event(event) => self.nodes.get_mut(&peer).unwrap().events.push(event),
                Output::Cancel(_) | Output::Ban(_) | Output::Retire { .. } => {}
            }
        }
    }

    fn deliver(&mut self, from: PeerId, to: PeerId, message: &Signed<Message>) {
        let verified = message.verify().unwrap();
        if !(self.dropped)(from, to, verified.value()) {
            self.queue.push_back((
                to,
                Input::Message {
                    message: verified,
                    carrier: Some(from),
                },
            ));
        }
    }

    fn compute(&mut self, peer: PeerId, task: Task) -> TaskResult {
        let node = self.nodes.get_mut(&peer).unwrap();
        let (blob, result): (Vec<u8>, Answer) = match task {
            Task::Initialise => (
                b"initial".to_vec(),
                Box::new(|state, bytes| TaskResult::Initialised { state, bytes }),
            ),
            Task::Train { round, .. } => {
                let report = TrainReport {
                    tokens: 10,
                    heldout_loss: f32::NAN,
                    ..TrainReport::default()
                };
                let bytes = format!("update {round} of {peer}").into_bytes();
                (
                    bytes,
                    Box::new(move |payload, bytes| TaskResult::Trained { payload, bytes, report }),
                )
            }
            Task::Mix { round, own, neighbours } => {
                let (verdicts, bytes) = mixed(round, own, &neighbours);
                (
                    bytes,
                    Box::new(move |state, bytes| TaskResult::Mixed {
                        state,
                        bytes,
                        verdicts,
                        distance: f32::NAN,
                    }),
                )
            }
            Task::Aggregate { base, updates, .. } => {
                *self.combined.entry(peer).or_default() += 1;
                let lie = node.lies_about_state;
                let verdict = |peer| MemberVerdict {
                    peer,
                    weight: 1.0,
                    outcome: Outcome::Used,
                };
                let verdicts = updates.iter().map(|update| verdict(update.peer)).collect();
                let bytes =
                    format!("state of {base} and {updates:?}{}", if lie { " and a lie" } else { "" }).into_bytes();
                (
                    bytes,
                    Box::new(move |state, bytes| TaskResult::Aggregated { state, bytes, verdicts }),
                )
            }
            Task::Evaluate { .. } => return TaskResult::Evaluated { loss: 1.0, tokens: 10 },
            Task::Sum(task) => panic!("{task:?} in a session without secure sums"),
            Task::Shard(task) => panic!("{task:?} in a session without shards"),
        };
        let id = BlobId::of(&blob);
        node.blobs.insert(id);
        result(id, blob.len() as u64)
    }

    fn compute_in_shards(&mut self, peer: PeerId, task: Task) -> TaskResult {
        let shards = self.terms.shards().unwrap();
        let lie = self.nodes[&peer].lies_about_state;
        let mut put = |bytes: Vec<u8>| {
            let part = Part {
                blob: BlobId::of(&bytes),
                bytes: bytes.len() as u64,
            };
            self.nodes.get_mut(&peer).unwrap().blobs.insert(part.blob);
            part
        };
        let mut combine = |shard: u32, parts: &[UpdateRef], lie: bool| ShardAggregate {
            part: put(format!("shard {shard} of {parts:?}{}", if lie { " and a lie" } else { "" }).into_bytes()),
            verdicts: parts.iter().map(|_| (1.0, Outcome::Used)).collect(),
        };
        TaskResult::Shard(match task {
            Task::Train { round, .. } => ShardDone::Trained {
                parts: (0..shards)
                    .map(|shard| put(format!("part {shard} of update {round} of {peer}").into_bytes()))
                    .collect(),
                report: TrainReport {
                    tokens: 10,
                    heldout_loss: f32::NAN,
                    ..TrainReport::default()
                },
            },
            Task::Shard(task) => match *task {
                ShardTask::Combine { shard, parts, .. } => ShardDone::Combined(combine(shard, &parts, lie)),
                ShardTask::Settle { base, peers, shards } => {
                    let sources = (0u32..).zip(shards);
                    let shards: Vec<ShardAggregate> = sources
                        .map(|(shard, source)| match source {
                            ShardSource::Signed(combined) => combined,
                            ShardSource::Parts(parts) => combine(shard, &parts, false),
                        })
                        .collect();
                    let verdict = |peer| MemberVerdict {
                        peer,
                        weight: 1.0,
                        outcome: Outcome::Used,
                    };
                    let state = put(format!("state of {base} and {shards:?}").into_bytes());
                    ShardDone::Settled {
                        state: state.blob,
                        bytes: state.bytes,
                        verdicts: peers.into_iter().map(verdict).collect(),
                        shards,
                    }
                }
            },
            other => return self.compute(peer, other),
        })
    }

    /// No two nodes settled different things for a round.
    pub fn assert_agreement(&self) {
        let mut settled = BTreeMap::new();
        for node in self.nodes.values().filter_map(|node| node.machine.as_ref()) {
            for settlement in node.settlements() {
                let first = settled
                    .entry(settlement.body.round)
                    .or_insert_with(|| settlement.id(&SESSION));
                assert_eq!(
                    *first,
                    settlement.id(&SESSION),
                    "two settlements of round {}",
                    settlement.body.round
                );
            }
        }
    }
}

/// A mix made of hashes: what went in, by name and weight.
fn mixed(round: u64, own: Option<Share>, neighbours: &[Share]) -> (Vec<MemberVerdict>, Vec<u8>) {
    let mut shares: Vec<&Share> = own.iter().chain(neighbours).collect();
    shares.sort_by_key(|share| share.peer);
    let verdict = |share: &&Share| MemberVerdict {
        peer: share.peer,
        weight: share.weight as f32,
        outcome: Outcome::Used,
    };
    (
        shares.iter().map(verdict).collect(),
        format!("mix {round} {shares:?}").into_bytes(),
    )
}
