//! Files as they are in the world: GGUF in parts, folders of files, floats in GGUF, forms that are
//! for other programs, and what checkpoints hold besides their weights.

use std::fs;
use std::path::{Path, PathBuf};

use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::quantize::quantize;
use diffucoder::package::Package;
use diffucoder::tokenizer::TokenRole;
use diffucoder::weights::gguf::export::{Description, Vocabulary};
use diffucoder::weights::gguf::{Array, FileType, GgufFile, GgufWriter, TensorDescription, Value};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::binary::diffucoder;
use crate::command::{refusal, run, run_json, slashed, stdout, tiny};
use crate::fixture;
use crate::hub_server::{Faults, HubServer, REPO, online};

fn golden() -> Package {
    let path = fixture("golden/model");
    let spec = ModelSpec::parse(path.to_str().unwrap()).unwrap();
    Package::open(&spec, &HubOptions::new("no-cache"), &mut ()).unwrap()
}

/// The golden checkpoint as a GGUF file of float32.
fn golden_floats(file: &Path) {
    let package = golden();
    let description = Description {
        name: "golden",
        weights: FileType::F32,
        vocabulary: &Vocabulary::of(package.config.vocab_size, &package.tokenizer).unwrap(),
        bos_token_id: package.tokenizer.special_id(TokenRole::Bos),
        eos_token_id: package.config.eos_token_ids.first().copied(),
        eot_token_id: package.tokenizer.token_to_id("<|im_end|>"),
        pad_token_id: package.config.pad_token_id,
        mask_token_id: package.mask_id,
        chat_template: package.chat_template.as_ref().map(|t| t.source()),
        shift_logits: package.config.shift_logits,
    };
    let weights = package.fetch_weights(&mut ()).unwrap();
    let (place, mut told) = ((file, false), (0, 1));
    let on_tensor = &mut |read, of| told = (read, of);
    quantize(&package.config, &description, weights, place, on_tensor).unwrap();
    assert_eq!(told.0, told.1);
}

/// The golden checkpoint's files in a folder of their own.
pub fn golden_copy(folder: &Path) {
    for entry in fs::read_dir(fixture("golden/model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

type Keys<'a> = Vec<(String, Value<'a>)>;

/// A GGUF file with these keys and the named tensors of another.
fn with_tensors(source: &GgufFile<'_>, keys: &[(String, Value<'_>)], range: &[usize]) -> Vec<u8> {
    let tensors = || range.iter().map(|&index| &source.tensors()[index]);
    let descriptions: Vec<_> = tensors()
        .map(|tensor| TensorDescription {
            name: tensor.name.into(),
            dims: tensor.dims.clone(),
            ggml_type: tensor.ggml_type,
        })
        .collect();
    let mut writer = GgufWriter::new(Vec::new(), keys, &descriptions).unwrap();
    for tensor in tensors() {
        writer.append(tensor.name, source.data(tensor)).unwrap();
    }
    writer.finish().unwrap()
}

fn keys_of<'a>(file: &GgufFile<'a>) -> Keys<'a> {
    let keys = file.metadata().iter();
    keys.map(|(key, value)| ((*key).into(), value.clone()))
        .collect()
}

fn split_keys(number: u16, count: u16, tensors: usize) -> Keys<'static> {
    vec![
        ("split.no".into(), Value::U16(number)),
        ("split.count".into(), Value::U16(count)),
        ("split.tensors.count".into(), Value::I32(tensors as i32)),
    ]
}

/// The golden checkpoint in three parts, of which the first has no tensors and the last the first
/// ones: the embedding table.
fn three_parts(folder: &Path) -> [PathBuf; 3] {
    let whole = folder.join("whole.gguf");
    golden_floats(&whole);
    let bytes = fs::read(&whole).unwrap();
    let file = GgufFile::parse(&bytes).unwrap();
    let all: Vec<usize> = (0..file.tensors().len()).collect();
    let parts = [&all[..0], &all[10..], &all[..10]];
    std::array::from_fn(|number| {
        let mut keys = if number == 0 {
            keys_of(&file)
        } else {
            Keys::new()
        };
        keys.extend(split_keys(number as u16, 3, all.len()));
        let path = folder.join(format!("m-F32-0000{}-of-00003.gguf", number + 1));
        fs::write(&path, with_tensors(&file, &keys, parts[number])).unwrap();
        path
    })
}

