//! A tensor as it is stored, and the numbers of it.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{QTensor, ggml_file::qtensor_from_ggml};
use candle_core::{DType, Device, Tensor};

use super::{Bytes, formats};
use crate::kernels::Format;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// As plain floating-point numbers.
    Float(DType),
    /// In llama.cpp's quantized blocks.
    Blocks(Format),
    /// In a type that weights are not stored in.
    Other(String),
}

/// A tensor as it is stored: a part of a mapped file.
#[derive(Clone)]
pub struct StoredTensor {
    /// How its numbers are stored.
    pub stored: Stored,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Arc<Bytes>,
    pub(super) range: Range<usize>,
    /// What an adapter adds: `[n, r]`, scaled, and `[r, k]`.
    pub(super) added: Option<Arc<(Tensor, Tensor)>>,
}

impl StoredTensor {
    /// The bytes as they are stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes.as_ref().as_ref()[self.range.clone()]
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// A copy whose rows are in the order of a rotation that pairs each head's first half with its
    /// second, as checkpoints have them, not neighbours.
    pub(super) fn with_halves(&self, heads: usize) -> candle_core::Result<Self> {
        let rows = self.shape.first().copied().unwrap_or_default();
        let half = rows / heads.max(1) / 2;
        if half == 0 || half * 2 * heads != rows {
            candle_core::bail!("{rows} rows are no {heads} heads")
        }
        let row_bytes = self.range.len() / rows;
        let mut bytes = Vec::with_capacity(self.range.len());
        for row in 0..rows {
            let (head, at) = (row / (2 * half), row % (2 * half));
            let from = head * 2 * half + at % half * 2 + at / half;
            bytes.extend_from_slice(&self.bytes()[from * row_bytes..][..row_bytes]);
        }
        Ok(Self {
            range: 0..bytes.len(),
            bytes: Arc::new(Bytes::Owned(bytes)),
            ..self.clone()
        })
    }

    /// Gives the memory of the mapped pages back after their contents were copied; whoever reads
    /// them again reads the file again.
    pub fn release(&self) {
        self.bytes.release(self.range.clone());
    }

    /// Some consecutive rows of a matrix, or the whole of a vector (its only row), as float32 on
    /// the CPU.
    ///
    /// # Errors
    /// When the rows do not exist.
    pub fn part(&self, rows: Range<usize>) -> candle_core::Result<Tensor> {
        let (count, width) = match *self.shape {
            [count, width] => (count, width),
            _ => return self.load(DType::F32, &Device::Cpu),
        };
        let row_bytes = self.range.len() / count;
        match self
            .bytes()
            .get(rows.start * row_bytes..rows.end * row_bytes)
        {
            Some(bytes) => self
                .decode(bytes, &[rows.len(), width])?
                .to_dtype(DType::F32)
                .and_then(|numbers| {
                    self.changed(numbers, |left| left.narrow(0, rows.start, rows.len()))
                }),
            None => candle_core::bail!("rows {rows:?} of {count}"),
        }
    }

    /// The numbers, as `dtype` on `device`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn load(&self, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let numbers = self.decode(self.bytes(), &self.shape)?;
        self.changed(numbers, |left| Ok(left.clone()))?
            .to_dtype(dtype)?
            .to_device(device)
    }

    /// Some rows of it, in float32 if anything is added to them: `of` takes the same rows of the
    /// first factor.
    fn changed(
        &self,
        numbers: Tensor,
        of: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        match self.added.as_deref() {
            Some((left, right)) => numbers.to_dtype(DType::F32)? + of(left)?.matmul(right)?,
            None => Ok(numbers),
        }
    }

    /// Some rows of a table `[V, D]`, as float32 on the CPU. `[rows, D]`
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn rows(&self, rows: &[u32]) -> candle_core::Result<Tensor> {
        let [count, width] = self.shape[..] else {
            candle_core::bail!("not a table: {:?}", self.shape)
        };
        let row_bytes = self.range.len() / count;
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        for &row in rows {
            let start = row as usize * row_bytes;
            match self.bytes().get(start..start + row_bytes) {
                Some(row) => bytes.extend_from_slice(row),
                None => candle_core::bail!("row {row} of a table with {count}"),
            }
        }
        let numbers = self
            .decode(&bytes, &[rows.len(), width])?
            .to_dtype(DType::F32)?;
        self.changed(numbers, |left| {
            left.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)
        })
    }

    fn decode(&self, bytes: &[u8], shape: &[usize]) -> candle_core::Result<Tensor> {
        match &self.stored {
            Stored::Float(dtype) => Tensor::from_raw_buffer(bytes, *dtype, shape, &Device::Cpu),
            Stored::Blocks(format) => {
                let mut numbers = vec![0.0; shape.iter().product()];
                format.dequantize(bytes, &mut numbers);
                Tensor::from_vec(numbers, shape, &Device::Cpu)
            }
            Stored::Other(name) => candle_core::bail!("{name} is not a type of weights"),
        }
    }
}

/// Quantized blocks on `device`, for the tensor library to compute with; `None` if it does not know
/// the format.
///
/// # Errors
/// When memory runs out.
pub(crate) fn blocks_on(
    format: Format,
    blocks: &[u8],
    shape: &[usize],
    device: &Device,
) -> candle_core::Result<Option<QTensor>> {
    formats::library_type(format)
        .map(|kind| qtensor_from_ggml(kind, blocks, shape.to_vec(), device))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_each_head_come_in_halves() {
        let rows: Vec<u8> = (0..8).collect();
        let stored = StoredTensor {
            stored: Stored::Float(DType::U8),
            shape: vec![8, 1],
            range: 0..rows.len(),
            bytes: Arc::new(Bytes::Owned(rows)),
            added: None,
        };
        let halves = |heads| {
            stored
                .with_halves(heads)
                .map(|turned| turned.bytes().to_vec())
        };
        assert_eq!(halves(1).unwrap(), [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(halves(2).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(halves(4).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        for no_heads in [0, 3, 8, 16] {
            assert!(halves(no_heads).is_err());
        }
    }
}
