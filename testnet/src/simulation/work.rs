//! What peers do in the background: tasks on their benches, and blobs on their way from holder to asker.
//! Every job is answered exactly once, also when it is cancelled or fails; a crash forgets it.

use synod_protocol::contract::{FetchFailure, Input};
use synod_protocol::identity::BlobId;
use synod_protocol::task::{JobId, TaskFailure};

use super::checkers::Checker;
use super::peer::Stage;
use super::scenario::PlantedBug;
use super::world::{Happening, World};

impl World<'_> {
    pub(super) fn computed(&mut self, peer: usize, incarnation: u32, job: JobId) {
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

    pub(super) fn cancel(&mut self, peer: usize, job: JobId) {
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

    pub(super) fn fetch_try(&mut self, peer: usize, incarnation: u32, job: JobId) {
        if self.peers[peer].incarnation != incarnation {
            return;
        }
        let one = &mut self.peers[peer];
        let Some(fetching) = one.fetches.get_mut(&job) else {
            return;
        };
        let blob = fetching.blob;
        if let Some(bytes) = one.blobs.get(&blob) {
            let fits = bytes.len() as u64 == fetching.bytes;
            return self.fetched(peer, job, if fits { Ok(()) } else { Err(FetchFailure::OtherLength) });
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
    pub(super) fn served(&self, holder: usize, asker: usize, blob: &BlobId) -> Option<Vec<u8>> {
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

    pub(super) fn fetch_arrives(&mut self, peer: usize, incarnation: u32, job: JobId, holder: usize) {
        if self.peers[peer].incarnation != incarnation {
            return;
        }
        let Some(fetching) = self.peers[peer].fetches.get(&job) else {
            return;
        };
        let (blob, length) = (fetching.blob, fetching.bytes);
        let bytes = self
            .network
            .connected(peer, holder, self.now_ms)
            .then(|| self.served(holder, peer, &blob));
        match bytes.flatten() {
            None => self.at(self.now_ms + 1, Happening::FetchTry { peer, incarnation, job }),
            Some(bytes) if bytes.len() as u64 != length => {
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

    pub(super) fn fetched(&mut self, peer: usize, job: JobId, result: Result<(), FetchFailure>) {
        self.peers[peer].fetches.remove(&job);
        self.log.delivered(self.now_ms, peer, 4, &[u8::from(result.is_ok())]);
        self.input(peer, Input::Fetched { job, result });
    }
}
