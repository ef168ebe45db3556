//! What goes wrong: scripted faults at a time or round, and random ones whose rates the scenario states.
//! It only says what happens when; the world does it.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::dice::Dice;

/// One scripted fault.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultConfig {
    /// When, in virtual milliseconds; after the round began if `at_round` is given too.
    #[serde(default)]
    pub at_ms: u64,
    /// When the first honest member begins this round.
    #[serde(default)]
    pub at_round: Option<u64>,
    /// What.
    pub what: FaultKind,
}

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// Processes die, and come back from journal and blobs after a while.
    Crash {
        /// Which peers; none: see `coordinator`.
        #[serde(default)]
        peers: Vec<usize>,
        /// Also whoever coordinates then.
        #[serde(default)]
        coordinator: bool,
        /// How long they are down; None: for good.
        #[serde(default)]
        for_ms: Option<u64>,
        /// Die only when this many more outputs were executed: between two outputs of one step.
        #[serde(default)]
        after_outputs: Option<u64>,
    },
    /// Nothing passes between these and the others.
    Partition {
        /// One side.
        #[serde(default)]
        side: Vec<usize>,
        /// Also whoever coordinates then.
        #[serde(default)]
        coordinator: bool,
        /// For how long.
        for_ms: u64,
    },
    /// Work takes longer.
    Slow {
        /// Which peers.
        peers: Vec<usize>,
        /// By this factor.
        factor: f64,
        /// For how long.
        for_ms: u64,
    },
    /// More messages are lost.
    Storm {
        /// Share of messages.
        loss: f64,
        /// For how long.
        for_ms: u64,
    },
    /// These peers start only now.
    Join {
        /// Which peers.
        peers: Vec<usize>,
    },
    /// The operators of these take them out of the session.
    Leave {
        /// Which peers.
        peers: Vec<usize>,
    },
    /// The wall clock jumps. Forward at once, as after a sleep; back only as far as a process may see it: at its restart.
    ClockStep {
        /// Which peers.
        peers: Vec<usize>,
        /// By how much, in milliseconds.
        by_ms: i64,
    },
    /// The disks of these lose all blobs with a crash; the journal stays.
    LoseBlobs {
        /// Which peers.
        peers: Vec<usize>,
        /// How long they are down.
        for_ms: u64,
    },
}

impl FaultConfig {
    /// The peers that this fault starts.
    pub fn joins(&self) -> Vec<usize> {
        if let FaultKind::Join { peers } = &self.what {
            peers.clone()
        } else {
            Vec::new()
        }
    }

    /// The peers that it names.
    pub fn named(&self) -> Vec<usize> {
        match &self.what {
            FaultKind::Crash { peers, .. }
            | FaultKind::Slow { peers, .. }
            | FaultKind::Join { peers }
            | FaultKind::Leave { peers }
            | FaultKind::ClockStep { peers, .. }
            | FaultKind::LoseBlobs { peers, .. } => peers.clone(),
            FaultKind::Partition { side, .. } => side.clone(),
            FaultKind::Storm { .. } => Vec::new(),
        }
    }
}

impl FaultKind {
    /// How long it lasts, in milliseconds.
    pub fn lasts_ms(&self) -> u64 {
        match self {
            FaultKind::Crash { for_ms, .. } => for_ms.unwrap_or(0),
            FaultKind::Partition { for_ms, .. }
            | FaultKind::Slow { for_ms, .. }
            | FaultKind::Storm { for_ms, .. }
            | FaultKind::LoseBlobs { for_ms, .. } => *for_ms,
            FaultKind::Join { .. } | FaultKind::Leave { .. } | FaultKind::ClockStep { .. } => 0,
        }
    }
}

