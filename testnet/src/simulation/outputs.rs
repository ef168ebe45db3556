//! Executes a machine's outputs in order: journal, messages, jobs, members, events; and shows them to the checkers.
//! A torn crash strikes between two of them, as a power cut would.

use synod_protocol::contract::Output;
use synod_protocol::event::Event;
use synod_protocol::identity::{BlobId, PeerId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::limits;
use synod_protocol::message::{Message, Settlement};
use synod_protocol::session::Verification;
use synod_protocol::signed::{Signed, Verified};
use synod_protocol::sum::SumTask;
use synod_protocol::task::{Round, Task, TaskFailure, TaskResult};
use synod_training::Continue;

use super::adversary::Misdeed;
use super::checkers::Checker;
use super::faults::FaultConfig;
use super::peer::Fetching;
use super::scenario::PlantedBug;
use super::world::{Happening, World};

impl World<'_> {
    pub(super) fn execute(&mut self, peer: usize, outputs: Vec<Output>) {
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
            settled |= matches!(
                output,
                Output::Persist(JournalEntry::Settled(_) | JournalEntry::Mixed { .. })
            );
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

    pub(super) fn execute_one(&mut self, peer: usize, output: Output) {
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
                if let Task::Sum(task) = &task
                    && let SumTask::Settle { updates, open, .. } = &**task
                {
                    let payloads = updates.iter().map(|update| update.payload).collect();
                    self.openings.insert(payloads, open.clone());
                }
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

    pub(super) fn persist(&mut self, peer: usize, entry: JournalEntry) {
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
        if let JournalEntry::Mixed { round, .. } = &entry {
            self.moved = true;
            self.peers[peer].round = round + 1;
        }
        if !forgets {
            self.peers[peer].journal.push(entry);
        }
    }

    /// The simulator combines the settled updates itself and compares.
    pub(super) fn check_state(&mut self, settlement: &Settlement) {
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
        if body.used.is_empty() && body.state == body.base {
            // Of the roster alone, or of secure sums whose coordinator was lost.
            return;
        }
        let updates = body.used.iter().map(|used| used.update.clone()).collect();
        let payloads: Vec<BlobId> = body.used.iter().map(|used| used.update.payload).collect();
        let task = match self.openings.get(&payloads) {
            Some(open) => Task::Sum(Box::new(SumTask::Settle {
                base: body.base,
                updates,
                open: open.clone(),
            })),
            None => Task::Aggregate {
                round: body.round,
                base: body.base,
                updates,
            },
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

    pub(super) fn said(&mut self, peer: usize, message: &Signed<Message>) {
        if let Some(message) = self.verify(message) {
            self.checkers.said(self.now_ms, peer, &message);
        }
    }

    pub(super) fn broadcast(&mut self, peer: usize, message: &Signed<Message>) {
        self.said(peer, message);
        let gossip = message.wire_bytes() <= limits::GOSSIP_BYTES;
        if gossip {
            self.network.charge_gossip(self.now_ms, peer, message.wire_bytes());
        }
        for to in self.peers[peer].members.iter().copied().collect::<Vec<_>>() {
            self.send(peer, to, message, if gossip { 2 } else { 1 }, !gossip);
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: &Signed<Message>, hops: u64, charged: bool) {
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
                    gossip: !charged,
                },
            );
        }
    }

    pub(super) fn verify(&mut self, message: &Signed<Message>) -> Option<Verified<Message>> {
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

    pub(super) fn event(&mut self, peer: usize, event: &Event) {
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

    pub(super) fn begin_faults_of(&mut self, round: Round) {
        let due = |fault: &FaultConfig| fault.at_round.is_some_and(|at| at <= round);
        let (begin, wait): (Vec<_>, Vec<_>) = std::mem::take(&mut self.for_round).into_iter().partition(due);
        self.for_round = wait;
        for fault in begin {
            self.faults_due += 1;
            self.at(self.now_ms + fault.at_ms, Happening::Fault(fault.what));
        }
    }
}
