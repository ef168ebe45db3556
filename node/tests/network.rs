//! Both planes over real sockets on 127.0.0.1: messages, blobs, liars, closed UDP, relays, restarts and kills.
//! Waits are generous and assert no speed; what a run measured is printed (`--nocapture`).

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use synod_node::network::{
    self, BlobAccess, FetchFailure, FetchId, Network, NetworkConfig, NetworkError, NetworkEvent, NetworkHandle,
};
use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const SESSION: SessionId = SessionId([42; 32]);
const PATIENCE: Duration = Duration::from_secs(90);

struct Node {
    seed: u8,
    network: Network,
    shutdown: CancellationToken,
    folder: TempDir,
}

impl Node {
    async fn start(seed: u8) -> Self {
        Self::start_with(seed, NetworkConfig::loopback()).await
    }

    async fn start_with(seed: u8, config: NetworkConfig) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let blobs = BlobAccess::folder(folder.path());
        Self::start_in(seed, config, folder, blobs).await
    }

    async fn start_in(seed: u8, config: NetworkConfig, folder: TempDir, blobs: BlobAccess) -> Self {
        let shutdown = CancellationToken::new();
        let identity = Identity::from_secret([seed; 32]);
        let network = network::start(config, &identity, blobs, shutdown.clone())
            .await
            .expect("it starts");
        Self {
            seed,
            network,
            shutdown,
            folder,
        }
    }

    fn handle(&self) -> &NetworkHandle {
        &self.network.handle
    }

    fn id(&self) -> PeerId {
        self.network.handle.peer_id()
    }

    async fn dial(&self, other: &Self) {
        self.handle().dial(other.handle().listen_addresses().await.control);
    }

    /// Waits for an event and drops what comes before.
    async fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.network.events.recv().await.expect("the network runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("node {} waited in vain for {what}", self.seed),
        }
    }

    async fn wait_connected(&mut self, peer: PeerId) {
        self.wait("a connection", |event| {
            (event == NetworkEvent::Connected(peer)).then_some(())
        })
        .await;
    }

    async fn wait_gone(&mut self, peer: PeerId) {
        self.wait("a peer to go", |event| {
            (event == NetworkEvent::Disconnected(peer)).then_some(())
        })
        .await;
    }

    async fn wait_message(&mut self, expected: &[u8]) -> PeerId {
        self.wait("a message", |event| match event {
            NetworkEvent::Message { from, bytes, .. } if bytes == expected => Some(from),
            _ => None,
        })
        .await
    }

    /// The next message, if one comes within this time.
    async fn heard(&mut self, patience: Duration) -> Option<Vec<u8>> {
        match tokio::time::timeout(patience, self.network.events.recv()).await {
            Ok(Some(NetworkEvent::Message { bytes, .. })) => Some(bytes.to_vec()),
            _ => None,
        }
    }

    /// Fetches, and gives the outcome, the liars, and the seconds it took.
    async fn fetch(&mut self, blob: BlobId, length: u64, from: &[PeerId], patience: Duration) -> Fetched {
        let id = FetchId(length ^ u64::from(self.seed));
        let begin = Instant::now();
        self.handle()
            .fetch(id, blob, length, from.to_vec(), patience)
            .expect("the queue has room");
        let (outcome, liars) = self
            .wait("a fetched blob", |event| match event {
                NetworkEvent::Fetched {
                    id: answered,
                    outcome,
                    liars,
                    ..
                } if answered == id => Some((outcome, liars)),
                _ => None,
            })
            .await;
        Fetched {
            outcome,
            liars,
            seconds: begin.elapsed().as_secs_f64(),
        }
    }

    fn put(&self, bytes: &[u8]) -> BlobId {
        let blob = BlobId::of(bytes);
        std::fs::write(self.folder.path().join(blob.to_string()), bytes).expect("it is written");
        blob
    }

    fn has(&self, blob: BlobId) -> bool {
        std::fs::read(self.folder.path().join(blob.to_string())).is_ok_and(|bytes| BlobId::of(&bytes) == blob)
    }

    async fn stop(mut self) -> (u8, TempDir) {
        self.shutdown.cancel();
        while self.network.tasks.join_next().await.is_some() {}
        (self.seed, self.folder)
    }
}

