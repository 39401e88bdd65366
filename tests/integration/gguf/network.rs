//! Networks from GGUF files: the same numbers as from the checkpoint they came from, and quantized
//! ones within what 4 and 8 bits allow.

use candle_core::{DType, Device, Tensor};
use diffucoder::diffusion::Denoiser;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::kernels::{Format, Isa};
use diffucoder::model::arch;
use diffucoder::model::config::metadata;
use diffucoder::model::storage::Storage;
use diffucoder::model::synthetic::random_blocks;
use diffucoder::model::tensors::TensorSpec;
use diffucoder::model::{Model, Target};
use diffucoder::package::Package;
use diffucoder::weights::Checkpoint;
use diffucoder::weights::gguf::export::{Description, Vocabulary};
use diffucoder::weights::gguf::{FileType, GgmlType, GgufFile, GgufWriter, TensorDescription};
use serde_json::Value as Json;

use crate::binary::diffucoder;
use crate::fixture;

fn open(path: &std::path::Path) -> Package {
    let spec = ModelSpec::parse(path.to_str().unwrap()).unwrap();
    Package::open(&spec, &HubOptions::new("no-cache"), &mut ()).unwrap()
}

fn load(package: &Package, storage: Storage, isa: Isa) -> Model {
    let target = Target {
        device: Device::Cpu,
        storage,
        isa,
        packed_folder: None,
    };
    let weights = package.fetch_weights(&mut ()).unwrap();
    package.load(weights, &target, &mut |_, _| ()).unwrap()
}

/// Logits of every position of a canvas that has masks in it.
fn logits(package: &Package, model: &mut Model) -> Vec<f32> {
    // Fewer rows than tiles take, whose results are others.
    let ids: Vec<u32> = (0..31)
        .map(|i| if i % 3 == 2 { package.mask_id } else { 40 + i })
        .collect();
    let positions: Vec<usize> = (0..ids.len()).collect();
    model.predict(&ids, &positions).unwrap().logits
}

/// Root mean square of the difference, relative to that of the expected values.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |xs: &mut dyn Iterator<Item = f64>| xs.map(|x| x * x).sum::<f64>().sqrt();
    let difference = |(x, y): (&f32, &f32)| f64::from(x - y);
    norm(&mut found.iter().zip(expected).map(difference))
        / norm(&mut expected.iter().map(|&x| f64::from(x)))
}

/// The golden checkpoint as a GGUF file whose matrices are stored as `format` (`None`: float32).
fn golden_as_gguf(format: Option<Format>, file: &std::path::Path) {
    let package = open(&fixture("golden/model"));
    let config = &package.config;
    let vocabulary = Vocabulary::of(config.vocab_size, &package.tokenizer).unwrap();
    let keys = metadata(
        config,
        &Description {
            name: "golden",
            weights: FileType::F32, // read by nobody here
            vocabulary: &vocabulary,
            bos_token_id: Some(259),
            eos_token_id: Some(256),
            eot_token_id: Some(258),
            pad_token_id: Some(256),
            mask_token_id: 260,
            chat_template: None,
            shift_logits: true,
        },
    );
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    for TensorSpec {
        name, gguf_name, ..
    } in config.tensors()
    {
        let tensor = golden_tensor(&name);
        let dims: Vec<usize> = tensor.dims().iter().rev().copied().collect();
        let blocks = format.filter(|_| dims.len() == 2 && dims[0].is_multiple_of(32));
        let (ggml_type, bytes) = match blocks {
            Some(format) => {
                let numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                let blocks = format.quantize(Isa::detect(), &numbers).unwrap();
                (format.into(), blocks)
            }
            None => {
                let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                (
                    GgmlType::F32,
                    values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                )
            }
        };
        tensors.push(TensorDescription {
            name: gguf_name.clone(),
            dims,
            ggml_type,
        });
        data.push((gguf_name, bytes));
    }
    let mut writer = GgufWriter::new(Vec::new(), &keys, &tensors).unwrap();
    for (name, bytes) in &data {
        writer.append(name, bytes).unwrap();
    }
    std::fs::write(file, writer.finish().unwrap()).unwrap();
}

