//! A session's configuration: everything that its members must share, its canonical bytes, and the session id over them.
//! Paths, devices and ports are not here: they are each machine's own business.

use serde::{Deserialize, Serialize};
use synod_aggregation::privacy::{LocalDp, PrivacyConfig, SecureSumConfig, Unit};
use synod_aggregation::shards::check_composition;
use synod_aggregation::{
    Combiner, Composition, EncodingConfig, Feedback, MixingConfig, OuterConfig, PreAggregationConfig, RangeEncoder,
    Ranges, RuleConfig, ShardsError, compatibility,
};
use synod_protocol::identity::{PeerId, SessionId};
use synod_protocol::limits;
use synod_protocol::session::{Decentralized, Terms, TermsError, Topology};
use synod_protocol::topology::gossip::graph_seed;
use synod_training::MemberStateConfig;
use synod_training::config::{ConfigError, ModelConfig, TrainingConfig};
use synod_training::layout::Layout;
use synod_training::optimizers::Extra;

/// First bytes of the canonical form.
const MAGIC: [u8; 4] = *b"SYNC";
/// Version of the canonical form.
const VERSION: u8 = 1;
/// Goes before the canonical bytes under the session id's hash.
const ID_DOMAIN: &[u8] = b"synod/session/1\0";

/// What an operator writes in a session file. Every key may be left out; then it has its default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionFile {
    /// The session's name, for people.
    pub name: String,
    /// Rounds, members, deadlines, limits.
    pub protocol: Terms,
    /// Model, optimizer, schedule, local steps.
    pub training: TrainingConfig,
    /// Rule, encoding, outer step.
    pub aggregation: AggregationConfig,
}

/// How updates are combined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AggregationConfig {
    /// How the updates of a round become one.
    pub rule: RuleConfig,
    /// How an update is written for the wire.
    pub encoding: EncodingConfig,
    /// How the combined update moves the model.
    pub outer: OuterConfig,
    /// What is done to the updates before the rule, in this order. Against faulty members
    /// `[{ arc = { f = 1 } }, { nnm = { f = 1 } }]` before a trimmed mean.
    pub pre: Vec<PreAggregationConfig>,
    /// What each member carries from one of its updates to the next.
    pub worker: MemberStateConfig,
    /// How what a member sends is kept from telling of its data.
    pub privacy: PrivacyConfig,
    /// How a member of a decentralized session combines its model with its neighbours'. The plain weighted mean, since
    /// institutions that know each other start with it; against faulty ones `{ nearest_neighbours = { b = 1 } }`.
    pub mixing: MixingConfig,
}

impl AggregationConfig {
    /// The rule with what is done before it.
    pub fn composition(&self) -> Composition {
        Composition {
            pre: self.pre.clone(),
            rule: self.rule.clone(),
        }
    }

    /// How faulty members are borne, in a sentence for an operator.
    pub fn promise(&self, members: u32) -> String {
        let composition = self.composition();
        let name = composition.name();
        match (composition.f(), &composition.rule) {
            (Some(f), _) => format!("updates are combined by {name}, which bears {f} faulty of {members} members"),
            (None, RuleConfig::Mean | RuleConfig::CappedMean { .. }) => {
                format!("updates are combined by {name}: a single faulty member can move the model anywhere")
            }
            (None, _) => format!("updates are combined by {name}"),
        }
    }

    /// What combines updates of a model of this layout.
    pub fn combiner(&self, layout: &Layout) -> Combiner {
        Combiner::composed(
            self.composition(),
            self.encoding.build_for(&layout.tensor_shapes()),
            self.outer,
        )
    }
}

impl Default for AggregationConfig {
    /// Where no number of members is known: the plain mean, half-size updates, DiLoCo's outer step. A session file that names
    /// no rule gets a robust one for its members ([`parse_session`](crate::load::parse_session)).
    fn default() -> Self {
        Self {
            rule: RuleConfig::Mean,
            encoding: EncodingConfig::Bf16,
            outer: OuterConfig::default(),
            pre: Vec::new(),
            worker: MemberStateConfig::default(),
            privacy: PrivacyConfig::None,
            mixing: MixingConfig::Gossip,
        }
    }
}

