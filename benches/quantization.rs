//! What quantized weights change: the model's own output against float32 weights, on the built-in
//! model and on the random checkpoint of the golden vectors.
//!
//! A canvas of masks behind each held-out prompt is filled as the float32 model does it (greedy,
//! one token a step, surest first). At each step both models predict every mask:
//!
//! - KL: Kullback-Leibler divergence of the quantized model's probabilities from float32's, nats a
//!   mask;
//! - top-1: share of masks for which both find the same token most probable;
//! - changed: share of steps at which the quantized model would have written another token in that
//!   place.
//!
//! `cargo bench --bench quantization -- [--prompts N] [--new-tokens N]`

mod common;

use std::io::Write;

use candle_core::DType;
use common::Options;
use diffucoder::diffusion::{Algorithm, Denoiser, Shaping};
use diffucoder::kernels::{Format, Isa};
use diffucoder::model::storage::Storage;
use diffucoder::model::{Model, Target};
use diffucoder::package::{Package, Prompt};

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    let new_tokens = options.number("--new-tokens", 16)?;
    let prompts = common::held_out_prompts(options.number("--prompts", 200)?)?;

    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<8} {:<6} {:>9} {:>9} {:>8} {:>8} {:>16}",
        "model", "type", "mean KL", "99 % KL", "top-1", "changed", "of steps"
    )?;
    let golden = common::root().join("tests/fixtures/golden/model");
    for (name, spec) in [
        ("tiny", "tiny".to_string()),
        ("golden", golden.display().to_string()),
    ] {
        let package = common::open(&spec)?;
        let load = |storage| -> anyhow::Result<Model> {
            let target = Target {
                storage,
                ..Target::cpu(DType::F32)
            };
            common::load(&package, &target)
        };
        let mut model = load(Storage::Dense(DType::F32))?;
        let storages = [Storage::Dense(DType::F16), Storage::Dense(DType::BF16)];
        let width = package.config.hidden_size;
        let formats = [Format::Q8_0, Format::Q4K, Format::Q4_0]
            .into_iter()
            .filter(|format| width.is_multiple_of(format.block_inputs())) // else it stays as it is
            .map(Storage::Quantized);
        let mut others = Vec::new();
        for storage in storages.into_iter().chain(formats) {
            others.push((storage, load(storage)?, Difference::default()));
        }
        for text in &prompts {
            let mut ids = package.encode(&Prompt::Raw(text))?;
            let start = ids.len();
            ids.resize(start + new_tokens, package.mask_id);
            compare(&mut model, &mut others, ids, start, &package)?;
        }
        for (storage, _, difference) in others {
            let kind = match storage {
                Storage::Quantized(format) => format.to_string(),
                storage => storage.dtype().as_str().to_string(),
            };
            writeln!(out, "{name:<8} {kind:<6} {}", difference.report())?;
        }
    }
    Ok(())
}

/// How one model's output differs from another's.
#[derive(Default)]
struct Difference {
    kl: Vec<f64>,
    same_top: usize,
    steps: usize,
    changed: usize,
}

impl Difference {
    fn report(mut self) -> String {
        self.kl.sort_by(f64::total_cmp);
        let masks = self.kl.len() as f64;
        format!(
            "{:>9.6} {:>9.6} {:>6.2} % {:>6.2} % {:>16}",
            (self.kl.iter().sum::<f64>() / masks).max(0.0),
            self.kl[self.kl.len() * 99 / 100],
            100.0 * self.same_top as f64 / masks,
            100.0 * self.changed as f64 / self.steps as f64,
            self.steps
        )
    }
}

/// Fills the masks of `ids` from `start` on, up to the end of the text.
fn compare(
    model: &mut Model,
    others: &mut [(Storage, Model, Difference)],
    mut ids: Vec<u32>,
    start: usize,
    package: &Package,
) -> anyhow::Result<()> {
    let mut masked: Vec<usize> = (start..ids.len()).collect();
    let is_over = |ids: &[u32]| {
        let text = ids[start..].iter().take_while(|&&id| id != package.mask_id);
        text.into_iter().any(|id| package.stop_ids.contains(id))
    };
    while !masked.is_empty() && !is_over(&ids) {
        let expected = probabilities(model, &ids, &masked)?;
        let surest = |row: &[f32]| Algorithm::Entropy.confidence(Isa::detect(), row, 0, None);
        let step = (0..masked.len())
            .max_by(|&a, &b| {
                surest(&expected[a])
                    .total_cmp(&surest(&expected[b]))
                    .then(b.cmp(&a))
            })
            .unwrap_or(0);
        let token = top(&expected[step]);
        for (_, other, difference) in others.iter_mut() {
            let found = probabilities(other, &ids, &masked)?;
            for (expected, found) in expected.iter().zip(&found) {
                difference.kl.push(divergence(expected, found));
                difference.same_top += usize::from(top(expected) == top(found));
            }
            difference.steps += 1;
            difference.changed += usize::from(top(&found[step]) != token);
        }
        ids[masked.remove(step)] = token;
    }
    Ok(())
}

fn probabilities(
    model: &mut Model,
    ids: &[u32],
    masked: &[usize],
) -> anyhow::Result<Vec<Vec<f32>>> {
    let mut logits = model.predict(ids, masked)?.logits;
    let width = logits.len() / masked.len();
    let rows = logits.chunks_exact_mut(width).map(|row| {
        Shaping::temperature(1.0).apply(Isa::detect(), row);
        row.to_vec()
    });
    Ok(rows.collect())
}

fn top(row: &[f32]) -> u32 {
    let best = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
    (0..row.len()).fold(0, best) as u32
}

/// KL(expected ‖ found), nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let pairs = expected.iter().zip(found).filter(|(p, _)| **p > 0.0);
    let terms = pairs.map(|(&p, &q)| {
        let (p, q) = (f64::from(p), f64::from(q.max(f32::MIN_POSITIVE)));
        p * (p / q).ln()
    });
    terms.sum()
}
