//! What went through the network and what was dropped, by plane, by peer and by queue.
//! It counts payloads, not headers, and decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use synod_protocol::identity::PeerId;

macro_rules! drops {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Named places where something was dropped, live.
        #[derive(Debug, Default)]
        pub(super) struct Drops { $($(#[$doc])* pub(super) $name: AtomicU64,)* }

        impl Drops {
            fn snapshot(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.load(Relaxed)),)*])
            }
        }
    };
}

drops! {
    /// Commands that found the control queue full.
    control_queue,
    /// Messages that found the traffic queue full, by count or by bytes.
    traffic_queue,
    /// Messages that found too many unacknowledged before them.
    in_flight,
    /// Messages that nobody acknowledged, or whose receiver could not be dialled.
    unacknowledged,
    /// Messages over the size limit, not sent.
    oversize,
    /// Messages for the driver that found the event queue full.
    event_queue,
    /// Lifecycle events that found the event queue full.
    event_queue_lifecycle,
    /// Incoming messages that found too many bytes waiting for the driver.
    inbound_bytes,
    /// Incoming messages over a peer's rate.
    peer_rate,
    /// Gossip that was not passed on, because its author is in no session of ours or it is too large.
    gossip_not_forwarded,
    /// Fetches that found the fetch queue full.
    fetch_queue,
    /// Blob requests refused because the requester is no member.
    blob_denied,
    /// Blob requests refused because too many are served.
    blob_busy,
}

/// The whole node's counters, live; shared by the tasks of both planes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) drops: Drops,
    /// Bytes of messages that wait for the swarm task or for an acknowledgement (a gauge).
    pub(super) queued_bytes: AtomicU64,
    /// Bytes of messages that wait for the driver (a gauge).
    pub(super) inbound_bytes: AtomicU64,
    pub(super) control: Tally,
    pub(super) bulk: Tally,
}

/// Bytes and items in and out, live.
#[derive(Debug, Default)]
pub(super) struct Tally {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    items_in: AtomicU64,
    items_out: AtomicU64,
    bytes_per_s: AtomicU64,
}

/// Bytes and items (messages, or blobs in whole or part) that came and went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// Messages or blob transfers received.
    pub items_in: u64,
    /// Messages or blob transfers sent.
    pub items_out: u64,
    /// Speed of the last transfer of a mebibyte or more that came, over one stream; 0 before there was one.
    pub bytes_per_s: u64,
}

/// Shorter transfers tell the round trip, not the bandwidth.
const MEASURED_BYTES: u64 = 1 << 20;

impl Tally {
    pub(super) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }
    pub(super) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }
    pub(super) fn item_in(&self) {
        self.items_in.fetch_add(1, Relaxed);
    }
    pub(super) fn item_out(&self) {
        self.items_out.fetch_add(1, Relaxed);
    }
    /// Takes note of how long a transfer took, if it was long enough to tell.
    pub(super) fn took(&self, bytes: u64, time: Duration) {
        if bytes >= MEASURED_BYTES {
            let speed = bytes as f64 / time.as_secs_f64().max(1e-6);
            self.bytes_per_s.store(speed as u64, Relaxed);
        }
    }
    pub(super) fn snapshot(&self) -> Traffic {
        Traffic {
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            items_in: self.items_in.load(Relaxed),
            items_out: self.items_out.load(Relaxed),
            bytes_per_s: self.bytes_per_s.load(Relaxed),
        }
    }
}

/// Counts one dropped thing.
pub(super) fn count(place: &AtomicU64) {
    place.fetch_add(1, Relaxed);
}

/// A picture of the counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NetworkCounters {
    /// Messages, gossip hops included, without what gossip forwards for others.
    pub control: Traffic,
    /// Blobs.
    pub bulk: Traffic,
    /// Messages by peer (for gossip: the hop that brought them).
    pub control_by_peer: BTreeMap<PeerId, Traffic>,
    /// Blobs by peer.
    pub bulk_by_peer: BTreeMap<PeerId, Traffic>,
    /// What was dropped, by the name of the queue or limit.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// The picture of the whole node; the planes add their peers.
    pub(super) fn snapshot(&self) -> NetworkCounters {
        NetworkCounters {
            control: self.control.snapshot(),
            bulk: self.bulk.snapshot(),
            control_by_peer: BTreeMap::new(),
            bulk_by_peer: BTreeMap::new(),
            dropped: self.drops.snapshot(),
        }
    }
}
