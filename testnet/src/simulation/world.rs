//! The discrete-event loop: a queue of happenings ordered by time and sequence number, and what each of them does.
//! It executes outputs as the contract says, and decides nothing that a machine should decide.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Instant;

use synod_protocol::contract::{Command, FetchFailure, Input, Output};
use synod_protocol::event::Event;
use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId, SignatureBytes};
use synod_protocol::invite::{Invite, Permission};
use synod_protocol::journal::JournalEntry;
use synod_protocol::limits;
use synod_protocol::machine::SessionInfo;
use synod_protocol::message::{Message, Vote};
use synod_protocol::session::{Role, Roles, Verification};
use synod_protocol::signed::{Signed, Verified};
use synod_protocol::task::{JobId, Round, Task, TaskFailure, TaskResult};
use synod_training::{Continue, Worker};

use super::adversary::{Adversary, FORGED, Misdeed};
use super::blobs::Pool;
use super::checkers::{Checker, Checkers};
use super::compute::{self, Bench};
use super::dice::Dice;
use super::faults::{FaultConfig, FaultKind};
use super::network::Network;
use super::peer::{Fetching, Peer, Stage};
use super::report::{EventLog, Report, Verdict};
use super::scenario::{PlantedBug, Scenario};

/// Something due at a virtual time.
enum Happening {
    /// A message arrives.
    Deliver {
        to: usize,
        from: usize,
        message: Verified<Message>,
    },
    /// Something that is no verified message arrives.
    Forged { to: usize, from: usize },
    /// A machine wants to be called.
    Wake { peer: usize },
    /// A task is done.
    Computed { peer: usize, incarnation: u32, job: JobId },
    /// A job was cancelled.
    Cancelled { peer: usize, incarnation: u32, job: JobId },
    /// The next holder of a blob is asked.
    FetchTry { peer: usize, incarnation: u32, job: JobId },
    /// A blob arrives.
    FetchArrives {
        peer: usize,
        incarnation: u32,
        job: JobId,
        holder: usize,
    },
    /// A peer's process starts.
    Start { peer: usize },
    /// A joiner asks again.
    Join { peer: usize },
    /// A fault begins.
    Fault(FaultKind),
}

struct Due {
    at_ms: u64,
    number: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first.
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

/// Joiners ask again after this long.
const JOIN_AGAIN_MS: u64 = 1000;

/// After the last round the run goes on for this long, so that late contradictions are seen.
const AFTERMATH_MS: u64 = 3000;

/// One run.
struct World<'a> {
    scenario: &'a Scenario,
    info: SessionInfo,
    invite: Invite,
    now_ms: u64,
    number: u64,
    queue: BinaryHeap<Due>,
    peers: Vec<Peer>,
    index: std::collections::BTreeMap<PeerId, usize>,
    network: Network,
    pool: Pool,
    oracle: Worker,
    checkers: Checkers,
    log: EventLog,
    /// Faults that wait for a round.
    for_round: Vec<FaultConfig>,
    /// Scheduled faults that have not begun.
    faults_due: usize,
    /// Until when the faults that began last.
    quiet_ms: u64,
    /// The last message that was verified: mostly the next one is the same.
    verified: Option<(SignatureBytes, Verified<Message>)>,
    /// Whether somebody's progress changed since the end was last looked for.
    moved: bool,
    ends_ms: Option<u64>,
    target: Option<Round>,
    loss_first: Option<f32>,
    takeovers: u64,
    crashes: u64,
    narrate: bool,
}

