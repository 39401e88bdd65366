//! Matrix products with weights: the only place that knows how weights are stored.

use candle_core::quantized::QMatMul;
use candle_core::{DType, Device, Result, Storage, Tensor};
use candle_nn::Module;
use rayon::prelude::*;

use crate::kernels::{Activations, BLOCK, Isa, PANEL, PackedMatrix, copy_rows, matmul_panels};

/// `y = x · Wᵀ + b`
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Tensor>, // [outputs]
}

/// A weight matrix `[outputs, inputs]`.
pub(super) enum Weight {
    /// Floating-point numbers.
    Dense(Tensor),
    /// Quantised blocks, packed for our own kernels.
    Packed(PackedMatrix, Isa),
    /// Quantised blocks in the tensor library's keeping: GPUs, and formats without a kernel here.
    Blocks(QMatMul),
}

impl Linear {
    pub fn new(weight: Weight, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `[T, inputs]` to `[T, outputs]`
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = match &self.weight {
            Weight::Dense(weight) => matmul(xs, &weight.t()?)?,
            Weight::Packed(weight, isa) => packed_product(*isa, weight, xs)?,
            Weight::Blocks(weight) => weight.forward(xs)?,
        };
        match &self.bias {
            Some(bias) => ys.broadcast_add(bias),
            None => Ok(ys),
        }
    }
}

/// A matrix product in any precision: the tensor library has none for bf16 on the CPU, so there the
/// factors are widened.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        let product = a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?;
        return product.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

/// The product on all threads, which share the activations and take pairs of panels each.
fn packed_product(isa: Isa, weight: &PackedMatrix, xs: &Tensor) -> Result<Tensor> {
    let (rows, inputs) = xs.dims2()?;
    let mut activations = Activations::new();
    activations.resize(rows, inputs);
    {
        let xs = xs.contiguous()?;
        let (storage, layout) = xs.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("packed weights are multiplied on the CPU")
        };
        let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..rows * inputs];
        let blocks = rows * inputs / BLOCK;
        let parts: Vec<_> = activations.parts_mut(share(blocks, 64)).collect();
        parts
            .into_par_iter()
            .for_each(|part| part.quantise(isa, values));
    }

    let panel_len = rows * PANEL;
    let panels = share(weight.panels(), 2);
    let mut product = vec![0f32; weight.panels() * panel_len];
    product
        .par_chunks_mut(panels * panel_len)
        .enumerate()
        .for_each(|(task, out)| {
            let first = task * panels;
            matmul_panels(
                isa,
                weight,
                &activations,
                first..first + out.len() / panel_len,
                out,
            );
        });

    let outputs = weight.n();
    let mut out = vec![0f32; rows * outputs];
    let rows_each = share(rows, 16);
    out.par_chunks_mut(rows_each * outputs)
        .enumerate()
        .for_each(|(task, out)| {
            copy_rows(&product, rows, outputs, task * rows_each, out);
        });
    Tensor::from_vec(out, (rows, outputs), &Device::Cpu)
}

/// How many of `count` things one task takes, in multiples of `unit`: a few tasks a thread, so that
/// a thread that is held up does not hold the others up.
fn share(count: usize, unit: usize) -> usize {
    const TASKS_PER_THREAD: usize = 4;
    count
        .div_ceil(rayon::current_num_threads() * TASKS_PER_THREAD)
        .next_multiple_of(unit)
}
