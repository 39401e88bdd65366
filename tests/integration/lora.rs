//! An adapter merged while a model is loaded: logits against PEFT's own merge, and what is refused
//! (`tests/fixtures/golden-lora`, over the checkpoint of `golden`).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use diffucoder::Error;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::{Model, Target};
use diffucoder::package::Package;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{assert_close, forwards, golden};

const SET: &str = "golden-lora";

/// A copy of the adapter whose configuration has another value.
fn adapter(key: &str, value: Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let name = "adapter_model.safetensors";
    fs::copy(fixture(SET).join(name), folder.path().join(name)).unwrap();
    let json = fs::read(fixture(SET).join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&json).unwrap();
    config[key] = value;
    let file = folder.path().join("adapter_config.json");
    fs::write(file, config.to_string()).unwrap();
    folder
}

fn adapted(model: &Path, adapter: &Path) -> Result<Package, Error> {
    let options = HubOptions::new("no-such-cache");
    let mut package = Package::open(&ModelSpec::Local(model.into()), &options, &mut ())?;
    package.adapt(&ModelSpec::Local(adapter.into()), &options, &mut ())?;
    Ok(package)
}

fn loaded(package: &Package) -> Model {
    let weights = package.fetch_weights(&mut ()).unwrap();
    let target = Target::cpu(DType::F32);
    package.load(weights, &target, &mut |_, _| ()).unwrap()
}

/// Both ways of scaling, both networks; every kind of tensor is changed.
#[test]
fn logits_equal_those_of_peft_s_merge() {
    let rslora = adapter("use_rslora", json!(true));
    let folders = [fixture(SET), rslora.path().into()];
    for ((ids, expected), folder) in forwards(SET).iter().zip(folders) {
        let package = adapted(&fixture("golden/model"), &folder).unwrap();
        let target = Target::cpu(DType::F32);
        let weights = package.fetch_weights(&mut ()).unwrap();
        let tensors = Model::load_on_tensors(&package.config, weights, &target, &mut |_, _| ());
        for mut model in [loaded(&package), tensors.unwrap()] {
            assert_close(&model.head_output(ids).unwrap(), expected, SET);
        }
    }
}

fn exact(model: &Path, lora: Option<&Path>, flags: &[&str]) -> Value {
    let mut command = diffucoder(&["generate", "--exact", "--raw", "-t0", "-n24", "--seed=1"]);
    command
        .args(["--steps=24", "--device=cpu", "--output=json"])
        .args(flags);
    command
        .args(["--prompt", "def add(a, b):\n"])
        .arg("--model")
        .arg(model);
    if let Some(lora) = lora {
        command.arg("--lora").arg(lora);
    }
    let output = command.assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

/// `golden.json` has what the program wrote with the weights that PEFT merged.
#[test]
fn the_program_writes_what_the_merged_checkpoint_does() {
    let model = fixture("golden/model");
    let golden = golden(SET);
    let plain = exact(&model, None, &["--dtype=f32"]);
    assert_ne!(plain["token_ids"], golden["token_ids"]);
    assert!(plain["adapter"].is_null());
    let merged = exact(&model, Some(&fixture(SET)), &["--dtype=f32"]);
    assert_eq!(merged["token_ids"], golden["token_ids"]);
    let named = merged["adapter"].as_str().unwrap();
    assert!(named.ends_with(SET), "{named}");

    // Merged and quantized, it is whole, and takes no other.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("merged.gguf");
    let mut quantize = diffucoder(&["quantize", "--to=q8_0"]);
    quantize
        .arg("--model")
        .arg(&model)
        .arg("--lora")
        .arg(fixture(SET));
    quantize.arg("-o").arg(&file).assert().success();
    let (ids, expected) = forwards(SET).remove(0);
    let off = |model: &Path| {
        let spec = ModelSpec::Local(model.into());
        let package = Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ()).unwrap();
        let found = loaded(&package).head_output(&ids).unwrap();
        let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>();
        let difference = squares(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        (difference / squares(&mut expected.iter().copied())).sqrt()
    };
    assert!(off(&file) < 0.1, "{}", off(&file));
    assert!(off(&model) > 0.2, "{}", off(&model));
    let refused = adapted(&file, &fixture(SET)).err().unwrap();
    assert!(
        refused.to_string().contains("quantized already"),
        "{refused}"
    );
    assert!(refused.hint().unwrap().contains("BF16"));
}

#[test]
fn what_is_no_adapter_of_this_model_is_refused_with_its_reason() {
    let model = fixture("golden/model");
    for (key, value, says) in [
        ("use_dora", json!(true), "use_dora is true"),
        ("peft_type", json!("IA3"), "peft_type is IA3"),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "init_lora_weights",
        ),
        ("r", json!(0), "r is 0"),
        ("r", json!(5), "[5, "),
        ("rank_pattern", json!(null), "[4, 64]"),
        ("r", json!("four"), "adapter_config.json"),
        ("target_modules", json!(["q_proj"]), "does not name"),
        (
            "target_modules",
            json!(["c_attn", "norm"]),
            "does not name lm_head",
        ),
        (
            "modules_to_save",
            json!(["norm", "gate_proj"]),
            "it does not have model.layers.0.mlp.gate_proj, which modules_to_save names",
        ),
        ("target_modules", json!(".*_proj"), "does not name lm_head"),
    ] {
        let folder = adapter(key, value.clone());
        let error = adapted(&model, folder.path()).err().unwrap();
        assert!(error.to_string().contains(says), "{key} {value}: {error}");
        assert!(error.hint().is_some(), "{key} {value}: {error}");
    }
    // Another network: other shapes, no biases, a head that is the table.
    for (other, says) in [("golden-coda", "bias"), ("golden-opendcoder", "lm_head")] {
        let error = adapted(&fixture(&format!("{other}/model")), &fixture(SET));
        let error = error.err().unwrap().to_string();
        assert!(error.contains(says), "{other}: {error}");
    }
    // A model is not an adapter.
    let no_such = Path::new("/no/such");
    for (lora, says) in [(&*model, "adapter_config.json"), (no_such, "/no/such")] {
        let error = adapted(&model, lora).err().unwrap();
        assert_eq!(error.to_string(), "the adapter cannot be loaded");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(says), "{cause}");
    }
}

