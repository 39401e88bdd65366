//! Products of bf16 numbers in tiles: the fastest way to 16 rows and more where the CPU has
//! instructions for it, whatever the format of the weights.
//!
//! Rows become bf16 once. Weights do so half a tile at a time while the tiles before them are
//! multiplied, which takes other units of the CPU: a tile takes some 80 cycles so, as long as it
//! takes to multiply 80 rows by it. With few rows they are multiplied right away, with many they
//! wait in the second-level cache for all of the rows. Sums are f32 and stay in tiles, up to six of
//! them, for as many inputs as that cache has room for. [`Tiles`] is what a CPU has to offer for
//! this, and [`Model`] is that in plain Rust: the definition, slow.
//!
//! Each number is rounded to bf16, to nearest: quantized weights with ties away from zero, all
//! others with ties to even. Of 4 inputs the first and the third are a pair, and the second and the
//! fourth, as far apart as bytes of a packed word are without moving them. Of each block of 32
//! inputs the first ones of the pairs and the second ones are added up apart, in order, one fused
//! product and sum an input; then the two together, and that to the total. So an output depends on
//! its row and column alone, not on how the work is split.

use super::dense::{DenseMatrix, to_bf16};
use super::format::{BlockFormat, with_format};
use super::isa::Isa;
use super::packed::{BLOCK, PANEL, PackedMatrix, Panel};
use std::ops::Range;

pub(super) mod attention;
mod model;
mod rows;

pub use attention::TileKeyValues;
pub(super) use model::Model;
pub use rows::TileRows;

/// Rows of a tile.
const ROWS: usize = 16;
/// Tiles of rows, of 1 KiB, that the second-level cache has room for beside all else.
const CACHED_TILES: usize = 1024;
/// Tiles of rows whose sums have room in tiles, beside one of rows and one of weights.
const FEW: usize = 6;
/// The same for two panels of weights.
const GROUP: usize = FEW / 2;
/// Tiles of rows, at most, by which weights are multiplied for once that they are unpacked.
const MANY: usize = 21;
/// Blocks of a panel ahead for which memory is asked.
const SOON: usize = 24;

/// 16 rows of 32 activations in pairs, or the weights of 32 inputs in 16 rows: a pair of inputs of
/// each of the 16 columns. The first number of a pair is the low half.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub [[u32; PANEL]; ROWS]);

impl Tile {
    const ZERO: Self = Self([[0; PANEL]; ROWS]);
}

/// A pair of numbers, each rounded to bf16, to nearest and ties to even.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    u32::from(to_bf16(first)) | u32::from(to_bf16(second)) << 16
}

/// The sums of 16 rows and 16 columns.
pub(super) type Sums = [[f32; PANEL]; ROWS];

/// Eight tiles, which go by their numbers, and what a product needs to do with them.
pub(super) trait Tiles {
    /// Makes a tile of sums zero: one of the first six.
    fn zero(&mut self, tile: usize);
    /// Loads a tile of numbers.
    fn load<const T: usize>(&mut self, from: &Tile);
    /// Loads a tile of sums.
    fn load_sums(&mut self, tile: usize, from: &Sums);
    /// Stores a tile of sums.
    fn store_sums(&self, tile: usize, to: &mut Sums);
    /// `C += A · B`, with rows in A and weights in B.
    fn multiply_add<const C: usize, const A: usize, const B: usize>(&mut self);
    /// Makes a half of a block of a panel bf16, and asks for a block that comes `soon`.
    fn unpack<F: BlockFormat>(&self, at: At<'_>, half: usize, to: &mut Tile, soon: At<'_>);
}

/// A panel and the number of a block of it.
pub(super) type At<'a> = (&'a Panel<'a>, usize);

/// Weights of any kind.
#[derive(Clone, Copy)]
pub enum TileWeights<'a> {
    /// Quantized blocks.
    Packed(&'a PackedMatrix),
    /// Floating-point numbers; those that are not bf16 are rounded.
    Dense(&'a DenseMatrix),
}

impl<'a> TileWeights<'a> {
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

    fn panel<T: Tiles>(self, panel: usize) -> TilePanel<'a, T> {
        match self {
            Self::Packed(w) => {
                let unpack = with_format!(w.format(), F => T::unpack::<F>);
                TilePanel::Packed(unpack, w.panel(panel))
            }
            Self::Dense(w) => TilePanel::Dense(w, panel),
        }
    }
}

