//! The driver: the one task that owns the machines. Its `select!` only picks what comes next; methods carry it to a
//! machine, and `effects` carries out what the machine answers. It never waits for a peer, and it decides nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use synod_config::SessionConfig;
use synod_protocol::contract::{self, Command, Input};
use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId};
use synod_protocol::invite::BlockId;
use synod_protocol::journal::JournalEntry;
use synod_protocol::machine::Machine;
use synod_protocol::message::Message;
use synod_protocol::recording;
use synod_protocol::reject::Reject;
use synod_protocol::signed::{Signed, SignedError, Verified};
use synod_protocol::task::TaskFailure;
use synod_storage::error::StoreError;
use synod_storage::member_states;
use synod_storage::store::{SessionRecord, Standing, Store};
use synod_training::device::DeviceChoice;
use synod_training::worker::Worker;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::api::types::SessionView;
use crate::clock::Clock;
use crate::compute::{Answer, Compute, Drill, WorkerPlan};
use crate::data_dir::DataDir;
use crate::effects::{Effects, ErrandOutcome, fetch_result};
use crate::events_log::EventsLog;
use crate::failure::{Failure, Outcome};
use crate::network::{FetchFailure, FetchId, FetchedFrom, NetworkEvent};
use crate::recorder::Recorder;
use crate::rounds::{RoundBook, RoundRow};
use crate::session_data;
use crate::session_runtime::{SessionRuntime, session_info};

/// Requests of the API that wait for the driver.
pub const REQUEST_QUEUE_LENGTH: usize = 64;
/// Answers of workers that wait for the driver; workers block when it is full.
pub const ANSWER_QUEUE_LENGTH: usize = 64;
/// Answers of an issuer that wait for whoever joins.
pub const JOIN_QUEUE_LENGTH: usize = 4;
/// The machines are looked at this often when none of them has a deadline.
const IDLE: Duration = Duration::from_secs(60);

/// A session that this node takes part in from now on.
pub struct NewSession {
    /// What the store keeps of it.
    pub record: SessionRecord,
    /// Its configuration.
    pub config: SessionConfig,
    /// Entries that begin its journal: a joiner's admission.
    pub entries: Vec<JournalEntry>,
    /// Its worker, which was built to see that the data will do.
    pub worker: Worker,
}

/// As an issuer: what was spent of each block of an invite, and which blocks are void.
pub type InviteUses = (BTreeMap<BlockId, u32>, BTreeSet<BlockId>);

/// What the API asks of the driver.
pub enum Request {
    /// All sessions as they are now.
    View(oneshot::Sender<Vec<SessionView>>),
    /// Take part in this session.
    Adopt(Box<NewSession>, oneshot::Sender<Outcome>),
    /// Pass an operator's word on to a session's machine.
    Command(SessionId, Command, oneshot::Sender<Outcome>),
    /// The uses that were spent of each invite block of a session, and the blocks that were revoked.
    InviteUses(SessionId, oneshot::Sender<InviteUses>),
    /// Pass on what `issuer` answers about a session that is not ours yet.
    Listen {
        /// The session.
        session: SessionId,
        /// Whose answers.
        issuer: PeerId,
        /// To whom.
        answers: mpsc::Sender<Verified<Message>>,
    },
    /// Fetch a blob for a session that is not ours yet.
    Fetch {
        /// The blob, and its length in bytes.
        blob: (BlobId, u64),
        /// Who has it.
        from: PeerId,
        /// For how long at most.
        within: Duration,
        /// Who hears how it ended.
        done: oneshot::Sender<ErrandOutcome>,
    },
}

/// What others need to ask the driver.
#[derive(Clone)]
pub struct DriverHandle {
    requests: mpsc::Sender<Request>,
}

