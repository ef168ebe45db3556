//! Syncs files some seconds after they were written, on a thread of its own, so that nobody waits for the disk for what can
//! be had again. Until then a file has a name that says so; it knows nothing of what is in the files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long a file may stay unsynced. An update is deleted after two rounds: where these are shorter, it never costs a sync.
const DELAY: Duration = Duration::from_secs(5);

/// Files that wait; whoever finds no room syncs its file itself.
const QUEUE_LENGTH: usize = 1024;

/// A file that waits.
#[derive(Debug)]
struct Late {
    unsynced: PathBuf,
    synced: PathBuf,
    since: Instant,
}

/// The way to the thread. It ends when this is dropped and the last file is synced.
#[derive(Debug)]
pub(crate) struct LateSync {
    queue: SyncSender<Late>,
}

impl LateSync {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, files) = sync_channel(QUEUE_LENGTH);
        std::thread::Builder::new()
            .name("late-sync".to_owned())
            .spawn(move || serve(&files))?;
        Ok(Self { queue })
    }

    /// Gives a file its final name once it is synced: some seconds from now, or before this returns.
    pub(crate) fn add(&self, unsynced: PathBuf, synced: PathBuf) -> io::Result<()> {
        let since = Instant::now();
        let late = Late {
            unsynced,
            synced,
            since,
        };
        match self.queue.try_send(late) {
            Ok(()) => Ok(()),
            Err(full) => {
                let late = match full {
                    std::sync::mpsc::TrySendError::Full(late) | std::sync::mpsc::TrySendError::Disconnected(late) => {
                        late
                    }
                };
                sync(&late.unsynced, &late.synced)
            }
        }
    }
}

fn serve(files: &Receiver<Late>) {
    for late in files {
        std::thread::sleep(DELAY.saturating_sub(late.since.elapsed()));
        // A file that cannot be synced keeps its name, and is looked at when the store is opened next.
        let _unsynced = sync(&late.unsynced, &late.synced);
    }
}

/// Syncs a file and gives it its final name, durably. One that was deleted meanwhile is no error.
pub(crate) fn sync(unsynced: &Path, synced: &Path) -> io::Result<()> {
    let there = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    };
    let folder = synced.parent().unwrap_or(Path::new("."));
    let moved = there(File::open(unsynced).and_then(|file| file.sync_all()))? && there(fs::rename(unsynced, synced))?;
    match moved {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}