/// A founded session's configuration: the file, its founder and its hour, so that no two sessions share an id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// The session's name, for people.
    pub name: String,
    /// The member that founded it.
    pub creator: PeerId,
    /// When it was founded, in seconds since the Unix epoch.
    pub created_unix_s: u64,
    /// Rounds, members, deadlines, limits.
    pub protocol: Terms,
    /// Model, optimizer, schedule, local steps.
    pub training: TrainingConfig,
    /// Rule, encoding, outer step.
    pub aggregation: AggregationConfig,
}

/// A session configuration that cannot work, or bytes that are none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SessionConfigError {
    /// A value that cannot be used, alone or beside another one.
    #[error("{key} = {value}: {reason}")]
    Value {
        /// The key, dotted, as in the session file.
        key: String,
        /// What it holds.
        value: String,
        /// Why that cannot be, and what can.
        reason: String,
    },
    /// Bytes that do not hold a session's configuration.
    #[error("these bytes are no session configuration of this version: update the node, or ask who sent them")]
    NotAConfig,
    /// Bytes that do not hash to the session's id.
    #[error("the configuration received is not that of session {expected}: its hash is {got}; do not join")]
    WrongId {
        /// The id that was promised.
        expected: SessionId,
        /// The id of the bytes.
        got: SessionId,
    },
}

fn refuse(key: &str, value: impl ToString, reason: impl ToString) -> SessionConfigError {
    SessionConfigError::Value {
        key: key.to_owned(),
        value: value.to_string(),
        reason: reason.to_string(),
    }
}

impl SessionFile {
    /// Whether the session's way of mixing can work on its graph.
    pub(crate) fn mixes(&self) -> bool {
        let Self {
            name,
            protocol,
            training,
            aggregation,
        } = self.clone();
        let config = SessionConfig {
            name,
            creator: PeerId([0; 32]),
            created_unix_s: 0,
            protocol,
            training,
            aggregation,
        };
        config.check_mixing().is_ok()
    }

    /// Founds a session with this file's terms, if they can work.
    pub fn found(self, creator: PeerId, created_unix_s: u64) -> Result<SessionConfig, SessionConfigError> {
        let Self {
            name,
            protocol,
            training,
            aggregation,
        } = self;
        let config = SessionConfig {
            name,
            creator,
            created_unix_s,
            protocol,
            training,
            aggregation,
        };
        config.check()?;
        Ok(config)
    }
}

impl SessionConfig {
    /// Refuses what cannot work, naming key, value and reason. A session's creator asks before it is founded; a joiner
    /// asks again, because a malicious creator did not.
    pub fn check(&self) -> Result<(), SessionConfigError> {
        check_name(&self.name)?;
        self.protocol.check().map_err(of_terms)?;
        self.training.check().map_err(of_training)?;
        self.check_aggregation()?;
        self.check_mixing()?;
        self.check_shards()?;
        self.check_sizes()
    }

    fn check_aggregation(&self) -> Result<(), SessionConfigError> {
        let AggregationConfig {
            encoding,
            outer,
            worker,
            ..
        } = &self.aggregation;
        let (composition, members) = (self.aggregation.composition(), self.protocol.min_members as usize);
        composition.check(members).map_err(|error| {
            refuse(
                "aggregation.rule",
                composition.name(),
                format!("{error} (protocol.min_members = {members})"),
            )
        })?;
        if composition.needs_reference() {
            let reason = "it needs an update of a validator's own, and members of a session contribute none yet: use another rule";
            return Err(refuse("aggregation.rule", composition.name(), reason));
        }
        encoding
            .check()
            .map_err(|error| refuse("aggregation.encoding", encoding.name(), error))?;
        compatibility::check_composition(encoding, &composition)
            .map_err(|error| refuse("aggregation.encoding", encoding.name(), error))?;
        outer.check().map_err(|error| refuse("aggregation.outer", "…", error))?;
        worker
            .check()
            .map_err(|error| refuse("aggregation.worker", "…", error))?;
        if worker.feedback == Feedback::Difference {
            let reason =
                "members would have to keep an estimate for each other, which sessions cannot do yet: use residual";
            return Err(refuse("aggregation.worker.feedback", "difference", reason));
        }
        compatibility::check_outer(encoding, &worker.feedback, outer)
            .map_err(|error| refuse("aggregation.outer.momentum", outer.momentum, error))?;
        self.check_privacy(members)
    }

