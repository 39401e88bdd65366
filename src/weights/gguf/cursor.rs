//! A place in the file that cannot leave it: every read is checked against the bytes left.

use super::GgufError;

/// Reads little-endian values one after the other.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub offset: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The next `len` bytes. `part` names them in an error.
    pub fn take(&mut self, len: u64, part: &str) -> Result<&'a [u8], GgufError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => {
                let taken = &self.bytes[self.offset..self.offset + len];
                self.offset += len;
                Ok(taken)
            }
            _ => Err(GgufError::Truncated {
                part: part.into(),
                offset: self.offset,
                needs: len,
                left: self.left(),
            }),
        }
    }

    pub fn array<const N: usize>(&mut self, part: &str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, part)?);
        Ok(array)
    }

    pub fn u32(&mut self, part: &str) -> Result<u32, GgufError> {
        self.array(part).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, part: &str) -> Result<u64, GgufError> {
        self.array(part).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each: a count that the rest of the file
    /// cannot hold is an error, so the caller may loop over it.
    pub fn count(&mut self, least: u64, part: &str) -> Result<u64, GgufError> {
        let start = self.offset;
        let count = self.u64(part)?;
        if count > self.left() as u64 / least {
            let reason = format!(
                "{count} entries of {least} bytes or more cannot fit in the {} bytes left",
                self.left()
            );
            return Err(damaged(part, start, reason));
        }
        Ok(count)
    }

    pub fn string(&mut self, part: &str) -> Result<&'a str, GgufError> {
        let start = self.offset;
        let len = self.u64(part)?;
        let bytes = self.take(len, part)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let reason = format!("not UTF-8 at byte {} of the text", error.valid_up_to());
            damaged(part, start, reason)
        })
    }
}

pub(super) fn damaged(
    part: impl Into<String>,
    offset: usize,
    reason: impl Into<String>,
) -> GgufError {
    GgufError::Damaged {
        part: part.into(),
        offset,
        reason: reason.into(),
    }
}
