//! config.json and generation_config.json.
//!
//! Sampling values in generation_config.json are library defaults (`origin`, temperature 0) and not
//! the authors' recipe, so only its token ids are used.

use serde::Deserialize;
use serde_json::Value;

use super::{Config, ConfigError, Stated, check};
use crate::model::arch::Family;

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(flatten)]
    stated: Stated,
    #[serde(flatten)]
    tokens: TokenIds,
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

impl Config {
    /// Reads and checks config.json.
    ///
    /// # Errors
    /// [`ConfigError`] names the key at fault.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = parse("config.json", json)?;
        let Some(family) = Family::of_model_type(&raw.model_type) else {
            let found = raw.model_type;
            return Err(ConfigError::UnknownArchitecture { found });
        };
        let rope_theta = rope_theta(&raw)?;
        let stated = Stated {
            rope_theta,
            ..raw.stated
        };
        let mut config = stated.check(family, |key| key)?;
        check(
            "hidden_act",
            &raw.hidden_act,
            raw.hidden_act == "silu",
            || "\"silu\"".into(),
        )?;
        check(
            "use_sliding_window",
            raw.use_sliding_window,
            !raw.use_sliding_window,
            || "false".into(),
        )?;
        config.add_token_ids(raw.tokens)?;
        Ok(config)
    }

    /// Adds the token ids of generation_config.json where config.json has none, and its
    /// end-of-text ids to those of config.json.
    ///
    /// # Errors
    /// When the JSON is malformed or an id is not below `vocab_size`.
    pub fn add_generation_config(&mut self, json: &[u8]) -> Result<(), ConfigError> {
        self.add_token_ids(parse("generation_config.json", json)?)
    }

    fn add_token_ids(&mut self, ids: TokenIds) -> Result<(), ConfigError> {
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

/// The base of the rotary frequencies: `rope_theta`, or that of `rope_parameters`, in which
/// transformers 5 writes all there is about rotation.
fn rope_theta(raw: &RawConfig) -> Result<Option<f64>, ConfigError> {
    let mut theta = raw.stated.rope_theta;
    let places = [
        ("rope_scaling", &raw.rope_scaling),
        ("rope_parameters", &raw.rope_parameters),
    ];
    for (key, value) in places {
        let Some(value) = value else { continue };
        // A model of several kinds of layers has one object for each.
        let rope = value.get("full_attention").unwrap_or(value);
        check(key, value, rope.is_null() || changes_nothing(rope), || {
            "null, or a scaling that changes nothing".into()
        })?;
        theta = rope.get("rope_theta").and_then(Value::as_f64).or(theta);
    }
    Ok(theta)
}

/// Whether a scaling of the rotation is none: of the default type, or by a factor of 1.
fn changes_nothing(rope: &Value) -> bool {
    let Some(rope) = rope.as_object() else {
        return false;
    };
    let kind = rope.get("rope_type").or(rope.get("type"));
    let is_one = |key: &str, absent: bool| {
        let number = rope.get(key).filter(|value| !value.is_null());
        number.map_or(absent, |value| value.as_f64() == Some(1.0))
    };
    let is_none = match kind.map(Value::as_str) {
        None | Some(Some("default")) => is_one("factor", true),
        Some(Some("linear" | "dynamic" | "yarn" | "llama3")) => is_one("factor", false),
        Some(_) => false,
    };
    is_none && is_one("attention_factor", true) && is_one("partial_rotary_factor", true)
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, json: &'a [u8]) -> Result<T, ConfigError> {
    serde_json::from_slice(json).map_err(|source| ConfigError::Malformed { file, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diffucoder() -> Value {
        serde_json::json!({
            "model_type": "Dream", "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "vocab_size": 152064, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "rope_scaling": null, "tie_word_embeddings": false, "max_position_embeddings": 131072,
            "mask_token_id": 151666, "eos_token_id": 151643, "pad_token_id": 151643,
        })
    }

    fn read(json: &Value) -> Result<Config, ConfigError> {
        Config::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn diffucoder_7b() {
        let config = read(&diffucoder()).unwrap();
        assert_eq!((config.head_dim, config.num_key_value_heads), (128, 4));
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
    fn rotation_is_read_wherever_it_is_written() {
        let theta = |key: &str, value: Value| {
            let mut json = diffucoder();
            json.as_object_mut().unwrap().remove("rope_theta");
            json[key] = value;
            read(&json).map(|config| config.rope_theta)
        };
        let object = |text: &str| serde_json::from_str(text).unwrap();
        for (text, expected) in [
            (r#"{"rope_theta": 1e6, "rope_type": "default"}"#, 1e6),
            (r#"{"rope_theta": 5e5}"#, 5e5),
            (
                r#"{"full_attention": {"rope_theta": 2e6, "rope_type": "default"}}"#,
                2e6,
            ),
            (r#"{"rope_type": "linear", "factor": 1.0}"#, 1e4),
            (r#"{"type": "yarn", "factor": 1, "rope_theta": 1e6}"#, 1e6),
            ("null", 1e4),
            ("{}", 1e4),
        ] {
            for key in ["rope_parameters", "rope_scaling"] {
                assert_eq!(theta(key, object(text)).unwrap(), expected, "{key}: {text}");
            }
        }
        assert_eq!(theta("rope_theta", 7e5.into()).unwrap(), 7e5);
        for text in [
            r#"{"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}"#,
            r#"{"rope_type": "linear", "factor": 2}"#,
            r#"{"rope_type": "yarn"}"#,
            r#"{"rope_type": "longrope", "factor": 1.0}"#,
            r#"{"factor": 8.0}"#,
            r#"{"rope_type": "default", "partial_rotary_factor": 0.5}"#,
            r#"{"rope_type": 3}"#,
            r#""linear""#,
        ] {
            for key in ["rope_parameters", "rope_scaling"] {
                let error = theta(key, object(text)).unwrap_err().to_string();
                assert!(error.contains(key), "{text}: {error}");
            }
        }
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
