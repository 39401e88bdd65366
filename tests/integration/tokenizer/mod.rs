//! The tokenizer and the chat templates against vectors from independent implementations
//! (`tests/fixtures/tokenizer/make_vectors.py`), and against files that are broken.

mod broken;
mod chat;
mod vectors;

use std::sync::LazyLock;

use diffucoder::tokenizer::{Tokenizer, TokenizerFiles};
use proptest::prelude::*;
use serde_json::Value;

const VOCAB: &[u8] = include_bytes!("../../fixtures/qwen2-tokenizer/vocab.json");
const MERGES: &[u8] = include_bytes!("../../fixtures/qwen2-tokenizer/merges.txt");
const ADDED: &[u8] = include_bytes!("../../fixtures/qwen2-tokenizer/added_tokens.json");
const CONFIG: &[u8] = include_bytes!("../../fixtures/qwen2-tokenizer/tokenizer_config.json");

const MASK: u32 = 151_666;

fn qwen2_files() -> TokenizerFiles<'static> {
    TokenizerFiles::gather(|name| match name {
        "vocab.json" => Some(VOCAB),
        "merges.txt" => Some(MERGES),
        "added_tokens.json" => Some(ADDED),
        "tokenizer_config.json" => Some(CONFIG),
        _ => None,
    })
}

static QWEN2: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_files(&qwen2_files()).unwrap());

fn fixture(name: &str) -> Value {
    let path = format!(
        "{}/tests/fixtures/tokenizer/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9 '\t\r\n_.(){}<>|]{0,20}",
        prop::sample::select(vec![
            "<|im_end|>",
            "<|mask|>",
            "<tool_call>",
            "<|",
            "|>",
            "\u{FDD0}"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
