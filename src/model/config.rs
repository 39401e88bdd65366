//! `config.json` and `generation_config.json`: what the network looks like and which ids are special.
//!
//! Nothing about a model is hard-coded, and nothing in these files is trusted: they come from
//! strangers and are checked before anything large is read. Sampling values in
//! `generation_config.json` are library defaults (`origin`, temperature 0) and not the authors'
//! recipe, so only its token ids are used.

use serde::Deserialize;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("cannot read {file}")]
    Malformed {
        /// File name.
        file: &'static str,
        /// What the JSON parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A network that is not a Dream-style masked-diffusion transformer.
    #[error("config.json: model_type {found:?} is not supported")]
    UnknownArchitecture {
        /// The value found.
        found: String,
    },
    /// A value that makes no sense, or asks for something this program does not do.
    #[error("config.json: {key} is {found}, but must be {expected}")]
    Unsupported {
        /// Key in config.json.
        key: &'static str,
        /// The value found.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// No file says which token is the mask.
    #[error("neither config.json, generation_config.json nor the tokenizer names a mask token")]
    NoMaskToken,
}

impl ConfigError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownArchitecture { .. } | Self::NoMaskToken => Some(
                "only masked-diffusion models of the Dream family run here (DiffuCoder, Dream, \
                 Dream-Coder, Open-dCoder); `diffucoder models` lists some"
                    .into(),
            ),
            Self::Malformed { .. } | Self::Unsupported { .. } => None,
        }
    }
}

/// The network's shape, under the names of config.json, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
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
    /// Whether the output at a position predicts the next one, as in all published models.
    pub shift_logits: bool,
    /// The mask token, if config.json names it.
    pub mask_token_id: Option<u32>,
    /// End of text, if config.json names it.
    pub eos_token_ids: Vec<u32>,
    /// Padding, if config.json names it.
    pub pad_token_id: Option<u32>,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: f64,
    #[serde(default = "default_rope_theta")]
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    max_position_embeddings: usize,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(flatten)]
    tokens: TokenIds,
}

fn default_rope_theta() -> f64 {
    10_000.0 // Qwen2Config's default
}

fn default_hidden_act() -> String {
    "silu".into()
}

/// Special token ids, as both JSON files spell them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct TokenIds {
    mask_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    pad_token_id: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// Largest value accepted for any size; four times what the biggest published models use, and
/// small enough that no product of two of them overflows.
const MAX_SIZE: usize = 1 << 22;

