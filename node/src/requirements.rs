//! What joining a session asks of this machine, and what it has: text, memory, disk, device, each with both numbers.
//! It asks nobody, and writes nothing but tokens where the node keeps them; memory and disk are estimates from the model's shape, and say so.

use serde::{Deserialize, Serialize};
use synod_aggregation::OuterState;
use synod_config::SessionConfig;
use synod_config::node_config::RetentionSection;
use synod_protocol::invite::Invite;
use synod_protocol::message::Offer;
use synod_protocol::session::Lifecycle;
use synod_training::config::ModelConfig;
use synod_training::data::{DataOptions, DataReport, DataSummary, Dataset, Problem, Windows, read_documents};
use synod_training::device::DeviceChoice;
use synod_training::factory::{build_trainer_from, required_data};
use synod_training::models::DecoderShape;

use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::readable::{bytes, span};
use crate::session_data::tokenizer_of;

/// What a node without a session takes: the database's caches, buffers of connections, threads.
const IDLE_MEMORY_BYTES: u64 = 128 << 20;
/// Vectors of the model's length, four bytes a parameter, that live at once while a member trains: base parameters and
/// momentum, working copy, gradient, two moments of AdamW, the engine's own parameters and gradients, the update.
const TRAINING_VECTORS: u64 = 9;
/// States of the inner optimizer, beside the one at work, that live at once where members carry theirs: the round before's,
/// this one's, and its bytes on their way to the disk.
const CARRIED_STATES: u64 = 3;
/// The same on the disk, and in memory between rounds: after the last round and after the one before it, in case the last
/// is trained again.
const CARRIED_BETWEEN: u64 = 2;
/// Vectors of the model's length, beside one for each update, that live at once while updates are combined: old and new
/// state, the combined update, the rule's own.
const COMBINING_VECTORS: u64 = 6;

/// One thing that joining needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// What: `key`, `issuer`, `session`, `data`, …
    pub what: String,
    /// Whether it is there.
    pub good: bool,
    /// What this machine has, where it is a quantity.
    pub have: Option<String>,
    /// What is needed, where it is a quantity and known.
    pub need: Option<String>,
    /// One sentence; where something is missing, with what to do.
    pub finding: String,
}

impl Need {
    /// What a look has found: a sentence, or what is missing.
    pub fn of(what: &str, found: Outcome<String>) -> Self {
        let good = found.is_ok();
        Self {
            what: what.to_owned(),
            good,
            have: None,
            need: None,
            finding: found.unwrap_or_else(|failure| failure.message),
        }
    }

    fn amounts(mut self, have: Option<String>, need: Option<String>) -> Self {
        (self.have, self.need) = (have, need);
        self
    }
}

/// A key that reads well and is genuine; its issuer may know more of it.
pub fn key(invite: &Invite, offer: Option<&Offer>, now_unix_s: u64) -> Need {
    let (grant, permission) = (invite.grant(), invite.permission());
    let left = span(permission.expires_unix_s.saturating_sub(now_unix_s));
    let uses = match offer {
        Some(Offer { uses_left: 0, .. }) => "this node has its place already".to_owned(),
        Some(offer) => format!("{} of {} uses left", offer.uses_left, permission.uses),
        None => "the uses left are known to its issuer alone".to_owned(),
    };
    let (name, roles) = (&grant.session_name, permission.roles);
    Need::of(
        "key",
        Ok(format!("genuine, for `{name}` as {roles}, for another {left}; {uses}")),
    )
}

