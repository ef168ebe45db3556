//! The tokenizer inside a GGUF file, out of it as a `tokenizer.json` and into it from one.
//! Byte-level BPE alone (`tokenizer.ggml.model = "gpt2"`), with the ways to cut words that are known here; SentencePiece and
//! others are refused.

use serde_json::{Map, Value as Json, json};
use synod_protocol::identity::BlobId;

use super::GgufError;
use super::file::{Gguf, Value};
use crate::config::{TokenizerId, Vocabulary};
use crate::interchange::byte_tokenizer;

/// Kinds of tokens, as llama.cpp numbers them.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// Llama 3's words, as its `tokenizer.json` has them.
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut into words before pairs are merged, by llama.cpp's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Words {
    Gpt2,
    Smollm,
    Llama3,
}

impl Words {
    const ALL: [Self; 3] = [Self::Gpt2, Self::Smollm, Self::Llama3];

    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::Smollm => "smollm",
            Self::Llama3 => "llama-bpe",
        }
    }

    /// The pre-tokenizer of a `tokenizer.json`.
    fn json(self) -> Json {
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let both = |first: Json, second: Json| json!({"type": "Sequence", "pretokenizers": [first, second]});
        match self {
            Self::Gpt2 => bytes(true),
            Self::Smollm => both(json!({"type": "Digits", "individual_digits": true}), bytes(true)),
            Self::Llama3 => {
                let split = json!({
                    "type": "Split",
                    "pattern": {"Regex": LLAMA3_WORDS},
                    "behavior": "Isolated",
                    "invert": false,
                });
                both(split, bytes(false))
            }
        }
    }

    /// Llama 3 takes a word that is a token whole, whatever merges would make of it.
    fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }
}

/// The vocabulary of a file whose embedding has `size` rows, and the `tokenizer.json` where tokens are not bytes.
pub(super) fn read(gguf: &Gguf, size: usize) -> Result<(Vocabulary, Option<Vec<u8>>), GgufError> {
    let Some(Value::Texts(tokens)) = gguf.metadata.get("tokenizer.ggml.tokens") else {
        return Err(gguf.unsupported("it has no tokenizer (`tokenizer.ggml.tokens`)".to_owned()));
    };
    if tokens.len() > size {
        let count = tokens.len();
        return Err(gguf.malformed(format!("its tokenizer has {count} tokens and its embedding {size}")));
    }
    match gguf.metadata.get("tokenizer.ggml.model") {
        Some(Value::Text(model)) if model == "gpt2" => {}
        other => {
            let name = match other {
                Some(Value::Text(name)) => format!("`{name}`"),
                _ => "of no name".to_owned(),
            };
            return Err(gguf.unsupported(format!(
                "its tokenizer is {name}, and byte-level BPE (`gpt2`) is known: convert the model from its Hugging Face folder"
            )));
        }
    }
    let merges = match gguf.metadata.get("tokenizer.ggml.merges") {
        Some(Value::Texts(merges)) => &merges[..],
        _ => &[],
    };
    let bytes = byte_tokenizer::characters();
    let are_bytes = |tokens: &[String]| {
        let same = |(token, byte): (&String, &char)| token.chars().eq([*byte]);
        tokens.len() == 256 && tokens.iter().zip(&bytes).all(same)
    };
    if size == 256 && merges.is_empty() && are_bytes(tokens) {
        return Ok((Vocabulary::Byte, None));
    }
    let number = |key: &str| match gguf.metadata.get(key) {
        Some(Value::Integer(id)) => u32::try_from(*id).ok().filter(|id| (*id as usize) < tokens.len()),
        _ => None,
    };
    let eod = number("tokenizer.ggml.eos_token_id").or_else(|| number("tokenizer.ggml.bos_token_id"));
    let eod =
        eod.ok_or_else(|| gguf.malformed("no token ends its documents (`tokenizer.ggml.eos_token_id`)".to_owned()))?;
    let json = tokenizer_json(gguf, tokens, merges)?;
    let bytes = serde_json::to_vec(&json).expect("a JSON value is written");
    let id = TokenizerId {
        blake3: BlobId::of(&bytes),
        size: size as u32,
        eod,
    };
    Ok((Vocabulary::Tokenizer(id), Some(bytes)))
}

fn tokenizer_json(gguf: &Gguf, tokens: &[String], merges: &[String]) -> Result<Json, GgufError> {
    let words = match gguf.metadata.get("tokenizer.ggml.pre") {
        Some(Value::Text(name)) => Words::ALL
            .into_iter()
            .find(|words| words.name() == name)
            .ok_or_else(|| {
                let known = Words::ALL.map(Words::name).join(", ");
                gguf.unsupported(format!(
                    "its tokenizer cuts words as `{name}` does, and these ways are known: {known}"
                ))
            })?,
        _ => Words::Gpt2,
    };
    let kinds = match gguf.metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Integers(kinds)) if kinds.len() == tokens.len() => &kinds[..],
        Some(_) => return Err(gguf.malformed("`tokenizer.ggml.token_type` is not one number a token".to_owned())),
        None => &[],
    };
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, token) in tokens.iter().enumerate() {
        let kind = kinds.get(id).copied().unwrap_or(NORMAL);
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            }));
        }
        if kind != UNUSED && vocabulary.insert(token.clone(), json!(id)).is_some() {
            return Err(gguf.malformed(format!("its tokenizer has the token {token:?} twice")));
        }
    }
    let pair = |merge: &String| match merge.split_once(' ') {
        Some((left, right)) => Ok(json!([left, right])),
        None => Err(gguf.malformed(format!("its tokenizer merges {merge:?}, which is no pair"))),
    };
    let merges: Vec<Json> = merges.iter().map(pair).collect::<Result<_, _>>()?;
    Ok(file_of(words, vocabulary, merges, added))
}

