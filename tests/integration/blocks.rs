//! Block-causal models: logits, and every generation token for token, against vectors that their
//! own code made on small random checkpoints (`tests/fixtures/golden-sdar` and the like).

use candle_core::DType;
use diffucoder::diffusion::{
    Attention, Cache, Decoding, Denoiser, Ending, Pass, Refresh, Settings, Steps,
};
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::infill::Template;
use diffucoder::model::Target;
use diffucoder::model::config::Config;
use diffucoder::package::{Package, Prompt};
use diffucoder::session::asking::{Asking, Wish};
use diffucoder::session::{Conditions, Hole, Job, Session};
use serde_json::{Value, json};
use std::path::Path;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{
    assert_close, assert_logits, forwards, generations, golden, ids, number, on_tensors, session,
};

const FAMILIES: [&str; 2] = ["golden-sdar", "golden-stable-diffcoder"];

/// Steps, of a block or of all of them, as the family counts them.
fn steps(case: &Value) -> usize {
    let of_block = case["denoising_steps"].as_u64();
    of_block.map_or_else(|| number(case, "steps"), |steps| steps as usize)
}

/// What was written, which is all behind the prompt.
fn expected(case: &Value) -> Vec<u32> {
    ids(&case["sequence"]).split_off(ids(&case["prompt_ids"]).len())
}

/// Forwards that predict, and rows of all forwards: keys and values are stored with the next
/// block's first prediction, and so never those of the last block.
fn published_work(case: &Value) -> (usize, usize) {
    let history = case["history"].as_array().unwrap();
    let stores = |forward: &&Value| forward["stores"].as_bool().unwrap();
    let rows = |forward: &Value| forward["ids"].as_array().unwrap().len();
    let last = history.last().filter(stores).map_or(0, rows);
    let forwards = history.iter().filter(|forward| !stores(forward)).count();
    (forwards, history.iter().map(rows).sum::<usize>() - last)
}

fn job(case: &Value, session: &Session) -> Job {
    let usual = session.settings(session.package().mode(), false);
    let threshold = case["threshold"].as_f64().map(|threshold| threshold as f32);
    let settings = Settings {
        steps: match threshold {
            Some(_) => usual.steps,
            None => Steps::Count(steps(case)),
        },
        decoding: Decoding {
            window: Some(number(case, "block_length")),
            threshold,
            ..usual.decoding
        },
        ..usual
    };
    let package = session.package();
    let special = (package.mask_id, &*package.stop_ids);
    let hole = Hole::Exactly(number(case, "gen_length"));
    let texts = vec![ids(&case["prompt_ids"]), Vec::new()];
    Job::new(texts, vec![hole], special, settings)
}

fn written(session: &mut Session, job: &mut Job) -> Vec<u32> {
    let outcome = session.run_job(job, &mut Conditions::default()).unwrap();
    outcome.canvas.generated().to_vec()
}

#[test]
fn logits_equal_the_reference() {
    for family in FAMILIES {
        assert_logits(family);
    }
}

#[test]
fn every_generation_equals_the_reference() {
    for family in FAMILIES {
        let mut session = session(family);
        let mut tensors = on_tensors(&session);
        for (number, case) in generations(family).iter().enumerate() {
            let mut job = job(case, &session);
            let outcome = session.run_job(&mut job, &mut Conditions::default());
            let (outcome, expected) = (outcome.unwrap(), expected(case));
            assert_eq!(outcome.canvas.generated(), expected, "{family} {number}");
            let work = (outcome.work.forwards, outcome.work.rows);
            assert_eq!(work, published_work(case), "{family} {number}");
            let done = job.run(&mut tensors, &mut Conditions::default()).unwrap();
            assert_eq!(done.canvas.generated(), expected, "{family} {number}");
        }
    }
}

/// Whole blocks, and the token that the last of them predicts, are more than is asked for.
#[test]
fn blocks_end_with_the_context() {
    for (set, given, new, whole) in [
        ("golden-sdar", 3, 3, 8),
        ("golden-fast-dllm-v2", 32, 32, 65),
    ] {
        let mut session = session(set);
        let settings = Settings {
            ending: Ending::AfterBlock(Vec::new()),
            ..session.settings(session.package().mode(), false)
        };
        let special = (session.package().mask_id, &[][..]);
        let texts = vec![vec![40; given], Vec::new()];
        let job = Job::new(texts, vec![Hole::Exactly(new)], special, settings);
        for (context, len) in [(whole, whole), (given + new, given + new)] {
            let mut job = job.clone().within(context).unwrap();
            let outcome = session.run_job(&mut job, &mut Conditions::default());
            let outcome = outcome.unwrap();
            assert_eq!(outcome.canvas.ids().len(), len, "{set} {context}");
            assert!(outcome.canvas.masked().is_empty());
            assert_eq!(outcome.tokens(), new);
        }
        assert!(job.within(given + new - 1).is_err());
    }
}

