//! What share of a slow, long or lossy link the data plane reaches: one node fetches a blob from another through a link that
//! this process emulates (rate, round-trip time, random loss, a queue of one bandwidth-delay product). One JSON line a case.
//!
//! The link is a relay of datagrams between two loopback addresses, so that it runs anywhere and as anyone; it paces by
//! milliseconds, as a kernel's emulation does. Blobs travel as between institutions: QUIC with the node's own settings.
//! `SYNOD_LINK_MIB` sets the blob's size, `SYNOD_LINK_REPETITIONS` how often each case runs.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use synod_node::network::{self, BlobAccess, FetchId, Network, NetworkConfig, NetworkEvent};
use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

const SESSION: SessionId = SessionId([7; 32]);
const PATIENCE: Duration = Duration::from_secs(300);

/// A link as its users see it.
#[derive(Debug, Clone, Copy)]
struct Link {
    mbit: f64,
    round_trip_ms: f64,
    loss: f64,
    /// The share of the link that is aimed at.
    target: f64,
}

const fn link(mbit: f64, round_trip_ms: f64, loss: f64, target: f64) -> Link {
    Link {
        mbit,
        round_trip_ms,
        loss,
        target,
    }
}

const LINKS: [Link; 5] = [
    link(100.0, 50.0, 0.0, 0.90),
    link(100.0, 50.0, 0.001, 0.85),
    link(100.0, 50.0, 0.01, 0.80),
    link(400.0, 20.0, 0.0, 0.85),
    link(100.0, 200.0, 0.0, 0.75),
];

/// One direction of a link: a queue that empties at its rate, then a delay.
struct Direction {
    link: Link,
    queued: VecDeque<(Instant, Vec<u8>)>,
    free_at: Instant,
    dice: u64,
    dropped: u64,
}

impl Direction {
    fn new(link: Link, seed: u64) -> Self {
        Self {
            link,
            queued: VecDeque::new(),
            free_at: Instant::now(),
            dice: seed,
            dropped: 0,
        }
    }

    /// Takes a datagram in, unless it is lost or the queue is full.
    fn push(&mut self, bytes: &[u8], now: Instant) {
        // Xorshift is enough to decide who is lost.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let lost = (self.dice >> 11) as f64 / (1u64 << 53) as f64;
        let waits = self.free_at.saturating_duration_since(now).as_secs_f64() * 1e3;
        if lost < self.link.loss || waits > self.link.round_trip_ms.max(20.0) {
            self.dropped += 1;
            return;
        }
        // Headers of UDP and IP count on a real link.
        let takes = (bytes.len() + 28) as f64 * 8.0 / (self.link.mbit * 1e6);
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(takes);
        let arrives = self.free_at + Duration::from_secs_f64(self.link.round_trip_ms / 2e3);
        self.queued.push_back((arrives, bytes.to_vec()));
    }

    fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self.queued.front() {
            Some((at, _)) if *at <= now => self.queued.pop_front().map(|(_, bytes)| bytes),
            _ => None,
        }
    }
}

/// Relays between whoever sends to `outside` and `inside`, until the socket is dropped with its task.
async fn relay(outside: UdpSocket, inside: SocketAddr, link: Link) -> u64 {
    let within = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    within.connect(inside).await.expect("loopback");
    let (mut up, mut down) = (Direction::new(link, 0x9E37_79B9), Direction::new(link, 0x85EB_CA6B));
    let mut asker: Option<SocketAddr> = None;
    let (mut from_outside, mut from_inside) = (vec![0; 65_536], vec![0; 65_536]);
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            Ok((length, from)) = outside.recv_from(&mut from_outside) => {
                asker = Some(from);
                up.push(&from_outside[..length], Instant::now());
            }
            Ok(length) = within.recv(&mut from_inside) => down.push(&from_inside[..length], Instant::now()),
            _ = tick.tick() => {
                let now = Instant::now();
                while let Some(bytes) = up.due(now) {
                    let _full = within.send(&bytes).await;
                }
                while let Some(bytes) = down.due(now) {
                    if let Some(asker) = asker {
                        let _full = outside.send_to(&bytes, asker).await;
                    }
                }
            }
        }
    }
}

