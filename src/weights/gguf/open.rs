//! A GGUF file as a checkpoint: its tensors under the names of the checkpoint they came from.

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::{GgmlType, GgufError, GgufFile, names};
use crate::weights::checkpoint::{Checkpoint, Place, Stored};
use crate::weights::{Bytes, WeightsError};

/// Tables that some conversions carry and this network does not need: the rotary frequencies follow
/// from rope_theta.
const NOT_NEEDED: [&str; 1] = ["rope_freqs.weight"];

impl Checkpoint {
    /// Opens the tensors of a GGUF file.
    ///
    /// # Errors
    /// [`WeightsError::Gguf`] when the file is broken, [`WeightsError::Extra`] when it holds a tensor
    /// that the network does not have.
    pub fn open_gguf(file: &str, bytes: Bytes) -> Result<Self, WeightsError> {
        let failed = |source: GgufError| WeightsError::Gguf {
            file: file.into(),
            source: Box::new(source),
        };
        let parsed = GgufFile::parse(bytes.as_ref()).map_err(failed)?;
        let mut places = Vec::new();
        for tensor in parsed.tensors() {
            if NOT_NEEDED.contains(&tensor.name) {
                continue;
            }
            let name = names::to_checkpoint(tensor.name).ok_or_else(|| WeightsError::Extra {
                file: file.into(),
                tensor: tensor.name.into(),
            })?;
            let stored = stored(tensor.ggml_type);
            places.push((
                name,
                Place {
                    range: tensor.range.clone(),
                    stored,
                    shape: tensor.shape(),
                },
            ));
        }
        let mut checkpoint = Self::empty();
        checkpoint.add_file(file.into(), bytes, places.into_iter())?;
        Ok(checkpoint)
    }
}

fn stored(kind: GgmlType) -> Stored {
    let blocks = match kind {
        GgmlType::F32 => return Stored::Float(DType::F32),
        GgmlType::F16 => return Stored::Float(DType::F16),
        GgmlType::BF16 => return Stored::Float(DType::BF16),
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2_K => GgmlDType::Q2K,
        GgmlType::Q3_K => GgmlDType::Q3K,
        GgmlType::Q4_K => GgmlDType::Q4K,
        GgmlType::Q5_K => GgmlDType::Q5K,
        GgmlType::Q6_K => GgmlDType::Q6K,
        other => return Stored::Other(other.name().into()),
    };
    Stored::Blocks(blocks)
}
