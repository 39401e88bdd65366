//! `bench` by the real binary, and the random weights that it measures.

use candle_core::Device;
use diffucoder::kernels::{Format, Isa};
use diffucoder::model::config::Config;
use diffucoder::model::storage::Storage;
use diffucoder::model::{Model, Target};
use diffucoder::package::builtin;
use diffucoder::weights::Checkpoint;
use serde_json::Value;

use crate::binary::diffucoder;

fn bench(args: &[&str]) -> Value {
    let output = diffucoder(&[&["bench", "-o", "json"][..], args].concat())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_object_has_limits_passes_and_costs() {
    for args in [
        &["--synthetic", "tiny", "--quant", "q8_0", "--rows", "1,3"][..],
        &["--model", "tiny", "--rows", "1,3"],
    ] {
        let report = bench(args);
        let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["limits", "forward", "load_s", "peak_rss_bytes"]);
        let limit = report["limits"]["int8_tops"].as_f64().unwrap();
        assert!(limit > 0.0 && report["limits"]["read_gb_s"].as_f64().unwrap() > 0.0);
        let passes = report["forward"].as_array().unwrap();
        let rows: Vec<_> = passes.iter().map(|pass| &pass["rows"]).collect();
        assert_eq!(rows, [1, 3]);
        for pass in passes {
            let number = |key: &str| pass[key].as_f64().unwrap();
            assert!(number("seconds") > 0.0);
            let share = number("tops") / limit;
            assert!((number("share_of_int8") - share).abs() < 1e-9 * share.abs());
        }
        // Work is counted: the same weights for three rows are three times as many operations.
        let operations =
            |pass: &Value| pass["tops"].as_f64().unwrap() * pass["seconds"].as_f64().unwrap();
        let ratio = operations(&passes[1]) / operations(&passes[0]);
        assert!((ratio - 3.0).abs() < 1e-6, "{ratio}");
    }
}

#[test]
fn a_generation_is_measured_to_its_full_length() {
    let report = bench(&[
        "--synthetic",
        "tiny",
        "--rows",
        "1",
        "--generate",
        "32",
        "--tokens-per-forward",
        "2",
    ]);
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "limits",
            "forward",
            "generate",
            "modes",
            "load_s",
            "peak_rss_bytes"
        ]
    );
    let number = |key: &str| report["generate"][key].as_f64().unwrap();
    assert_eq!(number("forwards"), 16.0);
    // The prompt and each token once with its final value, at the least; the whole canvas each
    // time, at the most.
    assert!((64.0 + 32.0..16.0 * 96.0).contains(&number("rows")));
    assert!((number("tokens_per_s") * number("seconds") - 32.0).abs() < 1e-6);
    assert!((0.0..1.0).contains(&number("outside_network")));
    // What is counted for the mode that was measured is what it took, but for the order.
    let modes = report["modes"].as_array().unwrap();
    let fast = modes.iter().find(|mode| mode["mode"] == "fast").unwrap();
    let (counted, took) = (
        fast["rows_per_token"].as_f64().unwrap(),
        number("rows") / 32.0,
    );
    assert!((counted / took - 1.0).abs() < 0.1, "{counted} and {took}");
    assert!((number("ms_per_forward") * 16.0 - 1e3 * number("seconds")).abs() < 1e-6);
}

#[test]
fn rows_beyond_the_model_and_two_subjects_are_wrong_usage() {
    for (args, says) in [
        (
            &["--synthetic", "tiny", "--rows", "1,99999999"][..],
            "takes up to",
        ),
        (&["--synthetic", "tiny", "--rows", "0"], "at least 1"),
        (
            &["--synthetic", "tiny", "--generate", "9999"],
            "--generate can be from 1 to",
        ),
        (
            &["--synthetic", "tiny", "--tokens-per-forward", "2"],
            "--generate",
        ),
        (
            &[
                "--synthetic",
                "tiny",
                "--generate",
                "1",
                "--tokens-per-forward",
                "2",
            ],
            "above --generate",
        ),
        (
            &["--synthetic", "tiny", "--model", "tiny"],
            "cannot be used with",
        ),
    ] {
        let output = diffucoder(&[&["bench"][..], args].concat())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn random_weights_keep_activations_finite() {
    let (_, json) = builtin::TINY
        .iter()
        .find(|(name, _)| *name == "config.json")
        .unwrap();
    let config = Config::from_json(json).unwrap();
    for format in [
        Some(Format::Q4_0),
        Some(Format::Q8_0),
        Some(Format::Q4K),
        None,
    ] {
        let target = Target {
            device: Device::Cpu,
            storage: Storage::AsStored,
            isa: Isa::detect(),
            packed_folder: None,
        };
        let checkpoint = Checkpoint::synthetic(&config, format).unwrap();
        let mut model = Model::load(&config, checkpoint, &target, &mut |_, _| {}).unwrap();
        let logits = model.head_output(&[1, 2, 3, 5, 8]).unwrap();
        assert!(logits.iter().all(|x| x.is_finite()), "{format:?}");
        assert!(logits.iter().any(|x| *x != logits[0]), "{format:?}");
    }
}
