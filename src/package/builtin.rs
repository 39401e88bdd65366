//! The model inside this binary, so that everything works offline at once. `training/` made it.

use crate::hub::EmbeddedFiles;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../models/tiny/", $name)))),*]
    };
}

/// Its files, in the Hub's layout.
pub const TINY: EmbeddedFiles = files![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
