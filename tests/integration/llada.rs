//! LLaDA: logits, and every generation token for token, against vectors of a small random
//! checkpoint (`tests/fixtures/golden-llada/make_golden.py`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use diffucoder::diffusion::{Algorithm, Decoding, FirstToken, Settings, Shaping, Steps};
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::Target;
use diffucoder::model::config::Config;
use diffucoder::package::{Package, Prompt};
use diffucoder::session::{Conditions, Hole, Job, Mode, Session, Task};
use diffucoder::weights::gguf::GgufFile;
use half::f16;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{
    assert_logits, forwards, generations, golden, ids, number, on_tensors, open, session,
};

const SET: &str = "golden-llada";

const HEAD: &str = "model.transformer.ff_out.weight";

/// The checkpoint with other tensors.
fn with_tensors(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture(&format!("{SET}/model"));
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model.join(file), folder.path().join(file)).unwrap();
    }
    let name = "model.safetensors";
    let mut tensors = candle_core::safetensors::load(model.join(name), &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, folder.path().join(name)).unwrap();
    folder
}

fn job(case: &Value, session: &Session) -> Job {
    let usual = session.settings(Mode::Exact, false);
    assert_eq!(usual.decoding.window, Some(32));
    let settings = Settings {
        steps: Steps::Count(number(case, "steps")),
        decoding: Decoding {
            window: Some(number(case, "block_length")),
            ..usual.decoding
        },
        ..usual
    };
    let package = session.package();
    let special = (package.mask_id, &*package.stop_ids);
    let hole = Hole::Exactly(number(case, "max_new_tokens"));
    let texts = vec![ids(&case["prompt_ids"]), Vec::new()];
    Job::new(texts, vec![hole], special, settings)
}

#[test]
fn logits_equal_the_reference() {
    assert_logits(SET);
}

/// In every family whose authors fill blocks.
#[test]
fn an_order_by_chance_comes_to_an_end() {
    for (set, order_temperature) in [
        (SET, Some(1.0)),
        ("golden-stable-diffcoder", Some(1.0)),
        ("golden-dllm-qwen3", Some(1.0)),
        ("golden-sdar", None),
        ("golden-fast-dllm-v2", None),
    ] {
        let mut session = session(set);
        let settings = Settings {
            algorithm: Algorithm::Origin,
            seed: 3,
            ..session.settings(Mode::Exact, false)
        };
        let of = (settings.steps, settings.decoding.order_temperature);
        assert_eq!(of, (Steps::OfTokens(1), order_temperature), "{set}");
        let task = Task::answer(Prompt::Raw("x"), Hole::Exactly(40)).with(settings);
        let outcome = session.run(&task).unwrap();
        assert!(outcome.canvas.masked().is_empty(), "{set}");
    }
}

/// It is published for two families, and is not the same for both.
#[test]
fn fast_dllm_for_llada_is_its_own() {
    let settings = session(SET).settings(Mode::FastDllm, false);
    let decoding = settings.decoding;
    assert_eq!(decoding.first_token, FirstToken::Predicted);
    assert!(!decoding.is_capped);
    assert_eq!(Mode::of(&decoding, false), Some(Mode::FastDllm));
    let of_dream = session("golden").settings(Mode::FastDllm, false);
    assert_eq!(of_dream.decoding, Mode::FastDllm.decoding(false));
    assert_eq!(of_dream.shaping, Shaping::temperature(0.0));
    assert_eq!(settings.shaping, of_dream.shaping);
    let steps = |mode| session("golden").settings(mode, true).steps;
    for mode in Mode::ALL {
        let tokens = if mode == Mode::FastDllm { 2 } else { 1 };
        assert_eq!(steps(mode), Steps::OfTokens(tokens), "{}", mode.name());
    }
}

#[test]
fn every_generation_equals_the_reference() {
    assert_generations(session(SET), &generations(SET));
}

/// In float32 most of what such a head predicts is certain: it comes from left to right, and to
/// another text.
#[test]
fn the_order_is_one_of_float64() {
    let golden = golden(SET);
    let folder = with_tensors(|tensors| {
        let head = tensors.get_mut(HEAD).unwrap();
        *head = (&*head * golden["sure_head"].as_f64().unwrap()).unwrap();
    });
    let cases = golden["sure_generations"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    assert_generations(open(folder.path()), cases);
}

/// On the CPU's own network, and the one that GPUs get.
fn assert_generations(mut session: Session, cases: &[Value]) {
    let mut tensors = on_tensors(&session);
    for (case, described) in cases.iter().enumerate() {
        let mut job = job(described, &session);
        let expected = ids(&described["new_ids"]);
        let outcome = session.run_job(&mut job, &mut Conditions::default());
        let outcome = outcome.unwrap();
        assert_eq!(outcome.canvas.generated(), expected, "{case}");
        assert_eq!(
            outcome.work.forwards,
            number(described, "forwards"),
            "{case}"
        );
        let done = job.run(&mut tensors, &mut Conditions::default()).unwrap();
        assert_eq!(done.canvas.generated(), expected, "{case}");
    }
}

#[test]
fn the_program_prints_the_ids_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt");
    for case in generations(SET) {
        std::fs::write(&prompt, case["prompt"].as_str().unwrap()).unwrap();
        let mut command = diffucoder(&[]);
        command.args(["generate", "--exact", "--raw", "--special", "-t0"]);
        command.args(["--dtype=f32", "--device=cpu", "--output=json"]);
        command.arg("--model").arg(fixture(&format!("{SET}/model")));
        command.arg("--prompt-file").arg(&prompt);
        command.arg(format!("-n{}", number(&case, "max_new_tokens")));
        command.arg(format!("--window={}", number(&case, "block_length")));
        command.arg(format!("--steps={}", number(&case, "steps")));
        let output = command.assert().success().get_output().stdout.clone();
        let said: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(ids(&said["token_ids"]), ids(&case["new_ids"]), "{case}");
    }
}