fn generate<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = tiny("def f(x):", "--raw -n 8 --seed 1 -t 0.2 --model");
    [&args[..], &[model], more].concat()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn parts_are_the_whole_model_whichever_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let parts = three_parts(folder.path());
    let whole = folder.path().join("whole.gguf");
    let expected = run_json(&generate(text(&whole), &[]));
    for part in &parts {
        let found = run_json(&generate(text(part), &[]));
        assert_eq!(found["token_ids"], expected["token_ids"], "{part:?}");
    }
    let quantized = |from: &Path, name: &str| {
        let made = folder.path().join(name);
        let args = ["quantize", "--to", "q8_0", "-o", text(&made), "--model"];
        stdout(&run(&[&args[..], &[text(from)]].concat()));
        let said = run_json(&generate(text(&made), &[]));
        fs::remove_file(made).unwrap();
        said["token_ids"].clone()
    };
    let of_whole = quantized(&whole, "whole-q8_0.gguf");
    assert_eq!(of_whole, quantized(&parts[1], "parts-q8_0.gguf"));
    // A folder of one model's parts is that model.
    fs::remove_file(&whole).unwrap();
    let found = run_json(&generate(text(folder.path()), &[]));
    assert_eq!(found["token_ids"], expected["token_ids"]);

    fs::remove_file(&parts[1]).unwrap();
    let (code, said) = refusal(&generate(text(&parts[2]), &[]));
    assert_eq!(code, Some(1));
    assert!(
        said.contains("m-F32-00003-of-00003.gguf is not whole without m-F32-00002-of-00003.gguf"),
        "{said}"
    );
}

