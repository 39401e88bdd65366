//! GGUF files as a checkpoint: their tensors under the names of the checkpoint they came from.

use super::{GgufFile, parse_parts};
use crate::weights::checkpoint::{Checkpoint, Extent};
use crate::weights::{Bytes, WeightsError};

/// Tables that some conversions carry and no network here needs: the rotary frequencies follow from
/// rope_theta.
const NOT_NEEDED: [&str; 2] = ["rope_freqs.weight", "attn_rot_embd.weight"];

impl Checkpoint {
    /// Opens the tensors of a GGUF file (name, bytes), or of all parts of one in order, under the
    /// names that `checkpoint_name` gives them.
    ///
    /// # Errors
    /// Those of [`parse_parts`], and [`WeightsError::Extra`] when a file holds a tensor that has no
    /// such name.
    pub fn open_gguf(
        files: Vec<(String, Bytes)>,
        checkpoint_name: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, WeightsError> {
        let parts = parse_parts(&files)?;
        let extents = parts.iter().zip(&files);
        let extents: Vec<_> = extents
            .map(|(part, (file, _))| extents_of(part, file, &checkpoint_name))
            .collect::<Result<_, _>>()?;
        let mut checkpoint = Self::empty();
        for ((file, bytes), extents) in files.into_iter().zip(extents) {
            checkpoint.add_file(file, bytes, extents.into_iter())?;
        }
        Ok(checkpoint)
    }
}

fn extents_of(
    part: &GgufFile<'_>,
    file: &str,
    checkpoint_name: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Extent)>, WeightsError> {
    let mut extents = Vec::new();
    for tensor in part.tensors() {
        // Behind the layer, in files that repeat a table in each.
        if NOT_NEEDED.iter().any(|name| tensor.name.ends_with(name)) {
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
    Ok(extents)
}
