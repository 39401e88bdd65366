//! Stored matrices of every format, random and extreme, and the values they stand for as llama.cpp
//! documents them.

use super::super::{BLOCK, Format, packed};
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

/// Where a stored block keeps half-precision numbers.
pub(super) fn halves_of(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q8_0 => &[0],
        Format::Q4K => &[0, 2],
        Format::Q6K => &[208],
    }
}

/// Where its quants lie.
pub(super) fn quants_of(format: Format) -> Range<usize> {
    match format {
        Format::Q4_0 => 2..18,
        Format::Q8_0 => 2..34,
        Format::Q4K => 16..144,
        Format::Q6K => 0..192,
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

/// The values of a matrix, straight from the formats' description.
pub(super) fn dequantize(format: Format, bytes: &[u8]) -> Vec<f64> {
    let half = |block: &[u8], at: usize| {
        f64::from(packed::half_to_f32(u16::from_le_bytes([
            block[at],
            block[at + 1],
        ])))
    };
    let mut values = Vec::new();
    for block in bytes.chunks_exact(format.block_bytes()) {
        match format {
            Format::Q4_0 => {
                let q = |i: usize| {
                    if i < 16 {
                        block[2 + i] & 15
                    } else {
                        block[2 + i - 16] >> 4
                    }
                };
                values.extend((0..32).map(|i| half(block, 0) * (f64::from(q(i)) - 8.0)));
            }
            Format::Q8_0 => {
                values.extend((0..32).map(|i| half(block, 0) * f64::from(block[2 + i] as i8)))
            }
            Format::Q4K => {
                let (s, q) = (&block[4..16], &block[16..]);
                for j in 0..8 {
                    let (scale, min) = match j {
                        0..4 => (s[j] & 63, s[j + 4] & 63),
                        _ => (
                            (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4),
                            (s[j + 4] >> 4) | ((s[j] >> 6) << 4),
                        ),
                    };
                    values.extend(q[32 * (j / 2)..][..32].iter().map(|byte| {
                        let q = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
                        half(block, 0) * f64::from(scale) * f64::from(q)
                            - half(block, 2) * f64::from(min)
                    }));
                }
            }
            Format::Q6K => {
                let mut y = [0.0; 256];
                for h in 0..2 {
                    let (ql, qh, s) = (
                        &block[64 * h..],
                        &block[128 + 32 * h..],
                        &block[192 + 8 * h..],
                    );
                    for l in 0..32 {
                        let q = [
                            (ql[l] & 15) | ((qh[l] & 3) << 4),
                            (ql[l + 32] & 15) | (((qh[l] >> 2) & 3) << 4),
                            (ql[l] >> 4) | (((qh[l] >> 4) & 3) << 4),
                            (ql[l + 32] >> 4) | (((qh[l] >> 6) & 3) << 4),
                        ];
                        for (part, q) in q.into_iter().enumerate() {
                            let scale = f64::from(s[l / 16 + 2 * part] as i8);
                            y[128 * h + 32 * part + l] =
                                half(block, 208) * scale * (f64::from(q) - 32.0);
                        }
                    }
                }
                values.extend(y);
            }
        }
    }
    values
}
