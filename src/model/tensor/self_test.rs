//! A known product on the device, before anything is trusted to it: kernels that were built for
//! another card leave garbage, those for quantized blocks without an error.

use candle_core::quantized::QMatMul;
use candle_core::{DType, Device, Error, Result, Tensor};

use super::Weights;
use super::array::Array;
use super::linear::Linear;
use crate::diffusion::{Asked, Attention, Pass, Predicted, Shaping, Summary};
use crate::kernels::{Format, Isa};
use crate::model::Target;
use crate::model::config::Config;
use crate::model::loader::{Loader, PackedMatrices};
use crate::model::rows::Rows;
use crate::model::shared::{CanvasPass, Network};
use crate::model::storage::Storage;
use crate::model::synthetic::random_blocks;
use crate::model::weight::{Affine, Weight};
use crate::weights::{Checkpoint, blocks_on};

/// A matrix, and numbers of rows for which the tensor library takes different kernels.
const SHAPE: (usize, usize) = (64, 512);
const ROWS: [usize; 3] = [1, 8, 32];

/// How far from the right product those of bfloat16 and of inputs in 8-bit blocks may be, relative
/// to it: several times what is to be expected.
const TOLERANCE: f64 = 0.03;

/// The first of the forms that `storage` may come to whose products are wrong on `device`.
///
/// # Errors
/// When the device fails.
pub(in crate::model) fn wrong_form(device: &Device, storage: Storage) -> Result<Option<String>> {
    let dtype = storage.dtype();
    let (_, numbers) = matrix(Format::Q8_0);
    let dense = Tensor::from_slice(&numbers, SHAPE, device)?.to_dtype(dtype)?;
    if !is_right(Weight::Dense(dense), &numbers, dtype, device)? {
        return Ok(Some(dtype.as_str().into()));
    }
    if matches!(storage, Storage::Dense(_)) {
        return Ok(None);
    }
    for format in Format::ALL {
        let (bytes, numbers) = matrix(format);
        let Some(blocks) = blocks_on(format, &bytes, &[SHAPE.0, SHAPE.1], device)? else {
            continue; // the CPU makes numbers of these
        };
        let blocks = Weight::Blocks(QMatMul::from_qtensor(blocks)?);
        if !is_right(blocks, &numbers, dtype, device)? {
            return Ok(Some(format.to_string()));
        }
    }
    Ok(None)
}

/// Whether kernels of our own do on `device` what they should; `None` if there are none for it.
pub(super) fn own_kernels_are_right(device: &Device, dtype: DType) -> Option<bool> {
    if device.is_metal() {
        return None;
    }
    let of_network = network_is_right(device, dtype).unwrap_or(false);
    Some(of_network && summaries_are_right(device, dtype))
}

/// Whether a network of random weights says the same with kernels of our own and without, of two
/// canvases at a time, of which all is computed and then a part.
fn network_is_right(device: &Device, dtype: DType) -> Result<bool> {
    // Widths that are more than a block's threads, and no multiples of them; more heads a group
    // than a block attends with.
    let config = serde_json::json!({
        "model_type": "Dream", "hidden_size": 600, "intermediate_size": 520, "head_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 18, "num_key_value_heads": 2,
        "vocab_size": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": 256,
    });
    let config = Config::from_json(config.to_string().as_bytes()).map_err(Error::wrap)?;
    let target = Target {
        device: device.clone(),
        ..Target::cpu(dtype)
    };
    let outputs = |own_kernels| -> Result<Vec<f32>> {
        let weights = Checkpoint::synthetic(&config, None).map_err(Error::wrap)?;
        let on_load = &mut |_, _| ();
        let mut loader = Loader::new(&config, weights, &target, PackedMatrices::Never, on_load);
        let network = Weights::load_with(own_kernels, &config, &target, &mut loader);
        let network = network.map_err(Error::wrap)?;
        let mut states = [network.state(), network.state()];
        let mut all = Vec::new();
        for (step, attention) in [Attention::Full, Attention::BlockCausal(8)]
            .into_iter()
            .enumerate()
        {
            let mut passes = Vec::new();
            for (len, state) in [150, 20].into_iter().zip(states) {
                let ids: Vec<u32> = (0..len as u32)
                    .map(|at| (at * 7 + step as u32) % 64)
                    .collect();
                let positions: Vec<usize> = (0..len).collect();
                let refresh: Vec<usize> = (0..len).step_by(1 + 6 * step).collect();
                let pass = Pass {
                    ids: &ids,
                    positions: &positions,
                    refresh: &refresh,
                    predict: &[3, 14],
                    attention,
                };
                let (rows, asked, predicted) = (Rows::of(&pass, 1), None, Predicted::default());
                passes.push(CanvasPass {
                    state,
                    rows,
                    asked,
                    predicted,
                    ids,
                });
            }
            network.forward(&mut passes)?;
            all.extend(passes.iter().flat_map(|pass| pass.predicted.logits.clone()));
            let mut left = passes.into_iter().map(|pass| pass.state);
            states = [(); 2].map(|()| left.next().unwrap_or_default());
        }
        Ok(all)
    };
    let (found, right) = (outputs(Some(true))?, outputs(None)?);
    Ok(are_close(&found, right.into_iter().map(f64::from)))
}

