//! Infilling: a file with holes, filled from what stands on both sides of them.
//!
//! A masked-diffusion model conditions every position on every other, so text behind a hole counts
//! like text before it, and several holes are filled together. [`Template`] is the file: it knows
//! where the holes are and keeps all other bytes as they are, whatever their encoding.

mod marker;

use std::ops::Range;

pub use marker::MarkerError;

use crate::text::place::{NoSuchPlace, offset};
use crate::text::{BYTE_ORDER_MARK, lines};

/// A file, and where its holes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    bytes: Vec<u8>,
    holes: Vec<Hole>, // left to right, disjoint
}

/// A place to be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The bytes that the filling replaces: a marker, or none.
    pub bytes: Range<usize>,
    /// Its length in tokens, if the user gave one.
    pub tokens: Option<usize>,
}

impl Template {
    /// A file in which `<FILL>` and `<FILL:n>` mark the holes.
    ///
    /// # Errors
    /// [`MarkerError`] when a marker's length is not one.
    pub fn with_markers(bytes: Vec<u8>) -> Result<Self, MarkerError> {
        let holes = marker::find(&bytes)?;
        Ok(Self { bytes, holes })
    }

    /// A file with holes at `places`; a line without a column means its end.
    ///
    /// # Errors
    /// [`NoSuchPlace`] when the file has no such line or column.
    pub fn with_holes_at(
        bytes: Vec<u8>,
        places: &[(usize, Option<usize>)],
    ) -> Result<Self, NoSuchPlace> {
        let offsets = places
            .iter()
            .map(|&(line, column)| offset(&bytes, line, column));
        let mut offsets = offsets.collect::<Result<Vec<_>, _>>()?;
        offsets.sort_unstable();
        offsets.dedup();
        let hole = |at| Hole {
            bytes: at..at,
            tokens: None,
        };
        Ok(Self {
            holes: offsets.into_iter().map(hole).collect(),
            bytes,
        })
    }

    /// One hole between two texts. A byte order mark of the second is the first's, if that has no
    /// text: within a file it is none.
    pub fn between(prefix: &[u8], suffix: &[u8]) -> Self {
        let (prefix, suffix) = match suffix.strip_prefix(BYTE_ORDER_MARK) {
            Some(suffix) if prefix.is_empty() => (BYTE_ORDER_MARK, suffix),
            without => (prefix, without.unwrap_or(suffix)),
        };
        let hole = Hole {
            bytes: prefix.len()..prefix.len(),
            tokens: None,
        };
        Self {
            bytes: [prefix, suffix].concat(),
            holes: vec![hole],
        }
    }

    /// The file as it was given, markers included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The holes, left to right.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Gives every hole without a length this one.
    pub fn set_length(&mut self, tokens: usize) {
        for hole in &mut self.holes {
            hole.tokens.get_or_insert(tokens);
        }
    }

    /// What stands before, between and behind the holes, one more than there are holes, as the
    /// model reads it: lines end in LF, and bytes that are not UTF-8 are U+FFFD.
    pub fn texts(&self) -> Vec<String> {
        let read = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "\n");
        let mut texts: Vec<String> = self.segments().map(read).collect();
        if let Some(first) = texts.first_mut()
            && first.starts_with('\u{feff}')
        {
            first.remove(0); // a byte order mark: the file keeps it
        }
        texts
    }

    /// The file with its holes filled, and where in it each filling is. All other bytes are
    /// those of the file; fillings get its line ends.
    pub fn fill(&self, fillings: &[impl AsRef<str>]) -> (Vec<u8>, Vec<Range<usize>>) {
        let crlf = lines::is_crlf(&self.bytes);
        let mut fillings = fillings.iter().map(AsRef::as_ref);
        let (mut filled, mut places) = (Vec::with_capacity(self.bytes.len()), Vec::new());
        for segment in self.segments() {
            filled.extend(segment);
            let start = filled.len();
            let filling = fillings.next().unwrap_or_default();
            match crlf {
                true => filled.extend(lines::to_crlf(filling).bytes()),
                false => filled.extend(filling.bytes()),
            }
            places.push(start..filled.len());
        }
        places.truncate(self.holes.len());
        (filled, places)
    }

    /// What a filling of the first hole becomes in the file.
    pub fn fill_one(&self, filling: &str) -> String {
        let (bytes, places) = self.fill(&[filling]);
        let place = places.into_iter().next().unwrap_or_default();
        String::from_utf8_lossy(&bytes[place]).into_owned()
    }

    fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0]
            .into_iter()
            .chain(self.holes.iter().map(|hole| hole.bytes.end));
        let ends = self.holes.iter().map(|hole| hole.bytes.start);
        starts
            .zip(ends.chain([self.bytes.len()]))
            .map(|(start, end)| &self.bytes[start..end])
    }
}

#[cfg(test)]
mod tests;