/// A panel of [`TileWeights`].
enum TilePanel<'a, T> {
    Packed(fn(&T, At<'_>, usize, &mut Tile, At<'_>), Panel<'a>),
    Dense(&'a DenseMatrix, usize),
}

impl<T: Tiles> TilePanel<'_, T> {
    /// Makes a half of a block bf16, and asks for another one of the same matrix that comes soon.
    #[inline(always)]
    fn unpack(
        &self,
        isa: Isa,
        tiles: &T,
        (block, half): (usize, usize),
        to: &mut Tile,
        soon: (&Self, usize),
    ) {
        match (self, soon.0) {
            (Self::Packed(unpack, panel), Self::Packed(_, other)) => {
                unpack(tiles, (panel, block), half, to, (other, soon.1));
            }
            (Self::Dense(w, panel), Self::Dense(_, other)) if half == 0 => {
                w.prefetch(*other, soon.1 * BLOCK);
                w.bf16_pairs(isa, *panel, block * BLOCK, &mut to.0);
            }
            _ => {}
        }
    }
}

/// See [`super::matmul_tiles`]; `out` is `[panel, row, 16]`.
pub(super) fn matmul<T: Tiles>(
    isa: Isa,
    tiles: &mut T,
    w: TileWeights<'_>,
    x: &TileRows,
    panels: Range<usize>,
    out: &mut [[f32; PANEL]],
) {
    let mut product = Product {
        isa,
        tiles,
        w,
        x,
        first_panel: panels.start,
        out,
    };
    // Two panels at a time, where their sums have room; the last one may be by itself.
    let pairs = panels.start..panels.end - panels.len() % 2;
    let last = pairs.end..panels.end;
    let row_tiles = x.rows().div_ceil(ROWS);
    if row_tiles > FEW {
        for rows in parts(row_tiles, MANY) {
            for blocks in parts(x.blocks(), CACHED_TILES / rows.len()) {
                product.many_rows::<2>(rows.clone(), &blocks, pairs.clone());
                product.many_rows::<1>(rows.clone(), &blocks, last.clone());
            }
        }
        return;
    }
    for blocks in parts(x.blocks(), CACHED_TILES / FEW) {
        let blocks = &blocks;
        match row_tiles {
            0 => {}
            1 => {
                product.few_rows::<2, 1>(blocks, pairs.clone());
                product.few_rows::<1, 1>(blocks, last.clone());
            }
            2 => {
                product.few_rows::<2, 2>(blocks, pairs.clone());
                product.few_rows::<1, 2>(blocks, last.clone());
            }
            3 => {
                product.few_rows::<2, 3>(blocks, pairs.clone());
                product.few_rows::<1, 3>(blocks, last.clone());
            }
            4 => product.few_rows::<1, 4>(blocks, panels.clone()),
            5 => product.few_rows::<1, 5>(blocks, panels.clone()),
            _ => product.few_rows::<1, FEW>(blocks, panels.clone()),
        }
    }
}

/// `0..count` in parts of about equal size, none larger than `most`.
fn parts(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| part * count / parts..(part + 1) * count / parts)
}

/// `P` panels of some. Behind the last one there is nothing, and it does no harm to begin it again.
fn panels_at<'a, T: Tiles, const P: usize>(
    w: TileWeights<'a>,
    first: usize,
    panels: &Range<usize>,
) -> [TilePanel<'a, T>; P] {
    let first = first.min(panels.end - P);
    std::array::from_fn(|p| w.panel(first + p))
}

struct Product<'a, T> {
    isa: Isa,
    tiles: &'a mut T,
    w: TileWeights<'a>,
    x: &'a TileRows,
    /// `[panel, row, 16]`, from this panel on.
    out: &'a mut [[f32; PANEL]],
    first_panel: usize,
}

