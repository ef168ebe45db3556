//! Every message that members exchange, with the structural checks that need no state.
//! The byte form is postcard inside [`Signed`]; docs/PROTOCOL.md gives it byte by byte, and golden tests hold it still.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::identity::{BlobId, BodyId, PeerId, SessionId, SignatureBytes};
use crate::invite::{Admission, InviteProof};
use crate::limits;
use crate::session::{Lifecycle, Role, Roster, SessionInfo};
use crate::shard::ShardStatement;
use crate::signed::{Content, Signed, signature_holds};
use crate::sum::{SumOpening, SumStatement, SumWord};
use crate::task::{MemberVerdict, Round, TrainReport, UpdateRef};

/// Counts the coordinators of one round: term 0 is led by the member that the last settlement names, each next term
/// by the next in the order of succession.
pub type Term = u32;

/// What one member says to others. Always travels as `Signed<Message>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// To the issuer of an invite: let me in.
    Join(Box<InviteProof>),
    /// The issuer's yes.
    Admitted(Box<Welcome>),
    /// The issuer's no.
    Refused(JoinRefusal),
    /// To the coordinator, until the roster lists me: I was admitted.
    Present(Box<Signed<Admission>>),
    /// I am here, and this far.
    Heartbeat(Heartbeat),
    /// My update for the round is ready under this content id.
    Update(UpdateClaim),
    /// The coordinator's proposal of a settlement.
    Proposal(Box<Proposal>),
    /// My vote for a proposal.
    Vote(Vote),
    /// A settlement with the votes that prove it.
    Settled(Arc<Settlement>),
    /// I have lost the coordinator; the next term should begin.
    TermChange(TermChange),
    /// Give me the settlements from this round on.
    CatchUp {
        /// The first round that is missing.
        from: Round,
    },
    /// Settlements in the order of rounds, without gaps.
    Settlements(Vec<Arc<Settlement>>),
    /// I leave at the border of this round.
    Leave {
        /// The current round of the leaver.
        round: Round,
    },
    /// To the issuer of an invite: what would it give me? Spends no use and admits nobody.
    Ask(Box<InviteProof>),
    /// The issuer's answer to one who would be admitted now.
    Offer(Box<Offer>),
    /// A step of a secure sum.
    Sum(Box<SumStatement>),
    /// Without a coordinator: a vote of the first stage, or for nothing. The second stage's votes for a body are `Vote`s.
    Ballot(Ballot),
    /// In a session whose vector is in shards: an update in parts, or a step of combining them.
    Shard(Box<ShardStatement>),
}

impl Content for Message {
    const DOMAIN: &'static [u8] = b"synod/message/2";
}

/// What an admitted member needs to begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The proof that it was admitted, for the coordinator.
    pub admission: Signed<Admission>,
    /// The session's configuration in its canonical bytes: their BLAKE3 is the session id.
    pub config: Vec<u8>,
}

/// What an issuer tells one whom it would admit now, so that it can look before it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The session's configuration in its canonical bytes: their BLAKE3 is the session id.
    pub config: Vec<u8>,
    /// How many more may join with the very key that was shown.
    pub uses_left: u32,
    /// Where the session is in its life.
    pub lifecycle: Lifecycle,
    /// The issuer's round.
    pub round: Round,
    /// Members of that round; before the founding one, those who were admitted and the creator.
    pub members: u32,
}

/// Why a joiner is turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// The key's time is over by the issuer's clock.
    #[error("the invite key has expired by its issuer's clock: ask its issuer for a new one")]
    Expired,
    /// All uses are spent.
    #[error("the invite key is used up: all its uses are spent; ask its issuer for a new one")]
    UsedUp,
    /// The issuer has revoked it.
    #[error("the invite key was revoked by its issuer")]
    Revoked,
    /// A signature in the key, or the joiner's proof that it holds the key, is wrong.
    #[error("the invite key is not genuine: {0}")]
    Forged(String),
    /// The asked peer did not issue this key, or may not issue keys for the session.
    #[error("the peer that was asked did not issue this key, or may not invite to this session")]
    NotTheIssuer,
    /// No place is left.
    #[error("the session is full: {0} members at most")]
    Full(u32),
    /// The session is over.
    #[error("the session is finished: there is nothing left to join; ask a member for the exported model")]
    Finished,
    /// The joiner was removed for misbehaviour.
    #[error("this node was removed from the session for misbehaviour: {0}")]
    Banned(String),
}

