//! Attention of the rows of several canvases, in two launches whatever their number.

use std::sync::RwLockReadGuard;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

use super::super::tensor::MOST_WIDTH;
use super::kernels::{THREADS, blocks, by_type, contiguous, kernel, made_of, on_card};

/// Most canvases that a launch knows of, as the kernels have it.
pub(in crate::model) const MOST_CANVASES: usize = 64;

/// Positions that a block of [`Attend`] looks at together, its threads, and heads of a group that
/// it does so for.
const KEYS: u32 = 128;
const QUERIES: usize = 8;

/// Keys and then values of some canvases, `[2·G, capacity, E]` each.
#[repr(C)]
#[derive(Clone, Copy)]
struct Caches {
    key_values: [u64; MOST_CANVASES], // addresses on the card
    capacity: [u32; MOST_CANVASES],
}

// SAFETY: addresses and numbers, in the order in which the kernels have them.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Caches {}

/// Where the caches of canvases are on a card, and what keeps them there meanwhile.
fn caches<'a>(
    canvases: &'a [&Tensor],
    [heads, e]: [usize; 2],
) -> Result<(Caches, Vec<RwLockReadGuard<'a, Storage>>)> {
    if canvases.len() > MOST_CANVASES {
        bail!("{} canvases at a time, of {MOST_CANVASES}", canvases.len())
    }
    let (mut caches, mut guards) = (
        Caches {
            key_values: [0; MOST_CANVASES],
            capacity: [0; MOST_CANVASES],
        },
        Vec::with_capacity(canvases.len()),
    );
    for (number, canvas) in canvases.iter().enumerate() {
        let (guard, layout) = canvas.storage_and_layout();
        let storage = on_card(&guard)?;
        let (h, capacity, width) = layout.shape().dims3()?;
        if [h, width] != [heads, e] {
            bail!("not a cache of {heads} heads of {e}: {layout:?}")
        }
        let numbers = contiguous!(storage, layout, f32);
        let stream = storage.device().cuda_stream();
        caches.key_values[number] = numbers.device_ptr(&stream).0;
        caches.capacity[number] = capacity as u32;
        guards.push(guard);
    }
    Ok((caches, guards))
}

/// Where keys and values of some rows are kept.
pub(in crate::model) struct Kept<'a> {
    /// `[2·G, capacity, E]` of each canvas
    pub caches: &'a [&'a Tensor],
    /// Canvas of each row, and its index there, which has to be below the cache's capacity. `[2, R]`
    pub places: &'a Tensor,
    /// Groups of heads, G.
    pub groups: usize,
}

/// Takes queries, keys and values of rows `[R, heads·E]` with their bias `[heads, 1, E]`, each head
/// rotated by cosines and sines of its group `[groups, R, E/2]`, and puts keys and values in their
/// places; the queries come out, `[H, R, E]` in float32.
pub(in crate::model) fn store_heads(
    projected: &Tensor,
    bias: Option<&Tensor>,
    rotation: [&Tensor; 2],
    kept: &Kept<'_>,
) -> Result<Tensor> {
    made_of(projected, |storage, layout| {
        let projected = (storage, layout);
        by_type!(
            storage.dtype(),
            store_heads_of(projected, bias, rotation, kept)
        )
    })
}

