//! The coordinator's part in a secure sum: it passes keys and sealed shares on, gathers masked updates, and asks once for
//! what lifts the masks of their sum. It learns the sum; secrets come together only in the opening that its proposal shows.
//!
//! A stage ends when all who are heard have answered, or when patience ends and enough have. Where too few have, the sum is
//! given up, and the next term begins another one.

use std::collections::BTreeMap;

use crate::contract::Time;
use crate::deadline;
use crate::identity::PeerId;
use crate::machine::{Job, Machine};
use crate::message::{Message, Term};
use crate::round::exchanging::{Lead, Payload, Stage};
use crate::round::summing::SumStep;
use crate::session::Role;
use crate::signed::{Signed, Verified};
use crate::sum::{
    LEAST_IN_A_SUM, OpenSum, Sealed, SumOpening, SumReply, SumRequest, SumSecret, SumStatement, SumTask, SumWord,
};
use crate::task::Task;

/// How far a sum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    /// Taking keys.
    #[default]
    Keys,
    /// Taking sealed shares from the roster.
    Shares,
    /// Taking masked updates from those who dealt.
    Updates,
    /// Taking shares of the survivors.
    Replies,
    /// The worker puts secrets together.
    Opening,
}

/// A member's keys: as it signed them, the bytes, and when they came after the term was opened.
#[derive(Debug)]
struct Keys {
    signed: Signed<Message>,
    bytes: Vec<u8>,
    after_ms: u64,
}

/// The gathering of one sum.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    step: Step,
    since: Time,
    keys: BTreeMap<PeerId, Keys>,
    /// By dealer, for whom and as the dealer signed it.
    shares: BTreeMap<PeerId, Vec<(PeerId, Signed<Message>)>>,
    request: Option<SumRequest>,
    replies: BTreeMap<PeerId, SumReply>,
    /// Some member has answered in an earlier term of the round.
    spent: bool,
    pub opening: Option<SumOpening>,
}

impl Gathering {
    /// Who dealt shares, once that is settled.
    fn dealt(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.shares.keys().copied()
    }

    /// What the others dealt for one member, in the order of ids.
    fn delivery(&self, to: &PeerId) -> Vec<Signed<Message>> {
        let others = self.shares.iter().filter(|(from, _)| *from != to);
        let for_it = others.filter_map(|(_, dealt)| dealt.iter().find(|(peer, _)| peer == to));
        for_it.map(|(_, share)| share.clone()).collect()
    }

    fn keys_of_dealers(&self) -> Vec<Sealed> {
        self.dealt()
            .map(|peer| (peer, self.keys[&peer].bytes.clone()))
            .collect()
    }
}

impl Machine {
    /// Takes a member's word, if this member leads.
    pub(crate) fn gather(&mut self, message: &Verified<Message>, statement: &SumStatement) {
        let (from, now) = (message.signer(), self.now);
        if self.reputation.is_banned(&from) {
            return;
        }
        let Some(lead) = self.work.lead.as_mut().filter(|lead| lead.is_collecting()) else {
            return;
        };
        let (opened, gathering) = (lead.opened, &mut lead.gathering);
        match (gathering.step, &statement.word) {
            // A member that restarted comes with other keys: as long as nobody was told of the first, these count.
            (Step::Keys, SumWord::Keys(bytes)) => {
                let after_ms = gathering
                    .keys
                    .get(&from)
                    .map_or(now.since(opened), |known| known.after_ms);
                let keys = Keys {
                    signed: message.signed().clone(),
                    bytes: bytes.clone(),
                    after_ms,
                };
                gathering.keys.insert(from, keys);
            }
            (Step::Keys, SumWord::Spent) if statement.term > 0 => gathering.spent = true,
            (Step::Shares, SumWord::Shares(list)) => self.gather_shares(from, statement.term, list),
            (Step::Updates, SumWord::Masked(claim)) if gathering.shares.contains_key(&from) => {
                self.on_claim(message, claim, statement.kind());
            }
            (Step::Replies, SumWord::Reply(reply)) => {
                let Some(request) = &gathering.request else { return };
                let counts = (reply.of_survivors.len(), reply.of_dropped.len());
                if request.survivors.contains(&from) && counts == (request.survivors.len(), request.dropped.len()) {
                    gathering.replies.entry(from).or_insert_with(|| reply.clone());
                }
            }
            _ => {}
        }
    }

    /// Takes a member's shares, if there is one for each other whose keys were passed on.
    fn gather_shares(&mut self, from: PeerId, term: Term, list: &[Signed<Message>]) {
        let Some(dealt) = self.shares_of(list, term) else {
            return;
        };
        let Some(lead) = self.work.lead.as_mut().filter(|lead| lead.is_collecting()) else {
            return;
        };
        let gathering = &mut lead.gathering;
        let others = gathering.keys.keys().filter(|peer| **peer != from);
        let complete =
            dealt.iter().map(|(_, (to, _))| to).eq(others) && dealt.iter().all(|(dealer, _)| *dealer == from);
        if complete && gathering.keys.contains_key(&from) {
            let shares = dealt
                .iter()
                .zip(list)
                .map(|((_, (to, _)), signed)| (*to, signed.clone()));
            gathering.shares.entry(from).or_insert_with(|| shares.collect());
        }
    }

