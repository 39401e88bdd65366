//! The tokenizer of a GGUF file, as the files of a checkpoint.
//!
//! GGUF lists every row of the embedding table as a token with a type. Here that becomes
//! vocab.json, merges.txt and tokenizer_config.json, so that there is one tokenizer to get right:
//!
//! - normal tokens are the vocabulary;
//! - control and user-defined tokens are added tokens, found in the text as a whole;
//! - unused rows (`[PAD151668]`) are nobody's token: those at the end are dropped, and one between
//!   tokens keeps its place in vocab.json, where no merge leads to it.
//!
//! Source: `conversion/dream.py` and `conversion/base.py` in ggml-org/llama.cpp.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use super::{GgufError, GgufFile};
use crate::tokenizer::{MASK_TOKENS, Split};

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const EOT: &str = "tokenizer.ggml.eot_token_id";
pub(super) const PAD: &str = "tokenizer.ggml.padding_token_id";
pub(super) const MASK: &str = "tokenizer.ggml.mask_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
pub(super) const SHIFT_LOGITS: &str = "diffusion.shift_logits";

/// What a row of the embedding table stands for; the numbers are those in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn from_number(number: i128) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    fn is_added(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined)
    }
}

/// The name of an unused row.
pub(super) fn filler(id: usize) -> String {
    format!("[PAD{id}]")
}

/// A file's tokenizer, as the contents of a checkpoint's files, and the ids that config.json and
/// generation_config.json would hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTokenizer {
    /// `vocab.json`.
    pub vocab_json: Vec<u8>,
    /// `merges.txt`.
    pub merges_txt: Vec<u8>,
    /// How text is cut into words.
    pub split: Split,
    /// `tokenizer_config.json`: roles, added tokens with their flags, chat template.
    pub tokenizer_config_json: Vec<u8>,
    /// Ends of text and of turn.
    pub eos_token_ids: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// The mask.
    pub mask_token_id: Option<u32>,
    /// Whether the prediction for a position is the output of the one before, if the file says.
    pub shift_logits: Option<bool>,
}

impl GgufTokenizer {
    /// Reads the tokenizer of a model with `rows` embedding rows.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::WrongType`] and [`GgufError::BadValue`], with the
    /// key at fault.
    pub fn read(file: &GgufFile<'_>, rows: usize) -> Result<Self, GgufError> {
        let Rows {
            tokens,
            types,
            roles,
            split,
        } = &Rows::read(file, rows)?;
        Ok(Self {
            vocab_json: vocab_json(tokens, types),
            merges_txt: merges_txt(file)?,
            split: *split,
            tokenizer_config_json: tokenizer_config_json(file, tokens, types, roles)?,
            eos_token_ids: roles.ends(),
            pad_token_id: roles.pad,
            mask_token_id: roles.mask,
            shift_logits: file.bool_if_any(SHIFT_LOGITS)?,
        })
    }
}

/// A token and its type for each row of the embedding table, spare ones at the end left out;
/// checked.
struct Rows<'f> {
    tokens: Vec<&'f str>,
    types: Vec<TokenType>,
    split: Split,
    roles: Roles,
}

impl<'f> Rows<'f> {
    fn read(file: &'f GgufFile<'_>, rows: usize) -> Result<Self, GgufError> {
        let model = file.str(MODEL)?;
        check(MODEL, model, model == "gpt2", || {
            "\"gpt2\" (byte-level BPE)".into()
        })?;
        let split = split(file)?;
        let mut tokens: Vec<&str> = file.strings(TOKENS)?.collect();
        let fits = !tokens.is_empty() && tokens.len() <= rows;
        check(TOKENS, format!("{} tokens", tokens.len()), fits, || {
            format!("1 to {rows}, the rows of the embedding table")
        })?;
        let mut types = types(file, &tokens)?;
        let roles = Roles::read(file, rows, &tokens, &types)?;
        for id in roles.all() {
            // A token with a role is found in the text as a whole, whatever type it was given.
            match (tokens.get(id as usize), types.get_mut(id as usize)) {
                (Some(token), Some(kind)) if !kind.is_added() && *token != filler(id as usize) => {
                    *kind = TokenType::Control;
                }
                _ => {}
            }
        }
        let used = |kind: &TokenType| *kind != TokenType::Unused;
        let end = types.iter().rposition(used).map_or(0, |last| last + 1);
        tokens.truncate(end);
        types.truncate(end);
        check_texts(&tokens, &types)?;
        Ok(Self {
            tokens,
            types,
            split,
            roles,
        })
    }
}

