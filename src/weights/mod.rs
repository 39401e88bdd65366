//! Tensor name to weight: where the network's numbers come from.

mod checkpoint;
mod formats;
pub mod gguf;
mod safetensors;
mod stored;

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

pub use self::checkpoint::Checkpoint;
pub(crate) use self::checkpoint::{Change, Delta, Extent};
pub use self::safetensors::Index;
pub(crate) use self::stored::blocks_on;
pub use self::stored::{Stored, StoredTensor};

/// The bytes of a weight file: mapped from disk, part of this binary, or made in memory.
pub enum Bytes {
    /// A read-only memory map, and the file.
    Mapped(Mmap, FileIdentity),
    /// Embedded data.
    Static(&'static [u8]),
    /// Data made here.
    Owned(Vec<u8>),
}

/// Which file it is, as far as that is known without reading it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileIdentity {
    /// Its path, without symbolic links.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// When it was written to last, where the system knows.
    pub modified: Option<SystemTime>,
    /// Its inode and when that changed last (seconds, nanoseconds), on Unix: what copies a file
    /// with its time of writing cannot set these.
    pub inode: Option<(u64, i64, i64)>,
}

#[cfg(unix)]
fn inode(file: &Metadata) -> Option<(u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    Some((file.ino(), file.ctime(), file.ctime_nsec()))
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> Option<(u64, i64, i64)> {
    None
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// [`WeightsError::Open`] when the file cannot be opened or mapped.
    #[allow(unsafe_code)]
    pub fn map(path: &Path) -> Result<Self, WeightsError> {
        let open = |source| WeightsError::Open {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        // SAFETY: the map is read-only. Another process that truncates the file while
        // it is mapped could crash this one; nobody rewrites weights in place (downloads go to a
        // new file that is renamed).
        let map = unsafe { Mmap::map(&file) }.map_err(open)?;
        check_no_pointer(&map).map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        let identity = FileIdentity {
            path: path.canonicalize().map_err(open)?,
            len: metadata.len(),
            modified: metadata.modified().ok(),
            inode: inode(&metadata),
        };
        Ok(Self::Mapped(map, identity))
    }

    /// Gives the memory of some mapped bytes back to the system. They can still be read.
    #[allow(unsafe_code)]
    fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map, _) = self {
            // SAFETY: the map is of a file, shared and never written to: a page that is dropped and
            // touched again has the file's contents, as before. An error means that it is kept,
            // which is harmless.
            let dropped = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    bytes.start,
                    bytes.len(),
                )
            };
            let _ = dropped;
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

/// Checks that a file is not what git leaves in the place of a large one that it did not fetch.
///
/// # Errors
/// Says what to do about it.
pub(crate) fn check_no_pointer(file: &[u8]) -> io::Result<()> {
    match file.starts_with(b"version https://git-lfs.github.com/spec/") {
        true => Err(io::Error::other(
            "it is a pointer to the file: fetch the file itself with git lfs pull",
        )),
        false => Ok(()),
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(map, _) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Why weights were refused. Every message names the file and the tensor at fault.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum WeightsError {
    /// A file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The safetensors header is broken, or its offsets do not match the file's length.
    #[error("{file} is not a whole safetensors file ({bytes} bytes)")]
    Header {
        file: String,
        bytes: usize,
        /// What is wrong.
        source: ::safetensors::SafeTensorError,
    },
    /// The GGUF file is broken, or not a model of this kind.
    #[error("{file} cannot be used")]
    Gguf {
        file: String,
        /// What is wrong.
        source: Box<gguf::GgufError>,
    },
    /// The shard index is not what it should be.
    #[error("{file} is not a valid shard index: {reason}")]
    Index { file: String, reason: String },
    /// A shard holds a tensor that the index does not place there.
    #[error("{file} holds tensor {tensor}, which {index} {instead}")]
    NotInIndex {
        file: String,
        tensor: String,
        index: String,
        /// "does not list" or "places in …".
        instead: String,
    },
    /// Two files hold the same tensor.
    #[error("tensor {tensor} is in both {first} and {second}")]
    Duplicate {
        tensor: String,
        first: String,
        second: String,
    },
    /// The network needs a tensor that no file has.
    #[error("tensor {tensor} is missing from {files}")]
    Missing { tensor: String, files: String },
    /// A file has a tensor that the network does not.
    #[error("{file} holds tensor {tensor}, which this architecture does not have")]
    Extra { file: String, tensor: String },
    /// A tensor's shape is not what the configuration says.
    #[error(
        "{file}: tensor {tensor} has shape {found:?}, but {} makes it {expected:?}",
        if is_gguf(file) { "the file's metadata" } else { "config.json" }
    )]
    Shape {
        file: String,
        tensor: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    /// A tensor is stored in a type that weights are not stored in.
    #[error(
        "{file}: tensor {tensor} is stored as {found}, which is not a type of weights known here"
    )]
    Dtype {
        file: String,
        tensor: String,
        found: String,
    },
    /// The device refused the tensor, most likely for lack of memory.
    #[error("{file}: cannot load tensor {tensor}")]
    Load {
        file: String,
        tensor: String,
        /// The tensor library's error.
        source: Box<candle_core::Error>,
    },
}

/// By its ending.
fn is_gguf(file: &str) -> bool {
    file.to_ascii_lowercase().ends_with(".gguf")
}

impl WeightsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Header { .. } => Some(
                "the file is probably cut short or not what it claims to be: delete it and \
                 download it again"
                    .into(),
            ),
            Self::Index { .. } | Self::NotInIndex { .. } | Self::Duplicate { .. } => Some(
                "the files do not belong together: download all of them, of one revision, again"
                    .into(),
            ),
            Self::Missing { files: file, .. }
            | Self::Extra { file, .. }
            | Self::Shape { file, .. } => Some(match is_gguf(file) {
                true => "the file is damaged or badly converted: take another".into(),
                false => "the weights and config.json do not belong to the same model".into(),
            }),
            Self::Gguf { source, .. } => source.hint(),
            Self::Dtype { file, .. } if is_gguf(file) => {
                Some("take another quantization of the model, such as Q4_K_M or Q8_0".into())
            }
            Self::Dtype { .. } => Some("convert the checkpoint to bfloat16".into()),
            Self::Open { .. } | Self::Load { .. } => None,
        }
    }
}
