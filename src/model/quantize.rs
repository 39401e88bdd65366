//! A checkpoint to a smaller GGUF file, a piece of a tensor at a time.
//!
//! Which tensor becomes what, says [`FileType`], as llama.cpp's mixtures do; norms and biases stay
//! float32. The file is one that llama.cpp loads.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::arch::gguf_kind;
use super::config::{Config, metadata};
use crate::atomic::{AtomicError, write_atomically};
use crate::kernels::Isa;
use crate::weights::gguf::export::{Description, ExportError};
use crate::weights::gguf::{
    FileType, GgmlType, GgufWriteError, GgufWriter, PAIRED, TensorDescription,
};
use crate::weights::{Checkpoint, Stored, StoredTensor, WeightsError};

/// Numbers that a thread converts at a time: 4 MB as float32, in memory twice.
const PIECE: usize = 1 << 20;

/// Pieces that are converted together, whatever the number of threads.
const PIECES: usize = 16;

/// Why a file could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum QuantizeError {
    /// The weights were refused.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer cannot be put into the file.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The file cannot be put in its place.
    #[error(transparent)]
    Atomic(#[from] AtomicError),
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        /// Why.
        source: GgufWriteError,
    },
    /// A tensor cannot be converted.
    #[error("cannot quantize tensor {tensor}")]
    Convert {
        tensor: String,
        /// Why.
        source: Box<candle_core::Error>,
    },
    /// The source is quantized already.
    #[error("{name} is quantized already, to {kind}: doing it twice adds the errors")]
    Quantized {
        name: String,
        /// What most of its numbers are stored as.
        kind: GgmlType,
    },
}

impl QuantizeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights(error) => error.hint(),
            Self::Export(error) => error.hint(),
            Self::Atomic(error) => error.hint(),
            Self::Write { source, .. } => source.hint(),
            Self::Quantized { .. } => Some(
                "start from the model's safetensors, or from a GGUF file in F16, BF16 or F32"
                    .into(),
            ),
            Self::Convert { .. } => None,
        }
    }
}

/// What became of the tensors of each kind (`attn_q`, `ffn_down`, …) and type: a mixture stores
/// some of a kind with more bits.
pub type Report = BTreeMap<(String, GgmlType), KindReport>;

/// What became of tensors that are stored alike.
#[derive(Debug, Clone, PartialEq)]
pub struct KindReport {
    /// Their size in the file.
    pub bytes: u64,
    /// Root mean square of the change, relative to that of the numbers.
    pub relative_error: f64,
}

/// Sums behind a [`KindReport`].
#[derive(Default)]
struct Kind {
    bytes: u64,
    error: f64,
    power: f64,
}

/// A tensor of the file, and where its numbers come from.
struct Planned {
    tensor: TensorDescription,
    source: StoredTensor,
    turned_rows: Option<usize>, // rows of a head that change their order
}

/// Writes the model that `config` and `description` tell of, whose weights are `weights`, as
/// `description.weights` into `file`. `on_tensor` is told the bytes of the source read so far and
/// in all.
///
/// # Errors
/// [`QuantizeError`]; nothing is left behind, and an existing file is replaced only with `force`,
/// as the last step.
pub fn quantize(
    config: &Config,
    description: &Description<'_>,
    weights: Checkpoint,
    (file, force): (&Path, bool),
    on_tensor: &mut dyn FnMut(usize, usize),
) -> Result<Report, QuantizeError> {
    let planned = plan(config, description.weights, weights)?;
    let keys = metadata(config, description);
    let descriptions: Vec<_> = planned.iter().map(|each| each.tensor.clone()).collect();
    let total = planned.iter().map(|each| each.source.bytes().len()).sum();
    let mut read = 0;
    let kinds = write_atomically(file, force, |out| {
        let failed = |source| QuantizeError::Write {
            path: file.into(),
            source,
        };
        let mut writer = GgufWriter::new(out, &keys, &descriptions).map_err(failed)?;
        let mut kinds = BTreeMap::new();
        for each in &planned {
            append(&mut writer, each, &mut kinds, file)?;
            read += each.source.bytes().len();
            on_tensor(read, total);
        }
        writer.finish().map_err(failed)?;
        Ok::<_, QuantizeError>(kinds)
    })?;
    let report = |kind: Kind| KindReport {
        bytes: kind.bytes,
        relative_error: (kind.error / kind.power.max(f64::MIN_POSITIVE)).sqrt(),
    };
    Ok(kinds
        .into_iter()
        .map(|(name, kind)| (name, report(kind)))
        .collect())
}

/// Every tensor of the network, in the order of the computation.
fn plan(
    config: &Config,
    to: FileType,
    mut weights: Checkpoint,
) -> Result<Vec<Planned>, WeightsError> {
    let mut planned = Vec::new();
    for tensor in config.tensors() {
        let source = weights.take_stored(&tensor.name, &tensor.shape)?;
        let is_head = tensor.name == config.head_name();
        let is_turned = PAIRED.contains(&config.family.gguf_architecture)
            && ["q_proj.weight", "k_proj.weight"]
                .iter()
                .any(|name| tensor.name.ends_with(name));
        let layers = config.num_hidden_layers;
        let ggml_type = to.of_tensor(&tensor.gguf_name, is_head, &tensor.shape, layers);
        planned.push(Planned {
            tensor: TensorDescription {
                name: tensor.gguf_name,
                dims: tensor.shape.into_iter().rev().collect(),
                ggml_type,
            },
            source,
            turned_rows: is_turned.then_some(config.head_dim),
        });
    }
    if let Some(name) = config.spare_tensor() {
        weights.ignore(name);
    }
    weights.finish()?;
    Ok(planned)
}

