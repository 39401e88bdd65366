//! GGUF files as a checkpoint: their tensors under the names of the checkpoint they came from.

use super::{GgmlType, GgufError, GgufFile, parse_parts};
use crate::weights::checkpoint::{Checkpoint, Extent};
use crate::weights::{Bytes, WeightsError};

/// What rotary frequencies are divided by, where a conversion says so: a scaling such as Llama 3's.
const ROPE_FREQS: &str = "rope_freqs.weight";
/// A table that some conversions carry and no network here needs: the rotary frequencies follow
/// from rope_theta.
const NOT_NEEDED: &str = "attn_rot_embd.weight";

impl Checkpoint {
    /// Opens the tensors of a GGUF file (name, bytes), or of all parts of one in order, under the
    /// names that `checkpoint_name` gives them.
    ///
    /// # Errors
    /// [`WeightsError::Gguf`] with the file at fault, [`WeightsError::Duplicate`] for a tensor in
    /// two parts, and [`WeightsError::Extra`] when a file holds a tensor that has no such name.
    pub fn open_gguf(
        files: Vec<(String, Bytes)>,
        checkpoint_name: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, WeightsError> {
        let parts = parse_parts(&files)?;
        let heads = match parts.first().zip(files.first()) {
            Some((first, (file, _))) => paired_heads(first).map_err(|source| {
                let (file, source) = (file.clone(), Box::new(source));
                WeightsError::Gguf { file, source }
            })?,
            None => None,
        };
        let extents = parts.iter().zip(&files);
        let extents: Vec<_> = extents
            .map(|(part, (file, _))| extents_of(part, file, heads, &checkpoint_name))
            .collect::<Result<_, _>>()?;
        let mut checkpoint = Self::empty();
        for ((file, bytes), extents) in files.into_iter().zip(extents) {
            checkpoint.add_file(file, bytes, extents.into_iter())?;
        }
        Ok(checkpoint)
    }
}

/// Architectures in whose heads of q and k ggml rotates neighbours and not halves: its converter
/// orders the rows for that. (`llama_model_rope_type` in `src/llama-model.cpp`, `undo_permute` in
/// `conversion/llama.py`.)
pub const PAIRED: [&str; 2] = ["llama", "llada"];

/// Heads of q and of k, where the rows of these are in another order than in checkpoints.
fn paired_heads(file: &GgufFile<'_>) -> Result<Option<[usize; 2]>, GgufError> {
    let architecture = file.str("general.architecture")?;
    if !PAIRED.contains(&architecture) {
        return Ok(None);
    }
    let key = |name| format!("{architecture}.attention.{name}");
    let heads = file.u32(&key("head_count"))?;
    let kv_heads = file.u32_if_any(&key("head_count_kv"))?;
    let kv_heads = kv_heads.unwrap_or(heads);
    Ok(Some([heads, kv_heads].map(|heads| heads as usize)))
}

/// How many of the `heads` of q and of k a tensor has, if it is of either.
fn heads_of(tensor: &str, heads: [usize; 2]) -> Option<usize> {
    let of = tensor.split('.').nth_back(1);
    match of {
        Some("attn_q") => Some(heads[0]),
        Some("attn_k") => Some(heads[1]),
        _ => None,
    }
}

fn extents_of(
    part: &GgufFile<'_>,
    file: &str,
    heads: Option<[usize; 2]>,
    checkpoint_name: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Extent)>, WeightsError> {
    let mut extents = Vec::new();
    for tensor in part.tensors() {
        // Behind the layer, in files that repeat a table in each.
        if tensor.name.ends_with(NOT_NEEDED) {
            continue;
        }
        if tensor.name.ends_with(ROPE_FREQS) {
            let mut factors = part.data(tensor).chunks_exact(4);
            let is_one = |factor: &[u8]| factor == 1f32.to_le_bytes();
            if tensor.ggml_type == GgmlType::F32 && factors.all(is_one) {
                continue; // nothing is scaled
            }
            let what = format!("scaling of the rotation (tensor {})", tensor.name);
            let source = Box::new(GgufError::Unsupported { what });
            let file = file.into();
            return Err(WeightsError::Gguf { file, source });
        }
        let name = checkpoint_name(tensor.name).ok_or_else(|| WeightsError::Extra {
            file: file.into(),
            tensor: tensor.name.into(),
        })?;
        let extent = Extent {
            range: tensor.range.clone(),
            stored: tensor.ggml_type.into(),
            shape: tensor.shape(),
            paired_heads: heads.and_then(|heads| heads_of(tensor.name, heads)),
        };
        extents.push((name, extent));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::super::{GgufWriter, TensorDescription};
    use super::*;

    #[test]
    fn a_rotation_that_is_scaled_by_a_tensor_is_refused() {
        let open = |factors: [f32; 2]| {
            let tensor = TensorDescription {
                name: ROPE_FREQS.into(),
                dims: vec![2],
                ggml_type: GgmlType::F32,
            };
            let keys = [("general.architecture", "dream".into())];
            let mut writer = GgufWriter::new(Vec::new(), &keys, &[tensor]).unwrap();
            let data = factors.map(f32::to_le_bytes);
            writer.append(ROPE_FREQS, data.as_flattened()).unwrap();
            let file = ("f".into(), Bytes::Owned(writer.finish().unwrap()));
            Checkpoint::open_gguf(vec![file], |_| None)
        };
        assert_eq!(open([1.0, 1.0]).unwrap().names().count(), 0);
        let error = anyhow::Error::from(open([1.0, 8.0]).err().unwrap());
        let said = format!("{error:#}");
        assert!(
            said.contains("rope_freqs.weight) is not supported"),
            "{said}"
        );
    }
}
