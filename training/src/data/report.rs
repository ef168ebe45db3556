//! What was found while reading data: counts, and for each kind of trouble the first places where it was met.
//! It decides nothing; reading goes on past what is counted here, and errors proper are [`DataError`](super::DataError)s.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Vocabulary;

/// Places that are named for each kind of trouble; the rest is counted.
const EXAMPLES: usize = 3;

/// A kind of trouble with data that reading survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// Bytes that are no UTF-8: replaced by U+FFFD, the text is used.
    NotUtf8,
    /// A line that is no JSON object: left out.
    NotJson,
    /// A document whose text field is missing or no string: left out.
    NoText,
    /// A document without text: left out.
    Empty,
    /// A line longer than [`LINE_BYTES_MAX`](super::LINE_BYTES_MAX): left out.
    LongLine,
    /// A metadata value longer than [`METADATA_BYTES_MAX`](super::METADATA_BYTES_MAX): the value is left out.
    LongMetadata,
    /// A compressed file that ends too early or is damaged: what came before is used.
    Cut,
    /// A file that ended before its size when it was opened: what came before is used.
    Shrunk,
    /// A file whose structure is wrong: what came before is used.
    Malformed,
    /// A file that cannot be opened or read: what came before is used.
    Unreadable,
    /// A document of tokens with one that the vocabulary does not have: left out.
    ForeignToken,
    /// A file or folder nested too deeply, or neither: left out.
    NotSearched,
}

impl Problem {
    fn sentence(self) -> &'static str {
        match self {
            Self::NotUtf8 => "text with bytes that are no UTF-8, replaced",
            Self::NotJson => "lines that are no JSON object, left out",
            Self::NoText => "documents whose text field is missing or no string, left out",
            Self::Empty => "documents without text, left out",
            Self::LongLine => "lines that are too long, left out",
            Self::LongMetadata => "metadata values that are too long, left out",
            Self::Cut => "compressed files that are cut off or damaged, used up to there",
            Self::Shrunk => "files that shrank while they were read, used up to there",
            Self::Malformed => "files whose structure is wrong, used up to there",
            Self::Unreadable => "files that cannot be read, used up to there",
            Self::ForeignToken => "documents with tokens that the vocabulary does not have, left out",
            Self::NotSearched => "entries that are neither file nor folder or too deep, left out",
        }
    }
}

/// How often a problem was met, and where first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// Times.
    pub count: u64,
    /// The first few places, as `path:line` or `path: what`.
    pub first: Vec<String>,
}

/// What was read, and what was wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataReport {
    /// Files that were opened.
    pub files: u64,
    /// Files in the folders that are of no known kind, and were left alone.
    pub other_files: u64,
    /// Documents that are used. A long plain text counts as several.
    pub documents: u64,
    /// Bytes of text in them (tokens, where files hold tokens).
    pub bytes: u64,
    /// What was met; empty where all was well.
    pub problems: BTreeMap<Problem, Met>,
}

impl DataReport {
    /// Counts a problem at a place; `place` is only asked for the first few.
    pub fn met(&mut self, problem: Problem, place: impl FnOnce() -> String) {
        let met = self.problems.entry(problem).or_default();
        met.count += 1;
        if met.first.len() < EXAMPLES {
            met.first.push(place());
        }
    }

    /// Times that a problem was met.
    pub fn count(&self, problem: Problem) -> u64 {
        self.problems.get(&problem).map_or(0, |met| met.count)
    }

    /// Documents that are left out because they are damaged; one without text is not.
    pub fn left_out(&self) -> u64 {
        let damage = [
            Problem::NotJson,
            Problem::NoText,
            Problem::LongLine,
            Problem::ForeignToken,
        ];
        damage.into_iter().map(|problem| self.count(problem)).sum()
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            files,
            other_files,
            documents,
            bytes,
            ..
        } = self;
        write!(f, "{documents} documents, {bytes} bytes, from {files} files")?;
        if *other_files > 0 {
            write!(f, " ({other_files} of other kinds left alone)")?;
        }
        for (problem, Met { count, first }) in &self.problems {
            write!(f, "; {count} {}: {}", problem.sentence(), first.join(", "))?;
            if *count > first.len() as u64 {
                f.write_str(", …")?;
            }
        }
        Ok(())
    }
}

/// What a member's data has come to: what was read, and how it was cut and split. It is told to the operator, so that
/// nothing is left out silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSummary {
    /// What was read, and what was wrong with it.
    pub report: DataReport,
    /// What a token is.
    pub vocabulary: Vocabulary,
    /// Tokens for training.
    pub training_tokens: u64,
    /// Tokens that are kept out of training for evaluation.
    pub heldout_tokens: u64,
}

impl fmt::Display for DataSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            report,
            vocabulary,
            training_tokens,
            heldout_tokens,
        } = self;
        let unit = match vocabulary {
            Vocabulary::Byte => "bytes",
            Vocabulary::Tokenizer(_) => "tokens",
        };
        write!(
            f,
            "{training_tokens} {unit} for training, {heldout_tokens} held out, of {report}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_places_are_named_and_the_rest_counted() {
        let mut report = DataReport::default();
        assert!(report.is_clean());
        for line in 1..=5 {
            report.met(Problem::NotJson, || format!("a.jsonl:{line}"));
        }
        assert_eq!((report.count(Problem::NotJson), report.count(Problem::Cut)), (5, 0));
        let text = report.to_string();
        assert!(
            text.contains("5 lines that are no JSON object, left out: a.jsonl:1, a.jsonl:2, a.jsonl:3, …"),
            "{text}"
        );
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains("not_json"), "{json}");
        assert_eq!(serde_json::from_str::<DataReport>(&json).unwrap(), report);
    }
}
