//! What is served: each file reads what one protocol asks, and says in its form what was written.

pub mod fields;
pub mod llama;
mod markers;
pub mod ollama;
pub mod openai;
pub mod page;
