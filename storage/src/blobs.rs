//! Blobs as files named by their content: updates and model states, verified whenever they are read or received.
//! It does not decide how long one is kept (see `retention`) and fetches nothing.
//!
//! Layout: `blobs/ab/cdef…` are whole blobs; `blobs/incoming/ID.partial` are downloads that may be resumed;
//! `blobs/incoming/*.tmp` are writes in progress, left over only by a crash. A file under its final name was complete
//! and synced before it got that name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use synod_protocol::identity::BlobId;

use crate::error::StoreError;
use crate::files;
use crate::store::Result;

/// How long an unfinished download may be resumed: rounds move on, and after a day nobody asks for its blob any more.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Unfinished downloads that outlive a restart; the newest ones. While the node runs, its network bounds them.
const PARTIALS_KEPT: usize = 16;

/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The blobs of one data directory. Cloning is cheap; clones share the folder and may be used from several threads.
#[derive(Debug, Clone)]
pub struct BlobStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    incoming: PathBuf,
    writes: AtomicU64,
    may_write: bool,
}

impl BlobStore {
    /// Opens `data_dir/blobs`, makes it if it is not there, and removes what interrupted writes have left.
    /// Open it once a process, after the directory's lock is held, and clone it.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let store = Self::at(data_dir, true);
        files::create_folder(&store.shared.incoming)?;
        store.remove_leftovers()?;
        Ok(store)
    }

    /// The blobs of a stopped node, for reading: nothing is made or tidied.
    pub fn open_to_read(data_dir: &Path) -> Self {
        Self::at(data_dir, false)
    }

    fn at(data_dir: &Path, may_write: bool) -> Self {
        let root = data_dir.join("blobs");
        let incoming = root.join("incoming");
        Self {
            shared: Arc::new(Shared {
                root,
                incoming,
                writes: AtomicU64::new(0),
                may_write,
            }),
        }
    }

    /// Keeps these bytes. Durable when it returns; keeping the same bytes again costs one look at the folder.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobId> {
        let id = BlobId::of(bytes);
        let target = self.path(&id);
        if fs::metadata(&target).is_ok_and(|meta| meta.len() == bytes.len() as u64) {
            return Ok(id);
        }
        let number = self.shared.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self.shared.incoming.join(format!("{id}.{number}.tmp"));
        let written = write_new(&temporary, bytes).and_then(|()| self.install(&temporary, &target));
        if written.is_err() {
            // The error that matters is the first one; a leftover goes at the next start.
            let _ = fs::remove_file(&temporary);
        }
        written.map(|()| id)
    }

    /// The blob's bytes, verified. A file that holds other bytes is moved to `incoming/ID.damaged`, so that the blob can be fetched again
    /// and nothing is lost that an operator could still mend; where nothing may be written, it stays.
    pub fn read(&self, id: &BlobId) -> Result<Vec<u8>> {
        let path = self.path(id);
        let (mut file, length) = self.open_file(id)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).expect("64-bit addresses"));
        file.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        if BlobId::of(&bytes) == *id {
            return Ok(bytes);
        }
        if self.shared.may_write {
            let aside = self.shared.incoming.join(format!("{id}.damaged"));
            fs::rename(&path, aside).map_err(StoreError::io("move aside", &path))?;
        }
        Err(StoreError::BlobCorrupt { id: *id, path })
    }

    /// The blob's file and its length, for serving. Not verified here: whoever receives it does that.
    pub fn open_file(&self, id: &BlobId) -> Result<(File, u64)> {
        let path = self.path(id);
        match File::open(&path) {
            Ok(file) => {
                let length = file
                    .metadata()
                    .map_err(StoreError::io("read the length of", &path))?
                    .len();
                Ok((file, length))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::BlobMissing {
                id: *id,
                path: self.shared.root.clone(),
            }),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    /// Whether the blob is here (whole; not verified).
    pub fn has(&self, id: &BlobId) -> bool {
        self.path(id).is_file()
    }

    /// Begins or resumes a download of `expected_bytes` bytes: continue at [`Incoming::len`].
    pub fn begin(&self, id: &BlobId, expected_bytes: u64) -> Result<Incoming> {
        let path = self.shared.incoming.join(format!("{id}.partial"));
        let mut file = lock_partial(&path, id)?;
        let mut hasher = blake3::Hasher::new();
        let mut length = hash_rest(&mut file, &mut hasher).map_err(StoreError::io("read", &path))?;
        if length > expected_bytes {
            file.set_len(0).map_err(StoreError::io("truncate", &path))?;
            hasher.reset();
            length = 0;
        }
        Ok(Incoming {
            store: self.clone(),
            id: *id,
            expected_bytes,
            path,
            file,
            hasher,
            length,
        })
    }

    /// Deletes a blob; that it is not there is no error.
    pub fn remove(&self, id: &BlobId) -> Result<()> {
        remove(&self.path(id))
    }

    /// Deletes every blob for which `keep` says no, and says how many bytes that freed.
    pub fn retain(&self, mut keep: impl FnMut(&BlobId) -> Result<bool>) -> Result<u64> {
        let mut freed = 0;
        for (id, bytes) in self.list()? {
            if !keep(&id)? {
                self.remove(&id)?;
                freed += bytes;
            }
        }
        Ok(freed)
    }

    /// All whole blobs with their lengths, sorted by id.
    pub fn list(&self) -> Result<Vec<(BlobId, u64)>> {
        let mut blobs = Vec::new();
        for folder in files::entries(&self.shared.root)? {
            let Some(first) = folder
                .file_name()
                .and_then(|name| name.to_str())
                .filter(|name| name.len() == 2)
            else {
                continue;
            };
            for path in files::entries(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let Ok(id) = format!("{first}{name}").parse::<BlobId>() else {
                    continue;
                };
                match fs::metadata(&path) {
                    Ok(meta) => blobs.push((id, meta.len())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("read the length of", &path)(error)),
                }
            }
        }
        blobs.sort_unstable();
        Ok(blobs)
    }

    /// Bytes that whole blobs and unfinished downloads take.
    pub fn usage_bytes(&self) -> Result<u64> {
        let whole: u64 = self.list()?.iter().map(|(_, bytes)| bytes).sum();
        let incoming = files::entries(&self.shared.incoming)?;
        let incoming: u64 = incoming
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|meta| meta.len())
            .sum();
        Ok(whole + incoming)
    }

    /// The blob's file, whether it is there or not: for those that can only read files. Nothing is verified here.
    pub fn path(&self, id: &BlobId) -> PathBuf {
        let hex = id.to_string();
        self.shared.root.join(&hex[..2]).join(&hex[2..])
    }

    /// Gives a complete, synced file its final name, durably.
    fn install(&self, from: &Path, target: &Path) -> Result<()> {
        let folder = target.parent().expect("blob paths have a folder");
        if !folder.is_dir() {
            files::create_folder(folder)?;
        }
        fs::rename(from, target).map_err(StoreError::io("move into place", target))?;
        files::sync_folder(folder)
    }

    fn remove_leftovers(&self) -> Result<()> {
        let oldest = SystemTime::now()
            .checked_sub(PARTIAL_KEPT)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let mut resumable = Vec::new();
        for path in files::entries(&self.shared.incoming)? {
            let modified = fs::metadata(&path).and_then(|meta| meta.modified());
            match modified {
                Ok(at) if at >= oldest && path.extension().is_some_and(|extension| extension == "partial") => {
                    resumable.push((at, path));
                }
                Ok(at) if at >= oldest && path.extension().is_some_and(|extension| extension == "damaged") => {}
                _ => remove(&path)?,
            }
        }
        resumable.sort_unstable();
        let too_many = resumable.len().saturating_sub(PARTIALS_KEPT);
        resumable.iter().take(too_many).try_for_each(|(_, path)| remove(path))
    }
}

