//! The published model and sampler, number by number: vectors made by the reference in float32 on a
//! small random checkpoint (`tests/fixtures/golden`).

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use diffucoder::diffusion::{
    Algorithm, Attention, Cache, Canvas, Decoding, Denoiser, Ending, Observer, Pass, Refresh,
    Schedule, Settings, Shaping, Step, Steps, generate,
};
use diffucoder::kernels::Isa;
use diffucoder::model::Model;
use diffucoder::model::config::Config;
use diffucoder::session::{self, Conditions, Hole, Job, Session};
use serde_json::Value;

use crate::fixture;
use crate::golden_set::{
    algorithm, forwards, generations, golden, ids as json_ids, on_tensors, session,
};

const SET: &str = "golden";
const CODA: &str = "golden-coda";

fn tensors() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture("golden/golden.safetensors"), &Device::Cpu).unwrap()
}

fn model() -> (Config, Model) {
    let mut session = session(SET);
    let model = session.load(&mut (), &mut |_, _| ()).unwrap().beside();
    (session.package().config.clone(), model)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    let ids: Vec<i64> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    ids.into_iter().map(|id| id as u32).collect()
}

/// Largest difference between two vectors, relative to the largest value of the expected one.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(found.iter().all(|x| x.is_finite()));
    let error = found
        .iter()
        .zip(expected)
        .fold(0f32, |most, (x, y)| most.max((x - y).abs()));
    error / largest
}

fn shaping(settings: &Value) -> Shaping {
    Shaping {
        top_p: settings["top_p"].as_f64().map(|p| p as f32),
        top_k: settings["top_k"].as_u64().map(|k| k as usize),
        ..Shaping::temperature(settings["temperature"].as_f64().unwrap() as f32)
    }
}

#[test]
fn logits_equal_the_reference() {
    let (_, mut model) = model();
    let cases = forwards(SET);
    assert_eq!(cases.len(), 3);
    for (ids, expected) in cases {
        // The stored logits are the head's own output, before the shift.
        let found = model.head_output(&ids).unwrap();
        let error = relative_error(&found, &expected);
        assert!(error < 1e-5, "{ids:?}: {error}");
    }
}

#[test]
fn predictions_are_shifted_right_by_one() {
    let (config, mut model) = model();
    let (ids, _) = forwards(SET).remove(1);
    let unshifted = model.head_output(&ids).unwrap();
    let row = |i: usize| &unshifted[i * config.vocab_size..][..config.vocab_size];
    let positions = [0, 1, 2, 20, ids.len() - 1];
    let found = model.predict(&ids, &positions).unwrap();
    assert_eq!(found.rows, ids.len());
    for (found, position) in found.logits.chunks(config.vocab_size).zip(positions) {
        assert!(
            relative_error(found, row(position.saturating_sub(1))) < 1e-5,
            "{position}"
        );
    }
}

/// Keys and values are those of the same pass, or of one that saw the same canvas.
#[test]
fn a_cache_changes_nothing_and_both_networks_agree() {
    let mut tensors = on_tensors(&session(SET));
    let (_, mut native) = model();
    let mut ids: Vec<u32> = (0..40).map(|i| (i * 7) % 256).collect();
    let all: Vec<usize> = (0..ids.len()).collect();
    let whole = native.predict(&ids, &[3, 20, 39]).unwrap();
    let whole_by_tensors = tensors.predict(&ids, &[3, 20, 39]).unwrap();
    assert!(relative_error(&whole_by_tensors.logits, &whole.logits) < 1e-5);

    for (change, refresh) in [
        (None, &[][..]),
        (None, &[5, 6, 20, 39]),
        (Some((10, 9)), &[10]),
    ] {
        if let Some((position, id)) = change {
            ids[position] = id;
        }
        let pass = Pass {
            ids: &ids,
            positions: &all,
            refresh,
            predict: &[3, 20, 39],
            attention: Attention::Full,
        };
        let (mut found, mut by_tensors) = (Vec::new(), Vec::new());
        let rows = native.forward(&pass, &mut found).unwrap();
        assert_eq!(tensors.forward(&pass, &mut by_tensors).unwrap(), rows);
        assert!(rows <= refresh.len() + 3);
        assert!(relative_error(&by_tensors, &found) < 1e-5);
        if change.is_none() {
            assert!(relative_error(&found, &whole.logits) < 1e-4);
        } else {
            assert!(
                relative_error(&found, &whole.logits) > 1e-4,
                "the change is not seen"
            );
        }
    }
}