/// The session as its issuer has described it.
pub fn session(config: &SessionConfig, offer: &Offer) -> Need {
    let life = match offer.lifecycle {
        Lifecycle::Gathering => format!(
            "gathering: it begins with {} members",
            config.protocol.members_to_begin()
        ),
        Lifecycle::Running => format!("running: round {} of {}", offer.round, config.protocol.rounds),
        Lifecycle::Paused => format!(
            "paused in round {} of {} until enough members are back",
            offer.round, config.protocol.rounds
        ),
        Lifecycle::Finished => "finished".to_owned(),
    };
    let (members, most) = (offer.members, config.protocol.max_members);
    Need::of(
        "session",
        Ok(format!("{life}; {members} of at most {most} members; takes new ones")),
    )
    .amounts(Some(members.to_string()), Some(format!("fewer than {most}")))
}

/// What the session promises of its members' privacy: no requirement, but what a member should know before it joins.
pub fn privacy(config: &SessionConfig) -> Need {
    let statement = config.aggregation.privacy.statement();
    Need::of("privacy", statement.map(|said| said.text).map_err(Failure::user))
}

/// What would be trained: no requirement, but the reason for those that follow.
pub fn model(config: &SessionConfig) -> Need {
    let size = Size::of(config);
    let model = &config.training.model;
    let kind = match model.decoder_shape() {
        Some(shape) => format!(
            "decoder of {} layers, width {}, context {}",
            shape.layers, shape.width, shape.context
        ),
        None if matches!(model, ModelConfig::Synthetic(_)) => "synthetic objective".to_owned(),
        None => "model of labelled samples".to_owned(),
    };
    let finding = format!(
        "{kind}: {} parameters; a round moves a state of {} and updates of {}",
        size.parameters,
        bytes(size.state),
        bytes(size.update)
    );
    Need::of("model", Ok(finding))
}

/// The session's tokenizer: what came of having it, as one sentence or what is missing. None where neither the session
/// has one nor the operator gave one.
pub fn tokenizer(config: &SessionConfig, given: bool, found: Outcome<String>) -> Option<Need> {
    let Some(tokenizer) = tokenizer_of(config) else {
        return given.then(|| Need::of("tokenizer", found));
    };
    let need = format!("BLAKE3 {}, {} tokens", tokenizer.blake3, tokenizer.size);
    let have = found.is_ok().then(|| need.clone());
    Some(Need::of("tokenizer", found).amounts(have, Some(need)))
}

/// The operator's data against what the session asks for. Text is read, cut into tokens and split as it will be in the
/// session; where the node keeps tokens, the session takes these up.
pub fn data(data: Option<&DataOptions>, config: &SessionConfig) -> Need {
    let required = required_data(&config.training);
    if !required.text {
        let none = "none is needed: the session trains a synthetic objective".to_owned();
        return Need::of("data", Ok(none));
    }
    let need = match tokenizer_of(config) {
        Some(_) => format!("about {}", bytes(required.least_bytes)),
        None => bytes(required.least_bytes),
    };
    let Some(data) = data else {
        let text = format!("none given: give --data PATH: {}", required.sentence);
        return Need::of("data", Err(Failure::user(text))).amounts(None, Some(need));
    };
    let Some(shape) = config.training.model.decoder_shape() else {
        let found = build_trainer_from(
            &config.training,
            &config.aggregation.privacy,
            config.creator,
            Some(data),
            &DeviceChoice::Cpu,
        );
        let found = found.map(|_| format!("the samples of {} can be used", data.named().display()));
        return Need::of("data", found.map_err(Failure::user));
    };
    match Dataset::open(data.clone(), Windows::of(&config.training, shape.context)) {
        Ok(dataset) => {
            let summary = dataset.summary();
            let have = bytes(summary.report.bytes);
            let doubt = doubt(&summary.report).map_or_else(String::new, |doubt| format!("; but {doubt}"));
            Need::of("data", Ok(format!("{summary}{doubt}"))).amounts(Some(have), Some(need))
        }
        Err(error) => Need::of("data", Err(Failure::user(error))).amounts(None, Some(need)),
    }
}

