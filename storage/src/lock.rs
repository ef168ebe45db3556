//! One node a data directory: a lock on a file that the operating system releases when the process ends, however it ends.
//! It does not reach over network file systems that have no locks, and it does not stop a running node.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::files;
use crate::store::Result;

/// How long a lock that is held is tried again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The right to use a data directory, for as long as this value lives.
#[derive(Debug)]
pub struct DataLock {
    dir: PathBuf,
    _file: File,
}

impl DataLock {
    /// Takes the directory, making it (for this user alone) where it is not there yet.
    pub fn acquire(dir: &Path) -> Result<Self> {
        files::create_folder(dir)?;
        let path = dir.join("lock");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = opened.map_err(StoreError::io("open", &path))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Who only looks (`holder`, `node log`) holds it for a moment; who goes, for a moment longer.
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 40),
                Err(TryLockError::WouldBlock) => return Err(taken(&mut file, dir)),
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(StoreError::io("write", &path))?;
        Ok(Self {
            dir: dir.to_owned(),
            _file: file,
        })
    }

    /// Takes the directory for reading: beside others that read, and while no node runs on it. Nothing is made or written.
    pub fn share(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let mut file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let begun = Instant::now();
        loop {
            match file.try_lock_shared() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 40),
                Err(TryLockError::WouldBlock) => return Err(taken(&mut file, dir)),
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            _file: file,
        })
    }

    /// The directory that is locked.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The process that holds a directory, if one does and has said so; None where the directory is free.
pub fn holder(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => pid_in(&mut file),
        _ => None,
    }
}

/// Who is in the way: a node, or commands that read.
fn taken(file: &mut File, dir: &Path) -> StoreError {
    let path = dir.to_owned();
    match file.try_lock_shared() {
        Ok(()) => StoreError::BeingRead { path },
        Err(_) => StoreError::AlreadyRunning {
            pid: pid_in(file),
            path,
        },
    }
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        assert_eq!(holder(&data), None);
        let first = DataLock::acquire(&data).unwrap();
        let refused = DataLock::acquire(&data).unwrap_err();
        let me = std::process::id();
        assert!(
            matches!(&refused, StoreError::AlreadyRunning { pid: Some(pid), .. } if *pid == me),
            "{refused}"
        );
        assert!(refused.to_string().contains(&format!("(pid {me})")), "{refused}");
        assert_eq!(holder(&data), Some(me));
        drop(first);
        assert_eq!(holder(&data), None, "the file is still there, the lock is not");
        assert_eq!(DataLock::acquire(&data).unwrap().dir(), data);
    }

    #[test]
    fn readers_share_a_directory_and_keep_nodes_out_while_they_read() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert!(DataLock::share(&data).is_err(), "nothing is made");
        assert!(!data.exists());
        let node = DataLock::acquire(&data).unwrap();
        let refused = DataLock::share(&data).unwrap_err();
        assert!(
            matches!(refused, StoreError::AlreadyRunning { pid: Some(_), .. }),
            "{refused}"
        );
        drop(node);
        let readers = (DataLock::share(&data).unwrap(), DataLock::share(&data).unwrap());
        assert_eq!(holder(&data), None, "readers are no node");
        let refused = DataLock::acquire(&data).unwrap_err();
        assert!(matches!(refused, StoreError::BeingRead { .. }), "{refused}");
        drop(readers);
        assert!(DataLock::acquire(&data).is_ok());
    }
}
