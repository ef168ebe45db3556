//! The machine: everything that one member of one session decides, as a pure function of what it is told.
//! It owns no clock, socket, disk, tensor or thread; `contract` states what it and its driver may rely on, and each phase
//! of a round has a file of its own under `round/`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::contract::{Command, FetchFailure, Input, Output, Time};
use crate::event::Event;
use crate::heard::Heard;
use crate::identity::{BlobId, Identity, PeerId};
use crate::invite::{Admission, BlockId};
use crate::joining::Doorkeeper;
use crate::journal::JournalEntry;
use crate::limits;
use crate::message::{Heartbeat, Message, Phase, Settlement, Term};
use crate::reject::{Evidence, Reject};
use crate::reputation::Reputation;
use crate::round::Round as RoundWork;
use crate::round::ahead::Combined;
use crate::round::summing::SumStep;
use crate::session::{Lifecycle, Role, Roster, SessionInfo};
use crate::signed::{Signed, Verified};
use crate::sum::SumResult;
use crate::task::{JobId, Round, Task, TaskFailure, TaskResult};
use crate::topology::federated::Succession;
use crate::topology::gossip::Gossip;

/// What an outstanding job was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// Make the initial state.
    Initialise,
    /// Bring the base of the current round into the store.
    State,
    /// Local steps.
    Train,
    /// As the coordinator: bring a member's payload in.
    Payload(PeerId),
    /// As the coordinator: combine.
    Aggregate,
    /// As a voter: bring a payload in that the proposal names, or may name.
    CheckPayload(BlobId),
    /// As a voter: combine again.
    Check,
    /// As a voter: combine what the proposal may name.
    Ahead,
    /// Measure the settled state.
    Evaluate,
    /// Without a coordinator: bring in what a neighbour claimed for a round.
    Neighbour(PeerId, Round),
    /// Without a coordinator: mix the own model with the neighbours'.
    Mix,
    /// A step of a secure sum.
    Sum(SumStep),
    /// With shards: bring a member's part of one in.
    Part(u32, PeerId),
    /// With shards: combine one.
    Combine(u32),
    /// With shards, as the coordinator: bring in what two members made of one.
    Combined(u32),
}

/// The agreed state that the current round starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    pub state: BlobId,
    pub bytes: u64,
    /// Whether the blob is in this node's store.
    pub held: bool,
}

/// One member of one session.
pub struct Machine {
    pub(crate) identity: Identity,
    pub(crate) me: PeerId,
    pub(crate) info: SessionInfo,
    /// Settled rounds, from round 0 on.
    pub(crate) chain: Vec<Arc<Settlement>>,
    pub(crate) expelled: BTreeSet<PeerId>,
    /// When a member left by its own word, last.
    pub(crate) departed: BTreeMap<PeerId, Round>,
    /// Everyone who was ever in a roster.
    pub(crate) alumni: BTreeSet<PeerId>,
    /// Who handed over the message that is being handled.
    carrier: Option<PeerId>,
    pub(crate) base: Option<Base>,
    pub(crate) work: RoundWork,
    pub(crate) succession: Succession,
    pub(crate) gossip: Gossip,
    pub(crate) door: Doorkeeper,
    pub(crate) heard: BTreeMap<PeerId, Heard>,
    pub(crate) reputation: Reputation,
    pub(crate) own_admission: Option<Signed<Admission>>,
    pub(crate) leaving: bool,
    jobs: BTreeMap<JobId, Job>,
    next_job: JobId,
    boot: u64,
    beats: u64,
    next_beat: Time,
    lifecycle: Lifecycle,
    started: bool,
    /// The round and term that this process woke up in.
    pub(crate) resumed: Option<(Round, Term)>,
    evaluated: bool,
    pub(crate) retry_state_at: Time,
    pub(crate) now: Time,
    pub(crate) out: Vec<Output>,
}

