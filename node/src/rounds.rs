//! The row that a node keeps of each round: what was settled, who took part, what it cost, how this institution fared.
//! It is filled from the machine's events, for `node log` and `node status`; nothing is decided from it.

use serde::{Deserialize, Serialize};
use synod_protocol::contract::Time;
use synod_protocol::event::Event;
use synod_protocol::identity::{PeerId, SessionId};
use synod_protocol::message::{Absence, Settlement};
use synod_protocol::task::{MemberVerdict, Outcome, Round, TrainReport};

use crate::network::NetworkCounters;

/// One round as this node saw it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RoundRow {
    /// Which.
    pub round: Round,
    /// When it was settled here, in milliseconds since the Unix epoch.
    pub settled_unix_ms: u64,
    /// From the settlement before to this one, in milliseconds.
    pub wall_ms: u64,
    /// Digest of the settlement.
    pub body: String,
    /// Digest of the model state that was settled: equal at all members.
    pub state: String,
    /// The coordinator's term: above 0 when another one took over.
    pub term: u32,
    /// Members of the next round.
    pub members: u32,
    /// Whose updates were used, and how the rule judged them.
    pub participants: Vec<Participant>,
    /// Who was missing, and why.
    pub missing: Vec<Missing>,
    /// This member's own training, if its update was made in time.
    pub own: Option<OwnReport>,
    /// In a decentralized session: how far the neighbours' models were from this one before they were mixed.
    #[serde(default)]
    pub distance: Option<f32>,
    /// Loss of the settled state on this institution's held-out data, once it was measured.
    pub heldout_after: Option<f32>,
    /// Message bytes that this node received and sent during the round.
    pub control_bytes: Bytes,
    /// Model and update bytes that this node received and sent during the round.
    pub bulk_bytes: Bytes,
}

impl RoundRow {
    /// What a settlement alone tells of its round: for a row that a crash has kept from being written. When it was settled,
    /// how long it took, what it cost, and how this institution fared is not in it.
    pub fn of_settlement(settlement: &Settlement, session: &SessionId) -> Self {
        let body = &settlement.body;
        Self {
            round: body.round,
            body: settlement.id(session).to_string(),
            state: body.state.to_string(),
            term: settlement.term,
            members: body.roster.len() as u32,
            participants: body.used.iter().map(|used| participant(&used.verdict)).collect(),
            missing: body
                .missing
                .iter()
                .map(|(peer, reason)| absent(peer, *reason))
                .collect(),
            ..Self::default()
        }
    }
}

/// Bytes in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bytes {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// One update of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Participant {
    /// Whose.
    pub peer: String,
    /// Its share in the aggregate.
    pub weight: f32,
    /// `used`, `clipped`, `excluded` or `undecodable`.
    pub outcome: String,
}

/// One member without an update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// Who.
    pub peer: String,
    /// `late`, `lost`, …
    pub reason: Absence,
}

/// This member's own training in a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnReport {
    /// Mean loss over the local steps, nats a token.
    pub train_loss: f32,
    /// Loss of the round's base on this institution's held-out data; none where there is no such data.
    pub heldout_before: Option<f32>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Tokens a second.
    pub tokens_per_s: f32,
    /// Local steps.
    pub steps: u32,
    /// Length of the update.
    pub update_bytes: u64,
}

impl OwnReport {
    fn of(report: &TrainReport, update_bytes: u64) -> Self {
        let TrainReport {
            train_loss,
            heldout_loss,
            tokens,
            steps,
            wall_ms,
        } = *report;
        Self {
            train_loss,
            heldout_before: heldout_loss.is_finite().then_some(heldout_loss),
            tokens,
            tokens_per_s: tokens as f32 * 1000.0 / wall_ms.max(1) as f32,
            steps,
            update_bytes,
        }
    }
}

/// Bytes that have gone through the node so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meter {
    control: Bytes,
    bulk: Bytes,
}

impl Meter {
    /// What the network has counted.
    pub fn of(counters: &NetworkCounters) -> Self {
        let NetworkCounters { control, bulk, .. } = counters;
        Self {
            control: Bytes {
                received: control.bytes_in,
                sent: control.bytes_out,
            },
            bulk: Bytes {
                received: bulk.bytes_in,
                sent: bulk.bytes_out,
            },
        }
    }
}

impl Bytes {
    fn since(self, earlier: Bytes) -> Bytes {
        Bytes {
            received: self.received.saturating_sub(earlier.received),
            sent: self.sent.saturating_sub(earlier.sent),
        }
    }
}

/// Gathers what belongs to the rounds of one session, and gives a row whenever one is new or has grown.
#[derive(Debug, Default)]
pub struct RoundBook {
    own: Option<(Round, OwnReport)>,
    last: Option<RoundRow>,
    border: Option<(Time, Meter)>,
}

impl RoundBook {
    /// A book that goes on after `last`, the newest row in the store.
    pub fn resume(last: Option<RoundRow>) -> Self {
        Self {
            own: None,
            last,
            border: None,
        }
    }

    /// The newest row.
    pub fn last(&self) -> Option<&RoundRow> {
        self.last.as_ref()
    }

    /// Takes an event in; the answer is the row that has to be stored, if one has changed.
    pub fn on_event(&mut self, now: Time, meter: Meter, event: &Event) -> Option<RoundRow> {
        match event {
            Event::RoundStarted { .. } => {
                self.border.get_or_insert((now, meter));
                None
            }
            Event::UpdateReady {
                round, report, bytes, ..
            } => {
                let own = OwnReport::of(report, *bytes);
                let before = own.heldout_before;
                self.own = Some((*round, own));
                // What training starts from is what the round before settled.
                self.measured(round.checked_sub(1)?, before)
            }
            Event::Evaluated { round, loss, .. } => self.measured(*round, loss.is_finite().then_some(*loss)),
            Event::Settled { .. } => Some(self.settled(now, meter, event)),
            Event::Mixed { .. } => Some(self.mixed(now, meter, event)),
            _ => None,
        }
    }

