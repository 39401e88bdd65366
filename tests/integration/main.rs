//! Tests against files, vectors and the real binary. Fixtures and the scripts that made them are in
//! `tests/fixtures`.

// clippy.toml allows these in tests, but not in what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod asking;
mod batch;
mod batch_habits;
mod bench;
#[path = "support/binary.rs"]
mod binary;
mod blocks;
mod checkpoints;
mod command;
mod context;
mod d3llm;
mod defaults;
mod dreamon;
mod eval;
mod fast_dllm;
mod fast_dllm_v2;
mod files;
mod gguf;
mod golden;
#[path = "support/golden_set.rs"]
mod golden_set;
mod hub;
mod hub_command;
mod hub_gguf;
#[path = "support/hub_server.rs"]
mod hub_server;
mod infill;
#[cfg(unix)]
mod installer;
mod lengths;
mod llada;
mod llama_cpp;
mod lora;
mod lsp;
mod modes;
mod opendcoder;
mod packed;
#[cfg(unix)]
mod readme;
mod serve;
mod serve_clients;
#[cfg(unix)]
mod serve_page;
mod session;
mod settings;
#[cfg(unix)]
mod shell;
#[cfg(unix)]
#[path = "support/signals.rs"]
mod signals;
mod tiny;
mod tokenizer;
mod trace;
#[cfg(unix)]
mod watch;
mod words;

use std::path::PathBuf;

/// Path of a fixture.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}
