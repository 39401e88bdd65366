//! Where defaults come from, and what the shell is told.

use std::fs;

use serde_json::{Value, json};

use crate::binary::diffucoder;
use crate::command::{run, stderr, stdout, tiny};

/// A folder of configuration with this file in it.
#[cfg(not(windows))]
fn configured(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("diffucoder")).unwrap();
    fs::write(folder.path().join("diffucoder/config.toml"), text).unwrap();
    folder
}

#[cfg(not(windows))]
#[test]
fn a_flag_wins_over_a_variable_over_the_file() {
    let folder = configured(
        "model = \"tiny\"\nmax-new-tokens = 6\ntemperature = 0.5\ntop-k = 0x7\nexact = true\n",
    );
    let settings = |args: &[&str], variables: &[(&str, &str)]| -> Value {
        let mut command = diffucoder(&["generate", "-p", "x", "--output", "json"]);
        command.args(args).env("XDG_CONFIG_HOME", folder.path());
        command.envs(variables.iter().copied());
        let report: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
        let keys = ["max_new_tokens", "temperature", "top_k", "exact"];
        json!(keys.map(|key| report["settings"][key].clone()))
    };
    assert_eq!(settings(&[], &[]), json!([6, 0.5, 7, true]));
    let variables = [
        ("DIFFUCODER_TEMPERATURE", "0.25"),
        ("DIFFUCODER_EXACT", "off"),
        ("DIFFUCODER_TOP_K", ""),
    ];
    assert_eq!(settings(&[], &variables), json!([6, 0.25, 7, false]));
    assert_eq!(
        settings(&["-t", "1", "-n", "4"], &variables),
        json!([4, 1.0, 7, false])
    );
}

/// Also of what stands between two texts.
#[test]
fn a_variable_says_how_long_a_hole_is() {
    let mut command = diffucoder(&["generate", "-m", "tiny", "-p", "x = (", "--suffix", ")"]);
    command
        .args(["-o", "json"])
        .env("DIFFUCODER_MAX_NEW_TOKENS", "4");
    let report: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
    assert_eq!(report["usage"]["canvas_tokens"], 4);
}

#[cfg(not(windows))]
#[test]
fn a_default_steps_back_for_a_flag_that_excludes_it() {
    let folder = configured("model = \"tiny\"\nsteps = 2\nsystem = \"short\"\n");
    let mut command = diffucoder(&["generate", "-p", "x", "-n", "8", "-o", "json"]);
    command
        .args(["--tokens-per-step", "2", "--raw"])
        .env("XDG_CONFIG_HOME", folder.path());
    let report: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
    assert_eq!(report["settings"]["steps"], 4);
}

/// A mode that is typed is the one that was published, whatever the file has for its parts; what is
/// no part of one stays.
#[cfg(not(windows))]
#[test]
fn parts_of_a_mode_step_back_for_a_mode() {
    let folder = configured(
        "model = \"tiny\"\nwindow = 5\nthreshold = 0.5\nremask = 1\ntop-k = 7\nmode = \"quality\"\n",
    );
    let settings = |args: &[&str]| -> Value {
        let mut command = diffucoder(&["generate", "-p", "x", "-n", "8", "-o", "json"]);
        command.args(args).env("XDG_CONFIG_HOME", folder.path());
        let report: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
        let keys = ["mode", "exact", "window", "top_k"];
        json!(keys.map(|key| report["settings"][key].clone()))
    };
    assert_eq!(settings(&["--exact"]), json!(["exact", true, null, 7]));
    assert_eq!(
        settings(&["--mode", "exact"]),
        json!(["exact", true, null, 7])
    );
    assert_eq!(settings(&[])[2], 5);
    assert_eq!(settings(&["--exact", "--window", "4"])[2], 4);
}

