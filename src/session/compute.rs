//! Where a model computes and how its weights are held, chosen for this machine.

use std::path::PathBuf;

use candle_core::Device;

use crate::error::{Error, RequestError};
use crate::kernels::{Format, Isa};
use crate::model::Target;
use crate::model::config::Config;
use crate::model::device::{DeviceChoice, DeviceError, check_products, free_memory_bytes};
use crate::model::storage::{Precision, Quantization, Storage};
use crate::package::Package;
use crate::weights::Checkpoint;

/// What is asked of the machine.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Type of weights and activations.
    pub precision: Precision,
    /// Whether to quantize the weights while loading them.
    pub quantization: Quantization,
    /// Instructions of our own kernels.
    pub isa: Isa,
    /// Where packed matrices are kept for the next process, if they are to be: as large again as
    /// the weights are in memory.
    pub packed_folder: Option<PathBuf>,
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            precision: Precision::Auto,
            quantization: Quantization::Auto,
            isa: Isa::detect(),
            packed_folder: None,
        }
    }
}

impl Compute {
    /// How `device` is to hold the weights of `package`.
    ///
    /// # Errors
    /// When they do not fit its memory or it computes wrong products with them, and
    /// [`RequestError::HeldAsStored`].
    pub(super) fn target(&self, device: Device, package: &Package) -> Result<Target, Error> {
        let free_bytes = free_memory_bytes(&device);
        let is_gpu = !device.is_cpu();
        let parameters = parameters_on(&device, &package.config);
        let storage = if package.is_quantized() {
            let is_quantized = matches!(self.quantization, Quantization::To(_));
            if is_quantized || matches!(self.precision, Precision::Fixed(_)) {
                return Err(RequestError::HeldAsStored.into());
            }
            check_products(&device, Storage::AsStored)?; // before the download
            Storage::as_stored(package.bytes_as_stored(is_gpu)?, parameters, free_bytes)
                .map_err(DeviceError::from)?
        } else {
            let (precision, quantization) = (self.precision, self.quantization);
            let storage = Storage::choose(precision, quantization, is_gpu, parameters, free_bytes)
                .map_err(DeviceError::from)?;
            check_products(&device, storage)?;
            storage
        };
        Ok(Target {
            device,
            storage,
            isa: self.isa,
            packed_folder: self.packed_folder.clone(),
        })
    }

    /// Random weights in the shapes of `config`, and how to hold them: quantized to q4_0 unless
    /// something else is asked for. Says too why they are on the CPU where a GPU could not be used.
    ///
    /// # Errors
    /// When they do not fit the device's memory, or it does not answer or computes wrong products.
    pub fn synthetic(
        &self,
        config: &Config,
    ) -> Result<(Checkpoint, Target, Option<DeviceError>), Error> {
        let (quantization, format) = match self.quantization {
            Quantization::Auto => (Quantization::To(Format::Q4_0), Some(Format::Q4_0)),
            Quantization::To(format) => (self.quantization, Some(format)),
            Quantization::None => (self.quantization, None),
        };
        let (device, fell_back) = self.device.open()?;
        let is_gpu = !device.is_cpu();
        let (parameters, free_bytes) = (parameters_on(&device, config), free_memory_bytes(&device));
        let storage = Storage::choose(self.precision, quantization, is_gpu, parameters, free_bytes)
            .map_err(DeviceError::from)?;
        check_products(&device, storage)?;
        let target = Target {
            storage,
            isa: self.isa,
            device,
            packed_folder: None,
        };
        Ok((Checkpoint::synthetic(config, format)?, target, fell_back))
    }
}

/// Weights that are in the device's memory: a GPU leaves the embedding table to the host.
fn parameters_on(device: &Device, config: &Config) -> usize {
    match device.is_cpu() {
        true => config.parameters(),
        false => config.multiplied_weights(),
    }
}
