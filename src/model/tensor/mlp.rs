//! The feed-forward part of a layer: SwiGLU.

use candle_core::{Result, Tensor};

use super::super::Loader;
use super::linear::Linear;
use crate::weights::WeightsError;

pub(super) struct Mlp {
    gate_proj: Linear, // D -> F
    up_proj: Linear,   // D -> F
    down_proj: Linear, // F -> D
}

impl Mlp {
    pub fn load(name: &str, loader: &mut Loader<'_>) -> std::result::Result<Self, WeightsError> {
        let mut linear = |proj: &str| loader.linear(&format!("{name}.{proj}")).map(Linear::new);
        Ok(Self {
            gate_proj: linear("gate_proj")?,
            up_proj: linear("up_proj")?,
            down_proj: linear("down_proj")?,
        })
    }

    /// `[R, D]` to `[R, D]`
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let gate = self.gate_proj.forward(xs)?.silu()?;
        self.down_proj.forward(&(gate * self.up_proj.forward(xs)?)?)
    }
}
