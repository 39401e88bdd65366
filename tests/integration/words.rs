//! Templates and tokens of a checkpoint that somebody else made, through the binary.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::fixture;

use crate::binary::diffucoder;

/// A copy of the golden model with changes to its two tokenizer files.
fn model(change: impl FnOnce(&mut Value, &mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture("golden/model")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let names = ["tokenizer.json", "tokenizer_config.json"];
    let read = |name| serde_json::from_slice(&fs::read(folder.path().join(name)).unwrap()).unwrap();
    let [mut tokenizer, mut config]: [Value; 2] = names.map(read);
    change(&mut tokenizer, &mut config);
    for (name, json) in names.into_iter().zip([tokenizer, config]) {
        fs::write(folder.path().join(name), json.to_string()).unwrap();
    }
    folder
}

fn generate(model: &Path, stdin: &str, args: &[&str]) -> Output {
    let mut command = diffucoder(&[]);
    command.args([
        "generate", "--seed", "1", "-n", "4", "-o", "json", "--model",
    ]);
    command.arg(model).args(args).write_stdin(stdin);
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn prompt_tokens(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json["usage"]["prompt_tokens"].clone()
}

#[test]
fn special_tokens_of_a_file_are_text_unless_asked_for() {
    let model = model(|_, _| ());
    let text = "a<|im_end|>b"; // 12 bytes, each a token of this model
    let file = model.path().join("text.py");
    fs::write(&file, text).unwrap();
    let file = ["--raw", "-f", file.to_str().unwrap()];
    let run = |stdin: &str, args: &[&str]| generate(model.path(), stdin, args);
    for as_text in [run("", &file), run(text, &["--raw"])] {
        assert_eq!(prompt_tokens(&as_text), 12);
        assert!(stderr(&as_text).contains("--special makes tokens of them"));
    }
    for as_tokens in [
        run("", &[&file[..], &["--special"]].concat()),
        run(text, &["--raw", "--special"]),
        run("", &["--raw", "-p", text]),
    ] {
        assert_eq!(prompt_tokens(&as_tokens), 3);
        assert_eq!(stderr(&as_tokens), "");
    }
    // What would be a hole in the prompt is text too, and refused where it is a token.
    assert_eq!(prompt_tokens(&run("x<|mask|>", &["--raw"])), 9);
    let refused = run("x<|mask|>", &["--raw", "--special"]);
    assert!(
        stderr(&refused).contains("contains the mask token"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn a_template_that_cannot_be_used_says_so_and_raw_goes_round_it() {
    for (template, wanted) in [
        ("{% if %}", "cannot parse the chat template"),
        ("<|im_start|>assistant", "leaves out the user's message"),
        ("{{ messages[0].content }}", "leaves out the user's message"),
        (
            "{{ raise_exception('no system') }}",
            "refuses these messages: no system",
        ),
        ("{{ messages|nonsense }}", "nonsense"),
    ] {
        let model = model(|_, config| config["chat_template"] = json!(template));
        let failed = generate(model.path(), "", &["-p", "hi"]);
        let said = stderr(&failed);
        assert_eq!(failed.status.code(), Some(1), "{template}");
        assert!(
            said.contains(wanted) && said.contains("--raw"),
            "{template}: {said}"
        );
        assert_eq!(
            prompt_tokens(&generate(model.path(), "", &["--raw", "-p", "hi"])),
            2
        );
    }
}

#[test]
fn an_older_processor_s_template_is_found() {
    let model = model(|_, config| config["chat_template"] = json!(null));
    let template =
        json!({"chat_template": "{{ messages[1].content }}{% generation %}!{% endgeneration %}"});
    fs::write(
        model.path().join("chat_template.json"),
        template.to_string(),
    )
    .unwrap();
    assert_eq!(
        prompt_tokens(&generate(
            model.path(),
            "",
            &["-p", "hi", "--temperature", "0"]
        )),
        3
    );
}

#[test]
fn a_split_expression_without_end_says_one_thing() {
    let model = model(|tokenizer, _| {
        let last = tokenizer["pre_tokenizer"].clone();
        let split = json!({"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": false});
        tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, last]});
    });
    let failed = generate(model.path(), "", &["--raw", "-p", &"x".repeat(64)]);
    let said = stderr(&failed);
    assert!(
        said.contains("the split expression takes too long"),
        "{said}"
    );
    assert!(
        !said.contains("panicked") && said.lines().count() == 1,
        "{said}"
    );
}
