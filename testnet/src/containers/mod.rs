//! Institutions as containers on this machine: brought up, joined, killed, paused, parted and asked how it ended.
//! It builds no image (`make docker-image`), and knows of nodes what their command line prints.

mod drill;
mod engine;
mod texts;

use std::path::{Path, PathBuf};

pub use drill::{Drill, Outcome, SESSION, create_session};
pub use engine::Engine;
pub use texts::prepare_texts;

/// Why containers cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No engine.
    #[error("no Docker engine answers: install one (Debian: docker.io), start it, and see `docker info`")]
    NoEngine,
    /// No compose.
    #[error("there is neither `docker compose` nor `docker-compose`: install one of them (Debian: docker-compose)")]
    NoCompose,
    /// A command failed.
    #[error("`{command}` failed: {message}")]
    Refused {
        /// The command.
        command: String,
        /// What it printed on standard error.
        message: String,
    },
    /// A file or a folder of ours.
    #[error("cannot {what} {path}: {reason}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A node does not answer.
    #[error("the node of institution {node} does not answer; its log ends with:\n{log}")]
    Silent {
        /// Which.
        node: usize,
        /// The end of its log.
        log: String,
    },
    /// There is no such institution.
    #[error("there is no institution {node}: {nodes} are up; `testnet docker up --nodes N` brings more up")]
    NoSuchNode {
        /// Which.
        node: usize,
        /// How many there are.
        nodes: usize,
    },
    /// An institution does not know the session.
    #[error("institution {node} knows no session `{session}`: `testnet docker create` makes one")]
    NoSession {
        /// Which.
        node: usize,
        /// The session.
        session: String,
    },
    /// An answer that is not understood.
    #[error("institution {node} answered `node {command}` with something else: {reason}")]
    Unreadable {
        /// Which.
        node: usize,
        /// The command.
        command: String,
        /// What is wrong.
        reason: String,
    },
    /// A wait is over.
    #[error("{what} did not come within {seconds} s; {seen}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was there at the end.
        seen: String,
    },
    /// No text for the institutions.
    #[error(transparent)]
    Texts(#[from] crate::demo::DemoError),
}

impl ContainerError {
    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |reason| Self::Io {
            what,
            path: path.to_owned(),
            reason,
        }
    }
}
