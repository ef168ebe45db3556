//! What an encoding leaves out of an update, kept for the next one: pure state, with which lossy encodings converge.
//! It sends nothing and decides nothing; whoever trains keeps it beside the optimizer's state.
//!
//! *Residual* (Seide et al. 2014; Karimireddy et al. 2019, "Error Feedback Fixes SignSGD"), with C the encoding, Δ the update
//! and β how much of what was left out is still wanted a round later:
//!
//! ```text
//! e ← β e + Δ,   send C(e),   e ← e − C(e)
//! ```
//! β = 1 is the classic; SparseLoCo takes 0.95, DeMo 0.999. The residual is private, and nobody can check it.
//!
//! *Difference* (Richtárik, Sokolov & Fatkhullin 2021, NeurIPS, "EF21"): sender and receivers hold the same estimate g,
//!
//! ```text
//! send C(Δ − g),   g ← g + C(Δ − g),   the update that counts is g
//! ```
//! so that a rule sees dense estimates of all members, also where each message is sparse. Receivers rebuild g from the signed
//! messages, in order, which costs one vector a member.

use serde::{Deserialize, Serialize};

use super::{DecodeError, Encoder, EncodingConfig};
use crate::numeric::{CHUNK, first_non_finite};

/// How a session makes up for what its encoding leaves out. Variants are only ever appended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Feedback {
    /// Not at all: right for encodings that round to nearest.
    #[default]
    None,
    /// What was left out is added to the next update.
    Residual {
        /// β, from 0 to 1. 0.95 as SparseLoCo: what could not be sent for 60 rounds is stale, and 5 % of it is left.
        #[serde(default = "default_decay")]
        decay: f32,
    },
    /// Differences to an estimate that both ends hold are sent.
    Difference,
}

fn default_decay() -> f32 {
    0.95
}

/// Feedback that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FeedbackError {
    /// The decay is not in [0, 1].
    #[error(
        "feedback residual: decay = {got} must lie between 0 and 1; SparseLoCo uses 0.95, classic error feedback 1"
    )]
    Decay {
        /// What was asked for.
        got: f32,
    },
    /// A kept state that does not fit the model.
    #[error("feedback: {found} values kept for a model of {expected}; start again from zero")]
    Dimension {
        /// The model's.
        expected: usize,
        /// The state's.
        found: usize,
    },
    /// A kept state with NaN or an infinity.
    #[error("feedback: value {index} is NaN or infinite; start again from zero")]
    NotFinite {
        /// Its coordinate.
        index: usize,
    },
}

impl Feedback {
    /// Whether the settings make sense. Ask when a session is created.
    pub fn check(&self) -> Result<(), FeedbackError> {
        match *self {
            Self::Residual { decay } if !(0.0..=1.0).contains(&decay) => Err(FeedbackError::Decay { got: decay }),
            Self::None | Self::Residual { .. } | Self::Difference => Ok(()),
        }
    }

    /// What suits an encoding: a residual for those that leave most of an update out, none for those that round.
    pub fn recommended(encoding: &EncodingConfig) -> Self {
        match encoding {
            EncodingConfig::F32
            | EncodingConfig::Bf16
            | EncodingConfig::F16
            | EncodingConfig::Int8 { .. }
            | EncodingConfig::Int4 { .. }
            | EncodingConfig::RandomSeeds { .. } => Self::None,
            EncodingConfig::Sign { .. } | EncodingConfig::LowRank { .. } => Self::Residual { decay: 1.0 },
            EncodingConfig::TopK { .. } | EncodingConfig::ChunkedTopK { .. } | EncodingConfig::DctTopK { .. } => {
                Self::Residual { decay: default_decay() }
            }
        }
    }

    /// The state before the first update of `dimension` values.
    pub fn start(&self, dimension: usize) -> FeedbackState {
        match *self {
            Self::None => FeedbackState::None,
            Self::Residual { decay } => FeedbackState::Residual(ErrorFeedback {
                residual: vec![0.0; dimension],
                decay,
            }),
            Self::Difference => FeedbackState::Difference(DifferenceFeedback {
                estimate: vec![0.0; dimension],
            }),
        }
    }
}

/// A sender's state, whichever way the session takes. Serialisable, so that a restart loses nothing.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum FeedbackState {
    /// None is kept.
    None,
    /// The residual.
    Residual(ErrorFeedback),
    /// The estimate.
    Difference(DifferenceFeedback),
}

