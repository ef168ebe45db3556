//! The swarm task: it owns libp2p's swarm and everything known of peers, and turns events into method calls.
//! It awaits nothing but the next event, and no other task shares its state.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, kad};
use synod_protocol::identity::{Identity, PeerId, SessionId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

mod book;
mod peers;
mod redial;
mod traffic;

use super::behaviour::{self, Behaviour, BehaviourEvent};
use super::config::{BOOK_PEERS, EVENT_QUEUE_RESERVE, NetworkConfig, REDIAL_TICK};
use super::contact::{Contact, direct_ip};
use super::counters::{Counters, Tally, Traffic, count};
use super::event::{ListenInfo, MessageBytes, NetworkEvent};
use super::identity::{from_libp2p, keypair, to_libp2p};
use super::{Command, NetworkError, Outgoing, Wanted};
use book::Book;
use peers::Peer;
use redial::Redial;
use traffic::InFlight;

/// A listener must have said its address by then.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What comes to the swarm task.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) control: mpsc::Receiver<Command>,
    pub(super) traffic: mpsc::Receiver<Outgoing>,
    pub(super) wanted: watch::Receiver<Wanted>,
}

/// Where the swarm task reports.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) events: mpsc::Sender<NetworkEvent>,
    pub(super) counters: Arc<Counters>,
}

impl Outbox {
    /// Messages leave the reserve to the events that are not repeated. `limit` bounds the bytes that wait.
    fn message(&self, from: PeerId, session: Option<SessionId>, bytes: Vec<u8>, limit: u64) {
        let Some(bytes) = MessageBytes::queued(bytes, limit, &self.counters) else {
            return count(&self.counters.drops.inbound_bytes);
        };
        let event = NetworkEvent::Message { from, session, bytes };
        if self.events.capacity() <= EVENT_QUEUE_RESERVE || self.events.try_send(event).is_err() {
            count(&self.counters.drops.event_queue);
        }
    }

    fn lifecycle(&self, event: NetworkEvent) {
        if self.events.try_send(event).is_err() {
            count(&self.counters.drops.event_queue_lifecycle);
        }
    }
}

/// See the module.
pub(super) struct SwarmTask {
    swarm: Swarm<Behaviour>,
    peer_id: PeerId,
    inbox: Inbox,
    outbox: Outbox,
    contact: Contact,
    bulk_addresses: Vec<SocketAddr>,
    bootstrap: Vec<(Option<PeerId>, Multiaddr)>,
    relays: Vec<(PeerId, Multiaddr)>,
    held_members_max: usize,
    peers: BTreeMap<PeerId, Peer>,
    book: Book,
    redial: Redial,
    sessions: BTreeMap<SessionId, BTreeSet<PeerId>>,
    held: BTreeSet<PeerId>,
    banned: BTreeMap<PeerId, Instant>,
    in_flight: HashMap<OutboundRequestId, InFlight>,
    unacknowledged: BTreeMap<PeerId, usize>,
    /// Broadcasts so far.
    broadcasts: u64,
    tallies: BTreeMap<PeerId, Tally>,
    lookups: HashSet<kad::QueryId>,
    reservations: BTreeMap<PeerId, ListenerId>,
    listening: HashSet<ListenerId>,
    reachability: &'static str,
    /// Whether it is public at an address of a private network: a peer in the same network said so, which tells nothing of
    /// the peers outside it.
    public_in_private: bool,
    next_slow_tick: Instant,
}

