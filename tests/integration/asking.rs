//! What is asked, of what, and where the answer goes: prompts with texts, the places that end a
//! text, output files, habits from other programs.

use std::path::Path;
use std::process::Output;

use diffucoder::session::asking::{Asking, Wish};
use diffucoder::session::{Conditions, Finish, Observer, Session, Task};
use serde_json::Value;

use crate::binary::diffucoder;
use crate::command::{refusal, run, run_json, slashed, stderr, stdout, tiny};
use crate::fixture;
use crate::hub_command::hub;
use crate::hub_server::{REPO, online};

const CODE: &str = "def area(r):\n    return 3.14 * r * r\n";

/// The prompt that the model gets, out of the header of a trace.
fn prompt(args: &[&str], stdin: Option<&str>) -> (String, Output) {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("run.jsonl");
    let trace = trace.to_str().unwrap();
    let args = [
        &["generate", "-n", "2", "--seed", "1", "--trace", trace],
        args,
    ]
    .concat();
    let mut command = diffucoder(&args);
    let output = match stdin {
        Some(text) => command.write_stdin(text),
        None => &mut command,
    };
    let output = output.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    let lines = std::fs::read_to_string(trace).unwrap();
    let header: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    (header["prompt"].as_str().unwrap().to_string(), output)
}

/// What the golden model, a chat model, is asked by its user.
fn question(args: &[&str], stdin: Option<&str>) -> String {
    let model = fixture("golden/model").display().to_string();
    let (prompt, _) = prompt(&[&["--model", &model], args].concat(), stdin);
    let (_, question) = prompt.split_once("<|im_start|>user\n").unwrap();
    question.split("<|im_end|>").next().unwrap().to_string()
}

/// An answer is a text of its own.
#[test]
fn an_answer_has_no_line_ends_of_its_question() {
    let model = Session::open(fixture("golden/model").to_str().unwrap()).unwrap();
    let question = || "def f(x):\r\n    # what is it?\r\n".to_string();
    for (wish, ends, is_continued) in [
        (Wish::Answer, "a\nb", false),
        (Wish::Code, "a\nb", false),
        (Wish::Continuation, "a\r\nb", true),
        (Wish::Raw, "a\r\nb", false),
    ] {
        let asking = Asking::new(model.package(), question(), wish, "python");
        assert_eq!(asking.result("a\nb"), ends, "{wish:?}");
        assert_eq!(asking.is_continued_in_chat(), is_continued, "{wish:?}");
    }
}

#[test]
fn a_chat_model_is_asked_about_the_text_that_is_piped_in() {
    let fenced = format!("```python\n{CODE}```\n\nExplain this");
    assert_eq!(question(&["Explain this"], Some(CODE)), fenced);
    assert_eq!(question(&["-p", "Explain this"], Some(CODE)), fenced);
    let named = ["-p", "Explain this", "-f", "-"];
    assert_eq!(question(&named, Some(CODE)), fenced);
    // Neither an empty pipe nor an empty line is a text.
    for nothing in ["", "\n"] {
        assert_eq!(question(&["Explain this"], Some(nothing)), "Explain this");
    }
    let prose = question(&["-p", "Shorter"], Some("Dear reader, no code."));
    assert_eq!(prose, "```\nDear reader, no code.\n```\n\nShorter");
    let crlf = CODE.replace('\n', "\r\n");
    assert_eq!(question(&["Explain this"], Some(&crlf)), fenced);
}

#[test]
fn files_and_a_question_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (python, rust) = (file("a.py", "x = 1\n"), file("b.rs", "```"));
    let one = question(
        &["-f", &python, "Why?"],
        Some("not read: -f names the text"),
    );
    assert_eq!(one, "```python\nx = 1\n```\n\nWhy?");
    let two = question(&["-f", &python, "-f", &rust, "-p", "Why?"], None);
    assert_eq!(
        two,
        format!("{python}:\n```python\nx = 1\n```\n\n{rust}:\n````rust\n```\n````\n\nWhy?")
    );
    // Without a question they are one text, which goes on.
    let (whole, _) = prompt(&["-m", "tiny", "-f", &python, "-f", &python], None);
    assert_eq!(whole, "x = 1\nx = 1\n");
    let (code, said) = refusal(&["generate", "-m", "tiny", "-f", "-", "-f", "-"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("there is one stdin"), "{said}");
}

