//! Invites: signed capabilities that let their holder join a session in given roles, as one printable key.
//! A key is a chain of blocks, each signed by the key before it (the idea of Biscuit and of macaroons: Birgisson et al.,
//! NDSS 2014), so that a holder can narrow it without asking; counting its uses and revoking are the issuer's business.

use serde::{Deserialize, Serialize};

use crate::identity::{Identity, PeerId, SessionId, SignatureBytes};
use crate::limits;
use crate::session::Roles;
use crate::signed::Content;

/// What every printed key begins with.
pub const PREFIX: &str = "synod1";

/// Names one block of an invite: BLAKE3 of the chain up to it. Revoking a block revokes all that was narrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId(pub [u8; 16]);

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for BlockId {
    type Err = crate::identity::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || crate::identity::IdError::Hex(text.to_owned());
        let bytes = hex::decode(text).map_err(|_| refuse())?;
        Ok(Self(bytes.try_into().map_err(|_| refuse())?))
    }
}

/// What an invite permits. In a chain each block may only permit less than the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// Roles that its holder may take.
    pub roles: Roles,
    /// When it ends, in seconds since the Unix epoch, by the issuer's clock.
    pub expires_unix_s: u64,
    /// How many members may join with it.
    pub uses: u32,
}

impl Permission {
    /// Whether `self` permits nothing that `wider` does not.
    fn narrows(&self, wider: &Permission) -> bool {
        self.roles.within(wider.roles)
            && !self.roles.is_empty()
            && self.expires_unix_s <= wider.expires_unix_s
            && self.uses <= wider.uses
            && self.uses > 0
    }
}

/// The first block: who invites to what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The session.
    pub session: SessionId,
    /// Its name, for people.
    pub session_name: String,
    /// The member that admits, and that signed this.
    pub issuer: PeerId,
    /// Makes every invite unlike any other.
    pub nonce: [u8; 16],
    /// Where the issuer can be reached: libp2p multiaddresses.
    pub bootstrap: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    permission: Permission,
    /// The public key whose holder may use or narrow the invite up to here.
    holder: PeerId,
    signature: SignatureBytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    grant: Grant,
    blocks: Vec<Block>,
}

/// An invite in the hands of its holder: the chain and the secret of its last block.
#[derive(Clone)]
pub struct Invite {
    chain: Chain,
    secret: [u8; 32],
}

/// What a joiner shows the issuer: the chain, and a signature by its last holder's key over the joiner's id.
/// Who overhears it cannot join with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteProof {
    chain: Chain,
    joiner: PeerId,
    possession: SignatureBytes,
    /// Where the joiner can be reached, for the members.
    pub addresses: Vec<String>,
}

/// The issuer's statement that a peer is admitted in these roles. Signed by the issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Who.
    pub peer: PeerId,
    /// As what.
    pub roles: Roles,
    /// The issuer's round when it was given: one who left later needs a new admission.
    pub round: u64,
}

impl Content for Admission {
    const DOMAIN: &'static [u8] = b"synod/admission/1";
}