    /// How long a step after the keys waits for members that are heard and say nothing.
    fn sum_patience_ms(&self) -> u64 {
        4 * self.info.terms.lost_after_ms
    }

    fn sum_needed(&self) -> usize {
        let trainers = self.roster().with(Role::Trainer).count();
        let quorum = self.info.terms.updates_needed(trainers);
        quorum.max(self.sum_threshold()).max(LEAST_IN_A_SUM)
    }

    /// When the present step ends though members are missing; None while too few keys are in.
    pub(crate) fn sum_deadline(&self) -> Option<Time> {
        let lead = self.work.lead.as_ref().filter(|lead| lead.is_collecting())?;
        let gathering = &lead.gathering;
        if gathering.step != Step::Keys {
            return Some(gathering.since.after_ms(self.sum_patience_ms()));
        }
        if gathering.keys.len() < self.sum_needed() || self.base.is_none_or(|base| !base.held) {
            return None;
        }
        let offsets: Vec<u64> = gathering.keys.values().map(|keys| keys.after_ms).collect();
        let wait = deadline::close_after_ms(&offsets, &self.info.terms.deadline)?;
        Some(lead.opened.after_ms(wait).max(lead.not_before))
    }

    /// Ends the present step when all who are heard have answered, or at its deadline.
    pub(crate) fn try_to_sum(&mut self) {
        let Some(lead) = self.work.lead.as_ref().filter(|lead| lead.is_collecting()) else {
            return;
        };
        if lead.gathering.spent && lead.gathering.step == Step::Keys {
            return self.settle_nothing();
        }
        let Some(deadline) = self.sum_deadline() else { return };
        let (over, early) = (self.now >= deadline, self.now < lead.not_before);
        let gathering = &lead.gathering;
        let (have, complete) = match gathering.step {
            Step::Keys => {
                let missing = self
                    .roster()
                    .with(Role::Trainer)
                    .any(|peer| !gathering.keys.contains_key(&peer) && self.is_waited_for(lead, &peer));
                (gathering.keys.len(), !missing)
            }
            Step::Shares => {
                let missing = gathering
                    .keys
                    .keys()
                    .any(|peer| !gathering.shares.contains_key(peer) && self.may_answer(peer));
                (gathering.shares.len(), !missing)
            }
            Step::Updates => {
                let fetching = gathering
                    .dealt()
                    .any(|peer| payload_of(lead, &peer) == Some(Payload::Fetching));
                let missing = gathering
                    .dealt()
                    .any(|peer| payload_of(lead, &peer).is_none() && self.may_answer(&peer));
                if fetching {
                    return;
                }
                (self.sum_request(lead).survivors.len(), !missing)
            }
            Step::Replies => {
                let survivors = gathering.request.iter().flat_map(|request| &request.survivors);
                let missing = survivors
                    .filter(|peer| !gathering.replies.contains_key(peer))
                    .any(|peer| self.may_answer(peer));
                (gathering.replies.len(), !missing)
            }
            Step::Opening => return,
        };
        let needed = match gathering.step {
            Step::Replies => self.sum_threshold(),
            _ => self.sum_needed(),
        };
        if early || have < needed && !over || !complete && !over {
            return;
        }
        if have < needed {
            return self.restart_sum();
        }
        self.end_sum_step();
    }

    /// A sum of this round may have been opened by a coordinator that is lost: another one would tell both. The round ends
    /// where it began, and the next one has other updates.
    fn settle_nothing(&mut self) {
        let (Some(lead), Some(base)) = (&self.work.lead, self.base.filter(|base| base.held)) else {
            return;
        };
        if self.now >= lead.not_before {
            self.drop_jobs(|job| matches!(job, Job::Train | Job::Sum(_)));
            self.propose(&[], base.state, base.bytes, &[]);
        }
    }

    fn may_answer(&self, peer: &PeerId) -> bool {
        self.is_alive(peer) && !self.reputation.is_banned(peer)
    }