/// In GGUF files neighbours are rotated together, as llama.cpp has it, and the rows of q and k are
/// in that order: the same network, and the same numbers but for the rounding of the weights.
#[test]
fn a_gguf_file_is_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llada.gguf");
    let mut command = diffucoder(&[]);
    command.args(["quantize", "--to=f16", "--model"]);
    command.arg(fixture(&format!("{SET}/model")));
    command.arg("-o").arg(&file).assert().success();
    let package = Package::open(
        &ModelSpec::Local(file.clone()),
        &HubOptions::new("no-such-cache"),
        &mut (),
    );
    let mut stored = Session::new(package.unwrap(), Target::cpu(DType::F32));
    let mut tensors = on_tensors(&stored);
    let mut session = session(SET);
    assert_eq!(stored.package().mask_id, session.package().mask_id);
    let bytes = std::fs::read(&file).unwrap();
    let parsed = GgufFile::parse(&bytes).unwrap();
    let q = parsed.data(parsed.tensor("blk.0.attn_q.weight").unwrap());
    let row_bytes = q.len() / 64;
    let checkpoint = std::fs::read(fixture(&format!("{SET}/model/model.safetensors"))).unwrap();
    let checkpoint = SafeTensors::deserialize(&checkpoint).unwrap();
    let of_checkpoint = checkpoint.tensor("model.transformer.blocks.0.q_proj.weight");
    let of_checkpoint = of_checkpoint.unwrap();
    // The second row of a head of 16 is the first of its second half.
    let row = &of_checkpoint.data()[8 * 64 * 4..9 * 64 * 4];
    for (found, expected) in q[row_bytes..].chunks_exact(2).zip(row.chunks_exact(4)) {
        let found = f16::from_le_bytes(found.try_into().unwrap());
        let expected = f32::from_le_bytes(expected.try_into().unwrap());
        assert_eq!(found, f16::from_f32(expected));
    }
    let (ids, _) = forwards(SET).remove(1);
    let load = |session: &mut Session| {
        let model = session.load(&mut (), &mut |_, _| ()).unwrap();
        model.head_output(&ids).unwrap()
    };
    let (found, expected) = (load(&mut stored), load(&mut session));
    let deviation = |found: &[f32]| {
        let squares = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2));
        (squares.sum::<f32>() / found.len() as f32).sqrt()
    };
    // Logits spread by 2.6; rows in another order would change them by as much.
    assert!(deviation(&found) < 0.02, "{}", deviation(&found));
    let found = tensors.head_output(&ids).unwrap();
    assert!(deviation(&found) < 0.02, "{}", deviation(&found));
}

#[test]
fn what_a_llada_can_have_and_this_one_does_not_is_refused() {
    let json = std::fs::read(fixture(&format!("{SET}/model/config.json"))).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let read = |json: &Value| Config::from_json(json.to_string().as_bytes());
    let config = read(&json).unwrap();
    assert_eq!((config.vocab_size, config.head_dim), (280, 16));
    for (key, value) in [
        ("include_qkv_bias", Value::from(true)),
        ("layer_norm_type", "default".into()),
        ("activation_type", "gelu".into()),
        ("block_type", "sequential".into()),
        ("alibi", true.into()),
        ("rope", false.into()),
        ("clip_qkv", 0.01.into()),
    ] {
        let mut json = json.clone();
        json[key] = value;
        assert!(read(&json).is_err(), "{key}");
    }
    // Errors have the file's own names.
    for (key, value, says) in [
        ("n_heads", json!(0), "n_heads is 0"),
        ("activation_type", json!("gelu"), "activation_type is gelu"),
        ("max_sequence_length", json!(0), "max_sequence_length is 0"),
    ] {
        let mut json = json.clone();
        json[key] = value;
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut without_width = json.clone();
    without_width.as_object_mut().unwrap().remove("d_model");
    let error = anyhow::Error::from(read(&without_width).unwrap_err());
    assert!(
        format!("{error:#}").ends_with("missing field `d_model`"),
        "{error:#}"
    );
    // Another family's key.
    let mut with_block_size = json.clone();
    with_block_size["block_size"] = 32.into();
    assert_eq!(read(&with_block_size).unwrap(), config);
}

/// None of the two is taken for the other.
#[test]
fn a_tensor_under_both_of_its_names_is_refused() {
    let folder = with_tensors(|tensors| {
        let head = tensors[HEAD].clone();
        tensors.insert("lm_head.weight".into(), (head * 2.0).unwrap());
    });
    let session = open(folder.path());
    let error = session.package().fetch_weights(&mut ());
    let error = error.err().unwrap().to_string();
    assert_eq!(
        error,
        "tensor lm_head.weight is in both model.safetensors (lm_head.weight) and \
         model.safetensors (model.transformer.ff_out.weight)"
    );
}
