//! How an update becomes bytes and comes back: one file an encoding, one header for all, a decoder that trusts nothing.
//! It neither hashes nor signs, and it carries no state from update to update.
//!
//! Every encoded update is a 16-byte header and a body whose length follows from the header, all little-endian:
//!
//! ```text
//! 0..4   magic "SYNU"        4   tag: 1 f32, 2 bf16, 3 int8, 4 f16, 5 int4, 6 sign, 7 top-k, 8 chunked top-k,
//!                                     9 DCT top-k, 10 low rank, 11 random seeds          5   version, 1
//! 6..8   zero                8..16  dimension, u64
//! 16..   body (each encoding's file says which)
//! ```
//! A decoder is told the dimension, so it checks every size before it reads a value and allocates
//! nothing. It accepts one form only: a byte string that it accepts is the one that an encoder would have written for
//! the decoded values (where an encoder rounds a scale or transforms, its file says up to what), and NaN and infinities are
//! refused. Which encoding goes with which rule is said in `compatibility.rs`.

pub mod bf16;
mod bits;
pub mod chunked_top_k;
mod cosine;
pub mod dct_top_k;
pub mod f16;
pub mod f32_dense;
pub mod feedback;
mod frame;
pub mod int4;
pub mod int8;
pub mod low_rank;
pub mod random_seeds;
mod selection;
pub mod sign;
pub mod top_k;

use serde::{Deserialize, Serialize};

use crate::numeric::CHUNK;
use frame::{all_finite, assert_finite, begin, body, body_for_range, check_setting, largest_of};

pub use bf16::Bf16;
pub use chunked_top_k::ChunkedTopK;
pub use dct_top_k::DctTopK;
pub use f16::F16;
pub use f32_dense::F32Dense;
pub use feedback::{Feedback, FeedbackState};
pub use frame::{DecodeError, HEADER_LEN};
pub use int4::Int4;
pub use int8::Int8;
pub use low_rank::{LowRank, TensorShape};
pub use random_seeds::RandomSeeds;
pub use sign::Sign;
pub use top_k::TopK;

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

    /// The decoded coordinates `first .. first + len` where they lie, if the bytes hold them as this machine does. The same
    /// conditions as for [`decode_range`](Self::decode_range).
    fn in_place<'b>(&self, bytes: &'b [u8], first: usize, len: usize) -> Option<&'b [f32]> {
        let _ = (bytes, first, len);
        None
    }

    /// Writes the decoded update over `out`, whose length is the dimension that is expected.
    /// After an error, the contents of `out` are as before.
    fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
        self.validate(bytes, out.len())?;
        self.decode_range(bytes, 0, out);
        Ok(())
    }

    /// Exact length in bytes of an encoded update of `dimension` values, which never depends on the values; saturates
    /// where it exceeds `usize`.
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
    /// 16-bit IEEE floats: 2 bytes a value, relative error at most 2⁻¹¹ between 6.1e-5 and 65504.
    F16,
    /// 4-bit integers with one scale a block: ½ + 4/block bytes a value, error at most 1/14 of the block's largest value.
    Int4 {
        /// Values that share a scale, an even number. 128 costs 6 % for scales; with so few levels, a block that one
        /// outlier stretches loses all its small values, so that larger ones cost more than they save.
        #[serde(default = "default_int4_block")]
        block: u32,
    },
    /// Signs and the mean magnitude of each block: ⅛ + 4/block bytes a value. Needs error feedback.
    Sign {
        /// Values that share a scale, a multiple of 8. 256 costs 12 % for scales.
        #[serde(default = "default_block")]
        block: u32,
    },
    /// The largest values of the whole update and their places: 2 bytes and the bits of d each. Needs error feedback.
    TopK {
        /// One value in so many is kept, rounded up. 64 keeps 1.6 %, within SparseLoCo's 1 to 3 %.
        #[serde(default = "default_one_in")]
        one_in: u32,
    },
    /// The largest values of each chunk, 2 bits each, and their places. Needs error feedback.
    ChunkedTopK {
        /// Values of a chunk, a power of two from 64 to 16384. 4096 makes a place 12 bits.
        #[serde(default = "default_chunk")]
        chunk: u32,
        /// Values of a chunk that are kept. 64 of 4096 as SparseLoCo's public run: 14.5 bits each, 1/140 of f32.
        #[serde(default = "default_keep")]
        keep: u32,
    },
    /// The largest cosine coefficients of each block of 4096 values: 28 bits each. Needs error feedback.
    DctTopK {
        /// Coefficients of a block that are kept, at most 4096. 64 of 4096; DeMo's runs keep 8 to 128.
        #[serde(default = "default_keep")]
        keep: u32,
    },
    /// Matrices as products of two thin ones: 2 · rank · (rows + columns) bytes each. Needs error feedback.
    LowRank {
        /// Columns of the thin matrices, at most 64. 4 keeps a hundredth of a 1024 × 1024 matrix's bytes; PowerSGD loses
        /// nothing on its tasks at 2 to 4.
        #[serde(default = "default_rank")]
        rank: u32,
    },
    /// Random directions as seeds, with how far to go along each: 12 bytes each, whatever the dimension.
    RandomSeeds {
        /// Directions, at most 1024. 64 passes over the model decode an update.
        #[serde(default = "default_pairs")]
        pairs: u32,
    },
}

fn default_block() -> u32 {
    256
}

fn default_int4_block() -> u32 {
    128
}

