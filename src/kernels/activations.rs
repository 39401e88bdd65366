//! Activations, quantised to 8 bits in blocks of 32: `x ≈ scale * q`, with `q` in -127..=127.
//!
//! Rows lie in tiles of up to 32, and a tile's rows are interleaved by block: what a kernel needs for one block of weights is contiguous. Beside
//! its 32 quants each block keeps what the weights' offsets need (see [`super::packed`]), one cache line in all.

use super::portable::{self, LANES, Portable};
use super::{BLOCK, Isa};

/// Most rows that a kernel runs over one unpacked block of weights.
pub(super) const TILE: usize = 32;

/// 32 quantised activations of one row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block {
    /// 4 inputs a word, the first in the lowest byte.
    pub words: [i32; 8],
    pub scale: f32,
    /// `scale * sum`, where `sum` adds up the quants.
    pub scaled_sum: f32,
    /// `-8 * sum`: where a sum over weights of offset 8 starts.
    pub minus_8: i32,
    /// `-128 * sum`.
    pub minus_128: i32,
    /// `-32 * sum` of each half.
    pub minus_32: [i32; 2],
}

impl Block {
    const ZERO: Self = Self {
        words: [0; 8],
        scale: 0.0,
        scaled_sum: 0.0,
        minus_8: 0,
        minus_128: 0,
        minus_32: [0; 2],
    };

    /// The 32 quants in order.
    pub fn quants(&self) -> [i8; BLOCK] {
        let mut quants = [0; BLOCK];
        for (bytes, word) in quants.as_chunks_mut::<4>().0.iter_mut().zip(self.words) {
            *bytes = word.to_le_bytes().map(u8::cast_signed);
        }
        quants
    }

    /// Quantises to the nearest of 255 steps, ties to even. A block with a value that is not finite gets a scale of NaN, so that its products
    /// are NaN too; one whose scale would be subnormal counts as zero.
    #[inline(always)]
    fn quantise(values: &[f32; BLOCK]) -> Self {
        // Arrays of lanes, each made by one loop: what the compiler turns into registers.
        let halves = values.as_chunks::<LANES>().0;
        // Bit patterns of absolute values are ordered as the values are, and those not finite come last.
        let mut most = [0; LANES];
        for values in halves {
            for (most, v) in most.iter_mut().zip(values) {
                *most = (*most).max(v.to_bits() & 0x7fff_ffff);
            }
        }
        let bits = most.into_iter().fold(0, u32::max);
        if bits >= f32::INFINITY.to_bits() {
            return Self {
                scale: f32::NAN,
                scaled_sum: f32::NAN,
                ..Self::ZERO
            };
        }
        let most = f32::from_bits(bits);
        let scale = most / 127.0;
        if scale < f32::MIN_POSITIVE {
            return Self::ZERO;
        }
        let inverse = 127.0 / most;
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        let mut bytes = [0; BLOCK];
        let mut sums = [0; 2];
        for ((values, bytes), sum) in halves
            .iter()
            .zip(bytes.as_chunks_mut::<LANES>().0)
            .zip(&mut sums)
        {
            let mut quants = [0; LANES];
            for (quant, v) in quants.iter_mut().zip(values) {
                let rounded = v * inverse + ROUND;
                *quant = rounded.to_bits().wrapping_sub(ROUND.to_bits());
            }
            for (byte, quant) in bytes.iter_mut().zip(quants) {
                *byte = quant as u8;
            }
            *sum = quants.map(u32::cast_signed).iter().sum();
        }
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = i32::from_le_bytes(*bytes);
        }
        let sum = sums[0] + sums[1];
        Self {
            words,
            scale,
            scaled_sum: scale * sum as f32,
            minus_8: -8 * sum,
            minus_128: -128 * sum,
            minus_32: sums.map(|sum| -32 * sum),
        }
    }
}

/// Quantised rows `[rows, k]`. Reuse one: it allocates only to grow.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    k: usize,
    /// `[tile, block, row of the tile]`, and room that larger inputs have used.
    blocks: Vec<Block>,
}

