//! Threads that nobody waits for.

use std::thread;

use anyhow::Context;

/// Why there is none, where the system has no more.
pub const NONE: &str = "cannot start a thread";

/// Begins to do something beside everything else.
///
/// # Errors
/// When the system has no thread for it.
pub fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<()> {
    let thread = thread::Builder::new().spawn(work);
    thread.context(NONE).map(|_| ())
}
