//! Masked-diffusion code generation: the library behind the `diffucoder` command.
//!
//! [`diffusion`] is the sampler and knows no tensors, [`model`] is the network, [`config`] and
//! [`weights`] read and check its files.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod arness;
pub mod atomic;
pub mod builtin;
pub mod chat;
pub mod cli;
pub mod config;
pub mod device;
pub mod diffusion;
mod error;
pub mod hub;
pub mod infill;
pub mod kernels;
pub mod limits;
pub mod model;
pub mod package;
pub mod place;
pub mod quantize;
pub mod syntax;
pub mod tokenizer;
pub mod weights;

pub use error::Error;
