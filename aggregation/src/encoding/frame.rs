//! What all encodings share: the header, the errors of decoders, the checks that each begins with.
//! It knows no encoding's body.

use crate::numeric::CHUNK;

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
    /// Another block length, or count of what is kept, than the session's.
    #[error("a block length or count of {found} found where the session uses {expected}")]
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
    /// A scale that no encoder writes: negative, subnormal, too large, or not a number.
    #[error("the scale of block {block} is not one that an encoder writes")]
    Scale {
        /// Index of the block.
        block: usize,
    },
    /// A block (or, where the encoding has none, an entry) that no encoder writes.
    #[error("block {block} is not in canonical form")]
    NotCanonical {
        /// Index of the block.
        block: usize,
    },
    /// A place beyond the values that it may point to, or not above the one before it.
    #[error("the place of entry {entry} is out of range or not above the one before it")]
    Place {
        /// Index of the entry (within its block).
        entry: usize,
    },
    /// Bits that fill up a byte are not zero.
    #[error("bits that only fill up a byte are not zero")]
    Padding,
}

/// Bytes before the body.
pub const HEADER_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"SYNU";
const VERSION: u8 = 1;

/// Empties `out` and writes a header to it, with room for the whole update.
pub(super) fn begin(out: &mut Vec<u8>, tag: u8, dimension: usize, total: usize) {
    out.clear();
    out.reserve_exact(total);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[tag, VERSION, 0, 0]);
    out.extend_from_slice(&(dimension as u64).to_le_bytes());
}

/// Checks header and total length; returns the body.
pub(super) fn body(bytes: &[u8], tag: u8, dimension: usize, total: usize) -> Result<&[u8], DecodeError> {
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
pub(super) fn body_for_range(bytes: &[u8], first: usize, len: usize) -> (&[u8], usize) {
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

/// The largest magnitude of finite values.
pub(super) fn largest_of(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |largest, value| {
        let magnitude = value.abs();
        if magnitude > largest { magnitude } else { largest }
    })
}

/// Splits a block length or a count off a body and checks that it is the session's.
pub(super) fn check_setting(body: &[u8], expected: u32) -> Result<&[u8], DecodeError> {
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
pub(super) fn all_finite<const N: usize>(words: &[[u8; N]], bad: impl Fn([u8; N]) -> bool) -> Result<(), DecodeError> {
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
pub(super) fn assert_finite(values: &[f32]) {
    if let Some(index) = crate::numeric::first_non_finite(values) {
        panic!("value {index} of the update to encode is NaN or infinite");
    }
}
