//! Ways to a holder: QUIC, else TLS over TCP, else a stream over the control plane's connection (through a relay).
//! It finds a way and opens streams on it; what is said on them is not its business.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use synod_protocol::identity::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::super::NetworkHandle;
use super::super::behaviour::BLOB_PROTOCOL;
use super::super::config::{
    BULK_CONNECT_TIMEOUT, RELAY_HEAD_START_OF_DIRECT, TCP_HEAD_START_OF_QUIC, TLS_HANDSHAKE_TIMEOUT,
};
use super::super::contact::Candidates;
use super::super::identity::to_libp2p;
use super::endpoint::{Credentials, SERVER_NAME, prefer_bbr, suit_narrow_paths};

/// Pause between questions to the control plane for a peer's addresses, while it is being dialled.
const ADDRESS_PAUSE: Duration = Duration::from_millis(200);

/// A way to a peer's bulk plane.
#[derive(Debug, Clone)]
pub(super) enum Path {
    Quic(quinn::Connection),
    Tcp(SocketAddr),
    Relay,
}

impl Path {
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Quic(connection) => connection.close_reason().is_none(),
            Self::Tcp(_) | Self::Relay => true,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
            Self::Tcp(_) => "tcp",
            Self::Relay => "relay",
        }
    }
}

/// Both halves of a stream to a peer.
pub(super) struct Stream {
    pub(super) read: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) write: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Stream {
    pub(super) fn of(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (read, write) = tokio::io::split(io);
        Self {
            read: Box::new(read),
            write: Box::new(write),
        }
    }
}

/// Finds ways and opens streams.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) quic: Option<quinn::Endpoint>,
    pub(super) credentials: Credentials,
    pub(super) streams: libp2p_stream::Control,
    pub(super) network: NetworkHandle,
}

impl Dialer {
    /// The first way that works: QUIC has a head start over TCP, and both over the relay, which loads a third party.
    pub(super) async fn connect(mut self, peer: PeerId, udp_closed: bool) -> Result<Path, String> {
        let deadline = Instant::now() + BULK_CONNECT_TIMEOUT;
        let candidates = self.candidates(peer, deadline).await?;
        let mut direct = Box::pin(self.clone().connect_directly(peer, candidates.addresses, udp_closed));
        let reason = match timeout(RELAY_HEAD_START_OF_DIRECT, &mut direct).await {
            Ok(Ok(path)) => return Ok(path),
            Ok(Err(reason)) => {
                direct = Box::pin(self.clone().connect_directly(peer, Vec::new(), true));
                reason
            }
            Err(_) => "no answer over UDP or TCP".to_owned(),
        };
        let through_control = async {
            match timeout_at(deadline, self.open_relayed(peer)).await {
                Ok(Ok(_)) => Ok(Path::Relay),
                Ok(Err(error)) => Err(format!("{reason}; through the control plane: {error}")),
                Err(_) => Err(format!("{reason}; through the control plane: no answer")),
            }
        };
        tokio::select! {
            Ok(path) = direct => Ok(path),
            result = through_control => result,
        }
    }

    /// A direct way, at the addresses that are known by now, for a peer that a fallback reaches.
    pub(super) async fn improve(self, peer: PeerId) -> Result<Path, String> {
        let deadline = Instant::now() + BULK_CONNECT_TIMEOUT;
        let candidates = self.candidates(peer, deadline).await?;
        let direct = self.connect_directly(peer, candidates.addresses, false);
        timeout_at(deadline, direct)
            .await
            .unwrap_or_else(|_| Err("no answer over UDP or TCP".to_owned()))
    }

    /// Waits until the control plane knows where the peer is, or at least is connected to it.
    async fn candidates(&self, peer: PeerId, deadline: Instant) -> Result<Candidates, String> {
        loop {
            let Some(candidates) = self.network.bulk_contact(peer).await else {
                return Err("the node is shutting down".to_owned());
            };
            let give_up = Instant::now() + 2 * ADDRESS_PAUSE > deadline;
            if !candidates.addresses.is_empty() || (candidates.connected && (candidates.complete || give_up)) {
                return Ok(candidates);
            }
            if give_up {
                return Err("not connected to the peer, and none of its addresses is known".to_owned());
            }
            sleep(ADDRESS_PAUSE).await;
        }
    }

    async fn connect_directly(
        self,
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        udp_closed: bool,
    ) -> Result<Path, String> {
        let head_start = match &self.quic {
            Some(_) if !udp_closed => TCP_HEAD_START_OF_QUIC,
            _ => Duration::ZERO,
        };
        let mut attempts: FuturesUnordered<futures::future::BoxFuture<'static, Result<Path, String>>> =
            FuturesUnordered::new();
        for address in addresses {
            if let Some(endpoint) = &self.quic {
                attempts.push(Box::pin(connect_quic(
                    endpoint.clone(),
                    self.credentials.clone(),
                    peer,
                    address,
                )));
            }
            let dialer = self.clone();
            attempts.push(Box::pin(async move {
                sleep(head_start).await;
                match dialer.open_tcp(peer, address).await {
                    Ok(_) => Ok(Path::Tcp(address)),
                    Err(error) => Err(format!("TCP {address}: {error}")),
                }
            }));
        }
        let mut reasons = Vec::new();
        while let Some(result) = attempts.next().await {
            match result {
                Ok(path) => return Ok(path),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    /// A new stream on a known way.
    pub(super) async fn open(&mut self, peer: PeerId, path: &Path) -> io::Result<Stream> {
        match path {
            Path::Quic(connection) => {
                let (write, read) = connection.open_bi().await?;
                Ok(Stream {
                    read: Box::new(read),
                    write: Box::new(write),
                })
            }
            Path::Tcp(address) => self.open_tcp(peer, *address).await,
            Path::Relay => self.open_relayed(peer).await,
        }
    }

    async fn open_tcp(&self, peer: PeerId, address: SocketAddr) -> io::Result<Stream> {
        let config = Arc::new(self.credentials.client(&peer)?);
        within(TLS_HANDSHAKE_TIMEOUT, async {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            suit_narrow_paths(SockRef::from(&socket));
            let socket = socket.connect(address).await?;
            socket.set_nodelay(true)?;
            prefer_bbr(SockRef::from(&socket));
            let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await?;
            Ok(Stream::of(stream))
        })
        .await
    }

    async fn open_relayed(&mut self, peer: PeerId) -> io::Result<Stream> {
        within(TLS_HANDSHAKE_TIMEOUT, async {
            let stream = self
                .streams
                .open_stream(to_libp2p(&peer), BLOB_PROTOCOL)
                .await
                .map_err(io::Error::other)?;
            Ok(Stream::of(stream.compat()))
        })
        .await
    }
}

async fn connect_quic(
    endpoint: quinn::Endpoint,
    credentials: Credentials,
    peer: PeerId,
    address: SocketAddr,
) -> Result<Path, String> {
    let explain = |error: &dyn std::fmt::Display| format!("QUIC {address}: {error}");
    let local = endpoint.local_addr().map_err(|error| explain(&error))?;
    let target = match (local, address) {
        // A socket for both families takes IPv4 in its mapped form.
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        _ => address,
    };
    let config = credentials.quic_client(&peer).map_err(|error| explain(&error))?;
    let connecting = endpoint
        .connect_with(config, target, SERVER_NAME)
        .map_err(|error| explain(&error))?;
    connecting.await.map(Path::Quic).map_err(|error| explain(&error))
}

/// Gives work a time limit that reads as an I/O error.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {} s", limit.as_secs()),
        ))
    })
}
