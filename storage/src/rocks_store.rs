//! The node's store: RocksDB in `DIR/db`, every write synced before it returns. The only file that imports rocksdb.
//! It holds no blobs: RocksDB writes megabytes five times slower than files do, twice, and frees them late.
//!
//! Column families and their keys (numbers are big-endian, so that byte order is their order):
//! `sessions` id → record · `journal` session, number → entry · `rounds` session, round → row ·
//! `meta` 0, key or 1, session, key → value · `links` session, round, blob → length · `linked` blob, session, round → nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction, ErrorKind, IteratorMode, LogLevel, Options,
    PrefixRange, ReadOptions, WriteBatch, WriteOptions,
};
use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::task::Round;

use crate::codec;
use crate::error::StoreError;
use crate::lock::DataLock;
use crate::store::{BlobLink, Result, Scope, SessionRecord, Store};

/// Version of the layout above. A database of a later one is refused; a change of layout comes with a migration.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";

const SESSIONS: &str = "sessions";
const JOURNAL: &str = "journal";
const META: &str = "meta";
const ROUNDS: &str = "rounds";
const LINKS: &str = "links";
const LINKED: &str = "linked";
const FAMILIES: [&str; 6] = [SESSIONS, JOURNAL, META, ROUNDS, LINKS, LINKED];

/// Records in RocksDB. It keeps the data directory locked for as long as it lives.
pub struct RocksStore {
    // Fields are dropped in order: the database closes before the lock goes.
    db: DB,
    /// Held by whoever reads in order to write. Holds the next number of each journal that was written to.
    next_numbers: Mutex<BTreeMap<SessionId, u64>>,
    path: PathBuf,
    lock: DataLock,
}

type Pair = (Box<[u8]>, Box<[u8]>);

impl RocksStore {
    /// Opens the database of a locked data directory, making it where it is not there yet.
    pub fn open(lock: DataLock) -> Result<Self> {
        let path = lock.dir().join("db");
        let options = options();
        let existing = if path.join("CURRENT").exists() {
            DB::list_cf(&options, &path).map_err(failed("opening it", &path))?
        } else {
            Vec::new()
        };
        let families: BTreeSet<&str> = existing.iter().map(String::as_str).chain(FAMILIES).collect();
        let families = families
            .into_iter()
            .map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(failed("opening it", &path))?;
        let store = Self {
            db,
            next_numbers: Mutex::default(),
            path,
            lock,
        };
        store.check_format()?;
        Ok(store)
    }

