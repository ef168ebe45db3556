//! Where a command finds a session's model and rows: at the running node, or in a stopped node's store; or a model in an
//! exported folder or a GGUF file. It reads only.

use std::io::Write;
use std::path::{Path, PathBuf};

use synod_aggregation::OuterState;
use synod_config::SessionConfig;
use synod_protocol::journal::JournalEntry;
use synod_storage::blobs::BlobStore;
use synod_storage::rocks_store::RocksStore;
use synod_storage::store::{SessionRecord, Store};
use synod_training::config::TrainingConfig;
use synod_training::data::{DataOptions, Tokenizer};
use synod_training::interchange::{import_gguf, import_model, is_gguf, read_training};
use synod_training::models::DecoderShape;
use tempfile::TempPath;

use super::{client, converse};
use crate::api::types::{ConfigView, SessionView};
use crate::client::session_path;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::rounds::RoundRow;
use crate::session_data::tokenizer_of;
use crate::settled_chain::{SettledChain, settlements_of};

/// A model and what is known of it.
pub struct Model {
    /// How it was trained.
    pub training: TrainingConfig,
    /// Whether that is what its session says; else it is the model's shape with defaults.
    pub settings_known: bool,
    /// Where its tokenizer is, if it has one.
    pub tokenizer: Option<PathBuf>,
    /// The file that was made for a tokenizer that came inside another one; it goes with the model.
    _made: Option<TempPath>,
    /// θ, flat.
    pub parameters: Vec<f32>,
    /// For the operator: the session and round, or the folder.
    pub origin: String,
    /// Digest of the state, if it came from a session.
    pub state: Option<String>,
}

/// A session's model by name or id, or that of a folder or a GGUF file.
pub fn model(dir: &DataDir, name: &str) -> Outcome<Model> {
    let folder = Path::new(name);
    if is_gguf(folder) {
        return in_gguf(folder);
    }
    match folder.join("config.json").is_file() {
        true => exported(folder),
        false if folder.is_file() => Err(Failure::user(format!(
            "{name} is no model: it is neither a GGUF file nor a folder with a config.json"
        ))),
        // No session's name has a slash.
        false if name.contains('/') => Err(Failure::user(format!(
            "{name} is no model: it is neither a GGUF file nor a folder with a config.json"
        ))),
        false => of_session(dir, name),
    }
}

/// The last settled model of a session; in a decentralized one, this node's own.
pub fn of_session(dir: &DataDir, name: &str) -> Outcome<Model> {
    let client = client(dir)?;
    let (config, round, state, bytes) = match converse(async { Ok(client.is_running().await) })? {
        true => converse(async {
            let path = session_path(name, "");
            let view: SessionView = client.get(&path).await?;
            let config: ConfigView = client.get(&format!("{path}/config")).await?;
            let bytes = client.get_bytes(&format!("{path}/state")).await?;
            let canonical = hex::decode(&config.canonical_hex).map_err(Failure::environment)?;
            let config = SessionConfig::from_bytes(&canonical).map_err(Failure::environment)?;
            let state = blake3::hash(&bytes).to_hex().to_string();
            Ok((
                config,
                view.last_round.map_or(0, |row| row.round),
                state,
                bytes.to_vec(),
            ))
        })?,
        false => stored_state(dir, name)?,
    };
    let parameters = OuterState::from_bytes(&bytes, Some(config.training.parameter_count()))
        .map_err(Failure::environment)?
        .parameters;
    let origin = format!("session `{}` after round {round}", config.name);
    let blobs = BlobStore::open_to_read(dir.root());
    let tokenizer = tokenizer_of(&config).map(|tokenizer| blobs.path(&tokenizer.blake3));
    Ok(Model {
        training: config.training,
        settings_known: true,
        tokenizer,
        _made: None,
        parameters,
        origin,
        state: Some(state),
    })
}

/// A session's settlements.
pub fn chain_of(dir: &DataDir, name: &str) -> Outcome<SettledChain> {
    let client = client(dir)?;
    let (config, settlements) = match converse(async { Ok(client.is_running().await) })? {
        true => converse(async {
            let path = session_path(name, "");
            let config: ConfigView = client.get(&format!("{path}/config")).await?;
            let settlements = client.get_bytes(&format!("{path}/chain")).await?;
            let canonical = hex::decode(&config.canonical_hex).map_err(Failure::environment)?;
            Ok((canonical, settlements.to_vec()))
        })?,
        false => {
            let (store, record) = stored(dir, name)?;
            (record.config, settlements_of(store.journal(&record.id)?))
        }
    };
    let config = SessionConfig::from_bytes(&config).map_err(Failure::environment)?;
    if config.protocol.is_mixing() {
        return Err(Failure::user(format!(
            "session `{}` settles nothing: its members mix, and hold no common model",
            config.name
        )));
    }
    SettledChain::of(config, &settlements).map_err(Failure::environment)
}

