//! The network on candle's tensors: for GPUs, and the other implementation that ours is tested
//! against.

mod array;
mod attention;
mod linear;
mod mlp;
mod rope;
pub(super) mod self_test;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Result};
use candle_nn::RmsNorm;

use self::array::Array;
pub(super) use self::attention::MOST_WIDTH;
#[cfg(feature = "cuda")]
use self::attention::Places;
use self::attention::{At, Attention, Canvas, KeyValues, Slots};
use self::linear::Linear;
use self::mlp::Mlp;
use self::rope::Rotary;
use self::self_test::own_kernels_are_right;
#[cfg(feature = "cuda")]
use super::card::MOST_CANVASES;
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
    lm_head: Linear, // D -> V
    rotary: Rotary,
    kv_shape: [usize; 2], // 2·G, E
    dtype: DType,
    device: Device,
    own_kernels: Option<bool>, // whether they are right, if there are any for the device
    attends_at_once: bool,     // by them
}

impl Weights {
    pub fn load(
        config: &Config,
        target: &Target,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let own_kernels = own_kernels_are_right(&target.device, target.storage.dtype());
        Self::load_with(own_kernels, config, target, loader)
    }

    fn load_with(
        own_kernels: Option<bool>,
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
        let groups = config.num_attention_heads / config.num_key_value_heads;
        let rotary = Rotary::new(super::inv_freq(config), groups, &target.device);
        let is_narrow = config.head_dim.is_multiple_of(4) && config.head_dim <= MOST_WIDTH;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head: Linear::new(lm_head),
            rotary: loader.built("rotary angles", rotary)?,
            kv_shape: [2 * config.num_key_value_heads, config.head_dim],
            attends_at_once: own_kernels == Some(true) && is_narrow && !config.family.qk_norm,
            own_kernels,
            dtype: target.storage.dtype(),
            device: target.device.clone(),
        })
    }

    /// Whether kernels of our own compute rightly on the device, if there are any for it.
    pub fn own_kernels(&self) -> Option<bool> {
        self.own_kernels
    }

    /// Where the rows of some passes are, for kernels of our own on a card.
    #[cfg(feature = "cuda")]
    fn places(&self, passes: &[CanvasPass<State>]) -> Result<Option<Places>> {
        let fits = passes.len() <= MOST_CANVASES;
        if !(self.attends_at_once && fits && self.device.is_cuda()) {
            return Ok(None);
        }
        let (mut rows, mut asked, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for (canvas, pass) in (0u32..).zip(passes) {
            let first = rows.len() as u32;
            rows.extend(
                pass.rows
                    .indices
                    .iter()
                    .map(|&index| [canvas, index as u32]),
            );
            let seen = pass.rows.seen.iter().map(|&seen| seen as u32);
            let all: Vec<_> = (first..)
                .zip(seen)
                .map(|(row, seen)| [row, canvas, seen])
                .collect();
            outputs.extend(pass.rows.outputs.iter().map(|&row| all[row]));
            asked.extend(all);
        }
        Ok(Some(Places {
            rows: self.columns(&rows)?,
            asked: self.columns(&asked)?,
            asked_for_outputs: self.columns(&outputs)?,
            lens: passes.iter().map(|pass| pass.ids.len()).collect(),
        }))
    }

    /// One column after the other. `[N, rows]`
    #[cfg(feature = "cuda")]
    fn columns<const N: usize>(&self, rows: &[[u32; N]]) -> Result<Array> {
        let columns = (0..N).flat_map(|column| rows.iter().map(move |row| row[column]));
        Array::upload(columns.collect(), &[N, rows.len()], &self.device)
    }

    /// Where the rows of a pass are.
    fn canvas(&self, pass: &CanvasPass<State>) -> Result<Canvas> {
        let (rows, len) = (&pass.rows, pass.ids.len());
        let outputs: Vec<usize> = rows.outputs.iter().map(|&row| rows.seen[row]).collect();
        Ok(Canvas {
            slots: Slots::new(&rows.indices, self.kv_shape, &self.device)?,
            hidden: hidden(&rows.seen, len, &self.device)?,
            hidden_from_outputs: hidden(&outputs, len, &self.device)?,
            rows: rows.indices.len(),
            outputs: outputs.len(),
            len,
        })
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
        #[cfg(feature = "cuda")]
        let places = self.places(passes)?;
        #[cfg(feature = "cuda")]
        let is_on_card = places.is_some();
        #[cfg(not(feature = "cuda"))]
        let is_on_card = false;
        let canvases = passes.iter().filter(|_| !is_on_card);
        let at = At {
            rotation: self.rotary.at(&positions, &self.device)?,
            is_fused: self.own_kernels == Some(true),
            attends_at_once: self.attends_at_once,
            canvases: canvases
                .map(|pass| self.canvas(pass))
                .collect::<Result<_>>()?,
            #[cfg(feature = "cuda")]
            places,
        };
        let outputs = outputs(passes.iter().map(|pass| &pass.rows));
        let row_count = outputs.len();
        let outputs = outputs.iter().map(|&row| row as u32).collect();
        let outputs = Array::upload::<u32>(outputs, &[row_count], &self.device)?;
        let row_ids = passes.iter().flat_map(CanvasPass::row_ids);
        let row_ids: Vec<u32> = row_ids.collect();

        let rows = self.embed_tokens.rows(&row_ids)?;
        let shape = [row_ids.len(), rows.len() / row_ids.len()];
        let xs = Array::upload(rows, &shape, &self.device)?.to_dtype(self.dtype)?; // [R, D]
        let last = self.layers.len() - 1;
        #[cfg(feature = "cuda")]
        let layouts = super::card::keep_layouts(&self.device);
        let normed = xs.normed(&self.layers[0].input_layernorm)?;
        let mut xs = [xs, normed];
        for (number, layer) in self.layers.iter().enumerate() {
            // Nothing behind the last layer's attention mixes positions: there only rows that are
            // asked for go on.
            let kept = (number == last).then_some(&outputs);
            let key_values = states.iter_mut().map(|state| &mut state[number]);
            let above = self.layers.get(number + 1);
            let norm = above.map_or(&self.norm, |above| &above.input_layernorm);
            xs = layer.forward(key_values, xs, &at, kept, norm)?;
        }
        let logits = self.lm_head.forward(&xs[1])?;
        #[cfg(feature = "cuda")]
        drop(layouts);
        let mut done = 0;
        for (pass, state) in passes.iter_mut().zip(states) {
            let rows = pass.rows.outputs.len();
            let logits = logits.narrow(0, done, rows)?;
            match pass.asked.as_ref().filter(|_| at.is_fused) {
                Some(asked) => logits.download_likely(asked, &mut pass.predicted)?,
                None => logits.download(&mut pass.predicted.logits)?,
            }
            (pass.state, done) = (state, done + rows);
        }
        Ok(())
    }
}

