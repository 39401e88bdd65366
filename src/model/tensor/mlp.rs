//! The feed-forward part of a layer: SwiGLU.

use candle_core::{Result, Tensor};

use super::super::Loader;
use super::linear::Linear;
use crate::model::config::Config;
use crate::weights::WeightsError;

pub(super) struct Mlp {
    gate_proj: Linear, // D -> F
    up_proj: Linear,   // D -> F
    down_proj: Linear, // F -> D
}

impl Mlp {
    pub fn load(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: Linear::new(loader.linear(&format!("{name}.gate_proj"), f, d)?),
            up_proj: Linear::new(loader.linear(&format!("{name}.up_proj"), f, d)?),
            down_proj: Linear::new(loader.linear(&format!("{name}.down_proj"), d, f)?),
        })
    }

    /// `[R, D]` to `[R, D]`
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let gate = self.gate_proj.forward(xs)?.silu()?;
        self.down_proj.forward(&(gate * self.up_proj.forward(xs)?)?)
    }
}