impl Config {
    /// Reads and checks config.json.
    ///
    /// # Errors
    /// [`ConfigError`] names the key at fault.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = parse("config.json", json)?;
        if !["dream", "qwen2"].contains(&raw.model_type.to_ascii_lowercase().as_str()) {
            return Err(ConfigError::UnknownArchitecture {
                found: raw.model_type,
            });
        }
        for (key, value, most) in [
            ("hidden_size", raw.hidden_size, MAX_SIZE),
            ("intermediate_size", raw.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", raw.num_hidden_layers, 1 << 10),
            ("num_attention_heads", raw.num_attention_heads, 1 << 12),
            ("vocab_size", raw.vocab_size, MAX_SIZE),
            (
                "max_position_embeddings",
                raw.max_position_embeddings,
                MAX_SIZE,
            ),
        ] {
            check(key, value, (1..=most).contains(&value), || {
                format!("from 1 to {most}")
            })?;
        }
        let heads = raw.num_attention_heads;
        let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
        check(
            "num_key_value_heads",
            kv_heads,
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            || format!("a divisor of num_attention_heads ({heads})"),
        )?;
        let divides = raw.head_dim.is_some() || raw.hidden_size.is_multiple_of(heads);
        check("hidden_size", raw.hidden_size, divides, || {
            format!("a multiple of num_attention_heads ({heads})")
        })?;
        let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / heads);
        check(
            "head_dim",
            head_dim,
            (2..=1 << 12).contains(&head_dim) && head_dim.is_multiple_of(2),
            || "even, from 2 to 4096".into(),
        )?;
        let eps = raw.rms_norm_eps;
        check("rms_norm_eps", eps, eps > 0.0 && eps < 1.0, || {
            "between 0 and 1".into()
        })?;
        let theta = raw.rope_theta;
        check(
            "rope_theta",
            theta,
            theta >= 1.0 && theta.is_finite(),
            || "at least 1".into(),
        )?;
        check(
            "hidden_act",
            &raw.hidden_act,
            raw.hidden_act == "silu",
            || "\"silu\"".into(),
        )?;
        let scaling = raw.rope_scaling.unwrap_or_default();
        check("rope_scaling", &scaling, scaling.is_null(), || {
            "null".into()
        })?;
        check(
            "use_sliding_window",
            raw.use_sliding_window,
            !raw.use_sliding_window,
            || "false".into(),
        )?;
        let config = Self {
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            vocab_size: raw.vocab_size,
            rms_norm_eps: eps,
            rope_theta: theta,
            tie_word_embeddings: raw.tie_word_embeddings,
            max_position_embeddings: raw.max_position_embeddings,
            shift_logits: true,
            mask_token_id: raw.tokens.mask_token_id,
            eos_token_ids: raw
                .tokens
                .eos_token_id
                .map(OneOrMany::into_vec)
                .unwrap_or_default(),
            pad_token_id: raw.tokens.pad_token_id,
        };
        config.check_token_ids()?;
        Ok(config)
    }

    /// Adds the token ids of generation_config.json where config.json has none, and its
    /// end-of-text ids to those of config.json.
    ///
    /// # Errors
    /// When the JSON is malformed or an id is not below `vocab_size`.
    pub fn add_generation_config(&mut self, json: &[u8]) -> Result<(), ConfigError> {
        let ids: TokenIds = parse("generation_config.json", json)?;
        self.mask_token_id = self.mask_token_id.or(ids.mask_token_id);
        self.pad_token_id = self.pad_token_id.or(ids.pad_token_id);
        for id in ids
            .eos_token_id
            .map(OneOrMany::into_vec)
            .unwrap_or_default()
        {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        self.check_token_ids()
    }

    /// Number of parameters, for size estimates.
    pub fn parameters(&self) -> usize {
        let (d, e) = (self.hidden_size, self.head_dim);
        let (q, kv) = (self.num_attention_heads * e, self.num_key_value_heads * e);
        let attention = 2 * d * q + 2 * d * kv + q + 2 * kv;
        let layer = attention + 3 * d * self.intermediate_size + 2 * d;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        tables * self.vocab_size * d + self.num_hidden_layers * layer + d
    }

    fn check_token_ids(&self) -> Result<(), ConfigError> {
        let eos = self.eos_token_ids.iter().map(|&id| ("eos_token_id", id));
        let mask = self.mask_token_id.map(|id| ("mask_token_id", id));
        let pad = self.pad_token_id.map(|id| ("pad_token_id", id));
        for (key, id) in eos.chain(mask).chain(pad) {
            check(key, id, (id as usize) < self.vocab_size, || {
                format!("below vocab_size ({})", self.vocab_size)
            })?;
        }
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, json: &'a [u8]) -> Result<T, ConfigError> {
    serde_json::from_slice(json).map_err(|source| ConfigError::Malformed { file, source })
}

fn check(
    key: &'static str,
    found: impl ToString,
    ok: bool,
    expected: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if ok {
        return Ok(());
    }
    Err(ConfigError::Unsupported {
        key,
        found: found.to_string(),
        expected: expected(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diffucoder() -> serde_json::Value {
        serde_json::json!({
            "model_type": "Dream", "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "vocab_size": 152064, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "rope_scaling": null, "tie_word_embeddings": false, "max_position_embeddings": 131072,
            "mask_token_id": 151666, "eos_token_id": 151643, "pad_token_id": 151643,
        })
    }

    fn read(json: &serde_json::Value) -> Result<Config, ConfigError> {
        Config::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn diffucoder_7b() {
        let config = read(&diffucoder()).unwrap();
        assert_eq!((config.head_dim, config.num_key_value_heads), (128, 4));
        assert_eq!(config.parameters(), 7_615_616_512); // 15.2 GB in bf16
        assert_eq!(config.eos_token_ids, [151643]);
    }

    #[test]
    fn what_is_refused_names_its_key() {
        for (key, value, says) in [
            ("hidden_size", 0.into(), "hidden_size is 0"),
            (
                "hidden_size",
                3585.into(),
                "a multiple of num_attention_heads (28)",
            ),
            ("vocab_size", u64::MAX.into(), "vocab_size"),
            (
                "num_key_value_heads",
                3.into(),
                "a divisor of num_attention_heads (28)",
            ),
            ("num_key_value_heads", 0.into(), "num_key_value_heads is 0"),
            ("num_hidden_layers", 4_000_000.into(), "from 1 to 1024"),
            ("rms_norm_eps", (-1.0).into(), "rms_norm_eps"),
            ("rope_theta", 0.0.into(), "rope_theta is 0"),
            (
                "rope_scaling",
                serde_json::json!({"type": "yarn"}),
                "rope_scaling",
            ),
            ("hidden_act", "gelu".into(), "hidden_act is gelu"),
            ("use_sliding_window", true.into(), "use_sliding_window"),
            ("model_type", "llama".into(), "\"llama\" is not supported"),
            ("mask_token_id", 152064.into(), "below vocab_size (152064)"),
            (
                "eos_token_id",
                serde_json::json!([1, 999_999]),
                "eos_token_id is 999999",
            ),
            ("head_dim", 127.into(), "head_dim is 127"),
            ("hidden_size", "wide".into(), "config.json"),
        ] {
            let mut json = diffucoder();
            json[key] = value;
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(says), "{key}: {error}");
        }
        assert!(matches!(
            Config::from_json(b"{"),
            Err(ConfigError::Malformed { .. })
        ));
    }

    #[test]
    fn generation_config_adds_ids_and_nothing_else() {
        let mut config = read(&diffucoder()).unwrap();
        config.mask_token_id = None;
        let json = br#"{"mask_token_id": 9, "pad_token_id": 3, "eos_token_id": [151643, 7], "temperature": 0.0}"#;
        config.add_generation_config(json).unwrap();
        assert_eq!(config.mask_token_id, Some(9));
        assert_eq!(config.pad_token_id, Some(151643));
        assert_eq!(config.eos_token_ids, [151643, 7]);
        assert!(
            config
                .add_generation_config(br#"{"mask_token_id": -1}"#)
                .is_err()
        );
    }
}