/// As with `generate`.
#[test]
fn a_default_that_does_not_fit_is_no_reason_not_to_serve() {
    let refused = run(&["serve", "-m", "tiny", "--port", "0", "-n", "1000"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains("--max-new-tokens 1000"), "{said}");
    assert!(said.contains("from 1 to 511"), "{said}");
    let mut command = diffucoder(&["lsp", "-m", "tiny"]);
    let ended = command.env("DIFFUCODER_MAX_NEW_TOKENS", "1000").output();
    let said = stderr(&ended.unwrap());
    let note = "note: max-new-tokens = 1000 (DIFFUCODER_MAX_NEW_TOKENS) does not apply here: ";
    assert!(said.contains(note), "{said}");
}

/// A file for several machines names a device that this program was not built for.
#[cfg(not(any(feature = "cuda", windows)))]
#[test]
fn a_device_that_the_build_lacks_steps_back_and_is_wrong_usage_where_it_is_typed() {
    let folder = configured("model = \"tiny\"\ndevice = \"cuda\"\n");
    let command = |flags: &[&str]| {
        let mut command = diffucoder(&["generate", "-p", "x", "-n", "1"]);
        command.args(flags).env("XDG_CONFIG_HOME", folder.path());
        command.output().unwrap()
    };
    let output = command(&[]);
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(said.contains("config.toml:2"), "{said}");
    assert!(said.contains("has no CUDA support"), "{said}");
    assert_eq!(command(&["--device", "cuda"]).status.code(), Some(2));
}

#[test]
fn config_shows_where_each_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    fs::write(&file, "# mine\ntop-p = 0.5\n").unwrap();
    let output = diffucoder(&["config", "-o", "json"])
        .env("DIFFUCODER_CONFIG", &file)
        .env("DIFFUCODER_MODEL", "tiny")
        .output()
        .unwrap();
    let rows: Vec<Value> = serde_json::from_str(&stdout(&output)).unwrap();
    let row = |name: &str| {
        let row = rows.iter().find(|row| row["setting"] == name).unwrap();
        (
            row["value"].clone(),
            row["source"].as_str().unwrap().to_string(),
        )
    };
    assert_eq!(row("model"), (json!("tiny"), "DIFFUCODER_MODEL".into()));
    assert_eq!(
        row("top-p"),
        (json!("0.5"), format!("{}:2", file.display()))
    );
    assert_eq!(row("temperature"), (Value::Null, "built in".into()));
    assert_eq!(row("mode"), (Value::Null, "built in".into()), "the model's");
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    for (line, says) in [
        (
            "modle = 1",
            "c.toml:2: there is no setting `modle`\nhint: the settings are ",
        ),
        ("top_p = 1", "did you mean `top-p`?"),
        ("prompt = \"x\"", "there is no setting `prompt`"),
        (
            "top-p = 3",
            "c.toml:2: invalid value '3' for '--top-p <P>': must be a number above 0",
        ),
        ("algorithm = \"best\"", "[possible values: entropy, "),
        ("steps = [1]", "c.toml:2: steps is not one value"),
        ("exact = 3", "c.toml:2: exact is true or false, not `3`"),
        (
            "model = \"tinny\"",
            "c.toml:2: no model is called `tinny`\nhint: did you mean `tiny`?",
        ),
        ("= 3", "c.toml:2: "),
        (
            "model = tiny",
            "hint: a text needs quotes: model = \"tiny\"",
        ),
    ] {
        fs::write(&file, format!("# first\n{line}\n")).unwrap();
        for command in [
            &["config"][..],
            &["generate", "--model", "tiny", "-p", "x", "-n", "1"],
        ] {
            let output = diffucoder(command)
                .arg("--config")
                .arg(&file)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
            assert!(stderr.contains(says), "{line}: {stderr}");
        }
        // What has no settings still works.
        let output = diffucoder(&["completions", "bash"])
            .arg("--config")
            .arg(&file)
            .output();
        assert!(output.unwrap().status.success());
    }
    // What only a command can see is blamed on where it comes from all the same: the model, which
    // the message calls by its name and not by its flag.
    let output = diffucoder(&["generate", "-p", "x", "--revision", "v1"])
        .env("DIFFUCODER_MODEL", "tiny")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: --revision is for models on the Hub, which tiny is not\n\
         hint: --model comes from DIFFUCODER_MODEL\n"
    );
    let output = diffucoder(&["config", "--config", "no-such-file"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output = diffucoder(&["config"])
        .env("DIFFUCODER_SEED", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.starts_with("error: DIFFUCODER_SEED: invalid value 'x'"),
        "{stderr}"
    );
}

#[test]
fn shells_and_man_know_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&run(&["completions", shell]));
        for word in ["generate", "batch", "report", "--max-new-tokens"] {
            let fish = script.contains(&format!("-l {}", word.trim_start_matches("--")));
            assert!(script.contains(word) || fish, "{shell}: {word}");
        }
    }
    let page = stdout(&run(&["man", "generate"]));
    assert!(page.contains(".TH diffucoder-generate 1"), "{page}");
    assert!(page.contains("max\\-new\\-tokens"));
    assert!(stdout(&run(&["man"])).contains("Exit codes"));
    assert_eq!(run(&["man", "nothing"]).status.code(), Some(2));
    assert_eq!(run(&["genrate"]).status.code(), Some(2));
}

#[test]
fn doctor_finds_the_machine() {
    let found: Value = serde_json::from_str(&stdout(&run(&["doctor", "-o", "json"]))).unwrap();
    assert!(
        found["kernels_available"]
            .as_array()
            .unwrap()
            .contains(&found["kernels"])
    );
    for key in [
        "memory_bytes",
        "threads",
        "int8_ops_per_s",
        "read_bytes_per_s",
    ] {
        assert!(found[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(found["advice"].as_str().unwrap().contains("--model"));
    assert_eq!(found["choices"][0]["flags"], "--model diffucoder:q4_k_m");
    assert_eq!(found["choices"][0]["download_bytes"], 4_800_000_000_u64);
    let text = stdout(&run(&["doctor", "--threads", "1"]));
    assert!(
        text.contains("kernels ") && text.contains("1 thread to compute with"),
        "{text}"
    );
}

/// Relative links of the pages that people read.
#[test]
fn what_the_readmes_link_to_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for page in ["README.md", "benches/README.md", "training/README.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        for target in text.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap();
            if !target.contains("://") && !target.is_empty() {
                let file = root.join(page).parent().unwrap().join(target);
                assert!(file.exists(), "{page} links to {target}");
                links += 1;
            }
        }
    }
    assert!(links >= 4);
}

/// Of others nobody knows whose they are.
#[test]
fn a_misspelt_variable_is_noted_wherever_it_would_count() {
    let note = |variable: &str| {
        let mut command = diffucoder(&tiny("x", "-n 2 --seed 1"));
        let done = command.env(variable, "2").output().unwrap();
        assert!(done.status.success());
        stderr(&done)
    };
    let said = note("DIFFUCODER_THREDS");
    assert_eq!(
        said,
        "note: DIFFUCODER_THREDS is set, but there is no such setting: did you mean \
         DIFFUCODER_THREADS?\n"
    );
    assert_eq!(note("DIFFUCODER_BIN"), "");
}
