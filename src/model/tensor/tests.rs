use candle_core::quantized::QMatMul;
use candle_core::{DType, Device, Tensor};
use candle_nn::Module;

use super::array::{Array, LAUNCHES};
use super::linear::Linear;
use crate::diffusion::{Denoiser, Pass};
use crate::kernels::{Format, Isa};
use crate::model::config::Config;
use crate::model::storage::Storage;
use crate::model::synthetic::random_blocks;
use crate::model::weight::{Affine, Weight};
use crate::model::{Model, Target};
use crate::weights::{Checkpoint, blocks_on};

fn config(model_type: &str, layers: usize) -> Config {
    let json = serde_json::json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "vocab_size": 50, "rms_norm_eps": 1e-6, "max_position_embeddings": 256,
        "block_size": 4, "mask_token_id": 49, "rope_theta": 10000.0,
    });
    Config::from_json(json.to_string().as_bytes()).unwrap()
}

fn target(dtype: DType) -> Target {
    Target {
        storage: Storage::Dense(dtype),
        device: Device::Cpu,
        isa: Isa::detect(),
        packed_folder: None,
    }
}

fn on_tensors(config: &Config, dtype: DType) -> Model {
    let weights = Checkpoint::synthetic(config, None).unwrap();
    Model::load_on_tensors(config, weights, &target(dtype), &mut |_, _| ()).unwrap()
}

/// The logits of a pass over a canvas of 60 that computes `refresh`.
fn pass(model: &mut Model, refresh: &[usize], number: u32) -> Vec<f32> {
    let ids: Vec<u32> = (0..60).map(|at| (at * 7 + number) % 50).collect();
    let pass = Pass {
        ids: &ids,
        positions: &(0..60).collect::<Vec<_>>(),
        refresh,
        predict: &[9, 30, 58],
        attention: model.attention(),
    };
    let mut logits = Vec::new();
    model.forward(&pass, &mut logits).unwrap();
    logits
}

/// What a pass of scattered rows launches, once the others have their keys and values.
fn launches(layers: usize, storage: Storage) -> usize {
    let config = config("dream", layers);
    let weights = Checkpoint::synthetic(&config, None).unwrap();
    let target = Target {
        storage,
        ..target(DType::F32)
    };
    let mut model = Model::load_on_tensors(&config, weights, &target, &mut |_, _| ()).unwrap();
    pass(&mut model, &(0..60).collect::<Vec<_>>(), 0);
    LAUNCHES.set(0);
    pass(&mut model, &[9, 30, 41, 42, 58], 1);
    LAUNCHES.get()
}

/// At few rows a launch takes as long as what it does. A pass of 28 layers once had 1,070.
#[test]
fn launches_of_a_pass() {
    for (storage, layer, all) in [
        (Storage::Dense(DType::F32), 9, 261),
        (Storage::Dense(DType::BF16), 9, 262),
        (Storage::Quantized(Format::Q8_0), 13, 374), // inputs are quantized, too
    ] {
        let (two, five) = (launches(2, storage), launches(5, storage));
        let each = (five - two) / 3;
        let rest = two - 2 * each;
        let whole = rest + 28 * each;
        assert_eq!(
            (each, whole),
            (layer, all),
            "{storage:?}: {rest} beside the layers"
        );
    }
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < tolerance, "{found} {expected}");
    }
}

/// Each family in its attention, with rows in runs and apart.
#[test]
fn partial_passes_are_as_on_the_cpus_network() {
    for model_type in ["dream", "coda", "sdar"] {
        let config = config(model_type, 2);
        let weights = Checkpoint::synthetic(&config, None).unwrap();
        let ours = Model::load(&config, weights, &target(DType::F32), &mut |_, _| ());
        let (mut ours, mut other) = (ours.unwrap(), on_tensors(&config, DType::F32));
        let mut half = on_tensors(&config, DType::BF16);
        let all: Vec<usize> = (0..60).collect();
        let passes = [&all[..], &[9, 30, 41, 42, 58], &[20, 21, 22], &[3]];
        for (number, refresh) in passes.into_iter().enumerate() {
            let expected = pass(&mut ours, refresh, number as u32);
            assert_close(&pass(&mut other, refresh, number as u32), &expected, 1e-4);
            assert_close(&pass(&mut half, refresh, number as u32), &expected, 0.05);
        }
    }
}

/// Quantized when loaded, and as a file has them: both networks quantize their inputs, or round
/// them to bf16, each in its way.
#[test]
fn blocks_are_as_on_the_cpus_network() {
    let config = config("dream", 2);
    for (format, storage) in [
        (None, Storage::Quantized(Format::Q8_0)),
        (Some(Format::Q8_0), Storage::AsStored),
        (Some(Format::Iq4Nl), Storage::AsStored),
        (None, Storage::AsStored), // bf16 numbers, as beside blocks
    ] {
        let target = Target {
            storage,
            ..target(DType::F32)
        };
        let weights = || Checkpoint::synthetic(&config, format).unwrap();
        let mut ours = Model::load(&config, weights(), &target, &mut |_, _| ()).unwrap();
        let other = Model::load_on_tensors(&config, weights(), &target, &mut |_, _| ());
        let all: Vec<usize> = (0..60).collect();
        let expected = pass(&mut ours, &all, 0);
        assert_close(&pass(&mut other.unwrap(), &all, 0), &expected, 0.05);
    }
}

fn blocks(format: Format) -> Affine {
    let bytes = random_blocks(format, 32 * 256 / format.block_inputs(), 0.1);
    let blocks = blocks_on(format, &bytes, &[32, 256], &Device::Cpu).unwrap();
    Affine {
        weight: Weight::Blocks(QMatMul::from_qtensor(blocks.unwrap()).unwrap()),
        bias: None,
    }
}

/// One product for those stored alike; those that are not stay apart, and all come out in order.
#[test]
fn stacked_blocks_are_as_each_alone() {
    let xs: Vec<f32> = (0..3 * 256)
        .map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0)
        .collect();
    let xs = Tensor::from_vec(xs, (3, 256), &Device::Cpu).unwrap();
    let (q4_k, q6_k) = (Format::Q4K, Format::Q6K);
    for (formats, products) in [([q4_k, q4_k, q4_k], 1), ([q4_k, q4_k, q6_k], 2)] {
        let affines = || formats.map(blocks);
        let stacked = Linear::stacked(affines().into()).unwrap();
        LAUNCHES.set(0);
        let found = stacked.forward(&Array::from(xs.clone())).unwrap();
        let cat = if products > 1 { products } else { 0 };
        assert_eq!(LAUNCHES.get(), 2 * products + cat);
        let alone = affines();
        let alone = alone.iter().map(|affine| match &affine.weight {
            Weight::Blocks(weight) => weight.forward(&xs).unwrap(),
            _ => unreachable!(),
        });
        let alone = Tensor::cat(&alone.collect::<Vec<_>>(), 1).unwrap();
        let alone: Vec<f32> = alone.flatten_all().unwrap().to_vec1().unwrap();
        let mut numbers = vec![f32::NAN; 3]; // of an earlier pass
        found.download(&mut numbers).unwrap();
        assert_close(&numbers, &alone, 1e-6);
    }
}
