//! Grouped-query attention of some rows to the positions that they see, in float32.

use candle_core::{DType, Device, Result};
use candle_nn::RmsNorm;

use super::super::Loader;
use super::array::{Array, as_launches};
use super::linear::Linear;
use super::rope::Rotation;
use crate::model::config::Config;
use crate::weights::WeightsError;

/// The widest head that kernels of our own attend with.
pub(in crate::model) const MOST_WIDTH: usize = 256;

pub(super) struct Attention {
    norms: Option<[RmsNorm; 2]>, // of each head of queries and of keys
    qkv_proj: Linear,            // D -> (H + 2·G)·E, without its bias
    qkv_bias: Option<Array>,     // [H + 2·G, 1, E]
    o_proj: Linear,              // H·E -> D
    heads: usize,                // H
    kv_heads: usize,             // G
    head_dim: usize,             // E
}

/// Where the rows of some canvases are, one canvas after the other.
pub(super) struct At {
    /// The rotations of their positions.
    pub rotation: Rotation,
    /// Whether kernels of our own do what else takes several launches.
    pub is_fused: bool,
    /// Whether these attend, too, whatever the number of canvases.
    pub attends_at_once: bool,
    /// For these kernels, on a card.
    #[cfg(feature = "cuda")]
    pub places: Option<Places>,
    /// For the tensor library, elsewhere.
    pub canvases: Vec<Canvas>,
}

/// Where the rows of some canvases are, one canvas after the other, as kernels of our own have it.
#[cfg(feature = "cuda")]
pub(super) struct Places {
    /// The canvas of each row, and where its keys and values are kept. `[2, R]`
    pub rows: Array,
    /// Each row, its canvas and how many positions it sees. `[3, R]`
    pub asked: Array,
    /// The same of the rows that the head is asked about. `[3, outputs]`
    pub asked_for_outputs: Array,
    /// Number of positions of each canvas.
    pub lens: Vec<usize>,
}

/// Where the rows of a canvas are.
pub(super) struct Canvas {
    /// Where their keys and values are kept.
    pub slots: Slots,
    /// Added to the scores, if some position is hidden from some row. `[R, T]`
    pub hidden: Option<Array>,
    /// The same of the rows that the head is asked about.
    pub hidden_from_outputs: Option<Array>,
    /// Number of rows, R.
    pub rows: usize,
    /// Number of those that the head is asked about.
    pub outputs: usize,
    /// Number of positions that are seen, T.
    pub len: usize,
}

/// Places of rows among the keys and values.
pub(super) enum Slots {
    /// Side by side from here on.
    From(usize),
    /// Anywhere. `[2·G, R, E]`
    Each(Array),
}

impl Slots {
    /// Those at `indices`, ascending, of `heads` heads of keys and values.
    pub fn new(indices: &[usize], [heads, e]: [usize; 2], device: &Device) -> Result<Self> {
        match indices {
            [] => return Ok(Self::From(0)),
            [first, .., last] if last - first + 1 > indices.len() => (),
            [first, ..] => return Ok(Self::From(*first)),
        }
        let rows = indices.len();
        let indices = indices.iter().map(|&index| index as u32).collect();
        let indices: Array = Array::upload::<u32>(indices, &[1, rows, 1], device)?;
        let each = indices.broadcast_as(&[heads, rows, e])?.contiguous()?;
        Ok(Self::Each(each))
    }
}

/// Keys and then values of the positions of a canvas that were computed so far. `[2·G, C, E]`
#[derive(Default)]
pub(in crate::model) struct KeyValues(Option<Array>);