/// The operator's text, where it is not known what the session asks for.
pub fn text(paths: &[String]) -> Need {
    if paths.is_empty() {
        let none = "none given: only sessions with a synthetic objective need none; else give --data PATH";
        return Need::of("data", Err(Failure::user(none)));
    }
    let options = DataOptions {
        paths: paths.iter().map(Into::into).collect(),
        ..DataOptions::default()
    };
    let documents = match read_documents(options) {
        Ok(documents) => documents,
        Err(error) => return Need::of("data", Err(Failure::user(error))),
    };
    let have: u64 = documents.texts.iter().map(|text| text.len() as u64).sum();
    let found = match have {
        0 => Err(Failure::user(format!("{} holds no text", paths.join(", ")))),
        _ => Ok(format!("{}; how much the session needs is not known", documents.report)),
    };
    Need::of("data", found).amounts(Some(bytes(have)), None)
}

/// What an operator hears of data that can be used: all that was read and left out, and what makes one doubt it.
pub fn notes(data: &DataSummary) -> Vec<String> {
    let mut notes = vec![format!("data: {data}")];
    notes.extend(doubt(&data.report));
    notes
}

fn doubt(report: &DataReport) -> Option<String> {
    let replaced = report.problems.get(&Problem::NotUtf8)?;
    let more = match replaced.count.saturating_sub(replaced.first.len() as u64) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    Some(format!(
        "{}{more} held bytes that are no UTF-8 text; they were replaced: is it text at all?",
        replaced.first.join(", ")
    ))
}

/// Room on the disk for what a member keeps, against what is free.
pub fn disk(dir: &DataDir, retention: &RetentionSection, session: Option<(&SessionConfig, u64)>) -> Need {
    let kept = session.map_or(0, |(config, members)| Size::of(config).kept_on_disk(members, retention));
    let need = retention.min_free_bytes.saturating_add(kept);
    let free = match dir.free_bytes() {
        Ok(free) => free,
        Err(error) => return Need::of("disk", Err(Failure::environment(format!("{dir}: {error}")))),
    };
    let parts = format!(
        "about {} for the session's rounds and {} that stay free (retention.min_free_bytes)",
        bytes(kept),
        bytes(retention.min_free_bytes)
    );
    let found = match free >= need {
        true => Ok(format!(
            "{} free around {dir}, {} are needed: {parts}",
            bytes(free),
            bytes(need)
        )),
        false => Err(Failure::environment(format!(
            "{} free around {dir}, {} are needed: {parts}; free some space, or lower retention.rounds",
            bytes(free),
            bytes(need)
        ))),
    };
    Need::of("disk", found).amounts(Some(bytes(free)), Some(bytes(need)))
}

/// Memory for training and combining, against what is available. An estimate: the join itself does not insist on it.
pub fn memory(config: &SessionConfig, members: u64) -> Need {
    let need = Size::of(config).memory(config, members);
    let Some(free) = available_memory_bytes() else {
        let finding = format!(
            "about {} are needed; how much is available is not known here",
            bytes(need)
        );
        return Need::of("memory", Ok(finding)).amounts(None, Some(bytes(need)));
    };
    let found = match free >= need {
        true => Ok(format!("{} available, about {} are needed", bytes(free), bytes(need))),
        false => Err(Failure::environment(format!(
            "{} available, about {} are needed: end other programs, or use a larger machine",
            bytes(free),
            bytes(need)
        ))),
    };
    Need::of("memory", found).amounts(Some(bytes(free)), Some(bytes(need)))
}

/// Refuses a session whose model is larger than all memory that this machine has. What is merely scarce is a matter of
/// [`memory`].
pub fn can_ever_fit(config: &SessionConfig) -> Outcome {
    let size = Size::of(config);
    let need = size.memory(config, u64::from(config.protocol.min_members));
    match total_memory_bytes() {
        Some(total) if need > total => Err(Failure::environment(format!(
            "session `{}` cannot run here: its model of {} parameters needs about {} of memory, and this machine has {} in all; use a smaller model, or a larger machine",
            config.name,
            size.parameters,
            bytes(need),
            bytes(total)
        ))),
        _ => Ok(()),
    }
}

