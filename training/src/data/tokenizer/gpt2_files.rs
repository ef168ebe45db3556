//! GPT-2's own two files, `encoder.json` (token to id) and `vocab.bpe` (merges), as one `tokenizer.json` (Radford et al.,
//! 2019). The result is the same bytes on every machine, so that its hash names the pair.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::TokenizerError;
use super::file::read_bounded;

const END: &str = "<|endoftext|>";

pub(super) fn read(folder: &Path) -> Result<Vec<u8>, TokenizerError> {
    let find = |names: &[&str]| {
        let paths = names.iter().map(|name| folder.join(name));
        paths.into_iter().find(|path| path.is_file())
    };
    let encoder = find(&["encoder.json", "encoder.json.gz", "vocab.json"]);
    let merges = find(&["vocab.bpe", "vocab.bpe.gz", "merges.txt"]);
    let (Some(encoder), Some(merges)) = (encoder, merges) else {
        return Err(TokenizerError::Malformed {
            path: folder.to_owned(),
            what: "the folder has neither a tokenizer.json nor GPT-2's encoder.json and vocab.bpe".to_owned(),
        });
    };
    let malformed = |path: &Path, what: &str| TokenizerError::Malformed {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let vocabulary: BTreeMap<String, u32> = serde_json::from_slice(&read_bounded(&encoder)?)
        .map_err(|error| malformed(&encoder, &format!("not an object of tokens and ids: {error}")))?;
    let text = String::from_utf8(read_bounded(&merges)?).map_err(|_| malformed(&merges, "not UTF-8"))?;
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty());
    let merges = lines
        .map(|line| {
            line.split_once(' ')
                .ok_or_else(|| malformed(&merges, "a line is no pair of tokens"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let json = tokenizer_json(&vocabulary, &merges);
    Ok(serde_json::to_vec(&json).expect("strings and numbers always encode"))
}

/// A `tokenizer.json`, its keys in a fixed order.
#[derive(Debug, Serialize)]
struct TokenizerJson<'a> {
    version: &'a str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Option<()>,
    pre_tokenizer: ByteLevel<'a>,
    post_processor: Option<()>,
    decoder: ByteLevel<'a>,
    model: Model<'a>,
}

#[derive(Debug, Serialize)]
struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Debug, Serialize)]
struct ByteLevel<'a> {
    r#type: &'a str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

#[derive(Debug, Serialize)]
struct Model<'a> {
    r#type: &'a str,
    dropout: Option<()>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: &'a BTreeMap<String, u32>,
    merges: &'a [(&'a str, &'a str)],
}

fn tokenizer_json<'a>(vocab: &'a BTreeMap<String, u32>, merges: &'a [(&'a str, &'a str)]) -> TokenizerJson<'a> {
    let byte_level = || ByteLevel {
        r#type: "ByteLevel",
        add_prefix_space: false,
        trim_offsets: true,
        use_regex: true,
    };
    let end = vocab.get(END).map(|id| AddedToken {
        id: *id,
        content: END,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
    });
    TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: end.into_iter().collect(),
        normalizer: None,
        pre_tokenizer: byte_level(),
        post_processor: None,
        decoder: byte_level(),
        model: Model {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab,
            merges,
        },
    }
}
