//! What a pass over the network writes to, and the sources that make a product's input from it.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::linear::{Input, Output, Product, share};
use super::{RmsNorm, Shape};
use crate::kernels::{Isa, LANES, LazyRows, PANEL, TileKeyValues, rms_scales, silu};

/// Kept from pass to pass, so that nothing is allocated again.
pub(super) struct Buffers {
    pub isa: Isa,
    shape: Shape,
    pub residual: Vec<f32>,                  // [R, D]
    scales: Vec<f32>,                        // [R]
    pub queries: Vec<f32>,                   // [G, R, H/G, E]
    pub attended: Vec<f32>,                  // [G, R, H/G, E]
    pub tile_key_values: Vec<TileKeyValues>, // [G], where attention takes tiles
    spare: Vec<f32>,
    input: Input,
    pub output: Output,
}

impl Buffers {
    pub fn new(isa: Isa, shape: Shape) -> Self {
        Self {
            isa,
            shape,
            residual: Vec::new(),
            scales: Vec::new(),
            queries: Vec::new(),
            attended: Vec::new(),
            tile_key_values: Vec::new(),
            spare: Vec::new(),
            input: Input::default(),
            output: Output::default(),
        }
    }

    /// `output = product(norm(residual))`, of these rows.
    pub fn multiply_normed(
        &mut self,
        rows: Range<usize>,
        norm: &RmsNorm,
        product: &Product,
    ) -> Result<()> {
        let (d, isa) = (self.shape.width, self.isa);
        let (residual, scales) = (
            &self.residual[rows.start * d..][..rows.len() * d],
            &mut self.scales,
        );
        let rows = rows.len();
        scales.resize(rows, 0.0);
        let each = share(rows, 8);
        let parts = scales
            .par_chunks_mut(each)
            .zip(residual.par_chunks(each * d));
        parts.for_each(|(scales, xs)| rms_scales(isa, xs, norm.eps, scales));
        let source = Normed {
            residual,
            scales: &self.scales,
            weight: &norm.weight,
        };
        product.prepare(isa, &mut self.input, rows, &source);
        product.multiply(isa, &self.input, &mut self.output)
    }

    /// `residual += product(attended)`
    pub fn add_attended(&mut self, product: &Product) -> Result<()> {
        let rows = self.rows();
        let source = Attended {
            values: &self.attended,
            rows,
            group: self.shape.group(),
        };
        product.prepare(self.isa, &mut self.input, rows, &source);
        product.multiply(self.isa, &self.input, &mut self.output)?;
        self.add_output(0);
        Ok(())
    }

    /// `residual += product(silu(gate) · up)` from row `first` on, where `output` is gate and, from
    /// column `up` on, up.
    pub fn add_gated(&mut self, first: usize, up: usize, product: &Product) -> Result<()> {
        let rows = self.output.rows();
        let source = Gated {
            output: &self.output,
            up,
        };
        product.prepare(self.isa, &mut self.input, rows, &source);
        product.multiply(self.isa, &self.input, &mut self.output)?;
        self.add_output(first);
        Ok(())
    }

    /// `residual += output`, from row `first` on.
    fn add_output(&mut self, first: usize) {
        let (d, output) = (self.shape.width, &self.output);
        let each = share(output.rows(), 4);
        let residual = &mut self.residual[first * d..][..output.rows() * d];
        let parts = residual.par_chunks_mut(each * d).enumerate();
        parts.for_each(|(task, part)| {
            for (row, xs) in part.chunks_exact_mut(d).enumerate() {
                for (panel, xs) in xs.chunks_mut(LANES).enumerate() {
                    let added = output.panel(task * each + row, panel * PANEL);
                    for (x, added) in xs.iter_mut().zip(added) {
                        *x += added;
                    }
                }
            }
        });
    }

    /// Rows of the residual stream.
    pub fn rows(&self) -> usize {
        self.residual.len() / self.shape.width
    }

    /// Goes on with these of the rows, in this order.
    pub fn keep(&mut self, kept: &[usize]) {
        let (rows, shape) = (self.rows(), self.shape);
        let mut pick = |from: &mut Vec<f32>, width: usize| {
            self.spare.clear();
            for part in from.chunks_exact(rows * width) {
                for row in kept {
                    self.spare.extend(&part[row * width..][..width]);
                }
            }
            std::mem::swap(from, &mut self.spare);
        };
        pick(&mut self.residual, shape.width);
        pick(&mut self.attended, shape.group());
    }
}

/// The residual stream, normed.
struct Normed<'a> {
    residual: &'a [f32], // [R, D]
    scales: &'a [f32],   // [R]
    weight: &'a [f32],   // [D]
}

impl LazyRows for Normed<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, values: &mut [f32]) {
        let xs = &self.residual[row * self.weight.len() + first..];
        for ((value, x), weight) in values.iter_mut().zip(xs).zip(&self.weight[first..]) {
            *value = x * self.scales[row] * weight;
        }
    }
}

/// What the heads attended to, side by side.
struct Attended<'a> {
    values: &'a [f32], // [G, R, group]
    rows: usize,
    group: usize, // H/G·E
}

impl LazyRows for Attended<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, mut values: &mut [f32]) {
        let mut column = first;
        while !values.is_empty() {
            let (g, at) = (column / self.group, column % self.group);
            let count = (self.group - at).min(values.len());
            let (head, tail) = std::mem::take(&mut values).split_at_mut(count);
            let from = (g * self.rows + row) * self.group + at;
            head.copy_from_slice(&self.values[from..][..count]);
            (values, column) = (tail, column + count);
        }
    }
}

/// silu(gate) · up
struct Gated<'a> {
    output: &'a Output,
    up: usize, // first column of up
}

impl LazyRows for Gated<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, values: &mut [f32]) {
        for (i, values) in values.chunks_mut(PANEL).enumerate() {
            let column = first + i * PANEL;
            let gate = self.output.panel(row, column);
            let up = self.output.panel(row, self.up + column);
            for ((value, gate), up) in values.iter_mut().zip(silu(*gate)).zip(up) {
                *value = gate * up;
            }
        }
    }
}
