//! `diffucoder infill`, and the code-only side of `generate`, as a user or a script runs them.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::binary::{diffucoder, program};
use crate::command::tiny;
use crate::fixture;

const PART: &str = "class Stack:\n    def size(self):\n        return <FILL:4>\n\n    def top(self):\n        <FILL>\n";

fn infill(args: &[&str], stdin: &[u8]) -> Output {
    let base = ["infill", "--model", "tiny", "--seed", "1"];
    diffucoder(&[&base, args].concat())
        .write_stdin(stdin)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &[u8] {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    &output.stdout
}

/// Asserts that `filled` is `template` with something in the place of each marker.
fn assert_filled(filled: &[u8], segments: &[&[u8]]) {
    let (first, last) = (segments[0], segments[segments.len() - 1]);
    assert!(filled.starts_with(first) && filled.ends_with(last));
    let mut at = first.len();
    for segment in &segments[1..] {
        let found = filled[at..]
            .windows(segment.len().max(1))
            .position(|window| window == *segment);
        match segment.is_empty() {
            true => {}
            false => at += found.expect("every segment is there, in order") + segment.len(),
        }
    }
}

#[test]
fn all_but_the_holes_comes_back_byte_by_byte() {
    let hostile: &[&[u8]] = &[
        b"# \xff\xfe latin: \xe9\r\n\tx = ",
        b"\r\n\0\t\r\n# <|mask|> <|endoftext|> \r",
        b" # \xe2\x82",
    ];
    let marked = [hostile[0], b"<FILL:3>", hostile[1], b"<FILL:2>", hostile[2]].concat();
    let output = infill(&[], &marked);
    assert_filled(stdout(&output), hostile);
    let plain: &[&[u8]] = &[b"def f(x):\n    return", b""];
    assert_filled(stdout(&infill(&[], b"def f(x):\n    return<FILL>")), plain);
}

#[test]
fn the_report_adds_up() {
    let output = infill(&["--output", "json"], PART.as_bytes());
    let report: Value = serde_json::from_slice(stdout(&output)).unwrap();
    let text = report["text"].as_str().unwrap();
    assert!(!text.contains("<FILL"));
    let holes = report["holes"].as_array().unwrap();
    assert_eq!(holes.len(), 2);
    assert_eq!(holes[0]["token_ids"].as_array().unwrap().len(), 4);
    let mut canvas = 0;
    for hole in holes {
        let line = text
            .lines()
            .nth(hole["line"].as_u64().unwrap() as usize - 1)
            .unwrap();
        let column = hole["column"].as_u64().unwrap() as usize - 1;
        let first = hole["text"].as_str().unwrap().lines().next().unwrap_or("");
        assert!(line[column..].starts_with(first), "{hole} in {line}");
        canvas += hole["token_ids"].as_array().unwrap().len();
    }
    assert_eq!(report["usage"]["canvas_tokens"], canvas);
    assert!(
        report["usage"]["forwards"].as_u64().unwrap() > 8,
        "lengths were tried"
    );
    assert_eq!(report["settings"]["seed"], 1);
    assert_eq!(report.get("parses"), None);

    let whole = infill(&[], PART.as_bytes());
    assert_eq!(String::from_utf8_lossy(stdout(&whole)), text);
    let texts: Vec<_> = holes
        .iter()
        .map(|hole| hole["text"].as_str().unwrap())
        .collect();
    let ended = |text: &&str| format!("{}\n", text.strip_suffix('\n').unwrap_or(text));
    let only = infill(&["--only-holes"], PART.as_bytes());
    let expected: String = texts.iter().map(ended).collect();
    assert_eq!(String::from_utf8_lossy(stdout(&only)), expected);
}

#[test]
fn a_length_is_the_users_or_the_models() {
    let tokens = |args: &[&str]| {
        let output = infill(&[&["-o", "json"], args].concat(), b"x = <FILL>\n");
        let report: Value = serde_json::from_slice(stdout(&output)).unwrap();
        report["holes"][0]["token_ids"].as_array().unwrap().len()
    };
    assert_eq!(tokens(&["--length", "7"]), 7);
    assert_eq!(tokens(&[]), 8, "what the built-in model is nearest with");
    assert_eq!(tokens(&["-n", "5"]), 5);
    assert_eq!(tokens(&["--length-by", "pads", "-n", "12"]), 12);
    assert!((1..=5).contains(&tokens(&["--length-by", "confidence", "-n", "5"])));
}

#[cfg(target_os = "linux")]
#[test]
fn where_nothing_can_be_written_nothing_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.jsonl").display().to_string();
    let long = folder.path().join("x".repeat(256)).display().to_string();
    for place in ["/proc/out", &long] {
        let base = ["generate", "--model", "tiny", "-n", "2", "x", "-o", place];
        let output = diffucoder(&[&base[..], &["--trace", &trace]].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write"));
        assert!(!fs::exists(&trace).unwrap());
    }
}

#[test]
fn a_result_never_replaces_what_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (file, code) = (at("x.py"), "def f(x):\n    return <FILL:2>\n");
    fs::write(&file, code).unwrap();
    let other = format!("{}/./x.py", folder.path().display());
    let [file, other, trace] = [&*file, &*other, &*at("t.jsonl")];
    for args in [
        &["generate", "-n", "2", "-f", file, "-o", other][..],
        &["generate", "-n", "2", "x", "--trace", trace, "-o", trace],
        &["generate", "-n", "2", "x", "--trace", "-"],
        &["infill", "--only-holes", file, "-o", file],
        &["infill", "--diff", file, "-o", file],
        &["infill", "--json", file, "-o", other],
        &["infill", file, "--trace", file],
    ] {
        let output = diffucoder(&[args, &["--model", "tiny"]].concat())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?} {stderr}");
        assert!(stderr.contains("hint: "), "{stderr}");
        assert_eq!(fs::read_to_string(file).unwrap(), code, "{args:?}");
        assert!(!fs::exists(trace).unwrap());
    }
    #[cfg(unix)]
    {
        let output = program(&[])
            .args(["generate", "--model", "tiny", "-n", "2", "-o", file])
            .stdin(fs::File::open(file).unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(fs::read_to_string(file).unwrap(), code);
    }
    // The whole file may take its own place.
    let output = diffucoder(&["infill", "--model", "tiny", file, "-o", file])
        .output()
        .unwrap();
    assert!(output.status.success());
    let filled = fs::read_to_string(file).unwrap();
    assert!(filled.starts_with("def f(x):\n    return ") && !filled.contains("<FILL"));
}

