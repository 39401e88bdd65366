//! The commands, one file or folder each.

pub mod batch;
pub mod bench;
mod choices;
pub mod config;
pub mod doctor;
pub mod downloads;
pub mod eval;
pub mod generate;
pub mod infill;
pub mod licences;
#[cfg(feature = "serve")]
pub mod lsp;
pub mod models;
pub mod quantize;
pub mod report;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shell;
