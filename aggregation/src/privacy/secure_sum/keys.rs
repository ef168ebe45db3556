//! The keys of one member in one secure sum: what they are drawn from, and what two members derive from them.
//! It reads no randomness itself: the caller brings 32 bytes of the operating system's.

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use super::SecureSumError;
use super::messages::{KeyAdvert, SealedShare};
use super::shamir::Secret;
use crate::privacy::stream::Stream;

/// The seed of all secrets of one member in one sum. It can be made from bytes of the operating system's generator only
/// by a caller that says so, is consumed by its sum, and can be neither copied nor printed nor serialised: used twice, it
/// would unmask both sums.
pub struct SumSeed(Zeroizing<[u8; 32]>);

impl SumSeed {
    /// Takes 32 fresh bytes from the operating system (`getrandom::fill` in the caller). Never a session's seed, a
    /// beacon's value or anything that another party may know.
    pub fn from_os_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for SumSeed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SumSeed(secret)")
    }
}

/// One member's secrets.
pub(crate) struct Secrets {
    /// Opens shares sealed for this member.
    pub(crate) channel: StaticSecret,
    /// Makes pairwise masks; revealed by the others if this member drops out.
    pub(crate) mask: StaticSecret,
    /// Makes the self-mask; revealed by the others if this member's input is in the sum.
    pub(crate) seed: Zeroizing<Secret>,
    /// What the coefficients of the sharings are drawn from.
    coefficients: Zeroizing<Secret>,
}

impl Secrets {
    /// All secrets of the sum `context`, from its one seed.
    pub(crate) fn new(seed: &SumSeed, context: &[u8; 32]) -> Self {
        let derive = |purpose: &str| {
            let mut material = Zeroizing::new([0u8; 64]);
            material[..32].copy_from_slice(seed.0.as_slice());
            material[32..].copy_from_slice(context);
            Zeroizing::new(blake3::derive_key(purpose, material.as_slice()))
        };
        Self {
            channel: StaticSecret::from(*derive("synod secure sum v1: channel key")),
            mask: StaticSecret::from(*derive("synod secure sum v1: mask key")),
            seed: derive("synod secure sum v1: self-mask seed"),
            coefficients: derive("synod secure sum v1: sharing coefficients"),
        }
    }

    /// `count` secrets' worth of coefficients; different for each `sharing`.
    pub(crate) fn coefficients(&self, sharing: u64, count: usize) -> Vec<Secret> {
        let mut words = Zeroizing::new(vec![0u32; 8 * count]);
        Stream::new(&self.coefficients, sharing).add_to(0, &mut words);
        let (rows, _) = words.as_chunks::<8>();
        rows.iter()
            .map(|row| {
                let mut secret = [0u8; 32];
                let (parts, _) = secret.as_chunks_mut::<4>();
                parts
                    .iter_mut()
                    .zip(row)
                    .for_each(|(part, word)| *part = word.to_le_bytes());
                secret
            })
            .collect()
    }

    /// What the others must know.
    pub(crate) fn advert(&self, member: u8, context: &[u8; 32]) -> KeyAdvert {
        KeyAdvert {
            member,
            channel_key: PublicKey::from(&self.channel).to_bytes(),
            mask_key: PublicKey::from(&self.mask).to_bytes(),
            seed_commitment: commitment(&self.seed, context),
        }
    }
}

/// BLAKE3 of a self-mask's seed within its sum.
pub(crate) fn commitment(seed: &Secret, context: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("synod secure sum v1: commitment to a seed");
    hasher.update(context);
    hasher.update(seed);
    *hasher.finalize().as_bytes()
}

