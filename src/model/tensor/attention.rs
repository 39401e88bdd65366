//! Grouped-query attention of some rows to every position: every position sees every position.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::super::{Loader, Rows};
use super::linear::{Linear, matmul};
use super::rope::Rotation;
use crate::model::config::Config;
use crate::weights::WeightsError;

pub(super) struct Attention {
    q_proj: Linear,  // D -> H·E
    k_proj: Linear,  // D -> G·E
    v_proj: Linear,  // D -> G·E
    o_proj: Linear,  // H·E -> D
    heads: usize,    // H
    kv_heads: usize, // G
    head_dim: usize, // E
    cache: Option<Cache>,
}

/// Keys and values of the positions that were computed so far.
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
        let (d, e) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (q, kv) = (heads * e, kv_heads * e);
        Ok(Self {
            q_proj: Linear::new(loader.linear_with_bias(&format!("{name}.q_proj"), q, d)?),
            k_proj: Linear::new(loader.linear_with_bias(&format!("{name}.k_proj"), kv, d)?),
            v_proj: Linear::new(loader.linear_with_bias(&format!("{name}.v_proj"), kv, d)?),
            o_proj: Linear::new(loader.linear(&format!("{name}.o_proj"), d, q)?),
            heads,
            kv_heads,
            head_dim: e,
            cache: None,
        })
    }

    /// Stores keys and values of all of `xs` `[R, D]`, and lets those in `kept`, or all, attend to the
    /// positions `0..len`. `[kept, D]`
    pub fn forward(
        &mut self,
        xs: &Tensor,
        rows: &Rows,
        kept: Option<&Tensor>,
        rotation: &Rotation,
        len: usize,
    ) -> Result<Tensor> {
        let (g, e) = (self.kv_heads, self.head_dim);
        let per_group = self.heads / g;

        let k = split_heads(&self.k_proj.forward(xs)?, g, e)?; // [G, R, E]
        let v = split_heads(&self.v_proj.forward(xs)?, g, e)?.contiguous()?; // [G, R, E]
        let (k, v) = self.store(&rotation.apply(&k)?, &v, rows, len)?; // [G, T, E]

        let (xs, rotation) = match kept {
            Some(kept) => (xs.index_select(kept, 0)?, rotation.at(kept)?),
            None => (xs.clone(), rotation.clone()),
        };
        let r = xs.dim(0)?;
        let q = rotation.apply(&split_heads(&self.q_proj.forward(&xs)?, self.heads, e)?)?; // [H, R, E]
        // The query heads of a group share its keys: stacking their rows needs no copy of k and v.
        let q = q.reshape((g, per_group * r, e))?; // [G, H/G·R, E]
        let scores = (matmul(&q, &k.t()?)? * (e as f64).powf(-0.5))?; // [G, H/G·R, T]
        let dtype = scores.dtype();
        let weights = softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(dtype)?;
        let out = matmul(&weights, &v)?; // [G, H/G·R, E]
        let out = out.reshape((self.heads, r, e))?.transpose(0, 1)?; // [R, H, E]
        self.o_proj.forward(&out.reshape((r, self.heads * e))?)
    }

    /// Puts the rows' keys and values `[G, R, E]` into the cache; gives those of `0..len`, `[G, T, E]`.
    fn store(
        &mut self,
        k: &Tensor,
        v: &Tensor,
        rows: &Rows,
        len: usize,
    ) -> Result<(Tensor, Tensor)> {
        let shape = (self.kv_heads, len.next_multiple_of(64), self.head_dim);
        let cache = match self.cache.take() {
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
        let cache = self.cache.insert(cache);
        // A run of positions side by side is one copy.
        let mut row = 0;
        for run in rows.positions.chunk_by(|a, b| a + 1 == *b) {
            let part = |xs: &Tensor| xs.narrow(1, row, run.len())?.contiguous();
            cache.keys.slice_set(&part(k)?, 1, run[0])?;
            cache.values.slice_set(&part(v)?, 1, run[0])?;
            row += run.len();
        }
        let seen = |xs: &Tensor| xs.narrow(1, 0, len)?.contiguous();
        Ok((seen(&cache.keys)?, seen(&cache.values)?))
    }
}

/// `[T, heads·E]` to `[heads, T, E]`
fn split_heads(xs: &Tensor, heads: usize, head_dim: usize) -> Result<Tensor> {
    xs.reshape((xs.dim(0)?, heads, head_dim))?.transpose(0, 1)
}
