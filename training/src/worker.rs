//! Everything that a peer computes for the protocol: a task and blobs in, a result and blobs out, on the caller's thread.
//! It decides nothing, keeps nothing that could not be computed again, and neither stores nor sends.

use synod_aggregation::{
    CombineError, Combiner, Composition, EncodingConfig, OuterConfig, OuterState, PayloadVerdict, RuleConfig,
    VerdictOutcome,
};
use synod_protocol::identity::BlobId;
use synod_protocol::task::{MemberVerdict, Outcome, Task, TaskFailure, TaskResult, TrainReport, UpdateRef};

use crate::trainer::{Continue, Evaluation, Progress, TrainError, Trainer};

/// Reads a blob of the store by its id; the sentence of a failure is for the operator.
pub type ReadBlob<'a> = dyn FnMut(&BlobId) -> Result<Vec<u8>, String> + 'a;

/// Hears of each local step, and may stop them.
pub type OnProgress<'a> = dyn FnMut(Progress) -> Continue + 'a;

/// A task's result with the blobs that it names.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// For the machine, once all `blobs` are stored.
    pub result: TaskResult,
    /// To be stored before the machine hears of the result.
    pub blobs: Vec<(BlobId, Vec<u8>)>,
}

/// A trainer and the session's way to combine updates. It lives on one thread and does one task at a time.
pub struct Worker {
    trainer: Box<dyn Trainer>,
    combiner: Combiner,
    /// The state of the last task: the next task mostly starts from it.
    current: Option<(BlobId, OuterState)>,
    /// The last evaluation: training from a state that was just evaluated need not measure it again.
    evaluated: Option<(BlobId, Evaluation)>,
}

impl Worker {
    /// A worker of a session with these parts; the configs have passed their checks.
    pub fn new(trainer: Box<dyn Trainer>, rule: &RuleConfig, encoding: &EncodingConfig, outer: OuterConfig) -> Self {
        Self::from_parts(trainer, Combiner::new(rule, encoding, outer))
    }

    /// The same with what is done before the rule.
    pub fn composed(
        trainer: Box<dyn Trainer>,
        rule: Composition,
        encoding: &EncodingConfig,
        outer: OuterConfig,
    ) -> Self {
        Self::from_parts(trainer, Combiner::composed(rule, encoding, outer))
    }

    /// The same, with a combiner that is already built.
    pub fn from_parts(trainer: Box<dyn Trainer>, combiner: Combiner) -> Self {
        Self {
            trainer,
            combiner,
            current: None,
            evaluated: None,
        }
    }

    /// The trainer, for what is no task: the layout, an export.
    pub fn trainer(&self) -> &dyn Trainer {
        self.trainer.as_ref()
    }

    /// Does one task. Blobs that it needs come through `read`; `progress` hears of each local step of training.
    pub fn run(
        &mut self,
        task: &Task,
        read: &mut ReadBlob<'_>,
        progress: &mut OnProgress<'_>,
    ) -> Result<Done, TaskFailure> {
        match task {
            Task::Initialise => Ok(self.initialise()),
            Task::Train { round, base } => self.train(*round, base, read, progress),
            Task::Aggregate { base, updates, .. } => self.aggregate(base, updates, read),
            Task::Evaluate { state, .. } => self.evaluate(state, read),
        }
    }

    fn initialise(&mut self) -> Done {
        let state = OuterState::new(self.trainer.initial_parameters());
        let (id, bytes, blobs) = self.adopt(state);
        Done {
            result: TaskResult::Initialised { state: id, bytes },
            blobs,
        }
    }

