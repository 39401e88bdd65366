//! A file of the Python package: shape, names, tokenizer, and metadata that is refused.

use diffucoder::model::arch::{Attention, DREAM};
use diffucoder::model::config::Config;
use diffucoder::weights::gguf::{
    Array, GgmlType, GgufFile, GgufTokenizer, GgufWriter, TensorDescription, Value,
};
use serde_json::json;

use super::{parse_json, tiny};

#[test]
fn a_file_of_the_python_package() {
    let file = tiny();
    assert_eq!((file.version(), file.alignment()), (3, 32));
    assert_eq!(file.tensors().len(), 27);
    assert_eq!(file.str("general.name").unwrap(), "tiny");
    assert_eq!(file.f64("test.f64").unwrap(), 0.1);
    assert_eq!(file.get("test.i8"), Some(&Value::I8(-5)));
    assert_eq!(file.get("test.u64"), Some(&Value::U64(1 << 63)));
    let down = file.tensor("blk.1.ffn_down.weight").unwrap();
    assert_eq!(
        (down.ggml_type, &down.dims[..]),
        (GgmlType::Q6_K, &[256, 64][..])
    );
    assert_eq!((down.shape(), down.elements()), (vec![64, 256], 64 * 256));
    let sums = file.integers_if_any("test.byte_sums").unwrap().unwrap();
    let ours = file.tensors().iter().map(|tensor| {
        let bytes = file.data(tensor).iter();
        bytes.map(|&byte| i128::from(byte)).sum::<i128>()
    });
    assert!(ours.eq(sums));
}

#[test]
fn its_shape_and_names() {
    let file = tiny();
    assert_eq!(
        Config::from_gguf(&file).unwrap(),
        Config {
            family: &DREAM,
            attention: Attention::Full,
            hidden_size: 64,
            intermediate_size: 256,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            vocab_size: 280,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            tie_word_embeddings: false,
            max_position_embeddings: 512,
            shift_logits: true,
            mask_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        }
    );
    let found: Vec<&str> = file.tensors().iter().map(|tensor| tensor.name).collect();
    let config = Config::from_gguf(&file).unwrap();
    let mut expected: Vec<_> = config.tensors().map(|t| t.gguf_name).collect();
    assert_eq!(found.len(), expected.len());
    expected.retain(|name| !found.contains(&name.as_str()));
    assert!(expected.is_empty(), "{expected:?}");
}

#[test]
fn its_tokenizer_as_files() {
    let tokenizer = GgufTokenizer::read(&tiny(), 280).unwrap();
    assert_eq!(tokenizer.mask_token_id, Some(266));
    assert_eq!(tokenizer.eos_token_ids, [261]);
    assert_eq!(tokenizer.pad_token_id, Some(261));
    assert_eq!(tokenizer.shift_logits, None); // the file does not say
    let vocab = parse_json(&tokenizer.vocab_json);
    // Up to the gap at 265, which no text leads to.
    assert_eq!(vocab.as_object().unwrap().len(), 266);
    assert_eq!(
        (&vocab["\""], &vocab["Ġ\""], &vocab["[PAD265]"]),
        (&json!(1), &json!(259), &json!(265))
    );
    assert_eq!(
        String::from_utf8(tokenizer.merges_txt).unwrap(),
        "#version: 0.2\ni n\nĠ t\nĠt h\nĠ \"\nĊ Ċ\n"
    );
    let config = parse_json(&tokenizer.tokenizer_config_json);
    let decoder = &config["added_tokens_decoder"];
    let added = decoder.as_object().unwrap().iter();
    let added: Vec<_> = added
        .map(|(id, token)| (id.as_str(), token["content"].as_str().unwrap()))
        .collect();
    assert_eq!(
        added,
        [
            ("261", "<|endoftext|>"),
            ("262", "<|im_start|>"),
            ("263", "<|im_end|>"),
            ("264", "<tool_call>"),
            ("266", "<|mask|>"),
        ]
    );
    assert_eq!(decoder["264"]["special"], json!(false));
    assert_eq!(decoder["266"]["special"], json!(true));
    assert_eq!(config["bos_token"], "<|endoftext|>");
    assert_eq!(config["eos_token"], "<|endoftext|>");
    assert_eq!(config["mask_token"], "<|mask|>");
    assert!(
        config["chat_template"]
            .as_str()
            .unwrap()
            .starts_with("{%- for")
    );
}