/// Keys of finished blocks are exact: what is kept, and whether anything is, changes no token.
#[test]
fn what_is_kept_changes_nothing_but_the_work() {
    for family in FAMILIES {
        let mut session = session(family);
        for case in generations(family) {
            let mut job = job(&case, &session);
            let kept = session.run_job(&mut job, &mut Conditions::default());
            let kept = kept.unwrap();
            job.settings.decoding.reuse_context = true;
            let reused = session.run_job(&mut job, &mut Conditions::default());
            let reused = reused.unwrap();
            assert_eq!(reused.canvas.ids(), kept.canvas.ids());
            let whole_blocks = ids(&case["prompt_ids"]).len() / number(&case, "block_length")
                * number(&case, "block_length");
            assert_eq!(reused.work.rows + whole_blocks, kept.work.rows);
            for (cache, refresh) in [
                (Cache::None, Refresh::Never),
                (Cache::Dual, Refresh::Window),
            ] {
                (job.settings.decoding.cache, job.settings.decoding.refresh) = (cache, refresh);
                assert_eq!(written(&mut session, &mut job), kept.canvas.generated());
            }
        }
    }
}

/// All generations through the program.
#[test]
fn the_program_prints_the_ids_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt");
    for family in FAMILIES {
        for case in generations(family) {
            let Some(text) = case["prompt"].as_str() else {
                continue; // ids that no text has
            };
            std::fs::write(&prompt, text).unwrap();
            let mut command = diffucoder(&[]);
            command.args(["generate", "--exact", "--raw", "--special", "-t0"]);
            command.args(["--dtype=f32", "--device=cpu", "--output=json"]);
            command
                .arg("--model")
                .arg(fixture(&format!("{family}/model")));
            command.arg("--prompt-file").arg(&prompt);
            command.arg(format!("-n{}", number(&case, "gen_length")));
            command.arg(format!("--window={}", number(&case, "block_length")));
            match case["threshold"].as_f64() {
                Some(threshold) => command.arg(format!("--threshold={threshold}")),
                None => command.arg(format!("--steps={}", steps(&case))),
            };
            let output = command.assert().success().get_output().stdout.clone();
            let said: Value = serde_json::from_slice(&output).unwrap();
            assert_eq!(ids(&said["token_ids"]), expected(&case), "{family} {text}");
        }
    }
}

/// A GGUF file says what kind of model it holds, and the size of its blocks.
#[test]
fn a_quantized_file_writes_block_by_block_too() {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let file = folder.path().join(format!("{family}.gguf"));
        let mut command = diffucoder(&[]);
        command.args(["quantize", "--to=q8_0", "--model"]);
        command.arg(fixture(&format!("{family}/model")));
        command.arg("-o").arg(&file).assert().success();
        let package = Package::open(
            &ModelSpec::Local(file),
            &HubOptions::new("no-such-cache"),
            &mut (),
        );
        let (package, of_files) = (package.unwrap(), session(family));
        let of_files = of_files.package();
        assert_eq!(package.config.attention, Attention::BlockCausal(4));
        assert_eq!(package.config.family, of_files.config.family);
        assert_eq!(package.mask_id, of_files.mask_id);
        let mut session = Session::new(package, Target::cpu(DType::F32));
        let mut job = job(&generations(family)[0], &session);
        assert!(!written(&mut session, &mut job).contains(&of_files.mask_id));
    }
}

/// Models that are only built like one of these are none.
#[test]
fn a_plain_llama_is_refused_with_what_is_known() {
    let json = std::fs::read_to_string(fixture("golden-stable-diffcoder/model/config.json"));
    let json = json
        .unwrap()
        .replace("StableDiffcoderForCausalLM", "LlamaForCausalLM");
    let error = Config::from_json(json.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("\"llama\" is not supported"));
    assert!(
        error
            .hint()
            .unwrap()
            .contains("llama (StableDiffcoderForCausalLM)")
    );
}

