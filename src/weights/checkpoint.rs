//! An open checkpoint, whatever its format: where each tensor lies, and what it is loaded as.
//!
//! Tensors are loaded one at a time from the map, so that no second copy of the model is ever in
//! memory; every tensor must be asked for, so that none is overlooked.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::stored::{Stored, StoredTensor};
use super::{Bytes, FileIdentity, WeightsError};

/// Checked headers over mapped files.
pub struct Checkpoint {
    files: Vec<(String, Arc<Bytes>)>,
    extents: HashMap<String, (usize, Extent)>, // tensor -> file, extent
    taken: HashSet<String>,
    changes: HashMap<String, Change>,
}

/// What becomes of a tensor on its way out of a checkpoint.
#[derive(Clone, Default)]
pub struct Change {
    /// What takes its place.
    pub other: Option<StoredTensor>,
    /// The product of two thin matrices that is then added.
    pub delta: Option<Delta>,
}

/// What a low-rank adapter adds to a matrix `[n, k]`: scale · B · A, of rank r.
#[derive(Clone)]
pub struct Delta {
    /// `[r, k]`; of an embedding table `[r, n]`.
    pub a: StoredTensor,
    /// `[n, r]`; of an embedding table `[k, r]`.
    pub b: StoredTensor,
    /// Alpha by the rank, or by its root.
    pub scale: f64,
    /// Whether it is the table's, whose product stands the other way round.
    pub is_embedding: bool,
}

/// Where a tensor lies in its file.
pub struct Extent {
    /// Its bytes.
    pub range: Range<usize>,
    /// How its numbers are stored.
    pub stored: Stored,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Heads whose rows are in the order of a rotation that takes neighbours for pairs, if they
    /// are.
    pub paired_heads: Option<usize>,
}

impl Delta {
    /// The factors in float32, the scale in the first. `[n, r]`, `[r, k]`
    fn factors(&self) -> candle_core::Result<(Tensor, Tensor)> {
        let [a, b] = [&self.a, &self.b].map(|factor| factor.load(DType::F32, &Device::Cpu));
        let (left, right) = match self.is_embedding {
            true => (a?.t()?.contiguous()?, b?.t()?.contiguous()?),
            false => (b?, a?),
        };
        Ok(((left * self.scale)?, right))
    }
}

impl Checkpoint {
    /// No files yet.
    pub fn empty() -> Self {
        Self {
            files: Vec::new(),
            extents: HashMap::new(),
            taken: HashSet::new(),
            changes: HashMap::new(),
        }
    }

    /// Gives these tensors out changed. They must be of plain numbers.
    pub(crate) fn change(&mut self, changes: HashMap<String, Change>) {
        self.changes.extend(changes);
    }

    /// Adds a file whose header is checked.
    ///
    /// # Errors
    /// [`WeightsError::Duplicate`] when another file holds one of its tensors.
    pub(crate) fn add_file(
        &mut self,
        file: String,
        bytes: Bytes,
        extents: impl Iterator<Item = (String, Extent)>,
    ) -> Result<(), WeightsError> {
        let number = self.files.len();
        self.files.push((file, Arc::new(bytes)));
        for (tensor, extent) in extents {
            if let Some((other, _)) = self.extents.insert(tensor.clone(), (number, extent)) {
                return Err(WeightsError::Duplicate {
                    tensor,
                    first: self.files[other].0.clone(),
                    second: self.files[number].0.clone(),
                });
            }
        }
        Ok(())
    }

    /// The checkpoint with the names that `name` has for its tensors; where it has none they stay.
    ///
    /// # Errors
    /// [`WeightsError::Duplicate`] when two tensors get the same name.
    pub(crate) fn renamed(
        mut self,
        name: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, WeightsError> {
        let mut old_names = HashMap::new();
        for (old, extent) in std::mem::take(&mut self.extents) {
            let tensor = name(&old).unwrap_or_else(|| old.clone());
            let place = format!("{} ({old})", self.files[extent.0].0);
            if let Some(other) = old_names.insert(tensor.clone(), place.clone()) {
                let [first, second] = if other < place {
                    [other, place]
                } else {
                    [place, other]
                };
                return Err(WeightsError::Duplicate {
                    tensor,
                    first,
                    second,
                });
            }
            self.extents.insert(tensor, extent);
        }
        Ok(self)
    }

    /// Which files it is made of, in the order of their paths. `None` where there is more to it.
    pub(crate) fn files(&self) -> Option<Vec<&FileIdentity>> {
        let files = self.files.iter().map(|(_, bytes)| match &**bytes {
            Bytes::Mapped(_, file) => Some(file),
            Bytes::Static(_) | Bytes::Owned(_) => None,
        });
        let mut files = files.collect::<Option<Vec<_>>>()?;
        files.sort();
        self.changes.is_empty().then_some(files)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.extents.keys().map(String::as_str)
    }

    /// Whether some file holds this tensor.
    pub fn contains(&self, tensor: &str) -> bool {
        self.extents.contains_key(tensor)
    }

    /// Shape of a tensor, if some file holds it.
    pub fn shape(&self, tensor: &str) -> Option<Vec<usize>> {
        self.extents
            .get(tensor)
            .map(|(_, extent)| extent.shape.clone())
    }

    /// Memory that the tensors take when they are loaded as they are stored: blocks stay what they
    /// are, matrices of numbers become what `held` says of their type, vectors float32, and
    /// `table`, of which a canvas needs a few rows, stays in the file unless it is also the head.
    pub(crate) fn bytes_as_stored(
        &self,
        (table, is_tied): (&str, bool),
        held: impl Fn(DType) -> DType,
    ) -> u64 {
        let loaded = self
            .extents
            .iter()
            .filter(|(name, _)| (is_tied || *name != table) && !is_buffer(name));
        let bytes = loaded.map(|(_, (_, extent))| match extent.stored {
            Stored::Float(dtype) => {
                let is_matrix = extent.shape.len() > 1;
                let held = if is_matrix { held(dtype) } else { DType::F32 };
                (held.size_in_bytes() * extent.shape.iter().product::<usize>()) as u64
            }
            _ => extent.range.len() as u64,
        });
        bytes.sum()
    }

    /// Bytes of all tensors together, as stored.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.extents
            .values()
            .map(|(_, extent)| extent.range.len())
            .sum()
    }

