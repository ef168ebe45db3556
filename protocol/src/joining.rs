//! The door: admitting joiners on invites, letting the admitted into the roster, catching up, and leaving.
//! An issuer counts the uses of its own invites; who is let in by whom is proved by signed admissions, so any
//! coordinator can open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::contract::Time;
use crate::event::Event;
use crate::identity::PeerId;
use crate::invite::{Admission, BlockId, InviteError, InviteProof};
use crate::journal::JournalEntry;
use crate::limits;
use crate::machine::Machine;
use crate::message::{Body, JoinRefusal, Message, Offer, Settlement, Welcome};
use crate::session::{Role, Roles, Roster};
use crate::signed::{Signed, Verified};
use crate::task::Round;

/// Who asked to come in, who may, and who wants to go.
#[derive(Debug, Default)]
pub(crate) struct Doorkeeper {
    uses: BTreeMap<BlockId, u32>,
    revoked: BTreeSet<BlockId>,
    admitted: BTreeMap<PeerId, (Signed<Admission>, Vec<BlockId>)>,
    /// Everything that was ever granted: uses are spent for good.
    granted: Vec<(Signed<Admission>, Vec<BlockId>)>,
    present: BTreeMap<PeerId, Knock>,
    leaves: BTreeMap<PeerId, Signed<Message>>,
}

/// One who is admitted, and says that it is here.
#[derive(Debug)]
struct Knock {
    admission: Signed<Admission>,
    /// When it said so last.
    at: Time,
    /// By quorum, the proposals that let it in and came to nothing, and when it is let in at the earliest.
    refused: u32,
    not_before: Time,
}

/// What an issuer has for one who shows a good key.
enum Place {
    /// The place that it was given on this very key already.
    Held(Signed<Admission>),
    /// A new one, at a use of each of these blocks.
    Free { blocks: Vec<BlockId>, uses_left: u32 },
}

impl Doorkeeper {
    pub(crate) fn uses(&self) -> &BTreeMap<BlockId, u32> {
        &self.uses
    }

    pub(crate) fn revoked(&self) -> &BTreeSet<BlockId> {
        &self.revoked
    }

    pub(crate) fn revoke(&mut self, block: BlockId) {
        self.revoked.insert(block);
    }

    pub(crate) fn admitted(&mut self, admission: Signed<Admission>, blocks: &[BlockId]) {
        self.granted.push((admission.clone(), blocks.to_vec()));
        for block in blocks {
            *self.uses.entry(*block).or_default() += 1;
        }
        if let Ok(verified) = admission.verify() {
            self.admitted
                .insert(verified.value().peer, (admission, blocks.to_vec()));
        }
    }

    pub(crate) fn is_admitted(&self, peer: &PeerId) -> bool {
        self.admitted.contains_key(peer) || self.present.contains_key(peer)
    }

    pub(crate) fn admitted_peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.admitted.keys().chain(self.present.keys()).copied()
    }

    /// The admissions of those who said lately that they are here, in order of ids.
    pub(crate) fn present(&self, now: Time, lost_after_ms: u64) -> Vec<Signed<Admission>> {
        let lately = |at: &Time| now.since(*at) <= 2 * lost_after_ms;
        self.present
            .values()
            .filter(|knock| lately(&knock.at))
            .map(|knock| knock.admission.clone())
            .collect()
    }

    /// When one who is here is let in at the earliest; None for one who was not heard to be.
    pub(crate) fn opens_to(&self, peer: &PeerId) -> Option<Time> {
        self.present.get(peer).map(|knock| knock.not_before)
    }

    /// A proposal let this peer in and came to nothing: perhaps not all hear it, so the next one waits twice as long.
    pub(crate) fn defer(&mut self, peer: &PeerId, now: Time, lost_after_ms: u64) {
        if let Some(knock) = self.present.get_mut(peer) {
            knock.refused = knock.refused.saturating_add(1);
            knock.not_before = now.after_ms(lost_after_ms.saturating_mul(1 << knock.refused.min(10)));
        }
    }

    /// Those who are here and not in the roster.
    pub(crate) fn waiting(&self, roster: &Roster) -> Vec<PeerId> {
        self.present
            .keys()
            .filter(|peer| roster.get(peer).is_none())
            .copied()
            .collect()
    }

    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Signed<Message>> {
        self.leaves.values()
    }

    /// What a settlement answers is no longer waited for.
    pub(crate) fn settle(&mut self, body: &Body) {
        self.present.retain(|peer, _| body.roster.get(peer).is_none());
        self.leaves.retain(|peer, _| body.roster.get(peer).is_some());
    }

    pub(crate) fn snapshot(&self) -> Vec<JournalEntry> {
        let admitted = self.granted.iter();
        let mut entries: Vec<_> = admitted
            .map(|(admission, blocks)| JournalEntry::Admitted {
                admission: admission.clone(),
                blocks: blocks.clone(),
            })
            .collect();
        entries.extend(self.revoked.iter().copied().map(JournalEntry::Revoked));
        entries
    }
}

