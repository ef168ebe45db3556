//! The agreement core as this protocol uses it: Tendermint (Buchman, Kwon, Milosevic 2018, arXiv:1807.04938) by the package
//! `malachitebft-core-driver`, a state machine without clock, network or keys. Its height is our round, its round our term,
//! its value a body's id. Signatures are checked before anything gets here, and certificates are made outside.

use std::fmt;

use arc_malachitebft_core_driver as driver;
use arc_malachitebft_core_types as core;
pub(crate) use core::{NilOrVal, Round as CoreRound, Timeout, TimeoutKind, Validity, VoteType};

use crate::identity::{BodyId, PeerId};
use crate::message::Term;

/// The core among our members.
pub(crate) type Driver = driver::Driver<Council>;
/// What the core is told.
pub(crate) type Told = driver::Input<Council>;
/// What it wants.
pub(crate) type Wanted = driver::Output<Council>;

/// A core for one round among these voters, seen from `me`: settled by more than two thirds of them.
pub(crate) fn driver(round: u64, voters: Vec<PeerId>, me: PeerId) -> Driver {
    let voters = Voters(voters.into_iter().map(Voter).collect());
    Driver::new(Council, Height(round), voters, me, driver::ThresholdParams::default())
}

/// The core's name of a term.
pub(crate) fn core_round(term: Term) -> CoreRound {
    CoreRound::new(term)
}

/// Our name of a core's round.
pub(crate) fn term_of(round: CoreRound) -> Term {
    round.as_u32().expect("the core names rounds that were begun")
}

/// Whose turn it is to propose, among so many.
pub(crate) fn turn(round: u64, term: Term, voters: usize) -> usize {
    (round.wrapping_add(u64::from(term)) % voters as u64) as usize
}

/// A vote without its signature.
pub(crate) fn unsigned(vote: Ballot) -> core::SignedVote<Council> {
    core::SignedMessage::new(vote, ())
}

/// Proof that these voters found a body right in a term.
pub(crate) fn proof(
    height: Height,
    round: CoreRound,
    body: BodyId,
    voters: Vec<PeerId>,
) -> core::PolkaCertificate<Council> {
    let signatures = voters.into_iter().map(|voter| core::PolkaSignature::new(voter, ()));
    core::PolkaCertificate {
        height,
        round,
        value_id: body,
        polka_signatures: signatures.collect(),
    }
}

/// A proposal without its signature.
pub(crate) fn proposal(proposed: Proposed) -> core::SignedProposal<Council> {
    core::SignedMessage::new(proposed, ())
}

/// The context of the core: its types, and no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Council;

/// A round of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// A member with a vote; all count alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Voter(PeerId);

impl core::Validator<Council> for Voter {
    fn address(&self) -> &PeerId {
        &self.0
    }

    fn public_key(&self) -> &() {
        &()
    }

    fn voting_power(&self) -> core::VotingPower {
        1
    }
}

/// The voters of a round in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Voters(Vec<Voter>);

impl core::ValidatorSet<Council> for Voters {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> core::VotingPower {
        self.0.len() as u64
    }

    fn get_by_address(&self, peer: &PeerId) -> Option<&Voter> {
        let at = self.0.binary_search_by(|voter| voter.0.cmp(peer)).ok()?;
        self.0.get(at)
    }

    fn get_by_index(&self, at: usize) -> Option<&Voter> {
        self.0.get(at)
    }
}

/// A vote as the core counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub height: Height,
    pub round: CoreRound,
    pub kind: VoteType,
    pub body: NilOrVal<BodyId>,
    pub voter: PeerId,
}

impl core::Vote<Council> for Ballot {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> CoreRound {
        self.round
    }

    fn value(&self) -> &NilOrVal<BodyId> {
        &self.body
    }

    fn take_value(self) -> NilOrVal<BodyId> {
        self.body
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &PeerId {
        &self.voter
    }

    fn extension(&self) -> Option<&core::SignedExtension<Council>> {
        None
    }

    fn take_extension(&mut self) -> Option<core::SignedExtension<Council>> {
        None
    }

    fn extend(self, _: core::SignedExtension<Council>) -> Self {
        self
    }
}

/// A proposal as the core sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposed {
    pub height: Height,
    pub round: CoreRound,
    pub body: BodyId,
    /// The term whose prevotes it rests on.
    pub proof: CoreRound,
    pub proposer: PeerId,
}

impl core::Proposal<Council> for Proposed {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> CoreRound {
        self.round
    }

    fn value(&self) -> &BodyId {
        &self.body
    }

    fn take_value(self) -> BodyId {
        self.body
    }

    fn pol_round(&self) -> CoreRound {
        self.proof
    }

    fn validator_address(&self) -> &PeerId {
        &self.proposer
    }
}

/// Proposals travel whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoPart;

impl core::ProposalPart<Council> for NoPart {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// How long the core would wait; it is the machine that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NoTimeouts;

impl core::Timeouts<Council> for NoTimeouts {
    fn duration_for(&self, _: core::Timeout) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// The core sees no signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsigned;

impl core::SigningScheme for Unsigned {
    type DecodingError = std::convert::Infallible;
    type Signature = ();
    type PublicKey = ();
    type PrivateKey = ();

    fn decode_signature(_: &[u8]) -> Result<(), Self::DecodingError> {
        Ok(())
    }

    fn encode_signature(_: &()) -> Vec<u8> {
        Vec::new()
    }

    fn decode_public_key(_: &[u8]) -> Result<(), Self::DecodingError> {
        Ok(())
    }

    fn encode_public_key(_: &()) -> Vec<u8> {
        Vec::new()
    }
}

impl core::Address for PeerId {}

impl core::Value for BodyId {
    type Id = BodyId;

    fn id(&self) -> BodyId {
        *self
    }
}

impl core::Context for Council {
    type Address = PeerId;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = Proposed;
    type Validator = Voter;
    type ValidatorSet = Voters;
    type Timeouts = NoTimeouts;
    type Value = BodyId;
    type Vote = Ballot;
    type Extension = ();
    type SigningScheme = Unsigned;

    fn select_proposer<'a>(&self, voters: &'a Voters, height: Height, round: CoreRound) -> &'a Voter {
        &voters.0[turn(height.0, round.as_u32().unwrap_or(0), voters.0.len())]
    }

    fn new_proposal(
        &self,
        height: Height,
        round: CoreRound,
        body: BodyId,
        proof: CoreRound,
        proposer: PeerId,
    ) -> Proposed {
        Proposed {
            height,
            round,
            body,
            proof,
            proposer,
        }
    }

    fn new_prevote(&self, height: Height, round: CoreRound, body: NilOrVal<BodyId>, voter: PeerId) -> Ballot {
        let kind = VoteType::Prevote;
        Ballot {
            height,
            round,
            kind,
            body,
            voter,
        }
    }

    fn new_precommit(&self, height: Height, round: CoreRound, body: NilOrVal<BodyId>, voter: PeerId) -> Ballot {
        let kind = VoteType::Precommit;
        Ballot {
            height,
            round,
            kind,
            body,
            voter,
        }
    }
}
