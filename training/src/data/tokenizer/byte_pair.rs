//! Byte-level BPE as of GPT-2, made for speed (`make bench-data` compares): words are cut without a regular
//! expression engine, and short words are looked up rather than merged again. It reads the `tokenizer.json` files that
//! mean just this; others are the `tokenizers` crate's.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde::Deserialize;
use serde_json::Value;

use super::words::classes;

/// See the module.
#[derive(Debug)]
pub struct BytePair {
    /// The token of each byte.
    bytes: [u32; 256],
    /// Two tokens side by side, as one number, to the merge's rank and the token they become.
    merges: HashMap<u64, (u32, u32), Fast>,
    /// What each token stands for.
    texts: Vec<Box<[u8]>>,
}

type Fast = BuildHasherDefault<Multiplier>;

/// One multiplication a number: keys are few, and nobody gains from collisions in their own data.
#[derive(Debug, Default)]
pub struct Multiplier(u64);

impl Hasher for Multiplier {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }
}

/// Words up to this length are looked up: with their length they fill sixteen bytes.
const CACHED_BYTES: usize = 15;
/// Words that a cache holds at most; more take more time to find than to merge.
const CACHED_WORDS: usize = 1 << 16;
/// Symbols from which on a heap finds the next merge sooner than a scan.
const LONG_SYMBOLS: usize = 128;

/// Words that were merged before, and room for merging. Each thread has its own.
#[derive(Debug, Default)]
pub struct WordCache {
    places: HashMap<u128, (u32, u32), Fast>,
    tokens: Vec<u32>,
    parts: Vec<Part>,
}

/// A token of a word that is being merged, and the merge with its right neighbour.
#[derive(Debug, Clone, Copy)]
struct Part {
    token: u32,
    rank: u32,
    merged: u32,
}

/// The rank of two neighbours that do not merge.
const NEVER: u32 = u32::MAX;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Joined(joined) => joined.split_once(' '),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// GPT-2's character for each byte: printable Latin-1 characters stand for themselves, the others, in order, for the
/// characters from U+0100 on.
fn character_of(byte: u8) -> char {
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match plain(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|byte| !plain(byte)).count() as u32;
            char::from_u32(0x100 + before).expect("characters from U+0100 to U+0143 exist")
        }
    }
}

impl BytePair {
    /// The tokenizer of a `tokenizer.json`, where it is byte-level BPE as of GPT-2 and nothing more.
    pub(super) fn of_json(json: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(json).ok()?;
        let model = &file.model;
        let plain = model.r#type.as_deref().unwrap_or("BPE") == "BPE"
            && model.dropout.is_none_or(|chance| chance == 0.0)
            && model.unk_token.is_none()
            && model
                .continuing_subword_prefix
                .as_deref()
                .unwrap_or_default()
                .is_empty()
            && model.end_of_word_suffix.as_deref().unwrap_or_default().is_empty()
            && !model.byte_fallback
            && !model.ignore_merges
            && file.normalizer.is_none()
            && file.added_tokens.iter().all(|token| token.special);
        let words = file.pre_tokenizer.as_ref()?;
        let cut_as_gpt2 = words.get("type")? == "ByteLevel"
            && words.get("add_prefix_space")? == false
            && words.get("use_regex").is_none_or(|regex| regex == true);
        if !(plain && cut_as_gpt2) {
            return None;
        }
        let bytes_of: HashMap<char, u8> = (0..=255).map(|byte| (character_of(byte), byte)).collect();
        let mut bytes = [0; 256];
        for (character, byte) in &bytes_of {
            bytes[usize::from(*byte)] = *model.vocab.get(&character.to_string())?;
        }
        let mut merges = HashMap::default();
        for (rank, merge) in model.merges.iter().enumerate() {
            let (left, right) = merge.pair()?;
            let token = |text: &str| model.vocab.get(text).copied();
            let merged = token(&format!("{left}{right}"))?;
            merges.insert(pair(token(left)?, token(right)?), (u32::try_from(rank).ok()?, merged));
        }
        let ids = model
            .vocab
            .values()
            .chain(file.added_tokens.iter().map(|token| &token.id));
        let size = *ids.max()? as usize + 1;
        if size > 1 << 24 {
            return None;
        }
        let mut texts = vec![Box::default(); size];
        for (text, id) in &model.vocab {
            let known: Option<Vec<u8>> = text
                .chars()
                .map(|character| bytes_of.get(&character).copied())
                .collect();
            texts[*id as usize] = known.unwrap_or_else(|| text.clone().into_bytes()).into();
        }
        for token in file.added_tokens {
            texts[token.id as usize] = token.content.into_bytes().into();
        }
        Some(Self { bytes, merges, texts })
    }