impl SwarmTask {
    /// Builds the swarm and listens on every configured address; an address that cannot be had is an error.
    pub(super) async fn start(
        config: &NetworkConfig,
        identity: &Identity,
        bulk_addresses: &[SocketAddr],
        inbox: Inbox,
        outbox: Outbox,
    ) -> Result<Self, NetworkError> {
        let mut instance = [0u8; 8];
        getrandom::fill(&mut instance).map_err(|error| NetworkError::Setup {
            part: "randomness",
            reason: error.to_string(),
        })?;
        let contact = Contact {
            instance: u64::from_le_bytes(instance),
            bulk_port: bulk_addresses.first().map_or(0, SocketAddr::port),
            bulk_external: config.bulk_external.clone(),
            clock_ms: None,
        };
        let mut task = Self {
            swarm: behaviour::build_swarm(config, keypair(identity))?,
            peer_id: identity.peer_id(),
            inbox,
            outbox,
            contact,
            bulk_addresses: bulk_addresses.to_vec(),
            bootstrap: named(&config.bootstrap, "bootstrap")?,
            relays: relays(&config.relays)?,
            held_members_max: config.held_members_max,
            peers: BTreeMap::new(),
            book: Book::default(),
            redial: Redial::default(),
            sessions: BTreeMap::new(),
            held: BTreeSet::new(),
            banned: BTreeMap::new(),
            in_flight: HashMap::new(),
            unacknowledged: BTreeMap::new(),
            broadcasts: 0,
            tallies: BTreeMap::new(),
            lookups: HashSet::new(),
            reservations: BTreeMap::new(),
            listening: HashSet::new(),
            reachability: "unknown",
            public_in_private: false,
            next_slow_tick: Instant::now(),
        };
        for address in &config.external {
            task.swarm.add_external_address(multiaddr(address, "external")?);
        }
        let known = task
            .bootstrap
            .iter()
            .cloned()
            .chain(task.relays.iter().map(|(p, a)| (Some(*p), a.clone())));
        for (peer, address) in known.collect::<Vec<_>>() {
            peer.into_iter()
                .for_each(|peer| task.book.entry(peer, |_| true).add_address(address.clone()));
        }
        task.listen(&config.listen).await?;
        task.on_wanted();
        Ok(task)
    }