    /// Opens the database of a stopped node for reading, beside others that read; None where there is none yet.
    /// Nothing is written: a call that would is refused.
    pub fn open_to_read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("db");
        if !path.join("CURRENT").exists() {
            return Ok(None);
        }
        let lock = DataLock::share(dir)?;
        let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        let db = DB::open_cf_descriptors_read_only(&options(), &path, families, false)
            .map_err(failed("opening it for reading", &path))?;
        let store = Self {
            db,
            next_numbers: Mutex::default(),
            path,
            lock,
        };
        store.check_format()?;
        Ok(Some(store))
    }

    /// The data directory that is locked and used.
    pub fn dir(&self) -> &Path {
        self.lock.dir()
    }

    fn check_format(&self) -> Result<()> {
        match self
            .db
            .get(FORMAT_KEY)
            .map_err(failed("reading the format", &self.path))?
        {
            None => {
                let mut batch = WriteBatch::default();
                batch.put(FORMAT_KEY, FORMAT.to_be_bytes());
                self.write(batch)
            }
            Some(bytes) => {
                let found = <[u8; 4]>::try_from(&bytes[..]).map_err(|_| self.corrupt("the format", "not 4 bytes"))?;
                match u32::from_be_bytes(found) {
                    found if found > FORMAT => Err(StoreError::NewerFormat {
                        path: self.path.clone(),
                        found,
                        known: FORMAT,
                    }),
                    _ => Ok(()),
                }
            }
        }
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("all families are opened with the database")
    }

    /// All or nothing, and on the disk when it returns.
    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(batch, &synced).map_err(failed("writing", &self.path))
    }

    fn put(&self, family: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(family), key, value);
        self.write(batch)
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db
            .get_cf(self.family(family), key)
            .map_err(failed("reading", &self.path))
    }

    /// The pairs whose keys begin with `prefix`, in order, from the key `from` on.
    fn scan(&self, family: &str, prefix: &[u8], from: &[u8]) -> impl Iterator<Item = Result<Pair>> {
        let mut range = ReadOptions::default();
        range.set_iterate_range(PrefixRange(prefix));
        let pairs = self
            .db
            .iterator_cf_opt(self.family(family), range, IteratorMode::From(from, Direction::Forward));
        pairs.map(|pair| pair.map_err(failed("reading", &self.path)))
    }

    fn corrupt(&self, key: impl Into<String>, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            key: key.into(),
            reason: reason.into(),
        }
    }

    fn lock_writes(&self) -> MutexGuard<'_, BTreeMap<SessionId, u64>> {
        self.next_numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_number(&self, known: &BTreeMap<SessionId, u64>, session: &SessionId) -> Result<u64> {
        if let Some(next) = known.get(session) {
            return Ok(*next);
        }
        let mut range = ReadOptions::default();
        range.set_iterate_range(PrefixRange(&session.0[..]));
        let mut last = self.db.iterator_cf_opt(self.family(JOURNAL), range, IteratorMode::End);
        match last.next().transpose().map_err(failed("reading", &self.path))? {
            Some((key, _)) => Ok(self.number_at(&key, 32)? + 1),
            None => Ok(0),
        }
    }

    fn number_at(&self, key: &[u8], at: usize) -> Result<u64> {
        let bytes = key.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u64::from_be_bytes)
            .ok_or_else(|| self.corrupt("a key", format!("it has {} bytes", key.len())))
    }

    fn session_record(&self, key: &[u8], bytes: &[u8]) -> Result<SessionRecord> {
        let id = <[u8; 32]>::try_from(key).map_err(|_| self.corrupt("a session's key", "not 32 bytes"))?;
        let id = SessionId(id);
        let record: SessionRecord = codec::decode(bytes, &self.path, &format!("session {id}"))?;
        if record.id != id {
            return Err(self.corrupt(format!("session {id}"), format!("it is the record of {}", record.id)));
        }
        Ok(record)
    }

    fn link(&self, key: &[u8], value: &[u8]) -> Result<BlobLink> {
        let blob = key.get(40..).and_then(|bytes| bytes.try_into().ok());
        let bytes = value.try_into().ok().map(u64::from_be_bytes);
        match (blob, bytes) {
            (Some(blob), Some(bytes)) => Ok(BlobLink {
                round: self.number_at(key, 32)?,
                blob: BlobId(blob),
                bytes,
            }),
            _ => Err(self.corrupt("a link to a blob", "its key or value has a wrong length")),
        }
    }

    /// Adds the removal of these links to the batch, and says which blobs have no other one.
    fn drop_links(&self, batch: &mut WriteBatch, session: &SessionId, links: &[BlobLink]) -> Result<Vec<BlobId>> {
        let mut dropped = BTreeSet::new();
        for link in links {
            batch.delete_cf(self.family(LINKS), link_key(session, link));
            batch.delete_cf(self.family(LINKED), linked_key(session, link));
            dropped.insert(linked_key(session, link));
        }
        let blobs: BTreeSet<BlobId> = links.iter().map(|link| link.blob).collect();
        let mut free = Vec::new();
        for blob in blobs {
            let mut linked = false;
            for pair in self.scan(LINKED, &blob.0, &blob.0) {
                linked |= !dropped.contains(&pair?.0[..]);
            }
            if !linked {
                free.push(blob);
            }
        }
        Ok(free)
    }
}

impl Store for RocksStore {
    fn put_session(&self, record: &SessionRecord) -> Result<()> {
        self.put(SESSIONS, &record.id.0, &codec::encode(record))
    }

    fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>> {
        let bytes = self.get(SESSIONS, &id.0)?;
        bytes.map(|bytes| self.session_record(&id.0, &bytes)).transpose()
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>> {
        let pairs = self.scan(SESSIONS, &[], &[]);
        pairs
            .map(|pair| pair.and_then(|(key, bytes)| self.session_record(&key, &bytes)))
            .collect()
    }

    fn remove_session(&self, id: &SessionId) -> Result<Vec<BlobId>> {
        let mut next_numbers = self.lock_writes();
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.family(SESSIONS), id.0);
        let next = self.next_number(&next_numbers, id)?;
        batch.delete_range_cf(self.family(JOURNAL), numbered_key(id, 0), numbered_key(id, next));
        for (family, prefix) in [(META, meta_key(Scope::Session(*id), "")), (ROUNDS, id.0.to_vec())] {
            for pair in self.scan(family, &prefix, &prefix) {
                batch.delete_cf(self.family(family), pair?.0);
            }
        }
        let free = self.drop_links(&mut batch, id, &self.links(id)?)?;
        self.write(batch)?;
        next_numbers.remove(id);
        Ok(free)
    }

    fn append(&self, session: &SessionId, entry: &JournalEntry) -> Result<()> {
        let mut next_numbers = self.lock_writes();
        let next = self.next_number(&next_numbers, session)?;
        self.put(JOURNAL, &numbered_key(session, next), &codec::encode(entry))?;
        next_numbers.insert(*session, next + 1);
        Ok(())
    }

    fn journal(&self, session: &SessionId) -> Result<Vec<JournalEntry>> {
        let mut entries = Vec::new();
        let mut expected = None;
        for pair in self.scan(JOURNAL, &session.0, &session.0) {
            let (key, bytes) = pair?;
            let number = self.number_at(&key, 32)?;
            let name = format!("entry {number} of the journal of session {session}");
            if expected.is_some_and(|expected| expected != number) {
                return Err(self.corrupt(name, "the entry before it is missing"));
            }
            expected = Some(number + 1);
            entries.push(codec::decode(&bytes, &self.path, &name)?);
        }
        Ok(entries)
    }

    fn replace_journal(&self, session: &SessionId, entries: &[JournalEntry]) -> Result<()> {
        let mut next_numbers = self.lock_writes();
        let first = self.next_number(&next_numbers, session)?;
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(
            self.family(JOURNAL),
            numbered_key(session, 0),
            numbered_key(session, first),
        );
        for (number, entry) in (first..).zip(entries) {
            batch.put_cf(
                self.family(JOURNAL),
                numbered_key(session, number),
                codec::encode(entry),
            );
        }
        self.write(batch)?;
        next_numbers.insert(*session, first + entries.len() as u64);
        Ok(())
    }

    fn put_meta(&self, scope: Scope, key: &str, value: &[u8]) -> Result<()> {
        self.put(META, &meta_key(scope, key), value)
    }

    fn meta(&self, scope: Scope, key: &str) -> Result<Option<Vec<u8>>> {
        self.get(META, &meta_key(scope, key))
    }

    fn metas(&self, scope: Scope, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let scope_bytes = meta_key(scope, "").len();
        let prefix = meta_key(scope, prefix);
        let read = |pair: Result<Pair>| {
            let (key, value) = pair?;
            let key = String::from_utf8(key[scope_bytes..].to_vec());
            Ok((
                key.map_err(|error| self.corrupt("a key of metadata", error.to_string()))?,
                value.into_vec(),
            ))
        };
        self.scan(META, &prefix, &prefix).map(read).collect()
    }

