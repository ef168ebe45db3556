//! One session on this node while the node runs: its machine with what is around it, its log and its rows.
//! It talks to nobody; `effects` carries what the machine wants.

use synod_config::SessionConfig;
use synod_protocol::contract::{Input, Output, Time};
use synod_protocol::event::Event;
use synod_protocol::identity::{PeerId, SessionId};
use synod_protocol::machine::Machine;
use synod_protocol::recording::{self, Told};
use synod_protocol::session::SessionInfo;
use synod_storage::store::SessionRecord;
use synod_training::secure_sum::sum_terms;

use crate::compute::Compute;
use crate::events_log::EventsLog;
use crate::recorder::Recorder;
use crate::rounds::{Meter, RoundBook, RoundRow};
use crate::telemetry;

/// See the module.
pub struct SessionRuntime {
    /// What the store keeps of it.
    pub record: SessionRecord,
    /// Its configuration.
    pub config: SessionConfig,
    /// What decides.
    pub machine: Machine,
    /// What computes; none once the session has stopped.
    pub compute: Option<Compute>,
    /// Members as the machine last named them.
    pub members: Vec<PeerId>,
    /// Its rows of rounds.
    pub book: RoundBook,
    /// Its event log.
    pub log: EventsLog,
    /// What its machine is told, if the operator wants that recorded.
    pub recorder: Option<Recorder>,
    /// Why this node does nothing in the session any more, if so.
    pub stopped: Option<String>,
    /// Why this node could not do its part of the last round that it worked on, if so.
    pub trouble: Option<String>,
    /// Settlements since the journal was last rewritten.
    pub settled_since_snapshot: u32,
}

impl SessionRuntime {
    /// The session.
    pub fn id(&self) -> SessionId {
        self.record.id
    }

    /// Tells the machine, and records it where that is wanted.
    pub fn tell(&mut self, now: Time, input: Input) -> Vec<Output> {
        let told = self.recorder.as_ref().map(|_| Told::of(&input));
        let outputs = self.machine.handle(now, input);
        if let Some((recorder, told)) = self.recorder.as_mut().zip(told) {
            recorder.write(&recording::step(now, told, &outputs));
        }
        outputs
    }

    /// Takes an event of the machine to log, event log and rows; the answer is a row to store, if one has changed.
    pub fn on_event(&mut self, now: Time, meter: Meter, event: &Event) -> Option<RoundRow> {
        telemetry::log_event(&self.record.id, &self.record.name, event);
        self.log.write(now, event);
        match event {
            Event::TaskFailed { reason, .. } => self.trouble = Some(reason.clone()),
            Event::UpdateReady { .. } => self.trouble = None,
            _ => {}
        }
        self.book.on_event(now, meter, event)
    }
}

/// What a machine has to know of a session.
pub fn session_info(config: &SessionConfig) -> SessionInfo {
    SessionInfo {
        session: config.id(),
        name: config.name.clone(),
        creator: config.creator,
        terms: config.protocol.clone(),
        sums: sum_terms(&config.aggregation.privacy, &config.aggregation.composition()),
        steps: config.training.step_terms(),
        config: config.to_bytes().into(),
    }
}
