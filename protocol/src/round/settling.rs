//! Phase four: the proposal, the votes, and the settlement that a majority of votes makes.
//! One vote a term and one proposal a term, durable before they are sent; with the promises of `topology::federated` this
//! is single-decree Paxos (Lamport, "The part-time parliament", 1998) over bodies, one instance a round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::Event;
use crate::identity::{BlobId, BodyId, PeerId};
use crate::invite::Admission;
use crate::journal::JournalEntry;
use crate::limits;
use crate::machine::Machine;
use crate::message::{Absence, Basis, Body, Message, Proposal, Settlement, Term, UsedUpdate, Vote};
use crate::reject::{Evidence, Reject};
use crate::round::exchanging::{Payload, Proposed, Stage};
use crate::session::{Member, Role, Roster};
use crate::signed::{Signed, Verified};
use crate::task::MemberVerdict;

/// The last vote of this member in the round: a next coordinator has to be told.
#[derive(Debug, Clone)]
pub(crate) struct Locked {
    pub term: Term,
    pub body: BodyId,
    pub proposal: Signed<Message>,
}

/// What changes the roster besides absence.
pub(crate) struct RosterChange<'a> {
    /// Who was absent; None: nobody's absences change.
    pub absent: Option<BTreeSet<PeerId>>,
    pub admissions: &'a [Signed<Admission>],
    pub left: &'a BTreeSet<PeerId>,
    pub expelled: &'a [PeerId],
    /// Rounds of absence after which a member goes.
    pub absent_rounds: u32,
}

impl Machine {
    // ---- proposing --------------------------------------------------------------------------------------------------

    /// Proposes what this coordinator just aggregated.
    pub(crate) fn propose(&mut self, set: &[PeerId], state: BlobId, bytes: u64, verdicts: &[MemberVerdict]) {
        self.succession.computed = Some(state);
        let (Some(lead), Some(last)) = (&self.work.lead, self.chain.last()) else {
            return;
        };
        let used = set.iter().zip(verdicts).map(|(peer, verdict)| {
            let claim = lead.claims[peer].claim();
            UsedUpdate {
                update: claim.to_ref(*peer),
                report: claim.report,
                verdict: *verdict,
            }
        });
        let used: Vec<UsedUpdate> = used.collect();
        let claims = set
            .iter()
            .map(|peer| lead.claims[peer].message.signed().clone())
            .collect();
        let convicted = lead.faults.iter().filter(|(peer, _)| self.roster().get(peer).is_some());
        let (expelled, faults): (Vec<PeerId>, Vec<_>) = convicted.map(|(peer, pair)| (*peer, pair.clone())).unzip();
        let missing = self.absences(set);
        let admissions = self.entrants(&expelled, used.is_empty());
        let leaves = self.goodbyes();
        let left: BTreeSet<PeerId> = leaves.iter().map(Signed::signer).collect();
        let change = RosterChange {
            absent: self.absent(&used, &missing),
            admissions: &admissions,
            left: &left,
            expelled: &expelled,
            absent_rounds: self.info.terms.rounds_to_go(self.roster()),
        };
        let roster = next_roster(self.roster(), self.round(), &change);
        let stays = roster.has(&self.me, Role::Coordinator);
        // By quorum nobody leads, and the field says who proposed.
        let heir = roster
            .succession()
            .first()
            .copied()
            .filter(|_| !stays && !self.is_by_quorum());
        let body = Body {
            round: self.round(),
            previous: last.id(&self.info.session),
            base: last.body.state,
            state,
            state_bytes: bytes,
            used,
            missing,
            roster,
            expelled,
            left: left.into_iter().collect(),
            proposer: self.me,
            lead: heir.unwrap_or(self.me),
        };
        let (term, justification) = (lead.term, lead.justification.clone());
        let basis = self.basis(set);
        self.issue(Proposal {
            term,
            body,
            claims,
            admissions,
            leaves,
            faults,
            justification,
            basis,
        });
    }

    /// What a state that was made of the updates in `set` rests on beside them.
    fn basis(&self, set: &[PeerId]) -> Basis {
        match &self.work.lead {
            Some(lead) if self.sums() => lead.gathering.opening.clone().map_or(Basis::Updates, Basis::Opening),
            Some(lead) if self.shards().is_some() && !set.is_empty() => Basis::Shards(lead.selecting.results()),
            _ => Basis::Updates,
        }
    }