/// What is wrong with an invite key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Something else was pasted.
    #[error("this is not an invite key: a key begins with `synod1` (mint one with `node invite SESSION`)")]
    NotAnInvite,
    /// Shorter than it says it is.
    #[error("the invite key is cut: {got} of {expected} characters are there; copy the whole line")]
    Cut {
        /// Characters that are there.
        got: usize,
        /// Characters that there should be.
        expected: usize,
    },
    /// The checksum does not fit.
    #[error("the invite key is mistyped: its checksum does not fit; copy it again from its source")]
    Mistyped,
    /// Well-formed, but of a version or content that this program does not know.
    #[error("the invite key was made by an incompatible version of Synod, or is damaged inside")]
    Incompatible,
    /// A signature in the chain is wrong.
    #[error("the invite key is forged: signature {block} of its chain does not verify")]
    Forged {
        /// Which block, from 0.
        block: usize,
    },
    /// A block permits more than the one before it.
    #[error("the invite key is forged: its block {block} permits more than the block before it")]
    Widened {
        /// Which block, from 0.
        block: usize,
    },
    /// The time is over.
    #[error(
        "the invite key expired {ago_s} seconds ago by this machine's clock: if the clock is right, ask {issuer} for a new one"
    )]
    Expired {
        /// How long ago, in seconds.
        ago_s: u64,
        /// Who issued it.
        issuer: PeerId,
    },
    /// The key is for another session than the one named.
    #[error("the invite key is for session `{name}` ({session}), not for the session you named")]
    OtherSession {
        /// Its session's name.
        name: String,
        /// Its session's id.
        session: SessionId,
    },
    /// A new permission that is not narrower.
    #[error("an invite can only be narrowed: {0}")]
    NotNarrower(&'static str),
    /// A new invite with something out of bounds.
    #[error("the invite cannot be: {0}")]
    Unusable(&'static str),
}

impl Invite {
    /// A new invite, signed by its issuer. `secret` and `nonce` are fresh random bytes.
    pub fn issue(
        issuer: &Identity,
        session: SessionId,
        session_name: String,
        bootstrap: Vec<String>,
        permission: Permission,
        randomness: ([u8; 32], [u8; 16]),
    ) -> Result<Self, InviteError> {
        let (secret, nonce) = randomness;
        let grant = Grant {
            session,
            session_name,
            issuer: issuer.peer_id(),
            nonce,
            bootstrap,
        };
        check_grant(&grant)?;
        if permission.roles.is_empty() || permission.uses == 0 {
            return Err(InviteError::Unusable("it needs at least one role and one use"));
        }
        let mut chain = Chain {
            grant,
            blocks: Vec::new(),
        };
        chain.push(issuer, permission, &secret);
        Ok(Self { chain, secret })
    }

    /// The same invite with less in it, for handing on. The wider one stays valid.
    pub fn narrow(&self, permission: Permission, secret: [u8; 32]) -> Result<Self, InviteError> {
        if !permission.narrows(self.permission()) {
            return Err(InviteError::NotNarrower(
                "roles, expiry and uses must lie within those of the key",
            ));
        }
        if self.chain.blocks.len() >= limits::INVITE_BLOCKS {
            return Err(InviteError::NotNarrower("the key was handed on too often"));
        }
        let mut chain = self.chain.clone();
        chain.push(&Identity::from_secret(self.secret), permission, &secret);
        Ok(Self { chain, secret })
    }

    /// Reads a printed key and checks all that can be checked without asking the issuer (`now_unix_s`: this clock).
    pub fn parse(text: &str, now_unix_s: u64) -> Result<Self, InviteError> {
        let invite = Self::decode(text)?;
        invite.check()?;
        let expires = invite.permission().expires_unix_s;
        if now_unix_s >= expires {
            return Err(InviteError::Expired {
                ago_s: now_unix_s - expires,
                issuer: invite.grant().issuer,
            });
        }
        Ok(invite)
    }

    /// Reads a printed key without judging signatures or time: for `node invite explain`, which shows both.
    pub fn decode(text: &str) -> Result<Self, InviteError> {
        let (prefix, body) = text
            .trim()
            .split_at_checked(PREFIX.len())
            .ok_or(InviteError::NotAnInvite)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(InviteError::NotAnInvite);
        }
        let upper = body.to_ascii_uppercase();
        let code = data_encoding::BASE32_NOPAD;
        // The first two bytes say how long the rest is, so that a cut key is told from a mistyped one.
        let head = upper.get(..4).ok_or(InviteError::Cut {
            got: text.trim().len(),
            expected: PREFIX.len() + 4,
        })?;
        let mut padded = head.to_owned();
        padded.push_str("AAAA");
        let head = code.decode(padded.as_bytes()).map_err(|_| InviteError::Mistyped)?;
        let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let expected = code.encode_len(2 + length + 4);
        if upper.len() < expected {
            let got = PREFIX.len() + upper.len();
            return Err(InviteError::Cut {
                got,
                expected: PREFIX.len() + expected,
            });
        }
        let bytes = code.decode(upper.as_bytes()).map_err(|_| InviteError::Mistyped)?;
        let Some((content, checksum)) = bytes.split_at_checked(2 + length) else {
            return Err(InviteError::Mistyped);
        };
        if checksum != &blake3::hash(content).as_bytes()[..4] {
            return Err(InviteError::Mistyped);
        }
        let (version, rest) = content[2..].split_first().ok_or(InviteError::Incompatible)?;
        if *version != 1 {
            return Err(InviteError::Incompatible);
        }
        let ((chain, secret), rest) =
            postcard::take_from_bytes::<(Chain, [u8; 32])>(rest).map_err(|_| InviteError::Incompatible)?;
        if !rest.is_empty() || chain.blocks.is_empty() || chain.blocks.len() > limits::INVITE_BLOCKS {
            return Err(InviteError::Incompatible);
        }
        check_grant(&chain.grant)?;
        Ok(Self { chain, secret })
    }

    /// The printed key: prefix, then base32 of length, version, content and checksum. Treat it like a password.
    pub fn to_text(&self) -> String {
        let mut content = vec![1u8];
        content.extend(postcard::to_stdvec(&(&self.chain, &self.secret)).expect("invites always encode"));
        let mut bytes = u16::try_from(content.len())
            .expect("bounded by check_grant")
            .to_le_bytes()
            .to_vec();
        bytes.extend(content);
        let checksum = blake3::hash(&bytes);
        bytes.extend(&checksum.as_bytes()[..4]);
        format!(
            "{PREFIX}{}",
            data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        )
    }

    /// Whether all signatures hold, each block narrows the one before, and the secret is the last holder's.
    pub fn check(&self) -> Result<(), InviteError> {
        self.chain.check()?;
        let last = self.chain.blocks.len() - 1;
        let holds = Identity::from_secret(self.secret).peer_id() == self.chain.blocks[last].holder;
        if holds {
            Ok(())
        } else {
            Err(InviteError::Forged { block: last })
        }
    }

    /// Refuses a key for another session than the expected one.
    pub fn expect_session(&self, expected: &SessionId) -> Result<(), InviteError> {
        let grant = self.grant();
        if grant.session == *expected {
            return Ok(());
        }
        Err(InviteError::OtherSession {
            name: grant.session_name.clone(),
            session: grant.session,
        })
    }

    /// Who invites to what.
    pub fn grant(&self) -> &Grant {
        &self.chain.grant
    }

    /// What the key permits: its last block.
    pub fn permission(&self) -> &Permission {
        self.chain.permission()
    }

    /// The ids of its blocks, widest first; the last one names this very key.
    pub fn block_ids(&self) -> Vec<BlockId> {
        self.chain.block_ids()
    }

    /// How often it was narrowed.
    pub fn narrowings(&self) -> usize {
        self.chain.blocks.len() - 1
    }

    /// What `joiner` shows the issuer.
    pub fn prove(&self, joiner: &PeerId, addresses: Vec<String>) -> InviteProof {
        let holder = Identity::from_secret(self.secret);
        let possession = holder.sign(&possession_bytes(&self.chain.grant.session, joiner));
        InviteProof {
            chain: self.chain.clone(),
            joiner: *joiner,
            possession,
            addresses,
        }
    }
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invite(to `{}`, secret withheld)", self.chain.grant.session_name)
    }
}

