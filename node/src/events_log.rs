//! A session's event log: one JSON object a line in `events/SESSION.jsonl`, kept below a bound.
//! It is for operators and for papers; losing its last lines in a crash loses nothing that the node needs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;
use synod_protocol::contract::Time;
use synod_protocol::event::Event;

use crate::readable::readable;

/// See the module. Failures to write are told once and then ignored: a log must not stop training.
#[derive(Debug)]
pub struct EventsLog {
    path: PathBuf,
    max_bytes: u64,
    file: Option<File>,
    bytes: u64,
}

impl EventsLog {
    /// Opens or makes the log at `path`, of at most `max_bytes`.
    pub fn open(path: PathBuf, max_bytes: u64) -> Self {
        let mut log = Self {
            path,
            max_bytes,
            file: None,
            bytes: 0,
        };
        if let Err(error) = log.reopen() {
            log.give_up(&error);
        }
        log
    }

    /// Adds one event.
    pub fn write(&mut self, now: Time, event: &Event) {
        let Some(file) = &mut self.file else { return };
        let line = format!("{}\n", json!({ "unix_ms": now.0, "event": readable(event) }));
        let written = file.write_all(line.as_bytes());
        self.bytes += line.len() as u64;
        let kept = match written {
            Ok(()) if self.bytes > self.max_bytes => self.drop_older_half(),
            other => other,
        };
        if let Err(error) = kept {
            self.give_up(&error);
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Keeps whole lines of the newer half.
    fn drop_older_half(&mut self) -> io::Result<()> {
        let all = std::fs::read(&self.path)?;
        let half = all.len() / 2;
        let newline = all[half..].iter().position(|byte| *byte == b'\n');
        let from = newline.map_or(all.len(), |at| half + at + 1);
        let temporary = self.path.with_extension("jsonl.tmp");
        std::fs::write(&temporary, &all[from..])?;
        std::fs::rename(&temporary, &self.path)?;
        self.reopen()
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "the event log cannot be written; the session goes on without it");
        self.file = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_below_its_bound_and_keeps_the_newest_lines_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events/s.jsonl");
        let mut log = EventsLog::open(path.clone(), 4_000);
        for round in 0..500 {
            log.write(Time(round), &Event::Started { round });
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 4_000);
        let rounds: Vec<u64> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["event"]["started"]["round"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        assert_eq!(*rounds.last().unwrap(), 499);
        assert!(rounds.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }
}
