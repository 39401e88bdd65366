//! Kernels of our own, for what the tensor library takes several launches.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, bail,
};
use half::{bf16, f16};

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

/// SwiGLU of rows that hold gate and up side by side: `silu(gate) · up`. `[R, 2·F]` to `[R, F]`
pub(in crate::model) struct SwiGlu;

impl SwiGlu {
    #[allow(unsafe_code)]
    fn of<T: CudaDType + DeviceRepr>(both: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
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
        // SAFETY: the arguments are those of the kernel: `rows` rows of twice the width, and room
        // for as many of the width.
        unsafe { builder.launch(blocks(width.div_ceil(THREADS as usize), rows)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(out, card.clone()))
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("the kernel is for cards")
    }

    fn cuda_fwd(&self, both: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let out = match both.dtype() {
            DType::F32 => Self::of::<f32>(both, layout),
            DType::BF16 => Self::of::<bf16>(both, layout),
            DType::F16 => Self::of::<f16>(both, layout),
            other => bail!("no kernel for {other:?}"),
        };
        let (rows, both_width) = layout.shape().dims2()?;
        Ok((out?, Shape::from((rows, both_width / 2))))
    }
}

/// The sum of two arrays of rows `[R, D]`, and behind it its RMS norm with a weight `[D]`.
/// `[2, R, D]`
pub(in crate::model) struct AddNorm {
    pub eps: f32,
}

/// Numbers, and where they are among those of a storage.
pub(super) type Operand<'a> = (&'a CudaStorage, &'a Layout);

impl AddNorm {
    #[allow(unsafe_code)]
    fn of<T: CudaDType + DeviceRepr>(
        &self,
        (xs, layout): Operand<'_>,
        (delta, delta_layout): Operand<'_>,
        (weight, weight_layout): Operand<'_>,
    ) -> Result<CudaStorage> {
        let (rows, width) = layout.shape().dims2()?;
        if layout.dims() != delta_layout.dims() || weight_layout.dims() != [width] {
            bail!("cannot add and norm {layout:?}, {delta_layout:?}, {weight_layout:?}")
        }
        let card = xs.device();
        let kernel = kernel!(card, "add_norm", xs.dtype());
        let xs = contiguous!(xs, layout, T);
        let delta = contiguous!(delta, delta_layout, T);
        let weight = contiguous!(weight, weight_layout, T);
        // SAFETY: the kernel writes all of it.
        let out = unsafe { card.alloc::<T>(2 * rows * width) }?;
        let per_row = width as u32;
        let mut builder = kernel.builder();
        builder.arg(&xs).arg(&delta).arg(&weight);
        builder.arg(&per_row).arg(&self.eps).arg(&out);
        // SAFETY: the arguments are those of the kernel: `rows` rows of this width twice, a weight
        // of the width, and room for twice the rows.
        unsafe { builder.launch(blocks(rows, 1)) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(out, card.clone()))
    }
}

impl CustomOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add-norm"
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
        xs: &CudaStorage,
        layout: &Layout,
        delta: &CudaStorage,
        delta_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let operands = ((xs, layout), (delta, delta_layout), (weight, weight_layout));
        let (xs, delta, weight) = operands;
        let out = match xs.0.dtype() {
            DType::F32 => self.of::<f32>(xs, delta, weight),
            DType::BF16 => self.of::<bf16>(xs, delta, weight),
            DType::F16 => self.of::<f16>(xs, delta, weight),
            other => bail!("no kernel for {other:?}"),
        };
        let (rows, width) = layout.shape().dims2()?;
        Ok((out?, Shape::from((2, rows, width))))
    }
}
