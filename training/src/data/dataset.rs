//! A member's data as rows for training and for evaluation: split by document, packed, shuffled by number.
//! A row depends on the data, the order's name and its position alone, so that training goes on exactly where it stopped.
//!
//! Documents of one side of the split are joined to one stream, an end-of-document token behind each, and the stream is
//! cut into rows of `context` tokens and the one after. An epoch shifts the cuts and shuffles the rows, both by its number.

use std::path::PathBuf;

use rayon::prelude::*;

use super::document::{Content, Document, Metadata};
use super::permutation::Permutation;
use super::readers::{Cut, list_files, read_files};
use super::split::choose_heldout;
use super::store::{Builder, Origin, Store};
use super::tokenizer::{Tokenizer, WordCache};
use super::{Batch, DataError, DataOptions, DataReport, DataSummary, Windows};
use crate::config::Vocabulary;
use crate::objectives::{GoldfishMode, document_starts, mask_after_eod, mask_goldfish};
use crate::randomness::{StreamName, below};

/// Text that is cut into tokens at a time, by all threads: enough that starting them costs nothing.
const GROUP_BYTES: usize = 8 << 20;

/// Whose order of rows: members draw different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The session's seed.
    pub seed: u64,
    /// The member's id.
    pub member: [u8; 32],
}

/// How far the making of tokens is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildProgress {
    /// Bytes of text, or tokens, that are done.
    pub done: u64,
    /// Bytes of the files; text in compressed files is longer.
    pub files_bytes: u64,
}

/// A member's data, split.
#[derive(Debug)]
pub struct Dataset {
    store: Store,
    windows: Windows,
    training: Part,
    heldout: Part,
}

/// One side of the split as a stream: runs of documents that touch, and how many tokens lie before each.
#[derive(Debug, Default)]
struct Part {
    runs: Vec<Run>,
    tokens: u64,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    before: u64,
    start: u64,
    length: u64,
}

impl Dataset {
    /// Reads and splits the data that `options` name, or takes up the tokens that were made of it before.
    pub fn open(options: impl Into<DataOptions>, windows: Windows) -> Result<Self, DataError> {
        Self::open_with_progress(options, windows, &mut |_| ())
    }

    /// The same; `progress` hears of each few megabytes.
    pub fn open_with_progress(
        options: impl Into<DataOptions>,
        windows: Windows,
        progress: &mut dyn FnMut(BuildProgress),
    ) -> Result<Self, DataError> {
        let options = options.into();
        let mut report = DataReport::default();
        let files = list_files(&options, &mut report)?;
        // The right tokenizer must be there even where all is cut already: it may be asked to decode.
        let tokenizer = Tokenizer::open(&windows.vocabulary, options.tokenizer.as_deref())?;
        let origin = Origin::new(windows.vocabulary, &options.text_field, windows.piece_bytes(), files);
        let kept = options.shards.as_ref().and_then(|folder| Store::open(folder, &origin));
        let store = match kept {
            Some(store) => store,
            None => build(&options, &origin, &tokenizer, report, progress)?,
        };
        Self::split(store, windows, options.named())
    }

    fn split(store: Store, windows: Windows, path: PathBuf) -> Result<Self, DataError> {
        let (found, needed) = (store.tokens(), windows.least_tokens());
        let documents = store.entries().len();
        if documents == 0 {
            let report = Box::new(store.report().clone());
            return Err(DataError::Empty { path, needed, report });
        }
        let left_out = store.report().left_out();
        let all = documents as u64 + left_out;
        if left_out * 10 > all {
            let report = Box::new(store.report().clone());
            return Err(DataError::Damaged {
                path,
                left_out,
                all,
                report,
            });
        }
        if found < needed {
            let report = Box::new(store.report().clone());
            return Err(match windows.vocabulary {
                Vocabulary::Byte => DataError::TooSmall {
                    path,
                    found: store.report().bytes,
                    needed,
                    report,
                },
                Vocabulary::Tokenizer(_) => DataError::TooFewTokens {
                    path,
                    found,
                    needed,
                    report,
                },
            });
        }
        let marks: Vec<u32> = store.entries().iter().map(|entry| entry.mark).collect();
        let lengths: Vec<u64> = (0..documents).map(|document| store.length(document)).collect();
        let least = windows.context as u64 + 1;
        let heldout = choose_heldout(&marks, &lengths, windows.heldout_fraction, least)
            .ok_or(DataError::CannotSplit { path, documents })?;
        let part = |wanted| {
            let mut part = Part::default();
            let of_side = (0..documents).filter(|document| heldout[*document] == wanted);
            of_side.for_each(|document| part.push(store.entries()[document].start, lengths[document]));
            part
        };
        let (training, held) = (part(false), part(true));
        Ok(Self {
            store,
            windows,
            training,
            heldout: held,
        })
    }

    /// Documents that are used; pieces of long plain texts count as documents.
    pub fn documents(&self) -> usize {
        self.store.entries().len()
    }