    fn remove_meta(&self, scope: Scope, key: &str) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.family(META), meta_key(scope, key));
        self.write(batch)
    }

    fn put_round(&self, session: &SessionId, round: Round, row: &[u8]) -> Result<()> {
        self.put(ROUNDS, &numbered_key(session, round), row)
    }

    fn rounds(&self, session: &SessionId, from: Round) -> Result<Vec<(Round, Vec<u8>)>> {
        let first = numbered_key(session, from);
        let rows = self.scan(ROUNDS, &session.0, &first);
        rows.map(|pair| pair.and_then(|(key, row)| Ok((self.number_at(&key, 32)?, row.into_vec()))))
            .collect()
    }

    fn link_blob(&self, session: &SessionId, link: &BlobLink) -> Result<()> {
        let _writing = self.lock_writes();
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(LINKS), link_key(session, link), link.bytes.to_be_bytes());
        batch.put_cf(self.family(LINKED), linked_key(session, link), []);
        self.write(batch)
    }

    fn links(&self, session: &SessionId) -> Result<Vec<BlobLink>> {
        let pairs = self.scan(LINKS, &session.0, &session.0);
        pairs
            .map(|pair| pair.and_then(|(key, value)| self.link(&key, &value)))
            .collect()
    }

    fn is_linked(&self, blob: &BlobId) -> Result<bool> {
        Ok(self.scan(LINKED, &blob.0, &blob.0).next().transpose()?.is_some())
    }

    fn retire(&self, session: &SessionId, keep_from: Round, keep: &[BlobId]) -> Result<Vec<BlobId>> {
        let _writing = self.lock_writes();
        let keep: BTreeSet<&BlobId> = keep.iter().collect();
        let mut links = self.links(session)?;
        links.retain(|link| link.round < keep_from && !keep.contains(&link.blob));
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = WriteBatch::default();
        let free = self.drop_links(&mut batch, session, &links)?;
        self.write(batch)?;
        Ok(free)
    }
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RocksStore({})", self.path.display())
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A record that is damaged anywhere but at the very end of the log stops the node. The default would silently
    // forget all that came after it, and a member that forgets its votes can contradict itself.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A lost log file is noticed for the same reason.
    options.set_track_and_verify_wals_in_manifest(true);
    // The log is replayed at a start: bounded, so that a start takes well under a second.
    options.set_max_total_wal_size(32 << 20);
    // RocksDB's own diary: warnings, bounded.
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(2);
    // Few and small files; the node needs its descriptors for peers.
    options.set_max_open_files(64);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    // Six families of small records: 64 MiB each, the default, would be memory for nothing.
    options.set_write_buffer_size(4 << 20);
    options
}

/// For `map_err`: says what was attempted on which database.
fn failed(doing: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |error| sorted(error.kind(), error.to_string(), doing, path.to_owned())
}

/// RocksDB's words sorted into ours. Only its text tells a full disk and a held lock from other input and output errors.
fn sorted(kind: ErrorKind, reason: String, doing: &'static str, path: PathBuf) -> StoreError {
    let full = ["No space left on device", "Disk quota exceeded", "NoSpace"];
    if full.iter().any(|words| reason.contains(words)) {
        return StoreError::DiskFull { path };
    }
    match kind {
        ErrorKind::Corruption => StoreError::Corrupt {
            path,
            key: "the database".to_owned(),
            reason,
        },
        ErrorKind::IOError if reason.contains("/LOCK") => StoreError::AlreadyRunning { pid: None, path },
        _ => StoreError::Database { path, doing, reason },
    }
}

fn numbered_key(session: &SessionId, number: u64) -> Vec<u8> {
    [&session.0[..], &number.to_be_bytes()].concat()
}

fn meta_key(scope: Scope, key: &str) -> Vec<u8> {
    match scope {
        Scope::Node => [&[0], key.as_bytes()].concat(),
        Scope::Session(session) => [&[1], &session.0[..], key.as_bytes()].concat(),
    }
}

fn link_key(session: &SessionId, link: &BlobLink) -> Vec<u8> {
    [&session.0[..], &link.round.to_be_bytes(), &link.blob.0].concat()
}