    pub(super) fn size(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        let texts = tokens.iter().filter_map(|token| self.texts.get(*token as usize));
        texts.flat_map(|text| text.iter().copied()).collect()
    }

    pub(super) fn encode(&self, text: &str, cache: &mut WordCache, out: &mut Vec<u32>) {
        let classes = classes();
        let mut at = 0;
        while at < text.len() {
            let end = classes.word_end(text, at);
            self.encode_word(&text.as_bytes()[at..end], cache, out);
            at = end;
        }
    }

    fn encode_word(&self, word: &[u8], cache: &mut WordCache, out: &mut Vec<u32>) {
        if word.len() > CACHED_BYTES {
            return match word.len() < LONG_SYMBOLS {
                true => self.merge(word, &mut cache.parts, out),
                false => self.merge_long(word, out),
            };
        }
        let mut key = [0; 16];
        key[..word.len()].copy_from_slice(word);
        key[15] = word.len() as u8;
        let key = u128::from_le_bytes(key);
        if let Some((start, count)) = cache.places.get(&key) {
            let start = *start as usize;
            out.extend_from_slice(&cache.tokens[start..start + *count as usize]);
            return;
        }
        let before = out.len();
        self.merge(word, &mut cache.parts, out);
        if cache.places.len() < CACHED_WORDS {
            let place = (cache.tokens.len() as u32, (out.len() - before) as u32);
            cache.tokens.extend_from_slice(&out[before..]);
            cache.places.insert(key, place);
        }
    }

    fn rank(&self, left: u32, right: u32) -> (u32, u32) {
        self.merges.get(&pair(left, right)).copied().unwrap_or((NEVER, 0))
    }

    /// Merges the neighbours of the least rank, the leftmost first, until none merge.
    fn merge(&self, word: &[u8], parts: &mut Vec<Part>, out: &mut Vec<u32>) {
        parts.clear();
        for (at, byte) in word.iter().enumerate() {
            let token = self.bytes[usize::from(*byte)];
            let next = word.get(at + 1).map(|byte| self.bytes[usize::from(*byte)]);
            let (rank, merged) = next.map_or((NEVER, 0), |next| self.rank(token, next));
            parts.push(Part { token, rank, merged });
        }
        while let Some((at, best)) = parts.iter().enumerate().min_by_key(|(at, part)| (part.rank, *at)) {
            if best.rank == NEVER {
                break;
            }
            parts[at].token = best.merged;
            parts.remove(at + 1);
            for left in at.saturating_sub(1)..=at {
                let next = parts.get(left + 1).map(|part| part.token);
                let (rank, merged) = next.map_or((NEVER, 0), |next| self.rank(parts[left].token, next));
                parts[left] = Part {
                    token: parts[left].token,
                    rank,
                    merged,
                };
            }
        }
        out.extend(parts.iter().map(|part| part.token));
    }

