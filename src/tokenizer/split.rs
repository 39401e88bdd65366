//! The ways of cutting text into words before BPE that a GGUF file can name.
//!
//! `tokenizer.json` has an expression of its own; GGUF files have a name, and the older layout of
//! checkpoints has nothing, which means Qwen2's.
//!
//! Source: `src/llama-vocab.cpp` in ggml-org/llama.cpp, which quotes the expressions of the files.

/// What is done to text before BPE, where no `tokenizer.json` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// Qwen2, 2.5 and 3: Dream, DiffuCoder and most of their relatives.
    #[default]
    Qwen2,
    /// Llama 3: up to three digits are a word.
    Llama3,
    /// Seed-Coder, and Stable-DiffCoder with it: no line end follows signs.
    SeedCoder,
    /// Ling, and LLaDA with it: Qwen2's in other words.
    Bailing,
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Qwen2, Self::Llama3, Self::SeedCoder, Self::Bailing];

    /// Its names in GGUF files, the one that is written first.
    #[must_use]
    pub(crate) fn gguf_names(self) -> &'static [&'static str] {
        match self {
            Self::Qwen2 => &["qwen2", "deepseek-r1-qwen"],
            Self::Llama3 => &["llama-bpe", "llama3", "llama-v3"],
            Self::SeedCoder => &["seed-coder"],
            Self::Bailing => &["bailingmoe", "bailingmoe2", "llada-moe"],
        }
    }

    /// The expression that matches words: contractions, letters with one sign before them, digits,
    /// signs with the line ends after them, line ends, blanks (all but the last before a word).
    #[must_use]
    pub(crate) fn expression(self) -> &'static str {
        match self {
            Self::Qwen2 => concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            Self::Llama3 => concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            // The line ends in it are characters, not escapes.
            Self::SeedCoder => concat!(
                "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}|",
                " ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
            ),
            Self::Bailing => concat!(
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|",
                r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            ),
        }
    }

    /// Whether text is brought into Unicode's form NFC first.
    #[must_use]
    pub(crate) fn is_normalized(self) -> bool {
        self == Self::Qwen2
    }

    /// Whether a word that is a token is that token, whatever the merges make of it.
    #[must_use]
    pub(crate) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }
}