/// Nobody has measured that it helps any other weights, and it takes a forward a token.
#[test]
fn holes_of_other_models_are_not_remasked_unless_asked() {
    let model = fixture("golden/model");
    let rounds = |args: &[&str]| {
        let base = ["infill", "--seed", "1", "-o", "json", "--model"];
        let output = diffucoder(&[&base[..], &[model.to_str().unwrap()], args].concat())
            .write_stdin("x = <FILL:4> + 1\n")
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(stdout(&output)).unwrap();
        report["settings"]["remask"].as_u64().unwrap()
    };
    assert_eq!(rounds(&["--mode", "balanced"]), 0);
    assert_eq!(rounds(&["--mode", "balanced", "--remask", "2"]), 2);
}

#[test]
fn holes_are_remasked_but_in_reference_mode() {
    let forwards = |args: &[&str]| {
        let template = b"def mean(xs):\n    return <FILL:6> / len(xs)\n";
        let output = infill(&[&["-o", "json"], args].concat(), template);
        let report: Value = serde_json::from_slice(stdout(&output)).unwrap();
        assert_eq!(report["holes"][0]["token_ids"].as_array().unwrap().len(), 6);
        let rounds = report["settings"]["remask"].as_u64().unwrap();
        (rounds, report["usage"]["forwards"].as_u64().unwrap())
    };
    let (usual, with) = forwards(&[]);
    let (none, without) = forwards(&["--remask", "0"]);
    assert_eq!((usual, with - without, none), (1, 6, 0));
    assert_eq!(forwards(&["--exact"]), (0, 6));
    let (_, often) = forwards(&["--exact", "--remask", "99"]);
    assert!(
        often >= 12 && often.is_multiple_of(6) && often < 600,
        "{often}"
    );
}

