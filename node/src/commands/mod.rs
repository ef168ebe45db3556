//! What each command does: one file a command, and what they share.
//! A command talks to the running node or to a stopped node's store; only `start` runs a node.

pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod init;
pub mod invite;
pub mod join;
mod key;
pub mod leave;
pub mod log;
mod model_source;
pub mod peers;
pub mod session;
pub mod start;
pub mod status;
pub mod stop;
mod table;
mod tasks;
pub mod tokenizer;
pub mod verify;

use std::future::Future;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use synod_config::{NodeConfig, Override, load_node};

use crate::client::Client;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::readable::bytes;

/// How much a command says.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Results only.
    pub quiet: bool,
    /// More.
    pub verbose: bool,
}

impl Terminal {
    /// Prints a result.
    pub fn print(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
        if let Err(error) = written {
            // Whoever read has gone (`node log | head`): there is nothing left to do. Else a result is lost.
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                std::process::exit(0);
            }
            eprintln!("error: the answer cannot be printed: {error}");
            std::process::exit(2);
        }
    }

    /// Prints a result as JSON.
    pub fn print_json(&self, value: &impl Serialize) {
        self.print(serde_json::to_string_pretty(value).expect("answers are plain data"));
    }

    /// Says what is going on, unless asked to be quiet.
    pub fn tell(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.print(text);
        }
    }

    /// Whether somebody watches.
    pub fn is_interactive(&self) -> bool {
        !self.quiet && std::io::stdout().is_terminal()
    }
}

/// The node's settings from all layers.
fn settings(dir: &DataDir, flags: &[Override]) -> Outcome<NodeConfig> {
    if !dir.config().exists() {
        return Err(Failure::user(format!(
            "there is no node in {dir}: make one with `node init`"
        )));
    }
    // A variable that is no text is none of ours.
    let texts = std::env::vars_os().filter_map(|(key, value)| key.into_string().ok().zip(value.into_string().ok()));
    Ok(load_node(&dir.config(), texts, flags)?)
}

/// A client for the node on this folder.
fn client(dir: &DataDir) -> Outcome<Client> {
    Ok(Client::new(dir, &settings(dir, &[])?.api.socket))
}

/// Runs a short conversation with the node.
fn converse<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::environment(format!("the system gives no event loop: {error}")))?
        .block_on(work)
}

/// All text of a file or pipe, if it is no longer than `most` bytes: a wrong name may mean an endless device.
fn bounded(from: impl Read, most: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    let refuse = |reason: String| Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
    match String::from_utf8(bytes) {
        Ok(text) if text.len() as u64 > most => refuse(format!("it is longer than {most} bytes")),
        Ok(text) => Ok(text),
        Err(_) => refuse("it is no UTF-8 text".to_owned()),
    }
}

/// A path that was given with `flag`, as the node will see it, which may have another working directory.
fn absolute(flag: &str, path: &Path) -> Outcome<String> {
    let full = path
        .canonicalize()
        .map_err(|error| Failure::user(format!("{flag} {}: {error}", path.display())))?;
    let text = full.into_os_string().into_string();
    text.map_err(|_| Failure::user(format!("{flag} {}: the path is not UTF-8", path.display())))
}

/// Data paths as the node will see them.
fn absolute_data(paths: &[PathBuf]) -> Outcome<Vec<String>> {
    paths.iter().map(|path| absolute("--data", path)).collect()
}

/// A tokenizer's path as the node will see it.
fn absolute_tokenizer(path: Option<&PathBuf>) -> Outcome<Option<String>> {
    path.map(|path| absolute("--tokenizer", path)).transpose()
}

/// The last eight characters of a printed peer id, the first eight of a digest: enough for a table.
fn short(id: &str) -> &str {
    match id.strip_prefix("12D3KooW") {
        Some(_) => &id[id.len() - 8..],
        None => id.get(..8).unwrap_or(id),
    }
}

/// Reads `90s`, `30m`, `12h`, `7d`.
fn seconds(flag: &str, text: &str) -> Outcome<u64> {
    let refuse = || Failure::user(format!("{flag} {text}: write a number and s, m, h or d, as in 12h"));
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(refuse)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(refuse()),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    number
        .checked_mul(unit)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_or_refused_by_name() {
        assert_eq!(seconds("--expires", "90s"), Ok(90));
        assert_eq!(seconds("--expires", "7d"), Ok(604_800));
        for bad in ["", "7", "d", "0s", "-1h", "1 h", "99999999999999999999d", "5µ"] {
            assert!(
                seconds("--expires", bad).unwrap_err().message.starts_with("--expires"),
                "{bad}"
            );
        }
    }
}
