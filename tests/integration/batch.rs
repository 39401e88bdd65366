//! Batches: resumed at any byte, shared out, locked, fed to others.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::binary::{diffucoder, program};
use crate::command::{run, run_json, stdout, tiny};

const INPUT: &str = r#"{"id": "a", "prompt": "def a(x):", "max_new_tokens": 6}
{"id": "b", "prompt": "def b(x):", "seed": 9, "meta": {"k": [1], "x": 2.7715077941825975e-163}}

{"id": 3, "prefix": "def c(x):\n    return ", "suffix": "\n", "length": 3}
{"prompt": "x = "}
"#;

/// Exit code, and stderr without the summary.
pub fn batch(input: &Path, output: &Path, more: &[&str]) -> (Option<i32>, String) {
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let flags = "-m tiny --seed 1 -n 4 --threads 1".split(' ');
    let mut command = diffucoder(&["batch", input, "-o", output]);
    let done = command.args(flags).args(more).output().unwrap();
    assert!(done.stdout.is_empty());
    let stderr = String::from_utf8(done.stderr).unwrap();
    let is_summary = |line: &&str| line.contains(" done, ") && line.contains(" skipped");
    let other = stderr
        .split_inclusive('\n')
        .filter(|line| !is_summary(line));
    (done.status.code(), other.collect())
}

pub fn results(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Everything of the results that does not depend on the clock.
pub fn essence(results: &[Value]) -> Vec<Value> {
    let keys = ["id", "sample", "meta", "text", "token_ids", "settings"];
    let essence = |result: &Value| json!(keys.map(|key| &result[key]));
    results.iter().map(essence).collect()
}

#[test]
fn results_are_in_order_and_have_their_own_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    fs::write(&input, INPUT).unwrap();
    assert_eq!(batch(&input, &output, &[]), (Some(0), String::new()));
    let results = results(&output);
    let ids: Vec<&Value> = results.iter().map(|result| &result["id"]).collect();
    assert_eq!(ids, [&json!("a"), &json!("b"), &json!(3), &json!(5)]);
    let of = |key: &str| -> Vec<u64> {
        results
            .iter()
            .map(|result| result["settings"][key].as_u64().unwrap())
            .collect()
    };
    assert_eq!(of("max_new_tokens"), [6, 4, 3, 4]);
    assert_eq!(of("seed"), [1, 9, 1, 1]);
    assert_eq!(
        results[1]["meta"],
        json!({"k": [1], "x": 2.771_507_794_182_597_5e-163})
    );
    // A line alone is what `generate` writes.
    let alone = stdout(&run(&tiny("def a(x):", "-n 6 --seed 1")));
    assert_eq!(results[0]["text"], alone);
    // Pipes do as well.
    let piped = diffucoder(&["batch", "-", "--model", "tiny", "--seed", "1", "-n", "4"])
        .write_stdin(INPUT)
        .output()
        .unwrap();
    let piped = stdout(&piped);
    let piped: Vec<Value> = piped
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(essence(&piped), essence(&results));
}

#[test]
fn a_file_cut_at_any_place_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    fs::write(&input, INPUT).unwrap();
    batch(&input, &output, &["--num-samples", "2"]);
    let whole = fs::read(&output).unwrap();
    let expected = essence(&results(&output));
    assert_eq!(expected.len(), 8);
    let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
    let cuts = [
        0,
        1,
        5,
        7,
        ends[0],
        ends[0] + 1,
        ends[0] + 2,
        ends[2] + 40,
        ends[6],
        ends[7],
        whole.len(),
    ];
    for cut in cuts {
        fs::write(&output, &whole[..cut]).unwrap();
        let (code, stderr) = batch(&input, &output, &["--num-samples", "2"]);
        assert_eq!(code, Some(0), "{cut}: {stderr}");
        // A whole line without its end is whole.
        let is_torn = cut > 0 && whole[cut - 1] != b'\n' && !ends.contains(&cut);
        assert_eq!(
            stderr.contains("ends in half a line"),
            is_torn,
            "{cut}: {stderr}"
        );
        assert_eq!(essence(&results(&output)), expected, "{cut}");
    }
    // All is done: nothing is added.
    assert_eq!(batch(&input, &output, &["--num-samples", "2"]).0, Some(0));
    assert_eq!(essence(&results(&output)), expected);
}