/// A sign of life. Members send it to the coordinator, the coordinator to everyone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When the sender's process began (its own clock, milliseconds): tells a restart.
    pub boot: u64,
    /// Counts the sender's heartbeats since.
    pub count: u64,
    /// The sender's round (the one being worked on).
    pub round: Round,
    /// The sender's term within that round.
    pub term: Term,
    /// The last settled body of the sender, if any.
    pub settled: Option<BodyId>,
    /// What the sender is doing.
    pub phase: Phase,
    /// Where the session is in its life, as the sender sees it.
    pub lifecycle: Lifecycle,
}

/// What a member is doing in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not in a round: waiting to begin, or finished.
    Idle,
    /// Fetching the state or settlements that it lacks.
    CatchingUp,
    /// Local steps.
    Training,
    /// The update is announced; the coordinator collects.
    Exchanging,
    /// The updates are being combined (by the coordinator, or to check its proposal).
    Aggregating,
    /// Voted; waiting for the settlement.
    Settling,
}

/// A member's signed statement: this is my update for this round from this base. Two different ones for a round
/// are equivocation, and prove it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateClaim {
    /// The round.
    pub round: Round,
    /// The state that the local steps started from.
    pub base: BlobId,
    /// Content id of the encoded update.
    pub payload: BlobId,
    /// Its length.
    pub bytes: u64,
    /// What the member says of its training.
    pub report: TrainReport,
}

impl UpdateClaim {
    /// The claim as the worker and the settlement name it.
    pub fn to_ref(&self, peer: PeerId) -> UpdateRef {
        UpdateRef {
            peer,
            payload: self.payload,
            bytes: self.bytes,
            tokens: self.report.tokens,
        }
    }
}

/// One update as a settlement lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedUpdate {
    /// Whose, where, how long, from how many tokens.
    pub update: UpdateRef,
    /// What its sender reported.
    pub report: TrainReport,
    /// How the rule judged it.
    pub verdict: MemberVerdict,
}

/// Why a member of the roster has no update in a settlement, as the coordinator saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// It is alive, but its update was not in at the deadline.
    Late,
    /// It was not heard.
    Lost,
    /// It announced an update that nobody could fetch.
    Withheld,
    /// It announced two different updates.
    Equivocated,
    /// It sent something else that was refused.
    Refused,
}

/// What a round agreed on. Its BLAKE3 is the link of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// The round; 0 founds the session.
    pub round: Round,
    /// The body of the round before (zeros for round 0).
    pub previous: BodyId,
    /// The state that the round started from (round 0: the initial state).
    pub base: BlobId,
    /// The state that it ended in.
    pub state: BlobId,
    /// Length of that state's blob.
    pub state_bytes: u64,
    /// The updates that were combined, sorted by peer, with their verdicts.
    pub used: Vec<UsedUpdate>,
    /// The trainers without an update, sorted by peer, and why.
    pub missing: Vec<(PeerId, Absence)>,
    /// The members of the next round.
    pub roster: Roster,
    /// Members that leave the roster now for proven equivocation, sorted; they are never admitted again.
    pub expelled: Vec<PeerId>,
    /// Members that leave the roster now by their own word, sorted.
    pub left: Vec<PeerId>,
    /// Who computed this body, and so holds its state. A later term that must repeat the body leaves it.
    pub proposer: PeerId,
    /// Who leads the next round in its term 0.
    pub lead: PeerId,
}

impl Body {
    /// The body's id: BLAKE3 over a domain, the session and the canonical bytes.
    pub fn id(&self, session: &SessionId) -> BodyId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"synod/body/1\0");
        hasher.update(&session.0);
        hasher.update(&postcard::to_stdvec(self).expect("bodies always encode"));
        BodyId(*hasher.finalize().as_bytes())
    }

    /// Who leads `term` of the round after this body: the line of succession, begun at `lead`.
    pub fn coordinator(&self, term: Term) -> PeerId {
        let line = self.roster.succession();
        let first = line.iter().position(|peer| *peer == self.lead).unwrap_or(0);
        match line.len() {
            0 => self.lead,
            n => line[(first + term as usize) % n],
        }
    }
}

/// A proposed settlement, with all that a voter needs to check it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The term in which it is proposed.
    pub term: Term,
    /// What would be settled.
    pub body: Body,
    /// The signed claims behind `body.used`, in the same order.
    pub claims: Vec<Signed<Message>>,
    /// The admissions of members that the roster gains.
    pub admissions: Vec<Signed<Admission>>,
    /// The leave messages of members that the roster loses.
    pub leaves: Vec<Signed<Message>>,
    /// Pairs of claims that prove equivocation; their signer leaves the roster.
    pub faults: Vec<(Signed<Message>, Signed<Message>)>,
    /// For a term above 0: a majority of term changes. The body must be the one locked in the highest term, if any is.
    /// By quorum: the prevotes of an earlier term by which this body may have settled; none for a body that is new.
    pub justification: Vec<Signed<Message>>,
    /// What the state rests on beside the claims.
    pub basis: Basis,
}

