//! What a member carries from one of its updates to the next: worker momentum, and what its encoding left unsaid.
//! It is the member's own and never agreed on; it neither trains nor encodes, and it is stored by whoever drives the worker.
//!
//! Worker momentum (Karimireddy, He & Jaggi 2021, ICML, §5): a member sends not its pseudo-gradient u_t but
//!
//! ```text
//! m_t = β m_{t−1} + (1 − β) u_t,   m_1 = u_1
//! ```
//! which lowers the variance of honest updates and so the room that a robust rule leaves to attackers. Error feedback
//! (Seide et al. 2014; Karimireddy et al. 2019, ICML, algorithm 2): what the encoding lost of one update is added to the next,
//!
//! ```text
//! p_t = m_t + e_{t−1},   sent: C(p_t),   e_t = p_t − C(p_t).
//! ```
//! A member that trains a round twice (it was killed before it had signed its claim, say) must start both times from the
//! same place: hence the state *before* a round is kept beside the one after it, until the next round begins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use synod_protocol::task::Round;

/// What a session says of the members' own state. Both are off by default: an update is then a function of base,
/// data and seed alone.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberStateConfig {
    /// β, the share of the last sent direction that a member keeps; 0 sends each update as it is. 0.9 is what the
    /// experiments of the robust-learning papers use.
    pub momentum: f32,
    /// Whether what an encoding loses of one update is added to the next. Sparse and low-rank encodings need it; dense
    /// and blockwise ones lose too little to matter.
    pub error_feedback: bool,
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("worker.momentum = {got} must be at least 0 and less than 1; 0.9 is usual, 0 switches it off")]
pub struct MemberStateConfigError {
    /// What was asked for.
    pub got: f32,
}

impl MemberStateConfig {
    /// Whether the settings make sense. Ask when a session is created.
    pub fn check(&self) -> Result<(), MemberStateConfigError> {
        match (0.0..1.0).contains(&self.momentum) {
            true => Ok(()),
            false => Err(MemberStateConfigError { got: self.momentum }),
        }
    }

    /// Whether members carry anything at all.
    pub fn is_stateless(&self) -> bool {
        self.momentum == 0.0 && !self.error_feedback
    }
}

/// The state after one round's update; each vector is as long as the parameters, or empty where it is not used.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Carried {
    momentum: Vec<f32>,
    residual: Vec<f32>,
}

/// The states after the last rounds that this member trained in.
#[derive(Debug, Default)]
pub struct MemberState {
    config: MemberStateConfig,
    after: BTreeMap<Round, Carried>,
}

/// States that are kept: after this round, and after the one before it in case this one is trained again.
const KEPT: usize = 2;

const MAGIC: [u8; 4] = *b"SYNM";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 32;

/// Bytes that hold no state of this member and model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("these bytes hold no member state of {parameters} parameters: {reason}")]
pub struct MemberStateError {
    /// The model's parameters.
    pub parameters: usize,
    /// What is wrong.
    pub reason: &'static str,
}

impl MemberState {
    /// Nothing carried yet.
    pub fn new(config: MemberStateConfig) -> Self {
        Self {
            config,
            after: BTreeMap::new(),
        }
    }

    /// Whether members of this session carry nothing.
    pub fn is_stateless(&self) -> bool {
        self.config.is_stateless()
    }

    /// Takes up what was stored after an earlier round.
    pub fn restore(&mut self, bytes: &[u8], parameters: usize) -> Result<(), MemberStateError> {
        let (round, carried) = decode(bytes, parameters)?;
        self.after.insert(round, carried);
        self.forget();
        Ok(())
    }

    /// What to encode for `round`, made of this round's pseudo-gradient in place: momentum first, then the residual.
    /// The second answer is the momentum to carry on.
    pub fn to_send(&self, round: Round, update: &mut [f32]) -> Vec<f32> {
        let before = self.after.range(..round).next_back().map(|(_, carried)| carried);
        let beta = self.config.momentum;
        let mut momentum = Vec::new();
        if beta > 0.0 {
            if let Some(before) = before.filter(|before| before.momentum.len() == update.len()) {
                for (value, last) in update.iter_mut().zip(&before.momentum) {
                    *value = beta * last + (1.0 - beta) * *value;
                }
            }
            momentum = update.to_vec();
        }
        if self.config.error_feedback
            && let Some(before) = before.filter(|before| before.residual.len() == update.len())
        {
            for (value, rest) in update.iter_mut().zip(&before.residual) {
                *value += rest;
            }
        }
        momentum
    }

    /// Takes note of what was sent for `round`: `asked` is what should have been sent, `sent` what the payload decodes to.
    /// Returns the bytes to store before the update is announced.
    pub fn sent(&mut self, round: Round, momentum: Vec<f32>, asked: &[f32], sent: &[f32]) -> Vec<u8> {
        let residual = match self.config.error_feedback {
            true => asked.iter().zip(sent).map(|(asked, sent)| asked - sent).collect(),
            false => Vec::new(),
        };
        let carried = Carried { momentum, residual };
        let bytes = encode(round, &carried);
        self.after.insert(round, carried);
        self.forget();
        bytes
    }

    /// Whether a residual has to be computed, for which the payload must be decoded.
    pub fn needs_decoded(&self) -> bool {
        self.config.error_feedback
    }

