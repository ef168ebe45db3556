//! Documents from a text file, a folder of them, or JSON Lines.
//! Nothing is skipped in silence: what cannot be read is an error, and bytes that are no UTF-8 are replaced and counted.

use std::fs;
use std::path::{Path, PathBuf};

use super::DataError;

/// The byte between documents. Text does not hold it; where it does, it becomes a space.
pub const DOCUMENT_SEPARATOR: u8 = 0;

/// All documents under a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// The documents' text as bytes, in the order of file names and lines, without empty ones.
    pub texts: Vec<Vec<u8>>,
    /// Files in which bytes that are no UTF-8 were replaced by U+FFFD.
    pub files_not_utf8: Vec<PathBuf>,
}

/// Reads a text file (one document), a folder of `.txt`, `.md` and `.jsonl` files (searched in depth, sorted by name), or
/// a `.jsonl` file (one document a line, under `text`).
pub fn read_documents(path: &Path) -> Result<Documents, DataError> {
    let mut documents = Documents::default();
    let kind = fs::metadata(path).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::NotFound => DataError::Missing { path: path.to_owned() },
        _ => DataError::Unreadable {
            path: path.to_owned(),
            reason,
        },
    })?;
    if !kind.is_dir() && !kind.is_file() {
        // Reading a pipe or a device may never end.
        let reason = std::io::Error::other("it is neither a file nor a folder");
        return Err(DataError::Unreadable {
            path: path.to_owned(),
            reason,
        });
    }
    if !kind.is_dir() {
        read_file(path, &mut documents)?;
        return Ok(documents);
    }
    let mut files = Vec::new();
    list_files(path, 0, &mut files)?;
    if files.is_empty() {
        return Err(DataError::NoTextFiles { path: path.to_owned() });
    }
    for file in files {
        read_file(&file, &mut documents)?;
    }
    Ok(documents)
}

/// Folders deeper than this are not searched: a link that leads back to its own folder must end somewhere.
const DEPTH_LIMIT: usize = 16;

fn list_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let refuse = |reason| DataError::Unreadable {
        path: folder.to_owned(),
        reason,
    };
    let entries = fs::read_dir(folder).map_err(refuse)?;
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refuse)?;
    paths.sort();
    for path in paths {
        match path.is_dir() {
            true if depth < DEPTH_LIMIT => list_files(&path, depth + 1, files)?,
            false if has_extension(&path, &["txt", "md", "jsonl"]) => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

fn has_extension(path: &Path, allowed: &[&str]) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| allowed.contains(&e.to_ascii_lowercase().as_str()))
}

fn read_file(path: &Path, documents: &mut Documents) -> Result<(), DataError> {
    let bytes = fs::read(path).map_err(|reason| DataError::Unreadable {
        path: path.to_owned(),
        reason,
    })?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            documents.files_not_utf8.push(path.to_owned());
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }
    };
    if !has_extension(path, &["jsonl"]) {
        documents.push(text);
        return Ok(());
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = || DataError::BadLine {
            path: path.to_owned(),
            line: index + 1,
        };
        let value: serde_json::Value = serde_json::from_str(line).map_err(|_| refuse())?;
        let text = value.get("text").and_then(|text| text.as_str()).ok_or_else(refuse)?;
        documents.push(text.to_owned());
    }
    Ok(())
}

impl Documents {
    fn push(&mut self, text: String) {
        let mut bytes = text.into_bytes();
        bytes
            .iter_mut()
            .filter(|byte| **byte == DOCUMENT_SEPARATOR)
            .for_each(|byte| *byte = b' ');
        if !bytes.is_empty() {
            self.texts.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_the_order_of_names_and_other_files_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        write("b.txt", b"second");
        write("a.MD", b"first\0");
        write(
            "deep/c.jsonl",
            b"{\"text\": \"third\"}\n\n{\"text\": \"fourth\", \"date\": 1}\n",
        );
        write("picture.png", b"\xff\xfe");
        write("empty.txt", b"");
        write("latin.txt", b"caf\xe9");
        let documents = read_documents(folder.path()).unwrap();
        let texts: Vec<_> = documents
            .texts
            .iter()
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect();
        assert_eq!(texts, ["first ", "second", "third", "fourth", "caf\u{fffd}"]);
        assert_eq!(documents.files_not_utf8, [folder.path().join("latin.txt")]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &Path, part: &str| {
            let error = read_documents(path).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains(path.to_str().unwrap()),
                "{error}"
            );
        };
        check(&folder.path().join("nowhere"), "does not exist");
        check(folder.path(), "holds no .txt, .md or .jsonl file");
        let lines = folder.path().join("lines.jsonl");
        fs::write(&lines, "{\"text\": \"good\"}\n{\"text\": 3}\n").unwrap();
        check(&lines, "line 2 of");
        fs::write(&lines, "{\"text\": \"cut").unwrap();
        check(&lines, "line 1 of");
    }
}
