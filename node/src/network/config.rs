//! What an operator may choose about the network, and every bound of the network with its reason.
//! It opens nothing and checks no address against the machine: `start` does, and says which one failed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The control plane's port where nothing else is chosen; the bulk plane listens on the next one.
pub const DEFAULT_PORT: u16 = 7600;

/// The largest message that travels through gossipsub. Larger ones cost 20 MB a node a megabyte (measured): pull blobs.
pub const GOSSIP_MAX_BYTES: usize = 4096;
/// What gossipsub adds to a message: topic, author, sequence number, key and signature, with room.
pub const GOSSIP_OVERHEAD_BYTES: usize = 1024;
/// The largest directly sent message: a settlement or a roster fits; a tensor is a blob.
pub const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// The largest contact message: two ports and sixteen addresses fit four times.
pub const CONTACT_MAX_BYTES: usize = 4096;

/// Dials, addresses and queries waiting for the swarm task.
pub const CONTROL_QUEUE_LENGTH: usize = 1024;
/// Messages waiting for the swarm task: a second of a large session's chatter.
pub const TRAFFIC_QUEUE_LENGTH: usize = 1024;
/// Bytes of messages waiting for the swarm task or for a peer's acknowledgement.
pub const TRAFFIC_QUEUE_BYTES: u64 = 64 << 20;
/// Events waiting for the driver.
pub const EVENT_QUEUE_LENGTH: usize = 4096;
/// Places among them which messages never take, so that connects, disconnects and fetched blobs get through.
pub const EVENT_QUEUE_RESERVE: usize = 512;
/// Bytes of messages that wait for the driver; more is dropped and counted.
pub const INBOUND_QUEUE_BYTES: u64 = 64 << 20;
/// How far peers that are in no session of ours may fill them: joiners get through, strangers shut out no member.
pub const INBOUND_QUEUE_BYTES_OF_STRANGERS: u64 = 8 << 20;
/// Direct messages to one peer that are not acknowledged yet; the next one is dropped and counted.
pub const IN_FLIGHT_PER_PEER: usize = 64;
/// A direct message that is not acknowledged by then is lost.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Incoming direct messages of one peer that are read at once.
pub const INBOUND_STREAMS_PER_PEER: usize = 64;

/// Members of a session to whom every broadcast goes directly, too, where the session has no more: gossipsub says nothing of a
/// stream to a peer that has broken (seen after a peer's machine had slept), and a direct message is acknowledged.
pub const DIRECT_MEMBERS_MAX: usize = 24;
/// In larger sessions every so manieth broadcast goes directly to all who are connected, for the same reason: what matters is
/// repeated by the machine, so that it comes through after so many heartbeats.
pub const DIRECT_EVERY: u64 = 4;

/// Messages a second that one peer may bring us (gossip hops included); more is dropped and counted.
pub const PEER_MESSAGES_PER_SECOND: u32 = 400;
/// Messages that one peer may bring at once after a quiet time.
pub const PEER_MESSAGES_BURST: u32 = 2000;

/// How often a quiet connection is probed, and how long the answer may take: a killed peer is noticed within their sum.
pub const PING_INTERVAL: Duration = Duration::from_secs(3);
/// See [`PING_INTERVAL`].
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A QUIC connection over which nothing came for so long is dead.
pub const QUIC_IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often QUIC sends something when nothing is to be sent; a third of the idle timeout survives two losses.
pub const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(2500);
/// A connection that no protocol needs stays open for this long: peers of a session talk in bursts.
pub const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3600);

/// First pause before a lost member is dialled again, and the longest one. Restarts are normal, so the cap is low.
pub const REDIAL_FIRST: Duration = Duration::from_millis(500);
/// See [`REDIAL_FIRST`].
pub const REDIAL_CAP: Duration = Duration::from_secs(15);
/// How often due dials are looked for.
pub const REDIAL_TICK: Duration = Duration::from_millis(250);
/// Dials that are started in one tick.
pub const REDIALS_PER_TICK: usize = 16;

/// Addresses kept for one peer; the oldest goes first.
pub const ADDRESSES_PER_PEER: usize = 12;
/// Peers whose addresses are kept; one that is neither connected nor wanted goes first.
pub const BOOK_PEERS: usize = 4096;
/// Peers found by mDNS that are dialled without being asked for.
pub const MDNS_DIALS: usize = 32;
/// Bulk addresses of one peer that are tried.
pub const BULK_CANDIDATES: usize = 8;
/// gossipsub topics that one peer may subscribe to here.
pub const TOPICS_PER_PEER: usize = 64;

