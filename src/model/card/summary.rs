//! Rows of logits in short, made on the card.

use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{Result, Storage, Tensor};

use super::read_back;
use crate::diffusion::{Asked, MOST_LISTED, Summary};

/// Made of `summary.cu`. The driver compiles it for the card that it finds.
const PTX: &str = include_str!("summary.ptx");

/// Threads of a block, as the kernel has them.
const THREADS: u32 = 512;

/// Words of a summary before its lists.
const HEADER: usize = 8;

/// In the place of the number of listed tokens.
const NOT_FINITE: u32 = u32::MAX;

/// Of a contiguous tensor of logits `[positions, V]` on a card; `None` of one that is elsewhere, or
/// of a type for which there is no kernel.
///
/// # Errors
/// When the card or the driver fails.
#[allow(unsafe_code)]
pub(in crate::model) fn summaries(
    logits: &Tensor,
    asked: &Asked,
) -> Result<Option<Vec<Option<Summary>>>> {
    let (positions, vocabulary) = logits.dims2()?;
    let (storage, layout) = logits.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        return Ok(None);
    };
    let name = match &storage.slice {
        CudaStorageSlice::F32(_) => "summarize_f32",
        CudaStorageSlice::BF16(_) => "summarize_bf16",
        CudaStorageSlice::F16(_) => "summarize_f16",
        _ => return Ok(None),
    };
    let words = HEADER + 2 * MOST_LISTED;
    let card = &storage.device;
    let kernel = card.get_or_load_custom_func(name, "summary", PTX)?;
    let out = card.alloc_zeros::<u32>(positions * words)?;
    let is_barred = asked.barred.iter().any(Option::is_some);
    let barred = asked.barred.iter().map(|token| token.unwrap_or(u32::MAX));
    let barred = match is_barred {
        true => Some(card.clone_htod(&barred.collect::<Vec<_>>())?),
        false => None,
    };
    let [divisor, beside] = asked.divisors();
    let vocabulary = vocabulary as u32;
    let launch = LaunchConfig {
        grid_dim: (positions as u32, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    };
    let mut builder = kernel.builder();
    let (f32s, bf16s, f16s);
    match &storage.slice {
        CudaStorageSlice::F32(all) => {
            f32s = all.slice(start..end);
            builder.arg(&f32s);
        }
        CudaStorageSlice::BF16(all) => {
            bf16s = all.slice(start..end);
            builder.arg(&bf16s);
        }
        CudaStorageSlice::F16(all) => {
            f16s = all.slice(start..end);
            builder.arg(&f16s);
        }
        _ => return Ok(None),
    }
    builder.arg(&vocabulary);
    match &barred {
        Some(barred) => builder.arg(barred),
        None => builder.arg(&0u64), // no list
    };
    builder.arg(&divisor).arg(&beside).arg(&out);
    // SAFETY: the arguments are those of the kernel. It reads `positions` rows of logits, as many
    // tokens if there are any, and writes `words` words for each row.
    unsafe { builder.launch(launch) }.w()?;

    let mut found = Vec::new();
    read_back(card, &out.slice(..), |words: &[u32]| {
        found.extend_from_slice(words)
    })?;
    Ok(Some(found.chunks_exact(words).map(summary).collect()))
}

/// As the kernel leaves it; `None` of a row that is not finite.
fn summary(words: &[u32]) -> Option<Summary> {
    let [listed, steps, sum, sum_beside, negative_entropy, ..] = *words else {
        return None;
    };
    if listed == NOT_FINITE {
        return None;
    }
    let (tokens, logits) = words.get(HEADER..)?.split_at_checked(MOST_LISTED)?;
    let listed = listed as usize;
    let all = tokens.get(..listed)?.iter().zip(logits.get(..listed)?);
    let mut all: Vec<(u32, f32)> = all.map(|(&id, &bits)| (id, f32::from_bits(bits))).collect();
    all.sort_unstable_by_key(|&(token, _)| token);
    let (tokens, logits): (Vec<u32>, Vec<f32>) = all.into_iter().unzip();
    let largest = logits.iter().copied().reduce(f32::max)?;
    Some(Summary {
        sums: [sum, sum_beside].map(f32::from_bits),
        negative_entropy: f32::from_bits(negative_entropy),
        bound: Summary::bound(largest, steps as usize),
        tokens,
        logits,
    })
}
