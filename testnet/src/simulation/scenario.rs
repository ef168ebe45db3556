//! Scenario files: the session, the network, what goes wrong, and what must come of it, in TOML.
//! Unknown keys are refused; every error names the file, the key and the reason. Nothing here runs anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use synod_aggregation::privacy::PrivacyConfig;
use synod_aggregation::shards::check_composition;
use synod_aggregation::{
    Composition, EncodingConfig, MixingConfig, OuterConfig, PreAggregationConfig, Ranges, RuleConfig, ShardsError,
};
use synod_protocol::session::{Terms, Topology};
use synod_training::MemberStateConfig;
use synod_training::config::{ModelConfig, StepsBySpeed, SyntheticConfig, TrainingConfig};

use super::adversary::AdversaryConfig;
use super::faults::{FaultConfig, RandomFaults};
use super::network::NetworkConfig;

/// One scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name in reports.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Decides everything that is random.
    #[serde(default = "one")]
    pub seed: u64,
    /// Peers, the creator (peer 0) included.
    pub peers: usize,
    /// Joiners start within this time, in milliseconds.
    #[serde(default = "one_second")]
    pub join_within_ms: u64,
    /// The run ends here at the latest, in virtual milliseconds.
    #[serde(default = "an_hour")]
    pub limit_ms: u64,
    /// The session's terms.
    #[serde(default)]
    pub terms: Terms,
    /// What is done to updates before the rule.
    #[serde(default)]
    pub pre: Vec<PreAggregationConfig>,
    /// How updates combine.
    #[serde(default = "mean")]
    pub rule: RuleConfig,
    /// How updates are encoded.
    #[serde(default = "dense")]
    pub encoding: EncodingConfig,
    /// The outer step. The default is DiLoCo's.
    #[serde(default)]
    pub outer: OuterConfig,
    /// What members carry from update to update.
    #[serde(default)]
    pub worker: MemberStateConfig,
    /// How members protect what they send.
    #[serde(default)]
    pub privacy: PrivacyConfig,
    /// How members mix, where the terms name no coordinator.
    #[serde(default = "gossip")]
    pub mixing: MixingConfig,
    /// The synthetic objective.
    #[serde(default)]
    pub objective: SyntheticConfig,
    /// Local steps a round.
    #[serde(default = "ten")]
    pub local_steps: u32,
    /// Members take steps by their measured speed, within these bounds.
    #[serde(default)]
    pub local_steps_by_speed: Option<StepsBySpeed>,
    /// The network.
    #[serde(default)]
    pub network: NetworkConfig,
    /// How long work takes.
    #[serde(default)]
    pub compute: ComputeConfig,
    /// Replace each journal by the machine's snapshot once in so many settled rounds; 0: never.
    #[serde(default = "five")]
    pub compact_every: u64,
    /// Scripted faults.
    #[serde(default)]
    pub faults: Vec<FaultConfig>,
    /// Random faults.
    #[serde(default)]
    pub random: Option<RandomFaults>,
    /// Peers that do not follow the protocol.
    #[serde(default)]
    pub adversaries: Vec<AdversaryConfig>,
    /// A bug planted in the driver, to see that the checkers see it.
    #[serde(default)]
    pub planted_bug: Option<PlantedBug>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
}

/// How long work takes, in virtual time.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComputeConfig {
    /// Local steps of a round, on a peer of speed 1, in milliseconds.
    pub train_ms: u64,
    /// Combining, in milliseconds.
    pub aggregate_ms: u64,
    /// Evaluating or initialising, in milliseconds.
    pub other_ms: u64,
    /// Peers are slower than speed 1 by a factor between 1 and 1 + this, drawn once a peer.
    pub spread: f64,
    /// By what factor each peer is slower beside that, peer 0 first, and again from the beginning where there are more peers;
    /// none: 1 for all.
    pub factors: Vec<f64>,
    /// Each task takes up to this share longer, drawn a task.
    pub jitter: f64,
    /// Whether a peer that trains a round again after a restart gets the same update. GPUs do not promise it.
    pub repeats: bool,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        Self {
            train_ms: 1000,
            aggregate_ms: 50,
            other_ms: 20,
            spread: 0.3,
            factors: Vec::new(),
            jitter: 0.1,
            repeats: false,
        }
    }
}

/// Bugs that can be planted. They sit in the simulated driver; the machine is never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlantedBug {
    /// Peer 1 signs a second vote whenever it votes.
    DoubleVote,
    /// The journal of own statements is not written: a crash forgets them.
    SkipPersist,
    /// Voters report whatever state was proposed as their own result.
    AcceptWrongState,
    /// Lost messages are reported as forged ones.
    BlameCarrier,
    /// No ticks are given once the faults are over.
    DeafToTime,
    /// Latencies also depend on the wall clock.
    WallClock,
}

