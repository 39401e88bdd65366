//! The network on candle's tensors: for GPUs, and the other implementation that ours is tested
//! against.

mod attention;
mod linear;
mod mlp;
mod rope;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, RmsNorm};

use self::attention::{At, Attention, Canvas, KeyValues};
use self::linear::Linear;
use self::mlp::Mlp;
use self::rope::Rotation;
use super::embedding::Embedding;
use super::shared::{CanvasPass, Network, outputs};
use super::{Loader, Target};
use crate::model::config::Config;
use crate::weights::WeightsError;

/// A loaded network. Passes only read it.
pub(super) struct Weights {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Linear,    // D -> V
    inv_freq: Vec<f32>, // [E / 2]
    dtype: DType,
    device: Device,
}

impl Weights {
    pub fn load(
        config: &Config,
        target: &Target,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let embed_tokens = loader.embedding()?;
        let layers = (0..config.num_hidden_layers)
            .map(|number| Layer::load(config, number, loader))
            .collect::<std::result::Result<_, _>>()?;
        let norm = loader.norm("model.norm")?;
        let lm_head = loader.head(&embed_tokens)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head: Linear::new(lm_head),
            inv_freq: super::inv_freq(config),
            dtype: target.storage.dtype(),
            device: target.device.clone(),
        })
    }

    fn indices(&self, numbers: &[usize]) -> Result<Tensor> {
        let numbers: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
        Tensor::new(numbers, &self.device)
    }
}

/// What the passes over one canvas leave behind, layer by layer.
type State = Vec<KeyValues>;

impl Network for Weights {
    type State = State;

    fn state(&self) -> State {
        self.layers.iter().map(|_| KeyValues::default()).collect()
    }

    fn forward(&self, passes: &mut [CanvasPass<State>]) -> Result<()> {
        let states = passes
            .iter_mut()
            .map(|pass| std::mem::take(&mut pass.state));
        let mut states: Vec<State> = states.collect();
        let positions = passes.iter().flat_map(|pass| &pass.rows.positions);
        let positions: Vec<usize> = positions.copied().collect();
        let canvases = passes.iter().map(|pass| {
            Ok(Canvas {
                indices: &pass.rows.indices,
                outputs: pass.rows.outputs.len(),
                hidden: hidden(&pass.rows.seen, pass.ids.len(), &self.device)?,
                len: pass.ids.len(),
            })
        });
        let at = At {
            rotation: Rotation::of(&positions, &self.inv_freq, self.dtype, &self.device)?,
            canvases: canvases.collect::<Result<_>>()?,
        };
        let outputs = outputs(passes.iter().map(|pass| &pass.rows));
        let (row_count, outputs) = (outputs.len(), self.indices(&outputs)?);
        let row_ids = passes.iter().flat_map(CanvasPass::row_ids);
        let row_ids: Vec<u32> = row_ids.collect();

        let mut xs = self.embed_tokens.forward(&row_ids, &self.device)?; // [R, D]
        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter().enumerate() {
            // Nothing behind the last layer's attention mixes positions: there only rows that are
            // asked for go on.
            let kept = (number == last).then_some(&outputs);
            let key_values = states.iter_mut().map(|state| &mut state[number]);
            xs = layer.forward(key_values, &xs, &at, kept)?;
        }
        let logits = self.lm_head.forward(&self.norm.forward(&xs)?)?;
        let mut logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let vocab = logits.len() / row_count.max(1);
        for (pass, state) in passes.iter_mut().zip(states).rev() {
            let others = logits.len() - pass.rows.outputs.len() * vocab;
            (pass.logits, pass.state) = (logits.split_off(others), state);
        }
        Ok(())
    }
}

/// What is added to the scores of positions that a row does not attend to, `[R, T]`; `None` where
/// each attends to all.
fn hidden(seen: &[usize], len: usize, device: &Device) -> Result<Option<Tensor>> {
    if seen.iter().all(|&seen| seen == len) {
        return Ok(None);
    }
    let row = |&seen: &usize| {
        let score = move |at| if at < seen { 0.0 } else { f32::NEG_INFINITY };
        (0..len).map(score)
    };
    let scores: Vec<f32> = seen.iter().flat_map(row).collect();
    Tensor::from_vec(scores, (seen.len(), len), device).map(Some)
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
        number: usize,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let name = |part: &str| format!("model.layers.{number}.{part}");
        Ok(Self {
            input_layernorm: loader.norm(&name("input_layernorm"))?,
            self_attn: Attention::load(config, &name("self_attn"), loader)?,
            post_attention_layernorm: loader.norm(&name("post_attention_layernorm"))?,
            mlp: Mlp::load(&name("mlp"), loader)?,
        })
    }

    /// `[R, D]` to the same, or to the rows in `kept`.
    fn forward<'a>(
        &self,
        key_values: impl Iterator<Item = &'a mut KeyValues>,
        xs: &Tensor,
        at: &At<'_>,
        kept: Option<&Tensor>,
    ) -> Result<Tensor> {
        let normed = self.input_layernorm.forward(xs)?;
        let attended = self.self_attn.forward(key_values, &normed, at, kept)?;
        let xs = match kept {
            Some(kept) => xs.index_select(kept, 0)?,
            None => xs.clone(),
        };
        let xs = (xs + attended)?;
        let normed = self.post_attention_layernorm.forward(&xs)?;
        xs + self.mlp.forward(&normed)?
    }
}
