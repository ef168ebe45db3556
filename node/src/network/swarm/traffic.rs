//! Messages: out by gossip or directly, in with a rate limit.
//! It never retries: a lost message is the machine's business, which repeats what matters.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, PublishError, TopicHash};
use libp2p::request_response::{self, OutboundRequestId};
use synod_protocol::identity::{PeerId, SessionId};

use super::super::Outgoing;
use super::super::config::{
    DIRECT_EVERY, DIRECT_MEMBERS_MAX, GOSSIP_MAX_BYTES, IN_FLIGHT_PER_PEER, INBOUND_QUEUE_BYTES,
    INBOUND_QUEUE_BYTES_OF_STRANGERS, MESSAGE_MAX_BYTES, PEER_MESSAGES_BURST, PEER_MESSAGES_PER_SECOND,
};
use super::super::counters::count;
use super::super::identity::{from_libp2p, to_libp2p};
use super::SwarmTask;

const TOPIC_PREFIX: &str = "synod/1/";

pub(super) fn topic(session: &SessionId) -> IdentTopic {
    IdentTopic::new(format!("{TOPIC_PREFIX}{session}"))
}

fn session_of(topic: &TopicHash) -> Option<SessionId> {
    topic.as_str().strip_prefix(TOPIC_PREFIX)?.parse().ok()
}

/// A direct message that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct InFlight {
    peer: PeerId,
    bytes: u64,
}

/// A peer's allowance of messages: a token bucket.
#[derive(Debug)]
pub(super) struct Allowance {
    tokens: f64,
    at: Instant,
}

impl Allowance {
    pub(super) fn full(now: Instant) -> Self {
        Self {
            tokens: f64::from(PEER_MESSAGES_BURST),
            at: now,
        }
    }

    /// Takes one message's worth, if there is so much.
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(PEER_MESSAGES_PER_SECOND);
        self.tokens = (self.tokens + earned).min(f64::from(PEER_MESSAGES_BURST));
        self.at = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

impl SwarmTask {
    pub(super) fn on_outgoing(&mut self, outgoing: Outgoing) {
        let (Outgoing::Broadcast(_, bytes) | Outgoing::Send(_, bytes)) = &outgoing;
        self.outbox.counters.queued_bytes.fetch_sub(bytes.len() as u64, Relaxed);
        match outgoing {
            Outgoing::Broadcast(session, bytes) => self.broadcast(session, bytes),
            Outgoing::Send(peer, bytes) => self.send_directly(peer, bytes),
        }
    }

    fn broadcast(&mut self, session: SessionId, bytes: Vec<u8>) {
        let small = bytes.len() <= GOSSIP_MAX_BYTES;
        let members = self.sessions.get(&session).cloned().unwrap_or_default();
        let away = |member: &PeerId| *member != self.peer_id && !self.peers.contains_key(member);
        // Gossip is for those who are not connected, and for sessions with too many to be told one by one.
        let few = members.len() <= DIRECT_MEMBERS_MAX;
        let mut heard = BTreeSet::new();
        if small && !(few && !members.is_empty() && !members.iter().any(away)) {
            heard = self.gossip(session, &bytes);
        }
        self.broadcasts = self.broadcasts.wrapping_add(1);
        if few || self.broadcasts.is_multiple_of(DIRECT_EVERY) {
            heard.clear();
        }
        for member in members.difference(&heard) {
            // A held member that is not connected is being dialled already, and small messages reach the others by
            // gossip; what the member misses, the machine repeats.
            if self.peers.contains_key(member) || (!small && !self.redial.holds(member)) {
                self.send_directly(*member, bytes.clone());
            }
        }
    }

    /// Publishes and says who got it at first hand; nobody when gossip could not take it.
    fn gossip(&mut self, session: SessionId, bytes: &[u8]) -> BTreeSet<PeerId> {
        let topic = topic(&session).hash();
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        match gossip.publish(topic.clone(), bytes) {
            Ok(_) => {}
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => return BTreeSet::new(),
            Err(error) => {
                tracing::debug!(%session, %error, "gossip did not take a message; sending it directly");
                return BTreeSet::new();
            }
        }
        let heard: BTreeSet<PeerId> = gossip
            .all_peers()
            .filter(|(_, topics)| topics.contains(&&topic))
            .filter_map(|(peer, _)| from_libp2p(peer))
            .collect();
        for peer in &heard {
            self.outbox.counters.control.sent(bytes.len() as u64);
            self.outbox.counters.control.item_out();
            self.tally(*peer).sent(bytes.len() as u64);
            self.tally(*peer).item_out();
        }
        heard
    }