/// Fetches that run at once; the others wait in order.
pub const FETCHES_AT_ONCE: usize = 8;
/// Fetches that run at once of those that name one peer as their first holder: a slow one must not hold all places.
pub const FETCHES_AT_ONCE_PER_HOLDER: usize = 2;
/// Partly received blobs of ended fetches that are kept for the next try; the oldest goes first.
pub const PARTIALS_KEPT: usize = 16;
/// Their bytes together; the newest is kept beyond it.
pub const PARTIALS_KEPT_BYTES: u64 = 4 << 30;
/// Fetches that wait.
pub const FETCH_QUEUE_LENGTH: usize = 1024;
/// Pieces in which a blob is read, sent and written: never a whole blob in memory.
pub const BLOB_CHUNK_BYTES: usize = 256 << 10;
/// The unit in which an arriving blob is verified, so that a lie costs a mebibyte and names its teller. A power of two.
pub const BLOB_GROUP_BYTES: u64 = 1 << 20;
/// Streams of one fetch at once, over all its holders: so many groups of its blob are in memory. Four streams carry a tenth
/// more than one where packets are lost (measured); more holders share the work.
pub const LANES: usize = 6;
/// Streams of one fetch to a holder that is alone.
pub const LANES_PER_HOLDER: usize = 4;
/// Groups of a blob for which another lane is opened: a small blob comes from one holder, and nobody else is troubled.
pub const GROUPS_A_LANE: usize = 8;
/// Groups that a lane asks for at once at the most: enough that the next question costs little, few enough that a slow
/// holder keeps little from the others.
pub const LANE_GROUPS: u64 = 32;
/// The largest blob: its list of group hashes stays below two mebibytes.
pub const BLOB_MAX_BYTES: u64 = 64 << 30;
/// Connecting to a holder, all ways together.
pub const BULK_CONNECT_TIMEOUT: Duration = Duration::from_secs(12);
/// QUIC is given this long alone before TCP is tried beside it.
pub const TCP_HEAD_START_OF_QUIC: Duration = Duration::from_millis(1500);
/// The relayed stream is tried when neither answered for this long, for it loads a third party.
pub const RELAY_HEAD_START_OF_DIRECT: Duration = Duration::from_secs(5);
/// TLS over TCP must be agreed by then.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// A request must be complete by then (slow-loris), and an answer must begin by then.
pub const BULK_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The list of group hashes may need the holder to read the whole blob.
pub const BULK_TREE_TIMEOUT: Duration = Duration::from_secs(60);
/// A small blob, or a list of group hashes, must be here by then once it has begun to come: a mebibyte at 140 kbit/s.
pub const BULK_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// One chunk must move by then in either direction; slower peers are given up.
pub const BULK_CHUNK_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle stream that may carry another request is closed after this.
pub const BULK_STREAM_IDLE: Duration = Duration::from_secs(30);
/// A stream or a connection of a peer that may not fetch is closed after this: such a peer has no business here yet.
pub const BULK_IDLE_OF_STRANGERS: Duration = Duration::from_secs(5);
/// A bulk connection over which nothing came for so long is dead.
pub const BULK_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bulk connections in all.
pub const BULK_CONNECTIONS: usize = 512;
/// Bulk connections of one peer.
pub const BULK_CONNECTIONS_PER_PEER: usize = 8;
/// Bulk connections of peers that may not fetch (they may become members; they may not fill the table).
pub const BULK_CONNECTIONS_OF_STRANGERS: usize = 32;
/// TCP connections to the bulk plane whose TLS handshake is under way: each costs a file descriptor, and whoever opens one
/// proves nothing.
pub const BULK_TCP_HANDSHAKES: usize = 64;
/// Blobs that are served at once, to all peers together.
pub const SERVED_AT_ONCE: usize = 64;
/// Blobs that are served at once to one peer.
pub const SERVED_AT_ONCE_PER_PEER: usize = 8;
/// Denied requests after which the connection is closed.
pub const DENIALS_PER_CONNECTION: u32 = 8;
/// Lists of group hashes kept ready for the next request.
pub const TREES_KEPT: usize = 32;
/// Lists of group hashes that wait to be computed.
pub const TREE_QUEUE_LENGTH: usize = 64;
/// After a holder could not be reached over UDP, TCP is tried at once for so long; then QUIC is tried again.
pub const UDP_CLOSED_MEMORY: Duration = Duration::from_secs(300);
/// A holder that only the control plane reaches is tried directly again after this, and ever more rarely.
pub const RELAY_MEMORY: Duration = Duration::from_secs(15);
/// Pause before the holders are asked again when none of them could be reached.
pub const HOLDERS_PAUSE: Duration = Duration::from_millis(500);

