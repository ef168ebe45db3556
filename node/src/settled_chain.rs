//! A session's settlements with the votes that prove them: out of a journal, as a file that anyone can check, and checked.
//! It needs no network and trusts no row of `node log`; what it recomputes, it recomputes as members do.

use std::sync::Arc;

use serde::Serialize;
use synod_aggregation::OuterState;
use synod_aggregation::privacy::PrivacyConfig;
use synod_config::SessionConfig;
use synod_protocol::identity::BlobId;
use synod_protocol::journal::JournalEntry;
use synod_protocol::message::Settlement;
use synod_storage::blobs::BlobStore;
use synod_training::worker::verdict;

use crate::failure::{Failure, Outcome};
use crate::session_runtime::session_info;

/// The first bytes of a file: name and version.
const MAGIC: [u8; 5] = *b"SYNC\x02";

/// The settlements of a journal, in order, in postcard.
pub fn settlements_of(journal: Vec<JournalEntry>) -> Vec<u8> {
    let settled = journal.into_iter().filter_map(|entry| match entry {
        JournalEntry::Settled(settlement) => Some(settlement),
        _ => None,
    });
    let settled: Vec<Arc<Settlement>> = settled.collect();
    postcard::to_stdvec(&settled).expect("plain data always encodes")
}

/// A session's configuration and settlements.
pub struct SettledChain {
    /// What all members share; its hash is the session's id.
    pub config: SessionConfig,
    settlements: Vec<Settlement>,
}

/// What was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The session.
    pub session: String,
    /// Rounds whose certificates hold.
    pub rounds: u64,
    /// The last settled state.
    pub state: String,
    /// Rounds whose state was computed again from its updates, and is the one that was settled.
    pub recomputed: Vec<u64>,
    /// Why others were not, where any were not.
    pub not_recomputed: Option<String>,
    /// What is wrong, with the round; none where nothing is.
    pub fault: Option<Fault>,
}

/// What is wrong with a settlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The round.
    pub round: u64,
    /// In words.
    pub what: String,
}

impl SettledChain {
    /// From what [`settlements_of`] has written.
    pub fn of(config: SessionConfig, settlements: &[u8]) -> Result<Self, String> {
        let settlements = postcard::from_bytes(settlements).map_err(|error| error.to_string())?;
        Ok(Self { config, settlements })
    }

    /// As a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts = (self.config.to_bytes(), &self.settlements);
        postcard::to_extend(&parts, MAGIC.to_vec()).expect("plain data always encodes")
    }

    /// From a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let body = bytes
            .strip_prefix(&MAGIC)
            .ok_or("it is no file that `node verify --write` makes")?;
        let (config, settlements): (Vec<u8>, Vec<Settlement>) =
            postcard::from_bytes(body).map_err(|error| format!("it is damaged: {error}"))?;
        let config = SessionConfig::from_bytes(&config).map_err(|error| error.to_string())?;
        Ok(Self { config, settlements })
    }

    /// Checks every settlement, and every state whose updates are in `blobs`.
    pub fn verify(&self, blobs: Option<&BlobStore>) -> Outcome<Verified> {
        let info = session_info(&self.config);
        let mut verified = Verified {
            session: info.session.to_string(),
            rounds: 0,
            state: String::new(),
            recomputed: Vec::new(),
            not_recomputed: None,
            fault: None,
        };
        let mut before: Option<&Settlement> = None;
        for settlement in &self.settlements {
            let body = &settlement.body;
            if let Some(what) = settlement.objection(&info, before) {
                let round = before.map_or(0, |before| before.body.round + 1);
                verified.fault = Some(Fault {
                    round,
                    what: what.to_owned(),
                });
                return Ok(verified);
            }
            if body.round > 0 && !body.used.is_empty() {
                match self.recompute(settlement, blobs)? {
                    Recomputed::Same => verified.recomputed.push(body.round),
                    Recomputed::Not(why) => verified.not_recomputed = Some(why),
                    Recomputed::Other(what) => {
                        let round = body.round;
                        verified.fault = Some(Fault { round, what });
                        return Ok(verified);
                    }
                }
            }
            verified.rounds = body.round;
            verified.state = body.state.to_string();
            before = Some(settlement);
        }
        Ok(verified)
    }

    fn recompute(&self, settlement: &Settlement, blobs: Option<&BlobStore>) -> Outcome<Recomputed> {
        let body = &settlement.body;
        let not = |why: &str| Ok(Recomputed::Not(why.to_owned()));
        if matches!(self.config.aggregation.privacy, PrivacyConfig::SecureSum(_)) {
            return not("the masks of secure sums are lifted in the round alone");
        }
        if self.config.protocol.shards().is_some() {
            return not("each member holds its own shards of the updates alone");
        }
        let Some(blobs) = blobs else {
            return not("a file holds no updates");
        };
        let kept = |id: &BlobId| blobs.path(id).is_file();
        if !kept(&body.base) || !body.used.iter().all(|used| kept(&used.update.payload)) {
            return not("updates or the state before are not kept (`retention`)");
        }
        let read = |id: &BlobId| blobs.read(id).map_err(Failure::environment);
        let layout = self.config.training.layout();
        let base = OuterState::from_bytes(&read(&body.base)?, Some(layout.len())).map_err(Failure::environment)?;
        let payloads = body.used.iter().map(|used| read(&used.update.payload));
        let payloads = payloads.collect::<Outcome<Vec<_>>>()?;
        let weighted: Vec<(&[u8], f32)> = payloads
            .iter()
            .zip(&body.used)
            .map(|(bytes, used)| (bytes.as_slice(), used.update.tokens as f32))
            .collect();
        let combined = match self.config.aggregation.combiner(&layout).settle(&base, &weighted) {
            Ok(combined) => combined,
            Err(error) => return Ok(Recomputed::Other(format!("its updates cannot be combined: {error}"))),
        };
        let state = combined.state.to_bytes();
        if BlobId::of(&state) != body.state {
            let found = "its updates make another state than the one that was settled";
            return Ok(Recomputed::Other(found.to_owned()));
        }
        if state.len() as u64 != body.state_bytes {
            return Ok(Recomputed::Other(format!(
                "it names a length of {} bytes, and its state has {}",
                body.state_bytes,
                state.len()
            )));
        }
        let found = body.used.iter().zip(&combined.verdicts);
        let found = found.map(|(used, judged)| verdict(&used.update, judged));
        let same = body.used.iter().map(|used| used.verdict).eq(found);
        Ok(match same {
            true => Recomputed::Same,
            false => Recomputed::Other("its verdicts on updates are not those that the rule gives".to_owned()),
        })
    }
}

