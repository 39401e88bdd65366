//! The steps of tokenization (normalizer, pre-tokenizer, model, decoder), checked and handed to the
//! `tokenizers` crate, which runs them.
//!
//! The checks come first because the crate panics on some files and silently drops text with
//! others. Both layouts end here: `tokenizer.json`, and `vocab.json` with `merges.txt`. The second
//! layout says nothing about the text before BPE, which is what a [`Words`] is for.
//!
//! Source: `transformers`, `models/qwen2/tokenization_qwen2.py`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;
use super::files::{self, Added, MERGES, TOKENIZER_JSON, VOCAB, damaged};
use super::split::Split as Words;

/// A tokenizer without its added tokens.
pub(super) struct Pipeline {
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: PreTokenizerWrapper,
    pub model: BPE,
    pub decoder: DecoderWrapper,
}

/// From `vocab.json` and `merges.txt`, for text that is cut into such words.
pub(super) fn from_vocab_and_merges(
    vocab: &[u8],
    merges: &[u8],
    words: Words,
) -> Result<Pipeline, TokenizerError> {
    let vocab: Entries = serde_json::from_slice(vocab).map_err(|source| TokenizerError::Json {
        file: VOCAB,
        source,
    })?;
    let merges = merge_lines(files::text(MERGES, merges)?)?;
    let split = splitter(words).map_err(TokenizerError::Library)?;
    Ok(Pipeline {
        normalizer: words.is_normalized().then(|| NFC.into()),
        pre_tokenizer: Sequence::new(vec![
            split.into(),
            ByteLevel::new(false, true, false).into(),
        ])
        .into(),
        model: Source {
            vocab: VOCAB,
            merges: MERGES,
        }
        .build(vocab, merges, words.ignores_merges())?,
        decoder: ByteLevel::default().into(),
    })
}

fn splitter(words: Words) -> Result<Split, tokenizers::Error> {
    let expression = SplitPattern::Regex(words.expression().to_owned());
    Split::new(expression, SplitDelimiterBehavior::Isolated, false)
}

/// The way of cutting text that these steps are, beside what only their offsets depend on.
pub(super) fn split_of(pre_tokenizer: &PreTokenizerWrapper, ignores_merges: bool) -> Option<Words> {
    let PreTokenizerWrapper::Sequence(steps) = pre_tokenizer else {
        return None;
    };
    let [
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ] = steps.as_ref()
    else {
        return None;
    };
    let is_bytes = !bytes.use_regex && !bytes.add_prefix_space;
    let is_it = |words: &Words| {
        words.ignores_merges() == ignores_merges && splitter(*words).is_ok_and(|own| own == *split)
    };
    Words::ALL.into_iter().find(is_it).filter(|_| is_bytes)
}

/// From `tokenizer.json`, with the added tokens it lists.
///
/// Truncation, padding and the post-processor are left alone: prompts are encoded whole and
/// without automatic start or end tokens, as transformers does for a chat.
pub(super) fn from_tokenizer_json(bytes: &[u8]) -> Result<(Pipeline, Vec<Added>), TokenizerError> {
    let file: TokenizerJson = serde_json::from_slice(bytes).map_err(|source| {
        // Another kind of model has other fields: say that, not which field is missing.
        let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
        match json.pointer("/model/type") {
            Some(kind) if kind != "BPE" => unsupported("a model other than BPE"),
            _ => TokenizerError::Json {
                file: TOKENIZER_JSON,
                source,
            },
        }
    })?;
    file.check_supported()?;
    let (normalizer, pre_tokenizer) = steps(&file.normalizer, &file.pre_tokenizer)?;
    let mut added = Vec::with_capacity(file.added_tokens.len());
    for value in &file.added_tokens {
        let token = files::added_token(TOKENIZER_JSON, value)?;
        let id = value.get("id").unwrap_or(&Value::Null);
        let id = files::token_id(TOKENIZER_JSON, &token.content, id)?;
        added.push(Added {
            id,
            token,
            file: TOKENIZER_JSON,
        });
    }
    let source = Source {
        vocab: TOKENIZER_JSON,
        merges: TOKENIZER_JSON,
    };
    let bpe = file.model;
    let merges = bpe.merges.into_iter().enumerate().map(|(index, merge)| {
        let pair = match merge {
            Merge::Pair(left, right) => Some((left, right)),
            Merge::Line(line) => pair(&line),
        };
        let reason = || format!("merge {} is not two tokens", index + 1);
        pair.ok_or_else(|| damaged(TOKENIZER_JSON, reason()))
    });
    let merges = merges.collect::<Result<_, _>>()?;
    let pipeline = Pipeline {
        normalizer,
        pre_tokenizer,
        model: source.build(bpe.vocab, merges, bpe.ignore_merges)?,
        decoder: ByteLevel::default().into(),
    };
    Ok((pipeline, added))
}

