//! Matrix products of block-quantized weights with a few hundred rows of activations, in 8-bit
//! integers.
//!
//! `Y[rows, n] = X[rows, k] · W[n, k]ᵀ`, where `W` arrives in llama.cpp's block formats and `X` as
//! `f32`. Both sides become small integers, `W` with a scale per block of 32 inputs, `X` with one
//! for up to 4 blocks; a block's dot product is an exact `i32`, and the blocks are added up in
//! `f32` in the order that `scalar` defines. Every version adds them in that order with the same
//! fused operations, so all of them give the same bits.
//!
//! - [`PackedMatrix`] holds the weights as the kernels read them: panels of 16 columns, rearranged
//!   once at load.
//! - [`Activations`] holds the rows, quantized once and shared by every matrix that reads them.
//! - [`TileRows`] holds the rows in bf16 instead, for [`matmul_tiles`]: the fastest way to many
//!   rows where the CPU has tiles, for weights in any format, with sums that are its own.
//! - [`Isa`] is a proof that this CPU has the instructions that a kernel uses.
//! - [`matmul_panels`] computes a range of panels: the unit that a caller hands to its threads. Its
//!   output is panel-major, `[panel, row, 16]`, so that a range of panels is one slice and threads
//!   share nothing; [`copy_rows`] turns it into rows.
//!
//! Each file imports only files that stand above it here, and none imports this one.

#![deny(
    clippy::wildcard_enum_match_arm,
    reason = "a new format or instruction set must not compile"
)]

mod format;
mod isa;
mod prefetch;

mod stored;

mod packed;
mod portable;

mod quantize;

mod activations;
mod attention;
mod dense;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
mod scalar;

mod tiles;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod amx;

mod matmul;

pub mod limits;

#[cfg(test)]
mod tests;

pub use activations::Activations;
pub(crate) use attention::KeyValues;
pub(crate) use dense::FloatFormat;
pub use dense::{DenseMatrix, matmul_dense};
pub use format::Format;
pub use isa::Isa;
pub(crate) use matmul::attend_tiles;
pub use matmul::{copy_rows, matmul_panels, matmul_tiles};
pub(crate) use packed::{BLOCK, Holder, LANES};
pub use packed::{PANEL, PackError, PackedMatrix};
pub(crate) use portable::{
    LazyRows, negative_entropy, normalize, rms_scales, silu, softmax_terms, write_row,
};
pub(crate) use tiles::TileKeyValues;
pub use tiles::{TileRows, TileWeights};
