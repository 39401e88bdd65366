//! The shapes that `--synthetic` knows, as the models' own files have them.

use clap::ValueEnum;
use diffucoder::model::config::{Config, ConfigError};
use diffucoder::package::builtin;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// DiffuCoder-7B
    #[value(name = "7b")]
    DiffuCoder7B,
    /// Open-dCoder-0.5B
    #[value(name = "0.5b")]
    OpenDCoder,
    /// Fast-dLLM v2 1.5B, block-causal
    #[value(name = "1.5b")]
    FastDllm,
    /// SDAR-1.7B, block-causal
    #[value(name = "1.7b")]
    Sdar,
    /// Stable-DiffCoder-8B, block-causal
    #[value(name = "8b")]
    StableDiffCoder,
    /// The built-in model
    Tiny,
}

impl Shape {
    /// What config.json says of such a model.
    pub fn config(self) -> Result<Config, ConfigError> {
        let tiny = || {
            builtin::TINY
                .iter()
                .find(|(name, _)| *name == "config.json")
        };
        Config::from_json(match self {
            Self::DiffuCoder7B => DIFFUCODER_7B,
            Self::OpenDCoder => OPEN_DCODER,
            Self::FastDllm => FAST_DLLM,
            Self::Sdar => SDAR,
            Self::StableDiffCoder => STABLE_DIFFCODER,
            Self::Tiny => tiny().map_or(&[][..], |(_, json)| json),
        })
    }
}

/// What the shapes follow from, of DiffuCoder-7B's config.json.
const DIFFUCODER_7B: &[u8] = br#"{
    "model_type": "Dream", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 131072
}"#;

/// Of Qwen2.5-Coder-0.5B, which it was trained from.
const OPEN_DCODER: &[u8] = br#"{
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768,
    "tie_word_embeddings": true
}"#;

/// Of Qwen2.5-1.5B, in blocks of 32.
const FAST_DLLM: &[u8] = br#"{
    "model_type": "Fast_dLLM_Qwen", "vocab_size": 151936, "hidden_size": 1536, "bd_size": 32,
    "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "max_position_embeddings": 32768, "tie_word_embeddings": true
}"#;

/// Of Qwen3-1.7B with a head of its own.
const SDAR: &[u8] = br#"{
    "model_type": "sdar", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768,
    "tie_word_embeddings": false
}"#;

/// Of Seed-Coder-8B.
const STABLE_DIFFCODER: &[u8] = br#"{
    "model_type": "llama", "architectures": ["StableDiffcoderForCausalLM"], "vocab_size": 155136,
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_theta": 5e5,
    "max_position_embeddings": 32768, "tie_word_embeddings": false
}"#;
