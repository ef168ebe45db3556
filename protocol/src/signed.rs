//! Signed values: what came from the wire and what has been proved to be its signer's.
//! It checks who said something in which session; whether it makes sense is the machine's business.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, PeerId, SessionId, SignatureBytes};
use crate::limits;

/// A kind of value that is signed. The domain string keeps a signature over one kind from passing for another.
pub trait Content: Serialize + DeserializeOwned {
    /// Goes under every signature of this kind; names its version.
    const DOMAIN: &'static [u8];
}

/// A value as its signer sent it: canonical bytes, and a signature over domain, session, signer and bytes.
///
/// Cloning is cheap, and the result of checking the signature is kept with the value: a value that
/// is passed along inside others is checked once.
pub struct Signed<T> {
    inner: Arc<Inner>,
    kind: PhantomData<fn() -> T>,
}

struct Inner {
    wire: Wire,
    checked: OnceLock<bool>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
struct Wire {
    session: SessionId,
    signer: PeerId,
    body: Vec<u8>,
    signature: SignatureBytes,
}

/// A value whose signature has been checked. Only this crate can make one, and only from a `Signed`.
#[derive(Debug)]
pub struct Verified<T> {
    value: Arc<T>,
    signed: Signed<T>,
}

/// Why bytes are not a signed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// More bytes than any message may have.
    #[error("message of {0} bytes is over the limit")]
    Oversize(usize),
    /// The bytes do not decode, or decode and leave a rest.
    #[error("message does not decode")]
    Malformed,
    /// The signature is not the named signer's over these bytes in this session, or the bytes are not the one
    /// canonical form of their value (a signature must hold over the value as anyone encodes it).
    #[error("signature does not verify")]
    BadSignature,
}

impl<T: Content> Signed<T> {
    /// Signs `value` for `session`.
    pub fn new(identity: &Identity, session: SessionId, value: &T) -> Self {
        let signer = identity.peer_id();
        let body = postcard::to_stdvec(value).expect("protocol values always encode");
        let signature = identity.sign(&signing_bytes(T::DOMAIN, &session, &signer, &body));
        let wire = Wire {
            session,
            signer,
            body,
            signature,
        };
        Self {
            inner: Arc::new(Inner {
                wire,
                checked: OnceLock::from(true),
            }),
            kind: PhantomData,
        }
    }

    /// Reads the wire form. Nothing is believed yet: see [`Signed::verify`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignedError> {
        if bytes.len() > limits::MESSAGE_BYTES {
            return Err(SignedError::Oversize(bytes.len()));
        }
        let (wire, rest) = postcard::take_from_bytes::<Wire>(bytes).map_err(|_| SignedError::Malformed)?;
        if !rest.is_empty() {
            return Err(SignedError::Malformed);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                wire,
                checked: OnceLock::new(),
            }),
            kind: PhantomData,
        })
    }

    /// The wire form.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.inner.wire).expect("signed values always encode")
    }

    /// Checks the signature and decodes the value.
    pub fn verify(&self) -> Result<Verified<T>, SignedError> {
        let wire = &self.inner.wire;
        let good = self.inner.checked.get_or_init(|| {
            let bytes = signing_bytes(T::DOMAIN, &wire.session, &wire.signer, &wire.body);
            wire.signer.verifies(&bytes, &wire.signature) && is_canonical::<T>(&wire.body)
        });
        if !good {
            return Err(SignedError::BadSignature);
        }
        let (value, rest) = postcard::take_from_bytes::<T>(&wire.body).map_err(|_| SignedError::Malformed)?;
        if !rest.is_empty() {
            return Err(SignedError::Malformed);
        }
        Ok(Verified {
            value: Arc::new(value),
            signed: self.clone(),
        })
    }
}

impl<T> Signed<T> {
    /// Who claims to have signed. Proved only by [`Signed::verify`].
    pub fn signer(&self) -> PeerId {
        self.inner.wire.signer
    }

    /// The session that it claims to be of.
    pub fn session(&self) -> SessionId {
        self.inner.wire.session
    }

    /// The signature, as a compact proof that the signer said this.
    pub fn signature(&self) -> SignatureBytes {
        self.inner.wire.signature
    }

