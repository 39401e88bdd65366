//! The families of models that run here, and the tensors that their networks have.
//!
//! Everything that lists tensors goes by this one table: loading, the check for superfluous ones,
//! GGUF names, numbers of parameters, random weights, and the order in a quantized file.
//!
//! A family is added here: a row of its own, and a row of the table with its condition for each
//! tensor that no family had before. The networks compute what they find in the table; only a new
//! kind of layer or of attention is theirs to learn. How tokens are cut and conversations rendered
//! is in the model's own files.
//!
//! llama.cpp's converter stores these networks as they are, but for the rows of q and k in `llama`
//! and `llada` (`PAIRED` in [`crate::weights::gguf`]).
//!
//! Source of the GGUF names: `gguf-py/gguf/tensor_mapping.py` in ggml-org/llama.cpp.

use std::fmt::Display;

use self::Size::{D, E, F, Kv, Q, V};
use self::When::{Always, QkNorm, QkvBias, Untied};
pub use crate::diffusion::Attention;
use crate::diffusion::{Behind, Blocks, Extent, Filtering, Mode, Share};

/// What all models of a kind have in common and their files do not always say.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// `model_type` in config.json, in lower case.
    pub model_types: &'static [&'static str],
    /// The one of config.json's `architectures` that it takes beside, where others have the same
    /// `model_type`.
    pub architecture: Option<&'static str>,
    /// `general.architecture` of the GGUF files that are written; the network's keys begin with it.
    pub gguf_architecture: &'static str,
    /// What the same network is called in other GGUF files.
    pub gguf_aliases: &'static [&'static str],
    /// Which positions attend to which; the files can name another size of block.
    pub attention: Attention,
    /// How its authors fill a block, where they take a canvas in blocks.
    pub blocks: Option<Blocks>,
    /// Whether the projections to queries, keys and values add a bias.
    pub qkv_bias: bool,
    /// Whether each head of queries and keys is normed before it is rotated.
    pub qk_norm: bool,
    /// Whether the output at a position predicts the next one, where the file does not say.
    pub shift_logits: bool,
    /// The mode that suits its weights: one with published figures on them, else the sampler of its
    /// authors.
    pub mode: Mode,
    /// Positions that the models were trained on, where their files say more: config.json has
    /// those of the model that the weights began as.
    pub trained_positions: Option<usize>,
    /// The system message of the prompts that its authors publish; without one it is left to the
    /// chat template.
    pub system: Option<&'static str>,
    /// Whether its answers think first, as templates that can do both ask (`enable_thinking`),
    /// where its authors say so.
    pub thinks: Option<bool>,
}

const USUAL_SYSTEM: &str = "You are a helpful assistant.";

/// Qwen2.5's transformer without its causal mask: Dream, DiffuCoder, Dream-Coder, Open-dCoder, and
/// DreamOn, which two tokens of its vocabulary set apart ([`crate::package::Infilling`]).
pub static DREAM: Family = Family {
    model_types: &["dream", "qwen2"],
    architecture: None,
    gguf_architecture: "dream",
    gguf_aliases: &["qwen2"], // conversions made before `dream` was known
    attention: Attention::Full,
    blocks: None,
    qkv_bias: true,
    qk_norm: false,
    shift_logits: true,
    mode: Mode::Balanced,
    trained_positions: Some(2048),
    system: Some(USUAL_SYSTEM),
    thinks: None,
};

/// Qwen3's transformer without its causal mask: CoDA. Its config.json says nothing of its head,
/// which is a matrix of its own. No other program has a GGUF name for it.
pub static CODA: Family = Family {
    model_types: &["coda"],
    architecture: None,
    gguf_architecture: "coda",
    gguf_aliases: &[],
    attention: Attention::Full,
    blocks: None,
    qkv_bias: false,
    qk_norm: true,
    shift_logits: true,
    mode: Mode::Exact,
    trained_positions: None,
    system: None,
    thinks: None,
};