fn linked_key(session: &SessionId, link: &BlobLink) -> Vec<u8> {
    [&link.blob.0[..], &session.0, &link.round.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::conformance;

    const SESSION: SessionId = SessionId([1; 32]);

    fn open(dir: &Path) -> Result<RocksStore> {
        DataLock::acquire(dir).and_then(RocksStore::open)
    }

    #[test]
    fn it_behaves_as_every_store_does() {
        let root = tempfile::tempdir().unwrap();
        conformance::check(&|name| Arc::new(open(&root.path().join(name)).unwrap()) as Arc<dyn Store>);
    }

    #[test]
    fn a_directory_is_opened_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        assert!(matches!(
            open(dir.path()),
            Err(StoreError::AlreadyRunning { pid: Some(_), .. })
        ));
        let elsewhere = failed("opening it", store.dir())(DB::open(&options(), &store.path).unwrap_err());
        assert!(
            matches!(elsewhere, StoreError::AlreadyRunning { .. }),
            "also under RocksDB's own lock: {elsewhere}"
        );
        drop(store);
        open(dir.path()).unwrap();
    }

    #[test]
    fn a_stopped_nodes_records_are_read_by_several_at_once_and_written_by_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            RocksStore::open_to_read(dir.path()).unwrap().is_none(),
            "nothing is there"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "and nothing is made");
        let store = open(dir.path()).unwrap();
        store.append(&SESSION, &conformance::entry(SESSION, 0)).unwrap();
        assert!(RocksStore::open_to_read(dir.path()).is_err(), "a node runs");
        drop(store);
        let readers = [(); 2].map(|()| RocksStore::open_to_read(dir.path()).unwrap().unwrap());
        for reader in &readers {
            assert_eq!(
                reader.journal(&SESSION).unwrap().len(),
                1,
                "also what is in the log alone"
            );
            assert!(reader.append(&SESSION, &conformance::entry(SESSION, 1)).is_err());
        }
        drop(readers);
        assert_eq!(open(dir.path()).unwrap().journal(&SESSION).unwrap().len(), 1);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        store.db.put(FORMAT_KEY, (FORMAT + 1).to_be_bytes()).unwrap();
        drop(store);
        let error = open(dir.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::NewerFormat { found: 2, known: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_entry_is_named_and_a_missing_one_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        for number in 0..5 {
            store.append(&SESSION, &conformance::entry(SESSION, number)).unwrap();
        }
        let good = store.get(JOURNAL, &numbered_key(&SESSION, 3)).unwrap().unwrap();
        store
            .put(JOURNAL, &numbered_key(&SESSION, 3), &good[..good.len() - 1])
            .unwrap();
        let error = store.journal(&SESSION).unwrap_err().to_string();
        assert!(
            error.contains("entry 3 of the journal") && error.contains("/db`"),
            "{error}"
        );
        store
            .db
            .delete_cf(store.family(JOURNAL), numbered_key(&SESSION, 3))
            .unwrap();
        let error = store.journal(&SESSION).unwrap_err().to_string();
        assert!(error.contains("entry 4") && error.contains("missing"), "{error}");
    }

    /// The database's log files with something in them.
    fn logs(dir: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(dir.join("db")).unwrap().map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "log") && fs::metadata(path).unwrap().len() > 0)
            .collect()
    }

    #[test]
    fn a_bit_flipped_inside_the_log_is_never_read_as_a_shorter_journal() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        for number in 0..200 {
            store.append(&SESSION, &conformance::entry(SESSION, number)).unwrap();
        }
        drop(store);
        let logs = logs(dir.path());
        assert_eq!(logs.len(), 1);
        let good = fs::read(&logs[0]).unwrap();
        for part in 1..10 {
            let scene = tempfile::tempdir().unwrap();
            fs::create_dir(scene.path().join("db")).unwrap();
            for entry in fs::read_dir(dir.path().join("db"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
            {
                fs::copy(&entry, scene.path().join("db").join(entry.file_name().unwrap())).unwrap();
            }
            let mut bent = good.clone();
            bent[good.len() * part / 10] ^= 16;
            fs::write(scene.path().join("db").join(logs[0].file_name().unwrap()), bent).unwrap();
            let outcome = open(scene.path()).and_then(|store| store.journal(&SESSION));
            assert!(
                matches!(outcome, Err(StoreError::Corrupt { .. })),
                "part {part}: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let check = |words: &str| sorted(ErrorKind::IOError, words.to_owned(), "writing", PathBuf::from("/d/db"));
        let full = check("IO error: No space left on device: While appending to file: /d/db/000004.log");
        assert!(matches!(full, StoreError::DiskFull { .. }), "{full}");
        let other = check("IO error: Input/output error: While appending to file: /d/db/000004.log");
        assert!(
            matches!(other, StoreError::Database { doing: "writing", .. }),
            "{other}"
        );
    }

    #[test]
    fn a_file_in_the_place_of_the_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("db"), "no folder").unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains(&dir.path().join("db").display().to_string()),
            "{error}"
        );
    }
}
