//! The state that a session's members agree on (parameters, outer momentum, maybe a carried aggregate) as bytes.
//! It does not hash: the BLAKE3 digest of these bytes, which members compare, is computed by the caller.
//!
//! ```text
//! 0..4  magic "SYNS"     4..8  version, u32     8..16  dimension d, u64     16..  vectors of d × f32   (all little-endian)
//!
//! version   1: parameters, momentum     2: parameters, momentum, carried     3: parameters     4: parameters, carried
//! ```
//! A vector is written if and only if there is one, so that a state has one form.

use crate::numeric::first_non_finite;

/// Parameters of the model, and the momentum of the outer step and what the rule carries where there are such: each of the
/// parameters' length or empty.
#[derive(Clone, Debug, PartialEq)]
pub struct OuterState {
    /// θ, in the order of the session's layout.
    pub parameters: Vec<f32>,
    /// m of the outer step, one value a parameter; none before the first step, or where the step keeps none.
    pub momentum: Vec<f32>,
    /// The aggregate of the round before, for a rule that starts from it: one value a parameter, or none at all.
    pub carried: Vec<f32>,
}

/// Why bytes are not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not even a header.
    #[error("state: {len} bytes are fewer than the {HEADER_LEN} of a header; fetch it again")]
    TooShort {
        /// Length found.
        len: usize,
    },
    /// Something else.
    #[error("state: the bytes do not begin with \"SYNS\"; this is no session state")]
    Magic,
    /// Written by other software.
    #[error("state: format version {found} is none of {PLAIN} to {STILL_CARRYING}; update this node")]
    Version {
        /// Version found.
        found: u32,
    },
    /// A state of another model.
    #[error("state: dimension {announced} where the session's model has {expected}; this is another session's state")]
    Dimension {
        /// Dimension found.
        announced: u64,
        /// The session's.
        expected: usize,
    },
    /// Cut off, or followed by something.
    #[error("state: {found} bytes do not fit dimension {announced}; fetch it again")]
    Length {
        /// Dimension found.
        announced: u64,
        /// Length found.
        found: usize,
    },
    /// A flag that is neither 0 nor 1.
    #[error("state: a flag of {found} is neither 0 nor 1; fetch it again")]
    Flag {
        /// Value found.
        found: u32,
    },
    /// NaN or infinity among the parameters, or in the vectors after them.
    #[error("state: value {index} is NaN or infinite; go back to an earlier checkpoint")]
    NotFinite {
        /// Its place, counted over the vectors that there are.
        index: usize,
    },
}

const MAGIC: [u8; 4] = *b"SYNS";
const PLAIN: u32 = 1;
const CARRYING: u32 = 2;
const STILL: u32 = 3;
const STILL_CARRYING: u32 = 4;
const HEADER_LEN: usize = 16;

impl OuterState {
    /// A state before the first round: these parameters, and no momentum.
    pub fn new(parameters: Vec<f32>) -> Self {
        Self {
            parameters,
            momentum: Vec::new(),
            carried: Vec::new(),
        }
    }

    /// How many parameters there are.
    pub fn dimension(&self) -> usize {
        self.parameters.len()
    }

    /// The canonical bytes.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn to_bytes(&self) -> Vec<u8> {
        let dimension = self.dimension();
        let fits = |vector: &[f32]| vector.is_empty() || vector.len() == dimension;
        assert!(fits(&self.momentum), "one momentum a parameter, or none");
        assert!(fits(&self.carried), "one carried value a parameter, or none");
        let version = match (self.momentum.is_empty(), self.carried.is_empty()) {
            (false, true) => PLAIN,
            (false, false) => CARRYING,
            (true, true) => STILL,
            (true, false) => STILL_CARRYING,
        };
        let vectors = [&self.parameters, &self.momentum, &self.carried];
        let values: usize = vectors.iter().map(|vector| vector.len()).sum();
        let mut bytes = Vec::with_capacity(HEADER_LEN + 4 * values);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&(dimension as u64).to_le_bytes());
        vectors.iter().for_each(|values| write(values, &mut bytes));
        bytes
    }

    /// Reads canonical bytes; with `expected_dimension`, only those of a model of that size. Sizes are checked before
    /// anything is allocated.
    pub fn from_bytes(bytes: &[u8], expected_dimension: Option<usize>) -> Result<Self, StateError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(StateError::TooShort { len: bytes.len() });
        };
        let [m0, m1, m2, m3, v0, v1, v2, v3, announced @ ..] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(StateError::Magic);
        }
        let found = u32::from_le_bytes([v0, v1, v2, v3]);
        let (moves, carries) = match found {
            PLAIN => (1, 0),
            CARRYING => (1, 1),
            STILL => (0, 0),
            STILL_CARRYING => (0, 1),
            _ => return Err(StateError::Version { found }),
        };
        let announced = u64::from_le_bytes(announced);
        if let Some(expected) = expected_dimension.filter(|&expected| expected as u64 != announced) {
            return Err(StateError::Dimension { announced, expected });
        }
        let vectors = 1 + moves + carries;
        let fits = announced.checked_mul(4 * vectors as u64) == Some(body.len() as u64);
        if !fits || (found != STILL && announced == 0) {
            return Err(StateError::Length {
                announced,
                found: bytes.len(),
            });
        }
        let (words, _) = body.as_chunks::<4>();
        let dimension = words.len() / vectors;
        let (parameters, rest) = words.split_at(dimension);
        let (momentum, carried) = rest.split_at(moves * dimension);
        let state = Self {
            parameters: read(parameters),
            momentum: read(momentum),
            carried: read(carried),
        };
        match state.first_non_finite() {
            Some(index) => Err(StateError::NotFinite { index }),
            None => Ok(state),
        }
    }

    /// Length of the canonical bytes of a state of `dimension` parameters with momentum that carries nothing (4 bytes a parameter
    /// more where it does, 4 fewer without momentum); saturates where it exceeds `usize`.
    pub fn encoded_len(dimension: usize) -> usize {
        dimension.saturating_mul(8).saturating_add(HEADER_LEN)
    }

    /// The place of the first NaN or infinity, counted over the vectors that there are.
    pub(crate) fn first_non_finite(&self) -> Option<usize> {
        let (to_momentum, to_carried) = (self.parameters.len(), self.parameters.len() + self.momentum.len());
        first_non_finite(&self.parameters)
            .or_else(|| first_non_finite(&self.momentum).map(|index| to_momentum + index))
            .or_else(|| first_non_finite(&self.carried).map(|index| to_carried + index))
    }
}

