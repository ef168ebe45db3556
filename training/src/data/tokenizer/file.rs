//! The bytes of a tokenizer's file, which its hash is over, and the names of tokens in it.
//! A folder with GPT-2's two files counts as the `tokenizer.json` that they amount to.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{TOKENIZER_BYTES_MAX, TokenizerError, gpt2_files};

/// Names of end-of-document tokens, the likeliest first.
pub(super) const USUAL_ENDS: &[&str] = &["<|endoftext|>", "<|end_of_text|>", "</s>", "<|eos|>", "<eos>", "[SEP]"];

/// The bytes of a `tokenizer.json`: the file itself, the one in a folder, or one made of GPT-2's files.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    if !path.is_dir() {
        return read_bounded(path);
    }
    let inside = path.join("tokenizer.json");
    match inside.is_file() {
        true => read_bounded(&inside),
        false => gpt2_files::read(path),
    }
}

/// Reads a file, unpacked where its name ends in `.gz`, and refuses one that is too large.
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let unreadable = |reason| TokenizerError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let about = fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        return Err(unreadable(std::io::Error::other("it is no file")));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let limit = TOKENIZER_BYTES_MAX + 1;
    let read = match path.extension().is_some_and(|extension| extension == "gz") {
        true => flate2::read::MultiGzDecoder::new(file)
            .take(limit)
            .read_to_end(&mut bytes),
        false => file.take(limit).read_to_end(&mut bytes),
    };
    read.map_err(unreadable)?;
    match bytes.len() as u64 > TOKENIZER_BYTES_MAX {
        true => Err(unreadable(std::io::Error::other(format!(
            "it has more than {TOKENIZER_BYTES_MAX} bytes"
        )))),
        false => Ok(bytes),
    }
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: serde_json::Value,
}

/// The id of the first of these names that the tokenizer has.
pub(super) fn token_of(json: &[u8], names: &[&str]) -> Option<u32> {
    let file: Names = serde_json::from_slice(json).ok()?;
    let added: HashMap<&str, u32> = file.added_tokens.iter().map(|t| (t.content.as_str(), t.id)).collect();
    let in_model = |name: &str| file.model.vocab.get(name)?.as_u64()?.try_into().ok();
    names
        .iter()
        .find_map(|name| added.get(name).copied().or_else(|| in_model(name)))
}

/// The name of a token: that of an added one, or its text in the model.
pub(super) fn name_of(json: &[u8], token: u32) -> Option<String> {
    let file: Names = serde_json::from_slice(json).ok()?;
    let added = file.added_tokens.into_iter().find(|added| added.id == token);
    added.map(|added| added.content).or_else(|| {
        let in_model = file.model.vocab.as_object()?.iter();
        in_model
            .filter(|(_, id)| id.as_u64() == Some(token.into()))
            .map(|(name, _)| name.clone())
            .next()
    })
}
