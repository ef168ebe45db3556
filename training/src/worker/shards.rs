//! The worker's part where the vector is in shards: updates encoded range by range, one range combined, all put together.
//! Whose updates count, and whose word on a range is taken, the protocol has decided.

use synod_aggregation::encoding::F32Dense;
use synod_aggregation::{Encoder, OuterState, Ranges};
use synod_protocol::identity::{BlobId, PeerId};
use synod_protocol::shard::{Part, ShardAggregate, ShardDone, ShardSource, ShardTask, manifest, parts_of};
use synod_protocol::task::{MemberVerdict, Outcome, Round, TaskFailure, TaskResult, TrainReport, UpdateRef};

use super::{Done, ReadBlob, Worker, fetch, unusable, verdict};

/// The ranges of a session's vector, and how each is encoded.
pub(super) struct ShardBench {
    ranges: Ranges,
    each: Box<dyn Encoder>,
}

impl Worker {
    /// The same worker in a session whose vector is in these ranges, each encoded so. The worker's combiner must have the
    /// [`RangeEncoder`](synod_aggregation::RangeEncoder) of both.
    pub fn sharded(mut self, ranges: Ranges, each: Box<dyn Encoder>) -> Self {
        self.shards = Some(ShardBench { ranges, each });
        self
    }

    /// An encoded update as its parts, with a manifest that lists them.
    pub(super) fn in_parts(&self, round: Round, payload: Vec<u8>, report: TrainReport, carried: Vec<u8>) -> Done {
        let bench = self.shards.as_ref().expect("asked for in a session with shards");
        let (mut blobs, mut parts, mut rest) = (Vec::new(), Vec::new(), payload.as_slice());
        for range in bench.ranges.iter() {
            let (bytes, after) = rest.split_at(bench.each.encoded_len(range.len()));
            rest = after;
            parts.push(part_of(bytes));
            blobs.push((BlobId::of(bytes), bytes.to_vec()));
        }
        let list = manifest(&parts);
        blobs.push((BlobId::of(&list), list));
        let result = TaskResult::Shard(ShardDone::Trained { parts, report });
        self.with_state(result, round, carried, blobs)
    }

    /// The payload of an update: in a session with shards its id names the manifest of its parts.
    pub(super) fn payload(&self, update: &UpdateRef, read: &mut ReadBlob<'_>) -> Result<Vec<u8>, TaskFailure> {
        let bytes = fetch(&update.payload, "update", read)?;
        if self.shards.is_none() {
            return Ok(bytes);
        }
        let parts = parts_of(&bytes).unwrap_or_default();
        let parts = parts.iter().map(|part| fetch(&part.blob, "part of an update", read));
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    }

    pub(super) fn shard(&mut self, task: &ShardTask, read: &mut ReadBlob<'_>) -> Result<Done, TaskFailure> {
        if self.shards.is_none() {
            return Err(TaskFailure::Environment("this session has no shards".to_owned()));
        }
        let (ShardTask::Combine { base, .. } | ShardTask::Settle { base, .. }) = task;
        let state = self.take_state(base, read)?;
        let done = match task {
            ShardTask::Combine { shard, parts, .. } => self.combine_shard(&state, *shard, parts, read),
            ShardTask::Settle { peers, shards, .. } => self.settle_shards(&state, peers, shards, read),
        };
        self.current = Some((*base, state));
        let (result, blobs, next) = done?;
        if let Some((id, state)) = next {
            self.current = Some((id, state));
        }
        Ok(Done {
            result: TaskResult::Shard(result),
            blobs,
            member_state: None,
        })
    }

    fn combine_shard(&self, state: &OuterState, shard: u32, parts: &[UpdateRef], read: &mut ReadBlob<'_>) -> Outcomes {
        let (aggregate, verdicts) = self.combined(state, shard, parts, read)?;
        let mut bytes = Vec::new();
        F32Dense.encode(&aggregate, &mut bytes);
        let part = part_of(&bytes);
        let done = ShardDone::Combined(ShardAggregate { part, verdicts });
        Ok((done, vec![(part.blob, bytes)], None))
    }

