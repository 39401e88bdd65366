//! A model as it is published: weights, configuration, tokenizer and chat template, put together.
//!
//! The small files are read first and in full, so that everything that can be wrong with a request
//! is known before gigabytes are fetched or loaded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::{fs, io};

use candle_core::{DType, Device};

use crate::builtin;
use crate::chat::{ChatTemplate, Message};
use crate::config::{Config, ConfigError};
use crate::error::Error;
use crate::hub::registry::{self, PromptStyle, Recipe};
use crate::hub::{HubError, HubOptions, ModelFile, ModelSpec, Progress, Snapshot};
use crate::model::{Model, OnLoad};
use crate::tokenizer::{TokenRole, Tokenizer, TokenizerFiles};
use crate::weights::{Bytes, Checkpoint, Index, WeightsError};

/// Tokens that end a text, by the names the models give them. Base models end in the first, chat
/// models in the second, and fill the rest of the canvas with the third.
const STOP_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_end|>", "<|dlm_pad|>"];

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Everything about a model but its weights.
pub struct Package {
    snapshot: Snapshot,
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
}

/// A prompt and the form in which the model gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// To be continued as it is.
    Raw(&'a str),
    /// A question in the chat template.
    Chat {
        /// The system message.
        system: &'a str,
        /// The user's message.
        user: &'a str,
    },
}

/// Local weight files, by name, and the index that ties them together.
pub struct WeightFiles {
    files: Vec<(String, ModelFile)>,
    index: Option<Index>,
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
        let snapshot = Snapshot::open(spec, builtin::TINY, options)?;
        let mut config = Config::from_json(&read(&snapshot.required("config.json", progress)?)?)?;
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
        let tokenizer = Tokenizer::from_files(&files)?;
        tokenizer.check_fits(config.vocab_size)?;
        let chat_template = ChatTemplate::from_files(&files)?;

        let mask_id = config
            .mask_token_id
            .or_else(|| tokenizer.special_id(TokenRole::Mask));
        let stop_ids = stop_ids(&config, &tokenizer);
        Ok(Self {
            mask_id: mask_id.ok_or(ConfigError::NoMaskToken)?,
            recipe: registry::recipe(spec),
            snapshot,
            config,
            tokenizer,
            chat_template,
            stop_ids,
        })
    }

    /// The model's name and version in a few words.
    pub fn name(&self) -> String {
        self.snapshot.describe()
    }

    /// The form in which this model takes a prompt: in its chat template if it is a chat model.
    pub fn prompt<'a>(&self, text: &'a str, system: &'a str) -> Prompt<'a> {
        if self.recipe.prompt == PromptStyle::Chat && self.chat_template.is_some() {
            Prompt::Chat { system, user: text }
        } else {
            Prompt::Raw(text)
        }
    }

    /// Token ids of a prompt.
    ///
    /// # Errors
    /// When the template fails, or the prompt contains the mask token.
    pub fn encode(&self, prompt: &Prompt<'_>) -> Result<Vec<u32>, Error> {
        match (prompt, &self.chat_template) {
            (Prompt::Chat { system, user }, Some(template)) => {
                let messages = [Message::new("system", *system), Message::new("user", *user)];
                Ok(template.encode(&self.tokenizer, &messages, true, "")?)
            }
            (Prompt::Chat { user: text, .. } | Prompt::Raw(text), _) => {
                Ok(self.tokenizer.encode_prompt(text, self.mask_id)?)
            }
        }
    }

    /// Makes the weights local: finds them, or downloads them.
    ///
    /// # Errors
    /// When they cannot be had, or the shard index is broken.
    pub fn fetch_weights(&self, progress: &mut dyn Progress) -> Result<WeightFiles, Error> {
        let index = match self.snapshot.optional(INDEX, progress)? {
            Some(file) => Some(Index::from_json(INDEX, &read(&file)?)?),
            None => None,
        };
        let names = index
            .as_ref()
            .map_or_else(|| vec![WEIGHTS.to_string()], Index::shards);
        if index.is_some() {
            let mut shards = self.snapshot.folder_files(".safetensors").into_iter();
            if let Some(file) =
                shards.find(|file| file.starts_with("model-") && !names.contains(file))
            {
                return Err(WeightsError::StrayShard {
                    file,
                    index: INDEX.into(),
                }
                .into());
            }
        }
        let files = self.snapshot.fetch(&names, progress)?;
        Ok(WeightFiles {
            files: names.into_iter().zip(files).collect(),
            index,
        })
    }

    /// Loads the network.
    ///
    /// # Errors
    /// When a weight file is broken or does not belong to this configuration, or memory runs out.
    pub fn load(
        &self,
        weights: WeightFiles,
        dtype: DType,
        device: &Device,
        on_load: OnLoad<'_>,
    ) -> Result<Model, Error> {
        let files = weights
            .files
            .into_iter()
            .map(|(name, file)| Ok((name, bytes(&file)?)));
        let files = files.collect::<Result<_, WeightsError>>()?;
        let checkpoint = Checkpoint::open(files, weights.index.as_ref())?;
        Ok(Model::load(
            &self.config,
            checkpoint,
            dtype,
            device,
            on_load,
        )?)
    }
}

/// Every id that ends a text: those of the configuration, and the usual ones that the tokenizer has.
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

fn bytes(file: &ModelFile) -> Result<Bytes, WeightsError> {
    match file {
        ModelFile::Path(path) => Bytes::map(path),
        ModelFile::Embedded(bytes) => Ok(Bytes::Static(bytes)),
    }
}

/// Largest small file; the real ones have 11 MB at most (tokenizer.json).
const MAX_SMALL_FILE_BYTES: u64 = 256 << 20;

/// The contents of a small file.
fn read(file: &ModelFile) -> Result<Cow<'static, [u8]>, HubError> {
    match file {
        ModelFile::Embedded(bytes) => Ok(Cow::Borrowed(bytes)),
        ModelFile::Path(path) => {
            read_small(path)
                .map(Cow::Owned)
                .map_err(|source| HubError::Unreadable {
                    path: path.clone(),
                    source,
                })
        }
    }
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MAX_SMALL_FILE_BYTES {
        return Err(io::Error::other(format!(
            "{bytes} bytes are too many for such a file"
        )));
    }
    fs::read(path)
}