/// Qwen3's transformer with block-causal attention: SDAR. Its threshold is that of its
/// `low_confidence_dynamic`.
pub static SDAR: Family = Family {
    model_types: &["sdar"],
    architecture: None,
    gguf_architecture: "sdar",
    gguf_aliases: &[],
    attention: Attention::BlockCausal(4),
    blocks: Some(Blocks {
        share: Share::Positions,
        threshold: Some(0.85),
        is_strict: true,
        filtering: Filtering::CountFirst,
        extent: Extent::WholeBlocks,
        ..Blocks::PLAIN
    }),
    qkv_bias: false,
    qk_norm: true,
    shift_logits: false,
    mode: Mode::Exact,
    trained_positions: None,
    system: None,
    thinks: None,
};

/// Llama's transformer with block-causal attention: Stable-DiffCoder. Its threshold is the one in
/// its code; with a number of steps it takes that many. No other program has a GGUF name for it:
/// files called `llama` are of causal models, and llama.cpp permutes the rows of q and k in them.
pub static STABLE_DIFFCODER: Family = Family {
    model_types: &["llama"],
    architecture: Some("StableDiffcoderForCausalLM"),
    gguf_architecture: "stable-diffcoder",
    gguf_aliases: &[],
    attention: Attention::BlockCausal(4),
    blocks: Some(Blocks {
        threshold: Some(0.95),
        order_temperature: Some(1.0),
        behind_stop: Behind::Repeated,
        ..Blocks::PLAIN
    }),
    qkv_bias: false,
    qk_norm: false,
    shift_logits: false,
    mode: Mode::Exact,
    trained_positions: None,
    system: None,
    thinks: None,
};

/// Qwen2.5's transformer with block-causal attention: Fast-dLLM v2. Its threshold is that of its
/// code, above which nothing is, so that each step reveals one token; its evaluation has 0.9.
pub static FAST_DLLM_V2: Family = Family {
    model_types: &["fast_dllm_qwen"],
    architecture: None,
    gguf_architecture: "fast-dllm-qwen",
    gguf_aliases: &[],
    attention: Attention::BlockCausal(32),
    blocks: Some(Blocks {
        threshold: Some(1.0),
        is_strict: true,
        top_p: Some(0.95),
        filtering: Filtering::OfDraws,
        extent: Extent::CountedBlocks,
        sub_block: Some(8),
        behind_stop: Behind::Removed,
        ..Blocks::PLAIN
    }),
    qkv_bias: true,
    qk_norm: false,
    shift_logits: true,
    mode: Mode::Exact,
    trained_positions: None,
    system: Some(USUAL_SYSTEM),
    thinks: None,
};

/// Llama's transformer without its causal mask: LLaDA and LLaDA 1.5. Exactly, its canvas is filled
/// in blocks of 32, the size in its `generate.py`'s example. Windows, reused keys and thresholds
/// were published for it as for Dream.
pub static LLADA: Family = Family {
    model_types: &["llada"],
    architecture: Some("LLaDAModelLM"), // others have experts
    gguf_architecture: "llada",
    gguf_aliases: &[],
    attention: Attention::Full,
    blocks: Some(Blocks {
        order_temperature: Some(1.0),
        sub_block: Some(32),
        ..Blocks::PLAIN
    }),
    qkv_bias: false,
    qk_norm: false,
    shift_logits: false,
    mode: Mode::Balanced,
    trained_positions: None,
    system: None,
    thinks: None,
};

/// dllm's samplers, of which checkpoints of one kind are trained for one (mdlm, with full
/// attention) or the other (bd3lm, block-causal): their names say for which.
const DLLM: Option<Blocks> = Some(Blocks {
    share: Share::Rounded,
    order_temperature: Some(1.0),
    is_padded: true,
    ..Blocks::PLAIN
});

