//! A model in several GGUF files: how they are named, and that each is the part it is named.
//!
//! The first part has the metadata; any part can hold any tensor, also the embedding table.
//!
//! Source: `llama_split_path` and `tools/gguf-split` in ggml-org/llama.cpp.

use std::collections::HashMap;

use super::{ALIGNMENT, GgufError, GgufFile};
use crate::weights::{Bytes, WeightsError};

const NUMBER: &str = "split.no"; // from 0
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Most parts of a model; published ones have a hundred at most.
const MAX_PARTS: usize = 1 << 12;

/// What the names of all parts of a model have in common: `NAME-00002-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartName {
    stem: String,
    count: usize,
    ending: String, // in the file's letter case
}

impl PartName {
    /// Takes a file's name, folders included, apart; `None` for one that is no part's.
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, ending) = name.split_at_checked(name.len().checked_sub(".gguf".len())?)?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_number)
        };
        let (number, count): (usize, usize) = (digits(number)?, digits(count)?);
        let is_part = ending.eq_ignore_ascii_case(".gguf")
            && (1..=MAX_PARTS).contains(&count)
            && (1..=count).contains(&number);
        is_part.then(|| Self {
            stem: stem.into(),
            count,
            ending: ending.into(),
        })
    }

    fn numbered(&self, number: usize) -> String {
        let (stem, count, ending) = (&self.stem, self.count, &self.ending);
        format!("{stem}-{number:05}-of-{count:05}{ending}")
    }

    /// The name of the first part.
    pub fn first(&self) -> String {
        self.numbered(1)
    }

    /// The names of all parts, in order.
    pub fn all(&self) -> Vec<String> {
        (1..=self.count).map(|n| self.numbered(n)).collect()
    }

    /// What the model would be called in one file.
    pub fn whole(&self) -> String {
        format!("{}{}", self.stem, self.ending)
    }
}

/// Reads the headers of a model's files (name, bytes), which are one, or all parts in order, and
/// checks that they are.
///
/// # Errors
/// [`WeightsError::Gguf`] with the file at fault, [`WeightsError::Duplicate`] for a tensor in two
/// parts.
pub fn parse_parts(files: &[(String, Bytes)]) -> Result<Vec<GgufFile<'_>>, WeightsError> {
    let mut parts = Vec::with_capacity(files.len());
    let mut stated = None;
    for (index, (file, bytes)) in files.iter().enumerate() {
        let failed = |source| WeightsError::Gguf {
            file: file.clone(),
            source: Box::new(source),
        };
        let part = GgufFile::parse(bytes.as_ref()).map_err(failed)?;
        let tensors = check_place(&part, index, files.len()).map_err(failed)?;
        // Writers differ in whether the first part's alignment is that of the others, and data read
        // from the wrong place is still numbers.
        let first = parts.first().unwrap_or(&part);
        if part.get(ALIGNMENT).is_none() && part.alignment() != first.alignment() {
            let reason = format!("it does not say its {ALIGNMENT}, as the first part does");
            return Err(failed(GgufError::Part { reason }));
        }
        if *stated.get_or_insert(tensors) != tensors {
            let reason = format!("{TENSORS} is not what the first part says");
            return Err(failed(GgufError::Part { reason }));
        }
        parts.push(part);
    }
    let mut holders = HashMap::new();
    for (part, (file, _)) in parts.iter().zip(files) {
        for tensor in part.tensors() {
            if let Some(first) = holders.insert(tensor.name, file) {
                return Err(WeightsError::Duplicate {
                    tensor: tensor.name.into(),
                    first: first.clone(),
                    second: file.clone(),
                });
            }
        }
    }
    let found = holders.len();
    match (stated.flatten(), files) {
        (Some(stated), [(file, _), ..]) if stated as usize != found => Err(WeightsError::Gguf {
            file: file.clone(),
            source: Box::new(GgufError::Part {
                reason: format!("{TENSORS} is {stated}, but the parts hold {found} tensors"),
            }),
        }),
        _ => Ok(parts),
    }
}

/// Checks that a file says of itself what its place says of it; the tensors of all parts together,
/// if it says that.
fn check_place(part: &GgufFile<'_>, index: usize, files: usize) -> Result<Option<u32>, GgufError> {
    let count = part.u32_if_any(COUNT)?.unwrap_or(0).max(1);
    let number = part.u32_if_any(NUMBER)?.unwrap_or(0);
    if (number as usize, count as usize) != (index, files) {
        let number = u64::from(number) + 1;
        let reason = match files {
            1 => format!("it is part {number} of {count}, which its name does not say"),
            _ => format!(
                "it is part {number} of {count}, but named part {} of {files}",
                index + 1
            ),
        };
        return Err(GgufError::Part { reason });
    }
    match files {
        1 => Ok(None), // nothing to compare with
        _ => part.u32_if_any(TENSORS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_lead_to_all_of_them() {
        let name = PartName::parse("sub/m-Q8_0-00002-of-00003.GGUF").unwrap();
        assert_eq!(name.whole(), "sub/m-Q8_0.GGUF");
        assert_eq!(
            name.all(),
            [1, 2, 3].map(|n| format!("sub/m-Q8_0-0000{n}-of-00003.GGUF"))
        );
        for name in [
            "",
            ".gguf",
            "é.gguf",
            "m.gguf",
            "m-00001-of-00003.safetensors",
            "m-00000-of-00003.gguf",
            "m-00004-of-00003.gguf",
            "m-1-of-3.gguf",
            "m-+0001-of-00003.gguf",
            "m-00001-of-00000.gguf",
            "m-00001-of-65535.gguf",
            "00001-of-00003.gguf",
        ] {
            assert_eq!(PartName::parse(name), None, "{name}");
        }
    }
}