impl Activations {
    /// Empty, without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Replaces the content by `values`, `[rows, k]`.
    ///
    /// # Panics
    /// If `k` is not a positive multiple of 32 or `values` not whole rows.
    pub fn quantise(&mut self, isa: Isa, values: &[f32], k: usize) {
        self.resize(values.len() / k, k);
        self.parts_mut(k / BLOCK)
            .for_each(|part| part.quantise(isa, values));
    }

    /// Makes room for `[rows, k]`; the content is unspecified until every part is quantised.
    ///
    /// # Panics
    /// If `k` is not a positive multiple of 32.
    pub fn resize(&mut self, rows: usize, k: usize) {
        assert!(
            k > 0 && k.is_multiple_of(BLOCK),
            "rows of {k} are not whole blocks of {BLOCK}"
        );
        (self.rows, self.k) = (rows, k);
        let len = rows * (k / BLOCK);
        self.blocks.resize(len.max(self.blocks.len()), Block::ZERO);
    }

    /// Disjoint parts, each of up to 32 rows and `blocks` blocks of 32 inputs: for threads to quantise.
    pub fn parts_mut(&mut self, blocks: usize) -> impl Iterator<Item = ActivationsPart<'_>> {
        let (rows, k) = (self.rows, self.k);
        let mut rest = &mut self.blocks[..rows * (k / BLOCK)];
        tiles(rows).flat_map(move |(first_row, tile_rows)| {
            let tile;
            (tile, rest) = std::mem::take(&mut rest).split_at_mut(tile_rows * (k / BLOCK));
            tile.chunks_mut(tile_rows * blocks)
                .enumerate()
                .map(move |(i, part)| ActivationsPart {
                    first_row,
                    first_input: i * blocks * BLOCK,
                    tile_rows,
                    rows,
                    k,
                    blocks: part,
                })
        })
    }

    /// Each tile as its first row, its number of rows, and its blocks, `[block, row of the tile]`.
    pub(super) fn tiles(&self) -> impl Iterator<Item = (usize, usize, &[Block])> {
        let blocks = self.k / BLOCK;
        tiles(self.rows).map(move |(first_row, rows)| {
            (
                first_row,
                rows,
                &self.blocks[first_row * blocks..][..rows * blocks],
            )
        })
    }
}

/// A part of [`Activations`] that one thread fills.
pub struct ActivationsPart<'a> {
    first_row: usize,
    first_input: usize,
    tile_rows: usize,
    rows: usize,
    k: usize,
    /// `[block, row of the tile]`
    blocks: &'a mut [Block],
}

impl ActivationsPart<'_> {
    /// Fills this part from the whole of the values, `[rows, k]`.
    ///
    /// # Panics
    /// If `values` is not `[rows, k]`.
    pub fn quantise(self, isa: Isa, values: &[f32]) {
        assert_eq!(
            values.len(),
            self.rows * self.k,
            "the values have the wrong length"
        );
        let k = self.k;
        self.quantise_with(isa, |row, first_input, block| {
            block.copy_from_slice(&values[row * k + first_input..][..BLOCK]);
        });
    }

    /// Fills this part from what `fill(row, first_input, block)` writes into each block of 32 inputs: an operation on the way to a product, done
    /// without storing its result.
    pub fn quantise_with(self, isa: Isa, fill: impl Fn(usize, usize, &mut [f32; BLOCK])) {
        portable::run(isa, Quantise { part: self, fill });
    }
}

struct Quantise<'a, F> {
    part: ActivationsPart<'a>,
    fill: F,
}

impl<F: Fn(usize, usize, &mut [f32; BLOCK])> Portable for Quantise<'_, F> {
    #[inline(always)]
    fn run(self) {
        let Self { part, fill } = self;
        let mut values = [0.0; BLOCK];
        // In the order in which they are written, which is that of a panel-major product as well.
        for (b, blocks) in part.blocks.chunks_mut(part.tile_rows).enumerate() {
            for (row, block) in blocks.iter_mut().enumerate() {
                fill(
                    part.first_row + row,
                    part.first_input + b * BLOCK,
                    &mut values,
                );
                *block = Block::quantise(&values);
            }
        }
    }
}

/// First row and number of rows of each tile: as few tiles as possible, of about equal size.
fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(TILE);
    let start = move |i: usize| i * rows / count;
    (0..count).map(move |i| (start(i), start(i + 1) - start(i)))
}