#[test]
fn holes_come_from_places_and_from_two_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("all.py"), "x = 1\r\ny =\r\nprint(x)  # <FILL>\r\n").unwrap();
    fs::write(path("prefix"), "def f(x):\n    return").unwrap();
    fs::write(path("suffix"), "\n\nprint(f(1))").unwrap();
    let filled = |args: &[&str]| infill(&[args, &["--length", "2"]].concat(), b"");
    let all = path("all.py");
    let expected: &[&[u8]] = &[b"x = 1\r\ny =", b"\r\nprint(", b"x)  # <FILL>\r\n"];
    assert_filled(
        stdout(&filled(&[&all, "--at", "2", "--at", "3:7"])),
        expected,
    );
    let [prefix, suffix] = [path("prefix"), path("suffix")];
    let expected: &[&[u8]] = &[b"def f(x):\n    return", b"\n\nprint(f(1))"];
    let files = ["--prefix-file", &prefix, "--suffix-file", &suffix];
    assert_filled(stdout(&filled(&files)), expected);
    let diff = filled(&[&all, "--at", "2", "--diff"]);
    let diff = String::from_utf8(stdout(&diff).to_vec()).unwrap();
    let lines: Vec<&str> = diff.split('\n').collect();
    assert!(
        lines[0].starts_with("--- a/") && lines[1].starts_with("+++ b/"),
        "{diff}"
    );
    assert!(
        lines.contains(&" x = 1\r") && lines.contains(&"-y =\r"),
        "{diff}"
    );
}

#[test]
fn in_place_changes_the_holes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.py");
    fs::write(&path, PART).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let name = path.to_str().unwrap();
    let printed = infill(&[name], b"");
    let output = infill(&[name, "--in-place"], b"");
    assert!(stdout(&output).is_empty());
    assert_eq!(fs::read(&path).unwrap(), stdout(&printed));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
    }
}

#[test]
fn a_killed_in_place_leaves_the_old_file_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.py");
    let name = path.to_str().unwrap();
    let part = "x = <FILL:2>\n";
    fs::write(&path, part).unwrap();
    let started = Instant::now();
    let new = stdout(&infill(&[name], b"")).to_vec();
    let whole = started.elapsed();
    for moment in 0..20 {
        fs::write(&path, part).unwrap();
        let mut child = program(&["infill", "-m", "tiny", "--seed", "1", "-i", name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * moment / 16);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(&path).unwrap();
        assert!(
            found == part.as_bytes() || found == new,
            "after {moment}/16 of a run"
        );
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.py");
    fs::write(&file, "x = <FILL>\n").unwrap();
    let file = file.to_str().unwrap();
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "x = 1\n", "the file has no holes"),
        (
            &[],
            "x = <FILL:0>\n",
            "the marker at 1:5 has no length in tokens, from 1 to 1048576: <FILL:0>",
        ),
        (
            &[],
            "<FILL:600>",
            "the holes can become 600 tokens long, which leaves none of the context of 512",
        ),
        (
            &[],
            "<FILL:1048576><FILL:1048576>",
            "the holes can become 2097152 tokens long",
        ),
        (
            &["--at", "3"],
            "x\n",
            "--at: there is no line 3: the last is 2",
        ),
        (
            &["--at", "1:9"],
            "x\n",
            "there is no column 9 in line 1: it ends at column 2",
        ),
        (
            &["--at", "0"],
            "x\n",
            "must be LINE or LINE:COL, both counted from 1",
        ),
        (&["--at", "1:x"], "x\n", "must be LINE or LINE:COL"),
        (&["--in-place"], "<FILL>", "<FILE>"),
        (&["--in-place", "-"], "<FILL>", "--in-place needs a file"),
        (&["--in-place", "--diff", file], "", "cannot be used with"),
        (&["--prefix-file", file, file], "", "cannot be used with"),
        (
            &["--prefix-file", "-", "--suffix-file", "-"],
            "x",
            "given twice",
        ),
        (
            &["--prefix-file", file, "--at", "1"],
            "",
            "cannot be used with",
        ),
        (
            &["--prefix-file", file, "--diff"],
            "",
            "cannot be used with",
        ),
        (
            &["--length", "3", "--length-by", "pads"],
            "<FILL>",
            "cannot be used with",
        ),
        (&["--retries", "2"], "<FILL>", "--check"),
        (&["--language", "a b"], "<FILL>", "must be one word"),
    ];
    for (args, stdin, says) in cases {
        let output = infill(args, stdin.as_bytes());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(says),
            "{args:?}: {stderr}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let output = infill(&["no-such-file.py"], b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.starts_with("error: cannot read no-such-file.py: "),
        "{stderr}"
    );
    assert_eq!(fs::read(file).unwrap(), b"x = <FILL>\n");
}

