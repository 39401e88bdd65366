//! Which mode a model gets where nobody says: what suits its weights.

use serde_json::Value;

use crate::command::run_json;
use crate::fixture;

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