/// Faults at random. Each kind comes on average once in `…_every_ms`; 0 turns it off.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomFaults {
    /// No fault begins or lasts beyond this, in virtual milliseconds: liveness must follow.
    pub until_ms: u64,
    /// Crashes of one peer.
    pub crash_every_ms: u64,
    /// Share of the crashes that hit whoever coordinates.
    pub crash_coordinator: f64,
    /// Partitions of a random set of peers.
    pub partition_every_ms: u64,
    /// Slow spells of one peer, by a factor of up to 20.
    pub slow_every_ms: u64,
    /// Spells of heavy loss, up to 60 %.
    pub storm_every_ms: u64,
    /// Clock steps of one peer, up to ten minutes to either side.
    pub clock_every_ms: u64,
    /// The longest that one fault lasts.
    pub longest_ms: u64,
}

impl Default for RandomFaults {
    fn default() -> Self {
        Self {
            until_ms: 60_000,
            crash_every_ms: 10_000,
            crash_coordinator: 0.4,
            partition_every_ms: 20_000,
            slow_every_ms: 20_000,
            storm_every_ms: 30_000,
            clock_every_ms: 30_000,
            longest_ms: 12_000,
        }
    }
}

impl RandomFaults {
    /// All faults of a run, drawn at its beginning.
    pub fn draw(&self, peers: usize, dice: &mut Dice) -> Vec<FaultConfig> {
        let rates = [
            self.crash_every_ms,
            self.partition_every_ms,
            self.slow_every_ms,
            self.storm_every_ms,
            self.clock_every_ms,
        ];
        let mut faults = Vec::new();
        for (kind, every_ms) in rates.into_iter().enumerate().filter(|(_, every_ms)| *every_ms > 0) {
            // Uniform gaps of this mean: a memoryless gap would need a logarithm, and no checker would notice.
            let mut at_ms = dice.between(0, 2 * every_ms);
            while at_ms < self.until_ms {
                let for_ms = dice.between(200, self.longest_ms.max(200)).min(self.until_ms - at_ms);
                faults.push(FaultConfig {
                    at_ms,
                    at_round: None,
                    what: self.draw_one(kind, peers, for_ms, dice),
                });
                at_ms += dice.between(1, 2 * every_ms);
            }
        }
        faults.sort_by_key(|fault| fault.at_ms);
        faults
    }

    fn draw_one(&self, kind: usize, peers: usize, for_ms: u64, dice: &mut Dice) -> FaultKind {
        let one = dice.below(peers as u64) as usize;
        match kind {
            0 => {
                let coordinator = dice.chance(self.crash_coordinator);
                let after_outputs = dice.chance(0.6).then(|| dice.below(12));
                let peers = if coordinator { Vec::new() } else { vec![one] };
                FaultKind::Crash {
                    peers,
                    coordinator,
                    for_ms: Some(for_ms),
                    after_outputs,
                }
            }
            1 => {
                let share = dice.unit();
                let side = (0..peers).filter(|_| dice.chance(share)).collect::<BTreeSet<_>>();
                FaultKind::Partition {
                    side: side.into_iter().collect(),
                    coordinator: dice.chance(0.2),
                    for_ms,
                }
            }
            2 => FaultKind::Slow {
                peers: vec![one],
                factor: 1.0 + 19.0 * dice.unit(),
                for_ms,
            },
            3 => FaultKind::Storm {
                loss: 0.6 * dice.unit(),
                for_ms,
            },
            _ => {
                let by_ms = dice.between(0, 1_200_000) as i64 - 600_000;
                FaultKind::ClockStep {
                    peers: vec![one],
                    by_ms,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_faults_repeat_and_end_in_time() {
        let random = RandomFaults::default();
        let faults = random.draw(5, &mut Dice::new(7, "faults"));
        assert_eq!(faults, random.draw(5, &mut Dice::new(7, "faults")));
        assert!(faults.len() > 5);
        assert!(
            faults
                .iter()
                .all(|fault| fault.at_ms + fault.what.lasts_ms() <= random.until_ms)
        );
    }
}
