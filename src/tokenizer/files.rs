//! The tokenizer's files, read and checked before anything is built from them.
//!
//! A checkpoint carries either `tokenizer.json` (everything in one file) or the older layout:
//! `vocab.json`, `merges.txt`, and added tokens in `added_tokens.json` and in
//! `tokenizer_config.json`'s `added_tokens_decoder`. Every file comes from somewhere else, so each
//! is checked here: the `tokenizers` crate gives added tokens whatever id is free instead of the id
//! the file says.
//!
//! Source: `transformers` 5, `PreTrainedTokenizerBase._from_pretrained` (which file wins, and the
//! flags of a token that `added_tokens.json` alone names).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Split, TokenizerError};

pub(super) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(super) const VOCAB: &str = "vocab.json";
pub(super) const MERGES: &str = "merges.txt";
const ADDED_TOKENS: &str = "added_tokens.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(crate) const CONFIG: &str = "tokenizer_config.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
pub(crate) const LEGACY_CHAT_TEMPLATE: &str = "chat_template.json";

/// The contents of a checkpoint's tokenizer files; `None` for a file it does not have.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`. When it is there, `vocab.json` and `merges.txt` are not read.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `vocab.json`: token to id.
    pub vocab_json: Option<&'a [u8]>,
    /// `merges.txt`: one merge a line, the first merge first.
    pub merges_txt: Option<&'a [u8]>,
    /// `added_tokens.json`: added token to id.
    pub added_tokens_json: Option<&'a [u8]>,
    /// `special_tokens_map.json`: role (`eos_token`) to token.
    pub special_tokens_map_json: Option<&'a [u8]>,
    /// `tokenizer_config.json`: roles, added tokens with their flags, chat template.
    pub tokenizer_config_json: Option<&'a [u8]>,
    /// `chat_template.jinja`. Wins over the template in `tokenizer_config.json`.
    pub chat_template_jinja: Option<&'a [u8]>,
    /// `chat_template.json`, which older processors have. Read where no other file has a template.
    pub chat_template_json: Option<&'a [u8]>,
    /// How text is cut into words where there is no `tokenizer.json`.
    pub split: Split,
}

impl<'a> TokenizerFiles<'a> {
    /// The names of all the files, for whoever has to fetch or open them.
    pub const NAMES: [&'static str; 8] = [
        TOKENIZER_JSON,
        VOCAB,
        MERGES,
        ADDED_TOKENS,
        SPECIAL_TOKENS_MAP,
        CONFIG,
        CHAT_TEMPLATE,
        LEGACY_CHAT_TEMPLATE,
    ];

    /// Asks `contents` for each of [`Self::NAMES`].
    pub fn gather(mut contents: impl FnMut(&str) -> Option<&'a [u8]>) -> Self {
        Self {
            tokenizer_json: contents(TOKENIZER_JSON),
            vocab_json: contents(VOCAB),
            merges_txt: contents(MERGES),
            added_tokens_json: contents(ADDED_TOKENS),
            special_tokens_map_json: contents(SPECIAL_TOKENS_MAP),
            tokenizer_config_json: contents(CONFIG),
            chat_template_jinja: contents(CHAT_TEMPLATE),
            chat_template_json: contents(LEGACY_CHAT_TEMPLATE),
            split: Split::default(),
        }
    }
}

/// A role that a token can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// `bos_token`.
    Bos,
    /// `eos_token`.
    Eos,
    /// `pad_token`.
    Pad,
    /// `unk_token`.
    Unk,
    /// `mask_token`.
    Mask,
}

impl TokenRole {
    pub(crate) const ALL: [Self; 5] = [Self::Bos, Self::Eos, Self::Pad, Self::Unk, Self::Mask];

    /// The key in the files, which is also the variable in a chat template.
    #[must_use]
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Bos => "bos_token",
            Self::Eos => "eos_token",
            Self::Pad => "pad_token",
            Self::Unk => "unk_token",
            Self::Mask => "mask_token",
        }
    }
}