/// Converts a tensor piece by piece into the file, and adds up the error.
fn append<W: Write>(
    writer: &mut GgufWriter<W>,
    planned: &Planned,
    kinds: &mut BTreeMap<(String, GgmlType), Kind>,
    file: &Path,
) -> Result<(), QuantizeError> {
    let tensor = &planned.tensor;
    let key = (gguf_kind(&tensor.name).to_owned(), tensor.ggml_type);
    let kind = kinds.entry(key).or_default();
    let failed = |source| QuantizeError::Convert {
        tensor: tensor.name.clone(),
        source: Box::new(source),
    };
    let head = planned.turned_rows.unwrap_or(1);
    let pieces: Vec<_> = pieces(&planned.source, head).collect();
    for together in pieces.chunks(PIECES) {
        let converted = together.par_iter().map(|piece| {
            let mut numbers = planned.source.part(piece.clone())?;
            if head > 1 {
                numbers = halves_to_neighbours(&numbers, head, numbers.len() / piece.len());
            }
            convert(&numbers, tensor.ggml_type)
        });
        let converted: Vec<_> = converted
            .collect::<candle_core::Result<_>>()
            .map_err(failed)?;
        for (bytes, error, power) in converted {
            kind.bytes += bytes.len() as u64;
            kind.error += error;
            kind.power += power;
            let written = writer.append_part(&tensor.name, &bytes);
            written.map_err(|source| QuantizeError::Write {
                path: file.into(),
                source,
            })?;
        }
    }
    Ok(())
}

/// Rows of heads `[rows, k]` in the order in which the numbers that are rotated together are
/// neighbours: the first half of a head's rows alternates with the second.
fn halves_to_neighbours(rows: &[f32], head: usize, k: usize) -> Vec<f32> {
    let heads = rows.chunks_exact(head * k);
    let pairs = heads.flat_map(|head| {
        let (first, second) = head.split_at(head.len() / 2);
        first.chunks_exact(k).zip(second.chunks_exact(k))
    });
    pairs.flat_map(|(a, b)| [a, b]).flatten().copied().collect()
}

/// Ranges of rows, whole heads of them, each of about [`PIECE`] numbers; vectors are one row.
fn pieces(
    stored: &StoredTensor,
    head: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
    let (rows, width) = match *stored.shape() {
        [rows, width] => (rows, width),
        _ => (1, 1),
    };
    let each = (PIECE / width.max(1) / head * head).max(head);
    (0..rows)
        .step_by(each)
        .map(move |first| first..rows.min(first + each))
}

/// The stored form, and the sums of squares of the change and of the numbers.
fn convert(before: &[f32], to: GgmlType) -> candle_core::Result<(Vec<u8>, f64, f64)> {
    let before = finite(before)?;
    let power = before.iter().map(|&x| f64::from(x).powi(2)).sum();
    let mut after = before.to_vec();
    let bytes = match Stored::from(to) {
        Stored::Blocks(format) => {
            let Some(blocks) = format.quantize(Isa::detect(), before) else {
                candle_core::bail!("{format} is only read");
            };
            format.dequantize(&blocks, &mut after);
            blocks
        }
        Stored::Float(DType::F16) => rounded(&mut after, |x| {
            let half = f16::from_f32(x);
            (half.to_le_bytes(), half.to_f32())
        }),
        Stored::Float(DType::BF16) => rounded(&mut after, |x| {
            let half = bf16::from_f32(x);
            (half.to_le_bytes(), half.to_f32())
        }),
        Stored::Float(_) | Stored::Other(_) => rounded(&mut after, |x| (x.to_le_bytes(), x)),
    };
    if !after.iter().all(|x| x.is_finite()) {
        candle_core::bail!("it has a number that is too large for {to}");
    }
    let change = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let error = before.iter().zip(&after).map(change).sum();
    Ok((bytes, error, power))
}

/// The numbers of a tensor, all of which must be some: blocks cannot hold what is none, and what
/// they would have in its place looks like any other.
pub(super) fn finite(numbers: &[f32]) -> candle_core::Result<&[f32]> {
    if !numbers.iter().all(|x| x.is_finite()) {
        candle_core::bail!("it has a number that is not finite");
    }
    Ok(numbers)
}

/// Each number's stored form; the numbers become what these stand for.
fn rounded<const N: usize>(numbers: &mut [f32], round: impl Fn(f32) -> ([u8; N], f32)) -> Vec<u8> {
    let each = numbers.iter_mut().map(|number| {
        let bytes;
        (bytes, *number) = round(*number);
        bytes
    });
    each.flatten().collect()
}
