//! GGUF: one file with a model's weights, shape and tokenizer.
//!
//! [`GgufFile`] reads and checks a mapped file, [`GgufWriter`] streams one. [`GgufTokenizer`] turns
//! the tokenizer in the metadata into a checkpoint's files, [`export`] is the way back. What the
//! network's own keys and tensor names mean is the business of the model. Files come from
//! strangers: nothing in them is used as a size, an offset or a count before it has been checked
//! against the bytes that are there.
//!
//! Source: the GGUF specification (`docs/gguf.md` in ggml-org/ggml).

mod cursor;
mod error;
pub mod export;
mod file_type;
mod open;
mod parts;
mod reader;
mod tokenizer;
mod types;
mod value;
mod writer;

pub use self::error::GgufError;
pub use self::file_type::FileType;
pub(crate) use self::open::PAIRED;
pub(crate) use self::parts::{PartName, parse_parts};
pub use self::reader::{GgufFile, TensorInfo};
pub use self::tokenizer::GgufTokenizer;
pub use self::types::GgmlType;
pub use self::value::{Array, Value, ValueType};
pub use self::writer::{GgufWriteError, GgufWriter, TensorDescription};

/// Alignment of tensor data in a file that names none.
const DEFAULT_ALIGNMENT: usize = 32;
/// Most alignment accepted: a page is the largest that is of any use.
const MAX_ALIGNMENT: usize = 1 << 16;
/// The key that changes the alignment.
const ALIGNMENT: &str = "general.alignment";
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;

/// Whether a file can have this alignment.
fn alignment_is_sane(alignment: usize) -> bool {
    alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment)
}
