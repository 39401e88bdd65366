//! The models this program knows by name, as data, and the recipe each was made for.
//!
//! Temperatures and prompt styles are the authors' (model cards; arXiv 2506.20639).

use strsim::levenshtein;

use crate::diffusion::{LengthBias, Mode};
use crate::model::arch::{
    A2D_QWEN2, A2D_QWEN3, Attention, CODA, DREAM, FAST_DLLM_V2, Family, LLADA, SDAR,
    STABLE_DIFFCODER,
};
use crate::model::named::plain;

/// How a prompt reaches the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptStyle {
    /// Wrapped in the chat template.
    Chat,
    /// As it is, to be continued.
    Raw,
}

/// Defaults that depend on how a model was trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// The form of a prompt.
    pub prompt: PromptStyle,
    /// The sampling temperature.
    pub temperature: f64,
    /// The nucleus.
    pub top_p: f32,
    /// The mode that suits its weights, where that is not its family's.
    pub mode: Option<Mode>,
    /// How often each token of a hole between texts is looked at again, but for published samplers.
    pub remask: usize,
    /// How long holes are whose length nobody says.
    pub lengths: Lengths,
}

/// How long holes are whose length nobody says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lengths {
    /// Always so many tokens, where that is nearer than what the model is surest of.
    pub usual: Option<usize>,
    /// What its confidence is held against.
    pub bias: LengthBias,
}

impl Lengths {
    const PUBLISHED: Self = Self {
        usual: None,
        bias: LengthBias::PUBLISHED,
    };
}

/// The name of a model inside the binary.
pub(super) fn built_in(alias: &str) -> String {
    format!("{alias} (built in)")
}

/// One line of the table.
#[derive(Debug, PartialEq)]
pub struct KnownModel {
    /// What the user types.
    pub alias: &'static str,
    /// `None` for the model inside the binary.
    pub hub_id: Option<&'static str>,
    /// Where others keep GGUF files of it, if that is known.
    pub conversion: Option<Conversion>,
    /// What it is, in a line.
    pub about: &'static str,
    /// What a first use downloads.
    pub download_bytes: u64,
    /// Of the weights.
    pub licence: &'static str,
    /// What its network is.
    pub family: &'static Family,
    /// Its authors' defaults.
    pub recipe: Recipe,
}

impl KnownModel {
    /// What its authors call it; what we do, where it is ours.
    fn name(&self) -> String {
        match self.hub_id {
            Some(id) => id.rsplit('/').next().unwrap_or(id).to_owned(),
            None => built_in(self.alias),
        }
    }

    /// The names of its GGUF files as a model's name can be given, with their sizes.
    pub fn conversions(&self) -> impl Iterator<Item = (String, u64)> {
        let files = self.conversion.iter().flat_map(|known| known.files);
        files.map(|&(quantization, bytes)| (format!("{}:{quantization}", self.alias), bytes))
    }

    /// The mode that suits its weights.
    pub fn mode(&self) -> Mode {
        self.recipe.mode.unwrap_or(self.family.mode)
    }

    /// Its numbers, of which most are published as bfloat16 and CoDA's as float32.
    pub fn parameters(&self) -> f64 {
        let bytes = if *self.family == CODA { 4.0 } else { 2.0 };
        self.download_bytes as f64 / bytes
    }

    /// Whether it sees what stands behind a hole.
    pub fn fills_holes(&self) -> bool {
        self.family.attention == Attention::Full && !self.alias.contains(BLOCK_CAUSAL)
    }
}

/// In the names of dllm's models that are trained block by block, which nothing else tells.
pub(crate) const BLOCK_CAUSAL: &str = "bd3lm";

/// A Hub repository of a model's GGUF files.
#[derive(Debug, PartialEq)]
pub struct Conversion {
    /// The repository.
    pub hub_id: &'static str,
    /// Quantizations to recommend, and the sizes of their files; the repository may have more.
    pub files: &'static [(&'static str, u64)],
}