    /// What was read, and what was wrong with it.
    pub fn report(&self) -> &DataReport {
        self.store.report()
    }

    /// The same with how it was cut and split, for the operator.
    pub fn summary(&self) -> DataSummary {
        DataSummary {
            report: self.report().clone(),
            vocabulary: self.windows.vocabulary,
            training_tokens: self.training.tokens,
            heldout_tokens: self.heldout.tokens,
        }
    }

    /// Tokens for training and tokens held out.
    pub fn tokens(&self) -> (u64, u64) {
        (self.training.tokens, self.heldout.tokens)
    }

    /// Rows of an epoch: every token but a few at the ends is predicted once.
    pub fn rows_per_epoch(&self) -> u64 {
        let context = self.windows.context as u64;
        ((self.training.tokens - context) / context).max(1)
    }

    /// The rows from `position` on, rows being counted from the session's beginning through all epochs.
    pub fn training_batch(&self, order: Order, position: u64, rows: usize) -> Result<Batch, DataError> {
        let mut batch = self.empty_batch();
        let mut epoch = None;
        for position in position..position + rows as u64 {
            let number = position / self.rows_per_epoch();
            if epoch.as_ref().is_none_or(|(known, _)| *known != number) {
                epoch = Some((number, Epoch::new(self, order, number)));
            }
            let (_, epoch) = epoch.as_ref().expect("it was just set");
            let start = epoch.start(position % self.rows_per_epoch(), self.windows.context);
            self.push_row(&self.training, start, true, &mut batch)?;
        }
        Ok(batch)
    }

    /// What is known of the documents in the row at `position`.
    pub fn training_documents(&self, order: Order, position: u64) -> Result<Vec<Metadata>, DataError> {
        let epoch = Epoch::new(self, order, position / self.rows_per_epoch());
        let start = epoch.start(position % self.rows_per_epoch(), self.windows.context);
        let mut found = Vec::new();
        for range in self.training.ranges(start, self.windows.context as u64) {
            let first = self.store.entries().partition_point(|entry| entry.start <= range.start) - 1;
            let after = self.store.entries().partition_point(|entry| entry.start < range.end);
            for document in first..after {
                found.push(self.store.metadata(document)?);
            }
        }
        Ok(found)
    }

    /// Where held-out rows begin: at most `most`, side by side in the text or evenly spread over it.
    pub fn heldout_rows(&self, most: usize) -> Vec<u64> {
        let context = self.windows.context as u64;
        let all = (self.heldout.tokens - 1) / context;
        let count = all.min(most as u64);
        (0..count)
            .map(|row| (u128::from(row) * u128::from(all) / u128::from(count)) as u64 * context)
            .collect()
    }

    /// The held-out rows that begin there. Every token counts, whatever the session leaves out of its training loss but
    /// those behind an end of document.
    pub fn heldout_batch(&self, starts: &[u64]) -> Result<Batch, DataError> {
        let mut batch = self.empty_batch();
        for start in starts {
            self.push_row(&self.heldout, *start, false, &mut batch)?;
        }
        Ok(batch)
    }

    fn empty_batch(&self) -> Batch {
        let loss = &self.windows.loss;
        let weighted = loss.goldfish.is_some() || loss.mask_after_eod;
        Batch {
            length: self.windows.context,
            weights: weighted.then(Vec::new),
            starts: loss.separate_documents.then(Vec::new),
            ..Batch::default()
        }
    }

    fn push_row(&self, part: &Part, start: u64, training: bool, batch: &mut Batch) -> Result<(), DataError> {
        let (context, loss, eod) = (batch.length, &self.windows.loss, self.windows.vocabulary.eod());
        let goldfish = loss.goldfish.filter(|_| training);
        // The tokens before the first target, of which one belongs to the row.
        let look_back = match goldfish {
            Some(goldfish) if goldfish.mode == GoldfishMode::Mixed => u64::from(goldfish.h - 1).min(start),
            _ => 0,
        };
        let mut stream = Vec::new();
        for range in part.ranges(start - look_back, look_back + context as u64 + 1) {
            self.store.read(range, &mut stream)?;
        }
        let window = &stream[look_back as usize..];
        batch.push_window(window);
        let (tokens, targets) = (&window[..context], &window[1..]);
        if let Some(weights) = &mut batch.weights {
            let row = weights.len();
            weights.resize(row + context, 1.0);
            let weights = &mut weights[row..];
            if loss.mask_after_eod {
                mask_after_eod(tokens, eod, weights);
            }
            if let Some(goldfish) = &goldfish {
                mask_goldfish(goldfish, &stream[..look_back as usize + 1], targets, eod, weights);
            }
        }
        if let Some(starts) = &mut batch.starts {
            document_starts(tokens, eod, starts);
        }
        Ok(())
    }
}

/// One pass over the training rows.
struct Epoch {
    shift: u64,
    order: Permutation,
}

