//! Open-dCoder and the P2 sampler, which masks tokens again: logits, and every generation step for
//! step, against vectors that its own code made on a small random checkpoint
//! (`tests/fixtures/golden-opendcoder`).

use std::error::Error as _;

use diffucoder::diffusion::{Settings, Shaping, Step};
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::package::Package;
use diffucoder::session::{self, Conditions, Hole, Job};
use serde_json::Value;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{algorithm, assert_logits, generations, ids, session};

const SET: &str = "golden-opendcoder";

/// The hole after each step.
struct History(Vec<Vec<u32>>);

impl session::Observer for History {
    fn on_step(&mut self, step: &Step<'_>) {
        self.0.push(step.canvas.generated().to_vec());
    }
}

#[test]
fn logits_equal_the_reference() {
    assert_logits(SET);
}

#[test]
fn every_generation_equals_the_reference_step_for_step() {
    let mut session = session(SET);
    for case in generations(SET) {
        let number = |key: &str| case[key].as_u64().map(|number| number as usize);
        let settings = Settings {
            algorithm: algorithm(&case["algorithm"]),
            shaping: Shaping {
                top_p: case["top_p"].as_f64().map(|p| p as f32),
                top_k: number("top_k"),
                ..Shaping::temperature(0.0)
            },
            ..Settings::reference(number("steps").unwrap())
        };
        let suffix = Some(&case["suffix_ids"]).filter(|ids| ids.is_array());
        let texts = vec![ids(&case["prefix_ids"]), suffix.map_or(Vec::new(), ids)];
        let package = session.package();
        let special = (package.mask_id, &*package.stop_ids);
        let hole = Hole::Exactly(number("masks").unwrap());
        let mut job = Job::new(texts, vec![hole], special, settings);
        let mut history = History(Vec::new());
        let conditions = &mut Conditions::watched(&mut history);
        let outcome = session.run_job(&mut job, conditions).unwrap();
        let expected: Vec<_> = case["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(ids)
            .collect();
        assert_eq!(history.0, expected, "{}", case["algorithm"]);
        assert_eq!(outcome.holes[0].ids, ids(&case["final_ids"]));
    }
}

/// All of them through the program: with text behind the hole by `infill`, else by `generate`.
#[test]
fn the_program_prints_the_ids_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let (prefix, suffix) = (folder.path().join("prefix"), folder.path().join("suffix"));
    for case in generations(SET) {
        std::fs::write(&prefix, case["prefix"].as_str().unwrap()).unwrap();
        let mut command = diffucoder(&[]);
        match case["suffix"].as_str() {
            Some(text) => {
                std::fs::write(&suffix, text).unwrap();
                command.arg("infill").arg("--prefix-file").arg(&prefix);
                command.arg("--suffix-file").arg(&suffix);
                command.arg(format!("--length={}", case["masks"]));
            }
            None => {
                command.arg("generate").arg("--prompt-file").arg(&prefix);
                command.arg(format!("-n{}", case["masks"]));
            }
        }
        command.args([
            "--exact",
            "--raw",
            "-t0",
            "--dtype=f32",
            "--output=json",
            "--model",
        ]);
        command.arg(fixture("golden-opendcoder/model"));
        command.arg(format!("--steps={}", case["steps"]));
        command.arg(format!(
            "--algorithm={}",
            case["algorithm"].as_str().unwrap()
        ));
        command.arg(format!("--top-p={}", case["top_p"].as_f64().unwrap_or(1.0)));
        command.arg(format!("--top-k={}", case["top_k"].as_u64().unwrap_or(0)));
        let output = command.assert().success().get_output().stdout.clone();
        let said: Value = serde_json::from_slice(&output).unwrap();
        let found = match case["suffix"].is_string() {
            true => &said["holes"][0]["token_ids"],
            false => &said["token_ids"],
        };
        assert_eq!(found, &case["final_ids"], "{case}");
    }
}

/// Its configuration is that of an autoregressive model: only the mask tells them apart.
#[test]
fn without_a_mask_token_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |added: &[&str]| {
        for file in added {
            let original = fixture(&format!("{SET}/model/{file}"));
            std::fs::copy(original, folder.path().join(file)).unwrap();
        }
        let spec = ModelSpec::Local(folder.path().into());
        Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ())
    };
    let error = open(&["config.json", "tokenizer.json"]).err().unwrap();
    let model = folder.path().display();
    assert_eq!(error.to_string(), format!("{model} cannot be loaded"));
    assert_eq!(
        error.source().unwrap().to_string(),
        "neither the configuration nor the tokenizer names a mask token"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("only masked-diffusion models")
    );
    open(&["special_tokens_map.json", "added_tokens.json"]).unwrap();
}