impl Machine {
    // ---- as an issuer -----------------------------------------------------------------------------------------------

    pub(crate) fn on_join(&mut self, from: PeerId, proof: &InviteProof) {
        let judged = self.judge_join(&from, proof).map(|place| match place {
            Place::Held(admission) => admission,
            Place::Free { blocks, .. } => self.admit(from, proof.permission().roles, blocks),
        });
        match judged {
            Ok(admission) => {
                let welcome = Welcome {
                    admission,
                    config: self.info.config.to_vec(),
                };
                self.announce_members();
                self.send(from, &Message::Admitted(Box::new(welcome)));
            }
            Err(refusal) => {
                self.event(Event::JoinRefused {
                    peer: from,
                    reason: refusal.to_string(),
                });
                self.send(from, &Message::Refused(refusal));
            }
        }
    }

    /// Tells what a join would bring, to those who would be let in and to nobody else. Nothing changes here.
    pub(crate) fn on_ask(&mut self, from: PeerId, proof: &InviteProof) {
        let answer = match self.judge_join(&from, proof) {
            Ok(place) => Message::Offer(Box::new(self.offer(place))),
            Err(refusal) => Message::Refused(refusal),
        };
        self.send(from, &answer);
    }

    fn offer(&self, place: Place) -> Offer {
        let members = match self.chain.is_empty() {
            true => self.door.admitted.len() + 1,
            false => self.roster().len(),
        };
        Offer {
            config: self.info.config.to_vec(),
            uses_left: match place {
                Place::Held(_) => 0,
                Place::Free { uses_left, .. } => uses_left,
            },
            lifecycle: self.judge_lifecycle().0,
            round: self.round(),
            members: u32::try_from(members).unwrap_or(u32::MAX),
        }
    }

    fn judge_join(&self, from: &PeerId, proof: &InviteProof) -> Result<Place, JoinRefusal> {
        proof
            .check(from)
            .map_err(|error: InviteError| JoinRefusal::Forged(error.to_string()))?;
        let grant = proof.grant();
        let may_invite = self.me == self.info.creator || self.roster().has(&self.me, Role::Coordinator);
        if grant.issuer != self.me || grant.session != self.info.session || !may_invite {
            return Err(JoinRefusal::NotTheIssuer);
        }
        if self.expelled.contains(from) || self.reputation.is_banned(from) {
            return Err(JoinRefusal::Banned("see the session's log".into()));
        }
        if self.is_finished() {
            return Err(JoinRefusal::Finished);
        }
        let allowed = proof.blocks();
        if allowed.iter().any(|(block, _)| self.door.revoked.contains(block)) {
            return Err(JoinRefusal::Revoked);
        }
        // A joiner whose answer was lost asks again: it has its place, and it costs nothing.
        let blocks: Vec<BlockId> = allowed.iter().map(|(block, _)| *block).collect();
        if let Some((admission, used)) = self.door.admitted.get(from)
            && *used == blocks
            && (self.roster().get(from).is_some() || self.may_enter(admission).is_some())
        {
            return Ok(Place::Held(admission.clone()));
        }
        if self.now.0 / 1000 >= proof.permission().expires_unix_s {
            return Err(JoinRefusal::Expired);
        }
        let left =
            |(block, uses): &(BlockId, u32)| uses.saturating_sub(self.door.uses.get(block).copied().unwrap_or(0));
        let uses_left = allowed.iter().map(left).min().unwrap_or(0);
        if uses_left == 0 {
            return Err(JoinRefusal::UsedUp);
        }
        self.has_room()?;
        Ok(Place::Free { blocks, uses_left })
    }

    fn has_room(&self) -> Result<(), JoinRefusal> {
        let is_waiting = |peer: &&PeerId| self.roster().get(peer).is_none() && !self.departed.contains_key(peer);
        let waiting = self.door.admitted.keys().filter(is_waiting).count();
        let founding = usize::from(self.chain.is_empty());
        let limit = self.info.terms.max_members;
        if self.roster().len() + waiting + founding >= limit as usize
            || waiting >= limits::PENDING_ADMISSIONS.max(limit as usize)
        {
            return Err(JoinRefusal::Full(limit));
        }
        Ok(())
    }

    fn admit(&mut self, peer: PeerId, roles: Roles, blocks: Vec<BlockId>) -> Signed<Admission> {
        let admission = Signed::new(
            &self.identity,
            self.info.session,
            &Admission {
                peer,
                roles,
                round: self.round(),
            },
        );
        self.persist(JournalEntry::Admitted {
            admission: admission.clone(),
            blocks: blocks.clone(),
        });
        self.door.admitted(admission.clone(), &blocks);
        self.event(Event::Admitted { peer });
        admission
    }

    // ---- as a coordinator -------------------------------------------------------------------------------------------

