//! Rows of activations as tiles.

use super::super::activations::Stored;
use super::super::dense::to_bf16;
use super::super::isa::{self, Isa, Portable};
use super::super::packed::BLOCK;
use super::super::portable::LazyRows;
use super::{ROWS, Tile};
use std::ops::Range;

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

    pub(super) fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// Blocks of 16 rows.
    pub(super) fn row_tile(&self, row_tile: usize, blocks: &Range<usize>) -> &[Tile] {
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
                        let mut halves = [0; BLOCK];
                        for (half, value) in halves.iter_mut().zip(&values) {
                            *half = u32::from(to_bf16(*value));
                        }
                        let quads = halves.as_chunks::<4>().0;
                        for (to, [a, b, c, d]) in to.as_chunks_mut::<2>().0.iter_mut().zip(quads) {
                            *to = [a | c << 16, b | d << 16];
                        }
                    }
                }
            }
        }
        isa::run(isa, Fill(self, source));
    }
}