    /// Whether a settlement of the roster alone would change it.
    pub(crate) fn has_border_business(&self) -> bool {
        !self.entrants(&[], true).is_empty() || !self.goodbyes().is_empty()
    }

    /// The admissions that this settlement lets in: as many as there is room for, in the roster and in a message.
    fn entrants(&self, expelled: &[PeerId], of_roster_alone: bool) -> Vec<Signed<Admission>> {
        let room = (self.info.terms.max_members as usize).saturating_sub(self.roster().len());
        let may_enter = |admission: &Signed<Admission>| {
            self.may_enter(admission)
                .filter(|entry| !self.is_by_quorum() || self.opens_to(&entry.peer, of_roster_alone))
                .is_some_and(|entry| !expelled.contains(&entry.peer))
        };
        let present = self.door.present(self.now, self.info.terms.lost_after_ms);
        present
            .into_iter()
            .filter(may_enter)
            .take(room.min(limits::PENDING_ADMISSIONS))
            .collect()
    }

    /// The leave messages that this settlement fulfils, this member's own among them.
    fn goodbyes(&self) -> Vec<Signed<Message>> {
        let mut leaves: BTreeMap<PeerId, Signed<Message>> = BTreeMap::new();
        leaves.extend(
            self.door
                .leaves()
                .filter_map(|leave| Some((self.leaver(leave)?, leave.clone()))),
        );
        if self.leaving {
            leaves.insert(self.me, self.sign(&Message::Leave { round: self.round() }));
        }
        leaves.into_values().collect()
    }

    /// Signs a proposal, makes it durable, sends it, and votes for it.
    pub(crate) fn issue(&mut self, proposal: Proposal) {
        let (round, term) = (proposal.body.round, proposal.term);
        if self.is_by_quorum() {
            return self.propose_by_quorum(proposal);
        }
        if self.work.own_proposals.contains_key(&term) {
            return;
        }
        let signed = self.sign(&Message::Proposal(Box::new(proposal)));
        self.persist(JournalEntry::Proposed {
            round,
            term,
            proposal: signed.clone(),
        });
        self.work.own_proposals.insert(term, signed.clone());
        self.stand_by(signed);
    }

    /// Sends an own proposal (a new one, or one that was signed before a crash) and counts votes for it.
    pub(crate) fn stand_by(&mut self, signed: Signed<Message>) {
        let verified = signed.verify().expect("own proposals verify");
        let Message::Proposal(proposal) = verified.value() else {
            return;
        };
        let (term, id) = (proposal.term, proposal.body.id(&self.info.session));
        let (round, state, updates) = (
            proposal.body.round,
            proposal.body.state,
            proposal.body.used.len() as u32,
        );
        self.event(Event::Proposed {
            round,
            term,
            state,
            updates,
        });
        self.work.seen.insert(term, (id, signed.clone()));
        self.broadcast(signed.clone());
        if round == 0 {
            // Founding members are not in a roster yet that a broadcast would reach.
            let founders: Vec<PeerId> = proposal.body.roster.peers().collect();
            founders
                .into_iter()
                .for_each(|peer| self.send_signed(peer, signed.clone()));
        }
        let proposed = Proposed {
            signed,
            proposal: (**proposal).clone(),
            id,
            votes: BTreeMap::new(),
            sent_at: self.now,
        };
        let Some(lead) = &mut self.work.lead else { return };
        lead.stage = Stage::Proposed(Box::new(proposed));
        // What this member computed or voted for itself it need not examine; another's body, repeated in a later term, it must.
        let known = self.work.vote.as_ref().is_some_and(|locked| locked.body == id);
        if known || self.succession.computed == Some(state) {
            self.vote(&verified, term, id);
        } else {
            self.begin_check(&verified, term, id);
        }
    }

    /// Sends the proposal again to those who have not voted.
    pub(crate) fn repeat_proposal(&mut self) {
        let (now, wait) = (self.now, 2 * self.info.terms.heartbeat_ms);
        let Some(Stage::Proposed(proposed)) = self.work.lead.as_mut().map(|lead| &mut lead.stage) else {
            return;
        };
        if now.since(proposed.sent_at) < wait {
            return;
        }
        proposed.sent_at = now;
        let signed = proposed.signed.clone();
        let voted: BTreeSet<PeerId> = proposed.votes.keys().copied().collect();
        let roster = if proposed.proposal.body.round == 0 {
            proposed.proposal.body.roster.clone()
        } else {
            self.roster().clone()
        };
        for voter in roster
            .voters()
            .filter(|voter| !voted.contains(voter))
            .collect::<Vec<_>>()
        {
            self.send_signed(voter, signed.clone());
        }
    }