struct Node {
    network: Network,
    shutdown: CancellationToken,
    folder: TempDir,
}

impl Node {
    async fn start(seed: u8, config: NetworkConfig) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let blobs = BlobAccess::folder(folder.path());
        let shutdown = CancellationToken::new();
        let identity = Identity::from_secret([seed; 32]);
        let network = network::start(config, &identity, blobs, shutdown.clone()).await;
        Self {
            network: network.expect("it starts"),
            shutdown,
            folder,
        }
    }

    fn id(&self) -> PeerId {
        self.network.handle.peer_id()
    }

    async fn wait<T>(&mut self, mut wanted: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        loop {
            let event = self.network.events.recv().await.expect("the network runs");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }
}

/// Two loopback addresses with one free port number: the node listens on the one, the link on the other.
async fn two_addresses() -> (UdpSocket, SocketAddr) {
    for _ in 0..64 {
        let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = outside.local_addr().expect("bound").port();
        let inside = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
        if std::net::UdpSocket::bind(inside).is_ok() && std::net::TcpListener::bind(inside).is_ok() {
            return (outside, inside);
        }
    }
    panic!("no port is free on 127.0.0.1 and 127.0.0.2")
}

async fn fetch(link: Link, mebibytes: usize) -> f64 {
    let (outside, inside) = two_addresses().await;
    let config = NetworkConfig {
        bulk_listen: inside,
        ..NetworkConfig::loopback()
    };
    let holder = Node::start(1, config).await;
    let mut asker = Node::start(2, NetworkConfig::loopback()).await;
    let relay = tokio::spawn(relay(outside, inside, link));
    let members = vec![holder.id(), asker.id()];
    holder.network.handle.set_members(SESSION, members.clone());
    asker.network.handle.set_members(SESSION, members);
    let mut bytes = vec![0; mebibytes << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let blob = BlobId::of(&bytes);
    std::fs::write(holder.folder.path().join(blob.to_string()), &bytes).expect("it is written");
    asker
        .network
        .handle
        .dial(holder.network.handle.listen_addresses().await.control);
    let to = holder.id();
    asker
        .wait(|event| (event == NetworkEvent::Connected(to)).then_some(()))
        .await;
    let began = Instant::now();
    let queued = asker
        .network
        .handle
        .fetch(FetchId(1), blob, bytes.len() as u64, vec![to], PATIENCE);
    queued.expect("the queue has room");
    let outcome = asker
        .wait(|event| match event {
            NetworkEvent::Fetched { outcome, .. } => Some(outcome),
            _ => None,
        })
        .await;
    outcome.expect("the blob comes");
    let seconds = began.elapsed().as_secs_f64();
    relay.abort();
    for mut node in [holder, asker] {
        node.shutdown.cancel();
        while node.network.tasks.join_next().await.is_some() {}
    }
    seconds
}

fn number(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let (mebibytes, repetitions) = (number("SYNOD_LINK_MIB", 128), number("SYNOD_LINK_REPETITIONS", 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for link in LINKS {
        let mut shares: Vec<f64> = (0..repetitions)
            .map(|_| {
                let seconds = runtime.block_on(fetch(link, mebibytes));
                (mebibytes << 20) as f64 * 8.0 / 1e6 / seconds / link.mbit
            })
            .collect();
        shares.sort_by(f64::total_cmp);
        let line = serde_json::json!({
            "mbit": link.mbit,
            "round_trip_ms": link.round_trip_ms,
            "loss": link.loss,
            "mebibytes": mebibytes,
            "share": {
                "least": shares[0],
                "median": shares[shares.len() / 2],
                "greatest": shares[shares.len() - 1],
            },
            "target": link.target,
            "met": shares[shares.len() / 2] >= link.target,
            "repetitions": repetitions,
        });
        println!("{line}");
    }
}