/// Masks at the end of which some are left out stand where they stand: a row sees by how far.
#[test]
fn positions_may_be_left_out_at_the_end() {
    let mut tensors = on_tensors(&session(SET));
    let (config, mut native) = model();
    let mut ids: Vec<u32> = (0..12).map(|i| (i * 7) % 256).collect();
    ids.extend([config.mask_token_id.unwrap(); 4]);
    let all: Vec<usize> = (0..ids.len()).collect();
    let mut sparse = all.clone();
    sparse[14..].copy_from_slice(&[19, 40]);
    let mut logits = |positions: &[usize]| {
        let pass = Pass {
            ids: &ids,
            positions,
            refresh: &all,
            predict: &[5, 13],
            attention: Attention::Full,
        };
        let (mut found, mut by_tensors) = (Vec::new(), Vec::new());
        native.forward(&pass, &mut found).unwrap();
        tensors.forward(&pass, &mut by_tensors).unwrap();
        assert!(relative_error(&by_tensors, &found) < 1e-5);
        let known = native
            .cached_ids(Attention::Full)
            .iter()
            .zip(&ids)
            .zip(positions);
        for (index, ((known, &id), &position)) in known.enumerate() {
            assert_eq!(*known, (position == index).then_some(id), "{index}");
        }
        found
    };
    let (near, far) = (logits(&all), logits(&sparse));
    assert!(relative_error(&far, &near) > 1e-4);
}

/// A canvas may grow: positions behind the first pass come in later.
#[test]
fn more_of_a_canvas_can_be_seen_later() {
    let (_, mut model) = model();
    let ids: Vec<u32> = (0..70).map(|i| (i * 11) % 256).collect();
    model.predict(&ids[..10], &[4]).unwrap();
    let rest: Vec<usize> = (0..70).collect();
    let pass = Pass {
        ids: &ids,
        positions: &rest,
        refresh: &rest,
        predict: &[4, 69],
        attention: Attention::Full,
    };
    let mut found = Vec::new();
    model.forward(&pass, &mut found).unwrap();
    let expected = model.predict(&ids, &[4, 69]).unwrap().logits;
    assert!(relative_error(&found, &expected) < 1e-5);
}

#[test]
fn asking_for_fewer_positions_changes_nothing() {
    let (_, mut model) = model();
    let ids: Vec<u32> = (0..40).map(|i| (i * 7) % 256).collect();
    let all: Vec<usize> = (0..ids.len()).collect();
    let whole = model.predict(&ids, &all).unwrap().logits;
    let some = [0, 1, 2, 17, 39];
    let part = model.predict(&ids, &some).unwrap().logits;
    let vocab_size = whole.len() / ids.len();
    for (row, position) in part.chunks(vocab_size).zip(some) {
        let expected = &whole[position * vocab_size..][..vocab_size];
        assert!(relative_error(row, expected) < 1e-5, "position {position}");
    }
}

#[test]
fn reveal_counts_equal_the_reference() {
    for case in golden(SET)["schedule"].as_array().unwrap() {
        let [tokens, steps] = ["tokens", "steps"].map(|key| case[key].as_u64().unwrap() as usize);
        let schedule = Schedule::new(steps, case["eps"].as_f64().unwrap() as f32);
        let mut left = tokens;
        for (step, expected) in case["reveals"].as_array().unwrap().iter().enumerate() {
            let count = schedule.reveal_count(step, left);
            assert_eq!(
                Some(count as u64),
                expected.as_u64(),
                "{tokens} in {steps}, step {step}"
            );
            left -= count;
        }
        assert_eq!(left, 0);
    }
}

#[test]
fn probabilities_and_confidences_equal_the_reference() {
    let tensors = tensors();
    let logits: Vec<Vec<f32>> = tensors["confidence.logits"].to_vec2().unwrap();
    for (case, settings) in golden(SET)["confidence"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let shaping = shaping(settings);
        let probs: Vec<Vec<f32>> = logits
            .iter()
            .map(|row| {
                let mut row = row.clone();
                shaping.apply(Isa::detect(), &mut row);
                row
            })
            .collect();
        let expected = |name: &str| tensors.get(&format!("confidence.{case}.{name}"));
        let close = |found: Vec<f32>, name: &str| {
            if let Some(expected) = expected(name) {
                assert_eq!(found.len(), floats(expected).len());
                assert!(found.iter().all(|x| x.is_finite()), "{name}");
                let pairs = found.iter().zip(floats(expected));
                let error = pairs.fold(0f32, |most, (x, y)| most.max((x - y).abs()));
                assert!(error < 2e-6, "{name} {settings}: {error}");
            }
        };
        close(probs.concat(), "probs");
        let confidence = |algorithm: Algorithm| -> Vec<f32> {
            let best = |row: &[f32]| {
                (0..row.len())
                    .rev()
                    .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            };
            probs
                .iter()
                .map(|row| {
                    algorithm.confidence(Isa::detect(), row, best(row).unwrap(), None) as f32
                })
                .collect()
        };
        for name in ["entropy", "topk_margin", "maskgit_plus"] {
            close(confidence(algorithm(&name.into())), name);
        }
        assert!(expected("entropy").is_some() && expected("topk_margin").is_some());
        if let Some(tokens) = expected("token") {
            let found: Vec<u32> = probs
                .iter()
                .map(|row| {
                    (0..row.len())
                        .rev()
                        .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                        .unwrap() as u32
                })
                .collect();
            assert_eq!(found, ids(tokens), "{settings}");
        }
    }
}

