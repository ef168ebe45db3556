//! What members and coordinator of a secure sum say to each other, and the one form of each as bytes.
//! Nothing here is signed: who said it, in which round, is what the envelope around these bytes proves.

use serde::{Deserialize, Serialize};

use super::shamir::Secret;
use super::{MAX_MEMBERS, SecureSumError, SumPlan};

/// First message, member to all: the keys of this sum. Fresh for every sum.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KeyAdvert {
    /// The member's index.
    pub member: u8,
    /// X25519 key under which shares are sealed for this member. Its secret half never leaves the member.
    pub channel_key: [u8; 32],
    /// X25519 key that pairwise masks come from. Its secret half is shared out, and revealed if the member drops out.
    pub mask_key: [u8; 32],
    /// BLAKE3 of the self-mask's seed, so that a wrong share is noticed.
    pub seed_commitment: [u8; 32],
}

/// Coordinator to all: the keys of those who take part, in the order of their indices.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KeyRoster {
    /// One advert a member.
    pub adverts: Vec<KeyAdvert>,
}

/// Two shares, sealed by one member for another (ChaCha20-Poly1305).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SealedShare {
    /// Who it is for, in [`MemberShares`]; who it is from, in [`ShareDelivery`].
    pub peer: u8,
    /// Sealed share of the self-mask's seed.
    pub seed_share: [u8; 32],
    /// Sealed share of the mask key's secret half.
    pub key_share: [u8; 32],
    /// Authenticates both, sender, receiver and sum.
    pub tag: [u8; 16],
}

/// Second message, member to coordinator: a sealed share for each other member of the roster.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MemberShares {
    /// The sender.
    pub member: u8,
    /// Its shares, in the order of the receivers.
    pub sealed: Vec<SealedShare>,
}

/// Coordinator to one member: what the others sealed for it. Who is named here (and the member itself) is masked with.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ShareDelivery {
    /// The receiver.
    pub member: u8,
    /// Shares, in the order of their senders.
    pub sealed: Vec<SealedShare>,
}

/// Third message, member to coordinator: the masked update. [`to_bytes`](Self::to_bytes) is its own format, because its
/// words are uniform and would only grow as varints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedInput {
    /// The sender.
    pub member: u8,
    /// Masked coordinates, and the masked weight.
    pub words: Vec<u32>,
}

/// Coordinator to the survivors: whose masks are to be lifted, and how. The same for all; members should see it signed
/// by the coordinator, or agreed among themselves, before they answer (docs/PRIVACY.md says what this buys).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UnmaskRequest {
    /// Members whose masked inputs are in the sum: shares of their self-masks are asked for. Increasing.
    pub survivors: Vec<u8>,
    /// Members who dealt shares but sent no input: shares of their mask keys are asked for. Increasing.
    pub dropped: Vec<u8>,
}

/// Fourth message, survivor to coordinator.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UnmaskReply {
    /// The sender.
    pub member: u8,
    /// Shares of survivors' seeds, in the order of the request.
    pub seed_shares: Vec<Secret>,
    /// Shares of dropped members' mask keys, in the order of the request.
    pub key_shares: Vec<Secret>,
}

/// Every small message of a secure sum. Variants are only ever appended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum SumMessage {
    /// Member to all.
    Advert(KeyAdvert),
    /// Coordinator to all.
    Roster(KeyRoster),
    /// Member to coordinator.
    Shares(MemberShares),
    /// Coordinator to one member.
    Delivery(ShareDelivery),
    /// Coordinator to survivors.
    Request(UnmaskRequest),
    /// Survivor to coordinator.
    Reply(UnmaskReply),
}

/// The longest bytes of a [`SumMessage`]: a roster of 64 members has 6.2 KB.
pub const MAX_MESSAGE_BYTES: usize = 8192;

impl SumMessage {
    /// The canonical bytes (postcard).
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = postcard::to_stdvec(self).expect("plain data has a form as bytes");
        debug_assert!(bytes.len() <= MAX_MESSAGE_BYTES);
        bytes
    }

    /// Reads canonical bytes, and nothing else: no other length, no other order, no member named twice.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecureSumError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(SecureSumError::TooLong { found: bytes.len() });
        }
        let message: Self = postcard::from_bytes(bytes).map_err(|_| SecureSumError::NotCanonical)?;
        if message.is_ordered() && message.to_bytes() == bytes {
            Ok(message)
        } else {
            Err(SecureSumError::NotCanonical)
        }
    }

    fn is_ordered(&self) -> bool {
        let senders = |sealed: &[SealedShare]| sealed.iter().map(|share| share.peer).collect::<Vec<_>>();
        match self {
            Self::Advert(advert) => increasing(&[advert.member]),
            Self::Roster(roster) => increasing(&roster.adverts.iter().map(|advert| advert.member).collect::<Vec<_>>()),
            Self::Shares(shares) => increasing(&[shares.member]) && increasing(&senders(&shares.sealed)),
            Self::Delivery(delivery) => increasing(&[delivery.member]) && increasing(&senders(&delivery.sealed)),
            Self::Request(request) => increasing(&request.survivors) && increasing(&request.dropped),
            Self::Reply(reply) => {
                increasing(&[reply.member]) && reply.seed_shares.len() + reply.key_shares.len() <= MAX_MEMBERS
            }
        }
    }
}

/// Whether indices are below [`MAX_MEMBERS`], in order, and none twice.
pub(crate) fn increasing(indices: &[u8]) -> bool {
    indices.iter().all(|&index| usize::from(index) < MAX_MEMBERS) && indices.is_sorted_by(|a, b| a < b)
}

