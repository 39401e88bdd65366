//! Attention of the rows of several canvases, in two launches whatever their number.

use std::sync::RwLockReadGuard;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor,
    bail,
};
use half::{bf16, f16};

use super::kernels::{Operand, THREADS, blocks, contiguous, kernel};

/// Most canvases that a launch knows of, as the kernels have it.
pub(in crate::model) const MOST_CANVASES: usize = 64;

/// Positions that a block of [`Attend`] looks at together, its threads, and heads of a group that it
/// does so for.
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
        let (Storage::Cuda(storage), &[h, capacity, width]) = (&*guard, layout.dims()) else {
            bail!("no cache on the card: {layout:?}")
        };
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

/// Queries, keys and values of rows `[R, heads·E]` with their bias `[heads, 1, E]`, each head rotated
/// by cosines and sines of its group `[groups, R, E/2]`. Keys and values are put in their places; the
/// queries come out, `[H, R, E]` in float32.
pub(in crate::model) struct StoreHeads<'a> {
    pub bias: Option<&'a Tensor>,
    /// Canvas of each row, and its index there, which has to be below the cache's capacity. `[2, R]`
    pub places: &'a Tensor,
    /// `[2·G, capacity, E]` each
    pub caches: &'a [&'a Tensor],
    /// Heads of keys and values, 2·G.
    pub kv_heads: usize,
}

impl StoreHeads<'_> {
    #[allow(unsafe_code)]
    fn of<T: CudaDType + DeviceRepr>(
        &self,
        (projected, layout): Operand<'_>,
        (cosines, cosines_layout): Operand<'_>,
        (sines, sines_layout): Operand<'_>,
        [heads, rows, e]: [usize; 3],
    ) -> Result<CudaStorage> {
        let groups = cosines_layout.dims()[0];
        let card = projected.device();
        let kernel = kernel!(card, "store_heads", projected.dtype());
        let projected = contiguous!(projected, layout, T);
        let cosines = contiguous!(cosines, cosines_layout, f32);
        let sines = contiguous!(sines, sines_layout, f32);
        let bias = self.bias.map(Tensor::storage_and_layout);
        let bias = match &bias {
            Some((storage, layout)) => match &**storage {
                Storage::Cuda(storage) if layout.shape().elem_count() == heads * e => {
                    Some(contiguous!(storage, layout, f32))
                }
                _ => bail!("no bias of {heads} heads on the card"),
            },
            None => None,
        };
        let (places, places_layout) = self.places.storage_and_layout();
        let Storage::Cuda(places) = &*places else {
            bail!("no places on the card")
        };
        let places = contiguous!(places, places_layout, u32);
        let (caches, _guards) = caches(self.caches, [self.kv_heads, e])?;
        let queries = heads - self.kv_heads;
        // SAFETY: the kernel writes all of it.
        let out = unsafe { card.alloc::<f32>(queries * rows * e) }?;
        let (per_group, half) = ((heads / groups) as u32, (e / 2) as u32);
        let queries = queries as u32;
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
        // SAFETY: the arguments are those of the kernel, and `cuda_fwd` has compared their shapes:
        // `rows` rows of all heads, a bias for each of these, angles of each group, room for the
        // queries, and places within caches that are held. Nobody else has these: they belong to the
        // states of the passes that are run.
        unsafe { builder.launch(launch) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(out, card.clone()))
    }
}