impl Epoch {
    fn new(data: &Dataset, order: Order, number: u64) -> Self {
        let name = |purpose| StreamName {
            purpose,
            seed: order.seed,
            member: order.member,
            round: number,
            step: 0,
        };
        let (context, rows) = (data.windows.context as u64, data.rows_per_epoch());
        let room = data.training.tokens - 1 - rows * context;
        Self {
            shift: below(&mut name("epoch shift").open(), room.min(context - 1) + 1),
            order: Permutation::new(name("epoch order"), rows),
        }
    }

    /// Where the row begins that comes at this place of the epoch.
    fn start(&self, place: u64, context: usize) -> u64 {
        self.shift + self.order.at(place) * context as u64
    }
}

impl Part {
    fn push(&mut self, start: u64, length: u64) {
        match self.runs.last_mut() {
            Some(run) if run.start + run.length == start => run.length += length,
            _ => self.runs.push(Run {
                before: self.tokens,
                start,
                length,
            }),
        }
        self.tokens += length;
    }

    /// The ranges of the store that hold `count` tokens of this side, from its token `start` on.
    fn ranges(&self, start: u64, count: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
        let (mut at, end) = (start, start + count);
        assert!(end <= self.tokens, "{end} of {} tokens", self.tokens);
        let mut run = self.runs.partition_point(|run| run.before + run.length <= start);
        std::iter::from_fn(move || {
            if at == end {
                return None;
            }
            let Run { before, start, length } = self.runs[run];
            let until = end.min(before + length);
            let range = start + (at - before)..start + (until - before);
            (at, run) = (until, run + 1);
            Some(range)
        })
    }
}

/// Reads all documents and writes their tokens.
fn build(
    options: &DataOptions,
    origin: &Origin,
    tokenizer: &Tokenizer,
    mut report: DataReport,
    progress: &mut dyn FnMut(BuildProgress),
) -> Result<Store, DataError> {
    let mut builder = Builder::new(origin, options.shards.as_deref())?;
    let files_bytes = origin.sources.iter().map(|file| file.bytes).sum();
    let mut caches = Vec::new();
    caches.resize_with(rayon::current_num_threads(), WordCache::default);
    let (mut group, mut group_bytes, mut done) = (Vec::new(), 0, 0);
    let cut = Cut {
        piece_bytes: origin.piece_bytes,
        eod: origin.vocabulary.eod(),
        vocabulary: origin.vocabulary.size(),
    };
    read_files(&origin.sources, options, cut, &mut report, &mut |document| {
        group_bytes += document.content.len();
        group.push(document);
        if group_bytes >= GROUP_BYTES {
            write_group(&mut builder, tokenizer, &mut caches, &mut group)?;
            done += std::mem::take(&mut group_bytes) as u64;
            progress(BuildProgress { done, files_bytes });
        }
        Ok(())
    })?;
    write_group(&mut builder, tokenizer, &mut caches, &mut group)?;
    done += group_bytes as u64;
    progress(BuildProgress { done, files_bytes });
    builder.finish(origin, report)
}

/// Cuts documents into tokens, each thread a stretch of about as many bytes, and writes them in order.
fn write_group(
    builder: &mut Builder,
    tokenizer: &Tokenizer,
    caches: &mut [WordCache],
    group: &mut Vec<Document>,
) -> Result<(), DataError> {
    let total: usize = group.iter().map(|document| document.content.len()).sum();
    let share = total.div_ceil(caches.len()).max(1);
    let mut stretches: Vec<&[Document]> = Vec::new();
    let (mut begin, mut size) = (0, 0);
    for (at, document) in group.iter().enumerate() {
        size += document.content.len();
        if size >= share || at + 1 == group.len() {
            stretches.push(&group[begin..=at]);
            (begin, size) = (at + 1, 0);
        }
    }
    let encoded = stretches
        .par_iter()
        .zip(caches)
        .map(|(documents, cache)| encode_stretch(tokenizer, documents, cache))
        .collect::<Result<Vec<_>, DataError>>()?;
    for (documents, (tokens, marks)) in stretches.iter().zip(&encoded) {
        let mut at = 0;
        for (document, (mark, end)) in documents.iter().zip(marks) {
            builder.push(&tokens[at..*end], *mark, &document.metadata, document.continues)?;
            at = *end;
        }
    }
    group.clear();
    Ok(())
}

/// The tokens of documents one after the other, and of each its mark and where its tokens end.
type Encoded = (Vec<u32>, Vec<(u32, usize)>);

fn encode_stretch(tokenizer: &Tokenizer, documents: &[Document], cache: &mut WordCache) -> Result<Encoded, DataError> {
    let (mut tokens, mut marks) = (Vec::new(), Vec::new());
    for document in documents {
        match &document.content {
            Content::Text(text) => tokenizer.encode(text, cache, &mut tokens)?,
            Content::Tokens(known) => tokens.extend_from_slice(known),
        }
        marks.push((document.content.mark(), tokens.len()));
    }
    Ok((tokens, marks))
}
