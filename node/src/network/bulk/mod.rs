//! The data plane: blobs by id over quinn, with two fallbacks; the task that owns its sockets, ways and queue of fetches.
//! Transfers run in tasks of their own; this one only starts them, counts them, and never awaits a peer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use futures::StreamExt;
use synod_protocol::identity::{BlobId, PeerId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

mod access;
mod admission;
mod certificate;
mod connection;
mod endpoint;
mod fetch;
mod lanes;
mod leftovers;
mod link;
mod serve;
mod tree;
mod way;
mod wire;

pub use access::{BlobAccess, CommitBlob, OpenBlob, PartialPath};
pub(super) use endpoint::Listener;
pub(super) use fetch::FetchRequest;

use super::behaviour::BLOB_PROTOCOL;
use super::config::{
    BOOK_PEERS, BULK_CONNECTIONS_PER_PEER, FETCH_QUEUE_LENGTH, FETCHES_AT_ONCE, FETCHES_AT_ONCE_PER_HOLDER,
    SERVED_AT_ONCE, SERVED_AT_ONCE_PER_PEER, TLS_HANDSHAKE_TIMEOUT, TREE_QUEUE_LENGTH, UDP_CLOSED_MEMORY,
};
use super::counters::Tally;
use super::event::{FetchFailure, FetchId, NetworkEvent};
use super::identity::from_libp2p;
use super::{BulkCommand, NetworkError, NetworkHandle, Wanted};
use admission::{Admission, Door};
use connection::{CLOSED_AS_TOO_MANY, CLOSED_BY_SHUTDOWN, OpenedBy};
use fetch::{Fetcher, Link, LinkRequest};
use leftovers::Leftovers;
use link::{Dialer, Path, Stream};
use serve::{Asker, Server};
use way::{Found, Way};

/// How often waiting fetches are looked at for their time being up.
const TICK: Duration = Duration::from_secs(1);
/// How long a shutdown waits for peers to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What is known of a peer's bulk plane.
struct Peer {
    tally: Arc<Tally>,
    places: Arc<Semaphore>,
    connections: usize,
    way: Way,
    /// Until when TCP is tried without waiting for UDP.
    udp_closed_until: Option<Instant>,
}

/// A peer that came to us.
enum Inbound {
    Quic(quinn::Connection),
    Tcp(Stream),
}

/// How one of the task's jobs ended.
enum Done {
    Accepted(Door, Option<(PeerId, Inbound)>),
    Connected(PeerId, Result<Path, String>),
    /// A search for a better way than a fallback.
    Improved(PeerId, Result<Path, String>),
    ConnectionEnded {
        peer: PeerId,
        stranger: bool,
    },
    RelayedStreamEnded,
    /// And how many bytes of it are on the disk if it did not come whole.
    Fetched(BlobId, u64),
}

/// A fetch under way, or a partial file that is being deleted.
struct Running {
    id: Option<FetchId>,
    holder: Option<PeerId>,
    cancelled: CancellationToken,
}

/// See the module.
pub(super) struct BulkTask {
    quic: quinn::Endpoint,
    tcp: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    dialer: Dialer,
    server: Server,
    fetcher: Fetcher,
    wanted: watch::Receiver<Wanted>,
    commands: mpsc::Receiver<BulkCommand>,
    link_requests: mpsc::Receiver<LinkRequest>,
    events: mpsc::Sender<NetworkEvent>,
    peers: BTreeMap<PeerId, Peer>,
    waiting: VecDeque<FetchRequest>,
    running: BTreeMap<BlobId, Running>,
    leftovers: Leftovers,
    jobs: JoinSet<Done>,
    admission: Admission,
}

impl BulkTask {
    /// Takes the bound sockets over. Call it within the runtime.
    pub(super) fn new(
        listener: Listener,
        streams: libp2p_stream::Control,
        blobs: BlobAccess,
        wanted: watch::Receiver<Wanted>,
        network: NetworkHandle,
        commands: mpsc::Receiver<BulkCommand>,
        events: mpsc::Sender<NetworkEvent>,
    ) -> Result<Self, NetworkError> {
        let Listener {
            quic,
            tcp,
            credentials,
            use_quic,
        } = listener;
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(credentials.server()?));
        let tcp = TcpListener::from_std(tcp).map_err(|error| NetworkError::Setup {
            part: "the TCP listener",
            reason: error.to_string(),
        })?;
        let own = network.peer_id();
        let counters = Arc::clone(&network.counters);
        let dialer = Dialer {
            quic: use_quic.then(|| quic.clone()),
            credentials,
            streams,
            network,
        };
        let (links, link_requests) = mpsc::channel(FETCHES_AT_ONCE * 2);
        let (trees, tree_requests) = mpsc::channel(TREE_QUEUE_LENGTH);
        let mut jobs = JoinSet::new();
        let keeper = tree::keep_trees(blobs.clone(), tree_requests);
        jobs.spawn(async move {
            keeper.await;
            Done::RelayedStreamEnded
        });
        let server = Server {
            blobs: blobs.clone(),
            trees,
            wanted: wanted.clone(),
            counters: Arc::clone(&counters),
            places: Arc::new(Semaphore::new(SERVED_AT_ONCE)),
        };
        let fetcher = Fetcher {
            own,
            blobs,
            dialer: dialer.clone(),
            links,
            counters,
        };
        Ok(Self {
            quic,
            tcp,
            tls,
            dialer,
            server,
            fetcher,
            wanted,
            commands,
            link_requests,
            events,
            peers: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            leftovers: Leftovers::default(),
            jobs,
            admission: Admission::default(),
        })
    }

    /// Runs until the token is cancelled.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        let mut streams = self
            .dialer
            .streams
            .accept(BLOB_PROTOCOL)
            .expect("the protocol is registered once");
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(command) = self.commands.recv(), if self.waiting.len() < FETCH_QUEUE_LENGTH => {
                    self.on_command(command);
                }
                Some(request) = self.link_requests.recv() => self.on_link_request(request),
                Some(incoming) = self.quic.accept() => self.on_quic(incoming),
                accepted = self.tcp.accept() => self.on_tcp(accepted.map(|(socket, _)| socket)).await,
                Some((peer, stream)) = streams.next() => self.on_relayed(&peer, Stream::of(stream.compat())),
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                _ = tick.tick() => self.expire(),
            }
            self.start_fetches();
        }
        self.quic.close(CLOSED_BY_SHUTDOWN.into(), b"the node is shutting down");
        self.jobs.shutdown().await;
        // The close must leave the socket, but nobody waits long for it.
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, self.quic.wait_idle()).await;
        tracing::debug!("the bulk plane ends");
    }

    fn on_command(&mut self, command: BulkCommand) {
        match command {
            BulkCommand::Fetch(request) => self.waiting.push_back(request),
            BulkCommand::Cancel(id) => self.cancel(id),
            BulkCommand::Counters(reply) => {
                let traffic = self.peers.iter().map(|(peer, state)| (*peer, state.tally.snapshot()));
                drop(reply.send(traffic.collect()));
            }
        }
    }

    /// Starts waiting fetches in order, but never two of one blob: the second finds the first one's blob in the store.
    /// Nor too many that lean on one holder, who may be slow on purpose.
    fn start_fetches(&mut self) {
        while self.running.len() < FETCHES_AT_ONCE {
            let startable = self.waiting.iter().position(|request| self.may_start(request));
            let Some(request) = startable.and_then(|index| self.waiting.remove(index)) else {
                return;
            };
            let running = Running {
                id: Some(request.id),
                holder: request.from.first().copied(),
                cancelled: request.cancelled.clone(),
            };
            self.leftovers.taken_up(&request.blob);
            self.running.insert(request.blob, running);
            let (fetcher, events, blob) = (self.fetcher.clone(), self.events.clone(), request.blob);
            self.jobs.spawn(async move {
                let (event, left) = fetcher.run(request).await;
                // The driver is only gone when everything ends.
                let _ending = events.send(event).await;
                Done::Fetched(blob, left)
            });
        }
    }

    fn may_start(&self, request: &FetchRequest) -> bool {
        let holder = request.from.first();
        let beside = self
            .running
            .values()
            .filter(|running| running.holder.as_ref() == holder);
        !self.running.contains_key(&request.blob) && (holder.is_none() || beside.count() < FETCHES_AT_ONCE_PER_HOLDER)
    }

    fn cancel(&mut self, id: FetchId) {
        let running = self.running.values().filter(|running| running.id == Some(id));
        let waiting = self.waiting.iter().filter(|request| request.id == id);
        running
            .map(|running| &running.cancelled)
            .chain(waiting.map(|request| &request.cancelled))
            .for_each(CancellationToken::cancel);
        self.expire();
    }

    /// Remembers what an ended fetch left on the disk, and deletes what is too much. While it is deleted, no fetch of
    /// that blob starts.
    fn on_fetched(&mut self, blob: BlobId, left: u64) {
        self.running.remove(&blob);
        if left == 0 {
            return;
        }
        for gone in self.leftovers.left(blob, left) {
            let running = Running {
                id: None,
                holder: None,
                cancelled: CancellationToken::new(),
            };
            self.running.insert(gone, running);
            let blobs = self.fetcher.blobs.clone();
            self.jobs.spawn(async move {
                if let Err(error) = blobs.remove_partial(gone).await {
                    tracing::debug!(blob = %gone.short(), %error, "what came of a blob was not deleted");
                }
                Done::Fetched(gone, 0)
            });
        }
    }

    /// Answers the waiting fetches that were cancelled or whose time is up; an answer that finds no place waits for the next tick.
    fn expire(&mut self) {
        let now = Instant::now();
        let is_over = |request: &FetchRequest| request.cancelled.is_cancelled() || request.deadline() <= now;
        while let Some(index) = self.waiting.iter().position(is_over) {
            let Ok(place) = self.events.try_reserve() else { return };
            let Some(request) = self.waiting.remove(index) else {
                return;
            };
            let failure = match request.cancelled.is_cancelled() {
                true => FetchFailure::Cancelled,
                false => FetchFailure::TimedOut {
                    bytes: 0,
                    last: "it waited behind other fetches".to_owned(),
                },
            };
            place.send(request.answer(Err(failure), Vec::new()));
        }
    }

    fn peer(&mut self, peer: PeerId) -> &mut Peer {
        if self.peers.len() >= BOOK_PEERS && !self.peers.contains_key(&peer) {
            let unused = |state: &Peer| state.connections == 0 && !matches!(state.way, Way::Searching(_));
            let gone = self
                .peers
                .iter()
                .find(|(_, state)| unused(state))
                .map(|(peer, _)| *peer);
            gone.and_then(|gone| self.peers.remove(&gone));
        }
        self.peers.entry(peer).or_insert_with(|| Peer {
            tally: Arc::default(),
            places: Arc::new(Semaphore::new(SERVED_AT_ONCE_PER_PEER)),
            connections: 0,
            way: Way::None,
            udp_closed_until: None,
        })
    }

    fn on_link_request(&mut self, request: LinkRequest) {
        match request {
            LinkRequest::Forget(peer, name) => {
                let state = self.peer(peer);
                if matches!(&state.way, Way::Found(found) if found.path.name() == name) {
                    state.way = Way::None;
                }
            }
            LinkRequest::Find(peer, reply) => {
                let now = Instant::now();
                let state = self.peer(peer);
                let tally = Arc::clone(&state.tally);
                match &mut state.way {
                    Way::Searching(waiters) => waiters.push(reply),
                    Way::Found(found) if found.path.is_open() => {
                        let path = found.path.clone();
                        drop(reply.send(Ok(Link { path, tally })));
                        if found.is_due(now) {
                            let improving = self.dialer.clone().improve(peer);
                            self.jobs.spawn(async move { Done::Improved(peer, improving.await) });
                        }
                    }
                    _ => {
                        state.way = Way::Searching(vec![reply]);
                        let udp_closed = state.udp_closed_until.is_some_and(|until| until > now);
                        let connecting = self.dialer.clone().connect(peer, udp_closed);
                        self.jobs.spawn(async move { Done::Connected(peer, connecting.await) });
                    }
                }
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Fetched(blob, left) => self.on_fetched(blob, left),
            Done::Connected(peer, result) => self.on_connected(peer, result),
            Done::Improved(peer, result) => self.on_improved(peer, result),
            Done::Accepted(door, accepted) => {
                self.admission.end(door);
                if let Some((peer, inbound)) = accepted {
                    self.on_accepted(peer, inbound);
                }
            }
            Done::ConnectionEnded { peer, stranger } => {
                self.admission.disconnect(stranger);
                self.peer(peer).connections -= 1;
            }
            Done::RelayedStreamEnded => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, result: Result<Path, String>) {
        let now = Instant::now();
        let state = self.peer(peer);
        let waiters = match std::mem::replace(&mut state.way, Way::None) {
            Way::Searching(waiters) => waiters,
            // The peer came to us meanwhile, and the waiters have been answered.
            found => {
                state.way = found;
                Vec::new()
            }
        };
        for waiter in waiters {
            let link = result.clone().map(|path| Link {
                path,
                tally: Arc::clone(&state.tally),
            });
            drop(waiter.send(link));
        }
        match result {
            Ok(path) => {
                tracing::debug!(%peer, way = path.name(), "a way to the peer's blobs");
                state.udp_closed_until = matches!(path, Path::Tcp(_)).then_some(now + UDP_CLOSED_MEMORY);
                if state.way.open().is_none() {
                    state.way = Way::Found(Found::new(path.clone(), now));
                }
                if let Path::Quic(connection) = path {
                    // The peer may fetch over it as well: it may be unable to reach us by another.
                    self.serve_quic(peer, connection, OpenedBy::Us);
                }
            }
            Err(reason) => tracing::debug!(%peer, reason, "no way to the peer's blobs"),
        }
    }

    /// Takes a better way than the one that is used, if that is still the case.
    fn on_improved(&mut self, peer: PeerId, result: Result<Path, String>) {
        let path = match result {
            Ok(path) => path,
            Err(reason) => return tracing::debug!(%peer, reason, "no better way to the peer's blobs"),
        };
        let state = self.peer(peer);
        if !matches!(&state.way, Way::Found(found) if found.yields_to(&path)) {
            return;
        }
        tracing::debug!(%peer, way = path.name(), "a better way to the peer's blobs");
        state.way = Way::Found(Found::new(path.clone(), Instant::now()));
        if let Path::Quic(connection) = path {
            state.udp_closed_until = None;
            self.serve_quic(peer, connection, OpenedBy::Us);
        }
    }

    fn on_quic(&mut self, incoming: quinn::Incoming) {
        if self.admission.is_pressed() && incoming.may_retry() {
            // It fails only for addresses that have proven themselves already.
            let _retried = incoming.retry();
            return;
        }
        if !self.admission.begin(Door::Quic) {
            return incoming.refuse();
        }
        self.jobs.spawn(async move {
            let accepted = async {
                let connection = incoming.await.ok()?;
                let peer = endpoint::peer_of_connection(&connection)?;
                Some((peer, Inbound::Quic(connection)))
            };
            let accepted = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, accepted).await;
            Done::Accepted(Door::Quic, accepted.ok().flatten())
        });
    }

    async fn on_tcp(&mut self, accepted: std::io::Result<TcpStream>) {
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would only spin.
                tracing::warn!(%error, "a TCP connection for blobs could not be accepted");
                return tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if !self.admission.begin(Door::Tcp) {
            return;
        }
        let tls = self.tls.clone();
        self.jobs.spawn(async move {
            let accepted = async {
                socket.set_nodelay(true).ok()?;
                let stream = tls.accept(socket).await.ok()?;
                let peer = certificate::peer_of(stream.get_ref().1.peer_certificates()?)?;
                Some((peer, Inbound::Tcp(Stream::of(stream))))
            };
            let accepted = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, accepted).await;
            Done::Accepted(Door::Tcp, accepted.ok().flatten())
        });
    }

    fn on_accepted(&mut self, peer: PeerId, inbound: Inbound) {
        match inbound {
            Inbound::Tcp(stream) => {
                if let Some((asker, stranger)) = self.admit(peer) {
                    let serving = self.server.clone().serve(asker, stream);
                    self.jobs.spawn(async move {
                        serving.await;
                        Done::ConnectionEnded { peer, stranger }
                    });
                }
            }
            Inbound::Quic(connection) => {
                let now = Instant::now();
                let state = self.peer(peer);
                // A connection that the peer opened serves us too, above all when the peer cannot be dialled.
                let tally = Arc::clone(&state.tally);
                if !matches!(state.way.open(), Some(Path::Quic(_))) {
                    let found = Way::Found(Found::new(Path::Quic(connection.clone()), now));
                    if let Way::Searching(waiters) = std::mem::replace(&mut state.way, found) {
                        for waiter in waiters {
                            let path = Path::Quic(connection.clone());
                            drop(waiter.send(Ok(Link {
                                path,
                                tally: Arc::clone(&tally),
                            })));
                        }
                    }
                }
                self.serve_quic(peer, connection, OpenedBy::Peer);
            }
        }
    }

    /// Counts a connection and gives its asker, or none when there are too many; and whether it is a stranger's.
    fn admit(&mut self, peer: PeerId) -> Option<(Asker, bool)> {
        let (banned, stranger) = {
            let wanted = self.wanted.borrow();
            (wanted.is_banned(&peer), !wanted.may_connect(&peer))
        };
        let of_many = self.peer(peer).connections >= BULK_CONNECTIONS_PER_PEER;
        if banned || of_many || !self.admission.connect(stranger) {
            tracing::debug!(%peer, banned, of_many, "a connection for blobs was refused");
            return None;
        }
        let state = self.peer(peer);
        state.connections += 1;
        let asker = Asker {
            peer,
            places: Arc::clone(&state.places),
            tally: Arc::clone(&state.tally),
            denials: Arc::new(AtomicU32::new(0)),
        };
        Some((asker, stranger))
    }

    fn serve_quic(&mut self, peer: PeerId, connection: quinn::Connection, opened_by: OpenedBy) {
        let Some((asker, stranger)) = self.admit(peer) else {
            return connection.close(CLOSED_AS_TOO_MANY.into(), b"too many connections");
        };
        let serving = connection::serve(self.server.clone(), asker, connection, opened_by);
        self.jobs.spawn(async move {
            serving.await;
            Done::ConnectionEnded { peer, stranger }
        });
    }

    fn on_relayed(&mut self, peer: &libp2p::PeerId, stream: Stream) {
        let Some(peer) = from_libp2p(peer) else { return };
        if self.admission.is_full() {
            return;
        }
        if let Some((asker, stranger)) = self.admit(peer) {
            let serving = self.server.clone().serve(asker, stream);
            self.jobs.spawn(async move {
                serving.await;
                Done::ConnectionEnded { peer, stranger }
            });
        }
    }
}

#[cfg(test)]
mod hostile;
