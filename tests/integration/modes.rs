//! Which mode a model gets where nobody says: what suits its weights.

use serde_json::Value;

use crate::binary::diffucoder;
use crate::command::{refusal, run_json};
use crate::fixture;
use crate::golden_set::{generations, ids};

fn settings(model: &str, flags: &[&str]) -> Value {
    let start = [
        "generate", "--model", model, "--raw", "-p", "x = 1\n", "-n", "4",
    ];
    run_json(&[&start[..], flags].concat())["settings"].take()
}

#[test]
fn the_default_follows_the_model() {
    let [dream, coda] = ["golden/model", "golden-coda/model"].map(|folder| {
        let folder = fixture(folder);
        folder.display().to_string()
    });
    for (model, mode) in [("tiny", "fast"), (&dream, "balanced"), (&coda, "exact")] {
        assert_eq!(settings(model, &[])["mode"], mode, "{model}");
        let asked = settings(model, &["--mode", "quality"]);
        assert_eq!(asked["mode"], "quality", "{model}");
    }
    let changed = settings("tiny", &["--window", "7"]);
    assert_eq!(
        (&changed["mode"], &changed["window"]),
        (&Value::Null, &7.into())
    );
}

#[test]
fn each_part_of_a_mode_has_a_flag() {
    let rule = settings("tiny", &["--rule", "frechet"]);
    assert_eq!(
        (&rule["rule"], &rule["threshold"]),
        (&"frechet".into(), &0.25.into())
    );
    let flags = [
        &["--window", "32", "--lookahead", "16", "--far", "thinned"][..],
        &[
            "--cache",
            "window",
            "--refresh",
            "64",
            "--rule",
            "klass",
            "--threshold",
            "0.9",
        ],
        &[
            "--first-token",
            "predicted",
            "--order-temperature",
            "sampling",
        ],
    ];
    assert_eq!(settings("tiny", &flags.concat())["mode"], "balanced");
}

/// Every generation of CoDA's golden set, one with more steps than tokens among them.
#[test]
fn exact_through_the_program_is_the_published_sampler() {
    let model = fixture("golden-coda/model").display().to_string();
    for case in generations("golden-coda") {
        let text = |key: &str| case[key].to_string();
        let (tokens, steps) = (text("max_new_tokens"), text("steps"));
        let top_p = case["top_p"].as_f64().unwrap_or(1.0).to_string();
        let top_k = case["top_k"].as_u64().unwrap_or(0).to_string();
        let said = run_json(&[
            "generate",
            "--exact",
            "--raw",
            "--temperature=0",
            "--dtype=f32",
            "--model",
            &model,
            "--max-new-tokens",
            &tokens,
            "--steps",
            &steps,
            "--top-p",
            &top_p,
            "--top-k",
            &top_k,
            "--algorithm",
            case["algorithm"].as_str().unwrap(),
            "--prompt",
            case["prompt"].as_str().unwrap(),
        ]);
        let sequence = ids(&case["sequence"]);
        let new = &sequence[ids(&case["prompt_ids"]).len()..];
        assert_eq!(ids(&said["token_ids"]), new, "{case}");
    }
}

/// What is said of a run is what it was.
#[test]
fn only_what_is_exact_says_so() {
    let report = |args: &[&str]| -> Value {
        let base = ["generate", "--model", "tiny", "x = ", "-n", "4", "--json"];
        let output = diffucoder(&[&base, args].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(report(&["--exact"])["settings"]["exact"], true);
    for changed in [
        &["--threshold", "0.9", "--window", "4"][..],
        &["--cache", "dual"],
        &["--remask", "1"],
    ] {
        let report = report(&[&["--exact"], changed].concat());
        assert_eq!(report["settings"]["exact"], false, "{changed:?}");
    }
}

#[test]
fn a_fixed_number_of_tokens_and_a_threshold_exclude_each_other() {
    for pace in [["--steps", "3"], ["--tokens-per-step", "2"]] {
        let base = [
            "generate",
            "--model",
            "tiny",
            "x",
            "-n",
            "8",
            "--threshold",
            "0.9",
        ];
        let (code, stderr) = refusal(&[&base[..], &pace].concat());
        assert_eq!(code, Some(2));
        assert!(
            stderr.contains("--threshold reveals what is sure") && stderr.contains("hint: "),
            "{stderr}"
        );
    }
}

#[test]
fn no_canvas_takes_a_million_steps() {
    let base = ["generate", "--model", "tiny", "x", "--exact", "--steps"];
    let (code, stderr) = refusal(&[&base[..], &["10000000000000"]].concat());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("must be at most 1048576"), "{stderr}");
}