impl InviteProof {
    /// The grant that it claims.
    pub fn grant(&self) -> &Grant {
        &self.chain.grant
    }

    /// What it permits.
    pub fn permission(&self) -> &Permission {
        self.chain.permission()
    }

    /// The blocks that one use counts against, with the uses that each allows.
    pub fn blocks(&self) -> Vec<(BlockId, u32)> {
        let uses = self.chain.blocks.iter().map(|block| block.permission.uses);
        self.chain.block_ids().into_iter().zip(uses).collect()
    }

    /// Whether the chain is genuine and `joiner` holds its last key.
    pub fn check(&self, joiner: &PeerId) -> Result<(), InviteError> {
        if self.chain.blocks.is_empty() || self.chain.blocks.len() > limits::INVITE_BLOCKS {
            return Err(InviteError::Incompatible);
        }
        self.chain.check()?;
        let last = self.chain.blocks.len() - 1;
        let bytes = possession_bytes(&self.chain.grant.session, joiner);
        if self.joiner != *joiner || !self.chain.blocks[last].holder.verifies(&bytes, &self.possession) {
            return Err(InviteError::Forged { block: last });
        }
        Ok(())
    }
}

impl Chain {
    fn push(&mut self, signer: &Identity, permission: Permission, holder_secret: &[u8; 32]) {
        let holder = Identity::from_secret(*holder_secret).peer_id();
        let signature = signer.sign(&self.block_bytes(self.blocks.len(), &permission, &holder));
        self.blocks.push(Block {
            permission,
            holder,
            signature,
        });
    }