fn write(values: &[f32], bytes: &mut Vec<u8>) {
    match cfg!(target_endian = "little") {
        true => bytes.extend_from_slice(bytemuck::cast_slice(values)),
        false => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

fn read(words: &[[u8; 4]]) -> Vec<f32> {
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> (OuterState, Vec<u8>) {
        let state = OuterState {
            parameters: vec![1.0, -0.0],
            momentum: vec![-2.5, f32::from_bits(1)],
            carried: Vec::new(),
        };
        let mut bytes = b"SYNS\x01\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        bytes.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0x80, 0, 0, 0x20, 0xc0, 1, 0, 0, 0]);
        (state, bytes)
    }

    #[test]
    fn golden_bytes() {
        let (state, bytes) = golden();
        assert_eq!(state.to_bytes(), bytes);
        assert_eq!(OuterState::encoded_len(2), bytes.len());
        let read = OuterState::from_bytes(&bytes, Some(2)).unwrap();
        assert_eq!(read.to_bytes(), bytes);
        assert_eq!(OuterState::from_bytes(&bytes, None).unwrap(), state);
        let empty = OuterState::new(Vec::new());
        assert_eq!(OuterState::from_bytes(&empty.to_bytes(), Some(0)), Ok(empty));
    }

    #[test]
    fn what_is_carried_comes_after_the_rest_in_version_two() {
        let (mut state, mut bytes) = golden();
        state.carried = vec![0.5, 1.0];
        bytes[4] = 2;
        bytes.extend([0, 0, 0, 0x3f, 0, 0, 0x80, 0x3f]);
        assert_eq!(state.to_bytes(), bytes);
        assert_eq!(OuterState::from_bytes(&bytes, Some(2)).unwrap(), state);
        bytes[36..40].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let error = OuterState::from_bytes(&bytes, None);
        assert_eq!(error, Err(StateError::NotFinite { index: 5 }));
        let empty = b"SYNS\x02\0\0\0\0\0\0\0\0\0\0\0";
        assert!(
            OuterState::from_bytes(empty, None).is_err(),
            "nothing carried has version one"
        );
    }

    #[test]
    fn without_momentum_the_parameters_stand_alone_in_versions_three_and_four() {
        let mut state = OuterState::new(vec![1.0, -0.0]);
        let mut bytes = b"SYNS\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x80".to_vec();
        assert_eq!(state.to_bytes(), bytes);
        assert_eq!(OuterState::from_bytes(&bytes, Some(2)).unwrap(), state);
        state.carried = vec![0.5, 1.0];
        bytes[4] = 4;
        bytes.extend([0, 0, 0, 0x3f, 0, 0, 0x80, 0x3f]);
        assert_eq!(state.to_bytes(), bytes);
        assert_eq!(OuterState::from_bytes(&bytes, Some(2)).unwrap(), state);
    }

    #[test]
    fn every_damage_has_its_error() {
        let (_, bytes) = golden();
        let check = |damage: &dyn Fn(&mut Vec<u8>), expected: StateError| {
            let mut bytes = bytes.clone();
            damage(&mut bytes);
            assert_eq!(OuterState::from_bytes(&bytes, None), Err(expected));
        };
        check(&|b| b.truncate(15), StateError::TooShort { len: 15 });
        check(&|b| b[0] = b'X', StateError::Magic);
        check(&|b| b[4] = 5, StateError::Version { found: 5 });
        check(
            &|b| b[4] = 2,
            StateError::Length {
                announced: 2,
                found: 32,
            },
        );
        check(
            &|b| b.truncate(31),
            StateError::Length {
                announced: 2,
                found: 31,
            },
        );
        check(
            &|b| b.push(0),
            StateError::Length {
                announced: 2,
                found: 33,
            },
        );
        check(
            &|b| b[8..16].fill(0xff),
            StateError::Length {
                announced: u64::MAX,
                found: 32,
            },
        );
        check(
            &|b| b[24..28].copy_from_slice(&f32::NAN.to_le_bytes()),
            StateError::NotFinite { index: 2 },
        );
        assert_eq!(
            OuterState::from_bytes(&bytes, Some(3)),
            Err(StateError::Dimension {
                announced: 2,
                expected: 3
            })
        );
    }
}