    /// What may be asked of those who survive: whose updates are here, in groups that enough of are left of; nothing
    /// where the rule could not work on the groups.
    fn sum_request(&self, lead: &Lead) -> SumRequest {
        let here = |peer: &PeerId| matches!(payload_of(lead, peer), Some(Payload::Here { .. }));
        let dealt: Vec<PeerId> = lead.gathering.dealt().collect();
        let usable = |peer: &&PeerId| here(peer) && self.is_usable(lead, peer);
        let survivors: Vec<PeerId> = dealt.iter().filter(usable).copied().collect();
        let scope = self.sum_scope(self.succession.term);
        let request = scope.openable(&dealt, &survivors, &self.sum_terms());
        if self.enough_groups(&scope, &request.survivors) {
            return request;
        }
        SumRequest {
            survivors: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn end_sum_step(&mut self) {
        let (now, Some(lead)) = (self.now, &self.work.lead) else {
            return;
        };
        let request = self.sum_request(lead);
        let Some(lead) = &mut self.work.lead else { return };
        let gathering = &mut lead.gathering;
        gathering.since = now;
        gathering.step = match gathering.step {
            Step::Keys => Step::Shares,
            Step::Shares => Step::Updates,
            Step::Updates => {
                gathering.request = Some(request);
                Step::Replies
            }
            Step::Replies | Step::Opening => Step::Opening,
        };
        if gathering.step == Step::Opening {
            return self.open();
        }
        self.ask_in_sum();
    }

    /// Says to those who have not answered what the present step is about; repeated with each heartbeat.
    pub(crate) fn ask_in_sum(&mut self) {
        let Some(lead) = self.work.lead.as_ref().filter(|lead| lead.is_collecting()) else {
            return;
        };
        let gathering = &lead.gathering;
        let words: Vec<(PeerId, SumWord)> = match gathering.step {
            Step::Keys | Step::Opening => return,
            Step::Shares => {
                let list: Vec<_> = gathering.keys.values().map(|keys| keys.signed.clone()).collect();
                let waiting = gathering
                    .keys
                    .keys()
                    .filter(|peer| !gathering.shares.contains_key(peer));
                waiting.map(|peer| (*peer, SumWord::Roster(list.clone()))).collect()
            }
            Step::Updates => {
                let waiting = gathering.dealt().filter(|peer| payload_of(lead, peer).is_none());
                waiting
                    .map(|peer| (peer, SumWord::Delivery(gathering.delivery(&peer))))
                    .collect()
            }
            Step::Replies => {
                let Some(request) = &gathering.request else { return };
                let waiting = request
                    .survivors
                    .iter()
                    .filter(|peer| !gathering.replies.contains_key(peer));
                waiting.map(|peer| (*peer, SumWord::Request(request.clone()))).collect()
            }
        };
        for (to, word) in words {
            if to == self.me {
                self.obey(to, &word);
            } else {
                let message = self.sum_word(word);
                self.send_signed(to, message);
            }
        }
    }

    fn open(&mut self) {
        let scope = self.sum_scope(self.succession.term);
        let Some(lead) = &self.work.lead else { return };
        let Some(request) = lead.gathering.request.clone() else {
            return;
        };
        let keys = lead.gathering.keys_of_dealers();
        let replies = lead
            .gathering
            .replies
            .iter()
            .map(|(peer, reply)| (*peer, reply.clone()));
        let task = SumTask::Open {
            scope,
            keys,
            request,
            replies: replies.collect(),
        };
        self.compute_sum(SumStep::Open, task);
    }

    /// The secrets are there: subtracts the masks as every voter will.
    pub(crate) fn on_opened(&mut self, seeds: Vec<SumSecret>, mask_keys: Vec<SumSecret>) {
        let scope = self.sum_scope(self.succession.term);
        let Some(base) = self.base.filter(|base| base.held) else {
            return;
        };
        let Some(lead) = self.work.lead.as_mut().filter(|lead| lead.is_collecting()) else {
            return;
        };
        let survivors = lead.gathering.request.as_ref().map(|request| request.survivors.clone());
        let Some(survivors) = survivors else { return };
        let gathering = &mut lead.gathering;
        let dealt: Vec<PeerId> = gathering.dealt().collect();
        gathering.opening = Some(SumOpening {
            term: scope.term,
            keys: dealt.iter().map(|peer| gathering.keys[peer].signed.clone()).collect(),
            seeds: seeds.clone(),
            mask_keys: mask_keys.clone(),
        });
        let open = OpenSum {
            scope,
            keys: gathering.keys_of_dealers(),
            seeds,
            mask_keys,
        };
        let updates = survivors
            .iter()
            .map(|peer| lead.claims[peer].claim().to_ref(*peer))
            .collect();
        lead.stage = Stage::Aggregating(survivors);
        let task = SumTask::Settle {
            base: base.state,
            updates,
            open,
        };
        self.compute(Job::Aggregate, Task::Sum(Box::new(task)));
    }

    /// Whether this process woke up in a term that it leads: the sum of that term was in the memory of the one before.
    pub(crate) fn has_lost_a_sum(&self, term: Term) -> bool {
        self.sums() && self.resumed == Some((self.round(), term))
    }

    /// Gives a sum up. The next term begins another one, under its own coordinator (this member again, where it is alone
    /// in the line).
    pub(crate) fn restart_sum(&mut self) {
        self.move_to_term(self.succession.term.saturating_add(1));
    }
}

/// Where a member's masked update is; None before it was announced.
fn payload_of(lead: &Lead, peer: &PeerId) -> Option<Payload> {
    lead.claims.get(peer).map(|claimed| claimed.payload)
}
