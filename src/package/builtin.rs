//! The model inside this binary, so that everything works offline at once. `training/` made it.

use crate::hub::EmbeddedFiles;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[
            // The build script put it together: see models/build.rs.
            ("model.safetensors", include_bytes!(concat!(env!("OUT_DIR"), "/model.safetensors"))),
            $(($name, include_bytes!(concat!("../../models/tiny/", $name)))),*
        ]
    };
}

/// Its files, in the Hub's layout.
pub const TINY: EmbeddedFiles = files![
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
