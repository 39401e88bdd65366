//! Metadata values, read and written. Arrays stay encoded: a vocabulary of 152 000 tokens is a
//! slice of the file that was walked once, and its strings are borrowed from there.

use std::borrow::Cow;
use std::fmt;

use super::GgufError;
use super::cursor::{Cursor, damaged};

/// Arrays of arrays of arrays: more has no use.
const MAX_DEPTH: usize = 4;

/// The type of a metadata value; the numbers are those in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    fn read(cursor: &mut Cursor<'_>, part: &str) -> Result<Self, GgufError> {
        let start = cursor.offset;
        Ok(match cursor.u32(part)? {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            other => {
                return Err(damaged(
                    part,
                    start,
                    format!("{other} is no type of a value"),
                ));
            }
        })
    }

    /// Bytes of a value: all of them, or the fewest of a string or an array.
    fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Cow<'a, str>),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Reads a type and its value.
    pub(super) fn read(cursor: &mut Cursor<'a>, part: &str) -> Result<Self, GgufError> {
        let value_type = ValueType::read(cursor, part)?;
        Self::of(value_type, cursor, part)
    }

    fn of(value_type: ValueType, cursor: &mut Cursor<'a>, part: &str) -> Result<Self, GgufError> {
        let start = cursor.offset;
        Ok(match value_type {
            ValueType::U8 => Self::U8(u8::from_le_bytes(cursor.array(part)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(cursor.array(part)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(cursor.array(part)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(cursor.array(part)?)),
            ValueType::U32 => Self::U32(cursor.u32(part)?),
            ValueType::I32 => Self::I32(i32::from_le_bytes(cursor.array(part)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(cursor.array(part)?)),
            ValueType::U64 => Self::U64(cursor.u64(part)?),
            ValueType::I64 => Self::I64(i64::from_le_bytes(cursor.array(part)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(cursor.array(part)?)),
            ValueType::Bool => match cursor.array(part)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [other] => {
                    return Err(damaged(part, start, format!("{other} is no truth value")));
                }
            },
            ValueType::String => Self::String(Cow::Borrowed(cursor.string(part)?)),
            ValueType::Array => Self::Array(Array::read(cursor, part, 1)?),
        })
    }

    /// The type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Any integer; `None` for other types.
    pub(crate) fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// Appends type and value as they stand in a file.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.value_type() as u32).to_le_bytes());
        match self {
            Self::U8(value) => out.extend(value.to_le_bytes()),
            Self::I8(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push((*value).into()),
            Self::String(value) => write_string(value, out),
            Self::Array(array) => {
                out.extend((array.element as u32).to_le_bytes());
                out.extend((array.len as u64).to_le_bytes());
                out.extend_from_slice(&array.bytes);
            }
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::String(Cow::Borrowed(value))
    }
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// An array, checked and still encoded.
#[derive(Clone, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, part: &str, depth: usize) -> Result<Self, GgufError> {
        let start = cursor.offset;
        if depth > MAX_DEPTH {
            let reason = format!("arrays are nested more than {MAX_DEPTH} deep");
            return Err(damaged(part, start, reason));
        }
        let element = ValueType::read(cursor, part)?;
        let count = cursor.count(element.least_bytes(), part)?;
        let first = cursor.clone();
        match element {
            ValueType::String => {
                for _ in 0..count {
                    cursor.string(part)?;
                }
            }
            ValueType::Array => {
                for _ in 0..count {
                    Array::read(cursor, part, depth + 1)?;
                }
            }
            ValueType::Bool => {
                if cursor.take(count, part)?.iter().any(|&byte| byte > 1) {
                    return Err(damaged(part, start, "an element is no truth value"));
                }
            }
            number => {
                cursor.take(count * number.least_bytes(), part)?; // `count` made sure it fits
            }
        }
        let len = (cursor.offset - first.offset) as u64;
        Ok(Self {
            element,
            len: count as usize,
            bytes: Cow::Borrowed(first.clone().take(len, part)?),
        })
    }

    /// An array of strings.
    pub fn of_strings<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Self {
        let (mut len, mut bytes) = (0, Vec::new());
        for text in strings {
            write_string(text.as_ref(), &mut bytes);
            len += 1;
        }
        Self {
            element: ValueType::String,
            len,
            bytes: bytes.into(),
        }
    }

    /// An array of 32-bit integers.
    pub fn of_i32(integers: impl IntoIterator<Item = i32>) -> Self {
        let bytes: Vec<u8> = integers.into_iter().flat_map(i32::to_le_bytes).collect();
        Self {
            element: ValueType::I32,
            len: bytes.len() / 4,
            bytes: bytes.into(),
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The strings; `None` if the elements are something else.
    pub fn strings(&self) -> Option<impl Iterator<Item = &str>> {
        let mut cursor = Cursor::new(&self.bytes);
        // The elements were checked when the array was read or made.
        (self.element == ValueType::String)
            .then(|| (0..self.len).map_while(move |_| cursor.string("").ok()))
    }

    /// The integers; `None` if the elements are something else.
    pub(crate) fn integers(&self) -> Option<impl Iterator<Item = i128>> {
        let (mut cursor, element) = (Cursor::new(&self.bytes), self.element);
        let is_integer = !matches!(
            element,
            ValueType::F32
                | ValueType::F64
                | ValueType::Bool
                | ValueType::String
                | ValueType::Array
        );
        let mut next = move || Value::of(element, &mut cursor, "").ok()?.as_integer();
        is_integer.then(|| (0..self.len).map_while(move |_| next()))
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.element, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: ValueType, bytes: &[u8], len: usize) -> Array<'_> {
        let bytes = bytes.into();
        Array {
            element,
            len,
            bytes,
        }
    }

    #[test]
    fn integers_of_every_width_keep_their_sign() {
        let bytes = [0xff, 0x80, 0, 0, 0, 0, 0, 0x80];
        for (element, expected) in [
            (ValueType::U8, [0xff, 0x80].to_vec()),
            (ValueType::I8, vec![-1, -128]),
            (ValueType::U16, vec![0x80ff]),
            (ValueType::I16, vec![-0x7f01]),
            (ValueType::U32, vec![0x80ff]),
            (ValueType::I32, vec![0x80ff]),
            (ValueType::U64, vec![0x8000_0000_0000_80ff]),
            (ValueType::I64, vec![0x8000_0000_0000_80ff - (1 << 64)]),
        ] {
            let array = array(element, &bytes, expected.len());
            assert_eq!(array.integers().unwrap().collect::<Vec<_>>(), expected);
            assert!(array.strings().is_none());
        }
        for element in [ValueType::Bool, ValueType::F32, ValueType::String] {
            assert!(array(element, &bytes, 1).integers().is_none());
        }
    }

    #[test]
    fn arrays_nest_as_deep_as_is_allowed() {
        let nested = |depth: usize| {
            let mut value = Value::Array(array(ValueType::U8, &[7], 1));
            for _ in 1..depth {
                let mut bytes = Vec::new();
                value.write(&mut bytes);
                value = Value::Array(Array {
                    element: ValueType::Array,
                    len: 1,
                    bytes: bytes[4..].to_vec().into(), // the type stands with the count
                });
            }
            let mut bytes = Vec::new();
            value.write(&mut bytes);
            Value::read(&mut Cursor::new(&bytes), "key").is_ok()
        };
        assert!(nested(MAX_DEPTH));
        assert!(!nested(MAX_DEPTH + 1));
    }
}