struct Fetched {
    outcome: Result<network::FetchedFrom, FetchFailure>,
    liars: Vec<PeerId>,
    seconds: f64,
}

impl Fetched {
    fn from(&self) -> Result<Option<PeerId>, FetchFailure> {
        self.outcome.clone().map(|from| from.peer)
    }
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn introduce(nodes: &[&Node]) {
    let members: Vec<PeerId> = nodes.iter().map(|node| node.id()).collect();
    for node in nodes {
        node.handle().set_members(SESSION, members.clone());
    }
}

async fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    introduce(&[&a, &b]);
    b.dial(&a).await;
    let (to_a, to_b) = (a.id(), b.id());
    tokio::join!(a.wait_connected(to_b), b.wait_connected(to_a));
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_reach_the_other_of_two() {
    let (mut a, mut b) = pair().await;
    // At once after connecting, when no gossip mesh can have formed.
    a.handle().broadcast(SESSION, b"early".to_vec());
    assert_eq!(b.wait_message(b"early").await, a.id());
    b.handle().broadcast(SESSION, b"answer".to_vec());
    assert_eq!(a.wait_message(b"answer").await, b.id());
    // A repeated message is heard again.
    b.handle().broadcast(SESSION, b"answer".to_vec());
    assert_eq!(a.wait_message(b"answer").await, b.id());
    let large = noise(900_000, 1);
    a.handle().broadcast(SESSION, large.clone());
    assert_eq!(b.wait_message(&large).await, a.id());
    b.handle().send(a.id(), b"for you".to_vec());
    assert_eq!(a.wait_message(b"for you").await, b.id());
    a.handle().send(b.id(), vec![0; network::config::MESSAGE_MAX_BYTES + 1]);
    assert_eq!(a.handle().counters().await.dropped["oversize"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_that_know_one_find_each_other_and_hear_everyone() {
    let mut nodes = Vec::new();
    for seed in 1..=5 {
        nodes.push(Node::start(seed).await);
    }
    introduce(&nodes.iter().collect::<Vec<_>>());
    for node in &nodes[1..] {
        node.dial(&nodes[0]).await;
    }
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let mut connected = 0;
        for node in &nodes {
            connected += node.handle().peers().await.len();
        }
        if connected == 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for node in &nodes {
        assert_eq!(node.handle().peers().await.len(), 4, "peers of node {}", node.seed);
    }
    println!(
        "five nodes were all connected after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    for speaker in 0..5usize {
        let text = format!("from {speaker}").into_bytes();
        nodes[speaker].handle().broadcast(SESSION, text.clone());
        for (_, listener) in nodes
            .iter_mut()
            .enumerate()
            .filter(|(listener, _)| *listener != speaker)
        {
            listener.wait_message(&text).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_is_fetched_whole() {
    let (mut a, mut b) = pair().await;
    let mebibytes: usize = std::env::var("SYNOD_FETCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(32);
    let blob = a.put(&noise(mebibytes << 20, 3));
    let length = (mebibytes as u64) << 20;
    let fetched = b.fetch(blob, length, &[a.id()], PATIENCE).await;
    assert_eq!(fetched.from(), Ok(Some(a.id())));
    assert!(b.has(blob));
    println!(
        "quic: {mebibytes} MiB in {:.2} s, {:.0} MB/s",
        fetched.seconds,
        length as f64 / 1e6 / fetched.seconds
    );
    let counters = b.handle().counters().await;
    assert!(counters.bulk.bytes_in >= length && counters.bulk_by_peer[&a.id()].bytes_in >= length);
    // It is in the store now: nobody needs to be asked.
    assert_eq!(b.fetch(blob, length, &[a.id()], PATIENCE).await.from(), Ok(None));
    // Back over the connection that b opened.
    let small = b.put(&noise(1000, 4));
    assert_eq!(a.fetch(small, 1000, &[b.id()], PATIENCE).await.from(), Ok(Some(b.id())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_edge_lengths_are_fetched() {
    let (a, mut b) = pair().await;
    const G: usize = network::config::BLOB_GROUP_BYTES as usize;
    for length in [0, 1, G - 1, G, G + 1, 2 * G, 3 * G + 1] {
        let blob = a.put(&noise(length, 9));
        let fetched = b.fetch(blob, length as u64, &[a.id()], PATIENCE).await;
        assert_eq!(fetched.from(), Ok(Some(a.id())), "length {length}");
        assert!(b.has(blob), "length {length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_udp_blobs_come_over_tcp() {
    let a = Node::start(1).await;
    let config = NetworkConfig {
        bulk_quic: false,
        ..NetworkConfig::loopback()
    };
    let mut b = Node::start_with(2, config).await;
    introduce(&[&a, &b]);
    b.dial(&a).await;
    b.wait_connected(a.id()).await;
    let length = 32 << 20;
    let blob = a.put(&noise(length, 5));
    let fetched = b.fetch(blob, length as u64, &[a.id()], PATIENCE).await;
    assert_eq!(fetched.from(), Ok(Some(a.id())));
    assert!(b.has(blob));
    println!(
        "tcp: 32 MiB in {:.2} s, {:.0} MB/s",
        fetched.seconds,
        length as f64 / 1e6 / fetched.seconds
    );
}

/// Serves true group hashes and false bytes: every second opening gives a file that is wrong from its sixth mebibyte.
fn lying_access(folder: &TempDir, bytes: &[u8]) -> BlobAccess {
    let honest = BlobAccess::folder(folder.path());
    let (true_bytes, mut false_bytes) = (bytes.to_vec(), bytes.to_vec());
    false_bytes[(5 << 20) + 17..].iter_mut().for_each(|byte| *byte ^= 0x55);
    let openings = AtomicUsize::new(0);
    let open = move |_: &BlobId| {
        let lies = openings.fetch_add(1, Ordering::SeqCst) > 0;
        let mut file: File = tempfile::tempfile()?;
        file.write_all(if lies { &false_bytes } else { &true_bytes })?;
        file.rewind()?;
        Ok(Some((file, true_bytes.len() as u64)))
    };
    BlobAccess {
        open: Arc::new(open),
        ..honest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_is_named_and_another_holder_goes_on_where_it_stopped() {
    let bytes = noise(12 << 20, 6);
    let length = bytes.len() as u64;
    let folder = TempDir::new().expect("a temporary folder");
    let access = lying_access(&folder, &bytes);
    let liar = Node::start_in(7, NetworkConfig::loopback(), folder, access).await;
    let (honest, mut asker) = pair().await;
    introduce(&[&liar, &honest, &asker]);
    asker.dial(&liar).await;
    asker.wait_connected(liar.id()).await;
    let blob = BlobId::of(&bytes);

    let alone = asker.fetch(blob, length, &[liar.id()], PATIENCE).await;
    assert_eq!(alone.outcome, Err(FetchFailure::WrongDigest { peer: liar.id() }));
    assert_eq!(alone.liars, [liar.id()]);
    assert!(!asker.has(blob));

    honest.put(&bytes);
    let together = asker.fetch(blob, length, &[liar.id(), honest.id()], PATIENCE).await;
    assert_eq!(together.liars, [liar.id()]);
    assert_eq!(together.from(), Ok(Some(honest.id())));
    assert!(asker.has(blob));
    // Five good mebibytes were there from the first try; of the rest, a false one came besides on each of the liar's lanes.
    let moved = together.outcome.map_or(0, |from| from.bytes);
    assert!(moved < length - (2 << 20), "{moved} bytes moved for {length}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_holders_share_a_large_blob_and_a_liar_among_them_costs_little() {
    let bytes = noise(60 << 20, 8);
    let (blob, length) = (BlobId::of(&bytes), bytes.len() as u64);
    let folder = TempDir::new().expect("a temporary folder");
    let access = lying_access(&folder, &bytes);
    let liar = Node::start_in(7, NetworkConfig::loopback(), folder, access).await;
    let (one, two) = pair().await;
    let mut asker = Node::start(3).await;
    introduce(&[&liar, &one, &two, &asker]);
    for holder in [&liar, &one, &two] {
        asker.dial(holder).await;
        asker.wait_connected(holder.id()).await;
    }
    one.put(&bytes);
    two.put(&bytes);
    let from = [one.id(), two.id(), liar.id()];
    let fetched = asker.fetch(blob, length, &from, PATIENCE).await;
    assert!(asker.has(blob), "{:?}", fetched.outcome);
    let counters = asker.handle().counters().await;
    for holder in [&one, &two] {
        let share = counters.bulk_by_peer[&holder.id()].bytes_in;
        assert!(share > 5 << 20, "{share} bytes of {length} came from one honest holder");
    }
    let moved = fetched.outcome.map_or(u64::MAX, |from| from.bytes);
    assert!(moved * 10 < length * 13, "{moved} bytes moved for {length}");
    assert!(fetched.liars.is_empty() || fetched.liars == [liar.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_fetched_says_why() {
    let (a, mut b) = pair().await;
    let unknown = BlobId([3; 32]);
    assert_eq!(
        b.fetch(unknown, 1000, &[a.id()], PATIENCE).await.from(),
        Err(FetchFailure::NotFound)
    );
    assert_eq!(
        b.fetch(unknown, 3 << 20, &[a.id()], PATIENCE).await.from(),
        Err(FetchFailure::NotFound)
    );
    assert_eq!(
        b.fetch(unknown, 1, &[b.id()], PATIENCE).await.from(),
        Err(FetchFailure::NoHolder)
    );
    let too_large = FetchFailure::TooLarge { expected: u64::MAX };
    assert_eq!(
        b.fetch(unknown, u64::MAX, &[a.id()], PATIENCE).await.from(),
        Err(too_large)
    );

    let blob = a.put(&noise(5000, 1));
    let wrong = FetchFailure::WrongLength {
        peer: a.id(),
        expected: 4000,
        says: 5000,
    };
    assert_eq!(b.fetch(blob, 4000, &[a.id()], PATIENCE).await.from(), Err(wrong));

    let own = b.put(&noise(5000, 3));
    let other_length = FetchFailure::OtherLength {
        expected: 5001,
        says: 5000,
    };
    assert_eq!(b.fetch(own, 5001, &[a.id()], PATIENCE).await.from(), Err(other_length));
    assert_eq!(b.fetch(own, 5000, &[a.id()], PATIENCE).await.from(), Ok(None));

    let nobody = Identity::from_secret([99; 32]).peer_id();
    let outcome = b.fetch(blob, 5000, &[nobody], Duration::from_secs(2)).await.from();
    assert!(matches!(outcome, Err(FetchFailure::Unreachable { .. })), "{outcome:?}");

    // A folder in the place of the partial file stands for a disk that does not take it.
    let other = a.put(&noise(5000, 2));
    std::fs::create_dir(b.folder.path().join(format!("{other}.part"))).expect("it is made");
    let outcome = b.fetch(other, 5000, &[a.id()], PATIENCE).await.from();
    assert!(matches!(outcome, Err(FetchFailure::Disk(_))), "{outcome:?}");
    assert_eq!(
        b.fetch(blob, 5000, &[nobody, a.id()], PATIENCE).await.from(),
        Ok(Some(a.id()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_fetch_is_answered_and_frees_its_place() {
    let (a, mut b) = pair().await;
    let nobody = Identity::from_secret([99; 32]).peer_id();
    let blob = a.put(&noise(5000, 4));
    // The first two run and wait for somebody who is not there; the third waits for a place.
    for number in 1..=3 {
        let wanted = BlobId([number; 32]);
        let id = FetchId(u64::from(number));
        let taken = b.handle().fetch(id, wanted, 5000, vec![nobody], PATIENCE * 10);
        taken.expect("the queue has room");
    }
    assert_eq!(b.fetch(blob, 5000, &[a.id()], PATIENCE).await.from(), Ok(Some(a.id())));
    for number in [3, 1, 2] {
        b.handle().cancel(FetchId(number));
        let outcome = b
            .wait("the cancelled fetch", |event| match event {
                NetworkEvent::Fetched { id, outcome, .. } if id == FetchId(number) => Some(outcome),
                _ => None,
            })
            .await;
        assert_eq!(outcome, Err(FetchFailure::Cancelled));
    }
    assert_eq!(b.fetch(blob, 5000, &[nobody], PATIENCE).await.from(), Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_of_strangers_goes_no_further() {
    // A line: the ends know only the middle, so that what one hears of the other has passed it.
    let alone = || NetworkConfig {
        kademlia: false,
        ..NetworkConfig::loopback()
    };
    let mut left = Node::start_with(1, alone()).await;
    let mut middle = Node::start_with(2, alone()).await;
    let mut right = Node::start_with(3, alone()).await;
    let stranger = right.id();
    left.handle().set_members(SESSION, [middle.id()]);
    middle.handle().set_members(SESSION, [left.id()]);
    right.handle().subscribe(SESSION);
    left.dial(&middle).await;
    right.dial(&middle).await;
    left.wait_connected(middle.id()).await;
    right.wait_connected(middle.id()).await;
    // Nothing passes before the middle knows that the left end listens, which a message of the middle shows.
    let told = async {
        while left.heard(Duration::from_millis(200)).await.as_deref() != Some(&b"of the middle"[..]) {
            middle.handle().broadcast(SESSION, b"of the middle".to_vec());
        }
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .expect("the left end hears the middle");

    // Numbered, because a later one may still be under way when the stranger is let in.
    let told = async {
        for number in 0u32.. {
            right.handle().broadcast(SESSION, number.to_le_bytes().to_vec());
            if let Some(heard) = middle.heard(Duration::from_millis(200)).await {
                return heard;
            }
        }
        unreachable!("the loop has no end")
    };
    let refused = tokio::time::timeout(PATIENCE, told).await;
    let refused = refused.expect("the middle hears the stranger");
    assert_eq!(refused.len(), 4, "the left end says nothing");
    assert!(middle.handle().counters().await.dropped["gossip_not_forwarded"] > 0);

    middle.handle().allow(stranger);
    let passed_on = async {
        loop {
            right.handle().broadcast(SESSION, b"of one let in".to_vec());
            match left.heard(Duration::from_millis(200)).await.as_deref() {
                Some(heard) if heard == refused => panic!("the stranger's message was passed on"),
                Some(b"of one let in") => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, passed_on)
        .await
        .expect("what one that was let in says is passed on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_denied_until_it_is_allowed() {
    let (holder, mut stranger) = (Node::start(1).await, Node::start(2).await);
    stranger.dial(&holder).await;
    stranger.wait_connected(holder.id()).await;
    let blob = holder.put(&noise(2 << 20, 8));
    let denied = stranger.fetch(blob, 2 << 20, &[holder.id()], PATIENCE).await;
    assert_eq!(denied.from(), Err(FetchFailure::Denied { peer: holder.id() }));
    assert!(holder.handle().counters().await.dropped["blob_denied"] > 0);
    holder.handle().allow(stranger.id());
    assert_eq!(
        stranger.fetch(blob, 2 << 20, &[holder.id()], PATIENCE).await.from(),
        Ok(Some(holder.id()))
    );
    assert!(stranger.has(blob));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banned_peer_stays_away_until_the_ban_ends() {
    let (mut a, mut b) = pair().await;
    let (to_a, to_b) = (a.id(), b.id());
    a.handle().ban(to_b, Duration::from_secs(3));
    a.wait_gone(to_b).await;
    b.wait_gone(to_a).await;
    a.wait_connected(to_b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_only_a_relay_reaches_serves_through_it() {
    let ports = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at_relay = format!("/ip4/127.0.0.1/tcp/{}", ports.local_addr().expect("it is bound").port());
    drop(ports);
    // A relay must know its own address to give it to those whom it carries.
    let relay_config = NetworkConfig {
        relay_server: true,
        listen: vec![at_relay.clone()],
        external: vec![at_relay.clone()],
        ..NetworkConfig::loopback()
    };
    let relay = Node::start_with(1, relay_config).await;
    let hidden_config = NetworkConfig {
        listen: Vec::new(),
        relays: vec![format!("{at_relay}/p2p/{}", relay.id())],
        ..NetworkConfig::loopback()
    };
    let mut hidden = Node::start_with(2, hidden_config).await;
    let circuit = hidden
        .wait("a place at the relay", |event| match event {
            NetworkEvent::Listening(address) if address.contains("p2p-circuit") => Some(address),
            _ => None,
        })
        .await;
    let mut asker = Node::start(3).await;
    asker.handle().add_addresses(hidden.id(), vec![circuit]);
    introduce(&[&hidden, &asker]);
    asker.wait_connected(hidden.id()).await;
    asker.handle().send(hidden.id(), b"through".to_vec());
    hidden.wait_message(b"through").await;
    let blob = hidden.put(&noise(3 << 20, 2));
    let fetched = asker.fetch(blob, 3 << 20, &[hidden.id()], PATIENCE).await;
    assert_eq!(fetched.from(), Ok(Some(hidden.id())));
    assert!(asker.has(blob));
    println!(
        "relay: 3 MiB in {:.2} s; {:?}",
        fetched.seconds,
        asker.handle().peers().await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_found_again_on_its_old_address() {
    let (mut a, mut b) = pair().await;
    let listen = b.handle().listen_addresses().await;
    let without_name = |address: &String| address.split("/p2p/").next().unwrap_or_default().to_owned();
    let config = NetworkConfig {
        listen: listen.control.iter().map(without_name).collect(),
        bulk_listen: listen.bulk[0],
        ..NetworkConfig::loopback()
    };
    let first = b.put(&noise(2 << 20, 1));
    let peer = b.id();
    assert_eq!(a.fetch(first, 2 << 20, &[peer], PATIENCE).await.from(), Ok(Some(peer)));
    let (seed, folder) = b.stop().await;
    a.wait_gone(peer).await;

    // The system frees the ports a moment after the last task is gone.
    let port = |address: &String| address.split('/').nth(4).and_then(|port| port.parse::<u16>().ok());
    let mut ports: Vec<u16> = listen.control.iter().filter_map(port).collect();
    ports.push(listen.bulk[0].port());
    let is_free = |port: &u16| {
        let here = ("127.0.0.1", *port);
        std::net::UdpSocket::bind(here).is_ok() && std::net::TcpListener::bind(here).is_ok()
    };
    while !ports.iter().all(is_free) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let blobs = BlobAccess::folder(folder.path());
    b = Node::start_in(seed, config, folder, blobs).await;
    // Nobody dials by hand: a member is held.
    introduce(&[&a, &b]);
    a.wait_connected(peer).await;
    b.wait_connected(a.id()).await;
    a.handle().send(peer, b"welcome back".to_vec());
    b.wait_message(b"welcome back").await;
    let second = b.put(&noise(2 << 20, 2));
    assert_eq!(a.fetch(second, 2 << 20, &[peer], PATIENCE).await.from(), Ok(Some(peer)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_had_is_named() {
    let a = Node::start(1).await;
    let listen = a.handle().listen_addresses().await;
    let identity = Identity::from_secret([2; 32]);
    let folder = TempDir::new().expect("a temporary folder");
    let refusal = async |config: NetworkConfig| {
        let blobs = BlobAccess::folder(folder.path());
        network::start(config, &identity, blobs, CancellationToken::new())
            .await
            .expect_err("it cannot be had")
    };
    for address in &listen.control {
        let address = address.split("/p2p/").next().unwrap_or_default().to_owned();
        let error = refusal(NetworkConfig {
            listen: vec![address.clone()],
            ..NetworkConfig::loopback()
        })
        .await;
        assert!(
            matches!(&error, NetworkError::AddressInUse { address: named } if *named == address),
            "{error}"
        );
    }
    let error = refusal(NetworkConfig {
        bulk_listen: listen.bulk[0],
        ..NetworkConfig::loopback()
    })
    .await;
    assert!(error.to_string().contains(&listen.bulk[0].to_string()), "{error}");
    assert!(matches!(error, NetworkError::AddressInUse { .. }), "{error}");
    let error = refusal(NetworkConfig {
        listen: vec!["nonsense".to_owned()],
        ..NetworkConfig::loopback()
    })
    .await;
    assert!(matches!(error, NetworkError::BadAddress { .. }), "{error}");
    let error = refusal(NetworkConfig {
        listen: vec!["/ip4/192.0.2.1/tcp/0".to_owned()],
        ..NetworkConfig::loopback()
    });
    let error = error.await;
    assert!(matches!(error, NetworkError::Listen { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_do_no_harm() {
    use tokio::io::AsyncWriteExt;
    let (mut a, mut b) = pair().await;
    let listen = a.handle().listen_addresses().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let ports = listen
        .control
        .iter()
        .filter_map(|address| address.split('/').nth(4)?.parse::<u16>().ok());
    for port in ports.chain([listen.bulk[0].port()]) {
        for seed in 0..40 {
            let bytes = noise(1200, seed);
            // Where the port is a TCP one only, or hangs up early, these fail.
            let _refused = socket.send_to(&bytes, ("127.0.0.1", port)).await;
            if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                let _refused = stream.write_all(&bytes).await;
            }
        }
    }
    b.handle().send(a.id(), b"alive".to_vec());
    assert_eq!(a.wait_message(b"alive").await, b.id());
    let blob = a.put(&noise(2 << 20, 7));
    assert_eq!(
        b.fetch(blob, 2 << 20, &[a.id()], PATIENCE).await.from(),
        Ok(Some(a.id()))
    );
}

/// Run by the next test in a process of its own, which is then killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child process of a_killed_peer_is_noticed_and_found_again"]
async fn child_node() {
    let port: u16 = std::env::var("SYNOD_TEST_PORT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let listen = vec![format!("/ip4/127.0.0.1/udp/{port}/quic-v1")];
    let mut node = Node::start_with(
        77,
        NetworkConfig {
            listen,
            ..NetworkConfig::loopback()
        },
    )
    .await;
    let parent = Identity::from_secret([1; 32]).peer_id();
    let addresses = std::env::var("SYNOD_TEST_PARENT").unwrap_or_default();
    node.handle()
        .add_addresses(parent, addresses.split_whitespace().map(str::to_owned).collect());
    node.handle().set_members(SESSION, [parent]);
    node.put(&noise(2 << 20, 1));
    println!("\nADDRESS {}", node.handle().listen_addresses().await.control[0]);
    while let Some(event) = node.network.events.recv().await {
        if let NetworkEvent::Message { from, .. } = event {
            node.handle().send(from, std::process::id().to_le_bytes().to_vec());
        }
    }
}

/// A child that is killed when the test ends, however it ends.
struct Child(std::process::Child);

impl Child {
    fn spawn(port: u16, parent: &[String]) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().expect("this test's program"))
            .args(["--exact", "child_node", "--ignored", "--nocapture"])
            .env("SYNOD_TEST_PORT", port.to_string())
            .env("SYNOD_TEST_PARENT", parent.join(" "))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child process");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ADDRESS ").map(str::to_owned));
        (Self(child), address.expect("the child says its address"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_noticed_and_found_again() {
    let peer = Identity::from_secret([77; 32]).peer_id();
    let mut a = Node::start(1).await;
    let (child, address) = Child::spawn(0, &[]);
    let port: u16 = address
        .split('/')
        .nth(4)
        .and_then(|text| text.parse().ok())
        .expect("a UDP address");
    a.handle().set_members(SESSION, [peer]);
    a.handle().add_addresses(peer, vec![address]);
    a.wait_connected(peer).await;
    let blob = BlobId::of(&noise(2 << 20, 1));
    assert_eq!(a.fetch(blob, 2 << 20, &[peer], PATIENCE).await.from(), Ok(Some(peer)));

    drop(child);
    let killed = Instant::now();
    a.wait_gone(peer).await;
    println!(
        "a killed peer was noticed after {:.1} s",
        killed.elapsed().as_secs_f64()
    );

    // Killed and back before anyone noticed, knowing its members' addresses or not: the old connection must not swallow
    // messages for ever.
    let own = a.handle().listen_addresses().await.control;
    for known in [&own, &Vec::new(), &own, &own] {
        let (child, _) = Child::spawn(port, known);
        let answer_of_this_one = child.0.id().to_le_bytes();
        let begin = Instant::now();
        let asked = async {
            loop {
                a.handle().send(peer, b"?".to_vec());
                let answer = a.network.events.recv();
                match tokio::time::timeout(Duration::from_millis(200), answer).await {
                    Ok(Some(NetworkEvent::Message { bytes, .. })) if bytes == answer_of_this_one => break,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .expect("the restarted peer answers");
        let taken = begin.elapsed().as_secs_f64();
        println!(
            "restarted, {} addresses known: an answer after {taken:.1} s",
            known.len()
        );
    }
}
