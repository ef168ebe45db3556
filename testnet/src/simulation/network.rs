//! A network under virtual time: latency with jitter (hence reordering), bandwidth, loss, duplication and partitions.
//! It tells when something arrives; it holds no messages and no blobs, and it knows peers by index only.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::dice::Dice;

/// How the network behaves when nothing is scripted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// One way, in milliseconds. 20 is a country's breadth.
    pub latency_ms: u64,
    /// Added at random, uniformly from 0: messages overtake each other by this much.
    pub jitter_ms: u64,
    /// Share of messages that vanish; a blob's transfer is broken off as often.
    pub loss: f64,
    /// Share of messages that arrive twice.
    pub duplicate: f64,
    /// Each peer's uplink, in megabits a second.
    pub up_mbps: f64,
    /// Each peer's downlink, in megabits a second.
    pub down_mbps: f64,
    /// Links that differ, in both directions.
    pub links: Vec<LinkConfig>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            latency_ms: 20,
            jitter_ms: 10,
            loss: 0.0,
            duplicate: 0.0,
            up_mbps: 1000.0,
            down_mbps: 1000.0,
            links: Vec::new(),
        }
    }
}

/// One link that differs from the rest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Its two ends.
    pub between: [usize; 2],
    /// Its latency one way, in milliseconds.
    pub latency_ms: u64,
    /// Its loss.
    #[serde(default)]
    pub loss: f64,
}

/// A partition: nothing passes between `side` and the others.
#[derive(Debug, Clone)]
struct Cut {
    side: BTreeSet<usize>,
    from_ms: u64,
    until_ms: u64,
}

/// Bytes that one peer has sent or received, and until when its two planes are busy (in microseconds).
#[derive(Debug, Clone, Default)]
struct Card {
    control_up_us: u64,
    control_down_us: u64,
    bulk_up_us: u64,
    bulk_down_us: u64,
}

/// Totals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages handed over, copies of a broadcast included.
    pub messages: u64,
    /// Messages that vanished.
    pub lost: u64,
    /// Bytes of messages.
    pub control_bytes: u64,
    /// Bytes of blobs.
    pub bulk_bytes: u64,
}

/// The network of one run.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    cards: Vec<Card>,
    cuts: Vec<Cut>,
    /// Loss on top of the configured one, and until when.
    storm: (f64, u64),
    dice: Dice,
    totals: Totals,
}

impl Network {
    /// A network of so many peers.
    pub fn new(config: NetworkConfig, peers: usize, dice: Dice) -> Self {
        let cards = vec![Card::default(); peers];
        Self {
            config,
            cards,
            cuts: Vec::new(),
            storm: (0.0, 0),
            dice,
            totals: Totals::default(),
        }
    }

    /// What was carried so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Parts `side` from all others for a time.
    pub fn cut(&mut self, side: BTreeSet<usize>, from_ms: u64, until_ms: u64) {
        self.cuts.retain(|cut| cut.until_ms > from_ms);
        self.cuts.push(Cut {
            side,
            from_ms,
            until_ms,
        });
    }

    /// Raises the loss for a time.
    pub fn storm(&mut self, loss: f64, until_ms: u64) {
        self.storm = (loss, until_ms);
    }

    /// Whether anything passes between two peers now.
    pub fn connected(&self, a: usize, b: usize, now_ms: u64) -> bool {
        self.cuts
            .iter()
            .filter(|cut| (cut.from_ms..cut.until_ms).contains(&now_ms))
            .all(|cut| cut.side.contains(&a) == cut.side.contains(&b))
    }

    /// When a message to one peer arrives: never, once or twice. `hops` is 1 for a direct one, more for gossip;
    /// `charged` is false for gossip's copies, whose sending was charged by [`Network::charge_gossip`].
    pub fn message(
        &mut self,
        now_ms: u64,
        (from, to): (usize, usize),
        bytes: usize,
        hops: u64,
        charged: bool,
    ) -> [Option<u64>; 2] {
        self.totals.messages += 1;
        if charged {
            self.totals.control_bytes += bytes as u64;
        }
        let (latency_ms, loss) = self.link(from, to, now_ms);
        if !self.connected(from, to, now_ms) || self.dice.chance(loss) {
            self.totals.lost += 1;
            return [None, None];
        }
        let now_us = now_ms * 1000;
        let mut left_us = now_us;
        if charged {
            let busy = &mut self.cards[from].control_up_us;
            *busy = (*busy).max(now_us) + transfer_us(bytes as u64, self.config.up_mbps);
            left_us = *busy;
        }
        let first = self.arrival((now_us, left_us), to, bytes, latency_ms * hops);
        let second = self
            .dice
            .chance(self.config.duplicate)
            .then(|| self.arrival((now_us, left_us), to, bytes, latency_ms * hops));
        [Some(first), second]
    }