#[test]
fn parts_that_are_not_what_they_are_named_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let parts = three_parts(folder.path());
    let bytes = parts.each_ref().map(|part| fs::read(part).unwrap());
    let second = GgufFile::parse(&bytes[1]).unwrap();
    let tensors = GgufFile::parse(&bytes[2]).unwrap().tensors().len() + second.tensors().len();
    let all: Vec<usize> = (0..second.tensors().len()).collect();
    let other = |keys: Keys<'_>, tensors: &[usize]| with_tensors(&second, &keys, tensors);
    let names = [
        "part 1 of 3, but named part 2 of 3",
        "part 3 of 3, but named part 2",
    ];
    for (replaced, says) in [
        (bytes[0].clone(), names[0]),
        (bytes[2].clone(), names[1]),
        (
            other(Keys::new(), &all),
            "part 1 of 1, but named part 2 of 3",
        ),
        (
            other(split_keys(1, u16::MAX, tensors), &all),
            "part 2 of 65535, but named part 2 of 3",
        ),
        (
            other(split_keys(u16::MAX, 3, tensors), &all),
            "part 65536 of 3",
        ),
        (
            other(split_keys(1, 3, tensors + 1), &all),
            "split.tensors.count is not what the first part says",
        ),
        (
            other(split_keys(1, 3, tensors), &all[1..]),
            "but the parts hold",
        ),
        (
            other(vec![("split.no".into(), Value::from("two"))], &all),
            "the key split.no is of type string",
        ),
        (bytes[1][..bytes[1].len() - 40].to_vec(), "cut short"),
        (b"GGUF".to_vec(), "cut short"),
    ] {
        fs::write(&parts[1], replaced).unwrap();
        let (code, said) = refusal(&generate(text(&parts[0]), &[]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(says), "{says}: {said}");
        assert!(said.contains("\nhint: "), "{said}");
    }
    fs::write(&parts[1], &bytes[1]).unwrap();

    // Another alignment in the first part alone.
    let first = GgufFile::parse(&bytes[0]).unwrap();
    let mut keys = keys_of(&first);
    keys.push(("general.alignment".into(), Value::U32(64)));
    fs::write(&parts[0], with_tensors(&first, &keys, &[])).unwrap();
    let (_, said) = refusal(&generate(text(&parts[0]), &[]));
    assert!(
        said.contains("it does not say its general.alignment"),
        "{said}"
    );
    fs::write(&parts[0], &bytes[0]).unwrap();

    // The same tensor in two parts: the third repeats those of the second, to the same number.
    let third = GgufFile::parse(&bytes[2]).unwrap().tensors().len();
    let repeated = other(split_keys(2, 3, tensors), &all[..third]);
    fs::write(&parts[2], repeated).unwrap();
    let (code, said) = refusal(&generate(text(&parts[0]), &[]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(" is in both "), "{said}");
    fs::write(&parts[2], &bytes[2]).unwrap();

    // One part under another name.
    let renamed = folder.path().join("model.gguf");
    fs::copy(&parts[0], &renamed).unwrap();
    let (_, said) = refusal(&generate(text(&renamed), &[]));
    assert!(
        said.contains("it is part 1 of 3, which its name does not say"),
        "{said}"
    );
}

#[test]
fn parts_come_from_the_hub_together() {
    let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let parts = three_parts(folder.path());
    let bytes = parts.each_ref().map(|part| fs::read(part).unwrap());
    let names = [1, 2, 3].map(|n| format!("F32/m-F32-0000{n}-of-00003.gguf"));
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .map(String::as_str)
        .zip(bytes.iter().map(|b| &**b))
        .collect();
    let hub = HubServer::start(&[&files[..], &[("m-Q8_0.gguf", b"GGUF")]].concat());
    hub.set(Faults {
        cut: Some((100_000, 1)),
        ..Faults::default()
    });
    let ask = |more: &[&str], model: &str| {
        let args = generate(model, more);
        online(&args, &hub.endpoint, home.path()).output().unwrap()
    };
    let first = ask(&[], "some-one/Model-7B:f32");
    let said = String::from_utf8(first.stderr.clone()).unwrap();
    assert!(first.status.success(), "{said}");
    assert!(
        said.contains("downloading 3 files of weights (F32/m-F32-00001-of-00003.gguf, …)"),
        "{said}"
    );
    assert!(hub.transfers().contains(&"bytes=100000-".to_owned()));
    let expected = stdout(&run(&generate(
        text(&folder.path().join("whole.gguf")),
        &[],
    )));
    assert_eq!(stdout(&first), expected);

    for file in ["f32", "m-f32", "F32/m-F32.gguf", &names[1]] {
        let again = ask(&["--offline", "--file", file], REPO);
        assert_eq!(stdout(&again), expected, "{file}");
    }
    let models = || {
        let mut command = diffucoder(&["models", "-o", "json"]);
        let output = command.env("HF_HOME", home.path()).output().unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = rows.as_array().unwrap().iter();
        let mut found = rows.filter(|row| row["id"] == REPO);
        found
            .next()
            .map(|row| row["cached"].as_str().unwrap().to_owned())
    };
    assert_eq!(models().as_deref(), Some("complete"));

    // A part is empty, or gone: the cache says so, and a run gets it again, and it alone.
    let snapshots = home.path().join("hub/models--some-one--Model-7B/snapshots");
    let snapshot = fs::read_dir(snapshots)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let blob = fs::canonicalize(snapshot.join(&names[1])).unwrap();
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "").unwrap();
    assert_eq!(models().as_deref(), Some("partial"));
    fs::remove_file(blob).unwrap();
    assert_eq!(models().as_deref(), Some("partial"));
    let absent = ask(&["--offline"], "some-one/Model-7B:f32");
    let said = String::from_utf8(absent.stderr).unwrap();
    assert!(said.contains(&format!("({})", names[1])), "{said}");
    let again = ask(&[], "some-one/Model-7B:f32");
    let said = String::from_utf8(again.stderr.clone()).unwrap();
    assert!(said.contains("downloading 1 file of weights"), "{said}");
    assert_eq!(stdout(&again), expected);
}