enum Recomputed {
    Same,
    Not(String),
    Other(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_config::load::parse_session;
    use synod_config::presets::preset;
    use synod_protocol::identity::{BodyId, Identity, PeerId, SessionId};
    use synod_protocol::message::{Body, Message, UsedUpdate, Vote};
    use synod_protocol::session::{Member, Role, Roles, Roster};
    use synod_protocol::signed::Signed;
    use synod_protocol::task::{Outcome, TrainReport, UpdateRef};

    fn settled(member: &Identity, session: SessionId, body: Body) -> Settlement {
        let (round, term, id) = (body.round, 0, body.id(&session));
        let vote = Signed::new(member, session, &Message::Vote(Vote { round, term, body: id }));
        Settlement::new(body, term, vec![(member.peer_id(), vote.signature())])
    }

    fn founding(member: PeerId, state: &[u8]) -> Body {
        let roles = Roles::of(&[Role::Trainer, Role::Coordinator]);
        let (since, absent) = (0, 0);
        Body {
            round: 0,
            previous: BodyId([0; 32]),
            base: BlobId::of(state),
            state: BlobId::of(state),
            state_bytes: state.len() as u64,
            used: Vec::new(),
            missing: Vec::new(),
            roster: Roster::new([(member, Member { roles, since, absent })]),
            expelled: Vec::new(),
            left: Vec::new(),
            proposer: member,
            lead: member,
        }
    }

    /// A session of one member, whose settlement of round 1 says what `bend` makes of the truth: what is found wrong in it.
    fn check(bend: impl FnOnce(&mut Body)) -> Option<String> {
        let home = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(home.path()).unwrap();
        let member = Identity::from_secret([1; 32]);
        let mut file = parse_session("preset", preset("tiny").unwrap()).unwrap();
        file.protocol.min_members = 1;
        let config = file.found(member.peer_id(), 0).unwrap();
        let (session, layout) = (config.id(), config.training.layout());
        let base = OuterState::new(vec![0.5; layout.len()]);
        let combiner = config.aggregation.combiner(&layout);
        let mut payload = Vec::new();
        combiner.encoder().encode(&vec![0.25; layout.len()], &mut payload);
        let combined = combiner.settle(&base, &[(&payload, 10.0)]).unwrap();
        let (before, state) = (base.to_bytes(), combined.state.to_bytes());
        for bytes in [&before, &payload, &state] {
            blobs.put(bytes).unwrap();
        }

        let first = settled(&member, session, founding(member.peer_id(), &before));
        let update = UpdateRef {
            peer: member.peer_id(),
            payload: BlobId::of(&payload),
            bytes: payload.len() as u64,
            tokens: 10,
        };
        let report = TrainReport::default();
        let verdict = verdict(&update, &combined.verdicts[0]);
        let mut body = Body {
            round: 1,
            previous: first.id(&session),
            state: BlobId::of(&state),
            state_bytes: state.len() as u64,
            used: vec![UsedUpdate {
                update,
                report,
                verdict,
            }],
            ..first.body.clone()
        };
        bend(&mut body);
        let settlements = vec![first, settled(&member, session, body)];
        let verified = SettledChain { config, settlements }.verify(Some(&blobs)).unwrap();
        assert_eq!(verified.recomputed.len(), usize::from(verified.fault.is_none()));
        verified.fault.map(|fault| fault.what)
    }

    #[test]
    fn a_settlement_holds_if_all_that_it_says_is_computed_again() {
        assert_eq!(check(|_| ()), None);
        let length = check(|body| body.state_bytes += 1).unwrap();
        assert!(length.contains("it names a length"), "{length}");
        let outcome = check(|body| body.used[0].verdict.outcome = Outcome::Excluded).unwrap();
        assert!(outcome.contains("verdicts"), "{outcome}");
        let state = check(|body| body.state = BlobId([7; 32])).unwrap();
        assert!(state.contains("another state"), "{state}");
    }
}
