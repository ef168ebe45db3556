//! RelaySum: along the links of a tree each sends on its own vector plus what the others sent it, so that every vector
//! reaches every member exactly once, as late as the tree is long (Vogels, He, Koloskova, Karimireddy, Lin, Stich & Jaggi
//! 2021, NeurIPS, algorithm 1). Unlike data do not hurt it; one lie reaches everyone, and a lost member cuts the tree.
//!
//! Breakdown point 0 · one pass, O(deg · d), and a message and a vector of state for each neighbour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MessageError, check_values, within_range};

/// A sum over the members beyond a link, and how many these are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RelayMessage {
    /// The sum of their vectors.
    pub sum: Vec<f32>,
    /// How many vectors are in it.
    pub count: u64,
}

/// What a member remembers: the last message from each of its neighbours in the tree.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RelaySum {
    dimension: usize,
    members: u64,
    heard: BTreeMap<usize, RelayMessage>,
}

impl RelaySum {
    /// The beginning, in a session of `members` members: nothing heard from any neighbour in the tree.
    pub fn new(dimension: usize, members: usize, neighbours: &[usize]) -> Self {
        let silence = RelayMessage {
            sum: vec![0.0; dimension],
            count: 0,
        };
        Self {
            dimension,
            members: members as u64,
            heard: neighbours
                .iter()
                .map(|&neighbour| (neighbour, silence.clone()))
                .collect(),
        }
    }

    /// What goes to a neighbour this round: the own vector and what the others sent in the last one.
    pub fn message(&self, own: &[f32], to: usize) -> RelayMessage {
        let others = || {
            self.heard
                .iter()
                .filter(move |(from, _)| **from != to)
                .map(|(_, message)| message)
        };
        let mut sum = vec![0.0; self.dimension];
        add_up(own, others(), 1.0, &mut sum);
        RelayMessage {
            sum,
            count: others().fold(1, |count, message| count + message.count),
        }
    }

    /// Takes a neighbour's message in place of its last one.
    pub fn receive(&mut self, from: usize, message: RelayMessage) -> Result<(), MessageError> {
        let dimension = self.dimension;
        let most = self.members - 1;
        let Some(heard) = self.heard.get_mut(&from) else {
            return Err(MessageError::Stranger { from });
        };
        check_values(&message.sum, dimension)?;
        if !(1..=most).contains(&message.count) {
            return Err(MessageError::Count {
                found: message.count,
                most,
            });
        }
        *heard = message;
        Ok(())
    }

    /// The mean over all that were heard of, once this round's messages are in.
    pub fn mean(&self, own: &[f32], out: &mut [f32]) {
        let count = self.heard.values().fold(1, |count, message| count + message.count);
        add_up(own, self.heard.values(), count as f64, out);
    }
}

/// out ← (own + Σ sums) / divisor, in f64 and in the order of the neighbours.
fn add_up<'a>(own: &[f32], messages: impl Iterator<Item = &'a RelayMessage> + Clone, divisor: f64, out: &mut [f32]) {
    assert_eq!(own.len(), out.len(), "the own vector has the model's dimension");
    for (at, (out, &own)) in out.iter_mut().zip(own).enumerate() {
        let sum = messages
            .clone()
            .fold(f64::from(own), |sum, message| sum + f64::from(message.sum[at]));
        *out = within_range(sum / divisor);
    }
}
