//! The network's configuration, from a file's metadata.
//!
//! The keys are llama.cpp's; the numbers come back under config.json's names. Unlike config.json
//! the metadata does not say everything: the number of embedding rows is the table's own, and a
//! file without `output.weight` ties its head to the table.
//!
//! Source: `src/llama-model.cpp` (`load_hparams`) and `src/models/dream.cpp` in ggml-org/llama.cpp.

use super::{GgufError, GgufFile};
use crate::model::config::Config;

/// Largest value accepted for any size, as in config.json.
const MAX_SIZE: usize = 1 << 22;
/// llama.cpp's base where the file names none.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Architectures that can be run, which is also what the network's keys start with: `qwen2` is the
/// same network, in conversions made before `dream` was known.
const ARCHITECTURES: [&str; 2] = ["dream", "qwen2"];

/// Reads and checks the metadata of a model. Token ids are the tokenizer's and not set here.
///
/// # Errors
/// [`GgufError::UnknownArchitecture`]; [`GgufError::MissingKey`], [`GgufError::WrongType`] and
/// [`GgufError::BadValue`] with the key at fault; [`GgufError::MissingTensor`] and
/// [`GgufError::Shape`] for the embedding table.
pub fn read_config(file: &GgufFile<'_>) -> Result<Config, GgufError> {
    let architecture = file.str("general.architecture")?;
    if !ARCHITECTURES.contains(&architecture) {
        let found = architecture.into();
        return Err(GgufError::UnknownArchitecture { found });
    }
    let keys = Keys { file, architecture };
    let hidden_size = keys.size("embedding_length", MAX_SIZE)?;
    let heads = keys.size("attention.head_count", 1 << 12)?;
    let kv_heads = keys
        .size_if_any("attention.head_count_kv", 1 << 12)?
        .unwrap_or(heads);
    keys.check(
        "attention.head_count_kv",
        kv_heads,
        heads.is_multiple_of(kv_heads),
        || format!("a divisor of attention.head_count ({heads})"),
    )?;
    let config = Config {
        hidden_size,
        intermediate_size: keys.size("feed_forward_length", MAX_SIZE)?,
        num_hidden_layers: keys.size("block_count", 1 << 10)?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim: keys.head_dim(hidden_size, heads)?,
        vocab_size: embedding_rows(file, hidden_size)?,
        rms_norm_eps: keys.rms_norm_eps()?,
        rope_theta: keys.rope_theta()?,
        tie_word_embeddings: file.tensor("output.weight").is_none(),
        max_position_embeddings: keys.size("context_length", MAX_SIZE)?,
        shift_logits: true,
        mask_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
    };
    keys.check_no_rope_scaling()?;
    Ok(config)
}

fn embedding_rows(file: &GgufFile<'_>, hidden_size: usize) -> Result<usize, GgufError> {
    let name = "token_embd.weight";
    let table = file.tensor(name).ok_or_else(|| GgufError::MissingTensor {
        tensor: name.into(),
    })?;
    match table.dims[..] {
        [columns, rows] if columns == hidden_size && rows <= MAX_SIZE => Ok(rows),
        _ => Err(GgufError::Shape {
            tensor: name.into(),
            found: table.dims.clone(),
            expected: format!("[{hidden_size}, up to {MAX_SIZE}]"),
        }),
    }
}

/// The keys that start with the architecture's name.
struct Keys<'f, 'a> {
    file: &'f GgufFile<'a>,
    architecture: &'a str,
}

impl Keys<'_, '_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str, most: usize) -> Result<usize, GgufError> {
        let found = self.size_if_any(name, most)?;
        found.ok_or_else(|| GgufError::MissingKey {
            key: self.key(name),
        })
    }

    fn size_if_any(&self, name: &str, most: usize) -> Result<Option<usize>, GgufError> {
        let Some(found) = self.file.u32_if_any(&self.key(name))? else {
            return Ok(None);
        };
        let found = found as usize;
        self.check(name, found, (1..=most).contains(&found), || {
            format!("from 1 to {most}")
        })?;
        Ok(Some(found))
    }

    /// E: stated, or D divided by H. What llama.cpp lets differ (width of the values, number of
    /// rotated dimensions) must be the same here.
    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, GgufError> {
        let stated = self.size_if_any("attention.key_length", 1 << 12)?;
        self.check(
            "embedding_length",
            hidden_size,
            stated.is_some() || hidden_size.is_multiple_of(heads),
            || format!("a multiple of attention.head_count ({heads})"),
        )?;
        let head_dim = stated.unwrap_or(hidden_size / heads);
        let fine = (2..=1 << 12).contains(&head_dim) && head_dim % 2 == 0;
        self.check("attention.key_length", head_dim, fine, || {
            "even, from 2 to 4096".into()
        })?;
        for name in ["attention.value_length", "rope.dimension_count"] {
            let found = self.size_if_any(name, MAX_SIZE)?.unwrap_or(head_dim);
            self.check(name, found, found == head_dim, || {
                format!("{head_dim}, the width of a head")
            })?;
        }
        Ok(head_dim)
    }

    fn rms_norm_eps(&self) -> Result<f64, GgufError> {
        let name = "attention.layer_norm_rms_epsilon";
        let eps = self.file.f64(&self.key(name))?;
        self.check(name, eps, eps > 0.0 && eps < 1.0, || {
            "between 0 and 1".into()
        })?;
        Ok(eps)
    }

    fn rope_theta(&self) -> Result<f64, GgufError> {
        let name = "rope.freq_base";
        let theta = self.file.f64_if_any(&self.key(name))?;
        let theta = theta.unwrap_or(DEFAULT_ROPE_THETA);
        let fine = theta >= 1.0 && theta.is_finite();
        self.check(name, theta, fine, || "at least 1".into())?;
        Ok(theta)
    }

    fn check_no_rope_scaling(&self) -> Result<(), GgufError> {
        // "linear" by a factor of 1 is none; the second factor is the key's old name.
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            let factor = self.file.f64_if_any(&self.key(name))?.unwrap_or(1.0);
            let none = factor == 0.0 || factor == 1.0; // 0 means unset
            self.check(name, factor, none, || "1".into())?;
        }
        let name = "rope.scaling.type";
        let kind = self.file.str_if_any(&self.key(name))?.unwrap_or("none");
        self.check(name, kind, ["none", "linear"].contains(&kind), || {
            "\"none\"".into()
        })
    }

    fn check(
        &self,
        name: &str,
        found: impl ToString,
        ok: bool,
        expected: impl FnOnce() -> String,
    ) -> Result<(), GgufError> {
        match ok {
            true => Ok(()),
            false => Err(GgufError::BadValue {
                key: self.key(name),
                found: found.to_string(),
                expected: expected(),
            }),
        }
    }
}
