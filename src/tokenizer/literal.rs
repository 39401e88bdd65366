//! Text that must stay text: stand-ins that keep a message from spelling a control token.
//!
//! A chat template writes `<|im_end|>` to end a turn, and a message may contain the same ten
//! characters as data. Once the template has joined both they look alike, so every message is
//! changed before: wherever an added token begins in it, that character becomes a stand-in that
//! occurs nowhere else. The added tokens are then searched in the rendered text, which finds only
//! the template's own, and the stand-ins become the old characters again before BPE. A message
//! without such text is not touched, and a stand-in neither moves nor joins anything, so the ids
//! are those of the reference in all other respects.
//!
//! Source: the idea is that of `sanitize_control_tokens` in transformers 5, which cuts the text at
//! markers; stand-ins leave it whole, so words at the edges are split as always.

use std::collections::{BTreeSet, HashSet};

use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

/// Characters that no text should contain: the noncharacters, then a private plane.
const CANDIDATES: [std::ops::RangeInclusive<char>; 2] =
    ['\u{FDD0}'..='\u{FDEF}', '\u{F0000}'..='\u{FFFFD}'];

/// Stand-ins for the characters that begin an added token in some texts.
#[derive(Debug, Default)]
pub(crate) struct Literals<'t> {
    tokens: Vec<&'t str>,
    /// Stand-in and the character it stands for.
    pairs: Vec<(char, char)>,
}

impl<'t> Literals<'t> {
    /// Chooses stand-ins for `data`, texts in which none of `tokens` may be recognised, so that
    /// they occur neither there nor in `around`. `None` if every candidate is taken.
    pub(crate) fn choose<'a>(
        tokens: impl Iterator<Item = &'t str>,
        data: impl Iterator<Item = &'a str> + Clone,
        around: &str,
    ) -> Option<Self> {
        let tokens: Vec<&str> = tokens.collect();
        let mut taken: HashSet<char> = around.chars().collect();
        let mut begins = BTreeSet::new();
        for token in &tokens {
            taken.extend(token.chars());
            if data.clone().any(|text| text.contains(token)) {
                begins.extend(token.chars().next());
            }
        }
        taken.extend(data.flat_map(str::chars));
        let mut free = CANDIDATES
            .into_iter()
            .flatten()
            .filter(|c| !taken.contains(c));
        let pairs = begins.into_iter().map(|begin| Some((free.next()?, begin)));
        Some(Self {
            pairs: pairs.collect::<Option<_>>()?,
            tokens,
        })
    }

    /// The text with a stand-in wherever a token begins.
    pub(crate) fn protect(&self, text: &str) -> String {
        let protect = |(at, c): (usize, char)| {
            let stand_in = self.pairs.iter().find(|(_, original)| *original == c);
            match stand_in {
                Some((stand_in, _)) if self.tokens.iter().any(|t| text[at..].starts_with(t)) => {
                    *stand_in
                }
                _ => c,
            }
        };
        text.char_indices().map(protect).collect()
    }

    fn original(&self, c: char) -> char {
        let pair = self.pairs.iter().find(|(stand_in, _)| *stand_in == c);
        pair.map_or(c, |(_, original)| *original)
    }
}

/// Puts the characters back, then normalises: what runs on text that is no added token.
pub(super) struct Restore<'a> {
    pub literals: &'a Literals<'a>,
    pub normalizer: Option<&'a NormalizerWrapper>,
}

impl Normalizer for Restore<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if text.get().chars().any(|c| self.literals.original(c) != c) {
            text.map(|c| self.literals.original(c));
        }
        self.normalizer
            .map_or(Ok(()), |normalizer| normalizer.normalize(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 3] = ["<|im_end|>", "<|mask|>", "[X]"];

    fn protected(text: &str) -> (String, Vec<(char, char)>) {
        let literals = Literals::choose(TOKENS.into_iter(), [text].into_iter(), "").unwrap();
        (literals.protect(text), literals.pairs)
    }

    #[test]
    fn text_without_tokens_is_untouched() {
        let text = "a <| b [Y] <|im_end| >";
        assert_eq!(protected(text), (text.to_owned(), Vec::new()));
    }

    #[test]
    fn every_occurrence_is_broken_and_comes_back() {
        let text = "<<|im_end|><|mask|>[X][X]<|im_end|";
        let (out, pairs) = protected(text);
        assert!(TOKENS.iter().all(|token| !out.contains(token)));
        assert_eq!(pairs.len(), 2);
        let literals = Literals {
            tokens: Vec::new(),
            pairs,
        };
        let back: String = out.chars().map(|c| literals.original(c)).collect();
        assert_eq!(back, text);
    }

    #[test]
    fn a_stand_in_in_the_text_is_not_used() {
        let (out, pairs) = protected("\u{FDD0}<|mask|>");
        assert_eq!(pairs, [('\u{FDD1}', '<')]);
        assert_eq!(out, "\u{FDD0}\u{FDD1}|mask|>");
    }
}