    /// Who of the trainers is missing from `set`, and why.
    fn absences(&self, set: &[PeerId]) -> Vec<(PeerId, Absence)> {
        let lead = self.work.lead.as_ref().expect("only a lead proposes");
        let reason = |peer: &PeerId| {
            if lead.faults.contains_key(peer) {
                Absence::Equivocated
            } else if self.reputation.is_banned(peer) {
                Absence::Refused
            } else if !self.is_alive(peer) && self.now.since(lead.opened) > self.info.terms.lost_after_ms {
                // Before, a new coordinator may simply not have been greeted yet.
                Absence::Lost
            } else {
                match lead.claims.get(peer).map(|claimed| claimed.payload) {
                    Some(Payload::Failed) => Absence::Withheld,
                    _ => Absence::Late,
                }
            }
        };
        let missing = self.roster().with(Role::Trainer).filter(|peer| !set.contains(peer));
        missing.map(|peer| (peer, reason(&peer))).collect()
    }

    // ---- voting -----------------------------------------------------------------------------------------------------

    pub(crate) fn on_proposal(&mut self, message: &Verified<Message>, proposal: &Proposal) {
        let (from, round, term) = (message.signer(), proposal.body.round, proposal.term);
        if !self.is_current(from, round, "proposal") {
            return;
        }
        if from != self.coordinator_of(term) {
            return self.charge(Evidence::plain(from, Reject::NotEntitled, round, "proposal"));
        }
        if round == 0 && proposal.body.roster.get(&self.me).is_none() {
            // Founded without this member, which came too late for round 0: it enters at a later border.
            return;
        }
        let id = proposal.body.id(&self.info.session);
        let first_sight = !self.work.seen.contains_key(&term);
        match self.work.seen.get(&term) {
            Some((first, signed)) if *first != id => {
                let statements = vec![hex::encode(signed.to_bytes()), hex::encode(message.signed().to_bytes())];
                let plain = Evidence::plain(from, Reject::Equivocation, round, "proposal");
                return self.charge(Evidence { statements, ..plain });
            }
            Some(_) => {}
            None => {
                if !self.is_justified(proposal, &id) {
                    return self.charge(Evidence::plain(from, Reject::BadProposal, round, "proposal"));
                }
                self.work.seen.insert(term, (id, message.signed().clone()));
            }
        }
        if term < self.succession.term {
            return;
        }
        self.enter_term(term);
        if first_sight {
            self.succession.heard = self.now;
            self.succession.led_until = self.now;
        }
        match &self.work.vote {
            // The vote may have been lost: say it again.
            Some(locked) if locked.term == term => {
                assert_eq!(locked.body, id, "one proposal a term was seen, and voted for");
                self.send_vote(from, term, id);
            }
            // The same body in a later term needs no second examination.
            Some(locked) if locked.body == id => self.vote(message, term, id),
            // Voting against an own vote of the very term that the proposal builds on: its coordinator proposed twice, and
            // what this member voted for may be what settled.
            Some(locked) if locked_term_of(proposal) == Some(locked.term) => {}
            _ => self.begin_check(message, term, id),
        }
    }

    /// Whether all that a proposal rests on holds, computation apart.
    pub(crate) fn is_justified(&self, proposal: &Proposal, id: &BodyId) -> bool {
        let body = &proposal.body;
        if body.round == 0 {
            return self.is_founding_justified(proposal);
        }
        let Some(last) = self.chain.last() else { return false };
        let (previous, round) = body_after(last, self);
        if (body.previous, body.round, body.base) != (previous, round, last.body.state) {
            return false;
        }
        let in_term = match self.is_by_quorum() {
            true => self.is_ballot_justified(proposal, self.coordinator_of(proposal.term), id),
            false => self.is_term_justified(proposal, id),
        };
        if body.state_bytes > self.info.terms.max_state_bytes || !in_term {
            return false;
        }
        self.are_updates_justified(proposal) && self.is_roster_justified(proposal)
    }

