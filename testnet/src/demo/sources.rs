//! Each institution's own text: four unlike sources, from Debian's text packages or, without these, from this machine.
//! It downloads nothing (scripts/fetch-demo-data does) and splits nothing: what is held out, each node decides by itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::DemoError;
use super::unpack::{UnpackError, bible_text, gunzip, r_texts};

/// Each institution's text at most: a few minutes of training read a small part of it.
const MOST_BYTES: usize = 4 << 20;
/// Text of this machine is taken for a source from here on.
const LEAST_BYTES: usize = 300 << 10;
/// Institutions in the demo.
pub const COUNT: usize = 4;

/// One institution with its text.
#[derive(Debug, Clone)]
pub struct Institution {
    /// Its name, which is its node's folder.
    pub name: String,
    /// What it holds, for people.
    pub source: String,
    /// The folder with its text.
    pub folder: PathBuf,
    /// Bytes of text.
    pub bytes: usize,
}

/// A document's file name and its text.
type Document = (String, String);

/// One of the four packages.
struct Package {
    name: &'static str,
    institution: &'static str,
    source: &'static str,
    file: &'static str,
    read: fn(&[u8]) -> Result<Vec<Document>, UnpackError>,
}

const PACKAGES: [Package; COUNT] = [
    Package {
        name: "dict-foldoc",
        institution: "dictionary",
        source: "Free On-line Dictionary of Computing",
        file: "usr/share/dictd/foldoc.dict.dz",
        read: |bytes| Ok(vec![("foldoc".to_owned(), gunzip(bytes)?)]),
    },
    Package {
        name: "bible-kjv-text",
        institution: "scripture",
        source: "King James Bible",
        file: "usr/lib/bible.data",
        read: |bytes| Ok(books(&bible_text(bytes)?)),
    },
    Package {
        name: "jargon-text",
        institution: "hackers",
        source: "Jargon File",
        file: "usr/share/doc/jargon-text/jargon.txt.gz",
        read: |bytes| Ok(vec![("jargon".to_owned(), gunzip(bytes)?)]),
    },
    Package {
        name: "r-cran-janeaustenr",
        institution: "novels",
        source: "novels of Jane Austen",
        file: "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
        read: |bytes| {
            let texts = r_texts(bytes)?.into_iter().enumerate();
            Ok(texts
                .map(|(index, text)| (format!("novel-{}", index + 1), text))
                .collect())
        },
    },
];

/// Text that machines have anyway.
struct Local {
    institution: &'static str,
    source: &'static str,
    folders: &'static [&'static str],
    accepts: fn(&str) -> bool,
}

/// In order of preference. Small systems have neither manuals nor change logs; whoever built this has a compiler's headers
/// and the sources of crates.
const LOCALS: [Local; 7] = [
    Local {
        institution: "manuals",
        source: "manual pages",
        folders: &[
            "/usr/share/man/man1",
            "/usr/share/man/man3",
            "/usr/share/man/man5",
            "/usr/share/man/man8",
        ],
        accepts: |name| name.ends_with(".gz"),
    },
    Local {
        institution: "changes",
        source: "change logs of packages",
        folders: &["/usr/share/doc"],
        accepts: |name| name.starts_with("changelog") || name.starts_with("NEWS"),
    },
    Local {
        institution: "licences",
        source: "licences",
        folders: &["/usr/share/common-licenses", "/usr/share/doc"],
        accepts: |name| name == "copyright" || name.starts_with("GPL") || name.starts_with("LGPL"),
    },
    Local {
        institution: "perl",
        source: "Perl modules",
        folders: &["/usr/share/perl", "/usr/share/perl5", "/usr/lib"],
        accepts: |name| name.ends_with(".pod") || name.ends_with(".pm"),
    },
    Local {
        institution: "headers",
        source: "C and C++ headers",
        folders: &["/usr/include", "/usr/lib/gcc"],
        accepts: |name| name.ends_with(".h") || name.ends_with(".hpp"),
    },
    Local {
        institution: "readmes",
        source: "documents of Rust crates",
        folders: &["$CARGO_HOME/registry/src"],
        accepts: |name| name.ends_with(".md"),
    },
    Local {
        institution: "crates",
        source: "source code of Rust crates",
        folders: &["$CARGO_HOME/registry/src"],
        accepts: |name| name.ends_with(".rs"),
    },
];

/// Writes the four institutions' text below `data/text`, from the packages unpacked in `data/packages` and, for each that
/// is not there, from this machine. `tell` hears what is used instead of what.
pub fn prepare(data: &Path, mut tell: impl FnMut(&str)) -> Result<Vec<Institution>, DemoError> {
    let text = data.join("text");
    if text.exists() {
        fs::remove_dir_all(&text).map_err(DemoError::io("empty", &text))?;
    }
    let mut institutions = Vec::new();
    for package in &PACKAGES {
        let file = data.join("packages").join(package.name).join(package.file);
        let Ok(bytes) = fs::read(&file) else { continue };
        let read = (package.read)(&bytes);
        let documents = read.map_err(|reason| DemoError::Package { file, reason })?;
        let source = format!("{} (Debian {})", package.source, package.name);
        institutions.push(write(&text, package.institution, source, documents)?);
    }
    if institutions.len() == COUNT {
        return Ok(institutions);
    }
    tell(&format!(
        "only {} of the {COUNT} text packages are in {}: text of this machine takes the others' place",
        institutions.len(),
        data.join("packages").display()
    ));
    for local in &LOCALS {
        let documents = local.collect();
        let bytes: usize = documents.iter().map(|(_, text)| text.len()).sum();
        if institutions.len() < COUNT && bytes >= LEAST_BYTES {
            institutions.push(write(
                &text,
                local.institution,
                format!("{} of this machine", local.source),
                documents,
            )?);
        }
    }
    match institutions.len() {
        COUNT => Ok(institutions),
        found => Err(DemoError::TooLittleText { found }),
    }
}