#[test]
fn a_part_that_the_hub_lacks_is_named_before_anything_is_fetched() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[("m-00001-of-00002.gguf", b"GGUF")]);
    let mut command = online(&generate(REPO, &[]), &hub.endpoint, home.path());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("error: some-one/Model-7B is not whole without m-00002-of-00002.gguf"),
        "{said}"
    );
    assert!(hub.transfers().is_empty());
}

#[test]
fn a_gguf_of_floats_is_quantized_as_its_checkpoint_is() {
    let folder = tempfile::tempdir().unwrap();
    let floats = folder.path().join("golden-F32.gguf");
    golden_floats(&floats);
    let model = fixture("golden/model");
    let quantized = |source: &Path, name: &str| {
        let made = folder.path().join(name);
        let args = ["quantize", "--to", "q8_0", "-o", text(&made), "--model"];
        stdout(&run(&[&args[..], &[text(source)]].concat()));
        fs::read(made).unwrap()
    };
    let (from_gguf, from_safetensors) = (quantized(&floats, "a.gguf"), quantized(&model, "b.gguf"));
    let (a, b) = (
        GgufFile::parse(&from_gguf).unwrap(),
        GgufFile::parse(&from_safetensors).unwrap(),
    );
    let but_name = |file: &GgufFile<'_>| -> Vec<String> {
        let keys = keys_of(file).into_iter();
        keys.filter(|(key, _)| key != "general.name")
            .map(|(key, value)| format!("{key} {value:?}"))
            .collect()
    };
    assert_eq!(but_name(&a), but_name(&b));
    assert_eq!(
        b.str("general.name"),
        Ok("model"),
        "no path of this machine"
    );
    assert_eq!(a.tensors().len(), b.tensors().len());
    for (x, y) in a.tensors().iter().zip(b.tensors()) {
        assert_eq!(
            (x.name, &x.dims, x.ggml_type),
            (y.name, &y.dims, y.ggml_type)
        );
        assert!(a.data(x) == b.data(y), "{}", x.name);
    }

    // It can be quantized while it is loaded, too.
    let quant = ["--quant", "q8_0"];
    assert_eq!(
        run_json(&generate(text(&floats), &quant))["token_ids"],
        run_json(&generate(text(&model), &quant))["token_ids"]
    );
    let (code, said) = refusal(&[
        "quantize",
        "--to",
        "q4_0",
        "--model",
        text(&folder.path().join("a.gguf")),
        "-o",
        text(&folder.path().join("c.gguf")),
    ]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("is quantized already, to Q8_0") && said.contains("F16, BF16 or F32"),
        "{said}"
    );
}

#[test]
fn a_folder_is_the_model_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("m-F32.gguf");
    golden_floats(&alone);
    let expected = run_json(&generate(text(&alone), &[]))["token_ids"].clone();
    let ids = || run_json(&generate(text(folder.path()), &[]))["token_ids"].clone();
    assert_eq!(ids(), expected);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_eq!(
        ids(),
        expected,
        "config.json belongs to weights that are not here"
    );

    fs::copy(&alone, folder.path().join("other.gguf")).unwrap();
    let (_, said) = refusal(&generate(text(folder.path()), &[]));
    assert_eq!(
        said.replace(&slashed(folder.path()), "FOLDER"),
        "error: FOLDER holds 2 GGUF files\n\
         hint: give the path of one: FOLDER/m-F32.gguf, FOLDER/other.gguf\n"
    );
    golden_copy(folder.path());
    assert_eq!(ids(), expected, "safetensors go before GGUF files");
}