impl FeedbackState {
    /// Replaces the contents of `out` by the encoded update and keeps what it leaves out.
    ///
    /// # Panics
    /// When a value is NaN or infinite, or the lengths differ.
    pub fn encode(&mut self, encoder: &dyn Encoder, update: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::None => encoder.encode(update, out),
            Self::Residual(state) => state.encode(encoder, update, out),
            Self::Difference(state) => state.encode(encoder, update, out),
        }
    }

    /// Takes back an update that its sender encoded last and that no settlement counted: what was in it is kept for later.
    pub fn take_back(&mut self, encoder: &dyn Encoder, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Residual(state) => add_decoded(encoder, bytes, 1.0, &mut state.residual),
            Self::Difference(state) => add_decoded(encoder, bytes, -1.0, &mut state.estimate),
        }
    }

    /// Whether a state that was read back fits a model of `dimension` parameters.
    pub fn check(&self, dimension: usize) -> Result<(), FeedbackError> {
        let values = match self {
            Self::None => return Ok(()),
            Self::Residual(state) => &state.residual,
            Self::Difference(state) => &state.estimate,
        };
        if values.len() != dimension {
            return Err(FeedbackError::Dimension {
                expected: dimension,
                found: values.len(),
            });
        }
        match first_non_finite(values) {
            Some(index) => Err(FeedbackError::NotFinite { index }),
            None => Ok(()),
        }
    }
}

/// What past updates had and their encodings left out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ErrorFeedback {
    /// e, one value a parameter.
    pub residual: Vec<f32>,
    /// β.
    pub decay: f32,
}

impl ErrorFeedback {
    /// Encodes the update together with the residual. The new residual is their sum without what was sent.
    ///
    /// # Panics
    /// When the sum is NaN or infinite, or the lengths differ.
    pub fn encode(&mut self, encoder: &dyn Encoder, update: &[f32], out: &mut Vec<u8>) {
        self.residual.iter_mut().for_each(|value| *value *= self.decay);
        encode_with_feedback(encoder, update, &mut self.residual, out);
    }
}

/// e ← e + Δ, out ← C(e), e ← e − C(e).
///
/// # Panics
/// When the sum is NaN or infinite, or the lengths differ.
pub fn encode_with_feedback(encoder: &dyn Encoder, update: &[f32], residual: &mut [f32], out: &mut Vec<u8>) {
    assert_eq!(update.len(), residual.len(), "one residual a value");
    for (residual, update) in residual.iter_mut().zip(update) {
        *residual += update;
    }
    encoder.encode(residual, out);
    add_decoded(encoder, out, -1.0, residual);
}

/// The estimate of one member's update that it and its receivers hold.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct DifferenceFeedback {
    /// g, one value a parameter.
    pub estimate: Vec<f32>,
}

impl DifferenceFeedback {
    /// The sender's half: encodes the difference between update and estimate, and moves the estimate by what was sent.
    ///
    /// # Panics
    /// When the difference is NaN or infinite, or the lengths differ.
    pub fn encode(&mut self, encoder: &dyn Encoder, update: &[f32], out: &mut Vec<u8>) {
        assert_eq!(update.len(), self.estimate.len(), "one estimate a value");
        let difference: Vec<f32> = update
            .iter()
            .zip(&self.estimate)
            .map(|(update, g)| update - g)
            .collect();
        encoder.encode(&difference, out);
        add_decoded(encoder, out, 1.0, &mut self.estimate);
    }

    /// The receiver's half: moves the estimate by a message, after which it is bit for bit the sender's. A message that is
    /// no encoding, or that would make the estimate infinite, is refused and changes nothing.
    pub fn absorb(&mut self, encoder: &dyn Encoder, bytes: &[u8]) -> Result<(), DecodeError> {
        encoder.validate(bytes, self.estimate.len())?;
        let mut moved = self.estimate.clone();
        add_decoded(encoder, bytes, 1.0, &mut moved);
        if let Some(index) = first_non_finite(&moved) {
            return Err(DecodeError::NotFinite { index });
        }
        self.estimate = moved;
        Ok(())
    }
}

