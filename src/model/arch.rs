//! The families of models that run here, and the tensors that their networks have.
//!
//! Everything that lists tensors goes by this one table: loading, the check for superfluous ones,
//! GGUF names, numbers of parameters, random weights, and the order in a quantized file.
//!
//! llama.cpp's converter stores these networks as they are: the rows of q and k are not permuted
//! (it rotates halves, as the checkpoints do), so a tensor is the same under both names.
//!
//! Source of the GGUF names: `gguf-py/gguf/tensor_mapping.py` in ggml-org/llama.cpp.

use self::Size::{D, F, Kv, Q, V};
use self::When::{Always, QkvBias, Untied};
use crate::model::config::Config;

/// What all models of a kind have in common and their files do not always say.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `model_type` in config.json, in lower case.
    pub model_types: &'static [&'static str],
    /// `general.architecture` of the GGUF files that are written; the network's keys begin with it.
    pub gguf_architecture: &'static str,
    /// What the same network is called in other GGUF files.
    pub gguf_aliases: &'static [&'static str],
    /// Which positions attend to which.
    pub attention: Attention,
    /// Whether the projections to queries, keys and values add a bias.
    pub qkv_bias: bool,
    /// Whether the output head is the embedding table, where config.json has no
    /// `tie_word_embeddings`.
    pub tie_word_embeddings: bool,
    /// Whether the output at a position predicts the next one, where the file does not say.
    pub shift_logits: bool,
}

/// Which positions attend to which. The networks take this apart when they load: a new pattern
/// does not compile until they handle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Every position to every position.
    Full,
}

/// Qwen2.5's transformer without its causal mask: Dream, DiffuCoder, Dream-Coder, Open-dCoder.
pub static DREAM: Family = Family {
    model_types: &["dream", "qwen2"],
    gguf_architecture: "dream",
    gguf_aliases: &["qwen2"], // conversions made before `dream` was known
    attention: Attention::Full,
    qkv_bias: true,
    tie_word_embeddings: false,
    shift_logits: true,
};

impl Family {
    /// Every family.
    pub const ALL: [&'static Self; 1] = [&DREAM];

    /// The family of config.json's `model_type`, in any case.
    pub fn of_model_type(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase();
        let has_name = |family: &&Self| family.model_types.contains(&name.as_str());
        Self::ALL.into_iter().find(has_name)
    }

    /// The family of a GGUF file's `general.architecture`.
    pub fn of_gguf(architecture: &str) -> Option<&'static Self> {
        let has_name = |family: &&Self| family.gguf_names().any(|name| name == architecture);
        Self::ALL.into_iter().find(has_name)
    }

    /// Every `model_type` that is known, for messages.
    pub fn model_types() -> String {
        let names = Self::ALL.iter().flat_map(|family| family.model_types);
        names.copied().collect::<Vec<_>>().join(", ")
    }

    /// Every `general.architecture` that is known, for messages.
    pub fn gguf_architectures() -> String {
        let names = Self::ALL.iter().flat_map(|family| family.gguf_names());
        names.collect::<Vec<_>>().join(", ")
    }

    fn gguf_names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.gguf_architecture).chain(self.gguf_aliases.iter().copied())
    }
}

/// The embedding table `[V, D]`, by its name in checkpoints.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// The output head `[V, D]` of models whose head is not the embedding table.
pub const LM_HEAD: &str = "lm_head.weight";

/// The embedding table in GGUF files, where it also says how many tokens there are.
pub(super) const GGUF_EMBED_TOKENS: &str = "token_embd.weight";
/// The output head in GGUF files; one without it ties its head to the embedding table.
pub(super) const GGUF_LM_HEAD: &str = "output.weight";

const CHECKPOINT_LAYER: &str = "model.layers.";
const GGUF_LAYER: &str = "blk.";

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in checkpoints.
    pub name: String,
    /// Name in GGUF files.
    pub gguf_name: String,
    /// Rows first.
    pub shape: Vec<usize>,
}

/// A line of the table.
struct Row {
    name: &'static str,      // in checkpoints, behind `model.layers.N.` in a layer
    gguf_name: &'static str, // behind `blk.N.` in a layer
    shape: &'static [Size],
    when: When,
    in_layer: bool,
}

/// A dimension of a tensor.
#[derive(Clone, Copy)]
enum Size {
    D,  // residual stream
    F,  // feed-forward layer
    V,  // vocabulary
    Q,  // H·E: all query heads
    Kv, // G·E: all heads of keys or values
}

/// Which models have a tensor.
enum When {
    Always,
    QkvBias,
    Untied,
}

