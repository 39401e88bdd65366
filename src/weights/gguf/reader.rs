//! The reader: a checked view of a whole file.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::{Cursor, damaged};
use super::{
    ALIGNMENT, Array, DEFAULT_ALIGNMENT, GgmlType, GgufError, MAX_ALIGNMENT, MAX_DIMS, Value,
    alignment_is_sane,
};

/// Most keys and most tensors accepted; the largest published files have a few thousand.
const MAX_ENTRIES: u64 = 1 << 16;

/// A GGUF file whose header has been read and checked. All of it is borrowed from the bytes.
#[derive(Debug)]
pub struct GgufFile<'a> {
    bytes: &'a [u8],
    version: u32,
    alignment: usize,
    keys: Vec<(&'a str, Value<'a>)>,
    key_index: HashMap<&'a str, usize>,
    tensors: Vec<TensorInfo<'a>>,
    tensor_index: HashMap<&'a str, usize>,
}

/// What the file says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Name, as ggml spells it.
    pub name: &'a str,
    /// Dimensions, the contiguous one (columns) first.
    pub dims: Vec<usize>,
    /// How the numbers are stored.
    pub ggml_type: GgmlType,
    /// Where the data is in the file: inside it, and shared with no other tensor.
    pub range: Range<usize>,
}

impl TensorInfo<'_> {
    /// The shape as other formats write it, rows first. // [R, C]
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().rev().copied().collect()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product() // bounded when the file was read
    }
}

