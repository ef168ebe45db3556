//! The work of one member in one round; each phase has a file and owns its data.
//! All of it is forgotten at the border to the next round, except what the journal keeps.

pub(crate) mod aggregating;
pub(crate) mod ahead;
pub(crate) mod exchanging;
pub(crate) mod founding;
pub(crate) mod gathering;
pub(crate) mod selecting;
pub(crate) mod settling;
pub(crate) mod sharding;
pub(crate) mod summing;
pub(crate) mod training;

use std::collections::BTreeMap;

use crate::identity::{BodyId, SessionId};
use crate::journal::{BallotInput, JournalEntry};
use crate::message::{Message, Phase, Term};
use crate::signed::Signed;
use crate::topology::quorum::Quorum;

/// Everything that one round holds.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// This member's own update.
    pub training: training::Training,
    /// This member's part in a secure sum.
    pub summing: summing::Summing,
    /// This member's part in combining shards.
    pub duty: Option<sharding::Duty>,
    /// The coordinator's duty, while this member has it.
    pub lead: Option<exchanging::Lead>,
    /// What this voter has done before there is a proposal.
    pub ahead: ahead::Ahead,
    /// The proposal that this member is checking.
    pub check: Option<aggregating::Check>,
    /// What this member voted for last.
    pub vote: Option<settling::Locked>,
    /// What this member proposed, by term: it never signs a second one for a term.
    pub own_proposals: BTreeMap<Term, Signed<Message>>,
    /// The first proposal seen of each term.
    pub seen: BTreeMap<Term, (BodyId, Signed<Message>)>,
    /// By quorum: what this voter knows of the agreement.
    pub quorum: Option<Box<Quorum>>,
    /// By quorum: what the journal holds of the round, until it is taken in again.
    pub ballots: Vec<BallotInput>,
}

impl Round {
    pub(crate) fn phase(&self, founding: bool) -> Phase {
        if self.vote.is_some() || self.quorum.as_ref().is_some_and(|quorum| quorum.is_voting()) {
            Phase::Settling
        } else if self.lead.as_ref().is_some_and(exchanging::Lead::is_aggregating)
            || self.check.is_some()
            || self.duty.as_ref().is_some_and(sharding::Duty::is_open)
        {
            Phase::Aggregating
        } else if self.training.claim.is_some() || self.summing.ready {
            Phase::Exchanging
        } else if founding || self.training.failed.is_some() {
            Phase::Idle
        } else {
            Phase::Training
        }
    }

    /// Takes note of a proposal that the journal holds.
    pub(crate) fn restore_seen(&mut self, proposal: &Signed<Message>) {
        let verified = proposal.verify().expect("the journal holds what was verified");
        if let Message::Proposal(inner) = verified.value() {
            let body = inner.body.id(&proposal.session());
            self.seen.insert(inner.term, (body, proposal.clone()));
        }
    }

    pub(crate) fn restore_vote(&mut self, term: Term, proposal: Signed<Message>, session: &SessionId) {
        let verified = proposal
            .verify()
            .expect("the journal holds what was verified before it was voted for");
        if let Message::Proposal(inner) = verified.value() {
            let body = inner.body.id(session);
            self.seen.insert(inner.term, (body, proposal.clone()));
            self.vote = Some(settling::Locked { term, body, proposal });
        }
    }

    pub(crate) fn snapshot(&self, round: u64) -> Vec<JournalEntry> {
        let proposed = self.own_proposals.iter();
        let mut entries: Vec<_> = proposed
            .map(|(term, proposal)| JournalEntry::Proposed {
                round,
                term: *term,
                proposal: proposal.clone(),
            })
            .collect();
        entries.extend(self.summing.snapshot(round));
        entries.extend(self.quorum.as_ref().and_then(|quorum| quorum.snapshot()));
        if !self.ballots.is_empty() {
            let inputs = self.ballots.clone();
            entries.push(JournalEntry::Ballots { round, inputs });
        }
        if let Some(vote) = &self.vote {
            entries.push(JournalEntry::Voted {
                round,
                term: vote.term,
                proposal: vote.proposal.clone(),
            });
        }
        entries
    }
}