/// Memory that this process could ever have, where the system tells: the machine's, or less where a control group says so.
fn total_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    let machine = 1024 * (kilobytes("MemTotal:")? + kilobytes("SwapTotal:").unwrap_or(0));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<u64>().ok());
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// The device that this node computes on.
pub fn device(device: DeviceChoice) -> Need {
    let (device, _) = device.resolved();
    let opened = device.open().map(|_| device.to_string());
    Need::of("device", opened.map_err(Failure::environment))
}

/// Memory that programs may still take, where the system tells.
pub fn available_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// How large a session's things are, in bytes.
struct Size {
    parameters: u64,
    state: u64,
    update: u64,
    /// The inner optimizer's state, where members carry it.
    optimizer: u64,
}

impl Size {
    fn of(config: &SessionConfig) -> Self {
        let parameters = config.training.parameter_count();
        Self {
            parameters: parameters as u64,
            state: OuterState::encoded_len(parameters) as u64,
            update: config.aggregation.encoding.build().encoded_len(parameters) as u64,
            optimizer: config.training.carried_optimizer_bytes() as u64,
        }
    }

    /// States and updates of the rounds that are kept: the operator's, and the two that the session needs. What the member
    /// itself carries is kept beyond the bound.
    fn kept_on_disk(&self, members: u64, retention: &RetentionSection) -> u64 {
        let round = self.state.saturating_add(members.saturating_mul(self.update));
        let rounds = retention.rounds.saturating_add(2);
        // The bound spares the newest round.
        round
            .saturating_mul(rounds)
            .min(retention.max_bytes.saturating_add(round))
            .saturating_add(CARRIED_BETWEEN * self.optimizer)
    }

    fn memory(&self, config: &SessionConfig, members: u64) -> u64 {
        let vector = 4 * self.parameters;
        let sequences = u64::from(config.training.batch_sequences);
        // Models that are no decoders are small beside what the process takes anyway.
        let shape = config.training.model.decoder_shape();
        let activations = shape.map_or(0, |shape| activation_bytes(&shape, sequences));
        let training = (TRAINING_VECTORS * vector + CARRIED_STATES * self.optimizer).saturating_add(activations);
        let combining = (COMBINING_VECTORS * vector).saturating_add(members.saturating_mul(vector + self.update));
        let combining = combining.saturating_add(CARRIED_BETWEEN * self.optimizer);
        IDLE_MEMORY_BYTES.saturating_add(training.max(combining))
    }
}

