//! The contents of a model's files.

use std::borrow::Cow;
use std::path::Path;
use std::{fs, io};

use crate::hub::{HubError, ModelFile};
use crate::weights::{Bytes, WeightsError, check_no_pointer};

/// The contents of files of weights, with what they are called.
pub(super) fn weights<'f>(
    files: impl IntoIterator<Item = (String, &'f ModelFile)>,
) -> Result<Vec<(String, Bytes)>, WeightsError> {
    let bytes = |file: &ModelFile| match file {
        ModelFile::Path(path) => Bytes::map(path),
        ModelFile::Embedded(bytes) => Ok(Bytes::Static(bytes)),
    };
    let files = files.into_iter();
    files.map(|(name, file)| Ok((name, bytes(file)?))).collect()
}

/// Largest small file; the real ones have 11 MB at most (tokenizer.json).
const MAX_SMALL_FILE_BYTES: u64 = 256 << 20;

/// The contents of a small file.
pub(super) fn read(file: &ModelFile) -> Result<Cow<'static, [u8]>, HubError> {
    match file {
        ModelFile::Embedded(bytes) => Ok(Cow::Borrowed(bytes)),
        ModelFile::Path(path) => {
            read_small(path)
                .map(Cow::Owned)
                .map_err(|source| HubError::Unreadable {
                    path: path.clone(),
                    source,
                })
        }
    }
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MAX_SMALL_FILE_BYTES {
        return Err(io::Error::other(format!(
            "{bytes} bytes are too many for such a file"
        )));
    }
    let mut bytes = fs::read(path)?;
    check_no_pointer(&bytes)?;
    // Some editors put a byte order mark before a text.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}
