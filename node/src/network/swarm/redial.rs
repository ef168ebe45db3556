//! When to dial a wanted peer again: exponential pauses with jitter, forgotten after a connection that lasted.
//! It dials nobody and reads no clock; the swarm task asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use synod_protocol::identity::PeerId;

use super::super::config::{REDIAL_CAP, REDIAL_FIRST, REDIALS_PER_TICK};

/// A connection shorter than this does not shorten the next pause (a flapping link).
const LASTED: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Attempt {
    failures: u32,
    due: Instant,
    connected_since: Option<Instant>,
}

/// The peers to which a connection is held.
#[derive(Debug, Default)]
pub(super) struct Redial {
    held: BTreeMap<PeerId, Attempt>,
}

impl Redial {
    /// Holds these peers and no others; newly held ones are due at once.
    pub(super) fn hold(&mut self, peers: &BTreeSet<PeerId>, connected: impl Fn(&PeerId) -> bool, now: Instant) {
        self.held.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            let connected_since = connected(peer).then_some(now);
            self.held.entry(*peer).or_insert(Attempt {
                failures: 0,
                due: now,
                connected_since,
            });
        }
    }

    pub(super) fn holds(&self, peer: &PeerId) -> bool {
        self.held.contains_key(peer)
    }

    pub(super) fn failures(&self, peer: &PeerId) -> u32 {
        self.held.get(peer).map_or(0, |attempt| attempt.failures)
    }

    /// Whether some held peer was dialled in vain more often than this.
    pub(super) fn fails_beyond(&self, failures: u32) -> bool {
        let mut missing = self.held.values().filter(|attempt| attempt.connected_since.is_none());
        missing.any(|attempt| attempt.failures > failures)
    }

    /// Peers to dial now. Each is taken to fail until `connected` says otherwise.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PeerId> {
        let due = self
            .held
            .iter_mut()
            .filter(|(_, attempt)| attempt.connected_since.is_none() && attempt.due <= now);
        let mut peers = Vec::new();
        for (peer, attempt) in due.take(REDIALS_PER_TICK) {
            attempt.failures = attempt.failures.saturating_add(1);
            attempt.due = now + pause(peer, attempt.failures);
            peers.push(*peer);
        }
        peers
    }

    pub(super) fn connected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(attempt) = self.held.get_mut(peer) {
            attempt.connected_since.get_or_insert(now);
        }
    }

    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        let Some(attempt) = self.held.get_mut(peer) else { return };
        if attempt
            .connected_since
            .take()
            .is_some_and(|since| now.duration_since(since) >= LASTED)
        {
            attempt.failures = 0;
        }
        attempt.due = now + pause(peer, attempt.failures);
    }

    /// An address was learnt: try it soon, whatever the pause was.
    pub(super) fn hurry(&mut self, peer: &PeerId, now: Instant) {
        if let Some(attempt) = self.held.get_mut(peer) {
            attempt.due = attempt.due.min(now + REDIAL_FIRST);
        }
    }
}

/// Doubles from `REDIAL_FIRST` to `REDIAL_CAP`, times 0.75 to 1.25 by a hash: peers that were lost together are not all
/// dialled together.
fn pause(peer: &PeerId, failures: u32) -> Duration {
    let doubled = REDIAL_FIRST.saturating_mul(1 << failures.min(10)).min(REDIAL_CAP);
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&peer.0)
        .update(&failures.to_le_bytes())
        .update(&std::process::id().to_le_bytes());
    let jitter = f64::from(hasher.finalize().as_bytes()[0]) / 255.0;
    doubled.mul_f64(0.75 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 32]);

    #[test]
    fn pauses_grow_to_the_cap_and_shrink_after_a_connection_that_lasted() {
        let mut now = Instant::now();
        let mut redial = Redial::default();
        redial.hold(&BTreeSet::from([PEER]), |_| false, now);
        for _ in 0..20 {
            assert_eq!(redial.due(now), [PEER]);
            assert_eq!(redial.due(now), []);
            now += REDIAL_CAP.mul_f64(1.26);
        }
        redial.connected(&PEER, now);
        assert_eq!(redial.due(now + REDIAL_CAP * 2), []);
        now += LASTED;
        redial.lost(&PEER, now);
        assert_eq!(redial.due(now + REDIAL_FIRST.mul_f64(1.26)), [PEER]);
    }

    #[test]
    fn a_flapping_link_keeps_its_pause() {
        let now = Instant::now();
        let mut redial = Redial::default();
        redial.hold(&BTreeSet::from([PEER]), |_| false, now);
        redial.held.get_mut(&PEER).expect("held").failures = 10;
        redial.connected(&PEER, now);
        redial.lost(&PEER, now);
        assert_eq!(redial.due(now + REDIAL_FIRST * 2), []);
    }

    #[test]
    fn a_peer_that_is_no_longer_held_is_not_dialled() {
        let now = Instant::now();
        let mut redial = Redial::default();
        redial.hold(&BTreeSet::from([PEER]), |_| false, now);
        redial.hold(&BTreeSet::new(), |_| false, now);
        assert_eq!(redial.due(now), []);
    }
}
