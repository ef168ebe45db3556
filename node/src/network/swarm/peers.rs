//! Connections: made, lost, held, refused; what peers say of themselves; relays.
//! It knows members only as peers to stay connected to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::request_response;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, autonat, identify, kad, mdns, ping, relay};
use synod_protocol::identity::{PeerId, SessionId};

use super::super::config::{ADDRESSES_PER_PEER, MDNS_DIALS};
use super::super::contact::{Candidates, Contact, clock_ms, direct_ip, is_of_private_network};
use super::super::event::{NetworkEvent, PeerInfo};
use super::super::identity::{from_libp2p, to_libp2p};
use super::SwarmTask;
use super::traffic::{Allowance, topic};

/// Address lookups through Kademlia that run at once.
const LOOKUPS_AT_ONCE: usize = 4;
/// Relays on which a node behind a NAT listens.
const RELAYS_WANTED: usize = 2;
/// After so many failed dials a path through a relay is tried beside the direct ones.
const FAILURES_BEFORE_RELAY: u32 = 2;
/// How often lost relays and bootstrap addresses without a peer id are looked after.
const SLOW_TICK: Duration = Duration::from_secs(10);

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    connections: Vec<Connection>,
    since: Instant,
    round_trip: Option<Duration>,
    agent: Option<String>,
    is_relay: bool,
    /// Its clock less ours when it last told, up to the time that the telling took.
    clock_ahead_ms: Option<i64>,
    pub(super) allowance: Allowance,
}

impl Peer {
    /// Where it can be asked to relay: none for a peer that does not, or that we reach only through a relay.
    fn as_relay(&self) -> Option<Multiaddr> {
        let mut direct = self.connections.iter().filter(|connection| !connection.relayed);
        direct
            .next()
            .filter(|_| self.is_relay)
            .map(|connection| connection.address.clone())
    }
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    address: Multiaddr,
    /// Through a relay; whom the peer dialled so, its address does not tell.
    relayed: bool,
    /// Which start of the peer's process is at the other end, once it said so over this connection.
    instance: Option<u64>,
}

impl SwarmTask {
    pub(super) fn on_connected(&mut self, peer: libp2p::PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(ours) = from_libp2p(&peer) else {
            tracing::debug!(%peer, "a peer without an Ed25519 key was sent away");
            self.swarm.close_connection(id);
            return;
        };
        let now = Instant::now();
        let address = endpoint.get_remote_address().clone();
        let known = self
            .book
            .entry(ours, |peer| self.redial.holds(peer) || self.peers.contains_key(peer));
        if let Some(ip) = direct_ip(&address) {
            known.saw(ip);
        }
        if endpoint.is_dialer() {
            known.add_address(address.clone());
        }
        self.redial.connected(&ours, now);
        let first = !self.peers.contains_key(&ours);
        let state = self.peers.entry(ours).or_insert_with(|| Peer {
            connections: Vec::new(),
            since: now,
            round_trip: None,
            agent: None,
            is_relay: false,
            clock_ahead_ms: None,
            allowance: Allowance::full(now),
        });
        let relayed = endpoint.is_relayed();
        state.connections.push(Connection {
            id,
            address,
            relayed,
            instance: None,
        });
        let contact = self.contact.to_bytes();
        self.swarm.behaviour_mut().contacts.send_request(&peer, contact);
        if first {
            tracing::debug!(peer = %ours, "connected");
            self.outbox.lifecycle(NetworkEvent::Connected(ours));
        }
    }

    pub(super) fn on_connection_closed(&mut self, peer: &libp2p::PeerId, id: ConnectionId) {
        let Some(ours) = from_libp2p(peer) else { return };
        let Some(state) = self.peers.get_mut(&ours) else { return };
        state.connections.retain(|connection| connection.id != id);
        if state.connections.is_empty() {
            self.peers.remove(&ours);
            self.redial.lost(&ours, Instant::now());
            tracing::debug!(peer = %ours, "disconnected");
            self.outbox.lifecycle(NetworkEvent::Disconnected(ours));
        }
    }