impl DriverHandle {
    /// Asks, and waits for the driver's answer.
    pub async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Outcome<T> {
        let gone = || Failure::environment("the node is shutting down");
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Tells, without an answer.
    pub async fn tell(&self, request: Request) {
        // A driver that is gone needs no telling.
        let _ = self.requests.send(request).await;
    }
}

/// What comes to the driver, but for the network's events.
pub struct Inbox {
    requests: mpsc::Receiver<Request>,
    answers: mpsc::Receiver<Answer>,
}

/// What a driver is made of.
pub struct Parts {
    /// Time.
    pub clock: Clock,
    /// This node's key.
    pub identity: Identity,
    /// Its hands.
    pub effects: Effects,
    /// Its folder, for event logs.
    pub data_dir: DataDir,
    /// Where it computes.
    pub device: DeviceChoice,
    /// What holds the text in this machine's data.
    pub text_field: String,
    /// Bytes of an event log.
    pub events_max_bytes: u64,
    /// Bytes of a recording of what a machine is told; 0: none.
    pub record_max_bytes: u64,
    /// A drill, in tests.
    pub drill: Option<Drill>,
}

struct Joiner {
    issuer: PeerId,
    answers: mpsc::Sender<Verified<Message>>,
}

/// See the module.
pub struct Driver {
    parts: Parts,
    sessions: BTreeMap<SessionId, SessionRuntime>,
    joiners: BTreeMap<SessionId, Joiner>,
    answers: mpsc::Sender<Answer>,
    foreign: u64,
}

impl Driver {
    /// A driver without sessions, its inbox, and the handle for everyone else.
    pub fn new(parts: Parts) -> (Self, Inbox, DriverHandle) {
        let (requests_in, requests) = mpsc::channel(REQUEST_QUEUE_LENGTH);
        let (answers_in, answers) = mpsc::channel(ANSWER_QUEUE_LENGTH);
        let driver = Self {
            parts,
            sessions: BTreeMap::new(),
            joiners: BTreeMap::new(),
            answers: answers_in,
            foreign: 0,
        };
        (
            driver,
            Inbox { requests, answers },
            DriverHandle { requests: requests_in },
        )
    }

    /// Goes on with every session in the store. One that cannot be resumed is logged and left as it is; the others go on.
    pub fn resume(&mut self) -> Result<(), StoreError> {
        for record in self.parts.effects.store.sessions()? {
            let (id, name) = (record.id, record.name.clone());
            let resumed = SessionConfig::from_peer(&record.config, id)
                .map_err(|error| error.to_string())
                .and_then(|config| self.begin(record, config, None).map_err(|error| error.to_string()));
            if let Err(error) = resumed {
                tracing::error!(session = name, %id, error, "this session cannot be resumed");
            }
        }
        Ok(())
    }

    /// Until `shutdown`.
    pub async fn run(
        mut self,
        mut inbox: Inbox,
        mut events: mpsc::Receiver<NetworkEvent>,
        shutdown: CancellationToken,
    ) {
        loop {
            let wake = self.next_wake();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(answer) = inbox.answers.recv() => self.on_answer(answer),
                Some(request) = inbox.requests.recv() => self.on_request(request),
                event = events.recv() => match event {
                    Some(event) => self.on_network(event),
                    None => break,
                },
                () = tokio::time::sleep_until(wake) => self.on_time(),
            }
        }
        drop(inbox);
        self.stop_workers().await;
    }

    // ---- what comes in ----------------------------------------------------------------------------------------------

    fn on_time(&mut self) {
        let now = self.parts.clock.now();
        let is_due = |runtime: &SessionRuntime| runtime.machine.next_deadline().is_some_and(|due| due <= now);
        let due: Vec<_> = self
            .sessions
            .values()
            .filter(|r| is_due(r))
            .map(SessionRuntime::id)
            .collect();
        due.into_iter().for_each(|session| self.feed(session, Input::Tick));
    }