#[test]
fn a_base_model_goes_on_with_the_text_and_the_prompt() {
    let model = ["--model", "tiny"];
    let (text, output) = prompt(&[&model[..], &["def volume("]].concat(), Some(CODE));
    assert_eq!(text, format!("{CODE}def volume("));
    let said = stderr(&output);
    assert!(said.contains("is no chat model: the "), "{said}");
    let (text, _) = prompt(&[&model[..], &["b"]].concat(), Some("a"));
    assert_eq!(text, "a\nb");
    let (text, output) = prompt(&[&model[..], &["--raw", "b"]].concat(), Some("a"));
    assert_eq!((text.as_str(), stderr(&output).as_str()), ("a\nb", ""));
}

#[test]
fn a_dash_is_stdin() {
    for args in [&["-"][..], &["-p", "-"], &["-f", "-"]] {
        let (text, _) = prompt(&[&["-m", "tiny"], args].concat(), Some(CODE));
        assert_eq!(text, CODE, "{args:?}");
    }
    let infill = [
        "infill",
        "-m",
        "tiny",
        "--length",
        "2",
        "--prefix-file",
        "-",
    ];
    let filled = diffucoder(&infill).write_stdin("x =").output().unwrap();
    assert!(stdout(&filled).starts_with("x ="));
}

#[test]
fn a_prompt_needs_no_command() {
    let usual = stdout(&run(&tiny("def area (r):", "-n 8 --seed 1")));
    let (prompt, flags) = ("def area (r):", ["-m", "tiny", "-n", "8", "--seed", "1"]);
    for args in [
        [&[prompt], &flags[..]].concat(),
        [&flags[..], &[prompt]].concat(),
        [&["-q", "-p", prompt, "--max-tokens", "4"], &flags[..]].concat(),
    ] {
        assert_eq!(stdout(&run(&args)), usual, "{args:?}");
    }
    let version = stdout(&run(&["version"]));
    assert_eq!(version, stdout(&run(&["--version"])));
}

#[test]
fn the_last_of_two_equal_flags_counts() {
    let report = run_json(&tiny(
        "x",
        "-n 4 -n 8 --seed 1 --seed 2 --temp 0.5 --temperature 0.6",
    ));
    let settings = &report["settings"];
    assert_eq!(settings["max_new_tokens"], 8);
    assert_eq!(settings["seed"], 2);
    assert_eq!(settings["temperature"], 0.6);
}

#[cfg(unix)]
#[test]
fn stdin_of_others_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    std::fs::write(&list, "a\nb\nc\n").unwrap();
    let shell = |script: String| crate::shell::sh(&script, &[]);
    let generate = "\"$0\" generate -m tiny -n 2 --seed 1";
    let list = list.display();
    // A loop reads a file: it sees every line of it.
    let looped = shell(format!(
        "while read x; do {generate} -p \"$x\" >/dev/null 2>&1 && echo \"$x\"; done < {list}"
    ));
    assert_eq!(stdout(&looped), "a\nb\nc\n");
    let said = stderr(&shell(format!("{{ read x; {generate} -p x; }} < {list}")));
    assert!(said.contains("read by something else"), "{said}");
    // Nothing to read is no fault where there is a prompt.
    for stdin in ["</dev/null", "<&-"] {
        let output = shell(format!("{generate} -p x {stdin}"));
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{stdin}"
        );
        let refused = shell(format!("{generate} {stdin}"));
        assert_eq!(refused.status.code(), Some(2), "{stdin}");
    }
    for prompt in ["", "-p x"] {
        let refused = shell(format!("{generate} {prompt} </"));
        assert_eq!(refused.status.code(), Some(1), "{prompt}");
        assert!(stderr(&refused).starts_with("error: cannot read stdin: "));
    }
    // From its beginning a file is as good as a pipe.
    let output = shell(format!("{generate} -p x --json < {list}"));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(report["usage"]["prompt_tokens"].as_u64().unwrap() > 3);
}

