//! Kernels of our own, for what the tensor library takes several launches.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail,
};

/// Made of `kernels.cu`. The driver compiles it for the card that it finds.
pub(super) const PTX: &str = include_str!("kernels.ptx");

/// Threads of a block, as the kernels have them.
pub(super) const THREADS: u32 = 512;

/// A kernel by its name, or that for numbers of a type: float32, bfloat16 or float16.
macro_rules! kernel {
    ($card:expr, $name:literal, $dtype:expr) => {
        kernel!($card, &format!("{}_{}", $name, $dtype.as_str()))
    };
    ($card:expr, $name:expr) => {
        $card.get_or_load_custom_func($name, "diffucoder", $crate::model::card::kernels::PTX)?
    };
}
pub(super) use kernel;

/// So many blocks of threads.
pub(super) fn blocks(x: usize, y: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// A part of the memory of a contiguous tensor.
macro_rules! contiguous {
    ($storage:expr, $layout:expr, $number:ty) => {{
        let layout: &Layout = $layout;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("not contiguous: {layout:?}")
        };
        $storage.as_cuda_slice::<$number>()?.slice(start..end)
    }};
}
pub(super) use contiguous;

/// A function of the numbers' type, by what type it is.
macro_rules! by_type {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::BF16 => $function::<half::bf16>($($argument),*),
            candle_core::DType::F16 => $function::<half::f16>($($argument),*),
            other => bail!("no kernel for {other:?}"),
        }
    };
}
pub(super) use by_type;

/// The memory of a tensor that is on a card.
pub(super) fn on_card(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("a tensor is not on the card"),
    }
}

/// What is made of a tensor on a card.
pub(super) fn made_of<F>(tensor: &Tensor, make: F) -> Result<Tensor>
where
    F: Fn(&CudaStorage, &Layout) -> Result<(CudaStorage, Shape)>,
{
    struct Made<F>(F);
    impl<F: Fn(&CudaStorage, &Layout) -> Result<(CudaStorage, Shape)>> CustomOp1 for Made<F> {
        fn name(&self) -> &'static str {
            "kernel"
        }

        fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            bail!("the kernel is for cards")
        }

        fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
            (self.0)(storage, layout)
        }
    }
    tensor.apply_op1_no_bwd(&Made(make))
}

/// SwiGLU of rows that hold gate and up side by side: `silu(gate) · up`. `[R, 2·F]` to `[R, F]`
pub(in crate::model) fn swiglu(both: &Tensor) -> Result<Tensor> {
    made_of(both, |storage, layout| {
        by_type!(storage.dtype(), swiglu_of(storage, layout))
    })
}

#[allow(unsafe_code)]
fn swiglu_of<T>(both: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)>
where
    T: CudaDType + DeviceRepr,
{
    let (rows, both_width) = layout.shape().dims2()?;
    let width = both_width / 2;
    let card = both.device();
    let kernel = kernel!(card, "swiglu", both.dtype());
    let both = contiguous!(both, layout, T);
    // SAFETY: the kernel writes all of it.
    let out = unsafe { card.alloc::<T>(rows * width) }?;
    let per_row = width as u32;
    let mut builder = kernel.builder();
    builder.arg(&both).arg(&per_row).arg(&out);
    // SAFETY: the arguments are those of the kernel: `rows` rows of twice the width, and room for as
    // many of the width.
    unsafe { builder.launch(blocks(rows, width.div_ceil(THREADS as usize))) }.w()?;
    let out = CudaStorage::wrap_cuda_slice(out, card.clone());
    Ok((out, Shape::from((rows, width))))
}

/// The sum of two arrays of rows `[R, D]`, and behind it its RMS norm with a weight `[D]`.
/// `[2, R, D]`
pub(in crate::model) fn add_norm(
    xs: &Tensor,
    delta: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor> {
    made_of(xs, |storage, layout| {
        let xs = (storage, layout);
        by_type!(storage.dtype(), add_norm_of(xs, delta, weight, eps))
    })
}

#[allow(unsafe_code)]
fn add_norm_of<T: CudaDType + DeviceRepr>(
    (xs, layout): (&CudaStorage, &Layout),
    delta: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<(CudaStorage, Shape)> {
    let (rows, width) = layout.shape().dims2()?;
    let (delta, delta_layout) = delta.storage_and_layout();
    let (weight, weight_layout) = weight.storage_and_layout();
    if layout.dims() != delta_layout.dims() || weight_layout.dims() != [width] {
        bail!("cannot add and norm {layout:?}, {delta_layout:?}, {weight_layout:?}")
    }
    let card = xs.device();
    let kernel = kernel!(card, "add_norm", xs.dtype());
    let xs = contiguous!(xs, layout, T);
    let delta = contiguous!(on_card(&delta)?, delta_layout, T);
    let weight = contiguous!(on_card(&weight)?, weight_layout, T);
    // SAFETY: the kernel writes all of it.
    let out = unsafe { card.alloc::<T>(2 * rows * width) }?;
    let per_row = width as u32;
    let mut builder = kernel.builder();
    builder.arg(&xs).arg(&delta).arg(&weight);
    builder.arg(&per_row).arg(&eps).arg(&out);
    // SAFETY: the arguments are those of the kernel: `rows` rows of this width twice, a weight of the
    // width, and room for twice the rows.
    unsafe { builder.launch(blocks(rows, 1)) }.w()?;
    let out = CudaStorage::wrap_cuda_slice(out, card.clone());
    Ok((out, Shape::from((2, rows, width))))
}
