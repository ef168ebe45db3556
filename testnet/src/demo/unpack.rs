//! The formats that the demo's text packages come in, as plain UTF-8 text: gzip, R's lazy-load database, and the King James
//! Bible's own file with Unix `compress` inside (Welch 1984). It reads whole files into memory and knows no other formats.

use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};

/// Why a file is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// gzip or zlib says no.
    #[error("it is not compressed as expected ({0})")]
    Inflate(String),
    /// The structure is broken.
    #[error("it is cut or of another version ({0})")]
    Structure(&'static str),
}

type Unpacked<T> = Result<T, UnpackError>;

/// A gzip file (a dictd `.dz` is one, too) as text; bytes that are no UTF-8 are replaced.
pub fn gunzip(bytes: &[u8]) -> Unpacked<String> {
    let mut text = Vec::new();
    MultiGzDecoder::new(bytes)
        .read_to_end(&mut text)
        .map_err(|error| UnpackError::Inflate(error.to_string()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

// ---- R ----------------------------------------------------------------------------------------------------------------

/// Type codes of a string in R's serialization: plain ASCII, UTF-8.
const R_STRINGS: [[u8; 4]; 2] = [[0, 4, 0, 9], [0, 0, 0x80, 9]];

/// The texts of an R lazy-load database (`Rdata.rdb`) whose entries are vectors of lines: one text an entry.
/// An entry is its inflated length (4 bytes, big end first) and a zlib stream; the streams follow one another.
pub fn r_texts(mut rdb: &[u8]) -> Unpacked<Vec<String>> {
    let mut texts = Vec::new();
    while !rdb.is_empty() {
        let length = take_u32(&mut rdb)? as usize;
        let mut entry = Vec::new();
        let mut decoder = ZlibDecoder::new(rdb);
        decoder
            .read_to_end(&mut entry)
            .map_err(|error| UnpackError::Inflate(error.to_string()))?;
        if entry.len() != length {
            return Err(UnpackError::Structure("an entry has another length than it says"));
        }
        rdb = rdb
            .get(decoder.total_in() as usize..)
            .ok_or(UnpackError::Structure("it ends within an entry"))?;
        texts.push(r_lines(&entry));
    }
    Ok(texts)
}

/// All plain strings of one serialized value, a line each; what else is in it (names, attributes) has no such type.
fn r_lines(entry: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(rest) = entry.get(at..).filter(|rest| rest.len() >= 8) {
        let length = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        match rest.get(8..).and_then(|rest| rest.get(..length)) {
            Some(line) if R_STRINGS.iter().any(|code| rest.starts_with(code)) => {
                text += &String::from_utf8_lossy(line);
                text.push('\n');
                at += 8 + length;
            }
            // Nothing is aligned.
            _ => at += 1,
        }
    }
    text
}

// ---- the King James Bible ----------------------------------------------------------------------------------------------

/// The text of `bible.data`: after a name of 80 bytes, a table of windows, each compressed by itself.
/// Lines read `Ge1:1 In the beginning …`; the first line is a title.
pub fn bible_text(data: &[u8]) -> Unpacked<String> {
    let mut header = data
        .strip_prefix(b"EC02")
        .and_then(|rest| rest.get(76..))
        .ok_or(UnpackError::Structure("the beginning is not EC02"))?;
    let (_, window_bytes) = (take_u32(&mut header)?, take_u32(&mut header)? as usize);
    let windows = take_u32(&mut header)? as usize;
    let mut text = Vec::new();
    let mut from = take_u32(&mut header)? as usize;
    for _ in 0..windows {
        let to = take_u32(&mut header)? as usize;
        let window = data
            .get(from..to)
            .ok_or(UnpackError::Structure("a window lies outside of the file"))?;
        text.extend(uncompress(window, window_bytes)?);
        from = to;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A code that empties the dictionary.
const CLEAR: usize = 256;
const MOST_BITS: u32 = 16;

/// A `compress` stream of at most 16 bits a code, without its three bytes of header. At most `most` bytes come out.
///
/// Codes are written in groups of eight of one width, least significant bit first; when the width changes, the rest of the
/// group is padding.
fn uncompress(stream: &[u8], most: usize) -> Unpacked<Vec<u8>> {
    let mut out: Vec<u8> = Vec::with_capacity(most);
    // Each entry is a stretch of the output: the one before it and one byte more.
    let mut entries: Vec<(usize, usize)> = Vec::new();
    let mut bits = 9;
    let (mut at, mut group_at) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while let Some(code) = read_code(stream, at, bits) {
        at += bits as usize;
        if code == CLEAR {
            entries.clear();
            last = None;
            (at, bits) = (next_group(at, group_at, bits), 9);
            group_at = at;
            continue;
        }
        let start = out.len();
        match (code, entries.get(code.wrapping_sub(CLEAR + 1)), last) {
            (0..=255, ..) => out.push(code as u8),
            (_, Some(&(from, to)), _) => out.extend_from_within(from..to),
            (_, None, Some((from, to))) if code == CLEAR + 1 + entries.len() => {
                out.extend_from_within(from..to);
                out.push(out[from]);
            }
            _ => return Err(UnpackError::Structure("a code names no entry")),
        }
        if out.len() > most {
            return Err(UnpackError::Structure("a window is longer than it says"));
        }
        if let Some((from, to)) = last
            && CLEAR + 1 + entries.len() < 1 << MOST_BITS
        {
            entries.push((from, to + 1));
        }
        last = Some((start, out.len()));
        // The writer is one entry ahead of us.
        if CLEAR + 1 + entries.len() > (1 << bits) - 1 && bits < MOST_BITS {
            (at, bits) = (next_group(at, group_at, bits), bits + 1);
            group_at = at;
        }
    }
    Ok(out)
}

fn read_code(stream: &[u8], at: usize, bits: u32) -> Option<usize> {
    let bytes = stream.get(at / 8..(at + bits as usize).div_ceil(8))?;
    let value = bytes
        .iter()
        .rev()
        .fold(0usize, |value, byte| value << 8 | usize::from(*byte));
    Some(value >> (at % 8) & ((1 << bits) - 1))
}

/// The bit at which the next group of eight codes begins.
fn next_group(at: usize, group_at: usize, bits: u32) -> usize {
    group_at + (at - group_at).next_multiple_of(8 * bits as usize)
}

fn take_u32(bytes: &mut &[u8]) -> Unpacked<u32> {
    let (head, rest) = bytes
        .split_first_chunk()
        .ok_or(UnpackError::Structure("it ends early"))?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;

    #[test]
    fn gzip_reads_back_and_garbage_is_refused() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all("Ein Käfer".as_bytes()).unwrap();
        assert_eq!(gunzip(&encoder.finish().unwrap()), Ok("Ein Käfer".to_owned()));
        assert!(matches!(gunzip(b"no gzip"), Err(UnpackError::Inflate(_))));
    }

    #[test]
    fn lines_of_an_r_vector_are_joined_and_a_cut_file_is_refused() {
        let mut value = b"X\n\0\0\0\x03\0\x04\0".to_vec();
        for (line, code) in [("It is a truth", 0), ("", 0), ("for £50", 1)] {
            value.extend(R_STRINGS[code]);
            value.extend((line.len() as u32).to_be_bytes());
            value.extend(line.as_bytes());
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&value).unwrap();
        let mut rdb = (value.len() as u32).to_be_bytes().to_vec();
        rdb.extend(zlib.finish().unwrap());
        rdb.extend(rdb.clone());
        let text = "It is a truth\n\nfor £50\n";
        assert_eq!(r_texts(&rdb), Ok(vec![text.to_owned(); 2]));
        assert!(r_texts(&rdb[..rdb.len() - 9]).is_err());
    }

    /// `compress` as the reader expects it, written the plain way.
    fn compress(text: &[u8]) -> Vec<u8> {
        let mut known: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        known.push(vec![]);
        let (mut codes, mut now) = (Vec::new(), Vec::new());
        let (mut bits, mut group) = (9u32, 0u32);
        for (index, byte) in text.iter().enumerate() {
            now.push(*byte);
            let longer = text.get(index + 1).map(|next| [&now[..], &[*next]].concat());
            if longer.as_ref().is_some_and(|longer| known.contains(longer)) {
                continue;
            }
            let code = known.iter().position(|entry| *entry == now).unwrap();
            codes.extend((0..bits).map(|bit| code >> bit & 1 == 1));
            group = (group + 1) % 8;
            if let Some(longer) = longer {
                known.push(longer);
            }
            // The reader learns an entry one code later.
            if known.len() > 1 << bits && bits < MOST_BITS {
                codes.extend(vec![false; ((8 - group) % 8 * bits) as usize]);
                (bits, group) = (bits + 1, 0);
            }
            now.clear();
        }
        codes
            .chunks(8)
            .map(|byte| byte.iter().rev().fold(0, |value, bit| value << 1 | u8::from(*bit)))
            .collect()
    }

    #[test]
    fn a_compressed_window_reads_back_across_widths_of_codes() {
        let text: Vec<u8> = (0..3000u32)
            .flat_map(|n| format!("{} ", n * n % 977).into_bytes())
            .chain([b'a'; 90])
            .collect();
        let read = uncompress(&compress(&text), text.len()).unwrap();
        assert!(read == text, "{} bytes of {}", read.len(), text.len());
        assert!(uncompress(&compress(&text), text.len() - 1).is_err());
    }

    #[test]
    fn the_bible_file_is_read_window_by_window() {
        let windows = [compress(b"Title\nGe1:1 In the "), compress(b"beginning\n")];
        let mut data = b"EC02".to_vec();
        data.resize(80, 0);
        let mut at = 80 + 12 + 12;
        for number in [0, 64, 2] {
            data.extend(u32::to_be_bytes(number));
        }
        data.extend(u32::to_be_bytes(at));
        for window in &windows {
            at += window.len() as u32;
            data.extend(u32::to_be_bytes(at));
        }
        data.extend(windows.concat());
        assert_eq!(bible_text(&data), Ok("Title\nGe1:1 In the beginning\n".to_owned()));
        assert!(bible_text(&data[..data.len() - 1]).is_err() && bible_text(b"EC01").is_err());
    }
}