#[test]
fn flags_without_effect_say_so() {
    for flags in [&["--system", "Be brief."][..], &["--code"], &["--ask"]] {
        let output = run(&[&tiny("x", "-n 2 --seed 1")[..], flags].concat());
        let said = stderr(&output);
        assert!(output.status.success());
        let expected = format!(
            "{} has no effect: tiny (built in) is no chat model",
            flags[0]
        );
        assert!(said.contains(&expected), "{said}");
        let chat = fixture("golden/model").display().to_string();
        let args = ["generate", "-m", &chat, "-p", "x", "-n", "2", "--seed", "1"];
        assert_eq!(stderr(&run(&[&args[..], flags].concat())), "", "{flags:?}");
    }
    for flags in ["--raw --code", "--raw --ask", "--suffix a --code"] {
        let (code, said) = refusal(&tiny("x", flags));
        assert_eq!(code, Some(2), "{flags}: {said}");
    }
}

#[test]
fn a_text_ends_before_what_stops_it() {
    let args = tiny("def is_valid(value):", "-n 64 --seed 1");
    let whole = run_json(&args);
    let text = whole["text"].as_str().unwrap();
    let stop = &text[12..20]; // no token's end
    for mode in ["fast", "exact"] {
        let args = [&args[..], &["--mode", mode]].concat();
        let whole = run_json(&args)["text"].as_str().unwrap().to_string();
        let stop = &whole[9..14];
        let stopped = run_json(&[&args[..], &["--stop", "never", "--stop", stop]].concat());
        assert_eq!(
            stopped["text"],
            whole[..whole.find(stop).unwrap()],
            "{mode}"
        );
        assert_eq!(stopped["finish_reason"], "stop", "{mode}");
    }
    let stopped = run_json(&[&args[..], &["--stop", stop]].concat());
    let tokens = |report: &Value, key: &str| report["usage"][key].as_u64().unwrap();
    for key in ["completion_tokens", "forwards"] {
        assert!(tokens(&stopped, key) < tokens(&whole, key), "{key}");
    }
    let (code, said) = refusal(&tiny("x", "--stop="));
    assert_eq!(code, Some(2));
    assert!(said.contains("must not be empty"), "{said}");
}

#[test]
fn what_is_passed_on_is_the_text_up_to_its_end() {
    struct Said(String);
    impl Observer for Said {
        fn on_text(&mut self, _: usize, text: &str) {
            self.0.push_str(text);
        }
    }
    let mut session = Session::open("tiny").unwrap();
    let mut run = |ends: &[&str], remask: usize| {
        let task = Task::complete("def is_valid(value):");
        let mut job = session.prepare(&task).unwrap();
        (job.settings.seed, job.settings.remask) = (1, remask);
        job.ends.texts = ends.iter().map(ToString::to_string).collect();
        let mut said = Said(String::new());
        let conditions = &mut Conditions::watched(&mut said);
        let outcome = session.run_job(&mut job, conditions).unwrap();
        assert_eq!(said.0, outcome.text(), "{ends:?}, remask {remask}");
        outcome
    };
    // With a second look at each token nothing is decided before the end of the run.
    for remask in [0, 1] {
        let whole = run(&[], remask);
        let end = whole.text().find("return").unwrap();
        let cut = run(&["none of it", "return"], remask);
        assert_eq!(cut.text(), whole.text()[..end]);
        assert_eq!(cut.finish(), Finish::Stop);
        assert!(cut.tokens() < whole.tokens());
        assert!(remask > 0 || cut.work.forwards < whole.work.forwards);
    }
}