impl<T: Tiles> Product<'_, T> {
    /// All rows, `R` tiles, and `P` panels at a time. Their sums stay in tiles for as many inputs as
    /// the second-level cache has room for. The weights that come next become bf16 while tiles are
    /// multiplied: that is for other units of the CPU.
    fn few_rows<const P: usize, const R: usize>(
        &mut self,
        blocks: &Range<usize>,
        panels: Range<usize>,
    ) {
        if panels.is_empty() {
            return;
        }
        let (isa, w, x) = (self.isa, self.w, self.x);
        let at = |first| panels_at::<T, P>(w, first, &panels);
        let rows: [&[Tile]; R] = std::array::from_fn(|r| x.row_tile(r, blocks));
        let mut unpacked = [[Tile::ZERO; P]; 2];
        let [mut now, mut next] = unpacked.each_mut();
        let mut here = at(panels.start);
        for p in 0..P {
            for half in 0..2 {
                let soon = (&here[p], blocks.start);
                here[p].unpack(isa, self.tiles, (blocks.start, half), &mut next[p], soon);
            }
        }
        for first in panels.clone().step_by(P) {
            let then = at(first + P);
            self.begin::<P, R>(0, first, blocks);
            for b in blocks.clone() {
                std::mem::swap(&mut now, &mut next);
                let behind = |b: usize| match b < blocks.end {
                    true => (&here, b),
                    false => (&then, blocks.end.min(b - blocks.len() + 1) - 1),
                };
                let ((from, block), soon) = (behind(b + 1), behind(b + SOON));
                let x = std::array::from_fn(|r| &rows[r][b - blocks.start]);
                multiply_block::<T, P, R>(self.tiles, now.each_ref(), x, |tiles, i| {
                    let (p, half) = (i / 2, i % 2);
                    let soon = (&soon.0[p], soon.1);
                    from[p].unpack(isa, tiles, (block, half), &mut next[p], soon);
                });
            }
            self.sums::<P, R>(0, first, store_sums);
            here = then;
        }
    }

    /// Some of the rows, up to [`GROUP`] tiles at a time, and `P` panels. Their weights lie in the
    /// second-level cache for all groups, and meanwhile those of the next panels become bf16.
    fn many_rows<const P: usize>(
        &mut self,
        row_tiles: Range<usize>,
        blocks: &Range<usize>,
        panels: Range<usize>,
    ) {
        if panels.is_empty() {
            return;
        }
        let (isa, w, len) = (self.isa, self.w, blocks.len());
        let mut unpacked = vec![[Tile::ZERO; P]; 2 * len];
        let (mut now, mut next) = unpacked.split_at_mut(len);
        // A half of a tile after the other, `[block, panel, half]`.
        let unpack =
            |tiles: &T, from: &[TilePanel<'_, T>; P], half: usize, to: &mut [[Tile; P]]| {
                let (b, p) = (half / 2 / P, half / 2 % P);
                let soon = (&from[p], blocks.start + (b + SOON).min(len - 1));
                let at = (blocks.start + b, half % 2);
                from[p].unpack(isa, tiles, at, &mut to[b][p], soon);
            };
        let first = panels_at(w, panels.start, &panels);
        (0..2 * P * len).for_each(|half| unpack(self.tiles, &first, half, next));
        let groups = row_tiles.len().div_ceil(GROUP);
        for first in panels.clone().step_by(P) {
            std::mem::swap(&mut now, &mut next);
            let then = panels_at(w, first + P, &panels);
            let (mut half, mut wait) = (0, groups);
            // It is asked for as often as there are groups for each half.
            let mut between = |tiles: &T| {
                wait -= 1;
                if wait == 0 {
                    unpack(tiles, &then, half, next);
                    (half, wait) = (half + 1, groups);
                }
            };
            for group in parts(row_tiles.len(), GROUP) {
                let first_tile = row_tiles.start + group.start;
                match group.len() {
                    1 => self.group::<P, 1>(first_tile, first, blocks, now, &mut between),
                    2 => self.group::<P, 2>(first_tile, first, blocks, now, &mut between),
                    _ => self.group::<P, GROUP>(first_tile, first, blocks, now, &mut between),
                }
            }
        }
    }

    /// The products of a group of tiles of rows.
    #[inline(always)]
    fn group<const P: usize, const R: usize>(
        &mut self,
        first_tile: usize,
        first_panel: usize,
        blocks: &Range<usize>,
        w: &[[Tile; P]],
        mut between: impl FnMut(&T),
    ) {
        self.begin::<P, R>(first_tile, first_panel, blocks);
        let x: [&[Tile]; R] = std::array::from_fn(|r| self.x.row_tile(first_tile + r, blocks));
        for (b, w) in w.iter().enumerate() {
            let x = std::array::from_fn(|r| &x[r][b]);
            multiply_block::<T, P, R>(self.tiles, w.each_ref(), x, |tiles, _| between(tiles));
        }
        self.sums::<P, R>(first_tile, first_panel, store_sums);
    }

    /// Sums of the inputs before these blocks.
    #[inline(always)]
    fn begin<const P: usize, const R: usize>(
        &mut self,
        first_tile: usize,
        first_panel: usize,
        blocks: &Range<usize>,
    ) {
        self.sums::<P, R>(first_tile, first_panel, |tiles, tile, sums| {
            match blocks.start {
                0 => tiles.zero(tile),
                _ => load_sums(tiles, tile, sums),
            }
        });
    }

    /// Does something for each tile of sums, and up to 16 rows of them in the output.
    #[inline(always)]
    fn sums<const P: usize, const R: usize>(
        &mut self,
        row_tile: usize,
        panel: usize,
        mut each: impl FnMut(&mut T, usize, &mut [[f32; PANEL]]),
    ) {
        let rows = self.x.rows();
        let out = &mut self.out[(panel - self.first_panel) * rows..];
        for (p, out) in out.chunks_exact_mut(rows).take(P).enumerate() {
            let of_tiles = out.chunks_mut(ROWS).skip(row_tile);
            for (r, sums) in of_tiles.take(R).enumerate() {
                each(self.tiles, R * p + r, sums);
            }
        }
    }
}

