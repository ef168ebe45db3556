//! What a session's data is on this node: the operator's paths, the session's tokenizer as a blob, the folder for tokens.
//! It reads no text and fetches nothing; a tokenizer that another node has is fetched by `joining`.

use std::path::Path;

use synod_config::SessionConfig;
use synod_storage::blobs::BlobStore;
use synod_storage::error::StoreError;
use synod_storage::store::{BlobLink, Store};
use synod_training::config::{ModelConfig, TokenizerId, Vocabulary};
use synod_training::data::{DataOptions, Tokenizer};

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
pub fn options(dir: &DataDir, blobs: &BlobStore, config: &SessionConfig, paths: &[String]) -> Option<DataOptions> {
    let samples = matches!(config.training.model, ModelConfig::Network(_));
    (!paths.is_empty()).then(|| DataOptions {
        paths: paths.iter().map(Into::into).collect(),
        tokenizer: tokenizer_of(config).map(|tokenizer| blobs.path(&tokenizer.blake3)),
        shards: (!samples).then(|| dir.tokens()),
        ..DataOptions::default()
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

/// At the start of a node: deletes tokens that a process which was killed had not finished.
pub fn remove_unfinished_tokens(dir: &DataDir) -> std::io::Result<()> {
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
    Ok(())
}
