//! What a shell takes for granted: signals, pipes, links, devices, and files that stay whole.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::binary::{diffucoder, isolated, program};
use crate::command::{refusal, run, stderr, stdout, tiny};
use crate::files::golden_copy;
use crate::signals::with_default_signals;
use crate::watch::Terminal;

/// The binary as a child that can be signalled.
fn command(args: &[&str]) -> Command {
    let mut command = program(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    with_default_signals(&mut command);
    command
}

/// What `sh` makes of a script, in which `$0` is the binary.
pub fn sh(script: &str, arguments: &[&Path]) -> Output {
    let mut shell = isolated("sh");
    shell.args(["-c", script]);
    shell.arg(assert_cmd::cargo::cargo_bin!("diffucoder"));
    let shell = shell.args(arguments);
    with_default_signals(shell.stdin(Stdio::null()))
        .output()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let arguments = [format!("-{name}"), child.id().to_string()];
    let sent = Command::new("kill").args(arguments).status().unwrap();
    assert!(sent.success());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Long enough to be caught in the middle.
const LONG: &str = "-n 450 --seed 1";

#[test]
fn a_stream_is_the_text() {
    for flags in [
        "",
        "--exact",
        "--code",
        "--temperature 1",
        "--trace /dev/null",
    ] {
        for prompt in ["def f(x):\n    return", "# Umlaute: äöü\n"] {
            let args = [&tiny(prompt, flags)[..], &["-n", "24", "--seed", "3"]].concat();
            let whole = run(&[&args[..], &["--no-stream"]].concat());
            assert_eq!(stdout(&run(&args)), stdout(&whole), "{args:?}");
        }
    }
}

#[test]
fn a_reader_that_has_enough_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("run.jsonl");
    let flags = format!("{LONG} --trace {}", trace.display());
    for mode in ["", "--exact"] {
        let mut child = command(&tiny("class Stack:\n", &format!("{flags} {mode}")))
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        let lines = fs::read_to_string(&trace).unwrap();
        let end: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(end["finish_reason"], "cancelled", "{mode}");
    }
}

#[test]
fn an_interrupt_keeps_what_was_written() {
    let args = tiny("class Stack:\n", LONG);
    let whole = stdout(&run(&args));
    for (name, signal_or_code) in [
        ("INT", (Some(libc::SIGINT), None)),
        ("TERM", (Some(libc::SIGTERM), None)),
        ("HUP", (Some(libc::SIGHUP), None)),
        ("QUIT", (None, Some(131))), // without a core as large as the weights
    ] {
        let mut child = command(&args).spawn().unwrap();
        let mut first = [0];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        signal(&child, name);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        let output = child.wait_with_output().unwrap();
        let ended = (output.status.signal(), output.status.code());
        assert_eq!(ended, signal_or_code, "{name}");
        assert!(output.stderr.is_empty());
        let kept = format!("{}{rest}", char::from(first[0]));
        assert!(whole.starts_with(&kept) && kept.len() < whole.len());
    }
}

/// Nothing else in a loop is begun.
#[test]
fn ctrl_c_ends_a_shell_s_loop() {
    let script = "for i in 1 2 3; do
            \"$0\" generate --model tiny -p 'def f(x):' -n 450 --exact --seed 1 > /dev/null
            echo \"$i $?\"
        done; echo end";
    let mut shell = isolated("bash");
    shell.args(["-c", script]);
    shell.arg(assert_cmd::cargo::cargo_bin!("diffucoder"));
    shell
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let child = with_default_signals(&mut shell).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let group = format!("-{}", child.id());
    let sent = Command::new("kill").args(["-INT", "--", &group]).status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGINT));
    assert!(!String::from_utf8(output.stdout).unwrap().contains("end"));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let script = "trap '' HUP INT TERM
        \"$0\" generate --model tiny -p 'def f(x):' -n 120 --exact --seed 1 > \"$1\" &
        sleep 0.3; kill -HUP $!; kill -INT $!; kill -TERM $!; wait $!";
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = sh(script, &[&out]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!fs::read(&out).unwrap().is_empty());
}

#[test]
fn a_signal_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let args = ["quantize", "--model", "tiny", "--to", "q8_0", "-o"];
    let args = [&args[..], &[path.to_str().unwrap()]].concat();
    for (number, name) in ["INT", "TERM", "HUP"]
        .into_iter()
        .cycle()
        .take(24)
        .enumerate()
    {
        let child = command(&args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(4 * number as u64));
        signal(&child, name);
        child.wait_with_output().unwrap();
        let found = names(folder.path());
        assert!(found.is_empty() || found == ["tiny.gguf"], "{found:?}");
        let _ = fs::remove_file(&path);
    }
}

