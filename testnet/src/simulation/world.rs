//! The discrete-event loop: a queue of happenings ordered by time and sequence number, and what each of them does.
//! It executes outputs as the contract says, and decides nothing that a machine should decide.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

use synod_protocol::contract::Input;
use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId, SignatureBytes};
use synod_protocol::invite::{Invite, Permission};
use synod_protocol::journal::JournalEntry;
use synod_protocol::message::Message;
use synod_protocol::session::SessionInfo;
use synod_protocol::session::{Role, Roles};
use synod_protocol::signed::{Signed, Verified};
use synod_protocol::sum::OpenSum;
use synod_protocol::task::{JobId, Round, TaskFailure};
use synod_training::Worker;
use synod_training::secure_sum::sum_terms;

use super::adversary::{Adversary, FORGED};
use super::blobs::Pool;
use super::checkers::Checkers;
use super::compute::{self, Bench};
use super::dice::Dice;
use super::faults::{FaultConfig, FaultKind};
use super::network::Network;
use super::peer::{Peer, Stage};
use super::report::{EventLog, Report};
use super::scenario::{PlantedBug, Scenario};

/// Something due at a virtual time.
pub(super) enum Happening {
    /// A message arrives.
    Deliver {
        to: usize,
        from: usize,
        message: Verified<Message>,
        gossip: bool,
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

pub(super) struct Due {
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
pub(super) const AFTERMATH_MS: u64 = 3000;

/// One run.
pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) info: SessionInfo,
    pub(super) invite: Invite,
    pub(super) now_ms: u64,
    pub(super) number: u64,
    pub(super) queue: BinaryHeap<Due>,
    pub(super) peers: Vec<Peer>,
    pub(super) index: BTreeMap<PeerId, usize>,
    pub(super) network: Network,
    pub(super) pool: Pool,
    pub(super) oracle: Worker,
    pub(super) checkers: Checkers,
    /// What lifted the masks of sums, by the payloads in them.
    pub(super) openings: BTreeMap<Vec<BlobId>, OpenSum>,
    pub(super) log: EventLog,
    /// Faults that wait for a round.
    pub(super) for_round: Vec<FaultConfig>,
    /// Scheduled faults that have not begun.
    pub(super) faults_due: usize,
    /// Until when the faults that began last.
    pub(super) quiet_ms: u64,
    /// The last message that was verified: mostly the next one is the same.
    pub(super) verified: Option<(SignatureBytes, Verified<Message>)>,
    /// Whether somebody's progress changed since the end was last looked for.
    pub(super) moved: bool,
    pub(super) ends_ms: Option<u64>,
    pub(super) target: Option<Round>,
    pub(super) loss_first: Option<f32>,
    pub(super) takeovers: u64,
    pub(super) crashes: u64,
    pub(super) narrate: bool,
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
            sums: sum_terms(&scenario.privacy, &scenario.composition()),
            steps: scenario.training().step_terms(),
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
                let bench = Bench::new(
                    scenario,
                    at,
                    identity.peer_id(),
                    Dice::new(seed, &format!("bench {at}")),
                );
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
            checkers: Checkers::new(info.session, &ids, honest, scenario.terms.is_by_quorum()),
            openings: BTreeMap::new(),
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

    pub(super) fn at(&mut self, at_ms: u64, what: Happening) {
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
            Happening::Deliver {
                to,
                from,
                message,
                gossip,
            } => self.deliver(to, from, message, gossip),
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
    pub(super) fn input(&mut self, peer: usize, input: Input) {
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

    fn deliver(&mut self, to: usize, from: usize, message: Verified<Message>, gossip: bool) {
        let peer = &mut self.peers[to];
        if !peer.is_up() || peer.banned.contains(&from) || !self.network.connected(from, to, self.now_ms) {
            return;
        }
        self.log.delivered(self.now_ms, to, 0, &message.signed().signature().0);
        if let Some(adversary) = &mut peer.adversary {
            if adversary.is_deaf_to(from) {
                return;
            }
            adversary.hear(&message);
        }
        self.answer_unasked(to, &message);
        let peer = &mut self.peers[to];
        if matches!(peer.stage, Stage::Joining) {
            return self.answer_to_joiner(to, &message);
        }
        if self.scenario.planted_bug == Some(PlantedBug::AcceptWrongState)
            && let Message::Proposal(proposal) = message.value()
        {
            peer.proposal = Some((**proposal).clone());
        }
        let carrier = (!gossip).then(|| self.peers[from].id);
        self.input(to, Input::Message { message, carrier });
    }

    fn answer_unasked(&mut self, peer: usize, message: &Verified<Message>) {
        let Some(adversary) = &mut self.peers[peer].adversary else {
            return;
        };
        for output in adversary.answer(message) {
            self.execute_one(peer, output);
        }
    }

    // ---- joining ----------------------------------------------------------------------------------------------------
    pub(super) fn start(&mut self, peer: usize) {
        if self.peers[peer].is_up() || self.peers[peer].dead {
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
}