/// values ← values + sign · decoded, chunk by chunk.
fn add_decoded(encoder: &dyn Encoder, bytes: &[u8], sign: f32, values: &mut [f32]) {
    let mut decoded = vec![0.0f32; values.len().min(CHUNK)];
    for (index, values) in values.chunks_mut(CHUNK).enumerate() {
        let decoded = &mut decoded[..values.len()];
        encoder.decode_range(bytes, index * CHUNK, decoded);
        for (value, decoded) in values.iter_mut().zip(decoded.iter()) {
            *value += sign * decoded;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::TopK;

    const SPARSE: EncodingConfig = EncodingConfig::TopK { one_in: 4 };

    fn send(state: &mut FeedbackState, update: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let encoder = SPARSE.build();
        let (mut bytes, mut decoded) = (Vec::new(), vec![0.0; update.len()]);
        state.encode(&*encoder, update, &mut bytes);
        encoder.decode(&bytes, &mut decoded).unwrap();
        (bytes, decoded)
    }

    #[test]
    fn what_is_left_out_comes_later() {
        let mut state = Feedback::Residual { decay: 1.0 }.start(4);
        let update = [4.0, 2.0, 1.0, 0.0];
        assert_eq!(send(&mut state, &update).1, [4.0, 0.0, 0.0, 0.0]);
        assert_eq!(send(&mut state, &update).1, [4.0, 0.0, 0.0, 0.0]); // a tie: 4, and 2 + 2
        assert_eq!(send(&mut state, &update).1, [0.0, 6.0, 0.0, 0.0]);
        let FeedbackState::Residual(kept) = &state else {
            panic!("{state:?}")
        };
        assert_eq!(kept.residual, [4.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn decay_forgets_by_hand() {
        let mut state = Feedback::Residual { decay: 0.5 }.start(4);
        send(&mut state, &[4.0, 2.0, 1.0, 0.0]);
        send(&mut state, &[9.0, 0.0, 0.0, 0.0]);
        let FeedbackState::Residual(kept) = &state else {
            panic!("{state:?}")
        };
        assert_eq!(kept.residual, [0.0, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn an_update_that_did_not_count_is_sent_again() {
        for feedback in [Feedback::Residual { decay: 1.0 }, Feedback::Difference] {
            let mut state = feedback.start(4);
            let before = state.clone();
            let (bytes, first) = send(&mut state, &[4.0, 2.0, 1.0, 0.0]);
            state.take_back(&*SPARSE.build(), &bytes);
            let update = match before {
                FeedbackState::Residual(_) => [0.0; 4],
                _ => [4.0, 2.0, 1.0, 0.0],
            };
            assert_eq!(send(&mut state, &update).1, first, "{feedback:?}");
        }
    }

    #[test]
    fn estimates_of_both_ends_agree_and_approach_a_steady_update() {
        let update: Vec<f32> = (0..CHUNK + 40).map(|i| ((i * 7) % 13) as f32 * 0.1 - 0.6).collect();
        let encoder = SPARSE.build();
        let mut sender = Feedback::Difference.start(update.len());
        let mut receiver = DifferenceFeedback {
            estimate: vec![0.0; update.len()],
        };
        for _ in 0..8 {
            let (bytes, _) = send(&mut sender, &update);
            receiver.absorb(&*encoder, &bytes).unwrap();
            assert_eq!(sender, FeedbackState::Difference(receiver.clone()));
        }
        let largest = receiver
            .estimate
            .iter()
            .zip(&update)
            .map(|(g, x)| (g - x).abs())
            .fold(0.0, f32::max);
        assert!(largest < 0.01, "{largest}");
    }

    #[test]
    fn a_message_that_would_overflow_changes_nothing() {
        let encoder = TopK::new(1);
        let mut bytes = Vec::new();
        encoder.encode(&[f32::MAX], &mut bytes);
        let mut receiver = DifferenceFeedback { estimate: vec![0.0] };
        receiver.absorb(&encoder, &bytes).unwrap();
        let before = receiver.clone();
        assert_eq!(
            receiver.absorb(&encoder, &bytes),
            Err(DecodeError::NotFinite { index: 0 })
        );
        assert!(receiver.absorb(&encoder, &bytes[1..]).is_err());
        assert_eq!(receiver, before);
    }

    #[test]
    fn states_survive_a_restart_and_misfits_are_refused() {
        let mut state = Feedback::Residual { decay: 0.95 }.start(4);
        send(&mut state, &[4.0, 2.0, 1.0, 0.0]);
        let bytes = postcard::to_stdvec(&state).unwrap();
        let read: FeedbackState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.check(4), Ok(()));
        assert_eq!(read.check(5), Err(FeedbackError::Dimension { expected: 5, found: 4 }));
        let broken = FeedbackState::Difference(DifferenceFeedback {
            estimate: vec![0.0, f32::NAN],
        });
        assert_eq!(broken.check(2), Err(FeedbackError::NotFinite { index: 1 }));
        for decay in [-0.1, 1.1, f32::NAN] {
            assert!(Feedback::Residual { decay }.check().is_err());
        }
    }
}
