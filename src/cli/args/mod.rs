//! The flags that several commands share, and what they become.

pub mod apart;
pub mod check;
pub mod compute;
pub mod decoding;
pub mod model;
pub mod output;
pub mod prompt;
pub mod sampling;
pub mod shown;
pub mod values;