/// What the state of a proposal rests on beside the claims, in sessions whose voters do not see all updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Basis {
    /// Nothing: voters combine the updates again. Also of bodies without updates.
    Updates,
    /// In a session of secure sums: what lifts the masks of the updates in `body.used`.
    Opening(SumOpening),
    /// In a session with shards: signed results of the shards' aggregators, in the order of shards, then of signers. A shard of
    /// which two agree need not be combined again.
    Shards(Vec<Signed<Message>>),
}

impl Basis {
    /// What lifts masks, if that is what it is.
    pub fn opening(&self) -> Option<&SumOpening> {
        match self {
            Basis::Opening(opening) => Some(opening),
            _ => None,
        }
    }

    /// The results of shards; none where it is something else.
    pub fn results(&self) -> &[Signed<Message>] {
        match self {
            Basis::Shards(results) => results,
            _ => &[],
        }
    }

    fn within_limits(&self) -> bool {
        self.opening().is_none_or(SumOpening::within_limits) && self.results().len() <= 2 * limits::SHARDS
    }
}

/// A vote. A member votes once a term, and only for what it has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The round.
    pub round: Round,
    /// The term of the proposal.
    pub term: Term,
    /// The proposed body.
    pub body: BodyId,
}

/// What a member says in a term of an agreement by quorum, its votes for a settlement apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The round.
    pub round: Round,
    /// The term.
    pub term: Term,
    /// What it says.
    pub word: BallotWord,
}

/// The votes that settle nothing by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BallotWord {
    /// First stage: I found this body right; None: I found none, or hold to another.
    Prevote(Option<BodyId>),
    /// Second stage: I saw no body that more than two thirds found right.
    Nothing,
}

/// A member's promise to vote in no earlier term of the round, and what it has voted for already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermChange {
    /// The round.
    pub round: Round,
    /// The term that should begin.
    pub term: Term,
    /// The highest term in which the member voted in this round, and for what.
    pub locked: Option<(Term, BodyId)>,
}

/// A body with the votes that settle it. Anyone who has the chain before it can check it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Settlement {
    /// What was settled.
    pub body: Body,
    /// The term whose votes these are.
    pub term: Term,
    /// The voters and their signatures over `Message::Vote`, sorted by voter.
    pub votes: Vec<(PeerId, SignatureBytes)>,
    #[serde(skip)]
    checked: OnceLock<(BodyId, BodyId, bool)>,
    #[serde(skip)]
    id: OnceLock<BodyId>,
}

impl PartialEq for Settlement {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.term == other.term && self.votes == other.votes
    }
}

impl Settlement {
    /// A settlement from its parts.
    pub fn new(body: Body, term: Term, votes: Vec<(PeerId, SignatureBytes)>) -> Self {
        Self {
            body,
            term,
            votes,
            checked: OnceLock::new(),
            id: OnceLock::new(),
        }
    }

    /// The body's id (computed once).
    pub fn id(&self, session: &SessionId) -> BodyId {
        *self.id.get_or_init(|| self.body.id(session))
    }

    /// Whether this settlement follows `before` (None: founds the session) and enough voters of the session voted for it.
    /// The founding one also needs the creator's own vote.
    pub fn follows(&self, info: &SessionInfo, before: Option<&Settlement>) -> bool {
        let session = &info.session;
        let id = self.id(session);
        let previous = before.map_or(BodyId([0; 32]), |settlement| settlement.id(session));
        if let Some((checked_id, checked_previous, good)) = self.checked.get()
            && (*checked_id, *checked_previous) == (id, previous)
        {
            return *good;
        }
        let good = self.objection(info, before).is_none();
        // A second writer would write the same; the first one stays.
        let _ = self.checked.set((id, previous, good));
        good
    }