    /// The same for words of any length, in time that grows little faster than the word.
    fn merge_long(&self, word: &[u8], out: &mut Vec<u32>) {
        let mut tokens: Vec<u32> = word.iter().map(|byte| self.bytes[usize::from(*byte)]).collect();
        let count = tokens.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut last: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut gone = vec![false; count];
        let mut heap = BinaryHeap::new();
        let offer = |heap: &mut BinaryHeap<_>, tokens: &[u32], left: usize, right: usize| {
            let (rank, merged) = self.rank(tokens[left], tokens[right]);
            if rank != NEVER {
                heap.push(Reverse((rank, left, right, tokens[left], tokens[right], merged)));
            }
        };
        (1..count).for_each(|right| offer(&mut heap, &tokens, right - 1, right));
        while let Some(Reverse((_, left, right, left_token, right_token, merged))) = heap.pop() {
            let current = !gone[left] && !gone[right] && next[left] == right;
            if !current || tokens[left] != left_token || tokens[right] != right_token {
                continue;
            }
            tokens[left] = merged;
            gone[right] = true;
            next[left] = next[right];
            if let Some(after) = last.get_mut(next[left]) {
                *after = left;
                offer(&mut heap, &tokens, left, next[left]);
            }
            if last[left] < count {
                offer(&mut heap, &tokens, last[left], left);
            }
        }
        out.extend((0..count).filter(|at| !gone[*at]).map(|at| tokens[at]));
    }
}

fn pair(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::super::training::train_byte_pairs;
    use super::*;

    fn texts() -> Vec<String> {
        (0..400)
            .map(|i| {
                format!(
                    "It's {i} o'clock; we'll meet\n\n  the naïve Ελλάς {} times… {}\n",
                    i * i,
                    "ab".repeat(i)
                )
            })
            .collect()
    }

    fn both(texts: &[String]) -> (BytePair, tokenizers::Tokenizer) {
        let json = train_byte_pairs(texts.iter(), 600).unwrap();
        let own = BytePair::of_json(&json).unwrap();
        (own, tokenizers::Tokenizer::from_bytes(&json).unwrap())
    }

    #[test]
    fn training_gives_the_same_file_each_time() {
        let first = train_byte_pairs(texts().iter(), 600).unwrap();
        assert!((0..3).all(|_| train_byte_pairs(texts().iter(), 600).unwrap() == first));
        assert!(train_byte_pairs(texts().iter(), 256).is_err());
    }

    #[test]
    fn it_agrees_with_the_general_implementation_and_decodes_to_the_text() {
        let texts = texts();
        let (own, general) = both(&texts);
        let odd = [
            "",
            "\0\u{7f}\u{ff}",
            "'''ll'Ve ",
            " \t\r\n x",
            "🦀🦀 e\u{301} \u{a0}\u{2028} ½",
            &"x".repeat(5000),
        ];
        let mut cache = WordCache::default();
        for text in texts.iter().map(String::as_str).chain(odd) {
            let mut tokens = Vec::new();
            own.encode(text, &mut cache, &mut tokens);
            assert_eq!(tokens, general.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
            assert_eq!(own.decode(&tokens), text.as_bytes());
        }
    }

    #[test]
    fn a_long_word_is_merged_as_a_short_one_is() {
        let (own, _) = both(&texts());
        for word in ["abababab", "aab", "o'clock", "timestimestimes"] {
            let word = word.repeat(7);
            let (mut short, mut long) = (Vec::new(), Vec::new());
            own.merge(word.as_bytes(), &mut Vec::new(), &mut short);
            own.merge_long(word.as_bytes(), &mut long);
            assert_eq!(short, long, "{word}");
        }
    }

    #[test]
    fn files_that_mean_more_are_left_to_the_general_implementation() {
        let json = String::from_utf8(train_byte_pairs(texts().iter(), 300).unwrap()).unwrap();
        assert!(BytePair::of_json(json.as_bytes()).is_some());
        let changes = [
            (r#""add_prefix_space":false"#, r#""add_prefix_space":true"#),
            (r#""normalizer":null"#, r#""normalizer":{"type":"NFC"}"#),
            (r#""dropout":null"#, r#""dropout":0.1"#),
            (r#""special":true"#, r#""special":false"#),
        ];
        for (from, to) in changes {
            assert!(json.contains(from), "{from}");
            assert!(
                BytePair::of_json(json.replacen(from, to, 1).as_bytes()).is_none(),
                "{to}"
            );
        }
        assert!(BytePair::of_json(b"{}").is_none());
    }
}