fn golden_tensor(name: &str) -> Tensor {
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let found = shards.iter().find_map(|shard| {
        let path = fixture("golden/model").join(shard);
        candle_core::safetensors::load(path, &Device::Cpu)
            .unwrap()
            .remove(name)
    });
    found.unwrap()
}

#[test]
fn a_float_gguf_equals_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("golden.gguf");
    golden_as_gguf(None, &file);
    let (from_gguf, original) = (open(&file), open(&fixture("golden/model")));
    assert_eq!(from_gguf.mask_id, original.mask_id);
    for id in &original.stop_ids {
        assert!(from_gguf.stop_ids.contains(id));
    }
    let found = logits(
        &from_gguf,
        &mut load(&from_gguf, Storage::AsStored, Isa::detect()),
    );
    let dense = Storage::Dense(DType::F32);
    let expected = logits(&original, &mut load(&original, dense, Isa::detect()));
    assert_eq!(found, expected);
}

#[test]
fn packed_kernels_compute_what_the_blocks_say() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Q8_0, Format::Q4_0] {
        let file = folder.path().join(format!("{format}.gguf"));
        golden_as_gguf(Some(format), &file);
        let package = open(&file);
        // The same weights as float32: what is left is the rounding of activations to 8 bits,
        // about 0.6 % a product in blocks with a peak 2.5 times their mean, thirteen products deep.
        let dense = Storage::Dense(DType::F32);
        let expected = logits(&package, &mut load(&package, dense, Isa::detect()));
        let mut first = None;
        for isa in Isa::available() {
            let found = logits(&package, &mut load(&package, Storage::AsStored, isa));
            let error = relative_error(&found, &expected);
            assert!(error < 0.06, "{isa} {format}: {error}");
            assert!(error > 1e-5, "{format} did not go through the kernels");
            if !isa.has_tiles() {
                assert_eq!(first.get_or_insert(found.clone()), &found, "{isa} differs");
            }
        }
    }
}

/// A file with matrices of every format, as published mixtures have several.
fn mixed_file(package: &Package, file: &std::path::Path) {
    let config = &package.config;
    let vocabulary = Vocabulary::of(config.vocab_size, &package.tokenizer).unwrap();
    let description = Description {
        name: "mixed",
        weights: FileType::Q4_K_M,
        vocabulary: &vocabulary,
        bos_token_id: None,
        eos_token_id: config.eos_token_ids.first().copied(),
        eot_token_id: None,
        pad_token_id: config.pad_token_id,
        mask_token_id: package.mask_id,
        chat_template: None,
        shift_logits: true,
    };
    let mut formats = Format::ALL.into_iter().cycle();
    let (mut tensors, mut data) = (Vec::new(), Vec::new());
    for tensor in config.tensors() {
        let count = tensor.shape.iter().product::<usize>();
        let (ggml_type, bytes) = if tensor.shape.len() == 2 {
            let format = formats.next().unwrap();
            let blocks = random_blocks(format, count / format.block_inputs(), 0.06);
            (format.into(), blocks)
        } else {
            let value = if tensor.name.ends_with("bias") {
                0f32
            } else {
                1.0
            };
            (GgmlType::F32, value.to_le_bytes().repeat(count))
        };
        data.push((tensor.gguf_name.clone(), bytes));
        tensors.push(TensorDescription {
            name: tensor.gguf_name,
            dims: tensor.shape.into_iter().rev().collect(),
            ggml_type,
        });
    }
    let keys = metadata(config, &description);
    let mut writer = GgufWriter::new(Vec::new(), &keys, &tensors).unwrap();
    for (name, bytes) in &data {
        writer.append(name, bytes).unwrap();
    }
    std::fs::write(file, writer.finish().unwrap()).unwrap();
}

