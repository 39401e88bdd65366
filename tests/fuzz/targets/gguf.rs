//! A GGUF file: header, configuration, tokenizer, and where its tensors lie.
#![no_main]

use diffucoder::model::config::Config;
use diffucoder::weights::gguf::{GgufFile, GgufTokenizer};
use diffucoder::weights::{Bytes, Checkpoint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = GgufFile::parse(bytes) {
        for tensor in file.tensors() {
            let _ = (tensor.shape(), tensor.elements(), file.data(tensor).len());
        }
        let rows = Config::from_gguf(&file).map_or(64, |config| config.vocab_size);
        let _ = GgufTokenizer::read(&file, rows);
        let files = vec![("file".into(), Bytes::Owned(bytes.to_vec()))];
        let _ = Checkpoint::open_gguf(files, |name| Some(name.to_string()));
    }
});
