//! Stale replay: what was right some rounds ago, sent again as if it were new. It forges nothing and needs no knowledge;
//! a protocol that ties an update to its base state refuses the signed form, so this is the unsigned content in a fresh claim.

use std::collections::VecDeque;

/// An attacker that sends what it computed some rounds before.
#[derive(Clone, Debug)]
pub struct StaleReplay {
    rounds: usize,
    kept: VecDeque<Vec<f32>>,
}

impl StaleReplay {
    /// Late by this many rounds.
    pub fn new(rounds: usize) -> Self {
        Self {
            rounds,
            kept: VecDeque::with_capacity(rounds + 1),
        }
    }

    /// Keeps this round's honest update; returns the one of `rounds` before, or the oldest while there are fewer.
    pub fn send(&mut self, honest: &[f32]) -> Vec<f32> {
        self.kept.push_back(honest.to_vec());
        if self.kept.len() > self.rounds + 1 {
            self.kept.pop_front();
        }
        self.kept.front().cloned().unwrap_or_default()
    }
}