/// What must come of a run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// Rounds that every live honest member must settle after the faults have stopped; None: all rounds of the session.
    pub more_rounds: Option<u64>,
    /// They must do so within this time, in virtual milliseconds.
    pub within_ms: u64,
    /// The final loss must be below this (the synthetic objective starts near 0.17).
    pub loss_below: Option<f32>,
    /// The final loss must be above this: the scenario shows what does not learn.
    pub loss_above: Option<f32>,
    /// The root mean square distance of the honest members' last models from their mean must be below this.
    pub distance_below: Option<f64>,
    /// Adversaries that every honest member must have expelled or banned by the end.
    pub banned: Vec<usize>,
    /// Members that every settled roster must list.
    pub kept: Vec<usize>,
    /// The checker that must fail: the scenario is a canary.
    pub caught_by: Option<String>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            more_rounds: None,
            within_ms: 600_000,
            loss_below: None,
            loss_above: None,
            distance_below: None,
            banned: Vec::new(),
            kept: Vec::new(),
            caught_by: None,
        }
    }
}

/// What the command line changes in a scenario.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Another seed.
    pub seed: Option<u64>,
    /// Another number of peers.
    pub peers: Option<usize>,
    /// Another number of rounds.
    pub rounds: Option<u64>,
}

/// A scenario that cannot be run, and why.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {path}: {reason}; give the path of a file as in testnet/scenarios/", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The file is no TOML, or has keys or values that do not belong there.
    #[error("the scenario {path} is not valid: {reason}", path = .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        reason: String,
    },
    /// A value does not make sense.
    #[error("the scenario {path} cannot be run: {key}: {reason}", path = .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Scenario {
    /// Reads and checks a scenario file, changed by `overrides`.
    pub fn load(path: &Path, overrides: Overrides) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|reason| ScenarioError::Read {
            path: path.to_owned(),
            reason,
        })?;
        Self::parse(&text, path, overrides)
    }

    /// Reads and checks a scenario; `path` is for errors.
    pub fn parse(text: &str, path: &Path, overrides: Overrides) -> Result<Self, ScenarioError> {
        let mut scenario: Scenario = toml::from_str(text).map_err(|reason| ScenarioError::Parse {
            path: path.to_owned(),
            reason: reason.to_string().trim_end().to_owned(),
        })?;
        scenario.apply(overrides);
        scenario.check().map_err(|(key, reason)| ScenarioError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            reason,
        })?;
        Ok(scenario)
    }

    /// The rule with what is done before it.
    pub fn composition(&self) -> Composition {
        Composition {
            pre: self.pre.clone(),
            rule: self.rule.clone(),
        }
    }

    /// How the vector is cut, where it is in shards.
    pub fn ranges(&self) -> Result<Option<Ranges>, ShardsError> {
        let dimension = self.objective.dimension as usize;
        let shards = self.terms.shards().map(|shards| shards as usize);
        shards
            .map(|shards| Ranges::new(dimension, shards, &self.encoding))
            .transpose()
    }

    /// The training config that the session's workers share.
    pub fn training(&self) -> TrainingConfig {
        TrainingConfig {
            model: ModelConfig::Synthetic(self.objective.clone()),
            local_steps: self.local_steps,
            local_steps_by_speed: self.local_steps_by_speed,
            seed: self.seed >> 1,
            ..TrainingConfig::default()
        }
    }

    /// Peers that do not start by themselves: a fault starts them.
    pub fn late(&self) -> BTreeSet<usize> {
        self.faults.iter().flat_map(FaultConfig::joins).collect()
    }

    fn apply(&mut self, overrides: Overrides) {
        self.seed = overrides.seed.unwrap_or(self.seed);
        self.peers = overrides.peers.unwrap_or(self.peers);
        self.terms.rounds = overrides.rounds.unwrap_or(self.terms.rounds);
        if overrides.peers.is_some() {
            let peers = u32::try_from(self.peers).unwrap_or(u32::MAX);
            self.terms.min_members = self.terms.min_members.min(peers);
            self.terms.begin_members = self.terms.begin_members.min(peers);
            self.terms.max_members = self.terms.max_members.max(peers);
        }
    }

    /// Whether its members mix, and have no coordinator.
    pub fn is_mixing(&self) -> bool {
        self.terms.is_mixing()
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let peer = |key, peer: usize| {
            (peer < self.peers).then_some(()).ok_or_else(|| {
                (
                    key,
                    format!(
                        "there is no peer {peer}: peers are 0 to {}",
                        self.peers.saturating_sub(1)
                    ),
                )
            })
        };
        let share = |key, value: f64| {
            (0.0..1.0)
                .contains(&value)
                .then_some(())
                .ok_or_else(|| (key, format!("{value} must be at least 0 and below 1")))
        };
        if !(1..=10_000).contains(&self.peers) {
            return Err(("peers", format!("{} must lie between 1 and 10000", self.peers)));
        }
        if self.peers > self.terms.max_members as usize {
            return Err((
                "peers",
                format!(
                    "{} are more than terms.max_members = {}",
                    self.peers, self.terms.max_members
                ),
            ));
        }
        self.terms.check().map_err(|reason| ("terms", reason.to_string()))?;
        self.composition()
            .check(self.peers)
            .map_err(|reason| ("rule", reason.to_string()))?;
        self.encoding
            .check()
            .map_err(|reason| ("encoding", reason.to_string()))?;
        self.outer.check().map_err(|reason| ("outer", reason.to_string()))?;
        self.worker.check().map_err(|reason| ("worker", reason.to_string()))?;
        self.privacy
            .check(self.peers, &self.rule)
            .map_err(|reason| ("privacy", reason.to_string()))?;
        self.training()
            .check()
            .map_err(|reason| ("objective", reason.to_string()))?;
        self.ranges().map_err(|reason| ("terms.topology", reason.to_string()))?;
        if self.terms.shards().is_some() {
            check_composition(&self.composition()).map_err(|reason| ("rule", reason.to_string()))?;
        }
        if let Topology::Decentralized(terms) = &self.terms.topology
            && self.is_mixing()
        {
            let neighbours = terms.graph.least_in_degree(self.peers, &[0; 32]);
            let neighbours = neighbours.map_err(|reason| ("terms.topology", reason.to_string()))?;
            let fits = self.mixing.check(neighbours);
            fits.map_err(|reason| ("mixing", reason.to_string()))?;
        }
        if let Some(factor) = self
            .compute
            .factors
            .iter()
            .find(|factor| !(0.001..=1000.0).contains(*factor))
        {
            return Err(("compute.factors", format!("{factor} must lie between 0.001 and 1000")));
        }
        share("network.loss", self.network.loss)?;
        share("network.duplicate", self.network.duplicate)?;
        for (key, mbps) in [
            ("network.up_mbps", self.network.up_mbps),
            ("network.down_mbps", self.network.down_mbps),
        ] {
            if !(mbps > 0.0 && mbps.is_finite()) {
                return Err((key, format!("{mbps} must be above 0")));
            }
        }
        for link in &self.network.links {
            link.between
                .iter()
                .try_for_each(|end| peer("network.links.between", *end))?;
            share("network.links.loss", link.loss)?;
        }
        self.faults
            .iter()
            .flat_map(FaultConfig::named)
            .try_for_each(|index| peer("faults", index))?;
        self.adversaries
            .iter()
            .try_for_each(|adversary| peer("adversaries.peer", adversary.peer))?;
        self.expect
            .banned
            .iter()
            .try_for_each(|index| peer("expect.banned", *index))?;
        if self.late().contains(&0) {
            return Err(("faults", "peer 0 creates the session and cannot join late".to_owned()));
        }
        Ok(())
    }
}

