//! Hands the checkpoint's tensors to the network as it is built, in the form that suits the device.
//! Which there are, and of which shapes, is in the table of `arch`.

use std::collections::HashMap;

use candle_core::quantized::QMatMul;
use candle_core::{CpuStorage, DType, Device, Tensor};
use candle_nn::RmsNorm;
use half::f16;
use rayon::prelude::*;

use super::arch::{EMBED_TOKENS, LM_HEAD};
use super::config::Config;
use super::embedding::Embedding;
use super::packed_cache::{Packed, Packing, Place};
use super::quantize::finite;
use super::storage::Storage;
use super::weight::{Affine, Weight};
use super::{OnLoad, Target};
use crate::atomic::AtomicError;
use crate::kernels::{Format, Isa, PackedMatrix};
use crate::weights::{Checkpoint, Stored, StoredTensor, WeightsError, blocks_on};

/// A checkpoint with the form that its tensors are wanted in.
pub(super) struct Loader<'a> {
    checkpoint: Checkpoint,
    shapes: HashMap<String, Vec<usize>>, // of every tensor of the network
    config: &'a Config,
    target: &'a Target,
    on_load: OnLoad<'a>,
    loaded_bytes: usize,
    total_bytes: usize,
    packed: PackedMatrices,
}

/// What is known of matrices that are packed already.
pub(super) enum PackedMatrices {
    Unknown,
    /// None are: the network computes with the tensor library's.
    Never,
    /// They are taken from here.
    Known(Packed),
    /// They are put there.
    Kept(Box<Packing>),
}

type Result<T> = std::result::Result<T, WeightsError>;

impl PackedMatrices {
    /// Those that `target` keeps of a checkpoint; and why none can be kept, if they were to be.
    pub fn of(checkpoint: &Checkpoint, target: &Target) -> (Self, Option<AtomicError>) {
        let folder = target.packed_folder.as_deref();
        let Some(place) = folder.and_then(|folder| Place::of(checkpoint, target, folder)) else {
            return (Self::Unknown, None);
        };
        if let Some(packed) = place.open() {
            return (Self::Known(packed), None);
        }
        match place.begin() {
            Ok(packing) => (Self::Kept(Box::new(packing)), None),
            Err(error) => (Self::Unknown, Some(error)),
        }
    }
}

impl<'a> Loader<'a> {
    pub fn new(
        config: &'a Config,
        checkpoint: Checkpoint,
        target: &'a Target,
        packed: PackedMatrices,
        on_load: OnLoad<'a>,
    ) -> Self {
        let shapes = config.tensors().map(|tensor| (tensor.name, tensor.shape));
        Self {
            shapes: shapes.collect(),
            config,
            target,
            on_load,
            loaded_bytes: 0,
            total_bytes: checkpoint.stored_bytes(),
            checkpoint,
            packed,
        }
    }

    /// The embedding table `[V, D]`.
    pub fn embedding(&mut self) -> Result<Embedding> {
        let stored = self.stored(EMBED_TOKENS)?;
        let is_rounded = match (self.target.storage, &stored.stored) {
            _ if matches!(self.packed, PackedMatrices::Never) => false,
            (Storage::Dense(DType::F32) | Storage::Quantized(_) | Storage::AsStored, _) => false,
            (Storage::Dense(dtype), Stored::Float(of_file)) => dtype != *of_file,
            (Storage::Dense(_), Stored::Blocks(_) | Stored::Other(_)) => true,
        };
        // A table of which a canvas needs a few rows is left where it is.
        match is_rounded {
            true => Ok(Embedding::Table(self.load(EMBED_TOKENS, &stored)?)),
            false => Ok(Embedding::Stored(stored)),
        }
    }

    /// `{name}.weight` `[outputs, inputs]` and, where the network has one, `{name}.bias`
    /// `[outputs]`.
    pub fn linear(&mut self, name: &str) -> Result<Affine> {
        let bias = format!("{name}.bias");
        let weight = format!("{name}.weight");
        let stored = self.stored(&weight)?;
        let weight = self.weight(&weight, &stored)?;
        let has_bias = self.shapes.contains_key(&bias);
        let bias = has_bias.then(|| self.tensor(&bias)).transpose()?;
        Ok(Affine { weight, bias })
    }

    /// The output head `[V, D]`, which may be the embedding `table`.
    pub fn head(&mut self, table: &Embedding) -> Result<Affine> {
        let weight = match (self.config.tie_word_embeddings, table) {
            (false, _) => {
                let stored = self.stored(LM_HEAD)?;
                self.weight(LM_HEAD, &stored)?
            }
            (true, Embedding::Table(table)) => Weight::Dense(table.clone()),
            (true, Embedding::Stored(stored)) => self.weight(EMBED_TOKENS, stored)?,
        };
        Ok(Affine { weight, bias: None })
    }

    /// `{name}.weight` `[D]` for the tensor library.
    pub fn norm(&mut self, name: &str) -> Result<RmsNorm> {
        let weight = self.tensor(&format!("{name}.weight"))?;
        Ok(RmsNorm::new(weight, self.config.rms_norm_eps))
    }

