//! Text as files have it: places in it, its line ends, its language, and whether it parses.

pub mod encoding;
pub mod guess;
pub mod lines;
pub mod place;
pub mod syntax;

/// U+FEFF in UTF-8, at the beginning of a file: nothing of its text.
pub const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
