//! Rows of logits in short, made on the card.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaStorage, Layout, Result, Tensor, bail};

use super::kernels::{blocks, by_type, contiguous, kernel, on_card};
use super::read_back;
use crate::diffusion::{Asked, MOST_LISTED, Summary};

/// Words of a summary before its lists.
const HEADER: usize = 8;

/// Words of a summary.
const WORDS: usize = HEADER + 2 * MOST_LISTED;

/// In the place of the number of listed tokens.
const NOT_FINITE: u32 = u32::MAX;

/// Of a contiguous tensor of logits `[positions, V]` on a card.
///
/// # Errors
/// When the card or the driver fails.
pub(in crate::model) fn summaries(logits: &Tensor, asked: &Asked) -> Result<Vec<Option<Summary>>> {
    let (storage, layout) = logits.storage_and_layout();
    let storage = (on_card(&storage)?, layout);
    let found = by_type!(logits.dtype(), summarize(storage, asked))?;
    Ok(found.chunks_exact(WORDS).map(summary).collect())
}

/// What the kernel writes. `[positions, WORDS]`
#[allow(unsafe_code)]
fn summarize<T: CudaDType + DeviceRepr>(
    (logits, layout): (&CudaStorage, &Layout),
    asked: &Asked,
) -> Result<Vec<u32>> {
    let (positions, vocabulary) = layout.shape().dims2()?;
    let card = logits.device();
    let kernel = kernel!(card, "summarize", logits.dtype());
    let logits = contiguous!(logits, layout, T);
    let vocabulary = vocabulary as u32;
    let barred = asked.barred.iter().map(|token| token.unwrap_or(u32::MAX));
    let barred = match asked.barred.iter().any(Option::is_some) {
        true => Some(card.clone_htod(&barred.collect::<Vec<_>>())?),
        false => None,
    };
    let [divisor, beside] = asked.divisors();
    let out = card.alloc_zeros::<u32>(positions * WORDS)?;
    let mut builder = kernel.builder();
    builder.arg(&logits).arg(&vocabulary);
    match &barred {
        Some(barred) => builder.arg(barred),
        None => builder.arg(&0u64), // no list
    };
    builder.arg(&divisor).arg(&beside).arg(&out);
    // SAFETY: the arguments are those of the kernel. It reads `positions` rows of logits, as many
    // tokens if there are any, and writes as many summaries.
    unsafe { builder.launch(blocks(positions, 1)) }.w()?;
    let mut found = Vec::new();
    read_back(card, &out.slice(..), |words: &[u32]| {
        found.extend_from_slice(words)
    })?;
    Ok(found)
}

/// Its lower word comes first.
fn double([low, high]: [u32; 2]) -> f64 {
    f64::from_bits(u64::from(high) << 32 | u64::from(low))
}

/// As the kernel leaves it; `None` of a row that is not finite.
fn summary(words: &[u32]) -> Option<Summary> {
    let (header, lists) = words.split_first_chunk::<HEADER>()?;
    let [listed, steps, negative_entropy, _, sums @ ..] = header;
    let (listed, steps) = (*listed, *steps);
    if listed == NOT_FINITE {
        return None;
    }
    let (tokens, logits) = lists.split_at_checked(MOST_LISTED)?;
    let listed = listed as usize;
    let all = tokens.get(..listed)?.iter().zip(logits.get(..listed)?);
    let mut all: Vec<(u32, f32)> = all.map(|(&id, &bits)| (id, f32::from_bits(bits))).collect();
    all.sort_unstable_by_key(|&(token, _)| token);
    let (tokens, logits): (Vec<u32>, Vec<f32>) = all.into_iter().unzip();
    let largest = logits.iter().copied().reduce(f32::max)?;
    Some(Summary {
        sums: [[sums[0], sums[1]], [sums[2], sums[3]]].map(double),
        negative_entropy: f32::from_bits(*negative_entropy),
        bound: Summary::bound(largest, steps as usize),
        tokens,
        logits,
    })
}