/// UDP socket buffers of the bulk plane; as important as the QUIC window (measured). The kernel caps them.
pub const UDP_SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Bytes of one stream in flight: 100 Mbit/s at 200 ms and 400 Mbit/s at 20 ms need 2.5 MB and 1 MB, with room for bursts.
pub const QUIC_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of one connection in flight: two streams' worth.
pub const QUIC_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The same of a connection that a peer opened, while nobody here knows the peer: its requests fit a thousand times.
pub const QUIC_WINDOW_BYTES_OF_STRANGERS: u32 = 64 << 10;
/// Bytes in a TCP segment of the bulk plane: a path of 1280 bytes carries it, the narrowest that IPv6 allows.
pub const TCP_SEGMENT_BYTES: u32 = 1220;
/// Receive buffer of a TCP connection that a peer opened: only its requests come over it.
pub const TCP_RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// This machine's network settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Multiaddrs of the control plane. Both QUIC and TCP, for each is closed somewhere. Port 0 lets the system choose.
    pub listen: Vec<String>,
    /// UDP address of the bulk plane; the same port number is used for its fallback over TCP.
    pub bulk_listen: SocketAddr,
    /// Multiaddrs under which the control plane is reachable from outside, where forwarding hides them (default: none).
    pub external: Vec<String>,
    /// Addresses under which the bulk plane is reachable from outside (default: none; peers try the observed address).
    pub bulk_external: Vec<SocketAddr>,
    /// Multiaddrs with `/p2p/…` that are dialled at start and whenever they are lost (default: none; invites bring them).
    pub bootstrap: Vec<String>,
    /// Multiaddrs with `/p2p/…` of relays on which to listen (default: none; found by itself behind a NAT).
    pub relays: Vec<String>,
    /// Find peers on the local network. On: two machines of one institution find each other without set-up.
    pub mdns: bool,
    /// Find members' addresses through other members. On: an address changes while a node is away.
    pub kademlia: bool,
    /// Carry other peers' traffic when they cannot reach each other, strangers' too (64 GiB or a day a circuit).
    /// Off: it costs bandwidth; switch on at public addresses.
    pub relay_server: bool,
    /// Learn from peers whether this machine is reachable (AutoNAT). On: it decides whether a relay is needed.
    pub autonat: bool,
    /// Connections in all (default 512: a session of hundreds on a small machine). Members are let in beyond it.
    pub connections_max: u32,
    /// Members of one session to which a connection is held (default 96); larger sessions rely on gossip between these.
    pub held_members_max: usize,
    /// Fetch blobs over QUIC. On; switch off where a firewall mistreats UDP, to save the first wait for the fallback.
    pub bulk_quic: bool,
}

impl NetworkConfig {
    /// The default with another port, on all IPv4 interfaces: control on `port`, bulk on `port + 1` (both 0 for 0).
    pub fn with_port(port: u16) -> Self {
        let bulk_port = if port == 0 { 0 } else { port.saturating_add(1) };
        Self {
            listen: vec![
                format!("/ip4/0.0.0.0/udp/{port}/quic-v1"),
                format!("/ip4/0.0.0.0/tcp/{port}"),
            ],
            bulk_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, bulk_port)),
            external: Vec::new(),
            bulk_external: Vec::new(),
            bootstrap: Vec::new(),
            relays: Vec::new(),
            mdns: true,
            kademlia: true,
            relay_server: false,
            autonat: true,
            connections_max: 512,
            held_members_max: 96,
            bulk_quic: true,
        }
    }

    /// Loopback only, ports chosen by the system, no discovery: for tests and local demonstrations.
    pub fn loopback() -> Self {
        Self {
            listen: vec![
                "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
                "/ip4/127.0.0.1/tcp/0".to_owned(),
            ],
            bulk_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            mdns: false,
            ..Self::with_port(0)
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::with_port(DEFAULT_PORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reads_back_and_unknown_keys_are_refused() {
        let text = toml::to_string(&NetworkConfig::default()).expect("a config is TOML");
        assert_eq!(
            toml::from_str::<NetworkConfig>(&text).expect("it reads back"),
            NetworkConfig::default()
        );
        assert!(toml::from_str::<NetworkConfig>("mdsn = true").is_err());
    }

    #[test]
    fn bounds_fit_each_other() {
        const { assert!(BLOB_GROUP_BYTES.is_power_of_two() && BLOB_GROUP_BYTES.is_multiple_of(BLOB_CHUNK_BYTES as u64)) };
        const { assert!(BLOB_MAX_BYTES / BLOB_GROUP_BYTES * 32 <= 2 << 20) };
        const { assert!(EVENT_QUEUE_RESERVE < EVENT_QUEUE_LENGTH) };
        const { assert!(MESSAGE_MAX_BYTES as u64 <= INBOUND_QUEUE_BYTES_OF_STRANGERS) };
        const { assert!(INBOUND_QUEUE_BYTES_OF_STRANGERS < INBOUND_QUEUE_BYTES) };
        const { assert!(FETCHES_AT_ONCE_PER_HOLDER < FETCHES_AT_ONCE) };
    }
}
