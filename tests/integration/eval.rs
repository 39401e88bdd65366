//! `eval`: tables that run to their end, results that are kept and executed, and what is saved.
#![cfg(unix)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use diffucoder::diffusion::Denoiser;
use diffucoder::package::Prompt;
use diffucoder::session::{Hole, Mode, Session, Task};
use serde_json::{Value, json};

use crate::binary::{diffucoder, program};
use crate::command::{run, stdout};
use crate::fixture;

/// Problems in the form of HumanEval.
const FUNCTIONS: &str = r#"{"task_id": "a/0", "prompt": "def one():\n    \"\"\"Return 1.\"\"\"\n", "entry_point": "one", "canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"}
{"task_id": "a/1", "prompt": "def two():\n    \"\"\"Return 2.\"\"\"\n", "entry_point": "two", "canonical_solution": "    return 2\n", "test": "def check(candidate):\n    assert candidate() == 2\n"}
"#;

/// The same with holes.
const HOLES: &str = r#"{"task_id": "h/0", "entry_point": "one", "prompt": "def one():\n", "suffix": "", "canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"}
{"task_id": "h/1", "entry_point": "add", "prompt": "def add(a, b):\n", "suffix": "    return c\n", "canonical_solution": "    c = a + b\n", "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}
"#;

/// The same in the form of MBPP.
const TESTS: &str = r#"{"task_id": 7, "prompt": "Write a function one that returns 1.", "code": "def one(): return 1", "test_imports": ["import math"], "test_list": ["assert one() == 1"]}
"#;

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Flags that make a run short.
fn args<'a>(problems: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let flags = "eval --model tiny --modes exact,fast --nll 1 -n 8 --json --threads 1 --problems";
    let all = flags.split(' ').chain([problems.to_str().unwrap()]);
    all.chain(more.iter().copied()).collect()
}

fn report(problems: &Path, more: &[&str]) -> Value {
    serde_json::from_str(&stdout(&run(&args(problems, more)))).unwrap()
}

/// Where there is none, a test says so.
fn has_python() -> bool {
    use std::io::Write;
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        let _ = writeln!(std::io::stderr(), "skipped: no Python here");
    }
    found
}

#[test]
fn every_form_of_problem_runs_to_its_end() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (text, keys) in [
        (FUNCTIONS, ["ended", "nll_per_token"]),
        (HOLES, ["exact_match", "edit_similarity"]),
        (TESTS, ["ended", "parses"]),
    ] {
        let problems = file(folder.path(), "problems.jsonl", text);
        let report = report(&problems, &["--execute"]);
        let rows = report["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        for (row, mode) in rows.iter().zip(["exact", "fast"]) {
            assert_eq!(
                (&row["mode"], &row["failed"]),
                (&json!(mode), &json!(0)),
                "{row}"
            );
            for key in [
                keys[0],
                keys[1],
                "pass_at_1",
                "parses",
                "tokens_per_forward",
            ] {
                assert!(row[key].is_number(), "{key}: {row}");
            }
        }
        assert_eq!(report["choice"], Value::Null, "too few");
    }
}

#[test]
fn without_a_file_there_are_problems_and_a_table() {
    let args = "eval --model tiny --modes fast --limit 2 -n 8 --nll 0";
    let text = stdout(&run(&args.split(' ').collect::<Vec<_>>()));
    assert!(text.contains("of the built-in problems\nMODE  "), "{text}");
    assert!(text.contains("too few"), "{text}");
    let row = text.lines().find(|line| line.starts_with("fast ")).unwrap();
    let pass_at_1 = row.split_whitespace().nth(1);
    assert_eq!(pass_at_1, Some("-"), "nothing is executed without the flag");
}

/// Results of `problems` as if `texts` had been written for them, in both modes.
fn results(problems: &Path, output: &Path, texts: &[&str]) {
    let name = output.to_str().unwrap();
    report(problems, &["-o", name, "--limit", "1"]);
    let first = fs::read_to_string(output).unwrap();
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    let problems = fs::read_to_string(problems).unwrap();
    let mut lines = String::new();
    for mode in ["exact", "fast"] {
        for (problem, text) in problems.lines().zip(texts) {
            let problem: Value = serde_json::from_str(problem).unwrap();
            let mut result = json!({
                "id": [first["id"][0], mode, problem["task_id"]], "text": text, "tokens": 9,
                "forwards": 3, "rows": 90, "ended": true, "parses": true,
            });
            result["seconds"] = json!(if mode == "fast" { 1.0 } else { 2.0 });
            lines += &format!("{result}\n");
        }
    }
    fs::write(output, lines).unwrap();
}

/// So many problems that are solved by returning 1.
fn ones(count: usize) -> String {
    let problem = FUNCTIONS.lines().next().unwrap();
    let problems = (0..count).map(|i| problem.replace("a/0", &format!("a/{i}")) + "\n");
    problems.collect()
}