/// Keeps the generated part after each step.
struct History(Vec<Vec<u32>>);

impl Observer for History {
    fn on_step(&mut self, step: &Step<'_>) {
        self.0.push(step.canvas.generated().to_vec());
    }
}

#[test]
fn every_canvas_equals_the_reference_step_by_step() {
    let (config, mut model) = model();
    let mut exact = 0;
    for case in generations(SET) {
        if case["kind"] != "exact" {
            continue;
        }
        exact += 1;
        // A cache that is always fresh is no cache.
        let fresh = Decoding {
            cache: Cache::Dual,
            refresh: Refresh::Every(1),
            ..Decoding::default()
        };
        for decoding in [Decoding::default(), fresh] {
            let prompt = json_ids(&case["prompt_ids"]);
            let max_new_tokens = case["max_new_tokens"].as_u64().unwrap() as usize;
            let settings = Settings {
                algorithm: algorithm(&case["algorithm"]),
                steps: Steps::Count(case["steps"].as_u64().unwrap() as usize),
                eps: 1e-3,
                shaping: shaping(&case),
                alg_temp: None,
                seed: 0,
                ending: Ending::FullCanvas,
                decoding,
                remask: 0,
                deletes_rest: true,
                isa: Isa::detect(),
            };
            let canvas = Canvas::new(&prompt, max_new_tokens, config.mask_token_id.unwrap());
            let mut history = History(Vec::new());
            let done = generate(&mut model, canvas, &settings, &mut history).unwrap();
            let expected: Vec<Vec<u32>> = case["history"]
                .as_array()
                .unwrap()
                .iter()
                .map(json_ids)
                .collect();
            for (step, (found, expected)) in history.0.iter().zip(&expected).enumerate() {
                assert_eq!(found, expected, "{settings:?}, step {step}");
            }
            assert_eq!(history.0.len(), expected.len());
            assert_eq!(done.canvas.ids(), json_ids(&case["sequence"]));
            assert_eq!(done.rows, done.forwards * done.canvas.ids().len());
        }
    }
    assert!(exact >= 12);
}

/// Every generation of a set of vectors, step for step, through a session.
fn assert_generations(set: &str, session: &mut Session) {
    let special = (
        session.package().mask_id,
        session.package().stop_ids.clone(),
    );
    for case in generations(set) {
        let prompt = json_ids(&case["prompt_ids"]);
        let settings = Settings {
            algorithm: algorithm(&case["algorithm"]),
            shaping: shaping(&case),
            ..Settings::reference(case["steps"].as_u64().unwrap() as usize)
        };
        let tokens = case["max_new_tokens"].as_u64().unwrap() as usize;
        let holes = vec![Hole::Exactly(tokens)];
        let start = prompt.len();
        let mut job = Job::new(
            vec![prompt, Vec::new()],
            holes,
            (special.0, &special.1),
            settings,
        );
        let mut history = NewParts(start, Vec::new());
        let done = session.run_job(&mut job, &mut Conditions::watched(&mut history));
        assert_eq!(done.unwrap().canvas.ids(), json_ids(&case["sequence"]));
        let expected: Vec<Vec<u32>> = case["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(json_ids)
            .collect();
        // The reference goes on when nothing is masked any more.
        assert!(history.1.len() <= expected.len());
        assert_eq!(history.1, expected[..history.1.len()]);
        let last = history.1.last();
        assert!(
            expected[history.1.len()..]
                .iter()
                .all(|step| Some(step) == last)
        );
    }
}

/// What stands behind a prompt after each step.
struct NewParts(usize, Vec<Vec<u32>>);

impl session::Observer for NewParts {
    fn on_step(&mut self, step: &Step<'_>) {
        self.1.push(step.canvas.ids()[self.0..].to_vec());
    }
}

/// A family with norms of queries and keys and without biases: logits of both networks, and every
/// generation, step for step. The vectors were made by CoDA's own code on a small random
/// checkpoint.
#[test]
fn coda_equals_its_reference() {
    let mut session = session(CODA);
    let tensors = on_tensors(&session);
    let native = session.load(&mut (), &mut |_, _| ()).unwrap().beside();
    for mut model in [native, tensors] {
        for (ids, expected) in forwards(CODA) {
            let found = model.head_output(&ids).unwrap();
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "{ids:?}: {error}");
        }
    }
    assert_generations(CODA, &mut session);
}