    /// A tensor of the given shape as it is stored.
    ///
    /// # Errors
    /// When the tensor is missing, misshapen or of an unexpected type.
    pub fn take_stored(
        &mut self,
        tensor: &str,
        shape: &[usize],
    ) -> Result<StoredTensor, WeightsError> {
        let (number, extent) = self.extents.get(tensor).ok_or_else(|| {
            let files: Vec<&str> = self.files.iter().map(|(file, _)| file.as_str()).collect();
            WeightsError::Missing {
                tensor: tensor.into(),
                files: files.join(", "),
            }
        })?;
        let (file, bytes) = &self.files[*number];
        let (file, tensor) = (file.clone(), tensor.to_string());
        if extent.shape != shape {
            let (found, expected) = (extent.shape.clone(), shape.to_vec());
            return Err(WeightsError::Shape {
                file,
                tensor,
                found,
                expected,
            });
        }
        if let Stored::Other(found) = &extent.stored {
            return Err(WeightsError::Dtype {
                file,
                tensor,
                found: found.clone(),
            });
        }
        let mut found = StoredTensor {
            stored: extent.stored.clone(),
            shape: extent.shape.clone(),
            bytes: Arc::clone(bytes),
            range: extent.range.clone(),
            added: None,
        };
        if let Some(heads) = extent.paired_heads {
            found = found
                .with_halves(heads)
                .map_err(|source| self.failed(&tensor, source))?;
        }
        if let Some(Change { other, delta }) = self.changes.get(&tensor) {
            found = other.clone().unwrap_or(found);
            let factors = delta.as_ref().map(Delta::factors).transpose();
            let factors = factors.map_err(|source| self.failed(&tensor, source))?;
            found.added = factors.map(Arc::new);
        }
        self.taken.insert(tensor);
        Ok(found)
    }

    /// The error of a tensor that is as it should be and cannot be loaded all the same.
    pub(crate) fn failed(&self, tensor: &str, source: candle_core::Error) -> WeightsError {
        let number = self.extents.get(tensor).map_or(0, |(number, _)| *number);
        WeightsError::Load {
            file: self.files[number].0.clone(),
            tensor: tensor.into(),
            source: Box::new(source),
        }
    }

    /// Marks a tensor that may be there and is not needed.
    pub(crate) fn ignore(&mut self, tensor: &str) {
        self.taken.insert(tensor.into());
    }

    /// Ends the loading.
    ///
    /// # Errors
    /// [`WeightsError::Extra`] when a tensor was neither taken nor ignored, nor is a buffer.
    pub fn finish(self) -> Result<(), WeightsError> {
        let extra = self
            .extents
            .iter()
            .filter(|(tensor, _)| !self.taken.contains(*tensor) && !is_buffer(tensor));
        match extra.min_by_key(|(tensor, _)| *tensor) {
            Some((tensor, (number, _))) => Err(WeightsError::Extra {
                file: self.files[*number].0.clone(),
                tensor: tensor.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether a tensor is no weight, but what some version of some library computed once and saved
/// with the weights: rotary tables, positions, and causal masks under their many names.
pub(super) fn is_buffer(tensor: &str) -> bool {
    const NAMES: [&str; 8] = [
        "inv_freq",
        "original_inv_freq",
        "cos_cached",
        "sin_cached",
        "position_ids",
        "masked_bias",
        "causal_mask",
        "attention_mask",
    ];
    let mut parts = tensor.rsplit('.');
    match (parts.next(), parts.next()) {
        // The mask in the attention itself; a projection's bias is one level below.
        (Some("bias"), Some("self_attn" | "attn" | "attention")) => true,
        (Some(last), _) => NAMES.contains(&last),
        (None, _) => false,
    }
}
