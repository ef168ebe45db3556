//! How an update becomes bytes and comes back: one file an encoding, one header for all, a decoder that trusts nothing.
//! It neither hashes nor signs, and it carries no state from update to update.
//!
//! Every encoded update is a 16-byte header and a body whose length follows from the header, all little-endian:
//!
//! ```text
//! 0..4   magic "SYNU"        4   tag: 1 f32, 2 bf16, 3 int8     5   version, 1
//! 6..8   zero                8..16  dimension, u64
//! 16..   body (each encoding's file says which)
//! ```
//! A decoder knows the dimension from its output slice, so it checks every size before it reads a value and allocates
//! nothing. It accepts one form only: a byte string that it accepts is the one that an encoder would have written for
//! the decoded values (for int8: up to the rounding of a scale), and NaN and infinities are refused.

pub mod bf16;
pub mod f32_dense;
pub mod int8;

use serde::{Deserialize, Serialize};

use crate::numeric::CHUNK;

pub use bf16::Bf16;
pub use f32_dense::F32Dense;
pub use int8::Int8;

/// An encoding: finite values to bytes and back.
pub trait Encoder: Send + Sync {
    /// Replaces the contents of `out` by the encoded update.
    ///
    /// # Panics
    /// When a value is NaN or infinite: a trainer must notice that its step diverged before it encodes the result.
    fn encode(&self, values: &[f32], out: &mut Vec<u8>);

    /// Whether `bytes` are an encoded update of `dimension` values, checked completely: header, lengths, canonical form,
    /// and that every decoded value is finite. It reads the bytes once, in an order that follows from `dimension` alone,
    /// and allocates nothing in proportion to a size that the bytes announce.
    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError>;

    /// Writes the decoded coordinates `first .. first + out.len()` over `out`. `first` is a multiple of
    /// [`CHUNK`](crate::numeric::CHUNK), `bytes` are what [`validate`](Self::validate) accepted. Ranges decode
    /// independently of each other: any cut of an update at such places gives the same values.
    ///
    /// # Panics
    /// When the range is not one of the update's. Bytes that were not validated give a panic or values without meaning.
    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]);

    /// Writes the decoded update over `out`, whose length is the dimension that is expected.
    /// After an error, the contents of `out` are as before.
    fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
        self.validate(bytes, out.len())?;
        self.decode_range(bytes, 0, out);
        Ok(())
    }

    /// Exact length in bytes of an encoded update of `dimension` values; saturates where it exceeds `usize`.
    fn encoded_len(&self, dimension: usize) -> usize;
}

/// Which encoding a session sends updates in. Its canonical bytes are part of the session's identity: variants are
/// only ever appended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EncodingConfig {
    /// 32-bit floats: 4 bytes a value, exact.
    F32,
    /// 16-bit brain floats: 2 bytes a value, relative error at most 2⁻⁸.
    Bf16,
    /// 8-bit integers with one scale a block: 1 + 4/block bytes a value, error at most 1/254 of the block's largest value.
    Int8 {
        /// Values that share a scale. 256 costs 1.6 % for scales; smaller blocks follow outliers better.
        #[serde(default = "default_block")]
        block: u32,
    },
}

fn default_block() -> u32 {
    256
}

/// The largest block of an int8 encoding.
pub const MAX_BLOCK: u32 = 65_536;

/// An encoding that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The block length is out of range.
    #[error("encoding int8: block = {got} must lie between 1 and {MAX_BLOCK}; 256 is a good choice")]
    Block {
        /// What was asked for.
        got: u32,
    },
}

impl EncodingConfig {
    /// The encoding's name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 { .. } => "int8",
        }
    }

    /// Whether the encoding can work. Ask when a session is created.
    pub fn check(&self) -> Result<(), EncodingError> {
        match *self {
            Self::Int8 { block } if !(1..=MAX_BLOCK).contains(&block) => Err(EncodingError::Block { got: block }),
            Self::F32 | Self::Bf16 | Self::Int8 { .. } => Ok(()),
        }
    }

    /// The code behind the name.
    ///
    /// # Panics
    /// Never for a config that [`check`](Self::check) has passed.
    pub fn build(&self) -> Box<dyn Encoder> {
        match *self {
            Self::F32 => Box::new(F32Dense),
            Self::Bf16 => Box::new(Bf16),
            Self::Int8 { block } => Box::new(Int8::new(block)),
        }
    }
}