    /// Length of the wire form, about.
    pub fn wire_bytes(&self) -> usize {
        self.inner.wire.body.len() + 32 + 32 + 64 + 4
    }
}

impl<T> Verified<T> {
    /// The proved value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Its proved signer.
    pub fn signer(&self) -> PeerId {
        self.signed.signer()
    }

    /// The session under the signature.
    pub fn session(&self) -> SessionId {
        self.signed.session()
    }

    /// The signed form, to pass on or to keep as evidence.
    pub fn signed(&self) -> &Signed<T> {
        &self.signed
    }
}

/// Whether `signature` is `signer`'s over `value` in `session`: for proofs that carry signatures without their values.
pub fn signature_holds<T: Content>(session: SessionId, signer: PeerId, value: &T, signature: &SignatureBytes) -> bool {
    let body = postcard::to_stdvec(value).expect("protocol values always encode");
    signer.verifies(&signing_bytes(T::DOMAIN, &session, &signer, &body), signature)
}

/// postcard accepts numbers with needless bytes; a value has to have one form, or its signature means little.
fn is_canonical<T: Content>(body: &[u8]) -> bool {
    let value = postcard::from_bytes::<T>(body);
    value.is_ok_and(|value| postcard::to_stdvec(&value).is_ok_and(|bytes| bytes == body))
}

fn signing_bytes(domain: &[u8], session: &SessionId, signer: &PeerId, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(domain.len() + 72 + body.len());
    bytes.extend_from_slice(domain);
    bytes.push(0);
    bytes.extend_from_slice(&session.0);
    bytes.extend_from_slice(&signer.0);
    bytes.extend_from_slice(body);
    bytes
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            signed: self.signed.clone(),
        }
    }
}

impl<T> std::fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Signed(by {:?}, {} bytes)",
            self.signer(),
            self.inner.wire.body.len()
        )
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.inner.wire == other.inner.wire
    }
}

impl<T> Eq for Signed<T> {}

impl<T> Serialize for Signed<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.wire.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Signed<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        Ok(Self {
            inner: Arc::new(Inner {
                wire,
                checked: OnceLock::new(),
            }),
            kind: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Note(u32);
    impl Content for Note {
        const DOMAIN: &'static [u8] = b"synod/test-note/1";
    }
    #[derive(Serialize, Deserialize)]
    struct Other(u32);
    impl Content for Other {
        const DOMAIN: &'static [u8] = b"synod/test-other/1";
    }

    fn note() -> Signed<Note> {
        Signed::new(&Identity::from_secret([3; 32]), SessionId([9; 32]), &Note(41))
    }

    #[test]
    fn a_signed_value_survives_the_wire() {
        let back = Signed::<Note>::from_bytes(&note().to_bytes()).unwrap();
        assert_eq!(back.verify().unwrap().value().0, 41);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = note().to_bytes();
        for at in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[at / 8] ^= 1 << (at % 8);
            let passed = Signed::<Note>::from_bytes(&bent).and_then(|signed| signed.verify());
            assert!(passed.is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_signature_over_one_kind_does_not_pass_for_another() {
        let bytes = note().to_bytes();
        assert_eq!(
            Signed::<Other>::from_bytes(&bytes).unwrap().verify().err(),
            Some(SignedError::BadSignature)
        );
    }

    #[test]
    fn a_value_has_one_form() {
        let identity = Identity::from_secret([3; 32]);
        let session = SessionId([9; 32]);
        let signer = identity.peer_id();
        // 41 as a number of two bytes: postcard reads it, and nobody else would write it so.
        let body = vec![0x80 | 41, 0];
        let signature = identity.sign(&signing_bytes(Note::DOMAIN, &session, &signer, &body));
        let bytes = postcard::to_stdvec(&Wire {
            session,
            signer,
            body,
            signature,
        })
        .unwrap();
        assert!(Signed::<Note>::from_bytes(&bytes).unwrap().verify().is_err());
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = note().to_bytes();
        bytes.push(0);
        assert_eq!(Signed::<Note>::from_bytes(&bytes).err(), Some(SignedError::Malformed));
    }
}
