//! What a stored block says: its quants, its scales, and the numbers that they stand for.
//!
//! Source: the block structures in ggml's `ggml-common.h`, and what `ggml-quants.c` makes of them.

use super::format::{BLOCK, BlockFormat, Format, Scaling, with_format};

/// The `t`-th 4 of the 32 quants of block `s` of a stored block, a byte each, without sign.
#[inline(always)]
pub(super) fn word<F: BlockFormat>(block: &[u8], s: usize, t: usize) -> u32 {
    let at = |at: usize| word_at(block, at);
    // Nibbles: 16 bytes hold the first 16 inputs low, the others high; or 32 bytes two blocks.
    let within = |from: usize| (at(from + 4 * (t % 4)) >> (4 * (t / 4))) & 0x0f0f_0f0f;
    let across = |from: usize| (at(from + 32 * (s / 2) + 4 * t) >> (4 * (s % 2))) & 0x0f0f_0f0f;
    let pairs = |from: usize| (at(from + 32 * (s / 4) + 4 * t) >> (2 * (s % 4))) & 0x0303_0303;
    // Single bits: 4 in a row, or those of a block in the same place of 32 bytes.
    let row = |from: usize| ((at(from) >> (4 * t) & 15) * 0x0020_4081) & 0x0101_0101;
    let column = |from: usize| (at(from + 4 * t) >> s) & 0x0101_0101;
    match F::FORMAT {
        Format::Q4_0 | Format::Iq4Nl => within(2),
        Format::Q4_1 => within(4),
        Format::Q5_0 => within(6) | (row(2) << 4),
        Format::Q5_1 => within(8) | (row(4) << 4),
        Format::Q8_0 => at(2 + 4 * t) ^ 0x8080_8080,
        Format::Q2K => pairs(16),
        Format::Q3K => pairs(32) | (column(0) << 2),
        Format::Q4K => across(16),
        Format::Q5K => across(48) | (column(16) << 4),
        Format::Q6K => {
            // 128 inputs have 64 bytes of nibbles and 32 bytes of high bits.
            let nibbles = at(64 * (s / 4) + 32 * (s % 2) + 4 * t) >> (4 * (s % 4 / 2));
            (nibbles & 0x0f0f_0f0f) | (pairs(128) << 4)
        }
        Format::Iq4Xs => within(8 + 16 * s),
    }
}

/// The scales of block `s`: an f16, or the numbers that [`Scaled::of`] takes apart. In the second
/// row, if there is one, the minimum.
#[inline(always)]
pub(super) fn scales<F: BlockFormat>(block: &[u8], s: usize) -> [u16; 2] {
    let first = match F::FORMAT {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl => half_at(block, 0),
        // What is added there is taken off here.
        Format::Q4_1 | Format::Q5_1 => return [half_at(block, 0), half_at(block, 2) ^ 0x8000],
        Format::Q2K => half_at(block, 2 * s),
        Format::Q3K => {
            let six_bits = |i: usize| {
                let (low, high) = (block[96 + i % 8] >> (4 * (i / 8)), block[104 + i % 4]);
                ((low & 15) | (high >> (2 * (i / 4)) & 3) << 4).wrapping_sub(32)
            };
            u16::from_le_bytes([six_bits(2 * s), six_bits(2 * s + 1)])
        }
        Format::Q4K | Format::Q5K => six_bit_scales(fixed(block, 4), s),
        Format::Q6K => half_at(block, 192 + 2 * s),
        Format::Iq4Xs => {
            let (low, high) = (
                block[4 + s / 2] >> (4 * (s % 2)),
                half_at(block, 2) >> (2 * s),
            );
            let scale = ((low & 15) | ((high & 3) as u8) << 4).wrapping_sub(32);
            u16::from(scale)
        }
    };
    [first, 0]
}

/// The `i`-th f16 of a block of 256 inputs.
#[inline(always)]
pub(super) fn super_scale<F: BlockFormat>(block: &[u8], i: usize) -> u16 {
    let at = match F::FORMAT {
        Format::Q2K => 80,
        Format::Q3K => 108,
        Format::Q6K => 208,
        Format::Q4K | Format::Q5K | Format::Iq4Xs => 0,
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => return 0,
        Format::Q8_0 | Format::Iq4Nl => return 0,
    };
    half_at(block, at + 2 * i)
}

/// Scale of sub-block `s` in the low byte, minimum in the high byte: both have 6 bits, the upper
/// two of the last four stored apart.
fn six_bit_scales(packed: &[u8; 12], s: usize) -> u16 {
    let (scale, min) = if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        (
            (packed[s + 4] & 15) | (packed[s - 4] >> 6 << 4),
            (packed[s + 4] >> 4) | (packed[s] >> 6 << 4),
        )
    };
    u16::from_le_bytes([scale, min])
}

