//! The network's configuration in a GGUF file's metadata, both ways.
//!
//! The keys are llama.cpp's. Unlike config.json the metadata does not say everything: the number
//! of embedding rows is the table's own, and a file without `output.weight` ties its head to the
//! table.
//!
//! Source: `src/llama-model.cpp` (`load_hparams`) and `src/models/dream.cpp` in ggml-org/llama.cpp.

use super::{Config, Refusal, Stated, check};
use crate::model::arch::{Attention, Family, GGUF_EMBED_TOKENS, GGUF_LM_HEAD};
use crate::model::named;
use crate::weights::gguf::export::Description;
use crate::weights::gguf::{GgufError, GgufFile, TensorInfo, Value};

const KEY_LENGTH: &str = "attention.key_length";
const VALUE_LENGTH: &str = "attention.value_length";
/// Ours: other programs have no name for it.
const BLOCK_SIZE: &str = "diffusion.block_size";

/// What GGUF calls a key of config.json; the architecture's name comes before it.
fn gguf_key(key: &'static str) -> &'static str {
    match key {
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "num_hidden_layers" => "block_count",
        "num_attention_heads" => "attention.head_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => KEY_LENGTH,
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "rope_theta" => "rope.freq_base",
        "max_position_embeddings" => "context_length",
        "block_size" => BLOCK_SIZE,
        other => other,
    }
}

impl Config {
    /// Reads and checks the metadata of a model. Token ids are the tokenizer's and not set here.
    ///
    /// # Errors
    /// [`GgufError::UnknownArchitecture`] and [`GgufError::NotDiffusion`];
    /// [`GgufError::MissingKey`], [`GgufError::WrongType`] and [`GgufError::BadValue`] with the key
    /// at fault; [`GgufError::MissingTensor`] and
    /// [`GgufError::Shape`] for the embedding table.
    pub fn from_gguf(file: &GgufFile<'_>) -> Result<Self, GgufError> {
        Self::from_gguf_parts(file, &[], "")
    }

    /// [`Self::from_gguf`] of a model in several files, of which the first has the metadata; what
    /// the files are called says what kind of model it is, where they do not.
    ///
    /// # Errors
    /// Those of [`Self::from_gguf`].
    pub fn from_gguf_parts(
        file: &GgufFile<'_>,
        others: &[GgufFile<'_>],
        called: &str,
    ) -> Result<Self, GgufError> {
        let tensor = |name: &str| {
            let mut parts = std::iter::once(file).chain(others);
            parts.find_map(|part| part.tensor(name))
        };
        let architecture = file.str("general.architecture")?;
        let names = [file.str_if_any("general.name")?.unwrap_or_default(), called];
        let family = named::family(architecture, names).or_else(|| Family::of_gguf(architecture));
        let family = family.ok_or_else(|| match named::parts(architecture) {
            parts if parts.is_empty() => GgufError::UnknownArchitecture {
                found: architecture.into(),
                known: Family::gguf_architectures(),
            },
            parts => GgufError::NotDiffusion {
                architecture: architecture.into(),
                names: parts.join(", "),
            },
        })?;
        let keys = Keys { file, architecture };
        let (columns, rows) = embedding_table(tensor(GGUF_EMBED_TOKENS))?;
        let stated = Stated {
            hidden_size: keys.u32("hidden_size")?,
            intermediate_size: keys.u32("intermediate_size")?,
            num_hidden_layers: keys.u32("num_hidden_layers")?,
            num_attention_heads: keys.u32("num_attention_heads")?,
            num_key_value_heads: keys.u32_if_any("num_key_value_heads")?,
            head_dim: keys.u32_if_any("head_dim")?,
            vocab_size: rows,
            rms_norm_eps: file.f64(&keys.full("rms_norm_eps"))?,
            rope_theta: keys.f64_if_any("rope_theta")?,
            tie_word_embeddings: Some(tensor(GGUF_LM_HEAD).is_none()),
            max_position_embeddings: keys.u32("max_position_embeddings")?,
            block_size: keys.u32_if_any("block_size")?.map(Into::into),
        };
        let config = stated
            .check(family, gguf_key)
            .map_err(|refusal| keys.bad(refusal))?;
        if columns != config.hidden_size {
            return Err(GgufError::Shape {
                tensor: GGUF_EMBED_TOKENS.into(),
                found: vec![columns, rows],
                expected: format!("[{}, {rows}]", config.hidden_size),
            });
        }
        keys.check_rotation(config.head_dim)?;
        Ok(config)
    }
}

/// Columns and rows of the embedding table.
fn embedding_table(table: Option<&TensorInfo<'_>>) -> Result<(usize, usize), GgufError> {
    let tensor = || GGUF_EMBED_TOKENS.to_owned();
    match table.map(|table| &table.dims[..]) {
        Some(&[columns, rows]) => Ok((columns, rows)),
        Some(found) => Err(GgufError::Shape {
            tensor: tensor(),
            found: found.to_vec(),
            expected: "those of a matrix".into(),
        }),
        None => Err(GgufError::MissingTensor { tensor: tensor() }),
    }
}

/// The keys that start with the architecture's name.
struct Keys<'f, 'a> {
    file: &'f GgufFile<'a>,
    architecture: &'f str,
}

impl Keys<'_, '_> {
    /// What the file calls a key of config.json, or one that only such files have.
    fn full(&self, key: &'static str) -> String {
        format!("{}.{}", self.architecture, gguf_key(key))
    }

    fn u32(&self, key: &'static str) -> Result<usize, GgufError> {
        Ok(self.file.u32(&self.full(key))? as usize)
    }

    fn u32_if_any(&self, key: &'static str) -> Result<Option<usize>, GgufError> {
        let found = self.file.u32_if_any(&self.full(key))?;
        Ok(found.map(|found| found as usize))
    }

    fn f64_if_any(&self, key: &'static str) -> Result<Option<f64>, GgufError> {
        self.file.f64_if_any(&self.full(key))
    }

    /// What llama.cpp lets differ from the width of a head or from plain rotation must not.
    fn check_rotation(&self, head_dim: usize) -> Result<(), GgufError> {
        for name in [VALUE_LENGTH, "rope.dimension_count"] {
            let found = self.u32_if_any(name)?.unwrap_or(head_dim);
            self.check(name, found, found == head_dim, || {
                format!("{head_dim}, the width of a head")
            })?;
        }
        // "linear" by a factor of 1 is none; the second factor is the key's old name.
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            let factor = self.f64_if_any(name)?.unwrap_or(1.0);
            let none = factor == 0.0 || factor == 1.0; // 0 means unset
            self.check(name, factor, none, || "1".into())?;
        }
        let name = "rope.scaling.type";
        let kind = self.file.str_if_any(&self.full(name))?.unwrap_or("none");
        self.check(name, kind, ["none", "linear"].contains(&kind), || {
            "\"none\"".into()
        })
    }

    fn check(
        &self,
        name: &'static str,
        found: impl ToString,
        ok: bool,
        expected: impl FnOnce() -> String,
    ) -> Result<(), GgufError> {
        check(name, found, ok, expected).map_err(|refusal| self.bad(refusal))
    }

    fn bad(&self, refusal: Refusal) -> GgufError {
        GgufError::BadValue {
            key: self.full(refusal.key),
            found: refusal.found,
            expected: refusal.expected,
        }
    }
}

/// The keys of a file that [`Config::from_gguf`] and llama.cpp read, in the order that llama.cpp's
/// converter writes them.
pub fn metadata<'a>(config: &Config, description: &Description<'a>) -> Vec<(String, Value<'a>)> {
    // The sizes were bounded when the configuration was read.
    let size = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let float = |value: f64| Value::F32(value as f32);
    let mut network: Vec<_> = [
        ("num_hidden_layers", size(config.num_hidden_layers)),
        (
            "max_position_embeddings",
            size(config.max_position_embeddings),
        ),
        ("hidden_size", size(config.hidden_size)),
        ("intermediate_size", size(config.intermediate_size)),
        ("num_attention_heads", size(config.num_attention_heads)),
        ("num_key_value_heads", size(config.num_key_value_heads)),
        ("rope_theta", float(config.rope_theta)),
        ("rms_norm_eps", float(config.rms_norm_eps)),
        ("vocab_size", size(config.vocab_size)),
        ("attention.causal", Value::Bool(false)),
    ]
    .map(|(key, value)| (gguf_key(key), value))
    .into();
    if config.head_dim * config.num_attention_heads != config.hidden_size {
        network.push((KEY_LENGTH, size(config.head_dim)));
        network.push((VALUE_LENGTH, size(config.head_dim)));
    }
    if let Attention::BlockCausal(positions) = config.attention {
        network.push((BLOCK_SIZE, size(positions)));
    }
    description.metadata(config.family.gguf_architecture, network)
}
