//! What a session's data is on this node: the operator's paths, the session's tokenizer as a blob, the folder for tokens.
//! It reads no text and fetches nothing; a tokenizer that another node has is fetched by `joining`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use synod_config::SessionConfig;
use synod_storage::blobs::BlobStore;
use synod_storage::error::StoreError;
use synod_storage::store::{BlobLink, Store};
use synod_training::config::{ModelConfig, TokenizerId, Vocabulary};
use synod_training::data::{DataOptions, Tokenizer, unused_tokens};

use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// The tokenizer that a session names; none where its tokens are bytes, or where it has no text.
pub fn tokenizer_of(config: &SessionConfig) -> Option<TokenizerId> {
    match config.training.model.decoder_shape()?.vocabulary {
        Vocabulary::Byte => None,
        Vocabulary::Tokenizer(tokenizer) => Some(tokenizer),
    }
}

/// All that this node can say of its data for a session; none without paths. The tokenizer is the blob of the session's
/// digest, whether it is there or not: whoever opens it checks it.
pub fn options(
    dir: &DataDir,
    blobs: &BlobStore,
    config: &SessionConfig,
    paths: &[String],
    text_field: &str,
) -> Option<DataOptions> {
    let samples = matches!(config.training.model, ModelConfig::Network(_));
    (!paths.is_empty()).then(|| DataOptions {
        paths: paths.iter().map(Into::into).collect(),
        tokenizer: tokenizer_of(config).map(|tokenizer| blobs.path(&tokenizer.blake3)),
        shards: (!samples).then(|| dir.tokens()),
        text_field: text_field.to_owned(),
    })
}

/// Takes the tokenizer at `path` into the store, if it is the session's. Without a path it must be there already.
pub fn keep_tokenizer(blobs: &BlobStore, config: &SessionConfig, path: Option<&Path>) -> Outcome {
    match (tokenizer_of(config), path) {
        (None, None) => Ok(()),
        (None, Some(path)) => Err(Failure::user(format!(
            "session `{}` has no tokenizer (its tokens are bytes, or it trains on no text): leave --tokenizer {} out",
            config.name,
            path.display()
        ))),
        (Some(tokenizer), Some(path)) => {
            let bytes = Tokenizer::checked_bytes(&tokenizer, path).map_err(Failure::user)?;
            blobs.put(&bytes)?;
            Ok(())
        }
        (Some(tokenizer), None) if blobs.has(&tokenizer.blake3) => Ok(()),
        (Some(tokenizer), None) => Err(Failure::user(format!(
            "session `{}` has a tokenizer (BLAKE3 {}, {} tokens) and this node does not have it: give --tokenizer FILE",
            config.name, tokenizer.blake3, tokenizer.size
        ))),
    }
}

/// Notes that a session needs its tokenizer, so that it is kept as long as the session is.
pub fn link_tokenizer(store: &dyn Store, blobs: &BlobStore, config: &SessionConfig) -> Result<(), StoreError> {
    let Some(tokenizer) = tokenizer_of(config) else {
        return Ok(());
    };
    let (_, bytes) = blobs.open_file(&tokenizer.blake3)?;
    let link = BlobLink {
        round: 0,
        blob: tokenizer.blake3,
        bytes,
    };
    store.link_blob(&config.id(), &link)
}

