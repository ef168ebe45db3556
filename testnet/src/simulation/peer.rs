//! One simulated peer: a machine, its journal, its blobs and its worker, and what a crash leaves of them.
//! It knows neither the network nor the other peers; the world carries its outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use synod_protocol::contract::Time;
use synod_protocol::identity::{BlobId, Identity, PeerId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::machine::Machine;
use synod_protocol::message::Proposal;
use synod_protocol::session::SessionInfo;
use synod_protocol::task::{JobId, Round};

use super::adversary::Adversary;
use super::blobs::Blobs;
use super::compute::Bench;

/// Virtual time 0 on every peer's wall clock, in Unix milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Where a peer is in its life.
pub enum Stage {
    /// Not started yet, or crashed.
    Down,
    /// Asks the issuer to be let in.
    Joining,
    /// Runs its machine.
    Member(Box<Machine>),
}

/// A blob on its way.
#[derive(Debug, Clone)]
pub struct Fetching {
    /// Which blob.
    pub blob: BlobId,
    /// Another length is refused.
    pub bytes: u64,
    /// Who may have it.
    pub from: Vec<usize>,
    /// How many of them were tried.
    pub tried: usize,
    /// Given up at this virtual time.
    pub until_ms: u64,
}

/// One peer.
pub struct Peer {
    /// Its key.
    pub identity: Identity,
    /// Its id.
    pub id: PeerId,
    /// Its life.
    pub stage: Stage,
    /// Survives crashes.
    pub journal: Vec<JournalEntry>,
    /// Survives crashes.
    pub blobs: Blobs,
    /// Its worker.
    pub bench: Bench,
    /// What it is bringing in.
    pub fetches: BTreeMap<JobId, Fetching>,
    /// Counts its processes; answers for an earlier one are dropped.
    pub incarnation: u32,
    /// To whom it broadcasts and serves.
    pub members: BTreeSet<usize>,
    /// Whom it has cut off.
    pub banned: BTreeSet<usize>,
    /// When a wake-up is scheduled.
    pub wake_ms: Option<u64>,
    /// What it does against the protocol.
    pub adversary: Option<Adversary>,
    /// It crashes after so many more outputs, and is down for so long.
    pub torn: Option<(u64, Option<u64>)>,
    /// It was taken out of the session, or is down for good: nothing is expected of it.
    pub gone: bool,
    /// It is down for good.
    pub dead: bool,
    /// Why it was turned away.
    pub refused: Option<String>,
    /// The round that its blobs are needed for.
    pub round: Round,
    /// The proposal that it heard last (kept only for a planted bug).
    pub proposal: Option<Proposal>,
    clock_offset_ms: i64,
    pending_step_ms: i64,
}

impl Peer {
    /// A peer that was never started.
    pub fn new(identity: Identity, bench: Bench, adversary: Option<Adversary>) -> Self {
        Self {
            id: identity.peer_id(),
            identity,
            stage: Stage::Down,
            journal: Vec::new(),
            blobs: Blobs::default(),
            bench,
            fetches: BTreeMap::new(),
            incarnation: 0,
            members: BTreeSet::new(),
            banned: BTreeSet::new(),
            wake_ms: None,
            adversary,
            torn: None,
            gone: false,
            dead: false,
            refused: None,
            round: 0,
            proposal: None,
            clock_offset_ms: 0,
            pending_step_ms: 0,
        }
    }

    /// Whether it follows the protocol.
    pub fn is_honest(&self) -> bool {
        self.adversary.is_none()
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        !matches!(self.stage, Stage::Down)
    }

    /// Its machine, if it runs.
    pub fn machine(&mut self) -> Option<&mut Machine> {
        match &mut self.stage {
            Stage::Member(machine) => Some(machine),
            _ => None,
        }
    }

    /// Its own clock at a virtual time.
    pub fn clock(&self, now_ms: u64) -> Time {
        Time((EPOCH_MS + now_ms).saturating_add_signed(self.clock_offset_ms))
    }

    /// The virtual time of a reading of its clock.
    pub fn virtual_ms(&self, time: Time) -> u64 {
        time.0
            .saturating_add_signed(-self.clock_offset_ms)
            .saturating_sub(EPOCH_MS)
    }

    /// Its wall clock jumps: forward at once, back only when the process starts again.
    pub fn step_clock(&mut self, by_ms: i64) {
        if by_ms > 0 {
            self.clock_offset_ms += by_ms
        } else {
            self.pending_step_ms += by_ms
        }
    }

    /// The process starts: from the journal, or as a joiner if it is not admitted yet.
    pub fn start(&mut self, info: &SessionInfo, now_ms: u64) {
        self.clock_offset_ms += std::mem::take(&mut self.pending_step_ms);
        if self.journal.is_empty() && self.id != info.creator {
            self.stage = Stage::Joining;
            return;
        }
        let machine = Machine::new(
            self.identity.clone(),
            info.clone(),
            self.journal.clone(),
            self.clock(now_ms),
        );
        self.stage = Stage::Member(Box::new(machine));
    }

    /// The process dies. Journal and blobs stay.
    pub fn crash(&mut self) {
        self.stage = Stage::Down;
        self.incarnation += 1;
        self.bench.crash();
        self.fetches.clear();
        self.members.clear();
        self.banned.clear();
        self.wake_ms = None;
        self.torn = None;
        self.proposal = None;
    }

    /// Replaces the journal by the machine's own summary of it.
    pub fn compact(&mut self) {
        if let Stage::Member(machine) = &self.stage {
            self.journal = machine.snapshot();
        }
    }

    /// Keeps a blob that its current round needs.
    pub fn keep(&mut self, id: BlobId, bytes: Arc<[u8]>) {
        self.blobs.put(id, bytes, self.round);
    }
}