/// The fixture with some keys changed (`None`: removed), without its tensors' data but with an
/// embedding table.
fn with_keys(changes: &[(&str, Option<Value<'_>>)]) -> Vec<u8> {
    let file = tiny();
    let mut keys: Vec<(String, Value<'_>)> = file
        .metadata()
        .iter()
        .filter(|(key, _)| !changes.iter().any(|(changed, _)| changed == key))
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect();
    for (key, value) in changes {
        keys.extend(value.clone().map(|value| (key.to_string(), value)));
    }
    let table = TensorDescription {
        name: "token_embd.weight".into(),
        dims: vec![64, 280],
        ggml_type: GgmlType::Q8_0,
    };
    let mut writer = GgufWriter::new(Vec::new(), &keys, std::slice::from_ref(&table)).unwrap();
    writer
        .append(&table.name, &vec![0; table.bytes().unwrap()])
        .unwrap();
    writer.finish().unwrap()
}

/// Without a key for it, by the names that families have for it.
#[test]
fn a_mask_is_found_by_its_name() {
    for (token, id) in [
        ("<|mask|>", Some(2)),
        ("<|mdm_mask|>", Some(2)),
        ("<|MASK|>", Some(2)),
        ("|<MASK>|", Some(2)),
        ("mask", None),
    ] {
        let bytes = with_keys(&[
            ("tokenizer.ggml.mask_token_id", None),
            ("tokenizer.ggml.eos_token_id", None),
            ("tokenizer.ggml.bos_token_id", None),
            ("tokenizer.ggml.padding_token_id", None),
            (
                "tokenizer.ggml.merges",
                Some(Value::Array(Array::of_strings([""; 0]))),
            ),
            (
                "tokenizer.ggml.tokens",
                Some(Value::Array(Array::of_strings(["a", "b", token]))),
            ),
            (
                "tokenizer.ggml.token_type",
                Some(Value::Array(Array::of_i32([1, 1, 3]))),
            ),
        ]);
        let file = GgufFile::parse(&bytes).unwrap();
        let found = GgufTokenizer::read(&file, 280).unwrap().mask_token_id;
        assert_eq!(found, id, "{token}");
    }
}

/// What is searched in the text as a whole: what the types say, what has a role, and of a file
/// without types whatever no merge makes.
#[test]
fn added_tokens_are_told_by_type_role_and_merges() {
    let added = |types: Option<Value<'static>>, end: u32| {
        let strings = |texts: &[&str]| Some(Value::Array(Array::of_strings(texts)));
        let bytes = with_keys(&[
            ("tokenizer.ggml.mask_token_id", None),
            ("tokenizer.ggml.bos_token_id", None),
            ("tokenizer.ggml.padding_token_id", None),
            ("tokenizer.ggml.eos_token_id", Some(Value::U32(end))),
            ("tokenizer.ggml.merges", strings(&["a b"])),
            (
                "tokenizer.ggml.tokens",
                strings(&["a", "b", "ab", "<|x|>", "yz"]),
            ),
            ("tokenizer.ggml.token_type", types),
        ]);
        let file = GgufFile::parse(&bytes).unwrap();
        let tokenizer = GgufTokenizer::read(&file, 280).unwrap();
        let config = parse_json(&tokenizer.tokenizer_config_json);
        let added = config["added_tokens_decoder"].as_object().unwrap().iter();
        let added = added.map(|(id, token)| (id.clone(), token["special"] == true));
        (added.collect::<Vec<_>>(), config.get("eos_token").cloned())
    };
    let types = |types: [i32; 5]| Some(Value::Array(Array::of_i32(types)));
    let of = |ids: &[(&str, bool)]| ids.iter().map(|&(id, kind)| (id.into(), kind)).collect();
    for (types, end, expected) in [
        (types([1, 1, 1, 3, 4]), 3, of(&[("3", true), ("4", false)])),
        (types([1, 1, 1, 1, 4]), 3, of(&[("3", true), ("4", false)])),
        (types([1, 1, 1, 1, 1]), 3, of(&[("3", true), ("4", false)])),
        (None, 3, of(&[("3", true), ("4", false)])),
        (None, 4, of(&[("3", true), ("4", false)])),
    ] {
        let (added, named) = added(types, end);
        let text = ["<|x|>", "yz"][end as usize - 3];
        assert_eq!((added, named), (expected, Some(text.into())));
    }
}

#[test]
fn metadata_that_makes_no_sense_is_refused_by_key() {
    let text = |text: &'static str| Some(Value::from(text));
    let size = |size: u32| Some(Value::U32(size));
    for (key, value, says) in [
        (
            "general.architecture",
            text("llama"),
            "llama is that of autoregressive models",
        ),
        (
            "general.architecture",
            None,
            "the key general.architecture is missing",
        ),
        ("general.architecture", size(1), "is of type u32"),
        ("dream.block_count", size(0), "dream.block_count is 0"),
        ("dream.block_count", size(1 << 30), "from 1 to 1024"),
        (
            "dream.block_count",
            Some(Value::I32(-1)),
            "dream.block_count is -1",
        ),
        (
            "dream.block_count",
            Some(Value::F32(2.0)),
            "is of type f32, but must be an integer",
        ),
        ("dream.embedding_length", size(65), "multiple of"),
        (
            "dream.embedding_length",
            size(128),
            "tensor token_embd.weight has the dimensions [64, 280]",
        ),
        (
            "dream.attention.head_count_kv",
            size(3),
            "a divisor of attention.head_count (4)",
        ),
        (
            "dream.attention.key_length",
            size(15),
            "dream.attention.key_length is 15",
        ),
        (
            "dream.attention.value_length",
            size(32),
            "16, the width of a head",
        ),
        (
            "dream.rope.dimension_count",
            size(8),
            "16, the width of a head",
        ),
        (
            "dream.rope.scaling.type",
            text("yarn"),
            "dream.rope.scaling.type is yarn",
        ),
        (
            "dream.rope.scaling.factor",
            Some(Value::F32(4.0)),
            "factor is 4",
        ),
        (
            "dream.rope.freq_base",
            Some(Value::F32(f32::NAN)),
            "freq_base is NaN",
        ),
        (
            "dream.attention.layer_norm_rms_epsilon",
            None,
            "rms_epsilon is missing",
        ),
        ("dream.context_length", None, "context_length is missing"),
        (
            "tokenizer.ggml.model",
            text("llama"),
            "tokenizer.ggml.model is llama",
        ),
        (
            "tokenizer.ggml.pre",
            text("gpt-4o"),
            "tokenizer.ggml.pre is gpt-4o, but must be qwen2, deepseek-r1-qwen, llama-bpe",
        ),
        (
            "tokenizer.ggml.mask_token_id",
            size(280),
            "mask_token_id is 280, but must be below 280",
        ),
        ("tokenizer.ggml.tokens", text("a"), "an array of strings"),
        (
            "tokenizer.ggml.tokens",
            Some(Value::Array(Array::of_i32([1]))),
            "an array of strings",
        ),
        (
            "tokenizer.ggml.tokens",
            Some(Value::Array(Array::of_strings(["a"; 280]))),
            "\"a\" twice",
        ),
        (
            "tokenizer.ggml.tokens",
            Some(Value::Array(Array::of_strings((0..280).map(|i| {
                if i == 262 {
                    String::new()
                } else {
                    i.to_string()
                }
            })))),
            "empty at 262",
        ),
        (
            "tokenizer.ggml.tokens",
            Some(Value::Array(Array::of_strings(
                (0..281).map(|i| i.to_string()),
            ))),
            "281 tokens",
        ),
        (
            "tokenizer.ggml.token_type",
            Some(Value::Array(Array::of_i32([1; 3]))),
            "3 types",
        ),
        (
            "tokenizer.ggml.token_type",
            Some(Value::Array(Array::of_i32([9; 280]))),
            "token_type is 9",
        ),
        (
            "tokenizer.ggml.merges",
            Some(Value::Array(Array::of_strings(["i n", "in"]))),
            "\"in\" at 1",
        ),
        (
            "tokenizer.ggml.merges",
            Some(Value::Array(Array::of_strings(["i n\nt h"]))),
            "two tokens",
        ),
        ("diffusion.shift_logits", size(1), "must be bool"),
    ] {
        let bytes = with_keys(&[(key, value)]);
        let file = GgufFile::parse(&bytes).unwrap();
        let read =
            Config::from_gguf(&file).and_then(|shape| GgufTokenizer::read(&file, shape.vocab_size));
        let error = read.expect_err(key);
        assert!(error.to_string().contains(says), "{key}: {error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn what_a_file_may_leave_out() {
    let bytes = with_keys(&[
        ("dream.attention.head_count_kv", None),
        ("dream.rope.freq_base", None),
        ("tokenizer.ggml.mask_token_id", None),
        ("tokenizer.ggml.bos_token_id", Some(Value::I32(-1))),
        ("tokenizer.ggml.eot_token_id", Some(Value::U32(263))),
        ("tokenizer.ggml.padding_token_id", Some(Value::U32(279))),
        ("tokenizer.chat_template", None),
        ("diffusion.shift_logits", Some(Value::Bool(false))),
    ]);
    let file = GgufFile::parse(&bytes).unwrap();
    let shape = Config::from_gguf(&file).unwrap();
    assert!(shape.tie_word_embeddings); // no output.weight
    assert_eq!((shape.num_key_value_heads, shape.rope_theta), (4, 10_000.0));
    let tokenizer = GgufTokenizer::read(&file, shape.vocab_size).unwrap();
    assert_eq!(tokenizer.mask_token_id, Some(266)); // by its name
    assert_eq!(tokenizer.eos_token_ids, [261, 263]);
    assert_eq!(tokenizer.shift_logits, Some(false));
    let config = parse_json(&tokenizer.tokenizer_config_json);
    assert_eq!(tokenizer.pad_token_id, Some(279)); // a spare row: an id, but no text
    let absent = ["bos_token", "pad_token", "chat_template"];
    assert!(absent.iter().all(|key| config.get(key).is_none()));
}

#[test]
fn a_qwen2_file_has_its_own_keys() {
    let source = tiny();
    let renamed: Vec<(String, Value<'_>)> = source
        .metadata()
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("dream.")?, value)))
        .map(|(name, value)| (format!("qwen2.{name}"), value.clone()))
        .collect();
    let mut changes = vec![("general.architecture", Some(Value::from("qwen2")))];
    changes.extend(
        renamed
            .iter()
            .map(|(key, value)| (key.as_str(), Some(value.clone()))),
    );
    let bytes = with_keys(&changes);
    let shape = Config::from_gguf(&GgufFile::parse(&bytes).unwrap()).unwrap();
    let dream = Config::from_gguf(&source).unwrap();
    assert_eq!(
        (shape.num_hidden_layers, shape.rope_theta),
        (dream.num_hidden_layers, dream.rope_theta)
    );
}