    fn are_updates_justified(&self, proposal: &Proposal) -> bool {
        let body = &proposal.body;
        if body.used.is_empty() {
            // Without any update it may let members in and out, and leaves the model as it is.
            let comes_or_goes = !(proposal.admissions.is_empty() && body.left.is_empty());
            let bare = proposal.basis == Basis::Updates;
            let of_roster_alone = self.keeps_state(body) && comes_or_goes && bare;
            return of_roster_alone && self.are_absences_sound(body) || self.is_nothing_justified(proposal);
        }
        let sorted = body.used.is_sorted_by(|a, b| a.update.peer < b.update.peer);
        let trainers = self
            .roster()
            .with(Role::Trainer)
            .filter(|peer| !body.expelled.contains(peer))
            .count();
        if !sorted || body.used.len() < self.info.terms.updates_needed(trainers) {
            return false;
        }
        let opening = proposal.basis.opening();
        let opened = opening.is_none() || self.open_sum(proposal).is_some();
        if self.sums() != opening.is_some() || !opened || !self.are_results_justified(proposal) {
            return false;
        }
        let holds = |(used, signed): (&UsedUpdate, &Signed<Message>)| {
            let Ok(verified) = signed.verify() else { return false };
            let Some((claim, masked)) = verified.value().claim() else {
                return false;
            };
            let peer = used.update.peer;
            signed.signer() == peer
                && masked == opening.map(|opening| opening.term)
                && self.is_in_parts(verified.value())
                && signed.session() == self.info.session
                && self.roster().has(&peer, Role::Trainer)
                && (claim.round, claim.base) == (body.round, body.base)
                && claim.bytes <= self.info.terms.max_payload_bytes
                && claim.to_ref(peer) == used.update
                && claim.report.same_bits(&used.report)
                && used.verdict.peer == peer
        };
        body.used.iter().zip(&proposal.claims).all(holds) && self.are_absences_sound(body)
    }

    /// A round of secure sums may settle without updates where a coordinator was lost: the state stays.
    fn is_nothing_justified(&self, proposal: &Proposal) -> bool {
        let body = &proposal.body;
        let bare = proposal.claims.is_empty() && proposal.basis == Basis::Updates;
        self.sums() && proposal.term > 0 && self.keeps_state(body) && bare && self.are_absences_sound(body)
    }

    /// Whether the state that a body names is the one before it, its length included: who restarts asks its own store for so
    /// many bytes.
    fn keeps_state(&self, body: &Body) -> bool {
        let same_length = |last: &Arc<Settlement>| body.state_bytes == last.body.state_bytes;
        body.state == body.base && self.chain.last().is_some_and(same_length)
    }

    fn are_absences_sound(&self, body: &Body) -> bool {
        let used: BTreeSet<PeerId> = body.used.iter().map(|used| used.update.peer).collect();
        let rest = self.roster().with(Role::Trainer).filter(|peer| !used.contains(peer));
        rest.eq(body.missing.iter().map(|(peer, _)| *peer))
    }

    fn is_roster_justified(&self, proposal: &Proposal) -> bool {
        let body = &proposal.body;
        let left: Option<BTreeSet<PeerId>> = proposal.leaves.iter().map(|leave| self.leaver(leave)).collect();
        // Each leaves once: a word said a thousand times would make a proposal too long to be sent again with its proof.
        let once = |left: &BTreeSet<PeerId>| left.iter().eq(&body.left) && left.len() == proposal.leaves.len();
        let Some(left) = left.filter(once) else {
            return false;
        };
        let culprits: Option<Vec<PeerId>> = proposal
            .faults
            .iter()
            .map(|pair| self.culprit(pair, body.round))
            .collect();
        if culprits.as_ref() != Some(&body.expelled) || !body.expelled.is_sorted_by(|a, b| a < b) {
            return false;
        }
        let newcomer = |admission: &Signed<Admission>| {
            let entry = self.may_enter(admission)?;
            (!body.expelled.contains(&entry.peer)).then_some(entry.peer)
        };
        let newcomers: Option<BTreeSet<PeerId>> = proposal.admissions.iter().map(newcomer).collect();
        // All may enter, each once, for the same reason.
        if newcomers.is_none_or(|newcomers| newcomers.len() < proposal.admissions.len()) {
            return false;
        }
        let change = RosterChange {
            absent: self.absent(&body.used, &body.missing),
            admissions: &proposal.admissions,
            left: &left,
            expelled: &body.expelled,
            absent_rounds: self.info.terms.rounds_to_go(self.roster()),
        };
        let roster = next_roster(self.roster(), body.round, &change);
        let led = match self.is_by_quorum() {
            true => body.lead == body.proposer && self.roster().is_voter(&body.proposer),
            false => roster.has(&body.lead, Role::Coordinator) || roster.succession().is_empty(),
        };
        roster == body.roster && roster.len() <= (self.info.terms.max_members as usize).max(self.roster().len()) && led
    }

