//! The control plane's protocols, composed: gossip, direct messages, contact, discovery, NAT traversal, limits.
//! It holds no policy beyond settings; the swarm task decides what to do with events.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, allow_block_list, autonat, connection_limits, dcutr, gossipsub, identify, kad,
    mdns, noise, ping, quic, relay, tcp, tls, yamux,
};

use super::NetworkError;
use super::config::{
    CONTACT_MAX_BYTES, GOSSIP_MAX_BYTES, GOSSIP_OVERHEAD_BYTES, IDLE_CONNECTION_TIMEOUT, INBOUND_STREAMS_PER_PEER,
    MESSAGE_MAX_BYTES, NetworkConfig, PING_INTERVAL, PING_TIMEOUT, QUIC_IDLE_TIMEOUT, QUIC_KEEP_ALIVE, SEND_TIMEOUT,
    TOPICS_PER_PEER,
};

const MESSAGE_PROTOCOL: StreamProtocol = StreamProtocol::new("/synod/message/1");
const CONTACT_PROTOCOL: StreamProtocol = StreamProtocol::new("/synod/contact/1");
const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/synod/kad/1");
/// Blobs over the control plane's connection, for peers that cannot be reached otherwise.
pub(super) const BLOB_PROTOCOL: StreamProtocol = StreamProtocol::new("/synod/blob/1");
const IDENTIFY_PROTOCOL: &str = "/synod/1";
const AGENT: &str = concat!("synod/", env!("CARGO_PKG_VERSION"));

/// A topic filter that bounds what one peer may make us remember.
type TopicFilter = gossipsub::MaxCountSubscriptionFilter<gossipsub::AllowAllSubscriptionFilter>;
/// gossipsub with that filter.
pub(super) type Gossip = gossipsub::Behaviour<gossipsub::IdentityTransform, TopicFilter>;

/// All protocols of the control plane.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // Refusals come first, so that no other protocol hears of a refused connection.
    pub(super) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) gossip: Gossip,
    pub(super) messages: request_response::Behaviour<BytesCodec>,
    pub(super) contacts: request_response::Behaviour<BytesCodec>,
    pub(super) streams: libp2p_stream::Behaviour,
    pub(super) kademlia: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) relay_client: relay::client::Behaviour,
    pub(super) relay_server: Toggle<relay::Behaviour>,
    pub(super) dcutr: dcutr::Behaviour,
    pub(super) autonat: Toggle<autonat::Behaviour>,
}

/// Bytes in, bytes out, with a length in front and a limit that is checked before memory is taken.
#[derive(Debug, Clone)]
pub(super) struct BytesCodec {
    request_max: usize,
    response_max: usize,
}

async fn read_frame<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0u8; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame over the size limit",
        ));
    }
    let mut bytes = vec![0; length];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_frame<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8], max: usize) -> io::Result<()> {
    if bytes.len() > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a frame over the size limit",
        ));
    }
    io.write_all(&(bytes.len() as u32).to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.close().await
}

impl request_response::Codec for BytesCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read_frame(io, self.request_max).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read_frame(io, self.response_max).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()> {
        write_frame(io, &request, self.request_max).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Vec<u8>,
    ) -> io::Result<()> {
        write_frame(io, &response, self.response_max).await
    }
}

fn request_response(protocol: StreamProtocol, codec: BytesCodec) -> request_response::Behaviour<BytesCodec> {
    let config = request_response::Config::default()
        .with_request_timeout(SEND_TIMEOUT)
        .with_max_concurrent_streams(INBOUND_STREAMS_PER_PEER);
    request_response::Behaviour::with_codec(codec, [(protocol, ProtocolSupport::Full)], config)
}

fn gossip(keypair: &Keypair) -> Result<Gossip, String> {
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix("/synod/gossip/1")
        .max_transmit_size(GOSSIP_MAX_BYTES + GOSSIP_OVERHEAD_BYTES)
        // The mesh of a session is often two or three peers: no outbound minimum, and publish to all known subscribers.
        .mesh_outbound_min(0)
        .mesh_n_low(4)
        .mesh_n(6)
        .mesh_n_high(12)
        .flood_publish(true)
        .heartbeat_initial_delay(Duration::from_millis(200))
        // Returning within the usual minute must not be punished: restarts are normal.
        .prune_backoff(Duration::from_secs(10))
        .unsubscribe_backoff(Duration::from_secs(2))
        // A queue of messages that cannot be delivered is bounded twice, by number and by age.
        .connection_handler_queue_len(512)
        .max_publish_messages(512)
        .max_control_messages_sent(512)
        // Author and sequence number stay in the id: a peer that repeats a message (a heartbeat) is heard again.
        .message_id_fn(|message: &gossipsub::Message| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&message.source.map(|peer| peer.to_bytes()).unwrap_or_default());
            hasher.update(&message.sequence_number.unwrap_or_default().to_le_bytes());
            hasher.update(&message.data);
            gossipsub::MessageId::from(hasher.finalize().as_bytes().to_vec())
        })
        .validation_mode(gossipsub::ValidationMode::Strict)
        // Nothing is passed on before the swarm task has looked at its author (`SwarmTask::on_gossip`).
        .validate_messages()
        .build()
        .map_err(|error| error.to_string())?;
    let filter = gossipsub::MaxCountSubscriptionFilter {
        filter: gossipsub::AllowAllSubscriptionFilter {},
        max_subscribed_topics: TOPICS_PER_PEER,
        max_subscriptions_per_request: TOPICS_PER_PEER,
    };
    let authenticity = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    Gossip::new_with_subscription_filter(authenticity, config, filter).map_err(str::to_owned)
}