    fn forget(&mut self) {
        while self.after.len() > KEPT {
            self.after.pop_first();
        }
    }
}

/// 0..4 magic · 4 version · 5..8 zero · 8..16 round · 16..24 length of the momentum · 24..32 length of the residual ·
/// both as f32, little-endian.
fn encode(round: Round, carried: &Carried) -> Vec<u8> {
    let (momentum, residual) = (&carried.momentum, &carried.residual);
    let mut bytes = Vec::with_capacity(HEADER_LEN + 4 * (momentum.len() + residual.len()));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&round.to_le_bytes());
    bytes.extend_from_slice(&(momentum.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(residual.len() as u64).to_le_bytes());
    momentum
        .iter()
        .chain(residual)
        .for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    bytes
}

fn decode(bytes: &[u8], parameters: usize) -> Result<(Round, Carried), MemberStateError> {
    let refuse = |reason| MemberStateError { parameters, reason };
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(refuse("they are fewer than a header"));
    };
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
    if header[..4] != MAGIC || header[4..8] != [VERSION, 0, 0, 0] {
        return Err(refuse("they do not begin as one of this version"));
    }
    let (round, momentum, residual) = (number(8), number(16), number(24));
    let fits = |length: u64| length == 0 || length == parameters as u64;
    if !fits(momentum) || !fits(residual) || u128::from(momentum) * 4 + u128::from(residual) * 4 != body.len() as u128 {
        return Err(refuse("their length is another"));
    }
    let (values, _) = body.as_chunks::<4>();
    let mut momentum_and_residual: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !momentum_and_residual.iter().all(|value| value.is_finite()) {
        return Err(refuse("a value is NaN or infinite"));
    }
    let residual = momentum_and_residual.split_off(usize::try_from(momentum).unwrap_or(usize::MAX));
    let momentum = momentum_and_residual;
    Ok((round, Carried { momentum, residual }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(momentum: f32, error_feedback: bool) -> MemberState {
        MemberState::new(MemberStateConfig {
            momentum,
            error_feedback,
        })
    }

    /// One round: what is sent when the encoding keeps whole numbers only, and the bytes to store.
    fn round(state: &mut MemberState, round: Round, update: [f32; 2]) -> ([f32; 2], Vec<u8>) {
        let mut asked = update;
        let momentum = state.to_send(round, &mut asked);
        let sent = asked.map(f32::trunc);
        let bytes = state.sent(round, momentum, &asked, &sent);
        (sent, bytes)
    }

    #[test]
    fn momentum_averages_and_begins_with_the_first_update() {
        let mut state = state(0.5, false);
        assert_eq!(round(&mut state, 1, [4.0, 8.0]).0, [4.0, 8.0]);
        assert_eq!(round(&mut state, 2, [8.0, 0.0]).0, [6.0, 4.0]);
        assert_eq!(round(&mut state, 5, [0.0, 0.0]).0, [3.0, 2.0]);
    }

    #[test]
    fn nothing_that_an_encoding_loses_is_lost_for_good() {
        let mut state = state(0.0, true);
        let mut total = [0.0; 2];
        for t in 1..=8 {
            let (sent, _) = round(&mut state, t, [0.75, 1.25]);
            total = [total[0] + sent[0], total[1] + sent[1]];
        }
        assert_eq!(total, [6.0, 10.0]);
    }

    #[test]
    fn a_round_trained_again_starts_from_the_same_place_also_after_a_restart() {
        let mut first = state(0.9, true);
        let one = round(&mut first, 1, [1.5, -2.25]).1;
        let (sent, two) = round(&mut first, 2, [0.3, 0.4]);
        assert_eq!(round(&mut first, 2, [0.3, 0.4]).0, sent);
        let mut second = state(0.9, true);
        second.restore(&two, 2).unwrap();
        second.restore(&one, 2).unwrap();
        assert_eq!(round(&mut second, 2, [0.3, 0.4]), (sent, two));
    }

    #[test]
    fn only_the_last_two_rounds_are_kept() {
        let mut state = state(0.5, false);
        (1..=9).for_each(|t| _ = round(&mut state, t, [1.0, 1.0]));
        assert_eq!(state.after.keys().copied().collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn bytes_that_are_no_state_are_refused() {
        let mut good = state(0.5, true);
        let (_, bytes) = round(&mut good, 3, [1.25, 2.5]);
        assert!(good.restore(&bytes, 2).is_ok());
        for length in 0..bytes.len() {
            assert!(good.restore(&bytes[..length], 2).is_err(), "{length}");
        }
        assert!(good.restore(&bytes, 3).is_err());
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(good.restore(&longer, 2).is_err());
        let mut not_finite = bytes.clone();
        let at = not_finite.len() - 4;
        not_finite[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(good.restore(&not_finite, 2).is_err());
        let mut huge = bytes;
        huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(good.restore(&huge, 2).is_err());
    }

    #[test]
    fn momentum_outside_of_its_range_is_refused() {
        for momentum in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
            let config = MemberStateConfig {
                momentum,
                error_feedback: false,
            };
            assert!(config.check().is_err(), "{momentum}");
        }
        assert!(MemberStateConfig::default().check().is_ok());
        assert!(MemberStateConfig::default().is_stateless());
    }
}
