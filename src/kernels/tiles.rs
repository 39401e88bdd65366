//! Products of bf16 numbers in tiles: the fastest way to many rows where the CPU has instructions
//! for it, whatever the format of the weights.
//!
//! Rows become bf16 once. Weights do so a few blocks of two panels at a time, where the first-level
//! cache holds them, and then meet all the rows; that costs about as much as the products of 100
//! rows. Sums are f32, 2 x 2 tiles of them at a time, so that each tile that is loaded is used
//! twice. [`Tiles`] is what a CPU has to offer for this, and [`Model`] is that in plain Rust: the
//! definition, slow.
//!
//! Each number is rounded to bf16, to nearest. Of each block of 32 inputs the even and the odd ones
//! are added up apart, in order, one fused product and sum an input; then the two together, and
//! that to the total. So an output depends on its row and column alone, not on how the work is
//! split.

use super::activations::Stored;
use super::dense::{DenseMatrix, to_bf16};
use super::format::{BlockFormat, with_format};
use super::isa::{self, Isa, Portable};
use super::packed::{BLOCK, PANEL, PackedMatrix, Panel};
use super::portable::LazyRows;
use super::scalar;
use std::ops::Range;

/// Rows of a tile.
const ROWS: usize = 16;
/// Blocks of two panels that become bf16 at once: two thirds of a first-level cache of 48 KiB.
const DEPTH: usize = 16;
/// Panels that share each part of the rows while the second-level cache has it, and how many rows
/// it has room for, beside their sums.
const GROUP: usize = 8;
const ROWS_AT_ONCE: usize = 512;

/// 16 rows of 32 activations, or the weights of 32 inputs in 16 rows of pairs: a pair of inputs of
/// each of the 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub [[u16; BLOCK]; ROWS]);

impl Tile {
    const ZERO: Self = Self([[0; BLOCK]; ROWS]);
}

/// The sums of 16 rows and 16 columns.
pub(super) type Sums = [[f32; PANEL]; ROWS];

/// Eight tiles, which go by their numbers, and what a product needs to do with them.
pub(super) trait Tiles {
    /// Makes a tile of sums zero.
    fn zero<const T: usize>(&mut self);
    /// Loads a tile of numbers.
    fn load<const T: usize>(&mut self, from: &Tile);
    /// Loads a tile of sums.
    fn load_sums<const T: usize>(&mut self, from: &Sums);
    /// Stores a tile of sums.
    fn store_sums<const T: usize>(&self, to: &mut Sums);
    /// `C += A · B`, with rows in A and weights in B.
    fn multiply_add<const C: usize, const A: usize, const B: usize>(&mut self);
    /// Makes blocks of a panel bf16, from block `first` on.
    fn unpack<F: BlockFormat>(&self, panel: Panel<'_>, first: usize, to: &mut [Tile]);
}

/// Rows of activations in bf16, `[rows, k]`. Reuse one: it allocates only to grow.
#[derive(Default)]
pub struct TileRows {
    rows: usize,
    k: usize,
    /// `[16 rows, block]`, and room that larger inputs have used.
    tiles: Vec<Tile>,
}

/// A part of [`TileRows`] that one thread fills.
pub struct TileRowsPart<'a> {
    first_row: usize,
    first_block: usize,
    rows: usize,
    k: usize,
    tiles: &'a mut [Tile],
}

impl TileRows {
    /// Replaces the content by `values`, `[rows, k]`.
    ///
    /// # Panics
    /// If `k` is zero or `values` are not whole rows.
    pub fn fill(&mut self, isa: Isa, values: &[f32], k: usize) {
        assert!(
            values.len().is_multiple_of(k),
            "the values are not whole rows"
        );
        self.resize(values.len() / k, k);
        self.parts_mut(self.blocks())
            .for_each(|part| part.fill_from(isa, &Stored { values, k }));
    }

    /// Makes room for `[rows, k]`; the content is unspecified until every part is filled.
    pub(crate) fn resize(&mut self, rows: usize, k: usize) {
        (self.rows, self.k) = (rows, k);
        let len = rows.div_ceil(ROWS) * self.blocks();
        self.tiles.resize(len.max(self.tiles.len()), Tile::ZERO);
    }