    pub(super) fn on_dial_failed(&mut self, peer: Option<libp2p::PeerId>, error: &DialError) {
        if !matches!(error, DialError::DialPeerConditionFalse(_)) {
            tracing::debug!(peer = ?peer.map(|peer| peer.to_string()), %error, "a dial failed");
        }
    }

    pub(super) fn on_ping(&mut self, event: ping::Event) {
        let state = from_libp2p(&event.peer).and_then(|peer| self.peers.get_mut(&peer));
        match (event.result, state) {
            (Ok(round_trip), Some(state)) => state.round_trip = Some(round_trip),
            (Ok(_) | Err(ping::Failure::Unsupported), _) => {}
            (Err(error), _) => {
                tracing::debug!(peer = %event.peer, %error, "a connection does not answer; closing it");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    pub(super) fn on_contact(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        let request_response::Event::Message {
            peer,
            connection_id,
            message,
        } = event
        else {
            return;
        };
        let bytes = match message {
            request_response::Message::Request { request, channel, .. } => {
                let ours = self.contact.to_bytes();
                let _peer_gone = self.swarm.behaviour_mut().contacts.send_response(channel, ours);
                request
            }
            request_response::Message::Response { response, .. } => response,
        };
        let (Some(ours), Some(contact)) = (from_libp2p(&peer), Contact::from_bytes(&bytes)) else {
            return;
        };
        self.learn_contact(ours, connection_id, contact);
    }

    /// A peer that restarted says another instance over its new connection: the ones of the former instance are dead,
    /// and messages must not be sent into them until they time out.
    fn learn_contact(&mut self, peer: PeerId, connection: ConnectionId, contact: Contact) {
        let instance = contact.instance;
        let ahead = |theirs: u64| theirs as i64 - clock_ms() as i64;
        let clock_ahead_ms = contact.clock_ms.map(ahead);
        let restarted = self.book.instance(&peer).is_some_and(|former| former != instance);
        self.book.entry(peer, |_| false).contact = Some(contact);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.clock_ahead_ms = clock_ahead_ms.or(state.clock_ahead_ms);
        for known in state.connections.iter_mut().filter(|known| known.id == connection) {
            known.instance = Some(instance);
        }
        if restarted {
            let of_another = |known: &&Connection| known.instance.is_some_and(|former| former != instance);
            let dead: Vec<ConnectionId> = state
                .connections
                .iter()
                .filter(of_another)
                .map(|known| known.id)
                .collect();
            for id in dead {
                tracing::debug!(%peer, "the peer restarted; closing a connection to its former process");
                self.swarm.close_connection(id);
            }
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else {
            return;
        };
        let Some(ours) = from_libp2p(&peer_id) else { return };
        let Some(state) = self.peers.get_mut(&ours) else { return };
        state.agent = Some(
            info.agent_version
                .chars()
                .filter(|c| !c.is_control())
                .take(64)
                .collect(),
        );
        state.is_relay = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        let ips = state
            .connections
            .iter()
            .filter_map(|connection| direct_ip(&connection.address));
        let local = ips.clone().any(|ip| ip.is_loopback());
        let usable = |address: &Multiaddr| direct_ip(address).is_none_or(|ip| local || !ip.is_loopback());
        let listens: Vec<Multiaddr> = info
            .listen_addrs
            .into_iter()
            .filter(usable)
            .take(ADDRESSES_PER_PEER / 2)
            .collect();
        let known = self.book.entry(ours, |_| false);
        known.listens = listens.iter().filter_map(direct_ip).collect();
        known.listens.dedup();
        for address in &listens {
            known.add_address(address.clone());
        }
        if let Some(kademlia) = self.swarm.behaviour_mut().kademlia.as_mut() {
            for address in listens {
                kademlia.add_address(&peer_id, address);
            }
        }
        self.hold_relays();
    }

    pub(super) fn on_kademlia(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else {
            return;
        };
        if step.last {
            self.lookups.remove(&id);
        }
        let kad::QueryResult::GetClosestPeers(result) = result else {
            return;
        };
        let peers = match result {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        for found in peers {
            if let Some(peer) = from_libp2p(&found.peer_id)
                && self.redial.holds(&peer)
            {
                let known = self.book.entry(peer, |_| false);
                found
                    .addrs
                    .into_iter()
                    .take(ADDRESSES_PER_PEER / 2)
                    .for_each(|address| known.add_address(address));
                self.redial.hurry(&peer, Instant::now());
            }
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (theirs, address) in found {
            let Some(peer) = from_libp2p(&theirs) else { continue };
            self.book
                .entry(peer, |peer| self.redial.holds(peer) || self.peers.contains_key(peer))
                .add_address(address);
            self.redial.hurry(&peer, Instant::now());
            if !self.peers.contains_key(&peer) && self.peers.len() < MDNS_DIALS {
                self.dial_peer(&peer);
            }
        }
    }

    pub(super) fn on_autonat(&mut self, event: autonat::Event) {
        if let autonat::Event::StatusChanged { new, .. } = event {
            tracing::info!(reachability = ?new, "peers tested whether this node can be reached");
            self.public_in_private =
                matches!(&new, autonat::NatStatus::Public(address) if is_of_private_network(address));
            self.reachability = match new {
                autonat::NatStatus::Public(_) => "public",
                autonat::NatStatus::Private => "private",
                autonat::NatStatus::Unknown => "unknown",
            };
            self.hold_relays();
        }
    }

    /// Listens through relays: those of the configuration always, others when peers cannot reach us directly, or when that is
    /// not known (to know it takes peers in public places, and one in the same private network is none) and a member is not to
    /// be had.
    fn hold_relays(&mut self) {
        let needed = match self.reachability {
            "private" => true,
            "public" if !self.public_in_private => false,
            _ => self.redial.fails_beyond(FAILURES_BEFORE_RELAY),
        };
        let found = needed.then(|| {
            let relays = self.peers.iter();
            relays
                .filter_map(|(peer, state)| Some((*peer, state.as_relay()?)))
                .collect::<Vec<_>>()
        });
        let wanted: Vec<(PeerId, Multiaddr)> = self
            .relays
            .iter()
            .cloned()
            .chain(preferred(&self.peer_id, found.unwrap_or_default()))
            .collect();
        for (peer, address) in wanted {
            if self.reservations.contains_key(&peer) {
                continue;
            }
            let circuit = address.with_p2p(to_libp2p(&peer)).unwrap_or_else(|address| address);
            match self.swarm.listen_on(circuit.with(Protocol::P2pCircuit)) {
                Ok(listener) => drop(self.reservations.insert(peer, listener)),
                Err(error) => tracing::warn!(relay = %peer, %error, "cannot listen through this relay"),
            }
        }
    }

    /// Brings the swarm to what the driver wants now: topics, held members, refused peers.
    pub(super) fn on_wanted(&mut self) {
        let (sessions, banned) = {
            let wanted = self.inbox.wanted.borrow_and_update();
            (wanted.sessions.clone(), wanted.banned.clone())
        };
        let before: BTreeSet<SessionId> = self.sessions.keys().copied().collect();
        let after: BTreeSet<SessionId> = sessions.keys().copied().collect();
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        for session in before.difference(&after) {
            gossip.unsubscribe(&topic(session));
        }
        for session in after.difference(&before) {
            if let Err(error) = gossip.subscribe(&topic(session)) {
                tracing::warn!(%session, %error, "cannot subscribe; messages go directly to members");
            }
        }
        self.sessions = sessions;
        for peer in banned.keys().filter(|peer| !self.banned.contains_key(*peer)) {
            self.swarm.behaviour_mut().blocked.block_peer(to_libp2p(peer));
        }
        self.banned = banned;
        self.unban();
        self.hold_members();
    }

    fn hold_members(&mut self) {
        let mut held: BTreeSet<PeerId> = self.bootstrap.iter().filter_map(|(peer, _)| *peer).collect();
        held.extend(self.relays.iter().map(|(peer, _)| *peer));
        for members in self.sessions.values() {
            held.extend(nearest(self.peer_id, members, self.held_members_max));
        }
        held.retain(|peer| *peer != self.peer_id && !self.is_banned(peer));
        let limits = &mut self.swarm.behaviour_mut().limits;
        for gone in self.held.difference(&held) {
            limits.remove_peer_id(&to_libp2p(gone));
        }
        for new in held.difference(&self.held) {
            limits.bypass_peer_id(&to_libp2p(new));
        }
        let peers = &self.peers;
        self.redial.hold(&held, |peer| peers.contains_key(peer), Instant::now());
        self.held = held;
    }

    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.get(peer).is_some_and(|until| *until > Instant::now())
    }

    fn unban(&mut self) {
        let now = Instant::now();
        let over: Vec<PeerId> = self
            .banned
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in over {
            self.banned.remove(&peer);
            self.swarm.behaviour_mut().blocked.unblock_peer(to_libp2p(&peer));
            self.hold_members();
        }
    }

    /// Dials who is due; more rarely looks after relays, bans and bootstrap addresses without a peer id.
    pub(super) fn on_tick(&mut self) {
        let now = Instant::now();
        for peer in self.redial.due(now) {
            self.dial_peer(&peer);
        }
        if now < self.next_slow_tick {
            return;
        }
        self.next_slow_tick = now + SLOW_TICK;
        self.unban();
        self.hold_relays();
        let nameless: Vec<Multiaddr> = self
            .bootstrap
            .iter()
            .filter(|(peer, _)| peer.is_none())
            .map(|(_, address)| address.clone())
            .collect();
        for address in nameless {
            let connections = self.peers.values().flat_map(|peer| &peer.connections);
            if !connections
                .map(|connection| &connection.address)
                .any(|open| *open == address)
            {
                self.dial_address(address);
            }
        }
    }

    /// Where a peer may be: what the book says, and after failures also paths through the relays that we know.
    pub(super) fn dial_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut addresses = self.book.addresses(peer);
        if self.redial.failures(peer) > FAILURES_BEFORE_RELAY {
            let others = self.peers.iter().filter(|(relay, _)| *relay != peer);
            let relays = others.filter_map(|(relay, state)| Some((*relay, state.as_relay()?)));
            // Those through which it listens, if it knows the same.
            for (relay, address) in preferred(peer, relays.collect()) {
                let through = address.with_p2p(to_libp2p(&relay)).unwrap_or_else(|same| same);
                addresses.push(through.with(Protocol::P2pCircuit));
            }
        }
        addresses
    }

    pub(super) fn dial_peer(&mut self, peer: &PeerId) {
        let theirs = to_libp2p(peer);
        let options = DialOpts::peer_id(theirs)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(self.dial_addresses(peer))
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(Some(theirs), &error);
        }
        // Its addresses may be old: others may know newer ones.
        if self.redial.failures(peer) != 1
            && self.lookups.len() < LOOKUPS_AT_ONCE
            && !self.peers.is_empty()
            && let Some(kademlia) = self.swarm.behaviour_mut().kademlia.as_mut()
        {
            self.lookups.insert(kademlia.get_closest_peers(theirs));
        }
    }

    pub(super) fn dial_address(&mut self, address: Multiaddr) {
        let peer = match address.iter().last() {
            Some(Protocol::P2p(theirs)) => from_libp2p(&theirs),
            _ => None,
        };
        match peer {
            Some(peer) if peer == self.peer_id => {}
            Some(peer) => {
                self.book
                    .entry(peer, |peer| self.redial.holds(peer))
                    .add_address(address);
                self.dial_peer(&peer);
            }
            None => {
                if let Err(error) = self.swarm.dial(address) {
                    self.on_dial_failed(None, &error);
                }
            }
        }
    }

    pub(super) fn bulk_contact(&mut self, peer: &PeerId) -> Candidates {
        let connected = self.peers.contains_key(peer);
        if !connected && !self.redial.holds(peer) && !self.is_banned(peer) {
            self.dial_peer(peer);
        }
        Candidates {
            addresses: self.book.bulk_candidates(peer),
            connected,
            complete: self.book.instance(peer).is_some(),
        }
    }

    /// Addresses of held and connected peers, newest first: worth keeping for the next start.
    pub(super) fn known_addresses(&self) -> Vec<(PeerId, Vec<String>)> {
        let peers: BTreeSet<&PeerId> = self.held.iter().chain(self.peers.keys()).collect();
        let texts = |peer: &PeerId| self.book.addresses(peer).iter().map(ToString::to_string).collect();
        peers.into_iter().map(|peer| (*peer, texts(peer))).collect()
    }

    pub(super) fn peer_infos(&self) -> Vec<PeerInfo> {
        let info = |(peer, state): (&PeerId, &Peer)| PeerInfo {
            peer: *peer,
            addresses: state
                .connections
                .iter()
                .map(|connection| connection.address.to_string())
                .collect(),
            relayed: state.connections.iter().all(|connection| connection.relayed),
            round_trip: state.round_trip,
            agent: state.agent.clone(),
            clock_ahead_ms: state.clock_ahead_ms,
            connected_for: state.since.elapsed(),
            bulk_addresses: self.book.bulk_candidates(peer),
        };
        self.peers.iter().map(info).collect()
    }
}

/// The relays of a node behind a NAT, out of those that are known: a choice of its own, so that the nodes of a session spread over
/// its relays, and one that others make alike for it (rendezvous hashing, Thaler and Ravishankar 1998).
fn preferred(node: &PeerId, mut relays: Vec<(PeerId, Multiaddr)>) -> Vec<(PeerId, Multiaddr)> {
    let rank = |relay: &PeerId| {
        *blake3::Hasher::new()
            .update(&node.0)
            .update(&relay.0)
            .finalize()
            .as_bytes()
    };
    relays.sort_by_cached_key(|(relay, _)| rank(relay));
    relays.truncate(RELAYS_WANTED);
    relays
}

/// The members to which a connection is held when there are too many: a choice that both ends make alike, spread evenly.
fn nearest(own: PeerId, members: &BTreeSet<PeerId>, max: usize) -> Vec<PeerId> {
    if members.len() <= max {
        return members.iter().copied().collect();
    }
    let distance = |peer: &PeerId| {
        let (low, high) = if own < *peer { (&own, peer) } else { (peer, &own) };
        *blake3::Hasher::new()
            .update(&low.0)
            .update(&high.0)
            .finalize()
            .as_bytes()
    };
    let mut by_distance: Vec<PeerId> = members.iter().copied().collect();
    by_distance.sort_by_cached_key(distance);
    by_distance.truncate(max);
    by_distance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_behind_nats_spread_over_the_relays() {
        let relays = |known: std::ops::Range<u8>| {
            let address: Multiaddr = "/ip4/192.0.2.1/tcp/7600".parse().expect("literal");
            known.map(|n| (PeerId([n; 32]), address.clone())).collect::<Vec<_>>()
        };
        let mut taken = std::collections::BTreeMap::<PeerId, usize>::new();
        for node in 100..200 {
            let chosen = preferred(&PeerId([node; 32]), relays(0..8));
            assert_eq!(chosen.len(), RELAYS_WANTED);
            // A relay less does not move those who do not use it.
            let others = relays(0..8).into_iter().filter(|(relay, _)| *relay != PeerId([7; 32]));
            if chosen.iter().all(|(relay, _)| *relay != PeerId([7; 32])) {
                assert_eq!(preferred(&PeerId([node; 32]), others.collect()), chosen);
            }
            chosen
                .into_iter()
                .for_each(|(relay, _)| *taken.entry(relay).or_default() += 1);
        }
        // 25 each where the load is even.
        assert!(
            taken.len() == 8 && taken.values().all(|nodes| (10..=45).contains(nodes)),
            "{taken:?}"
        );
    }

    #[test]
    fn a_large_session_is_held_in_part_and_stays_connected() {
        let all: BTreeSet<PeerId> = (0..200u8).map(|n| PeerId([n; 32])).collect();
        let mut reached = BTreeSet::from([PeerId([0; 32])]);
        let mut frontier = vec![PeerId([0; 32])];
        while let Some(peer) = frontier.pop() {
            let held = nearest(peer, &all, 12);
            assert_eq!(held.len(), 12);
            frontier.extend(held.into_iter().filter(|other| reached.insert(*other)));
        }
        assert_eq!(reached.len(), all.len());
    }
}