/// What is added to the scores of positions that a row does not attend to, `[R, T]`; `None` where
/// each attends to all.
fn hidden(seen: &[usize], len: usize, device: &Device) -> Result<Option<Array>> {
    if seen.iter().all(|&seen| seen == len) {
        return Ok(None);
    }
    let row = |&seen: &usize| {
        let score = move |at| if at < seen { 0.0 } else { f32::NEG_INFINITY };
        (0..len).map(score)
    };
    let scores: Vec<f32> = seen.iter().flat_map(row).collect();
    Array::upload(scores, &[seen.len(), len], device).map(Some)
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

    /// `[R, D]` and its norm to the same, or to the rows in `kept`, and to what `norm` makes of
    /// them.
    fn forward<'a>(
        &self,
        key_values: impl Iterator<Item = &'a mut KeyValues>,
        [xs, normed]: [Array; 2],
        at: &At,
        kept: Option<&Array>,
        norm: &RmsNorm,
    ) -> Result<[Array; 2]> {
        let attended = self.self_attn.forward(key_values, &normed, at, kept)?;
        let xs = match kept {
            Some(kept) => xs.index_select(kept, 0)?,
            None => xs,
        };
        let [xs, normed] = xs.add_norm(&attended, &self.post_attention_layernorm, at.is_fused)?;
        let fed = self.mlp.forward(&normed, at.is_fused)?;
        xs.add_norm(&fed, norm, at.is_fused)
    }
}
