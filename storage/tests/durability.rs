//! Whether what a store has acknowledged survives `kill -9`: this test runs itself as a child process and kills it.
//! It does not cut the power: what the disk does with synced writes is taken on trust.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::journal::JournalEntry;
use synod_storage::blobs::BlobStore;
use synod_storage::lock::DataLock;
use synod_storage::rocks_store::RocksStore;
use synod_storage::store::{BlobLink, Store};

const CHILD_DIR: &str = "SYNOD_TEST_DURABILITY_DIR";
const SESSION: SessionId = SessionId([9; 32]);
/// The child compacts its journal to this many entries now and then.
const KEPT_ENTRIES: usize = 50;

fn open(dir: &Path) -> RocksStore {
    RocksStore::open(DataLock::acquire(dir).unwrap()).unwrap()
}

fn entry(number: u64) -> JournalEntry {
    JournalEntry::Promised {
        round: number,
        term: (number % 1000) as u32,
    }
}

fn blob(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + (number as usize * 7919) % 20_000)
}

/// Not a test of its own: the process that is killed. It goes on from the journal that it finds.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else {
        return;
    };
    let store = open(&dir);
    let blobs = BlobStore::open(&dir).unwrap();
    let mut journal = store.journal(&SESSION).unwrap();
    let mut number = match journal.last() {
        Some(JournalEntry::Promised { round, .. }) => round + 1,
        _ => 0,
    };
    let mut out = std::io::stdout();
    loop {
        if number % 5 == 0 {
            let bytes = blob(number);
            let id = blobs.put(&bytes).unwrap();
            store
                .link_blob(
                    &SESSION,
                    &BlobLink {
                        round: number,
                        blob: id,
                        bytes: bytes.len() as u64,
                    },
                )
                .unwrap();
        }
        store.append(&SESSION, &entry(number)).unwrap();
        journal.push(entry(number));
        // One write: a line is read whole or not at all.
        out.write_all(format!("\nacknowledged {number}\n").as_bytes()).unwrap();
        if journal.len() >= 3 * KEPT_ENTRIES {
            journal.drain(..journal.len() - KEPT_ENTRIES);
            store.replace_journal(&SESSION, &journal).unwrap();
        }
        number += 1;
    }
}

struct Writer {
    process: Child,
}

impl Writer {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, dir);
        let process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { process }
    }

    /// Waits for the first acknowledgement, lets the writer go on for a moment, kills it,
    /// and returns the last number that it acknowledged.
    fn kill_after(mut self, moment: Duration) -> u64 {
        let mut output = BufReader::new(self.process.stdout.take().unwrap());
        let mut text = String::new();
        while !text.contains("acknowledged") {
            assert_ne!(output.read_line(&mut text).unwrap(), 0, "the writer ended by itself");
        }
        let reader = std::thread::spawn(move || {
            output.read_to_string(&mut text).unwrap();
            text
        });
        std::thread::sleep(moment);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let text = reader.join().unwrap();
        let (whole, _cut) = text.rsplit_once('\n').unwrap();
        let mut numbers = whole.lines().filter_map(|line| line.strip_prefix("acknowledged "));
        numbers.next_back().unwrap().parse().unwrap()
    }
}

/// A few different numbers, the same in every run.
fn moments() -> impl Iterator<Item = Duration> {
    (0..25u64).map(|kill| Duration::from_micros(kill * 7_001 % 90_000 + kill * 131))
}

#[test]
fn nothing_acknowledged_is_lost_to_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for moment in moments() {
        let acknowledged = Writer::start(dir.path()).kill_after(moment);
        let store = open(dir.path());
        let numbers: Vec<u64> = store
            .journal(&SESSION)
            .unwrap()
            .into_iter()
            .map(|found| match found {
                JournalEntry::Promised { round, .. } if found == entry(round) => round,
                other => panic!("garbled: {other:?}"),
            })
            .collect();
        let (first, last) = (numbers[0], *numbers.last().unwrap());
        assert!(
            numbers.iter().copied().eq(first..=last),
            "in order and without gaps: {numbers:?}"
        );
        assert!(
            last == acknowledged || last == acknowledged + 1,
            "acknowledged {acknowledged}, found up to {last}"
        );
        assert!(
            first == 0 || numbers.len() >= KEPT_ENTRIES,
            "a compaction happens as a whole: {numbers:?}"
        );
        total = acknowledged;
        let blobs = BlobStore::open(dir.path()).unwrap();
        for number in (first.next_multiple_of(5)..=acknowledged).step_by(5) {
            assert_eq!(blobs.read(&BlobId::of(&blob(number))).unwrap(), blob(number));
        }
        for link in store.links(&SESSION).unwrap() {
            assert!(blobs.has(&link.blob), "a link never points at nothing: {link:?}");
        }
        for (id, _) in blobs.list().unwrap() {
            blobs.read(&id).unwrap();
        }
        assert_eq!(
            fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(),
            0,
            "no leftovers"
        );
    }
    assert!(total >= 25, "each child wrote something: {total}");
}

#[test]
fn a_killed_node_leaves_no_lock_behind() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::start(dir.path());
    let pid = writer.process.id();
    let started = Instant::now();
    while synod_storage::lock::holder(dir.path()) != Some(pid) {
        assert!(started.elapsed() < Duration::from_secs(60), "the writer takes the lock");
        std::thread::yield_now();
    }
    let refused = DataLock::acquire(dir.path()).unwrap_err().to_string();
    assert!(refused.contains(&format!("(pid {pid})")), "{refused}");
    writer.kill_after(Duration::ZERO);
    DataLock::acquire(dir.path()).unwrap();
}