    async fn listen(&mut self, addresses: &[String]) -> Result<(), NetworkError> {
        let mut waiting = HashMap::new();
        for text in addresses {
            let address = multiaddr(text, "listen")?;
            check_tcp_port_is_free(&address).map_err(|error| cannot_listen(text, &error))?;
            let listener = self.swarm.listen_on(address).map_err(|error| match error {
                TransportError::Other(error) => cannot_listen(text, &error),
                unsupported => cannot_listen(text, &io::Error::other(unsupported.to_string())),
            })?;
            waiting.insert(listener, text.clone());
        }
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        while !waiting.is_empty() {
            let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await else {
                let text = waiting.into_values().next().unwrap_or_default();
                return Err(cannot_listen(
                    &text,
                    &io::Error::other("the system named no address in time"),
                ));
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason: Err(error),
                    ..
                } => {
                    if let Some(text) = waiting.get(listener_id) {
                        return Err(cannot_listen(text, error));
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        Ok(())
    }

    /// Opens and accepts streams over the control plane's connections, for the bulk plane's last resort.
    pub(super) fn streams(&self) -> libp2p_stream::Control {
        self.swarm.behaviour().streams.new_control()
    }

    /// Runs until the token is cancelled.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(REDIAL_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = self.inbox.control.recv() => self.on_command(command),
                Some(outgoing) = self.inbox.traffic.recv() => self.on_outgoing(outgoing),
                Ok(()) = self.inbox.wanted.changed() => self.on_wanted(),
                _ = tick.tick() => self.on_tick(),
            }
        }
        tracing::debug!("the control plane ends");
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_protocol(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id, connection_id, ..
            } => {
                self.on_connection_closed(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => self.on_dial_failed(peer_id, &error),
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listening.insert(listener_id);
                tracing::info!(%address, "listening");
                self.outbox.lifecycle(NetworkEvent::Listening(address.to_string()));
            }
            SwarmEvent::ListenerClosed {
                listener_id, reason, ..
            } => {
                self.listening.remove(&listener_id);
                self.reservations.retain(|_, reservation| *reservation != listener_id);
                if let Err(error) = reason {
                    tracing::warn!(%error, "a listener closed");
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "a listener reported an error"),
            other => tracing::trace!(event = ?other, "swarm"),
        }
    }

    fn on_protocol(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Messages(event) => self.on_message(event),
            BehaviourEvent::Contacts(event) => self.on_contact(event),
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Kademlia(event) => self.on_kademlia(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Autonat(event) => self.on_autonat(event),
            BehaviourEvent::RelayClient(event) => tracing::debug!(?event, "relay"),
            BehaviourEvent::Dcutr(event) => tracing::debug!(?event, "hole punching"),
            other => tracing::trace!(event = ?other, "protocol"),
        }
    }

    fn on_command(&mut self, command: Command) {
        // A reply that nobody waits for any more is dropped.
        match command {
            Command::Dial(addresses) => {
                for text in addresses {
                    match text.parse() {
                        Ok(address) => self.dial_address(address),
                        Err(error) => tracing::warn!(address = %text, %error, "not a multiaddr; not dialled"),
                    }
                }
            }
            Command::AddAddresses(peer, addresses) => {
                for address in addresses.iter().filter_map(|text| text.parse().ok()) {
                    let kept = |peer: &PeerId| self.redial.holds(peer) || self.peers.contains_key(peer);
                    self.book.entry(peer, kept).add_address(address);
                }
                self.redial.hurry(&peer, Instant::now());
            }
            Command::Disconnect(peer) => drop(self.swarm.disconnect_peer_id(to_libp2p(&peer))),
            Command::Contact(peer, reply) => drop(reply.send(self.bulk_contact(&peer))),
            Command::KnownAddresses(reply) => drop(reply.send(self.known_addresses())),
            Command::Peers(reply) => drop(reply.send(self.peer_infos())),
            Command::Listen(reply) => drop(reply.send(self.listen_info())),
            Command::Counters(reply) => {
                let tallies = self.tallies.iter().map(|(peer, tally)| (*peer, tally.snapshot()));
                drop(reply.send(tallies.collect::<BTreeMap<PeerId, Traffic>>()));
            }
        }
    }

    fn listen_info(&self) -> ListenInfo {
        let own = to_libp2p(&self.peer_id);
        let mut control: Vec<String> = Vec::new();
        for address in self.swarm.external_addresses().chain(self.swarm.listeners()) {
            let text = address
                .clone()
                .with_p2p(own)
                .unwrap_or_else(|address| address)
                .to_string();
            if !control.contains(&text) {
                control.push(text);
            }
        }
        let mut ips: Vec<IpAddr> = self.swarm.listeners().filter_map(direct_ip).collect();
        ips.dedup();
        let expand = |address: &SocketAddr| match address.ip().is_unspecified() {
            true => ips.iter().map(|ip| SocketAddr::new(*ip, address.port())).collect(),
            false => vec![*address],
        };
        let mut bulk = self.contact.bulk_external.clone();
        bulk.extend(self.bulk_addresses.iter().flat_map(expand));
        ListenInfo {
            control,
            bulk,
            reachability: self.reachability.to_owned(),
        }
    }

    /// A peer's tally; that of a peer who left gives way when there are too many.
    fn tally(&mut self, peer: PeerId) -> &Tally {
        if self.tallies.len() >= BOOK_PEERS && !self.tallies.contains_key(&peer) {
            let gone = self
                .tallies
                .keys()
                .find(|known| !self.peers.contains_key(known))
                .copied();
            gone.and_then(|gone| self.tallies.remove(&gone));
        }
        self.tallies.entry(peer).or_default()
    }
}

fn multiaddr(text: &str, key: &'static str) -> Result<Multiaddr, NetworkError> {
    text.parse()
        .map_err(|error: libp2p::multiaddr::Error| NetworkError::BadAddress {
            key,
            address: text.to_owned(),
            reason: error.to_string(),
            example: "/ip4/0.0.0.0/udp/7600/quic-v1",
        })
}

fn named(texts: &[String], key: &'static str) -> Result<Vec<(Option<PeerId>, Multiaddr)>, NetworkError> {
    let read = |text: &String| {
        let address = multiaddr(text, key)?;
        let peer = match address.iter().last() {
            Some(Protocol::P2p(theirs)) => from_libp2p(&theirs),
            _ => None,
        };
        Ok((peer, address))
    };
    texts.iter().map(read).collect()
}

fn relays(texts: &[String]) -> Result<Vec<(PeerId, Multiaddr)>, NetworkError> {
    let named = named(texts, "relays")?.into_iter().zip(texts);
    let with_peer = named.map(|((peer, address), text)| match peer {
        Some(peer) => Ok((peer, address)),
        None => Err(NetworkError::BadAddress {
            key: "relays",
            address: text.clone(),
            reason: "it must end with the relay's /p2p/12D3KooW…".to_owned(),
            example: "/dns4/relay.example.org/tcp/7600/p2p/12D3KooW…",
        }),
    });
    with_peer.collect()
}

/// libp2p listens on TCP ports so that they can be shared, hence two nodes would both get one; a plain bind tells.
fn check_tcp_port_is_free(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

pub(super) fn cannot_listen(address: &str, error: &io::Error) -> NetworkError {
    // Some transports wrap the error and lose its kind.
    let in_use = error.kind() == io::ErrorKind::AddrInUse || error.to_string().contains("in use");
    let address = address.to_owned();
    match in_use {
        true => NetworkError::AddressInUse { address },
        false => NetworkError::Listen {
            address,
            reason: error.to_string(),
        },
    }
}