/// The alias used when none is given.
pub const DEFAULT_ALIAS: &str = "diffucoder";

const APPLE: &str = "apple-amlr (research use only)";
const NON_COMMERCIAL: &str = "non-commercial (the terms are on its page)";
/// Of models whose licence only their pages know.
pub const ON_ITS_PAGE: &str = "see its page";
const SIZE_7B_BYTES: u64 = 15_200_000_000;
const SIZE_LLADA_BYTES: u64 = 16_000_000_000;

pub(super) const fn chat(temperature: f64) -> Recipe {
    Recipe {
        prompt: PromptStyle::Chat,
        temperature,
        top_p: 0.95,
        mode: None,
        remask: 0,
        lengths: Lengths::PUBLISHED,
    }
}

pub(super) const fn raw(temperature: f64) -> Recipe {
    Recipe {
        prompt: PromptStyle::Raw,
        ..chat(temperature)
    }
}

/// DreamOn's, from its evaluation (`eval/`); there is no template for its prompts.
pub(crate) const DREAMON: Recipe = Recipe {
    top_p: 0.9,
    ..raw(0.2)
};

/// Every alias; the default comes first.
pub const MODELS: [KnownModel; 20] = [
    KnownModel {
        alias: DEFAULT_ALIAS,
        hub_id: Some("apple/DiffuCoder-7B-cpGRPO"),
        conversion: Some(Conversion {
            hub_id: "Mungert/DiffuCoder-7B-cpGRPO-GGUF",
            files: &[("q4_k_m", 4_800_000_000)],
        }),
        about: "DiffuCoder 7B after coupled-GRPO: the best at writing code from a description",
        download_bytes: SIZE_7B_BYTES,
        licence: APPLE,
        family: &DREAM,
        recipe: chat(0.4),
    },
    KnownModel {
        alias: "diffucoder-instruct",
        hub_id: Some("apple/DiffuCoder-7B-Instruct"),
        conversion: Some(Conversion {
            hub_id: "mradermacher/DiffuCoder-7B-Instruct-GGUF",
            files: &[("q4_k_m", 4_800_000_000), ("q8_0", 8_200_000_000)],
        }),
        about: "DiffuCoder 7B tuned on instructions",
        download_bytes: SIZE_7B_BYTES,
        licence: APPLE,
        family: &DREAM,
        recipe: chat(0.3),
    },
    KnownModel {
        alias: "diffucoder-base",
        hub_id: Some("apple/DiffuCoder-7B-Base"),
        conversion: None,
        about: "DiffuCoder 7B before tuning: continues code",
        download_bytes: SIZE_7B_BYTES,
        licence: APPLE,
        family: &DREAM,
        recipe: raw(0.2),
    },
    KnownModel {
        alias: "dream-coder",
        hub_id: Some("Dream-org/Dream-Coder-v0-Instruct-7B"),
        conversion: None,
        about: "Dream-Coder 7B: a relative with an open licence",
        download_bytes: SIZE_7B_BYTES,
        licence: "apache-2.0",
        family: &DREAM,
        recipe: chat(0.1),
    },
    KnownModel {
        alias: "dreamon",
        hub_id: Some("Dream-org/DreamOn-v0-7B"),
        conversion: None,
        about: "DreamOn 7B: the best at filling holes, whose length it finds by itself",
        download_bytes: SIZE_7B_BYTES,
        licence: "apache-2.0",
        family: &DREAM,
        recipe: DREAMON,
    },
    KnownModel {
        alias: "d3llm-coder",
        hub_id: Some("d3LLM/d3LLM_Dream_Coder"),
        conversion: None,
        about: "d3LLM 7B: Dream-Coder distilled to write almost three tokens a forward",
        download_bytes: SIZE_7B_BYTES,
        licence: "none stated (made from Dream-Coder, apache-2.0)",
        family: &DREAM,
        recipe: Recipe {
            mode: Some(Mode::D3llm),
            ..chat(0.0)
        },
    },
    KnownModel {
        alias: "open-dcoder",
        hub_id: Some("fredzzp/open-dcoder-0.5B"),
        conversion: None,
        about: "Open-dCoder 0.5B: small and quick; continues code and fills holes",
        download_bytes: 1_000_000_000,
        licence: "apache-2.0",
        family: &DREAM,
        recipe: raw(0.8),
    },
    KnownModel {
        alias: "stable-diffcoder",
        hub_id: Some("ByteDance-Seed/Stable-DiffCoder-8B-Instruct"),
        conversion: None,
        about: "Stable-DiffCoder 8B: answers and continues, block by block; does not fill holes",
        download_bytes: 16_500_000_000,
        licence: "mit",
        family: &STABLE_DIFFCODER,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "fast-dllm-v2",
        hub_id: Some("Efficient-Large-Model/Fast_dLLM_v2_7B"),
        conversion: None,
        about: "Fast-dLLM v2 7B: answers and continues, block by block; does not fill holes",
        download_bytes: SIZE_7B_BYTES,
        licence: "apache-2.0",
        family: &FAST_DLLM_V2,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "fast-dllm-v2-1.5b",
        hub_id: Some("Efficient-Large-Model/Fast_dLLM_v2_1.5B"),
        conversion: None,
        about: "Fast-dLLM v2 1.5B: the same, smaller and quicker",
        download_bytes: 3_100_000_000,
        licence: "apache-2.0",
        family: &FAST_DLLM_V2,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "llada",
        hub_id: Some("GSAI-ML/LLaDA-8B-Instruct"),
        conversion: None,
        about: "LLaDA 8B: a general model, trained as a diffusion model from the start",
        download_bytes: SIZE_LLADA_BYTES,
        licence: "mit",
        family: &LLADA,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "llada-1.5",
        hub_id: Some("GSAI-ML/LLaDA-1.5"),
        conversion: None,
        about: "LLaDA 1.5: the same after preference optimization",
        download_bytes: SIZE_LLADA_BYTES,
        licence: "mit",
        family: &LLADA,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "coda",
        hub_id: Some("Salesforce/CoDA-v0-Instruct"),
        conversion: None,
        about: "CoDA 1.7B: answers and fills holes",
        download_bytes: 8_140_000_000,
        licence: NON_COMMERCIAL,
        family: &CODA,
        recipe: Recipe {
            top_p: 0.9,
            ..chat(0.1)
        },
    },
    KnownModel {
        alias: "sdar-1.7b",
        hub_id: Some("JetLM/SDAR-1.7B-Chat"),
        conversion: None,
        about: "SDAR 1.7B: answers, block by block; does not fill holes",
        download_bytes: 4_060_000_000,
        licence: "apache-2.0",
        family: &SDAR,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "sdar-4b",
        hub_id: Some("JetLM/SDAR-4B-Chat"),
        conversion: None,
        about: "SDAR 4B: answers, block by block; does not fill holes",
        download_bytes: 8_830_000_000,
        licence: "apache-2.0",
        family: &SDAR,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "sdar-8b",
        hub_id: Some("JetLM/SDAR-8B-Chat"),
        conversion: None,
        about: "SDAR 8B: answers, block by block; does not fill holes",
        download_bytes: 16_400_000_000,
        licence: "apache-2.0",
        family: &SDAR,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "qwen-coder-mdlm",
        hub_id: Some("dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1"),
        conversion: None,
        about: "dllm's Qwen2.5-Coder 0.5B: small; answers and fills holes",
        download_bytes: 1_260_000_000,
        licence: "apache-2.0",
        family: &A2D_QWEN2,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "qwen3-mdlm",
        hub_id: Some("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"),
        conversion: None,
        about: "dllm's Qwen3 0.6B: small; answers and fills holes",
        download_bytes: 1_500_000_000,
        licence: ON_ITS_PAGE,
        family: &A2D_QWEN3,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "qwen3-bd3lm",
        hub_id: Some("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1"),
        conversion: None,
        about: "dllm's Qwen3 0.6B: small; answers, block by block; does not fill holes",
        download_bytes: 1_500_000_000,
        licence: ON_ITS_PAGE,
        family: &A2D_QWEN3,
        recipe: chat(0.0),
    },
    KnownModel {
        alias: "tiny",
        hub_id: None,
        conversion: None,
        about: "a small model built into this program: needs no download, shows how it works",
        download_bytes: 0,
        licence: "Apache-2.0",
        family: &DREAM,
        recipe: Recipe {
            mode: Some(Mode::Fast), // trained with texts that break off, as windows see them
            remask: 1,              // more of its lines parse: benches/README.md
            // It does not know: `cargo bench --bench infill`.
            lengths: Lengths {
                usual: Some(8),
                bias: LengthBias {
                    fast: [0.0, 0.0],
                    slow: [0.53, 0.23],
                    floor: 0.13,
                },
            },
            ..raw(0.2)
        },
    },
];

