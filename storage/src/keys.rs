//! The file that holds a node's secret identity: made once, never overwritten, readable by its owner alone.
//! It draws no randomness (a caller brings 32 secret bytes), and the secret is not encrypted: the disk's owner has it.
//!
//! The file is text of three lines: a header, the secret in hexadecimal, and a checksum that tells damage from
//! another key. The checksum is keyed apart from every other use of the secret and 4 bytes long: it reveals nothing of use.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::StoreError;
use crate::files;
use crate::store::Result;

const HEADER: &str = "synod identity key 1: keep it secret; use it on one machine only";
const CHECKSUM_CONTEXT: &str = "synod 2026 key file checksum";
/// A key file is shorter; more is no key and not worth reading.
const MAX_BYTES: u64 = 4096;

/// Writes a new key file. One that is there stays as it is, and the call is refused.
pub fn create(path: &Path, secret: [u8; 32]) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::KeyExists { path: path.to_owned() },
        _ => StoreError::io("create", path)(error),
    })?;
    let text = format!("{HEADER}\n{}\n{}\n", hex::encode(secret), checksum(&secret));
    if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()) {
        // Half a key is worth nothing and would block the next attempt.
        let _ = fs::remove_file(path);
        return Err(StoreError::io("write", path)(error));
    }
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => files::sync_folder(folder),
        None => files::sync_folder(Path::new(".")),
    }
}

/// Reads a key file. One that others may read or write is refused.
pub fn load(path: &Path) -> Result<[u8; 32]> {
    let file = File::open(path).map_err(StoreError::io("open the key file", path))?;
    let meta = file
        .metadata()
        .map_err(StoreError::io("read the permissions of", path))?;
    let unreadable = |reason: &str| StoreError::KeyUnreadable {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if !meta.is_file() {
        return Err(unreadable("it is no regular file"));
    }
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(StoreError::io("read", path))?;
    let text = String::from_utf8(text).map_err(|_| unreadable("it is not text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(unreadable("its first line is not that of a synod key file, version 1"));
    }
    let secret: [u8; 32] = lines
        .next()
        .and_then(|line| hex::decode(line).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| unreadable("its second line is not 64 hexadecimal digits"))?;
    if lines.next() != Some(checksum(&secret).as_str()) {
        return Err(unreadable("its checksum does not fit: the key is cut or mistyped"));
    }
    match lines.next() {
        Some(_) => Err(unreadable("it has more lines than a key")),
        None => Ok(secret),
    }
}

fn checksum(secret: &[u8; 32]) -> String {
    hex::encode(&blake3::derive_key(CHECKSUM_CONTEXT, secret)[..4])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn key_file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        create(&path, [0xa7; 32]).unwrap();
        (dir, path)
    }

    #[test]
    fn a_key_is_read_back_and_never_overwritten() {
        let (_dir, path) = key_file();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(create(&path, [1; 32]), Err(StoreError::KeyExists { .. })));
        assert_eq!(load(&path).unwrap(), [0xa7; 32]);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let (_dir, path) = key_file();
        for mode in [0o640, 0o604, 0o620, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(load(&path), Err(StoreError::KeyExposed { mode: found, .. }) if found == mode),
                "{mode:o}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(load(&path).unwrap(), [0xa7; 32]);
    }

    #[test]
    fn every_cut_and_every_changed_character_is_noticed() {
        let (_dir, path) = key_file();
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() - 1 {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(
                matches!(load(&path), Err(StoreError::KeyUnreadable { .. })),
                "cut at {cut}"
            );
        }
        for at in 0..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 1;
            fs::write(&path, &bent).unwrap();
            assert!(
                matches!(load(&path), Err(StoreError::KeyUnreadable { .. })),
                "changed at {at}"
            );
        }
        fs::write(&path, [good, b"more\n".to_vec()].concat()).unwrap();
        assert!(load(&path).is_err());
    }

    #[test]
    fn a_missing_key_file_is_named() {
        let error = load(Path::new("/nowhere/identity.key")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/identity.key"), "{error}");
    }
}
