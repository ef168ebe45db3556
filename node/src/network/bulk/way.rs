//! The way to one peer's bulk plane: none, looked for, or found, and when a fallback is to be improved on.
//! It opens nothing: the bulk task looks for ways, and is told here when.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::config::{RELAY_MEMORY, UDP_CLOSED_MEMORY};
use super::fetch::Link;
use super::link::Path;

/// A way to a peer.
pub(super) enum Way {
    None,
    Searching(Vec<oneshot::Sender<Result<Link, String>>>),
    Found(Found),
}

impl Way {
    /// The path, where it can be used.
    pub(super) fn open(&self) -> Option<&Path> {
        match self {
            Self::Found(found) if found.path.is_open() => Some(&found.path),
            _ => None,
        }
    }
}

/// A path that works, and when a better one is looked for.
pub(super) struct Found {
    pub(super) path: Path,
    /// Pause before the next search for a better one.
    pause: Duration,
    due: Instant,
}

impl Found {
    pub(super) fn new(path: Path, now: Instant) -> Self {
        let pause = match path {
            Path::Quic(_) | Path::Tcp(_) => UDP_CLOSED_MEMORY,
            Path::Relay => RELAY_MEMORY,
        };
        Self {
            path,
            pause,
            due: now + pause,
        }
    }

    /// Whether a better way is to be looked for now, while this one is used. Each time the pause before the next doubles:
    /// most closed networks stay closed.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if matches!(self.path, Path::Quic(_)) || self.due > now {
            return false;
        }
        self.pause = (self.pause * 2).min(UDP_CLOSED_MEMORY);
        self.due = now + self.pause;
        true
    }

    /// Whether another path is better: direct is better than through a relay, and QUIC than TCP.
    pub(super) fn yields_to(&self, other: &Path) -> bool {
        let rank = |path: &Path| match path {
            Path::Quic(_) => 2,
            Path::Tcp(_) => 1,
            Path::Relay => 0,
        };
        !self.path.is_open() || rank(other) > rank(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relayed_way_is_used_while_a_direct_one_is_looked_for_ever_more_rarely() {
        let mut now = Instant::now();
        let mut found = Found::new(Path::Relay, now);
        let mut pauses = Vec::new();
        while pauses.len() < 8 {
            let since = now;
            while !found.is_due(now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - since).as_secs());
        }
        assert_eq!(pauses, [15, 30, 60, 120, 240, 300, 300, 300]);
        assert!(matches!(Way::Found(found).open(), Some(Path::Relay)));
    }

    #[test]
    fn a_direct_way_takes_the_place_of_a_relayed_one_and_not_the_other_way_round() {
        let now = Instant::now();
        let tcp = Path::Tcp("192.0.2.1:7601".parse().expect("literal"));
        assert!(Found::new(Path::Relay, now).yields_to(&tcp));
        assert!(!Found::new(tcp.clone(), now).yields_to(&Path::Relay));
        assert!(!Found::new(tcp.clone(), now).yields_to(&tcp));
    }
}
