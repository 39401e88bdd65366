//! Rotary position embedding, by halves of a head (`rotate_half` in the reference) or by neighbours.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::rotary_emb;

use crate::model::arch;

/// Makes the rotations of a canvas, and keeps them while its length stays.
pub(super) struct Rope {
    inv_freq: Vec<f32>, // [E / 2]
    kind: arch::Rotation,
    current: Option<Rotation>,
}

/// Cosines and sines of some positions.
#[derive(Clone)]
pub(super) struct Rotation {
    cos: Tensor, // [T, E / 2]
    sin: Tensor, // [T, E / 2]
    kind: arch::Rotation,
}

impl Rope {
    pub fn new(inv_freq: Vec<f32>, kind: arch::Rotation) -> Self {
        Self {
            inv_freq,
            kind,
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
            kind: self.kind,
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
            kind: self.kind,
        })
    }

    /// Rotates each head. `[heads, T, E]` to the same.
    pub fn apply(&self, heads: &Tensor) -> Result<Tensor> {
        let batch = heads.contiguous()?.unsqueeze(0)?;
        match self.kind {
            arch::Rotation::Halves => rotary_emb::rope(&batch, &self.cos, &self.sin),
            arch::Rotation::Neighbours => rotary_emb::rope_i(&batch, &self.cos, &self.sin),
        }?
        .squeeze(0)
    }
}
