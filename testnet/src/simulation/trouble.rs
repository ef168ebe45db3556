//! What the world does to peers: scripted and random faults, and the planted bugs of the canaries.
//! Faults come from `faults`, which says when; the machine never knows that it is tried.

use std::collections::BTreeSet;

use synod_protocol::contract::{Command, Input, Output};
use synod_protocol::message::{Message, Vote};
use synod_protocol::signed::Signed;
use synod_protocol::task::{Task, TaskFailure, TaskResult};

use super::faults::FaultKind;
use super::peer::Stage;
use super::scenario::PlantedBug;
use super::world::{Happening, World};

impl World<'_> {
    pub(super) fn fault(&mut self, kind: FaultKind) {
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

    pub(super) fn crash(&mut self, peer: usize, for_ms: Option<u64>) {
        self.peers[peer].crash();
        self.crashes += 1;
        self.moved = true;
        match for_ms {
            Some(for_ms) => {
                let back_ms = self.now_ms + for_ms;
                self.quiet_ms = self.quiet_ms.max(back_ms);
                self.at(back_ms, Happening::Start { peer });
            }
            None => (self.peers[peer].gone, self.peers[peer].dead) = (true, true),
        }
    }

    /// Whoever leads by the word of the most advanced honest machine.
    pub(super) fn coordinator(&mut self) -> Option<usize> {
        let leader = (0..self.peers.len())
            .filter(|peer| self.peers[*peer].is_honest() && matches!(self.peers[*peer].stage, Stage::Member(_)))
            .max_by_key(|peer| self.checkers.progress(*peer))?;
        let now = self.peers[leader].clock(self.now_ms);
        let coordinator = self.peers[leader].machine()?.status(now).coordinator?;
        self.index.get(&coordinator).copied()
    }

    pub(super) fn skips_persist(&self) -> bool {
        self.scenario.planted_bug == Some(PlantedBug::SkipPersist)
    }

    pub(super) fn vote_twice(&self, peer: usize, outputs: Vec<Output>) -> Vec<Output> {
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

    pub(super) fn agree_blindly(&mut self, peer: usize, task: &Task, result: &mut Result<TaskResult, TaskFailure>) {
        let Task::Aggregate { round, .. } = task else { return };
        let heard = self.peers[peer].proposal.as_ref();
        let Some(proposal) = heard.filter(|proposal| proposal.body.round == *round) else {
            // What it found before it was told would be the truth.
            if self.peers[peer].is_honest() {
                *result = Err(TaskFailure::Unusable("it waits to be told".to_owned()));
            }
            return;
        };
        let body = &proposal.body;
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
}