#[test]
fn a_file_of_every_format_computes_what_its_blocks_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mixed.gguf");
    mixed_file(&open(std::path::Path::new("tiny")), &file);
    let package = open(&file);
    let dense = Storage::Dense(DType::F32);
    let expected = logits(&package, &mut load(&package, dense, Isa::detect()));
    let stored = |isa| logits(&package, &mut load(&package, Storage::AsStored, isa));
    let found = stored(Isa::detect());
    let error = relative_error(&found, &expected);
    // Activations are rounded to 8 bits, with a scale for 128 of them.
    assert!((1e-5..0.15).contains(&error), "{error}");
    // The fastest without tiles, which round to bf16 and not to 8 bits.
    let isa = Isa::available().rfind(|isa| !isa.has_tiles()).unwrap();
    assert_eq!(stored(Isa::SCALAR), stored(isa));

    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 40]).unwrap();
    let spec = ModelSpec::parse(file.to_str().unwrap()).unwrap();
    let error = Package::open(&spec, &HubOptions::new("no-cache"), &mut ());
    let error = error.and_then(|package| package.fetch_weights(&mut ()).map(|_| ()));
    assert!(error.unwrap_err().to_string().contains("mixed.gguf"));
}

#[test]
fn quantizing_while_loading_stays_close_to_float() {
    let package = open(std::path::Path::new("tiny"));
    let dense = Storage::Dense(DType::F32);
    let expected = logits(&package, &mut load(&package, dense, Isa::detect()));
    for (format, bound) in [
        (Format::Q8_0, 0.05),
        (Format::Q4_0, 0.4),
        (Format::Q4K, 0.4),
    ] {
        let storage = Storage::Quantized(format);
        let found = logits(&package, &mut load(&package, storage, Isa::detect()));
        let error = relative_error(&found, &expected);
        assert!(error < bound, "{format}: {error}");
        assert!(error > 1e-4, "{format} is not what was computed");
    }
}

/// What llama.cpp's mixtures store the `ffn_down` of 6 layers as: the last gets more bits, and the
/// third.
fn mixture(rest: GgmlType) -> [GgmlType; 6] {
    [rest, rest, GgmlType::Q6_K, rest, rest, GgmlType::Q6_K]
}

