//! From paths to documents: finds the files, tells their kinds by their names, and hands their documents out one by one.
//! What can be survived is counted in a [`DataReport`]; nothing is kept in memory but the document at hand.

mod lines;
mod megatron;
#[cfg(feature = "parquet")]
mod parquet;
mod stream;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::document::{Content, Document, Metadata};
use super::report::{DataReport, Problem};
use super::{DataError, DataOptions};

/// Lines of JSON longer than this are left out, so that a damaged file cannot fill the memory. 64 MiB is a library.
pub const LINE_BYTES_MAX: usize = 64 << 20;
/// Metadata values longer than this are left out: they are content.
pub const METADATA_BYTES_MAX: usize = 4 << 10;
/// Folders deeper than this are not searched: a link that leads back to its own folder must end somewhere.
const DEPTH_LIMIT: usize = 16;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `.txt`, `.md`: one text.
    Text(Compression),
    /// `.jsonl`, `.ndjson`: a JSON object a line.
    Lines(Compression),
    /// `.parquet`: a row a document.
    #[cfg(feature = "parquet")]
    Parquet,
    /// `.u16`, `.u32`, and `.bin` without an index: tokens of so many bytes, little-endian, documents parted by the
    /// end-of-document token.
    Tokens(usize),
    /// `.idx` beside a `.bin`: Megatron's indexed tokens.
    Megatron,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A file to read, and what tells whether it has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970 (0 where the system does not say).
    pub modified_ns: u64,
}

/// How documents are made of files; the session's part.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The least length of a piece of plain text, in bytes.
    pub piece_bytes: usize,
    /// The token that ends a document in files of tokens.
    pub eod: u32,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
}

/// Takes documents; its failure ends the reading.
pub type Sink<'a> = dyn FnMut(Document) -> Result<(), DataError> + 'a;

/// What a reader needs.
struct Reading<'a, 'b> {
    file: &'a SourceFile,
    options: &'a DataOptions,
    cut: Cut,
    report: &'a mut DataReport,
    sink: &'a mut Sink<'b>,
}

impl Reading<'_, '_> {
    fn met(&mut self, problem: Problem, what: impl std::fmt::Display) {
        let path = self.file.path.display();
        self.report.met(problem, || format!("{path}: {what}"));
    }

    fn met_at(&mut self, problem: Problem, line: u64) {
        let path = self.file.path.display();
        self.report.met(problem, || format!("{path}:{line}"));
    }

    /// Metadata that every document has: the file it came from, and where in it.
    fn metadata(&self, place: u64) -> Metadata {
        let name = self.file.path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        [
            ("id".to_owned(), format!("{name}:{place}")),
            ("source".to_owned(), name),
        ]
        .into()
    }

    /// Puts a value into metadata, unless it is too long.
    fn describe(&mut self, metadata: &mut Metadata, key: String, value: String, line: u64) {
        match value.len() > METADATA_BYTES_MAX {
            true => self.met_at(Problem::LongMetadata, line),
            false => {
                metadata.insert(key, value);
            }
        }
    }

    fn give(&mut self, document: Document) -> Result<(), DataError> {
        self.report.documents += 1;
        self.report.bytes += document.content.len() as u64;
        (self.sink)(document)
    }

    /// Hands tokens out as a document, or counts why not.
    fn give_tokens(&mut self, mut tokens: Vec<u32>, place: u64) -> Result<(), DataError> {
        if tokens.last() == Some(&self.cut.eod) {
            tokens.pop();
        }
        if tokens.is_empty() {
            self.met(Problem::Empty, format_args!("document {place}"));
            return Ok(());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.cut.vocabulary) {
            self.met(Problem::ForeignToken, format_args!("document {place}, token {token}"));
            return Ok(());
        }
        let document = Document {
            content: Content::Tokens(tokens),
            metadata: self.metadata(place),
            continues: false,
        };
        self.give(document)
    }
}