    fn measured(&mut self, round: Round, loss: Option<f32>) -> Option<RoundRow> {
        let row = self
            .last
            .as_mut()
            .filter(|row| row.round == round && row.heldout_after != loss)?;
        row.heldout_after = loss;
        Some(row.clone())
    }

    fn settled(&mut self, now: Time, meter: Meter, event: &Event) -> RoundRow {
        let Event::Settled {
            round,
            term,
            body,
            state,
            verdicts,
            missing,
            members,
        } = event
        else {
            unreachable!("the caller has matched it")
        };
        let (began, before) = self.border.replace((now, meter)).unwrap_or((now, meter));
        let row = RoundRow {
            round: *round,
            settled_unix_ms: now.0,
            wall_ms: now.since(began),
            body: body.to_string(),
            state: state.to_string(),
            term: *term,
            members: *members,
            participants: verdicts.iter().map(participant).collect(),
            missing: missing.iter().map(|(peer, reason)| absent(peer, *reason)).collect(),
            own: self.own.take().filter(|(of, _)| of == round).map(|(_, own)| own),
            distance: None,
            heldout_after: None,
            control_bytes: meter.control.since(before.control),
            bulk_bytes: meter.bulk.since(before.bulk),
        };
        self.last = Some(row.clone());
        row
    }
}

impl RoundBook {
    fn mixed(&mut self, now: Time, meter: Meter, event: &Event) -> RoundRow {
        let Event::Mixed {
            round,
            state,
            verdicts,
            missing,
            members,
            distance,
        } = event
        else {
            unreachable!("the caller has matched it")
        };
        let (began, before) = self.border.replace((now, meter)).unwrap_or((now, meter));
        let row = RoundRow {
            round: *round,
            settled_unix_ms: now.0,
            wall_ms: now.since(began),
            state: state.to_string(),
            members: *members,
            participants: verdicts.iter().map(participant).collect(),
            missing: missing.iter().map(|(peer, reason)| absent(peer, *reason)).collect(),
            own: self.own.take().filter(|(of, _)| of == round).map(|(_, own)| own),
            distance: distance.is_finite().then_some(*distance),
            control_bytes: meter.control.since(before.control),
            bulk_bytes: meter.bulk.since(before.bulk),
            ..RoundRow::default()
        };
        self.last = Some(row.clone());
        row
    }
}

fn participant(verdict: &MemberVerdict) -> Participant {
    let outcome = match verdict.outcome {
        Outcome::Used => "used",
        Outcome::Clipped => "clipped",
        Outcome::Excluded => "excluded",
        Outcome::Undecodable => "undecodable",
    };
    Participant {
        peer: verdict.peer.to_string(),
        weight: verdict.weight,
        outcome: outcome.to_owned(),
    }
}

fn absent(peer: &PeerId, reason: Absence) -> Missing {
    Missing {
        peer: peer.to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_protocol::identity::{BlobId, BodyId};

    fn settled(round: Round) -> Event {
        Event::Settled {
            round,
            term: 0,
            body: BodyId([1; 32]),
            state: BlobId([2; 32]),
            verdicts: vec![MemberVerdict {
                peer: PeerId([3; 32]),
                weight: 1.0,
                outcome: Outcome::Clipped,
            }],
            missing: vec![(PeerId([4; 32]), Absence::Lost)],
            members: 2,
        }
    }

    fn ready(round: Round, heldout_loss: f32) -> Event {
        let report = TrainReport {
            train_loss: 2.0,
            heldout_loss,
            tokens: 500,
            steps: 3,
            wall_ms: 1000,
        };
        Event::UpdateReady {
            round,
            payload: BlobId([5; 32]),
            bytes: 99,
            report,
        }
    }

    fn meter(received: u64) -> Meter {
        Meter {
            bulk: Bytes {
                received,
                sent: 2 * received,
            },
            ..Meter::default()
        }
    }

    #[test]
    fn a_row_gathers_the_round_and_the_next_update_completes_it() {
        let mut book = RoundBook::default();
        book.on_event(Time(0), meter(0), &settled(0)).unwrap();
        let founding = book.on_event(Time(100), meter(0), &ready(1, 5.5)).unwrap();
        assert_eq!((founding.round, founding.heldout_after), (0, Some(5.5)));
        let row = book.on_event(Time(3_000), meter(70), &settled(1)).unwrap();
        assert_eq!(
            (row.wall_ms, row.bulk_bytes),
            (
                3_000,
                Bytes {
                    received: 70,
                    sent: 140
                }
            )
        );
        let own = row.own.unwrap();
        assert_eq!((own.heldout_before, own.tokens_per_s), (Some(5.5), 500.0));
        let grown = book.on_event(Time(4_000), meter(70), &ready(2, 4.0)).unwrap();
        assert_eq!((grown.round, grown.heldout_after), (1, Some(4.0)));
    }

    #[test]
    fn a_member_without_heldout_data_reports_none_rather_than_nan() {
        let mut book = RoundBook::default();
        book.on_event(Time(0), meter(0), &settled(0)).unwrap();
        assert_eq!(book.on_event(Time(1), meter(0), &ready(1, f32::NAN)), None);
        let row = book.on_event(Time(2), meter(0), &settled(1)).unwrap();
        assert_eq!(row.own.unwrap().heldout_before, None);
    }
}
