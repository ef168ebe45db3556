//! How records become bytes: one version byte, then postcard.
//! It has no checksum of its own: RocksDB checks every block and log record it reads.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;

/// Version of the record encodings. A later program that changes one keeps reading this one.
const VERSION: u8 = 1;

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("records always encode: they hold no maps or unsized sequences")
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], path: &Path, key: &str) -> Result<T, StoreError> {
    let corrupt = |reason: String| StoreError::Corrupt {
        path: path.to_owned(),
        key: key.to_owned(),
        reason,
    };
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes::<T>(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(corrupt(format!("{} bytes too many", rest.len()))),
            Err(error) => Err(corrupt(error.to_string())),
        },
        Some((&found, _)) if found > VERSION => Err(StoreError::NewerFormat {
            path: path.to_owned(),
            found: found.into(),
            known: VERSION.into(),
        }),
        _ => Err(corrupt("the record has no version".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_padded_or_newer_is_refused() {
        let good = encode(&(7u64, "text".to_owned()));
        let read = |bytes: &[u8]| decode::<(u64, String)>(bytes, Path::new("db"), "some key");
        assert_eq!(read(&good).unwrap(), (7, "text".to_owned()));
        for cut in 0..good.len() {
            assert!(
                matches!(read(&good[..cut]), Err(StoreError::Corrupt { key, .. }) if key == "some key"),
                "{cut}"
            );
        }
        assert!(matches!(
            read(&[&good[..], &[0]].concat()),
            Err(StoreError::Corrupt { .. })
        ));
        assert!(matches!(
            read(&[&[2], &good[1..]].concat()),
            Err(StoreError::NewerFormat { found: 2, known: 1, .. })
        ));
    }
}