#[test]
fn a_text_ends_behind_one_function() {
    let prompt = "def f(x):\n    return x + 1\n\n\ndef g(";
    let whole = stdout(&run(&tiny(prompt, "-n 96 --seed 2 -t 2")));
    let cut = stdout(&run(&tiny(
        prompt,
        "-n 96 --seed 2 -t 2 --stop-after function",
    )));
    assert!(
        cut.len() < whole.len() && whole.starts_with(cut.trim_end()),
        "{whole}\n{cut}"
    );
    let (code, said) = refusal(&tiny("int f(", "--stop-after function --language c"));
    assert_eq!(code, Some(2));
    assert!(said.contains("where functions of c end"), "{said}");
}

#[test]
fn a_suffix_makes_a_hole() {
    let (before, after) = ("def area(r):\n    return", "\n\nprint(area(2))\n");
    let args = tiny(before, "--seed 1");
    let between = run_json(&[&args[..], &["--suffix", after]].concat());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.py");
    std::fs::write(&file, format!("{before}<FILL>{after}")).unwrap();
    let file = file.to_str().unwrap();
    let filled = run_json(&["infill", "-m", "tiny", "--seed", "1", file]);
    assert_eq!(between["text"], filled["holes"][0]["text"]);
    assert_eq!(between["usage"]["rows"], filled["usage"]["rows"]);
    let longest = run_json(&[&args[..], &["-n", "2", "--suffix", after]].concat());
    assert!(longest["usage"]["canvas_tokens"].as_u64().unwrap() <= 2);
    // An empty one is none.
    let plain = stdout(&run(&args));
    assert_eq!(
        stdout(&run(&[&args[..], &["--suffix", ""]].concat())),
        plain
    );
}

#[test]
fn lines_go_on_as_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let text = "import os\n\n\ndef is_valid(value):\n";
    let lf = file("lf.py", text);
    let crlf = file("crlf.py", &text.replace('\n', "\r\n"));
    let of = |file: &str| {
        run_json(&[
            "generate", "-m", "tiny", "-f", file, "-n", "24", "--seed", "1",
        ])
    };
    let (lf, crlf) = (of(&lf), of(&crlf));
    assert_eq!(
        lf["token_ids"], crlf["token_ids"],
        "the model sees the same"
    );
    let expected = lf["text"].as_str().unwrap().replace('\n', "\r\n");
    assert!(expected.contains("\r\n"));
    assert_eq!(crlf["text"], expected);
    let line = serde_json::json!({"prompt": text.replace('\n', "\r\n")}).to_string();
    let batch = file("in.jsonl", &line);
    let flags = ["batch", &batch, "-m", "tiny", "-n", "24", "--seed", "1"];
    let answered: Value = serde_json::from_str(&stdout(&run(&flags))).unwrap();
    assert_eq!(answered["text"], expected);
}