impl Attention {
    pub fn load(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let mut norm = |part: &str| {
            let name = format!("{name}.{part}");
            let norm = loader.norm(&name)?;
            let weight = norm.weight().to_dtype(DType::F32);
            let weight = loader.built(&name, weight)?;
            Ok::<_, WeightsError>(RmsNorm::new(weight, config.rms_norm_eps))
        };
        let norms = match config.family.qk_norm {
            true => Some([norm("q_norm")?, norm("k_norm")?]),
            false => None,
        };
        let linear = |proj: &str| loader.linear(&format!("{name}.{proj}"));
        let affines = ["q_proj", "k_proj", "v_proj"].map(linear);
        let affines = affines.into_iter().collect::<std::result::Result<_, _>>()?;
        let mut qkv_proj = loader.built(name, Linear::stacked(affines))?;
        let (h, g) = (config.num_attention_heads, config.num_key_value_heads);
        let shape = [h + 2 * g, 1, config.head_dim];
        let bias = qkv_proj.bias.take();
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)?.reshape(&shape));
        Ok(Self {
            norms,
            qkv_proj,
            qkv_bias: loader.built(name, bias.transpose())?,
            o_proj: Linear::new(loader.linear(&format!("{name}.o_proj"))?),
            heads: h,
            kv_heads: g,
            head_dim: config.head_dim,
        })
    }

    /// Stores keys and values of all of `xs` `[R, D]`, and lets those in `kept`, or all, attend to
    /// the whole of their canvas. `[kept, D]`
    pub fn forward<'a>(
        &self,
        key_values: impl Iterator<Item = &'a mut KeyValues>,
        xs: &Array,
        at: &At,
        kept: Option<&Array>,
    ) -> Result<Array> {
        let projected = self.qkv_proj.forward(xs)?;
        #[cfg(feature = "cuda")]
        if let Some(places) = &at.places {
            let attended = self.attended_at_once(key_values, &projected, at, places, kept)?;
            return self.o_proj.forward(&attended);
        }
        let in_parts = || self.attended(key_values, &projected, at, kept);
        let attended = match at.attends_at_once {
            true => as_launches(2, in_parts),
            false => in_parts(),
        };
        self.o_proj.forward(&attended?)
    }

    /// By kernels of our own.
    #[cfg(feature = "cuda")]
    fn attended_at_once<'a>(
        &self,
        key_values: impl Iterator<Item = &'a mut KeyValues>,
        projected: &Array,
        at: &At,
        places: &Places,
        kept: Option<&Array>,
    ) -> Result<Array> {
        let [cosines, sines] = at.rotation.parts();
        let shape = [2 * self.kv_heads, self.head_dim];
        let caches = key_values.zip(&places.lens);
        let caches = caches.map(|(key_values, &len)| key_values.room(shape, len, cosines));
        let caches = caches.collect::<Result<Vec<_>>>()?;
        let asked = match kept {
            Some(_) => &places.asked_for_outputs,
            None => &places.asked,
        };
        let (bias, places) = (self.qkv_bias.as_ref(), [&places.rows, asked]);
        projected.attended_at_once(bias, [cosines, sines], places, &caches, self.kv_heads)
    }

    /// By the tensor library, one canvas after the other.
    fn attended<'a>(
        &self,
        key_values: impl Iterator<Item = &'a mut KeyValues>,
        projected: &Array,
        at: &At,
        kept: Option<&Array>,
    ) -> Result<Array> {
        let heads = at.rotation.apply(&self.heads(projected)?)?;
        let mut q = heads.narrow(0, 0, self.heads)?; // [H, R, E]
        let kv = heads.narrow(0, self.heads, 2 * self.kv_heads)?; // [2·G, R, E]
        if let Some(kept) = kept {
            q = q.index_select(kept, 1)?;
        }
        let (mut stored, mut asked, mut attended) = (0, 0, Vec::new());
        for (key_values, canvas) in key_values.zip(&at.canvases) {
            let (asking, hidden) = match kept {
                None => (canvas.rows, &canvas.hidden),
                Some(_) => (canvas.outputs, &canvas.hidden_from_outputs),
            };
            let kv = key_values.store(&kv.narrow(1, stored, canvas.rows)?, canvas)?;
            let q = q.narrow(1, asked, asking)?;
            let heads = self.attend_in_parts(&q, &kv, hidden.as_ref())?;
            let heads = heads.to_dtype(projected.dtype())?;
            attended.push(heads.reshape(&[asking, self.heads * self.head_dim])?);
            (stored, asked) = (stored + canvas.rows, asked + asking);
        }
        Array::cat(&attended, 0)
    }

    /// Queries, keys and values of rows, from their products `[R, (H + 2·G)·E]`. `[H + 2·G, R, E]`
    fn heads(&self, projected: &Array) -> Result<Array> {
        let (h, g, e) = (self.heads, self.kv_heads, self.head_dim);
        let by_row = projected.reshape(&[projected.dim(0)?, h + 2 * g, e])?;
        let heads = by_row.transpose(0, 1)?.to_dtype(DType::F32)?;
        let heads = match &self.qkv_bias {
            Some(bias) => heads.add(bias)?,
            None => heads.contiguous()?,
        };
        let Some([q_norm, k_norm]) = &self.norms else {
            return Ok(heads);
        };
        let q = heads.narrow(0, 0, h)?.normed(q_norm)?;
        let k = heads.narrow(0, h, g)?.normed(k_norm)?;
        Array::cat(&[q, k, heads.narrow(0, h + g, g)?], 0)
    }

    /// A few rows at a time: the scores of all of them would be as many as the square of a long
    /// canvas.
    fn attend_in_parts(&self, q: &Array, kv: &Array, hidden: Option<&Array>) -> Result<Array> {
        const ROWS: usize = 512;
        let rows = q.dim(1)?;
        if rows <= ROWS {
            return self.attend(q, kv, hidden);
        }
        let part = |start| {
            let count = ROWS.min(rows - start);
            let hidden = hidden.map(|hidden| hidden.narrow(0, start, count));
            self.attend(
                &q.narrow(1, start, count)?,
                kv,
                hidden.transpose()?.as_ref(),
            )
        };
        let parts = (0..rows).step_by(ROWS).map(part);
        Array::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Scaled queries `[H, R, E]` to keys and values `[2·G, T, E]`. `[R, H, E]`
    fn attend(&self, q: &Array, kv: &Array, hidden: Option<&Array>) -> Result<Array> {
        let (h, g, e) = (self.heads, self.kv_heads, self.head_dim);
        let (r, len, per_group) = (q.dim(1)?, kv.dim(1)?, h / g);
        // The query heads of a group share its keys: stacking their rows needs no copy of these.
        let q = q.reshape(&[g, per_group * r, e])?; // [G, H/G·R, E]
        let mut scores = q.matmul_t(&kv.narrow(0, 0, g)?)?; // [G, H/G·R, T]
        if let Some(hidden) = hidden {
            let by_head = scores.reshape(&[g, per_group, r, len])?;
            scores = by_head.add(hidden)?.reshape(&[g, per_group * r, len])?;
        }
        let out = scores.softmax()?.matmul(&kv.narrow(0, g, g)?)?; // [G, H/G·R, E]
        out.reshape(&[h, r, e])?.transpose(0, 1)
    }
}