/// What a forward pass keeps for the backward pass, and as much again for the gradients of it, which go as they come.
fn activation_bytes(shape: &DecoderShape, sequences: u64) -> u64 {
    let (layers, width, hidden) = (shape.layers as u64, shape.width as u64, shape.hidden as u64);
    let (heads, context, vocabulary) = (shape.heads as u64, shape.context as u64, shape.vocabulary.size() as u64);
    // Per token and layer: two norms, queries, keys, values turned and not, attention twice, its result, the gated layer.
    let layer = 12 * width + 4 * hidden + 2 * heads * context;
    let token = layers.saturating_mul(layer) + 3 * vocabulary + 4 * width;
    (2 * 4 * sequences * context).saturating_mul(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_config::load::parse_session;
    use synod_config::presets::preset;
    use synod_protocol::identity::{BlobId, PeerId};
    use synod_training::config::{OptimizerState, TokenizerId, Vocabulary};

    fn config(name: &str) -> SessionConfig {
        let file = parse_session("preset", preset(name).unwrap()).unwrap();
        file.found(PeerId([1; 32]), 0).unwrap()
    }

    #[test]
    fn data_is_held_against_what_the_session_asks_for() {
        let (home, tiny) = (tempfile::tempdir().unwrap(), config("tiny"));
        let least = required_data(&tiny.training).least_bytes;
        let path = home.path().join("text.txt");
        let options = || DataOptions::from(&path);
        let found = |length: u64| {
            std::fs::write(&path, "a".repeat(length as usize)).unwrap();
            data(Some(&options()), &tiny)
        };
        assert!(found(least + 1).good);
        let short = found(least / 2);
        assert!(
            !short.good && short.finding.contains("this session needs at least"),
            "{short:?}"
        );
        assert_eq!(short.need, Some(bytes(least)));
        assert!(found(0).finding.contains("no text"));
        assert!(!data(None, &tiny).good);
        let nowhere = home.path().join("nowhere").display().to_string();
        assert!(!text(&[nowhere]).good && !text(&[]).good);
        assert!(data(None, &config("synthetic")).good);
        std::fs::write(&path, [0xff; 10_000]).unwrap();
        let binary = data(Some(&options()), &tiny);
        assert!(
            binary.good && binary.finding.contains("is it text at all"),
            "{binary:?}"
        );
        assert!(text(&[path.display().to_string()]).finding.contains("not known"));
    }

    #[test]
    fn a_tokenizer_is_listed_where_the_session_has_one_or_the_operator_gave_one() {
        let tiny = config("tiny");
        assert_eq!(tokenizer(&tiny, false, Ok(String::new())), None);
        let useless = tokenizer(&tiny, true, Err(Failure::user("leave it out"))).unwrap();
        assert!(!useless.good && useless.need.is_none());
        let mut with_one = tiny.clone();
        let ModelConfig::Decoder(decoder) = &mut with_one.training.model else {
            panic!("tiny trains a decoder")
        };
        decoder.vocabulary = Vocabulary::Tokenizer(TokenizerId {
            blake3: BlobId([7; 32]),
            size: 300,
            eod: 0,
        });
        let missing = tokenizer(&with_one, false, Err(Failure::environment("not there"))).unwrap();
        assert!(!missing.good && missing.have.is_none());
        assert!(missing.need.unwrap().contains("300 tokens"));
        assert!(
            tokenizer(&with_one, false, Ok("here".to_owned()))
                .unwrap()
                .have
                .is_some()
        );
    }

    #[test]
    fn a_larger_model_and_more_members_need_more() {
        let (tiny, small) = (config("tiny"), config("small"));
        assert!(Size::of(&small).memory(&small, 4) > Size::of(&tiny).memory(&tiny, 4));
        let (few, many) = (
            Size::of(&small).memory(&small, 2),
            Size::of(&small).memory(&small, 1_000),
        );
        assert!(many > few, "updates are combined in memory");
        let mut carrying = small.clone();
        carrying.training.optimizer_state = OptimizerState::Carry;
        let (carried, parameters) = (Size::of(&carrying).optimizer, Size::of(&small).parameters);
        assert!(
            (8 * parameters..8 * parameters + 100).contains(&carried),
            "two moments a parameter"
        );
        assert_eq!(Size::of(&carrying).memory(&carrying, 2) - few, 3 * carried);
        let retention = RetentionSection::default();
        let kept = |members| Size::of(&small).kept_on_disk(members, &retention);
        assert!(kept(8) > kept(4));
        assert!(kept(u64::MAX) > 0, "nothing overflows");
    }

    #[test]
    fn a_disk_without_room_is_refused_with_both_numbers() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path().to_owned());
        let small = config("small");
        let retention = RetentionSection::default();
        assert!(disk(&dir, &retention, Some((&small, 4))).good);
        let greedy = RetentionSection {
            min_free_bytes: u64::MAX,
            ..retention
        };
        let need = disk(&dir, &greedy, Some((&small, 4)));
        assert!(!need.good && need.have.is_some() && need.need.is_some(), "{need:?}");
        assert!(need.finding.contains("free some space"), "{need:?}");
    }
}
