//! The README: its commands run, their output is what it shows, and what it names exists.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use regex::Regex;

use crate::binary::isolated;
use crate::command::{run, stdout};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}

/// The insides of its blocks of this language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let text = readme();
    let parts = text.split(&fence).skip(1);
    let blocks: Vec<_> = parts
        .map(|part| part.split("```").next().unwrap().to_string())
        .collect();
    assert!(!blocks.is_empty());
    blocks
}

/// A shell with the program on its PATH, and neither weights nor a network.
fn shell(line: &str, folder: &Path) -> Command {
    let program = assert_cmd::cargo::cargo_bin!("diffucoder");
    let mut path = vec![program.parent().unwrap().to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut shell = isolated("bash");
    shell
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HF_HOME", folder.join("hub"))
        .stdin(Stdio::null());
    shell
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_first_minute_shows_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut commands = 0;
    for block in blocks("console") {
        for part in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, shown) = part.split_once('\n').unwrap();
            let output = shell(command, folder.path()).output().unwrap();
            assert!(output.status.success(), "{command}: {}", stderr(&output));
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim_end(), shown.trim_end(), "{command}");
            commands += 1;
        }
    }
    assert!(commands >= 3);
}

/// The lines of its shell blocks, without what explains them.
fn lines() -> Vec<String> {
    let comment = Regex::new(r"\s{2,}# .*$").unwrap();
    let blocks = blocks("sh");
    let lines = blocks.iter().flat_map(|block| block.lines());
    let commands = lines.map(|line| comment.replace(line, "").trim().to_string());
    commands.filter(|line| !line.is_empty()).collect()
}

/// What works offline is run; of the rest, everything must be right but that its weights are not
/// here.
#[test]
fn every_command_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let python = "def area(r):\n    return 3 * r * r\n\n\n".repeat(4);
    for name in ["start.py", "f.py", "part.py"] {
        fs::write(folder.path().join(name), &python).unwrap();
    }
    fs::write(folder.path().join("in.jsonl"), "{\"prompt\": \"x = \"}\n").unwrap();
    let mut run = 0;
    for line in lines() {
        let line = line.replace("cargo run --release --locked -- ", "diffucoder ");
        if line.starts_with("cargo ")
            || line.starts_with("pip ")
            || line.starts_with("sh install.sh")
        {
            continue; // they build, or need a release
        }
        if line.starts_with("diffucoder serve ") {
            listens(&format!("exec {line} --port 0"), folder.path());
            continue;
        }
        let output = shell(&line, folder.path()).output().unwrap();
        if line.contains("--watch") {
            assert!(
                stderr(&output).contains("is no terminal that can be drawn on here"),
                "{line}"
            );
            continue;
        }
        let works =
            line.contains("--model tiny") && (cfg!(feature = "check") || !line.contains("--check"));
        match works {
            true => assert!(output.status.success(), "{line}: {}", stderr(&output)),
            false if cfg!(not(feature = "check")) && line.contains("--check") => {
                assert!(stderr(&output).contains("no parsers for --check"), "{line}");
            }
            false => {
                assert_eq!(output.status.code(), Some(1), "{line}: {}", stderr(&output));
                let said = stderr(&output);
                let is_missing = ["HF_HUB_OFFLINE", "is not in the cache"];
                assert!(
                    is_missing.iter().any(|words| said.contains(words)),
                    "{line}: {said}"
                );
            }
        }
        run += 1;
    }
    assert!(run > 10, "{run}");
    // What the comments behind them say of a trace.
    for page in ["run.html", "run.svg"] {
        let line = format!("diffucoder report run.jsonl -o {page}");
        assert!(shell(&line, folder.path()).status().unwrap().success());
        assert!(folder.path().join(page).exists());
    }
}

/// The server says where it listens.
fn listens(line: &str, folder: &Path) {
    let mut child = shell(line, folder).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let listens = log.any(|line| line.unwrap().starts_with("listening"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(listens, "{line}");
}

/// Every flag and every variable is in some help text, and its lines are as many as one reads.
#[test]
fn what_is_named_exists() {
    let text = readme();
    let long = stdout(&run(&["--help"]));
    let command = Regex::new(r"(?m)^  ([a-z]+)  ").unwrap();
    let mut help = long.clone();
    for name in command
        .captures_iter(&long)
        .filter(|name| &name[1] != "help")
    {
        help += &stdout(&run(&["help", &name[1]]));
    }
    let flag = Regex::new(r"(?:^|[\s`(])(--[a-z][a-z-]*)").unwrap();
    let of_cargo = ["--release", "--locked", "--path", "--no-default-features"];
    let flags: Vec<&str> = flag
        .captures_iter(&text)
        .map(|flag| flag.get(1).unwrap().as_str())
        .collect();
    assert!(flags.len() > 20, "{flags:?}");
    for flag in flags {
        let whole = Regex::new(&format!("{flag}(?:[^a-z-]|$)")).unwrap();
        assert!(of_cargo.contains(&flag) || whole.is_match(&help), "{flag}");
    }
    let variable = Regex::new(r"DIFFUCODER_([A-Z_]+)").unwrap();
    let settings = stdout(&run(&["config"]));
    let variables: Vec<String> = variable
        .captures_iter(&text)
        .map(|name| name[1].to_lowercase().replace('_', "-"))
        .collect();
    assert!(!variables.is_empty());
    for name in variables {
        let line = Regex::new(&format!(r"(?m)^{name}\s")).unwrap();
        assert!(line.is_match(&settings), "{name}\n{settings}");
    }
    let rows = text.lines().count();
    assert!(rows <= 150, "{rows} lines");
}