/// A download in progress. Dropped before its end, it stays on disk and [`BlobStore::begin`] resumes it.
#[derive(Debug)]
pub struct Incoming {
    store: BlobStore,
    id: BlobId,
    expected_bytes: u64,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    length: u64,
}

impl Incoming {
    /// Bytes that are here already: the offset to ask for next.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing is here yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds the next bytes. More than the expected length is refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.length + bytes.len() as u64;
        if length > self.expected_bytes {
            return Err(self.mismatch(length));
        }
        let written = self.file.write_all(bytes);
        if let Err(error) = written {
            // A partial write must not stay in front of the next one: back to what is hashed.
            let _ = self.file.set_len(self.length);
            return Err(StoreError::io("write", &self.path)(error));
        }
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Verifies the whole and makes it a blob, durably. Wrong bytes are deleted: the next download begins anew.
    pub fn finish(self) -> Result<()> {
        if self.length < self.expected_bytes {
            let (expected_bytes, got_bytes) = (self.expected_bytes, self.length);
            return Err(StoreError::BlobIncomplete {
                id: self.id,
                expected_bytes,
                got_bytes,
            });
        }
        if *self.hasher.finalize().as_bytes() != self.id.0 {
            remove(&self.path)?;
            return Err(self.mismatch(self.length));
        }
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        self.store.install(&self.path, &self.store.path(&self.id))
    }

