//! Where a command takes an invite key from: its argument, standard input (`-`), or a file (`@FILE`). The latter two
//! keep it out of the shell's history and the list of processes. It reads text and judges nothing.

use super::bounded;
use crate::failure::{Failure, Outcome};

/// No key is longer: eight addresses and eight blocks are below this.
const BYTES_MAX: u64 = 64 << 10;

/// The key that an argument means.
pub fn read(argument: &str) -> Outcome<String> {
    let (place, text) = match argument.strip_prefix('@') {
        _ if argument == "-" => ("standard input".to_owned(), bounded(std::io::stdin().lock(), BYTES_MAX)),
        Some(path) => {
            let file = std::fs::File::open(path).and_then(|file| match file.metadata()?.is_dir() {
                true => Err(std::io::Error::from(std::io::ErrorKind::IsADirectory)),
                false => Ok(file),
            });
            (
                format!("the key file {path}"),
                file.and_then(|file| bounded(file, BYTES_MAX)),
            )
        }
        None => return Ok(argument.trim().to_owned()),
    };
    let text = text.map_err(|error| Failure::user(format!("cannot read the key from {place}: {error}")))?;
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        [] => Err(Failure::user(format!("{place} holds no key: it is empty"))),
        [key] => Ok((*key).to_owned()),
        // A key that a mail program has broken into lines; the checksum tells whether that is all of it.
        words => Ok(words.concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_key_whole_and_a_wrong_one_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        let at = format!("@{}", path.display());
        let given = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            read(&at)
        };
        assert_eq!(given(b"synod1abc\n"), Ok("synod1abc".to_owned()));
        assert_eq!(given(b"  synod1ab\r\n  cdef\n\n"), Ok("synod1abcdef".to_owned()));
        assert_eq!(read(" synod1abc "), Ok("synod1abc".to_owned()));
        let long = vec![b'a'; BYTES_MAX as usize + 1];
        for (content, reason) in [
            (&b"\n"[..], "empty"),
            (&[0xff, 0xfe], "no UTF-8 text"),
            (&long, "longer than"),
        ] {
            let refused = given(content).unwrap_err().message;
            assert!(refused.contains(reason) && refused.contains("key"), "{refused}");
        }
        for place in [home.path().join("nowhere"), home.path().to_owned()] {
            let refused = read(&format!("@{}", place.display())).unwrap_err().message;
            assert!(refused.contains(&place.display().to_string()), "{refused}");
        }
    }
}