    fn send_directly(&mut self, peer: PeerId, bytes: Vec<u8>) {
        if peer == self.peer_id || self.is_banned(&peer) {
            return;
        }
        if bytes.len() > MESSAGE_MAX_BYTES {
            return count(&self.outbox.counters.drops.oversize);
        }
        let waiting = self.unacknowledged.entry(peer).or_default();
        if *waiting >= IN_FLIGHT_PER_PEER {
            return count(&self.outbox.counters.drops.in_flight);
        }
        *waiting += 1;
        let length = bytes.len() as u64;
        self.outbox.counters.queued_bytes.fetch_add(length, Relaxed);
        self.outbox.counters.control.sent(length);
        self.outbox.counters.control.item_out();
        self.tally(peer).sent(length);
        self.tally(peer).item_out();
        let addresses = if self.peers.contains_key(&peer) {
            Vec::new()
        } else {
            self.dial_addresses(&peer)
        };
        let messages = &mut self.swarm.behaviour_mut().messages;
        let request = messages.send_request_with_addresses(&to_libp2p(&peer), bytes, addresses);
        self.in_flight.insert(request, InFlight { peer, bytes: length });
    }

    fn acknowledged(&mut self, request: OutboundRequestId) {
        let Some(InFlight { peer, bytes }) = self.in_flight.remove(&request) else {
            return;
        };
        self.outbox.counters.queued_bytes.fetch_sub(bytes, Relaxed);
        if let Some(waiting) = self.unacknowledged.get_mut(&peer) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                self.unacknowledged.remove(&peer);
            }
        }
    }

    pub(super) fn on_message(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    // The acknowledgement says that the bytes came, not that they are believed.
                    let _peer_gone = self.swarm.behaviour_mut().messages.send_response(channel, Vec::new());
                    self.deliver(&peer, None, request);
                }
                request_response::Message::Response { request_id, .. } => self.acknowledged(request_id),
            },
            request_response::Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                tracing::debug!(%peer, %error, "a message was not acknowledged");
                count(&self.outbox.counters.drops.unacknowledged);
                self.acknowledged(request_id);
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a message did not come whole");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message {
            propagation_source,
            message_id,
            message,
        } = event
        else {
            return;
        };
        let author = message.source.as_ref().and_then(from_libp2p);
        let ours = session_of(&message.topic).filter(|session| self.sessions.contains_key(session));
        let mut acceptance = self.judge(ours.as_ref(), author.as_ref(), message.data.len());
        if !matches!(acceptance, MessageAcceptance::Accept) {
            count(&self.outbox.counters.drops.gossip_not_forwarded);
        }
        // A stranger's words are not passed on, but heard: a roster may have grown without us.
        if let Some(session) = ours
            && !matches!(acceptance, MessageAcceptance::Reject)
            && !self.deliver(&propagation_source, Some(session), message.data)
        {
            acceptance = MessageAcceptance::Ignore;
        }
        // It says false for a message that fell out of the cache meanwhile: nobody passes it on then.
        let _known = self.swarm.behaviour_mut().gossip.report_message_validation_result(
            &message_id,
            &propagation_source,
            acceptance,
        );
    }

    /// Whether gossip is passed on: only what a member of that session, or a peer let in by name, has signed.
    fn judge(&self, session: Option<&SessionId>, author: Option<&PeerId>, bytes: usize) -> MessageAcceptance {
        let (Some(members), Some(author)) = (session.and_then(|session| self.sessions.get(session)), author) else {
            return MessageAcceptance::Ignore;
        };
        if bytes > GOSSIP_MAX_BYTES {
            return MessageAcceptance::Reject;
        }
        let known = members.contains(author) || self.inbox.wanted.borrow().allowed.contains(author);
        match known && !self.is_banned(author) {
            true => MessageAcceptance::Accept,
            false => MessageAcceptance::Ignore,
        }
    }

    /// Counts a message and hands it to the driver; false when the hop has used up its allowance.
    fn deliver(&mut self, from: &libp2p::PeerId, session: Option<SessionId>, bytes: Vec<u8>) -> bool {
        let Some(from) = from_libp2p(from) else { return false };
        let Some(peer) = self.peers.get_mut(&from) else {
            return false;
        };
        if !peer.allowance.take(Instant::now()) {
            count(&self.outbox.counters.drops.peer_rate);
            return false;
        }
        self.outbox.counters.control.received(bytes.len() as u64);
        self.outbox.counters.control.item_in();
        self.tally(from).received(bytes.len() as u64);
        self.tally(from).item_in();
        let limit = match self.sessions.values().any(|members| members.contains(&from)) {
            true => INBOUND_QUEUE_BYTES,
            false => INBOUND_QUEUE_BYTES_OF_STRANGERS,
        };
        self.outbox.message(from, session, bytes, limit);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_topic_names_its_session() {
        let session = SessionId([3; 32]);
        assert_eq!(session_of(&topic(&session).hash()), Some(session));
        assert_eq!(session_of(&TopicHash::from_raw("synod/1/zz")), None);
    }

    #[test]
    fn an_allowance_bounds_a_flood_and_recovers() {
        let now = Instant::now();
        let mut allowance = Allowance::full(now);
        let taken = (0..3 * PEER_MESSAGES_BURST).filter(|_| allowance.take(now)).count();
        assert_eq!(taken, PEER_MESSAGES_BURST as usize);
        let later = now + Duration::from_secs(1);
        let taken = (0..3 * PEER_MESSAGES_BURST).filter(|_| allowance.take(later)).count();
        assert_eq!(taken, PEER_MESSAGES_PER_SECOND as usize);
    }
}
