//! The frame of a GGUF file: magic, metadata, the list of tensors, and where each one's bytes are.
//! It checks every count and length against the bytes that are left before it allocates; it does not know what the keys mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::GgufError;
use super::quantisation::Encoding;

/// The first bytes of a file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written.
pub(super) const VERSION: u32 = 3;

/// Where tensors begin, and each one's start is a multiple of this where the file does not say otherwise.
pub(super) const ALIGNMENT: u64 = 32;

/// Dimensions that a tensor can have.
const MOST_DIMENSIONS: u32 = 4;

/// A value of the metadata. Integers of all widths are one, floats another.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor of the list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorInfo {
    /// As models elsewhere give shapes: rows first. The file has it the other way round.
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// Of its first byte, from the beginning of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open file whose frame has been read.
pub(super) struct Gguf {
    pub path: PathBuf,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
    file: File,
}

impl Gguf {
    /// Reads everything but the weights.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let at = |reason| GgufError::File {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(at)?;
        let length = file.metadata().map_err(at)?.len();
        let mut reader = Reader {
            from: BufReader::new(file.try_clone().map_err(at)?),
            place: 0,
            length,
        };
        let (metadata, tensors) = reader.frame().map_err(|error| match error {
            ReadError::File(reason) => at(reason),
            ReadError::Malformed(what) => GgufError::Malformed {
                path: path.to_owned(),
                what: format!("{what} (near byte {})", reader.place),
            },
            ReadError::Unsupported(what) => GgufError::Unsupported {
                path: path.to_owned(),
                what,
            },
        })?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            tensors,
            file,
        })
    }

    /// The values of a tensor of the list, decoded. NaN and infinities are refused.
    pub fn values(&mut self, name: &str) -> Result<Vec<f32>, GgufError> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| self.malformed(format!("it has no tensor {name}")))?;
        let mut bytes = vec![0; info.bytes as usize];
        let read = self
            .file
            .seek(SeekFrom::Start(info.offset))
            .and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|reason| GgufError::File {
            path: self.path.clone(),
            reason,
        })?;
        let mut values = vec![0.0; info.count()];
        info.encoding.decode(&bytes, &mut values);
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(self.malformed(format!("value {index} of {name} is NaN or infinite"))),
            None => Ok(values),
        }
    }

    pub fn malformed(&self, what: String) -> GgufError {
        GgufError::Malformed {
            path: self.path.clone(),
            what,
        }
    }

    pub fn unsupported(&self, what: String) -> GgufError {
        GgufError::Unsupported {
            path: self.path.clone(),
            what,
        }
    }
}

enum ReadError {
    File(std::io::Error),
    Malformed(String),
    Unsupported(String),
}

type Parts = (BTreeMap<String, Value>, BTreeMap<String, TensorInfo>);

/// A tensor as the list has it: its place is relative to where tensors begin.
struct Listed {
    name: String,
    shape: Vec<usize>,
    encoding: Encoding,
    offset: u64,
}

struct Reader<R> {
    from: R,
    place: u64,
    length: u64,
}