    fn train(
        &mut self,
        round: u64,
        base: &BlobId,
        read: &mut ReadBlob<'_>,
        progress: &mut OnProgress<'_>,
    ) -> Result<Done, TaskFailure> {
        let state = self.take_state(base, read)?;
        let heldout = self.measure(base, &state.parameters);
        let trained = self.trainer.train(round, &state.parameters, progress);
        let update = heldout
            .and_then(|heldout| Ok((heldout, trained?)))
            .map(|(heldout, trained)| {
                let report = TrainReport {
                    train_loss: trained.train_loss,
                    heldout_loss: heldout.loss,
                    tokens: trained.tokens,
                    steps: trained.steps,
                    wall_ms: trained.wall_ms,
                };
                (pseudo_gradient(&state.parameters, &trained.parameters), report)
            });
        self.current = Some((*base, state));
        let (update, report) = update.map_err(environment)?;
        if !update.iter().all(|value| value.is_finite()) {
            return Err(environment(TrainError::Diverged {
                round,
                step: report.steps,
                loss: report.train_loss,
            }));
        }
        let mut payload = Vec::new();
        self.combiner.encoder().encode(&update, &mut payload);
        let id = BlobId::of(&payload);
        let result = TaskResult::Trained {
            payload: id,
            bytes: payload.len() as u64,
            report,
        };
        Ok(Done {
            result,
            blobs: vec![(id, payload)],
        })
    }

    fn aggregate(
        &mut self,
        base: &BlobId,
        updates: &[UpdateRef],
        read: &mut ReadBlob<'_>,
    ) -> Result<Done, TaskFailure> {
        let state = self.take_state(base, read)?;
        let payloads = updates
            .iter()
            .map(|update| fetch(&update.payload, "update", read))
            .collect::<Result<Vec<_>, _>>();
        let combined = payloads.map(|payloads| {
            let weighted: Vec<(&[u8], f32)> = payloads
                .iter()
                .zip(updates)
                .map(|(bytes, update)| (bytes.as_slice(), update.tokens as f32))
                .collect();
            self.combiner.settle(&state, &weighted)
        });
        self.current = Some((*base, state));
        let combined = combined?.map_err(unusable)?;
        let verdicts = updates
            .iter()
            .zip(&combined.verdicts)
            .map(|(update, judged)| verdict(update, judged))
            .collect();
        let (id, bytes, blobs) = self.adopt(combined.state);
        Ok(Done {
            result: TaskResult::Aggregated {
                state: id,
                bytes,
                verdicts,
            },
            blobs,
        })
    }

    fn evaluate(&mut self, id: &BlobId, read: &mut ReadBlob<'_>) -> Result<Done, TaskFailure> {
        let state = self.take_state(id, read)?;
        let evaluation = self.measure(id, &state.parameters);
        self.current = Some((*id, state));
        let Evaluation { loss, tokens } = evaluation.map_err(environment)?;
        Ok(Done {
            result: TaskResult::Evaluated { loss, tokens },
            blobs: Vec::new(),
        })
    }

    /// The held-out evaluation of a state, at most once in a row.
    fn measure(&mut self, id: &BlobId, parameters: &[f32]) -> Result<Evaluation, TrainError> {
        if let Some((last, evaluation)) = self.evaluated
            && last == *id
        {
            return Ok(evaluation);
        }
        let evaluation = self.trainer.evaluate(parameters)?;
        self.evaluated = Some((*id, evaluation));
        Ok(evaluation)
    }

    /// The state `id`, from memory if it is the current one. The caller puts it back.
    fn take_state(&mut self, id: &BlobId, read: &mut ReadBlob<'_>) -> Result<OuterState, TaskFailure> {
        match self.current.take() {
            Some((current, state)) if current == *id => Ok(state),
            _ => {
                let bytes = fetch(id, "state", read)?;
                OuterState::from_bytes(&bytes, Some(self.trainer.layout().len()))
                    .map_err(|error| TaskFailure::Environment(format!("the state {id} cannot be used: {error}")))
            }
        }
    }

    /// Makes `state` the current one; returns its id, its length and the blob to store.
    fn adopt(&mut self, state: OuterState) -> (BlobId, u64, Vec<(BlobId, Vec<u8>)>) {
        let bytes = state.to_bytes();
        let id = BlobId::of(&bytes);
        self.current = Some((id, state));
        (id, bytes.len() as u64, vec![(id, bytes)])
    }
}