    /// Who a leave message takes out of the roster: a member, by a word of its present membership.
    pub(crate) fn leaver(&self, leave: &Signed<Message>) -> Option<PeerId> {
        let verified = leave.verify().ok()?;
        let Message::Leave { round } = verified.value() else {
            return None;
        };
        let member = self.roster().get(&leave.signer())?;
        let current = (member.since..=self.round()).contains(round);
        (current && leave.session() == self.info.session).then(|| leave.signer())
    }

    /// Who a pair of claims convicts, if it does.
    fn culprit(&self, pair: &(Signed<Message>, Signed<Message>), round: u64) -> Option<PeerId> {
        let (first, second) = (pair.0.verify().ok()?, pair.1.verify().ok()?);
        let of_session = [&first, &second]
            .iter()
            .all(|claim| claim.session() == self.info.session);
        let ((a, masked), (b, masked_too)) = (first.value().claim()?, second.value().claim()?);
        let same_round = a.round == round && b.round == round && masked == masked_too;
        let convicted =
            of_session && same_round && first.signer() == second.signer() && first.signed() != second.signed();
        (convicted && self.roster().get(&first.signer()).is_some()).then(|| first.signer())
    }

    /// The admission inside, if it is genuine and may be used now.
    pub(crate) fn may_enter(&self, admission: &Signed<Admission>) -> Option<Admission> {
        let verified = admission.verify().ok()?;
        let entry = verified.value();
        let issuer = admission.signer();
        let may_invite = issuer == self.info.creator || self.roster().has(&issuer, Role::Coordinator);
        let sound = admission.session() == self.info.session && entry.roles.is_known() && !entry.roles.is_empty();
        let outside = self.roster().get(&entry.peer).is_none() && !self.expelled.contains(&entry.peer);
        let stale = self.departed.get(&entry.peer).is_some_and(|left| entry.round <= *left);
        (may_invite && sound && outside && !stale).then(|| entry.clone())
    }

    /// Votes, once a term.
    pub(crate) fn vote(&mut self, message: &Verified<Message>, term: Term, id: BodyId) {
        if self.is_by_quorum() {
            return self.judge(id, true);
        }
        let Message::Proposal(proposal) = message.value() else {
            return;
        };
        let voters = if self.chain.is_empty() {
            &proposal.body.roster
        } else {
            self.roster()
        };
        let (round, may_vote) = (proposal.body.round, voters.is_voter(&self.me));
        if !may_vote || term < self.succession.term {
            return;
        }
        let proposal = message.signed().clone();
        if self.work.vote.as_ref().is_none_or(|locked| locked.term < term) {
            self.persist(JournalEntry::Voted {
                round,
                term,
                proposal: proposal.clone(),
            });
            self.work.vote = Some(Locked {
                term,
                body: id,
                proposal,
            });
            self.event(Event::Voted { round, term, body: id });
        }
        self.send_vote(message.signer(), term, id);
    }

    fn send_vote(&mut self, to: PeerId, term: Term, body: BodyId) {
        let signed = self.sign(&Message::Vote(Vote {
            round: self.round(),
            term,
            body,
        }));
        if to == self.me {
            self.count_vote(
                self.me,
                &Vote {
                    round: self.round(),
                    term,
                    body,
                },
                &signed,
            );
        } else {
            self.send_signed(to, signed);
        }
    }

    // ---- settling ---------------------------------------------------------------------------------------------------

    pub(crate) fn on_vote(&mut self, message: &Verified<Message>, vote: &Vote) {
        if self.is_current(message.signer(), vote.round, "vote") {
            self.count_vote(message.signer(), vote, message.signed());
        }
    }