/// A key that only two members can derive: X25519, then BLAKE3 over the shared point, the sum, the purpose, and both
/// public keys in the order given. `None` when the other key has no secret behind it (a point of low order).
fn shared_key(
    purpose: &str,
    context: &[u8; 32],
    own: &StaticSecret,
    other: &[u8; 32],
    parties: [&[u8; 32]; 2],
) -> Option<Zeroizing<[u8; 32]>> {
    let shared = own.diffie_hellman(&PublicKey::from(*other));
    if !shared.was_contributory() {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(shared.as_bytes());
    hasher.update(context);
    parties.into_iter().for_each(|party| {
        hasher.update(party);
    });
    Some(Zeroizing::new(*hasher.finalize().as_bytes()))
}

/// The stream that masks what `own` (of the advert `own_key`) and `other` send; the same from both sides.
pub(crate) fn pair_mask(
    context: &[u8; 32],
    own: &StaticSecret,
    own_key: &[u8; 32],
    other_key: &[u8; 32],
) -> Option<Stream> {
    let parties = [own_key.min(other_key), own_key.max(other_key)];
    let key = shared_key("synod secure sum v1: pairwise mask", context, own, other_key, parties)?;
    Some(Stream::new(&key, 0))
}

/// The stream of a self-mask.
pub(crate) fn self_mask(context: &[u8; 32], seed: &Secret) -> Stream {
    let mut material = Zeroizing::new([0u8; 64]);
    material[..32].copy_from_slice(seed);
    material[32..].copy_from_slice(context);
    let key = Zeroizing::new(blake3::derive_key(
        "synod secure sum v1: self-mask",
        material.as_slice(),
    ));
    Stream::new(&key, 0)
}

/// The cipher from one member to another. A key seals one message, so that the nonce is zero.
fn channel(
    context: &[u8; 32],
    own: &StaticSecret,
    other: &KeyAdvert,
    from: &KeyAdvert,
    to: &KeyAdvert,
) -> Result<ChaCha20Poly1305, SecureSumError> {
    let parties = [&from.channel_key, &to.channel_key];
    let key = shared_key(
        "synod secure sum v1: sealed shares",
        context,
        own,
        &other.channel_key,
        parties,
    )
    .ok_or(SecureSumError::WeakKey { member: other.member })?;
    Ok(ChaCha20Poly1305::new(key.as_slice().into()))
}

/// Seals two shares from one member for another.
pub(crate) fn seal(
    context: &[u8; 32],
    secrets: &Secrets,
    from: &KeyAdvert,
    to: &KeyAdvert,
    shares: [Secret; 2],
) -> Result<SealedShare, SecureSumError> {
    let cipher = channel(context, &secrets.channel, to, from, to)?;
    let mut bytes = *shares
        .as_flattened()
        .first_chunk::<64>()
        .expect("two shares of 32 bytes");
    let tag = cipher
        .encrypt_in_place_detached(&Nonce::default(), &[from.member, to.member], &mut bytes)
        .expect("64 bytes are not too many");
    let (seed_share, key_share) = halves(&bytes);
    Ok(SealedShare {
        peer: to.member,
        seed_share,
        key_share,
        tag: tag.into(),
    })
}

/// Opens what `from` sealed for `to`, the owner of `secrets`.
pub(crate) fn open(
    context: &[u8; 32],
    secrets: &Secrets,
    from: &KeyAdvert,
    to: &KeyAdvert,
    sealed: &SealedShare,
) -> Result<[Secret; 2], SecureSumError> {
    let cipher = channel(context, &secrets.channel, from, from, to)?;
    let mut bytes = [0u8; 64];
    bytes[..32].copy_from_slice(&sealed.seed_share);
    bytes[32..].copy_from_slice(&sealed.key_share);
    cipher
        .decrypt_in_place_detached(
            &Nonce::default(),
            &[from.member, to.member],
            &mut bytes,
            Tag::from_slice(&sealed.tag),
        )
        .map_err(|_| SecureSumError::MalformedShare { dealer: from.member })?;
    let (seed_share, key_share) = halves(&bytes);
    bytes.zeroize();
    Ok([seed_share, key_share])
}

fn halves(bytes: &[u8; 64]) -> (Secret, Secret) {
    let (mut first, mut second) = ([0u8; 32], [0u8; 32]);
    first.copy_from_slice(&bytes[..32]);
    second.copy_from_slice(&bytes[32..]);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(byte: u8) -> Secrets {
        Secrets::new(&SumSeed::from_os_bytes([byte; 32]), &[1; 32])
    }

    #[test]
    fn a_sealed_share_opens_for_its_receiver_in_its_sum_only() {
        let (alice, bob, carol) = (secrets(1), secrets(2), secrets(3));
        let context = [1; 32];
        let [a, b, c] = [(&alice, 0), (&bob, 1), (&carol, 2)].map(|(s, member)| s.advert(member, &context));
        let shares = [[5; 32], [6; 32]];
        let sealed = seal(&context, &alice, &a, &b, shares).unwrap();
        assert_ne!((sealed.seed_share, sealed.key_share), (shares[0], shares[1]));
        assert_eq!(open(&context, &bob, &a, &b, &sealed), Ok(shares));
        let malformed = |dealer| Err(SecureSumError::MalformedShare { dealer });
        assert_eq!(open(&[2; 32], &bob, &a, &b, &sealed), malformed(0));
        assert_eq!(open(&context, &carol, &a, &c, &sealed), malformed(0));
        assert_eq!(open(&context, &bob, &c, &b, &sealed), malformed(2));
        for damage in 0..3 {
            let mut sealed = sealed.clone();
            [
                &mut sealed.seed_share[..],
                &mut sealed.key_share[..],
                &mut sealed.tag[..],
            ][damage][7] ^= 1;
            assert_eq!(open(&context, &bob, &a, &b, &sealed), malformed(0));
        }
    }

    #[test]
    fn a_pair_derives_one_mask_and_a_key_without_a_secret_derives_none() {
        let (alice, bob) = (secrets(1), secrets(2));
        let [a, b] = [(&alice, 0), (&bob, 1)].map(|(s, member)| s.advert(member, &[1; 32]).mask_key);
        let words = |stream: Option<Stream>| {
            let mut words = [0u32; 256];
            stream.unwrap().add_to(0, &mut words);
            words
        };
        let from_alice = words(pair_mask(&[1; 32], &alice.mask, &a, &b));
        assert_eq!(from_alice, words(pair_mask(&[1; 32], &bob.mask, &b, &a)));
        assert_ne!(from_alice, words(pair_mask(&[2; 32], &bob.mask, &b, &a)));
        assert!(pair_mask(&[1; 32], &alice.mask, &a, &[0; 32]).is_none());
    }

    #[test]
    fn one_seed_gives_unrelated_secrets_and_prints_none() {
        let one = secrets(1);
        assert_ne!(one.channel.to_bytes(), one.mask.to_bytes());
        assert_ne!(one.coefficients(0, 3), one.coefficients(1, 3));
        assert_eq!(format!("{:?}", SumSeed::from_os_bytes([7; 32])), "SumSeed(secret)");
    }
}
