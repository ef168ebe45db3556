//! From text to tokens and back: bytes, byte-level BPE by our own hand, everything else through the `tokenizers` crate.
//! It checks that a file is the session's by its hash; how the file gets to a member is not its business.
//!
//! A text cannot forge special tokens: `<|endoftext|>` written in a document is cut like any other text, so that a
//! document ends where its file says.

mod byte_pair;
mod file;
mod gpt2_files;
mod training;
mod words;

use std::path::{Path, PathBuf};

use synod_protocol::identity::BlobId;

use crate::config::{TokenizerId, Vocabulary};
use byte_pair::BytePair;
pub use byte_pair::WordCache;
pub use training::train_byte_pairs;

/// Tokenizer files larger than this are refused. The largest in use have some 30 MB.
pub const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The session needs one and none was given.
    #[error(
        "this session's vocabulary is that of a tokenizer with BLAKE3 {expected}: give its file (--tokenizer FILE)"
    )]
    Needed {
        /// The session's.
        expected: BlobId,
    },
    /// Another tokenizer.
    #[error("the tokenizer {path} has BLAKE3 {found}, but the session's has {expected}: get the session's file")]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: BlobId,
        /// The session's.
        expected: BlobId,
    },
    /// More tokens than the session says.
    #[error("the tokenizer {path} has {found} tokens, but the session's vocabulary has only {expected}")]
    TooManyTokens {
        /// The file.
        path: PathBuf,
        /// Tokens in it.
        found: usize,
        /// The session's.
        expected: usize,
    },
    /// No such file, or not readable.
    #[error("the tokenizer {path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// Not a tokenizer.
    #[error("{path} is no tokenizer: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// Cuts text into tokens and joins tokens to text. It is shared between threads; each brings its own [`WordCache`].
#[derive(Debug)]
pub enum Tokenizer {
    /// A token is a byte; byte 0 ends documents, and where a text holds it, it becomes a space.
    Byte,
    /// Byte-level BPE as of GPT-2, by our own implementation.
    BytePair(Box<BytePair>),
    /// Anything else that a `tokenizer.json` can say.
    General(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// The tokenizer of a session's vocabulary, from the file at `path` (not looked at where tokens are bytes).
    pub fn open(vocabulary: &Vocabulary, path: Option<&Path>) -> Result<Self, TokenizerError> {
        let Vocabulary::Tokenizer(session) = vocabulary else {
            return Ok(Self::Byte);
        };
        let expected = session.blake3;
        let path = path.ok_or(TokenizerError::Needed { expected })?;
        Self::read_checked(session, path).map(|(_, tokenizer)| tokenizer)
    }

    /// The bytes of the tokenizer at `path`, which is the session's: what its hash is over and what other members need.
    /// Where `path` is a folder with GPT-2's files, the `tokenizer.json` that they amount to.
    pub fn checked_bytes(session: &TokenizerId, path: &Path) -> Result<Vec<u8>, TokenizerError> {
        Self::read_checked(session, path).map(|(bytes, _)| bytes)
    }

    fn read_checked(session: &TokenizerId, path: &Path) -> Result<(Vec<u8>, Self), TokenizerError> {
        let expected = session.blake3;
        let bytes = file::read(path)?;
        let found = BlobId::of(&bytes);
        if found != expected {
            return Err(TokenizerError::WrongHash {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        let tokenizer = Self::parse(&bytes, path)?;
        match tokenizer.size() <= session.size as usize {
            true => Ok((bytes, tokenizer)),
            false => Err(TokenizerError::TooManyTokens {
                path: path.to_owned(),
                found: tokenizer.size(),
                expected: session.size as usize,
            }),
        }
    }

    /// The bytes of the tokenizer at `path`: what its hash is over and what other members need. Where `path` is a folder with
    /// GPT-2's files, the `tokenizer.json` that they amount to.
    pub fn file_bytes(path: &Path) -> Result<Vec<u8>, TokenizerError> {
        file::read(path)
    }

    /// What a session file says of the tokenizer at `path`: its hash, its size, and the token that ends documents, by
    /// name or, without one, the usual one that it has.
    pub fn identify(path: &Path, eod: Option<&str>) -> Result<TokenizerId, TokenizerError> {
        let bytes = file::read(path)?;
        let tokenizer = Self::parse(&bytes, path)?;
        let names = match &eod {
            Some(name) => std::slice::from_ref(name),
            None => file::USUAL_ENDS,
        };
        let malformed = |what| TokenizerError::Malformed {
            path: path.to_owned(),
            what,
        };
        let found = file::token_of(&bytes, names)
            .ok_or_else(|| malformed(format!("it has no token {}", names.join(" or "))))?;
        Ok(TokenizerId {
            blake3: BlobId::of(&bytes),
            size: tokenizer.size() as u32,
            eod: found,
        })
    }

    /// What a token is called in the bytes of a `tokenizer.json`.
    pub fn name_of(bytes: &[u8], token: u32) -> Option<String> {
        file::name_of(bytes, token)
    }

    /// Reads the bytes of a `tokenizer.json`.
    fn parse(bytes: &[u8], path: &Path) -> Result<Self, TokenizerError> {
        if let Some(own) = BytePair::of_json(bytes) {
            return Ok(Self::BytePair(Box::new(own)));
        }
        let mut general = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| TokenizerError::Malformed {
            path: path.to_owned(),
            what: error.to_string(),
        })?;
        general.set_encode_special_tokens(true);
        Ok(Self::General(Box::new(general)))
    }

    /// Tokens: one more than the greatest id.
    pub fn size(&self) -> usize {
        match self {
            Self::Byte => 256,
            Self::BytePair(own) => own.size(),
            Self::General(general) => {
                let ids = general.get_vocab(true).into_values();
                ids.max().map_or(0, |id| id as usize + 1)
            }
        }
    }

    /// Adds the tokens of a text to `out`.
    pub fn encode(&self, text: &str, cache: &mut WordCache, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        match self {
            Self::Byte => out.extend(text.bytes().map(|byte| u32::from(if byte == 0 { b' ' } else { byte }))),
            Self::BytePair(own) => own.encode(text, cache, out),
            Self::General(general) => {
                let encoding = general.encode_fast(text, false);
                let encoding = encoding.map_err(|error| TokenizerError::Failed(error.to_string()))?;
                out.extend_from_slice(encoding.get_ids());
            }
        }
        Ok(())
    }

    /// The bytes that tokens stand for; ids that there are not, stand for nothing.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>, TokenizerError> {
        match self {
            Self::Byte => Ok(tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect()),
            Self::BytePair(own) => Ok(own.decode(tokens)),
            Self::General(general) => {
                let text = general.decode(tokens, false);
                text.map(String::into_bytes)
                    .map_err(|error| TokenizerError::Failed(error.to_string()))
            }
        }
    }
}
