//! An adapter in PEFT's layout, and what it changes of a network's tensors: W + scale · B · A for
//! the matrices that it has a pair for, and whole tensors that were trained beside them.
//!
//! Source: `tuners/lora/layer.py` (`update_layer`, `get_delta_weight`) and
//! `utils/save_and_load.py` in huggingface/peft.

mod targets;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::{Map, Value};

use self::targets::{Patterns, Targets, has_end};
use super::arch::{EMBED_TOKENS, LLADA, LM_HEAD, llada_name, name_of_llada};
use super::config::Config;
use crate::weights::{Change, Checkpoint, Delta, WeightsError};

/// Why an adapter was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum LoraError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("cannot read adapter_config.json")]
    Malformed(#[from] serde_json::Error),
    /// A value that makes no sense, or asks for something this program does not do.
    #[error("adapter_config.json: {key} is {found}, but must be {expected}")]
    Unsupported {
        key: &'static str,
        found: String,
        expected: &'static str,
    },
    /// The network has no part of this name.
    #[error("the adapter changes {part}, which this model does not have")]
    NotInModel { part: String },
    /// A tensor's shape is not what the model and the rank make it.
    #[error(
        "the adapter's tensor {tensor} has shape {found:?}, but this model and the rank make it {expected:?}"
    )]
    Shape {
        tensor: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    /// adapter_config.json and the file of tensors contradict each other, or either itself.
    #[error("the adapter is not whole: {0}")]
    Incomplete(String),
    /// The table and the head are one tensor, which an adapter changes in one of its two places.
    #[error(
        "the adapter changes {tensor}, which is the embedding table and the output head of this model in one"
    )]
    Tied { tensor: String },
    /// The model's weights are in blocks.
    #[error("{model} is quantized already: an adapter is merged into floating-point weights")]
    Quantized { model: String },
    /// Its file was refused.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl LoraError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInModel { .. } | Self::Shape { .. } => {
                Some("take the model that base_model_name_or_path in adapter_config.json names".into())
            }
            Self::Quantized { .. } => Some(
                "take the model's safetensors, or a GGUF file in F16, BF16 or F32: they are quantized \
                 after the merge"
                    .into(),
            ),
            Self::Unsupported { .. } | Self::Tied { .. } => Some(
                "merge it into its base model (peft: merge_and_unload), save that, and give its folder"
                    .into(),
            ),
            Self::Malformed(_) | Self::Incomplete(_) => {
                Some(
                    "download the adapter's files again, both of one revision, or take the model that \
                     base_model_name_or_path in adapter_config.json names"
                        .into(),
                )
            }
            Self::Weights(error) => error.hint(),
        }
    }
}

/// adapter_config.json, as far as it says how to merge.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    use_rslora: Option<bool>,
    #[serde(default)]
    rank_pattern: Patterns<usize>,
    #[serde(default)]
    alpha_pattern: Patterns<f64>,
    modules_to_save: Option<Vec<String>>,
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    targets: Targets,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Keys that make an adapter more than two factors of a matrix. `fan_in_fan_out` is not among them:
/// PEFT goes by it only where a layer keeps its weights the other way round, and none here does.
const MORE_THAN_LORA: [&str; 10] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
];

/// Beginnings of ways to initialize an adapter that change the weights it stands beside.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// In the name of a tensor of the model itself.
const BASE_LAYER: &str = ".base_layer.";

/// What an adapter makes of the tensors of a network.
pub struct Adapter {
    /// The model that it was trained on, as its authors call it.
    pub base: Option<String>,
    changes: HashMap<String, Change>,
}

/// The two factors of a module's change, under their names in the file.
#[derive(Default)]
struct Pair {
    a: Option<String>,
    b: Option<String>,
    is_embedding: bool,
}

type Result<T> = std::result::Result<T, LoraError>;