/// Whether these numbers are within [`TOLERANCE`] of the right ones, all in all. What is not a
/// number is wrong, too.
fn are_close(found: &[f32], right: impl ExactSizeIterator<Item = f64>) -> bool {
    let are_all = found.len() == right.len();
    let (mut error, mut power) = (0.0, 0.0);
    for (&found, right) in found.iter().zip(right) {
        error += (f64::from(found) - right).powi(2);
        power += right.powi(2);
    }
    are_all && error.sqrt() <= TOLERANCE * power.sqrt()
}

/// Whether `device` makes of rows of logits what it should.
fn summaries_are_right(device: &Device, dtype: DType) -> bool {
    const VOCABULARY: usize = 20_000;
    let logits = (0..2 * VOCABULARY).map(|at| {
        let spread = (at * 7919 % 20_011) as f32 / 20_011.0;
        12.0 * spread * spread * spread - 3.0
    });
    let rows: Vec<f32> = logits.collect();
    let largest = (0u32..).zip(&rows[VOCABULARY..]);
    let largest = largest.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let asked = Asked {
        shaping: Shaping::temperature(0.5),
        beside: Some(1.0),
        orders_beside: true,
        barred: vec![None, largest.map(|(token, _)| token)],
        ..Asked::greedy(VOCABULARY, 0, 2, Isa::detect())
    };
    let summaries = || {
        let rows = Tensor::from_slice(&rows, (2, VOCABULARY), device)?.to_dtype(dtype)?;
        let found = Array::from(rows.clone()).summaries(&asked)?;
        let here = Array::from(rows.to_device(&Device::Cpu)?);
        Ok::<_, Error>((found, here.summaries(&asked)?))
    };
    let Ok((Some(found), Some(right))) = summaries() else {
        return false;
    };
    let is_close = |(a, b): (f64, f64)| (a - b).abs() <= 1e-4 * b.abs();
    let is_right = |(found, right): (&Option<Summary>, &Option<Summary>)| {
        let (Some(found), Some(right)) = (found, right) else {
            return false;
        };
        let numbers = |summary: &Summary| {
            let [sum, beside] = summary.sums;
            [sum, beside, summary.negative_entropy.into()]
        };
        numbers(found).into_iter().zip(numbers(right)).all(is_close)
            && (&found.tokens, &found.logits, found.bound)
                == (&right.tokens, &right.logits, right.bound)
    };
    found.len() == right.len() && found.iter().zip(&right).all(is_right)
}

/// Blocks, and the numbers that they stand for.
fn matrix(format: Format) -> (Vec<u8>, Vec<f32>) {
    let mut numbers = vec![0.0; SHAPE.0 * SHAPE.1];
    let bytes = random_blocks(format, numbers.len() / format.block_inputs(), 0.1);
    format.dequantize(&bytes, &mut numbers);
    (bytes, numbers)
}

/// Whether products with `weight` are those with `numbers`.
fn is_right(weight: Weight, numbers: &[f32], dtype: DType, device: &Device) -> Result<bool> {
    let (outputs, inputs) = SHAPE;
    let linear = Linear::new(Affine { weight, bias: None });
    for rows in ROWS {
        let xs: Vec<f32> = (0..rows * inputs)
            .map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0)
            .collect();
        let on_device = Tensor::from_slice(&xs, (rows, inputs), device)?.to_dtype(dtype)?;
        let mut found = Vec::new();
        linear
            .forward(&Array::from(on_device))?
            .download(&mut found)?;
        let right = (0..rows * outputs).map(|at| {
            let x = &xs[at / outputs * inputs..][..inputs];
            let w = &numbers[at % outputs * inputs..][..inputs];
            x.iter().zip(w).map(|(x, w)| f64::from(x * w)).sum()
        });
        if !are_close(&found, right) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_right_here() {
        for dtype in [DType::F32, DType::BF16] {
            let storage = Storage::Dense(dtype);
            assert_eq!(wrong_form(&Device::Cpu, storage).unwrap(), None);
        }
        assert_eq!(wrong_form(&Device::Cpu, Storage::AsStored).unwrap(), None);
        assert_eq!(own_kernels_are_right(&Device::Cpu, DType::BF16), Some(true));
    }

    /// Garbage is what kernels for another card leave: zeros, what was in memory, no numbers.
    #[test]
    fn other_products_are_wrong() {
        let (_, numbers) = matrix(Format::Q4K);
        let other = |change: &dyn Fn(usize, f32) -> f32| {
            let changed = numbers.iter().enumerate().map(|(at, &w)| change(at, w));
            let changed = changed.collect::<Vec<f32>>();
            let weight = Weight::Dense(Tensor::from_vec(changed, SHAPE, &Device::Cpu).unwrap());
            is_right(weight, &numbers, DType::F32, &Device::Cpu).unwrap()
        };
        assert!(other(&|_, w| w));
        assert!(!other(&|_, _| 0.0));
        assert!(!other(&|_, w| 1.1 * w));
        assert!(!other(&|at, w| if at == 0 { f32::NAN } else { w }));
        assert!(!other(&|at, w| if at < SHAPE.1 { 0.0 } else { w }));
    }
}