    fn permission(&self) -> &Permission {
        &self.blocks.last().expect("a chain has its issuer's block").permission
    }

    fn check(&self) -> Result<(), InviteError> {
        check_grant(&self.grant)?;
        let mut signer = self.grant.issuer;
        for (at, block) in self.blocks.iter().enumerate() {
            let bytes = self.block_bytes(at, &block.permission, &block.holder);
            if !signer.verifies(&bytes, &block.signature) {
                return Err(InviteError::Forged { block: at });
            }
            let wider = at
                .checked_sub(1)
                .map_or(&block.permission, |before| &self.blocks[before].permission);
            if !block.permission.narrows(wider) {
                return Err(InviteError::Widened { block: at });
            }
            signer = block.holder;
        }
        Ok(())
    }

    /// What block `at` signs: everything before it, and itself.
    fn block_bytes(&self, at: usize, permission: &Permission, holder: &PeerId) -> Vec<u8> {
        let mut bytes = b"synod/invite/1\0".to_vec();
        let signed = (&self.grant, &self.blocks[..at], permission, holder);
        bytes.extend(postcard::to_stdvec(&signed).expect("invites always encode"));
        bytes
    }

    fn block_ids(&self) -> Vec<BlockId> {
        let id = |at: usize| {
            let block = &self.blocks[at];
            let hash = blake3::hash(&self.block_bytes(at, &block.permission, &block.holder));
            BlockId(hash.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
        };
        (0..self.blocks.len()).map(id).collect()
    }
}

/// What a terminal would take for a command of its own has no place in a name or an address.
fn check_grant(grant: &Grant) -> Result<(), InviteError> {
    if grant.session_name.chars().any(char::is_control) {
        return Err(InviteError::Unusable("the session's name has control characters in it"));
    }
    let is_address = |address: &String| address.starts_with('/') && address.chars().all(|c| c.is_ascii_graphic());
    if !grant.bootstrap.iter().all(is_address) {
        return Err(InviteError::Unusable(
            "a bootstrap address is no multiaddress: write /ip4/1.2.3.4/udp/7600/quic-v1, say",
        ));
    }
    if grant.session_name.chars().count() > limits::NAME_CHARS {
        return Err(InviteError::Unusable("the session's name is too long"));
    }
    if grant.bootstrap.len() > limits::INVITE_ADDRESSES {
        return Err(InviteError::Unusable("it has too many bootstrap addresses (8 at most)"));
    }
    if grant
        .bootstrap
        .iter()
        .any(|address| address.len() > limits::ADDRESS_CHARS)
    {
        return Err(InviteError::Unusable(
            "a bootstrap address is too long (256 characters at most)",
        ));
    }
    Ok(())
}

fn possession_bytes(session: &SessionId, joiner: &PeerId) -> Vec<u8> {
    let mut bytes = b"synod/invite-use/1\0".to_vec();
    bytes.extend(session.0);
    bytes.extend(joiner.0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Role;

    const NOW: u64 = 1_000;

    fn issuer() -> Identity {
        Identity::from_secret([1; 32])
    }

    fn permission(uses: u32) -> Permission {
        Permission {
            roles: Roles::of(&[Role::Trainer, Role::Coordinator]),
            expires_unix_s: NOW + 60,
            uses,
        }
    }

    fn invite() -> Invite {
        let address = vec!["/ip4/127.0.0.1/udp/4001/quic-v1".to_owned()];
        let randomness = ([5; 32], [6; 16]);
        Invite::issue(
            &issuer(),
            SessionId([2; 32]),
            "tiny".into(),
            address,
            permission(3),
            randomness,
        )
        .unwrap()
    }

    #[test]
    fn a_printed_key_reads_back() {
        let text = invite().to_text();
        let back = Invite::parse(&text, NOW).unwrap();
        assert_eq!(back.chain, invite().chain);
        assert_eq!(
            Invite::parse(&text.to_uppercase().replace("SYNOD1", "synod1"), NOW)
                .unwrap()
                .chain,
            back.chain
        );
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let text = invite().to_text();
        let parse = |text: &str| Invite::parse(text, NOW).unwrap_err();
        assert_eq!(parse("hello"), InviteError::NotAnInvite);
        for cut in 6..text.len() {
            assert!(matches!(parse(&text[..cut]), InviteError::Cut { .. }), "{cut}");
        }
        let mut typo = text.clone().into_bytes();
        typo[100] = if typo[100] == b'a' { b'b' } else { b'a' };
        assert_eq!(parse(std::str::from_utf8(&typo).unwrap()), InviteError::Mistyped);
        assert_eq!(parse(&format!("{text}aaaaaaaa")), InviteError::Mistyped);
        let expired = Invite::parse(&text, NOW + 61).unwrap_err();
        assert_eq!(
            expired,
            InviteError::Expired {
                ago_s: 1,
                issuer: issuer().peer_id()
            }
        );
        let other = invite().expect_session(&SessionId([3; 32])).unwrap_err();
        assert!(matches!(other, InviteError::OtherSession { .. }));
    }

    #[test]
    fn a_changed_chain_is_forged() {
        let mut forged = invite();
        forged.chain.blocks[0].permission.uses = 1_000;
        assert_eq!(
            Invite::parse(&forged.to_text(), NOW).unwrap_err(),
            InviteError::Forged { block: 0 }
        );
        let mut forged = invite();
        forged.chain.grant.issuer = Identity::from_secret([9; 32]).peer_id();
        assert_eq!(
            Invite::parse(&forged.to_text(), NOW).unwrap_err(),
            InviteError::Forged { block: 0 }
        );
    }

    #[test]
    fn narrowing_only_narrows() {
        let narrow = |roles, expires_unix_s, uses| {
            invite().narrow(
                Permission {
                    roles,
                    expires_unix_s,
                    uses,
                },
                [8; 32],
            )
        };
        let trainer = Roles::of(&[Role::Trainer]);
        let child = narrow(trainer, NOW + 30, 1).unwrap();
        assert!(child.check().is_ok());
        assert_eq!(child.block_ids()[0], invite().block_ids()[0]);
        assert!(narrow(Roles::of(&[Role::Observer]), NOW + 30, 1).is_err());
        assert!(narrow(trainer, NOW + 61, 1).is_err());
        assert!(narrow(trainer, NOW + 30, 4).is_err());
        let mut stolen = invite();
        stolen.secret = [9; 32];
        assert_eq!(
            Invite::parse(&stolen.to_text(), NOW).unwrap_err(),
            InviteError::Forged { block: 0 }
        );
        let mut widened = invite();
        let wide = Permission {
            uses: 100,
            ..permission(3)
        };
        widened.chain.push(&Identity::from_secret([5; 32]), wide, &[8; 32]);
        widened.secret = [8; 32];
        assert_eq!(
            Invite::parse(&widened.to_text(), NOW).unwrap_err(),
            InviteError::Widened { block: 1 }
        );
    }

    #[test]
    fn an_overheard_proof_serves_nobody_else() {
        let (joiner, thief) = (PeerId([4; 32]), PeerId([5; 32]));
        let proof = invite().prove(&joiner, vec![]);
        assert_eq!(proof.check(&joiner), Ok(()));
        assert!(proof.check(&thief).is_err());
    }
}