impl Adapter {
    /// Reads adapter_config.json and pairs the tensors of `file` with those of `network`.
    ///
    /// # Errors
    /// [`LoraError`] when it does more than LoRA, is not whole, or is of another network.
    pub fn open(adapter_config: &[u8], mut file: Checkpoint, network: &Config) -> Result<Self> {
        let config: AdapterConfig = serde_json::from_slice(adapter_config)?;
        config.check()?;
        let shapes: BTreeMap<_, _> = network.tensors().map(|t| (t.name, t.shape)).collect();
        let names: BTreeSet<String> = file.names().map(str::to_owned).collect();
        let (mut pairs, mut whole) = (BTreeMap::<&str, Pair>::new(), Vec::new());
        for name in &names {
            let key = name.strip_prefix("base_model.model.").unwrap_or(name);
            match key.split_once(".lora_") {
                Some((module, part)) => pairs.entry(module).or_default().add(part, name)?,
                None => whole.push((plain_name(key), name)),
            }
        }
        let is_llada = *network.family == LLADA;
        let ours = |name: &str| {
            let named = is_llada.then(|| name_of_llada(name)).flatten();
            named.unwrap_or_else(|| name.into())
        };
        config.check_pairs(&pairs)?;
        let is_one = network.tie_word_embeddings;
        let is_tied = |tensor: &str| is_one && [EMBED_TOKENS, LM_HEAD].contains(&tensor);
        let shape_of = |tensor: &str| match shapes.get(tensor) {
            _ if is_tied(tensor) => Err(LoraError::Tied {
                tensor: tensor.into(),
            }),
            Some(shape) => Ok(shape.clone()),
            None => Err(LoraError::NotInModel {
                part: tensor.into(),
            }),
        };
        let mut changes = HashMap::<String, Change>::new();
        for (module, pair) in &pairs {
            let tensor = ours(&format!("{module}.weight"));
            let delta = config.delta(module, pair, &shape_of(&tensor)?, &mut file)?;
            let change = changes.entry(tensor.clone()).or_default();
            once(change.delta.replace(delta).is_none(), &tensor)?;
        }
        for (tensor, name) in whole {
            let tensor = ours(&tensor);
            let shape = shape_of(&tensor)?;
            check_shape(&file, name, &shape)?;
            let stored = file.take_stored(name, &shape)?;
            let change = changes.entry(tensor.clone()).or_default();
            // PEFT saves a table and a head of their own with the matrices that are added to them.
            let is_base = name.contains(BASE_LAYER) || change.delta.is_none();
            once(is_base && change.other.replace(stored).is_none(), &tensor)?;
        }
        for (tensor, shape) in &shapes {
            let theirs = is_llada.then(|| llada_name(tensor)).flatten();
            let name = theirs.as_ref().unwrap_or(tensor);
            if let Some(module) = name.strip_suffix(".weight") {
                config.check_module(module, shape.len() == 2, changes.get(tensor))?;
            }
        }
        Ok(Self {
            base: config.base_model_name_or_path,
            changes,
        })
    }

    /// Has `checkpoint`, which is of the same network, give changed tensors out.
    pub(crate) fn apply(&self, checkpoint: &mut Checkpoint) {
        checkpoint.change(self.changes.clone());
    }
}

impl Pair {
    fn add(&mut self, part: &str, name: &str) -> Result<()> {
        let part = part.strip_suffix(".weight").unwrap_or(part);
        let part = part.strip_suffix(".default").unwrap_or(part);
        self.is_embedding = part.starts_with("embedding_");
        let place = match part.trim_start_matches("embedding_") {
            "A" => &mut self.a,
            "B" => &mut self.b,
            _ => {
                return Err(LoraError::Unsupported {
                    key: "peft_type",
                    found: format!("LORA with {name}"),
                    expected: "LORA of matrices A and B",
                });
            }
        };
        match place.replace(name.into()) {
            Some(other) => Err(LoraError::Incomplete(format!(
                "{other} and {name} are one matrix"
            ))),
            None => Ok(()),
        }
    }
}

/// Each tensor is changed in one way: of two one would be lost.
fn once(is_it: bool, tensor: &str) -> Result<()> {
    let twice = || LoraError::Incomplete(format!("it changes {tensor} in two ways"));
    is_it.then_some(()).ok_or_else(twice)
}

/// The model's own name of a tensor that stands in an adapter whole.
fn plain_name(key: &str) -> String {
    key.replace(BASE_LAYER, ".")
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
}

