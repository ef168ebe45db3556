//! A machine after a crash, from its journal, and the shortest journal that makes it again.
//! It reads no disk: the driver brings the entries and keeps them.

use crate::journal::JournalEntry;
use crate::machine::Machine;
use crate::message::Message;
use crate::round::Round as RoundWork;
use crate::signed::Signed;

impl Machine {
    pub(crate) fn restore(&mut self, journal: Vec<JournalEntry>) {
        for entry in journal {
            if entry.expires_with().is_some_and(|round| round != self.round()) {
                continue;
            }
            match entry {
                JournalEntry::Settled(settlement) => {
                    self.remember_members(&settlement);
                    self.door.settle(&settlement.body);
                    self.gossip.roster = settlement.body.roster.clone();
                    self.gossip.round = 1;
                    self.chain.push(settlement);
                    self.work = RoundWork::default();
                    self.succession.begin_round(self.now);
                }
                JournalEntry::Claimed { claim, .. } => {
                    self.work.training.claim = Some(claim);
                    self.succession.claimed_at = Some(self.now);
                }
                JournalEntry::Promised { term, .. } => self.succession.term = self.succession.term.max(term),
                JournalEntry::Voted { term, proposal, .. } => {
                    self.work.restore_vote(term, proposal, &self.info.session)
                }
                JournalEntry::Proposed { term, proposal, .. } => _ = self.work.own_proposals.insert(term, proposal),
                JournalEntry::OwnAdmission(admission) => self.own_admission = Some(admission),
                JournalEntry::Admitted { admission, blocks } => self.door.admitted(admission, &blocks),
                JournalEntry::Revoked(block) => self.door.revoke(block),
                JournalEntry::Banned(peer) => self.reputation.ban(peer),
                JournalEntry::Left => self.leaving = true,
                JournalEntry::Mixed { .. } | JournalEntry::Entered(_) | JournalEntry::Departed(_) => {
                    self.restore_gossip(entry);
                }
                JournalEntry::Ballots { inputs, .. } => self.work.ballots.extend(inputs),
                JournalEntry::Unmasked { term, .. } => self.work.summing.answered = Some(term),
            }
        }
        let of_term = |claim: &Signed<Message>| {
            let verified = claim.verify().ok();
            let masked = verified.as_ref().and_then(|claim| claim.value().claim()?.1);
            masked.is_none_or(|term| term == self.succession.term)
        };
        // A masked update is of one term; in a later one there are other masks.
        self.work.training.claim = self.work.training.claim.take().filter(of_term);
    }

    /// The shortest journal that restores this machine: for the driver to replace a long one by.
    pub fn snapshot(&self) -> Vec<JournalEntry> {
        let mut entries = self.door.snapshot();
        entries.extend(self.own_admission.iter().cloned().map(JournalEntry::OwnAdmission));
        entries.extend(self.reputation.banned().copied().map(JournalEntry::Banned));
        entries.extend(self.leaving.then_some(JournalEntry::Left));
        entries.extend(self.chain.iter().cloned().map(JournalEntry::Settled));
        entries.extend(self.snapshot_gossip());
        let round = self.round();
        entries.extend(
            self.work
                .training
                .claim
                .iter()
                .cloned()
                .map(|claim| JournalEntry::Claimed { round, claim }),
        );
        if self.succession.term > 0 && !self.is_by_quorum() {
            entries.push(JournalEntry::Promised {
                round,
                term: self.succession.term,
            });
        }
        entries.extend(self.work.snapshot(round));
        entries
    }
}
