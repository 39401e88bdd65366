//! Matrix products with weights: the only place that knows how weights are stored.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use super::Loader;
use crate::weights::WeightsError;

/// `y = x · Wᵀ + b`
pub(super) struct Linear(candle_nn::Linear);

impl Linear {
    /// Loads `{name}.weight` `[outputs, inputs]`, without a bias.
    pub fn load(
        loader: &mut Loader<'_>,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let weight = loader.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Self(candle_nn::Linear::new(weight, None)))
    }

    /// Loads `{name}.weight` `[outputs, inputs]` and `{name}.bias` `[outputs]`.
    pub fn load_with_bias(
        loader: &mut Loader<'_>,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let weight = loader.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = loader.tensor(&format!("{name}.bias"), &[outputs])?;
        Ok(Self(candle_nn::Linear::new(weight, Some(bias))))
    }

    /// A head that shares the embedding table `[V, D]`.
    pub fn tied(embed_tokens: Tensor) -> Self {
        Self(candle_nn::Linear::new(embed_tokens, None))
    }

    /// `[T, inputs]` to `[T, outputs]`
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}