/// Below 4 the system's loader says it.
#[test]
fn too_few_open_files_are_an_error_or_do() {
    let generate = "\"$0\" generate --model tiny --seed 1 -n 4 -p 'def f(x):'";
    let whole = sh(generate, &[]).stdout;
    for files in 4..16 {
        let output = sh(&format!("ulimit -n {files}; {generate}"), &[]);
        let stderr = stderr(&output);
        match output.status.code() {
            Some(0) => assert_eq!(output.stdout, whole),
            code => assert!(
                code == Some(1) && stderr.contains("error: cannot "),
                "{files}: {stderr}"
            ),
        }
    }
}

#[cfg(target_os = "linux")] // the full device
#[test]
fn results_that_cannot_be_written_are_failures() {
    let text = "generate --model tiny -p 'def f(x):' -n 4";
    let (closed, full) = ("it is closed", "No space left");
    for (command, said) in [
        (format!("{text} >&-"), closed),
        (format!("{text} --output json >&-"), closed),
        ("--help >&-".into(), closed),
        ("models >&-".into(), closed),
        ("quantize -m tiny --to q8_0 -o - >&-".into(), closed),
        ("--help > /dev/full".into(), full),
        ("help generate > /dev/full".into(), full),
        ("--version > /dev/full".into(), full),
        ("completions bash > /dev/full".into(), full),
        (format!("{text} > /dev/full"), full),
        (format!("{text} --no-stream > /dev/full"), full),
        ("models > /dev/full".into(), full),
    ] {
        let output = sh(&format!("\"$0\" {command}"), &[]);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        let says = stderr.starts_with("error: cannot write to stdout: ") && stderr.contains(said);
        assert!(says, "{command}: {stderr}");
    }
    for command in [
        "quantize --model tiny --to q8_0 --force -o /dev/full",
        &format!("{text} --trace /dev/full"),
        "batch - -n 2 --model tiny -o /dev/full",
    ] {
        let script = format!("echo '{{\"prompt\": \"x\"}}' | \"$0\" {command}");
        let output = sh(&script, &[]);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        assert!(stderr.contains(full), "{command}: {stderr}");
    }
    for script in [
        "\"$0\" --help > /dev/null",
        "\"$0\" --help | true",
        "\"$0\" models 1<>/dev/null",
    ] {
        assert!(sh(script, &[]).status.success(), "{script}");
    }
    assert!(
        fs::metadata("/dev/full")
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "x = <FILL:1>\n").unwrap();
    for command in ["-i \"$1\"", "\"$1\" -o \"$1\""] {
        let output = sh(
            &format!("\"$0\" infill --model tiny {command} >&-"),
            &[file.path()],
        );
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        assert!(!fs::read_to_string(file.path()).unwrap().contains("<FILL"));
        fs::write(file.path(), "x = <FILL:1>\n").unwrap();
    }
}

#[test]
fn links_and_pipes_are_written_into() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let trace = at("run.jsonl");
    let flags = format!("-n 8 --seed 1 --trace {}", trace.display());
    stdout(&run(&tiny("def f(x):", &flags)));
    let trace_name = trace.to_str().unwrap();
    let page = run(&["report", trace_name]).stdout;
    let report = |output: &str| run(&["report", trace_name, "-o", output]);

    fs::write(at("page"), "old").unwrap();
    fs::set_permissions(at("page"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("page", at("link")).unwrap();
    stdout(&report(at("link").to_str().unwrap()));
    assert_eq!(fs::read(at("page")).unwrap(), page);
    assert_eq!(
        fs::metadata(at("page")).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("page"));
    assert_eq!(report("/dev/stdout").stdout, page);
    assert_eq!(report("-").stdout, page);
    let script = "\"$0\" report - -o - < \"$1\" | cmp - \"$2\"";
    assert!(sh(script, &[&trace, &at("page")]).status.success());
    let script = "echo first > \"$2\"; \"$0\" report \"$1\" -o /dev/fd/3 3>> \"$2\"";
    assert!(sh(script, &[&trace, &at("appended")]).status.success());
    assert_eq!(
        fs::read(at("appended")).unwrap(),
        [b"first\n", &page[..]].concat()
    );

    fifo(&at("fifo"));
    let reader = std::thread::spawn({
        let fifo = at("fifo");
        move || fs::read(fifo).unwrap()
    });
    stdout(&report(at("fifo").to_str().unwrap()));
    assert_eq!(reader.join().unwrap(), page);
    assert!(fs::metadata(at("fifo")).unwrap().file_type().is_fifo());

    let (code, stderr) = refusal(&["report", trace_name, "-o", trace_name]);
    let message = format!("error: {trace_name} would be replaced by what is made of it\n");
    assert_eq!(
        (code, stderr),
        (Some(2), message + "hint: name another file\n")
    );
}

#[test]
fn a_batch_goes_through_a_pipe_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("fifo"));
    let lines: Vec<String> = (0..200)
        .map(|n| format!("{{\"prompt\": \"x{n} = \", \"max_new_tokens\": 2}}\n"))
        .collect();
    fs::write(&input, lines.concat()).unwrap();
    fifo(&out);
    let args = ["batch", input.to_str().unwrap(), "--model", "tiny", "-o"];
    let child = command(&[&args[..], &[out.to_str().unwrap()]].concat())
        .spawn()
        .unwrap();
    let mut first = [0; 6];
    File::open(&out).unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(&first, b"{\"id\":");
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("note: ") && said.contains(" 0 failed"),
        "{said}"
    );
    assert!(!said.contains("200 done"), "{said}");
}

