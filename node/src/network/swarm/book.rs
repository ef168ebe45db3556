//! What is known of peers between connections: multiaddrs, contact, the addresses they were seen at.
//! It is bounded, kept in memory only, and trusts nothing in it: every dial proves the peer's identity anew.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use synod_protocol::identity::PeerId;

use super::super::config::{ADDRESSES_PER_PEER, BOOK_PEERS};
use super::super::contact::{self, Contact};

/// What is known of one peer.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Newest last, without `/p2p/…` of the peer itself.
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) contact: Option<Contact>,
    /// Remote addresses of its connections, newest first.
    seen: Vec<IpAddr>,
    /// Addresses on which it says that it listens.
    pub(super) listens: Vec<IpAddr>,
}

/// What is known of all peers.
#[derive(Debug, Default)]
pub(super) struct Book {
    peers: BTreeMap<PeerId, Known>,
}

impl Book {
    /// The entry of a peer, made when there is none; another one that is not `kept` gives way when the book is full.
    pub(super) fn entry(&mut self, peer: PeerId, kept: impl Fn(&PeerId) -> bool) -> &mut Known {
        if self.peers.len() >= BOOK_PEERS && !self.peers.contains_key(&peer) {
            let victim = self
                .peers
                .keys()
                .find(|candidate| !kept(candidate))
                .or(self.peers.keys().next())
                .copied();
            victim.and_then(|victim| self.peers.remove(&victim));
        }
        self.peers.entry(peer).or_default()
    }

    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers
            .get(peer)
            .map(|known| known.addresses.iter().rev().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn bulk_candidates(&self, peer: &PeerId) -> Vec<SocketAddr> {
        let Some(known) = self.peers.get(peer) else {
            return Vec::new();
        };
        let Some(contact) = &known.contact else {
            return Vec::new();
        };
        contact::candidates(contact, &known.seen, &known.listens)
    }

    pub(super) fn instance(&self, peer: &PeerId) -> Option<u64> {
        self.peers.get(peer)?.contact.as_ref().map(|contact| contact.instance)
    }
}

impl Known {
    /// Remembers an address as the newest, dropping the oldest over the limit.
    pub(super) fn add_address(&mut self, address: Multiaddr) {
        let address = without_own_id(address);
        self.addresses.retain(|known| *known != address);
        self.addresses.push(address);
        if self.addresses.len() > ADDRESSES_PER_PEER {
            self.addresses.remove(0);
        }
    }

    pub(super) fn saw(&mut self, ip: IpAddr) {
        self.seen.retain(|known| *known != ip);
        self.seen.insert(0, ip);
        self.seen.truncate(2);
    }
}

/// `…/p2p/X` names who is there; a dial names the peer itself. The relay's id before a circuit stays.
fn without_own_id(mut address: Multiaddr) -> Multiaddr {
    match address.pop() {
        Some(Protocol::P2p(_)) | None => {}
        Some(last) => address.push(last),
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_addresses_stay() {
        let mut known = Known::default();
        for port in 0..40u16 {
            known.add_address(format!("/ip4/1.2.3.4/tcp/{port}").parse().expect("literal"));
        }
        assert_eq!(known.addresses.len(), ADDRESSES_PER_PEER);
        assert_eq!(
            known.addresses.last().map(ToString::to_string).as_deref(),
            Some("/ip4/1.2.3.4/tcp/39")
        );
    }

    #[test]
    fn a_full_book_forgets_whom_nobody_wants() {
        let mut book = Book::default();
        let peer = |n: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            PeerId(key)
        };
        for n in 0..BOOK_PEERS as u32 + 10 {
            book.entry(peer(n), |candidate| *candidate == peer(0));
        }
        assert_eq!(book.peers.len(), BOOK_PEERS);
        assert!(book.peers.contains_key(&peer(0)));
        assert!(!book.peers.contains_key(&peer(1)));
    }
}