impl AdapterConfig {
    fn check(&self) -> Result<()> {
        let refuse = |key, found: String, expected| {
            Err(LoraError::Unsupported {
                key,
                found,
                expected,
            })
        };
        if self.peft_type != "LORA" {
            return refuse("peft_type", self.peft_type.clone(), "LORA");
        }
        for key in MORE_THAN_LORA {
            let value = self.others.get(key).unwrap_or(&Value::Null);
            let is_off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !is_off {
                return refuse(key, value.to_string(), "false or null");
            }
        }
        let initialized = self.others.get("init_lora_weights").and_then(Value::as_str);
        let initialized = initialized.map(str::to_ascii_lowercase).unwrap_or_default();
        if CHANGES_BASE.iter().any(|way| initialized.starts_with(way)) {
            return refuse(
                "init_lora_weights",
                initialized,
                "one that leaves the model as it is",
            );
        }
        let mut ranks = self.rank_pattern.values().chain([self.r]);
        if ranks.any(|r| r == 0) {
            return refuse("r", "0".into(), "1 or more");
        }
        let mut alphas = self.alpha_pattern.values().chain([self.lora_alpha]);
        match alphas.find(|alpha| !alpha.is_finite()) {
            Some(alpha) => refuse("lora_alpha", alpha.to_string(), "a number"),
            None => Ok(()),
        }
    }

    /// There are matrices, and none but those that the targets name.
    fn check_pairs(&self, pairs: &BTreeMap<&str, Pair>) -> Result<()> {
        let mut modules = pairs.keys();
        let incomplete = |reason| Err(LoraError::Incomplete(reason));
        match modules.find(|module| self.targets.contain(module) == Some(false)) {
            Some(module) => incomplete(format!("target_modules does not name {module}")),
            None if pairs.is_empty() => incomplete("it has no matrices".into()),
            None => Ok(()),
        }
    }

    /// What the keys name of the model is in the file. Names that are no module's are left: lists
    /// are written for more than one model.
    fn check_module(&self, module: &str, is_matrix: bool, change: Option<&Change>) -> Result<()> {
        let is_target = is_matrix && self.targets.contain(module) == Some(true);
        if is_target && change.is_none_or(|change| change.delta.is_none()) {
            let reason = format!("it has no matrices for {module}");
            return Err(LoraError::Incomplete(reason));
        }
        let mut saved = self.modules_to_save.iter().flatten();
        let is_saved = saved.any(|end| has_end(module, end));
        if is_saved && change.is_none_or(|change| change.other.is_none()) {
            let reason = format!("it does not have {module}, which modules_to_save names");
            return Err(LoraError::Incomplete(reason));
        }
        Ok(())
    }

    /// The change of a matrix of this shape.
    fn delta(
        &self,
        module: &str,
        pair: &Pair,
        shape: &[usize],
        file: &mut Checkpoint,
    ) -> Result<Delta> {
        let (
            Pair {
                a: Some(a),
                b: Some(b),
                ..
            },
            &[n, k],
        ) = (pair, shape)
        else {
            let reason = format!("{module} needs both A and B, and to be a matrix");
            return Err(LoraError::Incomplete(reason));
        };
        let rank = self.rank_pattern.of(module).unwrap_or(self.r);
        let alpha = self.alpha_pattern.of(module).unwrap_or(self.lora_alpha);
        let divisor = match self.use_rslora {
            Some(true) => (rank as f64).sqrt(),
            _ => rank as f64,
        };
        // The table [V, D] is looked up in, not multiplied with: its factors stand the other way.
        let (inputs, outputs) = if pair.is_embedding { (n, k) } else { (k, n) };
        let mut take = |name: &str, shape: [usize; 2]| {
            check_shape(file, name, &shape)?;
            Ok::<_, LoraError>(file.take_stored(name, &shape)?)
        };
        Ok(Delta {
            a: take(a, [rank, inputs])?,
            b: take(b, [outputs, rank])?,
            scale: alpha / divisor,
            is_embedding: pair.is_embedding,
        })
    }
}

fn check_shape(file: &Checkpoint, tensor: &str, expected: &[usize]) -> Result<()> {
    match file.shape(tensor) {
        Some(found) if found != expected => Err(LoraError::Shape {
            tensor: tensor.into(),
            found,
            expected: expected.into(),
        }),
        _ => Ok(()),
    }
}
