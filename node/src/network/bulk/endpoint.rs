//! The bulk plane's sockets: QUIC on UDP and TLS on TCP, on one port.
//! It sets the path (BBR, windows, buffers: measured); it proves no identity (`certificate`) and knows nothing of blobs.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use synod_protocol::identity::{Identity, PeerId};

use super::super::NetworkError;
use super::super::config::{
    BULK_IDLE_TIMEOUT, NetworkConfig, QUIC_CONNECTION_WINDOW_BYTES, QUIC_KEEP_ALIVE, QUIC_STREAM_WINDOW_BYTES,
    QUIC_WINDOW_BYTES_OF_STRANGERS, SERVED_AT_ONCE_PER_PEER, TCP_RECEIVE_BUFFER_BYTES, TCP_SEGMENT_BYTES,
    UDP_SOCKET_BUFFER_BYTES,
};
use super::super::identity::keypair;
use super::super::swarm::cannot_listen;
use super::certificate;

/// The name that clients send; certificates name keys, not hosts.
pub(super) const SERVER_NAME: &str = "synod";
/// With port 0: how often another port is tried until one is free on UDP and TCP.
const PORT_TRIES: usize = 32;

/// The bulk plane's sockets, listening.
pub(in super::super) struct Listener {
    pub(super) quic: quinn::Endpoint,
    pub(super) tcp: TcpListener,
    pub(super) credentials: Credentials,
    pub(super) use_quic: bool,
}

/// What proves this node's identity, and how QUIC shall behave.
#[derive(Clone)]
pub(super) struct Credentials {
    keypair: Keypair,
    transport: Arc<TransportConfig>,
}

fn setup<E: std::fmt::Display>(part: &'static str) -> impl Fn(E) -> NetworkError {
    move |error| NetworkError::Setup {
        part,
        reason: error.to_string(),
    }
}

impl Listener {
    /// Binds UDP and TCP on one port. Call it within the runtime.
    pub(in super::super) fn bind(config: &NetworkConfig, identity: &Identity) -> Result<Self, NetworkError> {
        let (udp, tcp) = bind_both(config.bulk_listen).map_err(|(text, error)| cannot_listen(&text, &error))?;
        let credentials = Credentials {
            keypair: keypair(identity),
            transport: Arc::new(transport(QUIC_CONNECTION_WINDOW_BYTES)),
        };
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(
            QuicServerConfig::try_from(credentials.server()?).map_err(setup("QUIC"))?,
        ));
        // Until it is known who comes: `connection::serve` widens it.
        server.transport_config(Arc::new(transport(QUIC_WINDOW_BYTES_OF_STRANGERS)));
        let secret = credentials.keypair.derive_secret(b"synod blob stateless reset");
        let secret = secret.expect("an Ed25519 key derives secrets");
        let mut endpoint = quinn::EndpointConfig::new(Arc::new(ResetKey(secret)));
        endpoint.cid_generator(|| Box::new(RandomIds));
        let quic = quinn::Endpoint::new(endpoint, Some(server), udp, Arc::new(quinn::TokioRuntime))
            .map_err(setup("the QUIC endpoint"))?;
        Ok(Self {
            quic,
            tcp,
            credentials,
            use_quic: config.bulk_quic,
        })
    }

    /// The bound address; UDP and TCP share it.
    pub(in super::super) fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.local_addr().into_iter().collect()
    }
}

/// Binds UDP and TCP to one address; the text names the one that failed.
fn bind_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener), (String, io::Error)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let udp = bind_udp(address).map_err(|error| (format!("{address} (UDP, bulk_listen)"), error))?;
        let bound = udp
            .local_addr()
            .map_err(|error| (format!("{address} (UDP, bulk_listen)"), error))?;
        match bind_tcp(bound) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if tries > 0 => {}
            Err(error) => return Err((format!("{bound} (TCP, bulk_listen)"), error)),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the former connections' last packets; a running listener still keeps the port.
    socket.set_reuse_address(true)?;
    // What it accepts has this from its first packet on.
    socket.set_recv_buffer_size(TCP_RECEIVE_BUFFER_BYTES)?;
    suit_narrow_paths(SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(64)?;
    prefer_bbr(SockRef::from(&socket));
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(UDP_SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Segments that fit every path: where one is narrower than its ends, many firewalls drop the routers' word of it, and longer
/// segments are lost without an end. QUIC finds the width out by itself.
pub(super) fn suit_narrow_paths(socket: SockRef<'_>) {
    #[cfg(unix)]
    if let Err(error) = socket.set_tcp_mss(TCP_SEGMENT_BYTES) {
        tracing::trace!(%error, "the system does not let us choose the length of TCP segments");
    }
}

/// BBR on TCP where the kernel has it: cubic falls to a sixth of the link at 0.1 % loss (measured). Otherwise cubic it is.
pub(super) fn prefer_bbr(socket: SockRef<'_>) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_congestion(b"bbr") {
        tracing::trace!(%error, "the kernel offers no BBR for TCP");
    }
}

fn transport(receive_window_bytes: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(BULK_IDLE_TIMEOUT).expect("ten seconds fit a QUIC variable integer");
    transport
        .congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()))
        .stream_receive_window(VarInt::from_u32(QUIC_STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(receive_window_bytes))
        .send_window(u64::from(QUIC_CONNECTION_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(2 * SERVED_AT_ONCE_PER_PEER as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(QUIC_KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .initial_rtt(Duration::from_millis(100));
    transport
}

impl Credentials {
    pub(super) fn server(&self) -> Result<rustls::ServerConfig, NetworkError> {
        certificate::server(&self.keypair).map_err(setup("the certificate"))
    }

    pub(super) fn client(&self, peer: &PeerId) -> io::Result<rustls::ClientConfig> {
        certificate::client(&self.keypair, peer)
    }

    pub(super) fn quic_client(&self, peer: &PeerId) -> io::Result<quinn::ClientConfig> {
        let crypto = QuicClientConfig::try_from(self.client(peer)?).map_err(io::Error::other)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&self.transport));
        Ok(config)
    }
}

/// Whom a QUIC connection's certificate names.
pub(super) fn peer_of_connection(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    certificate::peer_of(&chain)
}

/// Connection ids that any start of the process accepts as its own. quinn's default ones are keyed anew at each start, and
/// packets of the former start would be dropped in silence instead of being answered by a reset.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the system gave random bytes when the node started");
        quinn::ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The same key after a restart, so that a restarted node can tell peers at once that their old connection is dead.
struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0)
            .update(data)
            .finalize_xof()
            .fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        let given: [u8; 32] = signature.try_into().map_err(|_| quinn::crypto::CryptoError)?;
        // blake3::Hash compares in constant time.
        (expected == blake3::Hash::from_bytes(given))
            .then_some(())
            .ok_or(quinn::crypto::CryptoError)
    }
}