#[test]
fn forms_of_other_programs_are_named() {
    let config = fs::read_to_string(fixture("golden/model/config.json")).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        config.to_string()
    };
    let gptq = with("quantization_config", json!({"quant_method": "gptq"}));
    let mlx = with("quantization", json!({"group_size": 64, "bits": 4}));
    for (files, says) in [
        (
            &[("config.json", &*gptq), ("model.safetensors", "")][..],
            "weights quantized by GPTQ",
        ),
        (&[("config.json", &*mlx)], "weights quantized by MLX"),
        (
            &[("config.json", &*config), ("pytorch_model.bin", "")],
            "weights for PyTorch (.bin) alone",
        ),
        (
            &[
                ("adapter_config.json", "{}"),
                ("adapter_model.safetensors", ""),
            ],
            "a LoRA adapter",
        ),
        (
            &[
                ("config.json", &*config),
                ("model-00001-of-00002.safetensors", ""),
            ],
            "safetensors without model.safetensors.index.json",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        golden_copy(folder.path());
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("safetensors") || path.ends_with("config.json") {
                fs::remove_file(path).unwrap();
            }
        }
        for (name, contents) in files {
            fs::write(folder.path().join(name), contents).unwrap();
        }
        let (code, said) = refusal(&generate(text(folder.path()), &[]));
        assert_eq!(code, Some(1));
        assert!(
            said.contains(says) && said.contains("\nhint: "),
            "{says}: {said}"
        );

        let contents: Vec<(String, Vec<u8>)> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (name.to_owned(), fs::read(&path).unwrap())
            })
            .collect();
        let contents: Vec<(&str, &[u8])> = contents
            .iter()
            .map(|(name, bytes)| (&**name, &**bytes))
            .collect();
        let (hub, home) = (HubServer::start(&contents), tempfile::tempdir().unwrap());
        let mut command = online(&generate(REPO, &[]), &hub.endpoint, home.path());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn a_pointer_of_git_lfs_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    golden_copy(folder.path());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for name in ["model-00002-of-00002.safetensors", "tokenizer.json"] {
        fs::write(folder.path().join(name), pointer).unwrap();
        let (_, said) = refusal(&generate(text(folder.path()), &[]));
        assert!(
            said.contains(name) && said.contains("git lfs pull"),
            "{said}"
        );
    }
}

/// The golden checkpoint with its tensors changed, in one file.
fn with_safetensors(
    folder: &Path,
    change: impl Fn(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>),
) {
    golden_copy(folder);
    let mut tensors = Vec::new();
    for number in [1, 2] {
        let path = folder.join(format!("model-0000{number}-of-00002.safetensors"));
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.tensors() {
            tensors.push((
                name,
                view.dtype(),
                view.shape().to_vec(),
                view.data().to_vec(),
            ));
        }
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn saved_buffers_are_passed_over_and_other_tensors_are_not() {
    let model = fixture("golden/model");
    let expected = run_json(&generate(text(&model), &[]))["token_ids"].clone();
    let folder = tempfile::tempdir().unwrap();
    with_safetensors(folder.path(), |tensors| {
        let buffers = [
            ("model.rotary_emb.inv_freq", Dtype::F32, vec![8]),
            (
                "model.layers.0.self_attn.rotary_emb.inv_freq",
                Dtype::F32,
                vec![8],
            ),
            (
                "model.layers.1.self_attn.bias",
                Dtype::BOOL,
                vec![1, 1, 4, 4],
            ),
            ("model.layers.1.self_attn.masked_bias", Dtype::F32, vec![]),
            ("model.embeddings.position_ids", Dtype::I64, vec![1, 4]),
        ];
        for (name, dtype, shape) in buffers {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            tensors.push((name.into(), dtype, shape, vec![0; bytes]));
        }
    });
    assert_eq!(
        run_json(&generate(text(folder.path()), &[]))["token_ids"],
        expected
    );
    let folder = tempfile::tempdir().unwrap();
    with_safetensors(folder.path(), |tensors| {
        let name = "model.layers.0.self_attn.o_proj.bias";
        tensors.push((name.into(), Dtype::F32, vec![1], vec![0; 4]));
    });
    let (_, said) = refusal(&generate(text(folder.path()), &[]));
    assert!(said.contains("self_attn.o_proj.bias"), "{said}");
}

/// Where weights become another type than they are stored in, no number takes the place of one that
/// this type cannot hold.
#[test]
fn numbers_that_a_type_cannot_hold_are_refused_by_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made.gguf");
    let quantize = |model: &Path, to: &str| {
        let args = ["quantize", "--to", to, "-o", text(&made), "--model"];
        run(&[&args[..], &[text(model)]].concat())
    };
    let with = |number: f32, name: &str| {
        let model = folder.path().join(name);
        fs::create_dir(&model).unwrap();
        with_safetensors(&model, |tensors| {
            let mut found = tensors.iter_mut();
            let found = found.find(|(name, ..)| name == "model.layers.0.mlp.up_proj.weight");
            found.unwrap().3[400..404].copy_from_slice(&number.to_le_bytes());
        });
        model
    };
    for (name, number) in [("nan", f32::NAN), ("infinite", f32::NEG_INFINITY)] {
        let model = with(number, name);
        for flags in [["--dtype", "f16"], ["--quant", "q8_0"], ["--quant", "q4_0"]] {
            let (code, said) = refusal(&generate(text(&model), &flags));
            assert_eq!(code, Some(1));
            let tensor = "cannot load tensor model.layers.0.mlp.up_proj.weight";
            assert!(
                said.contains(tensor) && said.contains("not finite"),
                "{flags:?}: {said}"
            );
        }
        for to in ["f16", "bf16", "q8_0", "q4_k_m"] {
            let output = quantize(&model, to);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                !output.status.success() && output.stdout.is_empty(),
                "{to}: {said}"
            );
            let tensor = "cannot quantize tensor blk.0.ffn_up.weight";
            assert!(
                said.contains(tensor) && said.contains("not finite"),
                "{to}: {said}"
            );
            assert!(!made.exists(), "{to}");
        }
    }
    let large = with(1e6, "large");
    let (_, said) = refusal(&generate(text(&large), &["--dtype", "f16"]));
    assert!(
        said.contains("up_proj.weight") && said.contains("65504"),
        "{said}"
    );
    let said = String::from_utf8(quantize(&large, "f16").stderr).unwrap();
    assert!(
        said.contains("ffn_up.weight") && said.contains("too large for F16"),
        "{said}"
    );
    stdout(&quantize(&large, "bf16"));
    run_json(&generate(text(&large), &["--dtype", "bf16"]));
}