    /// Why this settlement does not follow `before`, in words for a person; None where it does. [`follows`](Self::follows)
    /// asks this once.
    pub fn objection(&self, info: &SessionInfo, before: Option<&Settlement>) -> Option<&'static str> {
        let session = &info.session;
        let previous = before.map_or(BodyId([0; 32]), |settlement| settlement.id(session));
        let body = &self.body;
        let (round, base, roster) = match before {
            Some(settlement) => (
                settlement.body.round + 1,
                settlement.body.state,
                &settlement.body.roster,
            ),
            None => (0, body.state, &body.roster),
        };
        if body.round != round {
            return Some("it is of another round than the next");
        }
        if body.previous != previous {
            return Some("it names another settlement as the one before");
        }
        if body.base != base {
            return Some("it starts from another state than the one before ended in");
        }
        if body.used.is_empty() && body.state != base {
            return Some("it changes the state without an update");
        }
        if body.used.is_empty() && before.is_some_and(|before| before.body.state_bytes != body.state_bytes) {
            return Some("it names another length of a state that stays");
        }
        if !self.votes.is_sorted_by(|a, b| a.0 < b.0) {
            return Some("its votes are not in order, or one is there twice");
        }
        if self.votes.len() < info.terms.votes_needed(roster) {
            return Some("its votes are too few of the roster before it");
        }
        if before.is_none() && roster.with(Role::Trainer).count() < info.terms.members_to_begin() {
            return Some("it founds the session with fewer trainers than the session begins with");
        }
        if before.is_none() && !self.votes.iter().any(|(voter, _)| *voter == info.creator) {
            return Some("the session's creator has not voted for its founding");
        }
        let vote = Message::Vote(Vote {
            round,
            term: self.term,
            body: self.id(session),
        });
        let holds = |(voter, signature): &(PeerId, SignatureBytes)| {
            roster.is_voter(voter) && signature_holds(*session, *voter, &vote, signature)
        };
        match self.votes.iter().all(holds) {
            true => None,
            false => Some("a vote is of a stranger, or its signature does not hold for this content"),
        }
    }
}

impl Message {
    /// A short name for logs and counters.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Join(_) => "join",
            Message::Admitted(_) => "admitted",
            Message::Refused(_) => "refused",
            Message::Present(_) => "present",
            Message::Heartbeat(_) => "heartbeat",
            Message::Update(_) => "update",
            Message::Proposal(_) => "proposal",
            Message::Vote(_) => "vote",
            Message::Settled(_) => "settled",
            Message::TermChange(_) => "term_change",
            Message::CatchUp { .. } => "catch_up",
            Message::Settlements(_) => "settlements",
            Message::Leave { .. } => "leave",
            Message::Ask(_) => "ask",
            Message::Offer(_) => "offer",
            Message::Sum(statement) => statement.kind(),
            Message::Ballot(_) => "ballot",
            Message::Shard(statement) => statement.kind(),
        }
    }

    /// The announcement of an update in it, and the term that a masked one is for.
    pub(crate) fn claim(&self) -> Option<(&UpdateClaim, Option<Term>)> {
        match self {
            Message::Update(claim) => Some((claim, None)),
            Message::Sum(statement) => match &statement.word {
                SumWord::Masked(claim) => Some((claim, Some(statement.term))),
                _ => None,
            },
            Message::Shard(statement) => match &**statement {
                ShardStatement::Update { claim, .. } => Some((claim, None)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The round that it speaks of, if it is a statement within a round.
    pub fn round(&self) -> Option<Round> {
        match self {
            Message::Update(claim) => Some(claim.round),
            Message::Proposal(proposal) => Some(proposal.body.round),
            Message::Vote(vote) => Some(vote.round),
            Message::TermChange(change) => Some(change.round),
            Message::Sum(statement) => Some(statement.round),
            Message::Ballot(ballot) => Some(ballot.round),
            Message::Shard(statement) => Some(statement.round()),
            _ => None,
        }
    }

    /// Whether lists are within their limits (sizes in bytes are bounded before decoding).
    pub fn within_limits(&self) -> bool {
        match self {
            Message::Proposal(proposal) => {
                proposal.body.used.len() <= limits::MEMBERS
                    && proposal.claims.len() == proposal.body.used.len()
                    && proposal.body.roster.len() <= limits::MEMBERS
                    && proposal.basis.within_limits()
            }
            Message::Settled(settlement) => settlement.body.roster.len() <= limits::MEMBERS,
            Message::Settlements(list) => list.len() <= limits::CATCH_UP_SETTLEMENTS,
            Message::Admitted(welcome) => welcome.config.len() <= limits::CONFIG_BYTES,
            Message::Offer(offer) => offer.config.len() <= limits::CONFIG_BYTES,
            Message::Sum(statement) => statement.within_limits(),
            Message::Shard(statement) => statement.within_limits(),
            _ => true,
        }
    }
}
