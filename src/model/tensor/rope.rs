//! Rotary position embedding, the half-rotation kind (`rotate_half` in the reference).

use candle_core::{Device, Result};

use super::array::Array;

/// What each group of heads is turned by: those of queries, and scaled for the product with keys;
/// those of keys; and those of values by nothing, so that one launch does for all.
pub(super) struct Rotary {
    inv_freq: Vec<f32>, // [E / 2]
    turns: Array,       // [B, 1, 1], 0 for values
    scales: Array,      // [B, 1, 1], E^-½ for queries
}

impl Rotary {
    /// Of `queries` groups of query heads, which one of keys and one of values follow.
    pub fn new(inv_freq: Vec<f32>, queries: usize, device: &Device) -> Result<Self> {
        let scale = (2.0 * inv_freq.len() as f32).powf(-0.5);
        let each = |query: f32, [key, value]: [f32; 2]| {
            let all = [vec![query; queries], vec![key, value]].concat();
            Array::upload(all, &[queries + 2, 1, 1], device)
        };
        Ok(Self {
            turns: each(1.0, [1.0, 0.0])?,
            scales: each(scale, [1.0, 1.0])?,
            inv_freq,
        })
    }

    /// Rotations of these positions; their angles in float32, as the reference computes them.
    pub fn at(&self, positions: &[usize], device: &Device) -> Result<Rotation> {
        let angles = positions.iter().flat_map(|&position| {
            let angle = move |freq: &f32| position as f32 * freq;
            self.inv_freq.iter().map(angle)
        });
        let shape = [1, positions.len(), self.inv_freq.len()];
        let angles = Array::upload(angles.collect(), &shape, device)?.mul(&self.turns)?;
        Ok(Rotation {
            cos: angles.cos()?.mul(&self.scales)?,
            sin: angles.sin()?.mul(&self.scales)?,
        })
    }
}

/// Cosines and sines of some positions, for each group of heads.
pub(super) struct Rotation {
    cos: Array, // [B, T, E / 2]
    sin: Array, // [B, T, E / 2]
}

impl Rotation {
    /// Its cosines and sines. `[groups, T, E / 2]`
    #[cfg(feature = "cuda")]
    pub fn parts(&self) -> [&Array; 2] {
        [&self.cos, &self.sin]
    }

    /// Rotates each head. `[B·heads, T, E]` to the same.
    pub fn apply(&self, heads: &Array) -> Result<Array> {
        let &[count, rows, e] = heads.dims() else {
            candle_core::bail!("not heads: {:?}", heads.dims())
        };
        let groups = self.cos.dim(0)?;
        let grouped = heads.reshape(&[groups, count / groups, rows, e])?;
        let turned = grouped.rotated(&self.cos, &self.sin)?;
        turned.reshape(&[count, rows, e])
    }
}
