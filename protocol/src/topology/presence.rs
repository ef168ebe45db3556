//! By quorum: who goes for absence and who comes in. No arithmetic shows it, so each voter goes by what it hears itself.
//! What was heard elsewhere is no evidence against a proposer: the network may have let the two hear different things.

use std::collections::BTreeSet;

use crate::identity::PeerId;
use crate::machine::Machine;
use crate::message::{Absence, Body, Message, UsedUpdate};

impl Machine {
    /// Who of the missing was absent; None: nobody's absences change. By quorum a body without updates changes none, since it
    /// waited for nobody, and a member that is heard is not absent, whatever it delivers.
    pub(crate) fn absent(&self, used: &[UsedUpdate], missing: &[(PeerId, Absence)]) -> Option<BTreeSet<PeerId>> {
        let by_quorum = self.is_by_quorum();
        let counts = |absence: &Absence| match absence {
            Absence::Lost => true,
            Absence::Withheld => !by_quorum,
            Absence::Late | Absence::Equivocated | Absence::Refused => false,
        };
        let absent = missing.iter().filter(|(_, absence)| counts(absence));
        (!by_quorum || !used.is_empty()).then(|| absent.map(|(peer, _)| *peer).collect())
    }

    /// As a proposer: whether to let in this peer, which says that it is here. Others that do not hear it would find the body
    /// wrong, so that updates wait for it in no term but the first.
    pub(crate) fn opens_to(&self, peer: &PeerId, of_roster_alone: bool) -> bool {
        let ripe = self.door.opens_to(peer).is_some_and(|from| self.now >= from);
        ripe && self.is_alive(peer) && (of_roster_alone || self.succession.term == 0)
    }

    /// As a voter: whether a body puts out for absence who is heard here, or lets in who is not. A member that some hear stays
    /// until nobody does.
    pub(crate) fn hears_otherwise(&self, body: &Body) -> bool {
        let members = self.roster().peers();
        let mut put_out = members.filter(|peer| {
            let told = body.left.contains(peer) || body.expelled.contains(peer);
            body.roster.get(peer).is_none() && !told
        });
        let mut let_in = body.roster.peers().filter(|peer| self.roster().get(peer).is_none());
        put_out.any(|peer| self.is_alive(&peer)) || let_in.any(|peer| !self.is_at_the_door(&peer))
    }

    fn is_at_the_door(&self, peer: &PeerId) -> bool {
        let lately = |at| self.now.since(at) <= 2 * self.info.terms.lost_after_ms;
        let heard = self.heard.get(peer).and_then(|heard| heard.at);
        self.door.opens_to(peer).is_some() && heard.is_some_and(lately)
    }

    /// The term ends. Whom this member's proposal let in, it lets wait: the others may not hear them.
    pub(crate) fn defer_entrants(&mut self) {
        let proposed = self.work.seen.get(&self.succession.term);
        let own = proposed.filter(|(_, signed)| signed.signer() == self.me);
        let Some(verified) = own.and_then(|(_, signed)| signed.verify().ok()) else {
            return;
        };
        let Message::Proposal(proposal) = verified.value() else {
            return;
        };
        for peer in proposal.body.roster.peers() {
            self.door.defer(&peer, self.now, self.info.terms.lost_after_ms);
        }
    }
}
