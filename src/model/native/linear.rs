//! Matrix products on the CPU: the only place here that knows how weights are stored.
//!
//! A product's input is quantized (or copied) once, in whatever form its matrices want, from a
//! source that makes each number on the way: norms and activations cost no pass of their own.
//! Matrices that share an input are one product. Its result is `[panel, row, 16]`, as the kernels
//! write it, and is read from there.

use candle_core::{CpuStorage, DType, Result, Storage};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::super::weight::{Affine, Weight};
use crate::kernels::{
    Activations, BLOCK, DenseMatrix, FloatFormat, Isa, LazyRows, PANEL, PackedMatrix, TileRows,
    TileWeights, matmul_dense, matmul_panels, matmul_tiles, write_row,
};

enum Matrix {
    /// Quantized blocks in our own format.
    Packed(PackedMatrix),
    /// Floating-point numbers.
    Dense(DenseMatrix),
}

/// The form in which a matrix wants its input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Quantized,
    Floats,
    Tiles,
}

/// Matrices that are multiplied with the same input, side by side.
pub(super) struct Product {
    matrices: Vec<Matrix>,
    bias: Vec<f32>,          // [panels · 16], or empty
    first_panel: Vec<usize>, // of each matrix, and their sum
}

/// Rows of a product's input in the forms that its matrices want.
#[derive(Default)]
pub(super) struct Input {
    quantized: Activations,
    floats: Vec<f32>, // [rows, k]
    tiles: TileRows,
    rows: usize,
}

/// The result of a product. `[panel, row, 16]`
#[derive(Default)]
pub(super) struct Output {
    values: Vec<f32>, // and room that larger products have used
    len: usize,
    rows: usize,
}

impl Product {
    pub fn new(parts: Vec<Affine>) -> Result<Self> {
        let (mut matrices, mut bias, mut first_panel) = (Vec::new(), Vec::new(), vec![0]);
        let biased = parts.iter().any(|part| part.bias.is_some());
        for Affine { weight, bias: b } in parts {
            let matrix = Matrix::new(weight)?;
            let panels = first_panel[first_panel.len() - 1] + matrix.n().div_ceil(PANEL);
            if biased {
                if let Some(b) = b {
                    bias.extend(b.to_dtype(DType::F32)?.to_vec1::<f32>()?);
                }
                bias.resize(panels * PANEL, 0.0);
            }
            first_panel.push(panels);
            matrices.push(matrix);
        }
        Ok(Self {
            matrices,
            bias,
            first_panel,
        })
    }

    /// Inputs.
    fn k(&self) -> usize {
        self.matrices[0].k()
    }

    /// Blocks of quantized inputs that share a scale: as few as one of the matrices wants.
    fn scale_group(&self) -> usize {
        let groups = self.matrices.iter().filter_map(|matrix| match matrix {
            Matrix::Packed(matrix) => Some(matrix.format().scale_group()),
            Matrix::Dense(_) => None,
        });
        groups.min().unwrap_or(1)
    }

    /// Whether one of the matrices wants its input in a form.
    fn takes(&self, form: Form, isa: Isa) -> bool {
        let mut forms = self.matrices.iter().map(|matrix| matrix.form(isa));
        forms.any(|one| one == form)
    }

    /// Whether numbers of its input and output are no more exact than bf16.
    pub fn is_in_tiles(&self, isa: Isa) -> bool {
        self.matrices
            .iter()
            .all(|matrix| matrix.form(isa) == Form::Tiles)
    }

    /// Column at which the outputs of a matrix begin.
    pub fn first_column(&self, matrix: usize) -> usize {
        self.first_panel[matrix] * PANEL
    }

    /// Makes `rows` rows of `source` the input.
    pub fn prepare(&self, isa: Isa, input: &mut Input, rows: usize, source: &impl LazyRows) {
        let k = self.k();
        input.rows = rows;
        if self.takes(Form::Quantized, isa) {
            input.quantized.resize(rows, k, self.scale_group());
            let parts = input
                .quantized
                .parts_mut(share(rows * k / BLOCK, 8) / rows.clamp(1, 32) + 1);
            let parts: Vec<_> = parts.collect();
            parts
                .into_par_iter()
                .for_each(|part| part.quantize(isa, source));
        }
        if self.takes(Form::Tiles, isa) {
            input.tiles.resize(rows, k);
            let parts = input.tiles.parts_mut(share(rows * k / BLOCK, 8) / 16 + 1);
            let parts: Vec<_> = parts.collect();
            parts
                .into_par_iter()
                .for_each(|part| part.fill_from(isa, source));
        }
        if self.takes(Form::Floats, isa) {
            input.floats.resize(rows * k, 0.0);
            let rows = input.floats.par_chunks_mut(k).enumerate();
            rows.for_each(|(row, values)| write_row(isa, source, row, values));
        }
    }

