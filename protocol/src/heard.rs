//! When and how each member was last heard. What follows from silence is decided elsewhere.

use std::collections::BTreeMap;

use crate::contract::Time;
use crate::limits;
use crate::message::Heartbeat;
use crate::task::Round;

/// When and how a member was last heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// When something fresh of it came.
    pub at: Option<Time>,
    /// Its last heartbeat.
    pub beat: Option<Heartbeat>,
    /// The highest count of each of its last runs: an old heartbeat is no sign of life.
    pub counts: BTreeMap<u64, u64>,
    /// What was last sent to it to catch up, and when.
    pub served: Option<(Round, Time)>,
}

impl Heard {
    /// Takes note of a heartbeat; false if it is an old one said again.
    pub(crate) fn is_fresh(&mut self, beat: &Heartbeat, now: Time) -> bool {
        let count = self.counts.entry(beat.boot).or_default();
        if beat.count <= *count {
            return false;
        }
        *count = beat.count;
        while self.counts.len() > limits::BOOTS_KEPT {
            self.counts.pop_first();
        }
        self.at = Some(now);
        self.beat = Some(beat.clone());
        true
    }
}
