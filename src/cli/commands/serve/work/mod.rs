//! Requests from asked to written, whatever the protocol: `serve` and `lsp` stand on it.
//!
//! An [`ask`] waits in a bounded [`queue`] for a [`worker`], which tells each [`event`] of its run,
//! of which one is a canvas as it is [`shown`]; what it took is counted in [`metrics`], and where
//! there is no text a [`refusal`] says why.

mod ask;
mod event;
mod metrics;
mod queue;
mod refusal;
mod shown;
mod unicode;
mod worker;

pub use ask::{Ask, Form};
pub use event::{Event, Stop, Written};
pub use metrics::Metrics;
pub use queue::{Cancel, Client, Queue, Running};
pub use refusal::Refusal;
pub use shown::MOST_SHOWN;
pub use unicode::whole_characters;
pub use worker::Worker;
