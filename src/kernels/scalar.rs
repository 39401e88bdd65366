//! The definition of the product: slow, obvious, and what every other version must equal to the
//! bit.
//!
//! For each output, blocks of 32 inputs in order, from `part = 0`; `dot` is exact in `i32`, `fma`
//! rounds once:
//!
//! | scales | weight | a block adds |
//! |---|---|---|
//! | one | `d * q` | `part = fma(dot, d, part)` |
//! | with a minimum | `d * q - m` | then `part = fma(-m, sum, part)` |
//! | for halves | `d0 * q`, `d1 * q` | for each half: `part = fma(dot, d, part)` |
//! | for halves, with minimums | | then `part = fma(-m1, sum, part)` and `part = fma(m1 - m0, first, part)` |
//!
//! with `sum` of the block's quants of activations, `first` of its first half. A scale that is a
//! product of two is exact, and so are minimums and their difference. At the end of
//! a group of blocks, `scale` being its own: `acc = fma(part, scale, acc)` from `acc = 0`, and
//! `part = 0`.

use super::activations::{Activations, Block};
use super::format::{BlockFormat, Scaling};
use super::packed::{BLOCK, PANEL, PackedMatrix, Panel, Scales};
use super::stored::{self, Scaled};
use std::ops::Range;

/// See [`super::matmul_panels`]; `out` is `[panel, row, 16]`.
pub(super) fn matmul<F: BlockFormat>(
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    out: &mut [[f32; PANEL]],
) {
    for (panel, out) in panels.zip(out.chunks_exact_mut(x.rows().max(1))) {
        let panel = w.panel(panel);
        for (first_row, rows, blocks) in x.tiles() {
            for row in 0..rows {
                for (column, out) in out[first_row + row].iter_mut().enumerate() {
                    let blocks = blocks[row..].iter().step_by(rows);
                    let (mut acc, mut part) = (0.0, 0.0);
                    for (b, block) in blocks.enumerate() {
                        part = add_block::<F>(panel, b, column, block, part);
                        if x.group_position(b).ends {
                            (acc, part) = (part.mul_add(block.scale, acc), 0.0);
                        }
                    }
                    *out = acc;
                }
            }
        }
    }
}

fn add_block<F: BlockFormat>(
    panel: Panel<'_>,
    b: usize,
    column: usize,
    x: &Block,
    part: f32,
) -> f32 {
    let quants = quants::<F>(panel, b, column);
    let x_quants = x.quants();
    let dot = |inputs: Range<usize>| {
        inputs
            .map(|i| i32::from(quants[i]) * i32::from(x_quants[i]))
            .sum::<i32>() as f32
    };
    let Scaled { scales, mins } = scaled::<F>(panel, b, column);
    let part = match F::LAYOUT.parts {
        1 => dot(0..BLOCK).mul_add(scales[0], part),
        _ => dot(16..BLOCK).mul_add(scales[1], dot(0..16).mul_add(scales[0], part)),
    };
    match (F::LAYOUT.scaling, F::LAYOUT.parts) {
        (Scaling::Half | Scaling::Signed, _) => part,
        (Scaling::HalfWithMin | Scaling::WithMin, 1) => (-mins[0]).mul_add(x.sum, part),
        (Scaling::HalfWithMin | Scaling::WithMin, _) => {
            (-mins[1]).mul_add(x.first_sum, (-mins[0]).mul_add(x.sum, part))
        }
    }
}

/// The scales of a column in a block.
pub(super) fn scaled<F: BlockFormat>(panel: Panel<'_>, b: usize, column: usize) -> Scaled {
    let block = panel.block::<F>(b);
    let of = |rows: &[Scales], i: usize| rows.get(i).map_or(0, |row| row.0[column]);
    Scaled::of::<F>(
        [0, 1].map(|i| of(block.scales, i)),
        [0, 1].map(|i| of(block.supers, i)),
    )
}

/// The 32 quants of a column in a block, with their offset taken off.
pub(super) fn quants<F: BlockFormat>(panel: Panel<'_>, b: usize, column: usize) -> [i16; BLOCK] {
    let lines = panel.block::<F>(b).lines;
    let [low, high] = F::LAYOUT.bits;
    // `bits` of an input, from the lines that begin with `first`.
    let bits = |first: usize, bits: usize, i: usize| {
        let byte = lines[first + i / 4 % bits].0[column].to_le_bytes()[i % 4];
        (byte >> (bits * (i / 4 / bits))) & (255 >> (8 - bits))
    };
    std::array::from_fn(|i| {
        let above = if high == 0 {
            0
        } else {
            bits(low, high, i) << low
        };
        stored::signed::<F>(bits(0, low, i) | above)
    })
}

/// See `matmul::peak_ops`.
pub(super) fn peak_ops(rounds: u64) -> u64 {
    let mut sums = [0i32; 8];
    let x = std::hint::black_box([3i8; 8]);
    for round in 0..rounds {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = sum.wrapping_add(i32::from(x) * i32::from(round as i8));
        }
    }
    std::hint::black_box(sums);
    rounds * 8 * 2
}
