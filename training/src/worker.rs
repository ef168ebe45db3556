//! Everything that a peer computes for the protocol: a task and blobs in, a result and blobs out, on the caller's thread.
//! It decides nothing and neither stores nor sends; what it keeps can be computed again, or was handed out to be stored.

use synod_aggregation::mixing::{MixingConfig, Neighbour, Neighbourhood};
use synod_aggregation::privacy::PrivacyConfig;
use synod_aggregation::privacy::secure_sum::{GroupMean, MIN_MEMBERS};
use synod_aggregation::{CombineError, Combiner, OuterState, PayloadVerdict, VerdictOutcome};
use synod_aggregation::{Contribution, RuleConfig, Verdict};
use synod_protocol::identity::{BlobId, PeerId};
use synod_protocol::pace::StepTerms;
use synod_protocol::sum::{OpenSum, SumResult, SumScope, SumTask};
use synod_protocol::task::{
    MemberVerdict, Outcome, Round, Share, Task, TaskFailure, TaskResult, TrainReport, UpdateRef,
};

use crate::member_state::{Before, MemberState, MemberStateConfig, MemberStateError, Ready, ReleaseError};
use crate::secure_sum::{self, Draw, Held, SumBench};
use crate::trainer::{Continue, Evaluation, LocalRound, Progress, TrainError, Trainer};
use shards::ShardBench;

mod shards;

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
    /// Which of the blobs is the member's own state after a round, to be named before the machine hears of the result.
    pub member_state: Option<(Round, BlobId)>,
}

/// A trainer and the session's way to combine updates. It lives on one thread and does one task at a time.
pub struct Worker {
    trainer: Box<dyn Trainer>,
    combiner: Combiner,
    /// The state of the last task: the next task mostly starts from it.
    current: Option<(BlobId, OuterState)>,
    /// The last evaluation: training from a state that was just evaluated need not measure it again.
    evaluated: Option<(BlobId, Evaluation)>,
    /// What this member carries from update to update.
    own: MemberState,
    /// How it mixes with its neighbours, in a session without a coordinator.
    mixing: Option<MixingConfig>,
    /// Its part in secure sums, in a session that has them.
    sums: Option<SumBench>,
    /// The session's local steps, where members take theirs by their speed: updates are brought to this number.
    nominal_steps: Option<u32>,
    /// The ranges of the vector, in a session that has shards.
    shards: Option<ShardBench>,
}

impl Worker {
    /// A worker of a session that combines updates this way. Its members carry nothing.
    pub fn new(trainer: Box<dyn Trainer>, combiner: Combiner) -> Self {
        Self {
            trainer,
            combiner,
            current: None,
            evaluated: None,
            own: MemberState::new(MemberStateConfig::default()),
            mixing: None,
            sums: None,
            nominal_steps: None,
            shards: None,
        }
    }

    /// The same worker in a session whose members take steps by their speed: each update is scaled as if it had taken the
    /// session's number (FedNova; see [`StepsBySpeed`](crate::config::StepsBySpeed)).
    pub fn by_speed(mut self, steps: Option<StepTerms>) -> Self {
        self.nominal_steps = steps.map(|terms| terms.nominal);
        self
    }

    /// The same worker in a session without a coordinator: its updates are whole models, and it mixes them so.
    pub fn mixing(mut self, mixing: MixingConfig) -> Self {
        self.mixing = Some(mixing);
        self
    }

    /// The same worker in a session whose members carry this from update to update, and protect what they send so.
    pub fn carrying(mut self, config: MemberStateConfig, privacy: &PrivacyConfig) -> Self {
        self.own = MemberState::new(config).private(privacy);
        self
    }

    /// The same worker as this member's. Where the session sums securely, it takes part in the sums.
    pub fn of_member(mut self, member: PeerId, privacy: &PrivacyConfig) -> Self {
        if let PrivacyConfig::SecureSum(config) = privacy {
            self.sums = Some(SumBench::new(member, *config, self.trainer.layout().len()));
        }
        self
    }

    /// Forgets what a process forgets when it ends: secrets of sums, and an update that waits to be masked.
    pub fn forget_sums(&mut self) {
        if let Some(sums) = &mut self.sums {
            sums.forget();
        }
    }

    /// The same worker with another source of secrets for its sums, so that a simulation can be repeated. Never in a node.
    pub fn drawing(mut self, draw: Draw) -> Self {
        if let Some(sums) = &mut self.sums {
            sums.draw = draw;
        }
        self
    }

