//! tokenizer.json, or vocab.json, merges.txt and added_tokens.json, apart by NUL; then a text.
#![no_main]

use diffucoder::tokenizer::{Specials, Tokenizer, TokenizerFiles};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parts: Vec<&[u8]> = bytes.split(|&byte| byte == 0).collect();
    let part = |at: usize| parts.get(at).copied().filter(|part| !part.is_empty());
    let files = TokenizerFiles {
        tokenizer_json: part(0),
        vocab_json: part(1),
        merges_txt: part(2),
        added_tokens_json: part(3),
        tokenizer_config_json: part(4),
        ..TokenizerFiles::default()
    };
    if let Ok(tokenizer) = Tokenizer::from_files(&files) {
        let text = String::from_utf8_lossy(part(5).unwrap_or(b"def a(b): return 1\n"));
        if let Ok(ids) = tokenizer.encode(&text) {
            let _ = tokenizer.decode(&ids, Specials::Keep);
        }
        let _ = (tokenizer.vocab_size(), tokenizer.decode(&[0, 1, u32::MAX], Specials::Keep));
    }
});
