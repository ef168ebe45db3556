//! Streaming DiLoCo: the model is settled a fragment at a time, in turn, while training goes on (Douillard et al. 2025,
//! "Streaming DiLoCo with overlapping communication", §2). It trains nothing and sends nothing; it says what is due when.
//!
//! A round has H local steps and settles one fragment: round t the fragment t mod F, so that a fragment is settled every
//! F · H steps. With θ the agreed parameters, x a replica's own, τ the delay, α the mixing, all on the round's fragment:
//!
//! ```text
//! after H − τ steps   g_i = θ − x_i is taken and sent
//! after H steps       θ ← outer step with the aggregate of the g_i;   x ← (1 − α) θ + α x
//! ```
//! τ = 0, α = 0, F = 1 is DiLoCo. τ hides the sending behind τ steps, whose progress α keeps in part. What members agree on is
//! [`StreamedState`]; what each has of its own is [`Replica`]. Both have one form as bytes, for restarts and for who joins.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::OuterConfig;
use crate::numeric::first_non_finite;
use crate::state::{OuterState, StateError};

/// How a session settles its model in fragments. The default is to settle it whole.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct StreamingConfig {
    /// F, fragments of equal size. Each round sends 1/F of the model; the paper's models have one for every three layers.
    pub fragments: u32,
    /// τ, local steps between taking the pseudo-gradient and applying the aggregate; less than a round's.
    pub delay_steps: u32,
    /// α, how much of a replica's own parameters stays. 0 takes the agreed ones, as without delay; the paper finds ½ best with
    /// a delay.
    pub mixing: f32,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            fragments: 1,
            delay_steps: 0,
            mixing: 0.0,
        }
    }
}

/// The most fragments: beyond, the header of an update outweighs what it saves.
pub const MAX_FRAGMENTS: u32 = 4096;

/// Streaming that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StreamingError {
    /// No fragment, too many, or more than parameters.
    #[error("streaming: fragments = {got} must lie between 1 and {most}")]
    Fragments {
        /// What was asked for.
        got: u32,
        /// The most for this model.
        most: u32,
    },
    /// The aggregate would be due after the next pseudo-gradient was taken.
    #[error("streaming: delay_steps = {got} must be less than the {local_steps} local steps of a round")]
    Delay {
        /// What was asked for.
        got: u32,
        /// Local steps a round.
        local_steps: u32,
    },
    /// The mixing is not in [0, 1].
    #[error("streaming: mixing = {got} must lie between 0 and 1; 0.5 is a good choice with a delay, 0 without")]
    Mixing {
        /// What was asked for.
        got: f32,
    },
}

impl StreamingConfig {
    /// Whether the settings make sense for a model and a round. Ask when a session is created.
    pub fn check(&self, dimension: usize, local_steps: u32) -> Result<(), StreamingError> {
        let most = u32::try_from(dimension).unwrap_or(MAX_FRAGMENTS).min(MAX_FRAGMENTS);
        if !(1..=most).contains(&self.fragments) {
            return Err(StreamingError::Fragments {
                got: self.fragments,
                most,
            });
        }
        if self.delay_steps >= local_steps {
            return Err(StreamingError::Delay {
                got: self.delay_steps,
                local_steps,
            });
        }
        if !(0.0..=1.0).contains(&self.mixing) {
            return Err(StreamingError::Mixing { got: self.mixing });
        }
        Ok(())
    }

    /// The fragments of a model.
    pub fn fragments(&self, dimension: usize) -> Fragments {
        Fragments {
            dimension,
            count: self.fragments as usize,
        }
    }
}

/// A model cut into fragments whose lengths differ by one at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    dimension: usize,
    count: usize,
}

impl Fragments {
    /// The coordinates that round `round` settles.
    pub fn of_round(&self, round: u64) -> Range<usize> {
        let fragment = (round % self.count as u64) as usize;
        self.cut(fragment)..self.cut(fragment + 1)
    }

    fn cut(&self, fragment: usize) -> usize {
        // The first `rest` fragments have one value more.
        let (each, rest) = (self.dimension / self.count, self.dimension % self.count);
        fragment * each + fragment.min(rest)
    }
}

/// What members agree on between rounds.
///
/// ```text
/// 0..4  magic "SYNF"     4..8  version, u32 = 1     8..16  rounds settled, u64     16..  the outer state's bytes
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct StreamedState {
    /// Parameters and momentum of all fragments.
    pub outer: OuterState,
    /// Rounds settled; the number of the round that is settled next.
    pub round: u64,
}

const STATE_MAGIC: [u8; 4] = *b"SYNF";
const REPLICA_MAGIC: [u8; 4] = *b"SYNL";
const VERSION: u32 = 1;

impl StreamedState {
    /// The state before the first round.
    pub fn new(parameters: Vec<f32>) -> Self {
        Self {
            outer: OuterState {
                momentum: vec![0.0; parameters.len()],
                ..OuterState::new(parameters)
            },
            round: 0,
        }
    }

