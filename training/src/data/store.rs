//! All documents of a member as tokens, one after the other, with a table of where each begins: in memory, or in a folder
//! that is built once and used again while sources and tokenizer stay the same. It knows no split and no rows.
//!
//! Files are read with positioned reads (`pread`) and not mapped: a row of some kilobytes costs about a microsecond either
//! way, and a mapped file that shrinks kills the process (SIGBUS), where a read only fails.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::document::Metadata;
use super::readers::SourceFile;
use super::{DataError, DataReport};
use crate::config::Vocabulary;

/// A new number where the files below change.
const FORMAT: u32 = 1;
const TOKENS: &str = "tokens.bin";
const METADATA: &str = "metadata.jsonl";
const DOCUMENTS: &str = "documents.bin";
const MANIFEST: &str = "manifest.json";

/// What tokens are made of; where any of it changes, they are made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) format: u32,
    pub(super) vocabulary: Vocabulary,
    pub(super) text_field: String,
    pub(super) piece_bytes: usize,
    pub(super) sources: Vec<SourceFile>,
}

impl Origin {
    pub(super) fn new(vocabulary: Vocabulary, text_field: &str, piece_bytes: usize, sources: Vec<SourceFile>) -> Self {
        Self {
            format: FORMAT,
            vocabulary,
            text_field: text_field.to_owned(),
            piece_bytes,
            sources,
        }
    }

    /// The name of its folder.
    fn name(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings and numbers always encode");
        blake3::hash(&json).to_hex()[..32].to_owned()
    }
}

/// A document's place in the tokens (its end of document included), its metadata's place, and its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) metadata: u64,
    pub(super) mark: u32,
}

const ENTRY_BYTES: usize = 20;

/// What a folder says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    origin: Origin,
    tokens: u64,
    metadata_bytes: u64,
    report: DataReport,
}

/// Bytes in memory or in a file.
#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    File { file: File, path: PathBuf },
}

impl Bytes {
    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), DataError> {
        match self {
            Self::Memory(bytes) => {
                let at = at as usize;
                out.copy_from_slice(&bytes[at..at + out.len()]);
                Ok(())
            }
            Self::File { file, path } => file.read_exact_at(out, at).map_err(|reason| match reason.kind() {
                io::ErrorKind::UnexpectedEof => DataError::ShardShrunk { path: path.clone() },
                _ => DataError::Unreadable {
                    path: path.clone(),
                    reason,
                },
            }),
        }
    }
}

/// A member's documents as tokens.
#[derive(Debug)]
pub(super) struct Store {
    tokens: Bytes,
    metadata: Bytes,
    /// One a document, and one behind the last.
    entries: Vec<Entry>,
    width: usize,
    report: DataReport,
}

