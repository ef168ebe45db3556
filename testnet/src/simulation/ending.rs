//! When a run is over, and what is said of it: liveness, learning, detection, and the report.
//! Safety was judged on the way, by the checkers.

use synod_aggregation::OuterState;
use synod_protocol::identity::BlobId;
use synod_protocol::journal::JournalEntry;
use synod_protocol::task::{Round, Task, TaskResult};
use synod_training::Continue;

use super::checkers::Checker;
use super::report::{Report, Verdict};
use super::world::{AFTERMATH_MS, World};

impl World<'_> {
    pub(super) fn is_quiet(&self) -> bool {
        self.faults_due == 0 && self.for_round.is_empty() && self.now_ms >= self.quiet_ms
    }

    pub(super) fn is_over(&mut self) -> bool {
        if self.now_ms > self.scenario.limit_ms || self.ends_ms.is_some_and(|ends_ms| self.now_ms > ends_ms) {
            return true;
        }
        if !self.is_quiet() {
            return false;
        }
        let rounds = self.scenario.terms.rounds;
        let settled = match self.scenario.is_mixing() {
            true => self.checkers.farthest_mixed().unwrap_or(0),
            false => self.checkers.last_settled().map_or(0, |(round, _)| round),
        };
        let target = *self.target.get_or_insert_with(|| {
            self.scenario
                .expect
                .more_rounds
                .map_or(rounds, |more| rounds.min(settled + more))
        });
        if self.ends_ms.is_none() && std::mem::take(&mut self.moved) && self.laggards(target).is_empty() {
            self.ends_ms = Some(self.now_ms + AFTERMATH_MS);
        }
        self.now_ms > self.quiet_ms + self.scenario.expect.within_ms
    }

    /// The live honest members that have not settled `target`.
    pub(super) fn laggards(&self, target: Round) -> Vec<usize> {
        (0..self.peers.len())
            .filter(|peer| self.peers[*peer].is_honest() && !self.peers[*peer].gone)
            .filter(|peer| self.checkers.progress(*peer).is_none_or(|settled| settled < target))
            .collect()
    }

    pub(super) fn judge_end(&mut self) {
        let target = self.target.unwrap_or(self.scenario.terms.rounds);
        for peer in self.laggards(target).into_iter().take(5) {
            let settled = self.checkers.progress(peer);
            let now = self.peers[peer].clock(self.now_ms);
            let says = match (self.peers[peer].refused.clone(), self.peers[peer].machine()) {
                (Some(reason), _) => format!("was turned away: {reason}"),
                (None, Some(machine)) => {
                    let status = machine.status(now);
                    format!(
                        "is in round {}, term {}, {:?} under {:?}: {}",
                        status.round,
                        status.term,
                        status.phase,
                        status.coordinator.and_then(|id| self.index.get(&id)),
                        status.explanation
                    )
                }
                (None, None) => "is not a member".to_owned(),
            };
            let sentence = format!("peer {peer} settled {settled:?} of {target} rounds and {says}");
            self.checkers.report(Checker::Liveness, self.now_ms, sentence);
        }
        self.judge_learning();
        self.judge_rosters();
        for &adversary in &self.scenario.expect.banned {
            let found_out = (0..self.peers.len())
                .filter(|peer| self.peers[*peer].is_honest() && !self.peers[*peer].gone)
                .all(|peer| self.has_cut_off(peer, adversary));
            if !found_out {
                let sentence = format!("peer {adversary} misbehaved and is still trusted by somebody honest");
                self.checkers.report(Checker::Detection, self.now_ms, sentence);
            }
        }
    }

    /// A member that was always there must be in every roster, whoever said that it was lost.
    fn judge_rosters(&mut self) {
        for &member in &self.scenario.expect.kept {
            let id = self.peers[member].id;
            let settled = self.peers.iter().flat_map(|peer| &peer.journal);
            let mut without = settled.filter_map(|entry| match entry {
                JournalEntry::Settled(settlement) => {
                    let body = &settlement.body;
                    body.roster.get(&id).is_none().then_some(body.round)
                }
                _ => None,
            });
            if let Some(round) = without.next() {
                let sentence = format!("peer {member} was put out in round {round}, and had been there");
                self.checkers.report(Checker::UnfairBan, self.now_ms, sentence);
            }
        }
    }

    /// Whether a peer has banned another one, or knows a settlement that expelled it.
    pub(super) fn has_cut_off(&self, peer: usize, other: usize) -> bool {
        let id = self.peers[other].id;
        self.peers[peer].banned.contains(&other)
            || self.peers[peer].journal.iter().any(|entry| match entry {
                JournalEntry::Banned(who) => *who == id,
                JournalEntry::Settled(settlement) => settlement.body.expelled.contains(&id),
                _ => false,
            })
    }

    pub(super) fn judge_learning(&mut self) {
        self.judge_distance();
        let Some(loss) = self.last_loss() else { return };
        if let Some(bound) = self.scenario.expect.loss_below
            && (loss >= bound || loss.is_nan())
        {
            let sentence = format!("the loss ended at {loss}, not below {bound}");
            self.checkers.report(Checker::Learning, self.now_ms, sentence);
        }
        if let Some(bound) = self.scenario.expect.loss_above
            && loss <= bound
        {
            let sentence = format!("the loss ended at {loss}, not above {bound}");
            self.checkers.report(Checker::Learning, self.now_ms, sentence);
        }
    }

    /// The loss of what was settled last; without a coordinator, that of the worst honest member's model.
    fn last_loss(&mut self) -> Option<f32> {
        if !self.scenario.is_mixing() {
            let (_, state) = self.checkers.last_settled()?;
            return self.loss_of(state);
        }
        let models = self.last_models();
        let losses = models.into_iter().filter_map(|state| self.loss_of(state));
        losses.max_by(f32::total_cmp)
    }

    fn last_models(&self) -> Vec<BlobId> {
        let here = |peer: &usize| self.peers[*peer].is_honest() && !self.peers[*peer].gone;
        let peers = (0..self.peers.len()).filter(here);
        peers.filter_map(|peer| self.checkers.model_of(peer)).collect()
    }

    /// The root mean square distance of the honest members' last models from their mean.
    fn distance(&self) -> Option<f64> {
        let models: Option<Vec<OuterState>> = self
            .last_models()
            .iter()
            .map(|id| OuterState::from_bytes(&self.pool.get(id)?, None).ok())
            .collect();
        let models = models.filter(|models| !models.is_empty())?;
        let count = models.len() as f64;
        let mut total = 0.0;
        for at in 0..models[0].parameters.len() {
            let values = models.iter().map(|model| f64::from(model.parameters[at]));
            let mean = values.clone().sum::<f64>() / count;
            total += values.map(|value| (value - mean).powi(2)).sum::<f64>();
        }
        Some((total / count).sqrt())
    }

    fn judge_distance(&mut self) {
        let Some(bound) = self.scenario.expect.distance_below else {
            return;
        };
        let distance = self.distance();
        if distance.is_none_or(|distance| distance >= bound || distance.is_nan()) {
            let sentence = format!("the models ended {distance:?} from their mean, not below {bound}");
            self.checkers.report(Checker::Learning, self.now_ms, sentence);
        }
    }

    pub(super) fn loss_of(&mut self, state: BlobId) -> Option<f32> {
        let pool = &self.pool;
        let mut read = |id: &BlobId| {
            pool.get(id)
                .map(|bytes| bytes.to_vec())
                .ok_or_else(|| "gone".to_owned())
        };
        let task = Task::Evaluate { round: 0, state };
        match self.oracle.run(&task, &mut read, &mut |_| Continue::Go).ok()?.result {
            TaskResult::Evaluated { loss, .. } => Some(loss),
            _ => None,
        }
    }

    pub(super) fn report(&mut self) -> Report {
        let totals = self.network.totals();
        let last = self.checkers.last_settled();
        let loss_last = self.last_loss();
        let settled = match self.scenario.is_mixing() {
            true => self.checkers.farthest_mixed().unwrap_or(0),
            false => last.map_or(0, |(round, _)| round),
        };
        let mut report = Report {
            scenario: self.scenario.name.clone(),
            seed: self.scenario.seed,
            peers: self.peers.len(),
            rounds: self.scenario.terms.rounds,
            settled,
            event_log_digest: self.log.digest(),
            event_log_entries: self.log.entries(),
            safety: Verdict::NotAsked,
            liveness: Verdict::NotAsked,
            learning: Verdict::NotAsked,
            detection: Verdict::NotAsked,
            canary_caught: None,
            passed: false,
            violations: Vec::new(),
            loss_first: self.loss_first,
            loss_last,
            state_last: last.map(|(_, state)| state.to_string()),
            control_bytes: totals.control_bytes,
            bulk_bytes: totals.bulk_bytes,
            bytes: totals.control_bytes + totals.bulk_bytes,
            messages: totals.messages,
            lost: totals.lost,
            takeovers: self.takeovers,
            crashes: self.crashes,
            virtual_ms: self.now_ms,
            wall_s: 0.0,
        };
        report.judge(self.scenario, self.checkers.violations());
        report
    }
}
