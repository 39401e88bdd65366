//! A model's name becomes its files, verified and on this machine.
//!
//! `registry` is the table of aliases, `spec` reads what the user typed, `gguf` picks a GGUF file, `snapshot`
//! hands out files whatever their source (the Hub, a folder, the binary itself). Behind it `repo` decides between cache
//! and network, `remote` asks the Hub, `transfer` and `carry` fetch and verify one file, and `cache` knows
//! the folder layout: that of Python's huggingface_hub, so that each uses what the other has downloaded.

mod cache;
mod cached;
mod carry;
mod error;
mod gguf;
mod options;
mod progress;
pub mod registry;
mod remote;
mod repo;
mod snapshot;
mod spec;
mod transfer;

pub use cached::{CachedFile, CachedModel, cached};
pub use error::HubError;
pub use options::{HubOptions, Patience, Token};
pub use progress::{Event, Progress};
pub use snapshot::{EmbeddedFiles, ModelFile, Snapshot};
pub use spec::{HubModel, ModelSpec, RepoId};