/// Bytes of a token: bytes need one, and nearly all tokenizers more than two at most.
fn width(vocabulary: &Vocabulary) -> usize {
    match vocabulary.size() {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

impl Store {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries[..self.entries.len() - 1]
    }

    pub(super) fn report(&self) -> &DataReport {
        &self.report
    }

    pub(super) fn tokens(&self) -> u64 {
        self.entries[self.entries.len() - 1].start
    }

    /// Tokens of a document, its end among them.
    pub(super) fn length(&self, document: usize) -> u64 {
        self.entries[document + 1].start - self.entries[document].start
    }

    /// Adds some of the tokens to `out`.
    pub(super) fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<(), DataError> {
        let width = self.width as u64;
        let mut bytes = vec![0; ((range.end - range.start) * width) as usize];
        self.tokens.read(range.start * width, &mut bytes)?;
        match self.width {
            1 => out.extend(bytes.iter().map(|byte| u32::from(*byte))),
            2 => out.extend(
                bytes
                    .chunks_exact(2)
                    .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))),
            ),
            _ => out.extend(
                bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            ),
        }
        Ok(())
    }

    /// What is known about a document.
    pub(super) fn metadata(&self, document: usize) -> Result<Metadata, DataError> {
        let (start, end) = (self.entries[document].metadata, self.entries[document + 1].metadata);
        let mut line = vec![0; (end - start) as usize];
        self.metadata.read(start, &mut line)?;
        serde_json::from_slice(&line).map_err(|_| match &self.metadata {
            Bytes::File { path, .. } => DataError::ShardShrunk { path: path.clone() },
            Bytes::Memory(_) => unreachable!("metadata in memory is as it was written"),
        })
    }

    /// The store that was built for this origin, if it is there and whole.
    pub(super) fn open(folder: &Path, origin: &Origin) -> Option<Self> {
        let folder = folder.join(origin.name());
        let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        let width = width(&origin.vocabulary);
        let file = |name: &str, bytes: u64| {
            let path = folder.join(name);
            let file = File::open(&path).ok()?;
            (file.metadata().ok()?.len() == bytes).then_some(Bytes::File { file, path })
        };
        let tokens = file(TOKENS, manifest.tokens.checked_mul(width as u64)?)?;
        let metadata = file(METADATA, manifest.metadata_bytes)?;
        let entries: Vec<Entry> = fs::read(folder.join(DOCUMENTS))
            .ok()?
            .chunks_exact(ENTRY_BYTES)
            .map(Entry::of_bytes)
            .collect();
        let last = entries.last()?;
        let ordered = entries.is_sorted_by(|a, b| a.start <= b.start && a.metadata <= b.metadata);
        let whole = ordered && last.start == manifest.tokens && last.metadata == manifest.metadata_bytes;
        (manifest.origin == *origin && whole).then(|| {
            mark_as_used(&folder.join(MANIFEST));
            Self {
                tokens,
                metadata,
                entries,
                width,
                report: manifest.report,
            }
        })
    }
}

/// Folders of finished tokens below `folder` that nothing has opened since `before`, with those that have no manifest and
/// are as old.
pub fn unused_tokens(folder: &Path, before: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut unused = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let used = fs::metadata(path.join(MANIFEST))
            .or_else(|_| fs::metadata(&path))?
            .modified()?;
        if path.is_dir() && used < before {
            unused.push(path);
        }
    }
    Ok(unused)
}

/// The manifest's time tells when its tokens were opened last. Where it cannot be set they count as older than they are,
/// and are made again.
fn mark_as_used(manifest: &Path) {
    let file = File::options().append(true).open(manifest);
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.metadata.to_le_bytes());
        bytes[16..].copy_from_slice(&self.mark.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let long = |at: usize| {
            (at..at + 8)
                .rev()
                .fold(0u64, |number, at| (number << 8) | u64::from(bytes[at]))
        };
        Self {
            start: long(0),
            metadata: long(8),
            mark: (16..20)
                .rev()
                .fold(0u32, |number, at| (number << 8) | u32::from(bytes[at])),
        }
    }
}

/// Writes a store. Nothing of it is seen under its name before it is whole.
pub(super) struct Builder {
    tokens: Output,
    metadata: Output,
    entries: Vec<Entry>,
    width: usize,
    eod: u32,
    /// Where the files are written, and where they will be.
    folders: Option<(Partial, PathBuf)>,
    packed: Vec<u8>,
}

/// Where bytes go, and how many went.
struct Output {
    to: Target,
    bytes: u64,
}

enum Target {
    Memory(Vec<u8>),
    File(BufWriter<File>, PathBuf),
}

impl Output {
    fn memory() -> Self {
        Self {
            to: Target::Memory(Vec::new()),
            bytes: 0,
        }
    }

