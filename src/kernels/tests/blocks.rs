//! Stored matrices of every format, random and extreme.

use super::super::{BLOCK, Format};
use std::ops::Range;

/// A small generator of pseudo-random numbers: splitmix64.
struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// How the bytes of a matrix are filled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Random,
    /// Every quant byte the same: 0x00 and 0xff are the ends of the unsigned formats, 0x80 and 0x7f
    /// those of Q8_0.
    Quants(u8),
    /// Scales from subnormal to the largest finite.
    WildScales,
    Zero,
}

pub(super) const FILLS: [Fill; 7] = [
    Fill::Random,
    Fill::Quants(0),
    Fill::Quants(0xff),
    Fill::Quants(0x80),
    Fill::Quants(0x7f),
    Fill::WildScales,
    Fill::Zero,
];

/// Where a stored block keeps half-precision numbers: the scale, then what is taken off.
pub(super) fn halves_of(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
    }
}

/// Where its quants lie.
fn quants_of(format: Format) -> Range<usize> {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl => 2..format.block_bytes(),
        Format::Q4_1 | Format::Q5_1 => 4..format.block_bytes(),
        Format::Q2K => 16..80,
        Format::Q3K => 0..96,
        Format::Q4K | Format::Q5K => 16..format.block_bytes(),
        Format::Q6K => 0..192,
        Format::Iq4Xs => 8..136,
    }
}

pub(super) fn matrix(format: Format, n: usize, k: usize, fill: Fill, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; n * k / format.block_inputs() * format.block_bytes()];
    if matches!(fill, Fill::Zero) {
        return bytes;
    }
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block.fill_with(|| random.byte());
        if let Fill::Quants(byte) = fill {
            block[quants_of(format)].fill(byte);
        }
        for &at in halves_of(format) {
            let bits = match fill {
                // Any half but infinities and NaN.
                Fill::WildScales => match random.next() as u16 {
                    bits if bits & 0x7c00 == 0x7c00 => bits & 0x83ff,
                    bits => bits,
                },
                // Between 2^-10 and 2^-5, either sign.
                Fill::Random | Fill::Quants(_) | Fill::Zero => {
                    (random.next() as u16 & 0x83ff) | ((5 + (random.next() % 5) as u16) << 10)
                }
            };
            block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        }
    }
    bytes
}

/// Rows of very different sizes; some zero, some blocks zero, some with equal values at the ends of
/// the range.
pub(super) fn activations(rows: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut values = vec![0.0; rows * k];
    for (row, values) in values.chunks_exact_mut(k).enumerate() {
        for (b, values) in values.chunks_exact_mut(BLOCK).enumerate() {
            match (row + b + seed as usize) % 7 {
                0 => {}
                1 => values.fill(3.0),
                2 => values.fill(-3.0),
                3 => values.fill_with(|| random.unit() * 1e30),
                4 => values.fill_with(|| random.unit() * 1e-30),
                _ => values.fill_with(|| random.unit()),
            }
        }
    }
    values
}

/// The values of a matrix.
pub(super) fn dequantize(format: Format, bytes: &[u8]) -> Vec<f64> {
    let mut values = vec![0.0; bytes.len() / format.block_bytes() * format.block_inputs()];
    format.dequantize(bytes, &mut values);
    values.into_iter().map(f64::from).collect()
}