/// Reads all documents of `files`, as listed by [`list_files`].
pub fn read_files(
    files: &[SourceFile],
    options: &DataOptions,
    cut: Cut,
    report: &mut DataReport,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    for file in files {
        // A file that was named itself is read whatever its name: as a text, as `cat` would.
        let kind = kind(&file.path).unwrap_or(Kind::Text(Compression::None));
        report.files += 1;
        let reading = Reading {
            file,
            options,
            cut,
            report,
            sink,
        };
        match kind {
            Kind::Text(compression) => lines::read_text(reading, compression)?,
            Kind::Lines(compression) => lines::read_json_lines(reading, compression)?,
            #[cfg(feature = "parquet")]
            Kind::Parquet => parquet::read(reading)?,
            Kind::Tokens(width) => stream::read(reading, width)?,
            Kind::Megatron => megatron::read(reading)?,
        }
    }
    Ok(())
}

/// The files under the paths of `options`, folders searched in depth and in the order of names.
pub fn list_files(options: &DataOptions, report: &mut DataReport) -> Result<Vec<SourceFile>, DataError> {
    let mut files = Vec::new();
    for path in &options.paths {
        let kind = fs::metadata(path).map_err(|reason| match reason.kind() {
            std::io::ErrorKind::NotFound => DataError::Missing { path: path.clone() },
            _ => unreadable(path, reason),
        })?;
        if kind.is_dir() {
            let before = files.len();
            list_folder(path, 0, &mut files, report)?;
            if files.len() == before {
                return Err(DataError::NoKnownFiles { path: path.clone() });
            }
        } else if kind.is_file() {
            files.push(source(path, &kind));
        } else {
            // Reading a pipe or a device may never end.
            return Err(unreadable(
                path,
                std::io::Error::other("it is neither a file nor a folder"),
            ));
        }
    }
    Ok(files)
}

fn list_folder(
    folder: &Path,
    depth: usize,
    files: &mut Vec<SourceFile>,
    report: &mut DataReport,
) -> Result<(), DataError> {
    let entries = fs::read_dir(folder).map_err(|reason| unreadable(folder, reason))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| unreadable(folder, reason))?;
    paths.sort();
    for path in &paths {
        let about = match fs::metadata(path) {
            Ok(about) => about,
            Err(reason) => {
                report.met(Problem::Unreadable, || format!("{}: {reason}", path.display()));
                continue;
            }
        };
        let indexed = has_ending(path, ".bin") && paths.contains(&path.with_extension("idx"));
        if about.is_dir() && depth < DEPTH_LIMIT {
            list_folder(path, depth + 1, files, report)?;
        } else if !about.is_file() {
            report.met(Problem::NotSearched, || path.display().to_string());
        } else if kind(path).is_some() && !indexed {
            files.push(source(path, &about));
        } else if !indexed {
            report.other_files += 1;
        }
    }
    Ok(())
}

fn source(path: &Path, about: &fs::Metadata) -> SourceFile {
    let modified = about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    SourceFile {
        path: path.to_owned(),
        bytes: about.len(),
        modified_ns: modified.map_or(0, |since| since.as_nanos() as u64),
    }
}

fn unreadable(path: &Path, reason: std::io::Error) -> DataError {
    DataError::Unreadable {
        path: path.to_owned(),
        reason,
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.len() > ending.len() && name.to_ascii_lowercase().ends_with(ending)
}

/// The kind of a file by its name.
fn kind(path: &Path) -> Option<Kind> {
    for (ending, compression) in [
        ("", Compression::None),
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
    ] {
        let any = |endings: &[&str]| endings.iter().any(|e| has_ending(path, &format!("{e}{ending}")));
        if any(&[".txt", ".md", ".text"]) {
            return Some(Kind::Text(compression));
        }
        if any(&[".jsonl", ".ndjson"]) {
            return Some(Kind::Lines(compression));
        }
    }
    #[cfg(feature = "parquet")]
    if has_ending(path, ".parquet") {
        return Some(Kind::Parquet);
    }
    match () {
        () if has_ending(path, ".u16") => Some(Kind::Tokens(2)),
        () if has_ending(path, ".u32") => Some(Kind::Tokens(4)),
        () if has_ending(path, ".bin") => Some(match path.with_extension("idx").is_file() {
            true => Kind::Megatron,
            false => Kind::Tokens(2),
        }),
        () if has_ending(path, ".idx") => Some(Kind::Megatron),
        () => None,
    }
}
