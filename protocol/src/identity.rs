//! Who is who: keys, peer ids, session ids and content ids, with their printed forms.
//! It makes no keys from OS randomness (a caller brings 32 secret bytes) and stores nothing.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// A peer's Ed25519 public key. Printed in libp2p's form (`12D3KooW…`), so that one name serves both planes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 32]);

/// libp2p prints an Ed25519 key as base58 of an identity multihash (00 24) over a protobuf (08 01 12 20) and the key.
const LIBP2P_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl PeerId {
    /// The last eight characters of the printed form: enough to tell peers of a session apart on a screen.
    pub fn short(&self) -> String {
        let long = self.to_string();
        long[long.len() - 8..].to_owned()
    }

    /// Checks one signature under this key, strictly (no malleable or small-order forms).
    pub fn verifies(&self, message: &[u8], signature: &SignatureBytes) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(&signature.0)).is_ok())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&LIBP2P_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId(…{})", self.short())
    }
}

/// A printed id could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not an Ed25519 peer id in libp2p's printed form.
    #[error("`{0}` is not a peer id: expected the form 12D3KooW… that `node status` prints")]
    Peer(String),
    /// Not 64 hexadecimal digits.
    #[error("`{0}` is not an id: expected 64 hexadecimal digits")]
    Hex(String),
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let refuse = || IdError::Peer(text.to_owned());
        let bytes = bs58::decode(text).into_vec().map_err(|_| refuse())?;
        let key = bytes.strip_prefix(&LIBP2P_PREFIX).ok_or_else(refuse)?;
        Ok(Self(key.try_into().map_err(|_| refuse())?))
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first eight hexadecimal digits.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}…)"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let refuse = || IdError::Hex(text.to_owned());
                let bytes = hex::decode(text).map_err(|_| refuse())?;
                Ok(Self(bytes.try_into().map_err(|_| refuse())?))
            }
        }
    };
}

digest_id! {
    /// BLAKE3 of a session configuration's canonical bytes: who knows the id can check the configuration.
    SessionId
}
digest_id! {
    /// BLAKE3 of a blob's bytes: the name under which updates and model states travel and are kept.
    BlobId
}
digest_id! {
    /// BLAKE3 of a settlement body's canonical bytes: a link of the session's chain.
    BodyId
}

impl BlobId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// An Ed25519 signature's 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignatureBytes(pub [u8; 64]);

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", hex::encode(&self.0[..4]))
    }
}

impl Serialize for SignatureBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (low, high): (&[u8; 32], &[u8; 32]) = (
            self.0[..32].try_into().expect("32 of 64 bytes"),
            self.0[32..].try_into().expect("32 of 64 bytes"),
        );
        (low, high).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignatureBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0u8; 64];
        bytes[..32].copy_from_slice(&low);
        bytes[32..].copy_from_slice(&high);
        Ok(Self(bytes))
    }
}

/// A node's secret identity. It signs; it is never printed, serialised or sent.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity of 32 secret bytes, which the caller drew from the OS or read from its key file.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(&secret),
        }
    }

    /// The 32 secret bytes, for the key file and for the transport's key alone.
    pub fn secret(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }

    /// Signs these bytes (deterministically, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> SignatureBytes {
        SignatureBytes(self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.peer_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_reads_back_from_its_printed_form() {
        let peer = Identity::from_secret([7; 32]).peer_id();
        let text = peer.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse(), Ok(peer));
        assert!("12D3KooWnonsense".parse::<PeerId>().is_err());
    }

    #[test]
    fn a_signature_is_bound_to_key_and_message() {
        let identity = Identity::from_secret([1; 32]);
        let signature = identity.sign(b"text");
        assert!(identity.peer_id().verifies(b"text", &signature));
        assert!(!identity.peer_id().verifies(b"texT", &signature));
        assert!(!Identity::from_secret([2; 32]).peer_id().verifies(b"text", &signature));
    }
}