    fn check_mixing(&self) -> Result<(), SessionConfigError> {
        let AggregationConfig {
            mixing,
            encoding,
            worker,
            privacy,
            ..
        } = &self.aggregation;
        if self.protocol.is_mixing() && self.training.local_steps_by_speed.is_some() {
            let reason = "speeds are read from settlements, and members that mix have none: leave it out";
            return Err(refuse("training.local_steps_by_speed", "…", reason));
        }
        let terms = match &self.protocol.topology {
            Topology::Decentralized(terms) if self.protocol.is_mixing() => Some(terms),
            _ => None,
        };
        let Some(terms) = terms else {
            return match mixing {
                MixingConfig::Gossip => Ok(()),
                _ => Err(refuse(
                    "aggregation.mixing",
                    mixing.name(),
                    "members that hold one model do not mix: set protocol.topology = { decentralized = { … } } without agreement, or leave it out",
                )),
            };
        };
        let composition = self.aggregation.composition();
        if composition != Composition::of(RuleConfig::Mean) {
            let reason =
                "no updates are combined without a coordinator: leave rule and pre out, and choose aggregation.mixing";
            return Err(refuse("aggregation.rule", composition.name(), reason));
        }
        if *encoding != EncodingConfig::F32 {
            let reason = "members exchange whole models, and rounding one would undo small steps: use f32";
            return Err(refuse("aggregation.encoding", encoding.name(), reason));
        }
        if *worker != MemberStateConfig::default() {
            let reason = "momentum and feedback are of updates, and members exchange models: leave it out";
            return Err(refuse("aggregation.worker", "…", reason));
        }
        if *privacy != PrivacyConfig::None {
            let reason = "noise and masks are made for updates, and members exchange models: use a federated session";
            return Err(refuse("aggregation.privacy", privacy.name(), reason));
        }
        if mixing.has_memory() {
            let reason = "sessions cannot carry what it remembers between rounds yet: use gossip, epidemic, nearest_neighbours, trimmed_gossip, clipped_gossip or rule";
            return Err(refuse("aggregation.mixing", mixing.name(), reason));
        }
        let (neighbours, members) = self.least_neighbours(terms);
        let graph = terms.graph.name();
        let fits = mixing.check(neighbours);
        let fits = fits.and_then(|()| mixing.check_graph(terms.graph.is_directed(), terms.graph.varies()));
        fits.map_err(|error| {
            let reason =
                format!("{error} (graph {graph} among {members} members: {neighbours} neighbours at the least)");
            refuse("aggregation.mixing", mixing.name(), reason)
        })
    }

    /// Whether what a session with shards does can be done range by range.
    fn check_shards(&self) -> Result<(), SessionConfigError> {
        if self.protocol.shards().is_none() {
            return Ok(());
        }
        let (composition, privacy) = (self.aggregation.composition(), &self.aggregation.privacy);
        check_composition(&composition).map_err(|error| refuse("aggregation.rule", composition.name(), error))?;
        if matches!(privacy, PrivacyConfig::SecureSum(_)) {
            let reason = "masked updates are summed whole: take the federated topology, or local_dp";
            return Err(refuse("aggregation.privacy", privacy.name(), reason));
        }
        let cut = self.cut().transpose();
        cut.map_err(|error| refuse("protocol.topology", "sharded", error))?;
        Ok(())
    }

    /// How the vector is cut, where it is to be in shards.
    fn cut(&self) -> Option<Result<Ranges, ShardsError>> {
        let (parameters, encoding) = (self.training.parameter_count(), &self.aggregation.encoding);
        let shards = self.protocol.shards()?;
        Some(Ranges::new(parameters, shards as usize, encoding))
    }

    /// How the vector of this session is cut, where it is in shards.
    ///
    /// # Panics
    /// Never for a configuration that [`check`](Self::check) has passed.
    pub fn ranges(&self) -> Option<Ranges> {
        self.cut().map(|cut| cut.expect("checked when the session was created"))
    }

