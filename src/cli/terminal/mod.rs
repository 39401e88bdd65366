//! What is drawn on a terminal, and everything that is written to stdout and stderr.

pub mod cells;
pub mod closed;
pub mod download;
pub mod progress;
pub mod signals;
pub mod stream;
pub mod table;
pub mod ui;
pub mod watch;