fn golden() -> String {
    fixture("golden/model").display().to_string()
}

fn prompt_tokens(args: &[&str], stdin: &str) -> Value {
    let model = golden();
    let base = [
        "generate", "--model", &model, "-n", "4", "--seed", "1", "-o", "json",
    ];
    let command = &mut diffucoder(&[&base, args].concat());
    let output = command.write_stdin(stdin).output().unwrap();
    let report: Value = serde_json::from_slice(stdout(&output)).unwrap();
    report["usage"]["prompt_tokens"].clone()
}

/// The test model counts bytes, and its template writes five control tokens.
#[test]
fn a_chat_model_continues_files_and_answers_questions() {
    let turn = |user: &str, answer: &str| {
        let text = format!("system\nYou are a helpful assistant.user\n{user}assistant{answer}");
        json!(text.len() + 5)
    };
    let file = "def f(x):\n";
    let intro = "Here is the code to solve this problem:\n";
    let continued = |language: &str| {
        turn(
            &format!("Complete the following {language} code.\n```{language}\n{file}```"),
            &format!("{intro}```{language}\n{file}"),
        )
    };
    assert_eq!(prompt_tokens(&[], file), continued("python"));
    assert_eq!(
        prompt_tokens(&["--language", "rust"], file),
        continued("rust")
    );
    assert_eq!(
        prompt_tokens(&["--complete", "-p", file], ""),
        continued("python")
    );
    assert_eq!(prompt_tokens(&["--ask"], file), turn(file, ""));
    assert_eq!(prompt_tokens(&["-p", file], ""), turn(file, ""));
    let coded = turn(file, &format!("{intro}```python\n"));
    assert_eq!(prompt_tokens(&["--code", "-p", file], ""), coded);
    assert_eq!(prompt_tokens(&["--raw"], file), json!(file.len()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.go");
    fs::write(&path, file).unwrap();
    assert_eq!(
        prompt_tokens(&["-f", path.to_str().unwrap()], ""),
        continued("go")
    );
}

#[test]
fn code_of_a_raw_model_is_its_text() {
    let args = tiny("def f(x):\n", "--seed 1 -n 8");
    let plain = diffucoder(&args).output().unwrap();
    let code = diffucoder(&args).arg("--code").output().unwrap();
    assert!(code.status.success()); // a note says that the flag has no effect
    assert_eq!(stdout(&plain), code.stdout);
}

#[cfg(not(feature = "check"))]
#[test]
fn checking_without_parsers_is_refused_at_once() {
    let output = infill(&["--check"], b"<FILL>");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("no parsers for --check") && stderr.contains("--features check"));
}

/// What could be known before the work is: the file is not replaced first.
#[test]
fn a_report_that_cannot_be_written_leaves_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.py");
    let text = "x = <FILL:2>\n";
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let output = infill(&[file, "-i", "--json", "-o", "/no/such/folder/x"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(file).unwrap(), text);
}

/// One byte of ours would shift everything behind it.
#[test]
fn wide_characters_are_refused_and_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("u.py");
    let units = "\u{feff}def f(x):\n    return x\n".encode_utf16();
    let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    fs::write(&path, &bytes).unwrap();
    let name = path.to_str().unwrap();
    for (args, stdin) in [
        (&["-i", "--at", "1", "--length", "2", name][..], &b""[..]),
        (&[name], b""),
        (&["-"], &bytes),
    ] {
        let output = infill(args, stdin);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("is in UTF-16") && said.contains("hint: iconv -f UTF-16"),
            "{said}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_prints_two_things_at_once_is_refused() {
    let code = b"def f(x):\n    return <FILL:1>\n";
    for flag in ["--diff", "--only-holes"] {
        let output = infill(&[flag, "--json", "-"], code);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("{flag} prints a text")), "{said}");
    }
}

#[test]
fn very_many_holes_are_refused_at_once_and_lost_bytes_are_noted() {
    let many = "<FILL:1>\n".repeat(2000);
    let output = infill(&["-"], many.as_bytes());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the holes can become 2000 tokens long"),
        "{said}"
    );

    let output = infill(&["--json", "-"], b"# caf\xe9\nx = <FILL:1>\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("note: the file is no UTF-8"), "{said}");
}
