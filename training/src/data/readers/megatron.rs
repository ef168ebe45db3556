//! Megatron's indexed tokens: `NAME.bin` with the tokens of all sequences, `NAME.idx` with where each begins.
//! The index: `MMIDIDX\0\0`, version 1 (u64), a code for the tokens' type (u8), the numbers of sequences and of document
//! boundaries (u64 each), lengths (i32), offsets in bytes (i64), first sequences of documents (i64); all little-endian.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::stream::little_endian;
use super::{DataError, Problem, Reading};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER_BYTES: usize = 9 + 8 + 1 + 8 + 8;

/// What an index says, checked.
struct Index {
    width: usize,
    lengths: Vec<u32>,
    offsets: Vec<u64>,
    /// First sequences of documents, and the number of sequences at the end.
    documents: Vec<u64>,
}

pub(super) fn read(mut reading: Reading<'_, '_>) -> Result<(), DataError> {
    let path = &reading.file.path;
    let index = File::open(path.with_extension("idx")).and_then(|mut file| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map(|_| bytes)
    });
    let tokens = File::open(path.with_extension("bin")).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (index, (bytes, file)) = match (index, tokens) {
        (Ok(index), Ok(tokens)) => (index, tokens),
        (Err(reason), _) | (_, Err(reason)) => {
            reading.met(Problem::Unreadable, reason);
            return Ok(());
        }
    };
    let index = match Index::parse(&index, bytes) {
        Ok(index) => index,
        Err(what) => {
            reading.met(Problem::Malformed, what);
            return Ok(());
        }
    };
    let mut block = Vec::new();
    for (place, bounds) in index.documents.windows(2).enumerate() {
        let mut tokens = Vec::new();
        for sequence in bounds[0] as usize..bounds[1] as usize {
            block.resize(index.lengths[sequence] as usize * index.width, 0);
            if let Err(reason) = file.read_exact_at(&mut block, index.offsets[sequence]) {
                let problem = match reason.kind() {
                    std::io::ErrorKind::UnexpectedEof => Problem::Shrunk,
                    _ => Problem::Unreadable,
                };
                reading.met(problem, format_args!("document {}: {reason}", place + 1));
                return Ok(());
            }
            let numbers = block.chunks_exact(index.width);
            // Eight-byte tokens that do not fit become a token that no vocabulary has.
            tokens.extend(numbers.map(|bytes| match bytes.get(4..) {
                Some(high) if high.iter().any(|byte| *byte != 0) => u32::MAX,
                _ => little_endian(&bytes[..bytes.len().min(4)]),
            }));
        }
        reading.give_tokens(tokens, place as u64 + 1)?;
    }
    Ok(())
}

impl Index {
    fn parse(bytes: &[u8], token_bytes: u64) -> Result<Self, String> {
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or("the index is shorter than its header")?;
        if &header[..9] != MAGIC || long(&header[9..]) != 1 {
            return Err("the index does not begin as version 1 of Megatron's does".to_owned());
        }
        let width = match header[17] {
            1 | 2 => 1,
            3 | 8 => 2,
            4 => 4,
            5 => 8,
            code => return Err(format!("type {code} is none of whole numbers")),
        };
        let (sequences, boundaries) = (long(&header[18..]), long(&header[26..]));
        let expected = sequences
            .checked_mul(12)
            .and_then(|bytes| bytes.checked_add(boundaries.checked_mul(8)?))
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64));
        if expected != Some(bytes.len() as u64) {
            return Err(format!(
                "the index has {} bytes, not those of {sequences} sequences and {boundaries} boundaries",
                bytes.len()
            ));
        }
        let (lengths, rest) = bytes[HEADER_BYTES..].split_at(4 * sequences as usize);
        let (offsets, documents) = rest.split_at(8 * sequences as usize);
        let index = Self {
            width,
            lengths: lengths.chunks_exact(4).map(little_endian).collect(),
            offsets: offsets.chunks_exact(8).map(long).collect(),
            documents: documents.chunks_exact(8).map(long).collect(),
        };
        let inside = index.lengths.iter().zip(&index.offsets).all(|(length, offset)| {
            let end = u64::from(*length)
                .checked_mul(width as u64)
                .and_then(|bytes| bytes.checked_add(*offset));
            end.is_some_and(|end| end <= token_bytes)
        });
        let ordered = index.documents.is_sorted() && index.documents.last().is_none_or(|last| *last <= sequences);
        match (inside, ordered) {
            (false, _) => Err(format!("a sequence lies beyond the {token_bytes} bytes of tokens")),
            (_, false) => Err("the documents' boundaries are out of order".to_owned()),
            (true, true) => Ok(index),
        }
    }
}

/// A number of eight bytes.
fn long(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}
