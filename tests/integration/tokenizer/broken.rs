//! A small vocabulary, and everything that can be wrong with a tokenizer's files.

use diffucoder::tokenizer::{TokenRole, Tokenizer, TokenizerError, TokenizerFiles};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{chain, qwen2_files};

/// A vocabulary of the 256 byte symbols and a few more, in the files' form.
pub struct Small {
    vocab: Value,
    merges: String,
    pub added: Value,
    pub config: Value,
    map: Value,
}

pub fn small() -> Small {
    let printable = |b: &u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let shifted = 256..256 + (0..256).filter(|b| !printable(b)).count() as u32;
    let symbols = (0..256).filter(printable).chain(shifted);
    let mut tokens: Vec<String> = symbols
        .map(|c| char::from_u32(c).unwrap().to_string())
        .collect();
    tokens.extend(["#i", "#in", "in", "Ġ#"].map(str::to_owned));
    let vocab = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, json!(id)));
    Small {
        vocab: Value::Object(vocab.collect()),
        merges: "#version: 0.2\n# i\n#i n\ni n\nĠ #\n".to_owned(),
        added: json!({"<e>": 260, "<m>": 261}),
        config: json!({"eos_token": "<e>"}),
        map: json!({"mask_token": {"content": "<m>"}}),
    }
}

impl Small {
    pub fn build(&self) -> Result<Tokenizer, TokenizerError> {
        let [vocab, added, config, map] =
            [&self.vocab, &self.added, &self.config, &self.map].map(|json| json.to_string());
        Tokenizer::from_files(&TokenizerFiles {
            vocab_json: Some(vocab.as_bytes()),
            merges_txt: Some(self.merges.as_bytes()),
            added_tokens_json: Some(added.as_bytes()),
            tokenizer_config_json: Some(config.as_bytes()),
            special_tokens_map_json: Some(map.as_bytes()),
            ..TokenizerFiles::default()
        })
    }

    fn error(change: impl FnOnce(&mut Self)) -> String {
        let mut small = small();
        change(&mut small);
        chain(&small.build().unwrap_err())
    }
}

#[test]
fn a_small_vocabulary() {
    let tokenizer = small().build().unwrap();
    assert_eq!(tokenizer.vocab_size(), 262);
    assert_eq!(tokenizer.special_id(TokenRole::Eos), Some(260));
    assert_eq!(tokenizer.special_id(TokenRole::Mask), Some(261));
    assert!(tokenizer.is_special(260) && tokenizer.is_special(261));
    // Merges with '#' are not comments.
    let pieces = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        ids.into_iter()
            .map(|id| tokenizer.id_to_token(id).unwrap())
            .collect()
    };
    assert_eq!(pieces("#in"), ["#in"]);
    assert_eq!(pieces(" #<e>\u{e9}"), ["Ġ#", "<e>", "Ã", "©"]);
    // No comment, Windows line ends, no line end at the end: the same merges.
    for merges in [
        "# i\r\n#i n\r\ni n\r\nĠ #",
        "#version: 0.2\r\n# i\r\n#i n\r\ni n\r\nĠ #\r\n\r\n",
    ] {
        let other = Small {
            merges: merges.to_owned(),
            ..small()
        }
        .build()
        .unwrap();
        assert_eq!(
            other.encode("a #in#in").unwrap(),
            tokenizer.encode("a #in#in").unwrap()
        );
    }
}

#[test]
fn added_tokens_of_both_files_are_joined() {
    let mut files = small();
    files.config = json!({"added_tokens_decoder": {
        "261": {"content": "<m>", "special": true, "lstrip": true, "rstrip": true},
        "262": {"content": "<t>"},
    }, "mask_token": "<m>", "bos_token": "in"});
    let tokenizer = files.build().unwrap();
    assert_eq!(tokenizer.vocab_size(), 263);
    // Blanks round a token with lstrip and rstrip belong to it.
    assert_eq!(
        tokenizer.encode("a  <m>  b").unwrap(),
        tokenizer.encode("a<m>b").unwrap()
    );
    assert!(!tokenizer.is_special(262) && tokenizer.is_special(261) && !tokenizer.is_special(260));
    // A token of the vocabulary with a role is recognised and special.
    assert!(tokenizer.is_special(tokenizer.token_to_id("in").unwrap()));
    // transformers' order: the config wins where it lists added tokens, the map where it does not.
    files.map = json!({"mask_token": "<e>", "pad_token": "<e>"});
    let tokenizer = files.build().unwrap();
    assert_eq!(tokenizer.special_token(TokenRole::Mask), Some("<m>"));
    assert_eq!(tokenizer.special_token(TokenRole::Pad), Some("<e>"));
    files.config = json!({"mask_token": "<m>"});
    assert_eq!(
        files.build().unwrap().special_token(TokenRole::Mask),
        Some("<e>")
    );
}

