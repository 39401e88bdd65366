//! Which diffusion model a GGUF file holds that is called what autoregressive models are.
//!
//! llama.cpp knows `dream` and `llada`. Whatever else it converts it calls by the layers, as the
//! models that were trained into diffusion models: the metadata are the same for both, and only the
//! names tell. The exception is Open-dCoder, which is what `qwen2` means with a mask token.

use super::arch::{A2D_QWEN2, A2D_QWEN3, CODA, FAST_DLLM_V2, Family, SDAR, STABLE_DIFFCODER};

/// `general.architecture`, a part of the model's name in small letters and without signs, and what
/// that model is.
static NAMED: [(&str, &str, &Family); 8] = [
    ("llama", "diffcoder", &STABLE_DIFFCODER),
    ("qwen2", "mdlm", &A2D_QWEN2),
    ("qwen2", "bd3lm", &A2D_QWEN2),
    ("qwen2", "fastdllm", &FAST_DLLM_V2),
    ("qwen3", "mdlm", &A2D_QWEN3),
    ("qwen3", "bd3lm", &A2D_QWEN3),
    ("qwen3", "coda", &CODA),
    ("qwen3", "sdar", &SDAR),
];

/// A name in small letters and without signs, of which people choose their own.
pub(crate) fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.collect::<String>().to_ascii_lowercase()
}

/// The family of a file whose layers are `architecture`'s, by what the model or file is called.
pub(super) fn family(architecture: &str, names: [&str; 2]) -> Option<&'static Family> {
    let names = names.map(plain);
    let is_it = |(layers, part, _): &&(&str, &str, _)| {
        *layers == architecture && names.iter().any(|name| name.contains(part))
    };
    NAMED.iter().find(is_it).map(|(_, _, family)| *family)
}

/// The parts of names that tell the diffusion models with these layers apart.
pub(super) fn parts(architecture: &str) -> Vec<&'static str> {
    let rows = NAMED
        .iter()
        .filter(|(layers, _, _)| *layers == architecture);
    rows.map(|(_, part, _)| *part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_model_or_file_tell() {
        let of = |architecture, general: &str, file: &str| family(architecture, [general, file]);
        for (architecture, general, file, expected) in [
            (
                "llama",
                "Stable DiffCoder 8B",
                "x.gguf",
                Some(&STABLE_DIFFCODER),
            ),
            (
                "llama",
                "",
                "Stable-DiffCoder-Q8_0.gguf",
                Some(&STABLE_DIFFCODER),
            ),
            ("llama", "Seed Coder 8B", "seed-coder.gguf", None),
            ("qwen3", "SDAR 1.7B Chat", "", Some(&SDAR)),
            ("qwen3", "CoDA v0 Instruct", "", Some(&CODA)),
            ("qwen3", "Qwen3 Coder", "qwen3-coder.gguf", None),
            ("qwen3", "Qwen3 0.6B Diffusion Bd3lm", "", Some(&A2D_QWEN3)),
            (
                "qwen2",
                "Qwen2.5 Coder 0.5B Instruct Diffusion Mdlm",
                "",
                Some(&A2D_QWEN2),
            ),
            ("qwen2", "Open Dcoder 0.5B", "", None), // what qwen2 means by itself
            ("dream", "sdar", "", None),
        ] {
            assert_eq!(
                of(architecture, general, file),
                expected,
                "{general} {file}"
            );
        }
        assert_eq!(parts("qwen2"), ["mdlm", "bd3lm", "fastdllm"]);
        assert!(parts("dream").is_empty());
    }
}
