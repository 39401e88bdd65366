//! Grouped-query attention of some rows to the positions that they see.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::{Module, RmsNorm};

use super::super::Loader;
use super::linear::{Linear, matmul};
use super::rope::Rotation;
use crate::model::config::Config;
use crate::weights::WeightsError;

pub(super) struct Attention {
    q_norm: Option<RmsNorm>, // of each head
    k_norm: Option<RmsNorm>,
    q_proj: Linear,  // D -> H·E
    k_proj: Linear,  // D -> G·E
    v_proj: Linear,  // D -> G·E
    o_proj: Linear,  // H·E -> D
    heads: usize,    // H
    kv_heads: usize, // G
    head_dim: usize, // E
}

/// Where the rows of some canvases are, one canvas after the other.
pub(super) struct At<'a> {
    /// The rotations of their positions.
    pub rotation: Rotation,
    pub canvases: Vec<Canvas<'a>>,
}

/// Where the rows of a canvas are.
pub(super) struct Canvas<'a> {
    /// Where their keys and values are kept. `[R]`
    pub indices: &'a [usize],
    /// How many of them the head is asked about.
    pub outputs: usize,
    /// Added to the scores, if some position is hidden from some row. `[R, T]`
    pub hidden: Option<Tensor>,
    /// Number of positions that are seen, T.
    pub len: usize,
}

/// Keys and values of the positions of a canvas that were computed so far.
#[derive(Default)]
pub(in crate::model) struct KeyValues(Option<Cache>);

struct Cache {
    keys: Tensor,   // [G, C, E]
    values: Tensor, // [G, C, E]
}

impl Attention {
    pub fn load(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let mut norm = |head: &str| {
            let name = format!("{name}.{head}");
            loader.has(&name).then(|| loader.norm(&name)).transpose()
        };
        let (q_norm, k_norm) = (norm("q_norm")?, norm("k_norm")?);
        let mut linear = |proj: &str| loader.linear(&format!("{name}.{proj}")).map(Linear::new);
        Ok(Self {
            q_norm,
            k_norm,
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            o_proj: linear("o_proj")?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        })
    }

    /// Stores keys and values of all of `xs` `[R, D]`, and lets those in `kept`, or all, attend to
    /// the whole of their canvas. `[kept, D]`
    pub fn forward<'a>(
        &self,
        key_values: impl Iterator<Item = &'a mut KeyValues>,
        xs: &Tensor,
        at: &At<'_>,
        kept: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (g, e) = (self.kv_heads, self.head_dim);
        let k = split_heads(&self.k_proj.forward(xs)?, g, e, self.k_norm.as_ref())?; // [G, R, E]
        let v = split_heads(&self.v_proj.forward(xs)?, g, e, None)?.contiguous()?; // [G, R, E]
        let k = at.rotation.apply(&k)?;

        let (xs, rotation) = match kept {
            None => (xs.clone(), at.rotation.clone()),
            Some(kept) => (xs.index_select(kept, 0)?, at.rotation.at(kept)?),
        };
        let q = self.q_proj.forward(&xs)?;
        let q = rotation.apply(&split_heads(&q, self.heads, e, self.q_norm.as_ref())?)?; // [H, R, E]

        let (mut stored, mut asked, mut attended) = (0, 0, Vec::new());
        for (key_values, canvas) in key_values.zip(&at.canvases) {
            let rows = canvas.indices.len();
            let part = |xs: &Tensor| xs.narrow(1, stored, rows);
            let (k, v) = key_values.store(&part(&k)?, &part(&v)?, canvas)?; // [G, T, E]
            stored += rows;
            let asking = kept.map_or(rows, |_| canvas.outputs);
            let q = q.narrow(1, asked, asking)?;
            let hidden = match (&canvas.hidden, kept) {
                (Some(hidden), Some(kept)) => {
                    let own = kept.narrow(0, asked, asking)?;
                    let first = Tensor::new((stored - rows) as u32, own.device())?;
                    Some(hidden.index_select(&own.broadcast_sub(&first)?, 0)?)
                }
                (hidden, _) => hidden.clone(),
            };
            attended.push(self.attend(&q, (&k, &v), hidden.as_ref())?);
            asked += asking;
        }
        self.o_proj.forward(&Tensor::cat(&attended, 0)?)
    }

    /// Queries `[H, R, E]` to keys and values `[G, T, E]`. `[R, H·E]`
    fn attend(
        &self,
        q: &Tensor,
        (k, v): (&Tensor, &Tensor),
        hidden: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (g, e) = (self.kv_heads, self.head_dim);
        let (r, len, per_group) = (q.dim(1)?, k.dim(1)?, self.heads / g);
        // The query heads of a group share its keys: stacking their rows needs no copy of k and v.
        let q = q.reshape((g, per_group * r, e))?; // [G, H/G·R, E]
        let scores = (matmul(&q, &k.t()?)? * (e as f64).powf(-0.5))?; // [G, H/G·R, T]
        let dtype = scores.dtype();
        let mut scores = scores.to_dtype(DType::F32)?;
        if let Some(hidden) = hidden {
            let by_head = scores.reshape((g, per_group, r, len))?;
            scores = by_head.broadcast_add(hidden)?.reshape(scores.shape())?;
        }
        let weights = softmax_last_dim(&scores)?.to_dtype(dtype)?;
        let out = matmul(&weights, v)?; // [G, H/G·R, E]
        let out = out.reshape((self.heads, r, e))?.transpose(0, 1)?; // [R, H, E]
        out.reshape((r, self.heads * e))
    }
}

impl KeyValues {
    /// Puts the rows' keys and values `[G, R, E]` in; gives those of the whole canvas, `[G, T, E]`.
    fn store(&mut self, k: &Tensor, v: &Tensor, at: &Canvas<'_>) -> Result<(Tensor, Tensor)> {
        let (g, _, e) = k.dims3()?;
        let len = at.len;
        let shape = (g, len.next_multiple_of(64), e);
        let cache = match self.0.take() {
            Some(cache) if cache.keys.dim(1)? >= len => cache,
            old => {
                let cache = Cache {
                    keys: Tensor::zeros(shape, k.dtype(), k.device())?,
                    values: Tensor::zeros(shape, v.dtype(), v.device())?,
                };
                if let Some(old) = old {
                    cache.keys.slice_set(&old.keys, 1, 0)?;
                    cache.values.slice_set(&old.values, 1, 0)?;
                }
                cache
            }
        };
        let cache = self.0.insert(cache);
        // A run of rows side by side is one copy.
        let mut row = 0;
        for run in at.indices.chunk_by(|a, b| a + 1 == *b) {
            let part = |xs: &Tensor| xs.narrow(1, row, run.len())?.contiguous();
            cache.keys.slice_set(&part(k)?, 1, run[0])?;
            cache.values.slice_set(&part(v)?, 1, run[0])?;
            row += run.len();
        }
        let seen = |xs: &Tensor| xs.narrow(1, 0, len)?.contiguous();
        Ok((seen(&cache.keys)?, seen(&cache.values)?))
    }
}

/// `[T, heads·E]` to `[heads, T, E]`, each head normed.
fn split_heads(
    xs: &Tensor,
    heads: usize,
    head_dim: usize,
    norm: Option<&RmsNorm>,
) -> Result<Tensor> {
    let xs = xs.reshape((xs.dim(0)?, heads, head_dim))?;
    let xs = norm.map_or(Ok(xs.clone()), |norm| norm.forward(&xs))?;
    xs.transpose(0, 1)
}
