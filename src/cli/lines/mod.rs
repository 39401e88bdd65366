//! JSON lines in and JSON lines out, for commands that do many of them: what a line asks for, and a
//! file of results that another run can continue.

pub mod format;
pub mod input;
pub mod kept;
pub mod line;
pub mod sink;
pub mod tally;
pub mod workers;
