//! A chat template.
#![no_main]

use diffucoder::chat::{ChatTemplate, Message};
use diffucoder::tokenizer::TokenizerFiles;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let files = TokenizerFiles {
        chat_template_jinja: Some(bytes),
        ..TokenizerFiles::default()
    };
    if let Ok(Some(template)) = ChatTemplate::from_files(&files) {
        let messages = [Message::new("system", "be short"), Message::new("user", "a\nb")];
        let _ = template.render(&messages, true);
    }
});