#[test]
fn rows_that_no_token_has_are_drawn_in_published_modes_alone() {
    const TOKENS: u64 = 262; // of 272 rows
    let folder = tempfile::tempdir().unwrap();
    // The last rows of the head are other rows, four times as loud: mostly surest, of one of them.
    with_safetensors(folder.path(), |tensors| {
        let mut found = tensors.iter_mut();
        let found = found.find(|(name, ..)| name == "lm_head.weight");
        let (_, _, shape, bytes) = found.unwrap();
        let row_bytes = 4 * shape[1];
        for row in TOKENS as usize..shape[0] {
            let louder = bytes[(row - 250) * 8 * row_bytes..][..row_bytes]
                .chunks(4)
                .flat_map(|x| (4.0 * f32::from_le_bytes(x.try_into().unwrap())).to_le_bytes());
            let louder: Vec<u8> = louder.collect();
            bytes[row * row_bytes..][..row_bytes].copy_from_slice(&louder);
        }
    });
    // A sampler as published draws what the network gives.
    for (flags, are_drawn) in [
        (&["--mode", "exact", "-t", "2"][..], true),
        (&["--mode", "balanced", "-t", "0"], false),
        (&["--mode", "fast", "-t", "2"], false),
    ] {
        let model = text(folder.path());
        let args = ["generate", "--raw", "--model", model, "-p", "x", "-n", "48"];
        let said = run_json(&[&args[..], flags].concat());
        let ids = said["token_ids"].as_array().unwrap();
        let has_none = ids.iter().any(|id| id.as_u64().unwrap() >= TOKENS);
        assert_eq!(has_none, are_drawn, "{flags:?}: {ids:?}");
    }
}

