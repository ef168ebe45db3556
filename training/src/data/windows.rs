//! The held-out split of a stream of bytes, and the windows that batches are made of.
//! Which window is drawn depends on session, member, round and step alone: a restarted member draws the same.

use std::ops::Range;
use std::path::Path;

use super::documents::{DOCUMENT_SEPARATOR, read_documents};
use super::{DataError, documents::Documents};
use crate::config::TrainingConfig;
use crate::randomness::{StreamName, below};

/// The sizes that a session cuts its text by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windows {
    /// Tokens that a window predicts; it is one byte longer.
    pub context: usize,
    /// The share of blocks that is held out.
    pub heldout_fraction: f32,
}

/// A block is this many windows long: few enough for small texts to have many blocks, long enough that little is lost
/// where training windows may not cross into a held-out block.
const WINDOWS_PER_BLOCK: usize = 8;

/// Less text than this many blocks is refused: a held-out loss on one block would be mostly noise.
const LEAST_BLOCKS: usize = 8;

impl Windows {
    /// The sizes of a session.
    pub fn of(config: &TrainingConfig, context: usize) -> Self {
        Self {
            context,
            heldout_fraction: config.heldout_fraction,
        }
    }

    /// The least text that can be split.
    pub fn least_bytes(&self) -> u64 {
        (LEAST_BLOCKS * self.block_bytes()) as u64
    }

    fn block_bytes(&self) -> usize {
        WINDOWS_PER_BLOCK * (self.context + 1)
    }
}

/// An institution's text, split.
#[derive(Debug, Clone)]
pub struct Dataset {
    stream: Vec<u8>,
    windows: Windows,
    training: Vec<Range<usize>>,
    heldout: Vec<Range<usize>>,
    documents: usize,
    files_not_utf8: usize,
}

impl Dataset {
    /// Reads and splits the text under `path`.
    pub fn open(path: &Path, windows: Windows) -> Result<Self, DataError> {
        let documents = read_documents(path)?;
        let (found, needed) = (
            documents.texts.iter().map(|text| text.len() as u64).sum(),
            windows.least_bytes(),
        );
        match found {
            0 => Err(DataError::Empty {
                path: path.to_owned(),
                needed,
            }),
            _ if found < needed => Err(DataError::TooSmall {
                path: path.to_owned(),
                found,
                needed,
            }),
            _ => Ok(Self::split(documents, windows)),
        }
    }

    fn split(documents: Documents, windows: Windows) -> Self {
        let (count, files_not_utf8) = (documents.texts.len(), documents.files_not_utf8.len());
        let stream = documents.texts.join(&[DOCUMENT_SEPARATOR][..]);
        let blocks = cut_blocks(stream.len(), windows.block_bytes());
        let marks: Vec<u32> = blocks.iter().map(|block| mark(&stream[block.clone()])).collect();
        let heldout = choose_heldout(&marks, windows.heldout_fraction);
        let runs = |wanted: bool| {
            merge(
                blocks
                    .iter()
                    .zip(&heldout)
                    .filter(|(_, is)| **is == wanted)
                    .map(|(b, _)| b),
            )
        };
        Self {
            windows,
            training: runs(false),
            heldout: runs(true),
            documents: count,
            files_not_utf8,
            stream,
        }
    }

    /// Documents that were read.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Files in which bytes that are no UTF-8 were replaced.
    pub fn files_not_utf8(&self) -> usize {
        self.files_not_utf8
    }

    /// Bytes for training and bytes held out.
    pub fn bytes(&self) -> (usize, usize) {
        let sum = |runs: &[Range<usize>]| runs.iter().map(Range::len).sum();
        (sum(&self.training), sum(&self.heldout))
    }

    /// Writes `sequences` windows of `context + 1` bytes, one after the other, over `batch`: each starts anywhere in the
    /// training text, all starts being equally likely.
    pub fn training_batch(&self, name: StreamName<'_>, sequences: usize, batch: &mut Vec<u8>) {
        let length = self.windows.context + 1;
        let starts: u64 = self.training.iter().map(|run| starts_in(run, length)).sum();
        let mut rng = name.open();
        batch.clear();
        for _ in 0..sequences {
            let mut place = below(&mut rng, starts);
            let run = self.training.iter().find(|run| {
                let here = starts_in(run, length);
                let found = place < here;
                place -= if found { 0 } else { here };
                found
            });
            let start = run
                .expect("a place below the sum of all starts is in one of them")
                .start
                + place as usize;
            batch.extend_from_slice(&self.stream[start..start + length]);
        }
    }

    /// At most `most` held-out windows of `context + 1` bytes, side by side in the text or evenly spread over it.
    pub fn heldout_windows(&self, most: usize) -> Vec<&[u8]> {
        let length = self.windows.context + 1;
        let all: Vec<&[u8]> = self
            .heldout
            .iter()
            .flat_map(|run| self.stream[run.clone()].chunks_exact(length))
            .collect();
        let count = all.len().min(most);
        (0..count).map(|index| all[index * all.len() / count]).collect()
    }
}