/// Multiplies a block of weights, in tile 6 or there already, by tiles of rows, each in tile 7 in
/// its turn, and adds them to tiles of sums.
macro_rules! multiply {
    ($tiles:ident, $w:expr, $($x:expr => $sum:literal),*) => {
        $tiles.load::<6>($w);
        multiply!($tiles, $($x => $sum),*);
    };
    ($tiles:ident, $($x:expr => $sum:literal),*) => {
        $(
            $tiles.load::<7>($x);
            $tiles.multiply_add::<$sum, 7, 6>();
        )*
    };
}

/// Adds the products of a block of `P` panels and `R` tiles of rows to the first tiles, `[P, R]`.
/// What is to be done beside them, twice for each panel, is asked for `between` them: where it is
/// asked for makes a third of the speed.
#[inline(always)]
fn multiply_block<T: Tiles, const P: usize, const R: usize>(
    tiles: &mut T,
    w: [&Tile; P],
    x: [&Tile; R],
    mut between: impl FnMut(&T, usize),
) {
    let (first, second) = (w[0], w[P - 1]);
    match (P, R) {
        (1, 1) => {
            multiply!(tiles, first, x[0] => 0);
            between(tiles, 0);
            between(tiles, 1);
        }
        (1, 2) => {
            multiply!(tiles, first, x[0] => 0);
            between(tiles, 0);
            multiply!(tiles, x[1] => 1);
            between(tiles, 1);
        }
        (1, 3) => {
            multiply!(tiles, first, x[0] => 0);
            between(tiles, 0);
            multiply!(tiles, x[1] => 1, x[2] => 2);
            between(tiles, 1);
        }
        (1, 4) => {
            multiply!(tiles, first, x[0] => 0, x[1] => 1);
            between(tiles, 0);
            multiply!(tiles, x[2] => 2, x[3] => 3);
            between(tiles, 1);
        }
        (1, 5) => {
            multiply!(tiles, first, x[0] => 0, x[1] => 1);
            between(tiles, 0);
            multiply!(tiles, x[2] => 2, x[3] => 3);
            between(tiles, 1);
            multiply!(tiles, x[4] => 4);
        }
        (1, _) => {
            multiply!(tiles, first, x[0] => 0, x[1] => 1);
            between(tiles, 0);
            multiply!(tiles, x[2] => 2, x[3] => 3);
            between(tiles, 1);
            multiply!(tiles, x[4] => 4, x[5] => 5);
        }
        (_, 1) => {
            multiply!(tiles, first, x[0] => 0);
            between(tiles, 0);
            between(tiles, 1);
            multiply!(tiles, second, x[0] => 1);
            between(tiles, 2);
            between(tiles, 3);
        }
        (_, 2) => {
            multiply!(tiles, first, x[0] => 0);
            between(tiles, 0);
            multiply!(tiles, x[1] => 1);
            between(tiles, 1);
            multiply!(tiles, second, x[0] => 2);
            between(tiles, 2);
            multiply!(tiles, x[1] => 3);
            between(tiles, 3);
        }
        _ => {
            multiply!(tiles, first, x[0] => 0, x[1] => 1);
            between(tiles, 0);
            multiply!(tiles, x[2] => 2);
            between(tiles, 1);
            tiles.load::<6>(second);
            tiles.multiply_add::<5, 7, 6>(); // the rows are there still
            multiply!(tiles, x[0] => 3);
            between(tiles, 2);
            multiply!(tiles, x[1] => 4);
            between(tiles, 3);
        }
    }
}

/// Up to 16 rows of sums.
#[inline(always)]
fn load_sums(tiles: &mut impl Tiles, tile: usize, from: &[[f32; PANEL]]) {
    if let Some(sums) = from.first_chunk() {
        tiles.load_sums(tile, sums);
    } else {
        let mut sums = [[0.0; PANEL]; ROWS];
        sums[..from.len()].copy_from_slice(from);
        tiles.load_sums(tile, &sums);
    }
}

/// Up to 16 rows of sums.
#[inline(always)]
fn store_sums(tiles: &mut impl Tiles, tile: usize, to: &mut [[f32; PANEL]]) {
    if let Some(sums) = to.first_chunk_mut() {
        tiles.store_sums(tile, sums);
    } else {
        let mut sums = [[0.0; PANEL]; ROWS];
        tiles.store_sums(tile, &mut sums);
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
