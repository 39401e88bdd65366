//! The network: a Qwen2.5 transformer without its causal mask ("Dream" architecture), ids to logits.
//!
//! Sources: Dream's `modeling_dream.py` and DiffuCoder (arXiv 2506.20639). There is no batch
//! dimension: one canvas at a time. Keys and values of computed positions are kept, and a pass
//! computes the rows it is told to; the last layer and the head run only for the rows whose logits are
//! asked for, which is exact, because nothing after them mixes positions.
//!
//! There are two implementations: `native` for the CPU, with kernels of our own, and `tensor` on
//! candle for GPUs.

pub mod config;
pub mod device;
mod embedding;
mod loader;
mod native;
pub mod quantize;
pub mod synthetic;
mod tensor;
mod weight;

use candle_core::{DType, Device, Result};

use crate::diffusion::{Denoiser, Pass};
use crate::kernels::Isa;
use crate::model::config::Config;
use crate::model::device::Storage;
use crate::weights::{Checkpoint, WeightsError};
use loader::Loader;

/// Name of the embedding table `[V, D]`.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";

/// A loaded network, ready to predict.
pub struct Model {
    network: Network,
    shift_logits: bool,
}

enum Network {
    Native(Box<native::Network>),
    Tensor(Box<tensor::Network>),
}

/// Where a network runs and how it holds its weights.
#[derive(Debug, Clone)]
pub struct Target {
    /// The device.
    pub device: Device,
    /// How weights are held.
    pub storage: Storage,
    /// The instructions of our own kernels, on the CPU.
    pub isa: Isa,
}

impl Target {
    /// Floating-point weights on the CPU.
    pub fn cpu(dtype: DType) -> Self {
        Self {
            device: Device::Cpu,
            storage: Storage::Dense(dtype),
            isa: Isa::detect(),
        }
    }
}

/// Bytes loaded so far and in all, for progress.
pub type OnLoad<'a> = &'a mut dyn FnMut(usize, usize);

impl Model {
    /// Loads the weights of `checkpoint` for `target`.
    ///
    /// # Errors
    /// When a tensor is missing, superfluous, misshapen, of an unexpected type, or does not fit
    /// the device's memory.
    pub fn load(
        config: &Config,
        checkpoint: Checkpoint,
        target: &Target,
        on_load: OnLoad<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        if !target.device.is_cpu() {
            return Self::load_on_tensors(config, checkpoint, target, on_load);
        }
        let loader = Loader::new(checkpoint, target, on_load);
        let network = native::Network::load(config, target.isa, loader)?;
        Ok(Self {
            network: Network::Native(Box::new(network)),
            shift_logits: config.shift_logits,
        })
    }

    /// The implementation that GPUs get, on any device, for weights that are floating-point numbers.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_on_tensors(
        config: &Config,
        checkpoint: Checkpoint,
        target: &Target,
        on_load: OnLoad<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let loader = Loader::new(checkpoint, target, on_load);
        let network = tensor::Network::load(config, target, loader)?;
        Ok(Self {
            network: Network::Tensor(Box::new(network)),
            shift_logits: config.shift_logits,
        })
    }

    /// stub
    pub fn beside(&self) -> Self {
        todo!()
    }

    /// Output of the head at each position of the canvas `ids`, not shifted. `[T, V]`
    ///
    /// # Errors
    /// When the device fails, for instance for lack of memory.
    pub fn head_output(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let all: Vec<usize> = (0..ids.len()).collect();
        let pass = Pass {
            ids,
            refresh: &all,
            predict: &all,
        };
        let mut logits = Vec::new();
        self.run(&pass, 0, &mut logits)?;
        Ok(logits)
    }

    fn run(&mut self, pass: &Pass<'_>, shift: usize, logits: &mut Vec<f32>) -> Result<usize> {
        let rows = Rows::of(pass, shift);
        match &mut self.network {
            Network::Native(network) => network.forward(pass.ids, &rows, logits)?,
            Network::Tensor(network) => {
                let output = network.forward(pass.ids, &rows)?.to_dtype(DType::F32)?;
                *logits = output.flatten_all()?.to_vec1()?;
            }
        }
        Ok(rows.positions.len())
    }
}

/// What a pass computes.
struct Rows {
    /// Canvas positions, ascending. `[R]`
    positions: Vec<usize>,
    /// Which of them the head is asked about. `[outputs]`
    outputs: Vec<usize>,
}

impl Rows {
    /// The positions whose keys and values are wanted anew, and those whose output predicts something.
    ///
    /// The published models are fine-tuned from autoregressive ones and keep their offset: what the
    /// head says at position i is about position i + 1. Position 0 has no position before it and keeps
    /// its own (`logits = cat([logits[:, :1], logits[:, :-1]])` in Dream's `generation_utils.py`).
    fn of(pass: &Pass<'_>, shift: usize) -> Self {
        let sources = pass.predict.iter().map(|p| p.saturating_sub(shift));
        let mut positions: Vec<usize> = pass
            .refresh
            .iter()
            .copied()
            .chain(sources.clone())
            .collect();
        positions.sort_unstable();
        positions.dedup();
        let outputs = sources.map(|source| positions.partition_point(|&p| p < source));
        Self {
            outputs: outputs.collect(),
            positions,
        }
    }
}

impl Denoiser for Model {
    type Error = candle_core::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize> {
        self.run(pass, usize::from(self.shift_logits), logits)
    }
}

/// Rotary frequencies, in float32 as the reference has them. `[E / 2]`
fn inv_freq(config: &Config) -> Vec<f32> {
    let (e, theta) = (config.head_dim, config.rope_theta);
    (0..e / 2)
        .map(|i| (1.0 / theta.powf(2.0 * i as f64 / e as f64)) as f32)
        .collect()
}