    fn file(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(|reason| unwritable(&path, reason))?;
        Ok(Self {
            to: Target::File(BufWriter::with_capacity(1 << 20, file), path),
            bytes: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.bytes += bytes.len() as u64;
        match &mut self.to {
            Target::Memory(all) => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Target::File(file, path) => file.write_all(bytes).map_err(|reason| unwritable(path, reason)),
        }
    }

    /// On disk, where it goes to one.
    fn finish(self) -> Result<Vec<u8>, DataError> {
        match self.to {
            Target::Memory(bytes) => Ok(bytes),
            Target::File(file, path) => {
                let file = file
                    .into_inner()
                    .map_err(|error| unwritable(&path, error.into_error()))?;
                file.sync_all().map_err(|reason| unwritable(&path, reason))?;
                Ok(Vec::new())
            }
        }
    }
}

fn unwritable(path: &Path, reason: io::Error) -> DataError {
    DataError::Unwritable {
        path: path.to_owned(),
        reason,
    }
}

impl Builder {
    /// Begins a store in memory, or in a folder for this origin.
    pub(super) fn new(origin: &Origin, folder: Option<&Path>) -> Result<Self, DataError> {
        let folders = folder.map(|folder| {
            // Two sessions may build the same tokens at the same time, in one process or in two.
            static BUILDS: AtomicU64 = AtomicU64::new(0);
            let (name, build) = (origin.name(), BUILDS.fetch_add(1, Ordering::Relaxed));
            let partial = format!(".{name}.{}.{build}.partial", std::process::id());
            (Partial(folder.join(partial)), folder.join(name))
        });
        let outputs = match &folders {
            None => (Output::memory(), Output::memory()),
            Some((Partial(partial), _)) => {
                fs::create_dir_all(partial).map_err(|reason| unwritable(partial, reason))?;
                (
                    Output::file(partial.join(TOKENS))?,
                    Output::file(partial.join(METADATA))?,
                )
            }
        };
        Ok(Self {
            tokens: outputs.0,
            metadata: outputs.1,
            entries: Vec::new(),
            width: width(&origin.vocabulary),
            eod: origin.vocabulary.eod(),
            folders,
            packed: Vec::new(),
        })
    }

    /// Adds a document. One that does not continue the last ends it.
    pub(super) fn push(
        &mut self,
        tokens: &[u32],
        mark: u32,
        metadata: &Metadata,
        continues: bool,
    ) -> Result<(), DataError> {
        if !(continues || self.entries.is_empty()) {
            self.write_tokens(&[self.eod])?;
        }
        self.entries.push(self.entry(mark));
        self.write_tokens(tokens)?;
        let line = serde_json::to_vec(metadata).expect("strings always encode");
        self.metadata.write(&line)?;
        self.metadata.write(b"\n")
    }

    fn entry(&self, mark: u32) -> Entry {
        Entry {
            start: self.tokens.bytes / self.width as u64,
            metadata: self.metadata.bytes,
            mark,
        }
    }

    fn write_tokens(&mut self, tokens: &[u32]) -> Result<(), DataError> {
        self.packed.clear();
        for token in tokens {
            self.packed.extend_from_slice(&token.to_le_bytes()[..self.width]);
        }
        self.tokens.write(&self.packed)
    }

    /// Ends the last document, makes all durable, and gives the folder its name.
    pub(super) fn finish(mut self, origin: &Origin, report: DataReport) -> Result<Store, DataError> {
        if !self.entries.is_empty() {
            self.write_tokens(&[self.eod])?;
        }
        self.entries.push(self.entry(0));
        let Self {
            tokens,
            metadata,
            entries,
            width,
            folders,
            ..
        } = self;
        let Some((partial, named)) = folders else {
            return Ok(Store {
                tokens: Bytes::Memory(tokens.finish()?),
                metadata: Bytes::Memory(metadata.finish()?),
                entries,
                width,
                report,
            });
        };
        let manifest = Manifest {
            origin: origin.clone(),
            tokens: tokens.bytes / width as u64,
            metadata_bytes: metadata.bytes,
            report,
        };
        tokens.finish()?;
        metadata.finish()?;
        let mut documents = Output::file(partial.0.join(DOCUMENTS))?;
        for entry in &entries {
            documents.write(&entry.to_bytes())?;
        }
        documents.finish()?;
        let mut about = Output::file(partial.0.join(MANIFEST))?;
        about.write(&serde_json::to_vec_pretty(&manifest).expect("strings and numbers always encode"))?;
        about.finish()?;
        // What stands there already is either the same, made by another session at the same time, or damaged.
        if named.exists() {
            fs::remove_dir_all(&named).map_err(|reason| unwritable(&named, reason))?;
        }
        fs::rename(&partial.0, &named).map_err(|reason| unwritable(&named, reason))?;
        let folder = named.parent().unwrap_or(&named);
        Store::open(folder, origin).ok_or(DataError::ShardShrunk { path: named })
    }
}

/// A folder of a store that is not finished; nothing of it is left behind.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Once the folder has its name there is nothing here; and about a failure nothing can be done.
        let _ = fs::remove_dir_all(&self.0);
    }
}
