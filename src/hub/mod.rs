//! A model's name becomes its files, verified and on this machine.
//!
//! `registry` is the table of aliases, `spec` reads what the user typed, `gguf` picks a GGUF file,
//! `foreign` knows forms that are not read here, `snapshot` hands out files whatever their source
//! (the Hub, a folder, the binary itself). Behind it `repo` decides between cache and network,
//! `http` knows redirects, certificates and who may see the token, `remote` asks the Hub,
//! `transfer` fetches and verifies one file, and `cache` knows the folder layout: that of Python's
//! huggingface_hub, so that each uses what the other has downloaded. The hf-hub crate names the
//! cache's folders; it carries no bytes, because its transfers (0.5) ask for gzip together with a
//! range, show the token to redirect hosts and have no time limits.

mod address;
mod cache;
mod cached;
mod certificates;
mod error;
mod foreign;
mod gguf;
mod http;
mod options;
pub mod registry;
mod remote;
mod remove;
mod repo;
mod snapshot;
mod spec;
mod transfer;

pub use cached::{CachedFile, CachedModel, cached};
pub use error::HubError;
pub use foreign::Foreign;
pub use options::{CaSource, HubOptions, Patience, Token};
pub use remove::remove;
pub use snapshot::{EmbeddedFiles, ModelFile, Snapshot};
pub(crate) use spec::called;
pub use spec::{HubModel, ModelSpec, RepoId};
pub use transfer::{Event, Progress};