#[test]
fn the_result_goes_where_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.py");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "old").unwrap();
    let args = tiny("def area(r):", "-n 8 --seed 1");
    let usual = stdout(&run(&args));
    assert_eq!(stdout(&run(&[&args[..], &["-o", file]].concat())), "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), usual);
    assert_eq!(
        stdout(&run(&[&args[..], &["-o", file, "-o", "-"]].concat())),
        usual
    );
    let json = |flags: &[&str]| {
        let output = stdout(&run(&[&args[..], flags].concat()));
        let text = match output.is_empty() {
            true => std::fs::read_to_string(&path).unwrap(),
            false => output,
        };
        let report: Value = serde_json::from_str(&text).unwrap();
        report["text"].as_str().unwrap().to_string()
    };
    for flags in [
        &["--json"][..],
        &["--output", "json"],
        &["-o", "json"],
        &["--json", "-o", file],
        &["-o", file, "--output", "json"],
        &["--output", "text", "--output=json"],
    ] {
        assert_eq!(json(flags), usual, "{flags:?}");
    }
    let samples = [&args[..], &["--num-samples", "2", "-o", file]].concat();
    assert_eq!(stdout(&run(&samples)), "");
    let both = std::fs::read_to_string(&path).unwrap();
    assert_eq!(both.matches("==> ").count(), 2, "{both}");
    let source = folder.path().join("in.py");
    std::fs::write(&source, "x = <FILL:2>\n").unwrap();
    let infill = ["infill", "-m", "tiny", source.to_str().unwrap(), "-o", file];
    assert_eq!(stdout(&run(&infill)), "");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("x = "));
    assert_eq!(stdout(&run(&["models", "--json", "-o", file])), "");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("[{"));
    // Found before anything is computed.
    let nowhere = folder.path().join("no/such/folder");
    for place in [folder.path(), &nowhere] {
        let (code, said) = refusal(&[&args[..], &["-o", place.to_str().unwrap()]].concat());
        assert!(
            matches!(code, Some(1 | 2)) && said.contains(&slashed(place)),
            "{said}"
        );
    }
    let (code, _) = refusal(&[&infill[..], &["--in-place"]].concat());
    assert_eq!(code, Some(2));
}