/// The model with this alias.
pub fn by_alias(alias: &str) -> Option<&'static KnownModel> {
    MODELS.iter().find(|model| model.alias == alias)
}

/// The model with this Hub id; the Hub ignores case in ids, so this does too.
pub fn by_hub_id(id: &str) -> Option<&'static KnownModel> {
    MODELS.iter().find(|model| {
        model
            .hub_id
            .is_some_and(|known| known.eq_ignore_ascii_case(id))
    })
}

/// The model whose name is part of this one, as it is of those of conversions, of tunings and of
/// folders; of several the one with the longest name.
pub(super) fn in_name(name: &str) -> Option<&'static KnownModel> {
    let name = plain(name);
    let parts = MODELS.iter().map(|model| (plain(&model.name()), model));
    let found = parts.filter(|(part, _)| name.contains(part));
    let longest = found.max_by_key(|(part, _)| part.len());
    longest.map(|(_, model)| model)
}

/// The model that this repository holds, be it the authors' or a conversion.
pub fn in_repo(id: &str) -> Option<&'static KnownModel> {
    by_hub_id(id).or_else(|| converted_in(id))
}

/// The model of which this repository is known to hold conversions.
pub fn converted_in(id: &str) -> Option<&'static KnownModel> {
    MODELS.iter().find(|model| {
        let conversion = model.conversion.as_ref();
        conversion.is_some_and(|known| known.hub_id.eq_ignore_ascii_case(id))
    })
}