/// Tokens that no session has opened for so long are deleted; should one want them after all, they are made again.
const TOKENS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// At the start of a node: deletes tokens that a process which was killed had not finished, and those that have not been
/// used for [`TOKENS_KEPT`].
pub fn prune_tokens(dir: &DataDir, now: SystemTime) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir.tokens()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        // What is whole has a name without a dot.
        if path.extension().is_some_and(|extension| extension == "partial") {
            std::fs::remove_dir_all(path)?;
        }
    }
    let before = now.checked_sub(TOKENS_KEPT).unwrap_or(SystemTime::UNIX_EPOCH);
    for folder in unused_tokens(&dir.tokens(), before)? {
        std::fs::remove_dir_all(&folder)?;
        tracing::info!(folder = %folder.display(), "deleted tokens that no session has used for a month");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_config::load::parse_session;
    use synod_config::presets::preset;
    use synod_protocol::identity::PeerId;
    use synod_storage::memory_store::MemoryStore;
    use synod_storage::retention::{self, RetentionConfig};
    use synod_training::TrainingConfig;
    use synod_training::data::{Dataset, Windows, train_byte_pairs};

    #[test]
    fn a_sessions_tokenizer_is_kept_while_the_session_is() {
        let home = tempfile::tempdir().unwrap();
        let (blobs, store) = (BlobStore::open(home.path()).unwrap(), MemoryStore::new());
        let path = home.path().join("tokenizer.json");
        let texts = ["a house, a house and a horse"; 20];
        std::fs::write(&path, train_byte_pairs(texts.into_iter(), 270).unwrap()).unwrap();
        let mut file = parse_session("preset", preset("tiny").unwrap()).unwrap();
        let ModelConfig::Decoder(decoder) = &mut file.training.model else {
            panic!("tiny trains a decoder")
        };
        decoder.vocabulary = Vocabulary::Tokenizer(Tokenizer::identify(&path, None).unwrap());
        let config = file.found(PeerId([1; 32]), 0).unwrap();
        let tokenizer = tokenizer_of(&config).unwrap().blake3;
        assert!(keep_tokenizer(&blobs, &config, None).is_err());
        keep_tokenizer(&blobs, &config, Some(&path)).unwrap();
        keep_tokenizer(&blobs, &config, None).unwrap();
        link_tokenizer(&store, &blobs, &config).unwrap();

        retention::sweep(&store, &blobs).unwrap();
        assert!(blobs.has(&tokenizer), "a start keeps what is linked");
        let bounds = RetentionConfig::default();
        retention::apply(&store, &blobs, &config.id(), 100, &[tokenizer], &bounds).unwrap();
        assert!(blobs.has(&tokenizer), "old as its link is");
        retention::remove_session(&store, &blobs, &config.id()).unwrap();
        assert!(!blobs.has(&tokenizer));
    }

    #[test]
    fn a_start_removes_unfinished_tokens_and_those_of_no_use_for_long() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path().to_owned());
        prune_tokens(&dir, SystemTime::now()).unwrap();
        let folder = |name: &str| {
            let path = dir.tokens().join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("tokens.bin"), "x").unwrap();
            path
        };
        let (whole, unfinished) = (folder("00ff"), folder(".00ff.1.0.partial"));
        prune_tokens(&dir, SystemTime::now()).unwrap();
        assert!(whole.exists() && !unfinished.exists());

        let text = home.path().join("text.txt");
        std::fs::write(&text, "a house and a horse\n\n".repeat(200)).unwrap();
        let windows = Windows::of(&TrainingConfig::default(), 16);
        let open = || {
            let options = DataOptions {
                shards: Some(dir.tokens()),
                ..DataOptions::from(text.as_path())
            };
            Dataset::open(options, windows).unwrap();
        };
        let folders = || std::fs::read_dir(dir.tokens()).unwrap().count();
        open();
        assert_eq!(folders(), 2);
        for entry in std::fs::read_dir(dir.tokens()).unwrap() {
            let long_ago = SystemTime::now() - 2 * TOKENS_KEPT;
            let path = entry.unwrap().path();
            let manifest = path.join("manifest.json");
            let old = if manifest.exists() { manifest } else { path };
            std::fs::File::open(old).unwrap().set_modified(long_ago).unwrap();
        }
        open();
        prune_tokens(&dir, SystemTime::now()).unwrap();
        assert_eq!(folders(), 1, "what was opened just now is in use");
        prune_tokens(&dir, SystemTime::now() + 2 * TOKENS_KEPT).unwrap();
        assert_eq!(folders(), 0);
    }
}