#[test]
fn solutions_are_executed_within_limits_and_leave_nothing() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let precious = file(folder.path(), "precious", "x");
    let remove = format!(
        "    import os\n    os.remove('{}')\n    return 1\n",
        precious.display()
    );
    let texts = [
        "    return 1\n",
        "    return 1\n\nunfinished(\n", // behind the function
        "    open('mine', 'w').write('x')\n    return 1\n",
        "    return 2\n",
        "    return (\n",
        "    while True: pass\n",
        "    x = bytearray(3 << 30)\n    return 1\n",
        "    import os\n    os.fork()\n    return 1\n",
        "    open('big', 'wb').write(bytes(17 << 20))\n    return 1\n",
        "    import os\n    os._exit(0)\n",
        "    raise SystemExit(0)\n",
        &remove,
    ];
    let problems = file(folder.path(), "problems.jsonl", &ones(texts.len()));
    let output = folder.path().join("out.jsonl");
    results(&problems, &output, &texts);
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let more = [
        "-o",
        output.to_str().unwrap(),
        "--execute",
        "--time-limit",
        "2",
    ];
    let mut command = diffucoder(&args(&problems, &more));
    let done = command.env("TMPDIR", &temporary).output().unwrap();
    let report: Value = serde_json::from_str(&stdout(&done)).unwrap();
    for row in report["rows"].as_array().unwrap() {
        let passed = row["pass_at_1"].as_f64().unwrap() * texts.len() as f64;
        assert!((passed - 3.0).abs() < 1e-9, "{row}");
    }
    assert_eq!(report["choice"]["mode"], "fast", "as good, and faster");
    assert!(precious.exists());
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
}

#[test]
fn an_interrupt_while_a_program_runs_leaves_nothing() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let problems = file(folder.path(), "problems.jsonl", &ones(1));
    let output = folder.path().join("out.jsonl");
    // It says that it runs, which only the folder of the program shows.
    results(
        &problems,
        &output,
        &["    open('runs', 'w')\n    while True: pass\n"],
    );
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let more = [
        "-o",
        output.to_str().unwrap(),
        "--execute",
        "--time-limit",
        "600",
    ];
    let mut command = program(&[]);
    command
        .args(args(&problems, &more))
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = crate::signals::with_default_signals(&mut command)
        .spawn()
        .unwrap();
    let runs = || {
        let mut folders = fs::read_dir(&temporary).unwrap();
        folders.any(|entry| entry.unwrap().path().join("runs").exists())
    };
    while !runs() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let problems = file(
        folder.path(),
        "problems.jsonl",
        &(FUNCTIONS.to_string() + HOLES),
    );
    let output = folder.path().join("out.jsonl");
    let more = ["-o", output.to_str().unwrap(), "--temperature", "0"];
    let essence = |report: &Value| {
        let rows = report["rows"].as_array().unwrap().clone();
        let keys = [
            "mode",
            "problems",
            "mean_tokens",
            "parses",
            "exact_match",
            "nll_per_token",
        ];
        let of_row = |row: &Value| json!(keys.map(|key| row[key].clone()));
        rows.iter().map(of_row).collect::<Vec<_>>()
    };
    let whole = report(&problems, &more);
    let text = fs::read_to_string(&output).unwrap();
    assert_eq!(text.lines().count(), 8);
    let third = text.match_indices('\n').nth(2).unwrap().0;
    fs::write(&output, &text[..third + 20]).unwrap();
    assert_eq!(essence(&report(&problems, &more)), essence(&whole));
    let ids = |text: &str| -> Vec<Value> {
        let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].clone();
        text.lines().map(id).collect()
    };
    assert_eq!(ids(&fs::read_to_string(&output).unwrap()), ids(&text));
    // Other settings would make two kinds of results.
    let other = run(&args(&problems, &[&more[..], &["--seed", "5"]].concat()));
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("seed was 0 and is 5"));
}

/// A pipe has no results to go on from.
#[test]
fn results_go_into_a_pipe_too() {
    let folder = tempfile::tempdir().unwrap();
    let problems = file(folder.path(), "problems.jsonl", FUNCTIONS);
    let output = stdout(&run(&args(&problems, &["-o", "/dev/stdout"])));
    let results = output.lines().filter(|line| line.contains("\"id\""));
    assert_eq!(results.count(), 4, "{output}");
}

/// What is executed later is kept.
#[test]
fn a_later_execution_is_kept() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let problems = file(folder.path(), "problems.jsonl", FUNCTIONS);
    let output = folder.path().join("out.jsonl");
    results(&problems, &output, &["    return 1\n", "    return 1\n"]);
    let more = ["-o", output.to_str().unwrap(), "--execute"];
    let executed = report(&problems, &more);
    let text = fs::read_to_string(&output).unwrap();
    let passed = |line: &str| serde_json::from_str::<Value>(line).unwrap()["passed"].clone();
    let passed: Vec<_> = text.lines().skip(4).map(passed).collect();
    assert_eq!(passed, [true, false, true, false]);
    assert_eq!(report(&problems, &more), executed);
    assert_eq!(fs::read_to_string(&output).unwrap(), text);
}