    /// What combines updates of this session, for a model of this layout.
    pub fn combiner(&self, layout: &Layout) -> Combiner {
        let AggregationConfig { encoding, outer, .. } = &self.aggregation;
        match self.ranges() {
            None => self.aggregation.combiner(layout),
            Some(ranges) => {
                let encoder = RangeEncoder::new(ranges, encoding.build());
                Combiner::composed(self.aggregation.composition(), Box::new(encoder), *outer)
            }
        }
    }

    /// The fewest neighbours that a member of this session may have, and among how many members.
    pub fn least_neighbours(&self, terms: &Decentralized) -> (usize, usize) {
        let seed = graph_seed(&self.id());
        let sizes = [self.protocol.members_to_begin(), self.protocol.max_members as usize];
        let degree = |members| (terms.graph.least_in_degree(members, &seed).unwrap_or(0), members);
        sizes.map(degree).into_iter().min().expect("two sizes")
    }

    fn check_privacy(&self, members: usize) -> Result<(), SessionConfigError> {
        let AggregationConfig {
            privacy, rule, worker, ..
        } = &self.aggregation;
        let refuse_privacy = |reason: String| refuse("aggregation.privacy", privacy.name(), reason);
        privacy
            .check(members, rule)
            .map_err(|error| refuse_privacy(error.to_string()))?;
        match privacy {
            PrivacyConfig::None => Ok(()),
            PrivacyConfig::LocalDp(LocalDp { unit: Unit::Update, .. }) if worker.feedback != Feedback::None => {
                Err(refuse_privacy(
                    "aggregation.worker.feedback would send later what noise has covered: set it to none".to_owned(),
                ))
            }
            PrivacyConfig::LocalDp(LocalDp { unit: Unit::Update, .. }) => Ok(()),
            PrivacyConfig::LocalDp(LocalDp {
                unit:
                    Unit::Example {
                        steps_per_round, ..
                    },
                ..
            }) => self.check_examples(*steps_per_round),
            PrivacyConfig::CentralDp(_) => Err(refuse_privacy(
                "every voter would have to trust a coordinator's noise: use secure_sum with `noise`, in which the members add the same noise to the sum together"
                    .to_owned(),
            )),
            PrivacyConfig::SecureSum(_) if self.protocol.is_by_quorum() => Err(refuse_privacy(
                "the steps of a secure sum need a coordinator: take a federated topology, or local_dp".to_owned(),
            )),
            PrivacyConfig::SecureSum(sums) => self.check_sums(sums),
        }
    }

    /// Whether each step's noise covers all that a member sends of its examples.
    fn check_examples(&self, steps_per_round: u32) -> Result<(), SessionConfigError> {
        let training = &self.training;
        let refuse_examples = |reason: String| Err(refuse("aggregation.privacy", "local_dp", reason));
        if steps_per_round != training.local_steps {
            return refuse_examples(format!(
                "steps_per_round = {steps_per_round}, and a round has training.local_steps = {} of them: let both be the same",
                training.local_steps
            ));
        }
        if training.local_steps_by_speed.is_some() {
            return refuse_examples(
                "the account reckons with as many steps in each round: leave training.local_steps_by_speed out"
                    .to_owned(),
            );
        }
        if !training.stages.is_empty() {
            return refuse_examples("every step reckons with one batch: leave training.stages out".to_owned());
        }
        if matches!(training.model, ModelConfig::Synthetic(_)) {
            return refuse_examples("a synthetic objective has no examples: use unit = \"update\"".to_owned());
        }
        if training.optimizer.will_want() != Extra::Nothing {
            return refuse_examples(
                "training.optimizer asks for more gradients of the same examples, which no noise would cover: take adamw, or another that needs one gradient a step".to_owned(),
            );
        }
        Ok(())
    }