    fn count_vote(&mut self, voter: PeerId, vote: &Vote, signed: &Signed<Message>) {
        let founding = self.chain.is_empty();
        let roster = self.roster().clone();
        let Some(lead) = &mut self.work.lead else { return };
        let term = lead.term;
        let Stage::Proposed(proposed) = &mut lead.stage else {
            return;
        };
        let roster = if founding {
            &proposed.proposal.body.roster
        } else {
            &roster
        };
        if !roster.is_voter(&voter) || (vote.term, vote.body) != (term, proposed.id) {
            return;
        }
        proposed.votes.insert(voter, signed.signature());
        if proposed.votes.len() < self.info.terms.votes_needed(roster) {
            return;
        }
        let votes = proposed
            .votes
            .iter()
            .map(|(voter, signature)| (*voter, *signature))
            .collect();
        let body = proposed.proposal.body.clone();
        let settlement = Arc::new(Settlement::new(body, term, votes));
        let held = self.succession.computed == Some(settlement.body.state);
        self.adopt_and_tell(settlement, held);
        self.begin_round();
    }

    /// Adopts a settlement that this member has put together, and sends it to all.
    pub(crate) fn adopt_and_tell(&mut self, settlement: Arc<Settlement>, held: bool) {
        let before: BTreeSet<PeerId> = self.roster().peers().collect();
        self.adopt(settlement.clone(), held);
        let message = self.sign(&Message::Settled(settlement));
        self.broadcast(message.clone());
        // Those who leave are not in the new roster, and wait for this.
        for gone in before
            .into_iter()
            .filter(|peer| self.roster().get(peer).is_none())
            .collect::<Vec<_>>()
        {
            self.send_signed(gone, message.clone());
        }
    }

    /// A settlement, or several in the order of rounds, from anyone: the votes in it prove it.
    pub(crate) fn on_settlements(&mut self, from: PeerId, settlements: &[Arc<Settlement>]) {
        let mut adopted = false;
        for settlement in settlements {
            let round = settlement.body.round;
            if round > self.round() {
                self.ask_for_settlements(from);
                break;
            }
            if round < self.round() {
                continue;
            }
            let before = self.chain.last().map(|last| &**last);
            if !settlement.follows(&self.info, before) {
                self.charge(Evidence::plain(from, Reject::BadSettlement, round, "settled"));
                break;
            }
            let held = self.succession.computed == Some(settlement.body.state);
            self.adopt(settlement.clone(), held);
            adopted = true;
        }
        if adopted {
            self.begin_round();
            if settlements.len() == limits::CATCH_UP_SETTLEMENTS {
                self.ask_for_settlements(from);
            }
        }
    }
}

/// The highest term that the promises behind a proposal name a vote of.
fn locked_term_of(proposal: &Proposal) -> Option<Term> {
    let locked = |signed: &Signed<Message>| match signed.verify().ok()?.value() {
        Message::TermChange(change) => change.locked.map(|(term, _)| term),
        _ => None,
    };
    proposal.justification.iter().filter_map(locked).max()
}

fn body_after(last: &Settlement, machine: &Machine) -> (BodyId, u64) {
    (last.id(&machine.info.session), last.body.round + 1)
}

/// The roster after a round: leavers, the expelled and the long lost go, the admitted come, absences are counted.
pub(crate) fn next_roster(roster: &Roster, round: u64, change: &RosterChange<'_>) -> Roster {
    let stays = |peer: &PeerId| !change.left.contains(peer) && !change.expelled.contains(peer);
    let count = |peer: &PeerId, member: &Member| match &change.absent {
        None => member.absent,
        Some(absent) if absent.contains(peer) => member.absent + 1,
        Some(_) => 0,
    };
    let counted = roster.iter().filter(|(peer, _)| stays(peer));
    let counted = counted.map(|(peer, member)| {
        (
            *peer,
            Member {
                absent: count(peer, member),
                ..*member
            },
        )
    });
    let mut next = Roster::new(counted.filter(|(_, member)| member.absent < change.absent_rounds));
    for admission in change.admissions {
        if let Ok(verified) = admission.verify() {
            let entry = verified.value();
            next.insert(
                entry.peer,
                Member {
                    roles: entry.roles,
                    since: round + 1,
                    absent: 0,
                },
            );
        }
    }
    next
}
