//! The operations that the network is made of. Nothing else in it computes on the device, so that a
//! test can count what a forward launches there: at the few rows of a pass, launches cost more than
//! what they do.

use candle_core::quantized::QMatMul;
use candle_core::{D, DType, Device, Result, Tensor, WithDType};
use candle_nn::{Module, RmsNorm, ops, rotary_emb};
use rayon::prelude::*;

use crate::diffusion::{Asked, Predicted, Summary};
#[cfg(feature = "cuda")]
use crate::model::card::{self, Kept};

#[cfg(test)]
thread_local! {
    /// Kernels and products that this thread would have launched on a GPU.
    pub(super) static LAUNCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Some launches more.
fn launches(_count: usize) {
    #[cfg(test)]
    LAUNCHES.set(LAUNCHES.get() + _count);
}

/// What kernels of our own do in so many launches, by operations that are more.
pub(super) fn as_launches<T>(_count: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(test)]
    let before = LAUNCHES.get();
    let done = work();
    #[cfg(test)]
    LAUNCHES.set(before + _count);
    done
}

/// A tensor. Its first methods are views, which launch nothing.
#[derive(Clone)]
pub(super) struct Array(Tensor);

/// What is there already.
impl From<Tensor> for Array {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}

impl Array {
    /// Numbers from the host.
    pub fn upload<T: WithDType>(numbers: Vec<T>, shape: &[usize], device: &Device) -> Result<Self> {
        Tensor::from_vec(numbers, shape, device).map(Self)
    }

    pub fn dim(&self, dim: usize) -> Result<usize> {
        self.0.dim(dim)
    }

    pub fn dims(&self) -> &[usize] {
        self.0.dims()
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Self> {
        self.0.narrow(dim, start, len).map(Self)
    }

    pub fn transpose(&self, one: usize, other: usize) -> Result<Self> {
        self.0.transpose(one, other).map(Self)
    }

    pub fn broadcast_as(&self, shape: &[usize]) -> Result<Self> {
        self.0.broadcast_as(shape).map(Self)
    }

    /// A view, but for what is not contiguous.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        self.contiguous()?.0.reshape(shape).map(Self)
    }

    pub fn contiguous(&self) -> Result<Self> {
        launches(usize::from(!self.0.is_contiguous()));
        self.0.contiguous().map(Self)
    }