    fn settle_shards(
        &self,
        state: &OuterState,
        peers: &[PeerId],
        sources: &[ShardSource],
        read: &mut ReadBlob<'_>,
    ) -> Outcomes {
        let (mut pseudo_gradient, mut blobs, mut shards) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, source) in (0u32..).zip(sources) {
            match source {
                ShardSource::Signed(said) => {
                    pseudo_gradient.extend(self.aggregate_of(shard, &said.part, read)?);
                    shards.push(said.clone());
                }
                ShardSource::Parts(parts) => {
                    let (aggregate, verdicts) = self.combined(state, shard, parts, read)?;
                    let mut bytes = Vec::new();
                    F32Dense.encode(&aggregate, &mut bytes);
                    let part = part_of(&bytes);
                    blobs.push((part.blob, bytes));
                    shards.push(ShardAggregate { part, verdicts });
                    pseudo_gradient.extend(aggregate);
                }
            }
        }
        if pseudo_gradient.len() != state.dimension() {
            return Err(TaskFailure::Unusable(
                "the shards do not make a whole update".to_owned(),
            ));
        }
        let next = self.combiner.step(state, pseudo_gradient).map_err(unusable)?;
        let verdicts = self.over_all_shards(peers, &shards);
        let bytes = next.to_bytes();
        let id = BlobId::of(&bytes);
        let done = ShardDone::Settled {
            state: id,
            bytes: bytes.len() as u64,
            verdicts,
            shards,
        };
        blobs.push((id, bytes));
        Ok((done, blobs, Some((id, next))))
    }

    /// The rule over one range of these updates.
    fn combined(
        &self,
        state: &OuterState,
        shard: u32,
        parts: &[UpdateRef],
        read: &mut ReadBlob<'_>,
    ) -> Result<(Vec<f32>, Vec<Judged>), TaskFailure> {
        let bench = self.shards.as_ref().expect("looked at by `shard`");
        let payloads = parts.iter().map(|part| fetch(&part.payload, "part of an update", read));
        let payloads = payloads.collect::<Result<Vec<_>, _>>()?;
        let weighted: Vec<(&[u8], f32)> = payloads
            .iter()
            .zip(parts)
            .map(|(bytes, part)| (bytes.as_slice(), part.tokens as f32))
            .collect();
        let range = bench.ranges.of(shard as usize);
        let combined = self
            .combiner
            .combine_range(state, range, bench.each.as_ref(), &weighted);
        let (aggregate, judged) = combined.map_err(unusable)?;
        let said = parts.iter().zip(&judged).map(|(part, judged)| {
            let verdict = verdict(part, judged);
            (verdict.weight, verdict.outcome)
        });
        Ok((aggregate, said.collect()))
    }

    /// What two aggregators have made of a shard, decoded.
    fn aggregate_of(&self, shard: u32, part: &Part, read: &mut ReadBlob<'_>) -> Result<Vec<f32>, TaskFailure> {
        let bench = self.shards.as_ref().expect("looked at by `shard`");
        let bytes = fetch(&part.blob, "aggregate", read)?;
        let mut values = vec![0.0; bench.ranges.of(shard as usize).len()];
        F32Dense
            .decode(&bytes, &mut values)
            .map_err(|error| TaskFailure::Unusable(format!("the aggregate of shard {shard} is none: {error}")))?;
        Ok(values)
    }

    /// One verdict an update: the mean of its shares over the coordinates. Excluded where it is out of every shard, clipped
    /// where something happened to it in any.
    fn over_all_shards(&self, peers: &[PeerId], shards: &[ShardAggregate]) -> Vec<MemberVerdict> {
        let bench = self.shards.as_ref().expect("looked at by `shard`");
        let lengths: Vec<f64> = bench.ranges.iter().map(|range| range.len() as f64).collect();
        let of_peer = |(at, peer): (usize, &PeerId)| {
            let said = shards.iter().zip(&lengths).filter_map(|(shard, length)| {
                let (weight, outcome) = shard.verdicts.get(at)?;
                Some((f64::from(*weight) * length, *outcome))
            });
            let said: Vec<(f64, Outcome)> = said.collect();
            let outcome = match &said[..] {
                said if said.iter().any(|(_, outcome)| *outcome == Outcome::Undecodable) => Outcome::Undecodable,
                said if said.iter().all(|(_, outcome)| *outcome == Outcome::Excluded) => Outcome::Excluded,
                said if said.iter().all(|(_, outcome)| *outcome == Outcome::Used) => Outcome::Used,
                _ => Outcome::Clipped,
            };
            let total = said.iter().fold(0.0, |sum, (weight, _)| sum + weight);
            let share = total / bench.ranges.dimension() as f64;
            let weight = if outcome == Outcome::Undecodable {
                0.0
            } else {
                share as f32
            };
            MemberVerdict {
                peer: *peer,
                weight,
                outcome,
            }
        };
        peers.iter().enumerate().map(of_peer).collect()
    }
}

/// The weight of an update in a range, and what the rule says of it.
type Judged = (f32, Outcome);

/// A result, its blobs, and the state that the next task starts from.
type Outcomes = Result<(ShardDone, Vec<(BlobId, Vec<u8>)>, Option<(BlobId, OuterState)>), TaskFailure>;

fn part_of(bytes: &[u8]) -> Part {
    Part {
        blob: BlobId::of(bytes),
        bytes: bytes.len() as u64,
    }
}