#[test]
fn quantize_writes_a_file_that_generates() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    let path = file.to_str().unwrap();
    let quantize = |more: &[&str]| {
        let args = ["quantize", "--model", "tiny", "-o", path];
        diffucoder(&[&args[..], more].concat()).output().unwrap()
    };
    let tiny = open(std::path::Path::new("tiny"));
    let float = Storage::Dense(DType::F32);
    let expected = logits(&tiny, &mut load(&tiny, float, Isa::detect()));
    for (to, bound, number, down) in [
        ("q8_0", 0.05, 7, [GgmlType::Q8_0; 6]),
        ("q6_k", 0.1, 18, [GgmlType::Q6_K; 6]),
        ("q5_k_m", 0.2, 17, mixture(GgmlType::Q5_K)),
        ("q4_k_m", 0.4, 15, mixture(GgmlType::Q4_K)),
        ("q4_k", 0.4, 14, [GgmlType::Q4_K; 6]),
        ("q4_0", 0.4, 2, [GgmlType::Q4_0; 6]),
        ("f16", 0.01, 1, [GgmlType::F16; 6]),
        ("bf16", 0.05, 32, [GgmlType::BF16; 6]),
    ] {
        let output = quantize(&["--to", to, "--force"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(
            table.contains("ffn_down") && table.contains("attn_norm"),
            "{table}"
        );
        let types = down.iter().collect::<std::collections::HashSet<_>>().len();
        assert_eq!(table.matches("ffn_down ").count(), types, "{table}");
        let errors = table.lines().filter_map(|line| line.strip_suffix(" %"));
        let errors = errors.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap());
        let worst = errors.fold(0.0, f64::max);
        assert!((0.0..15.0).contains(&worst), "{table}");
        let bytes = std::fs::read(&file).unwrap();
        let gguf = GgufFile::parse(&bytes).unwrap();
        assert_eq!(gguf.u32("general.file_type").unwrap(), number, "{to}");
        let stored = |name: &str| gguf.tensor(name).unwrap().ggml_type;
        for (layer, down) in down.into_iter().enumerate() {
            assert_eq!(
                stored(&format!("blk.{layer}.ffn_down.weight")),
                down,
                "{to} {layer}"
            );
        }
        assert_eq!(stored("blk.0.attn_norm.weight"), GgmlType::F32);
        let package = open(&file);
        let prompt = "def f(x):\n    return [x]  # \u{e9}\u{1f600}";
        assert_eq!(
            package.tokenizer.encode_plain(prompt).unwrap(),
            tiny.tokenizer.encode_plain(prompt).unwrap()
        );
        assert_eq!(package.mask_id, tiny.mask_id);
        assert_eq!(package.recipe, tiny.recipe, "by the file's own name");
        let found = logits(
            &package,
            &mut load(&package, Storage::AsStored, Isa::detect()),
        );
        let error = relative_error(&found, &expected);
        assert!(error < bound, "{to}: {error}");
    }
    let refused = quantize(&["--to", "q8_0"]);
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("--force"), "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_file_made_elsewhere_generates() {
    let file = fixture("gguf/tiny.gguf");
    let args = [
        "generate",
        "--model",
        file.to_str().unwrap(),
        "--raw",
        "-p",
        "ab",
        "-n",
        "8",
    ];
    let run = |more: &[&str], isa: &str| {
        let args = [&args[..], &["--seed", "1", "-o", "json"], more].concat();
        let output = diffucoder(&args)
            .env("DIFFUCODER_ISA", isa)
            .output()
            .unwrap();
        (
            output.status.code(),
            output.stdout,
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, stdout, stderr) = run(&[], "scalar");
    assert_eq!(code, Some(0), "{stderr}");
    let report: Json = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(report["token_ids"].as_array().unwrap().len(), 8);
    assert_eq!(report["settings"]["quant"], "as stored");
    assert_eq!(report["settings"]["isa"], "scalar");
    let best = Isa::detect().name();
    let (_, stdout, stderr) = run(&["--isa", "scalar"], best);
    let flagged: Json = serde_json::from_slice(&stdout).expect(&stderr);
    assert_eq!(flagged["settings"]["isa"], "scalar", "the flag wins");
    let (_, stdout, stderr) = run(&[], best);
    let report: Json = serde_json::from_slice(&stdout).expect(&stderr);
    assert_eq!(report["settings"]["isa"], best);
    let (code, _, stderr) = run(&["--quant", "q8_0"], "scalar");
    assert_eq!(code, Some(2), "{stderr}");
    let names: Vec<&str> = Isa::available().map(Isa::name).collect();
    let has = format!("this CPU has {}", names.join(", "));
    for (flags, isa, from) in [
        (&[][..], "mmx", "DIFFUCODER_ISA"),
        (&["--isa", "mmx"][..], "scalar", "--isa"),
    ] {
        let (code, _, stderr) = run(flags, isa);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(from) && stderr.contains(&has), "{stderr}");
    }
}

#[test]
fn a_broken_gguf_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("gguf/tiny.gguf")).unwrap();
    let file = folder.path().join("cut.gguf");
    let lengths = [0, 3, 20, whole.len() / 2, whole.len() - 1];
    let cut = lengths.map(|len| whole[..len].to_vec());
    let mut of_unknown = whole.clone(); // in its first merge
    let merges = b"tokenizer.ggml.merges";
    let at = whole.windows(merges.len()).position(|key| key == merges);
    of_unknown[at.unwrap() + merges.len() + 4 + 4 + 8 + 8] = 1;
    for bytes in cut.into_iter().chain([of_unknown]) {
        std::fs::write(&file, bytes).unwrap();
        let args = [
            "generate",
            "--model",
            file.to_str().unwrap(),
            "-p",
            "x",
            "-n",
            "2",
        ];
        let output = diffucoder(&args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains("cut.gguf"),
            "{stderr}"
        );
    }
    assert!(
        Checkpoint::open_gguf(
            vec![("f".into(), diffucoder::weights::Bytes::Static(b"GGUF"))],
            arch::checkpoint_name
        )
        .is_err()
    );
}