/// What DiLoCo's outer step takes for a gradient: base − local.
fn pseudo_gradient(base: &[f32], local: &[f32]) -> Vec<f32> {
    base.iter().zip(local).map(|(base, local)| base - local).collect()
}

fn fetch(id: &BlobId, what: &str, read: &mut ReadBlob<'_>) -> Result<Vec<u8>, TaskFailure> {
    read(id).map_err(|error| TaskFailure::Environment(format!("the {what} {id} cannot be read: {error}")))
}

fn environment(error: TrainError) -> TaskFailure {
    TaskFailure::Environment(error.to_string())
}

fn unusable(error: CombineError) -> TaskFailure {
    TaskFailure::Unusable(error.to_string())
}

fn verdict(update: &UpdateRef, judged: &PayloadVerdict) -> MemberVerdict {
    let (weight, outcome) = match judged {
        PayloadVerdict::Undecodable(_) => (0.0, Outcome::Undecodable),
        PayloadVerdict::BadWeight => (0.0, Outcome::Excluded),
        PayloadVerdict::Judged(verdict) => match verdict.outcome {
            VerdictOutcome::Used => (verdict.weight, Outcome::Used),
            VerdictOutcome::Clipped => (verdict.weight, Outcome::Clipped),
            VerdictOutcome::Excluded => (0.0, Outcome::Excluded),
        },
    };
    MemberVerdict {
        peer: update.peer,
        weight,
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use synod_protocol::identity::PeerId;

    use super::*;
    use crate::config::{SyntheticConfig, TrainingConfig};
    use crate::synthetic::SyntheticTrainer;

    /// Some members with one store between them.
    struct World {
        workers: Vec<Worker>,
        store: BTreeMap<BlobId, Vec<u8>>,
    }

    impl World {
        fn new(members: u8) -> Self {
            let config = TrainingConfig::default();
            let workers = (0..members).map(|member| {
                let trainer = SyntheticTrainer::new(&SyntheticConfig::default(), &config, [member; 32]);
                let outer = OuterConfig {
                    learning_rate: 0.7,
                    momentum: 0.5,
                    nesterov: true,
                    ..OuterConfig::default()
                };
                Worker::new(Box::new(trainer), &RuleConfig::Mean, &EncodingConfig::F32, outer)
            });
            Self {
                workers: workers.collect(),
                store: BTreeMap::new(),
            }
        }

        fn run(&mut self, member: usize, task: &Task) -> Result<TaskResult, TaskFailure> {
            let store = &self.store;
            let mut read = |id: &BlobId| store.get(id).cloned().ok_or_else(|| "no such blob".to_owned());
            let done = self.workers[member].run(task, &mut read, &mut |_| Continue::Go)?;
            self.store.extend(done.blobs);
            Ok(done.result)
        }

        fn initialise(&mut self, member: usize) -> BlobId {
            match self.run(member, &Task::Initialise) {
                Ok(TaskResult::Initialised { state, .. }) => state,
                other => panic!("{other:?}"),
            }
        }

        fn train(&mut self, member: usize, round: u64, base: BlobId) -> UpdateRef {
            match self.run(member, &Task::Train { round, base }) {
                Ok(TaskResult::Trained { payload, bytes, report }) => UpdateRef {
                    peer: PeerId([member as u8; 32]),
                    payload,
                    bytes,
                    tokens: report.tokens,
                },
                other => panic!("{other:?}"),
            }
        }

        fn loss(&mut self, member: usize, state: BlobId) -> f32 {
            match self.run(member, &Task::Evaluate { round: 0, state }) {
                Ok(TaskResult::Evaluated { loss, .. }) => loss,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn rounds_go_from_the_initial_state_towards_the_common_optimum_at_every_member_alike() {
        let mut world = World::new(5);
        let mut state = world.initialise(0);
        for member in 1..5 {
            assert_eq!(world.initialise(member), state);
        }
        let before = world.loss(0, state);
        for round in 1..=4 {
            let updates: Vec<_> = (0..5).map(|member| world.train(member, round, state)).collect();
            let task = Task::Aggregate {
                round,
                base: state,
                updates,
            };
            let results: Vec<_> = (0..5).map(|member| world.run(member, &task).unwrap()).collect();
            assert!(results.iter().all(|result| *result == results[0]));
            let TaskResult::Aggregated {
                state: next, verdicts, ..
            } = &results[0]
            else {
                panic!("{results:?}")
            };
            assert!(
                verdicts
                    .iter()
                    .enumerate()
                    .all(|(i, v)| v.peer == PeerId([i as u8; 32])),
                "{verdicts:?}"
            );
            assert!(verdicts.iter().all(|v| v.outcome == Outcome::Used), "{verdicts:?}");
            state = *next;
        }
        let after = world.loss(0, state);
        assert!(after < before / 3.0, "{before} {after}");
    }

    #[test]
    fn a_member_that_restarts_makes_the_same_update() {
        let (mut first, mut second) = (World::new(1), World::new(1));
        let base = first.initialise(0);
        second.store = first.store.clone();
        first.train(0, 1, base);
        assert_eq!(first.train(0, 2, base), second.train(0, 2, base));
    }

    #[test]
    fn an_update_that_is_no_update_is_left_out_and_named() {
        let mut world = World::new(3);
        let base = world.initialise(0);
        let mut updates: Vec<_> = (0..3).map(|member| world.train(member, 1, base)).collect();
        updates[1].payload = BlobId::of(b"rubbish");
        world.store.insert(updates[1].payload, b"rubbish".to_vec());
        let result = world
            .run(
                0,
                &Task::Aggregate {
                    round: 1,
                    base,
                    updates,
                },
            )
            .unwrap();
        let TaskResult::Aggregated { verdicts, .. } = result else {
            panic!("{result:?}")
        };
        let outcomes: Vec<_> = verdicts.iter().map(|v| v.outcome).collect();
        assert_eq!(outcomes, [Outcome::Used, Outcome::Undecodable, Outcome::Used]);
        assert_eq!(verdicts[1].weight, 0.0);
    }

    #[test]
    fn missing_blobs_and_too_few_updates_are_failures_of_their_own_kind() {
        let mut world = World::new(1);
        let base = world.initialise(0);
        let mut update = world.train(0, 1, base);
        update.payload = BlobId::of(b"lost");
        let missing = world.run(
            0,
            &Task::Aggregate {
                round: 1,
                base,
                updates: vec![update.clone()],
            },
        );
        assert!(
            matches!(&missing, Err(TaskFailure::Environment(text)) if text.contains("cannot be read")),
            "{missing:?}"
        );
        world.store.insert(update.payload, b"lost".to_vec());
        let unusable = world.run(
            0,
            &Task::Aggregate {
                round: 1,
                base,
                updates: vec![update],
            },
        );
        assert!(matches!(&unusable, Err(TaskFailure::Unusable(_))), "{unusable:?}");
        let nowhere = BlobId::of(b"nowhere");
        let failure = world
            .run(
                0,
                &Task::Train {
                    round: 1,
                    base: nowhere,
                },
            )
            .unwrap_err();
        assert!(matches!(failure, TaskFailure::Environment(_)), "{failure:?}");
    }

    #[test]
    fn training_that_is_stopped_says_so() {
        let mut world = World::new(1);
        let base = world.initialise(0);
        let store = world.store.clone();
        let mut read = |id: &BlobId| store.get(id).cloned().ok_or_else(String::new);
        let failure = world.workers[0].run(&Task::Train { round: 7, base }, &mut read, &mut |_| Continue::Stop);
        let Err(TaskFailure::Environment(text)) = failure else {
            panic!("{failure:?}")
        };
        assert!(text.contains("round 7 was stopped after 1 of 60 steps"), "{text}");
        assert_eq!(world.train(0, 7, base).peer, PeerId([0; 32]));
    }
}
