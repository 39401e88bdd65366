//! The metadata of a file that llama.cpp loads, from a description of the model and its tokenizer.
//!
//! llama.cpp wants a token for every row of the embedding table, with a type; spare rows are
//! fillers of type "unused". It has no NFC, and tells words apart by the name of a known
//! tokenizer, so only tokenizers that cut text as one with a name does can be written.
//!
//! Source: `conversion/dream.py` and `conversion/base.py` in ggml-org/llama.cpp.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use super::tokenizer::{
    ADD_BOS, BOS, EOS, EOT, MASK, MERGES, MODEL, PAD, PRE, Rows, SHIFT_LOGITS, TEMPLATE,
    TOKEN_TYPE, TOKENS, TokenType, filler, merges,
};
use super::{Array, FileType, GgufError, GgufFile, Value};
use crate::tokenizer::Split;

/// Why a checkpoint's tokenizer cannot be put into a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file is not the JSON or the text it should be.
    #[error("cannot read {file}: {reason}")]
    Malformed {
        /// The file.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// GGUF has no word for this tokenizer.
    #[error("the tokenizer {what}, which a GGUF file cannot express")]
    Unsupported {
        /// What it does.
        what: String,
    },
    /// A token's id is not a row of its own.
    #[error("token {token:?} has the id {id}, but {reason}")]
    Id {
        /// The token.
        token: String,
        /// Its id.
        id: u64,
        /// Why that cannot be.
        reason: String,
    },
}

impl ExportError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported { .. } => {
                Some("run the model from its own files: they are quantized when loaded".into())
            }
            Self::Malformed { .. } | Self::Id { .. } => Some(
                "the tokenizer's files are damaged, or of another model: download them again"
                    .into(),
            ),
        }
    }
}

const VOCAB_JSON: &str = "vocab.json";
const MERGES_TXT: &str = "merges.txt";
const ADDED_TOKENS_JSON: &str = "added_tokens.json";
const TOKENIZER_CONFIG_JSON: &str = "tokenizer_config.json";
const TOKENIZER_JSON: &str = "tokenizer.json";

/// A token for each row of the embedding table, and the merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    rows: Vec<Option<(String, TokenType)>>,
    merges: Vec<String>,
    split: Split,
}

impl Vocabulary {
    /// From `vocab.json`, `merges.txt` and, where there are such files, `added_tokens.json` and
    /// `tokenizer_config.json`, for a model with `rows` embedding rows.
    ///
    /// # Errors
    /// [`ExportError::Malformed`], [`ExportError::Id`].
    pub fn from_vocab_and_merges(
        rows: usize,
        vocab_json: &[u8],
        merges_txt: &[u8],
        added_tokens_json: Option<&[u8]>,
        tokenizer_config_json: Option<&[u8]>,
    ) -> Result<Self, ExportError> {
        let mut vocabulary = Self::empty(rows);
        for (token, id) in &object(VOCAB_JSON, vocab_json)? {
            vocabulary.add(VOCAB_JSON, token, id.as_u64(), TokenType::Normal)?;
        }
        // Without flags a token is taken for special, as transformers takes those of this family.
        let added = added_tokens_json.map(|json| object(ADDED_TOKENS_JSON, json));
        for (token, id) in &added.transpose()?.unwrap_or_default() {
            vocabulary.add(ADDED_TOKENS_JSON, token, id.as_u64(), TokenType::Control)?;
        }
        let config = tokenizer_config_json.map(|json| object(TOKENIZER_CONFIG_JSON, json));
        let config = config.transpose()?.unwrap_or_default();
        let decoder = config.get("added_tokens_decoder").and_then(Json::as_object);
        for (id, token) in decoder.into_iter().flatten() {
            vocabulary.add_flagged(TOKENIZER_CONFIG_JSON, id.parse().ok(), token)?;
        }
        let merges = std::str::from_utf8(merges_txt)
            .map_err(|error| malformed(MERGES_TXT, error.to_string()))?;
        let merges = merges.trim_end_matches(['\r', '\n']).lines().enumerate();
        for (index, line) in merges {
            // Only a first line can be a comment: merges contain `#` too.
            if index > 0 || !(line.is_empty() || line.starts_with("#version")) {
                vocabulary.merges.push(line.into());
            }
        }
        Ok(vocabulary)
    }

