//! GGUF files: those of others read here, ours read back, and broken ones refused.

mod hostile;
mod network;
mod read;
mod tokenizers;
mod write;

use diffucoder::weights::gguf::GgufFile;
use serde_json::Value as Json;

/// Made by `make.py` with the independent Python package.
const TINY: &[u8] = include_bytes!("../../fixtures/gguf/tiny.gguf");

fn tiny() -> GgufFile<'static> {
    GgufFile::parse(TINY).unwrap()
}

fn parse_json(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes).unwrap()
}