/// LLaDA's modules have names of their own, by which the adapter, its targets and its patterns call
/// them.
#[test]
fn an_adapter_of_llada_has_llada_s_names() {
    let model = fixture("golden-llada/model");
    let weights = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu);
    let (mut merged, mut adapter) = (weights.unwrap(), HashMap::new());
    let scales = [
        ("blocks.0.q_proj", 2.0),
        ("blocks.2.ff_out", 3.0),
        ("ff_out", 2.0),
    ];
    for (module, scale) in scales {
        let module = format!("model.transformer.{module}");
        let weight = merged.get_mut(&format!("{module}.weight")).unwrap();
        let (n, k) = weight.dims2().unwrap();
        let random = |shape| Tensor::randn(0f32, 0.1, shape, &Device::Cpu).unwrap();
        let (a, b) = (random((2, k)), random((n, 2)));
        *weight = (&*weight + (b.matmul(&a).unwrap() * scale).unwrap()).unwrap();
        adapter.insert(format!("base_model.model.{module}.lora_A.weight"), a);
        adapter.insert(format!("base_model.model.{module}.lora_B.weight"), b);
    }
    let norm = "model.transformer.ln_f.weight";
    let louder = (&merged[norm] * 1.5).unwrap();
    adapter.insert(format!("base_model.model.{norm}"), louder.clone());
    merged.insert(norm.into(), louder);

    let folder = tempfile::tempdir().unwrap();
    let lora = folder.path().join("lora");
    let whole = folder.path().join("merged");
    for path in [&lora, &whole] {
        fs::create_dir(path).unwrap();
    }
    let save = |tensors, path| candle_core::safetensors::save(tensors, path).unwrap();
    save(&adapter, lora.join("adapter_model.safetensors"));
    save(&merged, whole.join("model.safetensors"));
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(file), whole.join(file)).unwrap();
    }
    let mut config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4,
        // The last two are other models' names.
        "target_modules": ["0.q_proj", "2.ff_out", "transformer.ff_out", "o_proj", "gate_proj"],
        "alpha_pattern": {"blocks.2.ff_out": 6, "ff_out": 4},
    });
    let write = |config: &Value| {
        fs::write(lora.join("adapter_config.json"), config.to_string()).unwrap();
        adapted(&model, &lora)
    };
    let logits = |package: Package| loaded(&package).head_output(&[5; 20]).unwrap();
    let options = HubOptions::new("no-such-cache");
    let expected = Package::open(&ModelSpec::Local(whole), &options, &mut ()).unwrap();
    assert_close(&logits(write(&config).unwrap()), &logits(expected), "llada");

    for (targets, says) in [
        (
            json!(["0.q_proj", "2.ff_out", "transformer.ff_out", "wte"]),
            "no matrices for model.transformer.wte",
        ),
        (
            json!(["q_proj", "2.ff_out", "transformer.ff_out"]),
            "no matrices for model.transformer.blocks.1.q_proj",
        ),
        (json!(["q_proj"]), "does not name"),
    ] {
        config["target_modules"] = targets;
        let error = write(&config).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Of two changes one would be lost.
#[test]
fn a_tensor_is_changed_in_one_way() {
    let name = "base_model.model.lm_head.lora_A.weight";
    for (other, says) in [
        (
            "base_model.model.lm_head.lora_A.default.weight",
            "are one matrix",
        ),
        (
            "base_model.model.lm_head.weight",
            "changes lm_head.weight in two ways",
        ),
    ] {
        let folder = adapter("r", json!(4));
        let file = folder.path().join("adapter_model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let mut copy = tensors[name].clone();
        if !other.contains("lora") {
            let b = &tensors["base_model.model.lm_head.lora_B.weight"];
            copy = b.matmul(&copy).unwrap();
        }
        tensors.insert(other.into(), copy);
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let error = adapted(&fixture("golden/model"), folder.path())
            .err()
            .unwrap();
        assert!(error.to_string().contains(says), "{other}: {error}");
    }
}

/// What PEFT saves of a head beside the matrices that are added to it.
#[test]
fn a_head_of_its_own_is_what_the_matrices_are_added_to() {
    let folder = adapter("r", json!(4));
    let file = folder.path().join("adapter_model.safetensors");
    let load = |file: &Path| candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let mut tensors = load(&file);
    let shards = [1, 2].map(|n| format!("golden/model/model-0000{n}-of-00002.safetensors"));
    let mut shards = shards.iter().map(|shard| load(&fixture(shard)));
    let head = shards
        .find_map(|mut shard| shard.remove("lm_head.weight"))
        .unwrap();
    let name = "base_model.model.lm_head.base_layer.weight";
    let mut logits = |head: Tensor| {
        tensors.insert(name.into(), head);
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let package = adapted(&fixture("golden/model"), folder.path()).unwrap();
        loaded(&package).head_output(&forwards(SET)[0].0).unwrap()
    };
    let expected = &forwards(SET)[0].1;
    assert_close(&logits(head.clone()), expected, SET);
    let of_half = logits((head * 0.5).unwrap());
    assert!(
        of_half
            .iter()
            .zip(expected)
            .any(|(a, b)| (a - b).abs() > 0.1)
    );
}

/// Names as trainers write them that save the adapter themselves.
#[test]
fn names_with_the_adapter_s_own_name_are_read() {
    let folder = adapter("modules_to_save", json!(["norm"]));
    let file = folder.path().join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let name = name.replace(".lora_A.", ".lora_A.default.");
        let name = name.replace(".lora_B.", ".lora_B.default.");
        (
            name.replace("norm.weight", "norm.modules_to_save.default.weight"),
            tensor,
        )
    });
    candle_core::safetensors::save(&renamed.collect(), &file).unwrap();
    let package = adapted(&fixture("golden/model"), folder.path()).unwrap();
    let (ids, expected) = &forwards(SET)[0];
    let found = loaded(&package).head_output(ids).unwrap();
    assert_close(&found, expected, SET);
}

