//! Everything that can go wrong with what is kept, in the operator's words.
//! It does not decide what is to be done: each sentence says what the operator can do.

use std::io;
use std::path::{Path, PathBuf};

use synod_protocol::identity::BlobId;

/// Why something could not be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room (or no quota) is left.
    #[error("the disk of `{}` is full: free some space or lower `retention`, then start the node again", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// Another process has the data directory.
    #[error(
        "another node is running on the data directory `{}`{}: stop it first, or choose another directory",
        path.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    AlreadyRunning {
        /// Its process id, where it has written it already.
        pid: Option<u32>,
        /// The data directory.
        path: PathBuf,
    },
    /// Commands are reading the data directory.
    #[error("a command is reading the data directory `{}`: wait until it has ended, then try again", path.display())]
    BeingRead {
        /// The data directory.
        path: PathBuf,
    },
    /// A record cannot be read back as what it was.
    #[error(
        "`{}` is damaged at {key}: {reason}. Check the disk, restore the data directory from a backup, \
         or move it away and join the session anew under a new identity",
        path.display()
    )]
    Corrupt {
        /// The database's folder.
        path: PathBuf,
        /// Which record, or `the database`.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The data was written by a later version of this program.
    #[error("`{}` has format {found}, this program reads up to {known}: run the newer program", path.display())]
    NewerFormat {
        /// The database's folder.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The database says no, for a reason that is neither damage nor a full disk.
    #[error("the database `{}` failed while {doing}: {reason}", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Its own words.
        reason: String,
    },
    /// The operating system says no.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The blob is not here.
    #[error("blob {id} is not in `{}`: it has to be fetched from a member that has it", path.display())]
    BlobMissing {
        /// Its id.
        id: BlobId,
        /// Where it would be.
        path: PathBuf,
    },
    /// The blob's file does not hold the blob's bytes any more.
    #[error(
        "`{}` does not hold the bytes of blob {id} any more: it has to be fetched again from a member that has it (a running \
         node does so, and moves the file aside, to blobs/incoming); check the disk",
        path.display()
    )]
    BlobCorrupt {
        /// Its id.
        id: BlobId,
        /// The file that was deleted.
        path: PathBuf,
    },
    /// A key file is there already.
    #[error("`{}` exists already and is not overwritten: a lost identity cannot be made again", path.display())]
    KeyExists {
        /// The key file.
        path: PathBuf,
    },
    /// Others may read the secret key.
    #[error(
        "the key file `{}` can be read or written by others (mode {mode:03o}): run `chmod 600` on it; \
         if others may have read it, make a new identity",
        path.display()
    )]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file's content is no key.
    #[error("the key file `{}` is not usable: {reason}; restore it from a backup", path.display())]
    KeyUnreadable {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// For `map_err`: names what was attempted on which path; a full disk becomes [`StoreError::DiskFull`].
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull { path: path.to_owned() },
            _ => StoreError::Io {
                doing,
                path: path.to_owned(),
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_as_such() {
        let path = Path::new("/data/blobs/x");
        let full = StoreError::io("write", path)(io::Error::from(io::ErrorKind::StorageFull));
        assert!(
            matches!(&full, StoreError::DiskFull { path } if path.ends_with("x")),
            "{full}"
        );
        assert!(full.to_string().contains("free some space"), "{full}");
        let denied = StoreError::io("write", path)(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(
            denied.to_string().starts_with("cannot write `/data/blobs/x`"),
            "{denied}"
        );
    }
}
