//! A checkpoint to a smaller GGUF file, a piece of a tensor at a time.
//!
//! Matrices become blocks of the asked format; the output head, where an error costs most, gets 6 bits
//! when the rest gets 4, as in llama.cpp's mixes; norms and biases stay float32. The file is one that
//! llama.cpp loads (architecture `dream`).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor};
use rayon::prelude::*;

use crate::error::Error;
use crate::package::Package;
use crate::weights::gguf::export::{Description, ExportError, metadata};
use crate::weights::gguf::{
    AtomicError, GgmlType, GgufWriteError, GgufWriter, TensorDescription, names, write_atomically,
};
use crate::weights::{Checkpoint, StoredTensor, WeightsError};

/// Numbers that a thread converts at a time: 4 MB as float32, in memory twice.
const PIECE: usize = 1 << 20;

/// Pieces that are converted together, whatever the number of threads.
const PIECES: usize = 16;

/// A format to quantise to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// 8 bits in blocks of 32.
    Q8_0,
    /// 4 bits in blocks of 32.
    Q4_0,
    /// 4 bits in blocks of 256, with scales and minimums of 6 bits.
    Q4K,
}

/// Why a file could not be made.
#[derive(Debug, thiserror::Error)]
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
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: GgufWriteError,
    },
    /// A tensor cannot be converted.
    #[error("cannot quantise tensor {tensor}")]
    Convert {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// The source is quantised already: doing it twice adds the errors.
    #[error("{name} is a GGUF file, which is quantised already")]
    Quantised {
        /// The source.
        name: String,
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
            Self::Quantised { .. } => {
                Some("start from the model's safetensors: an alias, a Hub id or a folder".into())
            }
            Self::Convert { .. } => None,
        }
    }
}

/// What became of the tensors of one kind (`attn_q`, `ffn_down`, …).
#[derive(Debug, Clone, PartialEq)]
pub struct KindReport {
    /// The type they are stored in.
    pub stored_as: GgmlType,
    /// Their size in the file.
    pub bytes: u64,
    /// Root mean square of the change, relative to that of the numbers.
    pub relative_error: f64,
}

/// Sums behind a [`KindReport`].
struct Kind {
    stored_as: GgmlType,
    bytes: u64,
    error: f64,
    power: f64,
}

/// Writes the model of `package`, whose weights are `weights`, as `to` into `file`.
/// `on_tensor` is told the bytes of the source read so far and in all.
///
/// # Errors
/// [`QuantizeError`]; nothing is left behind, and an existing file is replaced only with `force`, as
/// the last step.
pub fn quantize(
    package: &Package,
    mut weights: Checkpoint,
    to: To,
    (file, force): (&Path, bool),
    on_tensor: &mut dyn FnMut(usize, usize),
) -> Result<BTreeMap<String, KindReport>, Error> {
    if package.is_gguf() {
        return Err(QuantizeError::Quantised {
            name: package.name(),
        }
        .into());
    }
    let config = &package.config;
    let mut tensors = Vec::new();
    for name in names::in_order(config.num_hidden_layers, config.tie_word_embeddings) {
        let stored = take(&mut weights, &name)?;
        let head = if config.tie_word_embeddings {
            "token_embd.weight"
        } else {
            "output.weight"
        };
        let ggml_type = to.kind(name == head, stored.shape());
        let dims = stored.shape().iter().rev().copied().collect();
        tensors.push((
            TensorDescription {
                name,
                dims,
                ggml_type,
            },
            stored,
        ));
    }
    if config.tie_word_embeddings {
        weights.ignore("lm_head.weight");
    }
    weights.finish()?;

    let vocabulary = package.vocabulary()?;
    let name = package.name();
    let keys = metadata(
        config,
        &Description {
            name: &name,
            weights: to.ggml_type(),
            vocabulary: &vocabulary,
            bos_token_id: None,
            eos_token_id: config.eos_token_ids.first().copied(),
            eot_token_id: package.tokenizer.token_to_id("<|im_end|>"),
            pad_token_id: config.pad_token_id,
            mask_token_id: package.mask_id,
            chat_template: package
                .chat_template
                .as_ref()
                .map(|template| template.source()),
            shift_logits: config.shift_logits,
        },
    );
    let descriptions: Vec<_> = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    let total = tensors.iter().map(|(_, stored)| stored.bytes().len()).sum();
    let mut read = 0;
    let kinds = write_atomically(file, force, |out| {
        let failed = |source| QuantizeError::Write {
            path: file.into(),
            source,
        };
        let mut writer = GgufWriter::new(out, &keys, &descriptions).map_err(failed)?;
        let mut kinds = BTreeMap::new();
        for (tensor, stored) in &tensors {
            append(&mut writer, tensor, stored, &mut kinds, file)?;
            read += stored.bytes().len();
            on_tensor(read, total);
        }
        writer.finish().map_err(failed)?;
        Ok::<_, QuantizeError>(kinds)
    })
    .map_err(Error::from)?;
    let report = |kind: Kind| KindReport {
        stored_as: kind.stored_as,
        bytes: kind.bytes,
        relative_error: (kind.error / kind.power.max(f64::MIN_POSITIVE)).sqrt(),
    };
    Ok(kinds
        .into_iter()
        .map(|(name, kind)| (name, report(kind)))
        .collect())
}