/// The scales of a block as numbers, all exact.
pub(super) struct Scaled {
    /// Of each part.
    pub scales: [f32; 2],
    /// What is taken off: everywhere, and in the first part more than that.
    pub mins: [f32; 2],
}

impl Scaled {
    /// From what [`scales`] and [`super_scale`] read.
    #[inline(always)]
    pub fn of<F: BlockFormat>(scales: [u16; 2], supers: [u16; 2]) -> Self {
        let [low, high] = scales[0].to_le_bytes();
        let [d, d_min] = supers.map(half_to_f32);
        match (F::LAYOUT.scaling, F::LAYOUT.parts) {
            (Scaling::Half | Scaling::HalfWithMin, _) => Self {
                scales: [half_to_f32(scales[0]), 0.0],
                mins: [half_to_f32(scales[1]), 0.0],
            },
            (Scaling::Signed, _) => Self {
                scales: [low, high].map(|scale| d * f32::from(scale.cast_signed())),
                mins: [0.0; 2],
            },
            (Scaling::WithMin, 1) => Self {
                scales: [d * f32::from(low), 0.0],
                mins: [d_min * f32::from(high), 0.0],
            },
            (Scaling::WithMin, _) => {
                let more = f32::from(low >> 4) - f32::from(high >> 4);
                Self {
                    scales: [low, high].map(|scale| d * f32::from(scale & 15)),
                    mins: [d_min * f32::from(high >> 4), d_min * more],
                }
            }
        }
    }
}

impl Scaled {
    /// What a quant of the `word`-th 4 of the 32 stands for.
    #[inline(always)]
    pub fn number<F: BlockFormat>(&self, word: usize, quant: i16) -> f32 {
        let part = F::part(word);
        let min = match part {
            0 => self.mins[0] + self.mins[1],
            _ => self.mins[0],
        };
        self.scales[part] * f32::from(quant) - min
    }
}

/// The value of a quant's bits: through the table, and without the offset.
#[inline(always)]
pub(super) fn signed<F: BlockFormat>(bits: u8) -> i16 {
    let quant = match F::LAYOUT.table {
        Some(table) => table[usize::from(bits & 15)],
        None => bits,
    };
    i16::from(quant) - i16::from(F::LAYOUT.offset)
}

impl Format {
    /// The numbers that whole stored blocks stand for, to the bit as ggml computes them.
    ///
    /// # Panics
    /// If the blocks are not those of `numbers.len()` weights.
    pub fn dequantize(self, blocks: &[u8], numbers: &mut [f32]) {
        let layout = (
            numbers.len() / self.block_inputs(),
            numbers.len() % self.block_inputs(),
        );
        assert_eq!(
            layout,
            (blocks.len() / self.block_bytes(), 0),
            "not whole blocks of {self}"
        );
        with_format!(self, F => dequantize::<F>(blocks, numbers));
    }
}

fn dequantize<F: BlockFormat>(blocks: &[u8], numbers: &mut [f32]) {
    let stored = blocks.chunks_exact(F::FORMAT.block_bytes());
    for (block, numbers) in stored.zip(numbers.chunks_exact_mut(F::FORMAT.block_inputs())) {
        for (s, numbers) in numbers.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let supers = [0, 1].map(|i| match i < F::LAYOUT.scale_rows().1 {
                true => super_scale::<F>(block, i),
                false => 0,
            });
            let scaled = Scaled::of::<F>(scales::<F>(block, s), supers);
            for (t, numbers) in numbers.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for (number, bits) in numbers.iter_mut().zip(word::<F>(block, s, t).to_le_bytes()) {
                    *number = scaled.number::<F>(t, signed::<F>(bits));
                }
            }
        }
    }
}

#[inline]
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    let (chunks, _) = bytes[at..at + N].as_chunks::<N>();
    &chunks[0]
}

#[inline]
fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*fixed(bytes, at))
}

#[inline]
fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*fixed(bytes, at))
}

/// The value of an IEEE half: exact.
pub(super) fn half_to_f32(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff));
    let magnitude = match rest >> 10 {
        0 => rest as f32 / 16_777_216.0, // 2^24: exact
        31 => f32::from_bits(0x7f80_0000 | (rest << 13)),
        _ => f32::from_bits((rest << 13) + (112 << 23)),
    };
    f32::from_bits(sign | magnitude.to_bits())
}