    /// Multiplies, on all threads: each takes some panels at a time.
    pub fn multiply(&self, isa: Isa, input: &Input, output: &mut Output) -> Result<()> {
        let panel_len = input.rows * PANEL;
        let panels = self.first_panel[self.matrices.len()];
        let values = output.resize(input.rows, panels * panel_len);
        if values.is_empty() {
            return Ok(());
        }
        // Tiles read all rows again for each task: they get few, but enough for all threads.
        let each = match panels / (8 * rayon::current_num_threads()) {
            wide @ 1.. if self.takes(Form::Tiles, isa) => wide.clamp(8, 32).next_multiple_of(2),
            _ => share(panels, 2),
        };
        let tasks = values.par_chunks_mut(each * panel_len);
        tasks.enumerate().for_each(|(task, mut out)| {
            let mut panel = task * each;
            let end = panel + out.len() / panel_len;
            for (matrix, first) in self.matrices.iter().zip(self.first_panel.windows(2)) {
                let to = end.min(first[1]);
                if panel < to {
                    let part;
                    (part, out) = std::mem::take(&mut out).split_at_mut((to - panel) * panel_len);
                    matrix.multiply(isa, input, panel - first[0]..to - first[0], part);
                    panel = to;
                }
            }
        });
        if !self.bias.is_empty() {
            let panels = values.par_chunks_mut(panel_len);
            let bias = self.bias.as_chunks::<PANEL>().0;
            panels.zip(bias).for_each(|(panel, bias)| {
                for row in panel.as_chunks_mut::<PANEL>().0 {
                    for (value, bias) in row.iter_mut().zip(bias) {
                        *value += bias;
                    }
                }
            });
        }
        Ok(())
    }
}

impl Matrix {
    fn new(weight: Weight) -> Result<Self> {
        let tensor = match weight {
            Weight::Packed(matrix) => return Ok(Self::Packed(matrix)),
            Weight::Blocks(_) => candle_core::bail!("blocks are packed on the CPU"),
            Weight::Dense(tensor) => tensor,
        };
        let (n, k) = tensor.dims2()?;
        let values = tensor.flatten_all()?;
        // As they lie, where `to_vec1` would copy them.
        let (storage, layout) = values.storage_and_layout();
        let numbers = layout.start_offset()..layout.start_offset() + n * k;
        Ok(Self::Dense(match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => DenseMatrix::from_f32(&values[numbers], n, k),
            Storage::Cpu(CpuStorage::F16(values)) => {
                let bits = values[numbers].reinterpret_cast();
                DenseMatrix::from_halves(FloatFormat::F16, bits, n, k)
            }
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let bits = values[numbers].reinterpret_cast();
                DenseMatrix::from_halves(FloatFormat::Bf16, bits, n, k)
            }
            _ => candle_core::bail!("the weights are not floating-point numbers on the CPU"),
        }))
    }

    fn n(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.n(),
            Self::Dense(matrix) => matrix.n(),
        }
    }

    fn k(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.k(),
            Self::Dense(matrix) => matrix.k(),
        }
    }

    /// bf16 in tiles, where there are such; but numbers of 32 bits stay exact.
    fn form(&self, isa: Isa) -> Form {
        let tiled = isa.has_tiles();
        match self {
            Self::Packed(_) if tiled => Form::Tiles,
            Self::Packed(_) => Form::Quantized,
            Self::Dense(matrix) if tiled && matrix.format() != FloatFormat::F32 => Form::Tiles,
            Self::Dense(_) => Form::Floats,
        }
    }

    fn multiply(&self, isa: Isa, input: &Input, panels: std::ops::Range<usize>, out: &mut [f32]) {
        match (self, self.form(isa)) {
            (Self::Packed(w), Form::Tiles) => {
                matmul_tiles(isa, TileWeights::Packed(w), &input.tiles, panels, out);
            }
            (Self::Dense(w), Form::Tiles) => {
                matmul_tiles(isa, TileWeights::Dense(w), &input.tiles, panels, out);
            }
            (Self::Packed(w), _) => matmul_panels(isa, w, &input.quantized, panels, out),
            (Self::Dense(w), _) => matmul_dense(isa, w, &input.floats, panels, out),
        }
    }
}

