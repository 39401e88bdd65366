//! The real binary, as a user or a script runs it.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::binary::{diffucoder, program};
use crate::files::golden_copy;
use crate::fixture;

pub fn run(args: &[&str]) -> Output {
    diffucoder(args).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn run_json(args: &[&str]) -> Value {
    let output = run(&[args, &["--output", "json"]].concat());
    let text = stdout(&output);
    assert_eq!(text.matches('\n').count(), 1, "one object on one line");
    serde_json::from_str(&text).unwrap()
}

/// The built-in model asked to go on from `prompt`, with flags as they are typed.
pub fn tiny<'a>(prompt: &'a str, flags: &'a str) -> Vec<&'a str> {
    let start = ["generate", "--model", "tiny", "-p", prompt];
    start.into_iter().chain(flags.split_whitespace()).collect()
}

/// A path as it stands in what [`refusal`] gives.
pub fn slashed(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

/// Runs what must fail; gives the exit code and stderr, with `/` in paths and the fixture folder's
/// shortened.
pub fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let output = run(args);
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    let stderr = String::from_utf8(output.stderr)
        .unwrap()
        .replace('\\', "/")
        .replace(&slashed(&fixture("")), "FIXTURES/");
    (output.status.code(), stderr)
}

fn golden_model() -> String {
    fixture("golden/model").display().to_string()
}

#[test]
fn exact_mode_equals_the_reference() {
    let golden = std::fs::read(fixture("golden/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let model = golden_model();
    let cases = golden["generations"].as_array().unwrap().iter();
    let exact: Vec<&Value> = cases.filter(|case| case["kind"] == "exact").collect();
    assert_eq!(exact.len(), 12);
    for case in exact {
        let text = |key: &str, off: &str| match &case[key] {
            Value::Null => off.to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let report = run_json(&[
            "generate",
            "--model",
            &model,
            "--raw",
            "--exact",
            "--device",
            "cpu",
            "--dtype",
            "f32",
            "--prompt",
            &text("prompt", ""),
            "--max-new-tokens",
            &text("max_new_tokens", ""),
            "--steps",
            &text("steps", ""),
            "--algorithm",
            &text("algorithm", ""),
            "--temperature",
            &text("temperature", ""),
            "--top-p",
            &text("top_p", "1"),
            "--top-k",
            &text("top_k", "0"),
        ]);
        let prompt_len = case["prompt_ids"].as_array().unwrap().len();
        let expected = &case["sequence"].as_array().unwrap()[prompt_len..];
        assert_eq!(report["token_ids"].as_array().unwrap(), expected);
        assert_eq!(report["reveal_step"], reveal_steps(&case["history"]));
        let canvas = prompt_len as u64 + case["max_new_tokens"].as_u64().unwrap();
        assert_eq!(report["usage"]["prompt_tokens"], json!(prompt_len));
        assert_eq!(report["usage"]["forwards"], case["steps"]);
        assert_eq!(
            report["usage"]["rows"],
            json!(case["steps"].as_u64().unwrap() * canvas)
        );
    }
}

/// When each position stopped being the mask (260), from the canvas after each step.
fn reveal_steps(history: &Value) -> Value {
    let history: Vec<Vec<u32>> = serde_json::from_value(history.clone()).unwrap();
    let first = |i: usize| history.iter().position(|canvas| canvas[i] != 260).unwrap();
    json!((0..history[0].len()).map(first).collect::<Vec<_>>())
}

#[test]
fn the_report_is_complete_and_adds_up() {
    let report = run_json(&tiny("def add(a, b):\n", "-n 32 --seed 7 --exact"));
    let usage = &report["usage"];
    let tokens = report["token_ids"].as_array().unwrap();
    assert_eq!(tokens.len(), 32);
    assert_eq!(usage["canvas_tokens"], 32);
    assert_eq!(usage["forwards"], 32);
    assert!(usage["completion_tokens"].as_u64().unwrap() <= 32);
    let steps: Vec<u64> = serde_json::from_value(report["reveal_step"].clone()).unwrap();
    assert!(steps.iter().all(|&step| step < 32));
    let expected = if usage["completion_tokens"] == 32 {
        "length"
    } else {
        "stop"
    };
    assert_eq!(report["finish_reason"], expected);
    for key in ["load_s", "generate_s", "tokens_per_s"] {
        assert!(report["timing"][key].as_f64().unwrap() >= 0.0, "{key}");
    }
    assert_eq!(report["model"], "tiny (built in)");
    assert_eq!(
        report["settings"],
        json!({
            "max_new_tokens": 32, "steps": 32, "algorithm": "entropy", "temperature": 0.2,
            "top_p": 0.95, "top_k": null, "alg_temp": null, "eps": 0.001, "seed": 7,
            "exact": true, "mode": "exact", "window": null, "lookahead": null, "far": "hidden",
            "cache": "none", "refresh": "window", "first_token": "predicted", "threshold": null,
            "rule": "threshold", "order_temperature": null, "threshold_temperature": null, "remask": 0, "raw": true, "system": null, "device": "cpu", "dtype": "f32", "quant": "none",
            "isa": diffucoder::kernels::Isa::detect().name(),
        })
    );
}

#[test]
fn stdout_is_the_text_and_stderr_is_empty_off_a_terminal() {
    let args = tiny("def fibonacci(n):", "-n 48 --seed 3");
    let output = run(&args);
    let text = stdout(&output);
    assert_eq!(stderr(&output), "");
    assert_eq!(run_json(&args)["text"], text);
    assert!(!text.is_empty());
}

#[test]
fn the_same_seed_gives_the_same_text_at_any_thread_count() {
    let args = tiny(
        "def mean(xs):\n",
        "-n 40 --seed 11 --temperature 0.8 --alg-temp 0.3",
    );
    let with_threads = |n: &str| stdout(&run(&[&args[..], &["--threads", n]].concat()));
    let one = with_threads("1");
    assert_eq!(one, with_threads("2"));
    assert_eq!(one, with_threads("7"));
    let other = stdout(&run(&[&args[..], &["--seed", "12"]].concat()));
    assert_ne!(one, other);
}

#[test]
fn an_unset_seed_is_reported_and_can_be_used_again() {
    let args = tiny("class Stack:\n", "-n 24 -t 1");
    let first = run_json(&args);
    let seed = first["settings"]["seed"].to_string();
    let again = run_json(&[&args[..], &["--seed", &seed]].concat());
    assert_eq!(first["token_ids"], again["token_ids"]);
}

#[test]
fn a_text_that_ends_early_costs_less_without_exact() {
    let args = tiny("def is_empty(items):", "-n 64 --seed 1");
    let early = run_json(&args);
    let exact = run_json(&[&args[..], &["--exact"]].concat());
    assert_eq!(early["finish_reason"], "stop");
    for work in ["forwards", "rows"] {
        let [early, exact] = [&early, &exact].map(|run| run["usage"][work].as_u64().unwrap());
        assert!(early * 2 < exact, "{work}: {early} and {exact}");
    }
}

#[test]
fn no_sampling_flag_is_ignored_in_the_default_mode() {
    let args = tiny("class Stack:\n", "-n 32 --seed 3");
    let fast = run_json(&args);
    assert_eq!(fast["settings"]["threshold"], 0.9);
    for flags in [
        &["--algorithm", "origin"][..],
        &["--alg-temp", "0.5"],
        &["--steps", "8"],
    ] {
        let other = run_json(&[&args[..], flags].concat());
        assert_eq!(other["settings"]["threshold"], Value::Null, "{flags:?}");
        assert_ne!(fast["reveal_step"], other["reveal_step"], "{flags:?}");
    }
    let both = ["--alg-temp", "0.5", "--threshold", "0.9"];
    let output = run(&[&args[..], &both].concat());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn prompts_come_from_a_flag_a_file_or_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.py");
    let prompt = "def area(r):\n    return";
    std::fs::write(&file, prompt).unwrap();
    let common = ["generate", "--model", "tiny", "-n", "8", "--seed", "1"];
    let from_flag = stdout(&run(&[&common[..], &["--prompt", prompt]].concat()));
    let from_file = stdout(&run(
        &[&common[..], &["-f", file.to_str().unwrap()]].concat()
    ));
    let pipe = |args: &[&str]| stdout(&diffucoder(args).write_stdin(prompt).output().unwrap());
    assert_eq!(from_flag, from_file);
    assert_eq!(from_flag, pipe(&common));
    assert_eq!(from_flag, pipe(&[&common[..], &["-f", "-"]].concat()));
    // A byte order mark is no part of a text.
    std::fs::write(&file, format!("\u{feff}{prompt}")).unwrap();
    let marked = run(&[&common[..], &["-f", file.to_str().unwrap()]].concat());
    assert_eq!(stdout(&marked), from_flag);
}

#[test]
fn chat_models_get_the_template_unless_raw() {
    let model = golden_model();
    let args = [
        "generate", "--model", &model, "-p", "hi", "-n", "4", "--seed", "1",
    ];
    let chat = run_json(&args);
    // <|im_start|>system\n…<|im_end|><|im_start|>user\nhi<|im_end|><|im_start|>assistant
    let bytes = "system\nYou are a helpful assistant.user\nhiassistant".len();
    assert_eq!(chat["usage"]["prompt_tokens"], json!(bytes + 5));
    assert_eq!(chat["settings"]["raw"], false);
    assert_eq!(chat["settings"]["system"], "You are a helpful assistant.");
    let raw = run_json(&[&args[..], &["--raw"]].concat());
    assert_eq!(raw["usage"]["prompt_tokens"], 2);
    let system = run_json(&[&args[..], &["--system", ""]].concat());
    assert_eq!(system["usage"]["prompt_tokens"], json!(bytes + 5 - 28));
}

#[test]
fn a_canvas_grows_until_the_text_or_the_context_ends() {
    let run = |n: &str, prompt: &str, more: &[&str]| {
        run_json(&[&tiny(prompt, "--seed 1")[..], &["-n", n], more].concat())
    };
    let context = 512;
    // One that ends by itself, and one that the context ends: every token is as in the canvas of
    // full length.
    let filler = "x = 1\n".repeat(100);
    for (prompt, more) in [
        ("def fibonacci(n):", &[][..]),
        ("def fibonacci(n):", &["--tokens-per-step", "3"]),
        (&filler, &[]),
    ] {
        let grown = run("auto", prompt, more);
        let room = context - grown["usage"]["prompt_tokens"].as_u64().unwrap();
        assert_eq!(grown["settings"]["max_new_tokens"], room);
        let whole = run(&room.to_string(), prompt, more);
        for key in ["text", "finish_reason"] {
            assert_eq!(grown[key], whole[key], "{key}");
        }
        for key in ["completion_tokens", "forwards", "rows"] {
            assert_eq!(grown["usage"][key], whole["usage"][key], "{key}");
        }
        let canvas = &grown["usage"]["canvas_tokens"];
        let ids = grown["token_ids"].as_array().unwrap();
        assert_eq!(canvas.as_u64().unwrap() as usize, ids.len());
        assert_eq!(ids[..], whole["token_ids"].as_array().unwrap()[..ids.len()]);
    }
}

#[test]
fn wrong_usage_exits_with_2_and_names_flag_and_range() {
    let refused = |args: &[&str], says: &str| {
        let (code, stderr) = refusal(args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    };
    for (flags, says) in [
        ("y", "cannot be used with"),
        ("-n 0", "--max-new-tokens <N>': must be at least 1"),
        ("-n -3", "--max-new-tokens <N>': must be a whole number"),
        (
            "--seed -1",
            "--seed <N>': must be a whole number, at least 0",
        ),
        ("--seed 18446744073709551616", "--seed <N>': is too large"),
        ("--modle tiny", "a similar argument exists: '--model'"),
        ("--steps 0", "--steps <N>': must be at least 1"),
        ("-n auto --steps 4", "--steps needs a number of new tokens"),
        ("-n auto --exact", "seen at once"),
        ("-n auto --window full", "seen at once"),
        ("-n 8 --steps 9", "--steps is 9, but must be from 1 to 8"),
        ("-n 8 --tokens-per-step 9", "--tokens-per-step is 9"),
        ("--steps 2 --tokens-per-step 2", "cannot be used with"),
        (
            "--temperature -0.1",
            "--temperature <T>': must be a number, at least 0",
        ),
        (
            "--temperature NaN",
            "--temperature <T>': must be a number, at least 0",
        ),
        (
            "--temperature inf",
            "--temperature <T>': must be a number, at least 0",
        ),
        (
            "--top-p 0",
            "--top-p <P>': must be a number above 0 and at most 1",
        ),
        (
            "--top-p 1.01",
            "--top-p <P>': must be a number above 0 and at most 1",
        ),
        ("--top-k -1", "--top-k <K>': must be a whole number"),
        (
            "--alg-temp -1",
            "--alg-temp <T>': must be a number, at least 0",
        ),
        (
            "--eps 1",
            "--eps <E>': must be a number above 0 and below 1",
        ),
        (
            "--algorithm greedy",
            "[possible values: entropy, topk_margin, maskgit_plus, origin, p2]",
        ),
        ("--device tpu", "expected auto, cpu, cuda, cuda:N or metal"),
        ("--dtype int3", "expected auto, f32, bf16 or f16"),
        ("--raw --system y", "cannot be used with"),
        ("--model tinny", "did you mean `tiny`?"),
        ("-n 18446744073709551615", "can be from 1 to 5"),
        ("--unknown", "--unknown"),
        ("--revision v1", "--revision is for models on the Hub"),
    ] {
        refused(&tiny("x", flags), says);
    }
    refused(&tiny("", ""), "the prompt from the command line is empty");
    let golden = [
        "generate",
        "--model",
        &golden_model(),
        "-p",
        "x",
        "-n",
        "3000",
    ];
    refused(&golden, "-n/--max-new-tokens can be from 1 to");
    let no_prompt = &tiny("x", "")[..3];
    let output = diffucoder(no_prompt).write_stdin("").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("the prompt from stdin is empty"));
    let mut command = diffucoder(no_prompt);
    let output = command.write_stdin(b"ok \xff".as_slice()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not UTF-8 (byte 3)"));
}

#[test]
fn failures_exit_with_1_say_why_and_what_to_do() {
    let cases: &[(i32, &[&str])] = &[
        (1, &["--model", "./no/such/folder"]),
        (1, &["--model", "diffucoder"]),
        (1, &["--model", "someone/something", "--revision", "v2"]),
        (2, &["--model", "tiny", "--device", "cuda"]), // the build lacks it
    ];
    let mut said = String::new();
    for (expected, args) in cases {
        let (code, stderr) = refusal(&[&["generate", "-p", "x"], *args].concat());
        assert_eq!(code, Some(*expected), "{args:?}: {stderr}");
        said += &format!("$ diffucoder generate {}\n{stderr}\n", args.join(" "));
    }
    insta::assert_snapshot!(said);
    let (code, stderr) = refusal(&["generate", "--model", "tiny", "-f", "no-such-file"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: cannot read --prompt-file no-such-file: "),
        "{stderr}"
    );
}

#[test]
fn a_prompt_with_the_mask_token_is_refused() {
    let model = golden_model();
    let args = ["--model", &model, "--raw", "-p", "a = <|mask|>", "-n", "4"];
    let (code, stderr) = refusal(&[&["generate"], &args[..]].concat());
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("the prompt contains the mask token <|mask|> (line 1)"),
        "{stderr}"
    );
}

#[test]
fn help_texts() {
    let mut said = String::new();
    for args in [
        &["-h"][..],
        &["--help"],
        &["generate", "-h"],
        &["infill", "-h"],
        &["batch", "--help"],
        &["report", "-h"],
        &["models", "-h"],
        &["config", "--help"],
    ] {
        said += &format!("$ diffucoder {}\n{}\n", args.join(" "), stdout(&run(args)));
    }
    insta::assert_snapshot!(said);
}

#[test]
fn models_are_listed_for_people_and_scripts() {
    // Without what depends on the machine: memory and tokens/s.
    let table = stdout(&run(&["models"]));
    let cells = |line: &str| {
        let cells = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        let (mut cells, is_header) = (cells.collect::<Vec<_>>(), line.starts_with("MODEL"));
        let own = cells.drain(2..4).collect::<Vec<_>>();
        // The speed of a mode that is not estimated is a dash.
        let has_speed = own[1].contains(" to ");
        assert!(is_header || has_speed == (cells[2] == "balanced"), "{line}");
        cells.join(" | ")
    };
    insta::assert_snapshot!(table.lines().map(cells).collect::<Vec<_>>().join("\n"));
    let rows: Value = serde_json::from_str(&stdout(&run(&["models", "-o", "json"]))).unwrap();
    assert_eq!(rows[0]["alias"], "diffucoder");
    assert_eq!(rows[0]["id"], "apple/DiffuCoder-7B-cpGRPO");
    assert_eq!(rows[0]["cached"], "no");
    assert_eq!(
        rows.as_array().unwrap().last().unwrap()["cached"],
        "built in"
    );
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let quantize = ["quantize", "--model", "tiny", "--to", "q8_0", "-o", "-"];
    for args in [&tiny("import os\n", "-n 16 --exact")[..], &quantize] {
        let mut child = program(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(stderr(&output), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn licences_of_all_parts_are_shown() {
    for name in ["licences", "licenses"] {
        let text = stdout(&run(&[name]));
        let first = "diffucoder and the model that is built into it: Apache-2.0";
        assert!(text.starts_with(first), "{}", &text[..200]);
        assert!(text.contains("candle-core") && text.contains("tokenizers"));
    }
}

#[test]
fn a_temperature_that_leaves_nothing_of_the_model_is_noted() {
    let note = |t: &str| {
        let done = run(&[&tiny("x", "-n 2 --seed 1")[..], &["-t", t]].concat());
        assert!(done.status.success());
        stderr(&done)
    };
    assert!(note("4").contains("note: at --temperature 4 tokens are nearly random"));
    assert!(!note("1").contains("nearly random"));
}

#[test]
fn a_broken_folder_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let refused = |says: &str| {
        let (code, stderr) = refusal(&["generate", "--model", path, "-p", "x", "-n", "4"]);
        assert_eq!(code, Some(1), "{says}: {stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(says),
            "{says}: {stderr}"
        );
    };
    refused("has no config.json");

    let change = |file: &str, from: &str, to: &str| {
        golden_copy(folder.path());
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    change("config.json", "\"Dream\"", "\"llama\"");
    refused(&format!(
        "{path} cannot be loaded: config.json: model_type \"llama\" is not supported"
    ));
    change(
        "config.json",
        "\"intermediate_size\": 176",
        "\"intermediate_size\": 177",
    );
    refused("has shape [176, 64], but config.json makes it [177, 64]");
    change(
        "config.json",
        "\"num_hidden_layers\": 3",
        "\"num_hidden_layers\": 2",
    );
    refused("which this architecture does not have");
    change(
        "config.json",
        "\"num_hidden_layers\": 3",
        "\"num_hidden_layers\": 4",
    );
    refused("tensor model.layers.3.input_layernorm.weight is missing");
    change("config.json", "\"vocab_size\": 272", "\"vocab_size\": 261");
    refused("the tokenizer has 262 tokens, but the model only 261");
    change(
        "model.safetensors.index.json",
        "model-00002-of-00002",
        "../../outside",
    );
    refused("points outside the model's folder");
    change("tokenizer.json", "{", "[");
    refused(&format!(
        "{path} cannot be loaded: cannot read tokenizer.json: "
    ));

    golden_copy(folder.path());
    let stray = folder.path().join("model-00003-of-00003.safetensors");
    std::fs::write(&stray, b"").unwrap();
    let model = folder.path().to_str().unwrap();
    let written = || {
        let args = ["generate", "--model", model, "--prompt", "x", "--seed", "1"];
        let output = diffucoder(&[&args[..], &["-n", "8", "-o", "json"]].concat()).output();
        let report: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        report["token_ids"].clone()
    };
    let of_shards = written(); // the index decides which shards there are
    std::fs::remove_file(stray).unwrap();
    assert_eq!(written(), of_shards);
    // A file with everything was saved over them: it counts, and the index is an old one.
    save_negated(folder.path());
    assert_ne!(written(), of_shards);
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();

    golden_copy(folder.path());
    let shard = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 100]).unwrap();
    refused("model-00002-of-00002.safetensors is not a whole safetensors file");
    std::fs::remove_file(&shard).unwrap();
    refused("has no model-00002-of-00002.safetensors");
}

/// Writes model.safetensors with the tensors of the shards in `folder`, their numbers negated.
fn save_negated(folder: &Path) {
    let mut tensors = std::collections::HashMap::new();
    for shard in ["model-00001-of-00002", "model-00002-of-00002"] {
        let path = folder.join(format!("{shard}.safetensors"));
        tensors.extend(candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap());
    }
    for tensor in tensors.values_mut() {
        *tensor = tensor.neg().unwrap();
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_command_behind_a_flag_is_no_prompt() {
    for (word, command) in [("serve", "serve"), ("genrate", "generate"), ("ls", "list")] {
        let (code, stderr) = refusal(&["--model", "tiny", word, "-q"]);
        assert_eq!(code, Some(2));
        let says = format!(
            "error: `{word}` is no prompt: a command comes first\nhint: diffucoder {command} "
        );
        assert!(stderr.starts_with(&says), "{stderr}");
    }
    for args in [
        &["--model", "tiny", "-n", "2", "-p", "serve"][..],
        &["--model", "tiny", "-n", "2", "--", "serve"],
        &["generate", "--model", "tiny", "-n", "2", "serve"],
        &["--model", "tiny", "-n", "2", "main"],
    ] {
        assert!(run(args).status.success(), "{args:?}");
    }
    let (_, stderr) = refusal(&["pull", "a", "b"]);
    assert!(!stderr.contains("quotes"), "{stderr}");
    for (args, tip) in [
        (
            &["-m", "tiny", "infill", "x.py"][..],
            "diffucoder infill with",
        ),
        (
            &["-m", "tiny", "serve", "--port", "1"],
            "diffucoder serve with",
        ),
        (&["- a list"], "follows -p"),
        (&["generate", "-x = 3"], "follows -p"),
        (
            &["Generate", "x"],
            "a similar subcommand exists: 'generate'",
        ),
        (&["help", "nosuch"], "`diffucoder help` lists"),
    ] {
        let (code, stderr) = refusal(args);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(stderr.contains(tip), "{args:?}: {stderr}");
    }
}
