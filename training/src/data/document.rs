//! A document on its way from a file to tokens: its content, what is known about it, and the hash that decides its side
//! of the split. It does not know where it was read.

use std::collections::BTreeMap;

/// What is known about a document: source, id, date, url, licence, or whatever its file says of it.
pub type Metadata = BTreeMap<String, String>;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its text or tokens.
    pub content: Content,
    /// What is known about it.
    pub metadata: Metadata,
    /// Whether it goes on where the document before it ended: a piece of a long plain text. No end-of-document token is
    /// put between the two.
    pub continues: bool,
}

/// What a document consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text, to be cut into tokens.
    Text(String),
    /// Tokens of the session's vocabulary, cut elsewhere; without an end-of-document token.
    Tokens(Vec<u32>),
}

impl Content {
    /// Bytes of text, or tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => tokens.len(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that depends on the content alone, uniform in 0..2³²: the first bytes of its BLAKE3. The same text has the
    /// same mark at every institution; a text and its tokens have different ones.
    pub fn mark(&self) -> u32 {
        let hash = match self {
            Self::Text(text) => blake3::hash(text.as_bytes()),
            Self::Tokens(tokens) => {
                let mut hasher = blake3::Hasher::new();
                tokens.iter().for_each(|token| {
                    hasher.update(&token.to_le_bytes());
                });
                hasher.finalize()
            }
        };
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

impl Document {
    /// A whole document of text.
    pub fn text(text: String, metadata: Metadata) -> Self {
        Self {
            content: Content::Text(text),
            metadata,
            continues: false,
        }
    }
}
