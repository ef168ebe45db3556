//! What a machine says of its data: where it is, how it is written, where tokens may be kept.
//! None of it is shared with other members, and none of it may change what a token means: that is the session's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a member's data is and how it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// Files and folders, read in this order.
    pub paths: Vec<PathBuf>,
    /// The key (JSON Lines) or column (Parquet) that holds the text.
    pub text_field: String,
    /// The tokenizer file, for sessions whose vocabulary is a tokenizer's: a `tokenizer.json`, or a folder with GPT-2's
    /// `encoder.json` and `vocab.bpe` (`.gz` too). Its hash must be the session's.
    pub tokenizer: Option<PathBuf>,
    /// A folder in which tokens are kept from one start to the next. Left out: they are made at each start and kept in
    /// memory, which is right for some hundred megabytes.
    pub shards: Option<PathBuf>,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            text_field: "text".to_owned(),
            tokenizer: None,
            shards: None,
        }
    }
}

impl From<&Path> for DataOptions {
    fn from(path: &Path) -> Self {
        Self {
            paths: vec![path.to_owned()],
            ..Self::default()
        }
    }
}

impl From<&PathBuf> for DataOptions {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl DataOptions {
    /// The paths, for messages.
    pub fn named(&self) -> PathBuf {
        match self.paths.as_slice() {
            [path] => path.clone(),
            paths => paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
                .into(),
        }
    }
}
