//! The metadata of a file that llama.cpp loads, from a description of the model and its tokenizer.
//!
//! llama.cpp wants a token for every row of the embedding table, with a type; spare rows are
//! fillers of type "unused". It has no NFC, and tells words apart by the name of a known
//! tokenizer, so only tokenizers that cut text as one with a name does can be written.
//!
//! Source: `conversion/dream.py` and `conversion/base.py` in ggml-org/llama.cpp.

use super::tokenizer::{
    ADD_BOS, BOS, EOS, EOT, MASK, MERGES, MODEL, PAD, PRE, SHIFT_LOGITS, TEMPLATE, TOKEN_TYPE,
    TOKENS, TokenType, filler,
};
use super::{Array, FileType, Value};
use crate::tokenizer::{Split, Tokenizer, TokenizerError};

/// Why a tokenizer cannot be put into a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It has more tokens than the model has rows.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// GGUF has no word for how it cuts text.
    #[error(
        "the tokenizer cuts text into words in a way that has no name, which a GGUF file cannot \
         express"
    )]
    Split,
}

impl ExportError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tokenizer(error) => error.hint(),
            Self::Split => {
                Some("run the model from its own files: they are quantized when loaded".into())
            }
        }
    }
}

/// A token for each row of the embedding table, and the merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    rows: Vec<(String, TokenType)>,
    merges: Vec<String>,
    split: Split,
}

impl Vocabulary {
    /// That of a tokenizer, for a model with `rows` embedding rows.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn of(rows: usize, tokenizer: &Tokenizer) -> Result<Self, ExportError> {
        tokenizer.check_fits(rows)?;
        let spare = (0..rows).map(|id| (filler(id), TokenType::Unused));
        let mut listed: Vec<_> = spare.collect();
        for (id, token, is_special) in tokenizer.tokens() {
            let kind = match is_special {
                None => TokenType::Normal,
                Some(true) => TokenType::Control,
                Some(false) => TokenType::UserDefined,
            };
            if token != listed[id].0 {
                listed[id] = (token, kind);
            }
        }
        let merges = tokenizer.merges();
        // Without merges every byte is a token, however text is split.
        let split = match tokenizer.split() {
            None if merges.is_empty() => Split::default(),
            split => split.ok_or(ExportError::Split)?,
        };
        Ok(Self {
            rows: listed,
            merges,
            split,
        })
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
        let tokens = vocabulary.rows.iter().map(|(token, _)| token);
        let types = vocabulary.rows.iter().map(|(_, kind)| *kind as i32);
        keys.extend([
            ("general.quantization_version".into(), Value::U32(2)),
            ("general.file_type".into(), file_type),
            (MODEL.into(), "gpt2".into()),
            (PRE.into(), vocabulary.split.gguf_names()[0].into()),
            (TOKENS.into(), Value::Array(Array::of_strings(tokens))),
            (TOKEN_TYPE.into(), Value::Array(Array::of_i32(types))),
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