#[test]
fn a_killed_batch_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let lines = (0..30).map(|at| format!("{{\"id\": {at}, \"prompt\": \"x{at} = \"}}\n"));
    fs::write(&input, lines.collect::<String>()).unwrap();
    let mut child = program(&[
        "batch", "-", "--model", "tiny", "--seed", "1", "-n", "4", "-o",
    ])
    .arg(&output)
    .stdin(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let mut lines = child.stdin.take().unwrap();
    lines
        .write_all(b"{\"id\": 0, \"prompt\": \"x0 = \"}\n")
        .unwrap();
    while !fs::read_to_string(&output).is_ok_and(|results| results.ends_with('\n')) {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    // While it waits for lines no one else may write.
    let (code, stderr) = batch(&input, &output, &[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("another process is writing"), "{stderr}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(batch(&input, &output, &[]).0, Some(0));
    let ids: Vec<Value> = results(&output)
        .iter()
        .map(|result| result["id"].clone())
        .collect();
    assert_eq!(json!(ids), json!((0..30).collect::<Vec<_>>()));
}

#[test]
fn bad_lines_are_reported_and_the_rest_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let bad = "nonsense\n{\"id\": \"a\", \"prompt\": \"x\"}\n{\"id\": \"a\", \"prompt\": \"y\"}\n\
               {\"prompt\": \"z\", \"max_new_tokens\": 9999}\n{\"id\": \"b\", \"prompt\": \"x\"}\n\
               {\"prefix\": \"x\", \"suffix\": \"y\", \"length\": 9999}";
    fs::write(&input, bad).unwrap();
    let (code, stderr) = batch(&input, &output, &[]);
    assert_eq!(code, Some(1));
    let name = input.display();
    for says in [
        format!("error: {name}:1: not a JSON object"),
        format!("error: {name}:3: the id \"a\" is on line 2 already"),
        format!("error: {name}:4: `max_new_tokens` 9999 leaves a context of 512 no prompt"),
        format!("error: {name}:6: the holes can become 9999 tokens long"),
        "error: 4 of 6 lines failed".into(),
    ] {
        assert!(stderr.contains(&says), "{says}\n{stderr}");
    }
    assert_eq!(results(&output).len(), 2);
    // Mended lines are all that the next run does.
    fs::write(
        &input,
        bad.replace("nonsense", "{\"id\": \"n\", \"prompt\": \"x\"}"),
    )
    .unwrap();
    batch(&input, &output, &[]);
    let ids: Vec<Value> = results(&output)
        .iter()
        .map(|result| result["id"].clone())
        .collect();
    assert_eq!(json!(ids), json!(["a", "b", "n"]));
}

#[test]
fn nothing_but_results_is_ever_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    fs::write(&input, INPUT).unwrap();
    for precious in ["my notes", "my notes\n", "{\"id\": 1}\n", "{\"a\":1}"] {
        fs::write(&output, precious).unwrap();
        let (code, stderr) = batch(&input, &output, &[]);
        assert_eq!(code, Some(1));
        assert!(
            stderr.contains("holds something else than results"),
            "{stderr}"
        );
        assert_eq!(fs::read_to_string(&output).unwrap(), precious);
    }
    let (code, stderr) = batch(&input, &input, &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("would be replaced"), "{stderr}");
    assert_eq!(fs::read_to_string(&input).unwrap(), INPUT);
}

#[test]
fn shards_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let (input, whole) = (folder.path().join("in"), folder.path().join("out"));
    fs::write(&input, INPUT).unwrap();
    batch(&input, &whole, &[]);
    let mut parts = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let output = folder.path().join(shard.replace('/', "-"));
        assert_eq!(batch(&input, &output, &["--shard", shard]).0, Some(0));
        parts.extend(essence(&results(&output)));
    }
    let sorted = |mut results: Vec<Value>| {
        results.sort_by_key(Value::to_string);
        results
    };
    assert_eq!(sorted(parts), sorted(essence(&results(&whole))));
}

/// Nothing of a line is left for the next: keys and values, buffers, seeds.
#[test]
fn a_batch_equals_its_prompts_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let prompts = [
        "def a(x):",
        "class Stack:\n    def push(self, x):\n",
        "import os\n",
    ];
    let lines = prompts.map(|prompt| format!("{}\n", json!({ "prompt": prompt })));
    fs::write(&input, lines.concat()).unwrap();
    let modes = [&[][..], &["--mode", "quality"], &["--exact"]];
    for (flags, parallel) in modes
        .into_iter()
        .flat_map(|flags| [(flags, "1"), (flags, "3")])
    {
        let more = [&["--num-samples", "2", "--parallel", parallel], flags].concat();
        assert_eq!(batch(&input, &output, &more), (Some(0), String::new()));
        let results = results(&output);
        assert_eq!(results.len(), 6);
        for (at, result) in results.iter().enumerate() {
            let seed = format!("-n 4 --seed {}", 1 + at % 2);
            let args = tiny(prompts[at / 2], &seed);
            let alone = run_json(&[&args[..], flags].concat());
            for key in ["text", "token_ids", "reveal_step", "finish_reason", "usage"] {
                assert_eq!(result[key], alone[key], "{key} of {at}");
            }
        }
        fs::remove_file(&output).unwrap();
    }
}

