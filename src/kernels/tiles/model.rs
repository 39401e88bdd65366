//! The tile instructions in plain Rust: the definition, slow.

use super::super::format::BlockFormat;
use super::super::packed::PANEL;
use super::super::scalar;
use super::{At, ROWS, Sums, Tile, Tiles};

/// The tile instructions as Intel defines them (Software Developer's Manual, TDPBF16PS): subnormal
/// numbers count as zero, before and after each operation, and sums are rounded to nearest, ties to
/// even. Tiles are whole and zero at first.
pub(in super::super) struct Model([[[u32; ROWS]; ROWS]; 8]);

impl Model {
    pub fn new() -> Self {
        Self([[[0; ROWS]; ROWS]; 8])
    }
}

impl Tiles for Model {
    fn zero(&mut self, tile: usize) {
        self.0[tile] = [[0; ROWS]; ROWS];
    }

    fn load<const T: usize>(&mut self, from: &Tile) {
        self.0[T] = from.0;
    }

    fn load_sums(&mut self, tile: usize, from: &Sums) {
        self.0[tile] = from.map(|row| row.map(f32::to_bits));
    }

    fn store_sums(&self, tile: usize, to: &mut Sums) {
        *to = self.0[tile].map(|row| row.map(f32::from_bits));
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

    fn unpack<F: BlockFormat>(
        &self,
        (panel, block): At<'_>,
        half: usize,
        to: &mut Tile,
        _: At<'_>,
    ) {
        if half == 1 {
            return; // done with the first
        }
        for column in 0..PANEL {
            let quants = scalar::quants::<F>(*panel, block, column);
            let scaled = scalar::scaled::<F>(*panel, block, column);
            for (i, quant) in quants.into_iter().enumerate() {
                let number = scaled.number::<F>(i / 4, quant);
                let nearest = number.to_bits().wrapping_add(0x8000) >> 16;
                let word = &mut to.0[i / 4 * 2 + i % 2][column];
                *word = match i % 4 / 2 {
                    0 => nearest,
                    _ => *word | nearest << 16,
                };
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