/// The way of cutting text that the file names.
fn split(file: &GgufFile<'_>) -> Result<Split, GgufError> {
    let name = file.str(PRE)?;
    let mut known = Split::ALL.into_iter();
    let split = known.find(|split| split.gguf_names().contains(&name));
    split.ok_or_else(|| {
        bad(PRE, name, || {
            let names = Split::ALL.iter().flat_map(|split| split.gguf_names());
            names.copied().collect::<Vec<_>>().join(", ")
        })
    })
}

/// The ids of the tokens that have a role.
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    pad: Option<u32>,
    mask: Option<u32>,
}

impl Roles {
    fn read(
        file: &GgufFile<'_>,
        rows: usize,
        tokens: &[&str],
        types: &[TokenType],
    ) -> Result<Self, GgufError> {
        let id = |key: &str| -> Result<Option<u32>, GgufError> {
            // llama.cpp's "none" is -1, which some tools store.
            const NONE: u32 = u32::MAX;
            let id = match file.get(key).and_then(super::Value::as_integer) {
                Some(-1) => None,
                _ => file.u32_if_any(key)?.filter(|&id| id != NONE),
            };
            if let Some(id) = id {
                check(key, id, (id as usize) < rows, || {
                    format!("below {rows}, the rows of the embedding table")
                })?;
            }
            Ok(id)
        };
        // Files made before there was a key for it.
        let named_mask = || {
            let is_mask = |(token, kind): (&&str, &TokenType)| {
                MASK_TOKENS.contains(token) && *kind != TokenType::Unused
            };
            let at = tokens.iter().zip(types).position(is_mask);
            at.map(|id| id as u32) // tokens are no more than rows
        };
        Ok(Self {
            bos: id(BOS)?,
            eos: id(EOS)?,
            eot: id(EOT)?,
            pad: id(PAD)?,
            mask: id(MASK)?.or_else(named_mask),
        })
    }

    fn ends(&self) -> Vec<u32> {
        let eot = self.eot.filter(|eot| Some(*eot) != self.eos);
        self.eos.into_iter().chain(eot).collect()
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        [self.bos, self.eos, self.eot, self.pad, self.mask]
            .into_iter()
            .flatten()
    }
}

fn types(file: &GgufFile<'_>, tokens: &[&str]) -> Result<Vec<TokenType>, GgufError> {
    let Some(numbers) = file.integers_if_any(TOKEN_TYPE)? else {
        return guessed_types(file, tokens);
    };
    let types: Vec<TokenType> = numbers
        .map(|number| {
            TokenType::from_number(number)
                .ok_or_else(|| bad(TOKEN_TYPE, number, || "made of 1 to 6".into()))
        })
        .collect::<Result<_, _>>()?;
    check(
        TOKEN_TYPE,
        format!("{} types", types.len()),
        types.len() == tokens.len(),
        || format!("{}, one for each token", tokens.len()),
    )?;
    match types.iter().all(|kind| *kind == TokenType::Normal) {
        true => guessed_types(file, tokens), // as good as none: every model has a mask
        false => Ok(types),
    }
}

/// The types in a file that has none: what is neither a byte nor made by a merge can only be found
/// in the text as a whole, or is nobody's.
fn guessed_types(file: &GgufFile<'_>, tokens: &[&str]) -> Result<Vec<TokenType>, GgufError> {
    let merged: HashSet<String> = merges(file)?.map(|merge| merge.replace(' ', "")).collect();
    let guess = |(id, token): (usize, &&str)| match *token {
        token if token.chars().count() == 1 || merged.contains(token) => TokenType::Normal,
        token if token == filler(id) => TokenType::Unused,
        token if token.starts_with("<|") && token.ends_with("|>") => TokenType::Control,
        _ => TokenType::UserDefined,
    };
    Ok(tokens.iter().enumerate().map(guess).collect())
}

