//! The feed-forward part of a layer: SwiGLU.

use candle_core::Result;

use super::super::Loader;
use super::array::Array;
use super::linear::Linear;
use crate::weights::WeightsError;

pub(super) struct Mlp {
    gate_up_proj: Linear, // D -> 2·F
    down_proj: Linear,    // F -> D
}

impl Mlp {
    pub fn load(name: &str, loader: &mut Loader<'_>) -> std::result::Result<Self, WeightsError> {
        let gate = loader.linear(&format!("{name}.gate_proj"))?;
        let up = loader.linear(&format!("{name}.up_proj"))?;
        Ok(Self {
            gate_up_proj: loader.built(name, Linear::stacked(vec![gate, up]))?,
            down_proj: Linear::new(loader.linear(&format!("{name}.down_proj"))?),
        })
    }

    /// `[R, D]` to `[R, D]`
    pub fn forward(&self, xs: &Array, is_fused: bool) -> Result<Array> {
        let both = self.gate_up_proj.forward(xs)?;
        self.down_proj.forward(&both.swiglu(is_fused)?)
    }
}