    /// Disjoint parts of 16 rows and up to `blocks` blocks of 32 inputs, for threads to fill.
    ///
    /// # Panics
    /// If there is room for rows without inputs, or `blocks` is zero.
    pub(crate) fn parts_mut(&mut self, blocks: usize) -> impl Iterator<Item = TileRowsPart<'_>> {
        let (rows, k, row_blocks) = (self.rows, self.k, self.blocks());
        let tiles = &mut self.tiles[..rows.div_ceil(ROWS) * row_blocks];
        let tiles = tiles.chunks_exact_mut(row_blocks).enumerate();
        tiles.flat_map(move |(row_tile, tiles)| {
            let parts = tiles.chunks_mut(blocks).enumerate();
            parts.map(move |(i, tiles)| TileRowsPart {
                first_row: row_tile * ROWS,
                first_block: i * blocks,
                rows,
                k,
                tiles,
            })
        })
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// Blocks of 16 rows.
    fn row_tile(&self, row_tile: usize, blocks: &Range<usize>) -> &[Tile] {
        &self.tiles[row_tile * self.blocks()..][blocks.clone()]
    }
}

impl TileRowsPart<'_> {
    /// Fills this part.
    pub fn fill_from(self, isa: Isa, source: &impl LazyRows) {
        struct Fill<'a, S>(TileRowsPart<'a>, &'a S);
        impl<S: LazyRows> Portable for Fill<'_, S> {
            #[inline(always)]
            fn run(self) {
                let Self(part, source) = self;
                for (block, tile) in (part.first_block..).zip(part.tiles) {
                    let first = block * BLOCK;
                    for (row, to) in (part.first_row..).zip(&mut tile.0) {
                        let mut values = [0.0; BLOCK];
                        if row < part.rows && first + BLOCK <= part.k {
                            source.write(row, first, &mut values);
                        } else if row < part.rows {
                            source.write(row, first, &mut values[..part.k - first]);
                        }
                        for (to, value) in to.iter_mut().zip(values) {
                            *to = to_bf16(value);
                        }
                    }
                }
            }
        }
        isa::run(isa, Fill(self, source));
    }
}

/// Weights of any kind.
#[derive(Clone, Copy)]
pub enum TileWeights<'a> {
    /// Quantized blocks.
    Packed(&'a PackedMatrix),
    /// Floating-point numbers; those that are not bf16 are rounded.
    Dense(&'a DenseMatrix),
}

impl TileWeights<'_> {
    /// Inputs of each column.
    pub(super) fn k(self) -> usize {
        match self {
            Self::Packed(w) => w.k(),
            Self::Dense(w) => w.k(),
        }
    }

    /// Panels of 16 columns, the last one padded.
    pub(super) fn panels(self) -> usize {
        match self {
            Self::Packed(w) => w.panels(),
            Self::Dense(w) => w.panels(),
        }
    }

    fn unpack(self, isa: Isa, tiles: &impl Tiles, panel: usize, first: usize, to: &mut [Tile]) {
        match self {
            Self::Packed(w) => {
                with_format!(w.format(), F => tiles.unpack::<F>(w.panel(panel), first, to));
            }
            Self::Dense(w) => {
                for (block, tile) in (first..).zip(to) {
                    w.bf16_pairs(isa, panel, block * BLOCK, &mut tile.0);
                }
            }
        }
    }
}

