//! Grouped-query attention over the whole canvas: every position sees every position.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::linear::matmul;
use super::rope::Rotation;
use super::{Linear, Loader};
use crate::config::Config;
use crate::weights::WeightsError;

pub(super) struct Attention {
    q_proj: Linear,  // D -> H·E
    k_proj: Linear,  // D -> G·E
    v_proj: Linear,  // D -> G·E
    o_proj: Linear,  // H·E -> D
    heads: usize,    // H
    kv_heads: usize, // G
    head_dim: usize, // E
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
            q_proj: loader.linear_with_bias(&format!("{name}.q_proj"), q, d)?,
            k_proj: loader.linear_with_bias(&format!("{name}.k_proj"), kv, d)?,
            v_proj: loader.linear_with_bias(&format!("{name}.v_proj"), kv, d)?,
            o_proj: loader.linear(&format!("{name}.o_proj"), d, q)?,
            heads,
            kv_heads,
            head_dim: e,
        })
    }

    /// Queries from `rows` `[R, D]`, keys and values from `all` `[T, D]`. `[R, D]`
    pub fn forward(
        &self,
        rows: &Tensor,
        all: &Tensor,
        row_rotation: &Rotation,
        rotation: &Rotation,
    ) -> Result<Tensor> {
        let (g, e) = (self.kv_heads, self.head_dim);
        let per_group = self.heads / g;
        let r = rows.dim(0)?;

        let q = split_heads(&self.q_proj.forward(rows)?, self.heads, e)?; // [H, R, E]
        let k = split_heads(&self.k_proj.forward(all)?, g, e)?; // [G, T, E]
        let v = split_heads(&self.v_proj.forward(all)?, g, e)?.contiguous()?; // [G, T, E]
        let q = row_rotation.apply(&q)?;
        let k = rotation.apply(&k)?;

        // The query heads of a group share its keys: stacking their rows needs no copy of k and v.
        let q = q.reshape((g, per_group * r, e))?; // [G, H/G·R, E]
        let scores = (matmul(&q, &k.t()?)? * (e as f64).powf(-0.5))?; // [G, H/G·R, T]
        let dtype = scores.dtype();
        let weights = softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(dtype)?;
        let out = matmul(&weights, &v)?; // [G, H/G·R, E]
        let out = out.reshape((self.heads, r, e))?.transpose(0, 1)?; // [R, H, E]
        self.o_proj.forward(&out.reshape((r, self.heads * e))?)
    }
}

/// `[T, heads·E]` to `[heads, T, E]`
fn split_heads(xs: &Tensor, heads: usize, head_dim: usize) -> Result<Tensor> {
    xs.reshape((xs.dim(0)?, heads, head_dim))?.transpose(0, 1)
}