#[allow(unsafe_code)]
fn store_heads_of<T: CudaDType + DeviceRepr>(
    (projected, layout): (&CudaStorage, &Layout),
    bias: Option<&Tensor>,
    [cosines, sines]: [&Tensor; 2],
    kept: &Kept<'_>,
) -> Result<(CudaStorage, Shape)> {
    let (rows, width) = layout.shape().dims2()?;
    let (groups, angle_rows, half) = cosines.dims3()?;
    let (e, kv_heads) = (2 * half, 2 * kept.groups);
    let heads = width / e.max(1);
    let is_whole = width == heads * e && heads.is_multiple_of(groups.max(1)) && kv_heads < heads;
    let are_alike = angle_rows == rows && sines.dims() == cosines.dims();
    let has_bias = bias.is_none_or(|bias| bias.elem_count() == width);
    if !is_whole || !are_alike || !has_bias || kept.places.dims() != [2, rows] {
        bail!("cannot rotate {layout:?} by {cosines:?} and {sines:?}")
    }
    let card = projected.device();
    let kernel = kernel!(card, "store_heads", projected.dtype());
    let projected = contiguous!(projected, layout, T);
    let (cosines, cosines_layout) = cosines.storage_and_layout();
    let cosines = contiguous!(on_card(&cosines)?, cosines_layout, f32);
    let (sines, sines_layout) = sines.storage_and_layout();
    let sines = contiguous!(on_card(&sines)?, sines_layout, f32);
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = match &bias {
        Some((bias, layout)) => Some(contiguous!(on_card(bias)?, layout, f32)),
        None => None,
    };
    let (places, places_layout) = kept.places.storage_and_layout();
    let places = contiguous!(on_card(&places)?, places_layout, u32);
    let (caches, _guards) = caches(kept.caches, [kv_heads, e])?;
    let queries = heads - kv_heads;
    // SAFETY: the kernel writes all of it.
    let out = unsafe { card.alloc::<f32>(queries * rows * e) }?;
    let shape = Shape::from((queries, rows, e));
    let (per_group, half, queries) = ((heads / groups) as u32, half as u32, queries as u32);
    let mut builder = kernel.builder();
    builder.arg(&projected);
    match &bias {
        Some(bias) => builder.arg(bias),
        None => builder.arg(&0u64),
    };
    builder.arg(&cosines).arg(&sines);
    builder.arg(&per_group).arg(&half).arg(&queries);
    builder.arg(&places).arg(&caches).arg(&out);
    let launch = LaunchConfig {
        block_dim: (half.next_multiple_of(32).min(THREADS), 1, 1),
        ..blocks(rows, heads)
    };
    // SAFETY: the arguments are those of the kernel: `rows` rows of all heads, a bias for each of
    // these, angles of each group, room for the queries, and places within caches that are held.
    // Nobody else has these: they belong to the states of the passes that are run.
    unsafe { builder.launch(launch) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, card.clone()), shape))
}

/// Attention of scaled queries `[H, R, E]` to the first positions of their canvases. Asked for are
/// rows, each with its canvas and how many positions it sees `[3, asked]`. `[asked, H·E]` of `dtype`
pub(in crate::model) fn attend(
    queries: &Tensor,
    asked: &Tensor,
    kept: &Kept<'_>,
    dtype: DType,
) -> Result<Tensor> {
    made_of(queries, |storage, layout| {
        by_type!(dtype, attend_of((storage, layout), asked, kept, dtype))
    })
}

#[allow(unsafe_code)]
fn attend_of<T: CudaDType + DeviceRepr>(
    (queries, layout): (&CudaStorage, &Layout),
    asked: &Tensor,
    kept: &Kept<'_>,
    dtype: DType,
) -> Result<(CudaStorage, Shape)> {
    let (heads, rows, e) = layout.shape().dims3()?;
    let (three, count) = asked.dims2()?;
    let per_group = heads / kept.groups.max(1);
    let is_whole = per_group * kept.groups == heads && e.is_multiple_of(4) && three == 3;
    if !is_whole || e > MOST_WIDTH {
        bail!("cannot attend: {layout:?}, {asked:?}")
    }
    let number: u32 = match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        _ => 2,
    };
    let card = queries.device();
    let kernel = kernel!(card, "attend");
    let (caches, _guards) = caches(kept.caches, [2 * kept.groups, e])?;
    let queries = contiguous!(queries, layout, f32);
    let (asked, asked_layout) = asked.storage_and_layout();
    let asked = contiguous!(on_card(&asked)?, asked_layout, u32);
    // SAFETY: the kernel writes all of it.
    let out = unsafe { card.alloc::<T>(count * heads * e) }?;
    let launch = LaunchConfig {
        grid_dim: (
            count as u32,
            kept.groups as u32,
            per_group.div_ceil(QUERIES) as u32,
        ),
        block_dim: (KEYS, 1, 1),
        shared_mem_bytes: 0,
    };
    let shape = Shape::from((count, heads * e));
    let (rows, per_group, width) = (rows as u32, per_group as u32, e as u32);
    let mut builder = kernel.builder();
    builder.arg(&queries).arg(&rows).arg(&per_group).arg(&width);
    builder.arg(&asked).arg(&caches).arg(&number).arg(&out);
    // SAFETY: the arguments are those of the kernel: rows below the number of rows, canvases of which
    // the caches are held, no more positions than these have, and room for every row that is asked
    // for.
    unsafe { builder.launch(launch) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, card.clone()), shape))
}
