//! Masked-diffusion code generation: the library behind the `diffucoder` command.
//!
//! [`diffusion`] is the sampler and knows no tensors, [`model`] is the network, [`config`] and
//! [`weights`] read and check its files.

#![warn(missing_docs)]

pub mod atomic;
pub mod chat;
pub mod diffusion;
mod error;
pub mod hub;
pub mod infill;
pub mod kernels;
pub mod model;
pub mod package;
pub mod text;
pub mod tokenizer;
pub mod weights;

pub use error::Error;
