//! CHOCO: members gossip on copies of each other that compressed differences keep up to date (Koloskova, Stich & Jaggi
//! 2019, ICML, algorithm 2). The compression is any encoding of the session; what it leaves out is not lost but sent later.
//! It defends against nobody, and a lost message must be sent again: numbers tell.
//!
//! ```text
//! q_i = C(x_i − x̂_i) is sent;  x̂_j += q_j for the own and each neighbour's copy;  x_i += γ Σ_j W_ij (x̂_j − x̂_i)
//! ```
//! Breakdown point 0 · O(deg · d), and a vector of state for each neighbour. All who hold a copy of a member hold the
//! same bits of it, since all add the same decoded values in the same order: a digest of the copies can be compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MessageError, within_range};
use crate::encoding::Encoder;

/// A member's copies of itself and its neighbours, as all others know them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Choco {
    own: usize,
    copies: BTreeMap<usize, Copy>,
}

/// One member as the others know it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Copy {
    /// Messages that went into it.
    messages: u64,
    values: Vec<f32>,
}

impl Choco {
    /// The beginning: all copies are zero, or the model that all start from.
    pub fn new(start: &[f32], own: usize, neighbours: &[usize]) -> Self {
        let copy = Copy {
            messages: 0,
            values: start.to_vec(),
        };
        let members = neighbours.iter().chain([&own]);
        Self {
            own,
            copies: members.map(|&member| (member, copy.clone())).collect(),
        }
    }

    /// The copy of a member, and how many messages are in it. None for a stranger.
    pub fn copy_of(&self, member: usize) -> Option<(&[f32], u64)> {
        self.copies
            .get(&member)
            .map(|copy| (copy.values.as_slice(), copy.messages))
    }

    /// Compresses what the others do not know yet of the own vector, adds it to the own copy, and returns the message's
    /// number; the bytes to send replace the contents of `bytes`.
    ///
    /// # Panics
    /// When the vector has another length or a value that is not finite, as encoding does.
    pub fn announce(&mut self, own: &[f32], encoder: &dyn Encoder, bytes: &mut Vec<u8>) -> u64 {
        let copy = self.copies.get_mut(&self.own).expect("a member knows itself");
        assert_eq!(own.len(), copy.values.len(), "the own vector has the model's dimension");
        let unknown: Vec<f32> = own
            .iter()
            .zip(&copy.values)
            .map(|(&own, &known)| within_range(f64::from(own) - f64::from(known)))
            .collect();
        encoder.encode(&unknown, bytes);
        let number = copy.messages;
        copy.add(number, bytes, encoder)
            .expect("an encoder reads what it wrote");
        number
    }

    /// Adds a neighbour's message to its copy.
    pub fn receive(
        &mut self,
        from: usize,
        number: u64,
        bytes: &[u8],
        encoder: &dyn Encoder,
    ) -> Result<(), MessageError> {
        match self.copies.get_mut(&from) {
            Some(copy) if from != self.own => copy.add(number, bytes, encoder),
            _ => Err(MessageError::Stranger { from }),
        }
    }

    /// x ← x + γ Σ_j W_ij (x̂_j − x̂_i), by the own row of the mixing matrix.
    ///
    /// # Panics
    /// When the row names a member of whom there is no copy.
    pub fn mix(&self, row: &[(usize, f64)], step: f32, x: &mut [f32]) {
        let own = &self.copies[&self.own].values;
        assert_eq!(own.len(), x.len(), "the own vector has the model's dimension");
        let others: Vec<(&[f32], f64)> = row
            .iter()
            .filter(|(member, _)| *member != self.own)
            .map(|&(member, weight)| (self.copies[&member].values.as_slice(), weight))
            .collect();
        for (at, x) in x.iter_mut().enumerate() {
            let known = f64::from(own[at]);
            let pull = others
                .iter()
                .fold(0.0, |sum, (copy, weight)| sum + weight * (f64::from(copy[at]) - known));
            *x = within_range(f64::from(*x) + f64::from(step) * pull);
        }
    }
}

impl Copy {
    fn add(&mut self, number: u64, bytes: &[u8], encoder: &dyn Encoder) -> Result<(), MessageError> {
        if number != self.messages {
            return Err(MessageError::Sequence {
                expected: self.messages,
                found: number,
            });
        }
        let mut decoded = vec![0.0; self.values.len()];
        encoder.decode(bytes, &mut decoded)?;
        for (value, decoded) in self.values.iter_mut().zip(decoded) {
            *value = within_range(f64::from(*value) + f64::from(decoded));
        }
        self.messages += 1;
        Ok(())
    }
}