/// Blocks of `size` bytes; the last one takes the rest.
fn cut_blocks(length: usize, size: usize) -> Vec<Range<usize>> {
    let count = (length / size).max(1);
    (0..count)
        .map(|i| i * size..if i + 1 == count { length } else { (i + 1) * size })
        .collect()
}

/// A number that depends on a block's bytes alone.
fn mark(block: &[u8]) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(block).as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Blocks with a mark below the fraction are held out; at least one is, and at least one is not.
fn choose_heldout(marks: &[u32], fraction: f32) -> Vec<bool> {
    let limit = (f64::from(fraction) * f64::from(u32::MAX)) as u32;
    let mut heldout: Vec<bool> = marks.iter().map(|mark| *mark < limit).collect();
    let by_mark = |index: &usize| marks[*index];
    if heldout.iter().all(|is| !is)
        && let Some(first) = (0..marks.len()).min_by_key(by_mark)
    {
        heldout[first] = true;
    }
    if heldout.iter().all(|is| *is)
        && let Some(last) = (0..marks.len()).max_by_key(by_mark)
    {
        heldout[last] = false;
    }
    heldout
}

/// Joins blocks that touch.
fn merge<'a>(blocks: impl Iterator<Item = &'a Range<usize>>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == block.start => run.end = block.end,
            _ => runs.push(block.clone()),
        }
    }
    runs
}

fn starts_in(run: &Range<usize>, length: usize) -> u64 {
    (run.len() + 1).saturating_sub(length) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const WINDOWS: Windows = Windows {
        context: 15,
        heldout_fraction: 0.2,
    };

    fn dataset(bytes: usize) -> Dataset {
        let text: Vec<u8> = (0..bytes).map(|i| 1 + (i * i / 7 % 251) as u8).collect();
        Dataset::split(
            Documents {
                texts: vec![text],
                files_not_utf8: Vec::new(),
            },
            WINDOWS,
        )
    }

    #[test]
    fn training_and_heldout_text_share_no_byte_and_leave_none_out() {
        let data = dataset(100_003);
        let mut places = vec![0u8; 100_003];
        for run in data.training.iter().chain(&data.heldout) {
            places[run.clone()].iter_mut().for_each(|place| *place += 1);
        }
        assert!(places.iter().all(|place| *place == 1));
        let (training, heldout) = data.bytes();
        assert!(
            (0.1..0.3).contains(&(heldout as f32 / (training + heldout) as f32)),
            "{training} {heldout}"
        );
    }

    #[test]
    fn the_smallest_text_allowed_has_both_parts_whatever_it_says() {
        for extra in 0..50 {
            let data = dataset(WINDOWS.least_bytes() as usize + extra);
            let (training, heldout) = data.bytes();
            assert!(
                training >= WINDOWS.block_bytes() && heldout >= WINDOWS.block_bytes(),
                "{training} {heldout}"
            );
            assert!(!data.heldout_windows(3).is_empty());
        }
    }

    #[test]
    fn batches_repeat_by_name_and_stay_in_training_text() {
        let data = dataset(20_000);
        let windows: BTreeSet<&[u8]> = data
            .training
            .iter()
            .flat_map(|run| data.stream[run.clone()].windows(16))
            .collect();
        let name = StreamName {
            purpose: "batch",
            seed: 4,
            member: [1; 32],
            round: 2,
            step: 3,
        };
        let (mut first, mut again, mut other) = (Vec::new(), Vec::new(), Vec::new());
        data.training_batch(name, 64, &mut first);
        data.training_batch(name, 64, &mut again);
        data.training_batch(StreamName { step: 4, ..name }, 64, &mut other);
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert_eq!(first.len(), 64 * 16);
        assert!(first.chunks(16).all(|window| windows.contains(window)));
    }

    #[test]
    fn too_little_text_is_refused_with_the_number_that_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.txt");
        std::fs::write(&path, "too small").unwrap();
        let error = Dataset::open(&path, WINDOWS).unwrap_err().to_string();
        assert!(
            error.contains("holds 9 bytes of text but this session needs at least 1024"),
            "{error}"
        );
        std::fs::write(&path, "").unwrap();
        let error = Dataset::open(&path, WINDOWS).unwrap_err().to_string();
        assert!(error.contains("no text at all") && error.contains("1024"), "{error}");
    }

    #[test]
    fn heldout_windows_are_spread_and_capped() {
        let data = dataset(100_000);
        assert_eq!(data.heldout_windows(10).len(), 10);
        let all = data.heldout_windows(usize::MAX);
        assert!(all.len() > 500 && all.iter().all(|window| window.len() == 16));
    }
}