    /// From `tokenizer.json`, for a model with `rows` embedding rows.
    ///
    /// # Errors
    /// [`ExportError::Malformed`], [`ExportError::Id`], and [`ExportError::Unsupported`] when text
    /// is cut into words as by no [`Split`].
    pub fn from_tokenizer_json(rows: usize, tokenizer_json: &[u8]) -> Result<Self, ExportError> {
        let file = Json::from(object(TOKENIZER_JSON, tokenizer_json)?);
        let mut vocabulary = Self::empty(rows);
        let section = |pointer: &str| {
            let missing = || malformed(TOKENIZER_JSON, format!("it has no {pointer}"));
            file.pointer(pointer).ok_or_else(missing)
        };
        let vocab = section("/model/vocab")?.as_object();
        for (token, id) in vocab.into_iter().flatten() {
            vocabulary.add(TOKENIZER_JSON, token, id.as_u64(), TokenType::Normal)?;
        }
        let added = file.get("added_tokens").and_then(Json::as_array);
        for token in added.into_iter().flatten() {
            let id = token.get("id").and_then(Json::as_u64);
            vocabulary.add_flagged(TOKENIZER_JSON, id, token)?;
        }
        let merges = section("/model/merges")?.as_array();
        for merge in merges.into_iter().flatten() {
            let pair = match merge {
                Json::String(pair) => Some(pair.clone()),
                Json::Array(pair) => match &pair[..] {
                    [Json::String(left), Json::String(right)] => Some(format!("{left} {right}")),
                    _ => None,
                },
                _ => None,
            };
            let no_pair = || malformed(TOKENIZER_JSON, format!("the merge {merge} is no pair"));
            vocabulary.merges.push(pair.ok_or_else(no_pair)?);
        }
        // Without merges every byte is a token, however text is split.
        match named_split(&file) {
            Some(split) => vocabulary.split = split,
            None if vocabulary.merges.is_empty() => {}
            None => {
                let what = "cuts text into words in a way that has no name".into();
                return Err(ExportError::Unsupported { what });
            }
        }
        Ok(vocabulary)
    }

    /// From the metadata of a GGUF file, for a model with `rows` embedding rows.
    ///
    /// # Errors
    /// What [`GgufTokenizer::read`](super::GgufTokenizer::read) returns.
    pub fn from_gguf(rows: usize, file: &GgufFile<'_>) -> Result<Self, GgufError> {
        let mut vocabulary = Self::empty(rows);
        let listed = Rows::read(file, rows)?;
        let tokens = listed.tokens.into_iter().zip(listed.types);
        for (row, (token, kind)) in vocabulary.rows.iter_mut().zip(tokens) {
            *row = (kind != TokenType::Unused).then(|| (token.to_owned(), kind));
        }
        vocabulary.merges = merges(file)?.map(str::to_owned).collect();
        vocabulary.split = listed.split;
        Ok(vocabulary)
    }

    fn empty(rows: usize) -> Self {
        Self {
            rows: vec![None; rows],
            merges: Vec::new(),
            split: Split::default(),
        }
    }

    fn add(
        &mut self,
        file: &'static str,
        token: &str,
        id: Option<u64>,
        kind: TokenType,
    ) -> Result<(), ExportError> {
        let id = id.ok_or_else(|| malformed(file, format!("{token:?} has no id")))?;
        let rows = self.rows.len();
        let row = usize::try_from(id)
            .ok()
            .and_then(|id| self.rows.get_mut(id));
        let reason = match row {
            Some(row) => match row {
                Some((other, _)) if other != token => format!("so has {other:?}"),
                _ => {
                    // The last file to name a token knows best what it is.
                    *row = Some((token.into(), kind));
                    return Ok(());
                }
            },
            None => format!("the model has {rows} rows"),
        };
        let token = token.into();
        Err(ExportError::Id { token, id, reason })
    }

    /// Adds a token that is an object with `content` and flags.
    fn add_flagged(
        &mut self,
        file: &'static str,
        id: Option<u64>,
        token: &Json,
    ) -> Result<(), ExportError> {
        let content = token.get("content").and_then(Json::as_str);
        let content = content
            .ok_or_else(|| malformed(file, format!("the added token {token} has no text")))?;
        let special = token.get("special").and_then(Json::as_bool);
        let kind = match special.unwrap_or(false) {
            true => TokenType::Control,
            false => TokenType::UserDefined,
        };
        self.add(file, content, id, kind)
    }

    fn tokens(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.rows.iter().enumerate().map(|(id, row)| match row {
            Some((token, _)) => Cow::Borrowed(token.as_str()),
            None => Cow::Owned(filler(id)),
        })
    }