/// Whoever writes the lines may wait for a result first, so that none is read that is not begun.
#[test]
fn a_line_is_answered_before_the_next_is_there() {
    for parallel in ["1", "3"] {
        let flags = "--model tiny --seed 1 -n 4 --quiet --parallel".split(' ');
        let mut child = program(&["batch", "-"])
            .args(flags)
            .arg(parallel)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = child.stdin.take().unwrap();
        let mut results = BufReader::new(child.stdout.take().unwrap()).lines();
        for (number, line) in INPUT.lines().filter(|line| !line.is_empty()).enumerate() {
            writeln!(lines, "{line}").unwrap();
            let result: Value = serde_json::from_str(&results.next().unwrap().unwrap()).unwrap();
            assert_eq!(
                result["id"],
                [json!("a"), json!("b"), json!(3), json!(4)][number]
            );
        }
        drop(lines);
        assert!(results.next().is_none() && child.wait().unwrap().success());
    }
}

/// Failures are where their lines are, and the results of those round them as without them.
#[test]
fn lines_at_work_at_the_same_time_end_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    let lines = (0..40).map(|at| match at % 5 {
        3 => format!("{{\"id\": {at}, \"prompt\": 3}}\n"),
        of => format!(
            "{{\"id\": {at}, \"prompt\": \"x{at} = \", \"max_new_tokens\": {}}}\n",
            1 + 9 * of
        ),
    });
    fs::write(&input, lines.collect::<String>()).unwrap();
    let [one, four] = ["1", "4"].map(|parallel| {
        let output = folder.path().join(parallel);
        let (code, stderr) = batch(&input, &output, &["--parallel", parallel]);
        (code, stderr, essence(&results(&output)))
    });
    assert_eq!((one.0, one.2.len()), (Some(1), 32));
    assert_eq!(one, four);
}

#[test]
fn problem_sets_become_samples() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let problem =
        json!({"task_id": "HumanEval/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "…"});
    fs::write(&input, format!("{problem}\n")).unwrap();
    batch(
        &input,
        &output,
        &["--format", "human-eval", "--num-samples", "2"],
    );
    let samples = results(&output);
    assert_eq!(samples.len(), 2);
    let completion = samples[0]["completion"].as_str().unwrap();
    assert_eq!(samples[0]["task_id"], "HumanEval/0");
    fs::remove_file(&output).unwrap();
    batch(&input, &output, &["--format", "evalplus"]);
    let expected =
        json!({"task_id": "HumanEval/0", "solution": format!("def f(x):\n{completion}")});
    assert_eq!(results(&output), [expected]);
}

/// The answer to a problem begins in a fence, as in the paper's evaluation, and is the code inside.
#[test]
fn a_chat_model_answers_problems_with_code() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let prompt = "def f(x):\n";
    fs::write(
        &input,
        format!("{}\n", json!({"task_id": "a", "prompt": prompt})),
    )
    .unwrap();
    let model = crate::fixture("golden/model").display().to_string();
    let model = ["--model", &model, "--seed", "1", "-n", "8", "-t", "1"];
    let code = ["generate", "--code", "--ask", "-p", prompt];
    let code = diffucoder(&[&code[..], &model].concat()).output().unwrap();
    let code = String::from_utf8(code.stdout).unwrap();
    for (format, key, before) in [
        ("evalplus", "solution", ""),
        ("human-eval", "completion", "\n"),
    ] {
        let files = [input.to_str().unwrap(), "-o", output.to_str().unwrap()];
        let args = [&["batch"][..], &files, &["--format", format], &model].concat();
        assert!(diffucoder(&args).output().unwrap().status.success());
        assert_eq!(results(&output)[0][key], format!("{before}{code}"));
        fs::remove_file(&output).unwrap();
    }
}

/// As editors on Windows save it, and as problem sets are published.
#[test]
fn a_byte_order_mark_and_gzip_are_no_part_of_the_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let lines = r#"{"id": "a", "prompt": "def a(x):"}
{"id": "b", "prompt": "def b(x):"}
"#;
    let marked = format!("\u{feff}{}", lines.replace('\n', "\r\n"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    Write::write_all(&mut gzip, lines.as_bytes()).unwrap();
    let inputs = [
        ("plain", lines.as_bytes().to_vec()),
        ("marked", marked.into_bytes()),
        ("gzipped", gzip.finish().unwrap()),
    ];
    let written = inputs.map(|(name, bytes)| {
        fs::write(file(name), bytes).unwrap();
        let output = file(&format!("{name}.out"));
        assert_eq!(batch(&file(name), &output, &[]), (Some(0), String::new()));
        results(&output)
            .iter()
            .map(|result| (result["id"].clone(), result["text"].clone()))
            .collect::<Vec<_>>()
    });
    assert_eq!(written[0].len(), 2);
    assert!(written.iter().all(|lines| *lines == written[0]));
}