#[test]
fn holes_that_text_follows_are_refused_with_models_that_fill_them() {
    let session = session(FAMILIES[0]);
    let template = Template::with_markers(b"a <FILL> b".to_vec()).unwrap();
    let task = session.fill(&template, Hole::Chosen { up_to: 9 });
    let error = session.prepare(&task).unwrap_err();
    assert!(error.to_string().contains("block-causal"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("dreamon") && hint.contains("tiny"), "{hint}");
    assert!(!hint.contains("stable-diffcoder"), "{hint}");
}

const DLLM: [&str; 2] = ["golden-dllm-qwen2", "golden-dllm-qwen3"];

/// dllm's model as one trained for a sampler, which its name would say.
fn dllm(set: &str, sampler: &str) -> Session {
    let spec = ModelSpec::Local(fixture(&format!("{set}/model")));
    let mut package = Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ()).unwrap();
    assert_eq!(package.config.attention, Attention::Full);
    if sampler == "bd3lm" {
        package.config.attention = Attention::BlockCausal(32);
    }
    Session::new(package, Target::cpu(DType::F32))
}

/// Pads have no rows: they only move the grid.
#[test]
fn logits_of_dllm_equal_the_reference_behind_pads_too() {
    for set in DLLM {
        assert_logits_of_dllm(set);
    }
}

fn assert_logits_of_dllm(set: &str) {
    let mut session = dllm(set, "mdlm");
    let mut tensors = on_tensors(&session);
    let golden = golden(set);
    let native = session.load(&mut (), &mut |_, _| ()).unwrap();
    let described = golden["forwards"].as_array().unwrap();
    let forwards = forwards(set);
    assert_eq!(forwards.len(), described.len());
    for ((ids, expected), forward) in forwards.iter().zip(described) {
        let all: Vec<usize> = (0..ids.len()).collect();
        let pads = number(forward, "left_pad");
        let positions: Vec<usize> = all.iter().map(|at| at + pads).collect();
        let size = forward["block_size"].as_u64();
        let pass = Pass {
            ids,
            positions: &positions,
            refresh: &all,
            predict: &all,
            attention: size.map_or(Attention::Full, |size| {
                Attention::BlockCausal(size as usize)
            }),
        };
        for model in [&mut *native, &mut tensors] {
            let mut found = Vec::new();
            model.forward(&pass, &mut found).unwrap();
            assert_close(&found, expected, set);
        }
    }
}

#[test]
fn every_generation_of_dllm_equals_the_reference() {
    let all = |set| generations(set).into_iter().map(move |case| (set, case));
    for (set, case) in DLLM.into_iter().flat_map(all) {
        let mut session = dllm(set, case["sampler"].as_str().unwrap());
        let usual = session.settings(session.package().mode(), false);
        let settings = Settings {
            steps: Steps::Count(number(&case, "steps")),
            decoding: Decoding {
                window: Some(number(&case, "block_size")),
                ..usual.decoding
            },
            ..usual
        };
        let package = session.package();
        let special = (package.mask_id, &*package.stop_ids);
        let hole = Hole::Exactly(number(&case, "max_new_tokens"));
        let texts = vec![ids(&case["prompt_ids"]), Vec::new()];
        let mut job = Job::new(texts, vec![hole], special, settings);
        let outcome = session.run_job(&mut job, &mut Conditions::default());
        let outcome = outcome.unwrap();
        assert_eq!(outcome.canvas.generated(), ids(&case["new_ids"]), "{case}");
        assert_eq!(outcome.work.forwards, number(&case, "forwards"));
    }
}

fn copied(set: &str, model: &Path) {
    std::fs::create_dir_all(model).unwrap();
    for file in std::fs::read_dir(fixture(&format!("{set}/model"))).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
}