/// Normalizer and pre-tokenizer, as the library reads them in a whole file: that is compiled with
/// the library, while a call for either by itself would compile each kind of step here as well.
fn steps(
    normalizer: &Value,
    pre_tokenizer: &Value,
) -> Result<(Option<NormalizerWrapper>, PreTokenizerWrapper), TokenizerError> {
    let file = json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    });
    let library: tokenizers::Tokenizer = file.to_string().parse().map_err(json_or_library)?;
    let pre_tokenizer = library.get_pre_tokenizer().cloned();
    let pre_tokenizer = pre_tokenizer.ok_or_else(|| unsupported("a file without pre-tokenizer"))?;
    Ok((library.get_normalizer().cloned(), pre_tokenizer))
}

fn json_or_library(error: tokenizers::Error) -> TokenizerError {
    match error.downcast() {
        Ok(source) => TokenizerError::Json {
            file: TOKENIZER_JSON,
            source: *source,
        },
        Err(other) => TokenizerError::Library(other),
    }
}

/// The types in a step of `tokenizer.json`, a sequence taken apart. They are looked at before the
/// library reads them, because it panics on some that it cannot read.
fn types<'a>(step: &'a Value, list: &str) -> Vec<&'a str> {
    let kind = |step: &'a Value| step["type"].as_str().unwrap_or_default();
    match step {
        Value::Null => Vec::new(),
        sequence if kind(sequence) == "Sequence" => {
            let steps = sequence[list].as_array();
            steps.into_iter().flatten().map(kind).collect()
        }
        single => vec![kind(single)],
    }
}

/// The files that a vocabulary and its merges come from, for error messages.
struct Source {
    vocab: &'static str,
    merges: &'static str,
}

impl Source {
    fn build(
        &self,
        Entries(entries): Entries,
        merges: Merges,
        ignore_merges: bool,
    ) -> Result<BPE, TokenizerError> {
        let mut owner: Vec<Option<&str>> = vec![None; entries.len()];
        for (token, id) in &entries {
            // Ids are checked against the count, never used as a size: a huge id costs nothing.
            match owner.get_mut(*id as usize) {
                None => {
                    let reason = format!(
                        "{token:?} has the id {id}, but there are only {} tokens: ids must be contiguous",
                        entries.len(),
                    );
                    return Err(damaged(self.vocab, reason));
                }
                Some(Some(first)) => {
                    return Err(damaged(self.vocab, files::shared(*id, first, token)));
                }
                Some(free) => *free = Some(token),
            }
        }
        let count = entries.len();
        let vocab: Vocab = entries.into_iter().collect();
        if vocab.len() != count {
            return Err(damaged(self.vocab, "a token is listed twice"));
        }
        // Without these BPE would drop bytes of the text without a word.
        if let Some(missing) = byte_symbols().find(|symbol| !vocab.contains_key(symbol.as_str())) {
            let reason = format!("the byte symbol {missing:?} is missing");
            return Err(damaged(self.vocab, reason));
        }
        BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(ignore_merges)
            .build()
            .map_err(|error| {
                damaged(
                    self.merges,
                    format!("not all of it is in {}: {error}", self.vocab),
                )
            })
    }
}

