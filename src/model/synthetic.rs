//! Random weights in a model's real shapes, for measuring without its files.
//!
//! All tensors of a kind share one piece of random blocks, so that making them takes no time;
//! packing copies it for each, so that what a network then reads is as large as a real model.
//! Scales are such that activations stay finite; the text is nonsense.

use std::collections::HashMap;

use candle_core::DType;

use crate::kernels::Format;
use crate::model::config::Config;
use crate::model::tensors::TensorSpec;
use crate::weights::{Bytes, Checkpoint, Extent, Stored, WeightsError};

/// Spread of the weights.
const DEVIATION: f32 = 0.02;

impl Checkpoint {
    /// A checkpoint of random weights: matrices in blocks of `format`, or bfloat16 where that is
    /// `None` or the blocks do not divide the inputs.
    ///
    /// # Errors
    /// None that a valid configuration causes.
    pub fn synthetic(config: &Config, format: Option<Format>) -> Result<Self, WeightsError> {
        let tensors: Vec<_> = config.tensors().collect();
        let mut pool = Pool::default();
        for tensor in &tensors {
            pool.reserve(Kind::of(tensor, format), &tensor.shape);
        }
        let (bytes, starts) = pool.fill();
        let extents = tensors.into_iter().map(|tensor| {
            let kind = Kind::of(&tensor, format);
            let start = starts[&kind];
            let extent = Extent {
                range: start..start + kind.bytes(&tensor.shape),
                stored: kind.stored(),
                shape: tensor.shape,
                paired_heads: None,
            };
            (tensor.name, extent)
        });
        let mut checkpoint = Self::empty();
        checkpoint.add_file("random weights".to_owned(), Bytes::Owned(bytes), extents)?;
        Ok(checkpoint)
    }
}

/// What a tensor is filled with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Ones,
    Zeros,
    Halves,
    Blocks(Format),
}

impl Kind {
    fn of(tensor: &TensorSpec, format: Option<Format>) -> Self {
        match (&tensor.shape[..], format) {
            (&[_, k], Some(format)) if k.is_multiple_of(format.block_inputs()) => {
                Self::Blocks(format)
            }
            (&[_, _], _) => Self::Halves,
            _ if tensor.name.ends_with("bias") => Self::Zeros,
            _ => Self::Ones,
        }
    }

    fn stored(self) -> Stored {
        match self {
            Self::Ones | Self::Zeros => Stored::Float(DType::F32),
            Self::Halves => Stored::Float(DType::BF16),
            Self::Blocks(format) => Stored::Blocks(format),
        }
    }

    fn bytes(self, shape: &[usize]) -> usize {
        let count: usize = shape.iter().product();
        match self {
            Self::Ones | Self::Zeros => 4 * count,
            Self::Halves => 2 * count,
            Self::Blocks(format) => count / format.block_inputs() * format.block_bytes(),
        }
    }
}

/// One piece of bytes for each kind, as long as its largest tensor.
#[derive(Default)]
struct Pool(HashMap<Kind, usize>);

impl Pool {
    fn reserve(&mut self, kind: Kind, shape: &[usize]) {
        let longest = self.0.entry(kind).or_default();
        *longest = kind.bytes(shape).max(*longest);
    }

    /// The bytes, and where each kind's begin.
    fn fill(self) -> (Vec<u8>, HashMap<Kind, usize>) {
        let (mut bytes, mut starts) = (Vec::new(), HashMap::new());
        for (kind, len) in self.0 {
            starts.insert(kind, bytes.len());
            let end = bytes.len() + len;
            match kind {
                Kind::Ones => bytes.extend(1f32.to_le_bytes().iter().cycle().take(len)),
                Kind::Zeros => bytes.resize(end, 0),
                Kind::Halves => bytes.extend(random_halves(len / 2)),
                Kind::Blocks(format) => {
                    bytes.extend(random_blocks(format, len / format.block_bytes(), DEVIATION));
                }
            }
        }
        (bytes, starts)
    }
}

/// Numbers between -1.7 and 1.7 deviations, as bfloat16.
fn random_halves(count: usize) -> impl Iterator<Item = u8> {
    let mut random = Random(1);
    (0..count).flat_map(move |_| {
        let uniform = f32::from(i16::from_le_bytes([random.byte(), random.byte()])) / 32768.0;
        let bits = (uniform * 1.7 * DEVIATION).to_bits();
        ((bits >> 16) as u16).to_le_bytes()
    })
}

/// Blocks of random quants whose weights spread about zero by this much.
pub fn random_blocks(format: Format, count: usize, deviation: f32) -> Vec<u8> {
    let mut random = Random(1);
    let mut bytes = vec![0u8; count * format.block_bytes()];
    // Where the scales of a block lie, and how many deviations they are. A minimum centres the
    // quants: it is their average (of 4 bits, 7.5), as stored scales and minimums average the same.
    let scales: &[(usize, f32)] = match format {
        Format::Q4_0 => &[(0, 1.0 / 4.6)],
        Format::Q4_1 => &[(0, 1.0 / 4.6), (2, -7.5 / 4.6)],
        Format::Q5_0 => &[(0, 1.0 / 9.2)],
        Format::Q5_1 => &[(0, 1.0 / 9.2), (2, -15.5 / 9.2)],
        Format::Q8_0 => &[(0, 1.0 / 74.0)],
        Format::Q2K => &[(80, 1.0 / 13.9), (82, 1.5 / 13.9)],
        Format::Q3K => &[(108, 1.0 / 43.3)],
        Format::Q4K => &[(0, 1.0 / 258.0), (2, 7.5 / 258.0)],
        Format::Q5K => &[(0, 1.0 / 527.0), (2, 15.5 / 527.0)],
        Format::Q6K => &[(208, 1.0 / 1370.0)],
        Format::Iq4Nl => &[(0, 1.0 / 67.4)],
        Format::Iq4Xs => &[(0, 1.0 / 1246.0)],
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block.fill_with(|| random.byte());
        for &(at, share) in scales {
            let half = half::f16::from_f32(share * deviation);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    bytes
}

/// Knuth's linear congruential generator, upper bits.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_spread_as_they_should() {
        for format in Format::ALL {
            let mut numbers = vec![0f32; 64 * 256];
            let blocks = random_blocks(format, numbers.len() / format.block_inputs(), 0.5);
            format.dequantize(&blocks, &mut numbers);
            let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
            let squares: f32 = numbers.iter().map(|x| (x - mean) * (x - mean)).sum();
            let deviation = (squares / numbers.len() as f32).sqrt();
            assert!(mean.abs() < 0.1, "{format}: mean {mean}");
            assert!((0.4..0.6).contains(&deviation), "{format}: {deviation}");
        }
    }
}
