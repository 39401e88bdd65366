//! Activations, quantized to 8 bits in blocks of 32: `x ≈ scale * q`, with `q` in -127..=127.
//!
//! A few blocks in a row, a group, share their scale: the products of its blocks are added up first
//! and scaled together, which saves a multiplication a block. How many, says
//! [`Format::scale_group`].
//!
//! Rows lie in tiles of up to 32, and a tile's rows are interleaved by block: what a kernel needs
//! for one block of weights is contiguous. Beside its 32 quants each block keeps what the weights'
//! offsets need (see [`super::packed`]), one cache line in all.

use super::format::{BlockFormat, Format};
use super::isa::{self, Isa, Portable};
use super::packed::{BLOCK, LANES};
use super::portable::LazyRows;

/// Most rows that a kernel runs over one unpacked block of weights.
pub(super) const TILE: usize = 32;

/// 32 quantized activations of one row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block {
    /// 4 inputs a word, the first in the lowest byte.
    pub words: [i32; 8],
    /// Of the whole group.
    pub scale: f32,
    /// Sum of the quants, a whole number.
    pub sum: f32,
    /// Sum of the first half of the quants.
    pub first_sum: f32,
    /// `-8 * sum`: where a sum over weights of offset 8 starts.
    pub minus_8: i32,
    /// `-16 * sum`.
    pub minus_16: i32,
    /// `-128 * sum`.
    pub minus_128: i32,
    /// `-32 * sum` of each half.
    pub minus_32: [i32; 2],
}

impl Block {
    const ZERO: Self = Self {
        words: [0; 8],
        scale: 0.0,
        sum: 0.0,
        first_sum: 0.0,
        minus_8: 0,
        minus_16: 0,
        minus_128: 0,
        minus_32: [0; 2],
    };

    /// Where the dot products of each part of a block of weights start: at what the offset of their
    /// quants would take off later. References, so that each is read where it is spread over a
    /// register, and not both in one word to be taken apart.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "NEON takes signed weights")
    )]
    #[inline(always)]
    pub fn start<F: BlockFormat>(&self) -> [&i32; 2] {
        match F::FORMAT {
            Format::Q4_0 => [&self.minus_8, &0],
            Format::Q5_0 => [&self.minus_16, &0],
            Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => [&self.minus_128, &0],
            Format::Q4_1 | Format::Q5_1 | Format::Q2K | Format::Q4K | Format::Q5K => [&0; 2],
            Format::Q3K | Format::Q6K => self.minus_32.each_ref(),
        }
    }

    /// The 32 quants in order.
    pub fn quants(&self) -> [i8; BLOCK] {
        let mut quants = [0; BLOCK];
        for (bytes, word) in quants.as_chunks_mut::<4>().0.iter_mut().zip(self.words) {
            *bytes = word.to_le_bytes().map(u8::cast_signed);
        }
        quants
    }

    /// Quantizes to whole multiples of `scale`, given as its inverse too, ties to even.
    #[inline(always)]
    fn quantize(values: &[f32; BLOCK], Scale { scale, inverse }: Scale) -> Self {
        if inverse == 0.0 {
            return Self {
                scale,
                ..Self::ZERO
            };
        }
        // Arrays of lanes, each made by one loop: what the compiler turns into registers.
        let halves = values.as_chunks::<LANES>().0;
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
            sum: sum as f32,
            first_sum: sums[0] as f32,
            minus_8: -8 * sum,
            minus_16: -16 * sum,
            minus_128: -128 * sum,
            minus_32: sums.map(|sum| -32 * sum),
        }
    }
}

/// The step between quants.
#[derive(Clone, Copy)]
struct Scale {
    scale: f32,
    /// Zero where all quants are.
    inverse: f32,
}

impl Scale {
    /// A 127th of the largest value of a group, given as [`largest`] does. A group with a value
    /// that is not finite gets a scale of NaN, so that its products are NaN too; one whose scale
    /// would be subnormal counts as zero.
    #[inline(always)]
    fn of(largest: u32) -> Self {
        let most = f32::from_bits(largest);
        let (scale, inverse) = if largest >= f32::INFINITY.to_bits() {
            (f32::NAN, 0.0)
        } else if most / 127.0 < f32::MIN_POSITIVE {
            (0.0, 0.0)
        } else {
            (most / 127.0, 127.0 / most)
        };
        Self { scale, inverse }
    }
}

/// The largest absolute value, as its bits: they are ordered as the values are, and those not
/// finite come last.
#[inline(always)]
fn largest(values: &[f32; BLOCK]) -> u32 {
    let mut most = [0; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for (most, v) in most.iter_mut().zip(values) {
            *most = (*most).max(v.to_bits() & 0x7fff_ffff);
        }
    }
    most.into_iter().fold(0, u32::max)
}