    fn on_network(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Message { from, session, bytes } => self.on_bytes(from, session, &bytes),
            NetworkEvent::Fetched {
                id,
                blob,
                outcome,
                liars,
            } => self.on_fetched(id, blob, &outcome, liars),
            NetworkEvent::Listening(address) => tracing::info!(address, "listening"),
            NetworkEvent::Connected(peer) => tracing::debug!(%peer, "connected"),
            NetworkEvent::Disconnected(peer) => tracing::debug!(%peer, "disconnected"),
        }
    }

    /// Bytes become a verified message of one of our sessions, or are dropped. A peer that handed over rubbish itself
    /// is charged; one that only passed gossip on is not.
    fn on_bytes(&mut self, from: PeerId, topic: Option<SessionId>, bytes: &[u8]) {
        let verified = Signed::<Message>::from_bytes(bytes).and_then(|signed| {
            let ours = self.sessions.contains_key(&signed.session()) || self.joiners.contains_key(&signed.session());
            if ours { signed.verify().map(Some) } else { Ok(None) }
        });
        match verified {
            Ok(Some(message)) => self.on_message(message, topic.is_none().then_some(from)),
            Ok(None) => {
                self.foreign += 1;
                tracing::trace!(from = %from.short(), dropped = self.foreign, "message of a foreign session dropped");
            }
            Err(error) if topic.is_none() => self.on_rubbish(from, error),
            Err(error) => tracing::debug!(hop = %from.short(), %error, "gossip dropped"),
        }
    }

    fn on_rubbish(&mut self, from: PeerId, error: SignedError) {
        let reject = match error {
            SignedError::Oversize(_) => Reject::Oversize,
            SignedError::Malformed => Reject::Malformed,
            SignedError::BadSignature => Reject::BadSignature,
        };
        let shared: Vec<_> = self
            .sessions
            .values()
            .filter(|r| r.members.contains(&from))
            .map(SessionRuntime::id)
            .collect();
        shared
            .into_iter()
            .for_each(|session| self.feed(session, Input::Refused { from, reject }));
    }

    fn on_message(&mut self, message: Verified<Message>, carrier: Option<PeerId>) {
        let session = message.session();
        if let Message::Join(proof) | Message::Ask(proof) = message.value()
            && carrier == Some(message.signer())
            && message.value().within_limits()
        {
            self.parts
                .effects
                .network
                .add_addresses(message.signer(), proof.addresses.clone());
        }
        if self.sessions.contains_key(&session) {
            return self.feed(session, Input::Message { message, carrier });
        }
        let Some(joiner) = self.joiners.get(&session) else {
            return;
        };
        if joiner.issuer == message.signer() {
            // A full queue holds the same answer already.
            let _ = joiner.answers.try_send(message);
        }
    }

    fn on_fetched(
        &mut self,
        id: FetchId,
        blob: BlobId,
        outcome: &Result<FetchedFrom, FetchFailure>,
        liars: Vec<PeerId>,
    ) {
        if let Some(done) = self.parts.effects.errand(id) {
            // Whoever asked may have gone.
            return drop(done.send(outcome.clone()));
        }
        let Some((session, job, bytes)) = self.parts.effects.fetched(id) else {
            return;
        };
        let Some(runtime) = self.sessions.get(&session) else {
            return;
        };
        if let Err(failure) = outcome {
            tracing::debug!(session = runtime.record.name, %failure, "a blob did not come");
        }
        let mut result = fetch_result(outcome);
        if result.is_ok()
            && let Err(error) = self.parts.effects.link(runtime, blob, bytes)
        {
            result = Err(contract::FetchFailure::Environment(error.to_string()));
        }
        let charged = match outcome {
            Err(FetchFailure::WrongDigest { peer }) => Some(*peer),
            _ => None,
        };
        for from in liars.into_iter().filter(|liar| Some(*liar) != charged) {
            self.feed(
                session,
                Input::Refused {
                    from,
                    reject: Reject::WrongDigest,
                },
            );
        }
        self.feed(session, Input::Fetched { job, result });
    }

    fn on_answer(&mut self, answer: Answer) {
        let Answer {
            session,
            job,
            mut result,
            member_state,
        } = answer;
        let Some(runtime) = self.sessions.get_mut(&session) else {
            return;
        };
        if let Some(compute) = &mut runtime.compute {
            compute.answered(job);
        }
        let effects = &self.parts.effects;
        let linked = result
            .as_ref()
            .map_or(Ok(()), |result| effects.link_result(runtime, result))
            .and_then(|()| member_state.map_or(Ok(()), |state| effects.name_member_state(runtime, state)));
        if let Err(error) = linked {
            result = Err(TaskFailure::Environment(error.to_string()));
        }
        self.feed(session, Input::Computed { job, result });
    }

    fn on_request(&mut self, request: Request) {
        self.joiners.retain(|_, joiner| !joiner.answers.is_closed());
        // Whoever asked may be gone by now: answers that nobody takes are dropped.
        match request {
            Request::View(reply) => {
                let now = self.parts.clock.now();
                let _ = reply.send(
                    self.sessions
                        .values()
                        .map(|runtime| SessionView::of(runtime, now))
                        .collect(),
                );
            }
            Request::Adopt(new, reply) => _ = reply.send(self.adopt(*new)),
            Request::InviteUses(session, reply) => {
                let machine = self.sessions.get(&session).map(|runtime| &runtime.machine);
                let uses = machine.map(|machine| machine.invite_uses());
                let _ = reply.send(
                    uses.map(|(spent, revoked)| (spent.clone(), revoked.clone()))
                        .unwrap_or_default(),
                );
            }
            Request::Command(session, command, reply) => _ = reply.send(self.command(session, command)),
            Request::Listen {
                session,
                issuer,
                answers,
            } => {
                self.joiners.insert(session, Joiner { issuer, answers });
            }
            Request::Fetch {
                blob,
                from,
                within,
                done,
            } => self.parts.effects.run_errand(blob, from, within, done),
        }
    }

    fn command(&mut self, session: SessionId, command: Command) -> Outcome {
        let Some(runtime) = self.sessions.get(&session) else {
            return Err(Failure::user(format!("this node is in no session {session}")));
        };
        if let Some(reason) = &runtime.stopped {
            return Err(Failure::environment(format!(
                "session `{}` has stopped here: {reason}",
                runtime.record.name
            )));
        }
        if command == Command::Leave
            && let Some(reason) = runtime.machine.objection_to_leaving()
        {
            return Err(Failure::user(reason));
        }
        self.feed(session, Input::Command(command));
        Ok(())
    }

    // ---- machines ---------------------------------------------------------------------------------------------------

    /// Hands one input to a session's machine and carries out what it answers.
    fn feed(&mut self, session: SessionId, input: Input) {
        let Some(runtime) = self
            .sessions
            .get_mut(&session)
            .filter(|runtime| runtime.stopped.is_none())
        else {
            return;
        };
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.parts.clock.now();
            let outputs = runtime.tell(now, input);
            match self.parts.effects.execute(runtime, outputs, now) {
                Ok(answers) => inputs.extend(answers),
                Err(error) => return stop_session(runtime, &self.parts.effects, &error),
            }
        }
    }

    fn adopt(&mut self, new: NewSession) -> Outcome {
        let NewSession {
            record,
            config,
            entries,
            worker,
        } = new;
        if self.sessions.contains_key(&record.id) {
            return Err(Failure::user(format!(
                "this node is in session `{}` already",
                record.name
            )));
        }
        let store = &self.parts.effects.store;
        tokio::task::block_in_place(|| {
            // The journal first: a session that is listed has its admission, and its tokenizer.
            store.replace_journal(&record.id, &entries)?;
            session_data::link_tokenizer(store.as_ref(), &self.parts.effects.blobs, &config)?;
            store.put_session(&record)
        })?;
        self.joiners.remove(&record.id);
        Ok(self.begin(record, config, Some(worker))?)
    }

    /// Starts a session that is in the store.
    fn begin(
        &mut self,
        record: SessionRecord,
        config: SessionConfig,
        worker: Option<Worker>,
    ) -> Result<(), StoreError> {
        let (effects, id) = (&self.parts.effects, record.id);
        let journal = effects.store.journal(&id)?;
        mend_rows(effects.store.as_ref(), &id, &journal)?;
        let rows = effects.store.rounds(&id, journal_round(&journal))?;
        let last = rows
            .last()
            .and_then(|(_, bytes)| serde_json::from_slice::<RoundRow>(bytes).ok());
        let (info, now) = (session_info(&config), self.parts.clock.now());
        let recorder = (self.parts.record_max_bytes > 0).then(|| {
            let head = recording::head(self.parts.identity.peer_id(), &info, &journal, now);
            Recorder::begin(self.parts.data_dir.recording(&id), self.parts.record_max_bytes, &head)
        });
        let machine = Machine::new(self.parts.identity.clone(), info, journal, now);
        let member_states = member_states::list(effects.store.as_ref(), &id)?;
        let plan = WorkerPlan {
            config: config.clone(),
            member: self.parts.identity.peer_id(),
            data: session_data::options(
                &self.parts.data_dir,
                &effects.blobs,
                &config,
                &record.data,
                &self.parts.text_field,
            ),
            device: self.parts.device,
            drill: self.parts.drill,
            member_states: member_states.iter().map(|state| state.blob).collect(),
        };
        // One that was built before knows nothing of what this member carries, its account of releases above all.
        let worker = worker.filter(|_| plan.member_states.is_empty());
        let compute = Compute::start(id, plan, worker, effects.blobs.clone(), self.answers.clone());
        let stopped = compute
            .as_ref()
            .err()
            .map(|error| format!("no thread for its worker: {error}"));
        let log = EventsLog::open(self.parts.data_dir.events(&id), self.parts.events_max_bytes);
        if record.standing != Standing::Left {
            effects.network.subscribe(id);
            effects.network.add_addresses(config.creator, record.bootstrap.clone());
            effects.network.dial(record.bootstrap.clone());
        }
        let runtime = SessionRuntime {
            record,
            config,
            machine,
            compute: compute.ok(),
            members: Vec::new(),
            book: RoundBook::resume(last),
            log,
            recorder,
            stopped,
            trouble: None,
            settled_since_snapshot: 0,
        };
        self.sessions.insert(id, runtime);
        self.feed(id, Input::Tick);
        Ok(())
    }

    fn next_wake(&self) -> tokio::time::Instant {
        let running = self.sessions.values().filter(|runtime| runtime.stopped.is_none());
        let due = running.filter_map(|runtime| runtime.machine.next_deadline()).min();
        match due {
            Some(time) => self.parts.clock.instant_of(time).into(),
            None => tokio::time::Instant::now() + IDLE,
        }
    }

    async fn stop_workers(mut self) {
        let computes = self.sessions.values_mut().filter_map(|runtime| runtime.compute.take());
        let mut threads: Vec<_> = computes.map(Compute::stop).collect();
        threads.push(self.parts.effects.finish());
        let joined = tokio::task::spawn_blocking(|| {
            // A worker's panic was caught on its own thread; there is nothing to learn from a join.
            threads.into_iter().for_each(|thread| _ = thread.join());
        });
        _ = joined.await;
    }
}

