//! Text to token ids and back, exactly as the model's own tokenizer does it.
//!
//! The family is byte-level BPE: normalise (NFC), split into words with a regular expression,
//! write each byte as a printable character, merge. Added tokens such as `<|im_end|>` are found in
//! the text before all that. Who may write them is the caller's choice:
//!
//! - [`Tokenizer::encode`] recognises them everywhere, as `transformers` does.
//! - [`Tokenizer::encode_prompt`] does too, for raw prompts, but refuses the mask token: what the
//!   reference would turn into a hole in the prompt, to be filled in, is most likely a mistake.
//! - [`Tokenizer::encode_plain`] recognises none: a user's file is data, whatever it spells.
//! - [`ChatTemplate::encode`](crate::chat::ChatTemplate::encode) recognises those that the template
//!   writes, and not those in the messages.
//!
//! Source: `transformers`, `models/qwen2/tokenization_qwen2.py`; the parts are those of the
//! `tokenizers` crate. Two are put together differently: unknown ids are shown instead of dropped,
//! and added tokens keep the ids of their files.

mod files;
mod literal;
mod pipeline;
mod split;

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Once, OnceLock};
use std::thread;

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, AddedVocabulary, Decoder, DecoderWrapper, Encoding, Model, Normalizer,
    NormalizerWrapper, OffsetType, PreTokenizer, PreTokenizerWrapper,
};

pub(crate) use self::files::{
    CHAT_TEMPLATE, CONFIG, LEGACY_CHAT_TEMPLATE, SpecialTokens, object, text,
};
pub use self::files::{TokenRole, TokenizerFiles};
pub(crate) use self::literal::Literals;
use self::literal::Restore;
pub use self::split::Split;

/// Why a tokenizer cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum TokenizerError {
    /// The checkpoint has no tokenizer.
    #[error("no tokenizer: there is no tokenizer.json, and no {missing}")]
    Missing { missing: &'static str },
    /// A file is not the JSON it should be.
    #[error("cannot read {file}")]
    Json {
        file: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A file contradicts itself or another one.
    #[error("{file} is damaged: {reason}")]
    Damaged { file: &'static str, reason: String },
    /// The tokenizer is of a kind that this program does not know.
    #[error("{file} asks for {feature}, which is not supported")]
    Unsupported {
        file: &'static str,
        feature: &'static str,
    },
    /// The tokenizer does not belong to the weights.
    #[error("the tokenizer has {tokens} tokens, but the model only {rows}")]
    TooManyTokens { tokens: usize, rows: usize },
    /// A raw prompt contains the mask token.
    #[error("the prompt contains the mask token {token} (line {line})")]
    MaskInPrompt {
        token: String,
        /// The line that it is on, from 1.
        line: usize,
    },
    /// Failure inside the tokenizers library.
    #[error("tokenizing failed")]
    Library(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TokenizerError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("a model's folder holds tokenizer.json, or vocab.json and merges.txt".into())
            }
            Self::Json { .. } | Self::Damaged { .. } | Self::TooManyTokens { .. } => Some(
                "the file is damaged or belongs to another model: download the model again".into(),
            ),
            Self::MaskInPrompt { .. } => Some("take the mask token out of the prompt".into()),
            Self::Unsupported { .. } | Self::Library(_) => None,
        }
    }
}

type Result<T> = std::result::Result<T, TokenizerError>;

/// What [`Tokenizer::decode`] does with special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// They are part of the text.
    Keep,
    /// They are left out.
    Skip,
}

/// A token of a text, and where it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub id: u32,
    /// The byte of the text where it begins; of a token that begins inside of a character, where
    /// that does.
    pub start: usize,
    /// The word of the split expression that it is a part of.
    pub word: Option<u32>,
}

/// Masks that no file may say are one: of Dream's family and dllm's, LLaDA, SDAR, Stable-DiffCoder
/// and Fast-dLLM v2.
pub(crate) const MASK_TOKENS: [&str; 5] = [
    "<|mask|>",
    "<|mdm_mask|>",
    "<|MASK|>",
    "<[MASK\u{2581}TOKEN]>",
    "|<MASK>|",
];