impl Machine {
    /// A machine as it was when the last entry of `journal` became durable; an empty journal makes a new one.
    /// The creator founds the session; everyone else needs its admission in the journal.
    pub fn new(identity: Identity, info: SessionInfo, journal: Vec<JournalEntry>, now: Time) -> Self {
        let me = identity.peer_id();
        let mut machine = Self {
            identity,
            me,
            info,
            chain: Vec::new(),
            expelled: BTreeSet::new(),
            departed: BTreeMap::new(),
            alumni: BTreeSet::new(),
            carrier: None,
            base: None,
            work: RoundWork::default(),
            succession: Succession::new(now),
            gossip: Gossip::default(),
            door: Doorkeeper::default(),
            heard: BTreeMap::new(),
            reputation: Reputation::default(),
            own_admission: None,
            leaving: false,
            jobs: BTreeMap::new(),
            next_job: 1,
            boot: now.0,
            beats: 0,
            next_beat: now,
            lifecycle: Lifecycle::Gathering,
            started: false,
            resumed: None,
            evaluated: false,
            retry_state_at: now,
            now,
            out: Vec::new(),
        };
        machine.restore(journal);
        machine
    }

    /// Takes one input and says what has to be done. See [`crate::contract`].
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        if !self.started {
            self.start();
        }
        match input {
            Input::Tick => {}
            Input::Message { message, carrier } => self.on_message(message, carrier),
            Input::Refused { from, reject } => self.charge(Evidence::plain(from, reject, self.round(), "bytes")),
            Input::Computed { job, result } => self.on_computed(job, result),
            Input::Fetched { job, result } => self.on_fetched(job, result),
            Input::Command(Command::Leave) => self.on_leave_command(),
            Input::Command(Command::Revoke(block)) => {
                self.persist(JournalEntry::Revoked(block));
                self.door.revoke(block);
            }
        }
        self.on_time();
        std::mem::take(&mut self.out)
    }

    /// When `handle` wants to be called at the latest, whatever else happens.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.is_out() {
            return None;
        }
        let mut next = self.next_beat;
        let others = [
            self.suspect_at(),
            self.collecting_deadline(),
            self.mixing_deadline(),
            self.ballot_deadline(),
        ];
        for other in others.into_iter().flatten() {
            next = next.min(other);
        }
        Some(next)
    }

    /// The settled rounds from round 0 on.
    pub fn settlements(&self) -> &[Arc<Settlement>] {
        &self.chain
    }

    /// This node's id.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// What the machine knows of its session.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// The round being worked on: the first that is not settled, or that this member has not mixed.
    pub fn round(&self) -> Round {
        match self.is_mixing() {
            true => self.gossip.round,
            false => self.chain.len() as Round,
        }
    }

    /// The members of the current round; empty before the session has begun.
    pub fn roster(&self) -> &Roster {
        if self.is_mixing() {
            return &self.gossip.roster;
        }
        static NOBODY: std::sync::LazyLock<Roster> = std::sync::LazyLock::new(Roster::default);
        self.chain.last().map_or(&NOBODY, |settlement| &settlement.body.roster)
    }

    /// The invite blocks that this node admitted members on, with the uses spent, and the blocks it revoked.
    pub fn invite_uses(&self) -> (&BTreeMap<BlockId, u32>, &BTreeSet<BlockId>) {
        (self.door.uses(), self.door.revoked())
    }

    // ---- starting and time ------------------------------------------------------------------------------------------

    fn start(&mut self) {
        self.started = true;
        self.resumed = Some((self.round(), self.succession.term));
        self.event(Event::Started { round: self.round() });
        self.announce_members();
        if self.is_mixing() {
            return self.resume_mixing();
        }
        match self.chain.last() {
            None => _ = self.compute(Job::Initialise, Task::Initialise),
            Some(last) => {
                let (state, bytes) = (last.body.state, last.body.state_bytes);
                self.base = Some(Base {
                    state,
                    bytes,
                    held: false,
                });
                self.begin_round();
            }
        }
    }

    fn on_time(&mut self) {
        if self.is_out() {
            return;
        }
        if self.now >= self.next_beat {
            self.next_beat = self.now.after_ms(self.info.terms.heartbeat_ms);
            self.beat();
        }
        self.watch_coordinator();
        self.watch_ballots();
        self.try_to_found();
        self.try_to_close();
        self.try_to_settle_shards();
        self.watch_lag();
        self.try_to_mix();
        self.watch_lifecycle();
    }

    /// Whether this node has left, or was put out, and does nothing any more.
    pub fn is_out(&self) -> bool {
        self.leaving
            && (self.chain.is_empty() || !self.roster().peers().any(|peer| peer == self.me) || self.is_finished())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.round() > self.info.terms.rounds && !self.is_following()
    }

    fn watch_lifecycle(&mut self) {
        let (lifecycle, reason) = self.judge_lifecycle();
        if lifecycle != self.lifecycle {
            self.lifecycle = lifecycle;
            self.event(Event::LifecycleChanged { lifecycle, reason });
        }
    }

    /// Where the session is, and one sentence for the operator.
    pub(crate) fn judge_lifecycle(&self) -> (Lifecycle, String) {
        if self.is_finished() {
            return (Lifecycle::Finished, "all rounds are settled".into());
        }
        if self.is_mixing() {
            return self.judge_mixing();
        }
        if self.chain.is_empty() {
            let needed = self.info.terms.members_to_begin();
            let text = if self.me == self.info.creator {
                format!(
                    "{} of {needed} trainers are here; mint invites with `node invite`",
                    self.trainers_to_found()
                )
            } else {
                "waiting for the creator to begin".to_owned()
            };
            return (Lifecycle::Gathering, text);
        }
        let roster = self.roster();
        if self.is_coordinator() || self.is_by_quorum() {
            let voters = roster.voters().filter(|peer| self.is_alive(peer)).count();
            let trainers = roster.with(Role::Trainer).filter(|peer| self.is_alive(peer)).count();
            let needed = self.info.terms.updates_needed(roster.with(Role::Trainer).count());
            let votes = self.info.terms.votes_needed(roster);
            if voters < votes || trainers < needed {
                let cut_off = roster.peers().filter(|peer| self.reputation.is_banned(peer)).count();
                let hope = match cut_off {
                    0 => "it goes on when they are back, or others join".to_owned(),
                    _ => format!("this node has cut off {cut_off} of them for good, see the evidence in its status"),
                };
                let text = format!(
                    "{voters} of {} members are heard; a round needs {votes} votes and {needed} updates; {hope}",
                    roster.len()
                );
                return (Lifecycle::Paused, text);
            }
        } else if self.now.since(self.succession.led_until) > 2 * self.info.terms.lost_after_ms {
            let text = "the coordinator is not heard, and too few members are there to replace it";
            return (Lifecycle::Paused, text.into());
        }
        (Lifecycle::Running, self.progress())
    }

    /// What a running session waits for, in a sentence.
    fn progress(&self) -> String {
        if self.work.training.failed.is_some() {
            return "local steps failed here; they are tried again, see the log".to_owned();
        }
        match &self.work.lead {
            Some(lead) if lead.is_collecting() => {
                let (here, needed) = self.updates_here(lead);
                format!("{here} updates are in, {needed} are needed")
            }
            _ => "rounds settle".to_owned(),
        }
    }

    /// Whether a member was heard lately (this node always is).
    pub(crate) fn is_alive(&self, peer: &PeerId) -> bool {
        let lost_after = self.info.terms.lost_after_ms;
        let heard = self.heard.get(peer).and_then(|heard| heard.at);
        *peer == self.me || heard.is_some_and(|at| self.now.since(at) <= lost_after)
    }

    fn beat(&mut self) {
        let unmade = self.base.is_none() && self.chain.is_empty() && !self.has_job(&Job::Initialise);
        if unmade && self.now >= self.retry_state_at {
            self.retry_state_at = self.now.after_ms(4 * self.info.terms.lost_after_ms);
            self.compute(Job::Initialise, Task::Initialise);
        }
        if self.base.is_some_and(|base| !base.held)
            && !self.is_following()
            && !self.has_job(&Job::State)
            && self.now >= self.retry_state_at
        {
            self.fetch_state();
        }
        let beat = self.next_heartbeat();
        self.spread_beat(beat);
        self.repeat_what_matters();
    }

    pub(crate) fn next_heartbeat(&mut self) -> Message {
        self.beats += 1;
        Message::Heartbeat(Heartbeat {
            boot: self.boot,
            count: self.beats,
            round: self.round(),
            term: self.succession.term,
            settled: self.chain.last().map(|settlement| settlement.id(&self.info.session)),
            phase: self.phase(),
            lifecycle: self.lifecycle,
        })
    }

    /// What this member is doing.
    pub(crate) fn phase(&self) -> Phase {
        if self.is_finished() {
            return Phase::Idle;
        }
        match self.base {
            None => Phase::Idle,
            Some(_) if self.has_job(&Job::Mix) => Phase::Aggregating,
            Some(base) if !base.held || self.is_following() => Phase::CatchingUp,
            Some(_) => self.work.phase(self.chain.is_empty()),
        }
    }

    // ---- messages ---------------------------------------------------------------------------------------------------

    fn on_message(&mut self, message: Verified<Message>, carrier: Option<PeerId>) {
        let from = message.signer();
        let kind = message.value().kind();
        self.carrier = carrier;
        if from == self.me {
            return;
        }
        if self.is_out() {
            // The last settlement may be known to those alone who left with it.
            let behind = match message.value() {
                Message::CatchUp { from: first } => Some(*first),
                Message::Heartbeat(beat) => Some(beat.round),
                other => other.round(),
            };
            if let Some(round) = behind.filter(|_| message.session() == self.info.session) {
                self.on_catch_up(from, round);
            }
            return;
        }
        if message.session() != self.info.session {
            // Its signer may have said it to others, long ago: who brings it here is at fault.
            let blamed = carrier.map(|peer| Evidence::plain(peer, Reject::ForeignSession, self.round(), kind));
            return blamed.into_iter().for_each(|evidence| self.charge(evidence));
        }
        if !message.value().within_limits() {
            return self.charge(Evidence::plain(from, Reject::Malformed, self.round(), kind));
        }
        // Votes by quorum count whoever passes them on: a term that one member was led on from, others must be able to leave.
        let counts = match message.value() {
            Message::Join(_) | Message::Ask(_) => true,
            Message::Vote(_) | Message::Ballot(_) => self.is_by_quorum(),
            _ => false,
        };
        if self.reputation.is_banned(&from) && !counts {
            return;
        }
        // What is of the current round was said lately; heartbeats prove their own freshness. By quorum others pass votes on.
        let first_hand = !self.is_by_quorum() || carrier == Some(from);
        if first_hand && message.value().round() == Some(self.round()) && self.is_known(&from) {
            self.heard.entry(from).or_default().at = Some(self.now);
        }
        if self.is_mixing() && self.on_message_of_mixing(&message) {
            return;
        }
        match message.value() {
            Message::Join(proof) => self.on_join(from, proof),
            Message::Ask(proof) => self.on_ask(from, proof),
            Message::Present(admission) => self.on_present(from, admission),
            Message::Heartbeat(beat) => self.on_heartbeat(from, beat),
            Message::Update(claim) => self.on_update(&message, claim),
            Message::Proposal(proposal) if self.is_by_quorum() => self.on_proposal_by_quorum(&message, proposal),
            Message::Proposal(proposal) => self.on_proposal(&message, proposal),
            Message::Vote(vote) if self.is_by_quorum() => self.on_ballot(&message, vote.round),
            Message::Vote(vote) => self.on_vote(&message, vote),
            Message::Ballot(ballot) if self.is_by_quorum() => self.on_ballot(&message, ballot.round),
            Message::Settled(settlement) => self.on_settlements(from, std::slice::from_ref(settlement)),
            // Of an agreement that this session does not have, or that has not begun here.
            Message::TermChange(_) if self.is_by_quorum() => {}
            Message::Ballot(_) => {}
            Message::TermChange(change) => self.on_term_change(&message, change),
            Message::CatchUp { from: first } => self.on_catch_up(from, *first),
            Message::Settlements(list) => self.on_settlements(from, list),
            Message::Leave { .. } => self.on_leave(&message),
            Message::Sum(statement) => self.on_sum(&message, statement),
            Message::Shard(statement) => self.on_shard(&message, statement),
            // Meant for a joiner that has no machine yet; a repeated answer finds it here.
            Message::Admitted(_) | Message::Refused(_) | Message::Offer(_) => {}
        }
    }

    /// Whether a peer is or was a member, or is on its way to be one.
    pub(crate) fn is_known(&self, peer: &PeerId) -> bool {
        *peer == self.info.creator || self.alumni.contains(peer) || self.door.is_admitted(peer)
    }

    /// The check of a message's round that every phase shares: true if it is of the current one.
    pub(crate) fn is_current(&mut self, from: PeerId, round: Round, kind: &'static str) -> bool {
        if round == self.round() {
            return !self.is_finished();
        }
        if round > self.round() {
            self.ask_for_settlements(from);
            return false;
        }
        // An honest member that lags says old things itself, and shows others' proposals, by quorum their votes too; nothing
        // else of others.
        let shown = kind == "proposal" || self.is_by_quorum() && matches!(kind, "vote" | "ballot");
        let old = self.round() - round > limits::LATE_ROUNDS && !shown;
        match self.carrier.filter(|carrier| *carrier != from && old) {
            Some(carrier) => self.charge(Evidence::plain(carrier, Reject::Replay, self.round(), kind)),
            None => self.charge(Evidence::plain(from, Reject::Late, self.round(), kind)),
        }
        // By quorum the last third of the votes is always late, and who is behind asks by itself.
        if !self.is_by_quorum() {
            self.on_catch_up(from, round);
        }
        false
    }

    // ---- jobs -------------------------------------------------------------------------------------------------------

    pub(crate) fn compute(&mut self, purpose: Job, task: Task) -> JobId {
        let job = self.new_job(purpose);
        self.out.push(Output::Compute { job, task });
        job
    }

    pub(crate) fn fetch(&mut self, purpose: Job, blob: BlobId, bytes: u64, mut from: Vec<PeerId>) {
        from.retain(|peer| *peer != self.me);
        let job = self.new_job(purpose);
        // Long enough for the session's largest blob at 1 Mbit/s, never shorter than a lost member takes to be noticed.
        let within_ms = (bytes / 125).max(4 * self.info.terms.lost_after_ms);
        self.out.push(Output::Fetch {
            job,
            blob,
            bytes,
            from,
            within_ms,
        });
    }

    fn new_job(&mut self, purpose: Job) -> JobId {
        let job = self.next_job;
        self.next_job += 1;
        self.jobs.insert(job, purpose);
        job
    }

    pub(crate) fn has_job(&self, purpose: &Job) -> bool {
        self.jobs.values().any(|job| job == purpose)
    }

    /// Forgets the jobs that `stale` names; what they still answer is ignored, what they compute is stopped.
    pub(crate) fn drop_jobs(&mut self, stale: impl Fn(&Job) -> bool) {
        let gone: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, job)| stale(job))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.jobs.remove(&id);
            self.out.push(Output::Cancel(id));
        }
    }

    fn on_computed(&mut self, job: JobId, result: Result<TaskResult, TaskFailure>) {
        let Some(purpose) = self.jobs.remove(&job) else { return };
        match (purpose, result) {
            (Job::Initialise, Ok(TaskResult::Initialised { state, bytes })) => self.on_initialised(state, bytes),
            (Job::Train, Ok(TaskResult::Trained { payload, bytes, report })) => self.on_trained(payload, bytes, report),
            (Job::Train, Ok(TaskResult::Sum(SumResult::Trained))) => self.on_sum_trained(),
            (purpose, Ok(TaskResult::Shard(done))) => self.on_shard_computed(purpose, done),
            (Job::Sum(step), Ok(result)) => self.on_sum_computed(step, result),
            (Job::Aggregate, Ok(TaskResult::Aggregated { state, bytes, verdicts })) => {
                self.on_aggregated(state, bytes, verdicts);
            }
            (Job::Check, Ok(TaskResult::Aggregated { state, bytes, verdicts })) => {
                self.on_checked(state, bytes, &verdicts);
            }
            (Job::Ahead, Ok(TaskResult::Aggregated { state, bytes, verdicts })) => {
                self.on_combined_ahead(Some(Combined { state, bytes, verdicts }));
            }
            (
                Job::Mix,
                Ok(TaskResult::Mixed {
                    state,
                    bytes,
                    verdicts,
                    distance,
                }),
            ) => self.on_mixed(state, bytes, verdicts, distance),
            (Job::Evaluate, Ok(TaskResult::Evaluated { loss, tokens })) => {
                let round = self.round().saturating_sub(1);
                self.event(Event::Evaluated { round, loss, tokens });
            }
            (purpose, Err(failure)) => self.on_task_failed(purpose, failure),
            (purpose, Ok(other)) => panic!("the driver answered {purpose:?} with {other:?}"),
        }
    }

    fn on_task_failed(&mut self, purpose: Job, failure: TaskFailure) {
        let reason = match &failure {
            TaskFailure::Environment(reason) | TaskFailure::Unusable(reason) => reason.clone(),
        };
        self.event(Event::TaskFailed {
            round: self.round(),
            reason,
        });
        match purpose {
            Job::Train => self.on_training_failed(),
            Job::Initialise => self.retry_state_at = self.now.after_ms(4 * self.info.terms.lost_after_ms),
            Job::Aggregate => self.on_aggregation_failed(&failure),
            Job::Check => self.on_check_failed(&failure),
            Job::Ahead => self.on_combined_ahead(None),
            Job::Mix => self.on_mixing_failed(),
            Job::Sum(step) => self.on_sum_failed(step, &failure),
            Job::Combine(shard) => self.on_combining_failed(shard),
            _ => {}
        }
    }

    fn on_fetched(&mut self, job: JobId, result: Result<(), FetchFailure>) {
        let Some(purpose) = self.jobs.remove(&job) else { return };
        if let Err(failure) = &result {
            // A wrong length in a check may be the claimant's or the server's: the coordinator has judged that before.
            let checking = matches!(purpose, Job::CheckPayload(_) | Job::Combined(_));
            let charge = match (failure, &purpose) {
                (FetchFailure::WrongDigest(peer), _) => Some((*peer, Reject::WrongDigest)),
                // What others hold of a member's update has the length that it has, whatever the member said.
                (FetchFailure::Oversize(peer), Job::Part(_, owner)) => {
                    (peer == owner).then_some((*peer, Reject::Oversize))
                }
                (FetchFailure::Oversize(peer), _) => (!checking).then_some((*peer, Reject::Oversize)),
                (FetchFailure::OtherLength, Job::Payload(owner) | Job::Neighbour(owner, _) | Job::Part(_, owner)) => {
                    Some((*owner, Reject::Oversize))
                }
                (FetchFailure::OtherLength | FetchFailure::Unavailable, _) => None,
                (FetchFailure::Environment(reason), _) => {
                    let (round, reason) = (self.round(), reason.clone());
                    self.event(Event::TaskFailed { round, reason });
                    None
                }
            };
            if let Some((peer, reject)) = charge {
                self.charge(Evidence::plain(peer, reject, self.round(), "blob"));
            }
        }
        match purpose {
            Job::State => self.on_state_fetched(result.is_ok()),
            Job::Payload(peer) => self.on_payload(peer, &result),
            Job::Neighbour(peer, of) => self.on_neighbour(peer, of, &result),
            Job::CheckPayload(blob) => self.on_check_payload(blob, result.is_ok()),
            Job::Part(shard, peer) => self.on_part(shard, peer, &result),
            Job::Combined(shard) => self.on_combined_fetched(shard, result.is_ok()),
            other => panic!("the driver answered the computation {other:?} with a fetch"),
        }
    }

    // ---- what the phases share --------------------------------------------------------------------------------------

    pub(crate) fn persist(&mut self, entry: JournalEntry) {
        self.out.push(Output::Persist(entry));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out.push(Output::Event(event));
    }

    pub(crate) fn sign(&self, message: &Message) -> Signed<Message> {
        Signed::new(&self.identity, self.info.session, message)
    }

    pub(crate) fn send(&mut self, to: PeerId, message: &Message) {
        let message = self.sign(message);
        self.send_signed(to, message);
    }

    pub(crate) fn send_signed(&mut self, to: PeerId, message: Signed<Message>) {
        if to != self.me {
            self.out.push(Output::Send { to, message });
        }
    }

    pub(crate) fn broadcast(&mut self, message: Signed<Message>) {
        self.out.push(Output::Broadcast(message));
    }

    pub(crate) fn charge(&mut self, evidence: Evidence) {
        let (peer, reject, kind) = (evidence.peer, evidence.reject, evidence.kind.clone());
        // Strangers have no credit to lose; keeping them out is the transport's business.
        if peer == self.me || !self.is_known(&peer) {
            return;
        }
        let banned = self.reputation.charge(evidence);
        if reject.cost() > 0 {
            let reputation = self.reputation.of(&peer);
            self.event(Event::Rejected {
                peer,
                reject,
                kind,
                reputation,
            });
        }
        if banned {
            self.persist(JournalEntry::Banned(peer));
            self.out.push(Output::Ban(peer));
            self.event(Event::Banned { peer });
        }
    }

    fn on_initialised(&mut self, state: BlobId, bytes: u64) {
        if self.chain.is_empty() {
            self.base = Some(Base {
                state,
                bytes,
                held: true,
            });
            self.resume_checking();
        } else if self.is_mixing()
            && let Some(base) = self.base.as_mut().filter(|base| base.state == state && !base.held)
        {
            // Founded while this member was still making the initial state.
            base.held = true;
            self.begin_mixing_round();
        }
    }

    pub(crate) fn announce_members(&mut self) {
        if self.is_out() {
            // Who has left keeps nobody's connection.
            return self.out.push(Output::Members(Vec::new()));
        }
        let mut members: BTreeSet<PeerId> = self.roster().peers().collect();
        members.extend(self.door.admitted_peers());
        members.insert(self.info.creator);
        if let Some(admission) = &self.own_admission {
            members.insert(admission.signer());
        }
        members.retain(|peer| *peer != self.me && !self.reputation.is_banned(peer));
        self.out.push(Output::Members(members.into_iter().collect()));
    }

    /// Takes a proved settlement of the current round as the truth. The caller begins the next round.
    pub(crate) fn adopt(&mut self, settlement: Arc<Settlement>, held: bool) {
        self.persist(JournalEntry::Settled(settlement.clone()));
        let body = &settlement.body;
        self.event(Event::Settled {
            round: body.round,
            term: settlement.term,
            body: settlement.id(&self.info.session),
            state: body.state,
            verdicts: body.used.iter().map(|used| used.verdict).collect(),
            missing: body.missing.clone(),
            members: body.roster.len() as u32,
        });
        body.used
            .iter()
            .for_each(|used| self.reputation.forgive(&used.update.peer));
        self.remember_members(&settlement);
        let unchanged = self.base.is_some_and(|base| base.held && base.state == body.state);
        let held = held || unchanged || self.work.ahead.made(body.state);
        self.base = Some(Base {
            state: body.state,
            bytes: body.state_bytes,
            held,
        });
        let first = self.chain.is_empty();
        let changed = first || self.roster() != &body.roster;
        self.door.settle(body);
        self.chain.push(settlement.clone());
        if self.is_mixing() {
            self.found_gossip(&settlement.body.roster);
        }
        self.drop_jobs(|job| !matches!(job, Job::Initialise));
        self.work = RoundWork::default();
        self.succession.begin_round(self.now);
        if changed {
            self.announce_members();
        }
        self.retire();
    }

    pub(crate) fn remember_members(&mut self, settlement: &Settlement) {
        let body = &settlement.body;
        self.expelled.extend(&body.expelled);
        self.departed.extend(body.left.iter().map(|peer| (*peer, body.round)));
        self.alumni.extend(body.roster.peers());
    }

    fn retire(&mut self) {
        self.retire_before(self.round().saturating_sub(1));
    }

    pub(crate) fn retire_before(&mut self, keep_from: Round) {
        let base = self.base.iter().map(|base| base.state);
        let keep = base.chain(self.gossip.held_payloads()).collect();
        self.out.push(Output::Retire { keep_from, keep });
    }

    /// Enters the current round with what is known: fetch the base, or train, or lead.
    pub(crate) fn begin_round(&mut self) {
        if self.is_mixing() {
            return self.begin_mixing_round();
        }
        let Some(base) = self.base else { return };
        if self.is_by_quorum() {
            // Also without the base: who cannot judge a proposal still has a vote to pass.
            let round = self.round();
            self.open_ballots();
            if self.round() != round {
                // The journal held the votes that settle it, and the next one has begun.
                return;
            }
        }
        if !base.held {
            return self.fetch_state();
        }
        if self.is_finished() {
            return self.finish(base);
        }
        let coordinator = self.coordinator();
        self.event(Event::RoundStarted {
            round: self.round(),
            base: base.state,
            coordinator,
        });
        self.lead_if_due();
        self.train();
    }

    /// Says once that all rounds are over, and measures what came of them.
    pub(crate) fn finish(&mut self, base: Base) {
        if self.evaluated {
            return;
        }
        self.evaluated = true;
        let round = self.round() - 1;
        self.event(Event::Finished {
            round,
            state: base.state,
        });
        self.compute(
            Job::Evaluate,
            Task::Evaluate {
                round,
                state: base.state,
            },
        );
    }

    fn fetch_state(&mut self) {
        if self.is_mixing() {
            return self.begin_mixing_round();
        }
        let Some((base, last)) = self.base.zip(self.chain.last().cloned()) else {
            return;
        };
        self.retry_state_at = self.now.after_ms(self.info.terms.lost_after_ms);
        // Whoever voted for it holds it, and so does its proposer. Members ask in different orders to spread the load.
        let mut from: Vec<PeerId> = last
            .votes
            .iter()
            .map(|(voter, _)| *voter)
            .filter(|peer| *peer != self.me)
            .collect();
        let turn = usize::from(self.me.0[0]) % from.len().max(1);
        from.rotate_left(turn);
        let sure = last.body.proposer;
        from.retain(|peer| *peer != sure);
        from.push(sure);
        from.extend(
            self.roster()
                .peers()
                .filter(|peer| !from.contains(peer))
                .take(8)
                .collect::<Vec<_>>(),
        );
        let waiting_for = format!("state {} of round {}", base.state.short(), last.body.round);
        self.event(Event::CatchingUp {
            round: self.round(),
            waiting_for,
        });
        self.fetch(Job::State, base.state, base.bytes, from);
    }

    fn on_state_fetched(&mut self, here: bool) {
        if self.is_mixing() {
            return self.on_own_model(here);
        }
        if here && let Some(base) = &mut self.base {
            base.held = true;
            self.begin_round();
            self.resume_checking();
        }
    }
}
