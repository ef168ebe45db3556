//! Where a node keeps what on its disk: one folder, the names in it, and how much room is left around it.
//! It creates the folder and reads nothing in it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use synod_protocol::identity::SessionId;

/// A node's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// The folder at `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The node's settings.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The secret key.
    pub fn key(&self) -> PathBuf {
        self.root.join("identity.key")
    }

    /// What to do where settings are and the key is not.
    pub fn without_key(&self) -> String {
        format!(
            "the key {} is not there: restore it from its backup; to be a new node instead, choose another --data-dir and \
             `node init`",
            self.key().display()
        )
    }

    /// Models and updates, by content.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Data of sessions as tokens, made once. It can be deleted while the node is stopped: they are made again.
    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// The socket of the running node, by the name in its settings.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A session's event log.
    pub fn events(&self, session: &SessionId) -> PathBuf {
        self.root.join("events").join(format!("{session}.jsonl"))
    }

    /// The recording of what a session's machine is told.
    pub fn recording(&self, session: &SessionId) -> PathBuf {
        self.root.join("recordings").join(format!("{session}.synr"))
    }

    /// Makes the folder, readable by its owner alone.
    pub fn create(&self) -> std::io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
    }

    /// Bytes that a process without privileges may still write on the folder's disk.
    pub fn free_bytes(&self) -> std::io::Result<u64> {
        free_bytes(&self.root)
    }
}

impl std::fmt::Display for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.root.display())
    }
}

/// Bytes that a process without privileges may still write on the disk that holds `path`.
#[allow(unsafe_code)]
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain integers, for which zeros are valid; the call reads a terminated string and fills it.
    let (status, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(name.as_ptr(), &raw mut stat), stat)
    };
    match status {
        0 => Ok(stat.f_bavail * stat.f_frsize),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_made_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path().join("a/b"));
        dir.create().unwrap();
        assert_eq!(
            std::fs::metadata(dir.root()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(dir.free_bytes().unwrap() > 0);
        assert!(free_bytes(&home.path().join("nowhere")).is_err());
    }
}