/// See [`super::matmul_tiles`]; `out` is `[panel, row, 16]`.
pub(super) fn matmul(
    isa: Isa,
    tiles: &mut impl Tiles,
    w: TileWeights<'_>,
    x: &TileRows,
    panels: Range<usize>,
    out: &mut [[f32; PANEL]],
) {
    let (row_tiles, blocks) = (x.rows.div_ceil(ROWS), x.blocks());
    // Of about equal size.
    let parts = x.rows.div_ceil(ROWS_AT_ONCE);
    let mut unpacked = [[Tile::ZERO; DEPTH]; 2];
    for (group, out) in panels
        .step_by(GROUP)
        .zip(out.chunks_mut(GROUP * x.rows.max(1)))
    {
        for part in 0..parts {
            let row_tiles = part * row_tiles / parts..(part + 1) * row_tiles / parts;
            for first in (0..blocks).step_by(DEPTH) {
                let blocks = first..blocks.min(first + DEPTH);
                for (pair, out) in out.chunks_mut(2 * x.rows).enumerate() {
                    let count = out.len() / x.rows;
                    for (p, to) in unpacked[..count].iter_mut().enumerate() {
                        let panel = group + 2 * pair + p;
                        w.unpack(isa, tiles, panel, first, &mut to[..blocks.len()]);
                    }
                    let (x, row_tiles) = ((x, &blocks), row_tiles.clone());
                    match unpacked.split_at(count).0 {
                        [one] => rows_of_panels(tiles, [one], x, row_tiles, out),
                        [one, two] => rows_of_panels(tiles, [one, two], x, row_tiles, out),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Some blocks of `P` panels, unpacked, and all the rows of some tiles.
fn rows_of_panels<const P: usize>(
    tiles: &mut impl Tiles,
    w: [&[Tile; DEPTH]; P],
    x: (&TileRows, &Range<usize>),
    row_tiles: Range<usize>,
    out: &mut [[f32; PANEL]],
) {
    for first in row_tiles.clone().step_by(2) {
        match first + 1 < row_tiles.end {
            true => square::<P, 2>(tiles, w, x, first, out),
            false => square::<P, 1>(tiles, w, x, first, out),
        }
    }
}

/// Some blocks of `P` panels and `R` tiles of rows: tiles 0 to 3 for the sums, 4 and 5 for the
/// rows, 6 and 7 for the weights.
fn square<const P: usize, const R: usize>(
    tiles: &mut impl Tiles,
    w: [&[Tile; DEPTH]; P],
    (x, blocks): (&TileRows, &Range<usize>),
    row_tile: usize,
    out: &mut [[f32; PANEL]],
) {
    let rows: [&[Tile]; R] = std::array::from_fn(|r| x.row_tile(row_tile + r, blocks));
    let begins = blocks.start == 0;
    let sums = |r: usize, p: usize| {
        let first = (row_tile + r) * ROWS;
        p * x.rows + first..p * x.rows + x.rows.min(first + ROWS)
    };
    load_sums::<0>(tiles, begins, &out[sums(0, 0)]);
    if P == 2 {
        load_sums::<1>(tiles, begins, &out[sums(0, 1)]);
    }
    if R == 2 {
        load_sums::<2>(tiles, begins, &out[sums(1, 0)]);
    }
    if P == 2 && R == 2 {
        load_sums::<3>(tiles, begins, &out[sums(1, 1)]);
    }
    for b in 0..blocks.len() {
        tiles.load::<6>(&w[0][b]);
        tiles.load::<4>(&rows[0][b]);
        tiles.multiply_add::<0, 4, 6>();
        if P == 2 {
            tiles.load::<7>(&w[P - 1][b]);
            tiles.multiply_add::<1, 4, 7>();
        }
        if R == 2 {
            tiles.load::<5>(&rows[R - 1][b]);
            tiles.multiply_add::<2, 5, 6>();
        }
        if P == 2 && R == 2 {
            tiles.multiply_add::<3, 5, 7>();
        }
    }
    store_sums::<0>(tiles, &mut out[sums(0, 0)]);
    if P == 2 {
        store_sums::<1>(tiles, &mut out[sums(0, 1)]);
    }
    if R == 2 {
        store_sums::<2>(tiles, &mut out[sums(1, 0)]);
    }
    if P == 2 && R == 2 {
        store_sums::<3>(tiles, &mut out[sums(1, 1)]);
    }
}

/// Up to 16 rows of sums, or none where a product begins.
fn load_sums<const T: usize>(tiles: &mut impl Tiles, begins: bool, from: &[[f32; PANEL]]) {
    if begins {
        tiles.zero::<T>();
    } else if let Some(sums) = from.first_chunk() {
        tiles.load_sums::<T>(sums);
    } else {
        let mut sums = [[0.0; PANEL]; ROWS];
        sums[..from.len()].copy_from_slice(from);
        tiles.load_sums::<T>(&sums);
    }
}

/// Up to 16 rows of sums.
fn store_sums<const T: usize>(tiles: &impl Tiles, to: &mut [[f32; PANEL]]) {
    if let Some(sums) = to.first_chunk_mut() {
        tiles.store_sums::<T>(sums);
    } else {
        let mut sums = [[0.0; PANEL]; ROWS];
        tiles.store_sums::<T>(&mut sums);
        to.copy_from_slice(&sums[..to.len()]);
    }
}

/// See `matmul::peak_tile_ops`.
#[cfg(target_arch = "x86_64")]
pub(super) fn peak_ops(tiles: &mut impl Tiles, rounds: u64) -> u64 {
    for _ in 0..rounds {
        tiles.multiply_add::<0, 4, 6>();
        tiles.multiply_add::<1, 4, 7>();
        tiles.multiply_add::<2, 5, 6>();
        tiles.multiply_add::<3, 5, 7>();
    }
    rounds * 4 * (2 * ROWS * PANEL * BLOCK) as u64
}

/// The tile instructions as Intel defines them (Software Developer's Manual, TDPBF16PS): subnormal
/// numbers count as zero, before and after each operation, and sums are rounded to nearest, ties to
/// even. Tiles are whole and zero at first.
pub(super) struct Model([[[u32; ROWS]; ROWS]; 8]);

impl Model {
    pub fn new() -> Self {
        Self([[[0; ROWS]; ROWS]; 8])
    }
}

impl Tiles for Model {
    fn zero<const T: usize>(&mut self) {
        self.0[T] = [[0; ROWS]; ROWS];
    }

    fn load<const T: usize>(&mut self, from: &Tile) {
        for (row, from) in self.0[T].iter_mut().zip(&from.0) {
            for (word, [low, high]) in row.iter_mut().zip(from.as_chunks().0) {
                *word = u32::from(*low) | u32::from(*high) << 16;
            }
        }
    }

    fn load_sums<const T: usize>(&mut self, from: &Sums) {
        self.0[T] = from.map(|row| row.map(f32::to_bits));
    }

    fn store_sums<const T: usize>(&self, to: &mut Sums) {
        *to = self.0[T].map(|row| row.map(f32::from_bits));
    }

    fn multiply_add<const C: usize, const A: usize, const B: usize>(&mut self) {
        let pair = |word: u32| [word << 16, word & 0xffff_0000].map(|x| flushed(f32::from_bits(x)));
        let [a, b] = [A, B].map(|tile| self.0[tile].map(|row| row.map(pair)));
        for (row, a) in self.0[C].iter_mut().zip(&a) {
            let mut sums = [[0.0; 2]; PANEL];
            for (a, b) in a.iter().zip(&b) {
                for (sums, b) in sums.iter_mut().zip(b) {
                    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                        *sum = flushed(a.mul_add(*b, *sum));
                    }
                }
            }
            for (total, [even, odd]) in row.iter_mut().zip(sums) {
                let before = flushed(f32::from_bits(*total));
                *total = flushed(before + flushed(even + odd)).to_bits();
            }
        }
    }

    fn unpack<F: BlockFormat>(&self, panel: Panel<'_>, first: usize, to: &mut [Tile]) {
        for (block, tile) in (first..).zip(to) {
            for column in 0..PANEL {
                let quants = scalar::quants::<F>(panel, block, column);
                let scaled = scalar::scaled::<F>(panel, block, column);
                for (i, quant) in quants.into_iter().enumerate() {
                    let number = scaled.number::<F>(i / 4, quant);
                    tile.0[i / 2][2 * column + i % 2] = to_bf16(number);
                }
            }
        }
    }
}

/// Zero of the same sign instead of a subnormal number.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}
