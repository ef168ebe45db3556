//! Phase one: local steps, and the signed claim that announces their update.
//! What the steps are is the worker's business; here an update is a content id, and there is one a round.

use crate::contract::Time;
use crate::event::Event;
use crate::identity::BlobId;
use crate::journal::JournalEntry;
use crate::machine::{Job, Machine};
use crate::message::{Message, UpdateClaim};
use crate::pace::local_steps;
use crate::round::exchanging::Lead;
use crate::session::Role;
use crate::signed::Signed;
use crate::task::{Task, TrainReport};

/// This member's own part of the round.
#[derive(Debug, Default)]
pub(crate) struct Training {
    /// The claim, once the update is ready. Durable before it was sent, so that a restart sends the same.
    pub claim: Option<Signed<Message>>,
    /// Training failed, and the operator was told why: how often, and when it is tried again.
    pub failed: Option<Failed>,
}

/// Local steps that failed in this round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    times: u32,
    again_at: Time,
}

impl Machine {
    /// Starts local steps, or announces the update that is ready already. Calling it again does no harm.
    pub(crate) fn train(&mut self) {
        let Some(base) = self.base.filter(|base| base.held) else {
            return;
        };
        if self.is_mixing() && (self.is_following() || self.leaving) {
            return;
        }
        if self.chain.is_empty() || self.is_finished() || !self.roster().has(&self.me, Role::Trainer) {
            return;
        }
        if self.work.training.claim.is_some() || self.work.summing.ready {
            return self.send_claim();
        }
        let collecting = self.work.lead.as_ref().is_none_or(Lead::is_collecting);
        let examining = self.work.check.is_some() || !collecting || self.is_combining();
        let waits = self
            .work
            .training
            .failed
            .is_some_and(|failed| self.now < failed.again_at);
        if !waits && !examining && !self.has_job(&Job::Train) {
            let round = self.round();
            let steps = self.info.steps;
            let steps = steps.map(|terms| local_steps(&terms, &self.chain, self.me));
            self.compute(
                Job::Train,
                Task::Train {
                    round,
                    base: base.state,
                    steps,
                },
            );
        }
    }

    pub(crate) fn on_trained(&mut self, payload: BlobId, bytes: u64, report: TrainReport) {
        let claim = self.claim_of(payload, bytes, report);
        self.announce(&Message::Update(claim.clone()), &claim);
    }

    /// What this member says of an update of the current round.
    pub(crate) fn claim_of(&self, payload: BlobId, bytes: u64, report: TrainReport) -> UpdateClaim {
        UpdateClaim {
            round: self.round(),
            base: self.base.expect("training had a base").state,
            payload,
            bytes,
            report,
        }
    }

    /// Makes an announcement durable, then sends it.
    pub(crate) fn announce(&mut self, message: &Message, claim: &UpdateClaim) {
        let UpdateClaim {
            round,
            payload,
            bytes,
            report,
            ..
        } = *claim;
        let claim = self.sign(message);
        self.persist(JournalEntry::Claimed {
            round,
            claim: claim.clone(),
        });
        self.event(Event::UpdateReady {
            round,
            payload,
            bytes,
            report,
        });
        (self.work.training.claim, self.work.training.failed) = (Some(claim.clone()), None);
        self.succession.claimed_at = Some(self.now);
        self.tell_voters(&claim);
        self.send_claim();
    }

    /// A full disk or a lost file may be mended: local steps are tried again, each time after twice as long.
    pub(crate) fn on_training_failed(&mut self) {
        let times = self.work.training.failed.map_or(0, |failed| failed.times);
        let terms = &self.info.terms;
        let longest = terms.deadline.cap_ms.max(terms.lost_after_ms);
        let wait = terms.lost_after_ms.saturating_mul(1 << times.min(20)).min(longest);
        self.work.training.failed = Some(Failed {
            times: times.saturating_add(1),
            again_at: self.now.after_ms(wait),
        });
        // Who cannot train still notices a coordinator that does nothing.
        self.succession.claimed_at = self.succession.claimed_at.or(Some(self.now));
    }

    /// Sends the claim to whoever leads now. Repeated with each heartbeat until there is a proposal.
    pub(crate) fn send_claim(&mut self) {
        if self.sums() {
            return self.take_part();
        }
        let Some(claim) = self.work.training.claim.clone() else {
            return;
        };
        if self.is_mixing() {
            return self.announce_claim(claim);
        }
        self.take_claim(&claim.verify().expect("own claims verify"));
        if self.coordinator() == self.me {
            self.take_claims_from_before();
        }
        self.send_signed(self.coordinator(), claim);
    }
}
