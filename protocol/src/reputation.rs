//! What each peer's refused messages have cost it, and when it has lost all credit.
//! It counts; it does not decide what is refused, and it forgives a little with every round that a peer helped to settle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::identity::PeerId;
use crate::limits;
use crate::reject::{Evidence, Reject};

/// The credit that a peer begins with and never exceeds.
pub const FULL: i64 = 100;
/// What a settled update gives back.
const FORGIVEN_A_ROUND: i64 = 5;

/// The scores of all peers that were ever charged.
#[derive(Debug, Default)]
pub struct Reputation {
    scores: BTreeMap<PeerId, i64>,
    banned: BTreeSet<PeerId>,
    evidence: VecDeque<Evidence>,
}

impl Reputation {
    /// What is left of a peer's credit.
    pub fn of(&self, peer: &PeerId) -> i64 {
        self.scores.get(peer).copied().unwrap_or(FULL)
    }

    /// Whether a peer is cut off.
    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer)
    }

    /// Charges a refusal. Returns true when it is the one that cuts the peer off.
    pub fn charge(&mut self, evidence: Evidence) -> bool {
        let peer = evidence.peer;
        let cost = i64::from(evidence.reject.cost());
        if cost > 0 {
            if self.evidence.len() == limits::EVIDENCE_KEPT {
                self.evidence.pop_front();
            }
            self.evidence.push_back(evidence);
        }
        let score = self.scores.entry(peer).or_insert(FULL);
        *score = (*score - cost).max(0);
        *score == 0 && self.banned.insert(peer)
    }

    /// Cuts a peer off, as the journal remembers.
    pub fn ban(&mut self, peer: PeerId) {
        self.banned.insert(peer);
    }

    /// Gives a little back to a peer whose update was settled.
    pub fn forgive(&mut self, peer: &PeerId) {
        if let Some(score) = self.scores.get_mut(peer) {
            *score = (*score + FORGIVEN_A_ROUND).min(FULL);
        }
    }

    /// Those cut off, in order of ids.
    pub fn banned(&self) -> impl Iterator<Item = &PeerId> {
        self.banned.iter()
    }

    /// The latest charges, oldest first.
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.evidence.iter()
    }
}

impl Evidence {
    /// A charge without signed statements.
    pub fn plain(peer: PeerId, reject: Reject, round: u64, kind: &str) -> Self {
        Self {
            peer,
            reject,
            round,
            kind: kind.to_owned(),
            statements: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_free_and_equivocation_is_final() {
        let peer = PeerId([1; 32]);
        let mut reputation = Reputation::default();
        for _ in 0..1_000 {
            assert!(!reputation.charge(Evidence::plain(peer, Reject::Late, 1, "update")));
        }
        assert_eq!(reputation.of(&peer), FULL);
        assert!(reputation.charge(Evidence::plain(peer, Reject::Equivocation, 1, "update")));
        assert!(reputation.is_banned(&peer));
    }

    #[test]
    fn small_faults_are_forgiven_in_time() {
        let peer = PeerId([1; 32]);
        let mut reputation = Reputation::default();
        for _ in 0..100 {
            assert!(!reputation.charge(Evidence::plain(peer, Reject::Withheld, 1, "update")));
            reputation.forgive(&peer);
        }
    }
}
