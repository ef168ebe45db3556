//! What two peers tell each other first: where the bulk plane is, which start of the process this is, and what the clock says.
//! It believes only what concerns the teller; addresses are candidates to try, and the certificate decides.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};

use super::config::{BULK_CANDIDATES, CONTACT_MAX_BYTES};

/// Sent by both sides on each new connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contact {
    /// Drawn at each start: another value means that the peer restarted and its older connections are dead.
    pub(super) instance: u64,
    /// UDP port of the bulk plane; TCP uses the same number.
    pub(super) bulk_port: u16,
    /// Addresses of the bulk plane that the peer knows to be reachable.
    pub(super) bulk_external: Vec<SocketAddr>,
    /// The teller's clock when it told, in milliseconds since 1970; former versions do not tell.
    #[serde(skip)]
    pub(super) clock_ms: Option<u64>,
}

/// This machine's clock, in milliseconds since 1970.
pub(super) fn clock_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Contact {
    /// What is told now.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self, clock_ms())).expect("a contact is plain data")
    }

    /// None for bytes that are no contact, or too many of them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > CONTACT_MAX_BYTES {
            return None;
        }
        let (mut contact, rest): (Self, _) = postcard::take_from_bytes(bytes).ok()?;
        contact.clock_ms = postcard::take_from_bytes(rest).ok().map(|(clock, _later_fields)| clock);
        contact.bulk_external.truncate(BULK_CANDIDATES);
        Some(contact)
    }
}

/// Where a peer's bulk plane may be, best guess first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    /// Bulk addresses to try, for UDP and TCP alike.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether a libp2p connection to the peer stands (so that a stream over it is possible).
    pub(super) connected: bool,
    /// Whether the peer has said where its bulk plane is; waiting brings no more addresses then.
    pub(super) complete: bool,
}

/// Orders and bounds the candidates: where the peer was seen, what it says, where it listens.
pub(super) fn candidates(contact: &Contact, seen: &[IpAddr], listens: &[IpAddr]) -> Vec<SocketAddr> {
    let seen_on_loopback = seen.iter().any(IpAddr::is_loopback);
    let with_port = |ip: &IpAddr| (contact.bulk_port != 0).then(|| SocketAddr::new(*ip, contact.bulk_port));
    let mut found = Vec::new();
    let told = contact
        .bulk_external
        .iter()
        .copied()
        .filter(|address| address.port() != 0);
    let usable = |address: &SocketAddr| {
        !address.ip().is_unspecified()
            && !address.ip().is_multicast()
            && (seen_on_loopback || !address.ip().is_loopback())
    };
    let all = seen
        .iter()
        .filter_map(with_port)
        .chain(told)
        .chain(listens.iter().filter_map(with_port));
    for address in all.filter(usable) {
        if found.len() < BULK_CANDIDATES && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// The IP address of a direct multiaddr; none for a relayed one, whose address is the relay's.
pub(super) fn direct_ip(address: &Multiaddr) -> Option<IpAddr> {
    if is_relayed(address) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)),
        _ => None,
    }
}

/// Whether the address is one of a private network, where not everyone can come.
pub(super) fn is_of_private_network(address: &Multiaddr) -> bool {
    match direct_ip(address) {
        Some(IpAddr::V4(ip)) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        Some(IpAddr::V6(ip)) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
        None => false,
    }
}

/// Whether the multiaddr passes through a relay.
fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact() -> Contact {
        Contact {
            instance: 7,
            bulk_port: 9,
            bulk_external: vec![
                "1.2.3.4:5".parse().expect("literal"),
                "127.0.0.1:5".parse().expect("literal"),
            ],
            clock_ms: None,
        }
    }

    #[test]
    fn addresses_of_private_networks_are_known() {
        let private = |text: &str| is_of_private_network(&text.parse().expect("literal"));
        for text in [
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/10.0.0.1/udp/1",
            "/ip4/169.254.0.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
        ] {
            assert!(private(text), "{text}");
        }
        for text in ["/ip4/1.2.3.4/tcp/1", "/ip6/2001:db8::1/tcp/1", "/dns4/a.example/tcp/1"] {
            assert!(!private(text), "{text}");
        }
    }

    #[test]
    fn a_contact_reads_back_and_garbage_is_none() {
        let before = clock_ms();
        let read = Contact::from_bytes(&contact().to_bytes()).expect("it reads back");
        assert!(
            read.clock_ms
                .is_some_and(|clock| (before..=clock_ms()).contains(&clock))
        );
        assert_eq!(Contact { clock_ms: None, ..read }, contact());
        // What a former version tells has no clock.
        let former = postcard::to_stdvec(&contact()).expect("plain data");
        assert_eq!(Contact::from_bytes(&former), Some(contact()));
        assert_eq!(Contact::from_bytes(&[0xff; 40]), None);
        assert_eq!(Contact::from_bytes(&vec![0; CONTACT_MAX_BYTES + 1]), None);
    }

    #[test]
    fn candidates_come_in_order_and_loopback_only_from_loopback() {
        let seen = ["10.0.0.1".parse().expect("literal")];
        let listens = [
            "10.0.0.1".parse().expect("literal"),
            "127.0.0.1".parse().expect("literal"),
        ];
        let texts = |found: Vec<SocketAddr>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(candidates(&contact(), &seen, &listens)),
            ["10.0.0.1:9", "1.2.3.4:5"]
        );
        let here = ["127.0.0.1".parse().expect("literal")];
        assert_eq!(
            texts(candidates(&contact(), &here, &[])),
            ["127.0.0.1:9", "1.2.3.4:5", "127.0.0.1:5"]
        );
    }

    #[test]
    fn a_relayed_address_shows_no_ip_of_the_peer() {
        let relayed: Multiaddr = "/ip4/1.2.3.4/tcp/5/p2p-circuit".parse().expect("literal");
        assert_eq!(direct_ip(&relayed), None);
        let direct: Multiaddr = "/ip6/::ffff:1.2.3.4/udp/5/quic-v1".parse().expect("literal");
        assert_eq!(direct_ip(&direct), Some("1.2.3.4".parse().expect("literal")));
    }
}
