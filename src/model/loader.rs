//! Hands the checkpoint's tensors to the network as it is built, in the form that suits the device.

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::RmsNorm;
use rayon::prelude::*;

use super::embedding::Embedding;
use super::weight::{Affine, Weight};
use super::{OnLoad, Target};
use crate::kernels::{Format, PackedMatrix};
use crate::model::device::Storage;
use crate::weights::{Checkpoint, Stored, StoredTensor, WeightsError, ggml};

/// A checkpoint with the form that its tensors are wanted in.
pub(super) struct Loader<'a> {
    checkpoint: Checkpoint,
    target: &'a Target,
    on_load: OnLoad<'a>,
    loaded_bytes: usize,
    total_bytes: usize,
}

type Result<T> = std::result::Result<T, WeightsError>;

impl<'a> Loader<'a> {
    pub fn new(checkpoint: Checkpoint, target: &'a Target, on_load: OnLoad<'a>) -> Self {
        let total_bytes = checkpoint.stored_bytes();
        Self {
            checkpoint,
            target,
            on_load,
            loaded_bytes: 0,
            total_bytes,
        }
    }

    /// The embedding table `[V, D]`.
    pub fn embedding(&mut self, name: &str, rows: usize, width: usize) -> Result<Embedding> {
        let stored = self.stored(name, &[rows, width])?;
        match self.target.storage {
            // A table of which a canvas needs a few rows is left where it is.
            Storage::Quantised(_) | Storage::AsStored => Ok(Embedding::Stored(stored)),
            Storage::Dense(_) => Ok(Embedding::Table(self.load(name, &stored)?)),
        }
    }

    /// `{name}.weight` `[outputs, inputs]`.
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Affine> {
        let name = format!("{name}.weight");
        let stored = self.stored(&name, &[outputs, inputs])?;
        let weight = self.weight(&name, &stored, outputs, inputs)?;
        Ok(Affine { weight, bias: None })
    }

    /// `{name}.weight` `[outputs, inputs]` and `{name}.bias` `[outputs]`.
    pub fn linear_with_bias(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Affine> {
        let weight = format!("{name}.weight");
        let stored = self.stored(&weight, &[outputs, inputs])?;
        let weight = self.weight(&weight, &stored, outputs, inputs)?;
        let bias = Some(self.tensor(&format!("{name}.bias"), &[outputs])?);
        Ok(Affine { weight, bias })
    }

    /// A head that shares the embedding table `[V, D]`.
    pub fn tied(
        &mut self,
        name: &str,
        table: &Embedding,
        rows: usize,
        width: usize,
    ) -> Result<Affine> {
        let weight = match table {
            Embedding::Table(table) => Weight::Dense(table.clone()),
            Embedding::Stored(stored) => self.weight(name, stored, rows, width)?,
        };
        Ok(Affine { weight, bias: None })
    }

    pub fn norm(&mut self, name: &str, size: usize, eps: f64) -> Result<RmsNorm> {
        Ok(RmsNorm::new(
            self.tensor(&format!("{name}.weight"), &[size])?,
            eps,
        ))
    }

    /// A vector `[size]` as plain numbers.
    pub fn vector(&mut self, name: &str, size: usize) -> Result<Vec<f32>> {
        let stored = self.stored(name, &[size])?;
        let numbers = stored.load(DType::F32, &Device::Cpu);
        numbers
            .and_then(|numbers| numbers.to_vec1())
            .map_err(|source| self.checkpoint.failed(name, source))
    }

    /// What was made of a tensor, or the error that says which one failed.
    pub fn built<T>(&self, name: &str, built: candle_core::Result<T>) -> Result<T> {
        built.map_err(|source| self.checkpoint.failed(name, source))
    }

    /// Ends the loading: every tensor must have been asked for. A tied head may be there all the same.
    pub fn finish(mut self, is_tied: bool) -> Result<()> {
        if is_tied {
            self.checkpoint.ignore("lm_head.weight"); // some exports write the shared table twice
        }
        self.checkpoint.finish()
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let stored = self.stored(name, shape)?;
        self.load(name, &stored)
    }

    fn load(&self, name: &str, stored: &StoredTensor) -> Result<Tensor> {
        let (dtype, device) = (self.target.storage.dtype(), &self.target.device);
        let loaded = stored.load(dtype, device);
        stored.release();
        loaded.map_err(|source| self.checkpoint.failed(name, source))
    }

    fn stored(&mut self, name: &str, shape: &[usize]) -> Result<StoredTensor> {
        let stored = self.checkpoint.take_stored(name, shape)?;
        self.loaded_bytes += stored.bytes().len();
        (self.on_load)(self.loaded_bytes, self.total_bytes);
        Ok(stored)
    }

    /// A matrix in the form that products are fastest in.
    fn weight(&self, name: &str, stored: &StoredTensor, n: usize, k: usize) -> Result<Weight> {
        let device = &self.target.device;
        let weight = match (self.target.storage, &stored.stored) {
            (Storage::Quantised(format), Stored::Float(_))
                if k.is_multiple_of(format.block_inputs()) =>
            {
                self.quantise(stored, format, n, k)
            }
            (Storage::Quantised(_) | Storage::AsStored, Stored::Blocks(kind)) => {
                match Format::ALL
                    .into_iter()
                    .find(|&format| ggml(format) == *kind)
                {
                    Some(format) if device.is_cpu() => self.pack(format, stored.bytes(), n, k),
                    _ => stored
                        .load_blocks(device)
                        .and_then(QMatMul::from_qtensor)
                        .map(Weight::Blocks),
                }
            }
            _ => stored
                .load(self.target.storage.dtype(), device)
                .map(Weight::Dense),
        };
        stored.release();
        weight.map_err(|source| self.checkpoint.failed(name, source))
    }

    /// A few rows at a time on each thread, so that the tensor is never all there as float32.
    fn quantise(
        &self,
        stored: &StoredTensor,
        format: Format,
        n: usize,
        k: usize,
    ) -> candle_core::Result<Weight> {
        const ROWS: usize = 64;
        let parts = (0..n.div_ceil(ROWS)).into_par_iter().map(|part| {
            let rows = stored.part(part * ROWS..n.min((part + 1) * ROWS))?;
            let blocks = QTensor::quantize(&rows, ggml(format))?;
            Ok(blocks.data()?.into_owned())
        });
        let blocks = parts.collect::<candle_core::Result<Vec<_>>>()?.concat();
        self.pack(format, &blocks, n, k)
    }

    fn pack(
        &self,
        format: Format,
        blocks: &[u8],
        n: usize,
        k: usize,
    ) -> candle_core::Result<Weight> {
        let packed = PackedMatrix::pack(format, blocks, n, k).map_err(candle_core::Error::wrap)?;
        Ok(Weight::Packed(packed))
    }
}
