//! Requests from asked to written, whatever the protocol: `serve` and `lsp` stand on it.
//!
//! An [`ask`] waits in a bounded [`queue`] for a [`worker`], which tells each [`event`] of its run,
//! of which one is a canvas as it is [`shown`]; what it took is counted in [`metrics`], and where
//! there is no text a [`refusal`] says why.

pub mod ask;
pub mod event;
pub mod metrics;
pub mod queue;
pub mod refusal;
pub mod shown;
pub mod worker;