#[test]
fn problems_that_fail_are_counted_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{FUNCTIONS}nonsense\n{FUNCTIONS}");
    let problems = file(folder.path(), "problems.jsonl", &text);
    let output = folder.path().join("out.jsonl");
    let report = report(&problems, &["-o", output.to_str().unwrap()]);
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(
            (&row["problems"], &row["failed"]),
            (&json!(5), &json!(3)),
            "{row}"
        );
    }
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 4);
    // Holes for a model that fills none, and a canvas that the model cannot hold.
    let hole = file(folder.path(), "hole.jsonl", HOLES.lines().last().unwrap());
    let forward = fixture("golden-sdar/model");
    let mut of_forward = args(&hole, &[]);
    of_forward[2] = forward.to_str().unwrap();
    for (args, code, says) in [
        (of_forward, 1, "no problem could be tried"),
        (
            args(&problems, &["-n", "512"]),
            2,
            "leaves a context of 512",
        ),
    ] {
        let done = run(&args);
        assert_eq!(done.status.code(), Some(code));
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn what_is_chosen_is_saved_and_the_rest_of_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["    return 1\n"; 12];
    let problems = file(folder.path(), "problems.jsonl", &ones(texts.len()));
    let output = folder.path().join("out.jsonl");
    results(&problems, &output, &texts);
    let more = ["-o", output.to_str().unwrap(), "--save"];
    let save = || {
        let mut command = diffucoder(&args(&problems, &more));
        command.env("XDG_CONFIG_HOME", folder.path());
        stdout(&command.output().unwrap());
        fs::read_to_string(folder.path().join("diffucoder/config.toml")).unwrap()
    };
    assert_eq!(save(), "mode = \"fast\"\n");
    let before = "# mine\nmode = 'exact' # slow\nexact = true\ntop-k = 7\n";
    fs::write(folder.path().join("diffucoder/config.toml"), before).unwrap();
    let after = "# mine\nmode = \"fast\" # slow\nexact = false\ntop-k = 7\n";
    assert_eq!(save(), after);
    // Too few to choose by: nothing is saved, and that is a failure.
    let mut command = diffucoder(&args(&problems, &[&more[..], &["--limit", "3"]].concat()));
    command.env("XDG_CONFIG_HOME", folder.path());
    let done = command.output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("nothing is saved: 3 problems"));
}

#[test]
fn each_model_has_a_table() {
    let golden = fixture("golden/model").display().to_string();
    let both = [
        "eval", "--model", "tiny", "--limit", "1", "-n", "4", "--nll", "0", "--modes", "fast",
    ];
    let text = stdout(&run(&[&both[..], &["--also", &golden]].concat()));
    for model in ["tiny", &golden] {
        assert!(
            text.contains(&format!("{model}: 1 of the built-in problems\nMODE  ")),
            "{text}"
        );
    }
    assert_eq!(text.matches("\nfast ").count(), 2, "{text}");
    let twice = run(&[&both[..], &["--also", "tiny"]].concat());
    assert_eq!(twice.status.code(), Some(2));
    let said = String::from_utf8_lossy(&twice.stderr);
    assert!(said.contains("error: tiny is named twice"), "{said}");
}

#[test]
fn nothing_is_executed_without_python() {
    let folder = tempfile::tempdir().unwrap();
    let problems = file(folder.path(), "problems.jsonl", FUNCTIONS);
    let with_path = |more: &[&str]| {
        let mut command = diffucoder(&args(&problems, more));
        command.env("PATH", folder.path()).output().unwrap()
    };
    let done = with_path(&["--execute"]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        said.contains("error: there is no python3 here\nhint: install Python"),
        "{said}"
    );
    let report: Value = serde_json::from_str(&stdout(&with_path(&[]))).unwrap();
    assert_eq!(report["rows"][0]["parses"], Value::Null);
}

#[test]
fn a_text_is_scored_as_the_network_sees_it() {
    let mut session = Session::open("tiny").unwrap();
    let settings = session.settings(Mode::Exact, false);
    let one = |tokens| Task::answer(Prompt::Text("def f(x):\n"), Hole::Exactly(tokens));
    let outcome = session.run(&one(1).with(settings.clone())).unwrap();
    let scored = session.exact_nll(&outcome).unwrap();
    assert_eq!(scored.tokens, 1);
    let (mut ids, at) = (
        outcome.canvas.ids().to_vec(),
        outcome.canvas.holes()[0].start,
    );
    let token = std::mem::replace(&mut ids[at], outcome.canvas.mask_id()) as usize;
    let model = session.load(&mut (), &mut |_, _| ()).unwrap();
    let logits = model.predict(&ids, &[at]).unwrap().logits;
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let expected = sum.ln() - f64::from(logits[token]);
    assert!(
        (scored.nll - expected).abs() < 1e-3,
        "{} {expected}",
        scored.nll
    );
    // With the token that ends it, and nothing of what the canvas has behind that.
    let outcome = session.run(&one(48).with(settings)).unwrap();
    let scored = session.exact_nll(&outcome).unwrap();
    assert_eq!(scored.tokens, 48.min(outcome.tokens() + 1));
    assert!(scored.nll.is_finite() && scored.nll > 0.0);
}
