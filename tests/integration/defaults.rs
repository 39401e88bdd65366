//! Defaults that a command or a model cannot take, and files of them that cannot be read.

use std::fs;
use std::path::{Path, PathBuf};

use diffucoder::kernels::Isa;
use serde_json::Value;

use crate::binary::diffucoder;
use crate::command::stdout;
use crate::fixture;

/// Awkward values for settings. One that is not listed gets those of the usual ones that it takes.
const AWKWARD: [(&str, &[&str]); 32] = [
    ("file", &["x.gguf"]),
    ("revision", &["v9"]),
    ("device", &["cpu"]),
    ("dtype", &["bf16", "f32"]),
    ("quant", &["q8_0", "q4_k", "none"]),
    ("threads", &["1"]),
    ("max-new-tokens", &["auto", "100000"]),
    ("steps", &["300"]),
    ("tokens-per-step", &["300", "2"]),
    ("algorithm", &["origin", "entropy"]),
    ("temperature", &["0", "1"]),
    ("top-p", &["0.5"]),
    ("top-k", &["1"]),
    ("alg-temp", &["0.5", "0"]),
    ("eps", &["0.5"]),
    ("seed", &["7"]),
    ("exact", &["true", "false"]),
    ("mode", &["quality", "exact"]),
    ("window", &["full", "1"]),
    ("lookahead", &["all", "0"]),
    ("cache", &["dual", "none"]),
    ("refresh", &["never", "3"]),
    ("threshold", &["0.5", "off"]),
    ("order-temperature", &["0.5", "sampling"]),
    ("remask", &["2"]),
    ("rule", &["klass", "frechet"]),
    ("far", &["thinned", "hidden"]),
    ("first-token", &["committed", "predicted"]),
    ("stop-after", &["function"]),
    ("language", &["cobol"]),
    ("retries", &["2"]),
    ("system", &["x"]),
];
const USUAL: [&str; 8] = ["true", "1", "100000", "0.5", "auto", "off", "all", "x"];

/// Every setting but the model, which is what the others must suit, with its values.
fn settings(folder: &Path) -> Vec<(String, Vec<String>)> {
    let rows: Vec<Value> = serde_json::from_str(&stdout(
        &diffucoder(&["config", "-o", "json"]).output().unwrap(),
    ))
    .unwrap();
    let names = rows.iter().map(|row| row["setting"].as_str().unwrap());
    let values = |name: &str| -> Vec<String> {
        if name == "isa" {
            return vec![Isa::detect().to_string()]; // scalar code would take minutes
        }
        if let Some((_, values)) = AWKWARD.iter().find(|(known, _)| *known == name) {
            return values.iter().map(|value| value.to_string()).collect();
        }
        let taken = USUAL.iter().filter(|value| {
            let file = written(folder, &[(name.to_string(), value.to_string())]);
            let config = diffucoder(&["config", "--config"]).arg(file).output();
            config.unwrap().status.success()
        });
        let taken: Vec<_> = taken.map(|value| value.to_string()).collect();
        assert!(!taken.is_empty(), "which values does {name} take?");
        taken
    };
    let others = names.filter(|name| *name != "model");
    others
        .map(|name| (name.to_string(), values(name)))
        .collect()
}

/// A configuration file.
fn written(folder: &Path, settings: &[(String, String)]) -> PathBuf {
    let file = folder.join("config.toml");
    let lines = settings
        .iter()
        .map(|(name, value)| format!("{name} = {value:?}\n"));
    fs::write(&file, lines.collect::<String>()).unwrap();
    file
}

/// The models that weights can be stored in: built in, safetensors, GGUF.
fn models(folder: &Path) -> [String; 3] {
    let gguf = folder.join("tiny.gguf");
    let mut quantize = diffucoder(&["quantize", "--model", "tiny", "--to", "q8_0", "-o"]);
    assert!(quantize.arg(&gguf).output().unwrap().status.success());
    let safetensors = fixture("golden/model");
    [
        "tiny".into(),
        safetensors.display().to_string(),
        gguf.display().to_string(),
    ]
}

/// Runs with a configuration; the exit code 3 is that of a text that does not parse.
fn runs(args: &[&str], stdin: &str, config: &Path) -> String {
    let mut command = diffucoder(args);
    command.arg("--config").arg(config).write_stdin(stdin);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let config = fs::read_to_string(config).unwrap();
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{args:?}\n{config}\n{stderr}"
    );
    stderr
}

#[test]
fn no_default_breaks_a_command_or_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, models) = (settings(folder.path()), models(folder.path()));
    let rounds = settings
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap();
    let line = "{\"prompt\": \"x\"}\n{\"prefix\": \"x = \", \"suffix\": \"\\n\", \"length\": 2}\n\
                {\"prefix\": \"x = \", \"suffix\": \"\\n\"}\n";
    for round in 0..rounds {
        let value = |(name, values): &(String, Vec<String>)| {
            (name.clone(), values[round % values.len()].clone())
        };
        let all: Vec<(String, String)> = settings.iter().map(value).collect();
        let config = written(folder.path(), &all);
        for model in &models {
            let of = |command| vec![command, "--model", model, "-n", "3"];
            runs(&[of("generate"), vec!["-p", "x"]].concat(), "", &config);
            runs(&of("generate"), "x = ", &config);
            runs(&of("infill"), "x = <FILL>\ny = <FILL:2>\n", &config);
            runs(&[of("batch"), vec!["-"]].concat(), line, &config);
        }
    }
    // The length too: what is not typed is a wish.
    for length in ["auto", "100000"] {
        let length = ("max-new-tokens".to_string(), length.to_string());
        let config = written(folder.path(), &[length, ("steps".into(), "300".into())]);
        for model in &models {
            runs(&["infill", "--model", model], "x = <FILL>\n", &config);
            runs(&["batch", "--model", model, "-"], line, &config);
        }
    }
}

