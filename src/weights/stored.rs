//! A tensor as it is stored, and the numbers of it.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{QTensor, ggml_file::qtensor_from_ggml};
use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

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

    /// Some consecutive rows of a matrix, or the whole of a vector (its only row), as float32.
    ///
    /// # Errors
    /// When the rows do not exist.
    pub fn part(&self, rows: Range<usize>) -> candle_core::Result<Vec<f32>> {
        let (count, width) = match *self.shape {
            [count, width] => (count, width),
            _ => (1, self.shape.iter().product()),
        };
        let row_bytes = self.range.len() / count;
        let bytes = rows.start * row_bytes..rows.end * row_bytes;
        let Some(bytes) = self.bytes().get(bytes) else {
            candle_core::bail!("rows {rows:?} of {count}")
        };
        let numbers = self.decode(bytes, rows.len() * width, <[f32]>::copy_from_slice)?;
        self.changed(numbers, |left| left.narrow(0, rows.start, rows.len()))
    }

    /// The numbers, as `dtype` on `device`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn load(&self, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let (shape, cpu) = (self.shape(), &Device::Cpu);
        let (bytes, count) = (self.bytes(), shape.iter().product());
        let is_changed = self.added.is_some();
        let numbers = match dtype {
            _ if !is_changed && self.stored == Stored::Float(dtype) => {
                Tensor::from_raw_buffer(bytes, dtype, shape, cpu)
            }
            DType::F16 if !is_changed => {
                let halves = self.decode(bytes, count, <[f16]>::convert_from_f32_slice)?;
                Tensor::from_vec(halves, shape, cpu)
            }
            DType::BF16 if !is_changed => {
                let halves = self.decode(bytes, count, <[bf16]>::convert_from_f32_slice)?;
                Tensor::from_vec(halves, shape, cpu)
            }
            _ => {
                let numbers = self.decode(bytes, count, <[f32]>::copy_from_slice)?;
                let numbers = self.changed(numbers, |left| Ok(left.clone()))?;
                Tensor::from_vec(numbers, shape, cpu)?.to_dtype(dtype)
            }
        };
        numbers?.to_device(device)
    }

    /// With what is added to some rows `[rows, k]`: `of` takes the same rows of the first factor.
    fn changed(
        &self,
        numbers: Vec<f32>,
        of: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Vec<f32>> {
        match self.added.as_deref() {
            Some((left, right)) => {
                let added = of(left)?.matmul(right)?;
                let sum = Tensor::from_vec(numbers, added.shape(), &Device::Cpu)? + added;
                sum?.flatten_all()?.to_vec1()
            }
            None => Ok(numbers),
        }
    }

    /// Some rows of a table `[V, D]`, as float32. `[rows, D]`
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn rows(&self, rows: &[u32]) -> candle_core::Result<Vec<f32>> {
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
        let numbers = self.decode(&bytes, rows.len() * width, <[f32]>::copy_from_slice)?;
        self.changed(numbers, |left| {
            left.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)
        })
    }

    /// What `round` makes of the `count` numbers in `bytes`, on all threads and a few at a time, so
    /// that they are never all there as float32.
    fn decode<T: Copy + Default + Send>(
        &self,
        bytes: &[u8],
        count: usize,
        round: impl Fn(&mut [T], &[f32]) + Sync,
    ) -> candle_core::Result<Vec<T>> {
        const PIECE: usize = 1 << 14; // whole blocks of every format
        let mut found = vec![T::default(); count];
        let piece_bytes = (PIECE * bytes.len() / count.max(1)).max(1);
        let pieces = found
            .par_chunks_mut(PIECE)
            .zip(bytes.par_chunks(piece_bytes));
        pieces.try_for_each_init(Vec::new, |numbers, (found, bytes)| {
            numbers.resize(found.len(), 0.0);
            self.stored.read(bytes, numbers)?;
            round(found, numbers);
            Ok::<_, candle_core::Error>(())
        })?;
        Ok(found)
    }
}

impl Stored {
    /// The numbers of whole blocks.
    fn read(&self, bytes: &[u8], numbers: &mut [f32]) -> candle_core::Result<()> {
        match self {
            Self::Float(DType::F32) => {
                for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            }
            Self::Float(DType::BF16) => {
                for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks().0) {
                    *number = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Self::Float(DType::F16) => {
                let halves = bytes.as_chunks().0.iter();
                let halves: Vec<f16> = halves.map(|bytes| f16::from_le_bytes(*bytes)).collect();
                halves.convert_to_f32_slice(numbers); // by the processor, where it can
            }
            Self::Blocks(format) => format.dequantize(bytes, numbers),
            Self::Float(other) => candle_core::bail!("{} is not a type of weights", other.as_str()),
            Self::Other(name) => candle_core::bail!("{name} is not a type of weights"),
        }
        Ok(())
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

    #[test]
    fn numbers_of_every_type_are_those_that_are_stored() {
        let cpu = &Device::Cpu;
        let (rows, width) = (5, 7001); // more than are decoded at a time, and a rest
        let numbers = (0..rows * width).map(|i| (i as f32 - 17_000.0) * 0.37 + 1e-7);
        let numbers: Vec<f32> = numbers.collect();
        let of = |dtype, stored: Vec<u8>| StoredTensor {
            stored: Stored::Float(dtype),
            shape: vec![rows, width],
            range: 1..stored.len() + 1, // files align nothing
            bytes: Arc::new(Bytes::Owned([vec![0], stored].concat())),
            added: None,
        };
        let bytes = |each: &dyn Fn(f32) -> Vec<u8>| numbers.iter().flat_map(|&x| each(x)).collect();
        let float32 = of(DType::F32, bytes(&|x| x.to_le_bytes().into()));
        let float16 = of(
            DType::F16,
            bytes(&|x| f16::from_f32(x).to_le_bytes().into()),
        );
        let bfloat16 = of(
            DType::BF16,
            bytes(&|x| bf16::from_f32(x).to_le_bytes().into()),
        );
        let as_stored: [(_, &dyn Fn(f32) -> f32); 3] = [
            (float32, &|x| x),
            (float16, &|x| f16::from_f32(x).to_f32()),
            (bfloat16, &|x| bf16::from_f32(x).to_f32()),
        ];
        for (stored, held) in as_stored {
            let held: Vec<f32> = numbers.iter().map(|&x| held(x)).collect();
            assert_eq!(stored.part(0..rows).unwrap(), held);
            assert_eq!(stored.part(3..4).unwrap(), held[3 * width..4 * width]);
            assert!(stored.part(4..6).is_err());
            let [third, first] = [2, 0].map(|row| &held[row * width..][..width]);
            assert_eq!(stored.rows(&[2, 0]).unwrap(), [third, first].concat());
            assert!(stored.rows(&[5]).is_err());
            for (dtype, rounded) in [
                (DType::F32, (|x| x) as fn(f32) -> f32),
                (DType::F16, |x| f16::from_f32(x).to_f32()),
                (DType::BF16, |x| bf16::from_f32(x).to_f32()),
            ] {
                let loaded = stored.load(dtype, cpu).unwrap();
                assert_eq!((loaded.dtype(), loaded.dims()), (dtype, &[rows, width][..]));
                let loaded = loaded.to_dtype(DType::F32).unwrap();
                let loaded: Vec<f32> = loaded.flatten_all().unwrap().to_vec1().unwrap();
                let expected: Vec<f32> = held.iter().copied().map(rounded).collect();
                assert_eq!(loaded, expected, "{:?} as {dtype:?}", stored.stored);
            }
        }
        assert!(of(DType::U8, vec![0; rows * width]).part(0..1).is_err());
    }
}
