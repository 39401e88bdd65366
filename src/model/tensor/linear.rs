//! Matrix products of tensors with weights: the only place here that knows how weights are stored.

use candle_core::{DType, Result, Tensor};
use candle_nn::Module;

use super::super::weight::{Affine, Weight};

/// `y = x · Wᵀ + b`
pub(super) struct Linear(Affine);

impl Linear {
    pub fn new(affine: Affine) -> Self {
        Self(affine)
    }

    /// `[T, inputs]` to `[T, outputs]`
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = match &self.0.weight {
            Weight::Dense(weight) => matmul(xs, &weight.t()?)?,
            Weight::Packed(_) => candle_core::bail!("packed weights are for the CPU's own network"),
            Weight::Blocks(weight) => weight.forward(xs)?,
        };
        match &self.0.bias {
            Some(bias) => ys.broadcast_add(bias),
            None => Ok(ys),
        }
    }
}

/// A matrix product in any precision: the tensor library has none for bf16 on the CPU, so there the
/// factors are widened.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        let product = a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?;
        return product.to_dtype(DType::BF16);
    }
    a.matmul(b)
}