    /// Settles the round: takes the outer step on its fragment, of which `aggregate` is the pseudo-gradient.
    ///
    /// # Panics
    /// When the aggregate has not the fragment's length.
    pub fn settle(&mut self, config: &OuterConfig, fragments: &Fragments, aggregate: &[f32]) {
        let range = fragments.of_round(self.round);
        let OuterState {
            parameters, momentum, ..
        } = &mut self.outer;
        config.step(&mut parameters[range.clone()], &mut momentum[range], aggregate);
        self.round += 1;
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = STATE_MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.round.to_le_bytes());
        bytes.extend(self.outer.to_bytes());
        bytes
    }

    /// Reads canonical bytes of a model of `dimension` parameters. Sizes are checked before anything is allocated.
    pub fn from_bytes(bytes: &[u8], dimension: usize) -> Result<Self, StateError> {
        let (round, rest) = read_header(bytes, STATE_MAGIC)?;
        Ok(Self {
            outer: OuterState::from_bytes(rest, Some(dimension))?,
            round,
        })
    }
}

/// What a replica has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A local step, then [`Replica::stepped`].
    Step,
    /// To send the pseudo-gradient of [`Replica::send`].
    Send,
    /// To wait until the round is settled, then [`Replica::merge`], or [`Replica::discard`] where it failed.
    Merge,
}

/// A member's own parameters, and where it is in its round.
///
/// ```text
/// 0..4  magic "SYNL"     4..8  version, u32 = 1     8..12  steps taken, u32     12..16  sent, u32: 0 or 1
/// 16..24  dimension d, u64     24..  parameters, d × f32        (all little-endian)
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// x, which local steps change.
    pub parameters: Vec<f32>,
    steps: u32,
    sent: bool,
}

impl Replica {
    /// A replica at the start of a round, at the agreed parameters.
    pub fn new(state: &StreamedState) -> Self {
        Self {
            parameters: state.outer.parameters.clone(),
            steps: 0,
            sent: false,
        }
    }

    /// What is due in a round of `local_steps`.
    pub fn due(&self, config: &StreamingConfig, local_steps: u32) -> Due {
        if !self.sent && self.steps >= local_steps.saturating_sub(config.delay_steps) {
            Due::Send
        } else if self.steps >= local_steps {
            Due::Merge
        } else {
            Due::Step
        }
    }

    /// Counts a local step.
    pub fn stepped(&mut self) {
        self.steps += 1;
    }

    /// θ − x on the round's fragment.
    pub fn send(&mut self, state: &StreamedState, fragments: &Fragments) -> Vec<f32> {
        self.sent = true;
        let range = fragments.of_round(state.round);
        let agreed = state.outer.parameters[range.clone()].iter();
        agreed
            .zip(&self.parameters[range])
            .map(|(theta, x)| theta - x)
            .collect()
    }

    /// Ends the round that `state` has just settled: x ← (1 − α) θ + α x on its fragment.
    ///
    /// # Panics
    /// When no round is settled.
    pub fn merge(&mut self, config: &StreamingConfig, state: &StreamedState, fragments: &Fragments) {
        assert!(state.round > 0, "a round is settled before replicas merge");
        let range = fragments.of_round(state.round - 1);
        let agreed = &state.outer.parameters[range.clone()];
        for (x, &theta) in self.parameters[range].iter_mut().zip(agreed) {
            *x = mix(theta, *x, config.mixing);
        }
        (self.steps, self.sent) = (0, false);
    }

    /// Gives the round up: the fragment goes back to the agreed parameters, and the same round begins again. The work on it
    /// since it was last settled is lost; the other fragments keep theirs.
    pub fn discard(&mut self, state: &StreamedState, fragments: &Fragments) {
        let range = fragments.of_round(state.round);
        self.parameters[range.clone()].copy_from_slice(&state.outer.parameters[range]);
        (self.steps, self.sent) = (0, false);
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = REPLICA_MAGIC.to_vec();
        for word in [VERSION, self.steps, u32::from(self.sent)] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.parameters.len() as u64).to_le_bytes());
        bytes.extend(self.parameters.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// Reads canonical bytes of a model of `dimension` parameters. Sizes are checked before anything is allocated.
    pub fn from_bytes(bytes: &[u8], dimension: usize) -> Result<Self, StateError> {
        let (place, rest) = read_header(bytes, REPLICA_MAGIC)?;
        let (steps, sent) = (place as u32, (place >> 32) as u32);
        let Some((announced, values)) = rest.split_first_chunk::<8>() else {
            return Err(StateError::TooShort { len: bytes.len() });
        };
        let announced = u64::from_le_bytes(*announced);
        if announced != dimension as u64 {
            return Err(StateError::Dimension {
                announced,
                expected: dimension,
            });
        }
        if announced.checked_mul(4) != Some(values.len() as u64) {
            return Err(StateError::Length {
                announced,
                found: bytes.len(),
            });
        }
        if sent > 1 {
            return Err(StateError::Flag { found: sent });
        }
        let (words, _) = values.as_chunks::<4>();
        let parameters: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        match first_non_finite(&parameters) {
            Some(index) => Err(StateError::NotFinite { index }),
            None => Ok(Self {
                parameters,
                steps,
                sent: sent == 1,
            }),
        }
    }
}

