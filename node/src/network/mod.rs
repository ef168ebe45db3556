//! The two planes between nodes: small messages over libp2p, blobs over quinn, one identity on both (DESIGN §4).
//! It moves bytes and proves who handed them over; it does not know what messages mean, nor whether to believe them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use synod_protocol::identity::{BlobId, Identity, PeerId, SessionId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

mod behaviour;
mod bulk;
pub mod config;
mod contact;
pub mod counters;
pub mod event;
mod identity;
mod queued;
mod swarm;

pub use bulk::{BlobAccess, CommitBlob, OpenBlob, PartialPath};
pub use config::NetworkConfig;
pub use counters::{NetworkCounters, Traffic};
pub use event::{FetchFailure, FetchId, FetchedFrom, ListenInfo, MessageBytes, NetworkEvent, PeerInfo};

use config::{CONTROL_QUEUE_LENGTH, EVENT_QUEUE_LENGTH, FETCH_QUEUE_LENGTH, TRAFFIC_QUEUE_BYTES, TRAFFIC_QUEUE_LENGTH};
use counters::{Counters, count};

/// The network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A port is taken.
    #[error(
        "{address} is already in use: another node runs on it (see `node status`), or another program; \
         stop that one or choose another port in the [network] section"
    )]
    AddressInUse {
        /// The address, as configured.
        address: String,
    },
    /// The system refused an address for another reason.
    #[error("cannot listen on {address}: {reason}; choose an address of this machine in the [network] section")]
    Listen {
        /// The address, as configured.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// A multiaddr of the configuration cannot be read.
    #[error("`{address}` in `{key}` is not a usable multiaddr ({reason}); an example: {example}")]
    BadAddress {
        /// The configuration key.
        key: &'static str,
        /// What was written.
        address: String,
        /// What is wrong.
        reason: String,
        /// A good one.
        example: &'static str,
    },
    /// A protocol could not be set up.
    #[error("the network could not be set up: {part}: {reason}; this is a bug or a lack of memory, please report it")]
    Setup {
        /// Which part.
        part: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Whether `text` is an address that others can dial; else why not.
pub fn check_address(text: &str) -> Result<(), String> {
    use libp2p::multiaddr::Protocol;
    const EXAMPLE: &str = "write /ip4/203.0.113.5/udp/7600/quic-v1, say";
    let read = text.parse::<libp2p::Multiaddr>();
    let address = read.map_err(|error| format!("`{text}` is not a multiaddr ({error}): {EXAMPLE}"))?;
    let has_port = address
        .iter()
        .any(|part| matches!(part, Protocol::Udp(_) | Protocol::Tcp(_)));
    match has_port {
        true => Ok(()),
        false => Err(format!("`{text}` names no port: {EXAMPLE}")),
    }
}

/// The running network: the handle to command it and the events it reports.
#[derive(Debug)]
pub struct Network {
    /// Commands; cheap to clone.
    pub handle: NetworkHandle,
    /// What happened, in order.
    pub events: mpsc::Receiver<NetworkEvent>,
    /// The network's tasks; they end after the token given to `start` is cancelled.
    pub tasks: tokio::task::JoinSet<()>,
}

/// What the driver wants to hold: state, not messages, so that nothing of it can be lost in a queue.
#[derive(Debug, Default)]
struct Wanted {
    sessions: BTreeMap<SessionId, BTreeSet<PeerId>>,
    allowed: BTreeSet<PeerId>,
    /// Who may fetch one blob and nothing else.
    guests: BTreeSet<(PeerId, BlobId)>,
    banned: BTreeMap<PeerId, Instant>,
}

impl Wanted {
    fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.get(peer).is_some_and(|until| *until > Instant::now())
    }

    /// Members of the subscribed sessions may fetch, and those whom the driver allowed besides.
    fn may_fetch(&self, peer: &PeerId) -> bool {
        !self.is_banned(peer)
            && (self.allowed.contains(peer) || self.sessions.values().any(|members| members.contains(peer)))
    }

    /// The same of this one blob, which a guest may fetch too.
    fn may_fetch_blob(&self, peer: &PeerId, blob: &BlobId) -> bool {
        self.may_fetch(peer) || (!self.is_banned(peer) && self.guests.contains(&(*peer, *blob)))
    }

    /// Whether a peer has any business on the data plane.
    fn may_connect(&self, peer: &PeerId) -> bool {
        self.may_fetch(peer) || (!self.is_banned(peer) && self.guests.iter().any(|(guest, _)| guest == peer))
    }
}

/// Rare commands to the swarm task.
#[derive(Debug)]
enum Command {
    Dial(Vec<String>),
    AddAddresses(PeerId, Vec<String>),
    Disconnect(PeerId),
    Contact(PeerId, oneshot::Sender<contact::Candidates>),
    KnownAddresses(oneshot::Sender<Vec<(PeerId, Vec<String>)>>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Listen(oneshot::Sender<ListenInfo>),
    Counters(oneshot::Sender<BTreeMap<PeerId, Traffic>>),
}

/// Messages on their way to the swarm task.
#[derive(Debug)]
enum Outgoing {
    Broadcast(SessionId, Vec<u8>),
    Send(PeerId, Vec<u8>),
}

/// Commands to the bulk task.
#[derive(Debug)]
enum BulkCommand {
    Fetch(bulk::FetchRequest),
    Cancel(FetchId),
    Counters(oneshot::Sender<BTreeMap<PeerId, Traffic>>),
}

/// The fetch queue is full: the fetch was not taken and no event will answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many fetches wait already: the fetch was not taken; ask again later")]
pub struct FetchQueueFull;

/// Commands to the network. None of them waits for a peer; a full queue drops the command and counts it.
#[derive(Debug, Clone)]
pub struct NetworkHandle {
    peer_id: PeerId,
    control: mpsc::Sender<Command>,
    traffic: mpsc::Sender<Outgoing>,
    bulk: mpsc::Sender<BulkCommand>,
    wanted: Arc<watch::Sender<Wanted>>,
    counters: Arc<Counters>,
}

impl NetworkHandle {
    /// This node.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Takes part in a session's gossip. Members are named by [`set_members`](Self::set_members).
    pub fn subscribe(&self, session: SessionId) {
        self.wanted.send_if_modified(|wanted| {
            let new = !wanted.sessions.contains_key(&session);
            wanted.sessions.entry(session).or_default();
            new
        });
    }

    /// Leaves a session's gossip and forgets its members.
    pub fn unsubscribe(&self, session: SessionId) {
        self.wanted
            .send_if_modified(|wanted| wanted.sessions.remove(&session).is_some());
    }

    /// Names the members of a session: connections to them are held, they get broadcasts that gossip cannot carry, and
    /// they may fetch blobs. Subscribes when that was not done yet.
    pub fn set_members(&self, session: SessionId, members: impl IntoIterator<Item = PeerId>) {
        let members: BTreeSet<PeerId> = members.into_iter().filter(|peer| *peer != self.peer_id).collect();
        self.wanted
            .send_if_modified(|wanted| wanted.sessions.insert(session, members.clone()) != Some(members));
    }

    /// Lets a peer fetch blobs that is no member (a joiner), until [`disallow`](Self::disallow).
    pub fn allow(&self, peer: PeerId) {
        self.wanted.send_if_modified(|wanted| wanted.allowed.insert(peer));
    }

    /// Takes [`allow`](Self::allow) back. Members go on to be allowed.
    pub fn disallow(&self, peer: PeerId) {
        self.wanted.send_if_modified(|wanted| wanted.allowed.remove(&peer));
    }

    /// Lets a peer fetch this blob and no other, until [`see_off`](Self::see_off).
    pub fn welcome(&self, peer: PeerId, blob: BlobId) {
        self.wanted
            .send_if_modified(|wanted| wanted.guests.insert((peer, blob)));
    }

    /// Takes [`welcome`](Self::welcome) back.
    pub fn see_off(&self, peer: PeerId, blob: BlobId) {
        self.wanted
            .send_if_modified(|wanted| wanted.guests.remove(&(peer, blob)));
    }

    /// Closes the connections to a peer and refuses new ones and its fetches for this long.
    pub fn ban(&self, peer: PeerId, duration: Duration) {
        // A year stands for ever: an addition of instants must not overflow.
        let until = Instant::now() + duration.min(Duration::from_secs(365 * 86_400));
        self.wanted.send_modify(|wanted| {
            wanted.banned.retain(|_, until| *until > Instant::now());
            wanted.banned.insert(peer, until);
        });
    }

    /// Sends to everyone in a session: by gossip, and directly to connected members that gossip does not reach yet, or may not
    /// reach any more.
    /// Over `GOSSIP_MAX_BYTES` directly to each member. Members that are not connected may miss it.
    pub fn broadcast(&self, session: SessionId, bytes: Vec<u8>) {
        self.enqueue(bytes.len(), Outgoing::Broadcast(session, bytes));
    }

    /// Sends to one peer, dialling it when it is not connected. At most `MESSAGE_MAX_BYTES`; may be lost.
    pub fn send(&self, peer: PeerId, bytes: Vec<u8>) {
        self.enqueue(bytes.len(), Outgoing::Send(peer, bytes));
    }

    fn enqueue(&self, bytes: usize, outgoing: Outgoing) {
        if bytes > config::MESSAGE_MAX_BYTES {
            tracing::warn!(bytes, "a message over the size limit was not sent");
            return count(&self.counters.drops.oversize);
        }
        let bytes = bytes as u64;
        let full = self.counters.queued_bytes.fetch_add(bytes, Relaxed) + bytes > TRAFFIC_QUEUE_BYTES;
        if full || self.traffic.try_send(outgoing).is_err() {
            self.counters.queued_bytes.fetch_sub(bytes, Relaxed);
            count(&self.counters.drops.traffic_queue);
        }
    }

    fn command(&self, command: Command) {
        if self.control.try_send(command).is_err() {
            count(&self.counters.drops.control_queue);
        }
    }

    /// Dials multiaddrs (best with `/p2p/…`) once, in the background; unreadable ones are logged.
    pub fn dial(&self, addresses: Vec<String>) {
        self.command(Command::Dial(addresses));
    }

    /// Remembers where a peer may be found (from an invite, a roster, another peer).
    pub fn add_addresses(&self, peer: PeerId, addresses: Vec<String>) {
        self.command(Command::AddAddresses(peer, addresses));
    }

    /// Closes the connections to a peer. A member is dialled again; [`ban`](Self::ban) keeps it away.
    pub fn disconnect(&self, peer: PeerId) {
        self.command(Command::Disconnect(peer));
    }

    /// Fetches a blob into the store from the first holder that has it, in this order, going on where another stopped.
    /// Answered by exactly one [`NetworkEvent::Fetched`], unless the queue is full.
    pub fn fetch(
        &self,
        id: FetchId,
        blob: BlobId,
        expected_len: u64,
        from: Vec<PeerId>,
        timeout: Duration,
    ) -> Result<(), FetchQueueFull> {
        let request = bulk::FetchRequest {
            id,
            blob,
            expected_len,
            from,
            timeout,
            since: Instant::now(),
            cancelled: CancellationToken::new(),
        };
        self.bulk.try_send(BulkCommand::Fetch(request)).map_err(|_| {
            count(&self.counters.drops.fetch_queue);
            FetchQueueFull
        })
    }

    /// Ends a fetch whose blob nobody needs any more, so that its place is free; it is answered all the same (with
    /// `Cancelled` where it had not ended). With a full queue it goes on until its time is up.
    pub fn cancel(&self, id: FetchId) {
        if self.bulk.try_send(BulkCommand::Cancel(id)).is_err() {
            count(&self.counters.drops.fetch_queue);
        }
    }

    /// Who is connected; empty when the network has ended.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// Where members and connected peers may be found, newest first. Kept by the driver and given back by
    /// [`add_addresses`](Self::add_addresses) after a restart, they bring the sessions together again at once.
    pub async fn known_addresses(&self) -> Vec<(PeerId, Vec<String>)> {
        self.ask(Command::KnownAddresses).await.unwrap_or_default()
    }

    /// Where this node can be reached; empty when the network has ended.
    pub async fn listen_addresses(&self) -> ListenInfo {
        self.ask(Command::Listen).await.unwrap_or_default()
    }

    /// What came, went and was dropped so far.
    pub async fn counters(&self) -> NetworkCounters {
        let mut snapshot = self.counters.snapshot();
        snapshot.control_by_peer = self.ask(Command::Counters).await.unwrap_or_default();
        let (reply, answer) = oneshot::channel();
        if self.bulk.send(BulkCommand::Counters(reply)).await.is_ok() {
            snapshot.bulk_by_peer = answer.await.unwrap_or_default();
        }
        snapshot
    }

    /// Where a peer's bulk plane may be; none when the network has ended.
    async fn bulk_contact(&self, peer: PeerId) -> Option<contact::Candidates> {
        self.ask(|reply| Command::Contact(peer, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.control.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Starts both planes. When this returns, every address of the configuration is listened on.
pub async fn start(
    config: NetworkConfig,
    identity: &Identity,
    blobs: BlobAccess,
    shutdown: CancellationToken,
) -> Result<Network, NetworkError> {
    let (control, control_queue) = mpsc::channel(CONTROL_QUEUE_LENGTH);
    let (traffic, traffic_queue) = mpsc::channel(TRAFFIC_QUEUE_LENGTH);
    let (bulk, bulk_queue) = mpsc::channel(FETCH_QUEUE_LENGTH);
    let (events_in, events) = mpsc::channel(EVENT_QUEUE_LENGTH);
    let (wanted_in, wanted) = watch::channel(Wanted::default());
    let counters = Arc::new(Counters::default());
    let handle = NetworkHandle {
        peer_id: identity.peer_id(),
        control,
        traffic,
        bulk,
        wanted: Arc::new(wanted_in),
        counters: Arc::clone(&counters),
    };

    // 1. The bulk plane's sockets first: the control plane tells peers their port.
    let listener = bulk::Listener::bind(&config, identity)?;
    let bulk_addresses = listener.addresses();
    // 2. The control plane, listening.
    let inbox = swarm::Inbox {
        control: control_queue,
        traffic: traffic_queue,
        wanted: wanted.clone(),
    };
    let outbox = swarm::Outbox {
        events: events_in.clone(),
        counters: Arc::clone(&counters),
    };
    let swarm = swarm::SwarmTask::start(&config, identity, &bulk_addresses, inbox, outbox).await?;
    // 3. Both run.
    let streams = swarm.streams();
    let bulk = bulk::BulkTask::new(listener, streams, blobs, wanted, handle.clone(), bulk_queue, events_in)?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(swarm.run(shutdown.clone()));
    tasks.spawn(bulk.run(shutdown));
    Ok(Network { handle, events, tasks })
}
