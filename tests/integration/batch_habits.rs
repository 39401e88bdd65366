//! Batches as people run them: again with other settings, into pipes, over files with a thousand
//! mistakes, over the problem sets of benchmarks.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::batch::{batch, essence, results};
use crate::binary::diffucoder;
use crate::files::golden_copy;
use crate::fixture;

const INPUT: &str =
    "{\"id\": \"a\", \"prompt\": \"def a(x):\"}\n{\"id\": \"b\", \"prompt\": \"b = \"}\n";

/// A folder with an input in it, and the paths of input and output.
fn files(input: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (input_path, output) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    fs::write(&input_path, input).unwrap();
    (folder, input_path, output)
}

/// Runs the batch of this input with results on stdout: its exit code, results and stderr.
fn to_stdout(args: &[&str], input: impl Into<Vec<u8>>) -> (Option<i32>, Vec<Value>, String) {
    let args = [&["batch", "-", "--seed", "1", "-n", "4"], args].concat();
    let done = diffucoder(&args).write_stdin(input).output().unwrap();
    let stdout = String::from_utf8(done.stdout).unwrap();
    let results = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let stderr = String::from_utf8(done.stderr).unwrap();
    (done.status.code(), results.collect(), stderr)
}

#[test]
fn other_settings_are_named_and_refused() {
    let (_folder, input, output) = files(INPUT);
    batch(&input, &output, &[]);
    let before = fs::read_to_string(&output).unwrap();
    // The same in other words.
    for same in [&["--alg-temp", "0.0"][..], &["--num-samples", "1"]] {
        assert_eq!(batch(&input, &output, same), (Some(0), String::new()));
    }
    for (more, says) in [
        (&["-t", "0.7"][..], "temperature was not given and is 0.7"),
        (
            &["--mode", "quality", "--remask", "1"],
            "mode was not given and is quality, remask was not",
        ),
        (&["--quant", "q8_0"], "quant was none and is q8_0"),
        (&["--raw"], "raw was not given and is true"),
    ] {
        let (code, stderr) = batch(&input, &output, more);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(
            stderr.contains("holds results of other settings: ") && stderr.contains(says),
            "{stderr}"
        );
        assert!(
            stderr.contains("hint: --resume-anyway adds to them, --restart"),
            "{stderr}"
        );
        assert_eq!(fs::read_to_string(&output).unwrap(), before);
    }
    // Another model, and no seed.
    let model = fixture("golden/model").display().to_string();
    let done = diffucoder(&["batch", "--model", &model, "-n", "4", "-o"])
        .args([&output, &input])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(
        stderr.contains("model was tiny (built in) and is "),
        "{stderr}"
    );
    assert!(stderr.contains("seed was 1 and is not given"), "{stderr}");
}

#[test]
fn one_goes_on_or_begins_again_if_one_says_so() {
    let (_folder, input, output) = files(INPUT);
    batch(&input, &output, &[]);
    let before = essence(&results(&output));
    fs::write(
        &input,
        [INPUT, "{\"id\": \"c\", \"prompt\": \"c\"}\n"].concat(),
    )
    .unwrap();
    let warm = ["-t", "0.7", "--resume-anyway"];
    let (code, stderr) = batch(&input, &output, &warm);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.contains("note: ") && stderr.contains("temperature was not given"),
        "{stderr}"
    );
    let mixed = results(&output);
    assert_eq!(essence(&mixed)[..2], before);
    assert_eq!(mixed[2]["settings"]["temperature"], 0.7);
    // The last settings are those that are kept.
    assert_eq!(batch(&input, &output, &warm[..2]), (Some(0), String::new()));

    // Nothing is dropped for a batch that comes to nothing.
    let text = fs::read_to_string(&output).unwrap();
    fs::write(&input, "nonsense\n").unwrap();
    assert_eq!(batch(&input, &output, &["--restart"]).0, Some(1));
    assert_eq!(fs::read_to_string(&output).unwrap(), text);
    fs::write(&input, INPUT).unwrap();
    assert_eq!(
        batch(&input, &output, &["--restart"]),
        (Some(0), String::new())
    );
    assert_eq!(essence(&results(&output)), before);
    assert_eq!(batch(&input, &output, &[]), (Some(0), String::new()));

    // Settings that are gone are taken for the same, which is said; those of an output that is gone
    // are nobody's.
    let kept = output.with_extension("jsonl.settings.json");
    fs::remove_file(&kept).unwrap();
    assert!(
        batch(&input, &output, &[])
            .1
            .contains("settings.json is not there")
    );
    fs::write(&kept, "{\"seed\": \"9\"}").unwrap();
    fs::remove_file(&output).unwrap();
    assert_eq!(batch(&input, &output, &[]), (Some(0), String::new()));
    // A file of another kind is not touched.
    fs::write(&kept, "[1]").unwrap();
    let (code, stderr) = batch(&input, &output, &[]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("holds something else than settings"),
        "{stderr}"
    );
}

#[test]
fn a_summary_ends_the_batch() {
    let (_folder, input, output) = files(INPUT);
    let run = |more: &[&str]| {
        let mut command = diffucoder(&["batch", "--model", "tiny", "-n", "2", "-o"]);
        let done = command.args([&output, &input]).args(more).output().unwrap();
        String::from_utf8(done.stderr).unwrap()
    };
    let first = run(&[]);
    assert!(
        first.starts_with("note: 2 done, 0 skipped, 0 failed · 4 tokens in "),
        "{first}"
    );
    assert!(first.ends_with(" tokens/s)\n"), "{first}");
    assert_eq!(
        run(&[]),
        "note: 0 done, 2 skipped (there already), 0 failed\n"
    );
    assert_eq!(run(&["--quiet"]), "");
}

