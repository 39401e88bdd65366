//! Fast-dLLM's own decoding (arXiv 2505.22618), token for token: generations that its code for
//! Dream made on a small random checkpoint (`tests/fixtures/golden`), and where ours differs from
//! it.

use serde_json::Value;

use crate::command::run_json;
use crate::fixture;

/// The generations of its two functions: a threshold over the whole canvas with as many tokens a
/// step at most, and blocks with a cache.
fn generations() -> Vec<Value> {
    let json = std::fs::read(fixture("golden/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&json).unwrap();
    let all = golden["generations"].as_array().unwrap().clone();
    let is_ours = |case: &Value| case["kind"].as_str().unwrap().ends_with("_fast_dllm");
    let found: Vec<Value> = all.into_iter().filter(is_ours).collect();
    assert_eq!(found.len(), 7);
    found
}

/// Runs the command in the settings of a generation, and with more flags. The reference was called
/// without `top_k`, and cut to 50.
fn run(case: &Value, flags: &[&str]) -> Value {
    let model = fixture("golden/model").display().to_string();
    let text = |value: &Value, off: &str| match value {
        Value::Null => off.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (window, cache) = (
        text(&case["block_length"], "full"),
        text(&case["cache"], "none"),
    );
    let (threshold, tokens) = (
        text(&case["threshold"], ""),
        text(&case["max_new_tokens"], ""),
    );
    let prompt = text(&case["prompt"], "");
    let args = [
        &["generate", "--model", &model, "--raw", "--prompt", &prompt][..],
        &[
            "--mode",
            "fast-dllm",
            "--window",
            &window,
            "--cache",
            &cache,
        ],
        &["--threshold", &threshold, "--max-new-tokens", &tokens],
        &["--temperature", "0", "--top-k", "50"],
        &["--device", "cpu", "--dtype", "f32"],
        flags,
    ];
    run_json(&args.concat())
}

/// What the reference wrote behind the prompt.
fn expected(case: &Value) -> &[Value] {
    let prompt = case["prompt_ids"].as_array().unwrap().len();
    &case["sequence"].as_array().unwrap()[prompt..]
}

#[test]
fn its_generations_come_out_token_for_token() {
    for case in generations() {
        let report = run(&case, &[]);
        assert_eq!(report["token_ids"].as_array().unwrap(), expected(&case));
        if let Some(history) = case["history"].as_array() {
            assert_eq!(report["usage"]["forwards"], history.len(), "{case}");
        }
        if case["cache"].is_null() {
            let report = run(&case, &["--steps", &case["steps"].to_string()]);
            assert_eq!(report["token_ids"].as_array().unwrap(), expected(&case));
        }
    }
}

/// The row before a block predicts its first token: with it in every pass that token waits for its
/// turn, and each block takes one forward more or fewer.
#[test]
fn a_first_token_that_is_predicted_is_another_text() {
    for case in generations() {
        let report = run(&case, &["--first-token", "predicted"]);
        let is_same = report["token_ids"].as_array().unwrap() == expected(&case);
        assert_eq!(is_same, case["cache"].is_null());
    }
}

/// `x[:, current_block_start] = x0[:, current_block_start]` in the first pass of each block, with a
/// number of tokens a step too, which would be none of one.
#[test]
fn the_first_token_of_a_block_is_committed_without_a_threshold_too() {
    let report = run_json(&[
        "generate",
        "--model=tiny",
        "--prompt=def add(a, b):\n    return ",
        "--mode=fast-dllm",
        "-n64",
        "--threshold=off",
        "--algorithm=entropy",
        "--steps=16",
    ]);
    let steps = report["reveal_step"].as_array().unwrap();
    assert_eq!([&steps[0], &steps[32]], [0, 8]);
    // Of the 31 that are left after it, 31 / 7 and so on, rounded down, and at the end the rest.
    let revealed = |step: usize| steps[..32].iter().filter(|at| **at == step).count();
    let counts: Vec<usize> = (0..8).map(revealed).collect();
    assert_eq!(counts.iter().sum::<usize>(), 32, "{counts:?}");
    assert_eq!((counts[0], counts[1]), (1, 4), "{counts:?}");
    assert_eq!(report["settings"]["top_k"], Value::Null);
}
