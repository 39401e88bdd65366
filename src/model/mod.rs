//! The network: a Qwen2.5 transformer without its causal mask ("Dream" architecture), ids to logits.
//!
//! Sources: Dream's `modeling_dream.py` and DiffuCoder (arXiv 2506.20639). There is no batch
//! dimension: one canvas at a time, as `[T, …]`. The last layer and the head run only for the rows
//! whose logits are asked for; that is exact, because nothing after them mixes positions.

mod attention;
mod embedding;
mod linear;
mod loader;
mod mlp;
mod rope;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, RmsNorm};

use crate::config::Config;
use crate::device::Storage;
use crate::diffusion::{Denoiser, Predictions};
use crate::kernels::Isa;
use crate::weights::{Checkpoint, WeightsError};
use attention::Attention;
use embedding::Embedding;
use linear::Linear;
use loader::Loader;
use mlp::Mlp;
use rope::Rope;

const EMBED_TOKENS: &str = "model.embed_tokens.weight";

/// A loaded network, ready to predict.
pub struct Model {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Linear, // D -> V
    rope: Rope,
    dtype: DType,
    device: Device,
    shift_logits: bool,
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
        let (d, v) = (config.hidden_size, config.vocab_size);
        let mut loader = Loader::new(checkpoint, target, on_load);
        let embed_tokens = loader.embedding(EMBED_TOKENS, v, d)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(config, &format!("model.layers.{i}"), &mut loader))
            .collect::<std::result::Result<_, _>>()?;
        let norm = loader.norm("model.norm", d, config.rms_norm_eps)?;
        let lm_head = if config.tie_word_embeddings {
            loader.ignore("lm_head.weight"); // some exports write the shared table twice
            loader.tied(EMBED_TOKENS, &embed_tokens, v, d)?
        } else {
            loader.linear("lm_head", v, d)?
        };
        loader.finish()?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
            rope: Rope::new(config),
            dtype: target.storage.dtype(),
            device: target.device.clone(),
            shift_logits: config.shift_logits,
        })
    }

    /// Output of the head at the positions `rows` of the canvas `ids`; not shifted. `[rows, V]`
    ///
    /// # Errors
    /// When the device fails, for instance for lack of memory.
    pub fn forward(&mut self, ids: &[u32], rows: &[u32]) -> Result<Tensor> {
        let rows = Tensor::new(rows, &self.device)?; // [R]
        let rotation = self.rope.rotation(ids.len(), self.dtype, &self.device)?;
        let row_rotation = rotation.at(&rows)?;

        let mut xs = self.embed_tokens.forward(ids, &self.device)?; // [T, D]
        let last = self.layers.len() - 1;
        for layer in &self.layers[..last] {
            xs = layer.forward(&xs, None, &rotation, &rotation)?; // [T, D]
        }
        let xs = self.layers[last].forward(&xs, Some(&rows), &rotation, &row_rotation)?; // [R, D]
        self.lm_head.forward(&self.norm.forward(&xs)?) // [R, V]
    }
}

/// The published models are fine-tuned from autoregressive ones and keep their offset: what the
/// head says at position i is about position i + 1. Position 0 has no position before it and keeps
/// its own (`logits = cat([logits[:, :1], logits[:, :-1]])` in Dream's `generation_utils.py`).
impl Denoiser for Model {
    type Error = candle_core::Error;

    fn predict(&mut self, ids: &[u32], positions: &[usize]) -> Result<Predictions> {
        let shift = usize::from(self.shift_logits);
        let rows: Vec<u32> = positions
            .iter()
            .map(|p| p.saturating_sub(shift) as u32)
            .collect();
        let logits = self.forward(ids, &rows)?.to_dtype(DType::F32)?;
        let logits = logits.flatten_all()?.to_vec1()?;
        Ok(Predictions {
            logits,
            rows: ids.len(),
        })
    }
}

/// One transformer layer: attention, then the feed-forward part, each normed and added.
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn load(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let (d, eps) = (config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: loader.norm(&format!("{name}.input_layernorm"), d, eps)?,
            self_attn: Attention::load(config, &format!("{name}.self_attn"), loader)?,
            post_attention_layernorm: loader.norm(
                &format!("{name}.post_attention_layernorm"),
                d,
                eps,
            )?,
            mlp: Mlp::load(config, &format!("{name}.mlp"), loader)?,
        })
    }

    /// `xs` is `[T, D]`; the result covers the positions `rows`, or all. `[R, D]`
    fn forward(
        &self,
        xs: &Tensor,
        rows: Option<&Tensor>,
        rotation: &rope::Rotation,
        row_rotation: &rope::Rotation,
    ) -> Result<Tensor> {
        let select = |xs: &Tensor| match rows {
            Some(rows) => xs.index_select(rows, 0),
            None => Ok(xs.clone()),
        };
        let normed = self.input_layernorm.forward(xs)?; // [T, D]
        let attended =
            self.self_attn
                .forward(&select(&normed)?, &normed, row_rotation, rotation)?; // [R, D]
        let xs = (select(xs)? + attended)?;
        let normed = self.post_attention_layernorm.forward(&xs)?;
        xs + self.mlp.forward(&normed)?
    }
}
