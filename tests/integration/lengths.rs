//! Lengths that the model chooses, by each of the names for it.

use serde_json::{Value, json};

use crate::binary::diffucoder;

fn run(args: &[&str], stdin: &str) -> Value {
    let base = ["--model", "tiny", "--seed", "1"];
    let mut command = diffucoder(&[args, &base].concat());
    let assert = command.write_stdin(stdin).assert().success();
    let output = assert.get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

/// tiny gets 8 tokens unless it is asked to choose, and then the same in all commands.
#[test]
fn auto_has_the_model_choose_where_a_fixed_length_is_usual() {
    let (prefix, suffix) = ("def f(xs):\n    for x in ", ":\n        print(x)\n");
    let template = format!("{prefix}<FILL>{suffix}");
    let canvas = |said: &Value| said["usage"]["canvas_tokens"].as_u64().unwrap();
    let infill = |args: &[&str]| run(&[&["infill", "-o", "json"], args].concat(), &template);
    let usual = infill(&[]);
    assert_eq!(canvas(&usual), 8);
    let chosen = infill(&["-n", "auto"]);
    assert_ne!(canvas(&chosen), 8, "{chosen}");
    assert!(chosen["usage"]["forwards"].as_u64() > usual["usage"]["forwards"].as_u64());
    let by_confidence = infill(&["--length-by", "confidence"]);
    let generate = ["generate", "-o", "json", "--raw", "-n", "auto"];
    let texts = ["-p", prefix, "--suffix", suffix];
    let generated = run(&[&generate[..], &texts].concat(), "");
    let line = json!({"prefix": prefix, "suffix": suffix, "length": "auto"}).to_string();
    let of_line = run(&["batch", "-"], &line);
    let line = json!({"prefix": prefix, "suffix": suffix}).to_string();
    let for_all = run(&["batch", "-", "-n", "auto"], &line);
    let text = &chosen["holes"][0]["text"];
    for (other, found) in [
        (&by_confidence, &by_confidence["holes"][0]["text"]),
        (&generated, &generated["text"]),
        (&of_line, &of_line["text"]),
        (&for_all, &for_all["text"]),
    ] {
        assert_eq!(canvas(other), canvas(&chosen), "{other}");
        assert_eq!(found, text, "{other}");
    }
    // Nothing grows, so that a canvas that is seen whole is fine.
    let exact = infill(&["-n", "auto", "--exact"]);
    assert_eq!(canvas(&exact), canvas(&chosen));
    let given = run(
        &["infill", "-o", "json", "-n", "auto"],
        "x = <FILL:3>\ny = 2\n",
    );
    assert_eq!(canvas(&given), 3);
}