    pub(crate) fn on_present(&mut self, from: PeerId, admission: &Signed<Admission>) {
        // A member that is listed may say it once more, and a lagging node may not know the issuer yet: no fault of anyone.
        let Some(entry) = self.may_enter(admission) else { return };
        if entry.peer != from
            || self.door.present.len() >= limits::PENDING_ADMISSIONS.max(self.info.terms.max_members as usize)
        {
            return;
        }
        let (now, known) = (self.now, self.door.present.get(&from));
        let knock = Knock {
            admission: admission.clone(),
            at: now,
            refused: known.map_or(0, |knock| knock.refused),
            // The others should have heard it, too.
            not_before: known.map_or(now.after_ms(self.info.terms.lost_after_ms), |knock| knock.not_before),
        };
        if self.door.present.insert(from, knock).is_none() {
            self.announce_members();
        }
    }

    pub(crate) fn on_leave(&mut self, message: &Verified<Message>) {
        let from = message.signer();
        if self.chain.is_empty() {
            self.door.present.remove(&from);
        } else if self.leaver(message.signed()).is_some() {
            self.door.leaves.insert(from, message.signed().clone());
        } else if let Some(last) = self.chain.last().cloned().filter(|_| self.departed.contains_key(&from)) {
            // It left with a settlement that it has not seen.
            self.on_catch_up(from, last.body.round);
        }
    }

    // ---- as a joiner, a lagging member, or a leaver -----------------------------------------------------------------

    /// Says that it is here and was admitted, to those who can open.
    pub(crate) fn knock(&mut self) {
        let creator = self.info.creator;
        if self.me == creator {
            if !self.chain.is_empty() {
                let (roles, round) = (self.creator_roles(), self.round());
                let admission = Admission {
                    peer: creator,
                    roles,
                    round,
                };
                let admission = Signed::new(&self.identity, self.info.session, &admission);
                let present = self.sign(&Message::Present(Box::new(admission)));
                self.broadcast(present);
            }
            return;
        }
        let Some(admission) = self.own_admission.clone() else {
            return;
        };
        let issuer = admission.signer();
        let present = self.sign(&Message::Present(Box::new(admission)));
        if !self.chain.is_empty() {
            return self.broadcast(present);
        }
        self.send_signed(creator, present.clone());
        self.send(creator, &Message::CatchUp { from: 0 });
        if issuer != creator {
            self.send_signed(issuer, present);
            self.send(issuer, &Message::CatchUp { from: 0 });
        }
    }

    /// Answers with settlements, as many as fit.
    pub(crate) fn on_catch_up(&mut self, from: PeerId, first: Round) {
        let (now, wait) = (self.now, self.info.terms.heartbeat_ms);
        if !self.is_known(&from) || first >= self.round() {
            return;
        }
        // The same once more within a heartbeat is an echo.
        let served = &mut self.heard.entry(from).or_default().served;
        if served.is_some_and(|(round, at)| round == first && now.since(at) < wait) {
            return;
        }
        *served = Some((first, now));
        let missing = self.chain.iter().skip(usize::try_from(first).unwrap_or(usize::MAX));
        let mut room = limits::MESSAGE_BYTES / 2;
        let fits = |settlement: &&Arc<Settlement>| {
            let fits = room > 0;
            room = room.saturating_sub(settlement.estimated_bytes());
            fits
        };
        let list: Vec<_> = missing
            .take_while(fits)
            .take(limits::CATCH_UP_SETTLEMENTS)
            .cloned()
            .collect();
        if !list.is_empty() {
            self.send(from, &Message::Settlements(list));
        }
    }

    /// Why this node may not leave now, if so.
    pub fn objection_to_leaving(&self) -> Option<&'static str> {
        if self.is_mixing() || self.is_by_quorum() {
            return None;
        }
        let needed = self.roster().succession() == [self.me] && self.roster().len() > 1 && !self.is_finished();
        needed.then_some("this node is the only one that may coordinate: let another coordinator join before it leaves")
    }

    pub(crate) fn on_leave_command(&mut self) {
        if self.leaving {
            return;
        }
        if let Some(reason) = self.objection_to_leaving() {
            return self.event(Event::LeaveRefused { reason: reason.into() });
        }
        self.leaving = true;
        self.persist(JournalEntry::Left);
        if self.is_mixing() {
            self.drop_jobs(|_| true);
            return self.repeat_to_mix();
        }
        let leave = Message::Leave { round: self.round() };
        let coordinator = self.coordinator();
        self.send(coordinator, &leave);
        if self.roster().len() == 1 {
            // Nobody else is there to settle the leave with.
            self.drop_jobs(|_| true);
        }
    }
}

impl Settlement {
    /// Its length on the wire, about.
    fn estimated_bytes(&self) -> usize {
        256 + 160 * self.body.used.len() + 96 * self.votes.len() + 40 * self.body.roster.len()
    }
}
