//! What the golden sets of all families have in common: a checkpoint, logits, and generations.

use std::path::Path;

use candle_core::{DType, Device};
use diffucoder::diffusion::Algorithm;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::{Model, Target};
use diffucoder::package::Package;
use diffucoder::session::Session;
use serde_json::Value;

use crate::fixture;

/// The checkpoint of a set, by the name of its folder.
pub fn session(set: &str) -> Session {
    open(&fixture(&format!("{set}/model")))
}

/// A checkpoint in a folder.
pub fn open(folder: &Path) -> Session {
    let spec = ModelSpec::Local(folder.into());
    let package = Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ()).unwrap();
    Session::new(package, Target::cpu(DType::F32))
}

/// The network that GPUs get, on the CPU.
pub fn on_tensors(session: &Session) -> Model {
    let package = session.package();
    let weights = package.fetch_weights(&mut ()).unwrap();
    let target = Target::cpu(DType::F32);
    Model::load_on_tensors(&package.config, weights, &target, &mut |_, _| ()).unwrap()
}

pub fn generations(set: &str) -> Vec<Value> {
    golden(set)["generations"].as_array().unwrap().clone()
}

/// What a set says of itself.
pub fn golden(set: &str) -> Value {
    let json = std::fs::read(fixture(&format!("{set}/golden.json"))).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// The ids of each canvas and its logits `[positions, V]`, as the output head gives them.
pub fn forwards(set: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let path = fixture(&format!("{set}/golden.safetensors"));
    let vectors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let cases = vectors.keys().filter(|name| name.ends_with(".ids")).count();
    assert!(cases > 0);
    let flat = |case, name| {
        let tensor = &vectors[&format!("forward.{case}.{name}")];
        tensor.flatten_all().unwrap()
    };
    let forward = |case| {
        let ids: Vec<i64> = flat(case, "ids").to_vec1().unwrap();
        let ids = ids.into_iter().map(|id| id as u32).collect();
        (ids, flat(case, "logits").to_vec1().unwrap())
    };
    (0..cases).map(forward).collect()
}

/// The logits of both networks are those of the set.
pub fn assert_logits(set: &str) {
    let mut session = session(set);
    let mut tensors = on_tensors(&session);
    let native = session.load(&mut (), &mut |_, _| ()).unwrap();
    for (ids, expected) in forwards(set) {
        for found in [native.head_output(&ids), tensors.head_output(&ids)] {
            assert_close(&found.unwrap(), &expected, set);
        }
    }
}

pub fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (x, y) in found.iter().zip(expected) {
        assert!((x - y).abs() < 1e-4, "{what}: {x} and {y}");
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

pub fn number(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap() as usize
}

pub fn algorithm(name: &Value) -> Algorithm {
    let mut all = Algorithm::ALL.into_iter();
    all.find(|algorithm| Some(algorithm.name()) == name.as_str())
        .unwrap()
}