fn one() -> u64 {
    1
}

fn five() -> u64 {
    5
}

fn ten() -> u32 {
    10
}

fn one_second() -> u64 {
    1000
}

fn an_hour() -> u64 {
    3_600_000
}

fn mean() -> RuleConfig {
    RuleConfig::Mean
}

fn gossip() -> MixingConfig {
    MixingConfig::Gossip
}

fn dense() -> EncodingConfig {
    EncodingConfig::F32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Scenario, String> {
        let text = format!("name = \"test\"\nabout = \"a test\"\npeers = 4\n{rest}");
        Scenario::parse(&text, Path::new("test.toml"), Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_scenario_reads_with_defaults_and_overrides() {
        let text = "name = \"a\"\nabout = \"b\"\npeers = 4\n[terms]\nmin_members = 4\nmax_members = 4";
        let overrides = Overrides {
            seed: Some(9),
            peers: Some(80),
            rounds: Some(3),
        };
        let scenario = Scenario::parse(text, Path::new("a.toml"), overrides).unwrap();
        assert_eq!((scenario.seed, scenario.peers, scenario.terms.rounds), (9, 80, 3));
        assert_eq!((scenario.terms.min_members, scenario.terms.max_members), (4, 80));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_key_and_reason() {
        for (rest, parts) in [
            ("speed = 3", ["test.toml", "unknown field `speed`"]),
            ("[network]\nloss = 1.5", ["network.loss", "below 1"]),
            (
                "[terms]\nquorum_percent = 0",
                ["terms", "quorum_percent = 0 is out of range"],
            ),
            ("[rule.trimmed_mean]\nf = 2", ["rule", "f = 1 at most"]),
            (
                "[[faults]]\nat_ms = 5\n[faults.what.crash]\npeers = [7]",
                ["faults", "there is no peer 7"],
            ),
            (
                "[[faults]]\nat_ms = 5\nwhat.join = { peers = [0] }",
                ["faults", "peer 0 creates"],
            ),
            (
                "[[adversaries]]\npeer = 1\ndoes = \"magic\"",
                ["test.toml", "unknown variant `magic`"],
            ),
        ] {
            let error = parse(rest).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{rest}: {error}");
        }
    }
}