fn limits(config: &NetworkConfig) -> connection_limits::Behaviour {
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(256))
        .with_max_established(Some(config.connections_max))
        // Two from dialling each other at once, one through a relay, and a new one while an old one is not yet known dead.
        .with_max_established_per_peer(Some(6));
    connection_limits::Behaviour::new(limits)
}

fn kademlia(peer: libp2p::PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config.set_query_timeout(Duration::from_secs(20));
    config.set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    // Only addresses of peers are looked up: records come to us as events, and nobody keeps them.
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    let mut behaviour = kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), config);
    // A private network has no confirmed external addresses, by which libp2p would choose: everyone answers.
    behaviour.set_mode(Some(kad::Mode::Server));
    behaviour
}

fn discovery(peer: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), peer)
        .inspect_err(
            |error| tracing::warn!(%error, "peers on the local network will not be found by themselves (mDNS)"),
        )
        .ok()
}

fn compose(
    config: &NetworkConfig,
    keypair: &Keypair,
    relay_client: relay::client::Behaviour,
) -> Result<Behaviour, String> {
    let peer = keypair.public().to_peer_id();
    let message_codec = BytesCodec {
        request_max: MESSAGE_MAX_BYTES,
        response_max: 0,
    };
    let contact_codec = BytesCodec {
        request_max: CONTACT_MAX_BYTES,
        response_max: CONTACT_MAX_BYTES,
    };
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
        .with_agent_version(AGENT.to_owned())
        .with_push_listen_addr_updates(true)
        // Addresses are kept in our own book, which knows who is wanted.
        .with_cache_size(0);
    Ok(Behaviour {
        blocked: allow_block_list::Behaviour::default(),
        limits: limits(config),
        ping: ping::Behaviour::new(
            ping::Config::new()
                .with_interval(PING_INTERVAL)
                .with_timeout(PING_TIMEOUT),
        ),
        identify: identify::Behaviour::new(identify),
        gossip: gossip(keypair)?,
        messages: request_response(MESSAGE_PROTOCOL, message_codec),
        contacts: request_response(CONTACT_PROTOCOL, contact_codec),
        streams: libp2p_stream::Behaviour::new(),
        kademlia: config.kademlia.then(|| kademlia(peer)).into(),
        mdns: config.mdns.then(|| discovery(peer)).flatten().into(),
        relay_client,
        relay_server: config
            .relay_server
            .then(|| relay::Behaviour::new(peer, relay_limits()))
            .into(),
        dcutr: dcutr::Behaviour::new(peer),
        autonat: config
            .autonat
            .then(|| autonat::Behaviour::new(peer, reachability_tests()))
            .into(),
    })
}

/// Institutions also meet in private networks of many sites: there, too, it counts who can be reached.
fn reachability_tests() -> autonat::Config {
    autonat::Config {
        only_global_ips: false,
        ..autonat::Config::default()
    }
}

/// libp2p's default circuit carries 128 KiB for two minutes; a session talks for hours and may fetch its blobs through it.
fn relay_limits() -> relay::Config {
    relay::Config {
        max_circuit_duration: Duration::from_secs(24 * 3600),
        max_circuit_bytes: 64 << 30,
        ..relay::Config::default()
    }
}

/// The swarm over QUIC, TCP and relays, with every protocol of the control plane.
pub(super) fn build_swarm(config: &NetworkConfig, keypair: Keypair) -> Result<Swarm<Behaviour>, NetworkError> {
    fn setup<E: std::fmt::Display>(part: &'static str) -> impl Fn(E) -> NetworkError {
        move |error| NetworkError::Setup {
            part,
            reason: error.to_string(),
        }
    }
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            (tls::Config::new, noise::Config::new),
            yamux::Config::default,
        )
        .map_err(setup("TCP"))?
        .with_quic_config(|mut quic: quic::Config| {
            quic.max_idle_timeout = QUIC_IDLE_TIMEOUT.as_millis() as u32;
            quic.keep_alive_interval = QUIC_KEEP_ALIVE;
            quic
        })
        .with_dns()
        .map_err(setup("DNS"))?
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(setup("the relay client"))?
        .with_behaviour(|keypair, relay_client| Ok(compose(config, keypair, relay_client)?))
        .map_err(setup("the protocols"))?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE_CONNECTION_TIMEOUT))
        .build();
    Ok(swarm)
}