    /// Whether a stored member state that cannot be restored means that nothing may be sent any more.
    pub fn must_keep_member_state(&self) -> bool {
        self.own.must_be_kept()
    }

    /// Takes up what was stored as `Done::member_state` of an earlier round.
    pub fn restore_member_state(&mut self, bytes: &[u8]) -> Result<(), MemberStateError> {
        let check = |bytes: &[u8]| self.trainer.check_optimizer(bytes);
        self.own.restore(bytes, self.trainer.layout().len(), check)
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
            Task::Train { round, base, steps } => self.train(*round, base, *steps, read, progress),
            Task::Aggregate { base, updates, .. } => self.aggregate(base, updates, read),
            Task::Evaluate { state, .. } => self.evaluate(state, read),
            Task::Mix { own, neighbours, .. } => self.mix(own.as_ref(), neighbours, read),
            Task::Sum(task) => self.sum(task, read),
            Task::Shard(task) => self.shard(task, read),
        }
    }

    fn initialise(&mut self) -> Done {
        let state = OuterState::new(self.trainer.initial_parameters());
        let (id, bytes, blobs) = self.adopt(state);
        Done {
            result: TaskResult::Initialised { state: id, bytes },
            blobs,
            member_state: None,
        }
    }

    fn train(
        &mut self,
        round: u64,
        base: &BlobId,
        steps: Option<u32>,
        read: &mut ReadBlob<'_>,
        progress: &mut OnProgress<'_>,
    ) -> Result<Done, TaskFailure> {
        self.own.may_be_summed().map_err(released)?;
        let state = self.take_state(base, read)?;
        let heldout = self.measure(base, &state.parameters);
        let Before { optimizer, consumed } = self.own.before(round);
        let local = LocalRound {
            round,
            start: &state.parameters,
            optimizer,
            steps,
            consumed,
        };
        let trained = self.trainer.train(local, progress);
        let update = heldout
            .and_then(|heldout| Ok((heldout, trained?)))
            .map(|(heldout, trained)| {
                // A loss tells of the data, too: where updates are noised, none is told.
                let told = |loss: f32| if self.own.must_be_kept() { f32::NAN } else { loss };
                let report = TrainReport {
                    train_loss: told(trained.train_loss),
                    heldout_loss: told(heldout.loss),
                    tokens: trained.tokens,
                    steps: trained.steps,
                    wall_ms: trained.wall_ms,
                };
                let mut update = match self.mixing {
                    Some(_) => trained.parameters,
                    None => pseudo_gradient(&state.parameters, &trained.parameters),
                };
                if let Some(nominal) = self.nominal_steps.filter(|nominal| *nominal != trained.steps) {
                    let scale = nominal as f32 / trained.steps as f32;
                    update.iter_mut().for_each(|value| *value *= scale);
                }
                (update, (trained.optimizer, trained.consumed), report)
            });
        self.current = Some((*base, state));
        let (mut update, (optimizer, consumed), report) = update.map_err(environment)?;
        if !update.iter().all(|value| value.is_finite()) {
            return Err(environment(TrainError::Diverged {
                round,
                step: report.steps,
                loss: report.train_loss,
            }));
        }
        let ready = self.own.prepare(round, &mut update);
        let ready = ready.map_err(released)?.after(optimizer, consumed);
        if self.sums.is_some() {
            return Ok(self.hold(ready, round, update, report));
        }
        let mut payload = Vec::new();
        let carried = self.own.encode(ready, self.combiner.encoder(), &update, &mut payload);
        if self.shards.is_some() {
            return Ok(self.in_parts(round, payload, report, carried));
        }
        let id = BlobId::of(&payload);
        let result = TaskResult::Trained {
            payload: id,
            bytes: payload.len() as u64,
            report,
        };
        Ok(self.with_state(result, round, carried, vec![(id, payload)]))
    }

    /// Keeps an update in the clear until it is masked: it never becomes a blob.
    fn hold(&mut self, ready: Ready, round: Round, update: Vec<f32>, report: TrainReport) -> Done {
        if let Some(sums) = &mut self.sums {
            sums.held = Some(Held { round, update, report });
        }
        let carried = self.own.keep(ready);
        self.with_state(TaskResult::Sum(SumResult::Trained), round, carried, Vec::new())
    }

    /// A result beside blobs, and this member's state after the round, if it has one.
    fn with_state(
        &self,
        result: TaskResult,
        round: Round,
        carried: Vec<u8>,
        mut blobs: Vec<(BlobId, Vec<u8>)>,
    ) -> Done {
        let mut member_state = None;
        if !self.own.is_stateless() {
            let state = BlobId::of(&carried);
            member_state = Some((round, state));
            blobs.push((state, carried));
        }
        Done {
            result,
            blobs,
            member_state,
        }
    }

    fn sum(&mut self, task: &SumTask, read: &mut ReadBlob<'_>) -> Result<Done, TaskFailure> {
        let Some(sums) = &mut self.sums else {
            return Err(TaskFailure::Environment("this session has no secure sums".to_owned()));
        };
        let result = match task {
            SumTask::Keys(scope) => sums.keys(scope)?,
            SumTask::Share { scope, keys } => sums.share(scope, keys)?,
            SumTask::Mask { scope, sealed } => return self.mask(scope, sealed),
            SumTask::Answer { scope, request } => sums.answer(scope, request)?,
            SumTask::Open {
                scope,
                keys,
                request,
                replies,
            } => sums.open(scope, keys, request, replies)?,
            SumTask::Settle { base, updates, open } => return self.settle_sum(base, updates, open, read),
        };
        Ok(Done {
            result: TaskResult::Sum(result),
            blobs: Vec::new(),
            member_state: None,
        })
    }

    fn mask(&mut self, scope: &SumScope, sealed: &[(PeerId, Vec<u8>)]) -> Result<Done, TaskFailure> {
        let sums = self.sums.as_mut().expect("asked for by `sum`, which has seen it");
        let masked = match sums.mask(scope, sealed)? {
            Ok(masked) => masked,
            Err(dealer) => {
                return Ok(Done {
                    result: TaskResult::Sum(SumResult::Spoilt(dealer)),
                    blobs: Vec::new(),
                    member_state: None,
                });
            }
        };
        let report = sums.held.as_ref().expect("just masked").report;
        let carried = self.own.charge_sum(scope.round).map_err(released)?;
        let id = BlobId::of(&masked);
        let result = TaskResult::Trained {
            payload: id,
            bytes: masked.len() as u64,
            report,
        };
        Ok(self.with_state(result, scope.round, carried, vec![(id, masked)]))
    }

    fn settle_sum(
        &mut self,
        base: &BlobId,
        updates: &[UpdateRef],
        open: &OpenSum,
        read: &mut ReadBlob<'_>,
    ) -> Result<Done, TaskFailure> {
        let state = self.take_state(base, read)?;
        let sums = self.sums.as_ref().expect("asked for by `sum`, which has seen it");
        let survivors: Vec<PeerId> = updates.iter().map(|update| update.peer).collect();
        let mut payload = |at: usize| fetch(&updates[at].payload, "masked update", read);
        let means = match survivors.len() < MIN_MEMBERS {
            true => Err(TaskFailure::Unusable("a sum of so few hides nobody".to_owned())),
            false => sums.means(open, &survivors, &mut payload),
        };
        let settled = means.and_then(|means| self.settle_means(&state, updates, &open.scope, means));
        self.current = Some((*base, state));
        let (next, verdicts) = settled?;
        let (id, bytes, blobs) = self.adopt(next);
        Ok(Done {
            result: TaskResult::Aggregated {
                state: id,
                bytes,
                verdicts,
            },
            blobs,
            member_state: None,
        })
    }

    /// The outer step along what the sums tell, and a verdict on each update. A group whose sum is spoilt is left out whole:
    /// whose fault it is cannot be seen.
    fn settle_means(
        &self,
        state: &OuterState,
        updates: &[UpdateRef],
        scope: &SumScope,
        means: Vec<GroupMean>,
    ) -> Result<(OuterState, Vec<MemberVerdict>), TaskFailure> {
        let mut usable: Vec<(Vec<f32>, f32)> = Vec::new();
        let mut groups: Vec<(Vec<u8>, Option<u64>)> = Vec::new();
        for group in means {
            let total = match group.mean {
                Ok((values, total)) => {
                    usable.push((values, total as f32));
                    Some(total)
                }
                Err(error) if scope.groups.is_none() => return Err(secure_sum::unusable(error)),
                Err(_) => None,
            };
            groups.push((group.survivors, total));
        }
        let (next, judged) = self.combiner.settle_means(state, &usable).map_err(unusable)?;
        let mut judged = judged.into_iter();
        let judged: Vec<_> = groups
            .into_iter()
            .map(|(members, total)| (members, total.zip(total.and_then(|_| judged.next()))))
            .collect();
        let max_weight = self.sums.as_ref().map_or(1, |sums| u64::from(sums.config.max_weight));
        let verdict = |update: &UpdateRef| {
            let index = scope.members.iter().position(|member| *member == update.peer);
            let of_member = |(members, _): &&(Vec<u8>, _)| index.is_some_and(|index| members.contains(&(index as u8)));
            let Some((_, Some((total, verdict)))) = judged.iter().find(of_member) else {
                return excluded(update.peer);
            };
            // Weights of single members are masked: these are what they say that they are.
            let share = update.tokens.clamp(1, max_weight) as f32 / *total as f32;
            let weight = verdict.weight * share;
            said_of(update.peer, &Verdict { weight, ..*verdict })
        };
        Ok((next, updates.iter().map(verdict).collect()))
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
            .map(|update| self.payload(update, read))
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
            member_state: None,
        })
    }

    /// Models mixed around the own one; without it, the median of the neighbours'.
    fn mix(&mut self, own: Option<&Share>, neighbours: &[Share], read: &mut ReadBlob<'_>) -> Result<Done, TaskFailure> {
        let rule = self.mixing.clone();
        let rule = rule.ok_or_else(|| TaskFailure::Environment("this session does not mix".to_owned()))?;
        let mut own_values = None;
        if let Some(share) = own {
            let values = self.model(share, read)?;
            own_values = Some(
                values
                    .ok_or_else(|| TaskFailure::Environment(format!("the own model {} is damaged", share.payload)))?,
            );
        }
        let mut usable = Vec::new();
        let mut undecodable = Vec::new();
        for share in neighbours {
            match self.model(share, read)? {
                Some(values) => usable.push((share, values)),
                None => undecodable.push(share),
            }
        }
        let (parameters, mut verdicts, distance) = match own.zip(own_values) {
            Some((own, values)) => {
                // What does not decode counts as missing: its weight stays with the own model.
                let kept = undecodable.iter().fold(own.weight, |sum, share| sum + share.weight);
                mix_around((own, values, kept), usable, &rule)?
            }
            None => median_of(&usable)?,
        };
        verdicts.extend(undecodable.iter().map(|share| MemberVerdict {
            peer: share.peer,
            weight: 0.0,
            outcome: Outcome::Undecodable,
        }));
        verdicts.sort_unstable_by_key(|verdict| verdict.peer);
        let (state, bytes, blobs) = self.adopt(OuterState::new(parameters));
        let result = TaskResult::Mixed {
            state,
            bytes,
            verdicts,
            distance,
        };
        Ok(Done {
            result,
            blobs,
            member_state: None,
        })
    }

    /// The model behind a share; none where the bytes are no model of this session.
    fn model(&self, share: &Share, read: &mut ReadBlob<'_>) -> Result<Option<Vec<f32>>, TaskFailure> {
        let bytes = fetch(&share.payload, "model", read)?;
        let dimension = self.trainer.layout().len();
        let encoder = self.combiner.encoder();
        if encoder.validate(&bytes, dimension).is_err() {
            return Ok(None);
        }
        let mut values = vec![0.0; dimension];
        Ok(encoder.decode(&bytes, &mut values).is_ok().then_some(values))
    }

    fn evaluate(&mut self, id: &BlobId, read: &mut ReadBlob<'_>) -> Result<Done, TaskFailure> {
        let state = self.take_state(id, read)?;
        let evaluation = self.measure(id, &state.parameters);
        self.current = Some((*id, state));
        let Evaluation { loss, tokens } = evaluation.map_err(environment)?;
        Ok(Done {
            result: TaskResult::Evaluated { loss, tokens },
            blobs: Vec::new(),
            member_state: None,
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

/// A model, what came of each member's, and how far the neighbours' were.
type Mix = (Vec<f32>, Vec<MemberVerdict>, f32);

/// The mix of an own model, with the weight that it has, and neighbours' models.
fn mix_around(
    (own, own_values, own_weight): (&Share, Vec<f32>, f64),
    neighbours: Vec<(&Share, Vec<f32>)>,
    rule: &MixingConfig,
) -> Result<Mix, TaskFailure> {
    let distance = root_mean_square_distance(&own_values, &neighbours);
    let mut members: Vec<(PeerId, f64, Vec<f32>)> = neighbours
        .into_iter()
        .map(|(share, values)| (share.peer, share.weight, values))
        .collect();
    if rule.check(members.len()).is_err() {
        // Fewer came than the rule needs to bear its faulty ones: this member believes nobody in this round.
        let verdicts = members.iter().map(|(peer, _, _)| excluded(*peer)).collect();
        return Ok((own_values, verdicts, distance));
    }
    members.push((own.peer, own_weight, own_values));
    members.sort_by_key(|(peer, _, _)| *peer);
    let place = members.iter().position(|(peer, _, _)| *peer == own.peer);
    let views: Vec<Neighbour<'_>> = members
        .iter()
        .map(|(_, weight, values)| Neighbour {
            values,
            weight: *weight,
        })
        .collect();
    let neighbourhood = Neighbourhood {
        members: &views,
        own: place.expect("it was pushed just now"),
    };
    let mut mixed = vec![0.0; neighbourhood.own_values().len()];
    let judged = rule.mix(&neighbourhood, &mut mixed);
    if !mixed.iter().all(|value| value.is_finite()) {
        let reason = "the mix of these models is not finite: use a robust rule, or a smaller learning rate";
        return Err(TaskFailure::Unusable(reason.to_owned()));
    }
    let verdicts = members
        .iter()
        .zip(&judged)
        .map(|((peer, _, _), judged)| said_of(*peer, judged));
    Ok((mixed, verdicts.collect(), distance))
}

/// For a member without a model of its own: the coordinate-wise median, which a minority of liars cannot move far.
fn median_of(models: &[(&Share, Vec<f32>)]) -> Result<Mix, TaskFailure> {
    let Some((_, first)) = models.first() else {
        return Err(TaskFailure::Unusable(
            "no neighbour's model is usable: wait for others".to_owned(),
        ));
    };
    let contributions: Vec<Contribution<'_>> = models
        .iter()
        .map(|(_, values)| Contribution::dense(values, 1.0))
        .collect();
    let mut median = vec![0.0; first.len()];
    let judged = RuleConfig::Median.build().aggregate(&contributions, &mut median);
    let verdicts = models
        .iter()
        .zip(&judged)
        .map(|((share, _), judged)| said_of(share.peer, judged));
    Ok((median, verdicts.collect(), f32::NAN))
}

/// The root mean square of ‖xⱼ − x‖₂ over the neighbours j, in the models' own unit; NaN without any.
fn root_mean_square_distance(own: &[f32], neighbours: &[(&Share, Vec<f32>)]) -> f32 {
    let squared = |values: &[f32]| {
        let differences = values.iter().zip(own).map(|(a, b)| f64::from(*a) - f64::from(*b));
        differences.fold(0.0, |sum, difference| sum + difference * difference)
    };
    let total = neighbours.iter().fold(0.0, |sum, (_, values)| sum + squared(values));
    (total / neighbours.len() as f64).sqrt() as f32
}

fn excluded(peer: PeerId) -> MemberVerdict {
    MemberVerdict {
        peer,
        weight: 0.0,
        outcome: Outcome::Excluded,
    }
}

fn said_of(peer: PeerId, judged: &Verdict) -> MemberVerdict {
    let outcome = match judged.outcome {
        VerdictOutcome::Used => Outcome::Used,
        VerdictOutcome::Clipped => Outcome::Clipped,
        VerdictOutcome::Excluded => return excluded(peer),
    };
    MemberVerdict {
        peer,
        weight: judged.weight,
        outcome,
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

fn released(error: ReleaseError) -> TaskFailure {
    TaskFailure::Environment(error.to_string())
}

fn unusable(error: CombineError) -> TaskFailure {
    TaskFailure::Unusable(error.to_string())
}

/// What a settlement says of an update that was judged so.
pub fn verdict(update: &UpdateRef, judged: &PayloadVerdict) -> MemberVerdict {
    let (weight, outcome) = match judged {
        PayloadVerdict::Undecodable(_) => (0.0, Outcome::Undecodable),
        PayloadVerdict::BadWeight => (0.0, Outcome::Excluded),
        PayloadVerdict::Judged(verdict) => return said_of(update.peer, verdict),
    };
    MemberVerdict {
        peer: update.peer,
        weight,
        outcome,
    }
}

#[cfg(test)]
mod tests;