/// Which token has which role, from `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialTokens {
    /// In the order of [`TokenRole::ALL`].
    by_role: [Option<String>; 5],
    /// Tokens under other names (`cls_token`, `image_token`): variables of a chat template too.
    others: Vec<(String, String)>,
    /// Tokens that are special without a name.
    additional: Vec<String>,
}

impl SpecialTokens {
    pub(crate) fn read(files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let config = object(CONFIG, files.tokenizer_config_json)?;
        let map = object(SPECIAL_TOKENS_MAP, files.special_tokens_map_json)?;
        // transformers reads the older file only when the config lists no added tokens, and then
        // prefers it. Here the other file still fills the gaps: a role named once is not lost.
        let order = match config.contains_key("added_tokens_decoder") {
            true => [(CONFIG, &config), (SPECIAL_TOKENS_MAP, &map)],
            false => [(SPECIAL_TOKENS_MAP, &map), (CONFIG, &config)],
        };
        let mut found = Self::default();
        for (file, object) in order {
            for (role, slot) in TokenRole::ALL.into_iter().zip(&mut found.by_role) {
                if let (None, Some(value)) = (&slot, object.get(role.key())) {
                    *slot = content(file, role.key(), value)?;
                }
            }
            for key in ["additional_special_tokens", "extra_special_tokens"] {
                match object.get(key) {
                    Some(Value::Array(list)) => {
                        for token in list {
                            found.additional.extend(content(file, key, token)?);
                        }
                    }
                    Some(Value::Object(named)) => {
                        for (name, token) in named {
                            let token = content(file, name, token)?;
                            found
                                .others
                                .extend(token.map(|token| (name.clone(), token)));
                        }
                    }
                    _ => {}
                }
            }
            for (name, value) in object {
                let is_role = TokenRole::ALL.iter().any(|role| role.key() == name);
                if name.ends_with("_token") && !is_role && !value.is_boolean() {
                    let token = content(file, name, value)?;
                    found
                        .others
                        .extend(token.map(|token| (name.clone(), token)));
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn get(&self, role: TokenRole) -> Option<&str> {
        self.by_role[role as usize].as_deref()
    }

    /// The tokens that have names: a role, or another one.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        let roles = TokenRole::ALL.into_iter().zip(&self.by_role);
        let roles = roles.filter_map(|(role, token)| Some((role.key(), token.as_deref()?)));
        let others = self.others.iter();
        roles.chain(others.map(|(name, token)| (&**name, &**token)))
    }

    /// Every token that some file calls special.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        let named = self.named().map(|(_, token)| token);
        named.chain(self.additional.iter().map(String::as_str))
    }
}

/// A token that is matched in the text before any splitting.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub id: u32,
    pub token: tokenizers::AddedToken,
    /// The file that named it first, for messages.
    pub file: &'static str,
}

/// The added tokens, in the order of their ids: `first` (those in `tokenizer.json`), then those in
/// `tokenizer_config.json` and `added_tokens.json`. The first file that has a token sets its flags.
pub(super) fn added_tokens(
    first: Vec<Added>,
    files: &TokenizerFiles<'_>,
    specials: &SpecialTokens,
) -> Result<Vec<Added>, TokenizerError> {
    let config = object(CONFIG, files.tokenizer_config_json)?;
    let mut all = first;
    match config.get("added_tokens_decoder") {
        None | Some(Value::Null) => {}
        Some(Value::Object(decoder)) => {
            for (id, token) in decoder {
                let id = id.parse().map_err(|_| {
                    damaged(
                        CONFIG,
                        format!("added_tokens_decoder: {id:?} is not a token id"),
                    )
                })?;
                let token = added_token(CONFIG, token)?;
                all.push(Added {
                    id,
                    token,
                    file: CONFIG,
                });
            }
        }
        Some(_) => return Err(damaged(CONFIG, "added_tokens_decoder is not an object")),
    }
    for (text, id) in object(ADDED_TOKENS, files.added_tokens_json)? {
        let id = token_id(ADDED_TOKENS, &text, &id)?;
        let token = tokenizers::AddedToken::from(text.clone(), specials.all().any(|s| s == text));
        all.push(Added {
            id,
            token,
            file: ADDED_TOKENS,
        });
    }
    all.sort_by_key(|added| added.id); // stable: the first file stays first
    unique(all)
}

/// Each token once, where the files agree on it. `all` is sorted by id.
fn unique(all: Vec<Added>) -> Result<Vec<Added>, TokenizerError> {
    let mut kept: Vec<Added> = Vec::with_capacity(all.len());
    let mut by_text: HashMap<String, usize> = HashMap::with_capacity(all.len());
    for added in all {
        let text = &added.token.content;
        if text.is_empty() {
            return Err(damaged(
                added.file,
                format!("the added token {} is empty", added.id),
            ));
        }
        if let Some(&seen) = by_text.get(text) {
            let seen = &kept[seen];
            if seen.id != added.id {
                let reason = format!(
                    "{text:?} has the id {}, but {} in {}",
                    added.id, seen.id, seen.file,
                );
                return Err(damaged(added.file, reason));
            }
            continue;
        }
        if let Some(last) = kept.last().filter(|last| last.id == added.id) {
            return Err(damaged(
                added.file,
                shared(added.id, &last.token.content, text),
            ));
        }
        by_text.insert(text.clone(), kept.len());
        kept.push(added);
    }
    Ok(kept)
}

/// Reads an entry of `added_tokens_decoder`, or of `added_tokens` in `tokenizer.json`.
pub(super) fn added_token(
    file: &'static str,
    value: &Value,
) -> Result<tokenizers::AddedToken, TokenizerError> {
    let text = value.get("content").and_then(Value::as_str);
    let text = text.ok_or_else(|| damaged(file, "an added token has no content"))?;
    let flag = |key: &str, default: bool| match value.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(damaged(
            file,
            format!("{key} of the added token {text:?} is not a boolean"),
        )),
    };
    let special = flag("special", false)?;
    Ok(tokenizers::AddedToken {
        content: text.to_owned(),
        special,
        normalized: flag("normalized", !special)?,
        single_word: flag("single_word", false)?,
        lstrip: flag("lstrip", false)?,
        rstrip: flag("rstrip", false)?,
    })
}

