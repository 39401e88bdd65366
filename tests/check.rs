//! Parsing, which `--check` needs: the parsers are a feature, and what they do is tested apart.

// clippy.toml allows these in tests, but not in what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use diffucoder::text::syntax::Language;
use serde_json::{Value, json};

#[path = "integration/support/binary.rs"]
mod binary;

use binary::diffucoder;

fn code(args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let base = ["infill", "--model", "tiny", "--seed", "1"];
    let mut command = diffucoder(&[&base, args].concat());
    let output = command.write_stdin(stdin).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn what_does_not_parse_exits_with_3_and_the_place() {
    let broken = "x = <FILL:1>\ndef f(:\n    pass\n";
    let (status, text, stderr) = code(&["--check"], broken);
    assert_eq!(status, Some(3), "{stderr}");
    assert!(
        text.ends_with("def f(:\n    pass\n"),
        "the result is printed: {text}"
    );
    assert!(stderr.starts_with("error: the result does not parse as python (line 2, column "));
    assert!(stderr.contains("hint: --retries"), "{stderr}");
    let (status, text, stderr) = code(&["--check", "-o", "json"], broken);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &report["parses"]),
        (Some(3), &json!(false)),
        "{stderr}"
    );
    // Any number, name or string makes this one right.
    let (status, _, stderr) = code(&["--check", "--length", "1"], "x = 1\n#<FILL>\n");
    assert_eq!((status, &*stderr), (Some(0), ""));
    let (status, _, stderr) = code(&["--check", "--language", "cobol"], "<FILL>");
    assert_eq!(status, Some(2));
    assert!(
        stderr.contains("--check has no parser for cobol"),
        "{stderr}"
    );
}

#[test]
fn retries_take_the_next_seeds_and_end() {
    let broken = "x = <FILL:1>\ndef f(:\n    pass\n";
    let (status, _, stderr) = code(&["--check", "--retries", "2"], broken);
    assert_eq!(status, Some(3));
    assert!(
        stderr.contains("seed 1: ") && stderr.contains("; trying seed 2\n"),
        "{stderr}"
    );
    assert!(
        stderr.contains("; trying seed 3\n") && !stderr.contains("seed 4"),
        "{stderr}"
    );
    let (status, _, stderr) = code(&["--check", "--retries", "2", "-t", "0"], broken);
    assert_eq!(status, Some(2));
    assert!(
        stderr.contains("at temperature 0 there is no chance"),
        "{stderr}"
    );
}

#[test]
fn a_file_is_not_replaced_by_one_that_does_not_parse() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rs");
    let broken = "fn f() { <FILL:1>\n";
    fs::write(&path, broken).unwrap();
    let (status, text, stderr) = code(&["-i", "--check", path.to_str().unwrap()], "");
    assert_eq!((status, &*text), (Some(3), ""), "{stderr}");
    assert!(stderr.contains("as rust"), "{stderr}");
    assert_eq!(fs::read(&path).unwrap(), broken.as_bytes());
}

#[test]
fn generate_checks_the_file_that_it_continues() {
    let run = |args: &[&str]| {
        let base = [
            "generate", "--model", "tiny", "--seed", "1", "-n", "8", "--check",
        ];
        diffucoder(&[&base, args].concat()).output().unwrap()
    };
    let output = run(&["-p", "def f(:\n    pass\n\n\n"]);
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("(line 1, column "), "{stderr}");
}

#[test]
fn each_language_parses_its_own_and_finds_the_place() {
    let cases: [(Language, &str, &str, usize); 9] = [
        (
            Language::Python,
            "def f(x):\n    return x\n",
            "x = 1\ndef f(:\n    pass\n",
            2,
        ),
        (
            Language::Rust,
            "fn f() -> u8 { 1 }\n",
            "fn f() {}\nfn g( {}\n",
            2,
        ),
        (
            Language::JavaScript,
            "const f = (x) => x;\n",
            "let a = 1;\nlet b = ;\n",
            2,
        ),
        (
            Language::TypeScript,
            "let x: number = 1;\n",
            "let a = 1;\nlet b: = 2;\n",
            2,
        ),
        (
            Language::Tsx,
            "const a = <b>{1}</b>;\n",
            "let a = 1;\nlet b = <b>;\n",
            2,
        ),
        (
            Language::Go,
            "package p\nfunc f() int { return 1 }\n",
            "package p\nfunc f( {\n",
            2,
        ),
        (
            Language::Java,
            "class A { int f() { return 1; } }\n",
            "class A {\n  int f( { }\n}\n",
            2,
        ),
        (
            Language::C,
            "int f(void) { return 1; }\n",
            "int a;\nint f(void) { return ; ) }\n",
            2,
        ),
        (
            Language::Cpp,
            "auto f = [](int x) { return x; };\n",
            "int a;\nclass B { int ( };\n",
            2,
        ),
    ];
    for (language, good, bad, line) in cases {
        assert_eq!(
            language.first_error(good.as_bytes()).unwrap(),
            None,
            "{language}"
        );
        let place = language.first_error(bad.as_bytes()).unwrap();
        assert_eq!(
            place.map(|place| place.line),
            Some(line),
            "{language}: {place:?}"
        );
    }
}

#[test]
fn hostile_code_is_answered() {
    for code in [
        &b"\xff\xfe\x00("[..],
        &b"(".repeat(100_000),
        &b"[{(".repeat(30_000),
        b"",
    ] {
        let place = Language::Python.first_error(code).unwrap();
        assert_eq!(place.is_none(), code.is_empty());
    }
}