    /// Whether the network has a part of this name.
    pub fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(&format!("{name}.weight"))
    }

    /// A vector as plain numbers.
    pub fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let numbers = stored.part(0..1);
        numbers.map_err(|source| self.checkpoint.failed(name, source))
    }

    /// What was made of a tensor, or the error that says which one failed.
    pub fn built<T>(&self, name: &str, built: candle_core::Result<T>) -> Result<T> {
        built.map_err(|source| self.checkpoint.failed(name, source))
    }

    /// Ends the loading: every tensor must have been asked for. Gives why packed matrices are not
    /// kept, if they were to be and are not.
    pub fn finish(mut self) -> Result<Option<AtomicError>> {
        if let Some(name) = self.config.spare_tensor() {
            self.checkpoint.ignore(name);
        }
        self.checkpoint.finish()?;
        Ok(match self.packed {
            PackedMatrices::Kept(packing) => packing.finish().err(),
            PackedMatrices::Unknown | PackedMatrices::Never | PackedMatrices::Known(_) => None,
        })
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let stored = self.stored(name)?;
        self.load(name, &stored)
    }

    fn load(&self, name: &str, stored: &StoredTensor) -> Result<Tensor> {
        let (dtype, device) = (self.target.storage.dtype(), &self.target.device);
        let loaded = dense(stored, dtype, device);
        stored.release();
        loaded.map_err(|source| self.checkpoint.failed(name, source))
    }

    fn stored(&mut self, name: &str) -> Result<StoredTensor> {
        // A tensor that is not in the table would be refused: none has the shape [].
        let shape = self.shapes.get(name).map_or(&[][..], Vec::as_slice);
        let stored = self.checkpoint.take_stored(name, shape)?;
        self.loaded_bytes += stored.bytes().len();
        (self.on_load)(self.loaded_bytes, self.total_bytes);
        Ok(stored)
    }

    /// A matrix in the form that products are fastest in.
    fn weight(&mut self, name: &str, stored: &StoredTensor) -> Result<Weight> {
        if let (PackedMatrices::Known(packed), &[n, k]) = (&self.packed, stored.shape())
            && let Some(matrix) = packed.matrix(name, (n, k))
        {
            return Ok(Weight::Packed(matrix));
        }
        let weight = self.matrix(stored);
        stored.release();
        let weight = weight.map_err(|source| self.checkpoint.failed(name, source))?;
        if let (PackedMatrices::Kept(packing), Weight::Packed(matrix)) = (&mut self.packed, &weight)
        {
            packing.add(name, matrix);
        }
        Ok(weight)
    }

    fn matrix(&self, stored: &StoredTensor) -> candle_core::Result<Weight> {
        let &[n, k] = stored.shape() else {
            candle_core::bail!("not a matrix: {:?}", stored.shape())
        };
        match (self.target.storage, &stored.stored) {
            (Storage::Quantized(format), Stored::Float(_))
                if k.is_multiple_of(format.block_inputs()) =>
            {
                self.blocks(format, &quantize(stored, format, n)?, (n, k))
            }
            (Storage::Quantized(_) | Storage::AsStored, &Stored::Blocks(format)) => {
                self.blocks(format, stored.bytes(), (n, k))
            }
            (Storage::AsStored, &Stored::Float(dtype)) => {
                let device = &self.target.device;
                let dtype = Storage::type_beside_blocks(dtype, !device.is_cpu());
                dense(stored, dtype, device).map(Weight::Dense)
            }
            _ => dense(stored, self.target.storage.dtype(), &self.target.device).map(Weight::Dense),
        }
    }

    /// Blocks as the network computes with them; numbers where the tensor library has no such.
    fn blocks(
        &self,
        format: Format,
        blocks: &[u8],
        (n, k): (usize, usize),
    ) -> candle_core::Result<Weight> {
        let device = &self.target.device;
        if !matches!(self.packed, PackedMatrices::Never) {
            let packed = PackedMatrix::pack(format, blocks, n, k);
            return packed.map(Weight::Packed).map_err(candle_core::Error::wrap);
        }
        let weight = match blocks_on(format, blocks, &[n, k], device)? {
            Some(blocks) => QMatMul::from_qtensor(blocks)?,
            None => {
                let mut numbers = vec![0.0; n * k];
                format.dequantize(blocks, &mut numbers);
                let numbers = Tensor::from_vec(numbers, (n, k), &Device::Cpu)?;
                QMatMul::TensorF16(numbers.to_dtype(DType::F16)?.to_device(device)?)
            }
        };
        Ok(Weight::Blocks(weight))
    }
}

/// Floating-point numbers of a type. Of float16 our kernels take all bits for a number, so there
/// must be none that is not finite, be it for its size; in other types that shows in the logits.
fn dense(stored: &StoredTensor, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let numbers = stored.load(dtype, device)?;
    // Without a way out of the loop it is one of vectors.
    let has_none = |halves: &[f16]| halves.iter().fold(false, |has, x| has | !x.is_finite());
    if let candle_core::Storage::Cpu(CpuStorage::F16(halves)) = &*numbers.storage_and_layout().0
        && halves.par_chunks(1 << 16).any(has_none)
    {
        candle_core::bail!("it has a number that is not finite as float16, which ends at 65504");
    }
    Ok(numbers)
}

/// A few rows at a time on each thread, so that the tensor is never all there as float32.
fn quantize(stored: &StoredTensor, format: Format, n: usize) -> candle_core::Result<Vec<u8>> {
    const ROWS: usize = 64;
    let parts = (0..n.div_ceil(ROWS)).into_par_iter().map(|part| {
        let rows = stored.part(part * ROWS..n.min((part + 1) * ROWS))?;
        match format.quantize(Isa::detect(), finite(&rows)?) {
            Some(blocks) => Ok(blocks),
            None => candle_core::bail!("{format} is only read"),
        }
    });
    Ok(parts.collect::<candle_core::Result<Vec<_>>>()?.concat())
}
