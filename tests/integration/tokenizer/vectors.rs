//! Encoding and decoding with Qwen2's real vocabulary, from either layout of files.

use diffucoder::tokenizer::{Specials, TokenRole, Tokenizer, TokenizerFiles};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{CONFIG, MASK, MERGES, QWEN2, VOCAB, any_text, fixture, ids};

fn assert_vectors(tokenizer: &Tokenizer) {
    let vectors = fixture("vectors.json");
    let vectors = vectors.as_array().unwrap();
    assert!(vectors.len() >= 300);
    for vector in vectors {
        let text = vector["text"].as_str().unwrap();
        let expected = ids(&vector["ids"]);
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        let plain = vector.get("plain").map_or(expected.clone(), ids);
        assert_eq!(
            tokenizer.encode_plain(text).unwrap(),
            plain,
            "plain {text:?}"
        );
        assert_eq!(
            tokenizer.decode(&expected, Specials::Keep),
            vector
                .get("decoded")
                .map_or(text, |decoded| decoded.as_str().unwrap()),
            "decoded {text:?}",
        );
    }
}

#[test]
fn vocab_and_merges_match_the_vectors() {
    assert_vectors(&QWEN2);
}

/// The same tokenizer in the other layout, with merges as pairs or, as in older files, as lines.
fn tokenizer_json(merges_as_pairs: bool) -> Value {
    let merges = std::str::from_utf8(MERGES)
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| {
            let (left, right) = line.split_once(' ').unwrap();
            if merges_as_pairs {
                json!([left, right])
            } else {
                json!(line)
            }
        });
    let config: Value = serde_json::from_slice(CONFIG).unwrap();
    let added = config["added_tokens_decoder"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, token)| {
            let mut token = token.clone();
            token["id"] = json!(id.parse::<u32>().unwrap());
            token
        });
    let split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Value>(),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": serde_json::from_slice::<Value>(VOCAB).unwrap(),
            "merges": merges.collect::<Value>(),
        },
    })
}

#[test]
fn tokenizer_json_matches_the_vectors() {
    for merges_as_pairs in [true, false] {
        let json = serde_json::to_vec(&tokenizer_json(merges_as_pairs)).unwrap();
        let files = TokenizerFiles {
            tokenizer_json: Some(&json),
            ..TokenizerFiles::default()
        };
        let tokenizer = Tokenizer::from_files(&files).unwrap();
        assert_eq!(tokenizer.vocab_size(), QWEN2.vocab_size());
        assert_vectors(&tokenizer);
    }
}

#[test]
fn tokens_and_roles() {
    assert_eq!(QWEN2.vocab_size(), 151_668);
    assert_eq!(QWEN2.token_to_id("<|im_end|>"), Some(151_645));
    assert_eq!(QWEN2.token_to_id("Ġif"), Some(421));
    assert_eq!(QWEN2.token_to_id(" if"), None);
    assert_eq!(QWEN2.id_to_token(421).as_deref(), Some("Ġif"));
    assert_eq!(QWEN2.id_to_token(MASK).as_deref(), Some("<|mask|>"));
    assert_eq!(QWEN2.id_to_token(151_668), None);
    assert_eq!(QWEN2.special_token(TokenRole::Eos), Some("<|endoftext|>"));
    assert_eq!(QWEN2.special_id(TokenRole::Mask), Some(MASK));
    assert_eq!(QWEN2.special_id(TokenRole::Bos), Some(151_665));
    assert_eq!(QWEN2.special_id(TokenRole::Pad), Some(151_667));
    assert_eq!(QWEN2.special_id(TokenRole::Unk), None);
    assert!(QWEN2.is_special(MASK));
    assert!(!QWEN2.is_special(151_657)); // <tool_call>: added, but not special
    assert!(QWEN2.check_fits(152_064).is_ok() && QWEN2.check_fits(151_668).is_ok());
    let error = QWEN2.check_fits(151_667).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tokenizer has 151668 tokens, but the model only 151667"
    );
}

#[test]
fn decoding_shows_everything() {
    let decode = |ids: &[u32]| QWEN2.decode(ids, Specials::Keep);
    assert_eq!(decode(&[]), "");
    let hieroglyph = QWEN2.encode("a𓀀").unwrap(); // several tokens for one character
    assert_eq!(decode(&hieroglyph[..hieroglyph.len() - 1]), "a\u{FFFD}");
    assert_eq!(
        decode(&[64, 151_668, 152_063, u32::MAX, 64]),
        "a\u{FFFD}\u{FFFD}\u{FFFD}a"
    );
    let turn = QWEN2
        .encode("<|im_start|>x<tool_call><|mask|>y<|im_end|>")
        .unwrap();
    assert_eq!(decode(&turn), "<|im_start|>x<tool_call><|mask|>y<|im_end|>");
    assert_eq!(QWEN2.decode(&turn, Specials::Skip), "x<tool_call>y");
}

#[test]
fn a_raw_prompt_may_hold_any_token_but_the_mask() {
    let text = "<|im_start|>user\nx<|im_end|>";
    assert_eq!(
        QWEN2.encode_prompt(text, MASK).unwrap(),
        QWEN2.encode(text).unwrap()
    );
    let error = QWEN2
        .encode_prompt("a\nb\nc = <|mask|>\n", MASK)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the prompt contains the mask token <|mask|> (line 3)"
    );
    assert!(QWEN2.encode_prompt("<|mask |>", MASK).is_ok());
}

/// Long runs once made this expression recurse or take quadratic time in other engines.
#[test]
fn long_runs() {
    for unit in [" ", "\n", "a", "1", "!", "\t", "漢", " \n", "a ", "' "] {
        let text = unit.repeat(60_000);
        let ids = QWEN2.encode(&text).unwrap();
        assert_eq!(QWEN2.decode(&ids, Specials::Keep), text);
        assert!(ids.len() <= text.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plain_text_comes_back_normalised(text in any_text()) {
        let ids = QWEN2.encode_plain(&text).unwrap();
        prop_assert!(ids.iter().all(|id| *id < 151_643), "an added token in plain text");
        let mut normalised = tokenizers::NormalizedString::from(text.as_str());
        normalised.nfc();
        prop_assert_eq!(QWEN2.decode(&ids, Specials::Keep), normalised.get());
    }
}