/// Whether added tokens are found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    Recognised,
    Plain,
}

/// A byte-level BPE tokenizer with its added tokens.
pub struct Tokenizer {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: PreTokenizerWrapper,
    model: BPE,
    decoder: DecoderWrapper,
    added: AddedVocabulary,
    /// The same tokens, searched in the text as it is written: normalising a message could
    /// otherwise make a token of what was none.
    added_verbatim: AddedVocabulary,
    no_added: AddedVocabulary,
    specials: SpecialTokens,
    vocab_size: usize,
    /// Ids of the vocabulary in the order of their tokens, once they are needed.
    sorted: OnceLock<Vec<u32>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("specials", &self.specials)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer from `tokenizer.json`, or from `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// [`TokenizerError::Missing`], [`TokenizerError::Json`], [`TokenizerError::Damaged`] and
    /// [`TokenizerError::Unsupported`], with the file at fault.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self> {
        let (pipeline, listed) = match (files.tokenizer_json, files.vocab_json, files.merges_txt) {
            (Some(json), _, _) => pipeline::from_tokenizer_json(json)?,
            (None, Some(vocab), Some(merges)) => {
                let pipeline = pipeline::from_vocab_and_merges(vocab, merges, files.split)?;
                (pipeline, Vec::new())
            }
            (None, vocab, merges) => {
                let missing = match (vocab, merges) {
                    (Some(_), _) => "merges.txt",
                    (_, Some(_)) => "vocab.json",
                    _ => "vocab.json with merges.txt",
                };
                return Err(TokenizerError::Missing { missing });
            }
        };
        let specials = SpecialTokens::read(files)?;
        let mut tokens = Vec::new();
        let mut next = pipeline.model.get_vocab_size() as u32; // the ids below are all taken
        for added in files::added_tokens(listed, files, &specials)? {
            if is_new(&added, &pipeline.model, next)? {
                next += 1;
            }
            tokens.push(added.token);
        }
        // A role can be given to a token of the vocabulary; it is then recognised like the others.
        for text in specials.all() {
            let listed = tokens.iter().any(|token| token.content == text);
            if !listed && pipeline.model.token_to_id(text).is_some() {
                tokens.push(AddedToken::from(text, true));
            }
        }
        let verbatim: Vec<_> = tokens
            .iter()
            .map(|token| token.clone().normalized(false))
            .collect();
        let normalizer = pipeline.normalizer.as_ref();
        Ok(Self {
            added_verbatim: vocabulary(&verbatim, &pipeline.model, normalizer),
            added: vocabulary(&tokens, &pipeline.model, normalizer),
            no_added: AddedVocabulary::new(),
            normalizer: pipeline.normalizer,
            pre_tokenizer: pipeline.pre_tokenizer,
            model: pipeline.model,
            decoder: pipeline.decoder,
            specials,
            vocab_size: next as usize,
            sorted: OnceLock::new(),
        })
    }

    /// The ids of a text, with every added token in it recognised.
    ///
    /// # Errors
    /// [`TokenizerError::Library`], if the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, &self.added, self.normalizer.as_ref())
    }

    /// The ids of a text that is only data: no added token is recognised.
    ///
    /// # Errors
    /// [`TokenizerError::Library`], if the library fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, &self.no_added, self.normalizer.as_ref())
    }

    /// The tokens of a text with their places, as [`Self::encode`] has them or
    /// [`Self::encode_plain`].
    pub(crate) fn encode_placed(&self, text: &str, added: Added) -> Result<Vec<Placed>> {
        let added = match added {
            Added::Recognised => &self.added,
            Added::Plain => &self.no_added,
        };
        let encoding = self.encode_with(text, added, self.normalizer.as_ref(), OffsetType::Byte)?;
        let places = encoding.get_offsets().iter().zip(encoding.get_word_ids());
        let placed = |(&id, (&(start, _), &word))| Placed { id, start, word };
        Ok(encoding.get_ids().iter().zip(places).map(placed).collect())
    }

    /// [`Self::encode`] for a raw prompt of a model whose mask token is `mask`.
    ///
    /// # Errors
    /// [`TokenizerError::MaskInPrompt`] if the text contains that token, and
    /// [`TokenizerError::Library`].
    pub fn encode_prompt(&self, text: &str, mask: u32) -> Result<Vec<u32>> {
        self.check_prompt(text, mask)?;
        self.encode(text)
    }

    /// Checks that a raw prompt does not contain the mask token.
    ///
    /// # Errors
    /// [`TokenizerError::MaskInPrompt`].
    pub(crate) fn check_prompt(&self, text: &str, mask: u32) -> Result<()> {
        let token = self.id_to_token(mask).filter(|token| !token.is_empty());
        match token.and_then(|token| Some((text.find(&token)?, token))) {
            Some((at, token)) => {
                let line = text[..at].matches('\n').count() + 1;
                Err(TokenizerError::MaskInPrompt { token, line })
            }
            None => Ok(()),
        }
    }

    /// The ids of a text in which `literals` protects what is data.
    pub(crate) fn encode_around(&self, text: &str, literals: &Literals<'_>) -> Result<Vec<u32>> {
        let normalizer = self.normalizer.as_ref();
        let restore = Restore {
            literals,
            normalizer,
        };
        self.ids(text, &self.added_verbatim, Some(&restore))
    }

    fn ids(
        &self,
        text: &str,
        added: &AddedVocabulary,
        normalizer: Option<&impl Normalizer>,
    ) -> Result<Vec<u32>> {
        let encoding = self.encode_with(text, added, normalizer, OffsetType::None)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn encode_with(
        &self,
        text: &str,
        added: &AddedVocabulary,
        normalizer: Option<&impl Normalizer>,
        places: OffsetType,
    ) -> Result<Encoding> {
        let encode = || {
            let mut words = added.extract_and_normalize(normalizer, text);
            self.pre_tokenizer.pre_tokenize(&mut words)?;
            words.tokenize(|word| self.model.tokenize(word.get()))?;
            words.into_encoding(None, 0, places)
        };
        // The split expression is the checkpoint's, and its engine panics where it gives up.
        match quietly(encode) {
            Ok(encoding) => encoding.map_err(TokenizerError::Library),
            Err(_) => Err(TokenizerError::Library(
                "the split expression takes too long".into(),
            )),
        }
    }

    /// The text of some ids. Nothing is dropped but what `specials` says: bytes that are not UTF-8
    /// and ids without a token (models have spare rows) become U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32], specials: Specials) -> String {
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| self.is_known(*a) == self.is_known(*b)) {
            if !self.is_known(run[0]) {
                text.extend(run.iter().map(|_| char::REPLACEMENT_CHARACTER));
                continue;
            }
            let tokens: Vec<String> = run
                .iter()
                .filter(|id| specials == Specials::Keep || !self.is_special(**id))
                .filter_map(|id| self.id_to_token(*id))
                .collect();
            // The byte-level decoder, the only one accepted, cannot fail.
            text.push_str(&self.decoder.decode(tokens).unwrap_or_default());
        }
        text
    }

    /// The id of a token as the files spell it (`Ġif`, not ` if`).
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.token_to_id(token, &self.model)
    }

    /// The token with this id, as the files spell it.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        let added = self.added.get_added_tokens_decoder().get(&id);
        added
            .map(|token| token.content.clone())
            .or_else(|| self.model.id_to_token(id))
    }

    /// The bytes of a token, which need not be whole characters.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let added = self.added.get_added_tokens_decoder().get(&id);
        let literal = |text: &str| text.as_bytes().to_vec();
        match (added, self.model.id_to_token(id)) {
            (Some(token), _) => literal(&token.content),
            (None, Some(symbols)) => {
                pipeline::bytes_of(&symbols).unwrap_or_else(|| literal(&symbols))
            }
            (None, None) => literal("\u{fffd}"),
        }
    }

    /// The tokens of the vocabulary that begin with `text`, or are it, in the order of their ids.
    pub(crate) fn tokens_from(&self, text: &str) -> Vec<u32> {
        let symbols = pipeline::symbols_of(text.as_bytes());
        let added = self.added.get_added_tokens_decoder();
        let token = |id: &u32| self.model.id_to_token(*id).unwrap_or_default();
        let sorted = self.sorted.get_or_init(|| {
            let mut ids: Vec<u32> = (0..self.model.get_vocab_size() as u32).collect();
            ids.sort_by_cached_key(token);
            ids
        });
        let first = sorted.partition_point(|id| token(id) < symbols);
        let begins = sorted[first..].iter();
        let begins = begins.take_while(|id| token(id).starts_with(&symbols));
        let mut ids: Vec<u32> = begins
            .copied()
            .filter(|id| !added.contains_key(id))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Whether the files call this token special, like `<|im_end|>`.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.added.get_added_tokens_decoder().get(&id);
        added.is_some_and(|token| token.special)
    }

    /// The token with this role, if the files name one.
    #[must_use]
    pub fn special_token(&self, role: TokenRole) -> Option<&str> {
        self.specials.get(role)
    }

    /// The id of the token with this role, if the files name one that exists.
    #[must_use]
    pub fn special_id(&self, role: TokenRole) -> Option<u32> {
        self.token_to_id(self.special_token(role)?)
    }

    /// The number of tokens, which is the highest id plus one.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a model with this many embedding rows has one for every token. More are fine:
    /// models round their number up.
    ///
    /// # Errors
    /// [`TokenizerError::TooManyTokens`] if it does not.
    pub fn check_fits(&self, rows: usize) -> Result<()> {
        match self.vocab_size <= rows {
            true => Ok(()),
            false => Err(TokenizerError::TooManyTokens {
                tokens: self.vocab_size,
                rows,
            }),
        }
    }

    /// Whether a text spells an added token, which [`Self::encode`] would take for that.
    #[must_use]
    pub fn is_spelt_in(&self, text: &str) -> bool {
        self.added_tokens().any(|token| text.contains(token))
    }

    /// Every token with its id; of those that are found in a text as a whole, whether it is special.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (usize, String, Option<bool>)> {
        let added = self.added.get_added_tokens_decoder();
        (0..self.vocab_size as u32).filter_map(move |id| {
            let special = added.get(&id).map(|token| token.special);
            Some((id as usize, self.id_to_token(id)?, special))
        })
    }

    /// The merges, first things first: two tokens with a space between them.
    pub(crate) fn merges(&self) -> Vec<String> {
        // The library shows them in no other way.
        let model = serde_json::to_value(&self.model).unwrap_or_default();
        let merges = model["merges"].as_array().into_iter().flatten();
        let pair = |merge: &Value| Some(format!("{} {}", merge[0].as_str()?, merge[1].as_str()?));
        merges.filter_map(pair).collect()
    }

    /// How text is cut into words, if that is a way with a name.
    pub(crate) fn split(&self) -> Option<Split> {
        pipeline::split_of(&self.pre_tokenizer, self.model.ignore_merges)
    }

    /// Every added token.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = &str> {
        self.added.get_vocab().keys().map(String::as_str)
    }

    fn is_known(&self, id: u32) -> bool {
        (id as usize) < self.vocab_size
    }
}

/// Does some work that can panic, without the line that the process prints of every panic.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> thread::Result<T> {
    thread_local!(static IS_QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(false);
    done
}

fn vocabulary(
    tokens: &[AddedToken],
    model: &BPE,
    normalizer: Option<&NormalizerWrapper>,
) -> AddedVocabulary {
    let mut added = AddedVocabulary::new();
    added.add_tokens(tokens, model, normalizer);
    added
}

/// Whether an added token gets the id `next`, the first that is free; else it is a token of the
/// vocabulary.
fn is_new(added: &files::Added, model: &impl Model, next: u32) -> Result<bool> {
    let (id, text) = (added.id, &added.token.content);
    let reason = match model.token_to_id(text) {
        Some(own) if own == id => return Ok(false),
        Some(own) => format!("{text:?} has the id {id}, but {own} in the vocabulary"),
        None if id == next => return Ok(true),
        None => match model.id_to_token(id) {
            Some(other) => files::shared(id, &other, text),
            None => {
                format!("{text:?} has the id {id}, but no token has {next}: ids must be contiguous")
            }
        },
    };
    Err(files::damaged(added.file, reason))
}