/// Quantized rows `[rows, k]`. Reuse one: it allocates only to grow.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    k: usize,
    group: usize,
    /// `[tile, block, row of the tile]`, and room that larger inputs have used.
    blocks: Vec<Block>,
}

impl Activations {
    /// The most blocks that share a scale.
    pub const MAX_GROUP: usize = 4;

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Where this block of a row stands in its group.
    #[inline(always)]
    pub(super) fn group_position(&self, block: usize) -> GroupPosition {
        GroupPosition {
            begins: block.is_multiple_of(self.group),
            ends: (block + 1).is_multiple_of(self.group) || block + 1 == self.k / BLOCK,
        }
    }

    /// Replaces the content by `values`, `[rows, k]`, with a scale for each `group` blocks.
    ///
    /// # Panics
    /// If `k` is not a positive multiple of 32, `group` is not in `1..=`[`Self::MAX_GROUP`] or
    /// `values` not whole rows.
    pub fn quantize(&mut self, isa: Isa, values: &[f32], k: usize, group: usize) {
        assert!(
            values.len().is_multiple_of(k),
            "the values are not whole rows"
        );
        self.resize(values.len() / k, k, group);
        self.parts_mut(k / BLOCK)
            .for_each(|part| part.quantize(isa, &Stored { values, k }));
    }

    /// Makes room for `[rows, k]`, in groups of `group` blocks; the content is unspecified until
    /// every part is quantized.
    ///
    /// # Panics
    /// If `k` is not a positive multiple of 32, or `group` not in `1..=`[`Self::MAX_GROUP`].
    pub(crate) fn resize(&mut self, rows: usize, k: usize, group: usize) {
        assert!(
            k > 0 && k.is_multiple_of(BLOCK),
            "rows of {k} are not whole blocks of {BLOCK}"
        );
        assert!(
            (1..=Self::MAX_GROUP).contains(&group),
            "no group has {group} blocks"
        );
        (self.rows, self.k, self.group) = (rows, k, group);
        let len = rows * (k / BLOCK);
        self.blocks.resize(len.max(self.blocks.len()), Block::ZERO);
    }

    /// Disjoint parts, each of up to 32 rows and about `blocks` blocks of 32 inputs, whole groups:
    /// for threads to quantize.
    pub(crate) fn parts_mut(&mut self, blocks: usize) -> impl Iterator<Item = ActivationsPart<'_>> {
        let (rows, k, group) = (self.rows, self.k, self.group);
        let blocks = blocks.next_multiple_of(group);
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
                    group,
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

/// Where a block stands in its group.
#[derive(Clone, Copy)]
pub(super) struct GroupPosition {
    pub begins: bool,
    pub ends: bool,
}

/// A part of [`Activations`] that one thread fills.
pub struct ActivationsPart<'a> {
    first_row: usize,
    first_input: usize,
    tile_rows: usize,
    group: usize,
    /// `[block, row of the tile]`
    blocks: &'a mut [Block],
}

impl ActivationsPart<'_> {
    /// Fills this part.
    pub fn quantize(self, isa: Isa, source: &impl LazyRows) {
        isa::run(isa, Quantize { part: self, source });
    }
}

/// Rows `[rows, k]` in memory.
pub(super) struct Stored<'a> {
    pub values: &'a [f32],
    pub k: usize,
}

impl LazyRows for Stored<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, values: &mut [f32]) {
        values.copy_from_slice(&self.values[row * self.k + first..][..values.len()]);
    }
}

struct Quantize<'a, S> {
    part: ActivationsPart<'a>,
    source: &'a S,
}

impl<S: LazyRows> Portable for Quantize<'_, S> {
    #[inline(always)]
    fn run(self) {
        let Self { part, source } = self;
        let rows = part.tile_rows;
        let mut values = [[0.0; BLOCK]; Activations::MAX_GROUP];
        // In the order in which they are written, which is about that of a panel-major product as
        // well.
        for (g, group) in part.blocks.chunks_mut(rows * part.group).enumerate() {
            let first_input = part.first_input + g * part.group * BLOCK;
            let count = group.len() / rows;
            for row in 0..rows {
                let mut most = 0;
                for (b, values) in values.iter_mut().enumerate().take(count) {
                    source.write(part.first_row + row, first_input + b * BLOCK, values);
                    most = most.max(largest(values));
                }
                let scale = Scale::of(most);
                for (b, values) in values.iter().enumerate().take(count) {
                    group[b * rows + row] = Block::quantize(values, scale);
                }
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
