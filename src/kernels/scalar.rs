//! The definition of the product: slow, obvious, and what every other version must equal to the
//! bit.
//!
//! For each output, blocks of 32 inputs in order, from `part = 0`; `dot` is exact in `i32`, `fma`
//! rounds once:
//!
//! | format | weight | a block adds |
//! |---|---|---|
//! | Q4_0, Q8_0 | `d * (q - 8)`, `d * q` | `part = fma(dot, d, part)` |
//! | Q4_K | `(d * s) * q - (dmin * m)` | `part = fma(dot, d * s, part)`, then `part = fma(-(dmin * m), sum, part)` |
//! | Q6_K | `(d * s) * (q - 32)` | for each half: `part = fma(dot, d * s, part)` |
//!
//! with `sum` of the block's quants of activations. `d * s` and `dmin * m` are exact. At the end of
//! a group of blocks, `scale` being its own: `acc = fma(part, scale, acc)` from `acc = 0`, and
//! `part = 0`.

use super::activations::{Activations, Block};
use super::format::Format;
use super::packed::{BLOCK, PANEL, PackedMatrix, Panel, half_to_f32};
use std::ops::Range;

/// See [`super::matmul_panels`]; `out` is `[panel, row, 16]`.
pub(super) fn matmul(
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
                        part = add_block(w.format(), panel, b, column, block, part);
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

fn add_block(
    format: Format,
    panel: Panel<'_>,
    b: usize,
    column: usize,
    x: &Block,
    part: f32,
) -> f32 {
    let quants = quants(format, panel, b, column);
    let x_quants = x.quants();
    let dot = |inputs: Range<usize>| {
        inputs
            .map(|i| i32::from(quants[i]) * i32::from(x_quants[i]))
            .sum::<i32>() as f32
    };
    let scales = panel.scales[b].0[column];
    let [low, high] = scales.to_le_bytes();
    let supers = |i: usize| half_to_f32(panel.supers[b / 8 * format.supers() + i].0[column]);
    match format {
        Format::Q4_0 | Format::Q8_0 => dot(0..BLOCK).mul_add(half_to_f32(scales), part),
        Format::Q4K => {
            let part = dot(0..BLOCK).mul_add(supers(0) * f32::from(low), part);
            (-(supers(1) * f32::from(high))).mul_add(x.sum, part)
        }
        Format::Q6K => {
            let part = dot(0..16).mul_add(supers(0) * f32::from(low.cast_signed()), part);
            dot(16..BLOCK).mul_add(supers(0) * f32::from(high.cast_signed()), part)
        }
    }
}

/// The 32 quants of a column in a block, with their offset taken off.
pub(super) fn quants(format: Format, panel: Panel<'_>, b: usize, column: usize) -> [i16; BLOCK] {
    let byte = |line: usize, i: usize| {
        panel.lines[b * format.lines() + line].0[column].to_le_bytes()[i % 4]
    };
    let nibble = |i: usize| (byte(i % 16 / 4, i) >> (4 * (i / 16))) & 15;
    let quant = |i: usize| match format {
        Format::Q4_0 | Format::Q4K => nibble(i),
        Format::Q8_0 => byte(i / 4, i),
        Format::Q6K => nibble(i) | (((byte(4 + i / 16, i) >> (2 * (i % 16 / 4))) & 3) << 4),
    };
    std::array::from_fn(|i| i16::from(quant(i)) - i16::from(format.offset()))
}

/// See [`super::peak_ops`].
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
