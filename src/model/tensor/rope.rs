//! Rotary position embedding, the half-rotation kind (`rotate_half` in the reference).

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::rotary_emb;

/// Cosines and sines of some positions.
#[derive(Clone)]
pub(super) struct Rotation {
    cos: Tensor, // [T, E / 2]
    sin: Tensor, // [T, E / 2]
}

impl Rotation {
    /// Rotations of these positions; their angles in float32, as the reference computes them.
    pub fn of(
        positions: &[usize],
        inv_freq: &[f32],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let angles = positions.iter().flat_map(|&position| {
            let angle = move |freq: &f32| position as f32 * freq;
            inv_freq.iter().map(angle)
        });
        let shape = (positions.len(), inv_freq.len());
        let angles = Tensor::from_vec(angles.collect(), shape, device)?;
        Ok(Self {
            cos: angles.cos()?.to_dtype(dtype)?,
            sin: angles.sin()?.to_dtype(dtype)?,
        })
    }

    /// Those of some of the rows.
    pub fn at(&self, rows: &Tensor) -> Result<Self> {
        Ok(Self {
            cos: self.cos.index_select(rows, 0)?,
            sin: self.sin.index_select(rows, 0)?,
        })
    }

    /// Rotates each head. `[heads, T, E]` to the same.
    pub fn apply(&self, heads: &Tensor) -> Result<Tensor> {
        let batch = heads.contiguous()?.unsqueeze(0)?;
        rotary_emb::rope(&batch, &self.cos, &self.sin)?.squeeze(0)
    }
}