fn take(weights: &mut Checkpoint, name: &str) -> Result<StoredTensor, WeightsError> {
    let checkpoint_name = names::to_checkpoint(name).unwrap_or_default();
    let shape = weights.shape(&checkpoint_name).unwrap_or_default();
    weights.take_stored(&checkpoint_name, &shape)
}

/// Converts a tensor piece by piece into the file, and adds up the error.
fn append<W: Write>(
    writer: &mut GgufWriter<W>,
    tensor: &TensorDescription,
    stored: &StoredTensor,
    kinds: &mut BTreeMap<String, Kind>,
    file: &Path,
) -> Result<(), QuantizeError> {
    let kind = kinds.entry(kind_name(&tensor.name)).or_insert(Kind {
        stored_as: tensor.ggml_type,
        bytes: 0,
        error: 0.0,
        power: 0.0,
    });
    let failed = |source| QuantizeError::Convert {
        tensor: tensor.name.clone(),
        source: Box::new(source),
    };
    let pieces: Vec<_> = pieces(stored).collect();
    for together in pieces.chunks(PIECES) {
        let converted = together.par_iter().map(|piece| {
            let numbers = stored.part(piece.clone())?;
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

/// Ranges of rows, each of about [`PIECE`] numbers; vectors are one row.
fn pieces(stored: &StoredTensor) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
    let (rows, width) = match *stored.shape() {
        [rows, width] => (rows, width),
        _ => (1, 1),
    };
    let each = (PIECE / width.max(1)).max(1);
    (0..rows)
        .step_by(each)
        .map(move |first| first..rows.min(first + each))
}

/// The stored form, and the sums of squares of the change and of the numbers.
fn convert(numbers: &Tensor, to: GgmlType) -> candle_core::Result<(Vec<u8>, f64, f64)> {
    let before: Vec<f32> = numbers.flatten_all()?.to_vec1()?;
    let power = before.iter().map(|&x| f64::from(x).powi(2)).sum();
    let blocks = match to {
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_K => GgmlDType::Q4K,
        GgmlType::Q6_K => GgmlDType::Q6K,
        _ => {
            let bytes = before.iter().flat_map(|x| x.to_le_bytes()).collect();
            return Ok((bytes, 0.0, power));
        }
    };
    let quantised = QTensor::quantize(numbers, blocks)?;
    let after: Vec<f32> = quantised
        .dequantize(numbers.device())?
        .flatten_all()?
        .to_vec1()?;
    let change = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let error = before.iter().zip(&after).map(change).sum();
    Ok((quantised.data()?.into_owned(), error, power))
}

/// `blk.3.attn_q.weight` is an `attn_q`.
fn kind_name(tensor: &str) -> String {
    let name = tensor
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'));
    let name = name.map_or(tensor, |(_, rest)| rest);
    name.strip_suffix(".weight").unwrap_or(name).to_string()
}

impl To {
    fn ggml_type(self) -> GgmlType {
        match self {
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::Q4K => GgmlType::Q4_K,
        }
    }

    /// The type of a tensor: the smallest wanted one whose blocks its rows fill.
    fn kind(self, is_head: bool, shape: &[usize]) -> GgmlType {
        let &[_, columns] = shape else {
            return GgmlType::F32;
        };
        let wanted = match self {
            Self::Q4_0 | Self::Q4K if is_head => GgmlType::Q6_K,
            _ => self.ggml_type(),
        };
        [wanted, GgmlType::Q8_0]
            .into_iter()
            .find(|kind| columns.is_multiple_of(kind.block_len()))
            .unwrap_or(GgmlType::F32)
    }
}
