//! What can go wrong with real processes: a binary that is missing, a node that ends or refuses, a wait that is over.
//! Each sentence names the node's log; a wait that is over shows its end.

use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a cluster of real nodes cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no node to run.
    #[error(
        "no `node` binary: looked at {looked_at}; build it with `cargo build --release -p synod-node`, or name it in SYNOD_NODE"
    )]
    NoBinary {
        /// The places.
        looked_at: String,
    },
    /// A file, a folder or a process of ours.
    #[error("cannot {what} {path}: {reason}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// No ports.
    #[error("no two neighbouring free ports on 127.0.0.1 between {from} and {to}: stop what listens there")]
    NoPorts {
        /// The first tried.
        from: u16,
        /// The last tried.
        to: u16,
    },
    /// A node ended though nobody asked it to.
    #[error("node {node} ended by itself ({status}) while {during}; its log {log} ends with:\n{tail}")]
    Ended {
        /// Its name.
        node: String,
        /// Its exit status.
        status: ExitStatus,
        /// What was going on.
        during: String,
        /// Where its log is.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A command was refused.
    #[error("`node {command}` at {node} ended with {code}: {message} (log: {log})")]
    Refused {
        /// The node's name.
        node: String,
        /// The command without the data directory.
        command: String,
        /// Its exit code, or the signal that ended it.
        code: ExitStatus,
        /// What it printed on standard error.
        message: String,
        /// Where the node's log is.
        log: PathBuf,
    },
    /// An answer of another form than expected.
    #[error(
        "`node {command}` at {node} printed what cannot be read ({reason}): node and testnet are of different versions"
    )]
    Unreadable {
        /// The node's name.
        node: String,
        /// The command.
        command: String,
        /// Why.
        reason: String,
    },
    /// A node is not in the session it was asked for.
    #[error("node {node} is in no session `{session}`")]
    NoSession {
        /// Its name.
        node: String,
        /// The session.
        session: String,
    },
    /// A wait is over.
    #[error("waited {seconds} s in vain until {what}{state}")]
    TimedOut {
        /// For what.
        what: String,
        /// How long.
        seconds: u64,
        /// What each node says, and the ends of the logs.
        state: String,
    },
}

impl ProcessError {
    /// Makes an I/O error about `path`.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |reason| Self::Io { what, path, reason }
    }
}