/// A session whose entries cannot be made durable does nothing more; the others go on.
fn stop_session(runtime: &mut SessionRuntime, effects: &Effects, error: &StoreError) {
    let reason = format!("{error} (then restart the node)");
    tracing::error!(session = runtime.record.name, reason, "the session stops here");
    runtime.stopped = Some(reason);
    effects.network.unsubscribe(runtime.id());
    if let Some(compute) = runtime.compute.take() {
        // Its thread ends by itself at its next step.
        drop(compute.stop());
    }
}

/// Newest rounds whose rows are looked for after a start: rows are written behind the journal, and no crash loses more.
const ROWS_MENDED: usize = 256;

/// Writes the rows that a crash has kept from being written, as far as the journal tells them.
fn mend_rows(store: &dyn Store, id: &SessionId, journal: &[JournalEntry]) -> Result<(), StoreError> {
    let settled = journal.iter().rev().filter_map(|entry| match entry {
        JournalEntry::Settled(settlement) => Some(settlement),
        _ => None,
    });
    let newest: Vec<_> = settled.take(ROWS_MENDED).collect();
    let Some(first) = newest.last().map(|settlement| settlement.body.round) else {
        return Ok(());
    };
    let there: BTreeSet<u64> = store.rounds(id, first)?.into_iter().map(|(round, _)| round).collect();
    for settlement in newest
        .into_iter()
        .filter(|settlement| !there.contains(&settlement.body.round))
    {
        let row = RoundRow::of_settlement(settlement, id);
        let bytes = serde_json::to_vec(&row).expect("rows are plain data");
        store.put_round(id, row.round, &bytes)?;
    }
    Ok(())
}

/// The last settled, or mixed, round of a journal.
fn journal_round(journal: &[JournalEntry]) -> u64 {
    let settled = journal
        .iter()
        .filter(|entry| matches!(entry, JournalEntry::Settled(_)))
        .count() as u64;
    let mixed = journal.iter().filter_map(|entry| match entry {
        JournalEntry::Mixed { round, .. } => Some(*round),
        _ => None,
    });
    mixed.max().unwrap_or(0).max(settled.saturating_sub(1))
}
