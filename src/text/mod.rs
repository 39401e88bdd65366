//! Text as files have it: places in it, and whether it parses.

pub mod place;
pub mod syntax;