    fn types(&self) -> impl Iterator<Item = i32> {
        let kind = |row: &Option<(String, TokenType)>| row.as_ref().map(|(_, kind)| *kind);
        self.rows
            .iter()
            .map(move |row| kind(row).unwrap_or(TokenType::Unused) as i32)
    }
}

/// What goes into the metadata besides the network's shape.
#[derive(Clone, Debug)]
pub struct Description<'a> {
    /// The model's name.
    pub name: &'a str,
    /// How most of the weights are stored.
    pub weights: FileType,
    /// Tokens and merges.
    pub vocabulary: &'a Vocabulary,
    /// Start of text.
    pub bos_token_id: Option<u32>,
    /// End of text.
    pub eos_token_id: Option<u32>,
    /// End of turn, where it is not the end of text.
    pub eot_token_id: Option<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// The mask.
    pub mask_token_id: u32,
    /// The chat template.
    pub chat_template: Option<&'a str>,
    /// Whether the prediction for a position is the output of the one before.
    pub shift_logits: bool,
}

impl<'a> Description<'a> {
    /// The keys of a file, in the order that llama.cpp's converter writes them. The keys of the
    /// `network` are without the name of its `architecture`, which all of them begin with.
    pub fn metadata(
        &self,
        architecture: &'static str,
        network: Vec<(&str, Value<'a>)>,
    ) -> Vec<(String, Value<'a>)> {
        let vocabulary = self.vocabulary;
        let mut keys: Vec<(String, Value<'a>)> = vec![
            ("general.architecture".into(), architecture.into()),
            ("general.type".into(), "model".into()),
            ("general.name".into(), self.name.into()),
        ];
        let network = network.into_iter();
        keys.extend(network.map(|(key, value)| (format!("{architecture}.{key}"), value)));
        let file_type = Value::U32(self.weights.number());
        keys.extend([
            ("general.quantization_version".into(), Value::U32(2)),
            ("general.file_type".into(), file_type),
            (MODEL.into(), "gpt2".into()),
            (PRE.into(), vocabulary.split.gguf_names()[0].into()),
            (
                TOKENS.into(),
                Value::Array(Array::of_strings(vocabulary.tokens())),
            ),
            (
                TOKEN_TYPE.into(),
                Value::Array(Array::of_i32(vocabulary.types())),
            ),
            (
                MERGES.into(),
                Value::Array(Array::of_strings(&vocabulary.merges)),
            ),
        ]);
        for (key, id) in [
            (BOS, self.bos_token_id),
            (EOS, self.eos_token_id),
            (EOT, self.eot_token_id),
            (PAD, self.pad_token_id),
            (MASK, Some(self.mask_token_id)),
        ] {
            keys.extend(id.map(|id| (key.into(), Value::U32(id))));
        }
        keys.push((ADD_BOS.into(), Value::Bool(false)));
        let template = self.chat_template;
        keys.extend(template.map(|template| (TEMPLATE.into(), template.into())));
        keys.push((SHIFT_LOGITS.into(), Value::Bool(self.shift_logits)));
        keys
    }
}

/// The way in which a `tokenizer.json` cuts text, if it has a name.
fn named_split(tokenizer_json: &Json) -> Option<Split> {
    let at = |pointer: &str| tokenizer_json.pointer(pointer);
    let parts = at("/pre_tokenizer/pretokenizers")?.as_array()?;
    let [split, byte_level] = &parts[..] else {
        return None;
    };
    let is_isolated = split.get("behavior")? == "Isolated"
        && split.get("invert").is_none_or(|invert| invert == false);
    let is_bytes = byte_level.get("type")? == "ByteLevel"
        && byte_level.get("use_regex")? == false
        && byte_level.get("add_prefix_space")? == false;
    let expression = split.pointer("/pattern/Regex")?.as_str()?;
    let ignores_merges = at("/model/ignore_merges").is_some_and(|ignored| ignored == true);
    let is_it = |split: &Split| {
        split.expression() == expression && split.ignores_merges() == ignores_merges
    };
    let named = Split::ALL.into_iter().find(is_it);
    named.filter(|_| is_isolated && is_bytes)
}

fn object(file: &'static str, json: &[u8]) -> Result<Map<String, Json>, ExportError> {
    serde_json::from_slice(json).map_err(|error| malformed(file, error.to_string()))
}

fn malformed(file: &'static str, reason: String) -> ExportError {
    ExportError::Malformed { file, reason }
}