fn write(root: &Path, name: &str, source: String, documents: Vec<Document>) -> Result<Institution, DemoError> {
    let folder = root.join(name);
    fs::create_dir_all(&folder).map_err(DemoError::io("make", &folder))?;
    let mut bytes = 0;
    for (title, document) in documents {
        let text = cut(&document, MOST_BYTES - bytes);
        if text.trim().is_empty() {
            continue;
        }
        let path = folder.join(format!("{title}.txt"));
        fs::write(&path, text).map_err(DemoError::io("write", &path))?;
        bytes += text.len();
    }
    Ok(Institution {
        name: name.to_owned(),
        source,
        folder,
        bytes,
    })
}

/// At most `most` bytes from the beginning, whole characters.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// The Bible's lines `Ge1:1 In the beginning …` as one document a book, without the references.
fn books(text: &str) -> Vec<Document> {
    let mut books: Vec<Document> = Vec::new();
    for line in text.lines() {
        let Some((reference, verse)) = line.split_once(' ') else {
            continue;
        };
        let Some((place, _)) = reference.split_once(':') else {
            continue;
        };
        let book = place.trim_end_matches(|c: char| c.is_ascii_digit());
        if books.last().is_none_or(|(last, _)| !last.ends_with(book)) {
            books.push((format!("{:02}-{book}", books.len() + 1), String::new()));
        }
        if let Some((_, text)) = books.last_mut() {
            text.push_str(verse);
            text.push('\n');
        }
    }
    books
}

impl Local {
    /// All accepted files as one document of at most [`MOST_BYTES`]; none where there are no such files.
    fn collect(&self) -> Vec<Document> {
        let mut text = String::new();
        for folder in self.folders {
            self.walk(&expand(folder), 0, &mut text);
        }
        vec![(self.institution.to_owned(), text)]
    }

    fn walk(&self, folder: &Path, depth: usize, text: &mut String) {
        const DEPTH_LIMIT: usize = 8;
        // Folders of others may be closed to us: then there is no text in them for us.
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            if text.len() >= MOST_BYTES {
                return;
            }
            if kind.is_dir() && depth < DEPTH_LIMIT {
                self.walk(&entry.path(), depth + 1, text);
            } else if kind.is_file() && (self.accepts)(&entry.file_name().to_string_lossy()) {
                text.push_str(&read_text(&entry.path()).unwrap_or_default());
                text.push('\n');
            }
        }
    }
}

fn expand(folder: &str) -> PathBuf {
    let Some(rest) = folder.strip_prefix("$CARGO_HOME/") else {
        return PathBuf::from(folder);
    };
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    home.unwrap_or_default().join(rest)
}

fn read_text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    match path.extension().is_some_and(|extension| extension == "gz") {
        true => gunzip(&bytes).ok(),
        false => String::from_utf8(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verses_become_books_without_references() {
        let text = "Holy Bible. Textfile 930105.\nGe1:1 In the beginning.\nGe1:2 And the earth.\n1Sa1:1 Now there was.\n1Sa31:9 And they.\n";
        let expected = [
            ("01-Ge".to_owned(), "In the beginning.\nAnd the earth.\n".to_owned()),
            ("02-1Sa".to_owned(), "Now there was.\nAnd they.\n".to_owned()),
        ];
        assert_eq!(books(text), expected);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 9), "aé");
    }

    #[test]
    fn text_of_the_machine_is_collected_by_name_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local {
            institution: "x",
            source: "x",
            folders: &[],
            accepts: |name| name.ends_with(".md"),
        };
        fs::create_dir(folder.path().join("deep")).unwrap();
        for (name, length) in [("a.md", 10), ("b.rs", 10), ("deep/c.md", MOST_BYTES), ("e.md", 10)] {
            fs::write(folder.path().join(name), "x".repeat(length)).unwrap();
        }
        let mut text = String::new();
        local.walk(folder.path(), 0, &mut text);
        assert_eq!(text.len(), 11 + MOST_BYTES + 1);
        let written = write(folder.path(), "x", "x".to_owned(), vec![("x".to_owned(), text)]).unwrap();
        assert_eq!(written.bytes, MOST_BYTES);
    }

    #[test]
    fn without_packages_this_machine_has_four_sources() {
        let folder = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let institutions = prepare(folder.path(), |line| told.push(line.to_owned())).unwrap();
        assert_eq!((institutions.len(), told.len()), (COUNT, 1));
        assert!(institutions.iter().all(|one| one.bytes >= LEAST_BYTES));
    }
}
