//! A model as it is published: weights, configuration, tokenizer and chat template, put together.
//!
//! The small files are read first and in full, so that everything that can be wrong with a request
//! is known before gigabytes are fetched or loaded.

pub mod builtin;
mod files;
mod gguf;
mod prompt;
mod weights;

use std::collections::HashMap;
use std::fmt;

use self::files::read;
use self::gguf::Gguf;
pub use self::prompt::Prompt;
use crate::chat::{ChatTemplate, Message, said};
use crate::diffusion::{Attention, Mode, Resizing};
use crate::error::Error;
use crate::hub::registry::{BLOCK_CAUSAL, DREAMON, PromptStyle, Recipe};
use crate::hub::{Foreign, HubError, HubOptions, ModelSpec, Progress, Snapshot, called};
use crate::model::config::{Config, ConfigError};
use crate::model::lora::Adapter;
use crate::tokenizer::{MASK_TOKENS, TokenRole, Tokenizer, TokenizerFiles};

/// Tokens that end a text, by the names the models give them. Base models end in the first, chat
/// models in the second (LLaDA in the fourth), and fill the rest of the canvas with the third.
const STOP_TOKENS: [&str; 4] = ["<|endoftext|>", "<|im_end|>", "<|dlm_pad|>", "<|eot_id|>"];

/// Positions of a block in dllm's block-causal models.
const BD3LM_BLOCK: usize = 32;

/// The token by which a model makes a hole longer: DreamOn's.
const EXPAND_TOKEN: &str = "<|expand|>";
/// What DreamOn begins a text with, whatever its configuration says of that.
const FIRST_TOKEN: &str = "<|beginoftext|>";

/// Everything about a model but its weights.
pub struct Package {
    source: Source,
    /// The network's shape.
    pub config: Config,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Template of a conversation, if the model has one.
    pub chat_template: Option<ChatTemplate>,
    /// The authors' defaults.
    pub recipe: Recipe,
    /// The id of a position that is not revealed.
    pub mask_id: u32,
    /// Ids that end a text.
    pub stop_ids: Vec<u32>,
    /// How it fills holes, if it makes them longer and shorter.
    pub infilling: Option<Infilling>,
    /// What is merged into its weights, and its name.
    adapter: Option<(String, Adapter)>,
}

/// Without the tokenizer and the files.
impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("name", &self.name())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// How a model that makes holes longer and shorter is shown them: its first token, text and holes,
/// and the token that takes masks out, which is its end of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Infilling {
    /// Stands before everything.
    pub first_id: Option<u32>,
    /// The tokens that change lengths.
    pub resizing: Resizing,
}

impl Infilling {
    /// The vocabulary says what a model can: the configurations of DreamOn and Dream are the same,
    /// and the id of one's token is another token of the other.
    fn of(config: &Config, tokenizer: &Tokenizer) -> Option<Self> {
        let id = |token| tokenizer.token_to_id(token);
        let eos = config.eos_token_ids.first().copied();
        Some(Self {
            first_id: id(FIRST_TOKEN).or_else(|| tokenizer.special_id(TokenRole::Bos)),
            resizing: Resizing {
                expand_id: id(EXPAND_TOKEN)?,
                delete_id: eos.or_else(|| tokenizer.special_id(TokenRole::Eos))?,
            },
        })
    }
}

/// Where the files are.
enum Source {
    /// A folder, the Hub or this binary.
    Snapshot(Snapshot),
    /// Everything in the same files.
    Gguf(Gguf),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Snapshot(snapshot) => snapshot.describe(),
            Self::Gguf(gguf) => gguf.name.clone(),
        }
    }
}

/// dllm's checkpoints say nowhere but in their names which sampler they were trained for.
fn add_sampler(config: &mut Config, name: &str) {
    let is_named = name.to_ascii_lowercase().contains(BLOCK_CAUSAL);
    if is_named && config.family.can_be_block_causal() && config.attention == Attention::Full {
        config.attention = Attention::BlockCausal(BD3LM_BLOCK);
    }
}

/// Errors of small files name these alone: with the model's name.
fn of_model(model: String, error: Error) -> Error {
    match error {
        Error::Config(_) | Error::Tokenizer(_) | Error::Chat(_) => Error::Package {
            model,
            source: Box::new(error),
        },
        other => other,
    }
}

impl Package {
    /// Finds the model and reads its small files, downloading them if need be.
    ///
    /// # Errors
    /// When the model cannot be had, or a file is not what it should be.
    pub fn open(
        spec: &ModelSpec,
        options: &HubOptions,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        if let ModelSpec::Local(path) = spec
            && gguf::is_gguf(path)
        {
            let gguf = Gguf::local(path)?;
            let model = gguf.name.clone();
            return Self::open_gguf(gguf, spec).map_err(|error| of_model(model, error));
        }
        let wanted = match spec {
            ModelSpec::Hub(model) => model.gguf.as_deref(),
            _ => None,
        };
        let opened = Snapshot::open(spec, builtin::TINY, options)
            .and_then(|snapshot| Ok((snapshot.gguf(wanted)?, snapshot)));
        let (files, snapshot) = opened.map_err(|error| spec.or_a_folder(error))?;
        let model = snapshot.describe();
        let opened = match files {
            Some(files) => Self::open_gguf(Gguf::fetch(&snapshot, &files, progress)?, spec),
            None => Self::open_snapshot(snapshot, spec.recipe(None), progress),
        };
        opened.map_err(|error| of_model(model, error))
    }

