//! Hands the checkpoint's tensors to the network as it is built.

use candle_core::{DType, Device, Tensor};
use candle_nn::RmsNorm;

use super::OnLoad;
use crate::weights::{Checkpoint, WeightsError};

/// A checkpoint with the type and device that its tensors are wanted in.
pub(super) struct Loader<'a> {
    checkpoint: Checkpoint,
    dtype: DType,
    device: &'a Device,
    on_load: OnLoad<'a>,
    loaded_bytes: usize,
    total_bytes: usize,
}

impl<'a> Loader<'a> {
    pub fn new(
        checkpoint: Checkpoint,
        dtype: DType,
        device: &'a Device,
        on_load: OnLoad<'a>,
    ) -> Self {
        // Reported in bytes as loaded; the share is what matters to whoever watches.
        let total_bytes = checkpoint.elements() * dtype.size_in_bytes();
        Self {
            checkpoint,
            dtype,
            device,
            on_load,
            loaded_bytes: 0,
            total_bytes,
        }
    }

    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let tensor = self.checkpoint.take(name, shape, self.dtype, self.device)?;
        self.loaded_bytes += tensor.elem_count() * self.dtype.size_in_bytes();
        (self.on_load)(self.loaded_bytes, self.total_bytes);
        Ok(tensor)
    }

    pub fn norm(&mut self, name: &str, size: usize, eps: f64) -> Result<RmsNorm, WeightsError> {
        Ok(RmsNorm::new(
            self.tensor(&format!("{name}.weight"), &[size])?,
            eps,
        ))
    }

    pub fn ignore(&mut self, name: &str) {
        self.checkpoint.ignore(name);
    }

    pub fn finish(self) -> Result<(), WeightsError> {
        self.checkpoint.finish()
    }
}
