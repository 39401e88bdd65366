//! Tokenizers that do not cut text as Qwen2's does, from what llama.cpp's converter made of their
//! tokenizer.json (`tests/fixtures/gguf-tokenizers/make.py`).

use diffucoder::tokenizer::{Split, Tokenizer, TokenizerFiles};
use diffucoder::weights::gguf::export::{Description, Vocabulary};
use diffucoder::weights::gguf::{FileType, GgufFile, GgufTokenizer, Value};
use serde_json::Value as Json;

use super::parse_json;

const FAMILIES: [(&str, Split); 3] = [
    ("llama-bpe", Split::Llama3),
    ("seed-coder", Split::SeedCoder),
    ("bailingmoe", Split::Bailing),
];
const ROWS: usize = 808;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(crate::fixture(name)).unwrap()
}

fn texts() -> Vec<String> {
    let vectors = parse_json(&read("tokenizer/vectors.json"));
    let text = |vector: &Json| vector["text"].as_str().unwrap().to_owned();
    let own = [
        "12 123 1234 12345x6",
        "a;\r\n\r\n  b!\n\n\nc ?\r\r\n",
        "THE'RE 'Ll'd brown",
        "\t \n \n x",
    ];
    let vectors = vectors.as_array().unwrap().iter().map(text);
    vectors.chain(own.map(str::to_owned)).collect()
}

fn of_checkpoint(json: &[u8]) -> Tokenizer {
    let files = TokenizerFiles {
        tokenizer_json: Some(json),
        ..TokenizerFiles::default()
    };
    Tokenizer::from_files(&files).unwrap()
}

pub fn of_gguf(tokenizer: &GgufTokenizer, split: Split) -> Tokenizer {
    let files = TokenizerFiles {
        vocab_json: Some(&tokenizer.vocab_json),
        merges_txt: Some(&tokenizer.merges_txt),
        tokenizer_config_json: Some(&tokenizer.tokenizer_config_json),
        split,
        ..TokenizerFiles::default()
    };
    Tokenizer::from_files(&files).unwrap()
}

#[test]
fn a_converted_tokenizer_gives_the_ids_of_its_tokenizer_json() {
    for (name, split) in FAMILIES {
        let original = of_checkpoint(&read(&format!("gguf-tokenizers/{name}.json")));
        let bytes = read(&format!("gguf-tokenizers/{name}.gguf"));
        let stored = GgufTokenizer::read(&GgufFile::parse(&bytes).unwrap(), ROWS).unwrap();
        assert_eq!(stored.split, split);
        assert_eq!(stored.mask_token_id, Some(804));
        let converted = of_gguf(&stored, split);
        assert_eq!(converted.vocab_size(), original.vocab_size());
        for text in texts() {
            let mask = original.id_to_token(804).unwrap();
            let text = format!("{text}{mask}{text}");
            let ids = |tokenizer: &Tokenizer| {
                let plain = tokenizer.encode_plain(&text).unwrap();
                (tokenizer.encode(&text).unwrap(), plain)
            };
            assert_eq!(ids(&converted), ids(&original), "{name} {text:?}");
        }
        for other in Split::ALL.into_iter().filter(|other| *other != split) {
            let other = of_gguf(&stored, other);
            let differs =
                |text: &String| other.encode(text).unwrap() != converted.encode(text).unwrap();
            assert!(texts().iter().any(differs), "{name}: any way is as good");
        }
    }
}

#[test]
fn it_is_written_by_the_name_that_it_was_read_by() {
    for (name, _) in FAMILIES {
        let json = read(&format!("gguf-tokenizers/{name}.json"));
        let bytes = read(&format!("gguf-tokenizers/{name}.gguf"));
        let stored = GgufTokenizer::read(&GgufFile::parse(&bytes).unwrap(), ROWS).unwrap();
        let stored = Vocabulary::of(ROWS, &of_gguf(&stored, stored.split)).unwrap();
        let vocabulary = Vocabulary::of(ROWS, &of_checkpoint(&json)).unwrap();
        assert_eq!(vocabulary, stored);
        let description = Description {
            name,
            weights: FileType::F16,
            vocabulary: &vocabulary,
            bos_token_id: None,
            eos_token_id: None,
            eot_token_id: None,
            pad_token_id: None,
            mask_token_id: 804,
            chat_template: None,
            shift_logits: false,
        };
        let metadata = description.metadata("llada", Vec::new());
        let pre = metadata.iter().find(|(key, _)| key == "tokenizer.ggml.pre");
        assert_eq!(pre.unwrap().1, Value::from(name));
    }
}

#[test]
fn what_a_file_cannot_say_is_not_written() {
    let original = parse_json(&read("gguf-tokenizers/llama-bpe.json"));
    let of = |json: &Json, rows| {
        let vocabulary = Vocabulary::of(rows, &of_checkpoint(json.to_string().as_bytes()));
        vocabulary.map_err(|error| error.to_string())
    };
    assert!(of(&original, 800).unwrap_err().contains("800"));
    for (at, to) in [
        ("/model/ignore_merges", Json::from(false)),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", "x".into()),
        ("/pre_tokenizer/pretokenizers/0/behavior", "Removed".into()),
        ("/pre_tokenizer/pretokenizers/0/invert", true.into()),
        ("/pre_tokenizer/pretokenizers/1/use_regex", true.into()),
    ] {
        let mut json = original.clone();
        *json.pointer_mut(at).expect(at) = to;
        assert!(
            of(&json, ROWS).unwrap_err().contains("that has no name"),
            "{at}"
        );
    }
    // Where every byte is a token it does not matter.
    let mut json = original;
    json["model"]["merges"] = Json::Array(Vec::new());
    json["model"]["ignore_merges"] = false.into();
    of(&json, ROWS).unwrap();
}