/// Why bytes are not an update. A peer's fault, never ours; two nodes that decode the same bytes get the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not even a header.
    #[error("{len} bytes are fewer than the {HEADER_LEN} of a header")]
    TooShort {
        /// Length of the payload.
        len: usize,
    },
    /// Not an update at all.
    #[error("the payload does not begin with \"SYNU\"")]
    Magic,
    /// Another encoding than the session's.
    #[error("encoding tag {found} found where the session uses {expected}")]
    Tag {
        /// The session's.
        expected: u8,
        /// The payload's.
        found: u8,
    },
    /// A later (or no) version of the format.
    #[error("format version {found} is not {VERSION}; the sender runs other software")]
    Version {
        /// The payload's.
        found: u8,
    },
    /// Bytes that must be zero are not.
    #[error("the reserved bytes of the header are not zero")]
    Reserved,
    /// An update of another model.
    #[error("dimension {announced} announced where the model has {expected}")]
    Dimension {
        /// The payload's.
        announced: u64,
        /// The model's.
        expected: usize,
    },
    /// Cut off, or followed by something.
    #[error("{found} bytes where an update of this dimension has {expected}")]
    Length {
        /// Exact length.
        expected: usize,
        /// The payload's.
        found: usize,
    },
    /// Another block length than the session's.
    #[error("int8 block length {found} found where the session uses {expected}")]
    Block {
        /// The session's.
        expected: u32,
        /// The payload's.
        found: u32,
    },
    /// NaN or infinity.
    #[error("value {index} is NaN or infinite")]
    NotFinite {
        /// Its coordinate.
        index: usize,
    },
    /// An int8 scale that no encoder writes: negative, subnormal, too large, or not a number.
    #[error("the scale of int8 block {block} is not one that an encoder writes")]
    Scale {
        /// Index of the block.
        block: usize,
    },
    /// An int8 block that no encoder writes: a −128, or a largest magnitude other than 127 (0 under a zero scale).
    #[error("int8 block {block} is not in canonical form")]
    NotCanonical {
        /// Index of the block.
        block: usize,
    },
}

/// Bytes before the body.
pub const HEADER_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"SYNU";
const VERSION: u8 = 1;

/// Empties `out` and writes a header to it, with room for the whole update.
fn begin(out: &mut Vec<u8>, tag: u8, dimension: usize, total: usize) {
    out.clear();
    out.reserve_exact(total);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[tag, VERSION, 0, 0]);
    out.extend_from_slice(&(dimension as u64).to_le_bytes());
}

/// Checks header and total length; returns the body.
fn body(bytes: &[u8], tag: u8, dimension: usize, total: usize) -> Result<&[u8], DecodeError> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::TooShort { len: bytes.len() });
    };
    let [m0, m1, m2, m3, found_tag, version, r0, r1, announced @ ..] = *header;
    let announced = u64::from_le_bytes(announced);
    if [m0, m1, m2, m3] != MAGIC {
        return Err(DecodeError::Magic);
    }
    if found_tag != tag {
        return Err(DecodeError::Tag {
            expected: tag,
            found: found_tag,
        });
    }
    if version != VERSION {
        return Err(DecodeError::Version { found: version });
    }
    if [r0, r1] != [0, 0] {
        return Err(DecodeError::Reserved);
    }
    if announced != dimension as u64 {
        return Err(DecodeError::Dimension {
            announced,
            expected: dimension,
        });
    }
    if bytes.len() != total {
        return Err(DecodeError::Length {
            expected: total,
            found: bytes.len(),
        });
    }
    Ok(body)
}

/// The body of a validated update, and its dimension, for a range that lies in it.
///
/// # Panics
/// When `first` is no multiple of [`CHUNK`] or the range ends beyond the dimension.
fn body_for_range(bytes: &[u8], first: usize, len: usize) -> (&[u8], usize) {
    let (header, body) = bytes.split_at(HEADER_LEN);
    let announced = header[8..].first_chunk().expect("a header ends with a u64");
    let dimension = usize::try_from(u64::from_le_bytes(*announced)).expect("a validated dimension is a length");
    assert!(
        first.is_multiple_of(CHUNK),
        "a range begins at a multiple of {CHUNK}, not at {first}"
    );
    assert!(
        first.checked_add(len).is_some_and(|end| end <= dimension),
        "the range {first} + {len} ends beyond the dimension {dimension}"
    );
    (body, dimension)
}

/// Splits the block length off a body and checks that it is the session's.
fn check_block(body: &[u8], expected: u32) -> Result<&[u8], DecodeError> {
    let Some((block, rest)) = body.split_first_chunk::<4>() else {
        return Err(DecodeError::TooShort {
            len: body.len() + HEADER_LEN,
        });
    };
    let found = u32::from_le_bytes(*block);
    if found != expected {
        return Err(DecodeError::Block { expected, found });
    }
    Ok(rest)
}

/// Checks that no word is a NaN or an infinity, which `bad` recognises. Works on pieces without a branch inside, so that
/// it vectorises.
fn all_finite<const N: usize>(words: &[[u8; N]], bad: impl Fn([u8; N]) -> bool) -> Result<(), DecodeError> {
    for (piece, part) in words.chunks(CHUNK).enumerate() {
        if part.iter().fold(false, |any, &word| any | bad(word)) {
            let within = part.iter().position(|&word| bad(word)).unwrap_or_default();
            return Err(DecodeError::NotFinite {
                index: piece * CHUNK + within,
            });
        }
    }
    Ok(())
}

/// Asserts the contract of [`Encoder::encode`].
fn assert_finite(values: &[f32]) {
    if let Some(index) = crate::numeric::first_non_finite(values) {
        panic!("value {index} of the update to encode is NaN or infinite");
    }
}