const fn once(
    name: &'static str,
    gguf_name: &'static str,
    shape: &'static [Size],
    when: When,
) -> Row {
    let in_layer = false;
    Row {
        name,
        gguf_name,
        shape,
        when,
        in_layer,
    }
}

const fn layer(
    name: &'static str,
    gguf_name: &'static str,
    shape: &'static [Size],
    when: When,
) -> Row {
    let in_layer = true;
    Row {
        name,
        gguf_name,
        shape,
        when,
        in_layer,
    }
}

/// All tensors, in the order of the computation.
#[rustfmt::skip] // one line each
static TENSORS: [Row; 15] = [
    once(EMBED_TOKENS, GGUF_EMBED_TOKENS, &[V, D], Always),
    layer("input_layernorm.weight", "attn_norm.weight", &[D], Always),
    layer("self_attn.q_proj.weight", "attn_q.weight", &[Q, D], Always),
    layer("self_attn.q_proj.bias", "attn_q.bias", &[Q], QkvBias),
    layer("self_attn.k_proj.weight", "attn_k.weight", &[Kv, D], Always),
    layer("self_attn.k_proj.bias", "attn_k.bias", &[Kv], QkvBias),
    layer("self_attn.v_proj.weight", "attn_v.weight", &[Kv, D], Always),
    layer("self_attn.v_proj.bias", "attn_v.bias", &[Kv], QkvBias),
    layer("self_attn.o_proj.weight", "attn_output.weight", &[D, Q], Always),
    layer("post_attention_layernorm.weight", "ffn_norm.weight", &[D], Always),
    layer("mlp.gate_proj.weight", "ffn_gate.weight", &[F, D], Always),
    layer("mlp.up_proj.weight", "ffn_up.weight", &[F, D], Always),
    layer("mlp.down_proj.weight", "ffn_down.weight", &[D, F], Always),
    once("model.norm.weight", "output_norm.weight", &[D], Always),
    once(LM_HEAD, GGUF_LM_HEAD, &[V, D], Untied),
];

/// The tensors of a model, in the order of the computation.
pub fn tensors(config: &Config) -> impl Iterator<Item = TensorSpec> {
    let parts = TENSORS.chunk_by(|a, b| a.in_layer == b.in_layer);
    parts.flat_map(move |rows| {
        let repeats = if rows[0].in_layer {
            config.num_hidden_layers
        } else {
            1
        };
        (0..repeats).flat_map(move |layer| {
            let rows = rows.iter().filter(move |row| row.when.holds(config));
            rows.map(move |row| row.spec(config, layer))
        })
    })
}

/// The tensor that a checkpoint may hold though the network does without: some exports write a
/// shared table twice.
pub(super) fn spare_tensor(config: &Config) -> Option<&'static str> {
    config.tie_word_embeddings.then_some(LM_HEAD)
}

/// The checkpoint's name of a GGUF tensor: `blk.3.attn_q.weight` is
/// `model.layers.3.self_attn.q_proj.weight`. `None` for a tensor that no network here has.
pub fn checkpoint_name(gguf: &str) -> Option<String> {
    let (layer, name) = match gguf
        .strip_prefix(GGUF_LAYER)
        .and_then(|rest| rest.split_once('.'))
    {
        Some((layer, name)) => (Some(layer), name),
        None => (None, gguf),
    };
    let mut rows = TENSORS.iter();
    let row = rows.find(|row| row.gguf_name == name && row.in_layer == layer.is_some())?;
    let layer = match layer {
        // Numbers are written one way only: `blk.+1` is no layer.
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|n: &usize| n.to_string() == digits)?,
        None => 0,
    };
    Some(row.name_in(CHECKPOINT_LAYER, layer, row.name))
}

impl Row {
    fn spec(&self, config: &Config, layer: usize) -> TensorSpec {
        TensorSpec {
            name: self.name_in(CHECKPOINT_LAYER, layer, self.name),
            gguf_name: self.name_in(GGUF_LAYER, layer, self.gguf_name),
            shape: self.shape.iter().map(|size| size.of(config)).collect(),
        }
    }

    fn name_in(&self, prefix: &str, layer: usize, name: &str) -> String {
        match self.in_layer {
            true => format!("{prefix}{layer}.{name}"),
            false => name.into(),
        }
    }
}

impl Size {
    fn of(self, config: &Config) -> usize {
        match self {
            D => config.hidden_size,
            F => config.intermediate_size,
            V => config.vocab_size,
            Q => config.num_attention_heads * config.head_dim,
            Kv => config.num_key_value_heads * config.head_dim,
        }
    }
}