/// The alias that a mistyped name, or a Hub name without its owner, most likely meant.
pub fn suggest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let distance_of = |model: &KnownModel| {
        let repo_name = model.name().to_lowercase();
        levenshtein(&name, model.alias).min(levenshtein(&name, &repo_name))
    };
    let (distance, model) = MODELS
        .iter()
        .map(|model| (distance_of(model), model))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.chars().count() / 5).then_some(model.alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_hub_ids_find_the_same_entry() {
        let base = by_alias("diffucoder-base").expect("known");
        assert_eq!(by_hub_id("apple/diffucoder-7b-base"), Some(base));
        assert_eq!(base.recipe, raw(0.2));
        assert_eq!(MODELS[0].alias, DEFAULT_ALIAS);
        assert!(by_alias("apple/DiffuCoder-7B-Base").is_none());
    }

    #[test]
    fn suggestions_are_close_or_absent() {
        for (typed, meant) in [
            ("difucoder", Some("diffucoder")),
            ("diffucoder-instuct", Some("diffucoder-instruct")),
            ("DiffuCoder-7B-Base", Some("diffucoder-base")),
            ("dreamcoder", Some("dream-coder")),
            ("tinny", Some("tiny")),
            ("diffcder", Some("diffucoder")), // two of eight letters
            ("diffudee", None),               // three of eight
            ("tny", Some("tiny")),
            ("tn", None),
            ("gpt2", None),
            ("x", None),
        ] {
            assert_eq!(suggest(typed), meant, "{typed}");
        }
    }
}