#[test]
fn suggestions_are_near_or_know_the_other_program() {
    for (args, says) in [
        (&["generate", "--stream", "x"][..], "as it is decided"),
        (&["generate", "--promt", "x"], "'--prompt'"),
        (&["generate", "-s", "4", "x"], "--seed in llama-cli"),
        (&["generate", "--min-p=0.1", "x"], "--top-p and --top-k"),
        (&["generate", "write", "a loop"], "needs quotes"),
        (&["genrate", "x"], "'generate'"),
        (
            &["run", "tiny", "x"],
            "diffucoder generate --model MODEL PROMPT",
        ),
        (&["hello"], "diffucoder generate hello"),
        (&["Cargo.toml"], "diffucoder generate -f Cargo.toml"),
    ] {
        let output = diffucoder(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(
            said.contains(says) && !said.contains("--system <"),
            "{args:?}: {said}"
        );
    }
    let (_, said) = refusal(&["generate", "--wholly-unknown", "x"]);
    assert!(!said.contains("tip:"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_program_that_is_called_otherwise_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("dc");
    std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin!("diffucoder"), &other).unwrap();
    let args = ["generate", "write", "a loop"];
    let said = stderr(&crate::binary::isolated(&other).args(args).output().unwrap());
    assert!(
        said.contains("needs quotes") && !said.contains("dc "),
        "{said}"
    );
    assert_eq!(said, stderr(&run(&args)));
}

#[test]
fn too_many_threads_are_fewer() {
    let args = tiny("def mean(xs):\n", "-n 8 --seed 1");
    let output = run(&[&args[..], &["--threads", "1000000"]].concat());
    assert_eq!(stdout(&output), stdout(&run(&args)));
    assert!(stderr(&output).starts_with("note: --threads 1000000 is taken as "));
}

/// Names that are not UTF-8, as old archives and other systems leave them.
#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    std::fs::create_dir(&folder).unwrap();
    let path = |name: &[u8]| folder.join(OsStr::from_bytes(name));
    let model = path(b"model-\xff");
    std::fs::create_dir(&model).unwrap();
    crate::files::golden_copy(&model);
    let source = path(b"\xe9.py");
    std::fs::write(&source, "x = <FILL:2>\n").unwrap();
    let lines = path(b"\xe9.jsonl");
    std::fs::write(&lines, "{\"prompt\": \"x\", \"max_new_tokens\": 2}\n").unwrap();
    let config = path(b"\xe9.toml");
    std::fs::write(&config, "max-new-tokens = 2\n").unwrap();
    let run = |args: &[&dyn AsRef<OsStr>]| {
        let mut command = diffucoder(&[]);
        let output = command
            .args(args.iter().map(|arg| arg.as_ref()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    let (out, trace, gguf) = (path(b"\xe9.out"), path(b"\xe9.trace"), path(b"\xe9.gguf"));
    run(&[
        &"generate",
        &"-m",
        &model,
        &"-f",
        &source,
        &"-f",
        &source,
        &"-p",
        &"Why?",
        &"-o",
        &out,
        &"--trace",
        &trace,
        &"--config",
        &config,
    ]);
    assert!(out.is_file());
    run(&[&"report", &trace, &"-o", &path(b"\xe9.html")]);
    run(&[&"quantize", &"-m", &model, &"--to", &"q8_0", &"-o", &gguf]);
    run(&[&"generate", &"-m", &gguf, &"-p", &"x", &"-n", &"2"]);
    run(&[&"infill", &"-m", &"tiny", &"--diff", &source]);
    run(&[&"infill", &"-m", &"tiny", &"--in-place", &source]);
    run(&[
        &"batch",
        &"-m",
        &"tiny",
        &lines,
        &"-o",
        &path(b"\xe9.results"),
    ]);
    assert!(
        std::fs::read_to_string(&source)
            .unwrap()
            .starts_with("x = ")
    );
    let missing = diffucoder(&["generate", "-p", "x", "-m"])
        .arg(path(b"\xe9-no"))
        .output();
    let missing = missing.unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("-no"), "{}", stderr(&missing));
}

#[test]
fn models_are_pulled_listed_and_removed() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| online(args, &hub.endpoint, home.path()).output().unwrap();
    let list = || -> Value { serde_json::from_str(&stdout(&run(&["list", "--json"]))).unwrap() };
    assert_eq!(list(), Value::Array(Vec::new()));
    let pulled = run(&["pull", REPO]);
    assert_eq!(stdout(&pulled), "");
    assert!(
        stderr(&pulled).contains("is here, whole"),
        "{}",
        stderr(&pulled)
    );
    let rows = list();
    assert_eq!(rows[0]["model"], REPO);
    assert_eq!(rows[0]["complete"], true);
    let bytes = rows[0]["bytes"].as_u64().unwrap();
    assert_eq!(bytes, folder_bytes(home.path()));
    let asked = hub.seen().len();
    let generated = run(&["generate", "-m", REPO, "-p", "x", "-n", "2"]);
    assert!(generated.status.success());
    assert_eq!(hub.seen().len(), asked, "all of it was there");
    let snapshots = home
        .path()
        .join("hub")
        .join(format!("models--{}", REPO.replace('/', "--")));
    let snapshot = std::fs::read_dir(snapshots.join("snapshots"))
        .unwrap()
        .next();
    std::fs::write(
        snapshot.unwrap().unwrap().path().join("x-Q8_0.gguf"),
        "12345",
    )
    .unwrap();
    let named = |row: &Value| (row["model"].clone(), row["bytes"].clone());
    let both = [
        (REPO.into(), bytes.into()),
        (format!("{REPO}:x-Q8_0.gguf").into(), 5.into()),
    ];
    assert_eq!(
        list()
            .as_array()
            .unwrap()
            .iter()
            .map(named)
            .collect::<Vec<_>>(),
        both
    );
    assert!(stderr(&run(&["rm", REPO])).contains("which frees"));
    assert_eq!(folder_bytes(home.path()), 0);
    let again = run(&["rm", REPO]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains("is not in the cache"),
        "{}",
        stderr(&again)
    );
    assert_eq!(run(&["pull", "tiny"]).status.code(), Some(0), "it is there");
    for args in [["rm", "tiny"], ["rm", "./src"]] {
        assert_eq!(run(&args).status.code(), Some(2), "{args:?}");
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => folder_bytes(&entry.path()),
        kind if kind.is_file() => entry.metadata().unwrap().len(),
        _ => 0,
    });
    bytes.sum()
}