const MAGIC: [u8; 4] = *b"SYNM";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 12;

impl MaskedInput {
    /// The canonical bytes: magic "SYNM", version, member, two zeros, the number of words as u32, the words; little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u32::try_from(self.words.len()).expect("a plan's dimension is a u32");
        let mut bytes = Vec::with_capacity(HEADER_LEN + 4 * self.words.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, self.member, 0, 0]);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// Exact length in bytes of a masked input of `plan`.
    pub fn encoded_len(plan: &SumPlan) -> usize {
        HEADER_LEN + 4 * plan.words()
    }

    /// Reads canonical bytes of a masked input of `plan`; the length is checked before anything is allocated.
    pub fn from_bytes(bytes: &[u8], plan: &SumPlan) -> Result<Self, SecureSumError> {
        let expected = Self::encoded_len(plan);
        if bytes.len() != expected {
            return Err(SecureSumError::InputLength {
                expected,
                found: bytes.len(),
            });
        }
        let (header, body) = bytes.split_at(HEADER_LEN);
        let member = header[5];
        let mut canonical = [0u8; HEADER_LEN];
        canonical[..4].copy_from_slice(&MAGIC);
        canonical[4..6].copy_from_slice(&[VERSION, member]);
        canonical[8..].copy_from_slice(&(plan.words() as u32).to_le_bytes());
        if header != canonical {
            return Err(SecureSumError::NotCanonical);
        }
        if member >= plan.members {
            return Err(SecureSumError::UnknownMember { member });
        }
        let (words, _) = body.as_chunks::<4>();
        Ok(Self {
            member,
            words: words.iter().map(|word| u32::from_le_bytes(*word)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(peer: u8) -> SealedShare {
        SealedShare {
            peer,
            seed_share: [1; 32],
            key_share: [2; 32],
            tag: [3; 16],
        }
    }

    #[test]
    fn canonical_bytes_come_back_and_no_others() {
        let request = SumMessage::Request(UnmaskRequest {
            survivors: vec![0, 2, 63],
            dropped: vec![1],
        });
        let bytes = request.to_bytes();
        assert_eq!(bytes, [4, 3, 0, 2, 63, 1, 1]);
        assert_eq!(SumMessage::from_bytes(&bytes), Ok(request));
        for damaged in [
            &[4, 3, 2, 0, 63, 1, 1][..],
            &[4, 3, 0, 2, 64, 1, 1],
            &[4, 3, 0, 2, 2, 1, 1],
            &[4, 0x83, 0, 0, 2, 63, 1, 1],
            &[4, 3, 0, 2, 63, 1, 1, 0],
            &[4, 3, 0, 2, 63, 1],
            &[4, 0xff, 0xff, 0xff, 0xff, 0x0f, 0],
            &[6, 0],
            &[],
        ] {
            assert_eq!(
                SumMessage::from_bytes(damaged),
                Err(SecureSumError::NotCanonical),
                "{damaged:?}"
            );
        }
        assert_eq!(
            SumMessage::from_bytes(&[0; MAX_MESSAGE_BYTES + 1]),
            Err(SecureSumError::TooLong {
                found: MAX_MESSAGE_BYTES + 1
            })
        );
    }

    #[test]
    fn the_longest_messages_fit() {
        let advert = |member| KeyAdvert {
            member,
            channel_key: [255; 32],
            mask_key: [255; 32],
            seed_commitment: [255; 32],
        };
        let messages = [
            SumMessage::Roster(KeyRoster {
                adverts: (0..64).map(advert).collect(),
            }),
            SumMessage::Shares(MemberShares {
                member: 63,
                sealed: (0..63).map(share).collect(),
            }),
            SumMessage::Delivery(ShareDelivery {
                member: 0,
                sealed: (1..64).map(share).collect(),
            }),
            SumMessage::Reply(UnmaskReply {
                member: 5,
                seed_shares: vec![[9; 32]; 60],
                key_shares: vec![[8; 32]; 4],
            }),
        ];
        for message in messages {
            let bytes = message.to_bytes();
            assert!(bytes.len() <= MAX_MESSAGE_BYTES);
            assert_eq!(SumMessage::from_bytes(&bytes), Ok(message));
        }
    }

    #[test]
    fn a_masked_input_has_one_form() {
        let plan = SumPlan {
            context: [0; 32],
            members: 3,
            threshold: 2,
            dimension: 2,
            range: 1.0,
            max_weight: 1,
            noise: None,
            groups: None,
        };
        let input = MaskedInput {
            member: 2,
            words: vec![1, u32::MAX, 7],
        };
        let bytes = input.to_bytes();
        assert_eq!(bytes.len(), MaskedInput::encoded_len(&plan));
        assert_eq!(MaskedInput::from_bytes(&bytes, &plan), Ok(input));
        for at in (0..12).filter(|&at| at != 5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(
                MaskedInput::from_bytes(&damaged, &plan),
                Err(SecureSumError::NotCanonical)
            );
        }
        let mut damaged = bytes.clone();
        damaged[5] = 3;
        assert_eq!(
            MaskedInput::from_bytes(&damaged, &plan),
            Err(SecureSumError::UnknownMember { member: 3 })
        );
        assert!(MaskedInput::from_bytes(&bytes[..23], &plan).is_err());
        assert!(MaskedInput::from_bytes(&[], &plan).is_err());
    }
}