    /// What is of another type becomes contiguous, too.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        launches(usize::from(self.dtype() != dtype));
        self.0.to_dtype(dtype).map(Self)
    }

    /// Zeros of the same type, where this is.
    pub fn zeros(&self, shape: &[usize]) -> Result<Self> {
        launches(1);
        Tensor::zeros(shape, self.dtype(), self.0.device()).map(Self)
    }

    /// One launch each, if there are several.
    pub fn cat(arrays: &[Self], dim: usize) -> Result<Self> {
        launches(if arrays.len() > 1 { arrays.len() } else { 0 });
        let tensors: Vec<&Tensor> = arrays.iter().map(|array| &array.0).collect();
        Tensor::cat(&tensors, dim).map(Self)
    }

    pub fn index_select(&self, indices: &Self, dim: usize) -> Result<Self> {
        launches(1);
        self.0.index_select(&indices.0, dim).map(Self)
    }

    /// The sum, contiguous; what one side lacks is repeated.
    pub fn add(&self, other: &Self) -> Result<Self> {
        launches(1);
        self.0.broadcast_add(&other.0).map(Self)
    }

    /// The product element by element, as [`Self::add`].
    pub fn mul(&self, other: &Self) -> Result<Self> {
        launches(1);
        self.0.broadcast_mul(&other.0).map(Self)
    }

    pub fn cos(&self) -> Result<Self> {
        launches(1);
        self.0.cos().map(Self)
    }

    pub fn sin(&self) -> Result<Self> {
        launches(1);
        self.0.sin().map(Self)
    }

    /// SwiGLU of rows that hold gate and up side by side: `silu(gate) · up`. `[R, 2·F]` to `[R, F]`
    pub fn swiglu(&self, is_fused: bool) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if is_fused && self.0.device().is_cuda() {
            return card::swiglu(&self.0).map(Self);
        }
        let in_two = || {
            let width = self.dim(1)? / 2;
            let gate = self.narrow(1, 0, width)?.silu()?;
            gate.mul(&self.narrow(1, width, width)?)
        };
        if is_fused {
            as_launches(1, in_two)
        } else {
            in_two()
        }
    }

    /// The sum with another of the same shape, and its norm. `[R, D]` each
    pub fn add_norm(&self, delta: &Self, norm: &RmsNorm, is_fused: bool) -> Result<[Self; 2]> {
        #[cfg(feature = "cuda")]
        if is_fused && self.0.device().is_cuda() {
            let both = card::add_norm(&self.0, &delta.0, norm.weight(), norm.eps() as f32)?;
            return Ok([Self(both.get(0)?), Self(both.get(1)?)]);
        }
        let in_two = || {
            let sum = self.add(delta)?;
            let normed = sum.normed(norm)?;
            Ok([sum, normed])
        };
        if is_fused {
            as_launches(1, in_two)
        } else {
            in_two()
        }
    }

    /// Of products `[R, (H + 2·G)·E]` on a card, the keys and values put in the caches of their
    /// canvases, and the attention of the rows that are asked for. `[asked, H·E]`
    #[cfg(feature = "cuda")]
    pub fn attended_at_once(
        &self,
        bias: Option<&Self>,
        [cosines, sines]: [&Self; 2],
        [places, asked]: [&Self; 2],
        caches: &[&Self],
        groups: usize,
    ) -> Result<Self> {
        let caches: Vec<&Tensor> = caches.iter().map(|cache| &cache.0).collect();
        let kept = Kept {
            caches: &caches,
            places: &places.0,
            groups,
        };
        let bias = bias.map(|bias| &bias.0);
        let queries = card::store_heads(&self.0, bias, [&cosines.0, &sines.0], &kept)?;
        card::attend(&queries, &asked.0, &kept, self.dtype()).map(Self)
    }

    pub fn softmax(&self) -> Result<Self> {
        launches(1);
        ops::softmax_last_dim(&self.0).map(Self)
    }

    fn silu(&self) -> Result<Self> {
        launches(1);
        self.0.silu().map(Self)
    }

    pub fn normed(&self, norm: &RmsNorm) -> Result<Self> {
        let xs = self.contiguous()?;
        launches(1);
        norm.forward(&xs.0).map(Self)
    }

    /// Rotary embedding of contiguous heads `[B, H, T, E]` by `[B, T, E / 2]`.
    pub fn rotated(&self, cos: &Self, sin: &Self) -> Result<Self> {
        launches(1);
        rotary_emb::rope(&self.0, &cos.0, &sin.0).map(Self)
    }

    /// The product with a transposed matrix, or with one for each of a batch. The tensor library
    /// has none for bf16 on the CPU, so there the factors are widened.
    pub fn matmul_t(&self, other: &Self) -> Result<Self> {
        self.product(&other.0.transpose(D::Minus2, D::Minus1)?)
    }

    /// The product of each of a batch of matrices with another.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        self.product(&other.0)
    }

    fn product(&self, other: &Tensor) -> Result<Self> {
        launches(1);
        if self.dtype() == DType::BF16 && self.0.device().is_cpu() {
            let product = self.0.to_dtype(DType::F32)?;
            let product = product.matmul(&other.to_dtype(DType::F32)?)?;
            return product.to_dtype(DType::BF16).map(Self);
        }
        self.0.matmul(other).map(Self)
    }

    /// The product with quantized blocks, for which the input is quantized, too.
    pub fn matmul_blocks(&self, weight: &QMatMul) -> Result<Self> {
        launches(match weight {
            QMatMul::QTensor(_) => 2,
            QMatMul::Tensor(_) => 1,
            QMatMul::TensorF16(_) => 3, // casts
        });
        weight.forward(&self.0).map(Self)
    }

    /// Overwrites a run of contiguous rows.
    pub fn set_run(&self, rows: &Self, dim: usize, start: usize) -> Result<()> {
        launches(1);
        self.0.slice_set(&rows.0, dim, start)
    }

    /// Overwrites the places that `indices`, of the shape of the contiguous `rows`, name.
    pub fn set_each(&self, indices: &Self, rows: &Self, dim: usize) -> Result<()> {
        launches(1);
        self.0.scatter_set(&indices.0, &rows.0, dim)
    }

    /// What `asked` is about these rows of logits `[positions, V]`, to the host; those rows whole
    /// of which it cannot be told from their summaries.
    pub fn download_likely(&self, asked: &Asked, predicted: &mut Predicted) -> Result<()> {
        let Some(summaries) = self.summaries(asked)? else {
            return self.download(&mut predicted.logits);
        };
        let likely = |summary: &Option<Summary>| summary.as_ref()?.likely(asked);
        predicted.likely = summaries.par_iter().map(likely).collect();
        let whole = (0u32..).zip(&predicted.likely);
        let whole = whole.filter_map(|(row, likely)| likely.is_none().then_some(row));
        let whole: Vec<u32> = whole.collect();
        if whole.is_empty() {
            predicted.logits.clear();
            return Ok(());
        }
        let count = whole.len();
        let rows = Self::upload(whole, &[count], self.0.device())?;
        self.index_select(&rows, 0)?.download(&mut predicted.logits)
    }

    /// Each row in short; `None` of a device for which there is no kernel. Of a row that is not
    /// finite there is no summary.
    pub fn summaries(&self, asked: &Asked) -> Result<Option<Vec<Option<Summary>>>> {
        launches(1);
        let logits = self.contiguous()?.0;
        match logits.device() {
            Device::Cpu => {
                let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
                let rows = rows.par_iter().zip(&asked.barred);
                let summary =
                    |(row, &barred): (&Vec<f32>, _)| Summary::of(row, barred, asked.divisors());
                Ok(Some(rows.map(summary).collect()))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => card::summaries(&logits, asked).map(Some),
            _ => Ok(None),
        }
    }

    /// All numbers, to the host, in the place of those that are there: a pass of many rows brings
    /// hundreds of megabytes, and fresh memory for them costs more than the copy.
    pub fn download(&self, numbers: &mut Vec<f32>) -> Result<()> {
        let contiguous = self.contiguous()?.0;
        #[cfg(feature = "cuda")]
        if card::download(&contiguous, numbers)? {
            return Ok(());
        }
        *numbers = contiguous.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(())
    }
}
