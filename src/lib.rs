//! Masked-diffusion code generation: the library behind the `diffucoder` command.
//!
//! [`diffusion`] is the sampler and knows no tensors, [`model`] is the network, [`config`] and
//! [`weights`] read and check its files.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod diffusion;
pub mod model;
pub mod weights;
