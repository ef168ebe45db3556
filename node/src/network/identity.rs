//! One identity on both planes: Synod's keys and peer ids in libp2p's types and back.
//! It makes no keys and keeps none.

use libp2p::identity::Keypair;
use synod_protocol::identity::{Identity, PeerId};

/// libp2p's name of an Ed25519 key: identity multihash (00 24) over a protobuf (08 01 12 20) and the key.
const ED25519_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The transport key of this identity.
pub(super) fn keypair(identity: &Identity) -> Keypair {
    Keypair::ed25519_from_bytes(identity.secret()).expect("any 32 bytes are an Ed25519 secret")
}

/// libp2p's form of a peer id.
pub(super) fn to_libp2p(peer: &PeerId) -> libp2p::PeerId {
    let mut bytes = [0u8; 38];
    bytes[..6].copy_from_slice(&ED25519_PREFIX);
    bytes[6..].copy_from_slice(&peer.0);
    libp2p::PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a peer id")
}

/// Synod's form of a peer id; none for other kinds of keys, with which Synod does not talk.
pub(super) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&ED25519_PREFIX)?;
    Some(PeerId(key.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_planes_print_one_name() {
        let identity = Identity::from_secret([9; 32]);
        let theirs = keypair(&identity).public().to_peer_id();
        assert_eq!(theirs.to_string(), identity.peer_id().to_string());
        assert_eq!(from_libp2p(&theirs), Some(identity.peer_id()));
        assert_eq!(to_libp2p(&identity.peer_id()), theirs);
    }

    #[test]
    fn other_kinds_of_keys_have_no_name_here() {
        assert_eq!(from_libp2p(&libp2p::PeerId::random()), None);
    }
}
