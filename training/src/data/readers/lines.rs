//! Plain text and JSON Lines, as they are or compressed with gzip or zstd.
//! Zstandard is decoded by the C library (crate `zstd`): it is there anyway for Parquet, which
//! settles it (decision 0016); gzip by miniz_oxide in Rust.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::super::pieces::PieceCutter;
use super::{Compression, Content, DataError, Document, LINE_BYTES_MAX, Problem, Reading};

/// Text is looked at in blocks of this size.
const BLOCK_BYTES: usize = 1 << 20;

/// Counts what is taken from the file itself, to notice that it shrank.
struct Counted {
    file: File,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

/// An opened file, decompressed.
struct Opened {
    reader: Box<dyn BufRead>,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
    compression: Compression,
}

fn open(reading: &mut Reading<'_, '_>, compression: Compression) -> Option<Opened> {
    let taken = std::rc::Rc::new(std::cell::Cell::new(0));
    let file = File::open(&reading.file.path).map(|file| Counted {
        file,
        taken: taken.clone(),
    });
    let reader = file.and_then(|file| -> io::Result<Box<dyn BufRead>> {
        Ok(match compression {
            Compression::None => Box::new(BufReader::with_capacity(BLOCK_BYTES, file)),
            Compression::Gzip => {
                let decoder = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BLOCK_BYTES, file));
                Box::new(BufReader::with_capacity(BLOCK_BYTES, decoder))
            }
            Compression::Zstd => Box::new(BufReader::with_capacity(BLOCK_BYTES, zstd::Decoder::new(file)?)),
        })
    });
    match reader {
        Ok(reader) => Some(Opened {
            reader,
            taken,
            compression,
        }),
        Err(reason) => {
            reading.met(Problem::Unreadable, reason);
            None
        }
    }
}

impl Opened {
    /// Counts why reading ended before the end.
    fn failed(&self, reading: &mut Reading<'_, '_>, reason: &io::Error) {
        match self.compression {
            Compression::None => reading.met(Problem::Unreadable, reason),
            _ => reading.met(Problem::Cut, reason),
        }
    }

    /// Counts it where the file had fewer bytes than when it was listed.
    fn check_length(&self, reading: &mut Reading<'_, '_>) {
        let (taken, listed) = (self.taken.get(), reading.file.bytes);
        if taken < listed {
            reading.met(Problem::Shrunk, format_args!("{taken} of {listed} bytes"));
        }
    }
}

/// Reads one text. A long one is cut into pieces.
pub(super) fn read_text(mut reading: Reading<'_, '_>, compression: Compression) -> Result<(), DataError> {
    let Some(mut opened) = open(&mut reading, compression) else {
        return Ok(());
    };
    let mut cutter = PieceCutter::new(reading.cut.piece_bytes);
    let (mut block, mut pieces, mut given, mut replaced) = (Vec::new(), Vec::new(), 0, false);
    loop {
        let read = opened.reader.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block);
        let ended = !matches!(read, Ok(count) if count > 0);
        let whole = match ended {
            true => block.len(),
            false => whole_text(&block),
        };
        let text = String::from_utf8_lossy(&block[..whole]);
        replaced |= matches!(text, std::borrow::Cow::Owned(_));
        cutter.push(&text, &mut pieces);
        block.drain(..whole);
        give_pieces(&mut reading, &mut pieces, &mut given)?;
        match read {
            Err(reason) => {
                opened.failed(&mut reading, &reason);
                break;
            }
            Ok(0) => {
                opened.check_length(&mut reading);
                break;
            }
            Ok(_) => {}
        }
    }
    cutter.finish(&mut pieces);
    give_pieces(&mut reading, &mut pieces, &mut given)?;
    if replaced {
        reading.met(Problem::NotUtf8, "replaced by U+FFFD");
    }
    if given == 0 {
        reading.met(Problem::Empty, "no text");
    }
    Ok(())
}

fn give_pieces(reading: &mut Reading<'_, '_>, pieces: &mut Vec<String>, given: &mut u64) -> Result<(), DataError> {
    for piece in pieces.drain(..) {
        *given += 1;
        let document = Document {
            content: Content::Text(piece),
            metadata: reading.metadata(*given),
            continues: *given > 1,
        };
        reading.give(document)?;
    }
    Ok(())
}

/// Bytes up to the last end of a line, or of a character where there is no line.
fn whole_text(block: &[u8]) -> usize {
    if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
        return at + 1;
    }
    let tail = block.len().saturating_sub(4);
    let begins = |byte: &u8| *byte & 0xC0 != 0x80;
    block[tail..]
        .iter()
        .rposition(begins)
        .map_or(block.len(), |at| tail + at)
}

/// Reads one JSON object a line; its text under the field that the options name, all else as metadata.
pub(super) fn read_json_lines(mut reading: Reading<'_, '_>, compression: Compression) -> Result<(), DataError> {
    let Some(mut opened) = open(&mut reading, compression) else {
        return Ok(());
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        match next_line(&mut opened.reader, &mut line) {
            Ok(Line::Whole) => read_line(&mut reading, &line, number)?,
            Ok(Line::TooLong) => reading.met_at(Problem::LongLine, number),
            Ok(Line::None) => {
                opened.check_length(&mut reading);
                break;
            }
            Err(reason) => {
                opened.failed(&mut reading, &reason);
                break;
            }
        }
    }
    Ok(())
}

fn read_line(reading: &mut Reading<'_, '_>, line: &[u8], number: u64) -> Result<(), DataError> {
    let text = String::from_utf8_lossy(line);
    if text.trim().is_empty() {
        return Ok(());
    }
    if matches!(text, std::borrow::Cow::Owned(_)) {
        reading.met_at(Problem::NotUtf8, number);
    }
    let Ok(mut fields) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) else {
        reading.met_at(Problem::NotJson, number);
        return Ok(());
    };
    let Some(serde_json::Value::String(text)) = fields.remove(&reading.options.text_field) else {
        reading.met_at(Problem::NoText, number);
        return Ok(());
    };
    if text.is_empty() {
        reading.met_at(Problem::Empty, number);
        return Ok(());
    }
    let mut metadata = reading.metadata(number);
    for (key, value) in fields {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(value) => value,
            value => value.to_string(),
        };
        reading.describe(&mut metadata, key, value, number);
    }
    reading.give(Document::text(text, metadata))
}

enum Line {
    Whole,
    TooLong,
    None,
}

/// Reads a line without its end; of one that is too long nothing is kept.
fn next_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    let (mut any, mut too_long) = (false, false);
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            break;
        }
        any = true;
        let end = block.iter().position(|byte| *byte == b'\n');
        let part = &block[..end.unwrap_or(block.len())];
        too_long |= line.len() + part.len() > LINE_BYTES_MAX;
        match too_long {
            true => line.clear(),
            false => line.extend_from_slice(part),
        }
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            break;
        }
    }
    Ok(match (any, too_long) {
        (false, _) => Line::None,
        (true, true) => Line::TooLong,
        (true, false) => Line::Whole,
    })
}