/// A token id given as JSON.
pub(super) fn token_id(
    file: &'static str,
    token: &str,
    value: &Value,
) -> Result<u32, TokenizerError> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| damaged(file, format!("the id of {token:?} is {value}")))
}

/// A token given as a string or as a serialised `AddedToken`; `None` for null.
fn content(file: &'static str, key: &str, value: &Value) -> Result<Option<String>, TokenizerError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Object(token) => match token.get("content") {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            _ => Err(damaged(file, format!("{key} has no content"))),
        },
        _ => Err(damaged(
            file,
            format!("{key} is neither a string nor a token"),
        )),
    }
}

/// A file that must be a JSON object; an absent file is an empty one.
pub(crate) fn object(
    file: &'static str,
    bytes: Option<&[u8]>,
) -> Result<Map<String, Value>, TokenizerError> {
    match bytes {
        None => Ok(Map::new()),
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json { file, source })
        }
    }
}

/// A file that must be UTF-8.
pub(crate) fn text<'a>(file: &'static str, bytes: &'a [u8]) -> Result<&'a str, TokenizerError> {
    std::str::from_utf8(bytes)
        .map_err(|error| damaged(file, format!("not UTF-8 at byte {}", error.valid_up_to())))
}

/// Two tokens with one id.
pub(super) fn shared(id: u32, first: &str, second: &str) -> String {
    format!("{first:?} and {second:?} share the id {id}")
}

pub(super) fn damaged(file: &'static str, reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Damaged {
        file,
        reason: reason.into(),
    }
}
