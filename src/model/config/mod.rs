//! What a network looks like and which token ids are special, from config.json or a GGUF file.
//!
//! Nothing about a model is hard-coded, and nothing in these files is trusted: they come from
//! strangers and are checked before anything large is read. Both kinds of file state the same
//! numbers under different names, so what makes sense is decided here, once.

mod gguf;
mod json;

pub use self::gguf::metadata;
use super::arch::{Attention, Family};
use serde::Deserialize;
use serde_json::Value;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("cannot read {file}")]
    Malformed {
        file: &'static str,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
    /// A network of no known family.
    #[error("config.json: model_type {found:?} is not supported")]
    UnknownArchitecture { found: String },
    /// A value that makes no sense, or asks for something this program does not do.
    #[error("{file}: {key} is {found}, but must be {expected}")]
    Unsupported {
        file: &'static str,
        key: &'static str,
        found: String,
        expected: String,
    },
    /// No file says which token is the mask.
    #[error("neither the configuration nor the tokenizer names a mask token")]
    NoMaskToken,
}

impl ConfigError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownArchitecture { .. } | Self::NoMaskToken => Some(format!(
                "only masked-diffusion models of the types {} run here (DiffuCoder, Dream, \
                 Dream-Coder, Open-dCoder, CoDA, SDAR, Stable-DiffCoder, Fast-dLLM v2, LLaDA, dllm's); \
                 `diffucoder models` lists some",
                Family::model_types()
            )),
            Self::Malformed { .. } => Some(
                "the file is damaged or belongs to another model: download the model again".into(),
            ),
            Self::Unsupported { .. } => None,
        }
    }
}

/// The network's shape, under the names of config.json, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the model has in common with its kind.
    pub family: &'static Family,
    /// Which positions attend to which.
    pub attention: Attention,
    /// Width of the residual stream, D.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, F.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads, H.
    pub num_attention_heads: usize,
    /// Key and value heads, G; divides H.
    pub num_key_value_heads: usize,
    /// Width of a head, E.
    pub head_dim: usize,
    /// Number of token ids, V.
    pub vocab_size: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Longest canvas, prompt included.
    pub max_position_embeddings: usize,
    /// Whether the output at a position predicts the next one.
    pub shift_logits: bool,
    /// The mask token, if config.json names it.
    pub mask_token_id: Option<u32>,
    /// End of text, if config.json names it.
    pub eos_token_ids: Vec<u32>,
    /// Padding, if config.json names it.
    pub pad_token_id: Option<u32>,
}

/// Largest value accepted for any size; four times what the biggest published models use, and
/// small enough that no product of two of them overflows.
const MAX_SIZE: usize = 1 << 22;

/// What a file states about the network, not checked, under the names of config.json.
#[derive(Deserialize)]
struct Stated {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: usize,
    /// Positions of a block, where the attention is block-causal; `bd_size` in some files.
    block_size: Option<Value>,
}

/// The base of the rotary frequencies where a file names none: Qwen2Config's default, and
/// llama.cpp's.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

impl Stated {
    /// Checks what is a size by itself.
    fn check_sizes(&self, name: fn(&'static str) -> &'static str) -> Result<(), Refusal> {
        for (key, value, most) in [
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("vocab_size", self.vocab_size, MAX_SIZE),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MAX_SIZE,
            ),
        ] {
            check(name(key), value, (1..=most).contains(&value), || {
                format!("from 1 to {most}")
            })?;
        }
        Ok(())
    }

    /// The network, without token ids. `name` is what the file calls a key of config.json.
    fn check(
        self,
        family: &'static Family,
        name: fn(&'static str) -> &'static str,
    ) -> Result<Config, Refusal> {
        self.check_sizes(name)?;
        let heads = self.num_attention_heads;
        let named_heads = || format!("{} ({heads})", name("num_attention_heads"));
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        check(
            name("num_key_value_heads"),
            kv_heads,
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            || format!("a divisor of {}", named_heads()),
        )?;
        check(
            name("hidden_size"),
            self.hidden_size,
            self.head_dim.is_some() || self.hidden_size.is_multiple_of(heads),
            || format!("a multiple of {}", named_heads()),
        )?;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / heads);
        check(
            name("head_dim"),
            head_dim,
            (2..=1 << 12).contains(&head_dim) && head_dim.is_multiple_of(2),
            || "even, from 2 to 4096".into(),
        )?;
        let eps = self.rms_norm_eps;
        check(name("rms_norm_eps"), eps, eps > 0.0 && eps < 1.0, || {
            "between 0 and 1".into()
        })?;
        let theta = self.rope_theta.unwrap_or(DEFAULT_ROPE_THETA);
        check(
            name("rope_theta"),
            theta,
            theta >= 1.0 && theta.is_finite(),
            || "at least 1".into(),
        )?;
        let mut attention = family.attention;
        if let Some(size) = self.block_size.filter(|_| family.can_be_block_causal()) {
            let positions = size.as_u64().unwrap_or(0);
            let is_one = (1..=1 << 12).contains(&positions);
            check(name("block_size"), size, is_one, || "from 1 to 4096".into())?;
            attention = Attention::BlockCausal(positions as usize);
        }
        Ok(Config {
            family,
            attention,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            vocab_size: self.vocab_size,
            rms_norm_eps: eps,
            rope_theta: theta,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            max_position_embeddings: self.max_position_embeddings,
            shift_logits: family.shift_logits,
            mask_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        })
    }
}

/// A value that no network here can have.
struct Refusal {
    key: &'static str,
    found: String,
    expected: String,
}

impl Refusal {
    fn of(self, file: &'static str) -> ConfigError {
        let Self {
            key,
            found,
            expected,
        } = self;
        ConfigError::Unsupported {
            file,
            key,
            found,
            expected,
        }
    }
}

impl From<Refusal> for ConfigError {
    fn from(refusal: Refusal) -> Self {
        refusal.of("config.json")
    }
}

fn check(
    key: &'static str,
    found: impl ToString,
    ok: bool,
    expected: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    if ok {
        return Ok(());
    }
    Err(Refusal {
        key,
        found: found.to_string(),
        expected: expected(),
    })
}
