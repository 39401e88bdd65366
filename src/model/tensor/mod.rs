//! The network on candle's tensors: for GPUs, and the other implementation that ours is tested against.

mod attention;
mod linear;
mod mlp;
mod rope;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, RmsNorm};

use self::attention::Attention;
use self::linear::Linear;
use self::mlp::Mlp;
use self::rope::{Rope, Rotation};
use super::embedding::Embedding;
use super::{EMBED_TOKENS, Loader, Rows, Target};
use crate::model::config::Config;
use crate::weights::WeightsError;

/// A loaded network.
pub(super) struct Network {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Linear, // D -> V
    rope: Rope,
    dtype: DType,
    device: Device,
}

impl Network {
    pub fn load(
        config: &Config,
        target: &Target,
        mut loader: Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let (d, v) = (config.hidden_size, config.vocab_size);
        let embed_tokens = loader.embedding(EMBED_TOKENS, v, d)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(config, &format!("model.layers.{i}"), &mut loader))
            .collect::<std::result::Result<_, _>>()?;
        let norm = loader.norm("model.norm", d, config.rms_norm_eps)?;
        let lm_head = if config.tie_word_embeddings {
            loader.tied(EMBED_TOKENS, &embed_tokens, v, d)?
        } else {
            loader.linear("lm_head", v, d)?
        };
        loader.finish(config.tie_word_embeddings)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head: Linear::new(lm_head),
            rope: Rope::new(config),
            dtype: target.storage.dtype(),
            device: target.device.clone(),
        })
    }

    /// Computes `rows` of the canvas `ids`, stores their keys and values, and gives the head's output at
    /// `rows.outputs`. `[outputs, V]`
    pub fn forward(&mut self, ids: &[u32], rows: &Rows) -> Result<Tensor> {
        let indices = |numbers: &[usize]| {
            let numbers: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
            Tensor::new(numbers, &self.device)
        };
        let outputs = indices(&rows.outputs)?;
        let rotation = self.rope.rotation(ids.len(), self.dtype, &self.device)?;
        let rotation = rotation.at(&indices(&rows.positions)?)?;
        let row_ids: Vec<u32> = rows.positions.iter().map(|&at| ids[at]).collect();

        let mut xs = self.embed_tokens.forward(&row_ids, &self.device)?; // [R, D]
        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter_mut().enumerate() {
            // Nothing behind the last layer's attention mixes positions: there only rows that are
            // asked for go on.
            let kept = (number == last).then_some(&outputs);
            xs = layer.forward(&xs, rows, kept, &rotation, ids.len())?;
        }
        self.lm_head.forward(&self.norm.forward(&xs)?)
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
        let post = format!("{name}.post_attention_layernorm");
        Ok(Self {
            input_layernorm: loader.norm(&format!("{name}.input_layernorm"), d, eps)?,
            self_attn: Attention::load(config, &format!("{name}.self_attn"), loader)?,
            post_attention_layernorm: loader.norm(&post, d, eps)?,
            mlp: Mlp::load(config, &format!("{name}.mlp"), loader)?,
        })
    }

    /// `[R, D]` to the same, or to the rows in `kept`.
    fn forward(
        &mut self,
        xs: &Tensor,
        rows: &Rows,
        kept: Option<&Tensor>,
        rotation: &Rotation,
        len: usize,
    ) -> Result<Tensor> {
        let normed = self.input_layernorm.forward(xs)?;
        let attended = self.self_attn.forward(&normed, rows, kept, rotation, len)?;
        let xs = match kept {
            Some(kept) => xs.index_select(kept, 0)?,
            None => xs.clone(),
        };
        let xs = (xs + attended)?;
        let normed = self.post_attention_layernorm.forward(&xs)?;
        xs + self.mlp.forward(&normed)?
    }
}