impl When {
    fn holds(&self, config: &Config) -> bool {
        match self {
            Always => true,
            QkvBias => config.family.qkv_bias,
            Untied => !config.tie_word_embeddings,
        }
    }
}

impl Config {
    /// Number of parameters, for size estimates.
    pub fn parameters(&self) -> usize {
        tensors(self).map(|tensor| tensor.elements()).sum()
    }

    /// Weights that each row of a pass is multiplied with: all matrices, but of the embedding table
    /// it takes one row, unless that is the output head too.
    pub fn multiplied_weights(&self) -> usize {
        tensors(self)
            .filter(|tensor| tensor.shape.len() == 2)
            .filter(|tensor| self.tie_word_embeddings || tensor.name != EMBED_TOKENS)
            .map(|tensor| tensor.elements())
            .sum()
    }

    /// The tensor that the output head is multiplied with, by its name in checkpoints.
    pub fn head_name(&self) -> &'static str {
        if self.tie_word_embeddings {
            EMBED_TOKENS
        } else {
            LM_HEAD
        }
    }
}

impl TensorSpec {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tied: bool) -> Config {
        let json = serde_json::json!({
            "model_type": "Dream", "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "tie_word_embeddings": tied, "max_position_embeddings": 131072,
        });
        Config::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn names_lead_back() {
        let tensors: Vec<_> = tensors(&config(false)).collect();
        assert_eq!(tensors.len(), 3 + 28 * 12);
        for tensor in &tensors {
            assert_eq!(
                checkpoint_name(&tensor.gguf_name).as_ref(),
                Some(&tensor.name)
            );
        }
        assert_eq!(
            checkpoint_name("blk.27.attn_output.weight").unwrap(),
            "model.layers.27.self_attn.o_proj.weight"
        );
        for name in [
            "",
            "blk.",
            "blk.1",
            "blk.+1.attn_q.weight",
            "blk.01.attn_q.weight",
            "blk.1.attn_q.scale",
            "blk.1.attn_output.bias",
            "blk.1.output.weight",
            "attn_q.weight",
            "rope_freqs.weight",
            "blk.99999999999999999999.attn_q.weight",
            "model.norm.weight",
        ] {
            assert_eq!(checkpoint_name(name), None, "{name}");
        }
    }

    #[test]
    fn tensors_follow_the_computation_and_the_configuration() {
        let names = |config: &Config| -> Vec<String> { tensors(config).map(|t| t.name).collect() };
        let untied = names(&config(false));
        assert_eq!(untied[0], EMBED_TOKENS);
        assert_eq!(untied[1], "model.layers.0.input_layernorm.weight");
        assert_eq!(untied[28 * 12], "model.layers.27.mlp.down_proj.weight");
        assert_eq!(untied[28 * 12 + 1..], ["model.norm.weight", LM_HEAD]);
        assert_eq!(names(&config(true)), untied[..28 * 12 + 2]);

        static UNBIASED: Family = Family {
            qkv_bias: false,
            ..family()
        };
        let unbiased = names(&Config {
            family: &UNBIASED,
            ..config(false)
        });
        assert_eq!(unbiased.len(), untied.len() - 28 * 3);
        assert!(!unbiased.iter().any(|name| name.ends_with("bias")));
    }

    const fn family() -> Family {
        Family {
            model_types: &[],
            gguf_architecture: "",
            gguf_aliases: &[],
            attention: Attention::Full,
            qkv_bias: true,
            tie_word_embeddings: false,
            shift_logits: true,
        }
    }

    #[test]
    fn parameters_of_diffucoder_7b() {
        let (d, v, layers) = (3584, 152_064, 28);
        let (untied, tied) = (config(false), config(true));
        assert_eq!(untied.parameters(), 7_615_616_512); // 15.2 GB in bf16
        assert_eq!(tied.parameters(), untied.parameters() - v * d);
        // All parameters but the table, the norms and the biases.
        let vectors = layers * (2 * d + d + 2 * 512) + d;
        let multiplied = untied.parameters() - v * d - vectors;
        assert_eq!(untied.multiplied_weights(), multiplied);
        assert_eq!(tied.multiplied_weights(), multiplied);
    }

    #[test]
    fn families_by_name() {
        assert_eq!(Family::of_model_type("Dream"), Some(&DREAM));
        assert_eq!(Family::of_gguf("qwen2"), Some(&DREAM));
        assert_eq!(
            (Family::of_model_type("llama"), Family::of_gguf("Dream")),
            (None, None)
        );
        assert_eq!(Family::model_types(), "dream, qwen2");
        assert_eq!(Family::gguf_architectures(), "dream, qwen2");
    }
}