/// Runs a scenario once. `narrate` prints every event on standard error.
pub fn run(scenario: &Scenario, narrate: bool) -> Report {
    let began = Instant::now();
    let mut world = World::new(scenario, narrate);
    world.run();
    let mut report = world.report();
    report.wall_s = began.elapsed().as_secs_f64();
    report
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, narrate: bool) -> Self {
        let seed = scenario.seed;
        let mut secrets = Dice::new(seed, "identities");
        let identities: Vec<Identity> = (0..scenario.peers)
            .map(|_| Identity::from_secret(secrets.bytes()))
            .collect();
        let ids: Vec<PeerId> = identities.iter().map(Identity::peer_id).collect();
        let config = format!("{} {} {:?}", scenario.name, seed, scenario.terms).into_bytes();
        let info = SessionInfo {
            session: SessionId(*blake3::hash(&config).as_bytes()),
            name: scenario.name.clone(),
            creator: ids[0],
            terms: scenario.terms.clone(),
            config: config.into(),
        };
        let permission = Permission {
            roles: Roles::of(&[Role::Trainer, Role::Coordinator]),
            expires_unix_s: u64::MAX,
            uses: u32::try_from(scenario.peers).unwrap_or(u32::MAX),
        };
        let randomness = (secrets.bytes(), secrets.bytes());
        let invite = Invite::issue(
            &identities[0],
            info.session,
            info.name.clone(),
            Vec::new(),
            permission,
            randomness,
        )
        .expect("the simulator's invites are within their bounds");
        let peers: Vec<Peer> = identities
            .into_iter()
            .enumerate()
            .map(|(at, identity)| {
                let misdeed = scenario.adversaries.iter().find(|adversary| adversary.peer == at);
                let adversary = misdeed.map(|config| {
                    let dice = Dice::new(seed, &format!("adversary {at}"));
                    Adversary::new(config.does, identity.clone(), info.session, scenario.encoding, dice)
                });
                let bench = Bench::new(scenario, identity.peer_id(), Dice::new(seed, &format!("bench {at}")));
                Peer::new(identity, bench, adversary)
            })
            .collect();
        let honest = peers.iter().map(Peer::is_honest).collect();
        let mut world = Self {
            scenario,
            invite,
            now_ms: 0,
            number: 0,
            queue: BinaryHeap::new(),
            index: ids.iter().enumerate().map(|(at, id)| (*id, at)).collect(),
            network: Network::new(scenario.network.clone(), scenario.peers, Dice::new(seed, "network")),
            pool: Pool::default(),
            oracle: compute::worker(scenario, PeerId([0; 32])),
            checkers: Checkers::new(info.session, &ids, honest),
            log: EventLog::default(),
            for_round: Vec::new(),
            faults_due: 0,
            quiet_ms: 0,
            verified: None,
            moved: false,
            ends_ms: None,
            target: None,
            loss_first: None,
            takeovers: 0,
            crashes: 0,
            info,
            peers,
            narrate,
        };
        world.schedule_beginning();
        world
    }

    fn schedule_beginning(&mut self) {
        let mut dice = Dice::new(self.scenario.seed, "beginning");
        let late = self.scenario.late();
        self.at(0, Happening::Start { peer: 0 });
        for peer in (1..self.peers.len()).filter(|peer| !late.contains(peer)) {
            let at_ms = dice.between(1, self.scenario.join_within_ms.max(1));
            self.at(at_ms, Happening::Start { peer });
        }
        let mut faults = self.scenario.faults.clone();
        if let Some(random) = &self.scenario.random {
            faults.extend(random.draw(self.peers.len(), &mut Dice::new(self.scenario.seed, "faults")));
            self.quiet_ms = random.until_ms;
        }
        for fault in faults {
            if fault.at_round.is_some() {
                self.for_round.push(fault);
            } else {
                self.faults_due += 1;
                self.at(fault.at_ms, Happening::Fault(fault.what));
            }
        }
    }

    fn at(&mut self, at_ms: u64, what: Happening) {
        self.number += 1;
        self.queue.push(Due {
            at_ms: at_ms.max(self.now_ms),
            number: self.number,
            what,
        });
    }

    fn run(&mut self) {
        while let Some(due) = self.queue.pop() {
            self.now_ms = due.at_ms;
            if self.is_over() {
                break;
            }
            self.happen(due.what);
        }
        self.judge_end();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver { to, from, message } => self.deliver(to, from, message),
            Happening::Forged { to, from } => {
                if self.peers[to].is_up() && !self.peers[to].banned.contains(&from) {
                    self.log.delivered(self.now_ms, to, 1, &(from as u64).to_le_bytes());
                    self.input(
                        to,
                        Input::Refused {
                            from: self.peers[from].id,
                            reject: FORGED,
                        },
                    );
                }
            }
            Happening::Wake { peer } => self.wake(peer),
            Happening::Computed { peer, incarnation, job } => self.computed(peer, incarnation, job),
            Happening::Cancelled { peer, incarnation, job } => {
                if self.peers[peer].incarnation == incarnation {
                    let result = Err(TaskFailure::Environment("cancelled".to_owned()));
                    self.input(peer, Input::Computed { job, result });
                }
            }
            Happening::FetchTry { peer, incarnation, job } => self.fetch_try(peer, incarnation, job),
            Happening::FetchArrives {
                peer,
                incarnation,
                job,
                holder,
            } => {
                self.fetch_arrives(peer, incarnation, job, holder);
            }
            Happening::Start { peer } => self.start(peer),
            Happening::Join { peer } => self.join(peer),
            Happening::Fault(kind) => self.fault(kind),
        }
    }

    // ---- inputs -----------------------------------------------------------------------------------------------------

    fn input(&mut self, peer: usize, input: Input) {
        let now = self.peers[peer].clock(self.now_ms);
        let Some(machine) = self.peers[peer].machine() else {
            return;
        };
        let outputs = machine.handle(now, input);
        self.execute(peer, outputs);
        self.schedule_wake(peer);
    }

    fn schedule_wake(&mut self, peer: usize) {
        if self.scenario.planted_bug == Some(PlantedBug::DeafToTime) && self.is_quiet() {
            return;
        }
        let Some(deadline) = self.peers[peer].machine().and_then(|machine| machine.next_deadline()) else {
            return;
        };
        let at_ms = self.peers[peer].virtual_ms(deadline).max(self.now_ms + 1);
        if self.peers[peer].wake_ms.is_none_or(|scheduled| at_ms < scheduled) {
            self.peers[peer].wake_ms = Some(at_ms);
            self.at(at_ms, Happening::Wake { peer });
        }
    }

    fn wake(&mut self, peer: usize) {
        if self.peers[peer].wake_ms != Some(self.now_ms) {
            return;
        }
        self.peers[peer].wake_ms = None;
        let now = self.peers[peer].clock(self.now_ms);
        let due = self.peers[peer]
            .machine()
            .and_then(|machine| machine.next_deadline())
            .is_some_and(|at| at <= now);
        if due {
            self.log.delivered(self.now_ms, peer, 2, &[]);
            self.input(peer, Input::Tick);
        } else {
            self.schedule_wake(peer);
        }
    }

    fn deliver(&mut self, to: usize, from: usize, message: Verified<Message>) {
        let peer = &mut self.peers[to];
        if !peer.is_up() || peer.banned.contains(&from) || !self.network.connected(from, to, self.now_ms) {
            return;
        }
        self.log.delivered(self.now_ms, to, 0, &message.signed().signature().0);
        if let Some(adversary) = &mut peer.adversary {
            adversary.hear(&message);
        }
        if matches!(peer.stage, Stage::Joining) {
            return self.answer_to_joiner(to, &message);
        }
        if self.scenario.planted_bug == Some(PlantedBug::AcceptWrongState)
            && let Message::Proposal(proposal) = message.value()
        {
            peer.proposal = Some((**proposal).clone());
        }
        self.input(to, Input::Message(message));
    }

    // ---- joining ----------------------------------------------------------------------------------------------------

    fn start(&mut self, peer: usize) {
        if self.peers[peer].is_up() || self.peers[peer].gone {
            return;
        }
        self.peers[peer].start(&self.info, self.now_ms);
        self.checkers.restarted(peer);
        self.moved = true;
        match self.peers[peer].stage {
            Stage::Joining => self.join(peer),
            _ => self.input(peer, Input::Tick),
        }
    }

    fn join(&mut self, peer: usize) {
        if !matches!(self.peers[peer].stage, Stage::Joining) || self.peers[peer].refused.is_some() {
            return;
        }
        let proof = self.invite.prove(&self.peers[peer].id, Vec::new());
        let message = Message::Join(Box::new(proof));
        let message = Signed::new(&self.peers[peer].identity, self.info.session, &message);
        self.send(peer, 0, &message, 1, true);
        self.at(self.now_ms + JOIN_AGAIN_MS, Happening::Join { peer });
    }

    fn answer_to_joiner(&mut self, peer: usize, message: &Verified<Message>) {
        match message.value() {
            Message::Admitted(welcome) if message.signer() == self.info.creator => {
                let config_holds = blake3::hash(&welcome.config).as_bytes() == &self.info.session.0;
                let admission_holds = welcome.admission.verify().is_ok_and(|admission| {
                    admission.signer() == self.info.creator && admission.value().peer == self.peers[peer].id
                });
                if config_holds && admission_holds {
                    self.peers[peer]
                        .journal
                        .push(JournalEntry::OwnAdmission(welcome.admission.clone()));
                    self.peers[peer].stage = Stage::Down;
                    self.start(peer);
                }
            }
            Message::Refused(reason) => {
                self.peers[peer].refused = Some(reason.to_string());
                self.moved = true;
            }
            _ => {}
        }
    }

    // ---- outputs ----------------------------------------------------------------------------------------------------

    fn execute(&mut self, peer: usize, outputs: Vec<Output>) {
        let mut forged = Vec::new();
        let mut outputs = outputs;
        if self.peers[peer].adversary.is_some() {
            let others: Vec<PeerId> = self.peers[peer].members.iter().map(|at| self.peers[*at].id).collect();
            let adversary = self.peers[peer].adversary.as_mut().expect("just seen");
            let bent = adversary.bend(outputs, &others);
            (outputs, forged) = (bent.outputs, bent.forged);
        }
        if self.scenario.planted_bug == Some(PlantedBug::DoubleVote) && peer == 1 {
            outputs = self.vote_twice(peer, outputs);
        }
        let mut settled = false;
        for output in outputs {
            if let Some((left, for_ms)) = self.peers[peer].torn {
                if left == 0 {
                    return self.crash(peer, for_ms);
                }
                self.peers[peer].torn = Some((left - 1, for_ms));
            }
            settled |= matches!(output, Output::Persist(JournalEntry::Settled(_)));
            self.execute_one(peer, output);
        }
        for to in forged
            .iter()
            .filter_map(|to| self.index.get(to))
            .copied()
            .collect::<Vec<_>>()
        {
            self.at(self.now_ms + 20, Happening::Forged { to, from: peer });
        }
        let every = self.scenario.compact_every;
        let round = self.checkers.progress(peer).unwrap_or(0);
        if settled && every > 0 && (round + peer as u64).is_multiple_of(every) && !self.skips_persist() {
            self.peers[peer].compact();
        }
    }

    fn execute_one(&mut self, peer: usize, output: Output) {
        match output {
            Output::Persist(entry) => self.persist(peer, entry),
            Output::Send { to, message } => {
                self.said(peer, &message);
                if let Some(&to) = self.index.get(&to) {
                    self.send(peer, to, &message, 1, true);
                }
            }
            Output::Broadcast(message) => self.broadcast(peer, &message),
            Output::Compute { job, task } => {
                self.checkers.asked(self.now_ms, peer, job);
                if let Some(takes_ms) = self.peers[peer].bench.push(job, task, self.now_ms) {
                    let incarnation = self.peers[peer].incarnation;
                    self.at(self.now_ms + takes_ms, Happening::Computed { peer, incarnation, job });
                }
            }
            Output::Cancel(job) => self.cancel(peer, job),
            Output::Fetch {
                job,
                blob,
                bytes,
                from,
                within_ms,
            } => {
                self.checkers.asked(self.now_ms, peer, job);
                let from = from.iter().filter_map(|id| self.index.get(id)).copied().collect();
                let fetching = Fetching {
                    blob,
                    bytes,
                    from,
                    tried: 0,
                    until_ms: self.now_ms + within_ms,
                };
                self.peers[peer].fetches.insert(job, fetching);
                let incarnation = self.peers[peer].incarnation;
                self.at(self.now_ms, Happening::FetchTry { peer, incarnation, job });
            }
            Output::Members(members) => {
                self.peers[peer].members = members.iter().filter_map(|id| self.index.get(id)).copied().collect();
                self.peers[peer].members.remove(&peer);
            }
            Output::Ban(who) => {
                self.checkers.banned(self.now_ms, peer, &who);
                self.peers[peer].banned.extend(self.index.get(&who));
            }
            Output::Retire { keep_from, keep } => self.peers[peer].blobs.retire(keep_from, &keep),
            Output::Event(event) => self.event(peer, &event),
        }
    }

    fn persist(&mut self, peer: usize, entry: JournalEntry) {
        let forgets = self.skips_persist() && entry.expires_with().is_some();
        let first = self.checkers.wrote(self.now_ms, peer, &entry);
        if let JournalEntry::Settled(settlement) = &entry {
            self.moved = true;
            self.peers[peer].round = settlement.body.round + 1;
            if first {
                self.takeovers += u64::from(settlement.term > 0);
                self.check_state(settlement);
            }
        }
        if !forgets {
            self.peers[peer].journal.push(entry);
        }
    }

    /// The simulator combines the settled updates itself and compares.
    fn check_state(&mut self, settlement: &synod_protocol::message::Settlement) {
        let body = &settlement.body;
        let lies = self
            .scenario
            .adversaries
            .iter()
            .any(|adversary| adversary.does == Misdeed::Lie);
        if body.round == 0 || (lies && self.scenario.terms.verification == Verification::Digest) {
            if body.round == 0 {
                self.loss_first = self.loss_of(body.state);
            }
            return;
        }
        let updates = body.used.iter().map(|used| used.update.clone()).collect();
        let task = Task::Aggregate {
            round: body.round,
            base: body.base,
            updates,
        };
        let pool = &self.pool;
        let mut read = |id: &BlobId| {
            pool.get(id)
                .map(|bytes| bytes.to_vec())
                .ok_or_else(|| format!("nobody holds blob {id}"))
        };
        let sentence = match self.oracle.run(&task, &mut read, &mut |_| Continue::Go) {
            Ok(done) => match done.result {
                TaskResult::Aggregated { state, .. } if state == body.state => return,
                TaskResult::Aggregated { state, .. } => {
                    format!(
                        "round {} settled state {}, its updates give {}",
                        body.round,
                        body.state.short(),
                        state.short()
                    )
                }
                other => format!("the oracle answered {other:?}"),
            },
            Err(TaskFailure::Environment(reason) | TaskFailure::Unusable(reason)) => {
                format!(
                    "the updates that round {} settled cannot be combined: {reason}",
                    body.round
                )
            }
        };
        self.checkers.report(Checker::Validity, self.now_ms, sentence);
    }

    fn said(&mut self, peer: usize, message: &Signed<Message>) {
        if let Some(message) = self.verify(message) {
            self.checkers.said(self.now_ms, peer, &message);
        }
    }

    fn broadcast(&mut self, peer: usize, message: &Signed<Message>) {
        self.said(peer, message);
        let gossip = message.wire_bytes() <= limits::GOSSIP_BYTES;
        if gossip {
            self.network.charge_gossip(self.now_ms, peer, message.wire_bytes());
        }
        for to in self.peers[peer].members.iter().copied().collect::<Vec<_>>() {
            self.send(peer, to, message, if gossip { 2 } else { 1 }, !gossip);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Signed<Message>, hops: u64, charged: bool) {
        let Some(verified) = self.verify(message) else { return };
        let bytes = message.wire_bytes();
        if bytes > limits::MESSAGE_BYTES {
            let sentence = format!("peer {from} sent a {} of {bytes} bytes", verified.value().kind());
            self.checkers.report(Checker::Contract, self.now_ms, sentence);
            return;
        }
        let arrivals = self.network.message(self.now_ms, (from, to), bytes, hops, charged);
        if arrivals == [None, None] && self.scenario.planted_bug == Some(PlantedBug::BlameCarrier) {
            self.at(self.now_ms + 20, Happening::Forged { to, from });
        }
        for arrival in arrivals.into_iter().flatten() {
            let mut arrival = arrival;
            if self.scenario.planted_bug == Some(PlantedBug::WallClock) {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                arrival += now.map_or(0, |since| u64::from(since.subsec_nanos() / 100 % 7));
            }
            self.at(
                arrival,
                Happening::Deliver {
                    to,
                    from,
                    message: verified.clone(),
                },
            );
        }
    }

    fn verify(&mut self, message: &Signed<Message>) -> Option<Verified<Message>> {
        let signature = message.signature();
        if let Some((known, verified)) = &self.verified
            && *known == signature
            && verified.signed() == message
        {
            return Some(verified.clone());
        }
        let verified = message.verify().ok()?;
        self.verified = Some((signature, verified.clone()));
        Some(verified)
    }

    fn event(&mut self, peer: usize, event: &Event) {
        self.log.event(self.now_ms, peer, event);
        if self.narrate {
            eprintln!("{:>9} ms  peer {peer:<4} {event:?}", self.now_ms);
        }
        match event {
            Event::RoundStarted { round, .. } => {
                self.peers[peer].round = *round;
                if self.peers[peer].is_honest() && !self.for_round.is_empty() {
                    self.begin_faults_of(*round);
                }
            }
            Event::Banned { peer: who } => self.checkers.banned(self.now_ms, peer, who),
            _ => {}
        }
    }

    fn begin_faults_of(&mut self, round: Round) {
        let due = |fault: &FaultConfig| fault.at_round.is_some_and(|at| at <= round);
        let (begin, wait): (Vec<_>, Vec<_>) = std::mem::take(&mut self.for_round).into_iter().partition(due);
        self.for_round = wait;
        for fault in begin {
            self.faults_due += 1;
            self.at(self.now_ms + fault.at_ms, Happening::Fault(fault.what));
        }
    }

    // ---- work -------------------------------------------------------------------------------------------------------

    fn computed(&mut self, peer: usize, incarnation: u32, job: JobId) {
        if self.peers[peer].incarnation != incarnation || self.peers[peer].bench.running() != Some(job) {
            return;
        }
        let one = &mut self.peers[peer];
        let Some((task, mut done, next_ms)) = one.bench.finish(&one.blobs, self.now_ms) else {
            return;
        };
        if let (Some(takes_ms), Some(job)) = (next_ms, one.bench.running()) {
            self.at(self.now_ms + takes_ms, Happening::Computed { peer, incarnation, job });
        }
        if let Err(TaskFailure::Environment(reason)) = &done
            && self.peers[peer].is_honest()
        {
            let sentence = format!("peer {peer} was asked for what cannot be done: {reason}");
            self.checkers.report(Checker::Contract, self.now_ms, sentence);
        }
        if let (Ok(done), Some(adversary)) = (&mut done, &mut self.peers[peer].adversary) {
            adversary.bend_result(&task, done);
        }
        let mut result = done.map(|done| {
            for (id, bytes) in done.blobs {
                let shared = self.pool.share(id, bytes);
                self.peers[peer].keep(id, shared);
            }
            done.result
        });
        if self.scenario.planted_bug == Some(PlantedBug::AcceptWrongState) {
            self.agree_blindly(peer, &task, &mut result);
        }
        self.log.delivered(self.now_ms, peer, 3, &job.to_le_bytes());
        self.input(peer, Input::Computed { job, result });
    }

    fn cancel(&mut self, peer: usize, job: JobId) {
        let incarnation = self.peers[peer].incarnation;
        let (was_there, next_ms) = self.peers[peer].bench.cancel(job, self.now_ms);
        if let (Some(takes_ms), Some(job)) = (next_ms, self.peers[peer].bench.running()) {
            self.at(self.now_ms + takes_ms, Happening::Computed { peer, incarnation, job });
        }
        if was_there {
            self.at(self.now_ms, Happening::Cancelled { peer, incarnation, job });
        } else if let Some(fetching) = self.peers[peer].fetches.get_mut(&job) {
            fetching.until_ms = self.now_ms;
        }
    }

    fn fetch_try(&mut self, peer: usize, incarnation: u32, job: JobId) {
        if self.peers[peer].incarnation != incarnation {
            return;
        }
        let one = &mut self.peers[peer];
        let Some(fetching) = one.fetches.get_mut(&job) else {
            return;
        };
        let blob = fetching.blob;
        if one.blobs.get(&blob).is_some() {
            return self.fetched(peer, job, Ok(()));
        }
        if self.now_ms >= fetching.until_ms || fetching.from.is_empty() {
            return self.fetched(peer, job, Err(FetchFailure::Unavailable));
        }
        let holder = fetching.from[fetching.tried % fetching.from.len()];
        fetching.tried += 1;
        let around = fetching.tried.is_multiple_of(fetching.from.len());
        let until_ms = fetching.until_ms;
        let length = self.served(holder, peer, &blob).map(|bytes| bytes.len() as u64);
        let arrives = length.and_then(|bytes| self.network.blob(self.now_ms, holder, peer, bytes));
        match arrives {
            Some(at_ms) if at_ms <= until_ms => {
                self.at(
                    at_ms,
                    Happening::FetchArrives {
                        peer,
                        incarnation,
                        job,
                        holder,
                    },
                );
            }
            _ => {
                let pause_ms = if around { 250 } else { 0 };
                let again_ms = self.now_ms + self.network.refusal_ms(peer, holder, self.now_ms) + pause_ms;
                self.at(again_ms.min(until_ms), Happening::FetchTry { peer, incarnation, job });
            }
        }
    }

    /// What `holder` would hand to `asker`.
    fn served(&self, holder: usize, asker: usize, blob: &BlobId) -> Option<Vec<u8>> {
        let from = &self.peers[holder];
        if !matches!(from.stage, Stage::Member(_)) || from.banned.contains(&asker) || !from.members.contains(&asker) {
            return None;
        }
        let bytes = from.blobs.get(blob).map(|bytes| bytes.to_vec());
        match &from.adversary {
            Some(adversary) => adversary.serve(bytes),
            None => bytes,
        }
    }

    fn fetch_arrives(&mut self, peer: usize, incarnation: u32, job: JobId, holder: usize) {
        if self.peers[peer].incarnation != incarnation {
            return;
        }
        let Some(fetching) = self.peers[peer].fetches.get(&job) else {
            return;
        };
        let (blob, limit) = (fetching.blob, fetching.bytes);
        let bytes = self
            .network
            .connected(peer, holder, self.now_ms)
            .then(|| self.served(holder, peer, &blob));
        match bytes.flatten() {
            None => self.at(self.now_ms + 1, Happening::FetchTry { peer, incarnation, job }),
            Some(bytes) if bytes.len() as u64 > limit => {
                let failure = FetchFailure::Oversize(self.peers[holder].id);
                self.fetched(peer, job, Err(failure));
            }
            Some(bytes) if self.pool.get(&blob).is_none_or(|known| *known != *bytes) => {
                let failure = FetchFailure::WrongDigest(self.peers[holder].id);
                self.fetched(peer, job, Err(failure));
            }
            Some(bytes) => {
                let shared = self.pool.share(blob, bytes);
                self.peers[peer].keep(blob, shared);
                self.fetched(peer, job, Ok(()));
            }
        }
    }

    fn fetched(&mut self, peer: usize, job: JobId, result: Result<(), FetchFailure>) {
        self.peers[peer].fetches.remove(&job);
        self.log.delivered(self.now_ms, peer, 4, &[u8::from(result.is_ok())]);
        self.input(peer, Input::Fetched { job, result });
    }

    // ---- faults -----------------------------------------------------------------------------------------------------

    fn fault(&mut self, kind: FaultKind) {
        self.faults_due -= 1;
        self.quiet_ms = self.quiet_ms.max(self.now_ms + kind.lasts_ms());
        self.moved = true;
        if self.narrate {
            eprintln!("{:>9} ms  fault {kind:?}", self.now_ms);
        }
        let until_ms = self.now_ms + kind.lasts_ms();
        match kind {
            FaultKind::Crash {
                mut peers,
                coordinator,
                for_ms,
                after_outputs,
            } => {
                peers.extend(coordinator.then(|| self.coordinator()).flatten());
                for peer in peers
                    .into_iter()
                    .filter(|peer| self.peers[*peer].is_up())
                    .collect::<Vec<_>>()
                {
                    match after_outputs {
                        Some(outputs) => self.peers[peer].torn = Some((outputs, for_ms)),
                        None => self.crash(peer, for_ms),
                    }
                }
            }
            FaultKind::Partition { side, coordinator, .. } => {
                let mut side: BTreeSet<usize> = side.into_iter().collect();
                side.extend(coordinator.then(|| self.coordinator()).flatten());
                self.network.cut(side, self.now_ms, until_ms);
            }
            FaultKind::Slow { peers, factor, .. } => {
                peers
                    .into_iter()
                    .for_each(|peer| self.peers[peer].bench.slow(factor, until_ms));
            }
            FaultKind::Storm { loss, .. } => self.network.storm(loss, until_ms),
            FaultKind::Join { peers } => peers.into_iter().for_each(|peer| self.start(peer)),
            FaultKind::Leave { peers } => {
                for peer in peers {
                    self.peers[peer].gone = true;
                    self.input(peer, Input::Command(Command::Leave));
                }
            }
            FaultKind::ClockStep { peers, by_ms } => {
                for peer in peers {
                    self.peers[peer].step_clock(by_ms);
                    self.peers[peer].wake_ms = None;
                    self.input(peer, Input::Tick);
                }
            }
            FaultKind::LoseBlobs { peers, for_ms } => {
                for peer in peers {
                    self.crash(peer, Some(for_ms));
                    self.peers[peer].blobs.clear();
                }
            }
        }
    }

    fn crash(&mut self, peer: usize, for_ms: Option<u64>) {
        self.peers[peer].crash();
        self.crashes += 1;
        self.moved = true;
        match for_ms {
            Some(for_ms) => {
                let back_ms = self.now_ms + for_ms;
                self.quiet_ms = self.quiet_ms.max(back_ms);
                self.at(back_ms, Happening::Start { peer });
            }
            None => self.peers[peer].gone = true,
        }
    }

    /// Whoever leads by the word of the most advanced honest machine.
    fn coordinator(&mut self) -> Option<usize> {
        let leader = (0..self.peers.len())
            .filter(|peer| self.peers[*peer].is_honest() && matches!(self.peers[*peer].stage, Stage::Member(_)))
            .max_by_key(|peer| self.checkers.progress(*peer))?;
        let now = self.peers[leader].clock(self.now_ms);
        let coordinator = self.peers[leader].machine()?.status(now).coordinator?;
        self.index.get(&coordinator).copied()
    }

    // ---- planted bugs -----------------------------------------------------------------------------------------------

    fn skips_persist(&self) -> bool {
        self.scenario.planted_bug == Some(PlantedBug::SkipPersist)
    }

    fn vote_twice(&self, peer: usize, outputs: Vec<Output>) -> Vec<Output> {
        let mut twice = Vec::with_capacity(outputs.len());
        for output in outputs {
            if let Output::Send { to, message } = &output
                && let Ok(verified) = message.verify()
                && let Message::Vote(vote) = verified.value()
            {
                let mut body = vote.body;
                body.0[0] ^= 1;
                let other = Message::Vote(Vote { body, ..*vote });
                let message = Signed::new(&self.peers[peer].identity, self.info.session, &other);
                twice.push(Output::Send { to: *to, message });
            }
            twice.push(output);
        }
        twice
    }

    fn agree_blindly(&mut self, peer: usize, task: &Task, result: &mut Result<TaskResult, TaskFailure>) {
        let (Task::Aggregate { round, .. }, Some(proposal)) = (task, &self.peers[peer].proposal) else {
            return;
        };
        let body = &proposal.body;
        if body.round != *round {
            return;
        }
        let verdicts = body.used.iter().map(|used| used.verdict).collect();
        let (id, bytes) = (body.state, body.state_bytes);
        *result = Ok(TaskResult::Aggregated {
            state: id,
            bytes,
            verdicts,
        });
        if let Some(shared) = self.pool.get(&id) {
            self.peers[peer].keep(id, shared);
        }
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    fn is_quiet(&self) -> bool {
        self.faults_due == 0 && self.for_round.is_empty() && self.now_ms >= self.quiet_ms
    }

    fn is_over(&mut self) -> bool {
        if self.now_ms > self.scenario.limit_ms || self.ends_ms.is_some_and(|ends_ms| self.now_ms > ends_ms) {
            return true;
        }
        if !self.is_quiet() {
            return false;
        }
        let rounds = self.scenario.terms.rounds;
        let settled = self.checkers.last_settled().map_or(0, |(round, _)| round);
        let target = *self.target.get_or_insert_with(|| {
            self.scenario
                .expect
                .more_rounds
                .map_or(rounds, |more| rounds.min(settled + more))
        });
        if self.ends_ms.is_none() && std::mem::take(&mut self.moved) && self.laggards(target).is_empty() {
            self.ends_ms = Some(self.now_ms + AFTERMATH_MS);
        }
        self.now_ms > self.quiet_ms + self.scenario.expect.within_ms
    }

    /// The live honest members that have not settled `target`.
    fn laggards(&self, target: Round) -> Vec<usize> {
        (0..self.peers.len())
            .filter(|peer| self.peers[*peer].is_honest() && !self.peers[*peer].gone)
            .filter(|peer| self.checkers.progress(*peer).is_none_or(|settled| settled < target))
            .collect()
    }

    fn judge_end(&mut self) {
        let target = self.target.unwrap_or(self.scenario.terms.rounds);
        for peer in self.laggards(target).into_iter().take(5) {
            let settled = self.checkers.progress(peer);
            let now = self.peers[peer].clock(self.now_ms);
            let says = match (self.peers[peer].refused.clone(), self.peers[peer].machine()) {
                (Some(reason), _) => format!("was turned away: {reason}"),
                (None, Some(machine)) => {
                    let status = machine.status(now);
                    format!(
                        "is in round {}, term {}, {:?} under {:?}: {}",
                        status.round,
                        status.term,
                        status.phase,
                        status.coordinator.and_then(|id| self.index.get(&id)),
                        status.explanation
                    )
                }
                (None, None) => "is not a member".to_owned(),
            };
            let sentence = format!("peer {peer} settled {settled:?} of {target} rounds and {says}");
            self.checkers.report(Checker::Liveness, self.now_ms, sentence);
        }
        self.judge_learning();
        for &adversary in &self.scenario.expect.banned {
            let found_out = (0..self.peers.len())
                .filter(|peer| self.peers[*peer].is_honest() && !self.peers[*peer].gone)
                .all(|peer| self.has_cut_off(peer, adversary));
            if !found_out {
                let sentence = format!("peer {adversary} misbehaved and is still trusted by somebody honest");
                self.checkers.report(Checker::Detection, self.now_ms, sentence);
            }
        }
    }

    /// Whether a peer has banned another one, or knows a settlement that expelled it.
    fn has_cut_off(&self, peer: usize, other: usize) -> bool {
        let id = self.peers[other].id;
        self.peers[peer].banned.contains(&other)
            || self.peers[peer].journal.iter().any(|entry| match entry {
                JournalEntry::Banned(who) => *who == id,
                JournalEntry::Settled(settlement) => settlement.body.expelled.contains(&id),
                _ => false,
            })
    }

    fn judge_learning(&mut self) {
        let Some((_, state)) = self.checkers.last_settled() else {
            return;
        };
        let Some(loss) = self.loss_of(state) else { return };
        if let Some(bound) = self.scenario.expect.loss_below
            && (loss >= bound || loss.is_nan())
        {
            let sentence = format!("the loss ended at {loss}, not below {bound}");
            self.checkers.report(Checker::Learning, self.now_ms, sentence);
        }
        if let Some(bound) = self.scenario.expect.loss_above
            && loss <= bound
        {
            let sentence = format!("the loss ended at {loss}, not above {bound}");
            self.checkers.report(Checker::Learning, self.now_ms, sentence);
        }
    }

    fn loss_of(&mut self, state: BlobId) -> Option<f32> {
        let pool = &self.pool;
        let mut read = |id: &BlobId| {
            pool.get(id)
                .map(|bytes| bytes.to_vec())
                .ok_or_else(|| "gone".to_owned())
        };
        let task = Task::Evaluate { round: 0, state };
        match self.oracle.run(&task, &mut read, &mut |_| Continue::Go).ok()?.result {
            TaskResult::Evaluated { loss, .. } => Some(loss),
            _ => None,
        }
    }

    fn report(&mut self) -> Report {
        let totals = self.network.totals();
        let last = self.checkers.last_settled();
        let loss_last = last.and_then(|(_, state)| self.loss_of(state));
        let mut report = Report {
            scenario: self.scenario.name.clone(),
            seed: self.scenario.seed,
            peers: self.peers.len(),
            rounds: self.scenario.terms.rounds,
            settled: last.map_or(0, |(round, _)| round),
            event_log_digest: self.log.digest(),
            event_log_entries: self.log.entries(),
            safety: Verdict::NotAsked,
            liveness: Verdict::NotAsked,
            learning: Verdict::NotAsked,
            detection: Verdict::NotAsked,
            canary_caught: None,
            passed: false,
            violations: Vec::new(),
            loss_first: self.loss_first,
            loss_last,
            control_bytes: totals.control_bytes,
            bulk_bytes: totals.bulk_bytes,
            bytes: totals.control_bytes + totals.bulk_bytes,
            messages: totals.messages,
            lost: totals.lost,
            takeovers: self.takeovers,
            crashes: self.crashes,
            virtual_ms: self.now_ms,
            wall_s: 0.0,
        };
        report.judge(self.scenario, self.checkers.violations());
        report
    }
}