/// A session's rows from round `from` on.
pub fn rounds_of(dir: &DataDir, name: &str, from: u64) -> Outcome<Vec<RoundRow>> {
    let client = client(dir)?;
    if converse(async { Ok(client.is_running().await) })? {
        return converse(async { client.get(&session_path(name, &format!("/rounds?from={from}"))).await });
    }
    let (store, record) = stored(dir, name)?;
    let rows = store.rounds(&record.id, from)?;
    Ok(rows
        .iter()
        .filter_map(|(_, row)| serde_json::from_slice(row).ok())
        .collect())
}

type Stored = (SessionConfig, u64, String, Vec<u8>);

fn stored_state(dir: &DataDir, name: &str) -> Outcome<Stored> {
    let (store, record) = stored(dir, name)?;
    let config = SessionConfig::from_bytes(&record.config).map_err(Failure::environment)?;
    let settled = store
        .journal(&record.id)?
        .into_iter()
        .rev()
        .find_map(|entry| match entry {
            JournalEntry::Settled(settlement) => Some((settlement.body.round, settlement.body.state)),
            JournalEntry::Mixed { round, state, .. } => Some((round, state)),
            _ => None,
        });
    let (round, state) =
        settled.ok_or_else(|| Failure::user(format!("session `{}` has settled nothing yet", record.name)))?;
    let bytes = BlobStore::open_to_read(dir.root()).read(&state)?;
    Ok((config, round, state.to_string(), bytes))
}

/// A session of a stopped node by its name, its id, or the beginning of its id, in the store opened for reading.
fn stored(dir: &DataDir, name: &str) -> Outcome<(RocksStore, SessionRecord)> {
    let unknown = || {
        Failure::user(format!(
            "no node is running on {dir}, and there is no session `{name}` in the folder: `node start`, then `node session list`"
        ))
    };
    let store = RocksStore::open_to_read(dir.root())?.ok_or_else(unknown)?;
    let is_named =
        |record: &SessionRecord| record.name == name || (name.len() >= 4 && record.id.to_string().starts_with(name));
    let mut found = store.sessions()?.into_iter().filter(is_named);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok((store, one)),
        (Some(_), Some(_)) => Err(Failure::user(format!("`{name}` names several sessions: give the id"))),
        (None, _) => Err(unknown()),
    }
}

fn exported(folder: &Path) -> Outcome<Model> {
    let (model, parameters) = import_model(folder).map_err(Failure::user)?;
    let kept = read_training(folder).map_err(Failure::user)?;
    let settings_known = kept.is_some();
    let training = TrainingConfig {
        model,
        ..kept.unwrap_or_default()
    };
    Ok(Model {
        training,
        settings_known,
        tokenizer: Some(folder.join("tokenizer.json")),
        _made: None,
        parameters,
        origin: folder.display().to_string(),
        state: None,
    })
}

fn in_gguf(path: &Path) -> Outcome<Model> {
    let read = import_gguf(path).map_err(Failure::user)?;
    let made = read.tokenizer.map(|bytes| {
        let mut file = tempfile::Builder::new()
            .prefix("synod-tokenizer-")
            .suffix(".json")
            .tempfile()?;
        file.write_all(&bytes)?;
        Ok::<_, std::io::Error>(file.into_temp_path())
    });
    let made = made.transpose();
    let made = made.map_err(|error| Failure::environment(format!("no file for the tokenizer can be made: {error}")))?;
    Ok(Model {
        training: TrainingConfig {
            model: read.model,
            ..TrainingConfig::default()
        },
        settings_known: false,
        tokenizer: made.as_ref().map(|path| path.to_path_buf()),
        _made: made,
        parameters: read.parameters,
        origin: path.display().to_string(),
        state: None,
    })
}

impl Model {
    /// The shape of its decoder; sessions with a synthetic objective have none.
    pub fn shape(&self) -> Outcome<DecoderShape> {
        self.training.model.decoder_shape().ok_or_else(|| {
            Failure::user(format!(
                "{} trains a synthetic objective: it has no language model",
                self.origin
            ))
        })
    }

    /// What cuts text for it, and joins its tokens to text.
    pub fn tokenizer(&self) -> Outcome<Tokenizer> {
        let opened = Tokenizer::open(&self.shape()?.vocabulary, self.tokenizer.as_deref());
        opened.map_err(|error| Failure::user(format!("{}: {error}", self.origin)))
    }

    /// Text at `path`, in `text_field` of files that have fields, that is to be cut for it.
    pub fn data(&self, path: &Path, text_field: &str) -> DataOptions {
        DataOptions {
            tokenizer: self.tokenizer.clone(),
            text_field: text_field.to_owned(),
            ..path.into()
        }
    }
}