#[test]
fn a_gguf_without_token_types_is_read_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let typed = folder.path().join("typed.gguf");
    golden_floats(&typed);
    let bytes = fs::read(&typed).unwrap();
    let file = GgufFile::parse(&bytes).unwrap();
    let mut keys = keys_of(&file);
    keys.retain(|(key, _)| key != "tokenizer.ggml.token_type");
    let all: Vec<usize> = (0..file.tensors().len()).collect();
    let untyped = folder.path().join("untyped.gguf");
    fs::write(&untyped, with_tensors(&file, &keys, &all)).unwrap();
    let rows = file.strings("tokenizer.ggml.tokens").unwrap().count();
    let normal = Value::Array(Array::of_i32(vec![1; rows]));
    keys.push(("tokenizer.ggml.token_type".into(), normal));
    let all_normal = folder.path().join("normal.gguf");
    fs::write(&all_normal, with_tensors(&file, &keys, &all)).unwrap();
    let prompt = ["-p", "<|im_start|>user\nx<|im_end|>\n"];
    let tokens = |path: &Path| {
        let args = [
            "generate",
            "--raw",
            "--model",
            text(path),
            "-n",
            "8",
            "--seed",
            "1",
        ];
        let said = run_json(&[&args[..], &prompt].concat());
        (
            said["usage"]["prompt_tokens"].clone(),
            said["token_ids"].clone(),
        )
    };
    assert_eq!(tokens(&untyped), tokens(&typed));
    assert_eq!(tokens(&all_normal), tokens(&typed));
}

/// Only its added tokens tell, as in a GGUF file without the key.
#[test]
fn a_mask_that_no_file_names_is_known_by_its_text() {
    let folder = tempfile::tempdir().unwrap();
    golden_copy(folder.path());
    for (file, key) in [
        ("config.json", "mask_token_id"),
        ("generation_config.json", "mask_token_id"),
        ("tokenizer_config.json", "mask_token"),
    ] {
        let path = folder.path().join(file);
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json.as_object_mut().unwrap().remove(key);
        fs::write(&path, json.to_string()).unwrap();
    }
    let spec = ModelSpec::Local(folder.path().into());
    let package = Package::open(&spec, &HubOptions::new("no-cache"), &mut ()).unwrap();
    assert_eq!(package.mask_id, golden().mask_id);
}

/// A configuration names the end of a text alone.
#[test]
fn the_ends_of_turns_are_known_by_their_texts() {
    let package = golden();
    assert_eq!(package.config.eos_token_ids, [256]);
    let texts = ["<|endoftext|>", "<|im_end|>", "<|dlm_pad|>"];
    let ids = texts.map(|text| package.tokenizer.token_to_id(text).unwrap());
    assert_eq!(package.stop_ids, ids);
}

/// The engine of split expressions panics where it gives up.
#[test]
fn a_split_expression_without_end_is_an_error_like_others() {
    let folder = tempfile::tempdir().unwrap();
    golden_copy(folder.path());
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let split = json!({
        "type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": false,
    });
    let steps = [split, json["pre_tokenizer"].take()];
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
    fs::write(&path, json.to_string()).unwrap();
    let prompt = "x".repeat(64);
    let args = [
        "generate",
        "--raw",
        "-p",
        &prompt,
        "--model",
        text(folder.path()),
    ];
    let (code, said) = refusal(&args);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("error: ") && said.contains("takes too long"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_name_that_could_be_a_folder_is_said_to_be_none() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[]);
    let ask = |model: &str, endpoint: &str| {
        let mut command = online(&generate(model, &[]), endpoint, home.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for endpoint in [&*hub.endpoint, "http://127.0.0.1:1"] {
        let said = ask("checkpoints/my-finetune", endpoint);
        let says = "error: there is no folder checkpoints/my-finetune here, nor";
        assert!(said.starts_with(says), "{said}");
        assert!(said.contains("\nhint: "), "{said}");
    }
    // Nobody typed the name behind an alias.
    let said = ask("diffucoder:q4_k_m", &hub.endpoint);
    assert!(!said.contains("no folder"), "{said}");
    assert!(
        said.contains("hint: make one: diffucoder quantize --model diffucoder --to q4_k"),
        "{said}"
    );
}
