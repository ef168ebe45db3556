//! An optimizer's state and its canonical bytes: a version, a digest of what it belongs to, counts, numbers.
//! It does not know what the buffers mean; their sizes come from the optimizer and the layout, never from the bytes.

use crate::layout::Layout;

/// Why bytes are no state of this optimizer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Too short, too long.
    #[error(
        "the optimizer state has {got} bytes but this optimizer and layout need {expected}: is it of another model or optimizer?"
    )]
    Length {
        /// Bytes that were given.
        got: usize,
        /// Bytes that this optimizer and layout need.
        expected: usize,
    },
    /// Not of this version.
    #[error("the optimizer state is not of version {VERSION}: begin with a fresh state")]
    Version,
    /// Of another optimizer, other numbers or another layout.
    #[error(
        "the optimizer state belongs to another optimizer configuration or another layout: begin with a fresh state"
    )]
    Foreign,
}

/// The version of the bytes.
const VERSION: u32 = 1;
/// Version, digest, count, two numbers.
const HEADER: usize = 4 + 32 + 8 + 16;

/// What an optimizer remembers between steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// Steps taken.
    pub count: u64,
    /// Two numbers of the rule's own.
    pub numbers: [f64; 2],
    /// Buffers of each tensor, in the layout's order.
    pub tensors: Vec<Vec<Vec<f32>>>,
}

impl State {
    /// A state that has seen no gradient; `sizes` are the lengths of each tensor's buffers.
    pub fn new(sizes: &[Vec<usize>]) -> Self {
        Self {
            count: 0,
            numbers: [0.0; 2],
            tensors: sizes
                .iter()
                .map(|sizes| sizes.iter().map(|len| vec![0.0; *len]).collect())
                .collect(),
        }
    }

    /// The canonical bytes: everything little-endian, buffers in the layout's order.
    pub fn to_bytes(&self, owner: &[u8; 32]) -> Vec<u8> {
        let numbers = self.tensors.iter().flatten().map(Vec::len).sum::<usize>();
        let mut bytes = Vec::with_capacity(HEADER + 4 * numbers);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(owner);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        self.numbers
            .iter()
            .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        for value in self.tensors.iter().flatten().flatten() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Bytes of a state with buffers of these lengths.
    pub fn encoded_len(sizes: &[Vec<usize>]) -> usize {
        HEADER + 4 * sizes.iter().flatten().sum::<usize>()
    }

    /// Refuses bytes of another length, version or owner. Nothing is allocated.
    pub fn check(owner: &[u8; 32], sizes: &[Vec<usize>], bytes: &[u8]) -> Result<(), StateError> {
        let (got, expected) = (bytes.len(), Self::encoded_len(sizes));
        if got != expected {
            return Err(StateError::Length { got, expected });
        }
        if bytes[..4] != VERSION.to_le_bytes() {
            return Err(StateError::Version);
        }
        match bytes[4..36] == owner[..] {
            true => Ok(()),
            false => Err(StateError::Foreign),
        }
    }

    /// The state behind canonical bytes. The length is compared before anything is allocated.
    pub fn from_bytes(owner: &[u8; 32], sizes: &[Vec<usize>], bytes: &[u8]) -> Result<Self, StateError> {
        Self::check(owner, sizes, bytes)?;
        let (header, mut values) = bytes.split_at(HEADER);
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&header[at..at + 8]);
            eight
        };
        let mut take = |len: usize| {
            let (mine, rest) = values.split_at(4 * len);
            values = rest;
            mine.chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect()
        };
        Ok(Self {
            count: u64::from_le_bytes(number(36)),
            numbers: [f64::from_le_bytes(number(44)), f64::from_le_bytes(number(52))],
            tensors: sizes
                .iter()
                .map(|sizes| sizes.iter().map(|len| take(*len)).collect())
                .collect(),
        })
    }
}

/// Digest of what a state belongs to: the optimizer's configuration and the layout.
pub(super) fn owner(config: &[u8], layout: &Layout) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("synod optimizer state v1");
    hasher.update(&(config.len() as u64).to_le_bytes());
    hasher.update(config);
    hasher.update(&layout.digest());
    *hasher.finalize().as_bytes()
}