    fn check_sums(&self, sums: &SecureSumConfig) -> Result<(), SessionConfigError> {
        let AggregationConfig { rule, worker, pre, .. } = &self.aggregation;
        let refuse_sums = |reason: String| Err(refuse("aggregation.privacy", "secure_sum", reason));
        if let Some(size) = sums.group_size {
            // The fewest groups that a round can have must be enough for all that is done with them.
            let groups = self.protocol.members_to_begin() / (size.max(1) as usize);
            if let Err(error) = self.aggregation.composition().check(groups) {
                return refuse_sums(format!("group_size = {size} makes {groups} groups: {error}"));
            }
        } else if !pre.is_empty() {
            return refuse_sums(
                "nothing can be done to single updates before the rule, which nobody sees: leave aggregation.pre out"
                    .to_owned(),
            );
        }
        if worker.feedback != Feedback::None {
            return refuse_sums("masked updates are not encoded, so nothing is left out of them: set aggregation.worker.feedback to none".to_owned());
        }
        // With all whom the session may admit, the ring must still hold the sum. The threshold moves with the members.
        let most = PrivacyConfig::SecureSum(SecureSumConfig {
            threshold: None,
            ..*sums
        });
        let members = self.protocol.max_members;
        if let Err(error) = most.check(members as usize, rule) {
            return refuse_sums(format!("{error} (protocol.max_members = {members})"));
        }
        let parameters = self.training.parameter_count() as u64;
        let payload = 12 + 4 * (parameters + 1);
        if payload > self.protocol.max_payload_bytes {
            let reason =
                format!("a masked update of {parameters} parameters has {payload} bytes: allow at least these");
            return Err(refuse(
                "protocol.max_payload_bytes",
                self.protocol.max_payload_bytes,
                reason,
            ));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), SessionConfigError> {
        let parameters = self.training.parameter_count();
        let combiner = self.combiner(&self.training.layout());
        let payload = combiner.encoder().encoded_len(parameters) as u64;
        if payload > self.protocol.max_payload_bytes {
            let reason = format!("an update of {parameters} parameters has {payload} bytes: allow at least these");
            return Err(refuse(
                "protocol.max_payload_bytes",
                self.protocol.max_payload_bytes,
                reason,
            ));
        }
        // Parameters, outer momentum and perhaps a rule's centre, all f32; the frame around them is far below a kilobyte.
        let vectors = 2 + u64::from(self.aggregation.composition().carries_centre());
        let state = 4 * vectors * parameters as u64 + 1024;
        if state > self.protocol.max_state_bytes {
            let reason = format!("a state of {parameters} parameters has about {state} bytes: allow at least these");
            return Err(refuse(
                "protocol.max_state_bytes",
                self.protocol.max_state_bytes,
                reason,
            ));
        }
        Ok(())
    }

    /// The canonical bytes: magic, version, postcard. Equal configurations have equal bytes on every machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend(postcard::to_stdvec(self).expect("a configuration always encodes"));
        bytes
    }

    /// Reads the canonical bytes; refuses others that would mean the same.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SessionConfigError> {
        if bytes.len() > limits::CONFIG_BYTES {
            return Err(SessionConfigError::NotAConfig);
        }
        let body = bytes
            .strip_prefix(&MAGIC)
            .and_then(|rest| rest.strip_prefix(&[VERSION]));
        let body = body.ok_or(SessionConfigError::NotAConfig)?;
        let config: Self = postcard::from_bytes(body).map_err(|_| SessionConfigError::NotAConfig)?;
        if config.to_bytes() != bytes {
            return Err(SessionConfigError::NotAConfig);
        }
        Ok(config)
    }

    /// Reads bytes that a peer sent as the configuration of session `expected`, and checks all of it.
    pub fn from_peer(bytes: &[u8], expected: SessionId) -> Result<Self, SessionConfigError> {
        let got = session_id(bytes);
        if got != expected {
            return Err(SessionConfigError::WrongId { expected, got });
        }
        let config = Self::from_bytes(bytes)?;
        config.check()?;
        Ok(config)
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        session_id(&self.to_bytes())
    }
}

/// The id of the session whose canonical configuration these bytes are.
pub fn session_id(canonical: &[u8]) -> SessionId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(ID_DOMAIN);
    hasher.update(canonical);
    SessionId(*hasher.finalize().as_bytes())
}