impl<'a> GgufFile<'a> {
    /// Reads and checks the header of a file, which is all of `bytes`.
    ///
    /// # Errors
    /// [`GgufError::NotGguf`], [`GgufError::Unsupported`] (version, byte order, tensor type),
    /// [`GgufError::Truncated`], [`GgufError::Damaged`], and what [`Self::u32`] returns for
    /// `general.alignment`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let magic = bytes.get(..4).unwrap_or(bytes);
        if magic != b"GGUF" {
            let found = String::from_utf8_lossy(magic).into_owned();
            return Err(GgufError::NotGguf { found });
        }
        cursor.take(4, "magic")?;
        let version = cursor.u32("version")?;
        check_version(version)?;
        let start = cursor.offset;
        // A tensor takes at least: name length, a byte of name, rank, a dimension, type, offset.
        let tensor_count = cursor.u64("tensor count")?;
        // A key takes at least: length, a byte of name, type, a byte of value.
        let key_count = cursor.u64("key count")?;
        for (part, count, least, at) in [
            ("tensor count", tensor_count, 33, start),
            ("key count", key_count, 14, start + 8),
        ] {
            let most = (cursor.left() as u64 / least).min(MAX_ENTRIES);
            if count > most {
                let reason = format!("it is {count}, but at most {most} are possible");
                return Err(damaged(part, at, reason));
            }
        }
        let mut file = Self {
            bytes,
            version,
            alignment: DEFAULT_ALIGNMENT,
            keys: Vec::new(),
            key_index: HashMap::new(),
            tensors: Vec::new(),
            tensor_index: HashMap::new(),
        };
        for index in 0..key_count {
            file.read_key(&mut cursor, index)?;
        }
        file.alignment = file.read_alignment()?;
        for index in 0..tensor_count {
            file.read_tensor(&mut cursor, index)?;
        }
        file.place_tensors(cursor.offset)?;
        Ok(file)
    }

    fn read_key(&mut self, cursor: &mut Cursor<'a>, index: u64) -> Result<(), GgufError> {
        let start = cursor.offset;
        let part = format!("name of key {index}");
        let key = cursor.string(&part)?;
        if key.is_empty() {
            return Err(damaged(part, start, "it is empty"));
        }
        let value = Value::read(cursor, &format!("value of key {key}"))?;
        if self.key_index.insert(key, self.keys.len()).is_some() {
            return Err(damaged(format!("key {key}"), start, "it is there twice"));
        }
        self.keys.push((key, value));
        Ok(())
    }

    fn read_alignment(&self) -> Result<usize, GgufError> {
        match self.u32_if_any(ALIGNMENT)? {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(alignment) if alignment_is_sane(alignment as usize) => Ok(alignment as usize),
            Some(found) => Err(GgufError::BadValue {
                key: ALIGNMENT.into(),
                found: found.to_string(),
                expected: format!("a power of two from 8 to {MAX_ALIGNMENT}"),
            }),
        }
    }

    /// Reads an info; the range is still relative to the data section.
    fn read_tensor(&mut self, cursor: &mut Cursor<'a>, index: u64) -> Result<(), GgufError> {
        let start = cursor.offset;
        let part = format!("name of tensor {index}");
        let name = cursor.string(&part)?;
        if name.is_empty() {
            return Err(damaged(part, start, "it is empty"));
        }
        let part = format!("tensor {name}");
        let rank = cursor.u32(&part)?;
        if !(1..=MAX_DIMS as u32).contains(&rank) {
            let reason = format!("{rank} dimensions, not 1 to {MAX_DIMS}");
            return Err(damaged(part, start, reason));
        }
        let mut dims = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            // A dimension beyond the address space becomes one that is too large all the same.
            dims.push(usize::try_from(cursor.u64(&part)?).unwrap_or(usize::MAX));
        }
        let number = cursor.u32(&part)?;
        let offset = cursor.u64(&part)?;
        let ggml_type = GgmlType::from_number(number).ok_or_else(|| GgufError::Unsupported {
            what: format!("{part}: type number {number}"),
        })?;
        let bytes = ggml_type
            .tensor_bytes(&dims)
            .map_err(|reason| damaged(&part, start, reason))?;
        if offset % self.alignment as u64 != 0 {
            let reason = format!(
                "its offset {offset} is not a multiple of {}",
                self.alignment
            );
            return Err(damaged(part, start, reason));
        }
        let range = usize::try_from(offset)
            .ok()
            .and_then(|offset| Some(offset..offset.checked_add(bytes)?))
            .ok_or_else(|| {
                damaged(
                    &part,
                    start,
                    format!("its offset {offset} is past the end of the file"),
                )
            })?;
        if self.tensor_index.insert(name, self.tensors.len()).is_some() {
            return Err(damaged(part, start, "it is there twice"));
        }
        self.tensors.push(TensorInfo {
            name,
            dims,
            ggml_type,
            range,
        });
        Ok(())
    }

    /// Makes the ranges absolute, and checks that they are in the file and apart.
    fn place_tensors(&mut self, header_end: usize) -> Result<(), GgufError> {
        let data_start = header_end.next_multiple_of(self.alignment); // a file is far shorter
        for tensor in &mut self.tensors {
            let absolute = |at: usize| at.checked_add(data_start);
            let range = absolute(tensor.range.start).zip(absolute(tensor.range.end));
            match range {
                Some((start, end)) if end <= self.bytes.len() => tensor.range = start..end,
                _ => {
                    return Err(GgufError::Truncated {
                        part: format!("data of tensor {}", tensor.name),
                        offset: data_start.saturating_add(tensor.range.start),
                        needs: tensor.range.len() as u64,
                        left: self
                            .bytes
                            .len()
                            .saturating_sub(data_start.saturating_add(tensor.range.start)),
                    });
                }
            }
        }
        let mut by_offset: Vec<&TensorInfo<'_>> = self.tensors.iter().collect();
        by_offset.sort_unstable_by_key(|tensor| tensor.range.start);
        match by_offset
            .windows(2)
            .find(|pair| pair[0].range.end > pair[1].range.start)
        {
            Some(pair) => Err(damaged(
                format!("tensor {}", pair[1].name),
                pair[1].range.start,
                format!("its data overlaps that of {}", pair[0].name),
            )),
            None => Ok(()),
        }
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What offsets of tensors are multiples of.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The metadata, in the file's order.
    pub fn metadata(&self) -> &[(&'a str, Value<'a>)] {
        &self.keys
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    /// A tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        self.tensor_index
            .get(name)
            .map(|&index| &self.tensors[index])
    }

    /// The data of one of this file's tensors.
    pub fn data(&self, tensor: &TensorInfo<'_>) -> &'a [u8] {
        &self.bytes[tensor.range.clone()]
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.key_index.get(key).map(|&index| &self.keys[index].1)
    }

    /// An integer, stored in any width.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::WrongType`], [`GgufError::BadValue`].
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        required(key, self.u32_if_any(key)?)
    }

    /// [`Self::u32`] of a key that may be missing.
    ///
    /// # Errors
    /// [`GgufError::WrongType`], [`GgufError::BadValue`].
    pub(crate) fn u32_if_any(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let Some(found) = self.convert(key, "an integer", Value::as_integer)? else {
            return Ok(None);
        };
        u32::try_from(found)
            .map(Some)
            .map_err(|_| GgufError::BadValue {
                key: key.into(),
                found: found.to_string(),
                expected: format!("from 0 to {}", u32::MAX),
            })
    }

    /// A floating-point number, as the shortest decimal that names it: an epsilon of `1e-6f32`
    /// becomes `1e-6`, as config.json has it.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::WrongType`].
    pub fn f64(&self, key: &str) -> Result<f64, GgufError> {
        required(key, self.f64_if_any(key)?)
    }

    /// [`Self::f64`] of a key that may be missing.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub(crate) fn f64_if_any(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.convert(key, "a floating-point number", |value| match value {
            Value::F32(value) => value.to_string().parse().ok(),
            Value::F64(value) => Some(*value),
            _ => None,
        })
    }

    /// A truth value that may be missing.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub(crate) fn bool_if_any(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.convert(key, "bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A text.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::WrongType`].
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        required(key, self.str_if_any(key)?)
    }

    /// [`Self::str`] of a key that may be missing.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub(crate) fn str_if_any(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.convert(key, "string", |value| match value {
            Value::String(value) => Some(&**value),
            _ => None,
        })
    }

    /// The elements of an array of strings.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::WrongType`].
    pub fn strings(&self, key: &str) -> Result<impl Iterator<Item = &str>, GgufError> {
        let strings = self.convert(key, "an array of strings", |value| {
            as_array(value).and_then(Array::strings)
        })?;
        required(key, strings)
    }

    /// The elements of an array of integers that may be missing.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn integers_if_any(
        &self,
        key: &str,
    ) -> Result<Option<impl Iterator<Item = i128>>, GgufError> {
        self.convert(key, "an array of integers", |value| {
            as_array(value).and_then(Array::integers)
        })
    }

    fn convert<'s, T>(
        &'s self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'s Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let converted = convert(value).ok_or_else(|| GgufError::WrongType {
            key: key.into(),
            found: value.value_type(),
            expected,
        })?;
        Ok(Some(converted))
    }
}

fn as_array<'s, 'a>(value: &'s Value<'a>) -> Option<&'s Array<'a>> {
    match value {
        Value::Array(array) => Some(array),
        _ => None,
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::MissingKey { key: key.into() })
}

fn check_version(version: u32) -> Result<(), GgufError> {
    let what = match version {
        2 | 3 => return Ok(()),
        // A small number in the other byte order.
        big if big != 0 && big & 0xffff == 0 => "a big-endian GGUF file".to_owned(),
        other => format!("GGUF version {other}"),
    };
    Err(GgufError::Unsupported { what })
}
