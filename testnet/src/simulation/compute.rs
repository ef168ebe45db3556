//! One peer's worker under virtual time: one task at a time, first come first served, each taking a made-up while.
//! The work itself is the node's own `Worker`, done in no time at the moment when its virtual time is over.

use std::collections::VecDeque;

use synod_aggregation::{Combiner, Encoder, RangeEncoder};
use synod_protocol::identity::PeerId;
use synod_protocol::sum::SumTask;
use synod_protocol::task::{JobId, Task, TaskFailure, TaskResult};
use synod_training::config::ModelConfig;
use synod_training::synthetic::SyntheticTrainer;
use synod_training::{Continue, Done, Worker};

use super::blobs::Blobs;
use super::dice::Dice;
use super::scenario::{ComputeConfig, Scenario};

/// The worker and its queue.
pub struct Bench {
    worker: Worker,
    config: ComputeConfig,
    dice: Dice,
    /// How much slower than the reference this peer is.
    speed: f64,
    /// A spell of slowness: by what factor, and until when.
    slow: (f64, u64),
    /// The session's local steps: what the time of training is for.
    local_steps: u32,
    /// How long the running task takes, where training by speed has to report it.
    running_ms: u64,
    queue: VecDeque<(JobId, Task)>,
    /// Salts training so that a restarted peer does not repeat itself.
    incarnation: u64,
}

/// The worker of one member of a scenario's session.
pub fn worker(scenario: &Scenario, member: PeerId) -> Worker {
    let training = scenario.training();
    let ModelConfig::Synthetic(objective) = &training.model else {
        unreachable!("scenarios only have synthetic objectives")
    };
    let trainer = SyntheticTrainer::new(objective, &training, member.0);
    let ranges = scenario.ranges().expect("scenarios are checked when they are read");
    let encoder: Box<dyn Encoder> = match ranges {
        Some(ranges) => Box::new(RangeEncoder::new(ranges, scenario.encoding.build())),
        None => scenario.encoding.build(),
    };
    let combiner = Combiner::composed(scenario.composition(), encoder, scenario.outer);
    // A run can be repeated: the secrets of its sums come from the seed, which no node would do.
    let (seed, mut drawn) = (
        blake3::hash(&[&scenario.seed.to_le_bytes()[..], &member.0].concat()),
        0u64,
    );
    let draw = move || {
        drawn += 1;
        let mut hasher = blake3::Hasher::new_keyed(seed.as_bytes());
        Ok(*hasher.update(&drawn.to_le_bytes()).finalize().as_bytes())
    };
    let worker = Worker::new(Box::new(trainer), combiner)
        .carrying(scenario.worker, &scenario.privacy)
        .by_speed(training.step_terms())
        .of_member(member, &scenario.privacy)
        .drawing(Box::new(draw));
    match (scenario.is_mixing(), ranges) {
        (true, _) => worker.mixing(scenario.mixing.clone()),
        (false, Some(ranges)) => worker.sharded(ranges, scenario.encoding.build()),
        (false, None) => worker,
    }
}

impl Bench {
    /// An idle bench of the peer with this index.
    pub fn new(scenario: &Scenario, index: usize, member: PeerId, mut dice: Dice) -> Self {
        let fixed = index
            .checked_rem(scenario.compute.factors.len())
            .map(|at| scenario.compute.factors[at]);
        let speed = (1.0 + scenario.compute.spread * dice.unit()) * fixed.unwrap_or(1.0);
        Self {
            worker: worker(scenario, member),
            config: scenario.compute.clone(),
            dice,
            speed,
            slow: (1.0, 0),
            local_steps: scenario.local_steps,
            running_ms: 0,
            queue: VecDeque::new(),
            incarnation: 0,
        }
    }

    /// Slows the peer down for a time.
    pub fn slow(&mut self, factor: f64, until_ms: u64) {
        self.slow = (factor, until_ms);
    }

    /// Takes a task; returns how long it takes if it begins at once.
    pub fn push(&mut self, job: JobId, task: Task, now_ms: u64) -> Option<u64> {
        self.queue.push_back((job, task));
        (self.queue.len() == 1).then(|| self.duration_ms(now_ms))
    }

    /// The job that is being worked on.
    pub fn running(&self) -> Option<JobId> {
        self.queue.front().map(|(job, _)| *job)
    }

    /// Stops a job: whether it was there, and how long the next one takes if that one begins now.
    pub fn cancel(&mut self, job: JobId, now_ms: u64) -> (bool, Option<u64>) {
        let Some(at) = self.queue.iter().position(|(queued, _)| *queued == job) else {
            return (false, None);
        };
        self.queue.remove(at);
        let begins = at == 0 && !self.queue.is_empty();
        (true, begins.then(|| self.duration_ms(now_ms)))
    }

    /// Ends the running job: its task, its result, and how long the next one takes.
    pub fn finish(&mut self, blobs: &Blobs, now_ms: u64) -> Option<(Task, Result<Done, TaskFailure>, Option<u64>)> {
        let (_, task) = self.queue.pop_front()?;
        let salted = match &task {
            Task::Train { round, base, steps } if !self.config.repeats => Task::Train {
                round: round + (self.incarnation << 32),
                base: *base,
                steps: *steps,
            },
            // The worker asks whether the update that it holds is of this round.
            Task::Sum(sum) if !self.config.repeats => {
                let mut sum = sum.clone();
                if let SumTask::Mask { scope, .. } = &mut *sum {
                    scope.round += self.incarnation << 32;
                }
                Task::Sum(sum)
            }
            other => other.clone(),
        };
        let mut read = |id: &_| {
            blobs
                .get(id)
                .map(|bytes| bytes.to_vec())
                .ok_or_else(|| format!("blob {id} is not in the store"))
        };
        let mut done = self.worker.run(&salted, &mut read, &mut |_| Continue::Go);
        // The trainer makes its time up; steps by speed need that of the simulated machine.
        if let (Task::Train { steps: Some(_), .. }, Ok(done)) = (&salted, &mut done)
            && let TaskResult::Trained { report, .. } = &mut done.result
        {
            report.wall_ms = self.running_ms;
        }
        let next = (!self.queue.is_empty()).then(|| self.duration_ms(now_ms));
        Some((task, done, next))
    }

    /// Loses all work, as a crash does, and the secrets of its sums.
    pub fn crash(&mut self) {
        self.queue.clear();
        self.worker.forget_sums();
        self.incarnation += 1;
    }

    fn duration_ms(&mut self, now_ms: u64) -> u64 {
        let base = match self.queue.front() {
            Some((_, Task::Train { steps, .. })) => {
                let steps = steps.unwrap_or(self.local_steps);
                self.config.train_ms * u64::from(steps) / u64::from(self.local_steps)
            }
            Some((_, Task::Aggregate { .. } | Task::Mix { .. } | Task::Sum(_) | Task::Shard(_))) => {
                self.config.aggregate_ms
            }
            _ => self.config.other_ms,
        };
        let slow = if now_ms < self.slow.1 { self.slow.0 } else { 1.0 };
        self.running_ms = (base as f64 * self.speed * slow * (1.0 + self.config.jitter * self.dice.unit())) as u64;
        self.running_ms
    }
}
