//! A weight matrix as the loader hands it over: the form that suits the device.

use candle_core::Tensor;
use candle_core::quantized::QMatMul;

use crate::kernels::PackedMatrix;

/// A weight matrix `[outputs, inputs]`.
pub(super) enum Weight {
    /// Floating-point numbers.
    Dense(Tensor),
    /// Quantized blocks, packed for our own kernels.
    Packed(PackedMatrix),
    /// Quantized blocks in the tensor library's keeping, for GPUs.
    Blocks(QMatMul),
}

/// A matrix and, for some, what is added to its product.
pub(super) struct Affine {
    pub weight: Weight,
    pub bias: Option<Tensor>, // [outputs]
}
