//! Blobs as files named by their content: updates and model states, verified whenever they are read or received.
//! It does not decide how long one is kept (see `retention`) and fetches nothing.
//!
//! Layout: `blobs/ab/cdef…` are whole blobs, synced before they got that name; `blobs/ab/cdef….unsynced` are whole ones that
//! the disk may not have yet (`late_sync`), verified when the store is opened; `blobs/incoming/ID.partial` are downloads that
//! may be resumed; `blobs/incoming/*.tmp` are writes in progress, left over only by a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use synod_protocol::identity::BlobId;

use crate::error::StoreError;
use crate::files;
use crate::late_sync::{self, LateSync};
use crate::store::Result;

/// How long an unfinished download may be resumed: rounds move on, and after a day nobody asks for its blob any more.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Unfinished downloads that outlive a restart; the newest ones. While the node runs, its network bounds them.
const PARTIALS_KEPT: usize = 16;

/// The end of the name of a blob that is not synced yet.
const UNSYNCED: &str = ".unsynced";

/// When a blob has to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the call returns: for what this node vouches for.
    Now,
    /// Within seconds: for what others have, or what can be made again. A loss of power may take it, whole.
    Soon,
}

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
    /// None where nothing may be written.
    late: Option<LateSync>,
}

impl BlobStore {
    /// Opens `data_dir/blobs`, makes it if it is not there, and removes what interrupted writes have left.
    /// Open it once a process, after the directory's lock is held, and clone it.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let late = LateSync::start().map_err(StoreError::io("start the thread that syncs", data_dir))?;
        let store = Self::at(data_dir, Some(late));
        files::create_folder(&store.shared.incoming)?;
        store.remove_leftovers()?;
        store.verify_unsynced()?;
        Ok(store)
    }

    /// The blobs of a stopped node, for reading: nothing is made or tidied.
    pub fn open_to_read(data_dir: &Path) -> Self {
        Self::at(data_dir, None)
    }

    fn at(data_dir: &Path, late: Option<LateSync>) -> Self {
        let root = data_dir.join("blobs");
        let incoming = root.join("incoming");
        Self {
            shared: Arc::new(Shared {
                root,
                incoming,
                writes: AtomicU64::new(0),
                late,
            }),
        }
    }

    /// Keeps these bytes. Durable when it returns; keeping the same bytes again costs one look at the folder.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobId> {
        let id = BlobId::of(bytes);
        self.put_as(&id, bytes, Durability::Now).map(|()| id)
    }

    /// The same for bytes whose id the caller has computed. A wrong one would be found by whoever reads the blob.
    pub fn put_as(&self, id: &BlobId, bytes: &[u8], durability: Durability) -> Result<()> {
        let whole = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() == bytes.len() as u64);
        if whole(self.synced(id)) || durability == Durability::Soon && whole(self.unsynced(id)) {
            return Ok(());
        }
        let number = self.shared.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self.shared.incoming.join(format!("{id}.{number}.tmp"));
        let written = write_new(&temporary, bytes, durability).and_then(|()| self.install(&temporary, id, durability));
        if written.is_err() {
            // The error that matters is the first one; a leftover goes at the next start.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// The blob's bytes, verified. A file that holds other bytes is moved to `incoming/ID.damaged`, so that the blob can be fetched again
    /// and nothing is lost that an operator could still mend; where nothing may be written, it stays.
    pub fn read(&self, id: &BlobId) -> Result<Vec<u8>> {
        let (mut file, length, path) = self.open_named(id)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).expect("64-bit addresses"));
        file.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        if BlobId::of(&bytes) == *id {
            return Ok(bytes);
        }
        if self.shared.late.is_some() {
            let aside = self.shared.incoming.join(format!("{id}.damaged"));
            fs::rename(&path, aside).map_err(StoreError::io("move aside", &path))?;
        }
        Err(StoreError::BlobCorrupt { id: *id, path })
    }

    /// The blob's file and its length, for serving. Not verified here: whoever receives it does that.
    pub fn open_file(&self, id: &BlobId) -> Result<(File, u64)> {
        let (file, length, _) = self.open_named(id)?;
        Ok((file, length))
    }

    /// The blob's file, its length, and where it was found.
    fn open_named(&self, id: &BlobId) -> Result<(File, u64, PathBuf)> {
        for path in self.places(id) {
            match File::open(&path) {
                Ok(file) => {
                    let meta = file.metadata().map_err(StoreError::io("read the length of", &path))?;
                    return Ok((file, meta.len(), path));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("open", &path)(error)),
            }
        }
        Err(StoreError::BlobMissing {
            id: *id,
            path: self.shared.root.clone(),
        })
    }

    /// Whether the blob is here (whole; not verified).
    pub fn has(&self, id: &BlobId) -> bool {
        self.places(id).iter().any(|path| path.is_file())
    }

    /// Takes a complete file of the same disk in, whose bytes were verified against the id as they were written. It is on the
    /// disk soon: until then its makers have it. Whoever reads the blob verifies it again.
    pub fn adopt(&self, id: &BlobId, file: &Path) -> Result<()> {
        self.install(file, id, Durability::Soon)
    }

    /// Deletes a blob; that it is not there is no error.
    pub fn remove(&self, id: &BlobId) -> Result<()> {
        // In this order: a file that is synced at this moment changes its name from the first to the second.
        remove(&self.unsynced(id))?;
        remove(&self.synced(id))
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
                let name = name.strip_suffix(UNSYNCED).unwrap_or(name);
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
        blobs.dedup_by_key(|(id, _)| *id);
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
        let [synced, unsynced, _] = self.places(id);
        if unsynced.is_file() { unsynced } else { synced }
    }

    fn synced(&self, id: &BlobId) -> PathBuf {
        let hex = id.to_string();
        self.shared.root.join(&hex[..2]).join(&hex[2..])
    }

    fn unsynced(&self, id: &BlobId) -> PathBuf {
        let hex = id.to_string();
        self.shared
            .root
            .join(&hex[..2])
            .join(format!("{}{UNSYNCED}", &hex[2..]))
    }

    /// Where a blob may be, in the order to look: it changes from the second name to the first at any moment.
    fn places(&self, id: &BlobId) -> [PathBuf; 3] {
        [self.synced(id), self.unsynced(id), self.synced(id)]
    }

    /// Gives a complete file its name: if it has to be durable it is synced, and so is the name.
    fn install(&self, from: &Path, id: &BlobId, durability: Durability) -> Result<()> {
        let (synced, unsynced) = (self.synced(id), self.unsynced(id));
        let folder = synced.parent().expect("blob paths have a folder");
        if !folder.is_dir() {
            files::create_folder(folder)?;
        }
        match (durability, &self.shared.late) {
            (Durability::Soon, Some(late)) => {
                fs::rename(from, &unsynced).map_err(StoreError::io("move into place", &unsynced))?;
                late.add(unsynced, synced.clone())
                    .map_err(StoreError::io("sync", &synced))
            }
            _ => {
                fs::rename(from, &synced).map_err(StoreError::io("move into place", &synced))?;
                files::sync_folder(folder)?;
                remove(&unsynced)
            }
        }
    }

    /// Looks at what was not synced when the process ended: what is whole stays, what is not is as if it had never come.
    fn verify_unsynced(&self) -> Result<()> {
        for (id, _) in self.list()? {
            let (synced, unsynced) = (self.synced(&id), self.unsynced(&id));
            if !unsynced.is_file() {
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            let mut file = File::open(&unsynced).map_err(StoreError::io("open", &unsynced))?;
            hash_rest(&mut file, &mut hasher).map_err(StoreError::io("read", &unsynced))?;
            if *hasher.finalize().as_bytes() == id.0 {
                late_sync::sync(&unsynced, &synced).map_err(StoreError::io("sync", &unsynced))?;
            } else {
                remove(&unsynced)?;
            }
        }
        Ok(())
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

fn write_new(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(StoreError::io("create", path))?;
    file.write_all(bytes).map_err(StoreError::io("write", path))?;
    match durability {
        Durability::Now => file.sync_all().map_err(StoreError::io("sync", path)),
        Durability::Soon => Ok(()),
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
    fn what_is_not_synced_yet_is_a_blob_like_any_other() {
        let mut world = World::new();
        let bytes = some_bytes(10_000);
        let id = BlobId::of(&bytes);
        world.blobs.put_as(&id, &bytes, Durability::Soon).unwrap();
        assert!(world.blobs.unsynced(&id).is_file() && world.blobs.path(&id).is_file());
        assert!(world.blobs.has(&id));
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
        assert_eq!(world.blobs.list().unwrap(), [(id, 10_000)]);
        world.blobs.put(&bytes).unwrap();
        assert!(world.blobs.synced(&id).is_file() && !world.blobs.unsynced(&id).is_file());
        world.blobs.remove(&id).unwrap();
        world.blobs.put_as(&id, &bytes, Durability::Soon).unwrap();
        world.blobs.remove(&id).unwrap();
        assert!(!world.blobs.has(&id));
        world.blobs.put_as(&id, &bytes, Durability::Soon).unwrap();
        world.restart();
        assert!(world.blobs.synced(&id).is_file() && !world.blobs.unsynced(&id).is_file());
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
    }

    #[test]
    fn what_a_loss_of_power_tore_before_it_was_synced_is_gone_after_it() {
        let mut world = World::new();
        let bytes = some_bytes(10_000);
        let id = BlobId::of(&bytes);
        world.blobs.put_as(&id, &bytes, Durability::Soon).unwrap();
        let mut torn = bytes.clone();
        torn[4_096..].fill(0);
        fs::write(world.blobs.unsynced(&id), torn).unwrap();
        world.restart();
        assert!(!world.blobs.has(&id), "and is fetched again");
        world.blobs.put_as(&id, &bytes, Durability::Soon).unwrap();
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
    }

    #[test]
    fn late_files_get_their_final_name_and_deleted_ones_are_no_error() {
        let world = World::new();
        let bytes = some_bytes(1_000);
        let id = BlobId::of(&bytes);
        let sync = || late_sync::sync(&world.blobs.unsynced(&id), &world.blobs.synced(&id));
        sync().unwrap();
        assert!(!world.blobs.has(&id));
        world.blobs.put_as(&id, &bytes, Durability::Soon).unwrap();
        sync().unwrap();
        assert!(world.blobs.synced(&id).is_file() && !world.blobs.unsynced(&id).is_file());
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
    }

    #[test]
    fn a_download_is_taken_in_from_its_file() {
        let mut world = World::new();
        let bytes = some_bytes(3_000_000);
        let id = BlobId::of(&bytes);
        let partial = world.dir.path().join(format!("blobs/incoming/{id}.partial"));
        fs::write(&partial, &bytes).unwrap();
        world.blobs.adopt(&id, &partial).unwrap();
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
        world.restart();
        assert_eq!(world.blobs.read(&id).unwrap(), bytes);
        assert!(world.incoming().is_empty());
        let missing = world.blobs.adopt(&id, &partial).unwrap_err();
        assert!(matches!(missing, StoreError::Io { .. }), "{missing:?}");
    }

    #[test]
    fn leftovers_of_a_crash_go_at_the_next_start() {
        let mut world = World::new();
        let folder = world.dir.path().join("blobs/incoming");
        fs::write(folder.join("aa.0.tmp"), b"half").unwrap();
        let old = File::create(folder.join("old.partial")).unwrap();
        old.set_modified(SystemTime::now() - PARTIAL_KEPT * 2).unwrap();
        let id = BlobId::of(b"wanted");
        fs::write(folder.join(format!("{id}.partial")), b"wan").unwrap();
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
