//! The worker's own thread: one a session, with a bounded queue, progress for status, and cancellation.
//! It decides nothing; a failure or a panic in training becomes a `TaskFailure`, and the next task begins with a fresh worker.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use synod_config::SessionConfig;
use synod_protocol::identity::{BlobId, PeerId, SessionId};
use synod_protocol::task::{JobId, Round, Task, TaskFailure, TaskResult};
use synod_storage::blobs::{BlobStore, Durability};
use synod_training::data::{DataOptions, DataSummary};
use synod_training::device::DeviceChoice;
use synod_training::factory::{BuildError, build_trainer_from, build_trainer_without_data};
use synod_training::trainer::{Continue, Progress, Trainer};
use synod_training::worker::{Done, Worker};
use tokio::sync::{mpsc, watch};

use crate::failure::{Failure, Outcome};
use crate::requirements;

/// Tasks that wait for a worker. A machine has a handful at most; the next one is refused as a failure.
const QUEUE_LENGTH: usize = 16;

/// Puts something around a trainer: for drills with members that misbehave. The binary `node` never has one.
pub type Drill = fn(Box<dyn Trainer>) -> Box<dyn Trainer>;

/// What makes a session's worker on this machine, as often as one is needed.
#[derive(Debug, Clone)]
pub struct WorkerPlan {
    /// The session.
    pub config: SessionConfig,
    /// This member.
    pub member: PeerId,
    /// Its data; none for a member that brings none.
    pub data: Option<DataOptions>,
    /// Where it computes.
    pub device: DeviceChoice,
    /// A drill, in tests.
    pub drill: Option<Drill>,
    /// The blobs with what this member carries from earlier updates.
    pub member_states: Vec<BlobId>,
}

impl WorkerPlan {
    /// Reads the data and sets the device up. Takes a while; not for async threads. What the data has come to is logged,
    /// and answered for the operator. A model that this machine can never hold is refused: to try would end the process, with
    /// all its other sessions.
    pub fn build(&self) -> Outcome<(Worker, Option<DataSummary>)> {
        requirements::can_ever_fit(&self.config)?;
        let training = &self.config.training;
        let trainer = match &self.data {
            Some(data) => {
                let privacy = &self.config.aggregation.privacy;
                build_trainer_from(training, privacy, self.member, Some(data), &self.device)
            }
            None => build_trainer_without_data(training, self.member, &self.device),
        };
        let trainer = trainer.map_err(|error| match error {
            BuildError::Device(_) | BuildError::NoEngine => Failure::environment(error),
            _ => Failure::user(error),
        })?;
        let data = trainer.data_summary();
        let session = self.config.id().short();
        match &data {
            Some(data) if data.report.is_clean() => tracing::info!(session, "data: {data}"),
            Some(data) => tracing::warn!(session, "data: {data}"),
            None => {}
        }
        let trainer = match self.drill {
            Some(drill) => drill(trainer),
            None => trainer,
        };
        let aggregation = &self.config.aggregation;
        let combiner = self.config.combiner(trainer.layout());
        let worker = Worker::new(trainer, combiner).carrying(aggregation.worker, &aggregation.privacy);
        let worker = match (self.config.protocol.is_mixing(), self.config.ranges()) {
            (true, _) => worker.mixing(aggregation.mixing.clone()),
            (false, Some(ranges)) => worker.sharded(ranges, aggregation.encoding.build()),
            (false, None) => worker,
        };
        let worker = worker.by_speed(training.step_terms());
        Ok((worker.of_member(self.member, &aggregation.privacy), data))
    }
}

/// A worker's answer, for the driver. The blobs that it names are in the store.
#[derive(Debug)]
pub struct Answer {
    /// Whose.
    pub session: SessionId,
    /// To which job.
    pub job: JobId,
    /// What came out.
    pub result: Result<TaskResult, TaskFailure>,
    /// The member's own state after a round, in the store: its round, its id, its length.
    pub member_state: Option<(Round, BlobId, u64)>,
}

/// What the worker is doing, for status.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Activity {
    /// Local steps of the running training.
    pub progress: Option<Progress>,
}

/// A result whose blobs are in the store, and which of them is the member's own state after which round.
type Stored = (TaskResult, Option<(Round, BlobId, u64)>);

struct Order {
    job: JobId,
    task: Task,
    cancelled: Arc<AtomicBool>,
}