fn default_one_in() -> u32 {
    64
}

fn default_chunk() -> u32 {
    4096
}

fn default_keep() -> u32 {
    64
}

fn default_rank() -> u32 {
    4
}

fn default_pairs() -> u32 {
    64
}

/// The largest block that shares a scale.
pub const MAX_BLOCK: u32 = 65_536;

/// The smallest and the largest chunk of a chunked top-k.
pub const CHUNKS: std::ops::RangeInclusive<u32> = 64..=CHUNK as u32;

/// An encoding that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// A setting is out of range.
    #[error("encoding {encoding}: {key} = {got} must lie between {least} and {most}; {good} is a good choice")]
    Range {
        /// The encoding's name.
        encoding: &'static str,
        /// The setting's name.
        key: &'static str,
        /// What was asked for.
        got: u32,
        /// The least that works.
        least: u32,
        /// The most that works.
        most: u32,
        /// A good choice.
        good: u32,
    },
    /// A block or a chunk does not end where it must.
    #[error("encoding {encoding}: {key} = {got} must be {form}; {good} is a good choice")]
    Form {
        /// The encoding's name.
        encoding: &'static str,
        /// The setting's name.
        key: &'static str,
        /// What was asked for.
        got: u32,
        /// What it must be.
        form: &'static str,
        /// A good choice.
        good: u32,
    },
}

impl EncodingConfig {
    /// The encoding's name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 { .. } => "int8",
            Self::F16 => "f16",
            Self::Int4 { .. } => "int4",
            Self::Sign { .. } => "sign",
            Self::TopK { .. } => "top_k",
            Self::ChunkedTopK { .. } => "chunked_top_k",
            Self::DctTopK { .. } => "dct_top_k",
            Self::LowRank { .. } => "low_rank",
            Self::RandomSeeds { .. } => "random_seeds",
        }
    }

    /// Whether the encoding can work. Ask when a session is created.
    pub fn check(&self) -> Result<(), EncodingError> {
        let encoding = self.name();
        let range = |key, got, least, most, good| match (least..=most).contains(&got) {
            true => Ok(()),
            false => Err(EncodingError::Range {
                encoding,
                key,
                got,
                least,
                most,
                good,
            }),
        };
        let form = |holds: bool, key, got, form, good| match holds {
            true => Ok(()),
            false => Err(EncodingError::Form {
                encoding,
                key,
                got,
                form,
                good,
            }),
        };
        match *self {
            Self::F32 | Self::Bf16 | Self::F16 => Ok(()),
            Self::Int8 { block } => range("block", block, 1, MAX_BLOCK, default_block()),
            Self::Int4 { block } => {
                range("block", block, 2, MAX_BLOCK, default_int4_block())?;
                form(block.is_multiple_of(2), "block", block, "even", default_int4_block())
            }
            Self::Sign { block } => {
                range("block", block, 8, MAX_BLOCK, default_block())?;
                form(
                    block.is_multiple_of(8),
                    "block",
                    block,
                    "a multiple of 8",
                    default_block(),
                )
            }
            Self::TopK { one_in } => range("one_in", one_in, 1, 1 << 20, default_one_in()),
            Self::ChunkedTopK { chunk, keep } => {
                range("chunk", chunk, *CHUNKS.start(), *CHUNKS.end(), default_chunk())?;
                form(
                    chunk.is_power_of_two(),
                    "chunk",
                    chunk,
                    "a power of two",
                    default_chunk(),
                )?;
                range("keep", keep, 1, chunk, chunk / 64)
            }
            Self::DctTopK { keep } => range("keep", keep, 1, 4096, default_keep()),
            Self::LowRank { rank } => range("rank", rank, 1, low_rank::MAX_RANK, default_rank()),
            Self::RandomSeeds { pairs } => range("pairs", pairs, 1, random_seeds::MAX_PAIRS, default_pairs()),
        }
    }

    /// The code behind the name, for updates of which nothing but the dimension is known. To `low_rank` all of such an
    /// update is a vector: see [`build_for`](Self::build_for).
    ///
    /// # Panics
    /// Never for a config that [`check`](Self::check) has passed.
    pub fn build(&self) -> Box<dyn Encoder> {
        self.build_for(&[])
    }

    /// The code behind the name, for updates that begin with parameters of these shapes. All members of a session must
    /// pass the same: only `low_rank` reads them, and its bytes depend on them.
    ///
    /// # Panics
    /// Never for a config that [`check`](Self::check) has passed. The encoder panics on updates shorter than the layout.
    pub fn build_for(&self, layout: &[TensorShape]) -> Box<dyn Encoder> {
        match *self {
            Self::F32 => Box::new(F32Dense),
            Self::Bf16 => Box::new(Bf16),
            Self::Int8 { block } => Box::new(Int8::new(block)),
            Self::F16 => Box::new(F16),
            Self::Int4 { block } => Box::new(Int4::new(block)),
            Self::Sign { block } => Box::new(Sign::new(block)),
            Self::TopK { one_in } => Box::new(TopK::new(one_in)),
            Self::ChunkedTopK { chunk, keep } => Box::new(ChunkedTopK::new(chunk, keep)),
            Self::DctTopK { keep } => Box::new(DctTopK::new(keep)),
            Self::LowRank { rank } => Box::new(LowRank::new(rank, layout)),
            Self::RandomSeeds { pairs } => Box::new(RandomSeeds::new(pairs)),
        }
    }
}