#[test]
fn what_steps_back_is_said_and_what_is_typed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = &models(folder.path())[2];
    let one = |name: &str, value: &str| written(folder.path(), &[(name.into(), value.into())]);
    let config = one("quant", "q8_0");
    let generate = ["generate", "-p", "x", "-n", "3", "--model", gguf];
    let stderr = runs(&generate, "", &config);
    let note = format!(
        "note: quant = q8_0 ({}:1) does not apply here: ",
        config.display()
    );
    assert!(stderr.contains(&note), "{stderr}");
    let output = diffucoder(&generate).args(["--quant", "q8_0"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
    // A variable is a default too. What is piped in is read once and kept.
    let infill = |more: &[&str]| {
        let mut command = diffucoder(&["infill", "--model", "tiny", "--seed", "1"]);
        command.args(more).write_stdin("x = <FILL:2>\n");
        command
    };
    let plain = stdout(&infill(&[]).output().unwrap());
    let output = infill(&[]).env("DIFFUCODER_STEPS", "64").output().unwrap();
    assert_eq!(stdout(&output), plain);
    assert!(String::from_utf8_lossy(&output.stderr).contains("(DIFFUCODER_STEPS) does not apply"));
    assert_eq!(
        infill(&["--steps", "64"]).output().unwrap().status.code(),
        Some(2)
    );
    // Lines of a batch are each on their own, and a note is enough for all.
    let config = one("steps", "8");
    let lines = "{\"prompt\": \"x\", \"max_new_tokens\": 9}\n{\"prompt\": \"x\", \"max_new_tokens\": 2}\n\
                 {\"prompt\": \"x\", \"max_new_tokens\": 3}\n";
    let output = diffucoder(&["batch", "-", "--model", "tiny", "--config"])
        .arg(&config)
        .write_stdin(lines)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let note = format!(
        "note: stdin:2: steps = 8 ({}:1) does not apply here: ",
        config.display()
    );
    assert!(stderr.starts_with(&note), "{stderr}");
    assert!(
        stderr.contains("note: stdin: 1 more line like line 2: 3\n"),
        "{stderr}"
    );
    let steps = stdout(&output);
    let steps = steps
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps: Vec<u64> = steps
        .map(|line| line["settings"]["steps"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [8, 2, 3]);
    let typed = diffucoder(&["batch", "-", "--model", "tiny", "--steps", "8"])
        .write_stdin(lines)
        .output();
    assert_eq!(typed.unwrap().status.code(), Some(1));
}

#[test]
fn config_shows_which_value_of_the_file_yields() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), &[("steps".into(), "8".into())]);
    let output = diffucoder(&["config", "-o", "json", "--config"])
        .arg(&file)
        .env("DIFFUCODER_TOKENS_PER_STEP", "2")
        .output()
        .unwrap();
    let rows: Vec<Value> = serde_json::from_str(&stdout(&output)).unwrap();
    let row = rows.iter().find(|row| row["setting"] == "steps").unwrap();
    assert_eq!(row["value"], Value::Null);
    let source = format!(
        "built in: {}:1 steps back for DIFFUCODER_TOKENS_PER_STEP",
        file.display()
    );
    assert_eq!(row["source"], source);
}

/// A home that is somebody else's, or none.
#[cfg(unix)]
#[test]
fn a_usual_file_that_cannot_be_read_is_gone_without() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("home/.config/diffucoder/config.toml");
    // As root everything can be read, but for a folder.
    fs::create_dir_all(&config).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let run = |home: Option<&Path>, more: &[&str]| {
        let mut command = diffucoder(&["generate", "--model", "tiny", "-p", "x", "-n", "2"]);
        command
            .args(more)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("HOME");
        if let Some(home) = home {
            command.env("HOME", home);
        }
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let home = folder.path().join("home");
    let (code, stderr) = run(Some(&home), &[]);
    assert_eq!(code, Some(0));
    let note = format!("note: going on without {}: ", config.display());
    assert!(stderr.starts_with(&note), "{stderr}");
    for nowhere in [
        None,
        Some(Path::new("")),
        Some(&*file),
        Some(Path::new("no/such/home")),
    ] {
        assert_eq!(run(nowhere, &[]).0, Some(0), "{nowhere:?}");
    }
    assert_eq!(run(Some(&file), &[]).1, "");
    // What is named must be there.
    let named = ["--config", config.to_str().unwrap()];
    assert_eq!(run(Some(&home), &named).0, Some(1));
    let mut variable = diffucoder(&["config"]);
    let output = variable
        .env("DIFFUCODER_CONFIG", folder.path().join("none"))
        .output();
    assert_eq!(output.unwrap().status.code(), Some(1));
    // A relative XDG_CONFIG_HOME is none.
    let config = folder.path().join("relative/diffucoder");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "nonsense = 1\n").unwrap();
    let output = diffucoder(&["config"])
        .current_dir(folder.path())
        .env("XDG_CONFIG_HOME", "relative")
        .env("HOME", &file)
        .output();
    assert!(output.unwrap().status.success());
}
