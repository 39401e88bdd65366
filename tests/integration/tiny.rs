//! The built-in model: the same logits here as in the program that trained it
//! (`training/model.py`, a second implementation of the architecture, in PyTorch and float32).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use diffucoder::diffusion::Denoiser;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::Target;
use diffucoder::package::{Package, Prompt};

use crate::fixture;

fn open() -> Package {
    let spec = ModelSpec::parse("tiny").unwrap();
    Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ()).unwrap()
}

#[test]
fn logits_equal_those_of_the_trainer() {
    let package = open();
    let weights = package.fetch_weights(&mut ()).unwrap();
    let mut model = package
        .load(weights, &Target::cpu(DType::F32), &mut |_, _| ())
        .unwrap();
    let vectors: HashMap<String, Tensor> =
        candle_core::safetensors::load(fixture("tiny/logits.safetensors"), &Device::Cpu).unwrap();
    let cases = vectors.keys().filter(|name| name.ends_with(".ids")).count();
    assert!(cases >= 2);
    for case in 0..cases {
        let ids: Vec<i64> = vectors[&format!("{case}.ids")].to_vec1().unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        assert!(ids.contains(&package.mask_id));
        let expected = &vectors[&format!("{case}.logits")];
        let positions: Vec<usize> = (0..expected.dim(0).unwrap()).collect();
        let found = model.predict(&ids, &positions).unwrap().logits;
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().all(|x| x.is_finite()));
        let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let error = found
            .iter()
            .zip(&expected)
            .fold(0f32, |most, (x, y)| most.max((x - y).abs()));
        assert!(error / largest < 1e-5, "case {case}: {}", error / largest);
    }
}

#[test]
fn half_precisions_stay_close() {
    let package = open();
    let ids = package
        .encode(&Prompt::Raw("class Stack:\n    def push(self, item):\n"))
        .unwrap();
    let positions: Vec<usize> = (0..ids.len()).collect();
    let logits = |dtype| {
        let weights = package.fetch_weights(&mut ()).unwrap();
        let mut model = package
            .load(weights, &Target::cpu(dtype), &mut |_, _| ())
            .unwrap();
        model.predict(&ids, &positions).unwrap().logits
    };
    let f32 = logits(DType::F32);
    // The file has bf16, which is exact in f32; activations are f32 in any case.
    assert_eq!(logits(DType::BF16), f32);
    let f16 = logits(DType::F16);
    let norm =
        |xs: &mut dyn Iterator<Item = f32>| xs.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let mut differences = f16.iter().zip(&f32).map(|(a, b)| a - b);
    let error = norm(&mut differences) / norm(&mut f32.iter().copied());
    // Eleven bits of mantissa: more than bf16 has, but for the smallest numbers.
    assert!(error < 0.004 && error > 0.0, "{error}");
}

#[test]
fn it_is_small_and_takes_raw_prompts() {
    let package = open();
    assert!((3_000_000..=10_000_000).contains(&package.config.parameters()));
    assert!(package.chat_template.is_none());
    let bytes: usize = diffucoder::package::builtin::TINY
        .iter()
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(bytes <= 20 << 20, "{bytes} bytes");
}
