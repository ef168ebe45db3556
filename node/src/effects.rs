//! What a machine wants, done: its outputs carried to store, worker and network, one after the other.
//! It waits for no peer; the only thing that it waits for is this machine's disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use synod_protocol::contract::{FetchFailure, Input, Output, Time};
use synod_protocol::identity::{BlobId, PeerId, SessionId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::message::Message;
use synod_protocol::signed::Signed;
use synod_protocol::task::{JobId, Round, TaskResult};
use synod_storage::blobs::BlobStore;
use synod_storage::error::StoreError;
use synod_storage::member_states::{self, NamedState};
use synod_storage::retention::{self, RetentionConfig};
use synod_storage::store::{BlobLink, Standing, Store};
use tokio::sync::{oneshot, watch};
use tokio::task::block_in_place;

use crate::network::{self, FetchId, FetchedFrom, NetworkHandle};
use crate::rounds::{Meter, RoundRow};
use crate::session_data::tokenizer_of;
use crate::session_runtime::SessionRuntime;

/// How long a peer that a machine banned stays cut off; the machine itself never forgives it.
const BAN: Duration = Duration::from_secs(24 * 3600);
/// Rows that wait to be written.
const ROW_QUEUE_LENGTH: usize = 256;
/// Settlements after which a journal is rewritten without what they have made meaningless.
const SNAPSHOT_EVERY: u32 = 64;

/// Holders of valid keys that may fetch a session's tokenizer before they join; the newest ones. Each asks within minutes.
const GUESTS: usize = 64;

/// How a fetch ended, for whoever asked the driver for it.
pub type ErrandOutcome = Result<FetchedFrom, network::FetchFailure>;

/// The hands of the driver.
pub struct Effects {
    /// Messages and blobs of peers.
    pub network: NetworkHandle,
    /// Records.
    pub store: Arc<dyn Store>,
    /// Models and updates.
    pub blobs: BlobStore,
    /// What has gone through the node so far.
    pub meter: watch::Receiver<Meter>,
    /// How much of the past is kept beyond what the machines ask for.
    pub retention: RetentionConfig,
    rows: SyncSender<(SessionId, RoundRow)>,
    row_writer: JoinHandle<()>,
    fetches: BTreeMap<FetchId, (SessionId, JobId, u64)>,
    errands: BTreeMap<FetchId, oneshot::Sender<ErrandOutcome>>,
    guests: VecDeque<(PeerId, BlobId)>,
    next_fetch: u64,
}

impl Effects {
    /// Hands for these.
    pub fn new(
        network: NetworkHandle,
        store: Arc<dyn Store>,
        blobs: BlobStore,
        meter: watch::Receiver<Meter>,
        retention: RetentionConfig,
    ) -> Self {
        let (rows, row_writer) = write_rows(Arc::clone(&store));
        Self {
            network,
            store,
            blobs,
            meter,
            retention,
            rows,
            row_writer,
            fetches: BTreeMap::new(),
            errands: BTreeMap::new(),
            guests: VecDeque::new(),
            next_fetch: 0,
        }
    }

    /// Does everything in order. Answers that are known at once come back as inputs; the first failure of the store
    /// ends it, because nothing after an entry that is not durable may happen.
    pub fn execute(
        &mut self,
        runtime: &mut SessionRuntime,
        outputs: Vec<Output>,
        now: Time,
    ) -> Result<Vec<Input>, StoreError> {
        let mut answers = Vec::new();
        for output in outputs {
            answers.extend(self.execute_one(runtime, output, now)?);
        }
        if runtime.settled_since_snapshot >= SNAPSHOT_EVERY {
            runtime.settled_since_snapshot = 0;
            block_in_place(|| self.store.replace_journal(&runtime.id(), &runtime.machine.snapshot()))?;
        }
        Ok(answers)
    }

    fn execute_one(
        &mut self,
        runtime: &mut SessionRuntime,
        output: Output,
        now: Time,
    ) -> Result<Option<Input>, StoreError> {
        let session = runtime.id();
        match output {
            Output::Persist(entry) => self.persist(runtime, &entry)?,
            Output::Send { to, message } => {
                self.admit_guest(runtime, to, &message);
                self.network.send(to, message.to_bytes());
            }
            Output::Broadcast(message) => self.network.broadcast(session, message.to_bytes()),
            Output::Compute { job, task } => {
                let Some(compute) = &mut runtime.compute else {
                    return Ok(None);
                };
                if let Err(failure) = compute.submit(job, task) {
                    return Ok(Some(Input::Computed {
                        job,
                        result: Err(failure),
                    }));
                }
            }
            Output::Cancel(job) => {
                runtime.compute.iter().for_each(|compute| compute.cancel(job));
                let fetches = self
                    .fetches
                    .iter()
                    .filter(|(_, (of, fetch, _))| (*of, *fetch) == (session, job));
                fetches.for_each(|(id, _)| self.network.cancel(*id));
            }
            Output::Fetch {
                job,
                blob,
                bytes,
                from,
                within_ms,
            } => {
                return self.fetch(runtime, job, (blob, bytes), from, within_ms);
            }
            Output::Members(members) => {
                runtime.members.clone_from(&members);
                self.network.set_members(session, members);
            }
            Output::Ban(peer) => self.network.ban(peer, BAN),
            Output::Retire { keep_from, mut keep } => {
                keep.extend(tokenizer_of(&runtime.config).map(|tokenizer| tokenizer.blake3));
                self.retire(session, keep_from, &keep)?;
            }
            Output::Event(event) => {
                let meter = *self.meter.borrow();
                if let Some(row) = runtime.on_event(now, meter, &event) {
                    self.put_row(session, row);
                }
            }
        }
        Ok(None)
    }

    fn persist(&self, runtime: &mut SessionRuntime, entry: &JournalEntry) -> Result<(), StoreError> {
        block_in_place(|| self.store.append(&runtime.id(), entry))?;
        match entry {
            JournalEntry::Settled(_) | JournalEntry::Mixed { .. } => runtime.settled_since_snapshot += 1,
            JournalEntry::Left => {
                runtime.record.standing = Standing::Left;
                block_in_place(|| self.store.put_session(&runtime.record))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn fetch(
        &mut self,
        runtime: &SessionRuntime,
        job: JobId,
        (blob, bytes): (BlobId, u64),
        from: Vec<PeerId>,
        within_ms: u64,
    ) -> Result<Option<Input>, StoreError> {
        if self.blobs.has(&blob) {
            let (_, held_bytes) = self.blobs.open_file(&blob)?;
            let fits = held_bytes == bytes;
            if fits {
                // Another session's blob may be this one's too: it stays as long as either needs it.
                self.link(runtime, blob, bytes)?;
            }
            let result = if fits { Ok(()) } else { Err(FetchFailure::OtherLength) };
            return Ok(Some(Input::Fetched { job, result }));
        }
        let session = runtime.id();
        self.next_fetch += 1;
        let id = FetchId(self.next_fetch);
        match self
            .network
            .fetch(id, blob, bytes, from, Duration::from_millis(within_ms))
        {
            Ok(()) => {
                self.fetches.insert(id, (session, job, bytes));
                Ok(None)
            }
            Err(full) => {
                tracing::warn!(%blob, "{full}");
                let result = Err(FetchFailure::Unavailable);
                Ok(Some(Input::Fetched { job, result }))
            }
        }
    }

    /// Fetches a blob for somebody who is no machine; `done` hears how it ended.
    pub fn run_errand(
        &mut self,
        (blob, bytes): (BlobId, u64),
        from: PeerId,
        within: Duration,
        done: oneshot::Sender<ErrandOutcome>,
    ) {
        self.next_fetch += 1;
        let id = FetchId(self.next_fetch);
        match self.network.fetch(id, blob, bytes, vec![from], within) {
            Ok(()) => drop(self.errands.insert(id, done)),
            // Whoever asked may have gone.
            Err(full) => drop(done.send(Err(network::FetchFailure::Unreachable { last: full.to_string() }))),
        }
    }

    /// Who waits for a fetch that was no machine's.
    pub fn errand(&mut self, id: FetchId) -> Option<oneshot::Sender<ErrandOutcome>> {
        self.errands.remove(&id)
    }

    /// Whoever is shown what a session is, on a key that its machine has found good, may fetch the session's tokenizer:
    /// its data is cut by it before a use of the key is spent.
    fn admit_guest(&mut self, runtime: &SessionRuntime, to: PeerId, message: &Signed<Message>) {
        let Some(blob) = tokenizer_of(&runtime.config).map(|tokenizer| tokenizer.blake3) else {
            return;
        };
        if runtime.members.contains(&to) || self.guests.contains(&(to, blob)) {
            return;
        }
        let is_offer = message
            .verify()
            .is_ok_and(|message| matches!(message.value(), Message::Offer(_)));
        if !is_offer {
            return;
        }
        if self.guests.len() == GUESTS
            && let Some((oldest, its)) = self.guests.pop_front()
        {
            self.network.see_off(oldest, its);
        }
        self.guests.push_back((to, blob));
        self.network.welcome(to, blob);
    }

    /// Ends; whoever may block can wait until the last row is written.
    pub fn finish(self) -> JoinHandle<()> {
        self.row_writer
    }

    /// What a fetch that the network has ended was for.
    pub fn fetched(&mut self, id: FetchId) -> Option<(SessionId, JobId, u64)> {
        self.fetches.remove(&id)
    }

    /// Notes that the session's current round needs a blob that is in the store now.
    pub fn link(&self, runtime: &SessionRuntime, blob: BlobId, bytes: u64) -> Result<(), StoreError> {
        let link = BlobLink {
            round: runtime.machine.round(),
            blob,
            bytes,
        };
        block_in_place(|| self.store.link_blob(&runtime.id(), &link))
    }

    /// Notes which blob holds what this member carries on after its update for a round.
    pub fn name_member_state(
        &self,
        runtime: &SessionRuntime,
        (round, blob, bytes): (Round, BlobId, u64),
    ) -> Result<(), StoreError> {
        self.link(runtime, blob, bytes)?;
        let state = NamedState { round, blob };
        block_in_place(|| member_states::put(self.store.as_ref(), &runtime.id(), state))
    }

    /// Links the blobs that a worker's result names.
    pub fn link_result(&self, runtime: &SessionRuntime, result: &TaskResult) -> Result<(), StoreError> {
        match result {
            TaskResult::Initialised { state, bytes }
            | TaskResult::Aggregated { state, bytes, .. }
            | TaskResult::Mixed { state, bytes, .. } => self.link(runtime, *state, *bytes),
            TaskResult::Trained { payload, bytes, .. } => self.link(runtime, *payload, *bytes),
            TaskResult::Shard(done) => {
                let mut blobs = done.blobs().into_iter();
                blobs.try_for_each(|part| self.link(runtime, part.blob, part.bytes))
            }
            TaskResult::Evaluated { .. } | TaskResult::Sum(_) => Ok(()),
        }
    }

    fn retire(&self, session: SessionId, keep_from: Round, keep: &[BlobId]) -> Result<(), StoreError> {
        // The machine needs the round before the current one; the operator's bounds say what stays beyond that.
        let current = keep_from + 1;
        block_in_place(|| {
            retention::apply(
                self.store.as_ref(),
                &self.blobs,
                &session,
                current,
                keep,
                &self.retention,
            )
            .map(|_| ())
        })
    }

    /// Rows are for people: they are written beside the driver, and one that finds the queue full is not.
    fn put_row(&self, session: SessionId, row: RoundRow) {
        if self.rows.try_send((session, row)).is_err() {
            tracing::warn!("a row of `node log` was not written: the disk is too slow");
        }
    }
}

/// Writes rows on a thread of its own, until the sender is gone and the last row is written.
fn write_rows(store: Arc<dyn Store>) -> (SyncSender<(SessionId, RoundRow)>, JoinHandle<()>) {
    let (rows, queue) = sync_channel::<(SessionId, RoundRow)>(ROW_QUEUE_LENGTH);
    let writer = std::thread::spawn(move || {
        for (session, row) in queue {
            let bytes = serde_json::to_vec(&row).expect("rows are plain data");
            if let Err(error) = store.put_round(&session, row.round, &bytes) {
                tracing::warn!(%error, round = row.round, "a row of `node log` was not written");
            }
        }
    });
    (rows, writer)
}

/// The network's answer in the machine's words.
pub fn fetch_result(outcome: &Result<FetchedFrom, network::FetchFailure>) -> Result<(), FetchFailure> {
    use network::FetchFailure as Failed;
    match outcome {
        Ok(_) => Ok(()),
        Err(Failed::WrongDigest { peer }) => Err(FetchFailure::WrongDigest(*peer)),
        Err(Failed::WrongLength { peer, .. }) => Err(FetchFailure::Oversize(*peer)),
        Err(Failed::OtherLength { .. }) => Err(FetchFailure::OtherLength),
        Err(Failed::Disk(reason)) => Err(FetchFailure::Environment(reason.clone())),
        // Nobody is to blame for the rest: not found, not reached, denied, cancelled, too late.
        Err(_) => Err(FetchFailure::Unavailable),
    }
}