    /// Gives the download up and deletes what has arrived.
    pub fn discard(self) -> Result<()> {
        remove(&self.path)
    }

    fn mismatch(&self, got_bytes: u64) -> StoreError {
        StoreError::BlobMismatch {
            id: self.id,
            expected_bytes: self.expected_bytes,
            got_bytes,
        }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(StoreError::io("create", path))?;
    file.write_all(bytes).map_err(StoreError::io("write", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))
}

/// Opens the partial file of a blob for this process and thread alone.
fn lock_partial(path: &Path, id: &BlobId) -> Result<File> {
    loop {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = opened.map_err(StoreError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::BlobBusy { id: *id }),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
        }
        // Between opening and locking, another download may have given this file its final name.
        let ours = file.metadata().map_err(StoreError::io("read", path))?.ino();
        if fs::metadata(path).is_ok_and(|named| named.ino() == ours) {
            return Ok(file);
        }
    }
}

fn hash_rest(file: &mut File, hasher: &mut blake3::Hasher) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut length = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(length),
            read => {
                hasher.update(&chunk[..read]);
                length += read as u64;
            }
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    /// A data directory with its blobs.
    struct World {
        dir: tempfile::TempDir,
        blobs: BlobStore,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let blobs = BlobStore::open(dir.path()).unwrap();
            Self { dir, blobs }
        }

        fn restart(&mut self) {
            self.blobs = BlobStore::open(self.dir.path()).unwrap();
        }

        fn incoming(&self) -> Vec<PathBuf> {
            files::entries(&self.dir.path().join("blobs/incoming")).unwrap()
        }
    }

    fn some_bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn what_is_put_is_read_back_also_after_a_restart() {
        let mut world = World::new();
        for length in [0, 1, 5_000_000] {
            let bytes = some_bytes(length);
            let id = world.blobs.put(&bytes).unwrap();
            assert_eq!(world.blobs.put(&bytes).unwrap(), id, "twice is once");
            world.restart();
            assert!(world.blobs.has(&id));
            assert_eq!(world.blobs.read(&id).unwrap(), bytes);
            assert_eq!(world.blobs.open_file(&id).unwrap().1, length as u64);
        }
        assert_eq!(world.blobs.usage_bytes().unwrap(), 5_000_001);
        assert_eq!(world.blobs.list().unwrap().len(), 3);
        assert!(world.incoming().is_empty());
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_the_blob_can_be_put_again() {
        let world = World::new();
        let bytes = some_bytes(100_000);
        let id = world.blobs.put(&bytes).unwrap();
        let path = world.blobs.path(&id);
        let mut bent = bytes.clone();
        bent[77_777] ^= 4;
        fs::write(&path, &bent).unwrap();
        assert!(matches!(world.blobs.read(&id), Err(StoreError::BlobCorrupt { .. })));
        assert!(
            matches!(world.blobs.read(&id), Err(StoreError::BlobMissing { .. })),
            "the bad file is gone"
        );
        let aside = world.blobs.shared.incoming.join(format!("{id}.damaged"));
        assert_eq!(fs::read(aside).unwrap(), bent, "and kept aside");
        let reader = BlobStore::open_to_read(world.dir.path());
        fs::write(&path, &bent).unwrap();
        assert!(matches!(reader.read(&id), Err(StoreError::BlobCorrupt { .. })));
        assert!(path.exists(), "whoever only reads moves nothing");
        world.blobs.put(&bytes).unwrap();
        fs::write(&path, &bytes[..1000]).unwrap();
        assert!(
            matches!(world.blobs.read(&id), Err(StoreError::BlobCorrupt { .. })),
            "cut short"
        );
    }

    #[test]
    fn an_interrupted_download_goes_on_where_it_stopped() {
        let mut world = World::new();
        let bytes = some_bytes(3_000_000);
        let (id, length) = (BlobId::of(&bytes), bytes.len() as u64);
        let mut incoming = world.blobs.begin(&id, length).unwrap();
        assert!(incoming.is_empty());
        incoming.write(&bytes[..1_234_567]).unwrap();
        assert!(
            matches!(world.blobs.begin(&id, length), Err(StoreError::BlobBusy { .. })),
            "one at a time"
        );
        assert!(matches!(
            incoming.finish(),
            Err(StoreError::BlobIncomplete {
                got_bytes: 1_234_567,
                ..
            })
        ));
        world.restart();
        assert!(!world.blobs.has(&id));
        let mut incoming = world.blobs.begin(&id, length).unwrap();
        assert_eq!(incoming.len(), 1_234_567);
        incoming.write(&bytes[1_234_567..]).unwrap();
        incoming.finish().unwrap();
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
        assert!(world.incoming().is_empty());
    }

    #[test]
    fn wrong_bytes_are_refused_and_do_not_stay() {
        let world = World::new();
        let bytes = some_bytes(1000);
        let id = BlobId::of(&bytes);
        let mut incoming = world.blobs.begin(&id, 1000).unwrap();
        assert!(matches!(
            incoming.write(&[0; 1001]),
            Err(StoreError::BlobMismatch { got_bytes: 1001, .. })
        ));
        incoming.write(&[0; 1000]).unwrap();
        assert!(matches!(incoming.finish(), Err(StoreError::BlobMismatch { .. })));
        assert!(!world.blobs.has(&id));
        let mut incoming = world.blobs.begin(&id, 1000).unwrap();
        assert!(incoming.is_empty(), "the wrong bytes are not resumed");
        incoming.write(&bytes).unwrap();
        incoming.finish().unwrap();
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
    }

    #[test]
    fn a_partial_file_longer_than_expected_begins_anew() {
        let world = World::new();
        let id = BlobId::of(b"short");
        let mut incoming = world.blobs.begin(&id, 900).unwrap();
        incoming.write(&[1; 900]).unwrap();
        drop(incoming);
        let mut incoming = world.blobs.begin(&id, 5).unwrap();
        assert!(incoming.is_empty());
        incoming.write(b"short").unwrap();
        incoming.finish().unwrap();
        assert_eq!(world.blobs.read(&id).unwrap(), b"short");
    }

    #[test]
    fn leftovers_of_a_crash_go_at_the_next_start() {
        let mut world = World::new();
        let folder = world.dir.path().join("blobs/incoming");
        fs::write(folder.join("aa.0.tmp"), b"half").unwrap();
        let old = File::create(folder.join("old.partial")).unwrap();
        old.set_modified(SystemTime::now() - PARTIAL_KEPT * 2).unwrap();
        let id = BlobId::of(b"wanted");
        world.blobs.begin(&id, 6).unwrap().write(b"wan").unwrap();
        world.restart();
        assert_eq!(world.incoming(), [folder.join(format!("{id}.partial"))]);
    }

    #[test]
    fn only_the_newest_unfinished_downloads_outlive_a_restart() {
        let mut world = World::new();
        let folder = world.dir.path().join("blobs/incoming");
        let now = SystemTime::now();
        for age in 0..PARTIALS_KEPT as u64 + 3 {
            let file = File::create(folder.join(format!("{age}.partial"))).unwrap();
            file.set_modified(now - Duration::from_secs(age * 60)).unwrap();
        }
        world.restart();
        assert_eq!(world.incoming().len(), PARTIALS_KEPT);
        assert!(folder.join("0.partial").exists());
        assert!(!folder.join(format!("{PARTIALS_KEPT}.partial")).exists());
    }

    #[test]
    fn only_what_is_wanted_is_retained() {
        let world = World::new();
        let ids: Vec<_> = (1..=5)
            .map(|length| world.blobs.put(&some_bytes(length)).unwrap())
            .collect();
        assert_eq!(world.blobs.retain(|id| Ok(*id == ids[1])).unwrap(), 1 + 3 + 4 + 5);
        assert_eq!(world.blobs.list().unwrap(), [(ids[1], 2)]);
        world.blobs.remove(&ids[1]).unwrap();
        world.blobs.remove(&ids[1]).unwrap();
        assert_eq!(world.blobs.usage_bytes().unwrap(), 0);
    }

    #[test]
    fn a_file_is_served_from_any_offset() {
        let world = World::new();
        let id = world.blobs.put(b"0123456789").unwrap();
        let (mut file, length) = world.blobs.open_file(&id).unwrap();
        file.seek(io::SeekFrom::Start(length - 3)).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "789");
    }
}
