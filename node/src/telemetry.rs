//! What a node says of itself: log lines on standard error, and the machines' events as structured fields of them.
//! It sends nothing anywhere.

use std::io::IsTerminal;

use synod_config::node_config::{LogFormat, LogSection};
use synod_protocol::event::Event;
use synod_protocol::identity::SessionId;
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Outcome};
use crate::readable::readable;

/// Begins to log to standard error, as the settings say.
pub fn start(settings: &LogSection) -> Outcome {
    let filter = EnvFilter::try_new(&settings.level).map_err(|error| {
        Failure::user(format!(
            "log.level = \"{}\": {error}; write `info`, or `info,synod_node::network=debug`",
            settings.level
        ))
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match settings.format {
        LogFormat::Pretty => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| Failure::environment(format!("logging cannot be set up: {error}")))
}

/// Logs one event of a machine.
pub fn log_event(session: &SessionId, name: &str, event: &Event) {
    let id = session.short();
    match event {
        Event::Settled {
            round,
            term,
            state,
            verdicts,
            missing,
            members,
            ..
        } => tracing::info!(
            session = name, id, round, term, state = %state.short(), updates = verdicts.len(), missing = missing.len(), members,
            "round settled"
        ),
        Event::Mixed {
            round,
            state,
            verdicts,
            missing,
            members,
            distance,
        } => tracing::info!(
            session = name, id, round, state = %state.short(), models = verdicts.len(), missing = missing.len(), members,
            distance, "models mixed"
        ),
        Event::UpdateReady {
            round, bytes, report, ..
        } => tracing::info!(
            session = name,
            id,
            round,
            bytes,
            train_loss = report.train_loss,
            heldout_loss = report.heldout_loss,
            tokens = report.tokens,
            "update ready"
        ),
        Event::LifecycleChanged { lifecycle, reason } => {
            tracing::info!(session = name, id, lifecycle = ?lifecycle, reason, "session is now")
        }
        Event::Evaluated { round, loss, tokens } => {
            tracing::info!(session = name, id, round, loss, tokens, "evaluated")
        }
        Event::Finished { round, state } => {
            tracing::info!(session = name, id, round, state = %state, "session finished: take the model with `node export`")
        }
        Event::Admitted { peer } => tracing::info!(session = name, id, peer = %peer, "member admitted"),
        Event::JoinRefused { peer, reason } => tracing::warn!(session = name, id, peer = %peer, reason, "join refused"),
        Event::LeaveRefused { reason } => tracing::warn!(session = name, id, reason, "leave refused"),
        Event::CoordinatorLost {
            round,
            term,
            lost,
            next,
        } => {
            tracing::warn!(session = name, id, round, term, lost = %lost.short(), next = %next.short(), "coordinator lost")
        }
        Event::TookOver { round, term } => tracing::warn!(session = name, id, round, term, "this node coordinates now"),
        Event::CatchingUp { round, waiting_for } => {
            tracing::info!(session = name, id, round, waiting_for, "catching up")
        }
        Event::Rejected {
            peer,
            reject,
            kind,
            reputation,
        } => {
            tracing::warn!(session = name, id, peer = %peer.short(), kind, reputation, "refused: {reject}")
        }
        Event::Banned { peer } => tracing::warn!(session = name, id, peer = %peer, "peer banned"),
        Event::TaskFailed { round, reason } => {
            tracing::error!(session = name, id, round, reason, "this node could not do its part")
        }
        Event::Started { .. }
        | Event::RoundStarted { .. }
        | Event::UpdateAccepted { .. }
        | Event::Proposed { .. }
        | Event::Voted { .. } => tracing::debug!(session = name, id, event = %readable(event), "event"),
    }
}