/// The name of a model says which sampler dllm trained it for; not those of folders around it, nor
/// that of another family's, and not against the configuration.
#[test]
fn only_dllm_s_models_are_block_causal_by_their_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        let spec = ModelSpec::Local(path.into());
        Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ()).unwrap()
    };
    for (set, name, expected) in [
        (DLLM[0], "x-bd3lm", Attention::BlockCausal(32)),
        (DLLM[1], "X-BD3LM-v0.1/", Attention::BlockCausal(32)),
        (
            DLLM[1],
            "models--o--x-bd3lm/snapshots/0123",
            Attention::BlockCausal(32),
        ),
        (DLLM[0], "bd3lm-tests/x-mdlm", Attention::Full),
        ("golden-llada", "llada-not-bd3lm", Attention::Full),
        (FAMILIES[0], "sdar-not-bd3lm", Attention::BlockCausal(4)),
    ] {
        let model = folder.path().join(name);
        copied(set, &model);
        assert_eq!(open(&model).config.attention, expected, "{name}");
    }

    // Its file says so itself; one that does not has two names.
    let file = folder.path().join("x.gguf");
    let quantize = |model: &str| {
        let mut command = diffucoder(&[]);
        command.args(["quantize", "--to=q8_0", "--force", "--model"]);
        command.arg(folder.path().join(model));
        command.arg("-o").arg(&file).assert().success();
    };
    quantize("x-bd3lm");
    let (written, original) = (open(&file), open(&folder.path().join("x-bd3lm")));
    assert_eq!(written.config.attention, Attention::BlockCausal(32));
    let settings = |package: Package| {
        let session = Session::new(package, Target::cpu(DType::F32));
        session.settings(session.package().mode(), false)
    };
    assert_eq!(
        settings(written),
        settings(original),
        "the same ends of text"
    );
    quantize("bd3lm-tests/x-mdlm");
    assert_eq!(open(&file).config.attention, Attention::Full);
    let bytes = std::fs::read(&file).unwrap();
    let called = folder.path().join("y-bd3lm.gguf");
    std::fs::write(&called, &bytes).unwrap();
    assert_eq!(open(&called).config.attention, Attention::BlockCausal(32));
    let (name, other) = (b"\x06\0\0\0\0\0\0\0x-mdlm", b"\x07\0\0\0\0\0\0\0x-bd3lm");
    let at = bytes.windows(name.len()).position(|window| window == name);
    let at = at.unwrap();
    let bytes = [&bytes[..at], other, &bytes[at + name.len()..]].concat();
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(open(&file).config.attention, Attention::BlockCausal(32));

    // What the configuration says goes before.
    let json = folder.path().join("x-bd3lm/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let sizes = [json!(8), json!(0), json!(100_000), json!("8")];
    for (size, expected) in sizes.into_iter().zip([Some(8), None, None, None]) {
        config["block_size"] = size;
        std::fs::write(&json, config.to_string()).unwrap();
        match expected {
            Some(size) => {
                let attention = open(json.parent().unwrap()).config.attention;
                assert_eq!(attention, Attention::BlockCausal(size));
            }
            None => {
                let error = Config::from_json(config.to_string().as_bytes()).unwrap_err();
                assert!(error.to_string().contains("block_size is"), "{error}");
            }
        }
    }
}

#[test]
fn the_program_prints_the_ids_of_dllm() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt");
    let both = |set| ["mdlm", "bd3lm"].map(|sampler| (set, sampler));
    for (set, sampler) in DLLM.into_iter().flat_map(both) {
        let model = folder.path().join(format!("{set}-{sampler}-v0.1"));
        copied(set, &model);
        for case in generations(set) {
            if case["sampler"] != sampler {
                continue;
            }
            std::fs::write(&prompt, case["prompt"].as_str().unwrap()).unwrap();
            let mut command = diffucoder(&[]);
            command.args(["generate", "--exact", "--raw", "--special", "-t0"]);
            command.args(["--dtype=f32", "--device=cpu", "--output=json"]);
            command.arg("--model").arg(&model);
            command.arg("--prompt-file").arg(&prompt);
            command.arg(format!("-n{}", number(&case, "max_new_tokens")));
            command.arg(format!("--window={}", number(&case, "block_size")));
            command.arg(format!("--steps={}", case["steps"]));
            let output = command.assert().success().get_output().stdout.clone();
            let said: Value = serde_json::from_slice(&output).unwrap();
            assert_eq!(ids(&said["token_ids"]), ids(&case["new_ids"]), "{case}");
        }
    }
}

/// The prompt of its authors' examples: the user's turn alone, and no thinking, as its wrapper of
/// `apply_chat_template` has it. Others' examples have a system turn.
#[test]
fn the_chat_prompt_is_that_of_the_authors() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{%- for message in messages %}\
        [{{ message.role }}]{{ message.content }}{%- endfor %}[assistant]\
        {%- if enable_thinking is defined and enable_thinking is false %}<think></think>{%- endif %}";
    let question = |system| Prompt::Chat {
        system,
        user: "Hi",
        answer: "",
    };
    for (set, system, rendered) in [
        (DLLM[1], None, "[user]Hi[assistant]<think></think>"),
        (FAMILIES[0], None, "[user]Hi[assistant]"),
        (
            "golden-fast-dllm-v2",
            Some("You are a helpful assistant."),
            "[system]You are a helpful assistant.[user]Hi[assistant]",
        ),
    ] {
        let model = folder.path().join(set);
        copied(set, &model);
        std::fs::write(model.join("chat_template.jinja"), template).unwrap();
        let options = HubOptions::new("no-such-cache");
        let package = Package::open(&ModelSpec::Local(model), &options, &mut ()).unwrap();
        assert_eq!(package.config.family.system, system);
        let asking = Asking::new(&package, "Hi".into(), Wish::Answer, "");
        assert_eq!(asking.prompt(None), question(system));
        assert_eq!(asking.prompt(Some("")), question(Some("")));
        let ids = package.encode(&asking.prompt(None)).unwrap();
        assert_eq!(ids, package.encode(&Prompt::Raw(rendered)).unwrap());
    }
}