impl KeyValues {
    /// The cache `[heads, C, E]`, with room for so many positions: what there is of it stays. New
    /// ones are like the array `like`.
    fn room(&mut self, [heads, e]: [usize; 2], len: usize, like: &Array) -> Result<&Array> {
        let cache = match self.0.take() {
            Some(cache) if cache.dim(1)? >= len => cache,
            old => {
                let cache = like.zeros(&[heads, len.next_multiple_of(64), e])?;
                if let Some(old) = old {
                    cache.set_run(&old, 1, 0)?;
                }
                cache
            }
        };
        Ok(self.0.insert(cache))
    }

    /// Puts the rows' keys and values `[2·G, R, E]` in; gives those of the whole canvas,
    /// `[2·G, T, E]`.
    fn store(&mut self, rows: &Array, at: &Canvas) -> Result<Array> {
        let &[heads, _, e] = rows.dims() else {
            candle_core::bail!("no keys and values: {:?}", rows.dims())
        };
        let cache = self.room([heads, e], at.len, rows)?;
        let rows = rows.contiguous()?;
        match &at.slots {
            Slots::From(start) => cache.set_run(&rows, 1, *start)?,
            Slots::Each(indices) => cache.set_each(indices, &rows, 1)?,
        }
        cache.narrow(1, 0, at.len)
    }
}