/// The 256 characters that stand for bytes: printable Latin-1 as itself, the others from U+0100.
fn byte_symbols() -> impl Iterator<Item = String> {
    ByteLevel::alphabet().into_iter().map(String::from)
}

/// Whether a byte's symbol is the character itself. The alphabet has Latin-1's printable characters
/// for themselves, and from U+0100 one for each other byte, in the bytes' order.
fn is_own_symbol(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes that a token's symbols stand for; `None` if one stands for no byte.
pub(super) fn bytes_of(symbols: &str) -> Option<Vec<u8>> {
    let byte = |symbol: char| match u8::try_from(symbol) {
        Ok(byte) => is_own_symbol(byte).then_some(byte),
        Err(_) => {
            let nth = (symbol as usize).checked_sub(0x100)?;
            (0..=u8::MAX).filter(|byte| !is_own_symbol(*byte)).nth(nth)
        }
    };
    symbols.chars().map(byte).collect()
}

/// The symbols that stand for these bytes.
pub(super) fn symbols_of(bytes: &[u8]) -> String {
    let symbol = |&byte: &u8| match is_own_symbol(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|byte| !is_own_symbol(*byte)).count();
            char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    };
    bytes.iter().map(symbol).collect()
}

/// The lines of `merges.txt`. Only a first line can be a comment: merges contain `#` too.
fn merge_lines(text: &str) -> Result<Merges, TokenizerError> {
    let text = text.trim_end_matches(['\r', '\n']);
    let mut merges = Merges::with_capacity(text.len() / 11); // the mean line of Qwen2's
    for (index, line) in text.lines().enumerate() {
        if index == 0 && (line.starts_with("#version") || line.is_empty()) {
            continue;
        }
        match pair(line) {
            Some(pair) => merges.push(pair),
            None => {
                let reason = format!("line {} is not two tokens: {line:?}", index + 1);
                return Err(damaged(MERGES, reason));
            }
        }
    }
    Ok(merges)
}

fn pair(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    let fine = !left.is_empty() && !right.is_empty() && !right.contains(' ');
    fine.then(|| (left.to_owned(), right.to_owned()))
}

fn unsupported(feature: &'static str) -> TokenizerError {
    TokenizerError::Unsupported {
        file: TOKENIZER_JSON,
        feature,
    }
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<Value>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: BpeJson,
}

impl TokenizerJson {
    /// Checks that this is byte-level BPE without extras: all that the family uses.
    fn check_supported(&self) -> Result<(), TokenizerError> {
        let bpe = &self.model;
        let affixes = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix];
        let normalizers = types(&self.normalizer, "normalizers");
        let is_unicode_form = |kind| ["NFC", "NFD", "NFKC", "NFKD"].contains(kind);
        let pre_tokenizers = types(&self.pre_tokenizer, "pretokenizers");
        let byte_level = pre_tokenizers.split_last().is_some_and(|(last, cuts)| {
            *last == "ByteLevel" && cuts.iter().all(|cut| ["Split", "Digits"].contains(cut))
        });
        if bpe.kind.as_ref().is_some_and(|kind| kind != "BPE") {
            Err(unsupported("a model other than BPE"))
        } else if bpe.dropout.is_some_and(|p| p != 0.0) {
            Err(unsupported("BPE dropout"))
        } else if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
            Err(unsupported("BPE with subword prefixes or suffixes"))
        } else if !normalizers.iter().all(is_unicode_form) {
            Err(unsupported("a normaliser other than a Unicode form"))
        } else if !byte_level || types(&self.decoder, "decoders") != ["ByteLevel"] {
            Err(unsupported("anything but byte-level BPE"))
        } else {
            Ok(())
        }
    }
}

#[derive(Deserialize)]
struct BpeJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Entries,
    merges: Vec<Merge>,
}

/// A JSON object from token to id, as a list: a map would hide a key that is there twice.
struct Entries(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// One merge of `tokenizer.json`: `["a", "b"]`, or `"a b"` in older files.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a merge is not two tokens")]
enum Merge {
    Pair(String, String),
    Line(String),
}