    fn open_snapshot(
        snapshot: Snapshot,
        recipe: Recipe,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let file = snapshot.required("config.json", progress);
        let json = read(&file.map_err(|error| snapshot.explain(error))?)?;
        if let Some(form) = Foreign::of_config(&json) {
            return Err(foreign(snapshot.describe(), form));
        }
        let mut config = Config::from_json(&json)?;
        add_sampler(&mut config, called(&snapshot.describe()));
        if let Some(file) = snapshot.optional("generation_config.json", progress)? {
            config.add_generation_config(&read(&file)?)?;
        }
        let mut contents = HashMap::new();
        for name in TokenizerFiles::NAMES {
            if let Some(file) = snapshot.optional(name, progress)? {
                contents.insert(name, read(&file)?);
            }
        }
        let files = TokenizerFiles::gather(|name| contents.get(name).map(AsRef::as_ref));
        Self::new(Source::Snapshot(snapshot), recipe, config, &files)
    }

    fn new(
        source: Source,
        recipe: Recipe,
        config: Config,
        files: &TokenizerFiles<'_>,
    ) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_files(files)?;
        tokenizer.check_fits(config.vocab_size)?;
        let mask_id = config
            .mask_token_id
            .or_else(|| tokenizer.special_id(TokenRole::Mask))
            .or_else(|| {
                let mut names = MASK_TOKENS.iter();
                names.find_map(|name| tokenizer.token_to_id(name))
            });
        let infilling = Infilling::of(&config, &tokenizer);
        // What a model's name says is a guess; this one is known whatever its name.
        let recipe = match infilling {
            Some(_) => DREAMON,
            _ if config.family.blocks.is_some() => Recipe {
                temperature: 0.0, // as their authors evaluate them
                ..recipe
            },
            _ => recipe,
        };
        Ok(Self {
            mask_id: mask_id.ok_or(ConfigError::NoMaskToken)?,
            stop_ids: stop_ids(&config, &tokenizer),
            infilling,
            chat_template: ChatTemplate::from_files(files)?
                .map(|template| template.thinking(config.family.thinks)),
            source,
            config,
            tokenizer,
            recipe,
            adapter: None,
        })
    }

    /// The name of what is merged into its weights, if anything is.
    pub fn adapter(&self) -> Option<&str> {
        self.adapter.as_ref().map(|(name, _)| &**name)
    }

    /// The model's name and version in a few words, and those of its adapter.
    pub fn name(&self) -> String {
        let base = self.source.name();
        match &self.adapter {
            Some((adapter, _)) => format!("{base} with {adapter}"),
            None => base,
        }
    }

    /// Whether weights are stored in blocks, as most GGUF files have them, and are to be held so.
    pub(crate) fn is_quantized(&self) -> bool {
        matches!(&self.source, Source::Gguf(gguf) if gguf.blocks.is_some())
    }

    /// The mode that suits its weights.
    pub fn mode(&self) -> Mode {
        self.recipe.mode.unwrap_or(self.config.family.mode)
    }

    /// Whether this model takes its prompts in a chat template.
    pub fn is_chat(&self) -> bool {
        self.recipe.prompt == PromptStyle::Chat && self.chat_template.is_some()
    }

    /// Token ids of a prompt. Without a template a chat is the user's text, and a conversation what
    /// was said in it but for the system message, a line each.
    ///
    /// # Errors
    /// When the template fails, or the prompt contains the mask token.
    pub fn encode(&self, prompt: &Prompt<'_>) -> Result<Vec<u32>, Error> {
        match (prompt, &self.chat_template) {
            (
                Prompt::Chat {
                    system,
                    user,
                    answer,
                },
                Some(template),
            ) => {
                let system = system.map(|system| Message::new("system", system));
                let messages: Vec<_> = system
                    .into_iter()
                    .chain([Message::new("user", *user)])
                    .collect();
                Ok(template.encode(&self.tokenizer, &messages, true, answer)?)
            }
            (Prompt::Conversation { messages, answer }, Some(template)) => {
                Ok(template.encode(&self.tokenizer, messages, true, answer)?)
            }
            (Prompt::Conversation { messages, answer }, None) => {
                let mut said = said(messages);
                if !answer.is_empty() {
                    said = format!("{said}\n{answer}");
                }
                Ok(self.tokenizer.encode_plain(&said)?)
            }
            (Prompt::Text(text), _) => Ok(self.tokenizer.encode_plain(text)?),
            (Prompt::Chat { user: text, .. } | Prompt::Raw(text), _) => {
                Ok(self.tokenizer.encode_prompt(text, self.mask_id)?)
            }
        }
    }
}

fn foreign(model: String, form: Foreign) -> Error {
    HubError::Foreign { model, form }.into()
}

/// Every id that ends a text: those of the configuration, and the usual ones that the tokenizer
/// has.
fn stop_ids(config: &Config, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids = config.eos_token_ids.clone();
    for id in STOP_TOKENS
        .iter()
        .filter_map(|token| tokenizer.token_to_id(token))
    {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}
