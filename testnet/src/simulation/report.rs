//! What a run leaves behind: the digest of everything that happened, the verdicts, and one JSON object of both.
//! It judges nothing by itself; the world and the checkers hand it their findings.

use serde::Serialize;
use synod_protocol::event::Event;

use super::checkers::{Checker, Violation};
use super::scenario::Scenario;

/// A digest over every delivered input and every event, in order.
#[derive(Debug, Default)]
pub struct EventLog {
    hasher: blake3::Hasher,
    entries: u64,
}

impl EventLog {
    /// A message (named by its signature) or another input reached a peer.
    pub fn delivered(&mut self, at_ms: u64, to: usize, kind: u8, what: &[u8]) {
        self.entry(at_ms, to, kind, what);
    }

    /// A peer reported an event.
    pub fn event(&mut self, at_ms: u64, peer: usize, event: &Event) {
        let bytes = postcard::to_stdvec(event).expect("events always encode");
        self.entry(at_ms, peer, 255, &bytes);
    }

    /// The digest so far.
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// How many entries it is over.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn entry(&mut self, at_ms: u64, peer: usize, kind: u8, what: &[u8]) {
        self.hasher.update(&at_ms.to_le_bytes());
        self.hasher.update(&(peer as u64).to_le_bytes());
        self.hasher.update(&[kind]);
        self.hasher.update(&(what.len() as u64).to_le_bytes());
        self.hasher.update(what);
        self.entries += 1;
    }
}

/// A checker's word on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not.
    Violated,
    /// The scenario does not ask for it.
    NotAsked,
}

/// The report of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Peers.
    pub peers: usize,
    /// Rounds of the session.
    pub rounds: u64,
    /// Rounds that some honest member settled, the founding one not counted.
    pub settled: u64,
    /// BLAKE3 over every delivered input and every event, in order.
    pub event_log_digest: String,
    /// Entries of that log.
    pub event_log_entries: u64,
    /// The safety checkers together.
    pub safety: Verdict,
    /// Whether live honest members settled what they should have.
    pub liveness: Verdict,
    /// Whether the loss is where it should be.
    pub learning: Verdict,
    /// Whether adversaries were found out as expected.
    pub detection: Verdict,
    /// For a canary: whether the planted bug was caught.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_caught: Option<bool>,
    /// Whether the run is as the scenario expects.
    pub passed: bool,
    /// The first findings.
    pub violations: Vec<String>,
    /// Loss of the initial state.
    pub loss_first: Option<f32>,
    /// Loss of the last settled state.
    pub loss_last: Option<f32>,
    /// Content id of the last settled state.
    pub state_last: Option<String>,
    /// Bytes of messages.
    pub control_bytes: u64,
    /// Bytes of blobs.
    pub bulk_bytes: u64,
    /// All bytes.
    pub bytes: u64,
    /// Messages handed to the network.
    pub messages: u64,
    /// Messages that the network lost.
    pub lost: u64,
    /// Rounds settled in a term above 0: the coordinator was replaced.
    pub takeovers: u64,
    /// Crashes.
    pub crashes: u64,
    /// Virtual time at the end, in milliseconds.
    pub virtual_ms: u64,
    /// Wall clock time of the run, in seconds.
    pub wall_s: f64,
}

impl Report {
    /// The report of a run that panicked: the machine or the simulator has a bug.
    pub fn of_panic(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            peers: scenario.peers,
            rounds: scenario.terms.rounds,
            settled: 0,
            event_log_digest: String::new(),
            event_log_entries: 0,
            safety: Verdict::Violated,
            liveness: Verdict::Violated,
            learning: Verdict::NotAsked,
            detection: Verdict::NotAsked,
            canary_caught: None,
            passed: false,
            violations: vec!["panic: the run did not end; its message is on standard error".to_owned()],
            loss_first: None,
            loss_last: None,
            state_last: None,
            control_bytes: 0,
            bulk_bytes: 0,
            bytes: 0,
            messages: 0,
            lost: 0,
            takeovers: 0,
            crashes: 0,
            virtual_ms: 0,
            wall_s: 0.0,
        }
    }

    /// A second run of the seed went differently.
    pub fn found_different(&mut self, scenario: &Scenario) {
        self.violations
            .push("determinism: two runs of this seed have different event logs".to_owned());
        self.safety = Verdict::Violated;
        self.passed = false;
        if scenario.expect.caught_by.as_deref() == Some(Checker::Determinism.name()) {
            self.canary_caught = Some(true);
            self.passed = true;
        }
    }

    /// Judges findings against what the scenario expects.
    pub fn judge(&mut self, scenario: &Scenario, violations: &[Violation]) {
        let found = |checker| violations.iter().any(|violation| violation.checker == checker);
        let verdict = |bad: bool| if bad { Verdict::Violated } else { Verdict::Holds };
        let apart = [Checker::Liveness, Checker::Learning, Checker::Detection];
        self.safety = verdict(violations.iter().any(|violation| !apart.contains(&violation.checker)));
        self.liveness = verdict(found(Checker::Liveness));
        let asks_learning = scenario.expect.loss_below.is_some() || scenario.expect.loss_above.is_some();
        self.learning = if asks_learning {
            verdict(found(Checker::Learning))
        } else {
            Verdict::NotAsked
        };
        let asks_detection = !scenario.expect.banned.is_empty();
        self.detection = if asks_detection {
            verdict(found(Checker::Detection))
        } else {
            Verdict::NotAsked
        };
        self.passed = violations.is_empty();
        if let Some(expected) = &scenario.expect.caught_by {
            let caught = violations.iter().any(|violation| violation.checker.name() == expected);
            self.canary_caught = Some(caught);
            self.passed = caught;
        }
        self.violations = violations
            .iter()
            .take(10)
            .map(|found| format!("{} at {} ms: {}", found.checker.name(), found.at_ms, found.sentence))
            .collect();
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("reports always encode")
    }

    /// One line for a person.
    pub fn to_line(&self) -> String {
        let word = match (self.passed, self.canary_caught) {
            (true, Some(_)) => "canary caught",
            (false, Some(_)) => "CANARY NOT CAUGHT",
            (true, None) => "passed",
            (false, None) => "FAILED",
        };
        let loss = match (self.loss_first, self.loss_last) {
            (Some(first), Some(last)) => format!("loss {first:.4} -> {last:.4}"),
            _ => "loss unknown".to_owned(),
        };
        format!(
            "{word}: {} seed {}: {} peers, {} of {} rounds, {} takeovers, {} crashes, {loss}, {} messages, {:.1} s virtual, {:.2} s",
            self.scenario,
            self.seed,
            self.peers,
            self.settled,
            self.rounds,
            self.takeovers,
            self.crashes,
            self.messages,
            self.virtual_ms as f64 / 1000.0,
            self.wall_s
        )
    }
}