#[test]
fn broken_vocabularies() {
    let set = |token: &'static str, id: Value| move |s: &mut Small| s.vocab[token] = id;
    let error = Small::error(set("in", json!(257)));
    assert_eq!(
        error,
        r##"vocab.json is damaged: "#in" and "in" share the id 257"##
    );
    let error = Small::error(set("new", json!(400)));
    assert!(
        error.contains(r#""new" has the id 400, but there are only 261 tokens"#),
        "{error}"
    );
    assert!(Small::error(set("new", json!(4_294_967_295_u32))).contains("contiguous"));
    for id in [
        json!(-1),
        json!(1.5),
        json!("7"),
        json!(null),
        json!(5_000_000_000_u64),
    ] {
        assert!(Small::error(set("new", id)).starts_with("cannot read vocab.json: "));
    }
    assert!(Small::error(|s| s.vocab = json!([])).starts_with("cannot read vocab.json: "));
    assert!(Small::error(|s| s.vocab = json!({})).contains("byte symbol"));
    let error = Small::error(|s| {
        let vocab = s.vocab.as_object_mut().unwrap();
        vocab.shift_remove("é");
        vocab.insert("new".to_owned(), json!(vocab["ê"].as_u64().unwrap() - 1));
    });
    assert_eq!(
        error,
        r#"vocab.json is damaged: the byte symbol "é" is missing"#
    );

    let small = small();
    for vocab in ["", "{", "nonsense", r#"{"a": 0, "a": 1}"#, "{\"\u{0}\": 1}"] {
        let error = Tokenizer::from_files(&TokenizerFiles {
            vocab_json: Some(vocab.as_bytes()),
            merges_txt: Some(small.merges.as_bytes()),
            ..TokenizerFiles::default()
        })
        .unwrap_err();
        assert!(chain(&error).contains("vocab.json"), "{}", chain(&error));
    }
}

#[test]
fn broken_merges() {
    let merges = |text: &'static str| Small::error(move |s| s.merges = text.to_owned());
    assert_eq!(
        merges("#version: 0.2\ni n\nin\n"),
        r#"merges.txt is damaged: line 3 is not two tokens: "in""#
    );
    for bad in [
        "i n x",
        "i  n",
        " i n",
        "i n ",
        "i n\n\ni n",
        "i n\n \n",
        "i\tn",
    ] {
        assert!(
            merges(bad).starts_with("merges.txt is damaged: line"),
            "{bad:?}"
        );
    }
    let error = merges("#version: 0.2\n# i\ni zz");
    assert_eq!(
        error,
        "merges.txt is damaged: not all of it is in vocab.json: Token `zz` out of vocabulary"
    );
    assert!(merges("i n\n#version: 0.2").contains("`#version:`"));
    assert!(merges("#in #in").contains("`#in#in`")); // longer than any token
    let error = Tokenizer::from_files(&TokenizerFiles {
        merges_txt: Some(b"\xff"),
        ..qwen2_files()
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "merges.txt is damaged: not UTF-8 at byte 0"
    );
}

#[test]
fn broken_added_tokens() {
    let added = |json: Value| Small::error(move |s| s.added = json);
    assert_eq!(
        added(json!({"<e>": 260, "<m>": 263})),
        r#"added_tokens.json is damaged: "<m>" has the id 263, but no token has 261: ids must be contiguous"#,
    );
    assert_eq!(
        added(json!({"<e>": 260, "<m>": 260})),
        r#"added_tokens.json is damaged: "<e>" and "<m>" share the id 260"#,
    );
    assert_eq!(
        added(json!({"<e>": 5})),
        r#"added_tokens.json is damaged: "&" and "<e>" share the id 5"#,
    );
    assert_eq!(
        added(json!({"in": 260})),
        r#"added_tokens.json is damaged: "in" has the id 260, but 258 in the vocabulary"#,
    );
    assert!(added(json!({"": 260})).contains("empty"));
    assert!(added(json!({"<e>": "x"})).contains(r#"the id of "<e>" is "x""#));
    assert!(added(json!([])).starts_with("cannot read added_tokens.json: "));

    let config =
        |json: Value| Small::error(move |s| s.config = json!({"added_tokens_decoder": json}));
    assert_eq!(
        config(json!({"262": {"content": "<e>"}})),
        r#"tokenizer_config.json is damaged: "<e>" has the id 262, but 260 in added_tokens.json"#,
    );
    assert!(config(json!({"x": {"content": "<e>"}})).contains(r#""x" is not a token id"#));
    assert!(config(json!({"260": {}})).contains("an added token has no content"));
    assert!(config(json!({"260": {"content": "<e>", "special": 1}})).contains("not a boolean"));
    assert!(config(json!([])).contains("not an object"));
    assert!(Small::error(|s| s.config = json!({"eos_token": 3})).contains("eos_token"));
    assert!(
        Small::error(|s| s.map = json!({"eos_token": {}})).starts_with("special_tokens_map.json")
    );
}

#[test]
fn missing_and_unsupported_files() {
    let missing =
        |files: TokenizerFiles<'_>| Tokenizer::from_files(&files).unwrap_err().to_string();
    let none = missing(TokenizerFiles::default());
    assert_eq!(
        none,
        "no tokenizer: there is no tokenizer.json, and no vocab.json with merges.txt"
    );
    let no_vocab = missing(TokenizerFiles {
        vocab_json: None,
        ..qwen2_files()
    });
    assert_eq!(
        no_vocab,
        "no tokenizer: there is no tokenizer.json, and no vocab.json"
    );
    let no_merges = missing(TokenizerFiles {
        merges_txt: None,
        ..qwen2_files()
    });
    assert_eq!(
        no_merges,
        "no tokenizer: there is no tokenizer.json, and no merges.txt"
    );

    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let whole = json!({
        "added_tokens": [], "normalizer": null, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": small().vocab, "merges": ["# i"]},
    });
    let build = |change: &dyn Fn(&mut Value)| {
        let mut json = whole.clone();
        change(&mut json);
        let json = json.to_string();
        let files = TokenizerFiles {
            tokenizer_json: Some(json.as_bytes()),
            ..TokenizerFiles::default()
        };
        Tokenizer::from_files(&files).map_err(|error| chain(&error))
    };
    assert_eq!(build(&|_| ()).unwrap().encode("#i").unwrap(), [256]);
    let error = |change: &dyn Fn(&mut Value)| build(change).unwrap_err();
    for change in [
        (|j| j["model"]["type"] = json!("WordPiece")) as fn(&mut Value),
        |j| j["model"] = json!({"type": "Unigram", "vocab": []}),
        |j| j["model"]["dropout"] = json!(0.1),
        |j| j["model"]["continuing_subword_prefix"] = json!("##"),
        |j| j["model"]["end_of_word_suffix"] = json!("</w>"),
        |j| j["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}),
        |j| j["pre_tokenizer"] = json!({"type": "Whitespace"}),
        |j| {
            let fixed = json!({"type": "FixedLength", "length": 0});
            let parts = json!([fixed, j["pre_tokenizer"]]);
            j["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": parts});
        },
        |j| j["pre_tokenizer"] = json!(null),
        |j| j["decoder"] = json!(null),
    ] {
        let error = error(&change);
        assert!(error.ends_with("which is not supported"), "{error}");
    }
    for change in [
        (|j| j["model"]["merges"] = json!(["#in #in"])) as fn(&mut Value),
        |j| j["model"]["merges"] = json!([["a"]]),
        |j| j["model"]["merges"] = json!(["a b c"]),
        |j| j["model"]["vocab"] = json!([]),
        |j| j["added_tokens"] = json!([{"content": "<e>"}]),
        |j| j["added_tokens"] = json!([{"content": "<e>", "id": 300}]),
        |j| j["added_tokens"] = json!([{"content": "<e>", "id": 0}]),
        |j| j["normalizer"] = json!({"type": "Sequence", "normalizers": 1}),
        |j| j["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "x"}),
        |j| j["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
        |j| *j = json!(null),
    ] {
        let error = error(&change);
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}

/// The split expression is the checkpoint's, and its engine panics at its own limits.
#[test]
fn a_split_expression_without_end_is_an_error() {
    let split = json!({"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let json = json!({
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": small().vocab, "merges": []},
    });
    let json = json.to_string();
    let tokenizer = Tokenizer::from_files(&TokenizerFiles {
        tokenizer_json: Some(json.as_bytes()),
        ..TokenizerFiles::default()
    });
    let tokenizer = tokenizer.unwrap();
    assert!(tokenizer.encode("xxy").is_ok());
    let error = tokenizer.encode(&"x".repeat(64)).unwrap_err();
    assert!(matches!(error, TokenizerError::Library(_)), "{error}");
}

/// The text with some of its bytes overwritten, removed or doubled.
fn damaged(text: &[u8], damage: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for (at, kind, byte) in damage {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] = *byte,
            1 => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_an_error_or_harmless(
        which in 0usize..6,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u8>()), 1..4),
    ) {
        let mut small = small();
        small.config = json!({"added_tokens_decoder": {"261": {"content": "<m>", "special": true}}});
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false});
        let whole = json!({
            "added_tokens": [{"id": 260, "content": "<e>"}], "normalizer": {"type": "NFC"},
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": small.vocab, "merges": ["# i"]},
        });
        let texts = [small.vocab.to_string(), small.merges, small.added.to_string(),
            small.config.to_string(), small.map.to_string(), whole.to_string()];
        let mut files = texts.map(String::into_bytes);
        files[which] = damaged(&files[which], &damage);
        let [vocab, merges, added, config, map, whole] = &files;
        let built = Tokenizer::from_files(&TokenizerFiles {
            tokenizer_json: (which == 5).then_some(whole),
            vocab_json: Some(vocab),
            merges_txt: Some(merges),
            added_tokens_json: Some(added),
            special_tokens_map_json: Some(map),
            tokenizer_config_json: Some(config),
            ..TokenizerFiles::default()
        });
        if let Ok(tokenizer) = built {
            let ids = tokenizer.encode("a #in <e>\u{e9}<m> \n").unwrap();
            prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        }
    }
}