impl<R: Read> Reader<R> {
    fn frame(&mut self) -> Result<Parts, ReadError> {
        if self.array::<4>()? != MAGIC {
            return Err(ReadError::Malformed("it does not begin with GGUF".to_owned()));
        }
        let version = self.u32()?;
        if version.swap_bytes() <= VERSION {
            return Err(ReadError::Unsupported("it is big-endian".to_owned()));
        }
        if !(2..=VERSION).contains(&version) {
            return Err(ReadError::Unsupported(format!(
                "it is of version {version}, and 2 and {VERSION} are known"
            )));
        }
        let (tensor_count, value_count) = (self.u64()?, self.u64()?);
        // A key takes 13 bytes at the least, a tensor 33.
        self.check_count(value_count, 13, "keys")?;
        self.check_count(tensor_count, 33, "tensors")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(ReadError::Malformed(format!("it has the key {key} twice")));
            }
        }
        let mut listed = Vec::new();
        for _ in 0..tensor_count {
            listed.push(self.listed()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Integer(alignment @ 1..=65536)) => *alignment as u64,
            Some(other) => {
                return Err(ReadError::Malformed(format!(
                    "general.alignment is {other:?}, not a number from 1 to 65536"
                )));
            }
        };
        let start = self.place.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for tensor in listed {
            let (name, info) = self.placed(tensor, start)?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(ReadError::Malformed(format!("it has the tensor {name} twice")));
            }
        }
        Ok((metadata, tensors))
    }

    fn listed(&mut self) -> Result<Listed, ReadError> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(ReadError::Malformed(format!("{name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            let size = usize::try_from(size).ok().filter(|size| *size > 0);
            shape.push(size.ok_or_else(|| ReadError::Malformed(format!("{name} has a dimension of no size")))?);
        }
        shape.reverse();
        let kind = self.u32()?;
        let encoding = Encoding::of(kind).ok_or_else(|| {
            let known = Encoding::ALL.map(Encoding::name).join(", ");
            ReadError::Unsupported(format!("{name} is of ggml's type {kind}, and these are known: {known}"))
        })?;
        let offset = self.u64()?;
        Ok(Listed {
            name,
            shape,
            encoding,
            offset,
        })
    }

    fn placed(&self, tensor: Listed, start: u64) -> Result<(String, TensorInfo), ReadError> {
        let Listed {
            name,
            shape,
            encoding,
            offset,
        } = tensor;
        let wrong = |what: &str| ReadError::Malformed(format!("{name}, {shape:?} of {}, {what}", encoding.name()));
        let count = shape
            .iter()
            .try_fold(1u64, |count, size| count.checked_mul(*size as u64));
        let count = count.ok_or_else(|| wrong("is too large"))?;
        let row = shape.last().copied().unwrap_or(1);
        if row % encoding.block() != 0 {
            return Err(wrong("has rows that are not whole blocks"));
        }
        let bytes = (count / encoding.block() as u64).checked_mul(encoding.block_bytes() as u64);
        let begin = start.checked_add(offset);
        let end = begin.zip(bytes).and_then(|(begin, bytes)| begin.checked_add(bytes));
        match (begin, bytes, end) {
            (Some(offset), Some(bytes), Some(end)) if end <= self.length => Ok((
                name,
                TensorInfo {
                    shape,
                    encoding,
                    offset,
                    bytes,
                },
            )),
            _ => Err(wrong(&format!("does not lie within the file's {} bytes", self.length))),
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, ReadError> {
        const ARRAY: u32 = 9;
        if kind != ARRAY {
            return self.scalar(kind, key);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => {
                return Err(ReadError::Malformed(format!(
                    "{key} is a list of values of kind {kind}"
                )));
            }
        };
        self.check_count(count, least, key)?;
        let mut list = match kind {
            6 | 12 => Value::Floats(Vec::new()),
            7 => Value::Bools(Vec::new()),
            8 => Value::Texts(Vec::new()),
            _ => Value::Integers(Vec::new()),
        };
        for _ in 0..count {
            match (&mut list, self.scalar(kind, key)?) {
                (Value::Integers(list), Value::Integer(value)) => list.push(value as i64),
                (Value::Floats(list), Value::Float(value)) => list.push(value),
                (Value::Bools(list), Value::Bool(value)) => list.push(value),
                (Value::Texts(list), Value::Text(value)) => list.push(value),
                _ => unreachable!("a scalar is of the kind that was asked for"),
            }
        }
        Ok(list)
    }

    fn scalar(&mut self, kind: u32, key: &str) -> Result<Value, ReadError> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(ReadError::Malformed(format!(
                        "{key} is {other}, neither true nor false"
                    )));
                }
            },
            8 => Value::Text(self.text()?),
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => {
                return Err(ReadError::Malformed(format!(
                    "{key} is of kind {kind}, which there is not"
                )));
            }
        })
    }

    fn text(&mut self) -> Result<String, ReadError> {
        let length = self.u64()?;
        self.check_count(length, 1, "bytes of a text")?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| ReadError::Malformed("a text is not UTF-8".to_owned()))
    }

    /// Whether so many items of this length at the least may still follow.
    fn check_count(&self, count: u64, least: u64, what: &str) -> Result<(), ReadError> {
        let left = self.length.saturating_sub(self.place);
        match count.checked_mul(least).is_some_and(|bytes| bytes <= left) {
            true => Ok(()),
            false => Err(ReadError::Malformed(format!(
                "{count} {what} are announced, and {left} bytes are left"
            ))),
        }
    }

    fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ReadError::Malformed("it ends too early".to_owned()),
            _ => ReadError::File(error),
        })?;
        self.place += bytes.len() as u64;
        Ok(())
    }
}