impl Output {
    /// Makes room for `len` numbers, which hold anything.
    fn resize(&mut self, rows: usize, len: usize) -> &mut [f32] {
        (self.rows, self.len) = (rows, len);
        self.values.resize(len.max(self.values.len()), 0.0);
        &mut self.values[..len]
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// All of it. `[panel, row, 16]`
    #[inline(always)]
    pub fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// Up to 16 columns of a row from `column` on, which must be the first of a panel.
    #[inline(always)]
    pub fn panel(&self, row: usize, column: usize) -> &[f32; PANEL] {
        &self.values().as_chunks().0[column / PANEL * self.rows + row]
    }

    /// Copies the columns of a row from `column` on.
    pub fn copy(&self, row: usize, column: usize, mut to: &mut [f32]) {
        let mut column = column;
        while !to.is_empty() {
            let lane = column % PANEL;
            let count = (PANEL - lane).min(to.len());
            let (head, tail) = std::mem::take(&mut to).split_at_mut(count);
            head.copy_from_slice(&self.panel(row, column - lane)[lane..lane + count]);
            (to, column) = (tail, column + count);
        }
    }
}

/// How many of `count` things one task takes, in multiples of `unit`: a few tasks a thread, so that
/// a thread that is held up does not hold the others up.
pub(super) fn share(count: usize, unit: usize) -> usize {
    const TASKS_PER_THREAD: usize = 32;
    count
        .div_ceil(rayon::current_num_threads() * TASKS_PER_THREAD)
        .max(1)
        .next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Format;

    /// Rows in memory, `[rows, k]`.
    struct Stored<'a>(&'a [f32], usize);

    impl LazyRows for Stored<'_> {
        #[inline(always)]
        fn write(&self, row: usize, first: usize, values: &mut [f32]) {
            values.copy_from_slice(&self.0[row * self.1 + first..][..values.len()]);
        }
    }

    /// Matrices of every kind side by side, with fewer rows than tiles take, as many, and more.
    #[test]
    fn a_product_is_that_of_its_matrices_with_any_number_of_rows() {
        let (n, k) = (40, 64);
        let number = |i: usize| (i * 2_654_435_761 % 2003) as f32 / 1001.0 - 1.0;
        let weights: Vec<f32> = (0..n * k).map(number).collect();
        let halves: Vec<u16> = weights.iter().map(|w| (w.to_bits() >> 16) as u16).collect();
        let blocks = Format::Q8_0.quantize(Isa::SCALAR, &weights).unwrap();
        let matrices = vec![
            Matrix::Packed(PackedMatrix::pack(Format::Q8_0, &blocks, n, k).unwrap()),
            Matrix::Dense(DenseMatrix::from_f32(&weights, n, k)),
            Matrix::Dense(DenseMatrix::from_halves(FloatFormat::Bf16, &halves, n, k)),
        ];
        let first_panel = vec![0, 3, 6, 9];
        let product = Product {
            matrices,
            bias: Vec::new(),
            first_panel,
        };
        let (mut input, mut output) = (Input::default(), Output::default());
        for isa in Isa::available() {
            for rows in [15, 16, 33, 5] {
                let isa = isa.for_rows(rows);
                let values: Vec<f32> = (0..rows * k).map(|i| number(7 * i + 3)).collect();
                product.prepare(isa, &mut input, rows, &Stored(&values, k));
                product.multiply(isa, &input, &mut output).unwrap();
                for (matrix, bound) in [0.4, 1e-4, 0.4].into_iter().enumerate() {
                    for (row, values) in values.chunks_exact(k).enumerate() {
                        let (mut found, first) = (vec![0.0; n], product.first_column(matrix));
                        // Heads can begin inside of a panel.
                        let (head, rest) = found.split_at_mut(5);
                        output.copy(row, first, head);
                        output.copy(row, first + head.len(), rest);
                        for (found, weights) in found.iter().zip(weights.chunks_exact(k)) {
                            let expected: f32 =
                                values.iter().zip(weights).map(|(a, b)| a * b).sum();
                            let what = (isa, rows, matrix, row);
                            assert!(
                                (found - expected).abs() < bound,
                                "{what:?} {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
