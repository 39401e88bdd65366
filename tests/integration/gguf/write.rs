//! What is written reads back, and what nobody could read is not written.

use diffucoder::model::config::{Config, metadata};
use diffucoder::weights::gguf::export::{Description, Vocabulary};
use diffucoder::weights::gguf::{
    FileType, GgmlType, GgufFile, GgufTokenizer, GgufWriteError, GgufWriter, TensorDescription,
    Value,
};

use super::tokenizers::of_gguf;
use super::{parse_json, tiny};

/// A small model written with [`metadata`], read back.
fn our_file(config: &Config, vocabulary: &Vocabulary) -> Vec<u8> {
    let description = Description {
        name: "ours",
        weights: FileType::Q8_0,
        vocabulary,
        bos_token_id: None,
        eos_token_id: Some(261),
        eot_token_id: Some(263),
        pad_token_id: Some(261),
        mask_token_id: 266,
        chat_template: Some("{{ messages }}"),
        shift_logits: true,
    };
    let source = tiny();
    let tensors: Vec<TensorDescription> = source
        .tensors()
        .iter()
        .map(|tensor| TensorDescription {
            name: tensor.name.into(),
            dims: tensor.dims.clone(),
            ggml_type: tensor.ggml_type,
        })
        .collect();
    let keys = metadata(config, &description);
    let mut writer = GgufWriter::new(Vec::new(), &keys, &tensors).unwrap();
    for (index, tensor) in source.tensors().iter().enumerate() {
        let data = source.data(tensor);
        if index % 2 == 0 {
            writer.append(tensor.name, data).unwrap();
        } else {
            for part in data.chunks(1000) {
                writer.append_part(tensor.name, part).unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

#[test]
fn what_is_written_reads_back() {
    let source = tiny();
    let shape = Config::from_gguf(&source).unwrap();
    let files = GgufTokenizer::read(&source, 280).unwrap();
    let vocabulary = Vocabulary::of(280, &of_gguf(&files, files.split)).unwrap();
    let bytes = our_file(&shape, &vocabulary);
    // For `make.py FILE.gguf`, which shows it as the Python package reads it.
    if let Some(path) = std::env::var_os("GGUF_TEST_KEEP") {
        std::fs::write(path, &bytes).unwrap();
    }
    let file = GgufFile::parse(&bytes).unwrap();
    assert_eq!(Config::from_gguf(&file).unwrap(), shape);
    assert_eq!(
        file.get("dream.attention.causal"),
        Some(&Value::Bool(false))
    );
    let wide = Config {
        head_dim: 2 * shape.head_dim,
        ..shape.clone()
    };
    let of_wide = our_file(&wide, &vocabulary);
    let read = Config::from_gguf(&GgufFile::parse(&of_wide).unwrap());
    assert_eq!(read.unwrap(), wide);
    assert_eq!(file.tensors().len(), source.tensors().len());
    for (ours, theirs) in file.tensors().iter().zip(source.tensors()) {
        assert_eq!((ours.name, &ours.dims), (theirs.name, &theirs.dims));
        assert_eq!(file.data(ours), source.data(theirs), "{}", ours.name);
    }
    let back = GgufTokenizer::read(&file, 280).unwrap();
    assert_eq!(back.vocab_json, files.vocab_json);
    assert_eq!(back.merges_txt, files.merges_txt);
    assert_eq!(
        (back.mask_token_id, back.eos_token_ids),
        (Some(266), vec![261, 263])
    );
    let config = parse_json(&back.tokenizer_config_json);
    assert_eq!(config["chat_template"], "{{ messages }}");
    assert_eq!(
        config["added_tokens_decoder"],
        parse_json(&files.tokenizer_config_json)["added_tokens_decoder"]
    );
}

#[test]
fn the_writer_refuses_what_is_not_a_file() {
    let tensor = |name: &str, dims: &[usize]| TensorDescription {
        name: name.into(),
        dims: dims.into(),
        ggml_type: GgmlType::Q8_0,
    };
    let new = |keys: &[(&str, Value<'_>)], tensors: &[TensorDescription]| {
        GgufWriter::new(Vec::new(), keys, tensors)
    };
    let alignment = |value| [("general.alignment", value)];
    for refused in [
        new(&[], &[tensor("x", &[33])]),
        new(&[], &[tensor("x", &[32]), tensor("x", &[32])]),
        new(&[], &[tensor("", &[32])]),
        new(&[], &[tensor(&"x".repeat(64), &[32])]),
        new(&[("k", Value::U8(1)), ("k", Value::U8(1))], &[]),
        new(&alignment(Value::U32(12)), &[]),
        new(&alignment(Value::U64(32)), &[]),
    ] {
        assert!(matches!(refused, Err(GgufWriteError::Description { .. })));
    }
    let both = [tensor("x", &[32]), tensor("y", &[32])];
    let mut writer = new(&alignment(Value::U32(64)), &both).unwrap();
    assert!(matches!(
        writer.append("y", &[0; 34]),
        Err(GgufWriteError::Order { .. })
    ));
    assert!(matches!(
        writer.append("x", &[0; 35]),
        Err(GgufWriteError::Length { .. })
    ));
    writer.append("x", &[1; 34]).unwrap();
    assert!(matches!(
        writer.append("y", &[0; 33]),
        Err(GgufWriteError::Length { .. })
    ));
    writer.append_part("y", &[2]).unwrap();
    assert!(matches!(
        writer.append("z", &[]),
        Err(GgufWriteError::Order { .. })
    ));
    let bytes = writer.finish().unwrap();
    let file = GgufFile::parse(&bytes).unwrap();
    assert_eq!((file.alignment(), bytes.len() % 64), (64, 0));
    assert!(file.tensors().iter().all(|x| x.range.start % 64 == 0));
    let full = GgufWriteError::Io(std::io::ErrorKind::StorageFull.into());
    assert!(full.hint().unwrap().contains("disk"));
    let unfinished = new(&[], &both).unwrap().finish();
    assert!(matches!(unfinished, Err(GgufWriteError::Unfinished { tensor }) if tensor == "x"));
}