/// Checks magic and version; returns the eight bytes after them, and the rest.
fn read_header(bytes: &[u8], magic: [u8; 4]) -> Result<(u64, &[u8]), StateError> {
    let Some((header, rest)) = bytes.split_first_chunk::<16>() else {
        return Err(StateError::TooShort { len: bytes.len() });
    };
    let [m0, m1, m2, m3, v0, v1, v2, v3, word @ ..] = *header;
    if [m0, m1, m2, m3] != magic {
        return Err(StateError::Magic);
    }
    let found = u32::from_le_bytes([v0, v1, v2, v3]);
    if found != VERSION {
        return Err(StateError::Version { found });
    }
    Ok((u64::from_le_bytes(word), rest))
}

/// (1 − α) θ + α x, from the nearer end, so that α = 0 gives θ and α = 1 gives x to the bit.
fn mix(theta: f32, x: f32, alpha: f32) -> f32 {
    let difference = x - theta;
    if alpha < 0.5 {
        theta + alpha * difference
    } else {
        x - (1.0 - alpha) * difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_cover_the_model_once_and_take_turns() {
        for (dimension, fragments) in [(10, 1), (10, 3), (11, 4), (3, 3), (4097, 64)] {
            let config = StreamingConfig {
                fragments,
                ..StreamingConfig::default()
            };
            assert_eq!(config.check(dimension, 1), Ok(()));
            let cut = config.fragments(dimension);
            let mut covered = 0;
            for round in 0..u64::from(fragments) {
                let range = cut.of_round(round);
                assert_eq!(range.start, covered);
                assert!(range.len() - dimension / fragments as usize <= 1);
                assert_eq!(range, cut.of_round(round + 5 * u64::from(fragments)));
                covered = range.end;
            }
            assert_eq!(covered, dimension);
        }
    }

    #[test]
    fn senseless_settings_are_refused() {
        let check = |fragments, delay_steps, mixing| {
            StreamingConfig {
                fragments,
                delay_steps,
                mixing,
            }
            .check(10, 4)
        };
        assert_eq!(check(10, 3, 1.0), Ok(()));
        assert_eq!(check(0, 0, 0.0), Err(StreamingError::Fragments { got: 0, most: 10 }));
        assert_eq!(check(11, 0, 0.0), Err(StreamingError::Fragments { got: 11, most: 10 }));
        let late = StreamingError::Delay { got: 4, local_steps: 4 };
        assert_eq!(check(1, 4, 0.0), Err(late));
        for mixing in [-0.1, 1.1, f32::NAN] {
            assert!(check(1, 0, mixing).is_err());
        }
    }

    #[test]
    fn mixing_is_exact_at_both_ends() {
        for (theta, x) in [(0.1, 0.7), (1e30, -1e-30), (-3.0, 1.0 / 3.0)] {
            assert_eq!(mix(theta, x, 0.0), theta);
            assert_eq!(mix(theta, x, 1.0), x);
        }
        assert_eq!(mix(1.0, 3.0, 0.25), 1.5);
        assert_eq!(mix(1.0, 3.0, 0.75), 2.5);
    }

    #[test]
    fn states_have_one_form_as_bytes_and_damage_is_refused() {
        let mut state = StreamedState::new(vec![1.0, -2.0, 3.0]);
        state.settle(
            &OuterConfig::DILOCO,
            &StreamingConfig::default().fragments(3),
            &[0.5; 3],
        );
        let bytes = state.to_bytes();
        assert_eq!(bytes[..16], *b"SYNF\x01\0\0\0\x01\0\0\0\0\0\0\0");
        assert_eq!(StreamedState::from_bytes(&bytes, 3), Ok(state.clone()));
        assert!(StreamedState::from_bytes(&bytes, 4).is_err());
        let mut replica = Replica::new(&state);
        replica.stepped();
        replica.send(&state, &StreamingConfig::default().fragments(3));
        let kept = replica.to_bytes();
        assert_eq!(kept[..24], *b"SYNL\x01\0\0\0\x01\0\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0");
        assert_eq!(Replica::from_bytes(&kept, 3), Ok(replica));
        for cut in 0..kept.len() {
            assert!(Replica::from_bytes(&kept[..cut], 3).is_err(), "{cut}");
        }
        for cut in 0..bytes.len() {
            assert!(StreamedState::from_bytes(&bytes[..cut], 3).is_err(), "{cut}");
        }
        let check = |at: usize, with: &[u8], expected: StateError| {
            let mut kept = kept.clone();
            kept[at..at + with.len()].copy_from_slice(with);
            assert_eq!(Replica::from_bytes(&kept, 3), Err(expected));
        };
        check(0, b"X", StateError::Magic);
        check(4, &[2], StateError::Version { found: 2 });
        check(12, &[2], StateError::Flag { found: 2 });
        check(28, &f32::NAN.to_le_bytes(), StateError::NotFinite { index: 1 });
        let announced = u64::MAX;
        check(16, &[0xff; 8], StateError::Dimension { announced, expected: 3 });
    }
}
