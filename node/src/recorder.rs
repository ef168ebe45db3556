//! A recording of everything that a session's machine is told, in `recordings/SESSION.synr`, kept below a bound.
//! It is for finding bugs (`testnet replay`); each start of the node begins it anew, and keeps the one before as `.old`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// See the module. Failures to write are told once and end the recording; the session goes on.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    max_bytes: u64,
    bytes: u64,
    file: Option<File>,
}

impl Recorder {
    /// Begins a recording of at most `max_bytes` at `path`.
    pub fn begin(path: PathBuf, max_bytes: u64, head: &[u8]) -> Self {
        let opened = open(&path);
        let mut recorder = Self {
            path,
            max_bytes,
            bytes: 0,
            file: None,
        };
        match opened {
            Ok(file) => recorder.file = Some(file),
            Err(error) => recorder.end(&error.to_string()),
        }
        recorder.write(head);
        recorder
    }

    /// Adds one piece.
    pub fn write(&mut self, piece: &[u8]) {
        let Some(file) = &mut self.file else { return };
        self.bytes += piece.len() as u64;
        if self.bytes > self.max_bytes {
            return self.end("it has as many bytes as log.record_max_bytes allows");
        }
        if let Err(error) = file.write_all(piece) {
            self.end(&error.to_string());
        }
    }

    fn end(&mut self, reason: &str) {
        tracing::warn!(path = %self.path.display(), reason, "the recording ends here; the session goes on");
        self.file = None;
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::rename(path, path.with_extension("synr.old")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_stays_below_its_bound_in_whole_pieces_and_a_start_keeps_the_one_before() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("recordings/s.synr");
        let mut recorder = Recorder::begin(path.clone(), 25, b"head-");
        for _ in 0..10 {
            recorder.write(b"piece-");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"head-piece-piece-piece-");
        drop(Recorder::begin(path.clone(), 25, b"new"));
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(
            std::fs::read(path.with_extension("synr.old"))
                .unwrap()
                .starts_with(b"head-")
        );
    }
}
