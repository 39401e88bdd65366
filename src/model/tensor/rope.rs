//! Rotary position embedding, the half-rotation kind (`rotate_half` in the reference).

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::rotary_emb;

/// Makes the rotations of a canvas, and keeps them while its length stays.
pub(super) struct Rope {
    inv_freq: Vec<f32>, // [E / 2]
    current: Option<Rotation>,
}

/// Cosines and sines of some positions.
#[derive(Clone)]
pub(super) struct Rotation {
    cos: Tensor, // [T, E / 2]
    sin: Tensor, // [T, E / 2]
}

impl Rope {
    pub fn new(inv_freq: Vec<f32>) -> Self {
        Self {
            inv_freq,
            current: None,
        }
    }

    /// Rotations of the positions 0 to `len - 1`.
    pub fn rotation(&mut self, len: usize, dtype: DType, device: &Device) -> Result<Rotation> {
        if let Some(current) = &self.current
            && current.cos.dim(0)? == len
        {
            return Ok(current.clone());
        }
        // Angles in float32, as the reference computes them.
        let angles: Vec<f32> = (0..len)
            .flat_map(|position| self.inv_freq.iter().map(move |freq| position as f32 * freq))
            .collect();
        let angles = Tensor::from_vec(angles, (len, self.inv_freq.len()), device)?;
        let rotation = Rotation {
            cos: angles.cos()?.to_dtype(dtype)?,
            sin: angles.sin()?.to_dtype(dtype)?,
        };
        self.current = Some(rotation.clone());
        Ok(rotation)
    }
}

impl Rotation {
    /// The rotations of some of the positions.
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
