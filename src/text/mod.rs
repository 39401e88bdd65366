//! Text as files have it: places in it, its line ends, its language, and whether it parses.

pub mod encoding;
pub mod guess;
pub mod lines;
pub mod place;
pub mod syntax;