fn check_name(name: &str) -> Result<(), SessionConfigError> {
    // It stands in commands and file names: nothing that a shell, an option parser or a folder would take for its own.
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let printable = plain && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.is_empty() || !printable || name.chars().count() > limits::NAME_CHARS {
        let reason = format!(
            "a session needs a name of 1 to {} letters, digits, `-`, `_` or `.`, the first a letter or digit (in the file, or by --name)",
            limits::NAME_CHARS
        );
        return Err(refuse("name", format!("\"{}\"", name.escape_default()), reason));
    }
    Ok(())
}

fn of_terms(error: TermsError) -> SessionConfigError {
    match error {
        TermsError::Range { key, value, range } => {
            refuse(&format!("protocol.{key}"), value, format!("it must be {range}"))
        }
        TermsError::Topology { reason } => refuse("protocol.topology", "decentralized", reason),
    }
}

fn of_training(error: ConfigError) -> SessionConfigError {
    match error {
        ConfigError::Range {
            key,
            value,
            least,
            most,
        } => refuse(
            &format!("training.{key}"),
            value,
            format!("it must be between {least} and {most}"),
        ),
        ConfigError::Heads { width, heads } => refuse(
            "training.model.decoder.width",
            width,
            format!("it must be an even multiple of heads = {heads}"),
        ),
        ConfigError::SecondGradient { optimizer } => refuse("training.optimizer", optimizer, error),
        ConfigError::GoldfishOfBytes { .. } => refuse("training.loss.goldfish.mode", "apertus", error),
        ConfigError::KeyValueHeads { heads, kv_heads } => refuse(
            "training.model.decoder.kv_heads",
            kv_heads,
            format!("it must divide heads = {heads}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATOR: PeerId = PeerId([7; 32]);

    fn file(text: &str) -> SessionFile {
        toml::from_str(text).unwrap()
    }

    fn found(text: &str) -> Result<SessionConfig, SessionConfigError> {
        file(text).found(CREATOR, 1_700_000_000)
    }

    #[test]
    fn every_kind_of_config_survives_its_canonical_bytes() {
        let texts = [
            "name = 'a'",
            "name = 'a'\n[training.model.synthetic]\n[aggregation]\nrule = 'median'",
            "name = 'a'\n[protocol]\nmin_members = 3\nquorum_percent = 100\n[aggregation.rule.trimmed_mean]\nf = 1",
            "name = 'a'\n[aggregation.rule.centered_clip]\niterations = 2",
            "name = 'a'\n[training.model.decoder]\nhidden = 64\n[training.schedule.cosine]\nfloor = 0.2",
        ];
        for text in texts {
            let config = found(text).unwrap();
            assert_eq!(
                SessionConfig::from_bytes(&config.to_bytes()),
                Ok(config.clone()),
                "{text}"
            );
            assert_eq!(
                SessionConfig::from_peer(&config.to_bytes(), config.id()),
                Ok(config),
                "{text}"
            );
        }
    }

    #[test]
    fn shards_go_with_what_can_be_cut() {
        let of = |dimension: u32, more: &str| {
            found(&format!(
                "name = 'a'\nprotocol.min_members = 4\nprotocol.topology.sharded.shards = 4\ntraining.model.synthetic.dimension = {dimension}\n[aggregation]\n{more}"
            ))
        };
        let config = of(20_000, "rule = 'median'").unwrap();
        assert_eq!(config.ranges().map(|ranges| ranges.count()), Some(4));
        assert_eq!(SessionConfig::from_bytes(&config.to_bytes()), Ok(config));
        let refused = |dimension, more| of(dimension, more).unwrap_err().to_string();
        assert!(refused(20_000, "rule = 'rfa'").contains("whole updates"));
        assert!(refused(20_000, "encoding.random_seeds.pairs = 8").contains("cannot be cut"));
        assert!(refused(20_000, "privacy.secure_sum.range = 1.0").contains("summed whole"));
        assert!(refused(64, "rule = 'mean'").contains("at most 1"));
    }

    #[test]
    fn the_id_depends_on_every_part() {
        let config = found("name = 'a'").unwrap();
        let later = SessionConfig {
            created_unix_s: 1_700_000_001,
            ..config.clone()
        };
        let renamed = SessionConfig {
            name: "b".into(),
            ..config.clone()
        };
        assert_ne!(config.id(), later.id());
        assert_ne!(config.id(), renamed.id());
        let foreign = SessionConfig::from_peer(&later.to_bytes(), config.id());
        assert!(matches!(foreign, Err(SessionConfigError::WrongId { .. })));
    }

    #[test]
    fn bytes_that_are_not_canonical_are_refused() {
        let bytes = found("name = 'a'").unwrap().to_bytes();
        for cut in [0, 3, 5, bytes.len() - 1] {
            assert_eq!(
                SessionConfig::from_bytes(&bytes[..cut]),
                Err(SessionConfigError::NotAConfig)
            );
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(SessionConfig::from_bytes(&longer), Err(SessionConfigError::NotAConfig));
    }

    #[test]
    fn what_cannot_work_is_refused_with_key_value_and_reason() {
        let cases = [
            ("", "name = \"\": a session needs a name"),
            ("name = 'a b'", "name = \"a b\""),
            ("name = '-x'", "name = \"-x\""),
            ("name = '..'", "name = \"..\""),
            (
                "name = 'a'\n[protocol]\nrounds = 0",
                "protocol.rounds = 0: it must be 1 to 1000000",
            ),
            ("name = 'a'\n[training]\nlocal_steps = 0", "training.local_steps = 0"),
            (
                "name = 'a'\n[training.model.decoder]\nheads = 5",
                "training.model.decoder.width = 128",
            ),
            (
                "name = 'a'\n[training.model.network]\n[training.optimizer.sophia]",
                "training.optimizer = sophia",
            ),
            (
                "name = 'a'\n[aggregation]\nrule = 'fltrust'",
                "aggregation.rule = fltrust: it needs an update of a validator's own",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 6\n[aggregation]\n\
                 pre = [{ bucketing = {} }]\nrule = { trimmed_mean = { f = 2 } }",
                "aggregation.rule = bucketing → trimmed_mean: 3 rows are left of 6 members",
            ),
            (
                "name = 'a'\n[aggregation]\nencoding = { chunked_top_k = {} }\nworker = { feedback = { residual = {} } }",
                "aggregation.outer.momentum = 0.9",
            ),
            (
                "name = 'a'\n[aggregation]\nworker = { momentum = 1.0 }",
                "momentum = 1 must be at least 0",
            ),
            (
                "name = 'a'\n[aggregation]\nworker = { feedback = 'difference' }",
                "aggregation.worker.feedback = difference",
            ),
            (
                "name = 'a'\n[aggregation.privacy.secure_sum]",
                "aggregation.privacy = secure_sum: secure sum: 2 members, where 3 to 64 can take part",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 5\nmax_members = 65\n[aggregation.privacy.secure_sum]",
                "(protocol.max_members = 65)",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 5\n[aggregation.privacy.secure_sum]\nrange = 0.0",
                "range = 0 must be greater than 0",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 5\n[aggregation.privacy.secure_sum]\nmax_weight = 4294967295",
                "max_weight = 4294967295 must lie between 1 and 858993459",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 9\n[aggregation]\nrule = 'median'\nprivacy = { secure_sum = {} }",
                "rule median cannot be combined with secure sums",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 9\n[aggregation]\nrule = 'mean'\npre = [{ nnm = { f = 1 } }]\nprivacy = { secure_sum = { group_size = 4 } }",
                "group_size = 4 makes 2 groups",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 9\n[aggregation]\nrule = { trimmed_mean = { f = 2 } }\nprivacy = { secure_sum = { group_size = 3 } }",
                "it cannot work on so few group means",
            ),
            (
                "name = 'a'\n[protocol]\nmin_members = 5\n[aggregation.privacy.central_dp]\nclip_norm = 1.0\nnoise_multiplier = 8.0\nepsilon = 8.0\ndelta = 1e-5",
                "use secure_sum with `noise`",
            ),
            (
                "name = 'a'\n[training]\nlocal_steps = 20\n[aggregation.privacy.local_dp]\nunit = { example = { sampling_rate = 0.01, steps_per_round = 50 } }\nclip_norm = 1.0\nnoise_multiplier = 1.0\nepsilon = 8.0\ndelta = 1e-5",
                "steps_per_round = 50, and a round has training.local_steps = 20",
            ),
            (
                "name = 'a'\n[training]\nlocal_steps = 20\n[training.optimizer.sophia]\n[aggregation.privacy.local_dp]\nunit = { example = { sampling_rate = 0.01, steps_per_round = 20 } }\nclip_norm = 1.0\nnoise_multiplier = 1.0\nepsilon = 8.0\ndelta = 1e-5",
                "asks for more gradients of the same examples",
            ),
            (
                "name = 'a'\n[training]\nlocal_steps = 20\nlocal_steps_by_speed = {}\n[aggregation.privacy.local_dp]\nunit = { example = { sampling_rate = 0.01, steps_per_round = 20 } }\nclip_norm = 1.0\nnoise_multiplier = 1.0\nepsilon = 8.0\ndelta = 1e-5",
                "as many steps in each round",
            ),
            (
                "name = 'a'\n[aggregation.rule.trimmed_mean]\nf = 1",
                "protocol.min_members = 2",
            ),
            (
                "name = 'a'\n[protocol]\nmax_payload_bytes = 1000",
                "protocol.max_payload_bytes = 1000: an update of",
            ),
            (
                "name = 'a'\n[protocol]\nmax_state_bytes = 1000",
                "protocol.max_state_bytes = 1000: a state of",
            ),
            (
                "name = 'a'\n[aggregation]\nrule = 'median'\n[aggregation.encoding.chunked_top_k]",
                "aggregation.encoding = chunked_top_k: encoding chunked_top_k does not go with rule median",
            ),
        ];
        for (text, part) in cases {
            let error = found(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_decentralized_session_says_what_does_not_go_with_it() {
        let base = |rest: &str, aggregation: &str| {
            format!("name = 'a'\n[protocol]\nbegin_members = 6\nmax_members = 6\n{rest}\n[aggregation]\n{aggregation}")
        };
        let ring = "topology = { decentralized = { graph = 'ring' } }";
        const QUORUM: &str = "min_members = 4\ntopology = { decentralized = { agreement = 'quorum' } }";
        let mixes = base(ring, "encoding = 'f32'\nmixing = { nearest_neighbours = { b = 1 } }");
        for good in [mixes, base(QUORUM, "")] {
            let config = found(&good).unwrap();
            assert_eq!(SessionConfig::from_bytes(&config.to_bytes()), Ok(config));
        }
        for (text, parts) in [
            (
                base(ring, "mixing = 'gossip'"),
                ["aggregation.encoding = bf16", "use f32"],
            ),
            (
                base(ring, "encoding = 'f32'\nmixing = { nearest_neighbours = { b = 2 } }"),
                ["b = 2", "2 neighbours at the least"],
            ),
            (
                base(ring, "encoding = 'f32'\nmixing = 'relay_sum'"),
                ["relay_sum", "cannot carry what it remembers"],
            ),
            (
                base(ring, "encoding = 'f32'\nrule = 'median'"),
                ["aggregation.rule = median", "choose aggregation.mixing"],
            ),
            (
                base(ring, "encoding = 'f32'\nworker = { momentum = 0.9 }"),
                ["aggregation.worker", "exchange models"],
            ),
            (
                base(ring, "encoding = 'f32'\n[training]\nlocal_steps_by_speed = {}"),
                ["training.local_steps_by_speed", "members that mix have none"],
            ),
            (
                base("", "mixing = 'epidemic'"),
                ["aggregation.mixing = epidemic", "hold one model do not mix"],
            ),
            (
                base(QUORUM, "mixing = 'epidemic'"),
                ["aggregation.mixing = epidemic", "hold one model do not mix"],
            ),
            (
                base(QUORUM, "rule = 'mean'\nprivacy = { secure_sum = { range = 1.0 } }"),
                ["aggregation.privacy = secure_sum", "need a coordinator"],
            ),
            (
                base(
                    "topology = { decentralized = { graph = 'ring', agreement = 'quorum' } }",
                    "",
                ),
                ["protocol.topology", "all members exchange with all"],
            ),
            (
                base(
                    "topology = { decentralized = { graph = { random_regular = { degree = 9 } } } }",
                    "encoding = 'f32'",
                ),
                ["protocol.topology", "degree = 9"],
            ),
        ] {
            let error = found(&text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