/// Tokens must differ, and one that is searched for in the text must have some.
fn check_texts(tokens: &[&str], types: &[TokenType]) -> Result<(), GgufError> {
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        if !seen.insert(*token) {
            return Err(bad(TOKENS, format!("{token:?} twice"), || {
                format!("made of different tokens (the second is {id})")
            }));
        }
        if kind.is_added() && token.is_empty() {
            return Err(bad(TOKENS, format!("empty at {id}"), || {
                "a text where a token is to be found in one".into()
            }));
        }
    }
    Ok(())
}

/// Every row up to the last that is not an added token: ids in vocab.json have no gaps.
fn vocab_json(tokens: &[&str], types: &[TokenType]) -> Vec<u8> {
    let ordinary = |kind: &TokenType| !kind.is_added();
    let end = types.iter().rposition(ordinary).map_or(0, |last| last + 1);
    let mut json = String::from("{");
    for (id, token) in tokens[..end].iter().enumerate() {
        let comma = if id == 0 { "" } else { "," };
        json.push_str(&format!("{comma}{}:{id}", Json::from(*token)));
    }
    json.push('}');
    json.into_bytes()
}

/// The merges; a tokenizer without any has no key for them.
fn merges<'f>(file: &'f GgufFile<'_>) -> Result<impl Iterator<Item = &'f str>, GgufError> {
    let merges = file.get(MERGES).map(|_| file.strings(MERGES));
    Ok(merges.transpose()?.into_iter().flatten())
}

fn merges_txt(file: &GgufFile<'_>) -> Result<Vec<u8>, GgufError> {
    let mut lines = String::from("#version: 0.2\n");
    for (index, merge) in merges(file)?.enumerate() {
        let two = matches!(merge.split_once(' '), Some((left, right))
            if !left.is_empty() && !right.is_empty() && !right.contains(' '));
        if !two || merge.contains(['\n', '\r']) {
            return Err(bad(MERGES, format!("{merge:?} at {index}"), || {
                "two tokens with a space between them".into()
            }));
        }
        lines.push_str(merge);
        lines.push('\n');
    }
    Ok(lines.into_bytes())
}

fn added<'t>(
    tokens: &[&'t str],
    types: &[TokenType],
) -> impl Iterator<Item = (usize, &'t str, TokenType)> {
    let rows = tokens.iter().zip(types).enumerate();
    rows.map(|(id, (token, kind))| (id, *token, *kind))
        .filter(|(_, _, kind)| kind.is_added())
}

fn tokenizer_config_json(
    file: &GgufFile<'_>,
    tokens: &[&str],
    types: &[TokenType],
    roles: &Roles,
) -> Result<Vec<u8>, GgufError> {
    let decoder = added(tokens, types).map(|(id, token, kind)| {
        let flags = json!({
            "content": token, "special": kind == TokenType::Control, "normalized": false,
            "lstrip": false, "rstrip": false, "single_word": false,
        });
        (id.to_string(), flags)
    });
    let mut config = Map::new();
    config.insert(
        "add_bos_token".into(),
        file.bool_if_any(ADD_BOS)?.unwrap_or(false).into(),
    );
    config.insert(
        "added_tokens_decoder".into(),
        decoder.collect::<Map<_, _>>().into(),
    );
    for (role, id) in [
        ("bos_token", roles.bos),
        ("eos_token", roles.eos),
        ("pad_token", roles.pad),
        ("mask_token", roles.mask),
    ] {
        let row = id.map(|id| id as usize);
        // A role can fall on a spare row, which has an id but no text.
        let token = row.filter(|&row| types.get(row).is_some_and(|kind| kind.is_added()));
        if let Some(row) = token {
            config.insert(role.into(), tokens[row].into());
        }
    }
    if let Some(template) = file.str_if_any(TEMPLATE)? {
        config.insert("chat_template".into(), template.into());
    }
    Ok(Json::from(config).to_string().into_bytes())
}

fn check(
    key: &str,
    found: impl ToString,
    ok: bool,
    expected: impl FnOnce() -> String,
) -> Result<(), GgufError> {
    match ok {
        true => Ok(()),
        false => Err(bad(key, found, expected)),
    }
}

fn bad(key: &str, found: impl ToString, expected: impl FnOnce() -> String) -> GgufError {
    GgufError::BadValue {
        key: key.into(),
        found: found.to_string(),
        expected: expected(),
    }
}
