//! A GGUF file as a checkpoint: its tensors under the names of the checkpoint they came from.

use super::{GgufError, GgufFile};
use crate::weights::checkpoint::{Checkpoint, Extent};
use crate::weights::{Bytes, WeightsError};

/// Tables that some conversions carry and no network here needs: the rotary frequencies follow from
/// rope_theta.
const NOT_NEEDED: [&str; 1] = ["rope_freqs.weight"];

impl Checkpoint {
    /// Opens the tensors of a GGUF file, under the names that `checkpoint_name` gives them.
    ///
    /// # Errors
    /// [`WeightsError::Gguf`] when the file is broken, [`WeightsError::Extra`] when it holds a
    /// tensor that has no such name.
    pub fn open_gguf(
        file: &str,
        bytes: Bytes,
        checkpoint_name: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, WeightsError> {
        let failed = |source: GgufError| WeightsError::Gguf {
            file: file.into(),
            source: Box::new(source),
        };
        let parsed = GgufFile::parse(bytes.as_ref()).map_err(failed)?;
        let mut extents = Vec::new();
        for tensor in parsed.tensors() {
            if NOT_NEEDED.contains(&tensor.name) {
                continue;
            }
            let name = checkpoint_name(tensor.name).ok_or_else(|| WeightsError::Extra {
                file: file.into(),
                tensor: tensor.name.into(),
            })?;
            let extent = Extent {
                range: tensor.range.clone(),
                stored: tensor.ggml_type.into(),
                shape: tensor.shape(),
            };
            extents.push((name, extent));
        }
        let mut checkpoint = Self::empty();
        checkpoint.add_file(file.into(), bytes, extents.into_iter())?;
        Ok(checkpoint)
    }
}