/// What is saved whole must have the shape of what it stands for.
#[test]
fn a_tensor_of_another_shape_is_refused() {
    let folder = adapter("r", json!(4));
    let file = folder.path().join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let norm = tensors
        .get_mut("base_model.model.model.norm.weight")
        .unwrap();
    *norm = norm.narrow(0, 0, 32).unwrap();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let error = adapted(&fixture("golden/model"), folder.path());
    let error = error.err().unwrap();
    let says = "norm.weight has shape [32], but this model and the rank make it [64]";
    assert!(error.to_string().contains(says), "{error}");
    assert!(error.hint().unwrap().contains("base_model_name_or_path"));
}

/// PEFT says what is missing of it, and goes on.
#[test]
fn an_adapter_that_lacks_a_part_is_refused() {
    let model = fixture("golden/model");
    let adapter = fixture(SET);
    let tensors = adapter.join("adapter_model.safetensors");
    let whole = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
    for (part, says) in [
        (
            "layers.1.self_attn.v_proj.lora_",
            "no matrices for model.layers.1.self_attn.v_proj",
        ),
        ("model.norm.weight", "does not have model.norm"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = "adapter_config.json";
        fs::copy(adapter.join(config), folder.path().join(config)).unwrap();
        let mut rest = whole.clone();
        rest.retain(|name, _| !name.contains(part));
        assert!(rest.len() < whole.len());
        let file = folder.path().join("adapter_model.safetensors");
        candle_core::safetensors::save(&rest, file).unwrap();
        let error = adapted(&model, folder.path()).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
