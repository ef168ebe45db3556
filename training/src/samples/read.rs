//! Readers of two old and simple formats: LIBSVM text (`label index:value …`, indices from 1) and IDX (MNIST's), each plain
//! or gzipped. Sizes are checked before anything is allocated; what is not understood is named with its line.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::{SampleError, Samples};

/// Unpacked bytes of a file at most: MNIST has 47 MB, and dense samples need four to a byte.
const MOST_BYTES: u64 = 1 << 30;

/// Samples of `width` features: from a LIBSVM file, or from a folder with one file of images and one of labels (`idx` in their
/// names, those of training where there are several). Labels −1 and +1 become 0 and 1 where `binary`.
pub fn read_samples(path: &Path, width: usize, binary: bool) -> Result<Samples, SampleError> {
    let mut samples = match path.is_dir() {
        true => read_idx_folder(path, width)?,
        false => read_libsvm(path, width)?,
    };
    if binary {
        for label in &mut samples.labels {
            *label = match *label {
                -1.0 | 0.0 => 0.0,
                1.0 => 1.0,
                other => {
                    let reason = format!("a label is {other}, but two classes are -1 (or 0) and 1");
                    return Err(malformed(path, reason));
                }
            };
        }
    }
    Ok(samples)
}

fn malformed(path: &Path, reason: impl Into<String>) -> SampleError {
    SampleError::Malformed {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, SampleError> {
    let unreadable = |reason| SampleError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let read = match path.extension().is_some_and(|extension| extension == "gz") {
        true => GzDecoder::new(file).take(MOST_BYTES + 1).read_to_end(&mut bytes),
        false => file.take(MOST_BYTES + 1).read_to_end(&mut bytes),
    };
    read.map_err(unreadable)?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(malformed(path, format!("it has more than {MOST_BYTES} bytes"))),
        false => Ok(bytes),
    }
}

fn read_libsvm(path: &Path, width: usize) -> Result<Samples, SampleError> {
    let bytes = read_bytes(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed(path, "it is not text"))?;
    let (mut features, mut labels) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(label) = words.next() else { continue };
        let refuse = |what: &str| malformed(path, format!("line {}: `{what}` is not understood", number + 1));
        let finite = |text: &str| text.parse::<f32>().ok().filter(|value| value.is_finite());
        labels.push(finite(label).ok_or_else(|| refuse(label))?);
        let row = features.len();
        features.resize(row + width, 0.0);
        for word in words {
            let pair = word.split_once(':');
            let pair = pair.and_then(|(index, value)| Some((index.parse::<usize>().ok()?, finite(value)?)));
            let (index, value) = pair.ok_or_else(|| refuse(word))?;
            if index == 0 || index > width {
                let reason = format!("line {}: feature {index} is not within 1 to {width}", number + 1);
                return Err(malformed(path, reason));
            }
            features[row + index - 1] = value;
        }
    }
    match labels.is_empty() {
        true => Err(malformed(path, "it is empty")),
        false => Samples::new(features, labels, width),
    }
}

fn read_idx_folder(folder: &Path, width: usize) -> Result<Samples, SampleError> {
    let (images_path, labels_path) = (find(folder, "idx3")?, find(folder, "idx1")?);
    let (images, labels) = (read_bytes(&images_path)?, read_bytes(&labels_path)?);
    let ([count, rows, columns], pixels) = header(&images_path, &images, 2051)?;
    let ([label_count], classes) = header(&labels_path, &labels, 2049)?;
    if rows.checked_mul(columns) != Some(width) {
        return Err(malformed(
            &images_path,
            format!("images are {rows} × {columns}, not {width} features"),
        ));
    }
    if Some(pixels.len()) != count.checked_mul(width) || classes.len() != label_count || count != label_count {
        let reason = format!("{count} images and {label_count} labels do not fill the files");
        return Err(malformed(&images_path, reason));
    }
    let features = pixels.iter().map(|byte| f32::from(*byte) / 255.0).collect();
    Samples::new(features, classes.iter().map(|class| f32::from(*class)).collect(), width)
}

/// The file of a folder with this in its name; where there are several, the one that begins with `train`.
fn find(folder: &Path, part: &str) -> Result<PathBuf, SampleError> {
    let entries = fs::read_dir(folder).map_err(|reason| SampleError::Unreadable {
        path: folder.to_owned(),
        reason,
    })?;
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| name(path).contains(part));
    found.sort_by_key(|path| (!name(path).starts_with("train"), name(path)));
    let missing = || malformed(folder, format!("no file has `{part}` in its name"));
    found.into_iter().next().ok_or_else(missing)
}

/// The sizes of an IDX file, and what follows them.
fn header<'a, const N: usize>(path: &Path, bytes: &'a [u8], magic: u32) -> Result<([usize; N], &'a [u8]), SampleError> {
    let (words, _) = bytes.as_chunks::<4>();
    let mut words = words.iter().map(|word| u32::from_be_bytes(*word));
    if words.next() != Some(magic) || bytes.len() < 4 * (N + 1) {
        return Err(malformed(
            path,
            format!("it does not begin with {magic}, as such IDX files do"),
        ));
    }
    let sizes = std::array::from_fn(|_| words.next().map_or(0, |word| word as usize));
    Ok((sizes, &bytes[4 * (N + 1)..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, contents: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        (folder, path)
    }

    #[test]
    fn libsvm_lines_become_dense_rows() {
        let (_folder, path) = file("a", b"+1 1:0.5 3:2\n\n-1 2:1e0 # why\n");
        let samples = read_samples(&path, 3, true).unwrap();
        assert_eq!(
            samples,
            Samples::new(vec![0.5, 0.0, 2.0, 0.0, 1.0, 0.0], vec![1.0, 0.0], 3).unwrap()
        );
        assert_eq!(samples.select(&[1]).features(0), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (contents, part) in [
            (&b"1 1:1\n1 x:1"[..], "line 2: `x:1`"),
            (b"1 4:1", "line 1: feature 4 is not within 1 to 3"),
            (b"1 0:1", "feature 0"),
            (b"1 1:nan", "`1:nan`"),
            (b"2 1:1", "a label is 2"),
            (b"\n", "it is empty"),
            (b"\xFF", "not text"),
        ] {
            let (_folder, path) = file("a", contents);
            let error = read_samples(&path, 3, true).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn idx_folders_are_read_and_damaged_ones_refused() {
        let (folder, _) = file(
            "train-images-idx3-ubyte",
            b"\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x02\x00\xFF\x33\x00",
        );
        let labels = folder.path().join("train-labels-idx1-ubyte");
        fs::write(&labels, b"\0\0\x08\x01\0\0\0\x02\x07\x01").unwrap();
        let samples = read_samples(folder.path(), 2, false).unwrap();
        assert_eq!(
            samples,
            Samples::new(vec![0.0, 1.0, 0.2, 0.0], vec![7.0, 1.0], 2).unwrap()
        );
        assert!(read_samples(folder.path(), 3, false).is_err());
        fs::write(&labels, b"\0\0\x08\x01\0\0\0\x02\x07").unwrap();
        assert!(
            read_samples(folder.path(), 2, false)
                .unwrap_err()
                .to_string()
                .contains("do not fill")
        );
        fs::write(&labels, b"\0\0").unwrap();
        assert!(
            read_samples(folder.path(), 2, false)
                .unwrap_err()
                .to_string()
                .contains("2049")
        );
    }
}