/// Qwen3's transformer as dllm trains it.
pub static A2D_QWEN3: Family = Family {
    model_types: &["a2d-qwen3"],
    architecture: None,
    gguf_architecture: "a2d-qwen3",
    gguf_aliases: &[],
    attention: Attention::Full,
    blocks: DLLM,
    qkv_bias: false,
    qk_norm: true,
    shift_logits: false,
    mode: Mode::Exact,
    trained_positions: None,
    system: None,
    thinks: Some(false),
};

/// Qwen2.5's transformer as dllm trains it.
pub static A2D_QWEN2: Family = Family {
    model_types: &["a2d-qwen2"],
    architecture: None,
    gguf_architecture: "a2d-qwen2",
    gguf_aliases: &[],
    attention: Attention::Full,
    blocks: DLLM,
    qkv_bias: true,
    qk_norm: false,
    shift_logits: false,
    mode: Mode::Exact,
    trained_positions: None,
    system: None,
    thinks: Some(false),
};

impl Family {
    /// Every family.
    pub const ALL: [&'static Self; 8] = [
        &DREAM,
        &CODA,
        &SDAR,
        &STABLE_DIFFCODER,
        &FAST_DLLM_V2,
        &LLADA,
        &A2D_QWEN3,
        &A2D_QWEN2,
    ];