#[test]
fn a_trace_replaces_nothing_but_traces_and_only_once_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let [prompt, trace] = ["prompt.py", "run.jsonl"].map(|name| folder.path().join(name));
    fs::write(&prompt, "def f(x):\n").unwrap();
    let flags = |trace: &Path| format!("-n 4 --trace {}", trace.display());
    let (code, stderr) = refusal(&tiny("x", &flags(&prompt)));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("holds something else than a trace"),
        "{stderr}"
    );
    assert_eq!(fs::read(&prompt).unwrap(), b"def f(x):\n");
    stdout(&run(&tiny("def g(x):", &flags(&trace))));
    let first = fs::read(&trace).unwrap();
    let broken = folder.path().join("model");
    fs::create_dir(&broken).unwrap();
    golden_copy(&broken);
    fs::write(broken.join("model-00001-of-00002.safetensors"), "none").unwrap();
    let args = ["generate", "--model", broken.to_str().unwrap(), "-p", "x"];
    refusal(&[&args[..], &["--trace", trace.to_str().unwrap()]].concat());
    assert_eq!(fs::read(&trace).unwrap(), first);
    stdout(&run(&tiny("x", &flags(&trace))));
    assert_ne!(fs::read(&trace).unwrap(), first);
    stdout(&run(&["report", trace.to_str().unwrap()]));
}

#[test]
fn of_two_runs_in_place_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.py");
    let name = path.to_str().unwrap();
    for round in 0..8 {
        fs::write(&path, "x = <FILL:2>\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let runs = ["1", "2"].map(|seed| {
            let args = ["infill", "--model", "tiny", "-i", name, "--seed", seed];
            command(&args).spawn().unwrap()
        });
        let codes = runs.map(|run| run.wait_with_output().unwrap().status.code());
        let done = codes.iter().filter(|code| **code == Some(0)).count();
        assert_eq!(done, 1, "round {round}: {codes:?}");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(names(folder.path()), ["part.py"]);
    }
}

#[test]
fn in_place_refuses_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["part.py", "other.py"].map(|name| folder.path().join(name));
    fs::write(&path, "x = <FILL:2>\n").unwrap();
    fs::hard_link(&path, &other).unwrap();
    let infill = |file: &str| refusal(&["infill", "--model", "no/such", "-i", file]);
    let (code, stderr) = infill(path.to_str().unwrap());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("has 2 hard links"), "{stderr}");
    let (code, stderr) = infill("/dev/null");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is no regular file"), "{stderr}");
}

#[test]
fn on_a_terminal_the_text_takes_the_place_of_the_bar() {
    let args = tiny("class Stack:\n", "-n 60 --seed 1");
    let whole = diffucoder(&args).output().unwrap().stdout;
    let whole = String::from_utf8(whole).unwrap();
    let (code, written, screen) = Terminal::start(50, 120, &args, &[]).finish();
    assert_eq!(code, 0);
    let shown = screen.screen().contents();
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let (status, text) = lines.split_last().unwrap();
    assert!(status.contains("tokens in"), "{shown}");
    let wanted: Vec<&str> = whole.lines().map(str::trim_end).collect();
    assert_eq!(text.join("\n").trim(), wanted.join("\n").trim());
    assert!(!screen.screen().hide_cursor());
    let written = String::from_utf8_lossy(&written);
    let last_bar = written.rfind("━").unwrap();
    let first = wanted.iter().find(|line| !line.is_empty()).unwrap();
    assert!(
        last_bar <= written.rfind(first).unwrap(),
        "a bar in the text"
    );
}

/// A file that stdout goes to is not written from its beginning.
#[test]
fn stdout_has_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let script = "(echo first
        \"$0\" generate --model tiny --seed 1 -p 'x = ' -n 4 -o /dev/stdout < /dev/null
        echo; echo last) > \"$1\"";
    assert!(sh(script, &[&out]).status.success());
    let text = fs::read_to_string(&out).unwrap();
    let written = text
        .strip_prefix("first\n")
        .unwrap()
        .strip_suffix("\nlast\n");
    assert!(!written.unwrap().is_empty(), "{text:?}");

    let script = "\"$0\" quantize --model tiny --to q8_0 -o /dev/stdout > \"$1\"; \
        \"$0\" quantize --model tiny --to q8_0 -o - | cmp - \"$1\"";
    let compared = sh(script, &[&out]);
    assert!(compared.status.success(), "{compared:?}");
}
