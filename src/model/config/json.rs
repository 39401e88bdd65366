//! config.json and generation_config.json.
//!
//! Sampling values in generation_config.json are library defaults (`origin`, temperature 0) and not
//! the authors' recipe, so only its token ids are used.

use serde::Deserialize;
use serde::de::{self, DeserializeOwned};
use serde_json::{Map, Value};

use super::{Config, ConfigError, Refusal, Stated, check};
use crate::model::arch::{Family, LLADA};

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    #[serde(default)]
    architectures: Vec<String>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    hidden_act: Option<String>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    #[serde(default)]
    layer_types: Vec<String>,
    #[serde(flatten)]
    stated: Stated,
    #[serde(flatten)]
    tokens: TokenIds,
    #[serde(flatten)]
    rest: Map<String, Value>,
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
        let Some(family) = Family::of_model_type(&raw.model_type, &raw.architectures) else {
            let found = raw.model_type;
            return Err(ConfigError::UnknownArchitecture { found });
        };
        let rope_theta = rope_theta(&raw)?;
        let stated = Stated {
            rope_theta,
            ..raw.stated
        };
        let is_llada = *family == LLADA;
        let name: fn(&'static str) -> &'static str = if is_llada { llada_key } else { |key| key };
        let mut config = stated.check(family, name)?;
        let act = raw.hidden_act.as_deref().unwrap_or("silu");
        let is_silu = ["silu", "swish"].contains(&act);
        check(name("hidden_act"), act, is_silu, || "\"silu\"".into())?;
        // Only the layers from max_window_layers on look through a window.
        let first = raw.max_window_layers.unwrap_or_default();
        let is_windowed = raw.use_sliding_window && first < config.num_hidden_layers;
        check("use_sliding_window", true, !is_windowed, || "false".into())?;
        let mut kinds = raw.layer_types.iter();
        if let Some(kind) = kinds.find(|kind| *kind != "full_attention") {
            check("layer_types", kind, false, || "full_attention alone".into())?;
        }
        let llada_parts = LLADA_PARTS.into_iter().filter(|_| is_llada);
        for (key, expected) in llada_parts.chain([("partial_rotary_factor", "1")]) {
            let Some(found) = raw.rest.get(key) else {
                continue;
            };
            let found = found
                .as_str()
                .map_or_else(|| found.to_string(), str::to_owned);
            check(key, &found, found == expected, || expected.into())?;
        }
        config.add_token_ids(raw.tokens)?;
        Ok(config)
    }

    /// Adds the token ids of generation_config.json where config.json has none, and its
    /// end-of-text ids to those of config.json.
    ///
    /// # Errors
    /// When the JSON is malformed or an id is not below `vocab_size`.
    pub fn add_generation_config(&mut self, json: &[u8]) -> Result<(), ConfigError> {
        const FILE: &str = "generation_config.json";
        let added = self.add_token_ids(parse(FILE, json)?);
        added.map_err(|refusal| refusal.of(FILE))
    }

    fn add_token_ids(&mut self, ids: TokenIds) -> Result<(), Refusal> {
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

    fn check_token_ids(&self) -> Result<(), Refusal> {
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
        if let Some(own) = rope.get("rope_theta").filter(|own| !own.is_null()) {
            theta = own.as_f64();
            check("rope_theta", own, theta.is_some(), || "a number".into())?;
        }
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

/// LLaDA's names of keys of config.json. The table of embeddings can have more rows than there are
/// tokens; both are `embedding_size` in the published files.
const LLADA_KEYS: [(&str, &str); 9] = [
    ("d_model", "hidden_size"),
    ("n_heads", "num_attention_heads"),
    ("n_kv_heads", "num_key_value_heads"),
    ("n_layers", "num_hidden_layers"),
    ("mlp_hidden_size", "intermediate_size"),
    ("max_sequence_length", "max_position_embeddings"),
    ("weight_tying", "tie_word_embeddings"),
    ("activation_type", "hidden_act"),
    ("embedding_size", "vocab_size"),
];

/// Gives the keys of a LLaDA the names that others have for them.
fn name_as_usual(keys: &mut Map<String, Value>) {
    for (theirs, usual) in LLADA_KEYS {
        if let Some(value) = keys.remove(theirs) {
            keys.insert(usual.into(), value);
        }
    }
}

/// That a key is missing, by the name that it would have in a LLaDA.
fn name_as_llada(error: serde_json::Error) -> serde_json::Error {
    let said = error.to_string();
    let mut keys = LLADA_KEYS.iter();
    let missing = keys.find(|(_, usual)| said == format!("missing field `{usual}`"));
    missing.map_or(error, |(theirs, _)| de::Error::missing_field(theirs))
}

/// LLaDA's name of a key.
fn llada_key(usual: &'static str) -> &'static str {
    let named = LLADA_KEYS.iter().find(|(_, ours)| *ours == usual);
    named.map_or(usual, |(theirs, _)| theirs)
}

/// What a LLaDA can have besides and does not have here, with the values that change nothing.
const LLADA_PARTS: [(&str, &str); 10] = [
    ("block_type", "llama"),
    ("layer_norm_type", "rms"),
    ("rope", "true"),
    ("alibi", "false"),
    ("include_bias", "false"),
    ("include_qkv_bias", "false"),
    ("attention_layer_norm", "false"),
    ("input_emb_norm", "false"),
    ("scale_logits", "false"),
    ("clip_qkv", "null"),
];

/// Reads a file of keys and values as it is found in the world: a null is no value, 1.0 is 1, truth
/// can be a number, and a model that also sees has its text's keys in an object of their own.
fn parse<T: DeserializeOwned>(file: &'static str, json: &[u8]) -> Result<T, ConfigError> {
    let failed = |source| ConfigError::Malformed { file, source };
    let mut keys: Map<String, Value> = serde_json::from_slice(json).map_err(failed)?;
    if !keys.contains_key("hidden_size")
        && !keys.contains_key("d_model")
        && let Some(Value::Object(text)) = keys.remove("text_config")
    {
        keys.extend(text);
    }
    keys.retain(|_, value| !value.is_null());
    let model_type = keys.get("model_type").and_then(Value::as_str);
    let is_llada = model_type.is_some_and(|name| name.eq_ignore_ascii_case("llada"));
    if is_llada {
        name_as_usual(&mut keys);
    }
    if let Some(size) = keys.remove("bd_size") {
        keys.insert("block_size".into(), size);
    }
    for (key, value) in &mut keys {
        let number = value.as_f64();
        match key.as_str() {
            "use_sliding_window" | "tie_word_embeddings" if number == Some(0.0) => {
                *value = false.into();
            }
            "use_sliding_window" | "tie_word_embeddings" if number == Some(1.0) => {
                *value = true.into();
            }
            // Another spelling of no value.
            "eos_token_id" | "pad_token_id" | "mask_token_id" if number == Some(-1.0) => {
                *value = Value::Null;
            }
            _ => match value {
                Value::Array(values) => {
                    values.retain(|value| key != "eos_token_id" || value.as_f64() != Some(-1.0));
                    values.iter_mut().for_each(write_whole);
                }
                value => write_whole(value),
            },
        }
    }
    serde_json::from_value(keys.into())
        .map_err(|source| match is_llada {
            true => name_as_llada(source),
            false => source,
        })
        .map_err(failed)
}

/// Writes a whole number as one.
fn write_whole(value: &mut Value) {
    let number = value.as_f64().filter(|_| value.is_f64());
    let whole = number.filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number));
    if let Some(whole) = whole {
        *value = (whole as u64).into();
    }
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
            (
                "rope_parameters",
                serde_json::json!({"rope_theta": "1e6"}),
                "rope_theta is \"1e6\", but must be a number",
            ),
            ("hidden_act", "gelu".into(), "hidden_act is gelu"),
            ("use_sliding_window", true.into(), "use_sliding_window"),
            (
                "layer_types",
                serde_json::json!(["full_attention", "sliding_attention"]),
                "layer_types is sliding_attention",
            ),
            ("model_type", "llama".into(), "\"llama\" is not supported"),
            ("mask_token_id", 152064.into(), "below vocab_size (152064)"),
            (
                "eos_token_id",
                serde_json::json!([1, 999_999]),
                "eos_token_id is 999999",
            ),
            ("head_dim", 127.into(), "head_dim is 127"),
            (
                "partial_rotary_factor",
                0.5.into(),
                "partial_rotary_factor is 0.5",
            ),
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
    fn what_real_files_hold_besides_does_not_matter() {
        let plain = read(&diffucoder()).unwrap();
        for (key, value) in [
            ("torch_dtype", "bfloat16".into()),
            ("dtype", "bfloat16".into()),
            (
                "auto_map",
                serde_json::json!({"AutoModel": "modeling_dream.DreamModel"}),
            ),
            ("hidden_act", "swish".into()),
            ("hidden_act", Value::Null),
            ("head_dim", Value::Null),
            ("tie_word_embeddings", 0.into()),
            ("use_sliding_window", 0.into()),
            ("use_sliding_window", Value::Null),
            ("sliding_window", Value::Null),
            ("hidden_size", 3584.0.into()),
            ("rope_theta", 1_000_000.into()),
            ("partial_rotary_factor", 1.0.into()),
            ("layer_types", vec!["full_attention"; 28].into()),
            ("quantization_config", Value::Null),
            ("block_size", "none here".into()),
        ] {
            let mut json = diffucoder();
            json[key] = value.clone();
            assert_eq!(read(&json).unwrap(), plain, "{key}: {value}");
        }
        let mut tied = diffucoder();
        tied["tie_word_embeddings"] = 1.into();
        assert!(read(&tied).unwrap().tie_word_embeddings);
        let mut windowed = diffucoder();
        windowed["use_sliding_window"] = true.into();
        windowed["max_window_layers"] = 28.into();
        assert_eq!(read(&windowed).unwrap(), plain, "no layer has a window");
        windowed["max_window_layers"] = 27.into();
        assert!(read(&windowed).is_err());
        let mut nested = diffucoder();
        nested.as_object_mut().unwrap().remove("model_type");
        let nested = serde_json::json!({
            "model_type": "Dream", "architectures": ["DreamModel"], "text_config": nested,
        });
        assert_eq!(read(&nested).unwrap(), plain);
        let mut unpadded = diffucoder();
        unpadded["pad_token_id"] = (-1).into();
        unpadded["mask_token_id"] = (-1).into();
        unpadded["eos_token_id"] = serde_json::json!([256.0, -1, 7]);
        let config = read(&unpadded).unwrap();
        assert_eq!((config.pad_token_id, config.mask_token_id), (None, None));
        assert_eq!(config.eos_token_ids, [256, 7]);
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
        for (json, says) in [
            (r#"{"mask_token_id": -2}"#, "generation_config.json"),
            (
                r#"{"eos_token_id": [7, 999999]}"#,
                "generation_config.json: eos_token_id is 999999",
            ),
        ] {
            let error = config.clone().add_generation_config(json.as_bytes());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