    /// The family of config.json's `model_type`, in any case, and `architectures`.
    pub(crate) fn of_model_type(name: &str, architectures: &[String]) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase();
        let is_one = |wanted: &str| architectures.iter().any(|found| found == wanted);
        let is_of = |family: &&Self| {
            family.model_types.contains(&name.as_str()) && family.architecture.is_none_or(is_one)
        };
        Self::ALL.into_iter().find(is_of)
    }

    /// The family of a GGUF file's `general.architecture`.
    pub(crate) fn of_gguf(architecture: &str) -> Option<&'static Self> {
        let has_name = |family: &&Self| family.gguf_names().any(|name| name == architecture);
        Self::ALL.into_iter().find(has_name)
    }

    /// Every `model_type` that is known, for messages.
    pub(crate) fn model_types() -> String {
        let names = Self::ALL.iter().flat_map(|family| {
            let of = family.architecture.map(|name| format!(" ({name})"));
            let of = of.unwrap_or_default();
            let types = family.model_types.iter();
            types.map(move |name| format!("{name}{of}"))
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// Every `general.architecture` that is known, for messages.
    pub(crate) fn gguf_architectures() -> String {
        let names = Self::ALL.iter().flat_map(|family| family.gguf_names());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Whether it takes a canvas in blocks: always, or where a checkpoint, which looks the same, is
    /// trained for that.
    pub(crate) fn can_be_block_causal(&self) -> bool {
        self.attention != Attention::Full || [&A2D_QWEN3, &A2D_QWEN2].contains(&self)
    }

    fn gguf_names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.gguf_architecture).chain(self.gguf_aliases.iter().copied())
    }
}

/// The embedding table `[V, D]`, by its name in checkpoints.
pub(crate) const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// The output head `[V, D]` of models whose head is not the embedding table.
pub(crate) const LM_HEAD: &str = "lm_head.weight";

/// The embedding table in GGUF files, where it also says how many tokens there are.
pub(super) const GGUF_EMBED_TOKENS: &str = "token_embd.weight";
/// The output head in GGUF files; one without it ties its head to the embedding table.
pub(super) const GGUF_LM_HEAD: &str = "output.weight";

const CHECKPOINT_LAYER: &str = "model.layers.";
const GGUF_LAYER: &str = "blk.";

/// A line of the table.
pub(super) struct Row {
    name: &'static str,      // in checkpoints, behind `model.layers.N.` in a layer
    gguf_name: &'static str, // behind `blk.N.` in a layer
    /// Rows first.
    pub shape: &'static [Size],
    /// Which models have it.
    pub when: When,
    /// Whether each layer has one.
    pub in_layer: bool,
}

/// A dimension of a tensor.
#[derive(Clone, Copy)]
pub(super) enum Size {
    D,  // residual stream
    E,  // a head
    F,  // feed-forward layer
    V,  // vocabulary
    Q,  // H·E: all query heads
    Kv, // G·E: all heads of keys or values
}

/// Which models have a tensor.
pub(super) enum When {
    Always,
    QkvBias,
    QkNorm,
    Untied,
}

const fn once(
    name: &'static str,
    gguf_name: &'static str,
    shape: &'static [Size],
    when: When,
) -> Row {
    Row {
        name,
        gguf_name,
        shape,
        when,
        in_layer: false,
    }
}

const fn layer(
    name: &'static str,
    gguf_name: &'static str,
    shape: &'static [Size],
    when: When,
) -> Row {
    Row {
        in_layer: true,
        ..once(name, gguf_name, shape, when)
    }
}

/// All tensors, in the order of the computation.
#[rustfmt::skip] // one line each
pub(super) static TENSORS: [Row; 17] = [
    once(EMBED_TOKENS, GGUF_EMBED_TOKENS, &[V, D], Always),
    layer("input_layernorm.weight", "attn_norm.weight", &[D], Always),
    layer("self_attn.q_proj.weight", "attn_q.weight", &[Q, D], Always),
    layer("self_attn.q_proj.bias", "attn_q.bias", &[Q], QkvBias),
    layer("self_attn.q_norm.weight", "attn_q_norm.weight", &[E], QkNorm),
    layer("self_attn.k_proj.weight", "attn_k.weight", &[Kv, D], Always),
    layer("self_attn.k_proj.bias", "attn_k.bias", &[Kv], QkvBias),
    layer("self_attn.k_norm.weight", "attn_k_norm.weight", &[E], QkNorm),
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

/// LLaDA's names, behind `model.transformer.blocks.N.` in a layer, and the table's.
const LLADA_NAMES: [(&str, &str); 12] = [
    ("model.transformer.wte.weight", EMBED_TOKENS),
    ("model.transformer.ln_f.weight", "model.norm.weight"),
    ("model.transformer.ff_out.weight", LM_HEAD),
    ("attn_norm.weight", "input_layernorm.weight"),
    ("q_proj.weight", "self_attn.q_proj.weight"),
    ("k_proj.weight", "self_attn.k_proj.weight"),
    ("v_proj.weight", "self_attn.v_proj.weight"),
    ("attn_out.weight", "self_attn.o_proj.weight"),
    ("ff_norm.weight", "post_attention_layernorm.weight"),
    ("ff_proj.weight", "mlp.gate_proj.weight"),
    ("up_proj.weight", "mlp.up_proj.weight"),
    ("ff_out.weight", "mlp.down_proj.weight"),
];
const LLADA_LAYER: &str = "model.transformer.blocks.";

/// The table's name of a tensor that LLaDA's checkpoints call otherwise;
/// `model.transformer.blocks.3.attn_out.weight` is `model.layers.3.self_attn.o_proj.weight`.
pub(crate) fn name_of_llada(name: &str) -> Option<String> {
    let (layer, part) = split_layer(LLADA_LAYER, name);
    let (_, ours) = LLADA_NAMES.iter().find(|(theirs, _)| *theirs == part)?;
    Some(in_layer(CHECKPOINT_LAYER, layer, ours))
}

/// LLaDA's name of a tensor of the table: the inverse of [`name_of_llada`].
pub(super) fn llada_name(ours: &str) -> Option<String> {
    let (layer, part) = split_layer(CHECKPOINT_LAYER, ours);
    let (theirs, _) = LLADA_NAMES.iter().find(|(_, ours)| *ours == part)?;
    Some(in_layer(LLADA_LAYER, layer, theirs))
}

/// The checkpoint's name of a GGUF tensor: `blk.3.attn_q.weight` is
/// `model.layers.3.self_attn.q_proj.weight`. `None` for a tensor that no network here has.
pub fn checkpoint_name(gguf: &str) -> Option<String> {
    let (layer, part) = split_layer(GGUF_LAYER, gguf);
    let mut rows = TENSORS.iter();
    let row = rows.find(|row| row.gguf_name == part && row.in_layer == layer.is_some())?;
    // Numbers are written one way only: `blk.+1` is no layer.
    let is_number = |digits: &str| digits.parse().is_ok_and(|n: usize| n.to_string() == digits);
    layer
        .is_none_or(is_number)
        .then(|| in_layer(CHECKPOINT_LAYER, layer, row.name))
}

/// What kind of tensor a GGUF tensor is: `blk.3.attn_q.weight` is an `attn_q`.
pub(super) fn gguf_kind(gguf: &str) -> &str {
    let (_, part) = split_layer(GGUF_LAYER, gguf);
    part.strip_suffix(".weight").unwrap_or(part)
}

/// The layer that a name begins with, if it does, and the rest of the name.
fn split_layer<'n>(prefix: &str, name: &'n str) -> (Option<&'n str>, &'n str) {
    let of_layer = name.strip_prefix(prefix);
    of_layer
        .and_then(|rest| rest.split_once('.'))
        .map_or((None, name), |(layer, part)| (Some(layer), part))
}

/// The inverse of [`split_layer`].
fn in_layer(prefix: &str, layer: Option<impl Display>, part: &str) -> String {
    match layer {
        Some(layer) => format!("{prefix}{layer}.{part}"),
        None => part.into(),
    }
}

impl Row {
    /// Its name in checkpoints.
    pub fn name(&self, layer: usize) -> String {
        in_layer(CHECKPOINT_LAYER, self.in_layer.then_some(layer), self.name)
    }

    /// Its name in GGUF files.
    pub fn gguf_name(&self, layer: usize) -> String {
        in_layer(GGUF_LAYER, self.in_layer.then_some(layer), self.gguf_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_by_name() {
        assert_eq!(Family::of_model_type("Dream", &[]), Some(&DREAM));
        assert_eq!(Family::of_gguf("qwen2"), Some(&DREAM));
        assert_eq!(Family::of_model_type("CoDA", &[]), Some(&CODA));
        assert_eq!(
            (
                Family::of_model_type("llama", &[]),
                Family::of_gguf("Dream")
            ),
            (None, None)
        );
        assert_eq!(
            Family::model_types(),
            "dream, qwen2, coda, sdar, llama (StableDiffcoderForCausalLM), fast_dllm_qwen, \
             llada (LLaDAModelLM), a2d-qwen3, a2d-qwen2"
        );
        assert_eq!(
            Family::gguf_architectures(),
            "dream, qwen2, coda, sdar, stable-diffcoder, fast-dllm-qwen, llada, a2d-qwen3, \
             a2d-qwen2"
        );
        let name = |name| name_of_llada(name).unwrap_or_default();
        assert_eq!(
            name("model.transformer.blocks.31.ff_proj.weight"),
            "model.layers.31.mlp.gate_proj.weight"
        );
        assert_eq!(name("model.transformer.ff_out.weight"), LM_HEAD);
        for theirs in [
            "model.transformer.wte.weight",
            "model.transformer.ff_out.weight",
            "model.transformer.blocks.3.ff_out.weight",
        ] {
            assert_eq!(llada_name(&name(theirs)).as_deref(), Some(theirs));
        }
        assert_eq!(name("model.transformer.blocks.0.ff_out.bias"), "");
        let architectures = ["StableDiffcoderForCausalLM".to_string()];
        let found = Family::of_model_type("llama", &architectures);
        assert_eq!(found, Some(&STABLE_DIFFCODER));
    }
}