fn file_of(words: Words, vocabulary: Map<String, Json>, merges: Vec<Json>, added: Vec<Json>) -> Json {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": words.json(),
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": words.ignores_merges(),
            "vocab": vocabulary,
            "merges": merges,
        },
    })
}

/// What a file says of a vocabulary of `rows` rows: `tokenizer` is the session's `tokenizer.json`.
pub(super) fn metadata(vocabulary: &Vocabulary, tokenizer: Option<&[u8]>) -> Result<Vec<(String, Value)>, GgufError> {
    let parts = match (vocabulary, tokenizer) {
        (Vocabulary::Byte, _) => Parts {
            words: Words::Gpt2,
            tokens: byte_tokenizer::characters().iter().map(char::to_string).collect(),
            kinds: vec![NORMAL; 256],
            merges: Vec::new(),
        },
        (Vocabulary::Tokenizer(_), Some(bytes)) => {
            Parts::of(bytes, vocabulary.size()).map_err(GgufError::NotWritable)?
        }
        (Vocabulary::Tokenizer(_), None) => {
            let reason = "the model's tokenizer is not here: a GGUF file without it is of no use";
            return Err(GgufError::NotWritable(reason.to_owned()));
        }
    };
    let eod = Value::Integer(vocabulary.eod().into());
    let named = [
        ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::Text(parts.words.name().to_owned())),
        ("tokenizer.ggml.tokens", Value::Texts(parts.tokens)),
        ("tokenizer.ggml.token_type", Value::Integers(parts.kinds)),
        ("tokenizer.ggml.merges", Value::Texts(parts.merges)),
        ("tokenizer.ggml.bos_token_id", eod.clone()),
        ("tokenizer.ggml.eos_token_id", eod),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ];
    Ok(named.map(|(key, value)| (key.to_owned(), value)).into())
}

struct Parts {
    words: Words,
    tokens: Vec<String>,
    kinds: Vec<i64>,
    merges: Vec<String>,
}

impl Parts {
    fn of(bytes: &[u8], rows: usize) -> Result<Self, String> {
        let file: Json = serde_json::from_slice(bytes).map_err(|error| format!("the tokenizer is damaged: {error}"))?;
        let model = &file["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" || !(file["normalizer"].is_null()) {
            return Err(format!(
                "the tokenizer ({kind}, or one that normalises text) has no form in GGUF that is known here"
            ));
        }
        let ignores = model["ignore_merges"].as_bool().unwrap_or(false);
        let cuts = |words: &Words| same_cut(&words.json(), &file["pre_tokenizer"]) && words.ignores_merges() == ignores;
        let words = Words::ALL.into_iter().find(cuts);
        let words = words.ok_or("the tokenizer cuts words in a way that has no name in GGUF that is known here")?;
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[unused {id}]")).collect();
        let mut kinds = vec![UNUSED; rows];
        let mut put = |id: Option<u64>, token: &str, kind: i64| {
            let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < rows);
            let id = id.ok_or_else(|| format!("the token {token:?} has no number below {rows}"))?;
            (tokens[id], kinds[id]) = (token.to_owned(), kind);
            Ok::<(), String>(())
        };
        for (token, id) in model["vocab"].as_object().ok_or("the tokenizer has no vocabulary")? {
            put(id.as_u64(), token, NORMAL)?;
        }
        for added in file["added_tokens"].as_array().into_iter().flatten() {
            let special = added["special"].as_bool().unwrap_or(false);
            let token = added["content"].as_str().unwrap_or_default();
            put(
                added["id"].as_u64(),
                token,
                if special { CONTROL } else { USER_DEFINED },
            )?;
        }
        let merges = model["merges"].as_array().into_iter().flatten();
        let merges = merges.map(|merge| match (merge.as_str(), merge.as_array().map(Vec::as_slice)) {
            (Some(text), _) => Ok(text.to_owned()),
            (None, Some([Json::String(left), Json::String(right)])) => Ok(format!("{left} {right}")),
            _ => Err(format!("the tokenizer merges {merge}, which is no pair")),
        });
        Ok(Self {
            words,
            merges: merges.collect::<Result<_, _>>()?,
            tokens,
            kinds,
        })
    }
}

/// Whether two pre-tokenizers cut alike: `trim_offsets` says where words are, not what they are.
fn same_cut(ours: &Json, theirs: &Json) -> bool {
    let without_offsets = |value: &Json| {
        let mut value = value.clone();
        let list = match value["type"] == "Sequence" {
            true => value["pretokenizers"].as_array_mut(),
            false => None,
        };
        match list {
            Some(list) => list.iter_mut().for_each(forget_offsets),
            None => forget_offsets(&mut value),
        }
        value
    };
    without_offsets(ours) == without_offsets(theirs)
}

fn forget_offsets(value: &mut Json) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("trim_offsets");
        fields.entry("use_regex").or_insert(json!(true));
    }
}