/// A session's compute thread, as its driver holds it. Dropping it stops the thread at its next step.
#[derive(Debug)]
pub struct Compute {
    orders: SyncSender<Order>,
    jobs: BTreeMap<JobId, Arc<AtomicBool>>,
    activity: watch::Receiver<Activity>,
    thread: JoinHandle<()>,
}

impl Compute {
    /// Starts the thread. `ready` is a worker that was built already; else the first task builds one.
    pub fn start(
        session: SessionId,
        plan: WorkerPlan,
        ready: Option<Worker>,
        blobs: BlobStore,
        answers: mpsc::Sender<Answer>,
    ) -> std::io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE_LENGTH);
        let (activity_in, activity) = watch::channel(Activity::default());
        let mut bench = Bench {
            session,
            plan,
            worker: ready,
            blobs,
            activity: activity_in,
        };
        let name = format!("compute-{}", session.short());
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || bench.serve(&queue, &answers))?;
        Ok(Self {
            orders,
            jobs: BTreeMap::new(),
            activity,
            thread,
        })
    }

    /// Queues a task. An answer follows, unless the queue is full: then the refusal is returned.
    pub fn submit(&mut self, job: JobId, task: Task) -> Result<(), TaskFailure> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let order = Order {
            job,
            task,
            cancelled: Arc::clone(&cancelled),
        };
        self.orders.try_send(order).map_err(|_| {
            TaskFailure::Environment("the worker's queue is full: this machine is too slow for the session".to_owned())
        })?;
        self.jobs.insert(job, cancelled);
        Ok(())
    }

    /// Stops a job at its next step; it is answered all the same.
    pub fn cancel(&self, job: JobId) {
        if let Some(flag) = self.jobs.get(&job) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets a job that was answered.
    pub fn answered(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    /// What the worker is doing.
    pub fn activity(&self) -> Activity {
        *self.activity.borrow()
    }

    /// Stops whatever runs. The thread ends at the next step; the answer lets a caller that may block wait for that.
    pub fn stop(self) -> JoinHandle<()> {
        self.jobs.values().for_each(|flag| flag.store(true, Ordering::Relaxed));
        self.thread
    }
}

/// What lives on the thread.
struct Bench {
    session: SessionId,
    plan: WorkerPlan,
    worker: Option<Worker>,
    blobs: BlobStore,
    activity: watch::Sender<Activity>,
}

impl Bench {
    fn serve(&mut self, queue: &Receiver<Order>, answers: &mpsc::Sender<Answer>) {
        while let Ok(order) = queue.recv() {
            let job = order.job;
            let (result, member_state) = match self.run_caught(&order) {
                Ok((result, member_state)) => (Ok(result), member_state),
                Err(failure) => (Err(failure), None),
            };
            self.activity.send_replace(Activity::default());
            let answer = Answer {
                session: self.session,
                job,
                result,
                member_state,
            };
            if answers.blocking_send(answer).is_err() {
                return;
            }
        }
    }

    fn run_caught(&mut self, order: &Order) -> Result<Stored, TaskFailure> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.run(order)));
        outcome.unwrap_or_else(|panic| {
            // Its state is unknown now: the next task builds a new one.
            self.worker = None;
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(TaskFailure::Environment(format!(
                "the worker crashed ({text}): please report this; it starts afresh"
            )))
        })
    }

    fn run(&mut self, order: &Order) -> Result<Stored, TaskFailure> {
        if order.cancelled.load(Ordering::Relaxed) {
            return Err(TaskFailure::Environment("cancelled before it began".to_owned()));
        }
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.build()?,
        };
        let mut read = |id: &BlobId| self.blobs.read(id).map_err(|error| error.to_string());
        let mut progress = |now: Progress| {
            self.activity.send_replace(Activity { progress: Some(now) });
            if order.cancelled.load(Ordering::Relaxed) {
                Continue::Stop
            } else {
                Continue::Go
            }
        };
        let done = worker.run(&order.task, &mut read, &mut progress);
        self.worker = Some(worker);
        let done = done?;
        let mut member_state = None;
        for (id, bytes) in &done.blobs {
            self.blobs
                .put_as(id, bytes, self.durability(&order.task, id, &done))
                .map_err(|error| TaskFailure::Environment(error.to_string()))?;
            if let Some((round, state)) = done.member_state
                && state == *id
            {
                member_state = Some((round, state, bytes.len() as u64));
                self.plan.member_states.push(state);
            }
        }
        Ok((done.result, member_state))
    }

    /// States are on the disk before anyone votes for them, and what a member has released is before it is sent. An update may
    /// be lost with the power: then its round goes on without it. Where no others have this member's model, it may not.
    fn durability(&self, task: &Task, id: &BlobId, done: &Done) -> Durability {
        let carried = done.member_state.is_some_and(|(_, state)| state == *id);
        match task {
            Task::Train { .. } if !carried && !self.plan.config.protocol.is_mixing() => Durability::Soon,
            _ => Durability::Now,
        }
    }

    /// A fresh worker with what this member carries. What of that is lost is lost: the operator hears of it, and the
    /// member goes on as one that has just joined.
    fn build(&self) -> Result<Worker, TaskFailure> {
        let built = self.plan.build();
        let (mut worker, _) = built.map_err(|error| TaskFailure::Environment(error.to_string()))?;
        // The blobs of earlier rounds are gone, and rightly so.
        let newest = self.plan.member_states.iter().rev().take(2);
        for id in newest {
            let read = self.blobs.read(id).map_err(|error| error.to_string());
            let restored =
                read.and_then(|bytes| worker.restore_member_state(&bytes).map_err(|error| error.to_string()));
            if let Err(reason) = &restored
                && worker.must_keep_member_state()
            {
                return Err(TaskFailure::Environment(format!(
                    "this member's account of what it has released is lost ({reason}), and with it the session's promise of privacy: restore the data directory from a backup, or leave the session"
                )));
            }
            if let Err(reason) = restored {
                tracing::warn!(
                    session = self.session.short(),
                    reason,
                    "what this member carried from its last round (its optimizer's state, momentum or residual) is lost; it starts afresh"
                );
            }
        }
        Ok(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_config::load::parse_session;
    use synod_config::presets::preset;

    struct World {
        compute: Compute,
        answers: mpsc::Receiver<Answer>,
        blobs: BlobStore,
        _dir: tempfile::TempDir,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path()).unwrap();
        let file = parse_session("preset", preset("synthetic").unwrap()).unwrap();
        let member = PeerId([1; 32]);
        let config = file.found(member, 0).unwrap();
        let (send, answers) = mpsc::channel(4);
        let plan = WorkerPlan {
            config: config.clone(),
            member,
            data: None,
            device: DeviceChoice::Cpu,
            drill: None,
            member_states: Vec::new(),
        };
        let compute = Compute::start(config.id(), plan, None, blobs.clone(), send).unwrap();
        World {
            compute,
            answers,
            blobs,
            _dir: dir,
        }
    }

    #[test]
    fn results_are_stored_before_they_are_told() {
        let mut world = world();
        world.compute.submit(1, Task::Initialise).unwrap();
        let answer = world.answers.blocking_recv().unwrap();
        let Ok(TaskResult::Initialised { state, .. }) = answer.result else {
            panic!("{answer:?}")
        };
        assert!(world.blobs.has(&state));
        world
            .compute
            .submit(
                2,
                Task::Train {
                    round: 1,
                    base: state,
                    steps: None,
                },
            )
            .unwrap();
        let answer = world.answers.blocking_recv().unwrap();
        assert!(matches!(answer.result, Ok(TaskResult::Trained { payload, .. }) if world.blobs.has(&payload)));
    }

    #[test]
    fn a_missing_blob_is_a_failure_and_the_thread_goes_on() {
        let mut world = world();
        world
            .compute
            .submit(
                1,
                Task::Train {
                    round: 1,
                    base: BlobId([9; 32]),
                    steps: None,
                },
            )
            .unwrap();
        let answer = world.answers.blocking_recv().unwrap();
        assert!(matches!(answer.result, Err(TaskFailure::Environment(_))), "{answer:?}");
        world.compute.submit(2, Task::Initialise).unwrap();
        assert!(world.answers.blocking_recv().unwrap().result.is_ok());
    }

    #[test]
    fn a_cancelled_job_is_answered_all_the_same() {
        let mut world = world();
        world.compute.submit(1, Task::Initialise).unwrap();
        world.compute.submit(2, Task::Initialise).unwrap();
        world.compute.cancel(2);
        let jobs: Vec<_> = (0..2).map(|_| world.answers.blocking_recv().unwrap().job).collect();
        assert_eq!(jobs, [1, 2]);
        world.compute.stop().join().unwrap();
    }
}
