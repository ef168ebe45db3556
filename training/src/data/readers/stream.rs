//! Files of nothing but tokens, little-endian, two or four bytes each: what nanoGPT and its kin call `train.bin`.
//! The end-of-document token of the session parts documents; the file has no metadata.

use std::fs::File;
use std::io::{BufReader, Read};

use super::{DataError, Problem, Reading};

/// A document without an end is cut here, in tokens: at a million tokens nobody keeps it apart from the next.
const DOCUMENT_TOKENS_MAX: usize = 1 << 20;

pub(super) fn read(mut reading: Reading<'_, '_>, width: usize) -> Result<(), DataError> {
    let mut reader = match File::open(&reading.file.path) {
        Ok(file) => BufReader::with_capacity(1 << 20, file),
        Err(reason) => {
            reading.met(Problem::Unreadable, reason);
            return Ok(());
        }
    };
    let (mut tokens, mut place, mut taken) = (Vec::new(), 0, 0u64);
    let mut block = vec![0; 1 << 20];
    loop {
        let (filled, failure) = fill(&mut reader, &mut block);
        taken += filled as u64;
        for bytes in block[..filled].chunks_exact(width) {
            let token = little_endian(bytes);
            tokens.push(token);
            if token == reading.cut.eod || tokens.len() == DOCUMENT_TOKENS_MAX {
                place += 1;
                reading.give_tokens(std::mem::take(&mut tokens), place)?;
            }
        }
        if let Some(reason) = failure {
            reading.met(Problem::Unreadable, reason);
            break;
        }
        if filled < block.len() {
            let listed = reading.file.bytes;
            if !filled.is_multiple_of(width) {
                reading.met(Problem::Malformed, format_args!("{taken} bytes are no whole tokens"));
            }
            if taken < listed {
                reading.met(Problem::Shrunk, format_args!("{taken} of {listed} bytes"));
            }
            break;
        }
    }
    match tokens.is_empty() {
        true => Ok(()),
        false => reading.give_tokens(tokens, place + 1),
    }
}

/// Fills as much of the block as there is.
fn fill(reader: &mut impl Read, block: &mut [u8]) -> (usize, Option<std::io::Error>) {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(reason) if reason.kind() == std::io::ErrorKind::Interrupted => {}
            Err(reason) => return (filled, Some(reason)),
        }
    }
    (filled, None)
}

/// An unsigned number of up to four bytes.
pub(super) fn little_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| (number << 8) | u32::from(*byte))
}
