//! The writer: header first, then the tensors one after the other, so that no more of a model than
//! the tensor at hand is ever in memory.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Write};

use super::value::write_string;
use super::{ALIGNMENT, DEFAULT_ALIGNMENT, GgmlType, Value, alignment_is_sane};

/// Bytes of a name that ggml has room for.
const MAX_NAME_BYTES: usize = 63;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum GgufWriteError {
    /// The disk is full, or the like.
    #[error("cannot write the GGUF file")]
    Io(#[from] io::Error),
    /// A file that nobody could read was described.
    #[error("cannot make a GGUF file with {part}: {reason}")]
    Description { part: String, reason: String },
    /// Data came for another tensor than the next.
    #[error("data of tensor {found} came where that of {expected} was to be written")]
    Order {
        /// The tensor that is next, or "none".
        expected: String,
        found: String,
    },
    /// The data of a tensor has the wrong length.
    #[error("tensor {tensor} has {found} bytes, but its description makes it {expected}")]
    Length {
        tensor: String,
        found: u64,
        expected: u64,
    },
    /// Not every tensor was written.
    #[error("tensor {tensor} was not written")]
    Unfinished { tensor: String },
}

impl GgufWriteError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk, or write to another".into())
            }
            // The others are mistakes of the caller.
            _ => None,
        }
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDescription {
    /// Name, as ggml spells it.
    pub name: String,
    /// Dimensions, the contiguous one (columns) first.
    pub dims: Vec<usize>,
    /// How the numbers are stored.
    pub ggml_type: GgmlType,
}

impl TensorDescription {
    /// Bytes of the tensor's data.
    ///
    /// # Errors
    /// [`GgufWriteError::Description`] when there is no such tensor.
    pub fn bytes(&self) -> Result<usize, GgufWriteError> {
        self.ggml_type
            .tensor_bytes(&self.dims)
            .map_err(|reason| description(format!("tensor {}", self.name), reason))
    }
}

/// Writes a version 3 file.
#[derive(Debug)]
pub struct GgufWriter<W> {
    out: W,
    alignment: u64,
    written: u64, // of the first of `left`
    left: VecDeque<(String, u64)>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header of a file with these keys and tensors, in this order. `general.alignment`
    /// is obeyed if it is among the keys.
    ///
    /// # Errors
    /// [`GgufWriteError::Description`] for what the reader would refuse, [`GgufWriteError::Io`].
    pub fn new<K: AsRef<str>>(
        mut out: W,
        metadata: &[(K, Value<'_>)],
        tensors: &[TensorDescription],
    ) -> Result<Self, GgufWriteError> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        let mut alignment = DEFAULT_ALIGNMENT;
        let mut seen = HashSet::new();
        for (key, value) in metadata {
            let key = key.as_ref();
            if key.is_empty() || !seen.insert(key) {
                let reason = "it is empty or there twice";
                return Err(description(format!("key {key:?}"), reason));
            }
            if key == ALIGNMENT {
                alignment = match value {
                    Value::U32(value) if alignment_is_sane(*value as usize) => *value as usize,
                    other => return Err(description(ALIGNMENT, format!("it is {other:?}"))),
                };
            }
            write_string(key, &mut header);
            value.write(&mut header);
        }
        let alignment = alignment as u64;
        let mut left = VecDeque::new();
        let mut offset = 0u64;
        seen.clear();
        for tensor in tensors {
            let name = tensor.name.as_str();
            if name.is_empty() || name.len() > MAX_NAME_BYTES || !seen.insert(name) {
                let reason = format!("names have 1 to {MAX_NAME_BYTES} bytes and are there once");
                return Err(description(format!("tensor {name:?}"), reason));
            }
            let bytes = tensor.bytes()? as u64;
            write_string(name, &mut header);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            for &dim in &tensor.dims {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.ggml_type.number().to_le_bytes());
            header.extend(offset.to_le_bytes());
            left.push_back((name.to_owned(), bytes));
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| description(format!("tensor {name}"), "the file is too large"))?;
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        out.write_all(&header)?;
        Ok(Self {
            out,
            alignment,
            written: 0,
            left,
        })
    }

    /// Writes all data of the next tensor.
    ///
    /// # Errors
    /// [`GgufWriteError::Order`], [`GgufWriteError::Length`], [`GgufWriteError::Io`].
    pub fn append(&mut self, name: &str, data: &[u8]) -> Result<(), GgufWriteError> {
        self.append_part(name, data)?;
        match self.left.front() {
            Some((next, expected)) if next == name => Err(GgufWriteError::Length {
                tensor: name.into(),
                found: self.written,
                expected: *expected,
            }),
            _ => Ok(()),
        }
    }

    /// Writes some data of the next tensor, which is complete, and padded, with its last byte.
    ///
    /// # Errors
    /// [`GgufWriteError::Order`], [`GgufWriteError::Length`], [`GgufWriteError::Io`].
    pub fn append_part(&mut self, name: &str, data: &[u8]) -> Result<(), GgufWriteError> {
        let expected = match self.left.front() {
            Some((next, bytes)) if next == name => *bytes,
            next => {
                return Err(GgufWriteError::Order {
                    expected: next.map_or("none".into(), |(next, _)| next.clone()),
                    found: name.into(),
                });
            }
        };
        let found = self.written + data.len() as u64;
        if found > expected {
            return Err(GgufWriteError::Length {
                tensor: name.into(),
                found,
                expected,
            });
        }
        self.out.write_all(data)?;
        self.written = found;
        if found == expected {
            let padding = expected.next_multiple_of(self.alignment) - expected;
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)?;
            self.left.pop_front();
            self.written = 0;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`GgufWriteError::Unfinished`] when a tensor is missing or incomplete,
    /// [`GgufWriteError::Io`].
    pub fn finish(mut self) -> Result<W, GgufWriteError> {
        if let Some((tensor, _)) = self.left.pop_front() {
            return Err(GgufWriteError::Unfinished { tensor });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn description(part: impl Into<String>, reason: impl Into<String>) -> GgufWriteError {
    GgufWriteError::Description {
        part: part.into(),
        reason: reason.into(),
    }
}