impl CustomOp3 for StoreHeads<'_> {
    fn name(&self) -> &'static str {
        "store-heads"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("the kernel is for cards")
    }

    fn cuda_fwd(
        &self,
        projected: &CudaStorage,
        layout: &Layout,
        cosines: &CudaStorage,
        cosines_layout: &Layout,
        sines: &CudaStorage,
        sines_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let (groups, angle_rows, half) = cosines_layout.shape().dims3()?;
        let heads = width / (2 * half).max(1);
        let is_whole = width == heads * 2 * half && heads.is_multiple_of(groups.max(1));
        let are_alike = angle_rows == rows && sines_layout.dims() == cosines_layout.dims();
        if !is_whole || !are_alike || self.kv_heads >= heads || self.places.dims() != [2, rows] {
            bail!("cannot rotate {layout:?} by {cosines_layout:?} and {sines_layout:?}")
        }
        let shape = [heads, rows, 2 * half];
        let cosines = (cosines, cosines_layout);
        let sines = (sines, sines_layout);
        let out = match projected.dtype() {
            DType::F32 => self.of::<f32>((projected, layout), cosines, sines, shape),
            DType::BF16 => self.of::<bf16>((projected, layout), cosines, sines, shape),
            DType::F16 => self.of::<f16>((projected, layout), cosines, sines, shape),
            other => bail!("no kernel for {other:?}"),
        };
        Ok((out?, Shape::from((heads - self.kv_heads, rows, 2 * half))))
    }
}

/// Attention of scaled queries `[H, R, E]` to the first positions of their canvases. Asked for are
/// rows, each with its canvas and how many positions it sees `[3, asked]`. `[asked, H·E]`
pub(in crate::model) struct Attend<'a> {
    /// `[2·G, capacity, E]` each
    pub caches: &'a [&'a Tensor],
    /// Groups of heads, G.
    pub groups: usize,
    /// Of what comes out.
    pub dtype: DType,
}

impl Attend<'_> {
    #[allow(unsafe_code)]
    fn of<T: CudaDType + DeviceRepr>(
        &self,
        (queries, layout): Operand<'_>,
        (asked, asked_layout): Operand<'_>,
        number: u32,
    ) -> Result<CudaStorage> {
        let (heads, rows, e) = layout.shape().dims3()?;
        let (three, count) = asked_layout.shape().dims2()?;
        let per_group = heads / self.groups.max(1);
        let is_whole = per_group * self.groups == heads && e.is_multiple_of(4) && three == 3;
        if !is_whole || e > 256 {
            bail!("cannot attend: {layout:?}, {asked_layout:?}")
        }
        let card = queries.device();
        let kernel = kernel!(card, "attend");
        let (caches, _guards) = caches(self.caches, [2 * self.groups, e])?;
        let queries = contiguous!(queries, layout, f32);
        let asked = contiguous!(asked, asked_layout, u32);
        // SAFETY: the kernel writes all of it.
        let out = unsafe { card.alloc::<T>(count * heads * e) }?;
        let launch = LaunchConfig {
            grid_dim: (
                count as u32,
                self.groups as u32,
                per_group.div_ceil(QUERIES) as u32,
            ),
            block_dim: (KEYS, 1, 1),
            shared_mem_bytes: 0,
        };
        let (rows, per_group, width) = (rows as u32, per_group as u32, e as u32);
        let mut builder = kernel.builder();
        builder.arg(&queries).arg(&rows).arg(&per_group).arg(&width);
        builder.arg(&asked).arg(&caches).arg(&number).arg(&out);
        // SAFETY: the arguments are those of the kernel: rows below the number of rows, canvases of
        // which the caches are held, no more positions than these have, and room for every row that
        // is asked for.
        unsafe { builder.launch(launch) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(out, card.clone()))
    }
}

impl CustomOp2 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("the kernel is for cards")
    }

    fn cuda_fwd(
        &self,
        queries: &CudaStorage,
        layout: &Layout,
        asked: &CudaStorage,
        asked_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (queries, asked) = ((queries, layout), (asked, asked_layout));
        let out = match self.dtype {
            DType::F32 => self.of::<f32>(queries, asked, 0),
            DType::BF16 => self.of::<bf16>(queries, asked, 1),
            DType::F16 => self.of::<f16>(queries, asked, 2),
            other => bail!("no kernel for {other:?}"),
        };
        let (heads, _, e) = layout.shape().dims3()?;
        Ok((out?, Shape::from((asked_layout.dims()[1], heads * e))))
    }
}