#[test]
fn the_same_mistake_is_said_once() {
    let mut input = "{\"prompt\": \"x\"}\nnonsense\n".to_string();
    for length in 600..700 {
        input += &format!("{{\"prompt\": \"x\", \"max_new_tokens\": {length}}}\n");
    }
    input += "nonsense\n";
    let (code, results, stderr) = to_stdout(&["--model", "tiny"], input);
    assert_eq!((code, results.len()), (Some(1), 1));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 7, "{stderr}");
    assert!(lines[0].starts_with("error: stdin:2: not a JSON object: "));
    let no_prompt = "error: stdin:3: `max_new_tokens` 600 leaves a context of 512 no prompt";
    assert_eq!(lines[1], no_prompt);
    assert_eq!(lines[2], "hint: `max_new_tokens` can be from 1 to 511");
    assert_eq!(lines[3], "error: stdin: 1 more line like line 2: 103");
    assert_eq!(
        lines[4],
        "error: stdin: 99 more lines like line 3: 4, 5, 6, 7, 8, …"
    );
    assert!(lines[5].starts_with("note: 1 done, 0 skipped, 102 failed · "));
    assert_eq!(lines[6], "error: 102 of 103 lines failed");
}

/// A folder of the small random model whose weights are damaged.
fn without_weights() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    golden_copy(folder.path());
    fs::write(folder.path().join("model.safetensors"), "damaged").unwrap();
    folder
}

#[test]
fn no_weights_are_loaded_for_lines_that_cannot_be_prepared() {
    let folder = without_weights();
    let model = ["--model", folder.path().to_str().unwrap()];
    let bad =
        "{\"prompt\": \"x\", \"max_new_tokens\": 999999}\n{\"prompt\": \"x\", \"steps\": 99}\n";
    let (code, results, stderr) = to_stdout(&model, bad);
    assert_eq!((code, results.len()), (Some(1), 0));
    assert!(stderr.ends_with("error: 2 of 2 lines failed\n"), "{stderr}");
    assert!(!stderr.contains("safetensors"), "{stderr}");
    for said in [
        "`max_new_tokens` 999999 leaves",
        "hint: `max_new_tokens` can be",
        "`steps` is 99",
    ] {
        assert!(stderr.contains(said), "{stderr}");
    }
    let (code, _, stderr) = to_stdout(&model, INPUT);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("safetensors"), "{stderr}");
}

#[test]
fn a_line_that_is_too_long_costs_the_others_nothing() {
    let long = format!("{{\"prompt\": \"{}\"}}\n{INPUT}", "x = 1 ".repeat(2 << 20));
    let (code, results, stderr) = to_stdout(&["--model", "tiny"], long);
    assert_eq!((code, results.len()), (Some(1), 2));
    assert!(
        stderr.starts_with("error: stdin:1: the line is longer than 8 MiB\n"),
        "{stderr}"
    );
}

#[test]
fn problem_sets_are_known_by_their_keys() {
    let problem = json!({
        "task_id": "SingleLineInfilling/X/0/L0", "entry_point": "add", "prompt": "def add(a, b):\n",
        "suffix": "    return c\n", "canonical_solution": "    c = a + b\n", "test": "def check(f): ..."
    });
    let (code, results, stderr) = to_stdout(&["--model", "tiny"], format!("{problem}\n"));
    assert_eq!(code, Some(0));
    assert!(stderr.starts_with("note: the first line is a problem of --format human-eval: "));
    let keys: Vec<&String> = results[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["task_id", "completion"]);
    assert_eq!(results[0]["task_id"], problem["task_id"]);
    // What was between prompt and suffix, and nothing of them.
    let line = json!({"id": 1, "prefix": problem["prompt"], "suffix": problem["suffix"]});
    let (_, alone, _) = to_stdout(&["--model", "tiny"], format!("{line}\n"));
    assert_eq!(results[0]["completion"], alone[0]["text"]);

    let problem = json!({
        "source_file": "x.ipynb", "task_id": 2, "prompt": "Write a function to add two numbers.",
        "code": "def add(a, b): ...", "test_imports": [], "test_list": ["assert add(1, 2) == 3"]
    });
    let (_, results, stderr) = to_stdout(&["--model", "tiny"], format!("{problem}\n"));
    assert!(stderr.contains("--format mbpp"), "{stderr}");
    let docstring = "\"\"\"\nWrite a function to add two numbers.\n\
                     Your code should pass these tests:\n\nassert add(1, 2) == 3\n\"\"\"\n";
    let line = json!({ "prompt": docstring });
    let (_, alone, _) = to_stdout(&["--model", "tiny"], format!("{line}\n"));
    assert_eq!(
        results,
        [json!({"task_id": 2, "completion": alone[0]["text"]})]
    );
    let (_, named, _) = to_stdout(
        &["--model", "tiny", "--format", "mbpp"],
        format!("{problem}\n"),
    );
    assert_eq!(named, results);
}

#[cfg(unix)]
mod pipes {
    use super::*;
    use crate::shell::fifo;

    #[test]
    fn a_pipe_takes_results() {
        let (folder, input, output) = files(INPUT);
        let pipe = folder.path().join("pipe");
        fifo(&pipe);
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || results(&pipe)
        });
        assert_eq!(batch(&input, &pipe, &[]), (Some(0), String::new()));
        batch(&input, &output, &[]);
        assert_eq!(essence(&reader.join().unwrap()), essence(&results(&output)));
        assert!(!folder.path().join("pipe.settings.json").exists());
    }

    #[test]
    fn devices_stay_devices() {
        let (_folder, input, _) = files(INPUT);
        let null = std::path::Path::new("/dev/null");
        assert_eq!(batch(&input, null, &[]), (Some(0), String::new()));
    }
}