    /// Charges a gossiped message to its sender once: the mesh carries it on.
    pub fn charge_gossip(&mut self, now_ms: u64, from: usize, bytes: usize) {
        // Gossipsub's mesh degree of 6: the sender pushes six copies, others the rest.
        let sent = 6 * bytes as u64;
        self.totals.control_bytes += sent;
        let busy = &mut self.cards[from].control_up_us;
        *busy = (*busy).max(now_ms * 1000) + transfer_us(sent, self.config.up_mbps);
    }

    /// When a blob from `holder` is at `asker`, or None if the transfer breaks off.
    pub fn blob(&mut self, now_ms: u64, holder: usize, asker: usize, bytes: u64) -> Option<u64> {
        let (latency_ms, loss) = self.link(holder, asker, now_ms);
        if !self.connected(holder, asker, now_ms) || self.dice.chance(loss) {
            return None;
        }
        self.totals.bulk_bytes += bytes;
        let jitter_us = 1000 * self.dice.between(0, self.config.jitter_ms);
        // The request travels one way, the blob the other.
        let asked_us = now_ms * 1000 + latency_ms * 1000;
        let up = &mut self.cards[holder].bulk_up_us;
        *up = (*up).max(asked_us) + transfer_us(bytes, self.config.up_mbps);
        let arrived_us = *up + latency_ms * 1000 + jitter_us;
        let down = &mut self.cards[asker].bulk_down_us;
        *down = (*down).max(asked_us) + transfer_us(bytes, self.config.down_mbps);
        Some((*down).max(arrived_us).div_ceil(1000))
    }

    /// How long it takes to learn that a peer does not answer, in milliseconds.
    pub fn refusal_ms(&self, a: usize, b: usize, now_ms: u64) -> u64 {
        if self.connected(a, b, now_ms) {
            2 * self.link(a, b, now_ms).0 + 1
        } else {
            500
        }
    }

    /// A downlink takes its share from now on, not from the arrival: a message on a slow link holds up no other.
    fn arrival(&mut self, (now_us, left_us): (u64, u64), to: usize, bytes: usize, latency_ms: u64) -> u64 {
        let jitter_us = self.dice.below(1000 * self.config.jitter_ms + 1);
        let down = &mut self.cards[to].control_down_us;
        *down = (*down).max(now_us) + transfer_us(bytes as u64, self.config.down_mbps);
        (*down).max(left_us + latency_ms * 1000 + jitter_us).div_ceil(1000)
    }

    fn link(&self, a: usize, b: usize, now_ms: u64) -> (u64, f64) {
        let special = self
            .config
            .links
            .iter()
            .find(|link| link.between == [a, b] || link.between == [b, a]);
        let (latency_ms, loss) = special.map_or((self.config.latency_ms, self.config.loss), |link| {
            (link.latency_ms, link.loss)
        });
        let storm = if now_ms < self.storm.1 { self.storm.0 } else { 0.0 };
        (latency_ms, loss.max(storm))
    }
}

fn transfer_us(bytes: u64, mbps: f64) -> u64 {
    (bytes as f64 * 8.0 / mbps).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(change: impl FnOnce(&mut NetworkConfig)) -> Network {
        let mut config = NetworkConfig {
            jitter_ms: 0,
            ..NetworkConfig::default()
        };
        change(&mut config);
        Network::new(config, 3, Dice::new(1, "network"))
    }

    #[test]
    fn a_message_takes_its_latency_and_its_share_of_the_uplink() {
        let mut network = network(|config| config.up_mbps = 8.0);
        assert_eq!(network.message(0, (0, 1), 1_000, 1, true), [Some(21), None]);
        assert_eq!(
            network.message(0, (0, 2), 10_000, 1, true),
            [Some(31), None],
            "queued behind the first"
        );
        assert_eq!(
            network.message(500, (0, 2), 1_000, 2, true),
            [Some(541), None],
            "two hops, idle line"
        );
    }

    #[test]
    fn a_partition_parts_its_side_from_the_rest_while_it_lasts() {
        let mut network = network(|_| ());
        network.cut([2].into(), 100, 200);
        assert!(network.connected(0, 2, 99) && !network.connected(0, 2, 100) && network.connected(0, 1, 150));
        assert_eq!(network.message(150, (2, 0), 10, 1, true), [None, None]);
        assert_eq!(network.blob(150, 2, 0, 10), None);
        assert!(network.blob(200, 2, 0, 10).is_some());
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_configured() {
        let mut network = network(|config| (config.loss, config.duplicate) = (0.2, 0.1));
        let sent: Vec<_> = (0..10_000).map(|n| network.message(n, (0, 1), 10, 1, true)).collect();
        let lost = sent.iter().filter(|[first, _]| first.is_none()).count();
        let doubled = sent.iter().filter(|[_, second]| second.is_some()).count();
        assert!(
            (1_800..2_200).contains(&lost) && (650..950).contains(&doubled),
            "{lost} {doubled}"
        );
    }
}
